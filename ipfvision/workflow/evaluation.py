"""Measuring a checkpoint on real pictures, and making its card: calibrated on some patients, reported on the others."""

import csv
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ipfvision import __version__, dicom, images
from ipfvision.core.findings import TARGETS, Decision, ModelCard
from ipfvision.core.lungs import find_lungs
from ipfvision.core.slice import Slice, grey
from ipfvision.core.window import LUNG
from ipfvision.errors import InputRefused
from ipfvision.workflow.training import ManifestRow, read_manifest

LABELS = ("ipf", "normal", "nsip", "other_disease", "ipf_patient")
"""`ipf_patient`: slices of an IPF patient that show little or no disease."""
BOOTSTRAPS = 2000
BATCH = 8
CROP_MARGIN = 0.1
UNCERTAIN_BAND = (0.35, 0.65)
LIMITS = (
    "IPF against normal lung only: other lung disease was drawn, never seen in training, and may be called IPF.",
    "Early, thinly spread reticulation is often answered uncertain or normal.",
    "Trained on drawn disease in slices of four patients; measured on a handful of real IPF patients.",
    "Axial slices in a lung window only; the heat map cannot locate anything smaller than its cell.",
)


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
    """Split by patient within each label: every second patient, by name, calibrates; the others are reported.

    A patient with pictures of two labels stays on the side of the first label in `LABELS`.
    """
    calibrates: dict[str, bool] = {}
    for label in LABELS:
        for index, patient in enumerate(sorted({answer.row.patient for answer in given if answer.row.label == label})):
            calibrates.setdefault(patient, index % 2 == 0)
    first = [answer for answer in given if calibrates[answer.row.patient]]
    return first, [answer for answer in given if not calibrates[answer.row.patient]]


def _by_patient(given: list[Answer], labels: tuple[str, ...]) -> list[npt.NDArray[np.float64]]:
    """Margins of the pictures with these labels that were not refused, one array per patient."""
    found: dict[str, list[float]] = {}
    for answer in given:
        if answer.row.label in labels and answer.margin is not None:
            found.setdefault(answer.row.patient, []).append(answer.margin)
    return [np.array(margins) for _, margins in sorted(found.items())]


