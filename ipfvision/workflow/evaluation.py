"""Measuring a checkpoint on real pictures, and making its card: calibrated on some patients, reported on the others."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ipfvision import __version__, dicom, images
from ipfvision.core.findings import TARGETS, ModelCard
from ipfvision.core.lungs import find_lungs
from ipfvision.core.slice import Slice, grey
from ipfvision.core.window import LUNG
from ipfvision.errors import InputRefused
from ipfvision.workflow.training import ManifestRow, read_manifest

LABELS = ("ipf", "normal", "nsip", "other_disease")
BOOTSTRAPS = 2000
BATCH = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said of one real picture."""

    row: ManifestRow
    margin: float | None
    """z_IPF - z_normal in logits; None if the picture was refused."""
    peak: float | None
    """Of the Grad-CAM map for IPF, in logits."""


def _scans(data: Path, rows: list[ManifestRow]) -> Iterator[tuple[ManifestRow, Slice]]:
    archives: dict[str, zipfile.ZipFile] = {}
    for row in rows:
        archive, found, member = row.file.partition(".zip/")
        if found:
            opened = archives.setdefault(archive, zipfile.ZipFile(data / f"{archive}.zip"))
            content = opened.read(member)
        else:
            content = (data / row.file).read_bytes()
        scan = dicom.read(content, row.file)[0] if row.scale == "hounsfield" else images.read(content, row.file)
        yield row, scan


def answers(weights: Path, data: Path, say: Callable[[str], None]) -> list[Answer]:
    """Margins of all validation pictures, through the same path as reading."""
    from ipfvision.nn.classify import run  # noqa: PLC0415
    from ipfvision.nn.explain import class_maps  # noqa: PLC0415
    from ipfvision.nn.network import load, to_tensor  # noqa: PLC0415
    from ipfvision.nn.preprocess import prepare  # noqa: PLC0415

    model = load(weights)
    card = model.card
    rows = [row for row in read_manifest(data) if row.use == "validation" and row.label in LABELS]
    given: list[Answer] = []
    waiting: list[tuple[ManifestRow, npt.NDArray[np.float32]]] = []

    def answer() -> None:
        features, logits = run(model, to_tensor(np.stack([image for _, image in waiting]), card))
        maps = class_maps(model.linear, features)
        for (row, _), logit, cells in zip(waiting, logits, maps, strict=True):
            given.append(Answer(row, float(logit[0] - logit[1]), float(cells[0].max())))
        waiting.clear()
        say(f"reading: {len(given)} of {len(rows)} pictures")

    for row, scan in _scans(data, rows):
        lungs = find_lungs(scan)
        if lungs.problem is not None:
            given.append(Answer(row, None, None))
            continue
        waiting.append((row, prepare(grey(scan, card.window), lungs, card.input_shape, card.crop_margin)[0]))
        if len(waiting) == BATCH:
            answer()
    if waiting:
        answer()
    return given


def halves(given: list[Answer]) -> tuple[list[Answer], list[Answer]]:
    """Split by patient within each label: every second patient, by name, calibrates; the others are reported."""
    calibrating = {
        (label, patient)
        for label in LABELS
        for index, patient in enumerate(sorted({answer.row.patient for answer in given if answer.row.label == label}))
        if index % 2 == 0
    }
    first = [answer for answer in given if (answer.row.label, answer.row.patient) in calibrating]
    return first, [answer for answer in given if (answer.row.label, answer.row.patient) not in calibrating]


def _margins(given: list[Answer], *labels: str) -> npt.NDArray[np.float64]:
    return np.array([answer.margin for answer in given if answer.row.label in labels and answer.margin is not None])


def area_with_interval(given: list[Answer], negatives: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    """AUROC of IPF against `negatives`, with a 95 % percentile interval from a bootstrap over patients within each side."""
    from ipfvision.nn.training import auroc  # noqa: PLC0415

    def by_patient(labels: tuple[str, ...]) -> list[npt.NDArray[np.float64]]:
        found: dict[str, list[float]] = {}
        for answer in given:
            if answer.row.label in labels and answer.margin is not None:
                found.setdefault(answer.row.patient, []).append(answer.margin)
        return [np.array(margins) for _, margins in sorted(found.items())]

    ours, theirs = by_patient(("ipf",)), by_patient(negatives)
    if not ours or not theirs:
        return {"auroc": None}

    def area(first: list[npt.NDArray[np.float64]], second: list[npt.NDArray[np.float64]]) -> float | None:
        scores = np.concatenate([*first, *second])
        positive = np.arange(len(scores)) < sum(len(margins) for margins in first)
        return auroc(scores, positive)

    rng = np.random.default_rng(seed)
    draws = [
        area([ours[i] for i in rng.integers(0, len(ours), len(ours))], [theirs[i] for i in rng.integers(0, len(theirs), len(theirs))])
        for _ in range(BOOTSTRAPS)
    ]
    low, high = np.quantile([draw for draw in draws if draw is not None], [0.025, 0.975])
    return {
        "auroc": area(ours, theirs),
        "interval_95": [float(low), float(high)],
        "images": [int(sum(map(len, ours))), int(sum(map(len, theirs)))],
        "patients": [len(ours), len(theirs)],
    }


def exact_interval(successes: int, trials: int) -> list[float]:
    """Clopper-Pearson 95 % interval of a rate."""
    from scipy.stats import binomtest  # noqa: PLC0415

    interval = binomtest(successes, trials).proportion_ci(0.95, "exact")
    return [float(interval.low), float(interval.high)]


def _rate(successes: int, trials: int) -> dict[str, Any]:
    if trials == 0:
        return {"rate": None, "of": 0}
    return {"rate": successes / trials, "of": trials, "interval_95": exact_interval(successes, trials)}


def fitted_temperature(margins: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    """Temperature that minimises the log loss of logistic(margin / T) (Guo et al., ICML 2017), classes weighted alike.

    Searched on a grid from 0.25 to 40: where the classes are separated the loss has no minimum inside, and the grid's end,
    which is said in the card, keeps the answer from becoming absurdly sure.
    """
    weight = np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())
    sign = np.where(positive, 1.0, -1.0)
    grid = np.geomspace(0.25, 40, 200)
    losses = [(weight * np.logaddexp(0, -sign * margins / temperature)).sum() for temperature in grid]
    return float(grid[int(np.argmin(losses))])
