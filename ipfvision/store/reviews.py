"""Studies, their cases and the readers' reviews, in and out of the database.

A review is a row that never changes, with up to three steps: locked, revealed, finished. Each step is a row that never changes
either. Beside them lies one draft, which does change and ends with the review. A correction is a review that names the one
before it and goes on from its steps.
"""

import hashlib
import re
import unicodedata
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Row

from ipfvision import __version__
from ipfvision.core.review import (
    BlindReview,
    Case,
    CaseSlice,
    Draft,
    Judgment,
    MachineAnswer,
    MapAgreement,
    Member,
    Mode,
    Opinion,
    RevealedReview,
    Review,
    Role,
    Stage,
    Study,
    Times,
)
from ipfvision.errors import ArchiveRefused, ReviewChanged, ReviewRefused
from ipfvision.store import content
from ipfvision.store.content import Damaged
from ipfvision.store.database import Conflict, Database
from ipfvision.store.tables import CASE_SLICES, CASES, DRAFTS, KEPT, KINDS, MEMBERS, REVIEWS, STEPS, STUDIES

AnyReview: TypeAlias = BlindReview | RevealedReview | Review
Kept: TypeAlias = Mapping[str, Iterable[dict[str, Any]]]
"""Rows by table: a whole study, as it is sent on."""
_Rows: TypeAlias = dict[str, list[dict[str, Any]]]
TABLES = tuple(table.name for table in (*KEPT, DRAFTS))
"""Of `Kept`."""

CHANGED = "This case has gone on in another tab or window; please open it again here to see where it stands."
NO_STUDY = "There is no such study here; please choose one from the list."
NO_CASE = "There is no such case in this study; please choose one from the work list."
NO_REVIEW = "There is no such review here; please open the case again."
CONTRADICTS = (
    "This study contradicts what is here: the same reader has read the same case in both places, or cases were numbered "
    "differently. Nothing was taken in."
)
NOT_A_STUDY = (
    "This .zip holds no study that can be read: it is damaged or was changed. Nothing was taken in; please export it again."
)

ID_LENGTH = 32
"""Of what `uuid` writes as `hex`; no other column has this length."""
TIMES = {"created", "joined", "added", "opened", "at", "saved"}
"""Columns with a time."""
MOST = 2**30
"""Of whatever is counted: room is left for going on from there in a column of 32 bits."""
LARGEST_SEED = 2**31 - 1
LONGEST_SECONDS = 2**31
"""Of a reading: more than a lifetime."""


@dataclass(frozen=True, slots=True)
class NewCase:
    """A scan that may become a case."""

    slices: tuple[CaseSlice, ...]
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None

    def id(self, study_id: str) -> str:
        """The same scan has the same name in a study, whoever adds it, wherever, and in whatever order its slices came."""
        digest = hashlib.sha256(" ".join(sorted(one.pixel_sha256 for one in self.slices)).encode())
        return uuid.uuid5(uuid.UUID(study_id), digest.hexdigest()).hex


@dataclass(frozen=True, slots=True)
class Held:
    """What stands in the way of a change to a review, or does not."""

    study_id: str
    case_id: str
    reader_key: str
    mode: Mode
    stage: Stage
    revision: int
    seconds: float
    """In hand until now."""


def reader_key(name: str) -> str:
    """By this a name is found again: case, width and spaces do not matter."""
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


