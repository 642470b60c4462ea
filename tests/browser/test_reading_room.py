"""A radiologist's way through the page, in a real browser: files, answers, series, downloads."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from driving import COUNTS, Viewer, answered, colored, ct, drop, png, settled, stack
from playwright.sync_api import Page, expect

pytestmark = [
    pytest.mark.browser,
    # One server and one browser for all browser tests.
    pytest.mark.xdist_group("browser"),
    # pytest-base-url, which pytest-playwright brings, writes its fixture in a way that pytest 10 will not take.
    pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods:pytest.PytestRemovedIn10Warning"),
]


def test_the_empty_page_says_what_to_do(reading_room: Page) -> None:
    expect(reading_room.get_by_role("heading", name=re.compile("How much does a slice look like IPF"))).to_be_visible()
    expect(reading_room.get_by_text("Not a medical device")).to_be_visible()
    expect(reading_room.locator(".ipf-banner")).to_contain_text(re.compile(r"Model: \w+"))


def test_a_sample_is_one_click_away(reading_room: Page) -> None:
    reading_room.locator(".st-key-sample-02_honeycombing button").click()
    answered(reading_room)
    viewer = Viewer(reading_room).with_map()
    assert colored(viewer.picture("ct")) == 0
    assert colored(viewer.picture("map")) > 100


def test_a_real_dicom_slice_gets_a_map(reading_room: Page, shared_data: Path) -> None:
    drop(reading_room, sorted((shared_data / "lungpetctdx" / "Lung_Dx-A0002").glob("*.dcm"))[15])
    answered(reading_room)
    Viewer(reading_room).with_map()
    expect(reading_room.get_by_text("SIEMENS")).to_have_count(1)


def test_both_images_are_whole_on_a_small_laptop(reading_room: Page) -> None:
    drop(reading_room, ("series.zip", stack(3)))
    answered(reading_room)
    viewer = Viewer(reading_room).with_map()
    for kind in ("ct", "map"):
        box = viewer.pane(kind).bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 768
        assert min(box["width"], box["height"]) >= 400


def test_a_png_says_that_it_has_no_hounsfield_units(reading_room: Page) -> None:
    drop(reading_room, ("slice.png", png()))
    answered(reading_room)
    expect(reading_room.get_by_text("This image has no Hounsfield units")).to_be_visible()
    expect(Viewer(reading_room).ready().root).not_to_contain_text("HU")


def test_a_broken_file_is_named_and_stops_no_other(reading_room: Page) -> None:
    drop(reading_room, ("good.dcm", ct(0.5)), ("broken.dcm", ct(0.5)[:900]), ("<b>notes</b>.txt", b"hello"))
    answered(reading_room)
    listed = reading_room.locator(".ipf-list")
    expect(listed).to_contain_text("broken.dcm")
    expect(listed).to_contain_text("<b>notes</b>.txt")
    expect(reading_room.get_by_text("2 files not read", exact=True)).to_be_visible()


def test_a_coronal_slice_is_refused_in_words(reading_room: Page, shared_data: Path) -> None:
    drop(reading_room, min((shared_data / "planes" / "A002304" / "coronal").glob("*")))
    expect(reading_room.get_by_text("Nothing here could be read")).to_be_visible()
    expect(reading_room.locator(".ipf-list")).to_contain_text(re.compile("coronal|axial", re.IGNORECASE))


def test_a_series_can_be_cancelled_resumed_and_walked_through(reading_room: Page) -> None:
    drop(reading_room, ("series.zip", stack(16)))
    reading_room.locator(".st-key-cancel button").click()
    resume = reading_room.get_by_role("button", name=re.compile("Read the other"))
    resume.wait_for()
    stopped = reading_room.get_by_text(re.compile(r"\d+ of 16 slices read")).inner_text()
    reading_room.wait_for_timeout(1500)
    assert reading_room.get_by_text(re.compile(r"\d+ of 16 slices read")).inner_text() == stopped
    resume.click()
    reading_room.get_by_text(COUNTS).wait_for(timeout=120_000)
    viewer = Viewer(reading_room).ready()
    before = viewer.picture("ct")
    viewer.root.get_by_role("slider", name="Slice").press("ArrowDown")
    viewer.on_slice(9)
    assert (viewer.picture("ct") != before).any()
    expect(reading_room.locator(".ipf-word")).to_contain_text("Slice 10 of 16 at 90.0 mm")


WATCH = """
() => {
  window.fewest = 1;
  const look = () => {
    const all = [...document.querySelectorAll(".stBidiComponent")];
    window.fewest = Math.min(window.fewest, all.filter((one) => one.checkVisibility({ visibilityProperty: true })).length);
    requestAnimationFrame(look);
  };
  look();
}
"""


def test_the_viewer_never_blinks_while_a_series_is_read_and_walked_through(reading_room: Page) -> None:
    drop(reading_room, ("series.zip", stack(16)))
    viewer = Viewer(reading_room).ready()
    reading_room.evaluate(WATCH)
    for index in (9, 10, 11):
        viewer.root.get_by_role("slider", name="Slice").press("ArrowDown")
        viewer.on_slice(index)
        expect(reading_room.locator(".ipf-word")).to_contain_text(f"Slice {index + 1} of 16")
    reading_room.get_by_text(COUNTS).wait_for(timeout=120_000)
    assert viewer.state["slice"] == 11
    assert reading_room.evaluate("window.fewest") == 1


def test_the_slice_that_looks_most_like_ipf_is_one_click_away(reading_room: Page) -> None:
    drop(reading_room, ("series.zip", stack(6)))
    button = reading_room.get_by_role("button", name=re.compile("Go to the highest"))
    button.wait_for(timeout=120_000)
    viewer = Viewer(reading_room).ready(6)
    highest = int(button.inner_text().rpartition(" ")[2])
    viewer.root.get_by_role("slider", name="Slice").press("Home" if highest > 1 else "End")
    viewer.on_slice(0 if highest > 1 else 5)
    expect(reading_room.locator(".ipf-word")).to_contain_text(f"Slice {1 if highest > 1 else 6} of 6")
    button.click()
    viewer.on_slice(highest - 1)
    expect(reading_room.locator(".ipf-word")).to_contain_text(f"Slice {highest} of 6")


def _saved(room: Page, button: str) -> tuple[str, bytes]:
    with room.expect_download() as waiting:
        room.get_by_role("button", name=button).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


@pytest.mark.parametrize("secret", ["DOE_JOHN_19500101.dcm"])
def test_downloads_are_of_this_slice_and_name_nobody(reading_room: Page, secret: str) -> None:
    drop(reading_room, (secret, ct(0.5)))
    answered(reading_room)
    viewer = Viewer(reading_room).with_map()
    name, content = _saved(reading_room, "Overlay in the lung window (PNG)")
    assert re.fullmatch(r"ipfvision_[0-9a-f]{12}_ipf_gradcam\.png", name)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(decoded.astype(int) - viewer.picture("map")).max() <= 1
    name, content = _saved(reading_room, "Result (JSON)")
    assert re.fullmatch(r"ipfvision_[0-9a-f]{12}_ipf_gradcam\.json", name)
    (entry,) = json.loads(content)["slices"]
    assert entry["scale"] == "hounsfield"
    assert b"DOE" not in content


def test_closing_forgets_what_was_open(reading_room: Page) -> None:
    drop(reading_room, ("a.dcm", ct(0.5)))
    answered(reading_room)
    viewer = Viewer(reading_room).ready()
    reading_room.get_by_role("button", name="Close and forget").click()
    expect(reading_room.get_by_role("heading", name=re.compile("How much does a slice"))).to_be_visible()
    expect(viewer.root).to_have_count(0)


NAMELESS = """
() => {
  const all = (root) => [...root.querySelectorAll("*")].flatMap((one) => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])]);
  return all(document)
    .filter((one) => one.matches("button, input, select, textarea, [role=slider], [role=combobox]"))
    .filter((one) => one.checkVisibility({ visibilityProperty: true }) && one.tabIndex >= 0)
    .filter((one) => !(one.innerText || one.ariaLabel || one.getAttribute("aria-labelledby") || one.title))
    .filter((one) => !one.labels?.length)
    .map((one) => one.outerHTML.slice(0, 160));
}
"""


def test_every_control_that_the_keyboard_reaches_has_a_name(reading_room: Page) -> None:
    drop(reading_room, ("a.dcm", ct(0.5)))
    answered(reading_room)
    Viewer(reading_room).ready()
    settled(reading_room)
    assert reading_room.evaluate(NAMELESS) == []


LEVEL_AA = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}


def test_axe_finds_nothing_against_wcag_at_level_aa(reading_room: Page) -> None:
    start = Axe().run(reading_room, options=LEVEL_AA)
    reading_room.locator(".st-key-sample-02_honeycombing button").click()
    answered(reading_room)
    Viewer(reading_room).with_map()
    settled(reading_room)
    reading = Axe().run(reading_room, options=LEVEL_AA)
    for found in (start, reading):
        assert found.violations_count == 0, found.generate_report()
    # It looked into the viewer too.
    assert any(".ipf-viewer" in str(node["target"]) for rule in reading.response["passes"] for node in rule["nodes"])
