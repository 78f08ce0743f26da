"""Generated pages are up to date, and every setting is explained."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("script", sorted(path.name for path in DOCS.glob("make_*.py")))
def test_a_generated_page_is_up_to_date(script):
    module = runpy.run_path(str(DOCS / script))
    pages = module["pages"]() if "pages" in module else {module["PAGE"]: module["page"]()}
    for path, text in pages.items():
        found = path.read_bytes() if isinstance(text, bytes) else path.read_text(encoding="utf-8")
        assert found == text, "run `make docs`"


def test_every_setting_has_values_a_default_and_a_meaning():
    rows = [
        line.strip("| ").split(" | ")
        for line in (DOCS / "settings.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 100
    assert all(len(row) == 4 and all(row) and len(row[3]) > 10 for row in rows)
