"""What a checkpoint answers to labelled pictures, through the page's own path, remembered in a folder."""

import csv
import hashlib
import json
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ipfvision.core.findings import Decision, Explanation, ModelCard
from ipfvision.core.geometry import Crop
from ipfvision.core.slice import Slice
from ipfvision.errors import InputRefused
from ipfvision.nn.series import Pace, ahead
from ipfvision.workflow.labelled import Files, LabelledPicture, open_picture
from ipfvision.workflow.reading import Prepared, Reader
from ipfvision.workflow.series import left_words
from ipfvision.workflow.training import ManifestRow, read_manifest

LABELS = ("ipf", "normal", "nsip", "other_disease", "ipf_patient")
"""`ipf_patient`: slices of an IPF patient that show little or no disease."""
DECIDES = ("core", "dicom", "nn", "images.py", "workflow/reading.py", "workflow/gating.py", "workflow/answers.py")
"""Parts of the package that decide an answer: when they change, what was remembered is read again."""

SAID = ("margin", "peak", "refused", "position_mm", "marks", "margin_with_marks", "gate_distance")
"""Of an `Answer`, what is remembered as it stands."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the model said of one real picture."""

    row: ManifestRow
    margin: float | None
    """z_IPF - z_normal in logits, marks filled in; None if the picture was refused."""
    peak: float | None
    """Of the Grad-CAM map for IPF, in logits; None if the picture was refused."""
    refused: str | None = None
    """Why the page gives no answer, in its own sentence."""
    pooled: npt.NDArray[np.float32] | None = None
    """(2048,) mean of layer4's output over all cells; None if no lungs were found."""
    cells: npt.NDArray[np.float32] | None = None
    """(h, w) Grad-CAM map for IPF in logits; None if no lungs were found."""
    crop: Crop | None = None
    position_mm: float | None = None
    """Along the patient, larger towards the head; None where the file does not say."""
    marks: int = 0
    """Marks that were filled in before the model read the picture."""
    margin_with_marks: float | None = None
    """None if the model sees none of the marks."""
    gate_distance: float | None = None
    """From the training pictures; None if the checkpoint has no gate, or no lungs were found."""

    @property
    def refused_by_gate(self) -> bool:
        """Whether lungs were found, and the picture was refused for being unlike the training pictures."""
        return self.refused is not None and self.pooled is not None

    @property
    def source(self) -> str:
        """The folder or archive that the picture came from."""
        first, _, rest = self.row.file.partition("/")
        if not rest or first.lower() == self.row.label:  # a folder per class is no source
            return "the collection"
        return first.removesuffix(".zip")

    def explanation(self) -> Explanation | None:
        """The map for IPF, to draw it again; None if no lungs were found."""
        if self.cells is None or self.crop is None:
            return None
        return Explanation(self.cells, self.crop, target="ipf", method="gradcam", layer="layer4", unit="logits")


