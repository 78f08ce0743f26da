"""What users can check before they trust: the bill of materials, licenses, the citation."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sbom() -> Iterator[ModuleType]:
    yield load("sbom")
    del sys.modules["sbom"]


@pytest.fixture(scope="module")
def packages(sbom: ModuleType) -> dict:
    return sbom.closure()


def test_the_bill_of_materials_lists_all_packages_with_their_tested_versions(sbom, packages):
    bill = sbom.bill(list(packages.values()))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {each["name"]: each for each in bill["components"]}
    assert {"torch", "openslide-bin", "openseadragon", "h5py", "uvicorn"} <= set(listed)
    tested = sbom.tested_versions()
    for name, each in listed.items():
        if name in tested:  # pip and setuptools are not
            assert each["version"] == tested[name].public
        assert each["purl"] == each["bom-ref"]
    assert bill["metadata"]["component"]["name"] == "parfocal"
    json.dumps(bill)


def test_the_bill_of_materials_says_what_needs_what(sbom, packages):
    bill = sbom.bill(list(packages.values()))
    root = bill["metadata"]["component"]["bom-ref"]
    references = {root, *(each["bom-ref"] for each in bill["components"])}
    needs = {each["ref"]: set(each["dependsOn"]) for each in bill["dependencies"]}
    assert set(needs) == references
    assert all(each <= references for each in needs.values())
    reached, waiting = set(), [root]
    while waiting:
        found = waiting.pop()
        waiting += needs[found] - reached
        reached.add(found)
    assert reached == references


def test_equal_packages_have_the_same_serial_number(sbom, packages):
    values = list(packages.values())
    assert sbom.bill(values) == sbom.bill(values)
    more = sbom.bill(list(sbom.closure(["onnx"]).values()))
    assert sbom.bill(values)["serialNumber"] != more["serialNumber"]


def test_the_core_needs_nothing_that_only_options_need(packages):
    optional = {"scikit-learn", "pandas", "tensorboard", "onnxruntime", "timm", "mlflow-skinny"}
    assert not optional & set(packages)


def test_every_package_has_a_permissive_or_lesser_license(packages):
    for each in packages.values():
        assert each.license not in ("", "UNKNOWN", "see its files")
        alternatives = each.license.replace("LGPL", "").split(" AND ")
        assert not any("GPL" in one and " OR " not in one for one in alternatives), each


def test_a_package_of_another_version_is_an_error(sbom, monkeypatch):
    monkeypatch.setattr(sbom, "version", lambda name: "0.0.1")
    with pytest.raises(sbom.MissingPackageError, match=r"0\.0\.1 is installed, and constraints"):
        sbom.closure()


def test_the_oldest_versions_are_the_lower_bounds():
    lower_bounds = load("lower_bounds").lower_bounds
    found = lower_bounds(["onnx"], without=["torch"])
    assert {"pillow==12.3", "onnxruntime==1.20"} <= set(found)
    assert not any(each.startswith("torch==") for each in found)
    assert "torch==2.6" in lower_bounds()
