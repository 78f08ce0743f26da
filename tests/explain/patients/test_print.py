"""The page of a patient fits one sheet of paper, A4 or Letter."""

import re
import shutil
from pathlib import Path

import pytest

from parfocal.explain.patients import write_patients

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.mark.slow
def test_a_page_with_one_slide_prints_on_one_sheet(folder: Path, tmp_path: Path):
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(NAMES)})")
    write_patients([folder / "predictions" / "a.json"], tmp_path)
    (page,) = (file for file in tmp_path.iterdir() if file.name != "index.html")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=OPTIONS)
        opened, errors, requests = browser.new_page(), [], []
        opened.on("console", lambda message: errors.append(message.text))
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(page.as_uri())
        assert errors == []
        assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
        for paper in ("A4", "Letter"):
            sheets = re.findall(rb"/Type\s*/Page\b", opened.pdf(format=paper))
            assert len(sheets) == 1, paper
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
