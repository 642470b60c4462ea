"""Measuring any checkpoint on labelled pictures: every number that its card should be held to, and a report to read them in."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ipfvision import __version__
from ipfvision.core.findings import ModelCard
from ipfvision.workflow import drawn_lesions
from ipfvision.workflow import evaluation_figures as figures
from ipfvision.workflow.answers import LABELS, Answer, Given, Say, answer_all, answer_rows, open_scan
from ipfvision.workflow.evaluation_report import (
    Sheet,
    Sheets,
    drawn_words,
    side_by_side,
    words,
    worst_errors,
    write_report,
)
from ipfvision.workflow.labelled import MANIFEST, read_collection
from ipfvision.workflow.reading import Reader
from ipfvision.workflow.training import ManifestRow, NormalSlice

NOBODY = "unknown:"
"""Before a file's name where its patient is not known."""
WORST_DRAWN = 8
NORMALS_OF_A_PATIENT = 20
"""Slices without disease of each training patient that the source control looks at."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The pictures by what the checkpoint's card says of their patients."""

    calibrating: tuple[Answer, ...]
    """Of patients that the calibration was fitted on."""
    reported: tuple[Answer, ...]
    """Of all others: only these say how well the answers hold."""
    trained_on: tuple[str, ...]
    """Patients that should not be here: disease was drawn into their slices for training."""


def sides(card: ModelCard, given: Sequence[Answer]) -> Sides:
    """Split by the patients that the card names; all are reported if it names none."""
    named = card.details.get("calibration", {}).get("patients", {})
    used = {patient for patients in named.values() for patient in patients}
    trained = set(card.details.get("training", {}).get("data", {}).get("training_patients", []))
    return Sides(
        tuple(answer for answer in given if answer.row.patient in used),
        tuple(answer for answer in given if answer.row.patient not in used),
        tuple(sorted({answer.row.patient for answer in given} & trained)),
    )


