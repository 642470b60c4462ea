"""What readers say of a case: before they saw the machine's answer, after it, and of its map.

A case goes through the hands of each reader by itself: `BlindReview` (no answer in it, nor room for one), `RevealedReview`,
`Review`. In the blinded mode the first opinion is locked before the answer is asked for; it never changes after that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import Finding
from ipfvision.core.findings import Explanation, Prediction
from ipfvision.core.run_lengths import check, decode, encode

CONFIDENCES = (1, 2, 3, 4, 5)
"""From "a guess" to "certain"."""
LONGEST_TEXT = 10_000
"""Characters of a comment."""
LONGEST_NAME = 200
"""Characters of a reader's name or a study's title."""
MOST_PIXELS = 2**24
"""Of a slice: no larger picture, and no larger DICOM frame, is read."""


class Diagnosis(StrEnum):
    """CT patterns of the ATS/ERS/JRS/ALAT guideline, in its order (Raghu et al., Am J Respir Crit Care Med 2022;205:e18)."""

    UIP = "UIP"
    PROBABLE_UIP = "probable UIP"
    INDETERMINATE = "indeterminate for UIP"
    ALTERNATIVE = "alternative diagnosis"


class MapVerdict(StrEnum):
    """Whether the map lights what the reader would have marked."""

    AGREES = "agrees"
    PARTLY = "partly"
    DISAGREES = "disagrees"


class Reason(StrEnum):
    """What the map lights, or leaves dark, in place of the findings."""

    TRACTION_BRONCHIECTASIS = "traction bronchiectasis"
    EMPHYSEMA = "emphysema"
    VESSEL = "vessel"
    ARTEFACT = "artefact"
    MARK_OR_TEXT = "mark or text"
    OUTSIDE_LUNG = "outside lung"
    MISSED_HONEYCOMBING = "missed honeycombing"
    OTHER = "other"


class Mode(StrEnum):
    """When a reader sees the machine's answer."""

    BLINDED = "blinded"
    """After the reader's own opinion is locked."""
    OPEN = "open"
    """From the start."""


class Role(StrEnum):
    """What somebody does in a study."""

    READER = "reader"
    COORDINATOR = "coordinator"
    """Sees all reviews and exports; may read as well."""


class Stage(StrEnum):
    """How far a reader is with a case."""

    NEW = "new"
    READING = "reading"
    """Opened, no opinion locked. In the open mode there is no such stage."""
    LOCKED = "locked"
    """The first opinion is locked, the answer not yet shown."""
    REVEALED = "revealed"
    FINISHED = "finished"
    REOPENED = "reopened"
    """Finished, and opened again for a correction; until that is finished, what was said before counts."""


@dataclass(frozen=True, slots=True)
class CaseSlice:
    """One slice of a case, known by what cannot name a patient."""

    pixel_sha256: str
    """As in `ipfvision.core.slice.Source`."""
    shape: tuple[int, int]
    """(rows, columns)."""
    sop_instance_uid: str | None = None
    frame: int | None = None
    """Frame number, from 1, inside a multi-frame object."""

    def __post_init__(self) -> None:
        if len(self.pixel_sha256) != 64 or set(self.pixel_sha256) - set("0123456789abcdef"):
            raise ValueError("a SHA-256 is 64 hexadecimal digits")
        _check_shape(self.shape)


@dataclass(frozen=True, slots=True)
class Case:
    """One scan of a study. The scan itself is not kept: it is found again by the hashes of its pixels."""

    id: str
    number: int
    """From 1, in the order in which the cases were added: what people call it. Each reader has an order of their own."""
    slices: tuple[CaseSlice, ...]
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None

    def __post_init__(self) -> None:
        if not self.slices or self.number < 1:
            raise ValueError("a case has at least one slice, and a number from 1")


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a reader marked as one finding on one slice. It may be empty: "looked, and found none"."""

    slice_index: int
    """Into `Case.slices`."""
    finding: Finding
    shape: tuple[int, int]
    """(rows, columns) of the slice."""
    runs: tuple[int, ...]
    """Run lengths (`ipfvision.core.run_lengths`)."""

    def __post_init__(self) -> None:
        if self.slice_index < 0:
            raise ValueError("a drawing lies on a slice")
        _check_shape(self.shape)
        check(list(self.runs), self.shape[0] * self.shape[1])

    @classmethod
    def of(cls, slice_index: int, finding: Finding, mask: npt.NDArray[np.bool_]) -> "Drawn":
        """From an (H, W) mask on the slice's own pixels."""
        rows, columns = mask.shape
        return cls(slice_index, finding, (rows, columns), tuple(encode(mask).tolist()))

    def mask(self) -> npt.NDArray[np.bool_]:
        """(H, W) on the slice's own pixels."""
        return decode(np.array(self.runs, np.uint32), self.shape)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a reader says of a case, whole."""

    diagnosis: Diagnosis
    confidence: int
    """1 (a guess) to 5 (certain)."""
    drawings: tuple[Drawn, ...] = ()
    """At most one for each slice and finding."""
    comment: str = ""

    def __post_init__(self) -> None:
        if self.confidence not in CONFIDENCES:
            raise ValueError(f"a confidence is one of {CONFIDENCES}, not {self.confidence}")
        _check_drawings(self.drawings)
        _check_text(self.comment)

    def mask(self, slice_index: int, findings: Iterable[Finding] = tuple(Finding)) -> npt.NDArray[np.bool_] | None:
        """(H, W): what was marked on a slice as any of these findings; None if nothing was drawn there, not even nothing."""
        return union(self.drawings, slice_index, findings)


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a reader says of the machine's map."""

    verdict: MapVerdict
    reasons: tuple[Reason, ...] = ()
    """At least one, unless the map agrees."""
    text: str = ""

    def __post_init__(self) -> None:
        if self.verdict is not MapVerdict.AGREES and not self.reasons:
            raise ValueError("a verdict other than 'agrees' has a reason")
        if len(set(self.reasons)) < len(self.reasons):
            raise ValueError("each reason is given once")
        _check_text(self.text)


