import hashlib
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipfvision.core.review import BlindReview, Diagnosis, Draft, MapVerdict, Mode, RevealedReview, Review, Role, Stage
from ipfvision.errors import ArchiveRefused, ReviewChanged, ReviewRefused
from ipfvision.store.content import from_draft, write
from ipfvision.workflow.studies import Studies
from ipfvision.workflow.study_archive import read_study, write_study
from tests.reviewing import MODEL, Clock, answer, read_whole, said, stack

pytestmark = pytest.mark.xdist_group("postgresql")


@pytest.fixture
def studies(database_url: str) -> Iterator[Studies]:
    with Studies.open(database_url) as opened:
        yield opened


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Studies]:
    """Another machine."""
    with Studies.open(f"sqlite:///{tmp_path / 'elsewhere.sqlite'}") as opened:
        yield opened


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A study's .zip."""
    with Studies.open(f"sqlite:///{tmp_path_factory.mktemp('exported') / 'reviews.sqlite'}") as studies:
        return write_study(studies, _study(studies), "Ada")


def _study(studies: Studies) -> str:
    """Three cases: one corrected, one locked, one half drawn."""
    study = studies.create("Trial of ∅ and 线", "Ada", seed=3)
    cases = studies.add_cases(study.id, "Ada", [stack(1, 2), stack(3), stack(4)]).cases
    studies.join(study.id, "Bob")
    old = read_whole(studies, study.id, cases[0].id, "Bob", Diagnosis.INDETERMINATE)
    reopened = studies.reopen(old.id, "Bob")
    assert isinstance(reopened, RevealedReview)
    studies.finish(reopened.id, "Bob", reopened.revision, replace(reopened.draft, diagnosis=Diagnosis.UIP))
    locked = studies.open_case(study.id, cases[1].id, "Bob")
    studies.lock(locked.id, "Bob", 0, said(), MODEL)
    half = studies.open_case(study.id, cases[2].id, "Bob")
    studies.autosave(half.id, "Bob", 0, Draft(comment="halfway"))
    return study.id


def test_a_study_comes_back_on_another_machine_as_it_was(studies: Studies, elsewhere: Studies) -> None:
    study = _study(studies)
    content = write_study(studies, study, "Ada")
    taken_in = read_study(elsewhere, content)
    assert taken_in == studies.get(study)
    assert elsewhere.members(study) == studies.members(study)
    assert elsewhere.cases(study) == studies.cases(study)
    assert elsewhere.worklist(study, "Bob") == studies.worklist(study, "Bob")
    here, there = (one.reviews(study, "Ada", history=True) for one in (studies, elsewhere))
    assert [_flat(one) for one in there] == [_flat(one) for one in here]
    assert len(there) == 2
    assert write_study(elsewhere, study, "Ada") == content

    stages = {item.case.number: item for item in elsewhere.worklist(study, "Bob")}
    assert [stages[number].stage for number in (1, 2, 3)] == [Stage.FINISHED, Stage.LOCKED, Stage.READING]
    half = elsewhere.open_case(study, stages[3].case.id, "Bob")
    assert isinstance(half, BlindReview)
    assert half.draft.comment == "halfway"
    locked = elsewhere.open_case(study, stages[2].case.id, "Bob")
    shown = elsewhere.reveal(locked.id, "Bob", answer)
    assert isinstance(shown, RevealedReview)
    assert isinstance(
        elsewhere.finish(shown.id, "Bob", shown.revision, replace(shown.draft, verdict=MapVerdict.AGREES)), Review
    )


def _flat(one: Review) -> tuple[object, ...]:
    maps = tuple(part.explanation.cells.tobytes() for part in one.answer.slices if part.explanation is not None)
    return one.id, one.reader, one.first, one.revised, one.judgment, one.agreement, one.times, one.supersedes, maps


def test_taking_in_twice_changes_nothing(studies: Studies) -> None:
    study = _study(studies)
    content = write_study(studies, study, "Ada")
    for _ in range(2):
        read_study(studies, content)
    assert write_study(studies, study, "Ada") == content


