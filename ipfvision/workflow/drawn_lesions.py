"""Does the heat map lie on lesions whose place is known? Fibrosis is drawn into a held-out patient and read as ever."""

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ipfvision.core.agreement import agree, overlap
from ipfvision.core.annotation import Annotation, Finding
from ipfvision.core.distance import within_mm
from ipfvision.core.findings import Decision, Explanation
from ipfvision.core.lungs import Lungs
from ipfvision.core.overlay import outline
from ipfvision.core.slice import PixelSpacing, Scale, Slice, Source, hash_pixels
from ipfvision.errors import InputRefused
from ipfvision.images import write_png
from ipfvision.synthetic.case import Case, disease_mask, draw_case
from ipfvision.workflow.answers import Say, how_answered
from ipfvision.workflow.collection import mean_over_patients
from ipfvision.workflow.evaluation_figures import grouped_area, rate
from ipfvision.workflow.reading import Reader, Reading, picture
from ipfvision.workflow.series import left_words
from ipfvision.workflow.training import NormalSlice, normal_slices

Mask = npt.NDArray[np.bool_]

CASES = 100
SIZES = (("small", 0.0), ("medium", 0.1), ("large", 0.25))
"""Names, and the share of the lungs' area from which drawn disease has that size."""
COLORED = 0.1
"""Share of the card's map reference from which a map is drawn in color."""
TRUE_CELL = 0.4
"""Share of a cell that is lesion from which the cell is true, as in `ipfvision.nn.training.cell_figures`."""
WHOLE, NOTHING = "all", "nothing"
OUTLINE = (72, 219, 251)


@dataclass(frozen=True, slots=True)
class DrawnScore:
    """One drawn case, or one finding of it. None is "not defined here"; every name is a column of the table."""

    case: int
    slice: int
    """Number of the slice that was drawn into, among the held-out patients' slices."""
    patient: str
    finding: str
    """"all" is everything that was drawn except ground glass, "nothing" a slice without fibrosis; else one finding alone."""
    size: str
    severity: float
    """Share of the lungs' area in the disease mask."""
    decision: str
    probability: float | None = None
    cell_mm: float | None = None
    """The longer side of a cell."""
    pointing_hit: bool | None = None
    pointing_chance: float | None = None
    mass: float | None = None
    enrichment: float | None = None
    """Mass over the share of the lung's area; 1 is chance."""
    lesion_recall: float | None = None
    iou_at_half: float | None = None
    iou_at_otsu: float | None = None
    iou_cells_at_half: float | None = None
    iou_positive: float | None = None
    """Of the pixels where the heat map is above 0."""
    iou_positive_in_lung: float | None = None
    """The same with the heat map cut off outside the lung mask; the drawn area is not."""
    iou_sign: float | None = None
    """Of the pixels where the *signed* evidence, brought to pixels before it is cut at 0, is above 0: the heat map's own cells
    are cut at 0 first, so that it is above 0 up to one cell beyond its last positive one."""
    iou_colored: float | None = None
    """Of the pixels that the page draws in color."""
    iou_true_cells: float | None = None
    """What a map that is right in every cell would reach at pixels, cut at half: the grid's share of a low IoU."""
    iou_cells: float | None = None
    """Evidence above 0 against cells that are at least 40 % lesion (`ipfvision.nn.training.cell_figures`)."""
    iou_cells_colored: float | None = None
    """Cells that the page draws in color against the same."""
    outside_lung: float | None = None
    """Share of the map outside the lungs as they were found before anything was drawn: dense disease hides lung."""
    far_outside_lung: float | None = None
    """Share of it more than half a cell away from them."""
    far_outside_found_lung: float | None = None
    """The same for the lungs that were found on the drawn slice, which miss what is drawn dense."""
    in_frame: float | None = None
    """Share of the map in the outermost frame of its cells."""


NUMBERS = tuple(field.name for field in fields(DrawnScore))[7:]
"""The columns that are means in a summary."""


def size_of(severity: float) -> str:
    """The name of a size in `SIZES`."""
    return [name for name, least in SIZES if severity >= least][-1]


