"""`python -m benchmarks.ablation DATA --out FOLDER`: what each part of the recipe is good for, one changed at a time.

Each row trains a small network (120 steps of 12 pictures of 192 x 256) and measures it on the same things: disease drawn into
the patient who is held out, and the real validation pictures. Rows that lie finished in FOLDER are not trained again, and a
killed row goes on where it stopped. `table.md`, `table.csv` and `table.json` are written after each row.

Rows have one seed each, so a difference between two of them is only as sure as the two rows that differ in nothing else.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.findings import Explanation
from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import Lungs, find_lungs
from ipfvision.core.slice import grey
from ipfvision.core.window import LUNG
from ipfvision.nn.training import Examples, MapNetwork, Recipe, cell_figures, class_map_of, train
from ipfvision.workflow.answers import Answer, open_scan
from ipfvision.workflow.answers import measured as rows_to_measure
from ipfvision.workflow.drawn_lesions import mass_beyond, mass_in_frame
from ipfvision.workflow.evaluation_figures import area_with_interval, exact_interval
from ipfvision.workflow.training import FULL, Drawing, ManifestRow, draw_pool, framed, normal_slices, read_manifest

HELD_OUT = "LIDC-IDRI-0646"
SERIES = "OSIC-421"
"""The one IPF patient with slices with and without disease."""
FINE = (48, 64)
"""Rows and columns of the grid on which rows with different cells are compared; a row's own grid holds a part of them."""
VALIDATION_SEED, VALIDATION_CASES = 1000, 192
CUTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
WATCHED = 48
"""Drawn validation examples that the log follows during training."""

Maps = npt.NDArray[np.float32]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One training run of the table."""

    name: str
    changed: str
    """What differs from the base, in words."""
    recipe: Recipe
    drawing: Drawing = FULL
    cases: int = 960

    @property
    def cells(self) -> tuple[int, int]:
        """(rows, columns) of the map."""
        stride = 16 if self.recipe.dilated_layer4 else 32
        return self.recipe.input_shape[0] // stride, self.recipe.input_shape[1] // stride

    @property
    def view(self) -> str:
        """Name of what its pictures look like: rows with the same one share drawings and real pictures."""
        rows, columns = self.recipe.input_shape
        return f"{rows}x{columns}" + ("" if self.drawing.lung_crop else "-whole")


BASE = Recipe(
    input_shape=(192, 256),
    batch=12,
    learning_rate=2.5e-4,
    warm_up=30,
    edge=0.0,
    softness=1.0,
    steps=120,
    coarse_share=0.0,
    every=60,
)
"""With the loss on the map's own cells, as the recipe was when the table was measured."""
ROWS = (
    Row("base", "nothing", BASE),
    Row("base-again", "seed: another order, other drawings", replace(BASE, seed=1)),
    Row("labels-only", "no loss on the map", replace(BASE, map_weight=0.0)),
    Row("stride-32", "layer4 as it is in torchvision", replace(BASE, dilated_layer4=False)),
    Row("zero-padding", "layer4 pads with zeros", replace(BASE, padding_mode="zeros")),
    Row("whole-slice", "no crop to the lungs", BASE, Drawing(lung_crop=False)),
    Row("no-distractors", "only fibrosis is drawn for training", BASE, Drawing(distractors=False)),
    Row("random-start", "random weights, none of them frozen", replace(BASE, start="random", frozen=())),
    Row("fewer-drawn", "240 drawn cases, each seen 6 times", BASE, cases=240),
    Row("more-drawn", "1,440 drawn cases, each seen once", BASE, cases=1440),
    Row("288x384", "input 288 x 384", replace(BASE, input_shape=(288, 384))),
    Row("144x192", "input 144 x 192", replace(BASE, input_shape=(144, 192))),
)


