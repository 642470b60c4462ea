"""Every number that compares a heat map with a radiologist's annotation of the same slice.

S is the heat map on the slice's own pixels, S^ = S / max S with no minimum subtracted; M is the union of the annotated areas;
L is the lung mask. S and M are taken over all pixels of the slice and never clipped to L. Nothing here is 0 / 0: what is not
defined is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import BoxAnnotation, OnSlice, PointAnnotation
from ipfvision.core.distance import distances_mm, hausdorff_mm
from ipfvision.core.findings import Explanation
from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import Lungs
from ipfvision.core.regions import annotated_area, around_point, in_box, lung_reason
from ipfvision.core.slice import PixelSpacing

Mask = npt.NDArray[np.bool_]

HALF = 0.5
LEAST_LESION_MM2 = 10.0
"""Smallest area of a lesion that can be found or missed: a honeycomb cyst of 3.5 mm."""
THRESHOLDS = np.arange(1, 101) / 100
"""Of the curve of IoU and Dice: 0.01, 0.02, ..., 1."""
THRESHOLDS.flags.writeable = False
FROC_THRESHOLDS = tuple(percent / 100 for percent in range(5, 101, 5))
OTSU_BINS = 256


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of two regions is the same."""

    iou: float
    dice: float


@dataclass(frozen=True, slots=True, eq=False)
class OverlapCurve:
    """IoU and Dice of `S^ >= t` with M for every t of `THRESHOLDS`; read-only."""

    thresholds: npt.NDArray[np.float64]
    iou: npt.NDArray[np.float64]
    dice: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        for array in (self.thresholds, self.iou, self.dice):
            array.flags.writeable = False


@dataclass(frozen=True, slots=True)
class FrocPoint:
    """One point of the free-response curve. Sum over slices: found / lesions against false regions per slice."""

    threshold: float
    found: int
    """Lesions of which `S^ >= threshold` covers any part."""
    false_regions: int


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """How a heat map agrees with an annotation. None is "not defined here", never 0 or 1.

    - No annotation at all: nothing is defined.
    - Nothing marked (`annotated` is False, M empty): only `false_regions` and `froc` are; every overlap is None.
    - No positive evidence (`no_evidence`): both pointing hits are False, the map finds no lesion and has no region; mass,
      overlaps, ranks and distances are None.
    - Points and boxes: hits, lesions, `distance_mm` and their chance; mass, overlaps and ranks come from areas alone.
    - `lung_reason`: everything that rests on L is None.
    """

    annotated: bool | None
    """True: something is marked. False: a reader looked and marked nothing. None: there is no annotation."""
    no_evidence: bool
    """S is zero everywhere."""
    lung_reason: str | None
    """Why `pointing_chance`, `enrichment`, `rank_chance`, `auroc`, `average_precision` and its chance are not given, in a
    sentence."""
    cell_mm: tuple[float, float] | None
    """(width, height) of a cell of the map: nothing here can be better than it. None without pixel spacing."""

    pointing_hit: bool | None = None
    """Whether the first maximum of S lies on M, in a box, or within half a cell's diagonal of a point."""
    pointing_hit_any_tie: bool | None = None
    """The same for any of several equal maxima."""
    pointing_chance: float | None = None
    """Of a pixel of L drawn blindly: area(M and L) / area(L), boxes and the points' surroundings included."""
    mass: float | None = None
    """Share of S that lies in M (energy-based pointing game; Wang et al., CVPR Workshops 2020)."""
    enrichment: float | None = None
    """mass / (area(M) / area(L))."""
    rank_accuracy: float | None = None
    """Share of the area(M) highest pixels of S that lie in M (Arras et al., Inf Fusion 2022;81:14-40); of equal pixels the
    upper, then the left one is the higher."""
    rank_chance: float | None = None
    """area(M) / area(L)."""

    iou_at_half: float | None = None
    dice_at_half: float | None = None
    """Of `S^ >= 0.5` with M."""
    otsu: float | None = None
    """Otsu's t, among the pixels that the model saw; None if S is the same in all of them."""
    iou_at_otsu: float | None = None
    dice_at_otsu: float | None = None
    curve: OverlapCurve | None = None
    iou_cells: float | None = None
    dice_cells: float | None = None
    """At t = 0.5 on the map's own grid, before it is spread to pixels: S^ of each cell against the cells that M covers by half
    or more, among the cells that lie on the slice by half or more. None if M covers no cell by half: it is finer than the grid.
    """

    auroc: float | None = None
    """Of S as a score for M, pixels of L only; chance is 0.5. None if L lies wholly in M or wholly outside."""
    average_precision: float | None = None
    average_precision_chance: float | None = None
    """area(M and L) / area(L): as for the precision, pixels of L only."""

    lesions: int | None = None
    """8-connected components of M of at least `smallest_lesion_mm2`, and the points and boxes that touch none of them."""
    smallest_lesion_mm2: float | None = None
    """None without pixel spacing: areas are not known then, and every component is a lesion."""
    lesion_recall: float | None = None
    """Share of the lesions of which `S^ >= t` covers any part. None if there is no lesion."""
    false_regions: int | None = None
    """8-connected components of `S^ >= t` that touch nothing that is marked. A region on a component of M that is too small for
    a lesion is neither found nor false, as findings that are not scored are treated in LUNA16 (Setio et al., Med Image Anal
    2017;42:1-13)."""
    froc: tuple[FrocPoint, ...] | None = None
    """For every t of `FROC_THRESHOLDS`."""

    distance_mm: float | None = None
    """From the first maximum of S to the nearest pixel of M, point or box; 0 on it."""
    hd95_mm: float | None = None
    """`ipfvision.core.distance.hausdorff_mm` of `S^ >= t` and M."""


