"""Several readers, one work list, and reviews that are kept: the use cases of a study.

In a blinded study the machine's answer is asked for after the reader's own opinion is on the disk, and not before: until then
there is a `BlindReview`, which has no place for an answer. Scans are not kept. A case is known by the hashes of its pixels and
found again among the scans that are given (`find_scans`).

Times are the server's clock as it is, which may jump. Reading times are measured apart from it: the time between two changes or
openings of a case by its reader in one run of the program, of which no more than `LONGEST_PAUSE_SECONDS` counts at a time.
"""

import hashlib
import secrets
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import numpy as np

from ipfvision.core.agreement import agree
from ipfvision.core.annotation import Annotation, Finding, Said
from ipfvision.core.lungs import Lungs
from ipfvision.core.review import (
    LONGEST_NAME,
    BlindReview,
    Case,
    CaseSlice,
    Draft,
    Drawn,
    MachineAnswer,
    MapAgreement,
    Member,
    Mode,
    RevealedReview,
    Review,
    Role,
    Stage,
    Study,
    WorkItem,
    check_answer,
    check_drawings,
    union,
)
from ipfvision.core.slice import Scale, Series, Slice
from ipfvision.errors import ReviewRefused
from ipfvision.store import AnyReview, Held, Kept, NewCase, Store, address, parse_address, reader_key

LONGEST_PAUSE_SECONDS = 600.0
"""Of the time between two changes no more than this counts as reading: the reader may have gone."""

NOT_YOURS = "This review is another reader's; only its own reader can change it. Please open the case in your own work list."
INCOMPLETE = "A diagnosis and a confidence are needed before you go on; please choose both."


@dataclass(frozen=True, slots=True)
class Added:
    """What became of scans that were to become cases."""

    cases: tuple[Case, ...]
    """The new ones."""
    known: int
    """Scans that were in the study already, or were given twice."""


