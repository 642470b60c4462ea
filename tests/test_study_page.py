"""The pages of studies without a browser: real widgets, a real store, a model with random weights."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from ipfvision.core.annotation import Finding
from ipfvision.core.review import BlindReview, Diagnosis, Draft, MapVerdict, Mode, Review, Stage
from ipfvision.core.run_lengths import encode
from ipfvision.core.slice import Series
from ipfvision.dicom.writing import write_ct
from ipfvision.errors import ReviewChanged, StoreUnavailable
from ipfvision.store.database import FOLDER
from ipfvision.ui import session
from ipfvision.ui.page_reviews import ZIP_WITHHELD
from ipfvision.ui.session import Drawing
from ipfvision.ui.study_desk import StudyDesk
from ipfvision.workflow.intake import take_in
from ipfvision.workflow.reading import Reader
from ipfvision.workflow.studies import Studies
from ipfvision.workflow.study_archive import write_study
from ipfvision.workflow.uploads import Upload
from tests.reviewing import MODEL
from tests.reviewing import answer as reviewed
from tests.test_page import NAME, html, quiet, thorax, viewer_data

KEY = "ipfvision-study"


def study_page() -> None:
    """As the app draws it. AppTest runs the text of this function as a script."""
    from ipfvision.ui import page_study
    from ipfvision.ui.slot import Slot

    page_study.draw(Slot())


def reviews_page() -> None:
    """As the app draws it."""
    from ipfvision.ui import page_reviews
    from ipfvision.ui.slot import Slot

    page_reviews.draw(Slot())


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader) -> Studies:
    """A store of one's own, which the pages find."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    session.studies.clear()
    return session.studies()


def open_page(page: Callable[[], None], reader_name: str = "", *scans: Series, study: str | None = None) -> AppTest:
    app = AppTest.from_function(page, default_timeout=60)
    desk = StudyDesk()
    desk.reader, desk.study_id = reader_name, study
    desk.add(scans)
    app.session_state[KEY] = desk
    return quiet(app.run())


def desk_of(app: AppTest) -> StudyDesk:
    desk: StudyDesk = app.session_state[KEY]
    return desk


def begin(studies: Studies, *numbers: int, mode: Mode = Mode.BLINDED, lungs: bool = True) -> tuple[str, list[Series]]:
    """A study of Ada's with these drawn thoraxes as cases, which Bo has joined."""
    scans = [Series((thorax(number, lungs=lungs),)) for number in numbers]
    study = studies.create("Trial", "Ada", mode, seed=1)
    studies.add_cases(study.id, "Ada", scans)
    studies.join(study.id, "Bo")
    return study.id, scans


def read_case(app: AppTest, diagnosis: Diagnosis = Diagnosis.UIP, *, verdict: bool = True) -> AppTest:
    """The case that is open, to its end."""
    answer(app, "diagnosis", diagnosis)
    answer(app, "confidence", 4)
    app.button(key="lock").click()
    quiet(app.run())
    if verdict:
        answer(app, "verdict", MapVerdict.AGREES)
    app.button(key="finish").click()
    return quiet(app.run())


def answer(app: AppTest, name: str, value: Any) -> None:
    """Choose on one of the form's radio buttons."""
    (radio,) = (one for one in app.radio if one.key is not None and one.key.startswith(f"{name}-"))
    radio.set_value(value)
    quiet(app.run())


def press(app: AppTest, label: str) -> AppTest:
    (button,) = (one for one in app.button if one.label == label)
    button.click()
    return quiet(app.run())


def lost(*_: object) -> int:
    """In place of `Studies.autosave`: the store does not answer."""
    raise StoreUnavailable("The database of the reviews does not answer.")


def test_a_name_is_asked_for_with_the_line_that_it_is_no_login(studies: Studies) -> None:
    app = open_page(study_page)
    assert "A name, not a login" in app.caption[0].value
    assert not app.radio
    app.text_input[0].set_value("  Ada   Byron ")
    press(app, "Go on")
    assert desk_of(app).reader == "Ada Byron"
    assert "No study yet" in html(app)