def test_two_places_read_on_and_join_what_they_have(studies: Studies, elsewhere: Studies) -> None:
    study = _study(studies)
    read_study(elsewhere, write_study(studies, study, "Ada"))
    cases = studies.cases(study)
    elsewhere.join(study, "Eve")
    for case in cases:
        read_whole(elsewhere, study, case.id, "Eve")
    here = studies.open_case(study, cases[2].id, "Bob")
    assert isinstance(here, BlindReview)
    studies.autosave(here.id, "Bob", here.revision, Draft(comment="further on"))

    read_study(studies, write_study(elsewhere, study, "Ada"))
    assert studies.progress(study) == {"Ada": (0, 3), "Bob": (1, 3), "Eve": (3, 3)}
    kept = studies.open_case(study, cases[2].id, "Bob")
    assert isinstance(kept, BlindReview)
    assert kept.draft.comment == "further on"


def test_what_was_finished_elsewhere_is_finished_here(studies: Studies, elsewhere: Studies) -> None:
    study = _study(studies)
    read_study(elsewhere, write_study(studies, study, "Ada"))
    locked = next(item.case for item in elsewhere.worklist(study, "Bob") if item.stage is Stage.LOCKED)
    there = elsewhere.open_case(study, locked.id, "Bob")
    shown = elsewhere.reveal(there.id, "Bob", answer)
    assert isinstance(shown, RevealedReview)
    elsewhere.finish(shown.id, "Bob", shown.revision, replace(shown.draft, verdict=MapVerdict.AGREES))
    read_study(studies, write_study(elsewhere, study, "Ada"))
    assert isinstance(studies.open_case(study, locked.id, "Bob"), Review)
    assert studies.progress(study)["Bob"] == (2, 3)


def _two_clocks(studies: Studies, elsewhere: Studies) -> tuple[Clock, Clock]:
    clocks = Clock(), Clock()
    for one, clock in zip((studies, elsewhere), clocks, strict=True):
        one._stopwatch = clock.stopwatch
    return clocks


def test_a_case_begun_here_and_locked_elsewhere_comes_back_locked_with_all_else_that_was_read_there(
    studies: Studies, elsewhere: Studies
) -> None:
    _, clock = _two_clocks(studies, elsewhere)
    study = studies.create("Trial", "Ada").id
    first, second = studies.add_cases(study, "Ada", [stack(1), stack(2)]).cases
    begun = studies.open_case(study, first.id, "Ada")
    read_study(elsewhere, write_study(studies, study, "Ada"))
    elsewhere.join(study, "Bob")
    read_whole(elsewhere, study, second.id, "Bob")
    elsewhere.open_case(study, first.id, "Ada")
    clock.pass_by(60)
    there = elsewhere.lock(begun.id, "Ada", 0, said(), MODEL)
    assert there.times.seconds == 60

    read_study(studies, write_study(elsewhere, study, "Ada"))
    here = studies.open_case(study, first.id, "Ada")
    assert isinstance(here, BlindReview)
    assert (here.stage, here.draft, here.revision, here.times.seconds) == (Stage.LOCKED, said(), 1, 60)
    assert studies.progress(study) == {"Ada": (0, 2), "Bob": (1, 2)}


@pytest.mark.parametrize("mode", Mode)
def test_of_two_drafts_the_one_that_went_further_stays(studies: Studies, elsewhere: Studies, mode: Mode) -> None:
    study = studies.create("Trial", "Ada", mode).id
    (case,) = studies.add_cases(study, "Ada", [stack(1)]).cases
    review = studies.open_case(study, case.id, "Ada")
    if mode is Mode.OPEN:
        review = studies.reveal(review.id, "Ada", answer)
    assert not isinstance(review, Review)
    read_study(elsewhere, write_study(studies, study, "Ada"))
    revision = elsewhere.autosave(review.id, "Ada", review.revision, Draft(comment="halfway"))
    elsewhere.autosave(review.id, "Ada", revision, Draft(comment="further on"))
    studies.autosave(review.id, "Ada", review.revision, Draft(comment="hardly begun"))
    read_study(studies, write_study(elsewhere, study, "Ada"))
    for place in (studies, elsewhere):
        kept = place.open_case(study, case.id, "Ada")
        assert not isinstance(kept, Review)
        assert kept.draft.comment == "further on"
    with pytest.raises(ReviewChanged):  # a tab that shows the draft that went
        studies.autosave(review.id, "Ada", revision, Draft(comment="not seen"))