class Studies:
    """All studies of one database: one object for a whole server. Safe to share between threads.

    Whatever returns is on the disk. Everything that goes wrong is a `StudyProblem` with a sentence; what was saved before is
    never harmed by it.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        """The clock may jump; the stopwatch may not."""
        self._store = store
        self._clock = clock
        self._stopwatch = stopwatch
        self._touched: dict[str, float] = {}
        """By review: when its reader was last heard of, by the stopwatch."""
        self._turn = threading.Lock()
        self._cases: dict[str, Case] = {}

    @classmethod
    def open(cls, url: str | None = None) -> Self:
        """Open the database that the environment names (`ipfvision.store.database`), or another one.

        Raises
        ------
        StoreUnavailable
            With a sentence.
        """
        return cls(Store(address() if url is None else parse_address(url)))

    def close(self) -> None:
        """Let go of all connections."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Studies, members, cases

    def create(self, title: str, coordinator: str, mode: Mode = Mode.BLINDED, seed: int | None = None) -> Study:
        """Begin a study. Whoever begins it coordinates it.

        Parameters
        ----------
        seed
            Of the readers' orders; drawn if none is given.

        Raises
        ------
        ReviewRefused
            If the title or the name is none, or the seed is not what a column holds.
        """
        if seed is not None and not 0 <= seed < 2**31:
            raise ReviewRefused(f"The seed is {seed}; a whole number from 0 to {2**31 - 1} is expected.")
        drawn = secrets.randbelow(2**31) if seed is None else seed
        study = Study(uuid.uuid4().hex, _name(title, "title of the study"), mode, drawn, self._clock())
        self._store.add_study(study, Member(_name(coordinator, "name"), Role.COORDINATOR))
        return study

    def all(self) -> tuple[Study, ...]:
        """The newest first."""
        return self._store.studies()

    def get(self, study_id: str) -> Study:
        """Raises ReviewRefused if there is none."""
        return self._store.study(study_id)

    def join(self, study_id: str, name: str) -> Member:
        """Let a reader in. Who is in already stays what they are; case and spaces of the name do not matter."""
        return self._store.add_member(study_id, Member(_name(name, "name"), Role.READER), self._clock())

    def members(self, study_id: str) -> tuple[Member, ...]:
        """By the time they joined."""
        return self._store.members(study_id)

    def add_cases(self, study_id: str, by: str, series: Iterable[Series]) -> Added:
        """Make each series a case, unless the same pixels are one already. Only a coordinator can."""
        self._coordinator(study_id, by)
        scans = [new_case(one) for one in series]
        cases = self._store.add_cases(study_id, scans, self._clock())
        return Added(cases, len(scans) - len(cases))

    def cases(self, study_id: str) -> tuple[Case, ...]:
        """By number."""
        return self._store.cases(study_id)

    def worklist(self, study_id: str, reader: str) -> tuple[WorkItem, ...]:
        """A reader's cases in their own order, which is another for each reader, and the same on every day."""
        study, stages, key = self._store.study(study_id), self._store.stages(study_id), reader_key(reader)

        def place(case: Case) -> bytes:
            return hashlib.sha256(f"{study.seed} {key} {case.id}".encode()).digest()

        cases = sorted(self._store.cases(study_id), key=place)
        return tuple(WorkItem(case, stages.get((case.id, key), Stage.NEW)) for case in cases)

    def next_case(self, study_id: str, reader: str, among: Collection[str] | None = None) -> Case | None:
        """The first case of the reader's order that is to be read; None if there is none left.

        Parameters
        ----------
        among
            Names of the cases whose scans are at hand; None for all.
        """
        for item in self.worklist(study_id, reader):
            if item.stage is not Stage.FINISHED and (among is None or item.case.id in among):
                return item.case
        return None

    def progress(self, study_id: str) -> dict[str, tuple[int, int]]:
        """Finished cases, a case that is being corrected included, and all cases, by member's name."""
        stages, total = self._store.stages(study_id), len(self._store.cases(study_id))
        done: dict[str, int] = defaultdict(int)
        for (_, key), stage in stages.items():
            done[key] += stage in (Stage.FINISHED, Stage.REOPENED)
        return {one.name: (done[reader_key(one.name)], total) for one in self._store.members(study_id)}

    # Reading

    def open_case(self, study_id: str, case_id: str, reader: str) -> AnyReview:
        """A case where this reader left it; a finished one as it is (`reopen` corrects it).

        In an open study, too, a case begins as a `BlindReview`: `reveal` follows at once.
        """
        found = self._store.begin(study_id, case_id, reader, self._clock())
        if not isinstance(found, Review):
            self._touch(found.id)
        return found

    def autosave(self, review_id: str, reader: str, revision: int, draft: Draft) -> int:
        """Keep what the reader has said so far; the next revision comes back.

        Raises
        ------
        ReviewChanged
            If another tab has saved since `revision`.
        ValueError
            If a drawing is not of a slice of the case: here, in `lock` and in `finish`.
        """
        held = self._held(review_id, reader)
        check_drawings(self._case(held), draft.drawings)
        if held.stage is Stage.LOCKED:
            raise ReviewRefused("Your opinion is locked; it can be revised when the machine's answer is shown.")
        return self._store.save(review_id, revision, draft, self._seconds(review_id, held), self._clock())

    def lock(self, review_id: str, reader: str, revision: int, draft: Draft, model_sha256: str) -> AnyReview:
        """Keep the reader's own opinion for good, before the machine's answer is asked for.

        Parameters
        ----------
        model_sha256
            Of the model that is loaded: if the answer comes from another one, the review shows it.

        Raises
        ------
        ReviewRefused
            If diagnosis or confidence is missing.
        ReviewChanged
            If another tab was quicker.
        """
        held, opinion = self._held(review_id, reader), draft.opinion()
        if opinion is None:
            raise ReviewRefused(INCOMPLETE)
        check_drawings(self._case(held), draft.drawings)
        seconds = self._seconds(review_id, held)
        return self._store.lock(review_id, revision, draft, opinion, model_sha256, seconds, self._clock())

    def reveal(self, review_id: str, reader: str, compute: Callable[[Case], MachineAnswer]) -> AnyReview:
        """The review with the machine's answer beside it. What is shown once is kept, and shown again as it was.

        Parameters
        ----------
        compute
            Asks the machine. Never called before the opinion is locked (in a blinded study), nor where an answer is kept.
        """
        held = self._held(review_id, reader)
        if held.stage is Stage.READING and held.mode is Mode.BLINDED:
            raise ReviewRefused("The machine's answer is shown after your own opinion is locked; please lock it first.")
        found = self._store.review(review_id)
        if not isinstance(found, BlindReview):
            return found
        answer = compute(found.case)  # the reader waits: this is not reading time
        check_answer(found.case, answer)
        seconds = held.seconds if held.stage is Stage.LOCKED else self._seconds(review_id, held)
        self._touch(review_id)
        return self._store.reveal(review_id, answer, seconds, self._clock())

    def finish(self, review_id: str, reader: str, revision: int, draft: Draft) -> AnyReview:
        """Keep the reader's last word on the case and on the map, and how the map agrees with what was drawn.

        Raises
        ------
        ReviewRefused
            If diagnosis, confidence, or the verdict on the map is missing; the verdict only where there is a map.
        ReviewChanged
            If another tab was quicker.
        """
        held, opinion, judgment = self._held(review_id, reader), draft.opinion(), draft.judgment()
        found = self._store.review(review_id)
        if not isinstance(found, RevealedReview):
            if isinstance(found, Review):
                raise ReviewRefused("This case is finished already; please reopen it to correct it.")
            raise ReviewRefused("A case is finished when the machine's answer was seen; please look at it first.")
        if opinion is None:
            raise ReviewRefused(INCOMPLETE)
        if judgment is None and found.answer.has_map:
            raise ReviewRefused(
                "Your verdict on the map is needed, and the reason if it does not agree; please choose both before you finish."
            )
        check_drawings(found.case, draft.drawings)
        agreement = map_agreement(found.answer, opinion.drawings)
        seconds = self._seconds(review_id, held)
        done = self._store.finish(review_id, revision, opinion, judgment, agreement, seconds, self._clock())
        with self._turn:
            self._touched.pop(review_id, None)
        return done

    def reopen(self, review_id: str, reader: str) -> AnyReview:
        """Begin a correction of a finished review, by its own reader. What was said before stays, and counts until then."""
        self._held(review_id, reader)
        found = self._store.correct(review_id, self._clock())
        self._touch(found.id)
        return found

    # Results

    def reviews(self, study_id: str, by: str, *, history: bool = False) -> tuple[Review, ...]:
        """What was finished: of all readers for a coordinator, one's own for a reader.

        Parameters
        ----------
        history
            Also what was corrected later. Without it there is one review of each case by each reader: the last finished one.
        """
        key = reader_key(by)
        sees_all = self._role(study_id, by) is Role.COORDINATOR
        found = [one for one in self._store.reviews(study_id) if sees_all or reader_key(one.reader) == key]
        corrected = set() if history else {one.supersedes for one in found}
        return tuple(one for one in found if one.id not in corrected)

    def take_out(self, study_id: str, by: str) -> tuple[Study, Kept]:
        """All that is kept of a study, for `ipfvision.workflow.study_archive`. Only a coordinator can."""
        self._coordinator(study_id, by)
        return self._store.study(study_id), self._store.take_out(study_id)

    def put_in(self, rows: Kept) -> Study:
        """Take in what `take_out` gave elsewhere; raises ArchiveRefused."""
        return self._store.put_in(rows)

    def _role(self, study_id: str, name: str) -> Role | None:
        key = reader_key(name)
        return next((one.role for one in self._store.members(study_id) if reader_key(one.name) == key), None)

    def _coordinator(self, study_id: str, name: str) -> None:
        self._store.study(study_id)
        if self._role(study_id, name) is not Role.COORDINATOR:
            raise ReviewRefused("Only a coordinator of this study can do that; please ask whoever began it.")

    def _held(self, review_id: str, reader: str) -> Held:
        held = self._store.held(review_id)
        if held.reader_key != reader_key(reader):
            raise ReviewRefused(NOT_YOURS)
        return held

    def _case(self, held: Held) -> Case:
        """Cases never change: each is asked for once."""
        found = self._cases.get(held.case_id)
        if found is None:
            found = self._cases[held.case_id] = self._store.case(held.study_id, held.case_id)
        return found

    def _touch(self, review_id: str) -> float:
        """Seconds since the reader was last heard of, no more than a pause; 0 if never in this run of the program."""
        now = self._stopwatch()
        with self._turn:
            before = self._touched.get(review_id, now)
            self._touched[review_id] = now
        return min(max(0.0, now - before), LONGEST_PAUSE_SECONDS)

    def _seconds(self, review_id: str, held: Held) -> float:
        return held.seconds + self._touch(review_id)