def drawn(row: Row, data: Path, pools: Path, say: Say) -> tuple[Examples, Examples]:
    """Examples to train on and to measure on, with their masks on the fine grid.

    What is measured on has its distractors in every row.
    """
    patients = {r.patient for r in read_manifest(data) if r.use == "train"} - {HELD_OUT}
    shape, seed = row.recipe.input_shape, row.recipe.seed
    fine = shape[0] // FINE[0]
    plain = "" if row.drawing.distractors else "-no-distractors"
    folder = pools / f"{row.view}{plain}-seed{seed}"
    training = draw_pool(data, sorted(patients), folder, row.cases, shape, fine, seed, say, 1, row.drawing)
    seen = replace(row.drawing, distractors=True)
    folder = pools / f"{row.view}-validation"
    return training, draw_pool(data, [HELD_OUT], folder, VALIDATION_CASES, shape, fine, VALIDATION_SEED, say, 1, seen)


def real_pictures(row: Row, data: Path, folder: Path) -> tuple[list[ManifestRow], Examples]:
    """What the network sees of the real validation pictures in which lungs were found, kept for the other rows.

    The examples' labels say IPF; their lesions are empty, because nobody outlined any.
    """
    path = folder / f"{row.view}.npz"
    if not path.is_file():
        kept, pictures, lungs = [], [], []
        for picture in rows_to_measure(read_manifest(data))[0]:
            scan = open_scan(data, picture)
            found = find_lungs(scan)
            if found.problem is not None:
                continue
            shown = grey(scan, LUNG)
            crop = framed(found, shown.shape, row.recipe.input_shape, row.drawing)
            kept.append(picture.file)
            pictures.append(np.rint(np.clip(crop.cut(shown), 0, 1) * 255).astype(np.uint8))
            lungs.append(np.rint(crop.cell_shares(found.mask, FINE) * 255).astype(np.uint8))
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, files=np.array(kept), images=np.stack(pictures), lungs=np.stack(lungs))
        part.replace(path)
    saved = np.load(path)
    manifest = {row.file: row for row in read_manifest(data)}
    rows = [manifest[str(file)] for file in saved["files"]]
    ipf = np.array([row.label == "ipf" for row in rows])
    return rows, Examples(saved["images"], ipf, np.zeros_like(saved["lungs"]), saved["lungs"])


def cell_mm(row: Row, data: Path) -> float:
    """Median width of a cell on the held-out patient, whose scale is a guess from the lungs' width."""
    widths = [
        framed(normal.lungs, normal.hu.shape, row.recipe.input_shape, row.drawing).width * normal.mm_per_pixel
        for normal in normal_slices(data, [HELD_OUT])
    ]
    return float(np.median(widths)) / row.cells[1]


def spread_out(maps: Maps) -> Maps:
    """(N, h, w) -> (N, *FINE), bilinear, as the page shows a map."""
    return np.stack([cv2.resize(one, FINE[::-1], interpolation=cv2.INTER_LINEAR) for one in maps])


def where_the_mass_lies(maps: Maps, examples: Examples, chosen: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    """Means over the chosen examples whose map is not empty; `examples` have their lungs on the fine grid."""
    found: dict[str, list[float | None]] = {"outside_lungs": [], "far_outside_lungs": [], "outermost_cells": []}
    grid = Crop(0, 0, FINE[1], FINE[0], FINE, FINE)
    for class_map, lung in zip(maps[chosen], examples.lungs[chosen], strict=True):
        heat = Explanation(np.maximum(class_map, 0), grid, target="ipf", method="gradcam", layer="layer4", unit="logits")
        lungs = Lungs(lung >= 128)
        found["outside_lungs"].append(mass_beyond(heat, lungs, 0.0, None))
        found["far_outside_lungs"].append(mass_beyond(heat, lungs, 0.5, None))
        found["outermost_cells"].append(mass_in_frame(heat))
    defined = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: float(np.mean(values)) if values else None for name, values in defined.items()}


def iou_at_best(examples: Examples, cells: tuple[int, int]) -> float:
    """IoU on the fine grid of a map that knows how much of each cell is lesion and nothing finer, cut where that is best."""
    shares = np.asarray(examples.on_cells(cells).lesions / np.float32(255), np.float32)
    margins = np.zeros(len(examples), np.float32)
    cuts = (cell_figures(spread_out(shares - np.float32(cut)), margins, examples) for cut in CUTS)
    return max(figures["iou_cells"] or 0.0 for figures in cuts)


