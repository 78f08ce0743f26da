"""BRIGHT: 703 breast slides in three classes of risk, the challenge's arrangement of BRACS.

`{Train,Validation,Test}/WSIs/`, a slide's class being a folder between that and its file, or a
row of a `*targets*.csv` in the organizers' form: `image_name,Task1-target[,Task2-target]`. Labels
of the test slides are not public.
"""

from collections.abc import Mapping
from pathlib import Path

from parfocal.dataset.cohort import Part
from parfocal.dataset.readers.listing import Listing, Row, Source, read_table

SOURCE = Source(
    name="BRIGHT",
    address="https://research.ibm.com/haifa/Workshops/BRIGHT/challenge.html (register there)",
    license="the challenge's terms",
    size="size not published",
)
PUBLISHED = 703
CLASSES = ("noncancerous", "precancerous", "cancerous")
SUBTYPES = ("PB", "UDH", "FEA", "ADH", "DCIS", "IC")  # two of each class, in its order
FOLDERS: dict[str, Part] = {"train": "train", "validation": "val", "test": "test"}
TARGET, SUBTARGET = "task1-target", "task2-target"

Kind = tuple[str, str]  # a class, and a subtype or ""


def read(folder: Path, seed: int) -> Listing:
    """List BRIGHT.

    Where test slides have no labels, the validation slides are the test part, and train is left
    to give up some for validation: to choose an epoch by slides and score it on the same flatters.

    Raises:
        CohortError: it is not this set, or a slide has no class, or two.
    """
    found = {
        part: sorted((folder / path.name / "WSIs").rglob("*.svs"))
        for path in sorted(folder.glob("*"))
        if (part := FOLDERS.get(path.name.lower())) and (path / "WSIs").is_dir()
    }
    if not {"train", "val"} <= set(found):
        raise SOURCE.refuse(folder, "no Train/WSIs and Validation/WSIs here")
    targets = _read_targets(folder)
    kinds = {path: _kind(path, targets) for paths in found.values() for path in paths}
    tested = found.get("test", [])
    scored = any(kinds[path] is not None for path in tested)
    hidden = () if scored else tuple(tested)
    _refuse_unlabeled(folder, [path for path in kinds.keys() - hidden if kinds[path] is None])
    rows = tuple(
        Row(path.stem, path, kind[0], split=_part(part, scored), stratum=kind[1])
        for part, paths in found.items()
        for path in paths
        if (kind := kinds[path]) is not None
    )
    return Listing(rows, absent=max(0, PUBLISHED - len(kinds)), notes=_notes(len(hidden), scored))


def _read_targets(folder: Path) -> dict[str, Kind]:
    """Read classes from the organizers' tables of targets, if there are any."""
    targets: dict[str, Kind] = {}
    for path in sorted(folder.glob("*targets*.csv")):
        for cells in read_table(SOURCE, path, ("image_name", TARGET)):
            kind, finer = cells[TARGET], cells.get(SUBTARGET, "")
            known = kind in ("0", "1", "2") and (finer == "" or finer in "012345")
            if not known or (finer and int(finer) // 2 != int(kind)):
                raise SOURCE.refuse(
                    path,
                    f"{cells['image_name']} has targets {kind!r} and {finer!r}, which do not go "
                    "together, so it is not the table of this set",
                )
            subtype = SUBTYPES[int(finer)] if finer else ""
            targets[cells["image_name"]] = (CLASSES[int(kind)], subtype)
    return targets


def _kind(path: Path, targets: Mapping[str, Kind]) -> Kind | None:
    """Give a slide's class by its folders and by the tables; None if neither says."""
    below = path.parts[len(path.parts) - path.parts[::-1].index("WSIs") : -1]
    named = [kind for name in below if (kind := _kind_of_folder(name)) is not None]
    told = [targets[path.stem]] if path.stem in targets else []
    if len({kind[0] for kind in named + told}) > 1:
        raise SOURCE.refuse(
            path, f"its folder and its row among the targets disagree ({named + told})"
        )
    return max(named + told, key=lambda kind: len(kind[1]), default=None)


def _kind_of_folder(name: str) -> Kind | None:
    """Read a class or a subtype off a folder's name, as `Type_PB` or `Pre-cancerous`."""
    word = name.rpartition("_")[2]
    if word.upper() in SUBTYPES:
        return CLASSES[SUBTYPES.index(word.upper()) // 2], word.upper()
    plain = word.lower().replace("-", "")
    return (plain, "") if plain in CLASSES else None


def _refuse_unlabeled(folder: Path, unlabeled: list[Path]) -> None:
    if unlabeled:
        raise SOURCE.refuse(
            folder,
            f"{len(unlabeled)} of the slides have no class, neither by a folder below WSIs nor in "
            f"a *targets*.csv: {', '.join(sorted(path.name for path in unlabeled))}",
        )


def _part(part: Part, scored: bool) -> Part:
    return "test" if part == "val" and not scored else part


def _notes(hidden: int, scored: bool) -> tuple[str, ...]:
    patients = "patients are not published: slides of one may stand in two parts"
    if scored:
        return (patients,)
    return (
        patients,
        f"the test slides here ({hidden}) have no public labels: left out; the validation slides "
        "are the test part, and validation slides are cut from train",
    )
