"""From a finished run to a checkpoint with its card: calibrated on some patients, reported on the others."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ipfvision import __version__
from ipfvision.core.findings import TARGETS, ModelCard
from ipfvision.core.window import LUNG
from ipfvision.errors import InputRefused
from ipfvision.whole_file import write_whole
from ipfvision.workflow.answers import LABELS, Answer, answer_all, answers, by_patient, halves, save_answers, shifted
from ipfvision.workflow.article import forbid_shipping
from ipfvision.workflow.evaluation_figures import area_with_interval, calibration, cost_of_precision, rates, within_patients
from ipfvision.workflow.gating import HeldOut, fit_gate
from ipfvision.workflow.reading import Reader
from ipfvision.workflow.training import read_manifest

if TYPE_CHECKING:
    from ipfvision.nn.gate import Gate
    from ipfvision.nn.network import Model

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


def weighed(given: Sequence[Answer]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.float64], int]:
    """Margins, truth, weights, and the patients of the smaller side.

    IPF stands against normal lung and other lung disease, which weigh alike; within a side every patient weighs the same.
    """
    sides = [[list(by_patient(given, ("ipf",)))]]
    sides += [[found for label in ("normal", "other_disease") if (found := list(by_patient(given, (label,))))]]
    patients = [sum(len(found) for found in side) for side in sides]
    if not all(patients):
        raise InputRefused(
            "There is nothing to calibrate on: at least one picture of a patient with IPF and one of a patient without are "
            "needed that are not refused."
        )
    margins, truth, weights = [], [], []
    for side, positive in zip(sides, (True, False), strict=True):
        for found in side:
            for own in found:
                margins.append(own)
                truth.append(np.full(len(own), positive))
                weights.append(np.full(len(own), 0.5 / len(side) / len(found) / len(own)))
    return np.concatenate(margins), np.concatenate(truth), np.concatenate(weights), min(patients)


def _loss(z: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """Cross entropy of logistic(z)."""
    return float((weights * (targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z))).sum())


def platt(
    margins: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64], smooth: int
) -> tuple[float, float]:
    """Fit p = logistic((margin + shift) / temperature), with smoothed targets (Platt 1999).

    Parameters
    ----------
    smooth
        Independent examples on the smaller side: the targets are (n + 1) / (n + 2) and 1 / (n + 2), the same on both sides, so
        that few positives do not push every answer towards the negatives.

    Returns
    -------
    shift, temperature
        In logits.
    """
    from scipy.optimize import minimize  # noqa: PLC0415

    targets = np.where(truth, smooth + 1, 1) / (smooth + 2)

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        return _loss((margins + parameters[0]) * np.exp(-parameters[1]), targets, weights)

    fit = minimize(loss, np.array([-float(np.median(margins)), 0.0]), method="Nelder-Mead", options={"maxiter": 4000})
    return float(fit.x[0]), float(np.exp(fit.x[1]))


def drawn_temperature(drawn: HeldOut) -> float:
    """In logits: how sure the margin makes one of drawn fibrosis, pictures with it and without weighing alike."""
    positive = int(drawn.truth.sum())
    negative = len(drawn.truth) - positive
    if not positive or not negative:
        raise InputRefused("The run's held-out drawn examples are all of one kind: the temperature cannot be fitted to them.")
    weights = np.where(drawn.truth, 0.5 / positive, 0.5 / negative)
    return platt(drawn.margins, drawn.truth, weights, min(positive, negative))[1]


def operating_shift(given: Sequence[Answer], temperature: float) -> float:
    """What to add to the margin so that 0 lies between the classes of real patients, at a temperature that is known."""
    from scipy.optimize import minimize_scalar  # noqa: PLC0415

    margins, truth, weights, _ = weighed(given)
    targets = truth.astype(np.float64)
    fit = minimize_scalar(
        lambda shift: _loss((margins + shift) / temperature, targets, weights),
        bounds=(-float(margins.max()), -float(margins.min())),  # both sides weigh alike: the mean answer is one half
        method="bounded",
    )
    return float(fit.x)


def ship(run: Path, data: Path, weights: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Turn a finished run into a checkpoint with its card, and return the card's details.

    Half of the patients of the real validation pictures calibrate (shift, map reference); the operating point is a probability
    of 0.5 and the uncertain band 0.35 to 0.65, both fixed beforehand. The temperature of a drawn run is that of what was drawn
    into its held-out patients: many pictures of all degrees of disease, where real patients are few. That of a labelled run
    comes from the calibrating patients too. Figures at the operating point come from the other half. ROC areas do not depend on
    the calibration and come from all of them. Nothing else is chosen here.

    What reduced precision costs is measured on all of the pictures. The gate of a drawn run is fitted to what was drawn for it.
    Until all is measured the checkpoint lies in the run's folder; what lay under `weights` before stays until then.
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
    drawn: HeldOut | None = None
    if not labelled:
        say("fitting the refusal gate and the temperature to drawn examples")
        drawn = HeldOut.of(run, load(unfinished))
        gate = fit_gate(run, load(unfinished), held_out=drawn)
        write(0.0, 1.0, 1.0, {})
    before = bias()
    raw = answers(unfinished, data, say, run / "answers")
    calibrating, _ = halves(raw)
    if drawn is None:
        shift, temperature = platt(*weighed(calibrating))
    else:
        temperature = drawn_temperature(drawn)
        shift = operating_shift(calibrating, temperature)
    peaks = [answer.peak for answer in calibrating if answer.row.label == "ipf" and answer.peak is not None]
    card = write(shift, temperature, float(np.median(peaks)), {})
    given = shifted(raw, bias() - before)
    calibrating, reported = halves(given)
    save_answers(given, run / "answers.csv")
    reduced = _reduced_precision(load(unfinished), data, say, run / "answers", lambda: given)
    if not reduced:
        say("this processor does not compute in bf16: the card says nothing of it, and nobody can ask for it")
    details = {
        "application_version": __version__,
        "intended_use": "Research. How much an axial chest CT slice looks like IPF rather than normal lung; not a diagnosis.",
        "limits": LIMITS_OF_LABELLED if labelled else LIMITS,
        "training": training,
        "calibration": {
            "method": ("Platt scaling" if drawn is None else "temperature from held-out drawn pictures, shift from real ones")
            + "; the shift is part of the last layer's bias",
            "shift": shift,
            "drawn_pictures": None if drawn is None else len(drawn.truth),
            "patients": {label: sorted({a.row.patient for a in calibrating if a.row.label == label}) for label in LABELS},
        },
        "gate": None if gate is None else described(gate),
        "reduced_precision": reduced,
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


def _reduced_precision(
    model: "Model", data: Path, say: Callable[[str], None], remember: Path | None, given: Callable[[], Sequence[Answer]]
) -> dict[str, Any]:
    """What each precision that a site may ask for costs; empty, and `given` not asked, where this processor has no bf16."""
    from ipfvision.nn.runtime import in_bf16  # noqa: PLC0415

    runtime = in_bf16(model)
    if runtime is None:
        return {}
    full = given()
    say(f"reading again with {runtime.name}")
    found = answer_all(Reader(model, runtime), data, read_manifest(data), say, remember)
    return {"bf16": cost_of_precision(full, found.answers, model.card)}


def measure_precision(weights: Path, data: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write into the card of a checkpoint what reduced precision costs; `ship` could not where its processor has no bf16.

    Returns
    -------
    What the card says of it now.

    Raises
    ------
    InputRefused
        If this processor has no bf16: the card stays as it was.
    """
    from ipfvision.nn.network import card_path, card_to_json, load  # noqa: PLC0415

    model = load(weights)
    found = _reduced_precision(model, data, say, None, lambda: answers(weights, data, say))
    if not found:
        raise InputRefused(f"This processor does not compute in bf16, so the card of {weights.name} stays as it is.")
    measured = replace(model.card, details={**model.card.details, "reduced_precision": found})
    write_whole(card_path(weights), (json.dumps(card_to_json(measured), indent=1) + "\n").encode())
    return found


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