def drawn_figures(maps: Maps, margins: Maps, examples: Examples) -> dict[str, Any]:
    """Figures on drawn disease, on the row's own cells and on the fine grid; `examples` are on the fine grid."""
    own = examples.on_cells((maps.shape[1], maps.shape[2]))
    found: dict[str, Any] = {
        "examples": len(examples),
        "own_cells": cell_figures(maps, margins, own),
        "fine_grid": cell_figures(spread_out(maps), margins, examples),
        "fine_grid_iou_at_best": iou_at_best(examples, maps.shape[1:]),
        **where_the_mass_lies(maps, examples, examples.labels),
    }
    shares = examples.lesions[examples.labels].sum(axis=(1, 2)) / examples.lungs[examples.labels].sum(axis=(1, 2))
    found["lesions_share_of_lungs"] = float(shares.mean())
    positives = int(examples.labels.sum())
    found["pointing_hit_interval_95"] = exact_interval(round(found["own_cells"]["pointing_hit"] * positives), positives)
    return found


def real_figures(rows: Sequence[ManifestRow], maps: Maps, margins: Maps, examples: Examples) -> dict[str, Any]:
    """Figures on the real validation pictures."""
    given = [Answer(row, float(margin), float(one.max())) for row, margin, one in zip(rows, margins, maps, strict=True)]
    return {
        "ipf_against_normal": area_with_interval(given, ("normal",)),
        "ipf_against_other_disease": area_with_interval(given, ("other_disease",)),
        "diseased_against_other_slices_of_one_patient": area_with_interval(
            [answer for answer in given if answer.row.patient == SERIES], ("ipf_patient",)
        ),
        "ipf": where_the_mass_lies(maps, examples, examples.labels),
    }


def measure(row: Row, model: MapNetwork, examples: Examples, data: Path, folder: Path) -> dict[str, Any]:
    """All figures of a trained row."""
    rows, real = real_pictures(row, data, folder)
    return {
        "cell_mm": cell_mm(row, data),
        "drawn": drawn_figures(*class_map_of(model, examples, row.recipe), examples),
        "real": real_figures(rows, *class_map_of(model, real, row.recipe), real),
    }


def seconds_of_training(log: Path) -> float:
    """Wall time of the steps, over all starts of a run."""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    steps = np.diff([0, *(line["step"] for line in lines)])
    return float(sum(count * line["seconds_per_step"] for count, line in zip(steps, lines, strict=True)))


def run(row: Row, data: Path, out: Path, say: Say) -> dict[str, Any]:
    """Train and measure one row, or take what lies finished in `out`.

    Raises
    ------
    ValueError
        If what lies there is another row of the same name.
    """
    path = out / row.name / "row.json"
    described = json.loads(json.dumps(asdict(row)))
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if found["row"] != described:
            raise ValueError(f"{path} is of another row of this name: give another folder")
        return found
    training, validation = drawn(row, data, out / "pools", say)
    watched = validation.take(slice(WATCHED))
    begun = time.process_time()

    def report(line: dict[str, Any]) -> None:
        say(f"step {line['step']} of {row.recipe.steps}, {line['seconds_per_step']:.1f} s a step, loss {line['loss']:.3f}")

    model = train(row.recipe, training.on_cells(row.cells), watched, out / row.name, report)
    spent = time.process_time() - begun
    figures = measure(row, model, validation, data, out / "real")
    wall = seconds_of_training(out / row.name / "log.jsonl")
    found = {"row": described, "training_seconds": wall, "cpu_seconds_of_this_start": spent, **figures}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1), encoding="utf-8")
    part.replace(path)
    return found


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    drawings, real = found["drawn"], found["real"]
    own, fine = drawings["own_cells"], drawings["fine_grid"]
    areas = {
        name: real[name]
        for name in ("ipf_against_normal", "ipf_against_other_disease", "diseased_against_other_slices_of_one_patient")
    }
    return {
        "row": found["row"]["name"],
        "changed": found["row"]["changed"],
        "cell_mm": found["cell_mm"],
        "drawn_auroc": own["auroc"],
        "pointing_hit": own["pointing_hit"],
        "mass_ratio": own["mass_ratio"],
        "iou_cells": own["iou_cells"],
        "fine_pointing_hit": fine["pointing_hit"],
        "fine_mass_ratio": fine["mass_ratio"],
        "fine_iou": fine["iou_cells"],
        "fine_iou_at_best": drawings["fine_grid_iou_at_best"],
        "lesions_share_of_lungs": drawings["lesions_share_of_lungs"],
        "outside_lungs": drawings["outside_lungs"],
        "far_outside_lungs": drawings["far_outside_lungs"],
        "outermost_cells": drawings["outermost_cells"],
        "real_ipf_far_outside_lungs": real["ipf"]["far_outside_lungs"],
        "real_ipf_outermost_cells": real["ipf"]["outermost_cells"],
        **{name: area["auroc"] for name, area in areas.items()},
        **{f"{name}_interval_95": area.get("interval_95") for name, area in areas.items()},
        "patients_alike": real["ipf_against_other_disease"]["patients_alike"],
        "training_minutes": found["training_seconds"] / 60,
    }


