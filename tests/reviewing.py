"""Scans, drafts and answers for the tests of studies, small and made by hand."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from ipfvision.core.annotation import Finding
from ipfvision.core.findings import Decision, Explanation, Prediction
from ipfvision.core.geometry import Crop
from ipfvision.core.review import (
    BlindReview,
    Case,
    Diagnosis,
    Draft,
    Drawn,
    MachineAnswer,
    MapVerdict,
    RevealedReview,
    Review,
    SliceAnswer,
)
from ipfvision.core.slice import Series, Slice, hash_pixels
from ipfvision.workflow.studies import Studies
from tests.ct_files import COLUMNS, ROWS, chest, scan

MODEL = "a" * 64
SHAPE = (ROWS, COLUMNS)


def picture(seed: int, uid: str | None = None) -> Slice:
    made = scan(chest(seed=seed))
    return replace(made, source=replace(made.source, pixel_sha256=hash_pixels(made.pixels), sop_instance_uid=uid))


def stack(*seeds: int) -> Series:
    return Series(tuple(picture(seed, f"1.2.3.{seed}") for seed in seeds), "1.2.3")


def box(top: int = 10, left: int = 8) -> Drawn:
    mask = np.zeros(SHAPE, np.bool_)
    mask[top : top + 12, left : left + 16] = True
    return Drawn.of(0, Finding.HONEYCOMBING, mask)


def answer(case: Case, model: str = MODEL, seed: int = 0) -> MachineAnswer:
    """A map with a tail of odd bits on each slice, as a real one has."""
    slices = []
    for index, one in enumerate(case.slices):
        cells = np.random.default_rng(seed + index).gamma(1, 1, (6, 8)).astype(np.float32)
        explanation = Explanation(cells, Crop(5, 5, 40, 30, (96, 128), one.shape), "ipf", "gradcam", "layer4", "logits")
        slices.append(SliceAnswer(index, Prediction(Decision.IPF, "The model says IPF.", 0.9, 2.1), explanation))
    return MachineAnswer("random", model, tuple(slices))


def refusal(case: Case) -> MachineAnswer:
    no = Prediction(Decision.REFUSED, "No lungs were found.")
    return MachineAnswer("random", MODEL, tuple(SliceAnswer(index, no) for index in range(len(case.slices))))


def said(diagnosis: Diagnosis = Diagnosis.UIP, confidence: int = 4) -> Draft:
    return Draft(diagnosis, confidence, (box(),), "Honeycombing at both bases.")


def read_whole(studies: Studies, study: str, case: str, reader: str, diagnosis: Diagnosis = Diagnosis.UIP) -> Review:
    """One case, of slices of `SHAPE`, from the work list to the end."""
    begun = studies.open_case(study, case, reader)
    assert isinstance(begun, BlindReview)
    locked = studies.lock(begun.id, reader, begun.revision, said(diagnosis), MODEL)
    shown = studies.reveal(locked.id, reader, answer)
    assert isinstance(shown, RevealedReview)
    done = studies.finish(shown.id, reader, shown.revision, replace(shown.draft, verdict=MapVerdict.AGREES))
    assert isinstance(done, Review)
    return done


class Clock:
    """A wall clock and a stopwatch that a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 29, 2, 30, tzinfo=UTC)
        self.elapsed = 1000.0

    def wall(self) -> datetime:
        return self.now

    def stopwatch(self) -> float:
        return self.elapsed

    def pass_by(self, seconds: float, wall: float | None = None) -> None:
        self.elapsed += seconds
        self.now += timedelta(seconds=seconds if wall is None else wall)