def area_with_interval(given: list[Answer], negatives: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    """AUROC of IPF against `negatives`, with a 95 % percentile interval from a bootstrap over patients within each side."""
    from ipfvision.nn.training import auroc  # noqa: PLC0415

    ours, theirs = _by_patient(given, ("ipf",)), _by_patient(given, negatives)
    if not ours or not theirs:
        return {"auroc": None}

    def area(first: list[npt.NDArray[np.float64]], second: list[npt.NDArray[np.float64]]) -> float | None:
        scores = np.concatenate([*first, *second])
        positive = np.arange(len(scores)) < sum(len(margins) for margins in first)
        return auroc(scores, positive)

    rng = np.random.default_rng(seed)

    def drawn_again(side: list[npt.NDArray[np.float64]]) -> list[npt.NDArray[np.float64]]:
        return [side[index] for index in rng.integers(0, len(side), len(side))]

    draws = [area(drawn_again(ours), drawn_again(theirs)) for _ in range(BOOTSTRAPS)]
    low, high = np.quantile([draw for draw in draws if draw is not None], [0.025, 0.975])
    return {
        "auroc": area(ours, theirs),
        # of one patient on each side there is nothing to draw again
        "interval_95": None if len(ours) == len(theirs) == 1 else [round(float(low), 6), round(float(high), 6)],
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


def platt(given: list[Answer]) -> tuple[float, float]:
    """Fit p = logistic((margin + shift) / temperature) on the calibrating patients (Platt 1999, with his smoothed targets).

    IPF stands against normal lung and other lung disease, which weigh alike; within a side every patient weighs the same, and
    the targets are smoothed by the number of patients, so that a handful of patients cannot make the answer absurdly sure.

    Returns
    -------
    shift, temperature
        In logits.
    """
    from scipy.optimize import minimize  # noqa: PLC0415

    margins, targets, weights = [], [], []
    for labels, positive, share in ((("ipf",), True, 0.5), (("normal",), False, 0.25), (("other_disease",), False, 0.25)):
        found = _by_patient(given, labels)
        smoothed = (len(found) + 1) / (len(found) + 2) if positive else 1 / (len(found) + 2)
        for own in found:
            margins.append(own)
            targets.append(np.full(len(own), smoothed))
            weights.append(np.full(len(own), share / len(found) / len(own)))
    if not margins:
        raise InputRefused("There is no picture to calibrate on.")
    x, t, w = (np.concatenate(parts) for parts in (margins, targets, weights))

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        z = (x + parameters[0]) * np.exp(-parameters[1])
        return float((w * (t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z))).sum())

    fit = minimize(loss, np.array([-float(np.median(x)), 0.0]), method="Nelder-Mead", options={"maxiter": 4000})
    return float(fit.x[0]), float(np.exp(fit.x[1]))


def _rates(given: list[Answer], card: ModelCard) -> dict[str, Any]:
    """How often the card's answer is right, per label, with exact intervals; refusals and "uncertain" are counted apart."""
    from ipfvision.nn.classify import decide  # noqa: PLC0415

    figures = {}
    for label in LABELS:
        rows = [answer for answer in given if answer.row.label == label]
        decisions = [decide(answer.margin, card).decision for answer in rows if answer.margin is not None]
        called = sum(decision is Decision.IPF for decision in decisions)
        figures[label] = {
            "called_ipf": _rate(called, len(decisions)),
            "uncertain": sum(decision is Decision.UNCERTAIN for decision in decisions),
            "refused": len(rows) - len(decisions),
            "patients": len({answer.row.patient for answer in rows}),
        }
    return figures


def save_answers(given: list[Answer], path: Path) -> None:
    """One line for every picture: file, label, patient, margin, peak; empty where it was refused."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient", "margin", "peak"])
        writer.writerows([a.row.file, a.row.label, a.row.patient, a.margin, a.peak] for a in given)


def ship(run: Path, data: Path, weights: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Turn a finished run into a checkpoint with its card, and return the card's figures.

    Half of the patients of the real validation pictures calibrate (shift, temperature, map reference); the operating point is
    a probability of 0.5 and the uncertain band 0.35 to 0.65, both fixed beforehand. Figures at the operating point come from
    the other half. ROC areas do not depend on the calibration and come from all of them. Nothing else is chosen here.
    """
    from ipfvision.nn.network import card_path, card_to_json, save, shift_margin  # noqa: PLC0415
    from ipfvision.nn.training import load_run  # noqa: PLC0415

    recipe, model, step = load_run(run)
    network = model.as_classifier().eval()

    def write(shift: float, temperature: float, reference: float, details: dict[str, Any]) -> ModelCard:
        shift_margin(network, shift)
        card = ModelCard(
            name="ipf_resnet50",
            sha256=save(network, weights),
            status="preliminary",
            labels=TARGETS,
            window=LUNG,
            input_shape=recipe.input_shape,
            mean=recipe.mean,
            standard_deviation=recipe.standard_deviation,
            crop_margin=CROP_MARGIN,
            dilated_layer4=recipe.dilated_layer4,
            padding_mode=recipe.padding_mode,
            temperature=temperature,
            operating_point=0.5,
            uncertain_band=UNCERTAIN_BAND,
            map_reference=reference,
            details=details,
        )
        card_path(weights).write_text(json.dumps(card_to_json(card), indent=1) + "\n", encoding="utf-8")
        return card

    write(0.0, 1.0, 1.0, {})
    raw = answers(weights, data, say)
    calibrating, _ = halves(raw)
    shift, temperature = platt(calibrating)
    peaks = [answer.peak for answer in calibrating if answer.row.label == "ipf" and answer.peak is not None]
    card = write(shift, temperature, float(np.median(peaks)), {})
    given = [answer if answer.margin is None else replace(answer, margin=answer.margin + shift) for answer in raw]
    calibrating, reported = halves(given)
    save_answers(given, run / "answers.csv")
    details = {
        "application_version": __version__,
        "intended_use": "Research. How much an axial chest CT slice looks like IPF rather than normal lung; not a diagnosis.",
        "limits": LIMITS,
        "training": _training(run, recipe, step),
        "calibration": {
            "method": "Platt scaling; the shift is part of the last layer's bias",
            "shift": shift,
            "patients": {label: sorted({a.row.patient for a in calibrating if a.row.label == label}) for label in LABELS},
        },
        "figures": {
            "drawn_lesions_held_out_patient": json.loads((run / "log.jsonl").read_text().splitlines()[-1]),
            "auroc_ipf_against_normal": area_with_interval(given, ("normal",)),
            "auroc_ipf_against_other_disease": area_with_interval(given, ("other_disease",)),
            "auroc_diseased_against_other_slices_of_one_ipf_patient": area_with_interval(
                [a for a in given if a.row.patient == "OSIC-421"], ("ipf_patient",)
            ),
            "at_operating_point_reported_patients": _rates(reported, card),
            "at_operating_point_calibrating_patients": _rates(calibrating, card),
        },
    }
    return write(0.0, temperature, card.map_reference, details).details


def _training(run: Path, recipe: Any, step: int) -> dict[str, Any]:
    manifest = json.loads((run / "run.json").read_text())
    return {
        "start": json.loads((run / "start.json").read_text()),
        "recipe": {**asdict(recipe), "start": Path(recipe.start).name},
        "steps_done": step,
        "data": manifest,
        "labels": "Lesions of fibrosis and distractors drawn by ipfvision.synthetic; no real IPF was trained on.",
    }