def overlap(first: Mask, second: Mask) -> Overlap | None:
    """IoU and Dice of two regions; None if both are empty."""
    both, areas = int((first & second).sum()), int(first.sum()) + int(second.sum())
    return None if areas == 0 else Overlap(both / (areas - both), 2 * both / areas)


def otsu_threshold(values: npt.NDArray[np.float32]) -> float | None:
    """Otsu's threshold t of values in [0, 1]: `values >= t` is the upper class (IEEE Trans Syst Man Cybern 1979;9:62-66).

    A multiple of 1/256, the lowest of equally good ones; None if one bin holds all values.
    """
    counts = np.bincount(np.minimum((values * OTSU_BINS).astype(np.intp), OTSU_BINS - 1).ravel(), minlength=OTSU_BINS)
    weighted = counts * (np.arange(OTSU_BINS) + 0.5)
    below, sum_below = np.cumsum(counts)[:-1], np.cumsum(weighted)[:-1]
    above, sum_above = counts.sum() - below, weighted.sum() - sum_below
    if not (below * above).any():
        return None
    difference = sum_below / np.maximum(below, 1) - sum_above / np.maximum(above, 1)
    between = below.astype(np.float64) * above * np.square(difference)
    return float(int(between.argmax()) + 1) / OTSU_BINS


def agree(
    explanation: Explanation,
    lungs: Lungs,
    annotations: Sequence[OnSlice],
    spacing: PixelSpacing | None,
    t: float = HALF,
) -> Agreement:
    """Compare a heat map with what was annotated on its slice. The caller chooses the findings: all that are given count.

    Parameters
    ----------
    t
        Threshold of S^ for the lesions, the false regions and `hd95_mm`, in (0, 1].

    Raises
    ------
    ValueError
        If the lung mask or an annotation is not of the explanation's slice, or t is not in (0, 1].
    """
    crop = explanation.crop
    shape = crop.slice_shape
    if lungs.mask.shape != shape:
        raise ValueError(f"a lung mask of {lungs.mask.shape} is not of this slice of {shape}")
    if not 0 < t <= 1:
        raise ValueError(f"a threshold of S / max S lies in (0, 1], not at {t}")
    heatmap = explanation.heatmap()
    peak = float(heatmap.max())
    area = annotated_area(annotations, shape)
    if area is None:
        area = np.zeros(shape, np.bool_)
    boxes = [in_box(one, shape) for one in annotations if isinstance(one, BoxAnnotation)]
    points = [one for one in annotations if isinstance(one, PointAnnotation)]
    near_points = [_near_point(point, explanation, spacing) for point in points]
    marked = np.logical_or.reduce([area, *boxes, *near_points])

    found = Agreement(
        annotated=bool(area.any() or boxes or points) if annotations else None,
        no_evidence=peak <= 0,
        lung_reason=lung_reason(lungs, annotations),
        cell_mm=explanation.cell_mm(spacing),
    )
    if not annotations:
        return found
    scaled = heatmap if found.no_evidence else heatmap / np.float32(peak)
    found = _with_lesions(found, scaled, area, [*boxes, *near_points], spacing, t)
    if not found.annotated:
        return found
    in_lung = None if found.lung_reason is not None else lungs.mask
    if in_lung is not None:
        found = replace(found, pointing_chance=float((marked & in_lung).sum() / in_lung.sum()))
        if area.any():
            found = replace(found, rank_chance=float(area.sum() / in_lung.sum()))
    if found.no_evidence:
        return replace(found, pointing_hit=False, pointing_hit_any_tie=False)

    row, column = (int(index) for index in np.unravel_index(int(heatmap.argmax()), shape))
    found = replace(
        found,
        pointing_hit=bool(marked[row, column]),
        pointing_hit_any_tie=bool((heatmap[marked] == heatmap.max()).any()),
        distance_mm=None
        if spacing is None
        else _nearest_mm(row, column, np.logical_or.reduce([area, *boxes]), points, spacing),
    )
    if not area.any():
        return found
    mass = float(heatmap.sum(dtype=np.float64, where=area) / heatmap.sum(dtype=np.float64))
    found = replace(
        found,
        mass=mass,
        enrichment=None if found.rank_chance is None else mass / found.rank_chance,
        rank_accuracy=_rank_accuracy(heatmap, area),
        hd95_mm=None if spacing is None else hausdorff_mm(scaled >= np.float32(t), area, spacing),
    )
    if in_lung is not None:
        found = _with_ranking(found, heatmap[in_lung], area[in_lung])
    return _with_overlaps(found, scaled, area, explanation)


