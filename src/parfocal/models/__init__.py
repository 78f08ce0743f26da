"""Classifiers of slides, one file a method."""

from torch import nn

from parfocal.models.abmil import ABMIL
from parfocal.models.attentionsampling import AttentionSampling
from parfocal.models.clam import CLAM
from parfocal.models.dsmil import DSMIL
from parfocal.models.ips import IPS
from parfocal.models.jointattention import JointAttention
from parfocal.models.magnet import MagNet
from parfocal.models.meanrgb import MeanRGB
from parfocal.models.msmil import MSMIL
from parfocal.models.patchsupervised import PatchSupervised
from parfocal.models.pooling import MaxPooling, MeanPooling
from parfocal.models.sparseconvmil import SparseConvMIL
from parfocal.models.transmil import TransMIL
from parfocal.models.zoommil import ZoomMIL

MODELS: dict[str, type[nn.Module]] = {
    "zoommil": ZoomMIL,
    "abmil": ABMIL,
    "clam": CLAM,
    "transmil": TransMIL,
    "dsmil": DSMIL,
    "msmil": MSMIL,
    "sparseconvmil": SparseConvMIL,
    "ips": IPS,
    "jsma": JointAttention,
    "attentionsampling": AttentionSampling,
    "magnet": MagNet,
    "meanrgb": MeanRGB,
    "patchsupervised": PatchSupervised,
    "mean": MeanPooling,
    "max": MaxPooling,
}
__all__ = [
    "ABMIL",
    "CLAM",
    "DSMIL",
    "IPS",
    "MODELS",
    "MSMIL",
    "AttentionSampling",
    "JointAttention",
    "MagNet",
    "MaxPooling",
    "MeanPooling",
    "MeanRGB",
    "PatchSupervised",
    "SparseConvMIL",
    "TransMIL",
    "ZoomMIL",
]
