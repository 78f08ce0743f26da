"""Multiply-accumulates of one patch of each published encoder, at the size of its input.

Counted with torch's formulas on the published architectures, by `count_macs`. With these numbers
the cost of features that another tool made is known without loading the encoder.
"""

MACS: dict[str, int] = {
    "efficientnet-lite0": 383_907_552,
    "resnet50-layer3": 4_281_335_808,
    "uni": 61_553_688_576,
    "uni2-h": 185_470_230_528,
    "conch": 79_113_063_424,
    "conch-v1.5": 269_204_399_616,
    "virchow": 167_378_042_880,
    "virchow2": 170_065_674_240,
    "h-optimus-0": 304_174_522_368,
    "h-optimus-1": 304_174_522_368,
    "h0-mini": 23_539_156_992,
    "prov-gigapath": 228_095_090_688,
    "phikon": 17_563_060_224,
    "phikon-v2": 61_553_688_576,
    "hibou-b": 23_539_156_992,
    "hibou-l": 82_321_784_832,
    "ctranspath": 4_494_766_080,
    "midnight-12k": 299_390_066_688,
    "gpfm": 81_011_982_336,
    "kaiko-vits16": 4_598_498_304,
    "kaiko-vits8": 22_405_358_592,
    "kaiko-vitb16": 17_563_060_224,
    "kaiko-vitb8": 78_147_569_664,
    "kaiko-vitl14": 82_321_784_832,
    "lunit-vits8": 22_405_358_592,
    "lunit-vits16": 4_598_498_304,
    "tiny": 877_500,
}
