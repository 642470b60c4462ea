import dataclasses
import logging
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from ipfvision.core.agreement import agree
from ipfvision.core.annotation import Annotation, Finding, Said
from ipfvision.core.lungs import Lungs
from ipfvision.core.review import (
    BlindReview,
    Case,
    Diagnosis,
    Draft,
    Drawn,
    MachineAnswer,
    MapVerdict,
    Mode,
    Reason,
    RevealedReview,
    Review,
    Role,
    Stage,
)
from ipfvision.core.slice import Scale, Series
from ipfvision.errors import ReviewChanged, ReviewRefused
from ipfvision.store import Store, parse_address
from ipfvision.workflow.intake import take_in
from ipfvision.workflow.studies import LONGEST_PAUSE_SECONDS, Studies, find_scans, split_pictures
from ipfvision.workflow.study_archive import write_study
from ipfvision.workflow.uploads import Upload
from tests.ct_files import COLUMNS, ROWS, change, dataset, scan, to_bytes
from tests.reviewing import MODEL, SHAPE, Clock, answer, box, read_whole, refusal, said, stack

pytestmark = pytest.mark.xdist_group("postgresql")


@pytest.fixture
def studies(database_url: str) -> Iterator[Studies]:
    with Studies.open(database_url) as opened:
        yield opened


def _study(studies: Studies, cases: int = 3, mode: Mode = Mode.BLINDED, readers: tuple[str, ...] = ("Bob", "Eve")) -> str:
    study = studies.create("Trial", "Ada", mode, seed=7)
    studies.add_cases(study.id, "Ada", [stack(seed) for seed in range(1, cases + 1)])
    for reader in readers:
        studies.join(study.id, reader)
    return study.id


def _begin(studies: Studies, study: str, reader: str = "Bob") -> BlindReview:
    case = studies.next_case(study, reader)
    assert case is not None
    begun = studies.open_case(study, case.id, reader)
    assert isinstance(begun, BlindReview)
    return begun


def _never(_: Case) -> MachineAnswer:
    pytest.fail("the machine was asked")


def _show(studies: Studies, study: str, reader: str = "Bob", ask: Callable[[Case], MachineAnswer] = answer) -> RevealedReview:
    begun = _begin(studies, study, reader)
    studies.lock(begun.id, reader, begun.revision, said(), MODEL)
    shown = studies.reveal(begun.id, reader, ask)
    assert isinstance(shown, RevealedReview)
    return shown


def test_a_case_is_read_blind_then_locked_then_shown_then_finished(studies: Studies) -> None:
    study = _study(studies)
    begun = _begin(studies, study)
    assert begun.stage is Stage.READING
    assert begun.draft == Draft()

    revision = studies.autosave(begun.id, "Bob", begun.revision, Draft(comment="a first look"))
    locked = studies.lock(begun.id, "Bob", revision, said(Diagnosis.PROBABLE_UIP, 3), MODEL)
    assert isinstance(locked, BlindReview)
    assert locked.stage is Stage.LOCKED

    shown = studies.reveal(begun.id, "Bob", answer)
    assert isinstance(shown, RevealedReview)
    assert shown.draft == said(Diagnosis.PROBABLE_UIP, 3)
    revised = replace(
        shown.draft, diagnosis=Diagnosis.UIP, confidence=5, verdict=MapVerdict.PARTLY, reasons=(Reason.VESSEL, Reason.EMPHYSEMA)
    )
    done = studies.finish(begun.id, "Bob", shown.revision, revised)

    assert isinstance(done, Review)
    assert done.first == said(Diagnosis.PROBABLE_UIP, 3).opinion()
    assert done.revised == revised.opinion()
    assert done.judgment == revised.judgment()
    assert done.times.locked is not None
    assert done.times.revealed is not None
    assert done.times.finished is not None
    assert done.times.opened <= done.times.locked <= done.times.revealed <= done.times.finished
    assert studies.progress(study) == {"Ada": (0, 3), "Bob": (1, 3), "Eve": (0, 3)}
    following = studies.next_case(study, "Bob")
    assert following is not None
    assert following.id != begun.case.id


