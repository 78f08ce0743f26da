"""Arguments of published networks that their configs on the Hub lack, or that a bare file needs.

A config is JSON, so it cannot name classes; `timm_networks` translates their names.
"""

from parfocal.encoders.card import ArgumentValue

SWIGLU: dict[str, ArgumentValue] = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
UNI: dict[str, ArgumentValue] = {"init_values": 1e-5, "dynamic_img_size": True}
UNI2: dict[str, ArgumentValue] = {
    "img_size": 224,
    "patch_size": 14,
    "depth": 24,
    "num_heads": 24,
    "init_values": 1e-5,
    "embed_dim": 1536,
    "mlp_ratio": 5.33334,
    "no_embed_class": True,
    "reg_tokens": 8,
    "dynamic_img_size": True,
    **SWIGLU,
}
VIRCHOW: dict[str, ArgumentValue] = {
    "img_size": 224,
    "init_values": 1e-5,
    "mlp_ratio": 5.3375,
    "global_pool": "",
    "dynamic_img_size": True,
    **SWIGLU,
}
OPTIMUS: dict[str, ArgumentValue] = {"init_values": 1e-5, "dynamic_img_size": False}
H0_MINI: dict[str, ArgumentValue] = {"init_values": 1e-5, "mlp_ratio": 5.33334, **SWIGLU}
GIGAPATH: dict[str, ArgumentValue] = {
    "img_size": 224,
    "patch_size": 16,  # though the name says 14
    "embed_dim": 1536,
    "depth": 40,
    "num_heads": 24,
    "init_values": 1e-5,
    "mlp_ratio": 5.33334,
    "dynamic_img_size": True,
}
GPFM: dict[str, ArgumentValue] = {"img_size": 224, "init_values": 1e-5}