def test_a_draft_saved_more_often_does_not_take_the_place_of_a_locked_one(studies: Studies, elsewhere: Studies) -> None:
    _, clock = _two_clocks(studies, elsewhere)
    study = studies.create("Trial", "Ada").id
    (case,) = studies.add_cases(study, "Ada", [stack(1)]).cases
    begun = studies.open_case(study, case.id, "Ada")
    read_study(elsewhere, write_study(studies, study, "Ada"))
    for revision in range(3):
        studies.autosave(begun.id, "Ada", revision, Draft(comment=f"draft {revision}"))
    elsewhere.open_case(study, case.id, "Ada")
    clock.pass_by(60)
    elsewhere.lock(begun.id, "Ada", 0, said(), MODEL)

    before = write_study(studies, study, "Ada")
    read_study(studies, write_study(elsewhere, study, "Ada"))
    here = studies.open_case(study, case.id, "Ada")
    assert isinstance(here, BlindReview)
    assert (here.stage, here.draft, here.revision, here.times.seconds) == (Stage.LOCKED, said(), 4, 60)
    read_study(elsewhere, before)
    there = elsewhere.open_case(study, case.id, "Ada")
    assert isinstance(there, BlindReview)
    assert (there.stage, there.draft, there.revision, there.times.seconds) == (Stage.LOCKED, said(), 1, 60)


def test_one_reader_who_read_one_case_in_two_places_is_not_counted_twice(studies: Studies, elsewhere: Studies) -> None:
    study = studies.create("Trial", "Ada")
    (case,) = studies.add_cases(study.id, "Ada", [stack(1)]).cases
    read_study(elsewhere, write_study(studies, study.id, "Ada"))
    read_whole(studies, study.id, case.id, "Ada")
    read_whole(elsewhere, study.id, case.id, "Ada")
    before = write_study(studies, study.id, "Ada")
    with pytest.raises(ArchiveRefused, match="contradicts"):
        read_study(studies, write_study(elsewhere, study.id, "Ada"))
    assert write_study(studies, study.id, "Ada") == before