class Store:
    """All reviews of one database. Safe to share between threads and processes.

    Every method that writes has written when it returns. All of them raise StoreUnavailable if the database cannot be reached,
    written or read.
    """

    def __init__(self, url: URL) -> None:
        self._database = Database(url)

    def close(self) -> None:
        self._database.close()

    # Studies, members, cases

    def add_study(self, study: Study, coordinator: Member) -> None:
        """Begin a study with its first member."""
        with self._database.writing() as connection:
            row = {"id": study.id, "title": study.title, "mode": study.mode.value, "seed": study.seed}
            row |= {"created": _when(study.created), "application_version": __version__}
            connection.execute(STUDIES.insert(), row)
            connection.execute(MEMBERS.insert(), _member_row(study.id, coordinator, study.created))

    def studies(self) -> tuple[Study, ...]:
        """All studies, the newest first."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(STUDIES).order_by(STUDIES.c.created.desc(), STUDIES.c.id)).all()
        return tuple(_study(row) for row in rows)

    def study(self, study_id: str) -> Study:
        """Raises ReviewRefused if there is none."""
        with self._database.reading() as connection:
            return _find_study(connection, study_id)

    def add_member(self, study_id: str, member: Member, at: datetime) -> Member:
        """Let somebody in. Who is in already stays what they are."""
        row = _member_row(study_id, member, at)
        try:
            with self._database.writing() as connection:
                _find_study(connection, study_id)
                connection.execute(MEMBERS.insert(), row)
        except Conflict:
            return next(one for one in self.members(study_id) if reader_key(one.name) == row["key"])
        return member

    def members(self, study_id: str) -> tuple[Member, ...]:
        """By the time they joined."""
        query = sa.select(MEMBERS).where(MEMBERS.c.study_id == study_id).order_by(MEMBERS.c.joined, MEMBERS.c.key)
        with self._database.reading() as connection:
            return tuple(Member(row.name, Role(row.role)) for row in connection.execute(query))

    def add_cases(self, study_id: str, scans: Sequence[NewCase], at: datetime) -> tuple[Case, ...]:
        """Add scans that are not in the study yet, all or none; those that are new come back, with their numbers."""
        try:
            return self._add_cases(study_id, scans, at)
        except Conflict:
            # Cases of a .zip came at the same moment: their numbers are known now.
            return self._add_cases(study_id, scans, at)

    def _add_cases(self, study_id: str, scans: Sequence[NewCase], at: datetime) -> tuple[Case, ...]:
        added: dict[str, Case] = {}
        with self._database.writing() as connection:
            _find_study(connection, study_id)
            # One after the other, or they would give out the same numbers. SQLite has one writer at a time as it is.
            turn = sa.select(STUDIES.c.id).where(STUDIES.c.id == study_id).with_for_update(key_share=True)
            connection.execute(turn)
            known = connection.execute(sa.select(CASES.c.id, CASES.c.number).where(CASES.c.study_id == study_id)).all()
            number = max((row.number for row in known), default=0)
            names = {row.id for row in known}
            for scan in scans:
                name = scan.id(study_id)
                if name in names or name in added:
                    continue
                number += 1
                case = Case(name, number, scan.slices, scan.series_instance_uid, scan.study_instance_uid)
                added[name] = case
                row = {"id": name, "study_id": study_id, "number": number, "added": _when(at)}
                row |= {"series_instance_uid": case.series_instance_uid, "study_instance_uid": case.study_instance_uid}
                connection.execute(CASES.insert(), row)
                connection.execute(
                    CASE_SLICES.insert(), [_slice_row(name, index, one) for index, one in enumerate(case.slices)]
                )
        return tuple(added.values())

    def cases(self, study_id: str) -> tuple[Case, ...]:
        """By number."""
        with self._database.reading() as connection:
            return tuple(sorted(_cases(connection, study_id).values(), key=lambda case: case.number))

    def case(self, study_id: str, case_id: str) -> Case:
        """Raises ReviewRefused if there is none."""
        with self._database.reading() as connection:
            found = _cases(connection, study_id, case_id)
        if case_id not in found:
            raise ReviewRefused(NO_CASE)
        return found[case_id]

    # Reviews

    def stages(self, study_id: str) -> dict[tuple[str, str], Stage]:
        """How far each reader is with each case, by case and the reader's key; what was never opened is not in it."""
        with self._database.reading() as connection:
            reviews = connection.execute(sa.select(REVIEWS).where(REVIEWS.c.study_id == study_id)).all()
            wanted = sa.select(STEPS.c.review_id, STEPS.c.kind).join(REVIEWS, REVIEWS.c.id == STEPS.c.review_id)
            kinds = _kinds(connection.execute(wanted.where(REVIEWS.c.study_id == study_id)))
        superseded = {row.supersedes for row in reviews}
        return {
            (row.case_id, row.reader_key): _stage(kinds[row.id], row.supersedes) for row in reviews if row.id not in superseded
        }

    def held(self, review_id: str) -> Held:
        """Who has a review in hand and how far it is. Raises ReviewRefused if there is none."""
        with self._database.reading() as connection:
            found = connection.execute(
                sa.select(REVIEWS, STUDIES.c.mode, DRAFTS.c.revision, DRAFTS.c.seconds)
                .join(STUDIES, STUDIES.c.id == REVIEWS.c.study_id)
                .outerjoin(DRAFTS, DRAFTS.c.review_id == REVIEWS.c.id)
                .where(REVIEWS.c.id == review_id)
            ).one_or_none()
            if found is None:
                raise ReviewRefused(NO_REVIEW)
            steps = connection.execute(sa.select(STEPS.c.review_id, STEPS.c.kind).where(STEPS.c.review_id == review_id))
            stage = _stage(_kinds(steps)[review_id], found.supersedes)
        return Held(
            found.study_id,
            found.case_id,
            found.reader_key,
            Mode(found.mode),
            stage,
            -1 if found.revision is None else found.revision,
            found.seconds or 0.0,
        )

    def begin(self, study_id: str, case_id: str, reader: str, at: datetime) -> AnyReview:
        """A reader's review of a case where it stands; a new one if there is none.

        Raises
        ------
        ReviewRefused
            If there is no such case in the study, or the reader is not in it.
        """
        found = self.latest(case_id, reader)
        if found is not None:
            return found
        row: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "study_id": study_id,
            "case_id": case_id,
            "reader_key": reader_key(reader),
        }
        row |= {"opened": _when(at), "supersedes": None, "application_version": __version__}
        try:
            with self._database.writing() as connection:
                if case_id not in _cases(connection, study_id, case_id):
                    raise ReviewRefused(NO_CASE)
                connection.execute(REVIEWS.insert(), row)
                connection.execute(DRAFTS.insert(), _draft_row(row["id"], 0, 0.0, Draft(), at))
        except Conflict:
            found = self.latest(case_id, reader)  # another tab of this reader was quicker
            if found is None:
                raise ReviewRefused("This reader is not in the study yet; please join it first.") from None
            return found
        return self.review(row["id"])

    def correct(self, review_id: str, at: datetime) -> AnyReview:
        """A new review that goes on from a finished one. If that was done already, the newest one."""
        finished = self.review(review_id)
        if not isinstance(finished, Review):
            raise ReviewRefused("This case is not finished yet, so there is nothing to correct; please open it.")
        key = reader_key(finished.reader)
        row: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "study_id": finished.study.id,
            "case_id": finished.case.id,
            "reader_key": key,
        }
        row |= {"opened": _when(at), "supersedes": review_id, "application_version": __version__}
        draft = Draft.from_opinion(finished.revised, finished.judgment)
        try:
            with self._database.writing() as connection:
                connection.execute(REVIEWS.insert(), row)
                connection.execute(DRAFTS.insert(), _draft_row(row["id"], 0, finished.times.seconds, draft, at))
        except Conflict:
            return self.latest(finished.case.id, finished.reader) or finished
        return self.review(row["id"])

    def save(self, review_id: str, revision: int, draft: Draft, seconds: float, at: datetime) -> int:
        """Keep a draft, if nobody else did since `revision`; the new revision comes back.

        Raises
        ------
        ReviewChanged
            If somebody did; nothing is written then.
        """
        with self._database.writing() as connection:
            _take_turn(connection, review_id, revision, draft, seconds, at)
        return revision + 1

    def lock(
        self, review_id: str, revision: int, draft: Draft, opinion: Opinion, model_sha256: str, seconds: float, at: datetime
    ) -> AnyReview:
        """Keep the first opinion for good. Raises ReviewChanged."""
        said = {"opinion": content.from_opinion(opinion), "model_sha256": model_sha256}
        self._step(review_id, revision, "locked", said, draft, seconds, at)
        return self.review(review_id)

    def reveal(self, review_id: str, answer: MachineAnswer, seconds: float, at: datetime) -> AnyReview:
        """Keep the answer that is shown from now on. If another tab had one kept before, that one stays."""
        with suppress(ReviewChanged):
            self._step(review_id, None, "revealed", {"answer": content.from_answer(answer)}, None, seconds, at)
        return self.review(review_id)

    def finish(
        self,
        review_id: str,
        revision: int,
        revised: Opinion,
        judgment: Judgment | None,
        agreement: Sequence[MapAgreement],
        seconds: float,
        at: datetime,
    ) -> AnyReview:
        """Keep the last word, and let the draft go. Raises ReviewChanged."""
        said = {
            "opinion": content.from_opinion(revised),
            "judgment": content.from_judgment(judgment),
            "agreement": content.from_agreement(agreement),
        }
        self._step(review_id, revision, "finished", said, Draft(), seconds, at)
        return self.review(review_id)

    def _step(
        self,
        review_id: str,
        revision: int | None,
        kind: str,
        said: Mapping[str, Any],
        draft: Draft | None,
        seconds: float,
        at: datetime,
    ) -> None:
        row = {"review_id": review_id, "kind": kind, "at": _when(at), "seconds": seconds, "content": content.write(said)}
        with self._database.writing() as connection:
            _take_turn(connection, review_id, revision, draft, seconds, at)
            _check_order(connection, review_id, kind)
            connection.execute(STEPS.insert(), row | {"application_version": __version__})
            if kind == "finished":
                connection.execute(DRAFTS.delete().where(DRAFTS.c.review_id == review_id))

    def review(self, review_id: str) -> AnyReview:
        """Raises ReviewRefused if there is none."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(REVIEWS).where(REVIEWS.c.id == review_id)).one_or_none()
            if row is None:
                raise ReviewRefused(NO_REVIEW)
            return _load(connection, row.study_id, row.case_id, row.reader_key)[review_id]

    def latest(self, case_id: str, reader: str) -> AnyReview | None:
        """The newest of a reader's reviews of a case: the one that no other supersedes; None if there is none."""
        key = reader_key(reader)
        with self._database.reading() as connection:
            wanted = sa.select(REVIEWS).where(REVIEWS.c.case_id == case_id, REVIEWS.c.reader_key == key)
            rows = connection.execute(wanted).all()
            superseded = {row.supersedes for row in rows}
            newest = next((row for row in rows if row.id not in superseded), None)
            if newest is None:
                return None
            return _load(connection, newest.study_id, case_id, key)[newest.id]

    def reviews(self, study_id: str) -> tuple[Review, ...]:
        """Everything that was ever finished, superseded reviews included, in the order in which it was opened."""
        with self._database.reading() as connection:
            return tuple(one for one in _load(connection, study_id).values() if isinstance(one, Review))

    # Whole studies

    def take_out(self, study_id: str) -> Kept:
        """All rows of a study, the drafts of what is not finished included."""
        with self._database.reading() as connection:
            _find_study(connection, study_id)
            return _rows(connection, study_id)

    def put_in(self, rows: Kept) -> Study:
        """Take in a study from another place, whole or not at all. What is here already stays; two places may each add to it.

        Each row is checked as it comes, and all of them have come before anything is written.

        Raises
        ------
        ArchiveRefused
            If the rows are no study, or contradict what is here.
        """
        try:
            with _no_study():
                given = _check_rows(rows)
            with self._database.writing() as connection, _no_study():
                study_id = _add_rows(connection, given)
                # Read as everything is read later: what does not come back as a valid review was never one.
                _load(connection, study_id)
                return _find_study(connection, study_id)
        except Conflict:
            raise ArchiveRefused(CONTRADICTS) from None


