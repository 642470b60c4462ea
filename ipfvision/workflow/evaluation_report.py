"""An evaluation as one page that a clinician can read: figures with intervals, curves, and the pictures behind them."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ipfvision import __version__, plots
from ipfvision.core.findings import Decision, ModelCard
from ipfvision.core.overlay import display_grey, overlay
from ipfvision.core.slice import Slice
from ipfvision.core.window import LUNG
from ipfvision.images import write_png
from ipfvision.workflow.answers import LABELS, Answer
from ipfvision.workflow.drawn_lesions import SIZES, DrawnScore
from ipfvision.workflow.evaluation_figures import NEGATIVES, decisions, probabilities, roc

REPORT = Path(__file__).with_name("evaluation_report.html")
SHOWN = 288
"""Longest side of a picture on a sheet, in pixels."""
WORST = 16
FEW = 10
"""Below this many patients an interval is said to be rough."""
NAMES: Mapping[str, str] = {
    "ipf": "IPF",
    "normal": "normal lung",
    "nsip": "NSIP",
    "other_disease": "other lung disease",
    "ipf_patient": "IPF patient, slice with little or no disease",
}
SAID: Mapping[Decision, str] = {
    Decision.IPF: "called IPF",
    Decision.NORMAL: "called normal",
    Decision.UNCERTAIN: "uncertain",
    Decision.REFUSED: "refused",
}
DRAWN: Mapping[str, tuple[str, str]] = {
    "pointing_hit": ("Pointing hit", "the map's largest pixel lies on the lesion"),
    "pointing_chance": ("\u2026 by chance", "of a pixel of the lung drawn blindly"),
    "mass": ("Share of the map in the lesion", "energy-based pointing game"),
    "enrichment": ("\u2026 over chance", "that share over the lesion's share of the lung; 1 is chance"),
    "lesion_recall": ("Lesions touched", "regions of 10 mm\u00b2 or more that the map at half its peak touches"),
    "iou_positive": (
        "IoU, map above 0",
        "pixels of the heat map above 0, which reach up to a cell beyond its last positive cell",
    ),
    "iou_positive_in_lung": ("\u2026 cut to the lung", "the same map without what lies outside the lung mask"),
    "iou_sign": ("IoU, evidence above 0", "pixels where the signed evidence, brought to pixels first, speaks for IPF"),
    "iou_colored": ("IoU, as colored", "pixels that the page draws in color"),
    "iou_at_half": ("IoU at half the peak", "docs/agreement.md"),
    "iou_at_otsu": ("IoU at Otsu's threshold", "docs/agreement.md"),
    "iou_true_cells": ("IoU of a map right in every cell", "the most that this grid can reach at pixels"),
    "iou_cells": ("IoU at cells", "evidence above 0 against cells that are at least 40 % lesion"),
    "iou_cells_colored": ("IoU at cells, as colored", "cells that the page draws in color against the same"),
    "outside_lung": ("Map outside the lungs", "share of the map outside the lungs as they were before anything was drawn"),
    "far_outside_lung": ("\u2026 by more than half a cell", "share of the map more than half a cell away from them"),
    "far_outside_found_lung": (
        "\u2026 of the mask found",
        "the same for the mask found on the drawn slice, which misses dense lung",
    ),
    "in_frame": ("Map in its outermost cells", "share of the map in the frame of the model's input"),
    "cell_mm": ("Cell, mm", "the longer side: nothing smaller can be located; the scale is taken from the lungs' width"),
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """One picture of a contact sheet."""

    png: bytes
    words: str


@dataclass(frozen=True, slots=True)
class Sheets:
    """The contact sheets of a report."""

    worst: Sequence[Sheet]
    positives: Sequence[Sheet]
    drawn: Sequence[Sheet]


def worst_errors(card: ModelCard, given: Sequence[Answer], count: int = WORST) -> list[Answer]:
    """The pictures of IPF, normal lung and other disease whose probability is farthest from the truth, the worst first."""
    known = [answer for answer in given if answer.row.label in {"ipf", *NEGATIVES} and answer.margin is not None]
    wrong = [
        1 - (share or 0) if answer.row.label == "ipf" else share or 0
        for answer, share in zip(known, probabilities(known, card), strict=True)
    ]
    return [known[index] for index in np.argsort(-np.array(wrong), kind="stable")[:count]]


def side_by_side(card: ModelCard, scan: Slice, answer: Answer) -> bytes:
    """PNG: the picture as it came, and beside it the same with the heat map on the card's scale."""
    grey = display_grey(scan, LUNG)
    explanation = answer.explanation()
    heatmap = np.zeros(grey.shape, np.float32) if explanation is None else explanation.heatmap()
    scale = SHOWN / max(grey.shape)
    size = round(grey.shape[1] * scale), round(grey.shape[0] * scale)
    small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    map_small = np.asarray(cv2.resize(heatmap, size, interpolation=cv2.INTER_AREA), np.float32)
    both = [np.repeat(small[:, :, None], 3, axis=2), overlay(small, map_small, card.map_reference)]
    return write_png(np.ascontiguousarray(np.concatenate(both, axis=1)))


