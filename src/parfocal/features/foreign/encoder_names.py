"""The names that tools give to encoders, and those of `parfocal encoders`."""

import re

# Written without case, spaces and punctuation; the names of TRIDENT, STAMP, slide2vec, CLAM and the
# makers.
CATALOGUE_IDS = {
    **dict.fromkeys(("uni", "univ1", "uni1", "mahmooduni"), "uni"),
    **dict.fromkeys(("uni2", "univ2", "uni2h", "mahmooduni2", "mahmooduni2h"), "uni2-h"),
    **dict.fromkeys(("conch", "conchv1", "conch1", "mahmoodconch"), "conch"),
    **dict.fromkeys(
        ("conchv15", "conch15", "mahmoodconch15", "mahmoodconchv15"), "conch-v1.5"
    ),
    **dict.fromkeys(("virchow", "virchowv1", "virchowfull"), "virchow"),
    **dict.fromkeys(("virchow2", "virchowv2", "virchow2full"), "virchow2"),
    **dict.fromkeys(("hoptimus0", "bioptimushoptimus0"), "h-optimus-0"),
    **dict.fromkeys(("hoptimus1", "bioptimushoptimus1"), "h-optimus-1"),
    **dict.fromkeys(("h0mini", "hoptimus0mini", "bioptimush0mini"), "h0-mini"),
    **dict.fromkeys(("gigapath", "provgigapath"), "prov-gigapath"),
    **dict.fromkeys(("phikon", "phikonv1"), "phikon"),
    **dict.fromkeys(("phikonv2", "phikon2"), "phikon-v2"),
    **dict.fromkeys(("hiboub", "hiboubase"), "hibou-b"),
    **dict.fromkeys(("hiboul", "hiboularge"), "hibou-l"),
    **dict.fromkeys(("ctranspath", "chiefctranspath", "chief"), "ctranspath"),
    **dict.fromkeys(("midnight", "midnight12k", "kaikomidnight"), "midnight-12k"),
    "gpfm": "gpfm",
    "kaikovits8": "kaiko-vits8",
    "kaikovits16": "kaiko-vits16",
    "kaikovitb8": "kaiko-vitb8",
    "kaikovitb16": "kaiko-vitb16",
    "kaikovitl14": "kaiko-vitl14",
    "lunitvits8": "lunit-vits8",
    "lunitvits16": "lunit-vits16",
    **dict.fromkeys(("resnet50", "resnet50trunc"), "resnet50-layer3"),
}
PUNCTUATION = re.compile(r"[^0-9a-z]+")
UNNAMED = "unnamed"  # encoder of features whose tool does not store one


def catalogue_id(name: str) -> str | None:
    """Return the name of an encoder in `parfocal encoders`; None if it is unknown.

    >>> catalogue_id("uni_v2"), catalogue_id("conch_v15"), catalogue_id("my-encoder")
    ('uni2-h', 'conch-v1.5', None)
    """
    return CATALOGUE_IDS.get(PUNCTUATION.sub("", name.lower()))


def encoder_name(name: str) -> str:
    """Return the name of an encoder in `parfocal encoders`, or else the one that the tool uses."""
    return catalogue_id(name) or name or UNNAMED
