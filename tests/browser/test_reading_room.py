"""A radiologist's way through the page, in a real browser."""

import base64
import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import FilePayload, Page, expect

from ipfvision.core.slice import Plane, Scale, Slice, Source
from ipfvision.dicom.writing import write_ct
from ipfvision.synthetic.thorax import draw_thorax

pytestmark = [
    pytest.mark.browser,
    # One server and one browser for the whole file.
    pytest.mark.xdist_group("browser"),
    # pytest-base-url, which pytest-playwright brings, writes its fixture in a way that pytest 10 will not take.
    pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods:pytest.PytestRemovedIn10Warning"),
]

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

READ_BACK = """
(image) => {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const bytes = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return [canvas.height, canvas.width, btoa(text)];
}
"""


def ct(level: float, position_mm: float = 0.0, seed: int = 5) -> bytes:
    """A drawn slice as DICOM."""
    drawn = draw_thorax(np.random.default_rng(seed), level=level, size=256, spacing_mm=1.4)
    plane = Plane((-180.0, -180.0, position_mm), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    nowhere = np.zeros(drawn.pixels.shape, bool)
    number = 1 + round(position_mm)
    source = Source("", "DICOM", "", series_instance_uid="1.2.826.0.1.3680043.8.498.1", instance_number=number)
    scan = Slice(drawn.pixels, Scale.HOUNSFIELD, source, nowhere, drawn.spacing, plane, thickness_mm=1.0)
    return write_ct(scan, uid_seed="browser test")


def stack(count: int) -> bytes:
    """A .zip of a drawn series."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}", ct(0.4 + 0.3 * number / count, 10.0 * number))
    return packed.getvalue()


def png(level: float = 0.5) -> bytes:
    drawn = draw_thorax(np.random.default_rng(5), level=level, size=256, spacing_mm=1.4)
    grey = np.clip((drawn.pixels.astype(np.float32) + 1350) / 1500 * 255, 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".png", grey)[1])


def drop(room: Page, *files: tuple[str, bytes] | Path) -> None:
    """Give files to the uploader."""
    payloads: list[FilePayload] = [
        {"name": file.name, "mimeType": "", "buffer": file.read_bytes()}
        if isinstance(file, Path)
        else {"name": file[0], "mimeType": "", "buffer": file[1]}
        for file in files
    ]
    room.locator('input[type="file"]').set_input_files(payloads)


def answered(room: Page, words: Sequence[str] = ("IPF-like", "Normal-like", "Uncertain")) -> str:
    """Wait for the answer; its word."""
    word = room.locator(".ipf-word", has_text=re.compile("|".join(words)))
    word.wait_for()
    return next(one for one in words if one in word.inner_text())


def settled(room: Page) -> None:
    """Wait until the script run that is under way has drawn everything."""
    expect(room.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def pixels(room: Page, pane: str) -> Pixels:
    """(H, W, 3): what the browser really draws in a pane."""
    image = room.locator(f'[data-pane="{pane}"] .picture img').first
    image.wait_for()
    expect(image).to_have_js_property("complete", True)
    height, width, content = image.evaluate(READ_BACK)
    return np.frombuffer(base64.b64decode(content), np.uint8).reshape(height, width, 4)[:, :, :3]


def drawn(room: Page, pane: str, as_wanted: Callable[[Pixels], bool]) -> Pixels:
    """A pane's pixels as soon as they are as wanted, or what they are after ten seconds."""
    for _ in range(50):
        if as_wanted(picture := pixels(room, pane)):
            break
        room.wait_for_timeout(200)
    return picture


def colored(picture: Pixels) -> int:
    """How many pixels are not grey."""
    return int((picture.max(axis=2) != picture.min(axis=2)).sum())


def find_colors(room: Page) -> Pixels:
    """The overlay, for the class that has any evidence, and up to the slice's own peak, so that a weak map is seen too."""
    settled(room)
    caption, legend = room.locator('[data-pane="overlay"] figcaption'), room.locator(".ipf-legend")
    if "Empty" in caption.inner_text():
        room.get_by_role("radio", name="normal lung").or_(room.get_by_role("button", name="normal lung")).first.click()
        expect(caption).to_contain_text("evidence for normal lung")
    before = legend.inner_text()
    room.get_by_role("combobox", name=re.compile("^Full color at")).or_(room.locator(".st-key-scale input")).first.click()
    room.get_by_role("option", name="this slice's own peak").click()
    room.get_by_text("hides magnitude").wait_for()
    expect(legend).not_to_have_text(before)
    settled(room)
    return drawn(room, "overlay", lambda picture: colored(picture) > 100)


def test_the_empty_page_says_what_to_do(reading_room: Page) -> None:
    expect(reading_room.get_by_role("heading", name=re.compile("How much does a slice look like IPF"))).to_be_visible()
    expect(reading_room.get_by_text("Not a medical device")).to_be_visible()
    expect(reading_room.locator(".ipf-banner")).to_contain_text(re.compile(r"Model: \w+"))


def test_a_sample_is_one_click_away(reading_room: Page) -> None:
    reading_room.locator('[class*="st-key-sample-"] button').first.click()
    answered(reading_room)
    assert colored(pixels(reading_room, "slice")) == 0
    assert colored(find_colors(reading_room)) > 100


def test_a_dicom_slice_gets_a_map_that_leaves_the_rest_of_the_scan_alone(reading_room: Page) -> None:
    drop(reading_room, ("IM0001", ct(0.5)))
    answered(reading_room)
    overlay, scan = find_colors(reading_room), pixels(reading_room, "slice")
    assert overlay.shape == scan.shape == (256, 256, 3)
    assert colored(scan) == 0
    assert colored(overlay) > 100
    untouched = overlay.max(axis=2) == overlay.min(axis=2)
    np.testing.assert_array_equal(overlay[untouched], scan[untouched])


def test_a_real_dicom_slice_gets_a_map(reading_room: Page, shared_data: Path) -> None:
    drop(reading_room, sorted((shared_data / "lungpetctdx" / "Lung_Dx-A0002").glob("*.dcm"))[15])
    answered(reading_room)
    assert colored(find_colors(reading_room)) > 100
    expect(reading_room.get_by_text("SIEMENS")).to_have_count(1)


def test_both_images_are_whole_on_a_small_laptop(reading_room: Page) -> None:
    drop(reading_room, ("series.zip", stack(3)))
    answered(reading_room)
    for pane in ("slice", "overlay"):
        box = reading_room.locator(f'[data-pane="{pane}"] .picture').bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 768
        assert box["width"] == pytest.approx(box["height"], abs=1)
        assert box["width"] >= 380


def test_a_png_says_that_it_has_no_hounsfield_units(reading_room: Page) -> None:
    drop(reading_room, ("slice.png", png()))
    answered(reading_room)
    expect(reading_room.get_by_text("This image has no Hounsfield units").first).to_be_visible()
    before = pixels(reading_room, "slice")
    reading_room.get_by_role("slider", name="Brightness").press("ArrowRight")
    expect(reading_room.locator('[data-pane="slice"] figcaption')).to_contain_text("Brightness +5")
    assert pixels(reading_room, "slice").mean() > before.mean()


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
    reading_room.get_by_text("Counts of slices, not an answer for the patient.").wait_for(timeout=120_000)
    slider = reading_room.get_by_role("slider", name="Slice")
    before = pixels(reading_room, "slice")
    slider.press("ArrowRight")
    expect(reading_room.locator(".ipf-word")).to_contain_text("Slice 10 of 16 at 90.0 mm")
    after = drawn(reading_room, "slice", lambda picture: bool((picture != before).any()))
    assert (after != before).any()


WATCH_PANES = """
() => {
  window.fewestPanes = 2;
  const look = () => {
    window.fewestPanes = Math.min(window.fewestPanes, document.querySelectorAll(".ipf-panes figure").length);
    requestAnimationFrame(look);
  };
  look();
}
"""


def test_the_images_never_blink_while_a_series_is_walked_through(reading_room: Page) -> None:
    drop(reading_room, ("series.zip", stack(3)))
    reading_room.get_by_text("Counts of slices, not an answer for the patient.").wait_for(timeout=120_000)
    settled(reading_room)
    reading_room.evaluate(WATCH_PANES)
    for key, number in (("ArrowRight", 3), ("ArrowLeft", 2), ("ArrowLeft", 1)):
        reading_room.get_by_role("slider", name="Slice").press(key)
        expect(reading_room.locator(".ipf-word")).to_contain_text(f"Slice {number} of 3")
        settled(reading_room)
    assert reading_room.evaluate("window.fewestPanes") == 2


def test_the_slider_moves_while_the_series_is_still_being_read(reading_room: Page) -> None:
    drop(reading_room, ("series.zip", stack(16)))
    reading_room.locator(".st-key-cancel button").wait_for()
    reading_room.get_by_role("slider", name="Slice").press("Home")
    expect(reading_room.locator(".ipf-word")).to_contain_text("Slice 1 of 16")
    reading_room.get_by_text("Counts of slices, not an answer for the patient.").wait_for(timeout=120_000)


def _saved(room: Page, button: str) -> tuple[str, bytes]:
    with room.expect_download() as waiting:
        room.get_by_role("button", name=button).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


@pytest.mark.parametrize("secret", ["DOE_JOHN_19500101.dcm"])
def test_downloads_are_what_is_on_screen_and_name_nobody(reading_room: Page, secret: str) -> None:
    drop(reading_room, (secret, ct(0.5)))
    answered(reading_room)
    shown = find_colors(reading_room)
    name, content = _saved(reading_room, "Overlay (PNG)")
    assert re.fullmatch(r"ipfvision_[0-9a-f]{12}_(ipf|normal)_gradcam\.png", name)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decoded, shown)
    name, content = _saved(reading_room, "Result (JSON)")
    assert re.fullmatch(r"ipfvision_[0-9a-f]{12}_(ipf|normal)_gradcam\.json", name)
    (entry,) = json.loads(content)["slices"]
    assert entry["scale"] == "hounsfield"
    assert b"DOE" not in content


def test_closing_forgets_what_was_open(reading_room: Page) -> None:
    drop(reading_room, ("a.dcm", ct(0.5)))
    answered(reading_room)
    reading_room.get_by_role("button", name="Close and forget").click()
    expect(reading_room.get_by_role("heading", name=re.compile("How much does a slice"))).to_be_visible()
    expect(reading_room.locator(".ipf-panes")).to_have_count(0)


NAMELESS = """
() => [...document.querySelectorAll("button, input, [role=slider], [role=combobox]")]
  .filter((one) => one.checkVisibility({ visibilityProperty: true }) && one.tabIndex >= 0)
  .filter((one) => !(one.innerText || one.ariaLabel || one.getAttribute("aria-labelledby") || one.title || one.labels?.length))
  .map((one) => one.outerHTML.slice(0, 160))
"""


def test_every_control_that_the_keyboard_reaches_has_a_name(reading_room: Page) -> None:
    drop(reading_room, ("a.dcm", ct(0.5)))
    answered(reading_room)
    settled(reading_room)
    assert reading_room.evaluate(NAMELESS) == []
