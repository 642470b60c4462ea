"""Training and measuring a checkpoint: real slices without fibrosis, lesions drawn into them, real pictures to measure on."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision import dicom, images
from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import Lungs, find_lungs
from ipfvision.core.slice import Scale, Slice, Source
from ipfvision.core.window import LUNG, Window, apply_window
from ipfvision.errors import InputRefused
from ipfvision.plots import Line, Panel, histories
from ipfvision.synthetic.case import disease_mask, draw_case
from ipfvision.synthetic.field import millimetres_per_pixel_from_lungs
from ipfvision.synthetic.picture import disturb
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.whole_file import write_whole

if TYPE_CHECKING:
    from ipfvision.nn.training import Examples

SHARD = 48
"""Cases in one file of a pool."""
DISEASED = 0.47
"""Share of cases with drawn fibrosis."""
PHANTOM_EVERY = 12
"""Every twelfth file of a pool is drawn into the synthetic thorax instead of real slices."""
FILES_OF_A_SEED = 250
"""After as many files a pool goes on with the next seed's, so that a large pool holds smaller ones."""
MASK_CELL = 4
"""Input pixels along a side of one place of a drawn mask: a quarter of a cell of the map with layer4 at stride 16."""
MARGIN = 0.1
"""Margin around the lungs as a share of their size, as in reading; training strays from it by at most 0.08."""

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class NormalSlice:
    """A real slice without fibrosis, to draw into."""

    hu: Image
    """(H, W) Hounsfield units."""
    lungs: Lungs
    mm_per_pixel: float
    patient: str


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One line of a collection's manifest.csv."""

    file: str
    label: str
    patient: str
    use: str
    scale: str


