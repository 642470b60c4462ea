"""Scoring a whole collection of annotated scans: a table of slices, a summary with intervals over patients, a report.

A collection is a manifest or a folder. A manifest is a .csv with the columns `scan` and `annotation`, and `patient` if one is
known; paths are relative to it; a scan may be a file, a folder or a .zip; several rows with one scan give it several
annotations. In a folder, every subfolder with scans is one patient, with the annotations in it. Of the files beside the
subfolders every DICOM series and every picture is taken for a patient of its own; their annotations lie among them or in
subfolders without scans.
"""

import base64
import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ipfvision import __version__, plots
from ipfvision.core.agreement import THRESHOLDS, Agreement
from ipfvision.core.annotation import Annotation, OnSlice
from ipfvision.core.findings import Decision, ModelCard
from ipfvision.core.overlay import outline
from ipfvision.core.profile import Disagreement, ProfileRow
from ipfvision.errors import InputRefused
from ipfvision.images import write_png
from ipfvision.workflow.annotations import split_uploads, take_in_annotations
from ipfvision.workflow.intake import take_in
from ipfvision.workflow.reading import METHODS, Reader, Reading, picture
from ipfvision.workflow.scoring import AGREEMENT_KEYS, EVIDENCE_KEYS, PLAUSIBILITY_KEYS, Scored, score, score_result
from ipfvision.workflow.uploads import Progress, Refusal, Upload

BOOTSTRAPS = 2000
WORST = 24
"""Slices on the report's sheet."""
SHEET_PIXELS = 320
MOST_TRIED = 20
"""Files of a subfolder that are tried before it is said to hold no scan."""
REPORT = Path(__file__).with_name("agreement_report.html")
OUTLINE = (72, 219, 251)
"""RGB of an annotation on the report's pictures: light blue, which the heat map has nowhere."""

