"""The article behind this project, repeated as what it is: its recipe, its figures, and what is wrong with them.

A random fifth of the *pictures* is for testing, the whole picture is what the network sees, the number of epochs is fixed, and
the best epoch is the one with the least loss on the test pictures. The result is a plot and a report, never a checkpoint.
"""

import base64
import hashlib
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision import __version__
from ipfvision.core.findings import TARGETS
from ipfvision.core.lungs import find_lungs
from ipfvision.core.marks import find_marks
from ipfvision.core.slice import Slice, grey
from ipfvision.core.window import LUNG
from ipfvision.errors import InputRefused, ModelUnusable
from ipfvision.plots import Line, Panel, histories
from ipfvision.whole_file import write_whole
from ipfvision.workflow.evaluation_figures import exact_interval
from ipfvision.workflow.labelled import open_pictures, read_collection
from ipfvision.workflow.uploads import Progress, Refusal

if TYPE_CHECKING:
    from ipfvision.nn.article import ArticleRecipe, Epoch, Outcome, Pictures

TEST_SHARE = 0.2
FEWEST = 5
"""Pictures: with fewer there is no fifth to test on."""
MANIFEST, PLOT, REPORT = "article.json", "article.png", "article.html"
TEMPLATE = Path(__file__).with_name("article_report.html")
NOTE_WIDTH = 128
"""Letters in a line under the plot."""

Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One picture as this recipe takes it, and what else the network could tell it by."""

    image: npt.NDArray[np.uint8]
    """(size, size) the whole picture, squeezed to a square."""
    ipf: bool
    patient: str | None
    pixel_sha256: str
    marked: bool
    """Whether marks were found that somebody drew on it."""
    form: tuple[str, int, int]
    """File format, rows and columns."""


def shown(scan: Slice, *, ipf: bool, patient: str | None, size: int) -> Shown:
    """Squeeze a slice to what the recipe sees, and look for marks on it."""
    lungs = find_lungs(scan)
    marks = find_marks(scan, None if lungs.problem is not None else lungs)
    small = cv2.resize(grey(scan, LUNG), (size, size), interpolation=cv2.INTER_AREA)
    return Shown(
        image=np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8),
        ipf=ipf,
        patient=patient,
        pixel_sha256=scan.source.pixel_sha256,
        marked=bool(marks),
        form=(scan.source.format, *scan.shape),
    )


def as_pictures(given: Sequence[Shown]) -> "Pictures":
    """What the loop takes."""
    from ipfvision.nn.article import Pictures  # noqa: PLC0415

    return Pictures(np.stack([one.image for one in given]), np.array([one.ipf for one in given]))


def random_split(count: int, seed: int) -> tuple[Index, Index]:
    """Indices of the training and of the test pictures: a random fifth, whoever the patients are.

    Raises
    ------
    InputRefused
        If there are fewer than `FEWEST` pictures.
    """
    if count < FEWEST:
        raise InputRefused(f"{count} pictures cannot be split four to one: give at least {FEWEST}.")
    order = np.random.default_rng(seed).permutation(count)
    tested = round(TEST_SHARE * count)
    return order[tested:], order[:tested]


def forbid_shipping(run: Path) -> None:
    """Raise ModelUnusable with a sentence if a folder holds a run of this recipe."""
    if (run / MANIFEST).is_file():
        raise ModelUnusable(
            f"{run.name} repeats the article's recipe, whose test pictures chose the epoch and whose answers are not "
            "calibrated: it is never shipped; train with --recipe drawn or labelled."
        )


def source_guesses(given: Sequence[Shown]) -> int:
    """How many labels a guess from file format and size alone gets right, each from all other pictures.

    The guess is the commoner label among the others of the same form, or among all others where there is none or a tie.
    """
    right = 0
    for index, one in enumerate(given):
        others = [*given[:index], *given[index + 1 :]]
        alike = [other.ipf for other in others if other.form == one.form]
        votes = 2 * sum(alike) - len(alike)
        if votes == 0:
            votes = 2 * sum(other.ipf for other in others) - len(others)
        right += (votes > 0) == one.ipf
    return right


def facts(given: Sequence[Shown], training: Index, test: Index) -> dict[str, Any]:
    """What can be counted about a split: pictures, patients on both sides, marks and sources. No name and no file is in it."""
    tested, trained = [given[index] for index in test], [given[index] for index in training]
    by_label = {name: [one for one in given if one.ipf is ipf] for name, ipf in (("ipf", True), ("normal", False))}
    known = [one for one in given if one.patient is not None]
    trained_patients = {one.patient for one in trained} - {None}
    trained_pixels = {one.pixel_sha256 for one in trained}
    digest = hashlib.sha256("\n".join(sorted(f"{one.pixel_sha256} {one.ipf}" for one in given)).encode())
    return {
        "data_sha256": digest.hexdigest(),
        "pictures": {name: len(ones) for name, ones in by_label.items()},
        "training_pictures": len(trained),
        "test_pictures": len(tested),
        "test_pictures_ipf": sum(one.ipf for one in tested),
        "pictures_with_known_patient": len(known),
        "patients": len({one.patient for one in known}) if known else None,
        "patients_on_both_sides": len(trained_patients & {one.patient for one in tested}) if known else None,
        "test_pictures_of_training_patients": sum(one.patient in trained_patients for one in tested) if known else None,
        "test_pictures_also_in_training": sum(one.pixel_sha256 in trained_pixels for one in tested),
        "pictures_with_marks": {name: sum(one.marked for one in ones) for name, ones in by_label.items()},
        "labels_guessed_from_format_and_size": source_guesses(given),
    }


def score(correct: int, total: int) -> dict[str, Any]:
    """An accuracy with its exact interval."""
    return {"accuracy": correct / total, "correct": correct, "of": total, "interval_95": exact_interval(correct, total)}


def what_is_wrong(counted: dict[str, Any], chosen: dict[str, Any] | None) -> list[str]:
    """A sentence for each fault, the same under the plot and in the report.

    Parameters
    ----------
    counted
        Of `facts`.
    chosen
        The best epoch so far and its `score`; None before the first.
    """
    said = []
    if chosen is not None:
        low, high = chosen["interval_95"]
        said.append(
            f"The test pictures chose the epoch ({chosen['epoch']}, least test loss): they are no longer unseen, and "
            "their accuracy is flattered."
        )
        said.append(
            f"{chosen['correct']} of {chosen['of']} test pictures right is {_percent(chosen['accuracy'])}; the exact 95 % "
            f"interval goes from {100 * low:.0f} to {_percent(high)}."
        )
    said.append(_patients(counted))
    if counted["test_pictures_also_in_training"]:
        said.append(f"{counted['test_pictures_also_in_training']} of the test pictures are among the training pictures, too.")
    tested_ipf, tested = counted["test_pictures_ipf"], counted["test_pictures"]
    if tested_ipf in {0, tested}:
        said.append(f"All test pictures are {'IPF' if tested_ipf else 'normal'}: the test says nothing about the other class.")
    marks, pictures = counted["pictures_with_marks"], counted["pictures"]
    found = f"{marks['ipf']} of {pictures['ipf']} IPF and {marks['normal']} of {pictures['normal']} normal pictures"
    if any(marks.values()):
        said.append(f"Marks that somebody drew were found on {found}: they may be what was learned.")
    guessed, total = counted["labels_guessed_from_format_and_size"], sum(pictures.values())
    if guessed > max(pictures.values()):
        said.append(f"File format and size alone tell the class of {guessed} of {total} pictures: the source gives it away.")
    said.append(
        "Scanner, hospital or window, where they differ between the classes, may tell them apart as well: nothing prevents it."
    )
    said.append(
        "The answers are not calibrated and no other lung disease was shown. Nothing of this run may be used on patients."
    )
    return said


def _patients(counted: dict[str, Any]) -> str:
    total, known = sum(counted["pictures"].values()), counted["pictures_with_known_patient"]
    if not known:
        return "Pictures were split, not patients, and the patients are not known: one patient may be on both sides."
    unknown = f" The patients of {total - known} pictures are not known." if known < total else ""
    return (
        f"Pictures were split, not patients: {counted['patients_on_both_sides']} of {counted['patients']} patients are on both "
        f"sides, and {counted['test_pictures_of_training_patients']} of {counted['test_pictures']} test pictures show a "
        f"patient of the training pictures.{unknown}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def article_run(
    data: Path, folder: Path, *, start: str, epochs: int, seed: int, say: Callable[[str], None], opening: Progress | None = None
) -> None:
    """Repeat the article on a collection; a killed run goes on where it stopped.

    A manifest's `use` is not looked at: this recipe splits at random. Pictures that cannot be read are said and left out.

    Raises
    ------
    InputRefused
        As `read_collection` and `repeat_article`.
    """
    from ipfvision.nn.article import ArticleRecipe  # noqa: PLC0415

    if epochs < 1:
        raise InputRefused("At least one epoch is needed.")
    recipe = ArticleRecipe(seed=seed, start=start, epochs=epochs)
    pictures = read_collection(data)
    given = []
    for number, (picture, scan) in enumerate(open_pictures(data, pictures), start=1):
        if isinstance(scan, Refusal):
            say(f"{scan.file}: {scan.reason}")
        else:
            given.append(shown(scan, ipf=picture.label == TARGETS[0], patient=picture.patient, size=recipe.size))
        if opening is not None:
            opening(number, len(pictures))
    repeat_article(given, folder, recipe, say)
    say(f"{folder / REPORT} shows the curves and what is wrong with them.")


def repeat_article(
    given: Sequence[Shown], folder: Path, recipe: "ArticleRecipe", say: Callable[[str], None] = lambda _: None
) -> "Outcome":
    """Run the recipe on pictures, writing plot, JSON and report after every epoch.

    Raises
    ------
    InputRefused
        If there are too few pictures or only one class, or the folder holds another run.
    """
    from ipfvision.nn.article import train  # noqa: PLC0415

    if len({one.ipf for one in given}) < 2:
        raise InputRefused("Both classes are needed, IPF and normal: only one was found.")
    if (folder / "state.pt").is_file():
        raise InputRefused(f"{folder.name} holds a run of another recipe: choose another folder.")
    training, test = random_split(len(given), recipe.seed)
    counted = facts(given, training, test)
    folder.mkdir(parents=True, exist_ok=True)
    _write_manifest(folder, recipe, counted, None)

    def report(so_far: "Outcome") -> None:
        plotted = _write_manifest(folder, recipe, counted, so_far)
        plot = _plot(plotted)
        write_whole(folder / PLOT, plot)
        write_whole(folder / REPORT, _html(plotted, plot).encode())
        last = so_far.history[-1]
        say(
            f"epoch {last.epoch} of {recipe.epochs}, {last.seconds * (recipe.epochs - last.epoch) / 60:.0f} min left: "
            f"training loss {last.training_loss:.3f}, test loss {last.test_loss:.3f}, "
            f"{last.test_correct} of {len(test)} test pictures right"
        )

    pictures = as_pictures(given)
    outcome = train(recipe, pictures.take(training), pictures.take(test), folder, report)
    for sentence in what_is_wrong(counted, _chosen(counted, outcome.history)):
        say(sentence)
    return outcome


def _chosen(counted: dict[str, Any], history: "tuple[Epoch, ...]") -> dict[str, Any] | None:
    from ipfvision.nn.article import best_epoch  # noqa: PLC0415

    if not history:
        return None
    best = best_epoch(history)
    return {"epoch": best.epoch, "test_loss": best.test_loss, **score(best.test_correct, counted["test_pictures"])}


def _write_manifest(folder: Path, recipe: "ArticleRecipe", counted: dict[str, Any], so_far: "Outcome | None") -> dict[str, Any]:
    history = () if so_far is None else so_far.history
    chosen = _chosen(counted, history)
    content = {
        "recipe": "article",
        "shippable": False,
        "application_version": __version__,
        "arguments": {**asdict(recipe), "start": Path(recipe.start).name},
        "start": None if so_far is None else asdict(so_far.begun),
        "finished": len(history) == recipe.epochs,
        "counted": counted,
        "chosen_on_test_loss": chosen,
        "last_epoch": score(history[-1].test_correct, counted["test_pictures"]) if history else None,
        "what_is_wrong": what_is_wrong(counted, chosen),
        "history": [asdict(epoch) for epoch in history],
    }
    write_whole(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())
    return content


def _plot(content: dict[str, Any]) -> bytes:
    history, chosen, tested = content["history"], content["chosen_on_test_loss"], content["counted"]["test_pictures"]
    epochs = [epoch["epoch"] for epoch in history]
    intervals = [exact_interval(epoch["test_correct"], tested) for epoch in history]

    def line(values: Sequence[float]) -> Line:
        return Line(epochs, values)

    training = f"{content['counted']['training_pictures']} training pictures"
    test = f"{tested} test pictures"
    loss = Panel(
        "cross-entropy loss",
        {training: line([epoch["training_loss"] for epoch in history]), test: line([epoch["test_loss"] for epoch in history])},
    )
    accuracy = Panel(
        "accuracy",
        {
            training: line([epoch["training_accuracy"] for epoch in history]),
            test: line([epoch["test_correct"] / tested for epoch in history]),
        },
        (line([low for low, _ in intervals]), line([high for _, high in intervals])),
        "exact 95 % interval of the test's",
        1.03,
    )
    notes = [line for sentence in content["what_is_wrong"] for line in textwrap.wrap(sentence, NOTE_WIDTH)]
    title = "The article's recipe, and what is wrong with it"
    return histories([loss, accuracy], "epoch", (chosen["epoch"], "chosen: least test loss"), title, notes)


def _html(content: dict[str, Any], plot: bytes) -> str:
    from jinja2 import Environment  # noqa: PLC0415 - only reports need it

    template = Environment(autoescape=True).from_string(TEMPLATE.read_text("utf-8"))
    return template.render(**content, plot=base64.b64encode(plot).decode("ascii"))