@contextmanager
def _no_study() -> Iterator[None]:
    try:
        yield
    except (Damaged, KeyError, TypeError, ValueError, AttributeError):
        raise ArchiveRefused(NOT_A_STUDY) from None


def _when(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Damaged from error
    if found.tzinfo is None or not 1900 < found.year < 9000:  # or another time zone may have no such time
        raise Damaged
    return found


def _study(row: Row[Any]) -> Study:
    return Study(row.id, row.title, Mode(row.mode), row.seed, _time(row.created))


def _find_study(connection: Connection, study_id: str) -> Study:
    row = connection.execute(sa.select(STUDIES).where(STUDIES.c.id == study_id)).one_or_none()
    if row is None:
        raise ReviewRefused(NO_STUDY)
    return _study(row)


def _member_row(study_id: str, member: Member, at: datetime) -> dict[str, Any]:
    row = {"study_id": study_id, "key": reader_key(member.name), "name": member.name}
    return row | {"role": member.role.value, "joined": _when(at)}


def _slice_row(case_id: str, index: int, one: CaseSlice) -> dict[str, Any]:
    rows, columns = one.shape
    row = {"case_id": case_id, "slice_index": index, "pixel_sha256": one.pixel_sha256, "frame": one.frame}
    return row | {"sop_instance_uid": one.sop_instance_uid, "rows": rows, "columns": columns}


def _draft_row(review_id: str, revision: int, seconds: float, draft: Draft, at: datetime) -> dict[str, Any]:
    row = {"review_id": review_id, "revision": revision, "seconds": seconds, "saved": _when(at)}
    return row | {"content": content.write(content.from_draft(draft))}


def _cases(connection: Connection, study_id: str, case_id: str | None = None) -> dict[str, Case]:
    """All cases of a study by their name, or one of them."""
    wanted = CASES.c.study_id == study_id
    if case_id is not None:
        wanted &= CASES.c.id == case_id
    slices: dict[str, list[CaseSlice]] = defaultdict(list)
    query = sa.select(CASE_SLICES).join(CASES, CASES.c.id == CASE_SLICES.c.case_id).where(wanted)
    for row in connection.execute(query.order_by(CASE_SLICES.c.case_id, CASE_SLICES.c.slice_index)):
        one = CaseSlice(row.pixel_sha256, (row.rows, row.columns), row.sop_instance_uid, row.frame)
        slices[row.case_id].append(one)
    return {
        row.id: Case(row.id, row.number, tuple(slices[row.id]), row.series_instance_uid, row.study_instance_uid)
        for row in connection.execute(sa.select(CASES).where(wanted))
    }


def _kinds(rows: Iterable[Row[str, str]]) -> dict[str, set[str]]:
    """The steps that each review has taken itself."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row.review_id].add(row.kind)
    return found


def _stage(kinds: set[str], supersedes: str | None) -> Stage:
    if "finished" in kinds:
        return Stage.FINISHED
    if supersedes is not None:
        return Stage.REOPENED
    if "revealed" in kinds:
        return Stage.REVEALED
    return Stage.LOCKED if "locked" in kinds else Stage.READING


def _take_turn(
    connection: Connection, review_id: str, revision: int | None, draft: Draft | None, seconds: float, at: datetime
) -> None:
    """Change the draft, which every change of a review goes through: of two tabs the first one wins, and the other is told."""
    values: dict[str, Any] = {"revision": DRAFTS.c.revision + 1, "seconds": seconds, "saved": _when(at)}
    if draft is not None:
        values["content"] = content.write(content.from_draft(draft))
    change = DRAFTS.update().where(DRAFTS.c.review_id == review_id).values(values)
    if revision is not None:
        change = change.where(DRAFTS.c.revision == revision)
    if connection.execute(change).rowcount != 1:
        raise ReviewChanged(CHANGED)


def _check_order(connection: Connection, review_id: str, kind: str) -> None:
    """No answer before the lock, and every step once: said in a sentence here, and held by triggers for everybody else."""
    taken = set(connection.execute(sa.select(STEPS.c.kind).where(STEPS.c.review_id == review_id)).scalars())
    if kind in taken:
        raise ReviewChanged(CHANGED)
    query = sa.select(STUDIES.c.mode, REVIEWS.c.supersedes).join(REVIEWS, REVIEWS.c.study_id == STUDIES.c.id)
    review = connection.execute(query.where(REVIEWS.c.id == review_id)).one()
    blinded = review.mode == Mode.BLINDED and review.supersedes is None
    if kind == "revealed" and blinded and "locked" not in taken:
        raise ReviewRefused("The machine's answer is shown after your own opinion is locked; please lock it first.")
    if kind == "finished" and review.supersedes is None and "revealed" not in taken:
        raise ReviewRefused("A case is finished when the machine's answer was seen; please look at it first.")
    if kind == "locked" and not (blinded and "revealed" not in taken):
        raise ReviewRefused("The machine's answer is shown already, so there is nothing left to lock.")


def _load(connection: Connection, study_id: str, case_id: str | None = None, key: str | None = None) -> dict[str, AnyReview]:
    """Reviews of a study by their name, in the order in which they were opened; of one case or reader, if that is given."""
    wanted = REVIEWS.c.study_id == study_id
    if case_id is not None:
        wanted &= REVIEWS.c.case_id == case_id
    if key is not None:
        wanted &= REVIEWS.c.reader_key == key
    study, cases = _find_study(connection, study_id), _cases(connection, study_id, case_id)
    names = {row.key: row.name for row in connection.execute(sa.select(MEMBERS).where(MEMBERS.c.study_id == study_id))}
    rows = connection.execute(sa.select(REVIEWS).where(wanted).order_by(REVIEWS.c.opened, REVIEWS.c.id)).all()
    of_these = sa.select(REVIEWS.c.id).where(wanted)
    steps: dict[str, dict[str, _Step]] = defaultdict(dict)
    for row in connection.execute(sa.select(STEPS).where(STEPS.c.review_id.in_(of_these))):
        steps[row.review_id][row.kind] = _Step(_time(row.at), row.seconds, content.read(row.content), row.application_version)
    drafts = {row.review_id: row for row in connection.execute(sa.select(DRAFTS).where(DRAFTS.c.review_id.in_(of_these)))}
    before = {row.id: row.supersedes for row in rows}
    return {
        row.id: _review(
            row, study, cases[row.case_id], names[row.reader_key], _Told.by(row.id, before, steps), drafts.get(row.id)
        )
        for row in rows
    }


@dataclass(frozen=True, slots=True)
class _Step:
    at: datetime
    seconds: float
    content: dict[str, Any]
    application_version: str


@dataclass(frozen=True, slots=True)
class _Told:
    """What a review rests on: the first opinion and the answer of the review that its chain of corrections began with."""

    locked: _Step | None
    revealed: _Step | None
    finished: _Step | None

    @classmethod
    def by(cls, review_id: str, before: Mapping[str, str | None], steps: Mapping[str, Mapping[str, _Step]]) -> "_Told":
        own, first, seen = steps.get(review_id, {}), review_id, {review_id}
        while (forerunner := before.get(first)) is not None:
            if forerunner in seen:
                raise Damaged
            seen.add(forerunner)
            first = forerunner
        begun = steps.get(first, {})
        return cls(begun.get("locked"), begun.get("revealed"), own.get("finished"))


def _review(row: Row[Any], study: Study, case: Case, reader: str, told: _Told, draft: Row[Any] | None) -> AnyReview:
    try:
        return _whole(row, study, case, reader, told, draft)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged from error


def _whole(row: Row[Any], study: Study, case: Case, reader: str, told: _Told, draft: Row[Any] | None) -> AnyReview:
    locked, revealed, finished = told.locked, told.revealed, told.finished
    first = None if locked is None else content.to_opinion(locked.content["opinion"])
    model_at_lock = None if locked is None else content.to_text(locked.content["model_sha256"])
    if finished is None and draft is None:
        raise Damaged
    times = Times(
        opened=_time(row.opened),
        locked=None if locked is None else locked.at,
        revealed=None if revealed is None else revealed.at,
        finished=None if finished is None else finished.at,
        seconds_to_lock=None if locked is None else locked.seconds,
        seconds=finished.seconds if finished is not None else draft.seconds if draft is not None else 0.0,
    )
    answer = None if revealed is None else content.to_answer(revealed.content["answer"])
    if finished is not None and answer is not None:
        agreement = content.to_agreement(finished.content["agreement"])
        if any(not 0 <= one.slice_index < len(case.slices) for one in agreement):
            raise Damaged
        return Review(
            id=row.id,
            study=study,
            case=case,
            reader=reader,
            revised=content.to_opinion(finished.content["opinion"]),
            answer=answer,
            times=times,
            application_version=finished.application_version,
            first=first,
            judgment=content.to_judgment(finished.content["judgment"]),
            agreement=agreement,
            model_sha256_at_lock=model_at_lock,
            supersedes=row.supersedes,
        )
    if draft is None:
        raise Damaged
    given = content.to_draft(content.read(draft.content))
    if answer is None:
        return BlindReview(row.id, study, case, reader, draft.revision, given, times, first)
    return RevealedReview(row.id, study, case, reader, draft.revision, given, times, answer, first, row.supersedes)


def _rows(connection: Connection, study_id: str) -> _Rows:
    of_study = sa.select(REVIEWS.c.id).where(REVIEWS.c.study_id == study_id)
    of_cases = sa.select(CASES.c.id).where(CASES.c.study_id == study_id)
    wanted = {
        STUDIES: STUDIES.c.id == study_id,
        MEMBERS: MEMBERS.c.study_id == study_id,
        CASES: CASES.c.study_id == study_id,
        CASE_SLICES: CASE_SLICES.c.case_id.in_(of_cases),
        REVIEWS: REVIEWS.c.study_id == study_id,
        STEPS: STEPS.c.review_id.in_(of_study),
        DRAFTS: DRAFTS.c.review_id.in_(of_study),
    }
    return {
        table.name: [
            dict(row._mapping)  # noqa: SLF001  SQLAlchemy's public name for a row as a mapping
            for row in connection.execute(sa.select(table).where(condition).order_by(*table.primary_key.columns))
        ]
        for table, condition in wanted.items()
    }


def _add_rows(connection: Connection, given: _Rows) -> str:
    """Insert what is not here yet, each row after those that it refers to; the study's name comes back."""
    (study,) = given[STUDIES.name]
    study_id: str = study["id"]
    uuid.UUID(study_id)
    cases, reviews = ({row["id"] for row in given[table.name]} for table in (CASES, REVIEWS))
    belongs = {"study_id": {study_id}, "case_id": cases, "review_id": reviews}
    for table in (*KEPT, DRAFTS):
        if any(row[name] not in known for row in given[table.name] for name, known in belongs.items() if name in row):
            raise Damaged
    _check_corrections(given)
    here = _rows(connection, study_id)
    cases_here = {row["id"] for row in here[CASES.name]}
    for table in KEPT:
        names = [column.name for column in table.primary_key.columns]
        known = {tuple(row[name] for name in names): row for row in here[table.name]}
        for row in _in_order(table.name, given[table.name]):
            found = known.get(tuple(row[name] for name in names))
            if found is None:
                if table is CASE_SLICES and row["case_id"] in cases_here:  # a case never grows
                    raise ArchiveRefused(CONTRADICTS)
                # Who coordinates a study that is here is said here: by no file can anybody come to see what all have read.
                demoted = {"role": Role.READER.value} if table is MEMBERS and here[STUDIES.name] else {}
                connection.execute(table.insert(), row | demoted)
            elif found != row and table is not MEMBERS:  # a name may be written in another way there
                raise ArchiveRefused(CONTRADICTS)
    _add_drafts(connection, given, here)
    return study_id


def _check_corrections(given: _Rows) -> None:
    """Only what is finished is corrected, and by its own reader: anything else would take another reading off the pages."""
    finished = {row["review_id"] for row in given[STEPS.name] if row["kind"] == "finished"}
    begun = {row["id"]: (row["case_id"], row["reader_key"]) for row in given[REVIEWS.name] if row["id"] in finished}
    for row in given[REVIEWS.name]:
        if row["supersedes"] is not None and begun.get(row["supersedes"]) != (row["case_id"], row["reader_key"]):
            raise Damaged


def _check_rows(given: Kept) -> _Rows:
    """The rows, if each is one, and there once: at the first that is not, no more are asked for."""
    if set(given) != set(TABLES):
        raise Damaged
    found: _Rows = {}
    for table in (*KEPT, DRAFTS):
        names, seen, rows = [column.name for column in table.primary_key.columns], set[tuple[Any, ...]](), []
        for given_row in given[table.name]:
            row = _check_row(table, given_row)
            name = tuple(row[one] for one in names)
            if name in seen:
                raise Damaged
            seen.add(name)
            rows.append(row)
        found[table.name] = rows
    return found


def _check_row(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of this table, and nothing else: SQLite itself would take almost anything."""
    if set(row) != set(table.c.keys()):
        raise Damaged
    for column in table.columns:
        value, kind = row[column.name], column.type.python_type
        if value is None:
            if not column.nullable:
                raise Damaged
            continue
        if kind is float and type(value) is int:
            kind = int
        if type(value) is not kind or not _fits(column, value):
            raise Damaged
    if table is MEMBERS and reader_key(Member(row["name"], Role(row["role"])).name) != row["key"]:
        raise Damaged
    return {name: row[name] for name in table.c.keys()}  # noqa: SIM118  the columns' own texts, once for all rows


def _fits(column: sa.Column[Any], value: Any) -> bool:
    """Whether both kinds of databases can hold a value of the column's type, and pages can show it."""
    if isinstance(column.type, sa.String):
        if "\x00" in value or len(value) > (column.type.length or len(value)):
            return False
        value.encode()  # half of a surrogate pair is no text
        if column.type.length == ID_LENGTH:
            return re.fullmatch("[0-9a-f]+", value) is not None
        if column.name in TIMES:
            _time(value)
        return True
    number: float = value
    if column is STUDIES.c.seed:
        return abs(number) <= LARGEST_SEED
    return 0 <= number <= (LONGEST_SECONDS if isinstance(column.type, sa.Float) else MOST)  # NaN and infinity are not


def _add_drafts(connection: Connection, given: _Rows, here: _Rows) -> None:
    """Drafts of what is unfinished: of two of one review the one that went further; what is finished lets its draft go."""
    known = {row["review_id"]: row for row in here[DRAFTS.name]}
    steps_here, steps_given = (Counter(row["review_id"] for row in rows[STEPS.name]) for rows in (here, given))
    finished = {row["review_id"] for rows in (here, given) for row in rows[STEPS.name] if row["kind"] == "finished"}
    for row in given[DRAFTS.name]:
        review_id = row["review_id"]
        if review_id in finished:
            continue
        if (found := known.get(review_id)) is None:
            connection.execute(DRAFTS.insert(), row)
        elif (steps_given[review_id], row["revision"]) > (steps_here[review_id], found["revision"]):
            # Higher than both, so that no tab that shows the older one can save over this one.
            newer = row | {"revision": max(row["revision"], found["revision"] + 1)}
            unchanged = (DRAFTS.c.review_id == review_id) & (DRAFTS.c.revision == found["revision"])
            connection.execute(DRAFTS.update().where(unchanged).values(newer))
    touched = known.keys() | {row["review_id"] for row in given[DRAFTS.name]}
    for review_id in touched & finished:
        connection.execute(DRAFTS.delete().where(DRAFTS.c.review_id == review_id))
    seconds: dict[str, float] = {}
    for row in (*here[STEPS.name], *given[STEPS.name]):
        seconds[row["review_id"]] = max(row["seconds"], seconds.get(row["review_id"], row["seconds"]))
    for review_id in touched & seconds.keys():
        # A review is in hand at least as long as until its last step, wherever that was taken.
        younger = (DRAFTS.c.review_id == review_id) & (DRAFTS.c.seconds < seconds[review_id])
        connection.execute(DRAFTS.update().where(younger).values(seconds=seconds[review_id]))


def _in_order(table: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if table == STEPS.name:
        return sorted(rows, key=lambda row: KINDS.index(row["kind"]))
    if table != REVIEWS.name:
        return list(rows)
    ordered: list[dict[str, Any]] = []
    left, placed = list(rows), set[Any]()
    while left:
        ready = [row for row in left if row["supersedes"] is None or row["supersedes"] in placed]
        if not ready:
            raise Damaged
        ordered += ready
        placed |= {row["id"] for row in ready}
        left = [row for row in left if row["id"] not in placed]
    return ordered