def read_manifest(data: Path) -> list[ManifestRow]:
    """Rows of `data`/manifest.csv; raises InputRefused with a sentence if it is missing or lacks a column."""
    path = data / "manifest.csv"
    if not path.is_file():
        raise InputRefused(f"No manifest.csv was found in {data.name}: it names each file with its label, patient and use.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = {"file", "label", "patient", "use", "scale"} - set(rows.fieldnames or ())
        if missing:
            raise InputRefused(f"manifest.csv lacks the columns {', '.join(sorted(missing))}.")
        return [ManifestRow(*(row[name] for name in ("file", "label", "patient", "use", "scale"))) for row in rows]


def _hounsfield(scan: Slice, scale: str) -> Image:
    """Hounsfield units of a slice; a picture whose manifest says "hu_window" was stored in the lung window."""
    if scan.scale is Scale.GREY:
        if scale != "hu_window":
            raise InputRefused(f"{scan.source.file} has no Hounsfield units to draw lesions in.")
        return scan.pixels * np.float32(LUNG.width) + np.float32(LUNG.center - LUNG.width / 2)
    return scan.pixels.astype(np.float32)


def _as_slice(hu: Image) -> Slice:
    return Slice(hu, Scale.HOUNSFIELD, Source("drawn", "PNG", ""), hu < -1500)


def normal_slices(data: Path, patients: Iterable[str] | None = None) -> list[NormalSlice]:
    """The training slices of a collection (use "train") that show lungs and carry no tumour box.

    Parameters
    ----------
    patients
        Only these, if given.
    """
    wanted = None if patients is None else set(patients)
    boxes = {path.stem for path in data.glob("*/**/boxes/**/*.xml")}
    found = []
    for row in read_manifest(data):
        if row.use != "train" or (wanted is not None and row.patient not in wanted):
            continue
        content = (data / row.file).read_bytes()
        scan = images.read(content, row.file) if row.scale == "hu_window" else dicom.read(content, row.file)[0]
        if scan.source.sop_instance_uid in boxes:
            continue
        hu = _hounsfield(scan, row.scale)
        hu[scan.padding] = -1024
        lungs = find_lungs(_as_slice(hu))
        if lungs.problem is not None:
            continue
        scale = millimetres_per_pixel_from_lungs(lungs.mask) if scan.spacing is None else scan.spacing.column_mm
        found.append(NormalSlice(hu, lungs, scale, row.patient))
    # Where the scale had to be guessed from the lungs' width, the patient's widest slice tells it for all of them.
    scales = {normal.patient: min(n.mm_per_pixel for n in found if n.patient == normal.patient) for normal in found}
    return [replace(normal, mm_per_pixel=scales[normal.patient]) for normal in found]


def _phantom(rng: np.random.Generator) -> NormalSlice:
    thorax = draw_thorax(rng, level=float(rng.uniform(0.25, 0.95)), size=512, spacing_mm=float(rng.uniform(0.6, 0.8)))
    hu = thorax.pixels.astype(np.float32)
    return NormalSlice(hu, Lungs(thorax.lungs), thorax.spacing.column_mm, "phantom")


def _turned(image: Image, degrees: float, fill: float) -> Image:
    rows, columns = image.shape
    matrix = cv2.getRotationMatrix2D((columns / 2 - 0.5, rows / 2 - 0.5), degrees, 1.0)
    turned = cv2.warpAffine(image, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderValue=fill)
    return np.asarray(turned, np.float32)


def _pooled(mask: Image, cells: tuple[int, int]) -> Image:
    """Share of each cell; `cells` is (columns, rows)."""
    return np.asarray(cv2.resize(np.ascontiguousarray(mask), cells, interpolation=cv2.INTER_AREA), np.float32)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What the drawing may leave out, one thing at a time, to measure what each is good for."""

    lung_crop: bool = True
    """Show the lungs with a margin; without it, the whole slice."""
    distractors: bool = True
    """Draw what is not fibrosis into both classes."""


FULL = Drawing()


def framed(
    lungs: Lungs,
    shape: tuple[int, int],
    input_shape: tuple[int, int],
    drawing: Drawing = FULL,
    margin: float = MARGIN,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Crop:
    """The part of a slice that the model sees.

    The whole slice is framed as if it were all lung, with less margin: none where the lungs have `MARGIN`.
    """
    from ipfvision.nn.preprocess import lung_crop  # noqa: PLC0415

    if not drawing.lung_crop:
        lungs, margin = Lungs(np.ones(shape, np.bool_)), margin - MARGIN
    return lung_crop(lungs, shape, input_shape, margin, shift)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One training example."""

    image: npt.NDArray[np.uint8]
    """(rows, columns)."""
    diseased: bool
    lesion: npt.NDArray[np.uint8]
    """(h, w) share of each place, 255 is all of it."""
    lung: npt.NDArray[np.uint8]
    """(h, w)."""


def draw_example(
    normals: list[NormalSlice], input_shape: tuple[int, int], cell: int, rng: np.random.Generator, drawing: Drawing = FULL
) -> Drawn:
    """Draw one example: a patient, one of the patient's slices, lesions or none, a window, a crop, marks on the picture.

    Without normal slices it is drawn into a synthetic thorax.
    """
    patients = sorted({normal.patient for normal in normals})
    while True:
        if not patients:
            normal = _phantom(rng)
        else:
            patient = patients[rng.integers(len(patients))]
            choices = [normal for normal in normals if normal.patient == patient]
            normal = choices[rng.integers(len(choices))]
        diseased = bool(rng.random() < DISEASED)
        try:
            case = draw_case(
                normal.hu,
                normal.lungs.mask,
                normal.mm_per_pixel,
                rng,
                diseased=diseased,
                distractors=drawing.distractors,
            )
        except ValueError:  # lungs too small to draw in: another slice
            continue
        found = find_lungs(_as_slice(case.pixels))
        lungs = normal.lungs if found.problem is not None else found
        break
    window = LUNG
    if rng.random() < 0.5:
        window = Window(LUNG.center + float(rng.uniform(-80, 80)), LUNG.width * float(rng.uniform(0.8, 1.25)))
    rows, columns = normal.hu.shape
    margin = float(rng.uniform(0.02, 0.18))
    shift = (float(rng.uniform(-0.04, 0.04)), float(rng.uniform(-0.04, 0.04)))
    crop = framed(lungs, (rows, columns), input_shape, drawing, margin, shift)
    image = crop.cut(apply_window(case.pixels, window))
    lesion = crop.cut(disease_mask(case.annotations, case.pixels.shape).astype(np.float32))
    lung = crop.cut(normal.lungs.mask.astype(np.float32))
    degrees = float(rng.uniform(-8, 8)) if rng.random() < 0.5 else 0.0
    if degrees:
        image, lesion, lung = _turned(image, degrees, 0.2), _turned(lesion, degrees, 0), _turned(lung, degrees, 0)
    if rng.random() < 0.08:  # prone, or stored upside down
        image, lesion, lung = image[::-1], lesion[::-1], lung[::-1]
    image = disturb(np.ascontiguousarray(image), rng)
    cells = input_shape[1] // cell, input_shape[0] // cell
    lesion, lung = (_pooled(mask, cells) for mask in (lesion, lung))
    return Drawn(
        np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8),
        diseased,
        np.rint(np.clip(lesion, 0, 1) * 255).astype(np.uint8),
        np.rint(np.clip(lung, 0, 1) * 255).astype(np.uint8),
    )


