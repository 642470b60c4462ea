"""Cross-validation of a small collection: every patient is answered by a network that never saw that patient.

For each fold the training patients are split once more: the inner validation patients choose the number of epochs, and then a
network is trained for as many on all training patients of the fold. The patients who are left out choose nothing.
"""

import csv
import hashlib
import io
import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ipfvision import __version__
from ipfvision.core.findings import TARGETS
from ipfvision.errors import InputRefused, RunStopped
from ipfvision.plots import dots
from ipfvision.whole_file import write_whole
from ipfvision.workflow.answers import Answer
from ipfvision.workflow.evaluation_figures import area_with_interval, rate
from ipfvision.workflow.labelled import LabelledPicture, by_label, groups, read_collection, split_collection, without_use
from ipfvision.workflow.labelled_training import (
    BY_IMAGE,
    Options,
    Prepared,
    Say,
    prepare_pictures,
    recipe_for,
    without_maps,
)
from ipfvision.workflow.training import ManifestRow

if TYPE_CHECKING:
    from ipfvision.nn.training import LabelledRecipe

MOST_LEFT_OUT_ALONE = 30
"""Patients up to which each is left out alone; with more, `FOLDS` groups of patients are."""
FOLDS = 5
FEWEST = 3
"""Patients of a class: one is left out, one chooses the epoch, one is trained on."""
NOTE_WIDTH = 68
"""Letters in a line under the plot."""
SIZE = (192, 256)
"""Of the model's input, unless the user says otherwise: two trainings for each fold are to end on two cores."""
POOLED = (
    "Margins of different folds come from different networks: their pooled AUROC is not exactly that of one network, and of "
    "few patients left out one by one it tends to be too low."
)


@dataclass(frozen=True, slots=True)
class Left:
    """One picture, answered by a network that saw nothing of its patient."""

    picture: LabelledPicture
    group: str
    margin: float
    """z_IPF - z_normal in logits; above 0 is called IPF."""
    fold: int
    """From 1."""


def make_folds(
    pictures: Sequence[LabelledPicture], whose: Sequence[str], folds: int | None, seed: int
) -> list[tuple[list[int], list[int]]]:
    """Indices to train on and indices left out, for each fold; no group is in both.

    Parameters
    ----------
    folds
        None leaves each group out alone, if there are at most `MOST_LEFT_OUT_ALONE`, or else makes `FOLDS`.

    Raises
    ------
    InputRefused
        If a class has fewer than `FEWEST` groups, or a fold would leave too few to train on.
    """
    from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold  # noqa: PLC0415

    own = by_label(pictures, whose)
    for label, members in own.items():
        if len(members) < FEWEST:
            raise InputRefused(
                f"The class {label} has {len(members)} patients, and cross-validation needs at least {FEWEST}: one left out, "
                "one to choose the number of epochs, one to train on."
            )
    count = len(set(whose))
    if folds is not None and not 2 <= folds <= count:
        raise InputRefused(f"{count} patients make 2 to {count} folds, not {folds}.")
    labels = [picture.label for picture in pictures]
    if folds == count or (folds is None and count <= MOST_LEFT_OUT_ALONE):
        cuts = list(LeaveOneGroupOut().split(labels, labels, whose))
    else:
        most = min(len(members) for members in own.values())
        if (folds or FOLDS) > most:
            raise InputRefused(f"The smaller class has {most} patients: give at most {most} folds.")
        cutter = StratifiedGroupKFold(folds or FOLDS, shuffle=True, random_state=seed)
        cuts = list(cutter.split(labels, labels, whose))
    made = [([int(i) for i in train], [int(i) for i in left]) for train, left in cuts]
    for train, _ in made:
        for label in TARGETS:
            if len({whose[i] for i in train if labels[i] == label}) < FEWEST - 1:
                raise InputRefused(
                    f"A fold would leave fewer than {FEWEST - 1} patients of the class {label}: give more folds."
                )
    return made


def crossvalidate(data: Path, folder: Path, options: Options, folds: int | None, say: Say) -> dict[str, Any]:
    """Cross-validate; a killed run goes on with the fold at which it was.

    Returns
    -------
    The summary, which names nobody. `patients.csv` and `pictures.csv` do.

    Raises
    ------
    InputRefused, ModelUnusable, RunStopped
        With a sentence.
    """
    listed = without_use(read_collection(data))
    seed, split_images = options.seed, options.split_images
    make_folds(listed, groups(listed, split_images=split_images), folds, seed)  # refuses before the opening
    recipe = recipe_for(replace(options, size=options.size or SIZE))
    prepared = prepare_pictures(data, listed, recipe.input_shape, say)
    whose = groups(prepared.pictures, split_images=split_images)
    made = make_folds(prepared.pictures, whose, folds, seed)
    left: list[Left] = []
    epochs: list[int] = []
    for number, (train, out) in enumerate(made, start=1):
        margins, chosen = _fold(prepared, whose, train, out, recipe, folder / "folds", number)
        left += [
            Left(prepared.pictures[index], whose[index], margin, number) for index, margin in zip(out, margins, strict=True)
        ]
        epochs.append(chosen)
        say(f"fold {number} of {len(made)}: {chosen} epochs chosen, {len(out)} pictures answered")
    for refusal in (*prepared.unreadable, *prepared.without_lungs, *prepared.problems):
        say(f"{refusal.file}: {refusal.reason}")
    summary = summarize(left, epochs, split_images=split_images) | {
        "application_version": __version__,
        "arguments": {**asdict(recipe), "start": Path(recipe.start).name},
        "data_sha256": prepared.identity(),
        "left_out": {"unreadable": len(prepared.unreadable), "without_lungs": len(prepared.without_lungs)},
    }
    _write(folder, summary, left, epochs)
    return summary


