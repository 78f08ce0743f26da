"""docs/settings.md says what the code does."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_settings_is_what_the_docstrings_say():
    made = runpy.run_path(str(DOCS / "make_settings.py"))["page"]()
    assert made == (DOCS / "settings.md").read_text(encoding="utf-8"), (
        "run python docs/make_settings.py"
    )


def test_every_setting_has_a_meaning():
    rows = [
        line.split(" | ")
        for line in (DOCS / "settings.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 100
    assert all(len(row) == 3 and len(row[2]) > 5 for row in rows)