def test_the_machine_is_not_asked_before_the_opinion_is_locked(studies: Studies) -> None:
    begun = _begin(studies, _study(studies))
    studies.autosave(begun.id, "Bob", begun.revision, said())
    with pytest.raises(ReviewRefused, match="lock it first"):
        studies.reveal(begun.id, "Bob", _never)
    assert isinstance(studies.open_case(begun.study.id, begun.case.id, "Bob"), BlindReview)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_that_no_column_holds_is_refused(studies: Studies, seed: int) -> None:
    with pytest.raises(ReviewRefused, match="from 0 to 2147483647"):
        studies.create("Trial", "Ada", seed=seed)


def test_a_blind_review_has_no_place_for_an_answer() -> None:
    names = {field.name for field in dataclasses.fields(BlindReview)}
    assert names == {"id", "study", "case", "reader", "revision", "draft", "times", "first"}


def test_a_locked_opinion_cannot_be_edited_or_locked_again(studies: Studies) -> None:
    begun = _begin(studies, _study(studies))
    locked = studies.lock(begun.id, "Bob", begun.revision, said(), MODEL)
    assert isinstance(locked, BlindReview)
    with pytest.raises(ReviewRefused, match="locked"):
        studies.autosave(begun.id, "Bob", locked.revision, said(Diagnosis.ALTERNATIVE))
    with pytest.raises(ReviewChanged):
        studies.lock(begun.id, "Bob", locked.revision, said(Diagnosis.ALTERNATIVE), MODEL)
    again = studies.open_case(begun.study.id, begun.case.id, "Bob")
    assert isinstance(again, BlindReview)
    assert again.first == said().opinion()


def test_nothing_is_locked_or_finished_with_too_little_said(studies: Studies) -> None:
    study = _study(studies)
    begun = _begin(studies, study)
    for draft in (Draft(), Draft(diagnosis=Diagnosis.UIP), Draft(confidence=3)):
        with pytest.raises(ReviewRefused, match="diagnosis and a confidence"):
            studies.lock(begun.id, "Bob", begun.revision, draft, MODEL)
    with pytest.raises(ReviewRefused, match="answer was seen"):
        studies.finish(begun.id, "Bob", begun.revision, said())
    studies.lock(begun.id, "Bob", begun.revision, said(), MODEL)
    shown = studies.reveal(begun.id, "Bob", answer)
    assert isinstance(shown, RevealedReview)
    for draft in (shown.draft, replace(shown.draft, verdict=MapVerdict.DISAGREES)):
        with pytest.raises(ReviewRefused, match="verdict"):
            studies.finish(begun.id, "Bob", shown.revision, draft)


def test_a_drawing_or_map_of_another_size_is_refused_before_it_is_written(studies: Studies) -> None:
    begun = _begin(studies, _study(studies))
    other_size = Drawn.of(0, Finding.HONEYCOMBING, np.ones((ROWS + 1, COLUMNS), np.bool_))
    for wrong in (other_size, replace(box(), slice_index=1)):
        draft = replace(said(), drawings=(wrong,))
        with pytest.raises(ValueError, match="a slice of its case"):
            studies.autosave(begun.id, "Bob", begun.revision, draft)
        with pytest.raises(ValueError, match="a slice of its case"):
            studies.lock(begun.id, "Bob", begun.revision, draft, MODEL)
    studies.lock(begun.id, "Bob", begun.revision, said(), MODEL)
    two_slices = replace(begun.case, slices=begun.case.slices * 2)
    larger = replace(begun.case, slices=(replace(begun.case.slices[0], shape=(ROWS, COLUMNS + 1)),))
    for case, sentence in ((two_slices, "slices of its case"), (larger, "size of its slice")):
        with pytest.raises(ValueError, match=sentence):
            studies.reveal(begun.id, "Bob", lambda _, case=case: answer(case))  # type: ignore[misc]
    shown = studies.reveal(begun.id, "Bob", answer)
    assert isinstance(shown, RevealedReview)
    with pytest.raises(ValueError, match="a slice of its case"):
        studies.finish(begun.id, "Bob", shown.revision, replace(said(), drawings=(other_size,), verdict=MapVerdict.AGREES))