def _number(value: Any, key: str) -> str:
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(key, 2)}f}"
    return "-" if value is None else str(value)


MAPS = {
    "row": "Row",
    "changed": "Changed",
    "cell_mm": "Cell, mm",
    "pointing_hit": "Pointing hit",
    "mass_ratio": "Mass ratio",
    "iou_cells": "IoU, own cells",
    "fine_mass_ratio": "Mass ratio, fine",
    "fine_iou": "IoU, fine",
    "fine_iou_at_best": "at best",
    "far_outside_lungs": "Outside lungs",
    "outermost_cells": "Outermost cells",
    "real_ipf_far_outside_lungs": "Outside, real IPF",
    "real_ipf_outermost_cells": "Outermost, real IPF",
}
CLASSES = {
    "row": "Row",
    "drawn_auroc": "Drawn",
    "ipf_against_normal": "Real IPF against normal",
    "ipf_against_other_disease": "against other disease",
    "patients_alike": "the same, each patient alike",
    "diseased_against_other_slices_of_one_patient": "Diseased against other slices of one patient",
    "training_minutes": "Training, min",
}
DIGITS = {"cell_mm": 1, "training_minutes": 0} | dict.fromkeys(list(CLASSES)[1:-1], 3)


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Two tables: where the map lies, and what the answer is worth (areas under the ROC curve with 95 % intervals)."""

    def cell(line: Mapping[str, Any], key: str) -> str:
        low_high = line.get(f"{key}_interval_95")
        return _number(line[key], key) + (f" ({' to '.join(_number(edge, key) for edge in low_high)})" if low_high else "")

    tables = []
    for columns in (MAPS, CLASSES):
        head = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
        body = ["| " + " | ".join(cell(line, key) for key in columns) + " |" for line in lines]
        tables.append("\n".join([*head, *body]))
    return "\n\n".join(tables) + "\n"


def write_tables(found: Sequence[Mapping[str, Any]], out: Path) -> None:
    """table.json holds everything, table.csv one line a row, table.md what the docs show."""
    lines = [flat(one) for one in found]
    (out / "table.json").write_text(json.dumps(list(found), indent=1), encoding="utf-8")
    (out / "table.md").write_text(markdown(lines), encoding="utf-8")
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder with a manifest.csv")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for runs, drawings and the table")
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    arguments = parser.parse_args()
    found = []
    for row in ROWS:
        if row.name in arguments.rows:

            def say(text: str, name: str = row.name) -> None:
                print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)

            found.append(run(row, arguments.data, arguments.out, say))
            say(f"done in {found[-1]['training_seconds'] / 60:.1f} min of training")
            write_tables(found, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
