"""Studies in a real browser: the work list, the blinded reading, what is kept, and what it adds up to."""

import csv
import io
import json
import re
import struct
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from driving import Viewer, Wire, settled
from playwright.sync_api import FilePayload, Locator, Page, Response, WebSocket, expect
from sklearn.metrics import cohen_kappa_score

from ipfvision.core.annotation import Finding
from ipfvision.core.review import Diagnosis
from ipfvision.core.run_lengths import check, decode
from ipfvision.core.slice import Plane, Scale, Slice, Source
from ipfvision.dicom.writing import write_ct
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.reading import METHODS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    # pytest-base-url, which pytest-playwright brings, writes its fixture in a way that pytest 10 will not take.
    pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods:pytest.PytestRemovedIn10Warning"),
]

SIDE = 128
WORDS = ("IPF-like", "Normal-like", "Uncertain", "logits")
LEVEL_AA = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
BUTTON = re.compile(r"^(\w+ )?Read case")


def case_file(number: int, slices: int = 1) -> list[FilePayload]:
    """A drawn series: another one for each number."""
    files: list[FilePayload] = []
    for index in range(slices):
        drawn = draw_thorax(np.random.default_rng(number), level=0.5 + 0.02 * index, size=SIDE, spacing_mm=360 / SIDE)
        plane = Plane((-180.0, -180.0, 10.0 * index), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
        series = f"1.2.826.0.1.3680043.8.498.77.{number}"
        source = Source("", "DICOM", "", series_instance_uid=series, instance_number=1 + index)
        nowhere = np.zeros(drawn.pixels.shape, np.bool_)
        scan = Slice(drawn.pixels, Scale.HOUNSFIELD, source, nowhere, drawn.spacing, plane, thickness_mm=1.0)
        content = write_ct(scan, uid_seed=f"study test {number}")
        files.append({"name": f"{number}-{index}.dcm", "mimeType": "", "buffer": content})
    return files


class Study:
    """The page Study, as a reader uses it."""

    def __init__(self, room: Page) -> None:
        self.room = room

    def enter(self, reader: str) -> "Study":
        """Go to the page and say who one is."""
        self.room.get_by_role("link", name="Study").click()
        self.name(reader)
        return self

    def name(self, reader: str) -> None:
        self.room.get_by_role("textbox", name=re.compile("Your name")).fill(reader)
        self.press("Go on")

    @property
    def alert(self) -> Locator:
        """The sentence that says what went wrong."""
        return self.room.get_by_test_id("stSidebarUserContent").get_by_role("alert")

    def press(self, name: str) -> None:
        self.room.get_by_role("button", name=name, exact=True).click()

    def begin(self, title: str, mode: str = "Blinded first") -> "Study":
        """A study of one's own."""
        begin = self.room.get_by_text("Begin a study", exact=True)
        begin.wait_for()
        field = self.room.get_by_role("textbox", name="Title")
        settled(self.room)
        if not field.is_visible():
            begin.click()
        field.fill(title)
        self.choose(mode)
        self.press("Begin")
        expect(self.room.get_by_role("heading", name=title)).to_be_visible()
        return self

    def join(self, title: str, button: str = "Join") -> "Study":
        """A study that is there."""
        row = self.room.locator("[data-testid=stHorizontalBlock]", has_text=title)
        row.get_by_role("button", name=button).click()
        expect(self.room.get_by_role("heading", name=title)).to_be_visible()
        return self

    def drop(self, files: Iterable[FilePayload]) -> "Study":
        """Give scans, and wait until they are taken in."""
        self.room.locator('input[type="file"]').first.set_input_files(list(files))
        expect(self.room.get_by_text("taken in.")).to_be_visible()
        settled(self.room)
        return self

    def add(self, count: int) -> "Study":
        """Make cases of what was dropped."""
        self.press(f"Add {count} case{'' if count == 1 else 's'} to the study")
        expect(self.room.get_by_text(f"0 of {count} case{'' if count == 1 else 's'} read")).to_be_visible()
        return self

    def read_next(self) -> int:
        """Open the next case; its number."""
        self.room.get_by_role("button", name=BUTTON).click()
        return self.number()

    def number(self) -> int:
        head = self.room.locator(".ipf-case b")
        head.wait_for()
        return int(head.inner_text().removeprefix("Case "))

    def choose(self, answer: str, within: str = "") -> None:
        """One of several answers."""
        place = self.room.get_by_role("radiogroup", name=re.compile(within)) if within else self.room
        place.locator("label", has=self.room.get_by_role("radio", name=re.compile(f"^{re.escape(answer)}"))).first.click()

    def say(self, diagnosis: Diagnosis, confidence: int) -> "Study":
        """The opinion, seen to be on the server."""
        self.choose(diagnosis.value[0].upper() + diagnosis.value[1:], "Your diagnosis")
        self.choose(str(confidence), "Confidence")
        return self

    def lock(self) -> "Study":
        """Lock, and wait for the answer."""
        self.press("Lock and see the answer")
        self.room.locator(".ipf-word").wait_for()
        expect(self.room.get_by_role("button", name="Finish, next case")).to_be_visible()
        return self

    def finish(self, number: int) -> None:
        """Finish, and wait until it is kept."""
        self.press("Finish, next case")
        expect(self.room.get_by_text(f"Case {number} is finished and kept.")).to_be_visible()

    def read(self, diagnosis: Diagnosis, confidence: int = 3, revised: Diagnosis | None = None) -> None:
        """The case on screen, from the opinion to the end."""
        number = self.number()
        self.say(diagnosis, confidence).lock()
        if revised is not None:
            self.choose(revised.value[0].upper() + revised.value[1:], "Your diagnosis")
        self.choose("Agrees", "The map")
        self.finish(number)

    def save(self, button: str) -> bytes:
        """What a button of the page Reviews gives."""
        with self.room.expect_download() as waiting:
            self.room.get_by_role("button", name=button, exact=True).click()
        return Path(waiting.value.path()).read_bytes()


@pytest.fixture
def study(reading_room: Page) -> Study:
    return Study(reading_room)


class Heard:
    """Everything that the server said to a page."""

    def __init__(self, room: Page) -> None:
        self._responses: list[Response] = []
        self._frames: list[bytes] = []
        room.on("websocket", self._listen)
        room.reload()
        room.get_by_text("Research use only").wait_for()
        # Not before: the browser lets go of what came before a page was loaded anew.
        room.on("response", self._keep)

    def _keep(self, response: Response) -> None:
        self._responses.append(response)

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: self._frames.append(frame if isinstance(frame, bytes) else frame.encode()))

    def take(self) -> Iterator[bytes]:
        """All of it since the last time."""
        while self._responses:
            response = self._responses.pop()
            if response.status == 200:
                yield response.body()
        while self._frames:
            yield self._frames.pop()