@dataclass(frozen=True, slots=True)
class Draft:
    """An opinion that is still being formed, and of the map, once that is shown: anything may be missing."""

    diagnosis: Diagnosis | None = None
    confidence: int | None = None
    drawings: tuple[Drawn, ...] = ()
    comment: str = ""
    verdict: MapVerdict | None = None
    reasons: tuple[Reason, ...] = ()
    verdict_text: str = ""

    def __post_init__(self) -> None:
        if self.confidence is not None and self.confidence not in CONFIDENCES:
            raise ValueError(f"a confidence is one of {CONFIDENCES}, not {self.confidence}")
        _check_drawings(self.drawings)
        _check_text(self.comment)
        _check_text(self.verdict_text)

    @classmethod
    def from_opinion(cls, opinion: Opinion, judgment: Judgment | None = None) -> "Draft":
        """Where a revision begins."""
        said = (opinion.diagnosis, opinion.confidence, opinion.drawings, opinion.comment)
        if judgment is None:
            return cls(*said)
        return cls(*said, judgment.verdict, judgment.reasons, judgment.text)

    def opinion(self) -> Opinion | None:
        """The whole opinion; None while diagnosis or confidence is missing."""
        if self.diagnosis is None or self.confidence is None:
            return None
        return Opinion(self.diagnosis, self.confidence, self.drawings, self.comment)

    def judgment(self) -> Judgment | None:
        """What is said of the map; None while the verdict, or its reason, is missing."""
        if self.verdict is None or (self.verdict is not MapVerdict.AGREES and not self.reasons):
            return None
        return Judgment(self.verdict, self.reasons, self.verdict_text)


@dataclass(frozen=True, slots=True, eq=False)
class SliceAnswer:
    """What the machine says of one slice of a case."""

    slice_index: int
    """Into `Case.slices`."""
    prediction: Prediction
    explanation: Explanation | None = None
    """The map for IPF; None if the slice was refused."""


@dataclass(frozen=True, slots=True, eq=False)
class MachineAnswer:
    """What the machine says of a case, as it was shown to the reader."""

    model_name: str
    model_sha256: str
    slices: tuple[SliceAnswer, ...]
    """Of the slices that were read, by their index."""

    def __post_init__(self) -> None:
        indices = [one.slice_index for one in self.slices]
        if not indices or indices != sorted(set(indices)) or indices[0] < 0:
            raise ValueError("an answer is of at least one slice, each once, in their order")

    @property
    def has_map(self) -> bool:
        """Whether there is anything to judge."""
        return any(one.explanation is not None for one in self.slices)

    def of(self, slice_index: int) -> SliceAnswer | None:
        """The answer for one slice; None if it was not read."""
        return next((one for one in self.slices if one.slice_index == slice_index), None)


@dataclass(frozen=True, slots=True)
class MapAgreement:
    """How the map met what the reader drew on one slice, all findings together. Undefined is None."""

    slice_index: int
    dice: float | None
    """Of the map at half its peak (`ipfvision.core.agreement`)."""
    rank_accuracy: float | None
    """Relevance rank accuracy."""
    pointing: bool | None
    """Whether the map's peak lies in what was drawn."""


@dataclass(frozen=True, slots=True)
class Times:
    """When things happened, by the server's clock, which may jump; and how long the case was in hand, which never shrinks."""

    opened: datetime
    locked: datetime | None = None
    """None in the open mode."""
    revealed: datetime | None = None
    finished: datetime | None = None
    seconds_to_lock: float | None = None
    """In hand until the lock, pauses not counted (`ipfvision.workflow.studies`)."""
    seconds: float = 0.0
    """In hand until now, or until it was finished."""

    def __post_init__(self) -> None:
        if any(one is not None and one.tzinfo is None for one in (self.opened, self.locked, self.revealed, self.finished)):
            raise ValueError("times have a time zone")
        if self.seconds < 0 or (self.seconds_to_lock is not None and not 0 <= self.seconds_to_lock <= self.seconds):
            raise ValueError("reading takes time forwards")