def test_a_case_without_a_map_needs_no_verdict(studies: Studies) -> None:
    shown = _show(studies, _study(studies), ask=refusal)
    done = studies.finish(shown.id, "Bob", shown.revision, shown.draft)
    assert isinstance(done, Review)
    assert done.judgment is None
    assert done.agreement == ()


def test_in_an_open_study_the_answer_comes_first_and_there_is_no_lock(studies: Studies) -> None:
    study = _study(studies, mode=Mode.OPEN)
    begun = _begin(studies, study)
    shown = studies.reveal(begun.id, "Bob", answer)
    assert isinstance(shown, RevealedReview)
    with pytest.raises(ReviewRefused, match="nothing left to lock"):
        studies.lock(begun.id, "Bob", shown.revision, said(), MODEL)
    done = studies.finish(begun.id, "Bob", shown.revision, replace(said(), verdict=MapVerdict.AGREES))
    assert isinstance(done, Review)
    assert done.first is None
    assert done.times.locked is None
    assert not done.model_changed


def test_agreement_is_that_of_the_map_that_was_shown(studies: Studies) -> None:
    shown = _show(studies, _study(studies))
    drawn = replace(shown.draft, drawings=(box(2, 30),), verdict=MapVerdict.AGREES)
    done = studies.finish(shown.id, "Bob", shown.revision, drawn)
    assert isinstance(done, Review)
    explanation = answer(shown.case).slices[0].explanation
    assert explanation is not None
    heatmap, mask = explanation.heatmap(), box(2, 30).mask()
    lit = heatmap >= heatmap.max() * np.float32(0.5)
    assert done.agreement[0].dice == pytest.approx(2 * (lit & mask).sum() / (lit.sum() + mask.sum()), abs=1e-6)
    assert done.agreement[0].pointing == mask[np.unravel_index(heatmap.argmax(), mask.shape)]
    with_lungs = agree(
        explanation, Lungs(np.ones(SHAPE, np.bool_)), [Annotation(mask, Said(Finding.HONEYCOMBING, "reader"))], None
    )
    assert done.agreement[0].rank_accuracy == with_lungs.rank_accuracy


def test_what_was_shown_once_is_shown_again_to_the_last_bit_after_a_restart(studies: Studies, database_url: str) -> None:
    shown = _show(studies, _study(studies))
    with Studies.open(database_url) as restarted:
        again = restarted.open_case(shown.study.id, shown.case.id, "Bob")
        assert isinstance(again, RevealedReview)
        assert isinstance(restarted.reveal(shown.id, "Bob", _never), RevealedReview)
    first, second = (one.answer.slices[0] for one in (shown, again))
    assert first.prediction == second.prediction == answer(shown.case).slices[0].prediction
    assert first.explanation is not None
    assert second.explanation is not None
    expected = answer(shown.case).slices[0].explanation
    assert expected is not None
    np.testing.assert_array_equal(second.explanation.cells, expected.cells)
    assert second.explanation.crop == expected.crop


def test_a_half_drawn_case_is_there_after_a_restart(studies: Studies, database_url: str) -> None:
    begun = _begin(studies, _study(studies))
    draft = Draft(drawings=(box(),), comment="halfway")
    revision = studies.autosave(begun.id, "Bob", begun.revision, draft)
    with Studies.open(database_url) as restarted:
        again = restarted.open_case(begun.study.id, begun.case.id, "Bob")
        assert isinstance(again, BlindReview)
        assert (again.id, again.revision, again.draft) == (begun.id, revision, draft)
        assert again.draft.drawings[0].mask().sum() == 12 * 16
        assert [item.stage for item in restarted.worklist(begun.study.id, "Bob")].count(Stage.READING) == 1