def new_case(series: Series) -> NewCase:
    """What is kept of a scan: hashes, sizes and UIDs."""
    first = series.slices[0].source
    return NewCase(
        tuple(
            CaseSlice(one.source.pixel_sha256, one.shape, one.source.sop_instance_uid, one.source.frame)
            for one in series.slices
        ),
        series.series_instance_uid,
        first.study_instance_uid,
    )


def split_pictures(series: Iterable[Series]) -> tuple[Series, ...]:
    """PNG and JPEG files that came together, each by itself, as one of each of several patients; any other series as it is."""
    found: list[Series] = []
    for one in series:
        found += [Series((scan,)) for scan in one.slices] if are_stacked_pictures(one) else [one]
    return tuple(found)


def are_stacked_pictures(series: Series) -> bool:
    """Whether these are several PNG or JPEG files, which may be one scan or one of each of several patients."""
    first = series.slices[0]
    return len(series.slices) > 1 and first.scale is Scale.GREY and first.source.format != "DICOM"


def find_scans(cases: Iterable[Case], series: Iterable[Series]) -> dict[str, Series]:
    """Scans of cases by the cases' names, found by the hashes of their pixels among what was given, however that is ordered.

    A case of which any slice is missing is not found. The slices come in the case's own order.
    """
    given: dict[str, list[Slice]] = defaultdict(list)
    notes: dict[str, tuple[str, ...]] = {}
    for stack in series:
        for scan in stack.slices:
            given[scan.source.pixel_sha256].append(scan)
            notes.setdefault(scan.source.pixel_sha256, stack.notes)
    found = {}
    for case in cases:
        slices = [_find_slice(one, given) for one in case.slices]
        whole = tuple(one for one in slices if one is not None)
        if len(whole) == len(slices):
            found[case.id] = Series(whole, case.series_instance_uid, notes[case.slices[0].pixel_sha256])
    return found