def _repacked(content: bytes, change: Callable[[dict[str, bytes]], None], *, honest: bool) -> bytes:
    """The .zip with changed files; with an honest manifest, as by somebody who means it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    if honest:
        manifest = json.loads(files["manifest.json"])
        manifest["files"] = {
            name: {"bytes": len(one), "sha256": hashlib.sha256(one).hexdigest()}
            for name, one in files.items()
            if name != "manifest.json"
        }
        files["manifest.json"] = json.dumps(manifest).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, one in files.items():
            archive.writestr(name, one)
    return packed.getvalue()


def _rows(table: str, change: Callable[[list[dict[str, Any]]], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        rows = [json.loads(line) for line in files[f"{table}.jsonl"].splitlines()]
        change(rows)
        files[f"{table}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()

    return apply


def _set(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[0].update(values)


TAMPERED = {
    "another comment": lambda files: files.update({"steps.jsonl": files["steps.jsonl"].replace(b"both bases", b"both apices")}),
    "a table is missing": lambda files: files.pop("steps.jsonl"),
    "a file too many": lambda files: files.update({"more.jsonl": b"{}\n"}),
    "no manifest": lambda files: files.pop("manifest.json"),
    "a manifest that is none": lambda files: files.update({"manifest.json": b"[1]"}),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_a_zip_that_is_not_as_its_manifest_says_is_refused_whole(studies: Studies, exported: bytes, what: str) -> None:
    content = _repacked(exported, TAMPERED[what], honest=False)
    with pytest.raises(ArchiveRefused, match="damaged or was changed"):
        read_study(studies, content)
    assert studies.all() == ()


def _lock_of_a_shown_case(rows: list[dict[str, Any]]) -> dict[str, Any]:
    shown = {row["review_id"] for row in rows if row["kind"] == "revealed"}
    return next(row for row in rows if row["kind"] == "locked" and row["review_id"] in shown)


def _steps(change: Callable[[list[dict[str, Any]]], None]) -> Callable[[dict[str, bytes]], None]:
    return _rows("steps", lambda rows: change([next(row for row in rows if row["kind"] == "finished")]))


def _member(**values: str) -> Callable[[dict[str, bytes]], None]:
    return _rows("members", lambda rows: rows.append({**rows[0], "role": "reader", **values}))


def _huge(drawing: dict[str, Any]) -> dict[str, Any]:
    return {**drawing, "shape": [2**40, 1], "runs": [0, 2**40]}


def _unread_and_huge(files: dict[str, bytes]) -> None:
    files.update(dict.fromkeys(("reviews.jsonl", "steps.jsonl", "drafts.jsonl"), b""))
    _rows("case_slices", lambda rows: [row.update(rows=60000, columns=60000) for row in rows])(files)


def _said(kind: str, **values: Any) -> Callable[[dict[str, bytes]], None]:
    """Change what a step says, at a__0__b, to a value or by a function."""

    def apply(rows: list[dict[str, Any]]) -> None:
        row = next(row for row in rows if row["kind"] == kind)
        content = json.loads(row["content"])
        for path, value in values.items():
            *way, last = (int(part) if part.isdigit() else part for part in path.split("__"))
            inner = content
            for part in way:
                inner = inner[part]
            inner[last] = value(inner[last]) if callable(value) else value
        row["content"] = json.dumps(content)

    return _rows("steps", apply)


FORGED = {
    "an opinion of nobody": _rows("steps", lambda rows: [row.update(review_id="0" * 32) for row in rows[:1]]),
    "an answer before the lock": _rows("steps", lambda rows: rows.remove(_lock_of_a_shown_case(rows))),
    "no opinion in a step": _rows("steps", _set(content="{}")),
    "no JSON in a step": _rows("steps", _set(content="{")),
    "a time that is none": _rows("steps", _set(at="yesterday")),
    "a number for a text": _rows("members", _set(name=5)),
    "a list for a text": _rows("studies", _set(title=[])),
    "nothing for a text": _rows("studies", _set(title=None)),
    "another mode": _rows("studies", _set(mode="secret")),
    "a study that is not a UUID": _rows("studies", _set(id="x" * 32)),
    "two studies": _rows("studies", lambda rows: rows.append({**rows[0], "id": "0" * 32})),
    "no study": _rows("studies", list.clear),
    "a column too many": _rows("reviews", _set(patient="somebody")),
    "a circle of corrections": _rows("reviews", lambda rows: [row.update(supersedes=row["id"]) for row in rows]),
    "a reader who is not in": _rows("reviews", _set(reader_key="mallory")),
    "a hash that is none": _rows("case_slices", _set(pixel_sha256="x" * 64)),
    "a name that is too long": _rows("studies", _set(application_version="x" * 41)),
    "a case of another study": _rows("cases", _set(study_id="0" * 32)),
    "no draft for what is under way": _rows("drafts", list.clear),
    "a name that cannot be printed": _member(key="", name=" \x07"),
    "two keys for one name": _member(key="bob2", name="Bob"),
    "another role": _member(key="eve", name="Eve", role="owner"),
    "a text with a zero": _rows("cases", _set(series_instance_uid="1\x002")),
    "a text with half a character": _rows("cases", _set(series_instance_uid="\ud800")),
    "a review that is not a UUID": _rows("drafts", _set(review_id="../" + "x" * 29)),
    "a time before all others": _rows("studies", _set(created="0001-01-01T00:00:00+14:00")),
    "a time of joining that is none": _rows("members", _set(joined="")),
    "a seed that no column holds": _rows("studies", _set(seed=2**70)),
    "a number of a case after which there is none": _rows("cases", _set(number=2**31 - 1)),
    "a revision after which there is none": _rows("drafts", _set(revision=2**31 - 1)),
    "a negative revision": _rows("drafts", _set(revision=-1)),
    "endless seconds": _steps(_set(seconds=float("inf"))),
    "seconds beyond all floats": _steps(_set(seconds=10**400)),
    "seconds that are no number": _rows("drafts", _set(seconds=float("nan"))),
    "more seconds than there are": _rows("drafts", _set(seconds=1e300)),
    "a slice too large to show": _unread_and_huge,
    "a drawing too large to show": _said("locked", opinion__drawings__0=_huge),
    "a drawing on half a slice": _said("locked", opinion__drawings__0__slice_index=0.0),
    "a confidence that is true": _said("locked", opinion__confidence=True),
    "a model that is none": _said("locked", model_sha256=5),
    "an overlap that is a text": _said("finished", agreement__0__dice="x"),
    "an overlap above 1": _said("finished", agreement__0__dice=1.5),
    "a rank beyond all floats": _said("finished", agreement__0__rank_accuracy=10**400),
    "a hit that is a number": _said("finished", agreement__0__pointing=2),
    "an overlap on no slice": _said("finished", agreement__0__slice_index=7),
    "a probability that is a text": _said("revealed", answer__slices__0__probability="x"),
    "a probability above 1": _said("revealed", answer__slices__0__probability=1.5),
    "an endless margin": _said("revealed", answer__slices__0__margin=float("inf")),
    "a margin that is no number": _said("revealed", answer__slices__0__margin=float("nan")),
    "a map of no shape": _said("revealed", answer__slices__0__map__shape=[-1, 8]),
    "a map of a shape beyond all": _said("revealed", answer__slices__0__map__shape=[2**70, 1]),
    "a crop beyond all": _said("revealed", answer__slices__0__map__crop__width=2**70),
    "half a crop": _said("revealed", answer__slices__0__map__crop__left=0.5),
    "half a character": _said("finished", opinion__comment="\ud800"),
    "a line that is no row": lambda files: files.update({"steps.jsonl": b"5\n"}),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_zip_with_an_honest_manifest_and_forged_rows_is_refused_whole(studies: Studies, exported: bytes, what: str) -> None:
    content = _repacked(exported, FORGED[what], honest=True)
    with pytest.raises(ArchiveRefused, match=r"is damaged or was changed|contradicts what is here"):
        read_study(studies, content)
    assert studies.all() == ()


def test_a_zip_cannot_add_to_a_study_that_is_not_its_own(studies: Studies, exported: bytes) -> None:
    other = studies.create("Another trial", "Ada")
    (case,) = studies.add_cases(other.id, "Ada", [stack(9)]).cases
    victim = studies.open_case(other.id, case.id, "Ada")
    studies.lock(victim.id, "Ada", 0, said(), MODEL)

    def add(rows: list[dict[str, Any]]) -> None:
        rows.append({**next(row for row in rows if row["kind"] == "revealed"), "review_id": victim.id})

    with pytest.raises(ArchiveRefused):
        read_study(studies, _repacked(exported, _rows("steps", add), honest=True))
    untouched = studies.open_case(other.id, case.id, "Ada")
    assert isinstance(untouched, BlindReview)


def test_nobody_becomes_coordinator_of_a_study_that_is_here_by_a_zip(studies: Studies) -> None:
    study = _study(studies)
    exported = write_study(studies, study, "Ada")

    def mallory_alone(files: dict[str, bytes]) -> None:
        files.update({name: b"" for name in files if name not in ("manifest.json", "studies.jsonl", "members.jsonl")})
        _rows("members", lambda rows: rows.append({**rows.pop(), "key": "mallory", "name": "Mallory", "role": "coordinator"}))(
            files
        )

    def bob_above_ada(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["role"] = "reader" if row["key"] == "ada" else "coordinator"

    read_study(studies, _repacked(exported, mallory_alone, honest=True))
    read_study(studies, _repacked(exported, _rows("members", bob_above_ada), honest=True))
    roles = {one.name: one.role for one in studies.members(study)}
    assert roles == {"Ada": Role.COORDINATOR, "Bob": Role.READER, "Mallory": Role.READER}
    assert studies.reviews(study, "Mallory") == ()
    with pytest.raises(ReviewRefused):
        write_study(studies, study, "Mallory")


@pytest.mark.parametrize("theirs", ["of another reader", "of another case", "not finished"])
def test_a_correction_in_a_zip_takes_no_other_review_off_the_pages(studies: Studies, elsewhere: Studies, theirs: str) -> None:
    study = elsewhere.create("Trial", "Ada").id
    cases = elsewhere.add_cases(study, "Ada", [stack(1), stack(2)]).cases
    elsewhere.join(study, "Bob")
    begun = elsewhere.open_case(study, cases[0].id, "Ada")
    if theirs != "not finished":
        read_whole(elsewhere, study, cases[0].id, "Ada")
    case = cases[1] if theirs == "of another case" else cases[0]
    reader = "bob" if theirs == "of another reader" else "ada"

    def correct(files: dict[str, bytes]) -> None:
        def add(rows: list[dict[str, Any]]) -> None:
            rows.append({**rows[0], "id": "f" * 32, "supersedes": begun.id, "case_id": case.id, "reader_key": reader})

        _rows("reviews", add)(files)
        draft = {"review_id": "f" * 32, "revision": 0, "seconds": 9.0, "saved": "2026-01-01T00:00:00+00:00"}
        draft["content"] = write(from_draft(said()))
        files["drafts.jsonl"] += json.dumps(draft).encode() + b"\n"

    read_study(studies, write_study(elsewhere, study, "Ada"))
    before = write_study(studies, study, "Ada")
    with pytest.raises(ArchiveRefused, match="damaged or was changed"):
        read_study(studies, _repacked(before, correct, honest=True))
    assert write_study(studies, study, "Ada") == before


def test_a_case_that_is_here_does_not_grow_by_a_zip(studies: Studies) -> None:
    study = _study(studies)
    before = write_study(studies, study, "Ada")

    def grow(rows: list[dict[str, Any]]) -> None:
        rows.append({**rows[0], "slice_index": 9})

    with pytest.raises(ArchiveRefused, match="contradicts"):
        read_study(studies, _repacked(before, _rows("case_slices", grow), honest=True))
    assert write_study(studies, study, "Ada") == before


def test_a_zip_that_was_packed_anew_with_the_same_rows_is_taken_in(studies: Studies, exported: bytes) -> None:
    """Or the refusals above would prove nothing."""
    content = _repacked(exported, _rows("steps", lambda rows: None), honest=True)
    assert write_study(studies, read_study(studies, content).id, "Ada") == exported


def test_any_byte_that_is_lost_or_turned_is_refused_or_changes_nothing(elsewhere: Studies, exported: bytes) -> None:
    for position in range(0, len(exported), 37):
        turned = bytearray(exported)
        turned[position] ^= 0x10
        for damaged in (bytes(turned), exported[:position]):
            try:
                read_study(elsewhere, damaged)
            except ArchiveRefused:
                continue
            assert write_study(elsewhere, elsewhere.all()[0].id, "Ada") == exported
    for nothing in (b"", b"PK", b"\x00" * 100):
        with pytest.raises(ArchiveRefused, match="damaged"):
            read_study(elsewhere, nothing)


def test_a_study_of_a_newer_version_is_said(elsewhere: Studies, exported: bytes) -> None:
    def newer(files: dict[str, bytes]) -> None:
        files["manifest.json"] = files["manifest.json"].replace(b'"version": 1', b'"version": 2')

    content = _repacked(exported, newer, honest=False)
    with pytest.raises(ArchiveRefused, match="newer ipfvision"):
        read_study(elsewhere, content)


@pytest.mark.parametrize(
    "limits",
    [
        {"MOST_BYTES": 1000},
        {"MOST_RATIO": 1, "RATIO_COUNTS_FROM": 1000},
        {"MOST_ROWS": 2},
        {"LONGEST_LINE": 1000},
        {"LONGEST_MANIFEST": 1000},
    ],
    ids=str,
)
def test_a_zip_that_unpacks_to_too_much_is_refused(
    elsewhere: Studies, exported: bytes, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    for name, limit in limits.items():
        monkeypatch.setattr(f"ipfvision.workflow.study_archive.{name}", limit)
    with pytest.raises(ArchiveRefused, match="damaged or was changed"):
        read_study(elsewhere, exported)
    assert elsewhere.all() == ()


BOMBS: dict[str, Callable[[dict[str, bytes]], None]] = {
    "rows with nothing in them": lambda files: files.update({"drafts.jsonl": b"{}\n" * 2**24}),
    "one row again and again": lambda files: files.update({"members.jsonl": files["members.jsonl"] * 2**18}),
    "one long text": lambda files: files.update({"steps.jsonl": b'"' + b"x" * 2**26 + b'"\n'}),
    "one long list": lambda files: files.update({"steps.jsonl": b"[" + b"[]," * 2**24 + b"[]]\n"}),
    "a file of another name": lambda files: files.update({"more.jsonl": bytes(2**26)}),
    "a long manifest": lambda files: files.update({"manifest.json": files["manifest.json"] + b" " * 2**26}),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_small_zip_that_unpacks_to_much_is_refused_before_it_takes_much_memory(
    elsewhere: Studies, exported: bytes, what: str
) -> None:
    content = _repacked(exported, BOMBS[what], honest="manifest" not in what)
    assert len(content) < 2**20
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveRefused, match="damaged or was changed"):
            read_study(elsewhere, content)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**25
    assert elsewhere.all() == ()
