"""Classifiers of slides, one file a method."""

from parfocal.models.abmil import ABMIL
from parfocal.models.attentionsampling import AttentionSampling
from parfocal.models.clam import CLAM
from parfocal.models.coarsestudent import CoarseStudent
from parfocal.models.contract import Model, ModelTraits
from parfocal.models.covariatesonly import CovariatesOnly
from parfocal.models.dsmil import DSMIL
from parfocal.models.ips import IPS
from parfocal.models.jointattention import JointAttention
from parfocal.models.magnet import MagNet
from parfocal.models.meanrgb import MeanRGB
from parfocal.models.msmil import MSMIL
from parfocal.models.patchsupervised import PatchSupervised
from parfocal.models.paths import PATHS
from parfocal.models.pooling import MaxPooling, MeanMLP, MeanPooling
from parfocal.models.sparseconvmil import SparseConvMIL
from parfocal.models.topk import RankedPatches
from parfocal.models.transmil import TransMIL
from parfocal.models.zoommil import ZoomMIL

# One line a model: its name in recipes and settings, its class, and what it takes and does.
MODELS: dict[str, Model] = {
    "zoommil": Model(
        ZoomMIL,
        ModelTraits(
            multiple_magnifications=True,
            zooms=True,
            own_objective=True,
            follows_progress=True,
            random=True,
        ),
    ),
    "paths": Model(PATHS, ModelTraits(multiple_magnifications=True, zooms=True)),
    "topk": Model(
        RankedPatches, ModelTraits(multiple_magnifications=True, zooms=True, uses_teacher=True)
    ),
    "coarse-student": Model(
        CoarseStudent,
        ModelTraits(multiple_magnifications=True, uses_teacher=True, own_objective=True),
    ),
    "abmil": Model(ABMIL),
    "clam": Model(CLAM, ModelTraits(own_objective=True, class_settings=(("bag_weight", 1.0),))),
    "transmil": Model(TransMIL),
    "dsmil": Model(DSMIL, ModelTraits(multiple_magnifications=True, own_objective=True)),
    "msmil": Model(
        MSMIL,
        ModelTraits(
            multiple_magnifications=True,
            adversarial=True,
            own_objective=True,
            follows_progress=True,
        ),
    ),
    "sparseconvmil": Model(SparseConvMIL, ModelTraits(random=True)),
    "ips": Model(IPS),
    "jsma": Model(
        JointAttention,
        ModelTraits(
            takes="pixels",
            multiple_magnifications=True,
            skips_magnifications=True,
            own_objective=True,
            pretrained=True,
            random=True,
            runs_in_passes=True,
            class_settings=(("ci_half_width", None),),
        ),
    ),
    "attentionsampling": Model(
        AttentionSampling,
        ModelTraits(
            takes="pixels",
            own_objective=True,
            pretrained=True,
            random=True,
            runs_in_passes=True,
            class_settings=(("ci_half_width", None),),
        ),
    ),
    "magnet": Model(
        MagNet,
        ModelTraits(
            takes="pixels",
            zooms=True,
            fixed_magnifications=False,
            has_leaves=True,
            own_objective=True,
            follows_progress=True,
            pretrained=True,
            random=True,
            runs_in_passes=True,
            class_settings=(("early_exit_patience", 0),),
            slide_loss_settings=(("auxiliary_backbone", None),),
        ),
    ),
    "meanrgb": Model(MeanRGB, ModelTraits(takes="pixels", fixed_magnifications=False)),
    "patchsupervised": Model(PatchSupervised, ModelTraits(needs_outlines=True, own_objective=True)),
    "covariates": Model(CovariatesOnly, ModelTraits(takes="nothing")),
    "mean": Model(MeanPooling),
    "mean-mlp": Model(MeanMLP),
    "max": Model(MaxPooling),
}

__all__ = [
    "ABMIL",
    "CLAM",
    "DSMIL",
    "IPS",
    "MODELS",
    "MSMIL",
    "PATHS",
    "AttentionSampling",
    "CoarseStudent",
    "CovariatesOnly",
    "JointAttention",
    "MagNet",
    "MaxPooling",
    "MeanMLP",
    "MeanPooling",
    "MeanRGB",
    "Model",
    "ModelTraits",
    "PatchSupervised",
    "RankedPatches",
    "SparseConvMIL",
    "TransMIL",
    "ZoomMIL",
]
