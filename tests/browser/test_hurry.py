"""Clicks that come while the page still works on the one before: none is lost, and no answer lands on another scan."""

from collections.abc import Iterator

import pytest
from conftest import PATIENCE_MS, start_app
from driving import answered, settled
from playwright.sync_api import Page, expect
from test_study import Study, case_file

from ipfvision.core.review import Diagnosis

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    # As in test_study.py.
    pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods:pytest.PytestRemovedIn10Warning"),
]

SECONDS = 2.0
SLOW = f"""
import time
from ipfvision.ui.session import Session
from ipfvision.ui.study_desk import StudyDesk

quick_wish, quick_keep, kept = StudyDesk.take_wish, Session._keep, []

def take_wish(self, wish):
    if wish == "finish":
        time.sleep({SECONDS})
    return quick_wish(self, wish)

def keep(self, *given):
    if not kept:
        kept.append(1)
        time.sleep({2 * SECONDS})
    quick_keep(self, *given)

StudyDesk.take_wish, Session._keep = take_wish, keep
"""
"""Makes two moments long that are short, so that a click falls into them."""


@pytest.fixture
def slow_room(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The empty page of such an app."""
    process, address = start_app(tmp_path_factory.mktemp("slow") / "log", before=SLOW)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.get_by_text("Research use only").wait_for()
    yield page
    process.terminate()
    process.wait(timeout=20)


def test_finish_is_heard_while_the_page_still_takes_in_the_last_choice(slow_room: Page) -> None:
    study = Study(slow_room).enter("Ada").begin("Hurried").drop(case_file(61)).add(1)
    number = study.read_next()
    study.say(Diagnosis.ALTERNATIVE, 2).lock()
    settled(slow_room)
    study.choose("Agrees", "The map")
    slow_room.wait_for_timeout(1000 * SECONDS / 2)  # the script run of that choice looks whether the case is finished
    study.press("Finish, next case")
    expect(slow_room.get_by_text(f"Case {number} is finished and kept.")).to_be_visible()


def test_an_answer_that_comes_late_does_not_land_on_the_next_scan(slow_room: Page) -> None:
    slow_room.get_by_role("button", name="Honeycombing all around").click()
    slow_room.locator(".ipf-viewer").wait_for()
    slow_room.get_by_text("Model:").wait_for()  # it is loaded
    slow_room.wait_for_timeout(1000 * SECONDS)  # longer than it takes for a slice: its answer is about to be kept
    slow_room.get_by_role("button", name="Close and forget").click()
    slow_room.get_by_role("button", name="Normal, at the level of the heart").click()
    assert answered(slow_room) == "Normal-like"
    slow_room.wait_for_timeout(2000 * SECONDS)
    slow_room.get_by_text("A whole folder").click()
    settled(slow_room)
    assert answered(slow_room) == "Normal-like"
