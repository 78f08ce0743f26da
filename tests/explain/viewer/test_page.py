"""The pages in Chromium, used with mouse and keyboard."""

import io
import json
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from explain.demo_folder import DARK, LESION, SIDE, running, with_folds, write_json
from parfocal.explain.library import load_library
from parfocal.explain.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
PATIENCE_MS = 60_000  # for a machine under load
expect.set_options(timeout=PATIENCE_MS)

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome")
# For running as root in a container, without requests to the network.
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
MARKED = (0, 114, 178)  # the frame of what is selected or under the pointer


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(NAMES)})")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, server) -> Iterator:
    """A page that must not log errors or send requests to other servers."""
    context = chromium.new_context(base_url=server.url, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    opened, errors, requests = context.new_page(), [], []
    opened.on("console", lambda message: errors.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    yield opened
    context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith((server.url, "data:", "blob:"))] == []


@pytest.mark.slow
def test_the_viewer_works_behind_a_proxy_that_adds_a_prefix(chromium, library):
    with running(library, prefix="/user/x/proxy/8642") as server:
        opened, errors, requests = chromium.new_page(), [], []
        opened.on("console", lambda message: errors.append(f"{message.type}: {message.text}"))
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(f"{server.url}/")
        opened.locator("tbody tr").first.get_by_role("link").first.click()
        opened.wait_for_selector("body[data-ready=yes]")
        opened.wait_for_selector(".deep:not([aria-busy=true])")
        opened.get_by_role("link", name="All slides").click()
        expect(opened.locator("tbody tr")).to_have_count(3)
        opened.close()
    assert errors == []
    assert any("/tiles/" in url for url in requests)
    assert [url for url in requests if not url.startswith((server.url, "data:", "blob:"))] == []


@pytest.fixture
def slide(server) -> dict:
    return server.json("/api/slides")["slides"][0]


def show(page, slide, model="zoommil, predictions", **state):
    (key,) = [each["key"] for each in slide["predictions"] if each["model"] == model]
    fragment = "&".join(f"{name}={value}" for name, value in {"p": key, **state}.items())
    page.goto(f"/slides/{slide['key']}#{fragment}")
    page.wait_for_selector("body[data-ready=yes]")
    page.wait_for_selector(".deep:not([aria-busy=true])")


def pixels(page) -> np.ndarray:
    """Return the pixels of the first pane after its tiles have loaded and the view is at rest."""
    shots: list[bytes] = []
    for _ in range(200):
        page.wait_for_timeout(100)
        page.wait_for_selector(".deep:not([aria-busy=true])")
        shots = [*shots[-2:], page.locator(".pane").first.screenshot()]
        if len(shots) == 3 and len(set(shots)) == 1:
            break
    return np.array(Image.open(io.BytesIO(shots[-1])).convert("RGB")).astype(int)


def where(image: np.ndarray, color: tuple[int, int, int], tolerance: int) -> list[int]:
    """Return left, top, right and bottom of the pixels of a color."""
    rows, columns = np.nonzero(np.abs(image - color).max(axis=2) <= tolerance)
    return [columns.min(), rows.min(), columns.max(), rows.max()]


def test_wrong_predictions_come_first(page):
    page.goto("/")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    page.select_option("#model", "zoommil, predictions")
    expect(rows.first).to_contain_text("✗ wrong")
    expect(rows.first.get_by_role("link")).to_have_text("b")
    expect(page.locator("#count")).to_have_text("3 of 3 slides shown, 1 of 3 wrong")


def test_the_list_is_filtered_and_sorted(page):
    page.goto("/")
    page.select_option("#model", "zoommil, predictions")
    page.select_option("#show", "wrong")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.select_option("#show", "all")
    page.fill("#find", "tumor")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.fill("#find", "")
    page.get_by_role("button", name="slide").press("Enter")
    assert page.locator("tbody tr td:nth-child(2)").all_inner_texts() == ["a", "b", "c"]
    page.get_by_role("button", name="slide").press("Enter")
    assert page.locator("tbody tr td:nth-child(2)").all_inner_texts() == ["c", "b", "a"]


def test_a_slide_opens_from_the_list_and_shows_the_prediction(page):
    page.goto("/")
    page.select_option("#model", "zoommil, predictions")
    page.get_by_role("link", name="a", exact=True).click()
    expect(page.locator("#name")).to_have_text("a")
    expect(page.locator("#prediction")).to_contain_text("tumor ✓ correct")
    expect(page.locator("#prediction")).to_contain_text("Visited 6 of 60 patches (10.0%)")


def test_a_frame_lies_on_the_patch_that_the_model_read(page, slide):
    show(page, slide, attention="none", path=0, lesions=0)
    lesion = where(pixels(page), DARK, 30)
    page.locator("[role=treeitem] [role=treeitem] > .node").first.hover()
    frame = where(pixels(page), MARKED, 8)
    # The frame is three pixels wide, about the edge.
    assert np.abs(np.subtract(frame, lesion)).max() <= 2
    assert lesion[2] - lesion[0] == pytest.approx(LESION[2] / SIDE * 754, abs=4)


def test_attention_is_shown_and_hidden(page, slide):
    show(page, slide, attention="none", path=0, lesions=0)
    plain = pixels(page)
    left, top, right, bottom = where(plain, DARK, 30)
    beside = (top + bottom) // 2, left - 30  # in the patch at 2.5x with the highest score
    page.get_by_label("2.5x").check()
    drawn = pixels(page)
    assert np.abs(drawn[beside] - plain[beside]).max() > 40
    expect(page.locator("#range")).to_contain_text("attention, raw: 0 to 1")
    page.select_option("#scale", "percentile")
    expect(page.locator("#range")).to_contain_text("percentile of attention among 4 patches")
    page.get_by_label("none").check()
    assert np.abs(pixels(page)[beside] - plain[beside]).max() <= 2
    assert right > left


def test_outlines_and_zoom_path_are_shown_and_hidden(page, slide):
    show(page, slide, attention="none", path=0, lesions=0)
    plain = pixels(page)
    for box in ("Zoom path", "Outlines"):
        page.get_by_role("checkbox", name=box).check()
        assert np.abs(pixels(page) - plain).max() > 80
        page.get_by_role("checkbox", name=box).uncheck()
        assert np.abs(pixels(page) - plain).max() <= 8


def test_the_tree_explains_why_each_patch_was_visited(page, slide):
    show(page, slide)
    first = page.locator("[role=tree] > [role=treeitem]").first
    expect(first).to_have_attribute(
        "title",
        "2.5x · attention 0.7, rank 1 of 4. Zoomed into: zoom attention 0.7, rank 1 of 4; "
        "the model zooms into the top 1.",
    )
    child = first.locator("[role=treeitem]").first
    expect(child).to_have_attribute(
        "title",
        "10x · attention 0.9, rank 1 of 2. Visited because the model zoomed into the 2.5x patch "
        "around it.",
    )


@pytest.mark.slow
def test_the_ranks_in_the_tree_are_explained(page, slide):
    show(page, slide)
    expect(page.locator("#tree-legend")).to_have_text(
        "#2: second highest attention at its magnification; zoom #2: second highest zoom "
        "attention, which selects the patches to zoom into."
    )


@pytest.mark.slow
def test_numbers_below_a_thousandth_have_a_power_of_ten(page, slide):
    show(page, slide)
    script = """async () => {
      const { formatNumber } = await import("/static/dom.js");
      return [0, 0.7, 0.00123, 0.0000014, 0.000000023, 12345].map(formatNumber);
    }"""
    assert page.evaluate(script) == ["0", "0.7", "0.0012", "1.4e-6", "2.3e-8", "12000"]


def test_magnifications_are_those_of_the_model_also_on_a_scan_that_is_close_to_them(
    chromium, folder, tmp_path
):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    for step, mpp in enumerate((3.84, 0.96)):  # 0.96 µm per pixel would be 10.4x
        content["steps"][step]["mpp"] = mpp
    for region in content["regions"]:
        region["mpp"] = (3.84, 0.96)[region["step"]]
    write_json(tmp_path / "a.json", content)
    with running(load_library([tmp_path])) as server:
        opened = chromium.new_page()
        opened.goto(f"{server.url}/")
        opened.locator("tbody tr").first.get_by_role("link").first.click()
        opened.wait_for_selector("body[data-ready=yes]")
        text = opened.locator("body").inner_text()
        opened.close()
    assert "2.5x" in text
    assert "10x" in text
    assert "10.4x" not in re.sub(r".* on screen", "", text)


def test_the_scale_bar_has_the_magnification_of_the_screen(page, slide):
    show(page, slide)
    expect(page.locator(".scale-bar")).to_have_text(re.compile(r"^\d+ µm · [\d.]+x on screen$"))


def test_a_click_in_the_tree_flies_there(page, slide):
    show(page, slide)
    bar = page.locator(".scale-bar")
    before = bar.inner_text()
    page.locator("[role=treeitem] [role=treeitem] > .node").first.click()
    expect(bar).not_to_have_text(before)
    expect(page.locator("[aria-selected=true]")).to_contain_text("attention 0.9")


@pytest.mark.slow
def test_the_order_of_visits_is_stepped_through(page, slide):
    show(page, slide)
    expect(page.locator("#now")).to_have_text("All 6 patches visited.")
    page.get_by_role("button", name="Previous patch").click()
    expect(page.locator("#now")).to_contain_text("Patch 5 of 6: 10x")
    page.get_by_role("button", name="First").click()
    expect(page.locator("#now")).to_have_text("No patch visited yet.")
    page.get_by_role("button", name="Next patch").click()
    expect(page.locator("#now")).to_contain_text("Patch 1 of 6: 2.5x")
    page.get_by_role("button", name="Play").click()
    expect(page.locator("#now")).to_have_text("All 6 patches visited.")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


@pytest.mark.slow
def test_two_models_stand_side_by_side_and_move_together(page, slide):
    show(page, slide)
    page.select_option("#beside", label="mean, mean")
    expect(page.locator(".pane")).to_have_count(2)
    titles = page.locator(".pane-title")
    expect(titles.nth(1)).to_have_text("mean, mean: tumor 0.80")
    bars = page.locator(".scale-bar")
    before = bars.nth(1).inner_text()
    page.locator(".deep").nth(1).hover()
    page.mouse.wheel(0, -600)
    for bar in (bars.nth(0), bars.nth(1)):
        expect(bar).not_to_have_text(before)
    pixels(page)  # at rest
    expect(bars.nth(1)).to_have_text(bars.nth(0).inner_text())
    page.select_option("#beside", label="no other model")
    expect(page.locator(".pane")).to_have_count(1)


@pytest.mark.slow
def test_a_slide_moves_alone_after_the_second_pane_is_closed(page, slide):
    show(page, slide)
    page.select_option("#beside", label="mean, mean")
    expect(page.locator(".pane-title").nth(1)).to_have_text("mean, mean: tumor 0.80")
    page.select_option("#beside", label="no other model")
    before = page.locator(".scale-bar").inner_text()
    page.locator(".deep").hover()
    page.mouse.wheel(0, -600)
    expect(page.locator(".scale-bar")).not_to_have_text(before)


@pytest.mark.slow
def test_the_last_of_several_quick_choices_is_compared(page, slide):
    show(page, slide)
    labels = page.locator("#beside option").all_inner_texts()[1:]
    chosen = page.locator("#beside").element_handle()
    page.evaluate(
        "([select, labels]) => { for (const label of labels) { select.value ="
        " [...select.options].find((each) => each.label === label).value;"
        " select.dispatchEvent(new Event('change')); } }",
        [chosen, [*labels, "mean, mean"]],
    )
    expect(page.locator(".pane")).to_have_count(2)
    expect(page.locator(".pane-title").nth(1)).to_have_text("mean, mean: tumor 0.80")


@pytest.mark.slow
def test_a_link_restores_the_view(page, slide):
    show(page, slide)
    page.locator("[role=treeitem] [role=treeitem] > .node").first.click()
    page.get_by_label("2.5x").check()
    page.wait_for_selector("body[data-kept=yes]")
    before = page.locator(".scale-bar").inner_text(), pixels(page)
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("body[data-ready=yes]")
    page.wait_for_selector(".deep:not([aria-busy=true])")
    assert page.locator(".scale-bar").inner_text() == before[0]
    assert page.get_by_label("2.5x").is_checked()
    expect(page.locator("[aria-selected=true]")).to_contain_text("attention 0.9")
    assert np.abs(pixels(page) - before[1]).mean() < 1


def test_a_link_with_invalid_values_still_opens_the_slide(page, slide):
    page.goto(f"/slides/{slide['key']}#p=nobody&x=1e999&w=%00&opacity=much&order=-4&region=<b>")
    page.wait_for_selector("body[data-ready=yes]")
    expect(page.locator("#now")).to_have_text("No patch visited yet.")


def test_keys_do_what_the_controls_do(page, slide):
    show(page, slide)
    page.keyboard.press("0")
    expect(page.get_by_label("none")).to_be_checked()
    page.keyboard.press("1")
    expect(page.get_by_label("2.5x")).to_be_checked()
    page.keyboard.press("p")
    expect(page.get_by_role("checkbox", name="Zoom path")).not_to_be_checked()
    page.keyboard.press(",")
    expect(page.locator("#now")).to_contain_text("Patch 5 of 6")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("attention at 10x")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_arrow_keys_move_through_the_tree(page, slide):
    show(page, slide)
    page.locator("[role=tree] > [role=treeitem]").first.focus()
    page.keyboard.press("ArrowRight")
    assert "attention 0.9" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("End")
    assert "3 others" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    expect(page.locator("[role=tree] > [role=treeitem]")).to_have_count(4)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("[role=treeitem]").first).to_have_attribute("aria-expanded", "false")


