"""The page's logic, without a browser: the real script, real widgets, a model with random weights."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.testing.v1 import AppTest

from ipfvision.core.annotation import Annotation, Finding, Said
from ipfvision.core.run_lengths import encode
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Series, Slice, Source
from ipfvision.core.window import Window
from ipfvision.errors import ModelUnusable
from ipfvision.ui import page_read, session
from ipfvision.ui.session import Drawing, Opened, Session
from ipfvision.workflow.intake import Intake, Refusal, Upload
from ipfvision.workflow.reading import Reader
from ipfvision.workflow.samples import list_samples

SCRIPT = Path(__file__).parents[1] / "streamlit_app.py"
NAME = "DOE^JOHN_1950.dcm"


def thorax(number: int = 0, *, lungs: bool = True, grey: bool = False, file_window: Window | None = None) -> Slice:
    """Two dark ellipses in a bright one."""
    y, x = np.mgrid[:256, :256]
    hu = np.full((256, 256), -1000, np.int16)
    hu[((x - 128) / 115) ** 2 + ((y - 128) / 85) ** 2 < 1] = 40
    if lungs:
        for center in (75, 181):
            hu[((x - center) / 38) ** 2 + ((y - 125) / 58) ** 2 < 1] = -850
    hu += np.random.default_rng(number).integers(-15, 16, hu.shape).astype(np.int16)
    source = Source(NAME, "PNG" if grey else "DICOM", f"{number:02d}" + "ab" * 31, kernel="B70f")
    padding = np.zeros(hu.shape, bool)
    if grey:
        shades = np.clip((hu + 1350) / 1500, 0, 1).astype(np.float32)
        return Slice(shades, Scale.GREY, source, padding)
    plane = Plane((0.0, 0.0, -100.0 + 5 * number), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    return Slice(hu, Scale.HOUNSFIELD, source, padding, PixelSpacing(1.4, 1.4), plane, 5.0, file_window)


@pytest.fixture
def app() -> AppTest:
    return AppTest.from_file(str(SCRIPT), default_timeout=60)


@pytest.fixture
def open_slices(app: AppTest, reader: Reader) -> Callable[..., AppTest]:
    """Put scans on the desk, as an upload would, and run the app."""

    def put(*series: Series, refusals: tuple[Refusal, ...] = (), **annotations: list[Annotation]) -> AppTest:
        desk = Session()
        desk.open(Opened("files", series, refusals, annotations))
        app.session_state["ipfvision"] = desk
        return quiet(app.run())

    return put


def desk_of(app: AppTest) -> Session:
    desk: Session = app.session_state["ipfvision"]
    return desk


def quiet(app: AppTest) -> AppTest:
    """The app ran to its end without an exception."""
    assert not app.exception, app.exception[0].message
    return app


def html(app: AppTest) -> str:
    return "\n".join(element.proto.body for element in app.get("html"))


def block(app: AppTest, name: str) -> str:
    """The one piece of HTML with this class."""
    (found,) = (element.proto.body for element in app.get("html") if element.proto.body.startswith(f'<div class="{name}"'))
    return found


def viewer_data(app: AppTest) -> dict[str, Any]:
    """What the one viewer on the page was given."""
    (found,) = app.get("bidi_component")
    data: dict[str, Any] = json.loads(found.proto.json)
    return data


def test_the_empty_page_says_what_to_do_and_what_it_is_not(app: AppTest, reader: Reader) -> None:
    shown = html(quiet(app.run()))
    assert "Research use only. Not a medical device." in shown
    assert "Drop axial chest CT slices" in shown
    assert "Model: <b>test</b>" in shown
    assert app.file_uploader[0].accept_multiple_files
    assert app.file_uploader[0].allowed_type == []


def test_a_whole_folder_can_be_chosen(app: AppTest) -> None:
    app.run().toggle(key="whole-folder").set_value(True).run()
    assert not app.exception
    assert app.file_uploader[0].accept_directory
    app.toggle(key="whole-folder").set_value(False).run()
    assert not app.file_uploader[0].accept_directory


def test_one_slice_gets_an_answer_a_map_and_its_provenance(open_slices: Callable[..., AppTest]) -> None:
    shown = html(open_slices(Series((thorax(),))))
    assert any(word in shown for word in ("IPF-like", "Normal-like", "Uncertain"))
    assert "logits" in shown
    assert "nothing smaller than this can be located" in shown
    assert "B70f" in shown
    assert "What the model saw" in shown


def test_the_viewer_is_told_what_it_shows_and_no_name(open_slices: Callable[..., AppTest], reader: Reader) -> None:
    app = open_slices(Series((thorax(file_window=Window(50, 350)),)))
    data, desk = viewer_data(app), desk_of(app)
    assert desk.opened is not None
    assert (data["wire"], data["token"]) == ("/ipfvision/v1", desk.token)
    assert data["stack"] == {
        "id": desk.opened.stack(0),
        "slices": [
            {
                "rows": 256, "columns": 256, "scale": "hounsfield", "spacing": [1.4, 1.4], "position_mm": -100.0,
                "letters": {"left": "R", "right": "L", "top": "A", "bottom": "P"}, "inverted": False, "window": [50, 350],
            }
        ],
        "first_end": None,
    }  # fmt: skip
    assert data["probability"] == [desk.readings(0)[0].prediction.probability]
    assert (data["refused"], data["drawn"], data["annotated"]) == ([False], [False], [False])
    assert (data["method_words"], data["uncertain_band"]) == ("Grad-CAM", [0.4, 0.6])
    assert [preset["name"] for preset in data["presets"]] == ["Lung", "Mediastinum"]
    assert [finding["id"] for finding in data["findings"]] == [finding.value for finding in Finding]
    assert "DOE" not in json.dumps(data)


def test_the_scan_is_shown_before_the_model_has_answered(app: AppTest, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[float | None]] = []
    monkeypatch.setattr(page_read, "viewer", lambda _key, data, _moved: shown.append(data["probability"]))
    desk = Session()
    desk.open(Opened("files", (Series((thorax(),)),)))
    app.session_state["ipfvision"] = desk
    quiet(app.run())
    assert shown[0] == [None]
    assert shown[-1] == [desk.readings(0)[0].prediction.probability]


def test_a_png_is_said_to_have_no_hounsfield_units(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(grey=True),)))
    (one,) = viewer_data(app)["stack"]["slices"]
    assert (one["scale"], one["spacing"], one["position_mm"], one["letters"]) == ("grey", None, None, None)
    assert "This image has no Hounsfield units" in app.caption[0].value


def test_another_method_is_one_click_away_and_leaves_the_answer_alone(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(),)))
    answer, version = block(app, "ipf-answer"), viewer_data(app)["map_version"]
    app.selectbox(key="method").set_value("hirescam").run()
    data = viewer_data(quiet(app))
    assert (data["method"], data["method_words"]) == ("hirescam", "HiResCAM")
    assert data["map_version"] > version
    assert {key[2] for key in desk_of(app).seen} == {"gradcam", "hirescam"}
    assert block(app, "ipf-answer") == answer


def test_the_viewer_knows_which_slices_have_annotations_and_drawings(open_slices: Callable[..., AppTest]) -> None:
    mask = np.zeros((256, 256), bool)
    mask[150:170, 60:80] = True
    scans = thorax(0), thorax(1)
    annotation = Annotation(mask, Said(Finding.HONEYCOMBING, "synthetic"))
    app = open_slices(Series(scans), **{scans[1].source.pixel_sha256: [annotation]})
    assert viewer_data(app)["annotated"] == [False, True]
    desk = desk_of(app)
    assert desk.opened is not None
    desk.draw(desk.opened.stack(0), 0, Drawing(1, {Finding.OTHER: encode(mask)}))
    assert viewer_data(quiet(app.run()))["drawn"] == [True, False]
    np.testing.assert_array_equal(desk_of(app).drawn(0, 0)[0].mask, mask)


def test_a_slice_that_is_refused_has_a_reason_and_no_number(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(lungs=False),)))
    assert "Not read" in html(app)
    data = viewer_data(app)
    assert (data["probability"], data["refused"]) == ([None], [True])
    assert [button.key for button in app.download_button] == ["save-result"]


def test_a_series_is_read_to_its_end_and_the_viewer_gets_the_profile(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(0), thorax(1), thorax(2, lungs=False), thorax(3)), notes=("Uneven gaps.",)))
    assert len(desk_of(app).seen) == 4
    shown, data = html(app), viewer_data(app)
    assert "Slice 3 of 4 at \N{MINUS SIGN}90.0 mm" in shown
    assert "Uneven gaps." in shown
    assert "Counts of slices, not an answer for the patient." in shown
    assert [share is None for share in data["probability"]] == data["refused"] == [False, False, True, False]
    assert (data["map_version"], data["stack"]["first_end"]) == (4, "feet")


def test_the_answer_is_that_of_the_slice_on_which_scrolling_came_to_rest(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(0), thorax(1))))
    desk = desk_of(app)
    assert viewer_data(app)["slice"] == 1
    desk.show(0, 0)
    assert "Slice 1 of 2" in html(quiet(app.run()))
    assert (viewer_data(app)["slice"], viewer_data(app)["slice_command"]) == (0, 0)
    for nonsense in (None, -1, 2, 10**9):
        desk.show(0, nonsense)
    assert desk.on_screen(0) == 0


def test_the_slice_that_looks_most_like_ipf_is_one_click_away(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series(tuple(thorax(number) for number in range(3))))
    readings = desk_of(app).readings(0)
    highest = max(range(3), key=lambda index: readings[index].prediction.probability or 0)
    app.button(key="highest").click().run()
    assert f"Slice {highest + 1} of 3" in html(quiet(app))
    assert (viewer_data(app)["slice"], viewer_data(app)["slice_command"]) == (highest, 1)


def test_cancel_stops_a_series_and_resume_goes_on(open_slices: Callable[..., AppTest], app: AppTest) -> None:
    desk = Session()
    desk.open(Opened("files", (Series(tuple(thorax(number) for number in range(4))),)))
    desk.pause()
    app.session_state["ipfvision"] = desk
    quiet(app.run())
    assert len(desk_of(app).seen) == 1
    app.button(key="resume").click().run()
    assert len(desk_of(quiet(app)).seen) == 4


def test_several_series_are_chosen_between(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(0), thorax(1))), Series((thorax(7),)))
    box = app.selectbox[0]
    assert box.options == ["1: 2 slices, 5 mm thick, kernel B70f", "2: 1 slice, 5 mm thick, kernel B70f"]
    box.set_value(1).run()
    assert "Single slice" in html(quiet(app))


def test_without_a_model_the_scan_is_still_shown(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> Reader:
        raise ModelUnusable("The model's weights are missing: install the model again.")

    monkeypatch.setattr(Reader, "open", damaged)
    session.loading.clear()
    desk = Session()
    desk.open(Opened("files", (Series((thorax(),)),)))
    app.session_state["ipfvision"] = desk
    shown = html(quiet(app.run()))
    assert "install the model again" in shown
    assert viewer_data(app)["stack"]["slices"]
    assert viewer_data(app)["uncertain_band"] is None
    assert not app.download_button


def test_files_that_were_not_read_are_listed_and_do_not_stop_the_others(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(),)), refusals=(Refusal("notes.txt", "Not an image."),))
    assert "notes.txt" in html(app)
    assert "Not an image." in html(app)
    assert viewer_data(app)["stack"]["slices"]


def test_when_nothing_was_read_the_page_says_so(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(refusals=(Refusal("notes.txt", "Not an image."),))
    assert "Nothing here could be read" in html(app)
    assert "Not an image." in html(app)


def test_an_upload_is_taken_in_and_its_bytes_are_let_go(app: AppTest, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Upload] = []
    gone: list[str] = []
    monkeypatch.setattr(MemoryUploadedFileManager, "remove_file", lambda _, session_id, file_id: gone.append(file_id))

    def take_in(uploads: Any, progress: Any = None) -> Intake:
        given.extend(uploads)
        progress(1, 1)
        return Intake((Series((thorax(),)),), (Refusal(NAME, "Damaged."),))

    app.run()
    monkeypatch.setattr(session, "take_in", take_in)
    app.file_uploader[0].set_value([(NAME, b"content", "application/dicom"), ("b", b"", "")]).run()
    assert [upload.content for upload in given] == [b"content", b""]
    assert len(gone) == 2
    assert not app.file_uploader[0].value
    assert "2 files" in html(quiet(app))
    app.button(key="close").click().run()
    assert desk_of(quiet(app)).opened is None
    assert not desk_of(app).seen
    assert not app.get("bidi_component")
    assert "Drop axial chest CT slices" in html(app)


def test_every_sample_is_offered_as_a_picture(app: AppTest, reader: Reader) -> None:
    samples = list_samples()
    quiet(app.run())
    assert html(app).count('<div class="ipf-thumbnail"') == len(samples) >= 6
    sample = next(sample for sample in samples if sample.mask is not None and sample.path.suffix == ".dcm")
    app.button(key=f"sample-{sample.path.stem}").click().run()
    assert "Expected: IPF-like" in html(quiet(app))
    assert viewer_data(app)["annotated"] == [True]


def test_downloads_name_the_pixels_and_never_the_file(reader: Reader) -> None:
    document = json.loads(page_read.result_json(reader.card, [reader.read(thorax())], [None], "ipf"))
    assert document["slices"][0]["file"] is None
    assert document["slices"][0]["source"]["pixel_sha256"].startswith("00abab")
    assert "DOE" not in json.dumps(document)


def test_a_reading_is_made_once_and_kept_small(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "model", lambda: reader)
    desk = Session()
    desk.open(Opened("files", (Series((thorax(),)),)))
    first = desk.read(0, 0, "gradcam")
    assert desk.read(0, 0, "gradcam") is first
    assert first.reading.model_input is None
    assert first.model_input_png


def watched(gone: list[weakref.ref[Any]]) -> Series:
    """Two slices; `gone` learns to tell when their pixels have left memory."""
    scans = [thorax(number) for number in range(2)]
    gone.extend(weakref.ref(scan.pixels.base) for scan in scans)
    return Series(tuple(scans))


def test_what_was_open_leaves_memory_when_something_else_is_opened(open_slices: Callable[..., AppTest]) -> None:
    gone: list[weakref.ref[Any]] = []
    app = open_slices(watched(gone))
    desk = desk_of(app)
    for _ in range(2):
        desk.open(Opened("files", (watched(gone),)))
        quiet(app.run())
    session.collect_cleared()
    assert [held() is None for held in gone] == [True, True, True, True, False, False]


def test_a_tab_that_is_gone_leaves_no_scan_behind(open_slices: Callable[..., AppTest]) -> None:
    gone: list[weakref.ref[Any]] = []
    app = open_slices(watched(gone))
    quiet(app.run())
    assert any(one.key == "trust" for one in app.button)  # drawn for what is open, and kept by Streamlit
    desk_of(app).leave()
    quiet(app.run())
    session.collect_cleared()
    assert [held() for held in gone] == [None, None]


def test_two_readers_never_share_a_desk(reader: Reader) -> None:
    pages = [AppTest.from_file(str(SCRIPT), default_timeout=60) for _ in range(2)]
    desk = Session()
    desk.open(Opened("files", (Series((thorax(),)),)))
    pages[0].session_state["ipfvision"] = desk
    for app in pages:
        quiet(app.run())
    assert viewer_data(pages[0])["token"] == desk.token
    assert not pages[1].get("bidi_component")
    assert desk_of(pages[1]).token != desk.token
