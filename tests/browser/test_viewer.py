"""The viewer in a real browser, against what Python says the picture is."""

import re
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import start_app
from driving import (
    COUNTS,
    SHAPE,
    Connection,
    Viewer,
    Wire,
    answered,
    colored,
    ct,
    drop,
    png,
    settled,
    stack,
    stack_files,
    until,
)
from playwright.sync_api import Browser, Page, expect

from ipfvision.core.findings import Explanation
from ipfvision.core.geometry import Crop
from ipfvision.core.overlay import display_grey, overlay
from ipfvision.core.window import LUNG, MEDIASTINUM, Window
from ipfvision.workflow.intake import Upload, take_in

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods:pytest.PytestRemovedIn10Warning"),
]

FINDING = "honeycombing"
SAMPLE_SHAPE = (320, 320)


def grey(content: bytes, window: Window = LUNG) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W): a file as core shows it."""
    return display_grey(take_in([Upload("x", content)]).series[0].slices[0], window)


@pytest.fixture
def wire(reading_room: Page) -> Wire:
    return Wire(reading_room)


def open_slice(room: Page, content: bytes = b"") -> Viewer:
    drop(room, ("IM1", content or ct(0.5)))
    answered(room)
    return Viewer(room).with_map()


def open_series(room: Page, count: int) -> Viewer:
    drop(room, ("series.zip", stack(count)))
    return Viewer(room).ready(count)


def choose_method(room: Page, name: str) -> None:
    room.get_by_role("combobox", name=re.compile("^Method")).or_(room.locator(".st-key-method input")).first.click()
    room.get_by_role("option", name=name, exact=True).click()


def drag(room: Page, start: tuple[float, float], *path: tuple[float, float], button: Any = "left") -> None:
    """Press at a place, move by each step, let go."""
    x, y = start
    room.mouse.move(x, y)
    room.mouse.down(button=button)
    for dx, dy in path:
        x, y = x + dx, y + dy
        room.mouse.move(x, y, steps=4)
    room.mouse.up(button=button)


def same_on_both(viewer: Viewer) -> bool:
    """Where the heat map's pane is grey it shows what the CT's pane shows, at this zoom and place."""
    left, right = viewer.canvas("ct").astype(int), viewer.canvas("map").astype(int)
    # Smoothing mixes what lies side by side, and a mix of colors can be grey.
    colors = (right.max(axis=2) != right.min(axis=2)).astype(np.uint8)
    plain = cv2.dilate(colors, np.ones((9, 9), np.uint8)) == 0
    return left.shape == right.shape and plain.mean() > 0.2 and bool((left[plain] == right[plain]).all())


def test_the_wheel_scrolls_all_panes_and_the_answer_follows(reading_room: Page) -> None:
    files = stack_files(6)
    viewer = open_series(reading_room, 6)
    reading_room.get_by_text(COUNTS).wait_for()
    reading_room.mouse.move(*viewer.center("map"))
    for turns, index in ((-120, 2), (-120, 1), (120, 2), (120, 3), (120, 4)):
        reading_room.mouse.wheel(0, turns)
        viewer.on_slice(index)
        np.testing.assert_array_equal(viewer.picture("ct")[:, :, 0], grey(files[index]))
    expect(reading_room.locator(".ipf-word")).to_contain_text("Slice 5 of 6 at 40.0 mm")
    viewer.with_map()
    assert same_on_both(viewer)


def test_the_window_is_the_one_of_core_and_the_same_in_both_panes(reading_room: Page) -> None:
    content = ct(0.5)
    viewer = open_slice(reading_room, content)
    np.testing.assert_array_equal(viewer.picture("ct"), np.repeat(grey(content)[:, :, None], 3, axis=2))
    viewer.press("2")
    until(reading_room, "(viewer) => viewer.state.windows.hounsfield.center === 40")
    reading_room.wait_for_timeout(100)
    np.testing.assert_array_equal(viewer.picture("ct")[:, :, 0], grey(content, MEDIASTINUM))
    drag(reading_room, viewer.center("map"), (60, 0), (0, -35), button="right")
    reading_room.wait_for_timeout(100)
    window = viewer.window
    assert window.width > 400
    assert window.center != 40
    np.testing.assert_array_equal(viewer.picture("ct")[:, :, 0], grey(content, window))
    assert same_on_both(viewer)


def test_zoom_and_pan_are_linked_and_a_double_click_fits(reading_room: Page) -> None:
    viewer = open_slice(reading_room)
    before = viewer.canvas("ct")
    x, y = viewer.center("ct")
    reading_room.mouse.move(x + 40, y + 30)
    reading_room.keyboard.down("Control")
    for _ in range(4):
        reading_room.mouse.wheel(0, -120)
    reading_room.keyboard.up("Control")
    until(reading_room, "(viewer) => viewer.state.view.zoom > 1.5")
    drag(reading_room, viewer.center("map"), (50, 40))
    reading_room.wait_for_timeout(200)
    assert same_on_both(viewer)
    assert (viewer.canvas("ct") != before).mean() > 0.2
    reading_room.mouse.dblclick(*viewer.center("ct"))
    until(reading_room, "(viewer) => viewer.state.view.zoom === 1")
    reading_room.wait_for_timeout(200)
    np.testing.assert_array_equal(viewer.canvas("ct"), before)


def explanation(found: dict[str, Any], target: str) -> Explanation:
    """A map of the wire as core has it."""
    one = found["maps"][target]
    cells = np.array(one["values"], np.float32).reshape(one["shape"])
    return Explanation(cells, Crop(*one["crop"], (96, 128), SHAPE), target, "gradcam", "layer4", found["unit"])


def test_the_overlay_is_cores_picture_and_leaves_the_rest_of_the_ct_alone(reading_room: Page, wire: Wire) -> None:
    content = ct(0.5)
    viewer = open_slice(reading_room, content)
    found = wire.get(0, "maps?method=gradcam")
    scan = grey(content)
    for target in ("ipf", "normal"):
        shown, scale = explanation(found, target), found["maps"][target]["full_scale"]
        if viewer.state["target"] != target:
            viewer.press("t")
            until(reading_room, "(viewer, target) => viewer.state.target === target", target)
            reading_room.wait_for_timeout(200)
        wanted, got = overlay(scan, shown.heatmap(), scale), viewer.picture("map")
        assert np.abs(wanted.astype(int) - got).max() <= 1
        untouched = shown.heatmap() == 0
        np.testing.assert_array_equal(got[untouched], np.repeat(scan[untouched][:, None], 3, axis=1))
        assert same_on_both(viewer)
    assert any(colored(overlay(scan, explanation(found, target).heatmap(), 1.0)) > 100 for target in ("ipf", "normal"))


def test_holding_h_hides_everything_over_the_ct(reading_room: Page) -> None:
    reading_room.locator(".st-key-sample-02_honeycombing button").click()
    answered(reading_room)
    viewer = Viewer(reading_room).with_map()
    viewer.press("v")
    assert colored(viewer.canvas("map")) > 100
    reading_room.keyboard.down("h")
    reading_room.wait_for_timeout(200)
    np.testing.assert_array_equal(viewer.canvas("map"), viewer.canvas("ct"))
    reading_room.keyboard.up("h")
    reading_room.wait_for_timeout(200)
    assert colored(viewer.canvas("map")) > 100


def test_a_drawn_mask_arrives_in_python_pixel_for_pixel(reading_room: Page, wire: Wire) -> None:
    viewer = open_slice(reading_room)
    viewer.press("b")
    drag(reading_room, viewer.center("ct"), (60, 20), (-10, 50))
    viewer.saved()
    brushed = viewer.mask(FINDING)
    assert brushed.sum() > 100
    np.testing.assert_array_equal(wire.drawn(0, FINDING), brushed)
    viewer.press("p")
    drag(reading_room, viewer.center("map"), (-90, 0), (0, 70), (90, 0))
    viewer.press("e")
    drag(reading_room, viewer.center("map"), (-40, 30))
    viewer.saved()
    mended = viewer.mask(FINDING)
    assert (mended & ~brushed).sum() > 500
    np.testing.assert_array_equal(wire.drawn(0, FINDING), mended)
    viewer.press("Shift+Digit5")
    viewer.press("g")
    reading_room.mouse.click(*viewer.place("ct", 60, 8))  # air beside the patient
    viewer.saved()
    grown = viewer.mask("ground glass")
    assert grown.sum() > 100
    np.testing.assert_array_equal(wire.drawn(0, "ground glass"), grown)
    viewer.press("z")
    viewer.saved()
    assert not wire.drawn(0, "ground glass").any()
    np.testing.assert_array_equal(wire.drawn(0, FINDING), mended)


def test_a_drawing_outlives_reruns_and_a_scroll_away_and_back(reading_room: Page, wire: Wire) -> None:
    viewer = open_series(reading_room, 3)
    reading_room.get_by_text(COUNTS).wait_for()
    viewer.press("b")
    drag(reading_room, viewer.center("ct"), (40, 10))
    viewer.saved()
    kept = viewer.mask(FINDING)
    assert kept.any()
    viewer.press("ArrowDown")
    viewer.on_slice(2)
    assert not viewer.mask(FINDING).any()
    choose_method(reading_room, "HiResCAM")
    settled(reading_room)
    viewer.press("ArrowUp")
    viewer.on_slice(1)
    np.testing.assert_array_equal(viewer.mask(FINDING), kept)
    np.testing.assert_array_equal(wire.drawn(1, FINDING), kept)


def test_a_lost_connection_loses_no_drawing(reading_room: Page, wire: Wire) -> None:
    viewer = open_slice(reading_room)
    context = reading_room.context
    viewer.press("b")
    context.set_offline(True)
    drag(reading_room, viewer.center("ct"), (60, 20))
    until(reading_room, '(viewer) => viewer.saving === "waiting"')
    drag(reading_room, viewer.center("ct"), (-60, 40))
    drawn = viewer.mask(FINDING)
    context.set_offline(False)
    viewer.saved()
    np.testing.assert_array_equal(viewer.mask(FINDING), drawn)
    np.testing.assert_array_equal(wire.drawn(0, FINDING), drawn)


def test_a_dropped_session_comes_back_with_its_scan_and_its_drawing(reading_room: Page, wire: Wire) -> None:
    connection = Connection(reading_room)
    viewer = open_slice(reading_room)
    viewer.press("b")
    drag(reading_room, viewer.center("ct"), (60, 20))
    viewer.saved()
    before = wire.base
    connection.cut()
    drag(reading_room, viewer.center("ct"), (-60, 40))
    viewer.saved()
    connection.restored(2)
    reading_room.wait_for_timeout(1000)  # the viewer may be mounted anew
    drawn = viewer.saved().ready().mask(FINDING)
    choose_method(reading_room, "HiResCAM")
    expect(viewer.pane("map").locator(".legend")).to_contain_text("HiResCAM")
    np.testing.assert_array_equal(viewer.saved().ready().mask(FINDING), drawn)
    np.testing.assert_array_equal(wire.drawn(0, FINDING), drawn)
    assert wire.base == before
    assert len(connection.sockets) == 2


@pytest.mark.parametrize("messages", [0, 1, 5, 15])
def test_a_script_run_that_the_page_never_saw_the_end_of_loses_nothing(reading_room: Page, wire: Wire, messages: int) -> None:
    """With 0 messages the page does not even know that a run began: the one case in which Streamlit asks for none by itself."""
    connection = Connection(reading_room)
    reading_room.locator(".st-key-sample-02_honeycombing button").click()
    answered(reading_room)
    viewer = Viewer(reading_room).with_map()
    cards, answer = reading_room.locator(".ipf-card strong"), reading_room.locator(".ipf-word").inner_text()
    expect(cards).to_have_count(3)
    viewer.press("b")
    drag(reading_room, viewer.center("ct"), (60, 20))
    viewer.saved()
    reading_room.wait_for_timeout(1000)  # the script run that follows a drawing has begun
    settled(reading_room)
    drawn, before, annotated = viewer.mask(FINDING, SAMPLE_SHAPE), wire.base, wire.get(0, "annotations")
    assert drawn.any()
    assert annotated
    connection.lose_all_but(messages)
    choose_method(reading_room, "HiResCAM")
    reading_room.wait_for_timeout(500)
    connection.cut()
    connection.restored(2)
    expect(viewer.pane("map").locator(".legend")).to_contain_text("HiResCAM")
    settled(reading_room)
    expect(cards).to_have_count(3)
    assert reading_room.locator(".ipf-word").inner_text() == answer
    np.testing.assert_array_equal(viewer.saved().ready().mask(FINDING, SAMPLE_SHAPE), drawn)
    np.testing.assert_array_equal(wire.drawn(0, FINDING, SAMPLE_SHAPE), drawn)
    assert wire.base == before
    assert wire.get(0, "annotations") == annotated


def test_another_session_cannot_fetch_what_this_one_opened(
    reading_room: Page, wire: Wire, browser: Browser, address: str
) -> None:
    open_slice(reading_room)
    mine = wire.base
    stranger = browser.new_page()
    stranger.goto(address)
    theirs = Wire(stranger)
    stranger.get_by_text("Research use only").wait_for()
    drop(stranger, ("other", ct(0.6)))
    Viewer(stranger).ready()
    assert theirs.base.split("/")[-2] != mine.split("/")[-2]
    crossed = "/".join([*theirs.base.split("/")[:-1], mine.split("/")[-1]])
    for what in ("pixels", "maps", "annotations", "drawing"):
        answer = stranger.request.get(f"{crossed}/0/{what}")
        assert (answer.status, answer.body()) == (404, b"")
        assert stranger.request.get(f"{mine}/0/{what}").status in {200, 204}  # the token alone is the key
    stranger.close()


def test_pixels_are_gone_soon_after_the_tab_is_closed(browser: Browser, tmp_path: Path) -> None:
    process, where = start_app(tmp_path / "log", "--server.disconnectedSessionTTL=1")
    try:
        page = browser.new_page()
        page.goto(where)
        wire = Wire(page)
        page.get_by_text("Research use only").wait_for(timeout=60_000)
        drop(page, ("IM1", ct(0.5)))
        Viewer(page).ready()
        asking = browser.new_page()
        assert asking.request.get(f"{wire.base}/0/pixels").status == 200
        page.close()
        until_then = time.monotonic() + 30
        while asking.request.get(f"{wire.base}/0/pixels").status == 200 and time.monotonic() < until_then:
            asking.wait_for_timeout(250)
        assert asking.request.get(f"{wire.base}/0/pixels").status == 404
        asking.close()
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_the_viewer_works_below_a_base_path(browser: Browser, tmp_path: Path) -> None:
    process, where = start_app(tmp_path / "log", "--server.baseUrlPath=lung/ct")
    try:
        page = browser.new_page()
        page.goto(f"{where}/lung/ct/")
        page.get_by_text("Research use only").wait_for(timeout=60_000)
        drop(page, ("IM1", ct(0.5)))
        viewer = Viewer(page).ready()
        np.testing.assert_array_equal(viewer.picture("ct")[:, :, 0], grey(ct(0.5)))
        page.close()
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_a_series_can_be_read_with_the_keyboard_alone(reading_room: Page, wire: Wire) -> None:
    viewer = open_series(reading_room, 6)
    reading_room.get_by_text(COUNTS).wait_for()
    press = reading_room.keyboard.press
    for _ in range(60):
        press("Tab")
        if reading_room.evaluate(FOCUSED) == "stage":
            break
    assert reading_room.evaluate(FOCUSED) == "stage"
    press("Home")
    viewer.on_slice(0)
    press("ArrowDown")
    press("PageDown")
    viewer.on_slice(5)
    press("j")
    highest = int(reading_room.get_by_role("button", name=re.compile("Go to the highest")).inner_text().rpartition(" ")[2]) - 1
    viewer.on_slice(highest)
    expect(reading_room.locator(".ipf-word")).to_contain_text(f"Slice {highest + 1} of 6")
    press("2")
    until(reading_room, "(viewer) => viewer.state.windows.hounsfield.center === 40")
    press("t")
    press("+")
    until(reading_room, '(viewer) => viewer.state.target === "normal" && viewer.state.view.zoom > 1')
    press("0")
    press("b")
    press("k")
    press("Enter")
    for _ in range(5):
        press("Shift+ArrowRight")
    press("Enter")
    viewer.saved()
    drawn = viewer.mask(FINDING)
    assert drawn.sum() > 100
    np.testing.assert_array_equal(wire.drawn(highest, FINDING), drawn)


FOCUSED = """
() => {
  let active = document.activeElement;
  while (active?.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
  return active?.className ?? "";
}
"""


def test_a_png_is_shown_as_it_came(reading_room: Page) -> None:
    content = png()
    drop(reading_room, ("a.png", content))
    answered(reading_room)
    viewer = Viewer(reading_room).ready()
    np.testing.assert_array_equal(viewer.picture("ct")[:, :, 0], grey(content))


def test_a_real_series_is_drawn_as_core_draws_it(reading_room: Page, shared_data: Path) -> None:
    files = sorted((shared_data / "lungpetctdx" / "Lung_Dx-A0002").glob("*.dcm"))[12:18]
    drop(reading_room, *files)
    viewer = Viewer(reading_room).ready(len(files))
    series = take_in([Upload(file.name, file.read_bytes()) for file in files]).series[0]
    for index, scan in enumerate(series.slices):
        viewer.press("Home")
        for _ in range(index):
            viewer.press("ArrowDown")
        viewer.on_slice(index)
        np.testing.assert_array_equal(viewer.picture("ct")[:, :, 0], display_grey(scan, LUNG))


@pytest.mark.parametrize("size", [(1366, 768), (1920, 1080), (3840, 2160)])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_fits_its_screen(reading_room: Page, size: tuple[int, int], scheme: Any, tmp_path: Path) -> None:
    reading_room.emulate_media(color_scheme=scheme)
    reading_room.set_viewport_size({"width": size[0], "height": size[1]})
    viewer = open_series(reading_room, 6)
    reading_room.get_by_text(COUNTS).wait_for()
    viewer.with_map()
    box = viewer.root.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= size[1] + 1
    assert box["y"] + box["height"] >= size[1] - 40
    assert box["x"] + box["width"] <= size[0]
    assert reading_room.evaluate("document.documentElement.scrollWidth <= innerWidth")
    reading_room.screenshot(path=tmp_path / f"{size[0]}-{scheme}.png")