def test_of_two_tabs_the_slower_one_is_told_and_overwrites_nothing(studies: Studies) -> None:
    study = _study(studies)
    first = _begin(studies, study)
    second = _begin(studies, study)
    assert first.id == second.id
    studies.autosave(first.id, "Bob", first.revision, Draft(comment="from the first tab"))
    for change_ in (
        lambda: studies.autosave(second.id, "Bob", second.revision, Draft(comment="from the second tab")),
        lambda: studies.lock(second.id, "Bob", second.revision, said(), MODEL),
    ):
        with pytest.raises(ReviewChanged, match="another tab"):
            change_()
    again = studies.open_case(study, first.case.id, "Bob")
    assert isinstance(again, BlindReview)
    assert again.draft.comment == "from the first tab"


def test_eight_tabs_that_do_everything_at_once_make_one_review(studies: Studies) -> None:
    study = _study(studies)
    case = studies.cases(study)[0]
    together = threading.Barrier(8)

    def at_once(change_: Callable[[], object]) -> list[object]:
        def run(_: int) -> object:
            together.wait()
            try:
                return change_()
            except (ReviewChanged, ReviewRefused) as error:
                return error

        with ThreadPoolExecutor(8) as tabs:
            return list(tabs.map(run, range(8)))

    opened = at_once(lambda: studies.open_case(study, case.id, "Bob"))
    assert len({one.id for one in opened if isinstance(one, BlindReview)}) == 1
    begun = opened[0]
    assert isinstance(begun, BlindReview)
    locked = at_once(lambda: studies.lock(begun.id, "Bob", begun.revision, said(), MODEL))
    assert sum(isinstance(one, BlindReview) for one in locked) == 1
    seeds = iter(range(100))
    shown = at_once(lambda: studies.reveal(begun.id, "Bob", lambda case: answer(case, seed=next(seeds))))
    maps = {one.answer.slices[0].explanation.peak for one in shown if isinstance(one, RevealedReview)}  # type: ignore[union-attr]
    assert len(maps) == 1
    revision = max(one.revision for one in shown if isinstance(one, RevealedReview))
    done = at_once(lambda: studies.finish(begun.id, "Bob", revision, replace(said(), verdict=MapVerdict.AGREES)))
    assert sum(isinstance(one, Review) for one in done) == 1
    assert len(studies.reviews(study, "Ada", history=True)) == 1


def test_the_same_scan_twice_is_one_case(studies: Studies) -> None:
    study = studies.create("Trial", "Ada")
    added = studies.add_cases(study.id, "Ada", [stack(1, 2, 3), stack(4), stack(3, 1, 2)])
    assert (len(added.cases), added.known) == (2, 1)
    again = studies.add_cases(study.id, "Ada", [stack(2, 3, 1), stack(5)])
    assert ([case.number for case in again.cases], again.known) == ([3], 1)
    assert [case.number for case in studies.cases(study.id)] == [1, 2, 3]
    other = studies.create("Another trial", "Ada")
    assert len(studies.add_cases(other.id, "Ada", [stack(4)]).cases) == 1


def test_cases_that_are_added_from_two_places_at_once_are_all_there_once(studies: Studies) -> None:
    study = studies.create("Trial", "Ada")
    with ThreadPoolExecutor(8) as coordinators:
        list(coordinators.map(lambda seed: studies.add_cases(study.id, "Ada", [stack(seed), stack(99)]), range(24)))
    assert sorted(case.number for case in studies.cases(study.id)) == list(range(1, 26))