def draw_shard(
    normals: list[NormalSlice],
    folder: Path,
    number: int,
    input_shape: tuple[int, int],
    cell: int,
    seed: int,
    drawing: Drawing = FULL,
) -> Path:
    """Draw one file of a pool, if it is not there: the same seed and number give the same examples.

    File 250 of a seed is file 0 of the next one.

    The file appears whole or not at all, so a killed run goes on where it stopped, and two runs may fill one folder.
    """
    path = folder / f"pool_{number:05d}.npz"
    if path.is_file():
        return path
    seeds, own = divmod(number, FILES_OF_A_SEED)
    into = [] if own % PHANTOM_EVERY == PHANTOM_EVERY - 1 else normals
    drawn = [
        draw_example(into, input_shape, cell, np.random.default_rng((seed + seeds, own, index)), drawing)
        for index in range(SHARD)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        images=np.stack([example.image for example in drawn]),
        labels=np.array([example.diseased for example in drawn]),
        lesions=np.stack([example.lesion for example in drawn]),
        lungs=np.stack([example.lung for example in drawn]),
    )
    part.replace(path)
    return path


_normals: list[NormalSlice] = []
"""What a drawing process draws into."""


def _begin_drawing(data: Path, patients: list[str]) -> None:
    cv2.setNumThreads(1)
    _normals.extend(normal_slices(data, patients))


def _draw(job: tuple[Path, int, tuple[int, int], int, int, Drawing]) -> Path:
    return draw_shard(_normals, *job)