def words(card: ModelCard, answer: Answer) -> str:
    """What a picture is, and what the model says of it."""
    (said,), (share,) = decisions([answer], card), probabilities([answer], card)
    given = SAID[said] if share is None else f"{SAID[said]}, probability {share:.2f}"
    marks = f"; {answer.marks} marks filled in" if answer.marks else ""
    return f"{NAMES[answer.row.label]}: {given}. {answer.row.file}{marks}"


def drawn_words(row: DrawnScore) -> str:
    """What a drawn case is, and where its map lies."""
    hit = "largest pixel on the lesion" if row.pointing_hit else "largest pixel off the lesion"
    over = "" if row.enrichment is None else f", {row.enrichment:.1f} times chance in the lesion"
    drawn = f"Case {row.case}, {100 * row.severity:.0f} % of the lungs drawn on"
    return f"{drawn}: {hit}{over}, probability {_number(row.probability)}."


def write_report(card: ModelCard, found: Mapping[str, Any], given: Sequence[Answer], sheets: Sheets, out: Path) -> None:
    """Write `report.html`, which needs no other file, and the plots beside it."""
    from jinja2 import Environment  # noqa: PLC0415 - only reports need it

    pictures = _plots(card, found, given)
    for name, (content, _) in pictures.items():
        (out / name).write_bytes(content)
    environment = Environment(autoescape=True)
    environment.filters.update(figure=figure, percent=percent, number=_number, base64=_base64)
    template = environment.from_string(REPORT.read_text("utf-8"))
    page = template.render(
        found=found,
        card=card,
        names=NAMES,
        labels=LABELS,
        cautions=_cautions(card, found),
        areas=_areas(found),
        plots=list(pictures.values()),
        drawn_names=DRAWN,
        sizes=[name for name, _ in SIZES],
        size_words=_size_words(),
        sheets=sheets,
        refused=_refused(given),
        version=__version__,
    )
    (out / "report.html").write_text(page, encoding="utf-8")


def _size_words() -> str:
    parts = [f"{name} from {100 * least:.0f} %" for name, least in SIZES if least > 0]
    return f"of the lungs' area: {', '.join(parts)}, small below"


def _number(value: float | None, digits: int = 2) -> str:
    return "\u2013" if value is None else f"{value:.{digits}f}"


def figure(found: Mapping[str, Any] | None, key: str = "value", digits: int = 2) -> str:
    """A figure with its 95 % interval in brackets; a dash where it is not defined."""
    if not found or found.get(key) is None:
        return "\u2013"
    interval = found.get("interval_95")
    between = "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
    return f"{found[key]:.{digits}f}{between}"


def percent(found: Mapping[str, Any] | None) -> str:
    """A rate in percent with its exact interval and what it is out of."""
    if not found or found["rate"] is None:
        return "\u2013"
    low, high = found["interval_95"]
    return f"{100 * found['rate']:.0f} % ({100 * low:.0f} to {100 * high:.0f}), {found['count']} of {found['of']}"