def test_each_reader_has_an_order_that_stays_when_cases_are_added(studies: Studies) -> None:
    study = _study(studies, cases=12)
    orders = {reader: [item.case.id for item in studies.worklist(study, reader)] for reader in ("Ada", "Bob", "Eve")}
    assert all(sorted(order) == sorted(orders["Ada"]) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 3
    assert orders["Bob"] != [case.id for case in studies.cases(study)]
    studies.add_cases(study, "Ada", [stack(100), stack(101)])
    kept = [item.case.id for item in studies.worklist(study, "Bob") if item.case.number <= 12]
    assert kept == orders["Bob"]


def test_a_model_that_changed_between_lock_and_answer_is_kept_with_both_hashes(studies: Studies) -> None:
    shown = _show(studies, _study(studies), ask=lambda case: answer(case, model="b" * 64))
    done = studies.finish(shown.id, "Bob", shown.revision, replace(shown.draft, verdict=MapVerdict.AGREES))
    assert isinstance(done, Review)
    assert done.model_changed
    assert (done.model_sha256_at_lock, done.answer.model_sha256) == (MODEL, "b" * 64)
    study = done.study.id
    case = studies.next_case(study, "Bob")
    assert case is not None
    assert not read_whole(studies, study, case.id, "Bob").model_changed


def test_a_correction_is_another_review_and_the_old_one_stays(studies: Studies) -> None:
    study = _study(studies)
    case = studies.cases(study)[0]
    old = read_whole(studies, study, case.id, "Bob", Diagnosis.INDETERMINATE)
    reopened = studies.reopen(old.id, "Bob")
    assert isinstance(reopened, RevealedReview)
    assert reopened.stage is Stage.REOPENED
    assert reopened.draft.opinion() == old.revised
    assert [one.id for one in studies.reviews(study, "Ada")] == [old.id]
    assert studies.progress(study)["Bob"] == (1, 3)

    new = studies.finish(reopened.id, "Bob", reopened.revision, replace(reopened.draft, diagnosis=Diagnosis.UIP))
    assert isinstance(new, Review)
    assert new.supersedes == old.id
    assert new.first == old.first
    assert new.times.seconds >= old.times.seconds
    assert [one.id for one in studies.reviews(study, "Ada")] == [new.id]
    assert [one.id for one in studies.reviews(study, "Ada", history=True)] == [old.id, new.id]
    assert studies.reviews(study, "Ada", history=True)[0].revised.diagnosis is Diagnosis.INDETERMINATE
    third = studies.reopen(new.id, "Bob")
    assert isinstance(third, RevealedReview)
    assert third.first == old.first
    again = studies.reopen(old.id, "Bob")  # from a tab that knows only the first
    assert again.id == third.id


def test_nobody_else_opens_changes_or_reopens_a_readers_review(studies: Studies) -> None:
    study = _study(studies)
    case = studies.cases(study)[0]
    begun = studies.open_case(study, case.id, "Bob")
    assert isinstance(begun, BlindReview)
    for stranger in ("Eve", "Ada", "Nobody"):
        for change_ in (
            lambda: studies.autosave(begun.id, stranger, begun.revision, said()),  # noqa: B023
            lambda: studies.lock(begun.id, stranger, begun.revision, said(), MODEL),  # noqa: B023
            lambda: studies.reveal(begun.id, stranger, _never),  # noqa: B023
            lambda: studies.finish(begun.id, stranger, begun.revision, said()),  # noqa: B023
            lambda: studies.reopen(begun.id, stranger),  # noqa: B023
        ):
            with pytest.raises(ReviewRefused, match="another reader's"):
                change_()
    assert studies.open_case(study, case.id, "Eve").id != begun.id
    with pytest.raises(ReviewRefused, match="not in the study"):
        studies.open_case(study, case.id, "Nobody")
    with pytest.raises(ReviewRefused, match="no such case"):
        studies.open_case(study, "0" * 32, "Bob")
    with pytest.raises(ReviewRefused, match="not finished"):
        studies.reopen(begun.id, "Bob")


def test_a_reader_sees_own_reviews_a_coordinator_all_and_a_stranger_none(studies: Studies) -> None:
    study = _study(studies)
    for case in studies.cases(study):
        read_whole(studies, study, case.id, "Bob")
        read_whole(studies, study, case.id, "Eve")
    assert len(studies.reviews(study, "Ada")) == 6
    assert {one.reader for one in studies.reviews(study, "bob ")} == {"Bob"}
    assert studies.reviews(study, "Mallory") == ()
    for stranger in ("Bob", "Mallory"):
        with pytest.raises(ReviewRefused, match="coordinator"):
            studies.add_cases(study, stranger, [stack(50)])
        with pytest.raises(ReviewRefused, match="coordinator"):
            write_study(studies, study, stranger)


def test_a_name_is_the_same_reader_however_it_is_typed(studies: Studies) -> None:
    study = _study(studies, readers=())
    assert studies.join(study, "  Émile   Müller ").name == "Émile Müller"
    assert studies.join(study, "E\u0301MILE MÜLLER").name == "Émile Müller"
    assert studies.join(study, "ada").role is Role.COORDINATOR
    assert [one.name for one in studies.members(study)] == ["Ada", "Émile Müller"]
    for name in ("", "   ", "x" * 201, "a\x00b"):
        with pytest.raises(ReviewRefused, match="name is empty"):
            studies.join(study, name)


def test_a_clock_that_jumps_back_takes_no_time_away(database_url: str) -> None:
    clock = Clock()
    with Studies(Store(parse_address(database_url)), clock.wall, clock.stopwatch) as studies:
        study = _study(studies)
        begun = _begin(studies, study)
        clock.pass_by(30, wall=-3600)
        revision = studies.autosave(begun.id, "Bob", begun.revision, said())
        clock.pass_by(12)
        studies.lock(begun.id, "Bob", revision, said(), MODEL)
        clock.pass_by(2)
        shown = studies.reveal(begun.id, "Bob", answer)
        assert isinstance(shown, RevealedReview)
        clock.pass_by(20, wall=-86400)
        done = studies.finish(begun.id, "Bob", shown.revision, replace(shown.draft, verdict=MapVerdict.AGREES))
        assert isinstance(done, Review)
    assert done.times.seconds_to_lock == 42
    assert done.times.seconds == 62  # the two seconds of waiting for the answer are nobody's
    assert done.times.finished is not None
    assert done.times.finished - done.times.opened < timedelta(0)  # the clock as it was


def test_a_pause_counts_only_so_long_and_a_restart_not_at_all(database_url: str) -> None:
    clock = Clock()
    with Studies(Store(parse_address(database_url)), clock.wall, clock.stopwatch) as studies:
        begun = _begin(studies, _study(studies))
        clock.pass_by(2 * 3600)
        revision = studies.autosave(begun.id, "Bob", begun.revision, said())
    clock.pass_by(12 * 3600)
    with Studies(Store(parse_address(database_url)), clock.wall, clock.stopwatch) as studies:
        again = studies.open_case(begun.study.id, begun.case.id, "Bob")
        assert again.times.seconds == LONGEST_PAUSE_SECONDS
        clock.pass_by(5)
        locked = studies.lock(begun.id, "Bob", revision, said(), MODEL)
    assert locked.times.seconds_to_lock == LONGEST_PAUSE_SECONDS + 5


def test_scans_are_found_again_by_their_pixels_in_any_order_and_company(studies: Studies) -> None:
    study = studies.create("Trial", "Ada")
    cases = studies.add_cases(study.id, "Ada", [stack(1, 2, 3), stack(4, 5), stack(6)]).cases
    given = [one for part in (stack(1, 2, 3), stack(4), stack(6), stack(7)) for one in part.slices]
    random.Random(3).shuffle(given)
    found = find_scans(cases, [Series(tuple(given), "another.series")])
    assert set(found) == {cases[0].id, cases[2].id}
    assert [one.source.sop_instance_uid for one in found[cases[0].id].slices] == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]