def evaluate(weights: Path, data: Path, out: Path, say: Say, drawn_cases: int = drawn_lesions.CASES) -> dict[str, Any]:
    """Measure a checkpoint and write `report.html`, `figures.json` and the tables into a folder.

    `answers.csv`: one line per picture; `drawn_lesions.csv`: one line per drawn case and finding. What was answered is kept
    under `remembered`, so that a killed evaluation goes on and a second one is quick. The checkpoint is not changed.

    Returns
    -------
    The content of `figures.json`.

    Raises
    ------
    ModelUnusable, InputRefused
        If the checkpoint cannot be loaded, or there is no picture to measure on.
    """
    reader = Reader.open(weights)
    for note in reader.notes:
        say(note)
    rows = collection_rows(data)
    remember = out / "remembered"
    out.mkdir(parents=True, exist_ok=True)
    given = answer_all(reader, data, rows, say, remember)
    normals = _more_normals(reader, data, rows, say, remember)
    slices = drawn_lesions.held_out(reader, data)
    drawn = drawn_lesions.score_drawn(reader, slices, say, remember, drawn_cases) if slices else []
    say("working out the figures")
    found = measure(reader.card, given, normals, drawn)
    found["model"]["computed_by"] = reader.computed_by
    split = sides(reader.card, given.answers)
    _write_answers(reader.card, given.answers, split, out / "answers.csv")
    drawn_lesions.write_table(drawn, out / "drawn_lesions.csv")
    (out / "figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    say("drawing the report")
    write_report(reader.card, found, given.answers, _sheets(reader, data, given, slices, drawn), out)
    return found


def collection_rows(data: Path) -> list[ManifestRow]:
    """The pictures of a collection: a manifest.csv, with or without `use`, or a folder per class.

    What is not for training is to be measured on. Where the patient is not known, every picture is taken for one.
    """
    return [
        ManifestRow(
            picture.file,
            picture.label,
            picture.patient or f"{NOBODY} {picture.file}",
            "train" if picture.use == "train" else "validation",
            scale="",
        )
        for picture in read_collection(data, _labels(data))
    ]


def _labels(data: Path) -> set[str]:
    """Every label that is there: what the model is not measured on is counted later, and stops nothing."""
    manifest = data if data.suffix.lower() == ".csv" else data / MANIFEST
    if not manifest.is_file():
        return {path.name.lower() for path in data.iterdir() if path.is_dir()} if data.is_dir() else set(LABELS)
    with manifest.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return {(row.get("label") or "").strip().lower() for row in csv.DictReader(file)}


def _more_normals(reader: Reader, data: Path, rows: Sequence[ManifestRow], say: Say, remember: Path) -> tuple[Answer, ...]:
    """Pictures without disease from training patients: only for the question whether features tell the source."""
    chosen = []
    for patient in sorted({row.patient for row in rows if row.use == "train" and row.label == "normal"}):
        own = [row for row in rows if row.use == "train" and row.label == "normal" and row.patient == patient]
        chosen += own[:: max(1, len(own) // NORMALS_OF_A_PATIENT)][:NORMALS_OF_A_PATIENT]
    return answer_rows(reader, data, chosen, lambda sentence: say(f"source control, {sentence}"), remember).answers


def measure(
    card: ModelCard, given: Given, normals: Sequence[Answer], drawn: Sequence[drawn_lesions.DrawnScore]
) -> dict[str, Any]:
    """All figures, as they lie in `figures.json`.

    Parameters
    ----------
    normals
        More pictures without disease, for the source control only.
    """
    answers = given.answers
    split = sides(card, answers)
    marked = [answer for answer in answers if answer.margin_with_marks is not None]
    filled = figures.decisions(marked, card)
    left_in = figures.decisions([replace(answer, margin=answer.margin_with_marks) for answer in marked], card)
    return {
        "model": {
            "name": card.name,
            "sha256": card.sha256,
            "status": card.status,
            "operating_point": card.operating_point,
            "uncertain_band": list(card.uncertain_band),
            "temperature": card.temperature,
        },
        "application_version": __version__,
        "data": {
            "pictures": len(answers),
            "patients": len({answer.row.patient for answer in answers}),
            "patients_trained_on": list(split.trained_on),
            "patient_not_known": sum(answer.row.patient.startswith(NOBODY) for answer in answers),
            "unreadable": [list(one) for one in given.unreadable],
            "left_out_labels": dict(given.other_labels),
        },
        "auroc": {
            "ipf_against_normal": figures.area_with_interval(answers, ("normal",)),
            "ipf_against_other_disease": figures.area_with_interval(answers, ("other_disease",)),
            "ipf_against_nsip": figures.area_with_interval(answers, ("nsip",)),
            "within_patients": figures.within_patients(answers),
        },
        "at_operating_point": {
            "reported_patients": figures.rates(split.reported, card),
            "calibrating_patients": figures.rates(split.calibrating, card),
            "all_patients": figures.rates(answers, card),
        },
        "calibration": {
            "reported_patients": figures.calibration(split.reported, card),
            "calibrating_patients": figures.calibration(split.calibrating, card),
        },
        "risk_coverage": {
            "reported_patients": figures.risk_coverage(split.reported, card),
            "all_patients": figures.risk_coverage(answers, card),
        },
        "profiles": figures.profiles(answers, card),
        "marks": {
            "pictures_with_marks": sum(answer.marks > 0 for answer in answers),
            "seen_by_the_model": len(marked),
            "answers_that_change_with_them": sum(one is not two for one, two in zip(filled, left_in, strict=True)),
        },
        "by_source": figures.by_source(answers, card),
        "by_patient": figures.by_each_patient(answers, card),
        "source_control": {
            "normal_pictures": _control([*(a for a in answers if a.row.label == "normal"), *normals]),
            "all_pictures": _control(answers),
        },
        "drawn_lesions": drawn_lesions.summarize_drawn(drawn, card.operating_point) if drawn else None,
    }


def _control(given: Sequence[Answer]) -> dict[str, Any]:
    found = figures.source_control([(a.source, a.row.patient, a.pooled) for a in given if a.pooled is not None])
    for source, counts in found["sources"].items():
        margins = [answer.margin for answer in given if answer.source == source and answer.margin is not None]
        counts["mean_margin"] = float(np.mean(margins)) if margins else None
    return found


def _write_answers(card: ModelCard, given: Sequence[Answer], split: Sides, path: Path) -> None:
    calibrating = {answer.row.patient for answer in split.calibrating}
    lines = [
        {
            "file": answer.row.file,
            "label": answer.row.label,
            "patient": answer.row.patient,
            "source": answer.source,
            "patient_is": "calibrating" if answer.row.patient in calibrating else "reported",
            "decision": decision.value,
            "probability": probability,
            "margin": answer.margin,
            "peak": answer.peak,
            "refused": answer.refused,
            "marks": answer.marks,
            "margin_with_marks": answer.margin_with_marks,
            "position_mm": answer.position_mm,
            "gate_distance": answer.gate_distance,
        }
        for answer, decision, probability in zip(
            given, figures.decisions(given, card), figures.probabilities(given, card), strict=True
        )
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _sheets(
    reader: Reader, data: Path, given: Given, slices: Sequence[NormalSlice], drawn: Sequence[drawn_lesions.DrawnScore]
) -> Sheets:
    def shown(chosen: Sequence[Answer]) -> list[Sheet]:
        return [
            Sheet(side_by_side(reader.card, open_scan(data, answer.row), answer), words(reader.card, answer))
            for answer in chosen
        ]

    poor = drawn_lesions.worst(drawn, WORST_DRAWN)
    return Sheets(
        worst=shown(worst_errors(reader.card, given.answers)),
        positives=shown([answer for answer in given.answers if answer.row.label == "ipf"]),
        drawn=[Sheet(drawn_lesions.show(reader, slices[row.slice], row), drawn_words(row)) for row in poor],
    )