def forms(value: float) -> list[bytes]:
    """How a number may be written."""
    return [repr(value)[:8].encode(), struct.pack("<d", value), struct.pack("<f", value)]


@pytest.mark.parametrize("slices", [3])
def test_nothing_of_the_answer_reaches_the_browser_before_the_lock(reading_room: Page, slices: int) -> None:
    heard, study, wire = Heard(reading_room), Study(reading_room), Wire(reading_room)
    study.enter("Ada").begin("Blinded").drop(case_file(1, slices)).add(1).read_next()
    viewer = Viewer(reading_room).ready(slices)
    for key in ("ArrowUp", "ArrowDown", "ArrowDown", "j", "d", "d", "d"):
        viewer.press(key)
        settled(reading_room)
    study.say(Diagnosis.PROBABLE_UIP, 4)
    settled(reading_room)
    routes = [f"{wire.base}/{index}/maps?method={quote(method)}" for index in range(slices) for method in METHODS]
    assert {reading_room.request.get(route).status for route in routes} == {204}
    assert [wire.get(index, "annotations") for index in range(slices)] == [[]] * slices
    before = list(heard.take())
    page = reading_room.content() + "".join(reading_room.locator(".ipf-viewer").all_inner_texts())
    assert not [word for word in WORDS if word in page]
    assert sum(len(one) for one in before) > 100_000, "nothing was heard"

    study.lock()
    viewer.with_map()
    answers = [wire.get(index, "maps") for index in range(slices)]
    after = list(heard.take())
    for answer in answers:
        assert any(form in one for form in forms(answer["probability"]) for one in after)
        for number in (answer["probability"], answer["margin"], answer["maps"]["ipf"]["peak"]):
            assert not [one for one in before for form in forms(number) if form in one]
    assert any(b'"maps":{"ipf"' in one for one in after)
    assert not any(b'"maps":{"ipf"' in one for one in before)
    assert any(word in reading_room.content() for word in WORDS)


