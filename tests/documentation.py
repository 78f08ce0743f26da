"""The pages of the documentation, their code blocks and commands, and which of them are not run."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"(?:\A|(?<=\n)\n)((?: {4}.*(?:\n|\Z))(?: {4}.*(?:\n|\Z)|\n(?= {4}))*)")
COMMAND = re.compile(r"^ {4,}(?:.*\bdo )?(parfocal [^#;\n]*)", re.M)
INLINE = re.compile(r"`(parfocal [a-z]+ [^`]*)`")

# Blocks that are no commands of parfocal and no Python: page, first line, and what they are.
NOT_COMMANDS = (
    (r"(commands|formats|encoder-service|settings|api)\.md", r".*", "a usage line, layout or file"),
    (r"notebook-.*\.md", r".*", "run as a notebook by tests/test_notebooks.py"),
    (r"methods\.md", r".*", "an equation"),
    (r".*", r"(slide_id|clini\.xlsx),.*", "a table"),
    (r"(README|concepts|remote)\.md", r"\S+: tumor .*", "output"),
    (r".*", r"slide file > pixels .*", "the flow of data"),
    (r"reproduce\.md", r"[A-Z][\w-]+/.*", "the folder of a data set"),
    (
        r"reproduce\.md",
        r"--set .*",
        "options of `reproduce` for weights that are not published here",
    ),
    (r"contributing\.md", r"cli/ .*", "the layout of the source"),
    (r"remote\.md", r"(\{|machine ).*", "a file in the home folder"),
    (r"cluster\.md", r"(#!/bin/bash|apiVersion|FROM).*", "needs SLURM, Kubernetes or Docker"),
    (r".*", r"(python3? |\.venv/|\.\.\. )?.*(make |pip install|venv|ruff|docker |nox).*", "set-up"),
    (r"benchmarks\.md", r"python (benchmarks|examples)/.*", "a measurement, by hand"),
)

# Commands that no test runs: page, command, and the reason.
NOT_RUN = (
    (r"benchmarks\.md", r".*", "a measurement of minutes to hours, by hand"),
    (r"commands\.md", r".*", "the examples of --help; the same commands are on other pages"),
    (
        r".*",
        r".* \.\.\. .*|.*\b(HOST|OWNER|NAME|DIR|OUT|RUN|SLIDE|SERIES_UUID)\b.*",
        "a placeholder",
    ),
    (r".*", r"parfocal (extract --layout trident|synth --endpoint|cohort convert)", "a mention"),
    (r".*", r".*(uni2-h|virchow2).*--.*|.*--encoders? .*(uni2-h|virchow2).*", "gated weights"),
    (r".*", r"parfocal serve-encoder .*", "gated weights; tests/encoders/service serves another"),
    (r".*", r".*http://gpu\d.*|.*--encoder-at here.*", "tests/encoders/service, on loopback"),
    (r".*", r".*s3://.*", "tests/slide/sources reads object stores in memory and on loopback"),
    (r".*", r".*/dicom-web/.*", "tests/slide/readers reads DICOMweb from a server on loopback"),
    (r".*", r".*S-7\.ndpi.*", "tests/remote/test_commands.py, on loopback"),
    (r".*", r".*\bhf:.*", "tests/hub pushes to and reads from a stand-in of the Hub"),
    (r".*", r".*--ray .*", "tests/distribute, if Ray is installed"),
    (r".*", r".*--gpus .*|.*--devices .*", "needs GPUs"),
    (
        r"(reproduce|README)\.md",
        r"parfocal (cohort|reproduce) ?(camelyon|zoommil).*|parfocal (cohort|reproduce)",
        "data sets",
    ),
    (r"reproduce\.md", r"parfocal train camelyon16.csv .*", "tests/dataset/readers, data sets"),
    (r".*", r"parfocal demo(?! --quick).*", "minutes; tests/test_demo.py runs it on fewer slides"),
    (r"contributing\.md", r".*", "a method that is not there yet"),
    (r"viewer\.md", r".*slide-0059.*", "a slide of the whole demonstration"),
    (r"probe\.md|README\.md", r"parfocal probe .*", "gated weights; tests/probe"),
)


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Args:
        page: the page.
        language: language of its fence; empty for an indented block.
        text: its lines, without indentation.
    """

    page: Path
    language: str
    text: str

    @property
    def first_line(self) -> str:
        """The first line that is not empty."""
        return next(line.strip() for line in self.text.splitlines() if line.strip())

    @property
    def is_python(self) -> bool:
        """Whether it is Python that stands alone."""
        return self.language == "python"

    @property
    def has_commands(self) -> bool:
        """Whether it has commands of parfocal."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return any(re.match(r"(.*\bdo )?parfocal ", line.strip()) for line in lines)


def text_of(page: Path) -> str:
    """Return the text of a page."""
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path) -> list[Block]:
    """Return all code blocks of a page, fenced and indented."""
    text = text_of(page)
    fenced = [Block(page, language, body) for language, body in FENCED.findall(text)]
    rest = FENCED.sub("", text)
    return [*fenced, *(Block(page, "", body) for body in INDENTED.findall(rest))]


def commands_of(page: Path) -> list[str]:
    """Return all command lines of a page, also in loops, continued, or followed by a comment."""
    text = text_of(page).replace("\\\n", " ")
    shown = [*COMMAND.finditer(text), *INLINE.finditer(text)]
    ordered = sorted(shown, key=lambda found: found.start(1))
    return [" ".join(found[1].split()) for found in ordered]


def listed(page: Path, text: str, table: tuple[tuple[str, str, str], ...]) -> str | None:
    """Return the reason why something is not run; None if it is."""
    for pages, pattern, reason in table:
        if re.fullmatch(pages, page.name) and re.fullmatch(pattern, text):
            return reason
    return None


def commands_to_run(page: Path) -> list[str]:
    """Return the commands of a page that tests run, in their order."""
    return [each for each in commands_of(page) if listed(page, each, NOT_RUN) is None]