def _areas(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    area = found["auroc"]
    named = [
        ("IPF against normal lung", area["ipf_against_normal"]),
        ("IPF against other lung disease (NSIP apart)", area["ipf_against_other_disease"]),
        ("IPF against NSIP", area["ipf_against_nsip"]),
    ]
    named += [(f"{patient}: diseased slices against the others", one) for patient, one in area["within_patients"].items()]
    return [{"name": name, **one} for name, one in named]


def _cautions(card: ModelCard, found: Mapping[str, Any]) -> list[str]:
    said = []
    trained = found["data"]["patients_trained_on"]
    if trained:
        said.append(f"The model was trained on patients of this collection ({', '.join(trained)}): no figure here is honest.")
    unknown = found["data"]["patient_not_known"]
    if unknown:
        said.append(
            f"The patient of {unknown} pictures is not known: each counts as a patient of its own, and intervals are too "
            "narrow if some are of one patient."
        )
    area = found["auroc"]["ipf_against_normal"]
    patients = area["patients"][0]
    if patients < FEW:
        said.append(
            f"Only {patients} {'patient' if patients == 1 else 'patients'} with IPF: an interval over so few is rough, and one "
            "over patients who are all ranked rightly has no width however few they are. Five of five right is 48 to 100 %."
        )
    largest = max((one for one in found["by_patient"] if one["label"] == "ipf"), key=lambda one: one["pictures"], default=None)
    positives = sum(one["pictures"] for one in found["by_patient"] if one["label"] == "ipf")
    if largest is not None and largest["pictures"] > positives / 2:
        said.append(
            f"{largest['pictures']} of the {positives} pictures of IPF are of one patient, {largest['patient']}: what counts "
            "pictures says mostly how this patient is read. What counts patients stands beside it."
        )
    if found["at_operating_point"]["calibrating_patients"]["ipf"]["pictures"] == 0:
        said.append("The card names none of these patients as calibrating ones: all count as reported.")
    if card.status != "released":
        said.append(f"The model's status is {card.status}.")
    return said


def _refused(given: Iterable[Answer]) -> list[tuple[str, str, str]]:
    return [(answer.row.file, NAMES[answer.row.label], answer.refused) for answer in given if answer.refused is not None]


def _plots(card: ModelCard, found: Mapping[str, Any], given: Sequence[Answer]) -> dict[str, tuple[bytes, str]]:
    """File name -> PNG and caption."""
    pictures: dict[str, tuple[bytes, str]] = {}
    curves = {"against normal lung": roc(given, ("normal",)), "against other lung disease": roc(given, ("other_disease",))}
    lines = {name: plots.Line(*curve) for name, curve in curves.items() if curve is not None}
    if lines:
        content = plots.unit_square(lines, "false positive rate", "true positive rate", "chance")
        pictures["roc.png"] = content, "ROC curves of pictures. Areas with their intervals stand in the table."
    reliability = {
        name: [(one["mean_probability"], one["share_of_ipf"], *one["interval_95"]) for one in found["calibration"][key]["bins"]]
        for name, key in (("reported patients", "reported_patients"), ("calibrating patients", "calibrating_patients"))
    }
    reliability = {name: points for name, points in reliability.items() if points}
    if reliability:
        content = plots.with_intervals(reliability, "mean probability of IPF", "share that is IPF", "perfectly calibrated")
        pictures["reliability.png"] = (
            content,
            (
                "Reliability: bins of 0.1, every patient weighing alike, 95 % bootstrap intervals over patients. IPF against "
                "normal lung and other disease. A bin in which all are alike has an interval without width."
            ),
        )
    risk = found["risk_coverage"]["reported_patients"]
    if risk is not None and risk["as_used"]["wrong"]["rate"] is not None:
        content = plots.with_mark(
            plots.Line(risk["coverage"], risk["risk"]),
            (risk["as_used"]["coverage"]["rate"], risk["as_used"]["wrong"]["rate"]),
            "coverage: share of pictures with an answer",
            "risk: share of these that is wrong",
            "the surest answers only",
            "as the page answers",
        )
        pictures["risk_coverage.png"] = (
            content,
            (
                "Risk against coverage, reported patients: how many answers are wrong if only the surest are given. The curve "
                "ends where pictures are refused; the point leaves out what is uncertain or refused."
            ),
        )
    for number, profile in enumerate(found["profiles"], start=1):
        pictures[f"profile_{number}.png"] = _profile(card, profile)
    return pictures


def _profile(card: ModelCard, profile: Mapping[str, Any]) -> tuple[bytes, str]:
    places = list(zip(profile["down_mm"], profile["probability"], profile["label"], strict=True))
    groups = {
        NAMES[label]: plots.Line(
            [down for down, share, own in places if own == label and share is not None],
            [share for _, share, own in places if own == label and share is not None],
        )
        for label in LABELS
        if any(own == label and share is not None for _, share, own in places)
    }
    missing = [down for down, share, _ in places if share is None]
    content = plots.along(groups, card.uncertain_band, "mm below the first slice", "probability of IPF", "uncertain", missing)
    return content, (
        f"{profile['patient']}, from head to foot: Spearman's correlation of probability with the way down "
        f"{profile['spearman']:.2f}; of two slices the lower one is the more IPF-like in "
        f"{100 * profile['lower_is_higher']:.0f} % (chance 50 %). One patient: no interval."
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