def score_drawn(
    reader: Reader, normals: Sequence[NormalSlice], say: Say, remember: Path, cases: int = CASES, seed: int = 0
) -> list[DrawnScore]:
    """Draw `cases` cases into these slices, read them and score their maps; then read half as many without fibrosis.

    The same seed gives the same cases.

    A case with nothing but ground glass is left out: it is not counted as fibrosis anywhere else either.

    Parameters
    ----------
    remember
        A folder that keeps what was scored: a killed run goes on there.
    """
    parts = ("synthetic", "workflow/drawn_lesions.py")
    folder = remember / how_answered(reader.card, reader.computed_by, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    found: list[DrawnScore] = []
    clock, fresh = time.monotonic(), 0
    total = cases + cases // 2
    for index in range(total):
        diseased, number = index < cases, _order(len(normals), seed, index)
        kept = folder / f"{seed}_{index}_{diseased}_{hash_pixels(normals[number].hu)[:16]}.json"
        if kept.is_file():
            own = [DrawnScore(**row) for row in json.loads(kept.read_text())]
        else:
            fresh += 1
            own = (_score_case if diseased else _score_nothing)(reader, normals[number], index, number, seed)
            part = kept.with_suffix(".part")
            part.write_text(json.dumps([asdict(row) for row in own]), encoding="utf-8")
            part.replace(kept)
        found += own
        if (index + 1) % 10 == 0 or index + 1 == total:
            left = (time.monotonic() - clock) / fresh * (total - index - 1) if fresh else 0
            say(f"drawn lesions: {index + 1} of {total} cases{left_words(left)}")
    return found


def _order(count: int, seed: int, index: int) -> int:
    """Every slice once before any slice twice."""
    turn, place = divmod(index, count)
    return int(np.random.default_rng((seed, turn)).permutation(count)[place])


def draw(normal: NormalSlice, seed: int, index: int, *, diseased: bool = True) -> tuple[Case, Slice] | None:
    """Draw one case, distractors as in training; None if the lungs are too small to draw in."""
    rng = np.random.default_rng((seed, 7, index))
    try:
        case = draw_case(normal.hu, normal.lungs.mask, normal.mm_per_pixel, rng, diseased=diseased)
    except ValueError:
        return None
    spacing = PixelSpacing(normal.mm_per_pixel, normal.mm_per_pixel)
    source = Source("drawn", "PNG", hash_pixels(case.pixels))
    return case, Slice(case.pixels, Scale.HOUNSFIELD, source, case.pixels < -1500, spacing)


def _score_case(reader: Reader, normal: NormalSlice, index: int, number: int, seed: int) -> list[DrawnScore]:
    drawn = draw(normal, seed, index)
    if drawn is None:
        return []
    case, scan = drawn
    area = disease_mask(case.annotations, scan.shape)
    if not area.any():
        return []
    reading = reader.read(scan)
    own: dict[str, Any] = {
        "case": index,
        "slice": number,
        "patient": normal.patient,
        "size": size_of(case.severity),
        "severity": case.severity,
        "decision": reading.prediction.decision.value,
        "probability": reading.prediction.probability,
    }
    if "ipf" not in reading.explanations:
        return [DrawnScore(finding=WHOLE, **own)]
    fibrosis = [one for one in case.annotations if one.said.finding is not Finding.GROUND_GLASS]
    own["cell_mm"] = max(reading.explanations["ipf"].cell_mm(scan.spacing) or (0.0,))
    rows = [
        DrawnScore(
            finding=WHOLE,
            **own,
            **_agreement(reading, fibrosis),
            **_overlaps(reader, reading, area),
            **_beyond(reading, normal.lungs),
        )
    ]
    rows += [DrawnScore(finding=one.said.finding.value, **own, **_agreement(reading, [one])) for one in case.annotations]
    return rows


def _score_nothing(reader: Reader, normal: NormalSlice, index: int, number: int, seed: int) -> list[DrawnScore]:
    """A slice without fibrosis, most with distractors: what is answered. There is no lesion for the map to lie on."""
    drawn = draw(normal, seed, index, diseased=False)
    if drawn is None:
        return []
    answer = reader.answer(reader.see(drawn[1]))
    return [DrawnScore(index, number, normal.patient, NOTHING, "", 0.0, answer.decision.value, answer.probability)]


def _agreement(reading: Reading, annotations: Sequence[Annotation]) -> dict[str, Any]:
    found = agree(reading.explanations["ipf"], reading.lungs, annotations, reading.scan.spacing)
    names = ("pointing_hit", "pointing_chance", "mass", "enrichment", "lesion_recall", "iou_at_half", "iou_at_otsu")
    return {**{name: getattr(found, name) for name in names}, "iou_cells_at_half": found.iou_cells}


def _overlaps(reader: Reader, reading: Reading, area: Mask) -> dict[str, Any]:
    from ipfvision.nn.training import Examples, cell_figures  # noqa: PLC0415

    explanation, evidence = reading.explanations["ipf"], reading.evidence
    if evidence is None:
        return {}
    crop, heatmap = explanation.crop, explanation.heatmap()
    grid = (explanation.cells.shape[0], explanation.cells.shape[1])
    shares, cover = crop.cell_shares(area, grid), crop.cell_shares(reading.lungs.mask, grid)
    right = crop.paste_cells((shares >= TRUE_CELL).astype(np.float32)) >= 0.5

    def bytes_of(share: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        return np.rint(share * 255).astype(np.uint8)[None]

    example = Examples(np.zeros((1, 1, 1), np.uint8), np.array([True]), bytes_of(shares), bytes_of(cover))
    on_cells = cell_figures(evidence.cells[None], np.array([evidence.margin], np.float32), example)

    def iou(region: Mask) -> float | None:
        same = overlap(region, area)
        return None if same is None else same.iou

    if explanation.peak <= 0:  # no positive evidence: an overlap is not defined
        return {"iou_true_cells": iou(right)}
    colored_cells = overlap(explanation.cells >= COLORED * reader.card.map_reference, shares >= TRUE_CELL)
    return {
        "iou_positive": iou(heatmap > 0),
        "iou_positive_in_lung": iou((heatmap > 0) & reading.lungs.mask),
        "iou_sign": iou(crop.paste_cells(evidence.cells) > 0),
        "iou_colored": iou((heatmap > 0) & (heatmap >= COLORED * reader.card.map_reference)),
        "iou_true_cells": iou(right),
        "iou_cells": on_cells["iou_cells"],
        "iou_cells_colored": None if colored_cells is None else colored_cells.iou,
    }


def _beyond(reading: Reading, lungs: Lungs) -> dict[str, Any]:
    explanation = reading.explanations["ipf"]
    return {
        "outside_lung": mass_beyond(explanation, lungs, 0.0, reading.scan.spacing),
        "far_outside_lung": mass_beyond(explanation, lungs, 0.5, reading.scan.spacing),
        "far_outside_found_lung": mass_beyond(explanation, reading.lungs, 0.5, reading.scan.spacing),
        "in_frame": mass_in_frame(explanation),
    }


def mass_beyond(explanation: Explanation, lungs: Lungs, cells: float, spacing: PixelSpacing | None) -> float | None:
    """Share of the heat map more than `cells` cells away from the lung mask; None of an empty map or a mask in doubt."""
    if lungs.doubt is not None or explanation.peak <= 0:
        return None
    heatmap = explanation.heatmap()
    square = spacing or PixelSpacing(1.0, 1.0)
    limit = cells * max(explanation.cell_mm(square) or (0.0,))
    near = within_mm(lungs.mask, limit, square) if limit > 0 else lungs.mask
    return float(heatmap.sum(dtype=np.float64, where=~near) / heatmap.sum(dtype=np.float64))


def mass_in_frame(explanation: Explanation) -> float | None:
    """Share of the map in the outermost rows and columns of its cells; None of an empty map."""
    cells = explanation.cells.astype(np.float64)
    if cells.sum() <= 0:
        return None
    return float(1 - cells[1:-1, 1:-1].sum() / cells.sum())


def summarize_drawn(rows: Sequence[DrawnScore], point: float) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals over the slices that were drawn into, for everything, by size and by finding.

    Parameters
    ----------
    point
        The card's operating point, for the answers.
    """

    def means(of: Sequence[DrawnScore]) -> dict[str, Any]:
        return {
            "cases": len({row.case for row in of}),
            "refused": sum(row.decision == Decision.REFUSED.value for row in of),
            "figures": {name: _mean(of, name) for name in NUMBERS},
        }

    whole, nothing = ([row for row in rows if row.finding == finding] for finding in (WHOLE, NOTHING))
    findings = [finding.value for finding in Finding if any(row.finding == finding.value for row in rows)]
    return {
        "patients": sorted({row.patient for row in rows}),
        "slices": len({row.slice for row in whole}),
        "answers": {name: _answers_to(own, point) for name, own in (("fibrosis", whole), ("nothing", nothing))},
        "auroc": grouped_area(_by_slice(whole), _by_slice(nothing)),
        "all": means(whole),
        "by_size": {name: means([row for row in whole if row.size == name]) for name, _ in SIZES},
        "by_finding": {finding: means([row for row in rows if row.finding == finding]) for finding in findings},
    }


def _answers_to(rows: Sequence[DrawnScore], point: float) -> dict[str, Any]:
    shares = [row.probability for row in rows if row.probability is not None]
    said = [row.decision for row in rows]
    return {
        "at_operating_point": rate(sum(share >= point for share in shares), len(shares)),
        "called_ipf": rate(said.count(Decision.IPF.value), len(shares)),
        "called_normal": said.count(Decision.NORMAL.value),
        "uncertain": said.count(Decision.UNCERTAIN.value),
        "refused": said.count(Decision.REFUSED.value),
        "pictures": len(rows),
    }


def _by_slice(rows: Sequence[DrawnScore]) -> list[npt.NDArray[np.float64]]:
    found: dict[int, list[float]] = {}
    for row in rows:
        if row.probability is not None:
            found.setdefault(row.slice, []).append(row.probability)
    return [np.array(shares) for shares in found.values()]


def _mean(rows: Sequence[DrawnScore], name: str) -> dict[str, Any]:
    found = mean_over_patients([(str(row.slice), getattr(row, name)) for row in rows])
    return {"mean": found["mean"], "interval_95": found["interval_95"], "cases": found["slices"]}


def write_table(rows: Sequence[DrawnScore], path: Path) -> None:
    """One line per case and finding; empty where a figure is not defined."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(DrawnScore)])
        writer.writeheader()
        for row in rows:
            writer.writerow({key: int(value) if isinstance(value, bool) else value for key, value in asdict(row).items()})


def held_out(reader: Reader, data: Path) -> list[NormalSlice]:
    """The slices of the patients that the card says no lesion was drawn into for training; empty if there are none here."""
    training = reader.card.details.get("training", {})
    patients = training.get("data", {}).get("held_out_patients", [])
    try:
        return normal_slices(data, patients) if patients else []
    except InputRefused:  # no manifest, or not one of slices to draw into
        return []


def worst(rows: Sequence[DrawnScore], count: int) -> list[DrawnScore]:
    """Cases of which the least of the map lies on what was drawn, the worst first."""
    scored = [row for row in rows if row.finding == WHOLE and row.enrichment is not None]
    return sorted(scored, key=lambda row: (bool(row.pointing_hit), row.enrichment or 0))[:count]


def show(reader: Reader, normal: NormalSlice, row: DrawnScore, seed: int = 0) -> bytes:
    """PNG: the drawn slice with its outline, and beside it the heat map with the same outline."""
    drawn = draw(normal, seed, row.case)
    if drawn is None:
        raise ValueError(f"case {row.case} cannot be drawn again")
    case, scan = drawn
    area = disease_mask(case.annotations, scan.shape)
    reading = reader.read(scan)
    left = picture(reader.card, Reading(scan, reading.prediction, {}, None, reading.lungs))
    both = [left, outline(picture(reader.card, reading), area, OUTLINE)]
    return write_png(np.ascontiguousarray(np.concatenate(both, axis=1)))
