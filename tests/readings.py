"""Readings of a made-up study: what readers said, without a page, a store or a model."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np

from ipfvision.core.annotation import Finding
from ipfvision.core.findings import Decision, Explanation, Prediction
from ipfvision.core.geometry import Crop
from ipfvision.core.review import (
    Case,
    CaseSlice,
    Diagnosis,
    Drawn,
    Judgment,
    MachineAnswer,
    MapAgreement,
    Mode,
    Opinion,
    Review,
    SliceAnswer,
    Study,
    Times,
)

SHAPE = (8, 8)
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
STUDY = Study("s1", "Honeycombing, twelve cases", Mode.BLINDED, 7, START)
MODEL = "a" * 64


def case(number: int, slices: int = 1, study_instance_uid: str | None = None) -> Case:
    """The case of this number, with slices of 8 x 8."""
    hashes = [f"{number:032x}{index:032x}" for index in range(slices)]
    return Case(f"case-{number}", number, tuple(CaseSlice(one, SHAPE) for one in hashes), None, study_instance_uid)


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """(8, 8) mask."""
    mask = np.zeros(SHAPE, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def drawn(mask: np.ndarray, finding: Finding = Finding.HONEYCOMBING, slice_index: int = 0) -> Drawn:
    """One finding on one slice."""
    return Drawn.of(slice_index, finding, mask)


def opinion(diagnosis: Diagnosis, confidence: int = 3, *drawings: Drawn, comment: str = "") -> Opinion:
    """What a reader says."""
    return Opinion(diagnosis, confidence, drawings, comment)


def answer(
    decision: Decision = Decision.IPF, maps: Mapping[int, np.ndarray] | None = None, model: str = MODEL
) -> MachineAnswer:
    """Say the same of every slice. The map lights its mask at full and the rest at a third; an empty mask is an empty map."""
    crop = Crop(0, 0, SHAPE[1], SHAPE[0], SHAPE, SHAPE)
    margin = {Decision.IPF: 2.0, Decision.NORMAL: -2.0, Decision.UNCERTAIN: 0.1}.get(decision)
    probability = None if margin is None else 1 / (1 + np.exp(-margin))
    prediction = Prediction(decision, "because", probability, margin)
    found = []
    for index, mask in (maps or {0: None}).items():
        explanation = None
        if mask is not None and decision is not Decision.REFUSED:
            light = np.where(mask, 3.0, 1.0 if mask.any() else 0.0).astype(np.float32)
            explanation = Explanation(light, crop, "ipf", "gradcam", "layer4", "logits")
        found.append(SliceAnswer(index, prediction, explanation))
    return MachineAnswer("made up", model, tuple(found))


def review(
    reader: str,
    number: int,
    revised: Opinion,
    first: Opinion | None = None,
    machine: MachineAnswer | None = None,
    judgment: Judgment | None = None,
    agreement: tuple[MapAgreement, ...] = (),
    seconds: tuple[float | None, float] = (30.0, 50.0),
    of: Case | None = None,
    identity: str | None = None,
    supersedes: str | None = None,
    study: Study = STUDY,
) -> Review:
    """A finished reading; `seconds` are those until the lock, and all."""
    machine = machine or answer()
    to_lock = None if first is None else seconds[0]
    locked = None if to_lock is None else START + timedelta(seconds=to_lock)
    return Review(
        id=identity or f"{reader}-{number}",
        study=study,
        case=of or case(number),
        reader=reader,
        revised=revised,
        answer=machine,
        times=Times(START, locked, locked, START + timedelta(seconds=seconds[1]), to_lock, seconds[1]),
        application_version="0.1.0",
        first=first,
        judgment=judgment,
        agreement=agreement,
        model_sha256_at_lock=None if first is None else machine.model_sha256,
        supersedes=supersedes,
    )