def draw_pool(
    data: Path,
    patients: Sequence[str],
    folder: Path,
    cases: int,
    input_shape: tuple[int, int],
    cell: int,
    seed: int,
    say: Callable[[str], None],
    processes: int | None = None,
    drawing: Drawing = FULL,
) -> "Examples":
    """Draw (or find already drawn) at least `cases` examples from these patients' slices, on all cores unless told otherwise.

    A folder holds one pool: what lies there is not drawn again, whatever it was drawn with.
    """
    from ipfvision.nn.training import Examples  # noqa: PLC0415

    jobs = [(folder, number, input_shape, cell, seed, drawing) for number in range(-(-cases // SHARD))]
    missing = [job for job in jobs if not (folder / f"pool_{job[1]:05d}.npz").is_file()]
    if missing:
        # spawn: forking a process with torch's threads can hang
        with ProcessPoolExecutor(processes, get_context("spawn"), _begin_drawing, (data, sorted(patients))) as pool:
            for done, _ in enumerate(pool.map(_draw, missing), start=1):
                say(f"drawing: {done} of {len(missing)} files")
    return Examples(*_joined([folder / f"pool_{job[1]:05d}.npz" for job in jobs]))


def _joined(files: Sequence[Path]) -> list[npt.NDArray[Any]]:
    """Images, labels, lesions and lungs of all files of a pool; never twice in memory, for a pool has gigabytes."""
    names = ("images", "labels", "lesions", "lungs")
    joined: list[npt.NDArray[Any]] = []
    for place, file in enumerate(files):
        with np.load(file) as shard:
            for which, name in enumerate(names):
                own = shard[name]
                if place == 0:
                    joined.append(np.empty((len(files) * SHARD, *own.shape[1:]), own.dtype))
                joined[which][place * SHARD : (place + 1) * SHARD] = own
    return joined


def curves_png(log: Path, coarse_steps: int) -> bytes:
    """What a run's log says of its loss and its figures so far, as PNG."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    steps = [row["step"] for row in rows]

    def line(name: str) -> Line:
        return Line(steps, [row[name] for row in rows])

    shares = {"AUROC": "auroc", "pointing hit": "pointing_hit", "IoU on cells": "iou_cells"}
    return histories(
        [
            Panel("training loss", {"with the map's part": line("loss")}),
            Panel("drawn validation lesions", {name: line(key) for name, key in shares.items()}, top=1.03),
            Panel("mass in the lesion over chance", {"mass ratio": line("mass_ratio")}),
        ],
        "step",
        (coarse_steps, "full size from here") if coarse_steps else None,
        "Training on drawn lesions",
        ["Lesions drawn into held-out patients; nothing was chosen by these figures. They say little about real disease."],
    )


def train_run(
    data: Path,
    folder: Path,
    *,
    held_out: Sequence[str],
    start: str,
    steps: int,
    cases: int,
    seed: int,
    drawing_seed: int | None = None,
    outside_weight: float = 0.0,
    say: Callable[[str], None],
) -> None:
    """Draw the pools and train; a killed run goes on where it stopped.

    Patients are split, never slices: what is drawn into the held-out patients' slices is validation.

    Parameters
    ----------
    drawing_seed
        Of the drawings, if they are not to have `seed`, which decides the order in which they are learned from.
    outside_weight
        How strongly the map is held at 0 outside the lungs.

    Raises
    ------
    InputRefused
        If the manifest is missing, a side of the split would have no patient, or a weight is below 0.
    """
    from ipfvision.nn.training import Recipe, compute_here, train  # noqa: PLC0415

    if not 0 <= outside_weight < float("inf"):
        raise InputRefused(f"The weight of what lies outside the lungs is {outside_weight}: a number from 0 on is expected.")
    patients = {row.patient for row in read_manifest(data) if row.use == "train"}
    unknown = set(held_out) - patients
    if unknown:
        raise InputRefused(f"The manifest has no training patient {', '.join(sorted(unknown))} to hold out.")
    if not patients - set(held_out):
        raise InputRefused("No patient is left to train on: hold out fewer.")
    recipe = Recipe(seed=seed, start=start, steps=steps, outside_weight=outside_weight)
    shape, drawn_by = recipe.input_shape, seed if drawing_seed is None else drawing_seed
    training = draw_pool(data, sorted(patients - set(held_out)), folder / "train", cases, shape, MASK_CELL, drawn_by, say)
    validation = draw_pool(data, sorted(held_out), folder / "validation", 2 * SHARD, shape, MASK_CELL, drawn_by + 1, say)

    manifest = {
        "training_patients": sorted(patients - set(held_out)),
        "held_out_patients": sorted(held_out),
        "drawn_training_examples": len(training),
        "drawn_validation_examples": len(validation),
        "drawing_seed": drawn_by,
        "share_with_drawn_fibrosis": DISEASED,
    }
    (folder / "run.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    def report(line: dict[str, Any]) -> None:
        left = (steps - line["step"]) * line["seconds_per_step"] / 60
        figures = ", ".join(f"{name} {value:.3f}" for name, value in line.items() if isinstance(value, float))
        say(f"step {line['step']} of {steps}, {left:.0f} min left: {figures}")
        write_whole(folder / "curves.png", curves_png(folder / "log.jsonl", recipe.coarse_steps))

    train(recipe, training, validation, folder, report, compute_here())