@pytest.mark.parametrize(("user", "expected"), [({"is_logged_in": True, "email": "ada@example.org"}, "ada@example.org")])
def test_who_signed_in_is_the_reader_and_no_name_is_asked(
    studies: Studies, monkeypatch: pytest.MonkeyPatch, user: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr(st, "user", user)
    app = open_page(study_page, "somebody else")
    assert desk_of(app).reader == expected
    assert not [one for one in app.text_input if "name" in one.label]
    assert not [one for one in app.button if one.label == "Another reader"]


def test_where_readers_sign_in_nobody_reads_without(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st, "user", {"is_logged_in": False})
    app = open_page(study_page)
    assert [one.label for one in app.button] == ["Sign in"]
    assert not app.text_input


def test_a_study_is_begun_blinded_unless_somebody_chooses_otherwise(studies: Studies) -> None:
    app = open_page(study_page, "Ada")
    app.text_input[0].set_value("Honeycombing")
    press(app, "Begin")
    (study,) = studies.all()
    assert (study.title, study.mode) == ("Honeycombing", Mode.BLINDED)
    assert "No case yet" in html(app)


def test_only_a_coordinator_makes_cases_of_what_was_dropped(studies: Studies) -> None:
    study, _ = begin(studies, 1)
    fresh = Series((thorax(2),))
    app = open_page(study_page, "Bo", fresh, study=study)
    assert "1 scan dropped here: no case of this study." in html(app)
    assert not [one for one in app.button if one.key == "add-cases"]
    app = open_page(study_page, "ada", fresh, study=study)
    press(app, "Add 1 case to the study")
    assert len(studies.cases(study)) == 2


def test_pictures_that_came_together_are_cases_of_their_own_unless_they_are_one_scan(studies: Studies) -> None:
    study = studies.create("Pictures", "Ada").id
    pictures = Series(tuple(thorax(number, grey=True) for number in range(3)))
    app = open_page(study_page, "Ada", pictures, study=study)
    assert [one.label for one in app.button if one.key == "add-cases"] == ["Add 3 cases to the study"]
    app.toggle(key="single-pictures").set_value(False)
    quiet(app.run())
    press(app, "Add 1 case to the study")
    assert [len(case.slices) for case in studies.cases(study)] == [3]


def test_the_viewer_gets_no_answer_before_the_lock_and_gets_it_after(studies: Studies) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    app.button(key="read-next").click()
    data = viewer_data(quiet(app.run()))
    assert (data["probability"], data["refused"], data["uncertain_band"]) == ([None], [False], None)
    assert (data["panes"], data["blinded"], data["map_version"]) == (["ct"], True, 0)
    assert not desk_of(app).desk.seen
    assert NAME not in json.dumps(data)
    answer(app, "diagnosis", Diagnosis.UIP)
    app.button(key="lock").click()
    quiet(app.run())
    assert "A diagnosis and a confidence are needed" in html(app)
    assert not desk_of(app).desk.seen
    answer(app, "confidence", 4)
    app.button(key="lock").click()
    data = viewer_data(quiet(app.run()))
    (seen,) = desk_of(app).desk.seen.values()
    assert data["probability"] == [seen.reading.prediction.probability] != [None]
    assert (data["panes"], data["blinded"]) == (["ct", "map"], False)
    assert "logits" in html(app)


def test_what_is_shown_again_on_another_day_is_what_was_kept(studies: Studies) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")
    answer(app, "diagnosis", Diagnosis.UIP)
    answer(app, "confidence", 4)
    app.button(key="lock").click()
    quiet(app.run())
    first = next(iter(desk_of(app).desk.seen.values())).reading
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Case 1: answer seen")
    second = next(iter(desk_of(app).desk.seen.values())).reading
    assert second.prediction == first.prediction
    np.testing.assert_array_equal(second.explanations["ipf"].cells, first.explanations["ipf"].cells)


def test_after_the_last_case_comes_the_work_list_and_a_finished_case_can_be_corrected(studies: Studies) -> None:
    study, scans = begin(studies, 1, 2)
    app = open_page(study_page, "Bo", *scans, study=study)
    app.button(key="read-next").click()
    quiet(app.run())
    read_case(app)
    assert "is finished and kept" in html(app)
    assert desk_of(app).stage is Stage.READING
    read_case(app)
    assert "All cases are read." in html(app)
    press(app, "Case 1: read")
    assert all(one.disabled for one in app.radio)
    press(app, "Correct this reading")
    answer(app, "diagnosis", Diagnosis.ALTERNATIVE)
    app.button(key="finish").click()
    quiet(app.run())
    said = {one.case.number: one for one in studies.reviews(study, "Bo")}
    assert said[1].revised.diagnosis is Diagnosis.ALTERNATIVE
    assert said[1].first is not None
    assert said[1].first.diagnosis is Diagnosis.UIP
    assert len(studies.reviews(study, "Bo", history=True)) == 3


def test_a_case_without_a_map_needs_no_verdict(studies: Studies) -> None:
    study, scans = begin(studies, 1, lungs=False)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")
    read_case(app, verdict=False)
    (review,) = studies.reviews(study, "Bo")
    assert review.judgment is None


def test_in_the_open_mode_the_answer_is_there_from_the_start(studies: Studies) -> None:
    study, scans = begin(studies, 1, mode=Mode.OPEN)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")
    assert viewer_data(app)["probability"] != [None]
    answer(app, "diagnosis", Diagnosis.PROBABLE_UIP)
    answer(app, "confidence", 1)
    answer(app, "verdict", MapVerdict.AGREES)
    app.button(key="finish").click()
    quiet(app.run())
    (review,) = studies.reviews(study, "Bo")
    assert (review.first, review.revised.diagnosis) == (None, Diagnosis.PROBABLE_UIP)


def test_a_drawing_is_on_the_disk_before_the_browser_is_told_that_it_is_saved(studies: Studies) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")
    desk = desk_of(app)
    mask = np.zeros((256, 256), bool)
    mask[100:120, 60:90] = True
    assert desk.desk.opened is not None
    desk.desk.draw(desk.desk.opened.stack(0), 0, Drawing(1, {Finding.HONEYCOMBING: encode(mask)}))
    assert desk.desk.on_drawn is not None
    desk.desk.on_drawn()
    kept = studies.open_case(study, studies.cases(study)[0].id, "Bo")
    assert not isinstance(kept, Review)
    np.testing.assert_array_equal(kept.draft.drawings[0].mask(), mask)


def test_a_lock_that_was_asked_for_in_a_tab_that_is_out_of_date_is_not_done_later(studies: Studies) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")
    answer(app, "diagnosis", Diagnosis.UIP)
    answer(app, "confidence", 1)
    case = studies.cases(study)[0].id
    elsewhere = studies.open_case(study, case, "Bo")
    assert isinstance(elsewhere, BlindReview)
    studies.autosave(elsewhere.id, "Bo", elsewhere.revision, replace(elsewhere.draft, diagnosis=Diagnosis.ALTERNATIVE))
    app.button(key="lock").click()
    quiet(app.run())
    assert "gone on in another tab" in html(app)
    press(app, "Show what was saved there")
    assert desk_of(app).stage is Stage.READING
    assert [one.value for one in app.radio] == [Diagnosis.ALTERNATIVE, 1]


def test_of_one_reading_the_page_the_figure_and_the_dicom_objects_are_made(studies: Studies) -> None:
    files = [(f"{number}.dcm", write_ct(thorax(number), uid_seed="sent")) for number in range(2)]
    (scan,) = take_in([Upload(*file) for file in files]).series
    study = studies.create("Sent", "Ada").id
    studies.add_cases(study, "Ada", [scan])
    app = open_page(study_page, "Ada", scan, study=study)
    press(app, "Read case 1")
    read_case(app)
    app = open_page(reviews_page, "Ada", scan, study=study)
    app.session_state["reviews-tabs"] = "Case by case"
    quiet(app.run())
    (uploader,) = (one for one in app.file_uploader if one.label.startswith("The scan's own DICOM files"))
    uploader.set_value([(name, content, "application/dicom") for name, content in files])
    press(app, "Make the files")
    made = desk_of(app).sent
    assert made is not None
    kinds = {name.rpartition("_")[2] for name in made.files}
    assert kinds >= {"page.pdf", "figure.png", "case.json", "report.dcm", "picture.dcm"}
    assert len(app.get("download_button")) == len(made.files)
    desk_of(app).desk.leave()  # the tab is gone: the DICOM files, which carry the patient, go with it
    assert desk_of(app).sent is None


def test_a_lost_store_is_one_sentence_and_what_was_said_is_saved_when_it_is_back(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")

    with monkeypatch.context() as patch:
        patch.setattr(Studies, "autosave", lost)
        answer(app, "diagnosis", Diagnosis.PROBABLE_UIP)
        assert "does not answer" in html(app)
        assert viewer_data(app)["stack"]["slices"]
    quiet(app.run())
    assert "does not answer" not in html(app)
    kept = studies.open_case(study, studies.cases(study)[0].id, "Bo")
    assert not isinstance(kept, Review)
    assert kept.draft.diagnosis is Diagnosis.PROBABLE_UIP


def test_nothing_unsaved_is_left_for_the_work_list_without_a_word(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")

    with monkeypatch.context() as patch:
        patch.setattr(Studies, "autosave", lost)
        answer(app, "diagnosis", Diagnosis.PROBABLE_UIP)
        press(app, "Work list")
        assert "does not answer" in html(app)
        assert desk_of(app).said.diagnosis is Diagnosis.PROBABLE_UIP
        assert [one.label for one in app.button if one.key == "leave"] == ["Leave without saving"]
    # What is typed into the comment comes in the same run as the press.
    (comment,) = (one for one in app.text_area if one.label == "Comment")
    comment.set_value("coarse")
    press(app, "Work list")
    assert desk_of(app).review is None
    kept = studies.open_case(study, studies.cases(study)[0].id, "Bo")
    assert not isinstance(kept, Review)
    assert (kept.draft.diagnosis, kept.draft.comment) == (Diagnosis.PROBABLE_UIP, "coarse")


def test_a_reader_may_leave_what_cannot_be_saved(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")

    monkeypatch.setattr(Studies, "autosave", lost)
    answer(app, "diagnosis", Diagnosis.UIP)
    press(app, "Work list")
    press(app, "Leave without saving")
    assert desk_of(app).review is None
    assert "does not answer" not in html(app)


def test_of_two_tabs_that_wait_for_the_answer_the_later_one_takes_over_nothing(studies: Studies) -> None:
    study, (scan,) = begin(studies, 1)
    (case,) = studies.cases(study)
    first, second = StudyDesk(), StudyDesk()
    for desk in (first, second):
        desk.reader, desk.study_id = "Bo", study
    first.open(studies, case, scan)
    first.say(studies, Draft(Diagnosis.UIP, 4))
    first.lock(studies, MODEL)
    second.open(studies, case, scan)
    first.reveal(studies, reviewed)
    first.say(studies, Draft(Diagnosis.ALTERNATIVE, 2))
    second.reveal(studies, reviewed)
    assert (second.said, second.stage) == (Draft(Diagnosis.ALTERNATIVE, 2), Stage.REVEALED)
    second.say(studies, second.said)
    kept = studies.open_case(study, case.id, "Bo")
    assert not isinstance(kept, Review)
    assert kept.draft == Draft(Diagnosis.ALTERNATIVE, 2)
    first.say(studies, Draft(Diagnosis.ALTERNATIVE, 3))  # and the first one goes on


def test_of_two_tabs_in_the_open_mode_what_is_unsaved_in_one_is_not_saved_over_the_other(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, (scan,) = begin(studies, 1, mode=Mode.OPEN)
    (case,) = studies.cases(study)
    first, second = StudyDesk(), StudyDesk()
    for desk in (first, second):
        desk.reader, desk.study_id = "Bo", study
        desk.open(studies, case, scan)

    with monkeypatch.context() as patch:
        patch.setattr(Studies, "autosave", lost)
        with pytest.raises(StoreUnavailable):
            second.say(studies, Draft(Diagnosis.INDETERMINATE, 1))
    first.reveal(studies, reviewed)
    first.say(studies, Draft(Diagnosis.UIP, 5))
    second.reveal(studies, reviewed)
    with pytest.raises(ReviewChanged):
        second.say(studies, second.said)
    kept = studies.open_case(study, case.id, "Bo")
    assert not isinstance(kept, Review)
    assert kept.draft == Draft(Diagnosis.UIP, 5)
    assert second.said == Draft(Diagnosis.INDETERMINATE, 1)


@pytest.mark.parametrize("page", [study_page, reviews_page])
def test_a_store_that_cannot_be_opened_is_one_sentence(
    page: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file"))
    session.studies.clear()
    app = open_page(page, "Ada")
    assert "cannot be written or read" in app.error[0].value
    session.studies.clear()


def test_a_study_of_another_computer_is_taken_in_whole(studies: Studies, tmp_path: Path) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")
    read_case(app)
    content = write_study(studies, study, "Ada")
    (tmp_path / "other").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(tmp_path / "other"))
        session.studies.clear()
        app = open_page(study_page, "Ada")
        app.file_uploader[0].set_value([("study.zip", content, "application/zip")])
        quiet(app.run())
        assert "The study Trial was taken in." in html(app)
        assert len(session.studies().reviews(study, "Ada")) == 1
    session.studies.clear()


def test_a_reader_sees_their_own_readings_and_a_coordinator_sees_all(studies: Studies) -> None:
    study, scans = begin(studies, 1)
    for name in ("Ada", "Bo"):
        app = open_page(study_page, name, *scans, study=study)
        press(app, "Read case 1")
        read_case(app)
    seen = {name: html(open_page(reviews_page, name, study=study)) for name in ("Ada", "Bo")}
    assert ">Bo<" in seen["Ada"]
    assert "<td>Ada</td>" in seen["Ada"]
    assert "<td>Ada</td>" not in seen["Bo"]
    assert "Your own readings." in seen["Bo"]


def test_a_coordinator_who_reads_sees_nothing_of_a_case_before_their_own_lock(studies: Studies) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")
    read_case(app)
    app = open_page(study_page, "Ada", *scans, study=study)
    press(app, "Read case 1")
    shown = html(open_page(reviews_page, "Ada", study=study))
    assert "Case 1 is left out here until you have locked" in shown
    assert "<td>Bo</td>" not in shown
    app = open_page(reviews_page, "Ada", study=study)
    app.session_state["reviews-tabs"] = "Save and send"
    quiet(app.run())
    assert ZIP_WITHHELD in html(app)
    assert not [one for one in app.get("download_button") if one.label == "Study (.zip)"]


def test_nothing_that_a_page_keeps_names_a_patient(studies: Studies, tmp_path: Path) -> None:
    study, scans = begin(studies, 1)
    app = open_page(study_page, "Bo", *scans, study=study)
    press(app, "Read case 1")
    read_case(app)
    with sqlite3.connect(tmp_path / "reviews.sqlite") as connection:
        assert "DOE" not in "\n".join(connection.iterdump())
