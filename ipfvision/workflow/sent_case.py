"""One case as it is sent: what is on its page, in its JSON and in its DICOM objects.

Pages, figures and JSON name no patient. DICOM objects must, letter for letter as the scan's own files do, so these files are
asked for again at that moment (`ipfvision.workflow.sending_dicom`); nothing of them is kept.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ipfvision import __version__
from ipfvision.core.agreement import HALF
from ipfvision.core.annotation import Annotation, OnSlice, Said
from ipfvision.core.findings import Explanation, ModelCard
from ipfvision.core.review import Judgment, Opinion, Review
from ipfvision.core.window import LUNG, Window
from ipfvision.errors import InputRefused
from ipfvision.workflow.reading import METHODS, Reading
from ipfvision.workflow.scoring import Scored, score, scored_result
from ipfvision.workflow.uploads import Refusal

Mask = npt.NDArray[np.bool_]
PROGRAM = "ipfvision"
TARGET_WORDS: Mapping[str, str] = MappingProxyType({"ipf": "IPF", "normal": "normal lung"})


@dataclass(frozen=True, slots=True, eq=False)
class SentSlice:
    """One slice of a case, with what is said of it."""

    reading: Reading
    annotations: tuple[OnSlice, ...] | None
    """What was drawn on it; None if nobody looked, empty if somebody did and drew nothing."""
    scored: Scored


@dataclass(frozen=True, slots=True, eq=False)
class SentCase:
    """Everything that is sent of one case."""

    card: ModelCard
    slices: tuple[SentSlice, ...]
    target: str = "ipf"
    window: Window = LUNG
    """The reader's."""
    reader: str | None = None
    """Who drew and judged, as typed in."""
    first: Opinion | None = None
    """Before the answer was shown."""
    revised: Opinion | None = None
    judgment: Judgment | None = None
    made: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        if not self.slices:
            raise ValueError("a case has at least one slice")

    def ranked(self) -> list[int]:
        """Indices of the slices: those with most drawn on them first, then the most IPF-like."""

        def weight(one: SentSlice) -> tuple[int, float]:
            drawn = sum(int(area.mask.sum()) for area in one.annotations or () if isinstance(area, Annotation))
            return drawn, one.reading.prediction.probability or 0.0

        return sorted(range(len(self.slices)), key=lambda index: weight(self.slices[index]), reverse=True)

    @property
    def key(self) -> int:
        """Index of the slice to show where there is room for one."""
        return self.ranked()[0]

    @property
    def name(self) -> str:
        """How its files begin: the key slice's pixels by their hash, never the input's own name, which may name a patient."""
        return f"{PROGRAM}_{self.slices[self.key].reading.scan.source.pixel_sha256[:12]}"


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """Files, by name, and what was left out."""

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    """Sentences: what could not be made, and why."""
    refusals: tuple[Refusal, ...] = ()
    """Files that were given for the scan's own and are damaged or changed."""


def case_of(
    card: ModelCard,
    readings: Sequence[Reading],
    annotations: Sequence[Sequence[OnSlice] | None],
    target: str = "ipf",
    *,
    window: Window = LUNG,
    reader: str | None = None,
) -> SentCase:
    """A case from what is open on the page; annotations of each reading as in `ipfvision.workflow.scoring.score`."""
    slices = tuple(
        SentSlice(reading, None if given is None else tuple(given), score(reading, given, target))
        for reading, given in zip(readings, annotations, strict=True)
    )
    return SentCase(card, slices, target, window, reader)


def case_of_review(card: ModelCard, readings: Mapping[int, Reading], review: Review, window: Window = LUNG) -> SentCase:
    """A case from a finished review, for those of its slices that were read again.

    Parameters
    ----------
    readings
        By index of the slice in the case; all of one series.

    Raises
    ------
    InputRefused
        If the loaded model is not the one whose map was judged, or a reading is of another slice than the review's.
    """
    if review.answer.model_sha256 != card.sha256:
        raise InputRefused(
            f"This review judged a map of the model {review.answer.model_name}, and the one that is loaded is {card.name}, "
            "whose map would be another one; please load the model of the review."
        )
    slices = []
    for index, reading in sorted(readings.items()):
        if not index < len(review.case.slices) or review.case.slices[index].pixel_sha256 != reading.scan.source.pixel_sha256:
            raise InputRefused(
                "This scan is not the one that was reviewed: its pixels are others; please open the scan of the case."
            )
        drawn = [
            Annotation(one.mask(), Said(one.finding, review.reader, origin="drawn here", matched_by="drawn on this slice"))
            for one in review.revised.drawings
            if one.slice_index == index
        ]
        given = tuple(drawn) if drawn else None
        slices.append(SentSlice(reading, given, score(reading, given)))
    return SentCase(
        card,
        tuple(slices),
        window=window,
        reader=review.reader,
        first=review.first,
        revised=review.revised,
        judgment=review.judgment,
    )


def case_json(case: SentCase) -> bytes:
    """The JSON of `ipfvision.workflow.scoring.scored_result` without file names, and with what the reader said."""
    document = scored_result(
        case.card, [one.reading for one in case.slices], [one.annotations for one in case.slices], case.target
    )
    for entry in document["slices"]:
        entry["file"] = None  # a name may name a patient
    document["program"] = {"name": PROGRAM, "version": __version__}
    document["made"] = case.made.isoformat(timespec="seconds")
    document["review"] = _review_result(case)
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def _review_result(case: SentCase) -> dict[str, Any] | None:
    if case.revised is None and case.judgment is None and case.first is None:
        return None

    def opinion(one: Opinion | None) -> dict[str, Any] | None:
        if one is None:
            return None
        return {"diagnosis": one.diagnosis.value, "confidence": one.confidence, "comment": one.comment}

    judged = case.judgment
    return {
        "reader": case.reader,
        "first": opinion(case.first),
        "revised": opinion(case.revised),
        "map": None
        if judged is None
        else {"verdict": judged.verdict.value, "reasons": [one.value for one in judged.reasons], "text": judged.text},
    }


def map_region(explanation: Explanation) -> Mask:
    """(H, W): where a map is at least half its peak, as `ipfvision.core.agreement` measures it; nowhere if it is empty."""
    heatmap = explanation.heatmap()
    peak = float(heatmap.max())
    if peak <= 0:
        return np.zeros(heatmap.shape, np.bool_)
    return np.asarray(heatmap / np.float32(peak) >= np.float32(HALF), np.bool_)


def map_words(explanation: Explanation) -> str:
    """What a map is, in a few words."""
    method = METHODS[explanation.method].split(" (")[0]
    return f"{method} for {TARGET_WORDS[explanation.target]}"