def test_pictures_that_came_together_are_cases_of_their_own_and_slices_of_a_scan_are_not() -> None:
    grey = np.zeros(SHAPE, np.float32)
    pictures = Series(
        tuple(
            replace(one, scale=Scale.GREY, pixels=grey, source=replace(one.source, format="PNG")) for one in stack(1, 2).slices
        )
    )
    found = split_pictures([pictures, stack(3, 4)])
    assert [len(one.slices) for one in found] == [1, 1, 2]
    assert found[2].series_instance_uid == "1.2.3"


def test_the_next_case_is_one_whose_scan_is_at_hand(studies: Studies) -> None:
    study = _study(studies)
    order = [item.case for item in studies.worklist(study, "Bob")]
    assert studies.next_case(study, "Bob", {order[1].id, order[2].id}) == order[1]
    assert studies.next_case(study, "Bob", set()) is None


SENTINELS = {
    "PatientName": "Zzyzxname^Patient",
    "PatientID": "ZZYZXID42",
    "IssuerOfPatientID": "ZZYZXISSUER",
    "PatientBirthDate": "19031122",
    "PatientBirthTime": "031415",
    "OtherPatientIDs": "ZZYZXOTHER",
    "PatientMotherBirthName": "Zzyzxmother",
    "PatientAddress": "Zzyzxstreet 1",
    "PatientComments": "zzyzxcomment",
    "PatientTelephoneNumbers": "0999111222333",
    "ReferringPhysicianName": "Zzyzxreferrer",
    "PerformingPhysicianName": "Zzyzxperformer",
    "OperatorsName": "Zzyzxoperator",
    "InstitutionName": "Zzyzxhospital",
    "InstitutionAddress": "Zzyzxroad",
    "StationName": "ZZYZXSTATION",
    "AccessionNumber": "ZZYZXACCESSION",
    "StudyDescription": "Zzyzxstudy of somebody",
    "SeriesDescription": "Zzyzxseries of somebody",
    "ImageComments": "zzyzximagecomment",
    "AdditionalPatientHistory": "zzyzxhistory",
    "StudyID": "ZZYZXSTUDYID",
    "StudyDate": "19870609",
    "SeriesDate": "19870609",
    "AcquisitionDate": "19870609",
    "ContentDate": "19870609",
    "StudyTime": "171819.202122",
    "RequestingPhysician": "Zzyzxrequester",
    "AdmissionID": "ZZYZXADMISSION",
    "DeviceSerialNumber": "ZZYZXSERIAL",
}
TELLTALES = ("zzyzx", "19031122", "19870609", "171819.2", "0999111222333", "031415")