NAMELESS = """() => [...document.querySelectorAll("button, input, select, a, meter, [role]")]
  .filter((each) => each.checkVisibility())
  .filter((each) => !(each.ariaLabel || each.labels?.length || each.textContent.trim()
    || each.getAttribute("aria-labelledby") || each.ariaHidden === "true"))
  .map((each) => each.outerHTML)"""


@pytest.mark.parametrize("place", ["list", "slide"])
def test_every_control_has_a_name_for_a_screen_reader(page, slide, place):
    if place == "list":
        page.goto("/")
        page.wait_for_selector("tbody tr")
    else:
        show(page, slide)
    assert page.evaluate(NAMELESS) == []


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_color_scheme_is_that_of_the_system(page, scheme, dark):
    page.emulate_media(color_scheme=scheme)
    page.goto("/")
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", shade)[0]) < 128) is dark


@pytest.mark.parametrize("size", [(1280, 800), (1024, 640), (820, 1180)])
def test_nothing_is_cut_off_sideways(page, slide, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    show(page, slide)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelector('.panel').scrollWidth <= innerWidth")


@pytest.mark.slow
def test_a_slide_without_a_prediction_is_shown_without_panel(chromium, folder):
    with running(load_library([folder / "cohort" / "a.tif"])) as alone:
        page = chromium.new_page(base_url=alone.url)
        (listed,) = alone.json("/api/slides")["slides"]
        page.goto(f"/slides/{listed['key']}")
        page.wait_for_selector("body[data-ready=yes]")
        expect(page.locator("#prediction")).to_have_text("There is no prediction for this slide.")
        page.close()


@pytest.mark.slow
def test_without_openseadragon_the_whole_slide_is_shown(chromium, server, slide):
    page = chromium.new_page(base_url=server.url)
    page.route("**/openseadragon/**", lambda route: route.fulfill(status=404))
    show(page, slide, path=0, lesions=0)
    expect(page.locator("#message")).to_contain_text("Install parfocal again")
    page.locator("[role=treeitem] [role=treeitem] > .node").first.hover()
    assert where(pixels(page), MARKED, 8)[2] > 0
    page.close()


def test_a_moved_slide_is_reported_and_its_prediction_shown(chromium, folder, tmp_path):
    content = (folder / "predictions" / "a.json").read_text()
    (tmp_path / "a.json").write_text(content.replace(str(folder), "/gone"))
    with running(load_library([tmp_path])) as moved:
        page = chromium.new_page(base_url=moved.url)
        show(page, moved.json("/api/slides")["slides"][0], model=f"zoommil, {tmp_path.name}")
        expect(page.locator("#message")).to_contain_text("no longer at /gone")
        expect(page.locator("#prediction")).to_contain_text("tumor")
        page.close()


def test_clicking_a_point_of_the_probability_chart_selects_its_patch(chromium, folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    for region in content["regions"]:
        region["score_kind"] = ("uniform", "class_probability")[region["step"]]
    for region, chance in zip(content["regions"][4:], (0.6, 0.8), strict=True):
        region |= {"score": chance, "probabilities": {"normal": 1 - chance, "tumor": chance}}
    write_json(tmp_path / "a.json", content)
    with running(load_library([tmp_path])) as served:
        page = chromium.new_page(base_url=served.url)
        show(page, served.json("/api/slides")["slides"][0], model=f"zoommil, {tmp_path.name}")
        points = page.locator("#charts circle")
        assert points.locator("title").all_text_contents() == [
            "Patch 1: tumor 0.60",
            "Patch 2: tumor 0.80",
        ]
        expect(page.locator("#attention")).to_be_hidden()  # the scores are not attention
        points.nth(1).click()
        expect(points.nth(1)).to_have_class("dot here")
        for key, number in (("Enter", 0), ("Space", 1)):
            points.nth(number).press(key)
            expect(points.nth(number)).to_have_class("dot here")
        points.nth(0).press("ArrowRight")
        expect(points.nth(1)).to_be_focused()
        expect(page.locator("[aria-selected=true] > .node")).to_have_text("10x · tumor 0.806 of 6")
        expect(points.nth(1)).to_have_class("dot here")
        page.close()


def test_the_running_answers_of_folds_are_a_line_each(chromium, folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    write_json(tmp_path / "a.json", with_folds(content))
    with running(load_library([tmp_path])) as served:
        page, errors = chromium.new_page(base_url=served.url), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        show(page, served.json("/api/slides")["slides"][0], model=f"zoommil, {tmp_path.name}")
        assert page.locator("#charts circle title").all_text_contents() == [
            "fold-0, round 0, 4 patches: tumor 0.60",
            "fold-0, round 1, 5 patches: tumor 0.70",
            "fold-0, round 2, 6 patches: tumor 0.90",
            "fold-1, round 0, 4 patches: tumor 0.20",
            "fold-1, round 1, 5 patches: tumor 0.70",
        ]
        names = page.locator("#charts .legend li")
        assert names.all_text_contents() == ["fold-0: tumor 0.90", "fold-1: tumor 0.70"]
        lines = page.locator("#charts div > svg > polyline")
        ends = [lines.nth(index).get_attribute("points").split(" ")[-1] for index in range(2)]
        across = [float(end.split(",")[0]) for end in ends]
        assert across[1] - 18 == pytest.approx((across[0] - 18) / 2)  # 5 of 4 to 6 patches
        page.close()
    assert errors == []


def test_the_slides_of_a_patient_stand_side_by_side(chromium, folder, tmp_path):
    for name in "ab":
        content = json.loads((folder / "predictions" / f"{name}.json").read_text())
        content["patient"] = {"id": "P7", "slides": ["a", "b"], "share": 0.25}
        write_json(tmp_path / f"{name}.json", content)
    with running(load_library([tmp_path])) as served:
        page, errors = chromium.new_page(base_url=served.url), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto("/")
        expect(page.locator("tbody tr").first).to_contain_text("patient P7")
        model = f"zoommil, {tmp_path.name}"
        show(page, served.json("/api/slides")["slides"][0], model=model)
        expect(page.locator("#patient")).to_contain_text("patient P7, from 2 slides; 25.0%")
        page.select_option("#beside", label="slide b of patient P7")
        expect(page.locator(".pane")).to_have_count(2)
        expect(page.locator(".pane-title").nth(1)).to_contain_text(f"b · {model}: ")
        bars = page.locator(".scale-bar")
        other = bars.nth(1).inner_text()
        page.locator(".deep").nth(0).hover()
        page.mouse.wheel(0, -600)
        expect(bars.nth(0)).not_to_have_text(other)
        expect(bars.nth(1)).to_have_text(other)  # another slide moves by itself
        page.wait_for_selector("body[data-kept=yes]")
        page.reload()
        expect(page.locator(".pane")).to_have_count(2)
        page.close()
    assert errors == []


def test_the_report_of_a_slide_is_printed_on_one_page(chromium, folder, tmp_path):
    write_report([folder / "predictions" / "b.json"], tmp_path / "report.html")
    page = chromium.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    printed = page.pdf(format="A4")
    page.close()
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