def _near_point(point: PointAnnotation, explanation: Explanation, spacing: PixelSpacing | None) -> Mask:
    """Where a maximum of S counts as a hit of a point.

    A point has no extent, so the pointing game needs a tolerance. The game as it was published allows 15 pixels of a photograph
    (Zhang et al., ECCV 2016); here it is half the diagonal of a cell, or of a pixel if that is larger: a map whose best cell
    holds the point has its maximum that far away at most.
    """
    crop = explanation.crop
    rows, columns = explanation.cells.shape
    pixel = (1.0, 1.0) if spacing is None else (spacing.column_mm, spacing.row_mm)
    cell = max(crop.width / columns, 1) * pixel[0], max(crop.height / rows, 1) * pixel[1]
    return around_point(point, math.hypot(*cell) / 2, crop.slice_shape, pixel)


def _nearest_mm(row: int, column: int, regions: Mask, points: Sequence[PointAnnotation], spacing: PixelSpacing) -> float | None:
    to_points = (
        math.hypot((column + 0.5 - point.x) * spacing.column_mm, (row + 0.5 - point.y) * spacing.row_mm) for point in points
    )
    nearest = min(float(distances_mm(np.array([[row, column]]), regions, spacing)[0]), *to_points, math.inf)
    return nearest if math.isfinite(nearest) else None


def _rank_accuracy(heatmap: npt.NDArray[np.float32], area: Mask) -> float:
    """Without sorting: all pixels above the value of the last one that counts, then the first ones that are equal to it."""
    values, inside = heatmap.ravel(), area.ravel()
    count = int(inside.sum())
    last = np.partition(values, values.size - count)[values.size - count]
    above = values > last
    equal = np.flatnonzero(values == last)[: count - int(above.sum())]
    return (int((above & inside).sum()) + int(inside[equal].sum())) / count


def _with_ranking(found: Agreement, scores: npt.NDArray[np.float32], positive: Mask) -> Agreement:
    """Add the area under the ROC curve and the average precision, ties as one step."""
    positives = int(positive.sum())
    negatives = positive.size - positives
    if positives == 0 or negatives == 0:
        return found
    order = np.argsort(-scores)
    ordered = scores[order]
    last_of_ties = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), scores.size - 1)
    hits = np.cumsum(positive[order])[last_of_ties]
    alarms = last_of_ties + 1 - hits
    return replace(
        found,
        auroc=float(np.trapezoid(np.append(0, hits), np.append(0, alarms))) / (positives * negatives),
        average_precision=float((np.diff(hits, prepend=0) * hits / (last_of_ties + 1)).sum()) / positives,
        average_precision_chance=positives / positive.size,
    )


