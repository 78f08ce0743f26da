"""Write the table in docs/encoders.md from the catalog of encoders; run by `make docs`."""

from pathlib import Path

from parfocal.encoders.catalog import CARDS
from parfocal.encoders.listing import COLUMNS, table_rows

PAGE = Path(__file__).with_name("encoders.md")
BEGIN, END = "<!-- table by make docs -->\n", "<!-- end of the table -->\n"


def page() -> str:
    """Return the whole page, with the table of today's catalog."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    columns = (*COLUMNS[:-1], "loaded with", "on a GPU")
    lines = [_line(columns), "|" + "---|" * len(columns)]
    for row, card in zip(table_rows(), CARDS.values(), strict=True):
        name = f"[`{row[0]}`]({card.page})" if card.page else f"`{row[0]}`"
        loader = {"titan": "transformers, remote code"}.get(card.loader, card.loader)
        if card.remote_code and card.loader == "transformers":
            loader = "transformers, remote code"
        lines.append(_line((name, *row[1:], loader, card.precision)))
    return f"{before}{BEGIN}{chr(10).join(lines)}\n{END}{after}"


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
