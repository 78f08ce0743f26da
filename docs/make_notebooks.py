"""Write the notebooks as pages, docs/notebook-*.md, with their pictures; run by `make docs`.

With --run, the notebooks are executed first, in the folder given after it, and their outputs are
stored in them. Cells run as in Jupyter: the value of the last expression is displayed.
"""

import ast
import base64
import io
import json
import os
import re
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parent
NOTEBOOKS = DOCS.parent / "notebooks"
# What a display may be, the richest first.
KINDS = {"text/html": "_repr_html_", "image/svg+xml": "_repr_svg_", "image/png": "_repr_png_"}
EMBEDDED = re.compile(r"data:image/(jpeg|png);base64,([A-Za-z0-9+/=]+)")
MAX_PNG, MAX_TEXT = 40_000, 200  # bytes of a picture, characters of a text beside a display

Notebook = dict[str, Any]


def pages() -> dict[Path, str | bytes]:
    """Return the pages and pictures of all notebooks, by file."""
    written: dict[Path, str | bytes] = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        written |= notebook_page(path)
    return written


def notebook_page(path: Path) -> dict[Path, str | bytes]:
    """Return the page of a notebook and its pictures, by file."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts: list[str] = []
    pictures: dict[Path, str | bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "]("))
            continue
        parts.append(f"```py\n{source}\n```")
        for output in cell["outputs"]:
            name = f"notebook-{path.stem}-{len(pictures)}"
            text, picture = _output(output, name)
            parts.append(text)
            pictures |= picture
    page = DOCS / f"notebook-{path.stem}.md"
    return {page: "\n\n".join(parts) + "\n", **pictures}


def _output(output: dict[str, Any], name: str) -> tuple[str, dict[Path, str | bytes]]:
    """Return an output as Markdown, and the file of its picture if it is one."""
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```", {}
    content = output["data"]
    if "text/html" in content:
        return _html("".join(content["text/html"]), name)
    if "image/svg+xml" in content:
        picture = "".join(content["image/svg+xml"])
        return f"![output](images/{name}.svg)", {DOCS / "images" / f"{name}.svg": picture}
    for kind in ("png", "jpeg"):
        if f"image/{kind}" in content:
            picture_bytes = base64.b64decode(content[f"image/{kind}"])
            file = DOCS / "images" / f"{name}.{kind}"
            return f"![output](images/{file.name})", {file: picture_bytes}
    return f"```text\n{''.join(content['text/plain'])}\n```", {}


def _html(text: str, name: str) -> tuple[str, dict[Path, str | bytes]]:
    """Return HTML on one line, with its embedded pictures in files."""
    pictures: dict[Path, str | bytes] = {}

    def place(found: re.Match[str]) -> str:
        file = DOCS / "images" / f"{name}-{len(pictures)}.{found[1]}"
        pictures[file] = base64.b64decode(found[2])
        return f"../images/{file.name}"  # as seen from the page on the site

    return EMBEDDED.sub(place, " ".join(text.split())), pictures


def run_notebook(notebook: Notebook, folder: Path) -> Notebook:
    """Return a notebook with the outputs of its cells.

    Args:
        notebook: content of the file.
        folder: working directory of the cells.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    with chdir(folder):
        for cell in notebook["cells"]:
            if cell["cell_type"] != "code":
                cells.append(cell)
                continue
            count += 1
            outputs = _run_cell("".join(cell["source"]), names, count)
            cells.append({**cell, "execution_count": count, "outputs": outputs})
    return {**notebook, "cells": cells}


def _run_cell(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Run a cell, and return what it printed and the value of its last expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(ast.Module(body, []), f"cell {count}", "exec"), names)
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        result = {"data": _display(value), "metadata": {}, "execution_count": count}
        outputs.append({"output_type": "execute_result", **result})
    return outputs


def _display(value: object) -> dict[str, Any]:
    """Return a value as Jupyter shows it, by media type."""
    shown: dict[str, Any] = {}
    for kind, method in KINDS.items():
        content = getattr(value, method, lambda: None)()
        if content is not None and not shown:
            shown |= _encoded(kind, content)
    text = repr(value)
    return {**shown, "text/plain": [text if len(text) <= MAX_TEXT else f"<{type(value).__name__}>"]}


def _encoded(kind: str, content: str | bytes) -> dict[str, Any]:
    """Return a display as a notebook stores it; a large PNG, as of a slide, as JPEG."""
    if isinstance(content, str):
        return {kind: content.splitlines(keepends=True)}
    if len(content) > MAX_PNG:
        encoded = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").save(encoded, "JPEG", quality=85)
        kind, content = "image/jpeg", encoded.getvalue()
    return {kind: base64.b64encode(content).decode()}


def _run_all(folder: Path) -> None:
    """Execute all notebooks, and store their outputs in them."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        done = run_notebook(json.loads(path.read_text(encoding="utf-8")), folder)
        path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        os.environ.setdefault("MPLBACKEND", "agg")
        _run_all(Path(sys.argv[2]))
    for file, content in pages().items():
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content, encoding="utf-8")
