"""Training on labelled pictures: what the model sees of them, the run, and everything that is written about it."""

import csv
import hashlib
import io
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ipfvision import __version__
from ipfvision.core.annotation import Annotation
from ipfvision.core.findings import TARGETS
from ipfvision.core.slice import Slice, grey, hash_pixels
from ipfvision.core.window import LUNG
from ipfvision.errors import InputRefused, ModelUnusable
from ipfvision.plots import Line, Panel, histories
from ipfvision.whole_file import write_whole
from ipfvision.workflow.labelled import (
    Files,
    LabelledPicture,
    Split,
    annotations_on,
    groups,
    open_pictures,
    read_collection,
    split_collection,
)
from ipfvision.workflow.reading import DEFAULT_MODEL, without_marks
from ipfvision.workflow.training import MARGIN
from ipfvision.workflow.uploads import Refusal

if TYPE_CHECKING:
    from ipfvision.nn.labelled import Epoch, Pictures
    from ipfvision.nn.training import LabelledRecipe

MOST_UNREADABLE = 0.05
"""Share of a collection's files above which it is refused and not trained on what is left."""
MOST_WITHOUT_LUNGS = 0.5
"""The same for pictures on which no lungs are found."""
EPOCHS = 30
"""At most, unless the user says otherwise."""
NOTE_WIDTH = 170
"""Letters in a line under a plot."""
BY_IMAGE = (
    "Split by image, not by patient: pictures of one patient may be on both sides, and every figure here is inflated by that."
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a user decides about a run on labelled pictures."""

    start: str | None = None
    """"random", "astra", "imagenet" or a checkpoint; None is the shipped one."""
    size: tuple[int, int] | None = None
    """(rows, columns) of the model's input; None is the checkpoint's own, or the recipe's."""
    seed: int = 0
    epochs: int = EPOCHS
    patience: int = 8
    batch: int = 8
    split_images: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The pictures of a collection that can be trained on, as the model sees them, and those that cannot."""

    pictures: tuple[LabelledPicture, ...]
    images: npt.NDArray[np.uint8]
    """(N, rows, columns)."""
    masks: npt.NDArray[np.uint8]
    """(N, 2, rows, columns) annotated lesion and lung."""
    pixel_sha256: tuple[str, ...]
    unreadable: tuple[Refusal, ...]
    without_lungs: tuple[Refusal, ...]
    problems: tuple[Refusal, ...]
    """Annotations that could not be used; their pictures are trained on without them."""

    def chosen(self, pictures: Sequence[LabelledPicture], whose: Mapping[str, str]) -> "Pictures":
        """Some of them for the loop.

        Parameters
        ----------
        whose
            The group of each file, as the split counts them.
        """
        from ipfvision.nn.labelled import Pictures  # noqa: PLC0415

        place = {picture.file: index for index, picture in enumerate(self.pictures)}
        index = np.array([place[picture.file] for picture in pictures], np.intp)
        labels = np.array([picture.label == TARGETS[0] for picture in pictures])
        return Pictures(self.images[index], labels, self.masks[index], tuple(whose[picture.file] for picture in pictures))

    def identity(self) -> str:
        """SHA-256 of everything that is trained on: pictures, masks, labels and who belongs together."""
        own = {patient: f"{number}" for number, patient in enumerate(dict.fromkeys(p.patient for p in self.pictures))}
        rows = json.dumps([[picture.label, own[picture.patient], picture.use] for picture in self.pictures])
        return hashlib.sha256((hash_pixels(self.images) + hash_pixels(self.masks) + rows).encode()).hexdigest()


def prepare_pictures(
    data: Path, pictures: Sequence[LabelledPicture], input_shape: tuple[int, int], say: Say = lambda _: None
) -> Prepared:
    """Open every picture and cut out what the model sees: marks filled in, the lungs framed, as in reading.

    Raises
    ------
    InputRefused
        If more than `MOST_UNREADABLE` cannot be read, or on more than `MOST_WITHOUT_LUNGS` no lungs are found.
    """
    kept: list[LabelledPicture] = []
    images, masks, hashes = [], [], []
    unreadable: list[Refusal] = []
    without_lungs: list[Refusal] = []
    problems: list[Refusal] = []
    with ExitStack() as archives:
        files = Files(data, archives)
        for done, (picture, opened) in enumerate(open_pictures(data, pictures), start=1):
            if isinstance(opened, Refusal):
                unreadable.append(opened)
            else:
                lesion, problem = _lesion(files, picture, opened)
                seen = _seen(opened, lesion, input_shape)
                if isinstance(seen, str):
                    without_lungs.append(Refusal(picture.file, seen))
                else:
                    kept.append(picture)
                    images.append(seen[0])
                    masks.append(seen[1])
                    hashes.append(opened.source.pixel_sha256)
                    problems += problem
            if done % 50 == 0 or done == len(pictures):
                say(f"opening: {done} of {len(pictures)} pictures")
    for share, refusals, what in (
        (MOST_UNREADABLE, unreadable, "cannot be read"),
        (MOST_WITHOUT_LUNGS, without_lungs, "show no lungs that could be framed"),
    ):
        if len(refusals) > share * len(pictures):
            raise InputRefused(
                f"{len(refusals)} of {len(pictures)} pictures {what}, more than {100 * share:.0f} %: {refusals[0].file}: "
                f"{refusals[0].reason}"
            )
    return Prepared(
        tuple(kept),
        np.stack(images),
        np.stack(masks),
        tuple(hashes),
        tuple(unreadable),
        tuple(without_lungs),
        tuple(problems),
    )


def _lesion(files: Files, picture: LabelledPicture, scan: Slice) -> tuple[npt.NDArray[np.float32], list[Refusal]]:
    """(H, W) what was annotated on an IPF picture, and why it was not used; on a normal one annotations say nothing here."""
    lesion = np.zeros(scan.shape, np.float32)
    if picture.annotation is None or picture.label != TARGETS[0]:
        return lesion, []
    found = annotations_on(files, picture, scan)
    areas = [one.mask for one in found.by_slice.get((0, 0), ()) if isinstance(one, Annotation)]
    for area in areas:
        lesion[area] = 1
    if areas:
        return lesion, []
    reason = found.refusals[0].reason if found.refusals else "It shows no area on this picture, only points or boxes."
    return lesion, [Refusal(picture.annotation, reason)]


def _seen(
    scan: Slice, lesion: npt.NDArray[np.float32], input_shape: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | str:
    """The model's input and the masks on it, or why there are none."""
    from ipfvision.nn.preprocess import prepare  # noqa: PLC0415

    lungs, _, filled = without_marks(scan)
    if lungs.problem is not None:
        return lungs.problem
    image, crop = prepare(grey(filled or scan, LUNG), lungs, input_shape, MARGIN)
    masks = np.stack([crop.cut(lesion), crop.cut(lungs.mask.astype(np.float32))])
    return _bytes(image), _bytes(masks)


def _bytes(shares: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)


def recipe_for(options: Options) -> "LabelledRecipe":
    """The recipe of a run: what a checkpoint sees is what goes on being seen; random weights are trained as a whole.

    Raises
    ------
    InputRefused
        If a number makes no sense.
    ModelUnusable
        If the checkpoint's card is missing, or it sees slices in another way.
    """
    from ipfvision.nn.network import card_path, read_card  # noqa: PLC0415
    from ipfvision.nn.training import LabelledRecipe  # noqa: PLC0415

    where = str(DEFAULT_MODEL) if options.start is None else options.start
    try:
        recipe = LabelledRecipe(
            seed=options.seed, start=where, epochs=options.epochs, patience=options.patience, batch=options.batch
        )
        if options.size is not None:
            recipe = replace(recipe, input_shape=options.size)
        if where == "random":
            return replace(recipe, frozen=(), learning_rate=2.5e-4)
        if where in ("astra", "imagenet"):
            return recipe
        card = read_card(card_path(Path(where)))
        if card.window != LUNG or card.crop_margin != MARGIN:
            raise ModelUnusable(f"{Path(where).name} sees slices in another window or frame: start from another.")
        return replace(
            recipe,
            input_shape=options.size or card.input_shape,
            mean=card.mean,
            standard_deviation=card.standard_deviation,
            dilated_layer4=card.dilated_layer4,
            padding_mode=card.padding_mode,
        )
    except ValueError as error:
        raise InputRefused(f"The options make no run: {error}.") from None


def without_maps(recipe: "LabelledRecipe", training: "Pictures") -> "LabelledRecipe":
    """The recipe for these pictures: without a single mask nothing holds the map, and only labels are trained."""
    return recipe if training.annotated else replace(recipe, map_weight=0.0)


def map_sentence(training: "Pictures") -> str:
    """What the map is held to."""
    positives = int(training.labels.sum())
    if training.annotated:
        return f"The map was held to the annotations of {training.annotated} of {positives} IPF training pictures."
    return "No IPF training picture carries an annotation: the map was not held to anything, and may light the wrong place."


def train_labelled_run(data: Path, folder: Path, options: Options, say: Say) -> dict[str, Any]:
    """Train on a collection; a killed run goes on where it stopped. See `docs/labelled.md` for what lies in `folder` then.

    Returns
    -------
    The run's manifest.

    Raises
    ------
    InputRefused, ModelUnusable, RunStopped
        With a sentence.
    """
    from ipfvision.nn.labelled import train_labelled  # noqa: PLC0415

    listed = read_collection(data)
    seed, split_images = options.seed, options.split_images
    split_collection(listed, seed, split_images=split_images)  # refuses before hours of opening
    recipe = recipe_for(options)
    prepared = prepare_pictures(data, [picture for picture in listed if picture.use != "test"], recipe.input_shape, say)
    split = split_collection(prepared.pictures, seed, split_images=split_images)
    whose = dict(zip((p.file for p in prepared.pictures), groups(prepared.pictures, split_images=split_images), strict=True))
    training, validation = prepared.chosen(split.training, whose), prepared.chosen(split.validation, whose)
    recipe = without_maps(recipe, training)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "pictures.csv", picture_table(prepared, split))
    for refusal in (*prepared.unreadable, *prepared.without_lungs, *prepared.problems):
        say(f"{refusal.file}: {refusal.reason}")
    manifest: dict[str, Any] = {
        "recipe": "labelled",
        "application_version": __version__,
        "arguments": {**asdict(recipe), "start": Path(recipe.start).name},
        "split": BY_IMAGE if split.by_image else "by patient",
        "pictures": {"training": _counts(split.training), "validation": _counts(split.validation)},
        "patients": {name: _patients(side) for name, side in (("training", training), ("validation", validation))},
        "left_out": {"unreadable": len(prepared.unreadable), "without_lungs": len(prepared.without_lungs)},
        "unusable_annotations": len(prepared.problems),
        "map": map_sentence(training),
        "data_sha256": prepared.identity(),
    }
    choosers = f"{len(set(validation.patients))} validation {'pictures' if split.by_image else 'patients'}"
    notes = [*standing_notes(manifest), f"The {choosers} chose the epoch: their own figures are flattered."]

    def report(history: "Sequence[Epoch]") -> None:
        write_report(folder, manifest, history, notes)
        last = history[-1]
        left = (recipe.epochs - last.epoch) * float(np.median([epoch.seconds for epoch in history])) / 60
        say(
            f"epoch {last.epoch} of at most {recipe.epochs}, at most {left:.0f} min left: "
            f"training loss {last.training_loss:.3f}, "
            f"validation loss {last.validation_loss:.3f}, accuracy {last.validation_accuracy:.2f}"
        )

    outcome = train_labelled(recipe, training, validation, folder, f"{manifest['data_sha256']} {manifest['split']}", report)
    manifest["start"] = asdict(outcome.begun)
    found = write_report(folder, manifest, outcome.history, notes, outcome.chosen)
    say(f"epoch {outcome.chosen} is kept: the least loss on {choosers}")
    return found


