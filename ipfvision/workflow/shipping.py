"""From a finished run to a checkpoint with its card: calibrated on some patients, reported on the others."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ipfvision import __version__
from ipfvision.core.findings import TARGETS, ModelCard
from ipfvision.core.window import LUNG
from ipfvision.errors import InputRefused
from ipfvision.whole_file import write_whole
from ipfvision.workflow.answers import LABELS, Answer, answers, by_patient, halves, save_answers, shifted
from ipfvision.workflow.article import forbid_shipping
from ipfvision.workflow.evaluation_figures import area_with_interval, calibration, rates, within_patients
from ipfvision.workflow.gating import fit_gate
from ipfvision.workflow.training import read_manifest

if TYPE_CHECKING:
    from ipfvision.nn.gate import Gate

CROP_MARGIN = 0.1
UNCERTAIN_BAND = (0.35, 0.65)
LIMITS = (
    "IPF against normal lung only: other lung disease was drawn, never seen in training, and may be called IPF.",
    "Early, thinly spread reticulation is often answered uncertain or normal.",
    "Trained on drawn disease in slices of four patients; measured on a handful of real IPF patients.",
    "Axial slices in a lung window only; the heat map cannot locate anything smaller than its cell.",
)

LIMITS_OF_LABELLED = (
    "IPF against normal lung only: other lung disease may be called IPF.",
    "Trained and measured on one collection: what tells its two classes apart may be their source and not the disease.",
    LIMITS[3],
)


def platt(given: Sequence[Answer]) -> tuple[float, float]:
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
        found = list(by_patient(given, labels))
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


def ship(run: Path, data: Path, weights: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Turn a finished run into a checkpoint with its card, and return the card's details.

    Half of the patients of the real validation pictures calibrate (shift, temperature, map reference); the operating point is
    a probability of 0.5 and the uncertain band 0.35 to 0.65, both fixed beforehand. Figures at the operating point come from
    the other half. ROC areas do not depend on the calibration and come from all of them. Nothing else is chosen here. The gate
    of a drawn run is fitted to what was drawn for it. Until all is measured the checkpoint lies in the run's folder; what lay
    under `weights` before stays until then.
    """
    from ipfvision.nn.gate import described  # noqa: PLC0415
    from ipfvision.nn.network import card_path, card_to_json, load, save, shift_margin  # noqa: PLC0415
    from ipfvision.nn.training import load_run  # noqa: PLC0415

    forbid_shipping(run)
    read_manifest(data)  # a collection that cannot be measured on is refused before anything is worked out
    recipe, model, step = load_run(run)
    network = model.as_classifier().eval()
    training = _training(run, recipe, step)
    labelled = training["data"].get("recipe") == "labelled"
    unfinished = run / "checkpoint.safetensors"
    gate: Gate | None = None

    def write(shift: float, temperature: float, reference: float, details: dict[str, Any]) -> ModelCard:
        shift_margin(network, shift)
        card = ModelCard(
            name="ipf_resnet50",
            sha256=save(network, unfinished, gate),
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
        write_whole(card_path(unfinished), (json.dumps(card_to_json(card), indent=1) + "\n").encode())
        return card

    def bias() -> float:
        """As it lies on disk, where it was rounded."""
        stored = load(unfinished).linear.bias
        return float(stored[0] - stored[1])

    write(0.0, 1.0, 1.0, {})
    if not labelled:
        say("fitting the refusal gate to drawn examples")
        gate = fit_gate(run, load(unfinished))
        write(0.0, 1.0, 1.0, {})
    before = bias()
    raw = answers(unfinished, data, say, run / "answers")
    calibrating, _ = halves(raw)
    shift, temperature = platt(calibrating)
    peaks = [answer.peak for answer in calibrating if answer.row.label == "ipf" and answer.peak is not None]
    card = write(shift, temperature, float(np.median(peaks)), {})
    given = shifted(raw, bias() - before)
    calibrating, reported = halves(given)
    save_answers(given, run / "answers.csv")
    details = {
        "application_version": __version__,
        "intended_use": "Research. How much an axial chest CT slice looks like IPF rather than normal lung; not a diagnosis.",
        "limits": LIMITS_OF_LABELLED if labelled else LIMITS,
        "training": training,
        "calibration": {
            "method": "Platt scaling; the shift is part of the last layer's bias",
            "shift": shift,
            "patients": {label: sorted({a.row.patient for a in calibrating if a.row.label == label}) for label in LABELS},
        },
        "gate": None if gate is None else described(gate),
        "figures": {
            "last_epoch_validation_patients" if labelled else "drawn_lesions_held_out_patient": json.loads(
                (run / "log.jsonl").read_text().splitlines()[-1]
            ),
            "auroc_ipf_against_normal": area_with_interval(given, ("normal",)),
            "auroc_ipf_against_other_disease": area_with_interval(given, ("other_disease",)),
            "auroc_diseased_against_other_slices_of_one_ipf_patient": within_patients(given),
            "at_operating_point_reported_patients": rates(reported, card),
            "at_operating_point_calibrating_patients": rates(calibrating, card),
            "calibration_reported_patients": _summary(reported, card),
            "calibration_calibrating_patients": _summary(calibrating, card),
        },
    }
    card = write(0.0, temperature, card.map_reference, details)
    weights.parent.mkdir(parents=True, exist_ok=True)
    for content, place in ((unfinished, weights), (card_path(unfinished), card_path(weights))):
        write_whole(place, content.read_bytes())
    return card.details


def _summary(given: Sequence[Answer], card: ModelCard) -> dict[str, Any]:
    found = calibration(given, card)
    return {key: found[key] for key in ("brier", "expected_calibration_error", "patients")}


def _training(run: Path, recipe: Any, step: int) -> dict[str, Any]:
    manifest = json.loads((run / "run.json").read_text())
    return {
        "start": json.loads((run / "start.json").read_text()),
        "recipe": {**asdict(recipe), "start": Path(recipe.start).name},
        "steps_done": step,
        "data": manifest,
        "labels": "Those of the collection: patients with IPF and with normal lung."
        if manifest.get("recipe") == "labelled"
        else "Lesions of fibrosis and distractors drawn by ipfvision.synthetic; no real IPF was trained on.",
    }