def _fold(
    prepared: Prepared,
    whose: Sequence[str],
    train: Sequence[int],
    out: Sequence[int],
    recipe: "LabelledRecipe",
    folder: Path,
    number: int,
) -> tuple[list[float], int]:
    """Margins of the pictures left out and the number of epochs, from the disk if the fold is done."""
    from ipfvision.nn.labelled import margins_of, train_labelled  # noqa: PLC0415
    from ipfvision.nn.training import compute_here  # noqa: PLC0415

    parts = [json.dumps(asdict(recipe), sort_keys=True), prepared.identity(), json.dumps([train, out])]
    identity = hashlib.sha256("".join(parts).encode()).hexdigest()
    done = folder / f"fold_{number:03d}.json"
    if done.is_file():
        content = json.loads(done.read_text("utf-8"))
        if content["identity"] != identity:
            raise RunStopped(f"{folder.parent.name} holds folds of other pictures or options: choose another folder.")
        return content["margins"], content["epochs"]
    pictures = [prepared.pictures[index] for index in train]
    groups_of = dict(zip((picture.file for picture in prepared.pictures), whose, strict=True))
    # The groups, which may be pictures, take the patients' place: the inner split is then by the same rule as the outer one.
    inner = split_collection([replace(p, patient=groups_of[p.file]) for p in pictures], recipe.seed)
    first, second = prepared.chosen(inner.training, groups_of), prepared.chosen(inner.validation, groups_of)
    work = folder / f"fold_{number:03d}"
    chosen = train_labelled(without_maps(recipe, first), first, second, work / "inner", identity).chosen
    every = prepared.chosen(pictures, groups_of)
    final = without_maps(recipe, every)
    model = train_labelled(final, every, None, work / "final", identity, stop_after=chosen).model
    answered = prepared.chosen([prepared.pictures[index] for index in out], groups_of)
    margins = [float(margin) for margin in margins_of(model, answered, final, compute_here())]
    content = {"identity": identity, "epochs": chosen, "margins": margins}
    write_whole(done, json.dumps(content, indent=1).encode())
    shutil.rmtree(work)
    return margins, chosen


def by_group(left: Sequence[Left]) -> list[tuple[str, str, list[Left]]]:
    """(group, label, pictures), IPF first; a patient with pictures of both classes comes twice."""
    found: dict[tuple[str, str], list[Left]] = {}
    for one in left:
        found.setdefault((one.picture.label, one.group), []).append(one)
    return [(group, label, own) for (label, group), own in sorted(found.items())]


def _mean(own: Sequence[Left]) -> float:
    return float(np.mean([one.margin for one in own]))


def _answer(label: str, group: str, margin: float) -> Answer:
    return Answer(ManifestRow(group, label, group, "validation", ""), margin, None)


def summarize(left: Sequence[Left], epochs: Sequence[int], *, split_images: bool) -> dict[str, Any]:
    """Figures of the answers that were given to pictures of unseen patients; patients are numbered and not named.

    A patient's answer is the mean margin of the patient's pictures, called IPF above 0, which was fixed beforehand.
    """
    patients = by_group(left)
    right = {label: [own for _, name, own in patients if name == label] for label in TARGETS}
    called = {label: sum(_mean(own) > 0 for own in given) for label, given in right.items()}
    pictures = {label: [one.margin > 0 for one in left if one.picture.label == label] for label in TARGETS}
    return {
        "split": BY_IMAGE if split_images else "by patient",
        "folds": len(epochs),
        "epochs_chosen": list(epochs),
        "auroc_of_patients": area_with_interval(
            [_answer(label, group, _mean(own)) for group, label, own in patients], ("normal",)
        ),
        "auroc_of_pictures": area_with_interval(
            [_answer(one.picture.label, one.group, one.margin) for one in left], ("normal",)
        ),
        "sensitivity_of_patients": rate(called["ipf"], len(right["ipf"])),
        "specificity_of_patients": rate(len(right["normal"]) - called["normal"], len(right["normal"])),
        "pictures_called_right": {
            "ipf": {"count": sum(pictures["ipf"]), "of": len(pictures["ipf"])},
            "normal": {"count": len(pictures["normal"]) - sum(pictures["normal"]), "of": len(pictures["normal"])},
        },
        "patients": [
            {"label": label, "pictures": len(own), "mean_margin": _mean(own), "fold": own[0].fold} for _, label, own in patients
        ],
        "how_to_read": POOLED,
    }


def _write(folder: Path, summary: Mapping[str, Any], left: Sequence[Left], epochs: Sequence[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(
        folder / "patients.csv",
        _table(
            ["patient", "label", "pictures", "mean_margin", "fold", "epochs"],
            [
                [group, label, len(own), _mean(own), own[0].fold, epochs[own[0].fold - 1]]
                for group, label, own in by_group(left)
            ],
        ),
    )
    write_whole(
        folder / "pictures.csv",
        _table(
            ["file", "label", "patient", "margin", "fold"],
            [[one.picture.file, one.picture.label, one.picture.patient, one.margin, one.fold] for one in left],
        ),
    )
    margins = {label: [_mean(own) for _, name, own in by_group(left) if name == label] for label in TARGETS}
    notes = [POOLED] if summary["split"] == "by patient" else [summary["split"], POOLED]
    wrapped = [part for note in notes for part in textwrap.wrap(note, NOTE_WIDTH)]
    named = {f"{label} ({len(values)})": values for label, values in margins.items()}
    content = dots(named, "mean margin of a patient, logits", 0.0, "called IPF above", wrapped)
    write_whole(folder / "margins.png", content)
    write_whole(folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode()
