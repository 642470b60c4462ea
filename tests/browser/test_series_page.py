"""A long series in a real browser: the first answer at once, the rest while one looks around, and nothing twice."""

import re
import time
from collections.abc import Callable

import pytest
from driving import Viewer, answered, drop, stack
from playwright.sync_api import Page, expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods:pytest.PytestRemovedIn10Warning"),
]

COUNT = 48
PROGRESS = re.compile(rf"(\d+) of {COUNT} slices read")

FILLED = """
(slider, count) => {
  const canvas = slider.querySelector("canvas"), step = canvas.height / count, ratio = globalThis.devicePixelRatio || 1;
  const column = canvas.getContext("2d").getImageData(Math.round(7 * ratio), 0, 1, canvas.height).data;
  return Array.from({ length: count }, (_, slice) => column[4 * Math.floor((slice + 0.4) * step) + 3] > 200)
    .flatMap((filled, slice) => (filled ? [slice] : []));
}
"""
"""Which slices of the bar beside the images show an answer."""


def wait_for(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def test_a_series_is_looked_at_while_it_is_read(reading_room: Page) -> None:
    drop(reading_room, ("series.zip", stack(COUNT)))
    answered(reading_room)
    viewer = Viewer(reading_room).ready()
    slider = viewer.root.get_by_role("slider", name="Slice")
    progress = reading_room.get_by_text(PROGRESS)

    def done() -> int:
        found = PROGRESS.search(progress.inner_text())
        assert found is not None
        return int(found[1])

    def filled() -> set[int]:
        return set(slider.evaluate(FILLED, COUNT))

    # The slice on screen is answered, and its series is far from through.
    expect(reading_room.locator(".ipf-word")).to_contain_text(f"Slice {COUNT // 2 + 1} of {COUNT}")
    first = done()
    assert first < COUNT // 2
    # The profile fills, and the first slices come first.
    wait_for(lambda: len(filled()) >= 4)
    some = filled()
    assert {0, 1, 2} <= some
    assert len(some) < COUNT
    # Neither scrolling nor a click begins again or loses anything; the slice on screen is answered before those in between.
    before = done()
    slider.press("End")
    viewer.on_slice(COUNT - 1)
    expect(reading_room.locator(".ipf-word")).to_contain_text(f"Slice {COUNT} of {COUNT}")
    answered(reading_room)
    assert before <= done() < COUNT
    reading_room.locator(".st-key-cancel button").click()
    resume = reading_room.get_by_role("button", name=re.compile("Read the other"))
    resume.wait_for()
    stopped = done()
    assert before < stopped < COUNT
    slider.press("ArrowUp")
    expect(reading_room.locator(".ipf-word")).to_contain_text(f"Slice {COUNT - 1} of {COUNT}")
    answered(reading_room)
    # Only the slice that was looked at.
    expect(progress).to_have_text(f"{stopped + 1} of {COUNT} slices read")
    assert some | {COUNT - 1} <= filled()
    resume.click()
    wait_for(lambda: done() > stopped + 2)
    reading_room.get_by_role("button", name="Close and forget").click()
    expect(reading_room.get_by_role("heading", name=re.compile("How much does a slice"))).to_be_visible()