def _find_slice(wanted: CaseSlice, given: Mapping[str, Sequence[Slice]]) -> Slice | None:
    """Of several slices with the same pixels the one with the same UID, if there is one."""
    same = given.get(wanted.pixel_sha256, ())
    exact = (one for one in same if (one.source.sop_instance_uid, one.source.frame) == (wanted.sop_instance_uid, wanted.frame))
    return next(exact, same[0] if same else None)


def map_agreement(answer: MachineAnswer, drawings: Sequence[Drawn]) -> tuple[MapAgreement, ...]:
    """How the map meets what was drawn, for the slices that have both; where nothing was drawn there is nothing to meet."""
    found = []
    for one in answer.slices:
        mask = union(drawings, one.slice_index)
        if one.explanation is None or mask is None:
            continue
        drawn = Annotation(mask, Said(Finding.OTHER, "reader", origin="drawn here"))
        no_lungs = Lungs(np.zeros(mask.shape, np.bool_), problem="Not needed for these numbers.")
        numbers = agree(one.explanation, no_lungs, [drawn], None)
        found.append(MapAgreement(one.slice_index, numbers.dice_at_half, numbers.rank_accuracy, numbers.pointing_hit))
    return tuple(found)


def _name(given: str, what: str) -> str:
    """What was typed, in one line."""
    plain = " ".join(given.split())
    if not plain or len(plain) > LONGEST_NAME or not plain.isprintable():
        raise ReviewRefused(f"The {what} is empty, too long or not printable; please type up to {LONGEST_NAME} characters.")
    return plain
