"""Lower bounds, the versions of constraints.txt, and the files of OpenSeadragon."""

import importlib.util
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# Not installed for the tests; those of timm and transformers need a torchvision made for torch.
UNTESTED = (
    "timm",
    "torchvision",
    "transformers",
    "huggingface-hub",
    "s3fs",
    "gcsfs",
    "ray",
    "mlflow-skinny",
    "wandb",
)


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(project: dict) -> list[Requirement]:
    extras = project["optional-dependencies"].values()
    texts = [*project["dependencies"], *(text for extra in extras for text in extra)]
    return [Requirement(text) for text in texts]


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {name.lower().replace("_", "-"): Version(version) for name, version in pairs}


def test_every_requirement_has_a_tested_version_within_its_bounds(project):
    versions = pinned()
    for requirement in requirements(project):
        name = requirement.name.lower().replace("_", "-")
        if name not in UNTESTED and not name.startswith("parfocal"):
            assert requirement.specifier.contains(versions[name]), requirement


def test_every_requirement_has_a_lower_bound(project):
    for requirement in requirements(project):
        if requirement.name != "parfocal":
            assert any(each.operator in (">=", "==") for each in requirement.specifier), requirement


@pytest.mark.parametrize(
    ("name", "first_safe"),
    [("pillow", "12.3"), ("starlette", "1.3"), ("h11", "0.16")],
)
def test_versions_with_known_faults_are_excluded(project, name, first_safe):
    (requirement,) = [each for each in requirements(project) if each.name == name]
    assert requirement.specifier.contains(first_safe)
    major, minor = first_safe.split(".")
    assert not requirement.specifier.contains(f"{major}.{int(minor) - 1}.99")


def test_make_installs_the_tested_versions():
    assert "-c constraints.txt" in (ROOT / "Makefile").read_text()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build hook; hatchling itself is there only in a build."""
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = dict
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_changed_or_missing_files_of_openseadragon_are_fetched_again(hook, tmp_path, monkeypatch):
    if not hook.is_complete():
        pytest.skip("this installation was made without OpenSeadragon")
    copy = Path(shutil.copytree(hook.TARGET, tmp_path / "openseadragon"))
    monkeypatch.setattr(hook, "TARGET", copy)
    assert hook.is_complete()
    script = copy / "openseadragon.min.js"
    content = script.read_bytes()
    script.write_bytes(content + b" ")
    assert not hook.is_complete()
    script.write_bytes(content)
    (copy / "LICENSE.txt").unlink()
    assert not hook.is_complete()


def test_the_readme_lists_every_extra(project):
    text = (ROOT / "README.md").read_text()
    extras = set(project["optional-dependencies"]) - {"dev", "docs"}
    assert {name for name in extras if f"'.[{name}]'" not in text} == set()


# Keys of version 1.2.0 of the Citation File Format, as far as they are used; `nox -s citation`
# checks the file against the whole schema.
PERSON = {"family-names", "given-names", "name-particle", "affiliation"}
REFERENCE = {"type", "title", "authors", "notes", "year", "conference", "identifiers", "doi", "url"}
CITATION_KEYS = {
    *("cff-version", "title", "message", "type", "authors", "abstract", "license", "version"),
    *("keywords", "references", "date-released", "repository-code", "url", "doi"),
}


@pytest.fixture(scope="module")
def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_file_has_only_keys_of_its_format(citation):
    assert set(citation) <= CITATION_KEYS
    assert {"cff-version", "title", "message", "authors"} <= set(citation)
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["authors"] == [{"name": "The parfocal developers"}]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference) <= REFERENCE
        assert reference["type"] in ("article", "conference-paper", "unpublished")
        assert type(reference["year"]) is int
        assert set(reference.get("conference", {"name": ""})) == {"name"}
        for author in reference["authors"]:
            assert {"family-names", "given-names"} <= set(author) <= PERSON
        for each in reference.get("identifiers", ()):
            assert set(each) == {"type", "value"}
            assert each["type"] in ("doi", "url", "swh", "other")


def test_the_citation_and_the_changelog_name_the_version(project, citation):
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert len(citation["references"]) == 3
    headings = [
        line.split()[1]
        for line in (ROOT / "CHANGELOG.md").read_text().splitlines()
        if line.startswith("## ")
    ]
    assert headings[0] == "Unreleased"
    assert project["version"] in headings