def test_what_is_drawn_before_the_lock_is_locked_and_what_is_drawn_after_is_the_revision(study: Study) -> None:
    room = study.room
    study.enter("Ada").begin("Drawn").drop(case_file(2)).add(1).read_next()
    viewer = Viewer(room).ready()
    _stroke(viewer, 40, 60)
    study.say(Diagnosis.UIP, 5)
    first = viewer.mask("honeycombing", (SIDE, SIDE))
    study.lock()
    viewer.with_map()
    assert (viewer.mask("honeycombing", (SIDE, SIDE)) == first).all()
    _stroke(viewer, 80, 60)
    second = viewer.mask("honeycombing", (SIDE, SIDE))
    study.choose("Disagrees", "The map")
    study.press("Finish, next case")
    expect(study.alert).to_contain_text("Your verdict on the map is needed")
    room.get_by_role("button", name="Missed honeycombing").click()
    study.finish(1)
    assert second.sum() > first.sum() > 0
    room.get_by_role("link", name="Reviews").click()
    room.get_by_role("tab", name="Save and send").click()
    (review,) = json.loads(study.save("reviews.json"))["reviews"]
    for word, mask in (("first", first), ("revised", second)):
        (drawing,) = review[word]["drawings"]
        assert (drawing["slice"], drawing["finding"]) == (0, Finding.HONEYCOMBING.value)
        np.testing.assert_array_equal(decode(check(drawing["runs"], SIDE * SIDE), (SIDE, SIDE)), mask)
    assert review["judgment"] == {"verdict": "disagrees", "reasons": ["missed honeycombing"]}


def _stroke(viewer: Viewer, x: int, y: int) -> None:
    viewer.press("b")
    mouse, start = viewer.room.mouse, viewer.place("ct", x, y)
    mouse.move(*start)
    mouse.down()
    mouse.move(start[0] + 30, start[1] + 10, steps=4)
    mouse.up()
    viewer.saved()


def readings() -> dict[str, list[tuple[Diagnosis, Diagnosis]]]:
    """What three readers say of twelve cases, before the answer and with it."""
    drawn, kinds = np.random.default_rng(12), list(Diagnosis)
    truth = drawn.integers(0, 4, 12)
    found: dict[str, list[tuple[Diagnosis, Diagnosis]]] = {}
    for reader in ("Ada", "Bo", "Cy"):
        said = np.where(drawn.random(12) < 0.65, truth, drawn.integers(0, 4, 12))
        revised = np.where(drawn.random(12) < 0.25, 0, said)
        found[reader] = [(kinds[a], kinds[b]) for a, b in zip(said, revised, strict=True)]
    return found