def test_nothing_that_names_a_patient_reaches_the_database_the_export_or_the_logs(
    studies: Studies, database_url: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    files = [
        Upload(f"Zzyzxname {number}/zzyzxfile{number}.dcm", to_bytes(change(dataset(scan(z=z)), **SENTINELS)))
        for number, z in enumerate((0.0, 1.0, 2.0))
    ]
    intake = take_in(files)
    assert len(intake.series[0].slices) == 3
    assert "Zzyzxname" in intake.series[0].slices[0].source.file  # or the search below would prove nothing
    study = studies.create("Trial", "Ada")
    (case,) = studies.add_cases(study.id, "Ada", intake.series).cases
    assert case.slices[0].sop_instance_uid is not None
    old = read_whole(studies, study.id, case.id, "Ada")
    studies.reopen(old.id, "Ada")
    archive = write_study(studies, study.id, "Ada")

    kept = [*_texts(database_url), caplog.text, repr(studies.take_out(study.id, "Ada")), archive.decode("latin-1")]
    if database_url.startswith("sqlite"):
        found = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.name.endswith("-wal") for path in found)
        kept += [path.read_bytes().decode("latin-1") for path in found]
    else:
        kept.append(request.getfixturevalue("postgresql").log.read_text("utf-8"))
    assert any(intake.series[0].slices[0].source.pixel_sha256 in text for text in kept)
    for text in kept:
        for telltale in TELLTALES:
            assert telltale not in text.lower()


def _texts(url: str) -> list[str]:
    """Every value of every table."""
    engine = sa.create_engine(parse_address(url))
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows: list[Any] = [row for table in tables.sorted_tables for row in connection.execute(sa.select(table))]
    engine.dispose()
    assert len(tables.tables) == 8
    return [str(value) for row in rows for value in row]