@dataclass(frozen=True, slots=True)
class Study:
    """A work list for several readers."""

    id: str
    title: str
    mode: Mode
    seed: int
    """Of each reader's own order."""
    created: datetime

    def __post_init__(self) -> None:
        _check_name(self.title)


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody in a study. The name is typed in, or what the sign-in says: no more is known of anybody."""

    name: str
    role: Role

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True, slots=True, eq=False)
class BlindReview:
    """A case in a reader's hands before the machine's answer: none is in here, and none was asked for."""

    id: str
    study: Study
    case: Case
    reader: str
    revision: int
    """Counts changes: whoever saves says which one they saw, so that two tabs cannot overwrite each other."""
    draft: Draft
    times: Times
    first: Opinion | None = None
    """Once it is locked."""

    def __post_init__(self) -> None:
        check_drawings(self.case, self.draft.drawings)

    @property
    def stage(self) -> Stage:
        return Stage.READING if self.first is None else Stage.LOCKED


@dataclass(frozen=True, slots=True, eq=False)
class RevealedReview:
    """A case in a reader's hands with the machine's answer beside it."""

    id: str
    study: Study
    case: Case
    reader: str
    revision: int
    """As in `BlindReview`."""
    draft: Draft
    times: Times
    answer: MachineAnswer
    first: Opinion | None = None
    """None in the open mode."""
    supersedes: str | None = None
    """The review that this one will correct."""

    def __post_init__(self) -> None:
        check_drawings(self.case, self.draft.drawings)
        check_answer(self.case, self.answer)

    @property
    def stage(self) -> Stage:
        return Stage.REVEALED if self.supersedes is None else Stage.REOPENED


@dataclass(frozen=True, slots=True, eq=False)
class Review:
    """What a reader finally said of a case. It never changes; a correction is another review that names this one."""

    id: str
    study: Study
    case: Case
    reader: str
    revised: Opinion
    """The reader's last word, with the machine's answer known."""
    answer: MachineAnswer
    times: Times
    application_version: str
    first: Opinion | None = None
    """As it was locked before the answer was shown; None in the open mode."""
    judgment: Judgment | None = None
    """None if there was no map to judge."""
    agreement: tuple[MapAgreement, ...] = ()
    """Of the map with `revised`, for the slices with both a map and a drawing."""
    model_sha256_at_lock: str | None = None
    """Of the model that was loaded when the opinion was locked; None in the open mode."""
    supersedes: str | None = None

    def __post_init__(self) -> None:
        check_answer(self.case, self.answer)
        check_drawings(self.case, (*self.revised.drawings, *(() if self.first is None else self.first.drawings)))

    @property
    def model_changed(self) -> bool:
        """Whether the answer came from another model than was loaded when the opinion was locked."""
        return self.model_sha256_at_lock not in (None, self.answer.model_sha256)


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One line of a reader's work list."""

    case: Case
    stage: Stage


def check_drawings(case: Case, drawings: Sequence[Drawn]) -> None:
    """Raise ValueError unless every drawing lies on a slice of the case and has its size."""
    for one in drawings:
        if one.slice_index >= len(case.slices) or one.shape != case.slices[one.slice_index].shape:
            raise ValueError("a drawing lies on a slice of its case, and has its size")


def check_answer(case: Case, answer: MachineAnswer) -> None:
    """Raise ValueError unless every map is of a slice of the case and has its size."""
    for one in answer.slices:
        if one.slice_index >= len(case.slices):
            raise ValueError("an answer is of slices of its case")
        if one.explanation is not None and one.explanation.crop.slice_shape != case.slices[one.slice_index].shape:
            raise ValueError("a map has the size of its slice")


def union(
    drawings: Sequence[Drawn], slice_index: int, findings: Iterable[Finding] = tuple(Finding)
) -> npt.NDArray[np.bool_] | None:
    """(H, W): what was marked on a slice as any of these findings; None without any drawing of them, an empty one included."""
    wanted = set(findings)
    masks = [one.mask() for one in drawings if one.slice_index == slice_index and one.finding in wanted]
    return np.logical_or.reduce(masks) if masks else None


def _check_drawings(drawings: Sequence[Drawn]) -> None:
    if len({(one.slice_index, one.finding) for one in drawings}) < len(drawings):
        raise ValueError("there is one drawing for each slice and finding")


def _check_shape(shape: tuple[int, int]) -> None:
    if min(shape) <= 0 or shape[0] * shape[1] > MOST_PIXELS:
        raise ValueError(f"a slice is (rows, columns) of at most {MOST_PIXELS} pixels, not {shape}")


def _check_text(text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"a text has at most {LONGEST_TEXT} characters")


def _check_name(name: str) -> None:
    if not name.strip() or name != name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"a name is printable, not empty, without spaces around it, and of at most {LONGEST_NAME} characters")