def test_three_readings_of_twelve_cases_give_the_kappas_of_scikit_learn(study: Study) -> None:
    room, said = study.room, readings()
    room.set_viewport_size({"width": 900, "height": 700})  # less to draw: it is read 36 times
    study.enter("Ada").begin("Twelve")
    study.drop(one for number in range(1, 13) for one in case_file(100 + number)).add(12)
    orders: list[list[int]] = []
    for reader, opinions in said.items():
        if reader != "Ada":
            study.press("Another reader")
            study.name(reader)
            study.join("Twelve")
        order = [study.read_next()]
        for done in range(12):
            first, revised = opinions[order[-1] - 1]
            study.read(first, 1 + done % 5, revised if revised is not first else None)
            if done < 11:
                order.append(study.number())
        orders.append(order)
        expect(room.get_by_text("All cases are read.")).to_be_visible()
    assert [sorted(order) for order in orders] == [list(range(1, 13))] * 3
    assert len({tuple(order) for order in orders}) == 3, "each reader has an order of their own"

    study.press("Another reader")
    study.name("ada")
    room.get_by_role("link", name="Reviews").click()
    room.get_by_role("tab", name="Save and send").click()
    counted = json.loads(study.save("agreement.json"))
    rows = list(csv.DictReader(io.StringIO(study.save("reviews.csv").decode())))
    assert len(rows) == 36
    room.get_by_role("tab", name="Agreement").click()
    table = room.locator("table", has_text="Pair by pair")
    for number, word in enumerate(("first", "revised")):
        entered = {reader: [pair[number].value for pair in opinions] for reader, opinions in said.items()}
        for row in rows:
            assert row[f"{word}_diagnosis"] == entered[row["reader"]][int(row["case"]) - 1]
        for pair in combinations(said, 2):
            one, other = (entered[reader] for reader in pair)
            kappa = cohen_kappa_score(one, other)
            weighted = cohen_kappa_score(one, other, labels=[kind.value for kind in Diagnosis], weights="quadratic")
            (found,) = (each for each in counted[word]["diagnosis"]["pairs"] if each["readers"] == list(pair))
            assert found["kappa"]["value"] == pytest.approx(kappa, abs=1e-12)
            assert found["weighted_kappa"]["value"] == pytest.approx(weighted, abs=1e-12)
            cell = table.locator("tr", has_text=", ".join(pair)).locator("td").nth(number)
            expect(cell).to_contain_text(f"{kappa:.2f}".replace("-", "\N{MINUS SIGN}"))


def test_scans_are_known_again_by_their_pixels_and_a_case_goes_on_where_it_was_left(study: Study) -> None:
    room = study.room
    study.enter("Ada").begin("Again").drop([*case_file(21), *case_file(22)]).add(2).read_next()
    number = study.number()
    study.say(Diagnosis.ALTERNATIVE, 2)
    room.get_by_role("textbox", name="Comment").fill("emphysema at the apex")
    room.get_by_role("textbox", name="Comment").blur()
    settled(room)
    room.goto(room.url.rpartition("/")[0])  # a new session: nothing is in memory any more
    study.enter("ada").join("Again", "Open")
    expect(room.get_by_text("No scan of this study is here.")).to_be_visible()
    expect(room.get_by_role("button", name=f"Case {number}: begun, scan not here")).to_be_disabled()
    renamed = [one | {"name": f"renamed{index}"} for index, one in enumerate(case_file(20 + number))]
    study.drop([*renamed, {"name": "notes.txt", "mimeType": "", "buffer": b"hello"}])
    expect(room.get_by_text("The scans of 1 of 2 cases are not here.")).to_be_visible()
    expect(room.locator(".ipf-list", has_text="notes.txt")).to_contain_text("neither DICOM, PNG, JPEG nor .zip")
    study.press(f"Case {number}: begun")
    expect(room.get_by_role("radio", name="Alternative diagnosis")).to_be_checked()
    expect(room.get_by_role("radio", name="2", exact=True)).to_be_checked()
    expect(room.get_by_role("textbox", name="Comment")).to_have_value("emphysema at the apex")


