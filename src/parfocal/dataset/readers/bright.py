"""BRIGHT: 703 breast slides in three risk classes, a challenge on slides of BRACS.

Expected files: `{Train,Validation,Test}/WSIs/`. The class of a slide is either a folder between
WSIs and the file, or a row of a `*targets*.csv` with the columns of the organizers:
`image_name,Task1-target[,Task2-target]`. Labels of the test slides are not public.
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

Kind = tuple[str, str]  # class, and subtype or ""


def read(folder: Path, seed: int) -> Listing:
    """List BRIGHT.

    Where the test slides have no labels, the validation slides become the test part, and
    validation slides are drawn from train at training time: to select the epoch and to test on
    the same slides would give optimistic scores.

    Raises:
        CohortError: the folder does not hold BRIGHT, or a slide has no class or two.
    """
    found = {
        part: sorted((folder / path.name / "WSIs").rglob("*.svs"))
        for path in sorted(folder.glob("*"))
        if (part := FOLDERS.get(path.name.lower())) and (path / "WSIs").is_dir()
    }
    if not {"train", "val"} <= set(found):
        raise SOURCE.error(folder, "no Train/WSIs and Validation/WSIs here")
    targets = _read_targets(folder)
    kinds = {path: _kind(path, targets) for paths in found.values() for path in paths}
    test_paths = found.get("test", [])
    labeled = any(kinds[path] is not None for path in test_paths)
    hidden = () if labeled else tuple(test_paths)
    _refuse_unlabeled(folder, [path for path in kinds.keys() - hidden if kinds[path] is None])
    rows = tuple(
        Row(path.stem, path, kind[0], split=_part(part, labeled), stratum=kind[1])
        for part, paths in found.items()
        for path in paths
        if (kind := kinds[path]) is not None
    )
    return Listing(rows, absent=max(0, PUBLISHED - len(kinds)), notes=_notes(len(hidden), labeled))


def _read_targets(folder: Path) -> dict[str, Kind]:
    """Read classes from the `*targets*.csv` files, if there are any."""
    targets: dict[str, Kind] = {}
    for path in sorted(folder.glob("*targets*.csv")):
        for cells in read_table(SOURCE, path, ("image_name", TARGET)):
            kind, subkind = cells[TARGET], cells.get(SUBTARGET, "")
            known = kind in ("0", "1", "2") and (subkind == "" or subkind in "012345")
            if not known or (subkind and int(subkind) // 2 != int(kind)):
                raise SOURCE.error(
                    path,
                    f"{cells['image_name']} has the targets {kind!r} and {subkind!r}, which "
                    "contradict each other, so this is the table of another data set",
                )
            subtype = SUBTYPES[int(subkind)] if subkind else ""
            targets[cells["image_name"]] = (CLASSES[int(kind)], subtype)
    return targets


def _kind(path: Path, targets: Mapping[str, Kind]) -> Kind | None:
    """Return the class of a slide from its folders and the tables; None where both lack it."""
    below = path.parts[len(path.parts) - path.parts[::-1].index("WSIs") : -1]
    named = [kind for name in below if (kind := _kind_of_folder(name)) is not None]
    listed = [targets[path.stem]] if path.stem in targets else []
    if len({kind[0] for kind in named + listed}) > 1:
        raise SOURCE.error(
            path, f"its folder and its row in the targets disagree ({named + listed})"
        )
    return max(named + listed, key=lambda kind: len(kind[1]), default=None)


def _kind_of_folder(name: str) -> Kind | None:
    """Return the class or subtype in a folder name, for example `Type_PB` or `Pre-cancerous`."""
    word = name.rpartition("_")[2]
    if word.upper() in SUBTYPES:
        return CLASSES[SUBTYPES.index(word.upper()) // 2], word.upper()
    plain = word.lower().replace("-", "")
    return (plain, "") if plain in CLASSES else None


def _refuse_unlabeled(folder: Path, unlabeled: list[Path]) -> None:
    if unlabeled:
        raise SOURCE.error(
            folder,
            f"{len(unlabeled)} slides have no class, neither from a folder below WSIs nor from a "
            f"*targets*.csv: {', '.join(sorted(path.name for path in unlabeled))}",
        )


def _part(part: Part, labeled: bool) -> Part:
    return "test" if part == "val" and not labeled else part


def _notes(hidden: int, labeled: bool) -> tuple[str, ...]:
    patients = "patients are not published: slides of one patient may be in two parts"
    if labeled:
        return (patients,)
    return (
        patients,
        f"excluded {hidden} test slides, without public labels: the validation slides are the test "
        "part, and validation slides are drawn from train",
    )