_FIGURES: Mapping[str, tuple[str, str | None, str]] = {
    "pointing_hit": ("Pointing hits", "pointing_chance", "the map's largest value lies on the annotation"),
    "mass": ("Share of the map inside", "rank_chance", "energy-based pointing game: evidence inside the annotated area"),
    "enrichment": ("Enrichment", None, "that share over the area's share of the lung; 1 is chance"),
    "rank_accuracy": (
        "Rank accuracy",
        "rank_chance",
        "of as many strongest pixels as are annotated, the share that is annotated",
    ),
    "iou_at_half": ("IoU at half the peak", None, "the map at half its peak, and the annotated area"),
    "dice_at_half": ("Dice at half the peak", None, "the same as Dice"),
    "iou_cells": ("IoU on the map's cells", None, "the same with the annotation pooled to the map's own grid"),
    "auroc": ("Pixel AUROC in the lung", None, "the map as a score for the annotation; 0.5 is chance"),
    "average_precision": ("Average precision in the lung", "average_precision_chance", "area under the precision-recall curve"),
    "lesion_recall": ("Lesions found", None, "annotated regions of 10 mm\u00b2 or more that the map at half its peak touches"),
    "false_regions": ("False regions a slice", None, "regions of the map at half its peak that touch no annotation"),
    "distance_mm": ("Peak to annotation, mm", None, "from the map's largest value to the nearest annotated pixel"),
    "hd95_mm": ("HD95, mm", None, "95th percentile Hausdorff distance at half the peak"),
}
"""Of an `Agreement`: name, where its chance stands, and what it is."""
_EVIDENCE: Mapping[str, tuple[str, None, str]] = {
    "outside_lung_mass": ("Map outside the lungs", None, "share of the map outside the lung mask, annotated or not"),
    "subpleural_share": ("Map within 10 mm of the pleura", None, "of the map inside the lungs"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """What belongs together."""

    patient: str | None
    """None if every series is to be taken for a patient of its own."""
    scans: tuple[Upload, ...]
    annotations: tuple[Upload, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One slice of the table, without its pixels: a collection may have tens of thousands."""

    patient: str
    file: str
    frame: int | None
    position_mm: float | None
    labels: tuple[str, ...]
    profile: ProfileRow
    scored: Scored


def cases_of(source: Path) -> Iterator[Case]:
    """The scans of a collection with their annotations, one case in memory at a time.

    Raises
    ------
    InputRefused
        If it is neither a folder nor a manifest with the columns, or the manifest names a file that is not there.
    """
    return _folder(source) if source.is_dir() else _manifest(source)


def _manifest(path: Path) -> Iterator[Case]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = {"scan", "annotation"} - set(rows.fieldnames or ())
            lines = list(rows)
    except (UnicodeDecodeError, csv.Error):
        raise InputRefused("This is neither a folder nor a manifest: a .csv with the columns scan and annotation.") from None
    if missing:
        raise InputRefused(f"The manifest lacks the column {' and '.join(sorted(missing))}.")
    drawn: dict[tuple[str, str | None], list[Path]] = {}
    for line in lines:
        own = drawn.setdefault((line["scan"], line.get("patient") or None), [])
        if line["annotation"]:
            own.append(path.parent / line["annotation"])
    named = [one for (scan, _), own in drawn.items() for one in (path.parent / scan, *own)]
    absent = sum(not one.exists() for one in named)
    if absent:
        raise InputRefused(
            f"The manifest names {absent} of {len(named)} files that are not there; its paths are relative to it."
        )
    for (scan, patient), own in drawn.items():
        yield Case(patient, _uploads(path.parent / scan), tuple(upload for one in own for upload in _uploads(one)))


def _folder(source: Path) -> Iterator[Case]:
    files = [path for path in sorted(source.iterdir()) if path.is_file()]
    scans, annotations = split_uploads([Upload(str(path), path.read_bytes(), str(source)) for path in files])
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        own_scans, own_annotations = split_uploads(_uploads(folder))
        if any(take_in([one]).series for one in own_scans[:MOST_TRIED]):
            yield Case(folder.name, own_scans, own_annotations)
        else:
            annotations += tuple(replace(one, folder=str(source)) for one in own_annotations)
    if scans:
        yield Case(None, scans, annotations)


def _uploads(path: Path) -> tuple[Upload, ...]:
    """A file, or all files of a folder."""
    if path.is_file():
        return (Upload(str(path), path.read_bytes()),)
    return tuple(Upload(str(one), one.read_bytes(), str(path)) for one in sorted(path.rglob("*")) if one.is_file())


def agree_collection(
    source: Path,
    out: Path,
    reader: Reader,
    target: str = "ipf",
    method: str = "gradcam",
    labels: Collection[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every slice of a collection and write `slices.csv`, `summary.json`, `report.html` and the plots into a folder.

    `slices.csv` names the scans' files, for whoever looks one up. The summary and the report name none: they travel.

    Parameters
    ----------
    labels
        As in `ipfvision.workflow.annotations.take_in_annotations`.
    progress
        Called with the number of cases and of slices that are done.

    Returns
    -------
    The summary.

    Raises
    ------
    InputRefused
        If no annotation belongs to any of the scans.
    """
    lines: list[Line] = []
    sheet: list[tuple[tuple[int, float, int], bytes]] = []
    refusals: list[Refusal] = []
    every_patient_named = True
    for done, case in enumerate(cases_of(source), start=1):
        every_patient_named &= case.patient is not None
        _score_case(case, reader, target, method, labels, lines, sheet, refusals)
        if progress is not None:
            progress(done, len(lines))
    if not any(line.profile.annotated for line in lines):
        reasons = Counter(refusal.reason for refusal in refusals).most_common(1)
        raise InputRefused("No annotation belongs to any of the scans." + "".join(f" {reason}" for reason, _ in reasons))
    out.mkdir(parents=True, exist_ok=True)
    _write_table(out / "slices.csv", lines)
    summary = summarize(lines, reader.card, target, method, refusals)
    pictures = _plots(lines)
    for name, (content, _) in pictures.items():
        (out / name).write_bytes(content)
    (out / "report.html").write_text(
        _report(summary, list(pictures.values()), lines, sheet, every_patient_named),
        encoding="utf-8",
    )
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _score_case(
    case: Case,
    reader: Reader,
    target: str,
    method: str,
    labels: Collection[str] | None,
    lines: list[Line],
    sheet: list[tuple[tuple[int, float, int], bytes]],
    refusals: list[Refusal],
) -> None:
    """Add the slices of one case to the table, and the worst of them to the sheet."""
    intake = take_in(case.scans)
    found = take_in_annotations(case.annotations, intake.series, labels=labels)
    refusals += [*intake.refusals, *found.refusals]
    for chosen, series in enumerate(intake.series):
        for index, reading in enumerate(reader.read_all(series.slices, method)):
            drawn, scan = found.by_slice.get((chosen, index)), reading.scan
            alone = series.series_instance_uid or scan.source.pixel_sha256
            scored = score(reading, drawn or (), target)
            row = ProfileRow(len(lines), reading.prediction, scored.agreement, scored.evidence, annotated=drawn is not None)
            shown = tuple(dict.fromkeys(one.said.label or one.said.finding.value for one in drawn or ()))
            position = None if scan.plane is None else scan.plane.distance_mm()
            patient = case.patient or alone
            lines.append(Line(patient, scan.source.file, scan.source.frame, position, shown, row, scored))
            rank = (int(row.disagreement), -row.size, row.index)
            if row.disagreement is not Disagreement.NOT_COMPARED and (len(sheet) < WORST or rank < sheet[-1][0]):
                sheet.append((rank, _thumbnail(reader.card, reading, drawn or (), target)))
                sheet.sort(key=lambda one: one[0])
                del sheet[WORST:]


def _thumbnail(card: ModelCard, reading: Reading, drawn: Sequence[OnSlice], target: str) -> bytes:
    image = picture(card, reading, target)
    for one in drawn:
        if isinstance(one, Annotation):
            image = outline(image, one.mask, OUTLINE)
    step = max(1, max(image.shape) // SHEET_PIXELS)
    return write_png(np.ascontiguousarray(image[::step, ::step]))


def _write_table(path: Path, lines: Sequence[Line]) -> None:
    head = ["row", "patient", "file", "frame", "position_mm", "labels", "decision", "probability", "margin", "disagreement"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*head, *AGREEMENT_KEYS, *(f"evidence_{key}" for key in EVIDENCE_KEYS), *PLAUSIBILITY_KEYS])
        for row, line in enumerate(lines, start=1):
            prediction, scores = line.profile.prediction, score_result(line.scored)
            parts = [scores[part] or {} for part in ("agreement", "evidence", "plausibility")]
            writer.writerow(
                [row, line.patient, line.file, line.frame, line.position_mm, "; ".join(line.labels)]
                + [prediction.decision.value, prediction.probability, prediction.margin]
                + [line.profile.disagreement.name.lower()]
                + [_cell(parts[0].get(key)) for key in AGREEMENT_KEYS]
                + [_cell(parts[1].get(key)) for key in EVIDENCE_KEYS]
                + [_cell(parts[2].get(key)) for key in PLAUSIBILITY_KEYS]
            )


def _cell(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def mean_over_patients(values: Sequence[tuple[str, float | None]], seed: int = 0) -> dict[str, Any]:
    """Mean over patients of each patient's mean over slices, with a 95 % percentile interval from a bootstrap over patients.

    Parameters
    ----------
    values
        Patient and value of each slice; None does not count.
    """
    by_patient: dict[str, list[float]] = {}
    for patient, value in values:
        if value is not None:
            by_patient.setdefault(patient, []).append(float(value))
    means = np.array([np.mean(own) for own in by_patient.values()])
    count = {"slices": sum(map(len, by_patient.values())), "patients": len(means)}
    if not len(means):
        return {"mean": None, "interval_95": None, **count}
    interval = None
    if len(means) > 1:
        draws = means[np.random.default_rng(seed).integers(0, len(means), (BOOTSTRAPS, len(means)))].mean(axis=1)
        interval = [float(edge) for edge in np.quantile(draws, [0.025, 0.975])]
    return {"mean": float(means.mean()), "interval_95": interval, **count}


def summarize(lines: Sequence[Line], card: ModelCard, target: str, method: str, refusals: Sequence[Refusal]) -> dict[str, Any]:
    """The collection's figures. Nothing in it names a file or a patient."""

    def of(part: str, key: str) -> dict[str, Any]:
        return mean_over_patients([(line.patient, getattr(getattr(line.scored, part), key, None)) for line in lines])

    agreement = {}
    for key, (_, chance, _) in _FIGURES.items():
        agreement[key] = of("agreement", key)
        if chance is not None:
            agreement[key]["chance"] = of("agreement", chance)["mean"]
    looked = [line.scored.agreement for line in lines if line.scored.agreement is not None]
    return {
        "model": {"name": card.name, "sha256": card.sha256, "status": card.status},
        "application_version": __version__,
        "target": target,
        "method": method,
        "counts": {
            "slices": len(lines),
            "patients": len({line.patient for line in lines}),
            "annotated": sum(found.annotated is True for found in looked),
            "looked_empty": sum(found.annotated is False for found in looked),
            "refused": sum(line.profile.prediction.decision is Decision.REFUSED for line in lines),
            "files_not_read": len(refusals),
            "disagreements": {
                kind.name.lower(): sum(line.profile.disagreement is kind for line in lines) for kind in Disagreement
            },
        },
        "agreement": agreement,
        "plausibility": {key: of("plausibility", key) for key in _EVIDENCE},
        "not_read": Counter(refusal.reason for refusal in refusals).most_common(),
    }


def _plots(lines: Sequence[Line]) -> dict[str, tuple[bytes, str]]:
    """File name -> PNG and caption."""
    found: dict[str, list[Agreement]] = {}
    for line in lines:
        if line.scored.agreement is not None and line.scored.agreement.annotated is not None:
            found.setdefault(line.patient, []).append(line.scored.agreement)
    names = {patient: f"patient {number}" for number, patient in enumerate(found, start=1)}
    pictures = {}

    overlaps = {patient: [one.curve.iou for one in own if one.curve is not None] for patient, own in found.items()}
    means = [np.mean(own, axis=0) for own in overlaps.values() if own]
    if means:
        mean, *each = (plots.Line(list(THRESHOLDS), list(own)) for own in (np.mean(means, axis=0), *means))
        content = plots.curves(mean, each, "threshold, share of the map's peak", "IoU", "mean over patients", "one patient")
        pictures["iou_over_threshold.png"] = (content, "IoU of the map with the annotated area, over the threshold of the map.")

    def froc(own: Sequence[Agreement]) -> plots.Line | None:
        curves = [one.froc for one in own if one.froc is not None]
        lesions = sum(one.lesions or 0 for one in own if one.froc is not None)
        if not curves or not lesions:
            return None
        points = [
            (sum(p.false_regions for p in at) / len(curves), sum(p.found for p in at) / lesions)
            for at in zip(*curves, strict=True)
        ]
        return plots.Line([x for x, _ in points], [y for _, y in points])

    together = froc([one for own in found.values() for one in own])
    if together is not None:
        faint = [curve for own in found.values() if (curve := froc(own)) is not None]
        content = plots.curves(
            together, faint, "false regions a slice", "lesions found", "all slices", "one patient", joined=False
        )
        pictures["froc.png"] = (
            content,
            "Free-response curve: lesions found against false regions, one point for each threshold.",
        )

    enrichments = {
        names[patient]: [one.enrichment for one in own if one.enrichment is not None] for patient, own in found.items()
    }
    enrichments = {name: values for name, values in enrichments.items() if values}
    if enrichments:
        content = plots.strips(enrichments, "enrichment", 1.0, "chance")
        pictures["enrichment.png"] = (content, "Enrichment of every annotated slice, by patient; open dots at the foot are 0.")
    return pictures


def _report(
    summary: Mapping[str, Any],
    pictures: Sequence[tuple[bytes, str]],
    lines: Sequence[Line],
    sheet: Sequence[tuple[tuple[int, float, int], bytes]],
    patients_named: bool,
) -> str:
    from jinja2 import Environment  # noqa: PLC0415 - only reports need it

    template = Environment(autoescape=True).from_string(REPORT.read_text("utf-8"))
    rows = []
    for part, figures in (("agreement", _FIGURES), ("plausibility", _EVIDENCE)):
        for key, (name, _, definition) in figures.items():
            figure = summary[part][key]
            interval = figure["interval_95"]
            rows.append(
                {
                    "name": name,
                    "mean": _number(figure["mean"]),
                    "interval": "\u2013" if interval is None else f"{_number(interval[0])} to {_number(interval[1])}",
                    "chance": _number(figure.get("chance")),
                    "slices": figure["slices"],
                    "patients": figure["patients"],
                    "definition": definition,
                }
            )
    return template.render(
        **{key: summary[key] for key in ("model", "counts")},
        target={"ipf": "IPF", "normal": "normal lung"}[summary["target"]],
        method=METHODS[summary["method"]],
        version=__version__,
        bootstraps=BOOTSTRAPS,
        patients_are=""
        if patients_named
        else "No patients were named for some scans: there, every series or picture counts as one.",
        cautions=_cautions(summary),
        figures=rows,
        plots=[{"png": _base64(content), "words": words} for content, words in pictures],
        worst=[{"png": _base64(content), "row": rank[2] + 1, "words": _words(lines[rank[2]])} for rank, content in sheet],
        refusals=summary["not_read"],
    )


def _cautions(summary: Mapping[str, Any]) -> list[str]:
    said = []
    patients = summary["agreement"]["pointing_hit"]["patients"]
    if patients < 10:
        said.append(
            f"Only {patients} {'patient has' if patients == 1 else 'patients have'} an annotated slice: intervals over so few "
            "patients are rough, and slices of one patient are not independent of each other."
        )
    if summary["model"]["status"] != "released":
        said.append(f"The model's status is {summary['model']['status']}.")
    if summary["method"] != "gradcam":
        said.append("Only Grad-CAM's map is the evidence of the decision; another method's map has a unit of its own.")
    return said


def _words(line: Line) -> str:
    row = line.profile
    kinds = {
        Disagreement.MISSED: "annotated, called normal",
        Disagreement.UNMARKED: "nothing marked, called IPF",
        Disagreement.ELSEWHERE: "called IPF or uncertain for another place",
        Disagreement.UNSURE: "uncertain",
        Disagreement.UNREAD: "annotated, not read",
        Disagreement.NONE: "agree",
    }
    probability = "" if row.prediction.probability is None else f", probability {row.prediction.probability:.2f}"
    mass = row.agreement.mass if row.agreement is not None else None
    return kinds.get(row.disagreement, "") + probability + ("" if mass is None else f", {100 * mass:.0f} % of the map inside")


def _number(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.2f}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