def _with_overlaps(found: Agreement, scaled: npt.NDArray[np.float32], area: Mask, explanation: Explanation) -> Agreement:
    curve = _overlap_curve(scaled, area)
    at_half = int(np.flatnonzero(curve.thresholds == HALF)[0])
    otsu = otsu_threshold(scaled[_seen(explanation.crop)])
    at_otsu = None if otsu is None else overlap(scaled >= np.float32(otsu), area)
    on_cells = _overlap_of_cells(explanation, area)
    return replace(
        found,
        iou_at_half=float(curve.iou[at_half]),
        dice_at_half=float(curve.dice[at_half]),
        otsu=otsu,
        iou_at_otsu=None if at_otsu is None else at_otsu.iou,
        dice_at_otsu=None if at_otsu is None else at_otsu.dice,
        curve=curve,
        iou_cells=None if on_cells is None else on_cells.iou,
        dice_cells=None if on_cells is None else on_cells.dice,
    )


def _seen(crop: Crop) -> tuple[slice, slice]:
    """The part of the slice that lies in the model's input."""
    return (
        slice(max(0, crop.top), max(0, crop.top + crop.height)),
        slice(max(0, crop.left), max(0, crop.left + crop.width)),
    )


def _overlap_curve(scaled: npt.NDArray[np.float32], area: Mask) -> OverlapCurve:
    """All thresholds from one histogram: of how many thresholds each pixel reaches."""
    reached = np.searchsorted(THRESHOLDS.astype(np.float32), scaled.ravel(), side="right")
    bins = THRESHOLDS.size + 1

    def at_least(counts: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return np.cumsum(counts[::-1])[::-1][1:]

    predicted = at_least(np.bincount(reached, minlength=bins))
    both = at_least(np.bincount(reached[area.ravel()], minlength=bins))
    areas = predicted + int(area.sum())
    return OverlapCurve(THRESHOLDS, both / (areas - both), 2 * both / areas)


def _overlap_of_cells(explanation: Explanation, area: Mask) -> Overlap | None:
    crop, (rows, columns) = explanation.crop, explanation.cells.shape
    pooled = crop.cell_shares(area, (rows, columns)) >= HALF
    on_slice = crop.cell_shares(np.ones(crop.slice_shape, np.bool_), (rows, columns)) >= HALF
    cells = np.where(on_slice, explanation.cells, 0)
    if not pooled.any() or float(cells.max()) <= 0:
        return None
    return overlap(cells / cells.max() >= np.float32(HALF), pooled)


def _with_lesions(
    found: Agreement,
    scaled: npt.NDArray[np.float32],
    area: Mask,
    marks: Sequence[Mask],
    spacing: PixelSpacing | None,
    t: float,
) -> Agreement:
    """Add lesions, false regions and the free-response curve."""
    peaks = _lesion_peaks(scaled, area, marks, spacing)
    marked = np.logical_or.reduce([area, *marks])

    def at(threshold: float) -> FrocPoint:
        if found.no_evidence:
            return FrocPoint(threshold, 0, 0)
        level = np.float32(threshold)
        return FrocPoint(threshold, int((peaks >= level).sum()), _false_regions(scaled >= level, marked))

    at_t = at(t)
    return replace(
        found,
        lesions=len(peaks),
        smallest_lesion_mm2=None if spacing is None else LEAST_LESION_MM2,
        lesion_recall=at_t.found / len(peaks) if len(peaks) else None,
        false_regions=at_t.false_regions,
        froc=tuple(at(threshold) for threshold in FROC_THRESHOLDS),
    )


def _lesion_peaks(
    scaled: npt.NDArray[np.float32], area: Mask, marks: Sequence[Mask], spacing: PixelSpacing | None
) -> npt.NDArray[np.float32]:
    """(lesions,) largest S^ on each lesion: it is found at every threshold up to there."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(area.astype(np.uint8), connectivity=8)
    peaks = np.zeros(count, np.float32)
    np.maximum.at(peaks, np.asarray(labels, np.intp)[area], scaled[area])
    large = np.ones(count, np.bool_)
    if spacing is not None:
        large = statistics[:, cv2.CC_STAT_AREA] * spacing.row_mm * spacing.column_mm >= LEAST_LESION_MM2
    large[0] = False
    on_lesion = large[labels]
    of_marks = [scaled[mark].max() for mark in marks if mark.any() and not (mark & on_lesion).any()]
    return np.concatenate([peaks[large], np.array(of_marks, np.float32)])


def _false_regions(region: Mask, marked: Mask) -> int:
    count, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    touching = np.unique(np.asarray(labels)[marked & region])
    return count - 1 - len(touching)
