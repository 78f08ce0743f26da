"""Write docs/stylesheets/site.css: the colors of viewer and reports for the theme of the site."""

from pathlib import Path

PAGE = Path(__file__).parent / "stylesheets" / "site.css"
DESIGN = Path(__file__).parents[1] / "src" / "parfocal" / "explain" / "static" / "design.css"
# The theme switches between light and dark with an attribute of the page, and has names of its own.
THEME = """
/* The same for the theme of the site. */

[data-md-color-scheme="default"] {
  color-scheme: light;
}

[data-md-color-scheme="slate"] {
  color-scheme: dark;
}

[data-md-color-scheme] {
  --md-default-bg-color: var(--raised);
  --md-default-fg-color: var(--ink);
  --md-default-fg-color--light: var(--quiet);
  --md-default-fg-color--lighter: var(--line);
  --md-primary-fg-color: var(--raised);
  --md-primary-bg-color: var(--ink);
  --md-primary-bg-color--light: var(--quiet);
  --md-accent-fg-color: var(--accent);
  --md-typeset-color: var(--ink);
  --md-typeset-a-color: var(--accent);
  --md-code-bg-color: var(--ground);
  --md-code-fg-color: var(--ink);
  --md-footer-bg-color: var(--ground);
  --md-footer-bg-color--dark: var(--ground);
  --md-footer-fg-color: var(--ink);
  --md-footer-fg-color--light: var(--quiet);
  --md-footer-fg-color--lighter: var(--quiet);
}

body,
input {
  font-family: var(--type);
}

code,
kbd,
pre {
  font-family: var(--code);
}

.md-header {
  border-bottom: 1px solid var(--line);
  box-shadow: none;
}
"""


def page() -> str:
    """Return the whole style sheet."""
    return DESIGN.read_text(encoding="utf-8") + THEME


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