def test_of_two_tabs_the_second_is_told_and_loses_nothing(study: Study) -> None:
    room = study.room
    study.enter("Ada").begin("Tabs").drop(case_file(31)).add(1).read_next()
    study.say(Diagnosis.UIP, 1)
    settled(room)
    other_page = room.context.new_page()
    other_page.set_default_timeout(60_000)
    other_page.goto(room.url.rpartition("/")[0])
    other = Study(other_page).enter("Ada").join("Tabs", "Open").drop(case_file(31))
    other.press("Case 1: begun")
    expect(other_page.get_by_role("radio", name="UIP", exact=True)).to_be_checked()
    other.say(Diagnosis.INDETERMINATE, 4)
    settled(other_page)
    study.choose("5", "Confidence")
    expect(study.alert).to_contain_text("gone on in another tab")
    study.press("Keep what is on this screen")
    expect(study.alert).to_have_count(0)
    study.lock()
    expect(room.get_by_text("Before the answer: UIP, confidence 5 of 5")).to_be_visible()
    other.choose("2", "Confidence")
    expect(other.alert).to_contain_text("gone on in another tab")
    other.press("Show what was saved there")
    expect(other_page.get_by_text("Before the answer: UIP, confidence 5 of 5")).to_be_visible()
    other_page.close()


def test_a_study_is_read_by_the_keyboard_alone(study: Study) -> None:
    room = study.room
    study.enter("Ada").begin("Keys").drop(case_file(41)).add(1)

    def tab_to(selector: str) -> Any:
        for _ in range(80):
            room.keyboard.press("Tab")
            focused = room.locator(selector).and_(room.locator(":focus"))
            if focused.count():
                assert room.evaluate(RINGED), f"no visible focus on {selector}"
                return
        raise AssertionError(f"Tab never reaches {selector}")

    room.locator("body").focus()
    tab_to(".st-key-read-next button")
    room.keyboard.press("Enter")
    Viewer(room).ready()
    settled(room)
    tab_to('[class*="st-key-diagnosis"] input')
    room.keyboard.press("Space")
    room.keyboard.press("ArrowDown")
    expect(room.get_by_role("radio", name="Probable UIP")).to_be_checked()
    tab_to('[class*="st-key-confidence"] input')
    room.keyboard.press("Space")
    settled(room)
    tab_to(".st-key-lock button")
    room.keyboard.press("Enter")
    room.locator(".ipf-word").wait_for()
    settled(room)
    tab_to('[class*="st-key-verdict"] input')
    room.keyboard.press("Space")
    settled(room)
    tab_to(".st-key-finish button")
    room.keyboard.press("Enter")
    expect(room.get_by_text("Case 1 is finished and kept.")).to_be_visible()


RINGED = """
() => {
  for (let node = document.activeElement; node && node !== document.body; node = node.parentElement) {
    const style = getComputedStyle(node);
    if (style.boxShadow !== "none" || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0)) return true;
    const before = [...node.children].some((one) => getComputedStyle(one).boxShadow !== "none");
    if (before) return true;
  }
  return false;
}
"""


def test_axe_finds_nothing_on_the_pages_of_a_study(study: Study) -> None:
    room = study.room

    def look(where: str) -> None:
        settled(room)
        found = Axe().run(room, options=LEVEL_AA)
        assert found.violations_count == 0, f"{where}: {found.generate_report()}"

    room.get_by_role("link", name="Study").click()
    room.get_by_role("textbox", name=re.compile("Your name")).wait_for()
    look("name")
    study.name("Ada")
    study.begin("Axe").drop([*case_file(51), *case_file(52)]).add(2)
    look("work list")
    number = study.read_next()
    Viewer(room).ready()
    look("blinded")
    study.say(Diagnosis.UIP, 4).lock()
    study.choose("Partly", "The map")
    expect(room.get_by_role("button", name="Emphysema")).to_be_visible()
    look("revealed")
    room.get_by_role("button", name="Emphysema").click()
    settled(room)
    study.finish(number)
    room.get_by_role("link", name="Reviews").click()
    for tab in ("Readings", "Agreement", "Case by case", "Save and send"):
        room.get_by_role("tab", name=tab).click()
        look(tab)
