"""Copy the colors of viewer and reports for the site: docs/stylesheets/design.css."""

from pathlib import Path

PAGE = Path(__file__).parent / "stylesheets" / "design.css"
DESIGN = Path(__file__).parents[1] / "src" / "parfocal" / "explain" / "static" / "design.css"


def page() -> str:
    """Return the style sheet of viewer and reports."""
    return DESIGN.read_text(encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