def _counts(pictures: Sequence[LabelledPicture]) -> dict[str, int]:
    found = Counter(picture.label for picture in pictures)
    return {label: found[label] for label in TARGETS}


def _patients(pictures: "Pictures") -> dict[str, int]:
    pairs = {(patient, bool(label)) for patient, label in zip(pictures.patients, pictures.labels, strict=True)}
    return {name: sum(label is ipf for _, label in pairs) for name, ipf in (("ipf", True), ("normal", False))}


def standing_notes(manifest: Mapping[str, Any]) -> list[str]:
    """Sentences that belong under every plot of a run."""
    return [sentence for sentence in (manifest["split"], manifest["map"]) if sentence != "by patient"]


def picture_table(prepared: Prepared, split: Split) -> bytes:
    """One line for each picture with its side, or why it was left out: for whoever keeps the collection, as it names files."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["file", "label", "patient", "side", "pixel_sha256", "annotated", "reason"])
    side = {p.file: "training" for p in split.training} | {p.file: "validation" for p in split.validation}
    annotated = [bool(mask[0].any()) for mask in prepared.masks]
    for picture, digest, drawn in zip(prepared.pictures, prepared.pixel_sha256, annotated, strict=True):
        table.writerow([picture.file, picture.label, picture.patient, side[picture.file], digest, drawn, ""])
    for refusal in (*prepared.unreadable, *prepared.without_lungs):
        table.writerow([refusal.file, "", "", "left out", "", "", refusal.reason])
    return text.getvalue().encode()


def write_report(
    folder: Path,
    manifest: Mapping[str, Any],
    history: "Sequence[Epoch]",
    notes: Sequence[str],
    chosen: int | None = None,
) -> dict[str, Any]:
    """Write `run.json` and `curves.png` anew; `chosen` is None while the run goes on."""
    from ipfvision.nn.labelled import chosen_epoch, versions  # noqa: PLC0415

    content = {
        **manifest,
        "versions": {"ipfvision": __version__, **versions()},
        "finished": chosen is not None,
        "chosen_epoch": chosen_epoch(history),
        "curves": [asdict(epoch) for epoch in history],
    }
    write_whole(folder / "run.json", (json.dumps(content, indent=1) + "\n").encode())
    write_whole(folder / "curves.png", curves_png(history, chosen_epoch(history), notes))
    return content


def curves_png(history: "Sequence[Epoch]", chosen: int, notes: Sequence[str]) -> bytes:
    """Loss and accuracy of training and validation, the chosen epoch marked."""
    epochs = [epoch.epoch for epoch in history]

    def line(name: str) -> Line:
        return Line(epochs, [getattr(epoch, name) for epoch in history])

    loss = Panel("loss", {"training, with the map's part": line("training_loss"), "validation": line("validation_loss")})
    accuracy = Panel(
        "accuracy",
        {"training": line("training_accuracy"), "validation": line("validation_accuracy")},
        top=1.03,
    )
    area = Panel("AUROC of validation pictures", {"validation": line("validation_auroc")}, top=1.03)
    wrapped = [part for note in notes for part in textwrap.wrap(note, NOTE_WIDTH)]
    return histories(
        [loss, accuracy, area], "epoch", (chosen, "least validation loss"), "Training on labelled pictures", wrapped
    )
