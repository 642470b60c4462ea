"""The page's logic, without a browser: the real script, real widgets, a model with random weights."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.testing.v1 import AppTest

from ipfvision.core.annotation import Annotation, Finding, Said
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Series, Slice, Source
from ipfvision.core.window import Window
from ipfvision.errors import ModelUnusable
from ipfvision.ui import page_read, session
from ipfvision.ui.session import Opened, Session
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
def reader(random_model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """The random model in place of the shipped one, and none of it left in Streamlit's cache."""
    opened = Reader.open(random_model.weights)
    monkeypatch.setattr(Reader, "open", lambda *_: opened)
    session.model.clear()
    yield opened
    st.cache_resource.clear()


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
    assert 'alt="CT slice with heat map"' in shown
    assert "nothing smaller than this can be located" in shown
    assert "B70f" in shown
    assert "What the model saw" in shown
    assert "Lung window: center \N{MINUS SIGN}600, width 1500 HU" in shown


def test_changing_the_window_changes_the_picture_and_not_the_answer(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(file_window=Window(50, 350)),)))
    answer, seen = block(app, "ipf-answer"), desk_of(app).seen.copy()
    assert app.selectbox(key="window").options[:3] == [
        "Lung (\N{MINUS SIGN}600 / 1500)", "Mediastinum (40 / 400)", "As the file says (50 / 350)",
    ]  # fmt: skip
    app.selectbox(key="window").set_value("Custom").run()
    app.number_input(key="width").set_value(200).run()
    assert "Custom window: center \N{MINUS SIGN}600, width 200 HU" in html(quiet(app))
    assert block(app, "ipf-answer") == answer
    assert desk_of(app).seen == seen


def test_a_file_without_a_window_offers_none_of_its_own(open_slices: Callable[..., AppTest]) -> None:
    options = open_slices(Series((thorax(),))).selectbox(key="window").options
    assert not any("file" in option for option in options)


def test_a_png_has_no_window_and_says_why(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(grey=True),)))
    assert "This image has no Hounsfield units" in html(app)
    assert app.selectbox[0].disabled
    assert not [box for box in app.selectbox if box.key == "window"]
    app.slider(key="contrast").set_value(200).run()
    assert "contrast 200%" in html(quiet(app))


def test_the_other_class_and_another_method_are_one_click_away(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(),)))
    app.button_group(key="target").set_value("normal").run()
    assert "Grad-CAM: evidence for normal lung" in html(quiet(app))
    app.selectbox(key="method").set_value("hirescam").run()
    assert "HiResCAM: evidence for normal lung" in html(quiet(app))
    assert {key[2] for key in desk_of(app).seen} == {"gradcam", "hirescam"}


def test_the_slices_own_peak_as_scale_comes_with_a_warning(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(),)))
    assert "5.00+ logits" in html(app)
    app.selectbox(key="scale").set_value("peak").run()
    assert "hides magnitude" in app.caption[0].value
    assert "5.00+ logits" not in html(quiet(app))


def test_the_annotation_can_be_outlined_where_there_is_one(open_slices: Callable[..., AppTest]) -> None:
    mask = np.zeros((256, 256), bool)
    mask[150:170, 60:80] = True
    scan = thorax()
    annotation = Annotation(mask, Said(Finding.HONEYCOMBING, "synthetic"))
    app = open_slices(Series((scan,)), **{scan.source.pixel_sha256: [annotation]})
    assert "Light blue: honeycombing (annotation)" in html(app)
    app.toggle(key="annotation").set_value(False).run()
    assert "Light blue" not in html(quiet(app))


def test_without_an_annotation_no_outline_is_offered(open_slices: Callable[..., AppTest]) -> None:
    assert [toggle.key for toggle in open_slices(Series((thorax(),))).toggle] == ["whole-folder"]


def test_a_slice_that_is_refused_has_a_reason_and_no_number(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(lungs=False),)))
    assert "Not read" in html(app)
    assert "No map: this slice was not read" in html(app)
    assert [button.key for button in app.download_button] == ["save-result"]


def test_a_series_is_read_to_its_end_and_drawn_as_a_profile(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(0), thorax(1), thorax(2, lungs=False), thorax(3)), notes=("Uneven gaps.",)))
    assert len(desk_of(app).seen) == 4
    shown = html(app)
    assert "Slice 3 of 4 at \N{MINUS SIGN}90.0 mm" in shown
    assert "Uneven gaps." in shown
    assert "3 of 4 slices have one" in shown
    app.slider[0].set_value(1).run()
    assert "Slice 1 of 4" in html(quiet(app))


def test_the_slice_that_looks_most_like_ipf_is_one_click_away(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series(tuple(thorax(number) for number in range(3))))
    readings = desk_of(app).readings(0)
    highest = max(range(3), key=lambda index: readings[index].prediction.probability or 0)
    app.button(key="highest").click().run()
    assert f"Slice {highest + 1} of 3" in html(quiet(app))


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
    session.model.clear()
    desk = Session()
    desk.open(Opened("files", (Series((thorax(),)),)))
    app.session_state["ipfvision"] = desk
    shown = html(quiet(app.run()))
    assert "install the model again" in shown
    assert 'alt="CT slice"' in shown
    assert app.selectbox(key="window").options
    assert not app.download_button


def test_files_that_were_not_read_are_listed_and_do_not_stop_the_others(open_slices: Callable[..., AppTest]) -> None:
    app = open_slices(Series((thorax(),)), refusals=(Refusal("notes.txt", "Not an image."),))
    assert "notes.txt" in html(app)
    assert "Not an image." in html(app)
    assert 'alt="CT slice with heat map"' in html(app)


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
    assert "Drop axial chest CT slices" in html(app)


def test_every_sample_is_offered_as_a_picture(app: AppTest, reader: Reader) -> None:
    samples = list_samples()
    quiet(app.run())
    assert html(app).count('<div class="ipf-thumbnail"') == len(samples) >= 6
    sample = next(sample for sample in samples if sample.mask is not None and sample.path.suffix == ".dcm")
    app.button(key=f"sample-{sample.path.stem}").click().run()
    assert "Expected: IPF-like" in html(quiet(app))
    assert "(annotation)" in html(app)
    assert all(finding in html(app) for finding in sample.findings if finding != Finding.GROUND_GLASS.value)


def test_downloads_name_the_pixels_and_never_the_file(reader: Reader) -> None:
    document = json.loads(page_read.result_json(reader.card, [reader.read(thorax())], "ipf"))
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


def test_two_readers_never_share_a_desk(reader: Reader) -> None:
    pages = [AppTest.from_file(str(SCRIPT), default_timeout=60) for _ in range(2)]
    desk = Session()
    desk.open(Opened("files", (Series((thorax(),)),)))
    pages[0].session_state["ipfvision"] = desk
    for app in pages:
        quiet(app.run())
    assert 'data-pane="slice"' in html(pages[0])
    assert 'data-pane="slice"' not in html(pages[1])