@dataclass(frozen=True, slots=True)
class Given:
    """A collection's pictures with the model's answers, and what could not be used."""

    answers: tuple[Answer, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    """File and reason."""
    other_labels: tuple[tuple[str, int], ...] = ()
    """Labels that say nothing about this model's question, with the number of pictures that carry them."""


def open_scan(data: Path, row: ManifestRow) -> Slice:
    """Read one picture of a collection, by its content; a file inside an archive is written `archive.zip/member`.

    Raises
    ------
    InputRefused
        With a sentence, whatever is wrong with the file.
    """
    return open_picture(data, LabelledPicture(row.file, row.label, row.patient))


def measured(rows: Iterable[ManifestRow]) -> tuple[list[ManifestRow], dict[str, int]]:
    """Validation rows with a label that this model can be measured on, and the number of rows with each other label."""
    kept, others = [], dict[str, int]()
    for row in rows:
        if row.use != "validation":
            continue
        if row.label in LABELS:
            kept.append(row)
        else:
            others[row.label] = others.get(row.label, 0) + 1
    return kept, others


def answers(weights: Path, data: Path, say: Say, remember: Path | None = None) -> list[Answer]:
    """Answers to all validation pictures of a manifest; pictures that cannot be read are said and left out."""
    return list(answer_all(Reader.open(weights), data, read_manifest(data), say, remember).answers)


def answer_all(reader: Reader, data: Path, rows: Iterable[ManifestRow], say: Say, remember: Path | None = None) -> Given:
    """Answers to the validation rows among these, in their order.

    Parameters
    ----------
    remember
        A folder that keeps what was answered: a killed run goes on there, a second one is quick.

    Raises
    ------
    InputRefused
        If there is no picture to answer.
    """
    kept, others = measured(rows)
    for label, count in others.items():
        say(f"{count} pictures have the label '{label}', which this model is not measured on: they are left out.")
    if not kept:
        raise InputRefused(
            "The collection holds no picture to measure on: a row with use 'validation' and one of the labels "
            f"{', '.join(LABELS)} is expected."
        )
    given = answer_rows(reader, data, kept, say, remember)
    if not given.answers:
        raise InputRefused(f"None of the {len(kept)} pictures could be read. The first: {given.unreadable[0][1]}")
    return replace(given, other_labels=tuple(sorted(others.items())))


def answer_rows(reader: Reader, data: Path, rows: Sequence[ManifestRow], say: Say, remember: Path | None = None) -> Given:
    """Answers to all of these rows, whatever their use and label."""
    memory = None if remember is None else Memory(remember, reader.card, reader.computed_by)
    given, unreadable = [], []
    pace = Pace()
    with ExitStack() as archives:
        files = Files(data, archives)

        def opened(row: ManifestRow) -> tuple[str, Answer | Prepared | InputRefused]:
            """A row's key in the memory, and what is known of it without the network."""
            try:
                key = hashlib.sha256(files.content(row.file)).hexdigest()
                answer = None if memory is None else memory.find(key, row)
                return key, reader.prepare(open_scan(data, row)) if answer is None else answer
            except InputRefused as error:
                return "", error

        with closing(ahead(opened, rows)) as ready:
            for number, (row, (key, known)) in enumerate(zip(rows, ready, strict=True), start=1):
                if number % 8 == 0 or number == len(rows):
                    say(f"reading: {number} of {len(rows)} pictures{left_words(pace.seconds_left(len(rows) - number))}")
                if isinstance(known, InputRefused):
                    unreadable.append((row.file, str(known)))
                    say(f"{row.file}: {known}")
                elif isinstance(known, Answer):
                    given.append(known)
                else:
                    given.append(answer_one(reader, row, known))
                    pace.step()
                    if memory is not None:
                        memory.keep(key, given[-1])
    return Given(tuple(given), tuple(unreadable))


def answer_one(reader: Reader, row: ManifestRow, prepared: Prepared) -> Answer:
    """What the page would answer to this picture."""
    from ipfvision.nn.explain import class_maps  # noqa: PLC0415

    seen, scan = reader.see(prepared), prepared.scan
    prediction = reader.answer(seen)
    refused = prediction.decision is Decision.REFUSED
    cells = None if seen.features is None else class_maps(reader.model.linear, seen.features)[0, 0]
    return Answer(
        row,
        margin=None if refused else seen.margin,
        peak=None if refused or cells is None else float(cells.max()),
        refused=prediction.reason if refused else None,
        pooled=seen.pooled,
        cells=cells,
        crop=prepared.crop,
        position_mm=None if scan.plane is None else scan.plane.position[2],
        marks=len(prepared.marks),
        margin_with_marks=seen.margin_with_marks,
        gate_distance=seen.gate_distance,
    )


class Memory:
    """Answers in a folder, one small file each, named for the file's bytes, in a folder for the checkpoint and what decides.

    A file holds no picture and no name: numbers, the coarse map and the reason of a refusal.
    """

    def __init__(self, folder: Path, card: ModelCard, computed_by: str) -> None:
        self._folder = folder / how_answered(card, computed_by)
        self._folder.mkdir(parents=True, exist_ok=True)

    def find(self, key: str, row: ManifestRow) -> Answer | None:
        """What was answered before; None if nothing was, or only half of it was written."""
        try:
            with (self._folder / f"{key}.npz").open("rb") as file, np.load(file, allow_pickle=False) as kept:
                said: dict[str, Any] = json.loads(str(kept["said"]))
                arrays = {name: kept[name] for name in ("pooled", "cells") if name in kept}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        crop: dict[str, Any] | None = said.pop("crop")
        if crop is not None:
            crop.update(input_shape=tuple(crop["input_shape"]), slice_shape=tuple(crop["slice_shape"]))
        return Answer(row, **said, **arrays, crop=None if crop is None else Crop(**crop))

    def keep(self, key: str, answer: Answer) -> None:
        """Write one answer; it appears whole or not at all."""
        said: dict[str, Any] = {name: getattr(answer, name) for name in SAID}
        said["crop"] = None if answer.crop is None else asdict(answer.crop)
        arrays = {name: value for name in ("pooled", "cells") if (value := getattr(answer, name)) is not None}
        part = self._folder / f"{key}.part.npz"
        np.savez(part, said=np.array(json.dumps(said)), **arrays)
        part.replace(self._folder / f"{key}.npz")


def how_answered(card: ModelCard, computed_by: str, *more: str) -> str:
    """Hash of all that decides an answer beside the picture: checkpoint, card, computer, source.

    Parameters
    ----------
    more
        Other parts of the package whose source counts.
    """
    how = f"{replace(card, details={})} {computed_by} {_source((*DECIDES, *more))}"
    return hashlib.sha256(how.encode()).hexdigest()[:16]


@cache  # what runs is what was imported, whatever becomes of the files meanwhile
def _source(parts: tuple[str, ...]) -> str:
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for part in parts:
        path = package / part
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def halves(given: Sequence[Answer]) -> tuple[list[Answer], list[Answer]]:
    """Split by patient within each label: every second patient, by name, calibrates; the others are reported.

    A patient with pictures of two labels stays on the side of the first label in `LABELS`.
    """
    calibrates: dict[str, bool] = {}
    for label in LABELS:
        for index, patient in enumerate(sorted({answer.row.patient for answer in given if answer.row.label == label})):
            calibrates.setdefault(patient, index % 2 == 0)
    first = [answer for answer in given if calibrates[answer.row.patient]]
    return first, [answer for answer in given if not calibrates[answer.row.patient]]


def shifted(given: Iterable[Answer], shift: float) -> list[Answer]:
    """The same answers of the same network with another bias."""
    return [
        replace(
            answer,
            margin=None if answer.margin is None else answer.margin + shift,
            margin_with_marks=None if answer.margin_with_marks is None else answer.margin_with_marks + shift,
        )
        for answer in given
    ]


def by_patient(given: Iterable[Answer], labels: Collection[str]) -> Iterator[npt.NDArray[np.float64]]:
    """Margins of the pictures with these labels that were not refused: one array per patient, by name."""
    found: dict[str, list[float]] = {}
    for answer in given:
        if answer.row.label in labels and answer.margin is not None:
            found.setdefault(answer.row.patient, []).append(answer.margin)
    for _, margins in sorted(found.items()):
        yield np.array(margins)


def save_answers(given: Iterable[Answer], path: Path) -> None:
    """One line for every picture: file, label, patient, margin, peak; empty where it was refused."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient", "margin", "peak"])
        writer.writerows([a.row.file, a.row.label, a.row.patient, a.margin, a.peak] for a in given)
