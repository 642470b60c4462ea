"""Every number that compares a heat map with an annotation, against an independent oracle; and when there is none."""

import math
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree
from sklearn.metrics import average_precision_score, roc_auc_score

from ipfvision.core.agreement import FROC_THRESHOLDS, LEAST_LESION_MM2, THRESHOLDS, Agreement, agree, otsu_threshold, overlap
from ipfvision.core.annotation import Annotation, BoxAnnotation, Finding, OnSlice, PointAnnotation, Said
from ipfvision.core.distance import boundary, distances_mm, hausdorff_mm, within_mm
from ipfvision.core.findings import Explanation
from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import Lungs
from ipfvision.core.regions import MOST_OUTSIDE_LUNG, annotated_area
from ipfvision.core.slice import PixelSpacing

Mask = npt.NDArray[np.bool_]

SAID = Said(Finding.HONEYCOMBING, "synthetic")
SHAPE = (60, 80)
INPUT = (48, 64)
CROP = Crop(8, 6, 64, 48, INPUT, SHAPE)
EIGHT = np.ones((3, 3))
EACH_MM = PixelSpacing(1.0, 1.0)
WIDE = PixelSpacing(0.75, 1.25)

unhurried = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def _explanation(cells: npt.NDArray[np.floating], crop: Crop = CROP) -> Explanation:
    return Explanation(cells.astype(np.float32), crop, target="ipf", method="gradcam", layer="layer4", unit="logits")


def _random_map(rng: np.random.Generator, crop: Crop = CROP) -> Explanation:
    return _explanation(np.maximum(rng.normal(size=(6, 8)), 0) + 1e-3, crop)


def _blobs(rng: np.random.Generator, share: float = 0.15, shape: tuple[int, int] = SHAPE) -> Mask:
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    return np.asarray(noise > np.quantile(noise, 1 - share))


def _rectangle(top: int, bottom: int, left: int, right: int, shape: tuple[int, int] = SHAPE) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


CROP_MASK = _rectangle(6, 54, 8, 72)
LUNGS = Lungs(_rectangle(10, 50, 12, 68), middle=40.0)


def _area(mask: Mask) -> list[OnSlice]:
    return [Annotation(mask, SAID)]


def _one_hot(row: int, column: int) -> Explanation:
    cells = np.zeros((6, 8))
    cells[row, column] = 2.0
    return _explanation(cells)


def _scaled(explanation: Explanation) -> npt.NDArray[np.float32]:
    heatmap = explanation.heatmap()
    return heatmap / heatmap.max()


# --- each formula against another way to it


@unhurried
@given(seeds)
def test_mass_and_enrichment_are_the_ratios_of_their_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    explanation, mask = _random_map(rng), _blobs(rng) & LUNGS.mask
    found = agree(explanation, LUNGS, _area(mask), EACH_MM)
    heatmap = explanation.heatmap().astype(float)
    assert found.mass == pytest.approx(sum(heatmap[mask]) / heatmap.sum())
    assert found.enrichment == pytest.approx(found.mass / (mask.sum() / LUNGS.mask.sum()))
    assert found.pointing_chance == found.rank_chance == mask.sum() / LUNGS.mask.sum()


@unhurried
@given(seeds)
def test_the_peak_hits_where_the_first_maximum_lies(seed: int) -> None:
    rng = np.random.default_rng(seed)
    explanation, mask = _random_map(rng), _blobs(rng, 0.3)
    peak = explanation.peak_xy()
    assert peak is not None
    found = agree(explanation, LUNGS, _area(mask), None)
    assert found.pointing_hit == mask[peak[1], peak[0]]
    everywhere = np.argwhere(explanation.heatmap() == explanation.heatmap().max())
    assert found.pointing_hit_any_tie == any(mask[row, column] for row, column in everywhere)


def test_one_of_several_equal_maxima_may_hit_where_the_first_misses() -> None:
    cells = np.zeros((6, 8))
    cells[0, 0] = cells[5, 7] = 1.0
    found = agree(_explanation(cells), LUNGS, _area(_rectangle(49, 54, 66, 72)), None)
    assert found.pointing_hit is False
    assert found.pointing_hit_any_tie is True


@unhurried
@given(seeds, st.booleans())
def test_rank_accuracy_is_what_a_stable_sort_of_all_pixels_gives(seed: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 3, (6, 8)).astype(float) if coarse else rng.random((6, 8))
    assume(cells.max() > 0)
    explanation, mask = _explanation(cells), _blobs(rng, 0.4)
    values = explanation.heatmap().ravel().tolist()
    order = sorted(range(mask.size), key=lambda index: (-values[index], index))
    top = order[: int(mask.sum())]
    found = agree(explanation, LUNGS, _area(mask), None)
    assert found.rank_accuracy == pytest.approx(mask.ravel()[top].mean())


@unhurried
@given(seeds)
def test_the_curve_is_what_counting_pixels_at_every_threshold_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    explanation, mask = _random_map(rng), _blobs(rng)
    found = agree(explanation, LUNGS, _area(mask), None)
    assert found.curve is not None
    for threshold, iou, dice in zip(THRESHOLDS, found.curve.iou, found.curve.dice, strict=True):
        region = _scaled(explanation) >= np.float32(threshold)
        assert iou == (region & mask).sum() / (region | mask).sum()
        assert dice == 2 * (region & mask).sum() / (region.sum() + mask.sum())
    assert found.iou_at_half == found.curve.iou[49]
    assert found.dice_at_half == found.curve.dice[49]
    assert found.curve.thresholds[49] == 0.5


@unhurried
@given(seeds)
def test_iou_is_dice_over_two_minus_dice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = agree(_random_map(rng), LUNGS, _area(_blobs(rng)), None)
    assert found.curve is not None
    np.testing.assert_allclose(found.curve.iou, found.curve.dice / (2 - found.curve.dice), atol=1e-12)


@unhurried
@given(seeds)
def test_overlap_and_hausdorff_distance_do_not_tell_the_map_from_the_annotation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = _blobs(rng, 0.1), _blobs(rng, 0.2)
    assert overlap(first, second) == overlap(second, first)
    assert hausdorff_mm(first, second, WIDE) == hausdorff_mm(second, first, WIDE)


def test_a_region_agrees_with_itself_and_two_apart_do_not_overlap() -> None:
    one, other = _rectangle(10, 20, 10, 20), _rectangle(30, 40, 30, 40)
    same, apart = overlap(one, one), overlap(one, other)
    assert same is not None
    assert (same.iou, same.dice) == (1.0, 1.0)
    assert apart is not None
    assert (apart.iou, apart.dice) == (0.0, 0.0)


def _between_class_variance(values: npt.NDArray[np.floating], threshold: float) -> float:
    low, high = values[values < threshold], values[values >= threshold]
    if not len(low) or not len(high):
        return -1.0
    middles = [(np.minimum(np.floor(side * 256), 255) + 0.5).mean() for side in (low, high)]
    return float(len(low)) * len(high) * (middles[0] - middles[1]) ** 2


@unhurried
@given(seeds)
def test_no_threshold_separates_better_than_otsus(seed: int) -> None:
    values = np.random.default_rng(seed).beta(0.4, 0.9, 300).astype(np.float32)
    found = otsu_threshold(values)
    assert found is not None
    best = max(_between_class_variance(values, step / 256) for step in range(1, 256))
    assert _between_class_variance(values, found) == pytest.approx(best)


def test_values_of_one_bin_have_no_otsu_threshold() -> None:
    assert otsu_threshold(np.ones(10, np.float32)) is None
    uniform = agree(_explanation(np.ones((6, 8))), LUNGS, _area(LUNGS.mask), None)
    assert uniform.otsu is None
    assert uniform.iou_at_otsu is None
    assert uniform.iou_at_half is not None


@unhurried
@given(seeds)
def test_overlap_at_otsus_threshold_is_that_of_the_pixels_above_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    explanation, mask = _random_map(rng), _blobs(rng)
    found = agree(explanation, LUNGS, _area(mask), None)
    seen = _scaled(explanation)[6:54, 8:72]
    assert found.otsu == otsu_threshold(seen)
    region = _scaled(explanation) >= np.float32(found.otsu)
    assert found.iou_at_otsu == (region & mask).sum() / (region | mask).sum()
    assert found.dice_at_otsu == 2 * (region & mask).sum() / (region.sum() + mask.sum())


@unhurried
@given(seeds, st.booleans())
def test_auroc_and_average_precision_are_scikit_learns_inside_the_lungs(seed: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 3, (6, 8)).astype(float) if coarse else rng.random((6, 8))
    assume(cells.max() > 0)
    explanation, mask = _explanation(cells), _blobs(rng) & LUNGS.mask
    assume(mask.any())
    found = agree(explanation, LUNGS, _area(mask), None)
    scores, truth = explanation.heatmap()[LUNGS.mask], mask[LUNGS.mask]
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores))
    assert found.average_precision == pytest.approx(average_precision_score(truth, scores))
    assert found.average_precision_chance == truth.mean()


def test_an_annotation_of_the_whole_lung_has_no_ranking_inside_it() -> None:
    found = agree(_random_map(np.random.default_rng(0)), LUNGS, _area(LUNGS.mask), None)
    assert found.auroc is None
    assert found.average_precision is None
    assert found.mass is not None


@unhurried
@given(seeds)
def test_the_overlap_of_cells_is_that_of_an_annotation_drawn_in_whole_cells(seed: int) -> None:
    """Where M is a union of cells, pooling loses nothing: the cells' overlap counts cells."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((6, 8)) < 0.3
    assume(drawn.any())
    mask = np.zeros(SHAPE, np.bool_)
    mask[6:54, 8:72] = np.kron(drawn, np.ones((8, 8))) > 0
    explanation = _random_map(rng)
    region = explanation.cells / explanation.cells.max() >= 0.5
    found = agree(explanation, LUNGS, _area(mask), None)
    assert found.iou_cells == (region & drawn).sum() / (region | drawn).sum()
    assert found.dice_cells == 2 * (region & drawn).sum() / (region.sum() + drawn.sum())


def test_a_cell_belongs_to_the_annotation_from_half_of_it_on() -> None:
    half, less = _rectangle(6, 10, 8, 16), _rectangle(6, 9, 8, 16)
    assert agree(_one_hot(0, 0), LUNGS, _area(half), None).iou_cells == 1.0
    assert agree(_one_hot(0, 0), LUNGS, _area(less), None).iou_cells is None


def test_cells_beyond_the_slice_neither_count_nor_set_the_scale() -> None:
    crop = Crop(-16, 0, 64, 48, INPUT, (48, 80))
    cells = np.zeros((6, 8))
    cells[2, 0], cells[2, 4] = 100.0, 1.0
    mask = _rectangle(16, 24, 16, 24, (48, 80))
    found = agree(_explanation(cells, crop), Lungs(mask | _rectangle(0, 48, 40, 48, (48, 80))), _area(mask), None)
    assert found.iou_cells == 1.0


# --- lesions


@unhurried
@given(seeds, st.sampled_from([0.2, 0.5, 0.8]))
def test_lesions_and_false_regions_are_what_labelling_by_scipy_gives(seed: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    explanation, mask = _random_map(rng), _blobs(rng)
    found = agree(explanation, LUNGS, _area(mask), WIDE, t)
    region = _scaled(explanation) >= np.float32(t)
    labels, count = ndimage.label(mask, EIGHT)
    lesions = [labels == label for label in range(1, count + 1) if (labels == label).sum() * 0.75 * 1.25 >= LEAST_LESION_MM2]
    hits = sum(bool((lesion & region).any()) for lesion in lesions)
    regions, count = ndimage.label(region, EIGHT)
    false = sum(not (mask & (regions == label)).any() for label in range(1, count + 1))
    assert found.lesions == len(lesions)
    assert found.lesion_recall == (hits / len(lesions) if lesions else None)
    assert found.false_regions == false
    assert found.froc is not None
    assert [point.threshold for point in found.froc] == list(FROC_THRESHOLDS)
    (same,) = [point for point in found.froc if point.threshold == t]
    assert (same.found, same.false_regions) == (hits, false)


def test_pieces_that_touch_at_a_corner_are_one_lesion() -> None:
    mask = _rectangle(10, 14, 20, 24) | _rectangle(14, 18, 24, 28)
    assert agree(_one_hot(0, 0), LUNGS, _area(mask), EACH_MM).lesions == 1


def test_regions_of_the_map_that_touch_at_a_corner_are_one_region() -> None:
    cells = np.zeros((48, 64))  # a cell for every pixel
    cells[10, 10] = cells[11, 11] = 1.0
    assert agree(_explanation(cells), LUNGS, _area(_rectangle(40, 46, 60, 66)), EACH_MM).false_regions == 1


def test_a_lesion_has_at_least_ten_square_millimeters() -> None:
    mask = _rectangle(10, 12, 20, 25) | _rectangle(30, 33, 40, 43)
    found = agree(_one_hot(0, 0), LUNGS, _area(mask), EACH_MM)
    assert found.lesions == 1
    assert found.smallest_lesion_mm2 == 10.0
    assert agree(_one_hot(0, 0), LUNGS, _area(mask), PixelSpacing(0.5, 0.5)).lesions == 0


def test_without_pixel_spacing_every_piece_is_a_lesion_and_the_result_says_so() -> None:
    mask = _rectangle(10, 12, 20, 25) | _rectangle(30, 31, 40, 41)
    found = agree(_one_hot(0, 0), LUNGS, _area(mask), None)
    assert found.lesions == 2
    assert found.smallest_lesion_mm2 is None


def test_specks_alone_are_no_lesions_to_recall() -> None:
    found = agree(_one_hot(0, 0), LUNGS, _area(_rectangle(30, 31, 40, 41)), EACH_MM)
    assert found.lesions == 0
    assert found.lesion_recall is None


def test_a_region_on_a_speck_is_neither_found_nor_false() -> None:
    speck = _rectangle(10, 11, 12, 13)  # the middle of cell (0, 0)
    lesion = _rectangle(40, 46, 60, 66)
    assert agree(_one_hot(0, 0), LUNGS, _area(lesion), EACH_MM).false_regions == 1
    found = agree(_one_hot(0, 0), LUNGS, _area(lesion | speck), EACH_MM)
    assert found.false_regions == 0
    assert found.lesion_recall == 0.0


# --- millimeters


@unhurried
@given(seeds, st.sampled_from([EACH_MM, WIDE, PixelSpacing(0.5, 0.75), PixelSpacing(2.5, 0.25)]))
def test_distances_are_scipys_for_pixels_that_are_not_square(seed: int, spacing: PixelSpacing) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((23, 31)) < 0.02
    assume(mask.any())
    expected = ndimage.distance_transform_edt(~mask, sampling=(spacing.row_mm, spacing.column_mm))
    everywhere = np.argwhere(np.ones_like(mask))
    np.testing.assert_allclose(distances_mm(everywhere, mask, spacing), expected.ravel(), atol=1e-9)
    limit = float(rng.uniform(0.5, 12))
    np.testing.assert_array_equal(within_mm(mask, limit, spacing), expected <= limit)


def test_a_distance_of_exactly_the_limit_is_within_it() -> None:
    mask = np.zeros((1, 40), np.bool_)
    mask[0, 0] = True
    assert within_mm(mask, 0.7 * 3, PixelSpacing(0.7, 0.7)).sum() == 4
    assert within_mm(mask, 10.0, PixelSpacing(0.1, 0.1)).sum() == 40
    assert within_mm(mask, 0.0, EACH_MM).sum() == 1


def test_from_an_empty_mask_everything_is_infinitely_far() -> None:
    nothing = np.zeros((5, 5), np.bool_)
    assert distances_mm(np.array([[1, 2]]), nothing, EACH_MM).tolist() == [math.inf]
    assert not within_mm(nothing, 100.0, EACH_MM).any()


@unhurried
@given(seeds)
def test_the_boundary_is_the_mask_less_its_erosion(seed: int) -> None:
    mask = _blobs(np.random.default_rng(seed), 0.4)
    np.testing.assert_array_equal(boundary(mask), mask & ~ndimage.binary_erosion(mask))


@unhurried
@given(seeds, st.sampled_from([95.0, 100.0]))
def test_the_hausdorff_distance_is_that_of_nearest_neighbors_in_a_tree(seed: int, percentile: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = _blobs(rng, 0.1), _blobs(rng, 0.2)
    one, other = (np.argwhere(mask & ~ndimage.binary_erosion(mask)) * (WIDE.row_mm, WIDE.column_mm) for mask in (first, second))
    there, back = cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]
    expected = max(np.percentile(there, percentile), np.percentile(back, percentile))
    assert hausdorff_mm(first, second, WIDE, percentile) == pytest.approx(expected)


def test_hd95_is_that_of_the_map_above_t() -> None:
    rng = np.random.default_rng(5)
    explanation, mask = _random_map(rng), _blobs(rng)
    for t in (0.3, 0.5):
        expected = hausdorff_mm(_scaled(explanation) >= np.float32(t), mask, WIDE)
        assert agree(explanation, LUNGS, _area(mask), WIDE, t).hd95_mm == expected


@unhurried
@given(seeds)
def test_the_distance_is_from_the_peak_to_the_nearest_annotated_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    explanation, mask = _random_map(rng), _blobs(rng, 0.05)
    peak = explanation.peak_xy()
    assert peak is not None
    expected = min(
        math.hypot((row - peak[1]) * WIDE.row_mm, (column - peak[0]) * WIDE.column_mm) for row, column in np.argwhere(mask)
    )
    found = agree(explanation, LUNGS, _area(mask), WIDE)
    assert found.distance_mm == pytest.approx(expected)
    assert (found.distance_mm == 0) == found.pointing_hit


def test_without_pixel_spacing_there_are_no_millimeters() -> None:
    found = agree(_one_hot(1, 1), LUNGS, _area(_blobs(np.random.default_rng(0))), None)
    assert found.distance_mm is None
    assert found.hd95_mm is None
    assert found.cell_mm is None
    assert agree(_one_hot(1, 1), LUNGS, _area(LUNGS.mask), WIDE).cell_mm == (10.0, 6.0)


# --- laws


def _numbers(found: Agreement) -> dict[str, object]:
    values = {field.name: getattr(found, field.name) for field in fields(found) if field.name != "curve"}
    if found.curve is not None:
        values |= {"curve iou": found.curve.iou.tolist(), "curve dice": found.curve.dice.tolist()}
    return values


def _assert_same(first: Agreement, second: Agreement) -> None:
    one, other = _numbers(first), _numbers(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value == (pytest.approx(other[name]) if isinstance(value, float | list) else other[name]), name


@unhurried
@given(seeds, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_an_empty_border_changes_nothing(seed: int, above: int, below: int, left: int, right: int) -> None:
    rng = np.random.default_rng(seed)
    room = (above, below), (left, right)
    shape = SHAPE[0] + above + below, SHAPE[1] + left + right
    wider = Crop(CROP.left + left, CROP.top + above, CROP.width, CROP.height, INPUT, shape)
    cells = rng.random((6, 8)) + 0.01
    mask = _blobs(rng) & LUNGS.mask
    point = PointAnnotation(rng.uniform(12, 68), rng.uniform(10, 50), SAID)
    moved = PointAnnotation(point.x + left, point.y + above, SAID)
    before = agree(_explanation(cells), LUNGS, [*_area(mask), point], WIDE)
    after = agree(_explanation(cells, wider), Lungs(np.pad(LUNGS.mask, room)), [*_area(np.pad(mask, room)), moved], WIDE)
    _assert_same(before, after)


@unhurried
@given(seeds, st.sampled_from([(1, -1), (-1, 1), (-1, -1)]))
def test_flipping_the_slice_changes_no_number(seed: int, flip: tuple[int, int]) -> None:
    """With a cell for every pixel, so that the map itself flips to the last bit and has no ties."""
    rng = np.random.default_rng(seed)
    down, across = flip
    cells = ndimage.gaussian_filter(rng.random((48, 64)), 3)
    mask = _blobs(rng) & CROP_MASK
    before = agree(_explanation(cells), LUNGS, _area(mask), WIDE)
    flipped = Lungs(LUNGS.mask[::down, ::across])
    after = agree(_explanation(cells[::down, ::across]), flipped, _area(mask[::down, ::across]), WIDE)
    _assert_same(before, after)


@unhurried
@given(seeds)
def test_a_map_that_is_uniform_over_the_lungs_and_nothing_else_has_an_enrichment_of_one(seed: int) -> None:
    lungs = Lungs(CROP_MASK)  # the model saw the lungs, and only them
    mask = _blobs(np.random.default_rng(seed)) & lungs.mask
    found = agree(_explanation(np.full((6, 8), 0.3)), lungs, _area(mask), None)
    assert found.enrichment == pytest.approx(1)
    assert found.auroc == pytest.approx(0.5)
    assert found.average_precision == pytest.approx(found.average_precision_chance)


@unhurried
@given(seeds)
def test_a_map_that_is_uniform_over_the_slice_enriches_by_the_lungs_share_of_it(seed: int) -> None:
    whole = Crop(0, 0, 80, 60, INPUT, SHAPE)
    mask = _blobs(np.random.default_rng(seed)) & LUNGS.mask
    found = agree(_explanation(np.ones((6, 8)), whole), LUNGS, _area(mask), None)
    assert found.enrichment == pytest.approx(LUNGS.mask.mean())


@unhurried
@given(seeds, st.floats(0.01, 1000))
def test_the_scale_of_the_map_does_not_matter(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    cells, mask = rng.random((6, 8)) + 0.01, _blobs(rng) & LUNGS.mask
    before = agree(_explanation(cells), LUNGS, _area(mask), WIDE)
    after = agree(
        _explanation(cells.astype(np.float32) * np.float32(2.0) ** round(math.log2(factor))), LUNGS, _area(mask), WIDE
    )
    _assert_same(before, after)


def test_several_masks_count_as_their_union() -> None:
    rng = np.random.default_rng(2)
    one, other, explanation = _blobs(rng), _blobs(rng), _random_map(rng)
    together = agree(explanation, LUNGS, [*_area(one), *_area(other)], WIDE)
    _assert_same(together, agree(explanation, LUNGS, _area(one | other), WIDE))


# --- points and boxes


def _point(x: float, y: float) -> PointAnnotation:
    return PointAnnotation(x, y, SAID)


def _box(left: float, top: float, right: float, bottom: float) -> BoxAnnotation:
    return BoxAnnotation(left, top, right, bottom, SAID)


def test_a_point_is_hit_within_half_the_diagonal_of_a_cell() -> None:
    explanation = _one_hot(2, 3)  # cell of 8 x 8 pixels; its middle is (8 + 28, 6 + 20)
    peak = explanation.peak_xy()
    assert peak is not None
    x, y = peak[0] + 0.5, peak[1] + 0.5
    half_diagonal = math.hypot(8, 8) / 2
    assert agree(explanation, LUNGS, [_point(x + half_diagonal - 0.01, y)], EACH_MM).pointing_hit is True
    assert agree(explanation, LUNGS, [_point(x + half_diagonal + 0.01, y)], EACH_MM).pointing_hit is False


@unhurried
# Half a pixel off the cell's border: its middle lies between four pixels, of which rounding makes one the highest.
@given(st.integers(0, 5), st.integers(0, 7), st.floats(0.6, 7.4), st.floats(0.6, 7.4), st.sampled_from([None, WIDE]))
def test_a_map_whose_best_cell_holds_the_point_hits_it(
    row: int, column: int, x: float, y: float, spacing: PixelSpacing | None
) -> None:
    found = agree(_one_hot(row, column), LUNGS, [_point(8 + 8 * column + x, 6 + 8 * row + y)], spacing)
    assert found.pointing_hit_any_tie is True


def test_chance_for_a_point_is_the_share_of_the_lungs_around_it() -> None:
    found = agree(_one_hot(0, 0), LUNGS, [_point(40, 30)], EACH_MM)
    rows, columns = np.mgrid[0:60, 0:80] + 0.5
    near = np.hypot(columns - 40, rows - 30) <= math.hypot(8, 8) / 2
    assert found.pointing_chance == (near & LUNGS.mask).sum() / LUNGS.mask.sum()


def test_a_box_is_hit_if_the_peak_lies_in_it() -> None:
    explanation = _one_hot(2, 3)
    peak = explanation.peak_xy()
    assert peak is not None
    x, y = peak[0] + 0.5, peak[1] + 0.5
    assert agree(explanation, LUNGS, [_box(x - 0.1, y - 5, x + 3, y + 5)], None).pointing_hit is True
    assert agree(explanation, LUNGS, [_box(x + 0.1, y - 5, x + 3, y + 5)], None).pointing_hit is False


def test_chance_for_a_box_is_the_share_of_the_lungs_in_it() -> None:
    found = agree(_one_hot(0, 0), LUNGS, [_box(20, 20, 30, 24)], None)
    assert found.pointing_chance == 10 * 4 / LUNGS.mask.sum()


def test_a_box_smaller_than_a_pixel_is_the_pixel_that_it_lies_in() -> None:
    explanation = _one_hot(2, 3)
    peak = explanation.peak_xy()
    assert peak is not None
    x, y = peak
    assert agree(explanation, LUNGS, [_box(x + 0.6, y + 0.6, x + 0.9, y + 0.9)], None).pointing_hit is True


def test_points_and_boxes_have_no_overlap_with_a_map() -> None:
    found = agree(_one_hot(2, 3), LUNGS, [_point(40, 30), _box(20, 20, 30, 24)], EACH_MM)
    for name in (
        "mass", "enrichment", "rank_accuracy", "rank_chance", "iou_at_half", "dice_at_half", "iou_at_otsu", "dice_at_otsu",
        "curve", "iou_cells", "dice_cells", "auroc", "average_precision", "average_precision_chance", "hd95_mm",
    ):  # fmt: skip
        assert getattr(found, name) is None, name
    assert found.pointing_hit is not None
    assert found.lesions == 2


def test_points_and_boxes_are_lesions_to_find() -> None:
    explanation = _one_hot(2, 3)
    there, elsewhere = _point(36, 26), _box(60, 40, 64, 44)
    found = agree(explanation, LUNGS, [there, elsewhere], EACH_MM)
    assert found.lesion_recall == 0.5
    assert found.false_regions == 0
    assert agree(explanation, LUNGS, [elsewhere], EACH_MM).false_regions == 1


def test_a_point_on_an_annotated_area_is_not_a_second_lesion() -> None:
    area = _rectangle(20, 30, 30, 40)
    assert agree(_one_hot(2, 3), LUNGS, [*_area(area), _point(35, 25)], EACH_MM).lesions == 1
    assert agree(_one_hot(2, 3), LUNGS, [*_area(area), _point(60, 45)], EACH_MM).lesions == 2


def test_a_mixture_is_hit_if_any_of_it_is_and_overlaps_are_of_the_areas_alone() -> None:
    explanation, area = _one_hot(2, 3), _rectangle(40, 50, 55, 65)
    alone = agree(explanation, LUNGS, _area(area), EACH_MM)
    mixed = agree(explanation, LUNGS, [*_area(area), _point(36, 26)], EACH_MM)
    assert alone.pointing_hit is False
    assert mixed.pointing_hit is True
    assert mixed.distance_mm is not None
    assert alone.distance_mm is not None
    assert mixed.distance_mm < 1 < alone.distance_mm
    for name in ("mass", "enrichment", "rank_accuracy", "iou_at_half", "auroc", "iou_cells", "hd95_mm"):
        assert getattr(mixed, name) == getattr(alone, name), name


def test_a_mark_beyond_the_slice_is_a_miss_and_no_lesion() -> None:
    for mark in (_point(-500, 20), _box(200, 10, 220, 30)):
        found = agree(_one_hot(2, 3), LUNGS, [mark], EACH_MM)
        assert found.annotated is True
        assert found.pointing_hit is False
        assert found.pointing_chance == 0.0
        assert found.lesions == 0
        assert found.lesion_recall is None
    assert agree(_one_hot(2, 3), LUNGS, [_box(200, 10, 220, 30)], EACH_MM).distance_mm is None


def test_the_distance_to_a_point_is_to_the_point_itself() -> None:
    explanation = _one_hot(2, 3)
    peak = explanation.peak_xy()
    assert peak is not None
    found = agree(explanation, LUNGS, [_point(peak[0] + 0.5 + 4, peak[1] + 0.5)], WIDE)
    assert found.distance_mm == pytest.approx(4 * 1.25)


# --- when there is nothing to say

OVERLAPS = (
    "mass", "enrichment", "rank_accuracy", "iou_at_half", "dice_at_half", "otsu", "iou_at_otsu", "dice_at_otsu", "curve",
    "iou_cells", "dice_cells", "auroc", "average_precision", "average_precision_chance", "distance_mm", "hd95_mm",
)  # fmt: skip
POINTING = ("pointing_hit", "pointing_hit_any_tie", "pointing_chance")
LESIONS = ("lesions", "smallest_lesion_mm2", "lesion_recall", "false_regions", "froc")
EMPTY = np.zeros(SHAPE, np.bool_)
ON_LUNGS = ("pointing_chance", "enrichment", "rank_chance", "auroc", "average_precision", "average_precision_chance")


def test_without_an_annotation_nothing_is_compared() -> None:
    found = agree(_one_hot(2, 3), LUNGS, [], EACH_MM)
    assert found.annotated is None
    for name in (*OVERLAPS, *POINTING, *LESIONS, "rank_chance"):
        assert getattr(found, name) is None, name


def test_an_empty_annotation_has_no_overlap_and_nothing_to_hit() -> None:
    found = agree(_one_hot(2, 3), LUNGS, _area(EMPTY), EACH_MM)
    assert found.annotated is False
    for name in (*OVERLAPS, *POINTING, "rank_chance", "lesion_recall"):
        assert getattr(found, name) is None, name


def test_where_a_reader_found_nothing_every_region_is_false() -> None:
    cells = np.zeros((6, 8))
    cells[1, 1] = cells[4, 6] = 1.0
    found = agree(_explanation(cells), LUNGS, _area(EMPTY), EACH_MM)
    assert found.lesions == 0
    assert found.false_regions == 2


def test_a_map_without_positive_evidence_misses_and_has_no_overlap() -> None:
    found = agree(_explanation(np.zeros((6, 8))), LUNGS, _area(_rectangle(20, 30, 30, 40)), EACH_MM)
    assert found.no_evidence
    assert found.pointing_hit is False
    assert found.pointing_hit_any_tie is False
    for name in OVERLAPS:
        assert getattr(found, name) is None, name
    assert found.pointing_chance == 100 / LUNGS.mask.sum()


def test_a_map_without_positive_evidence_finds_no_lesion_and_raises_no_false_alarm() -> None:
    found = agree(_explanation(np.zeros((6, 8))), LUNGS, _area(_rectangle(20, 30, 30, 40)), EACH_MM)
    assert found.lesion_recall == 0.0
    assert found.false_regions == 0
    assert found.froc is not None
    assert all((point.found, point.false_regions) == (0, 0) for point in found.froc)


def test_an_empty_map_and_an_empty_annotation_do_not_agree() -> None:
    found = agree(_explanation(np.zeros((6, 8))), LUNGS, _area(EMPTY), EACH_MM)
    for name in (*OVERLAPS, *POINTING, "rank_chance", "lesion_recall"):
        assert getattr(found, name) is None, name
    assert overlap(EMPTY, EMPTY) is None
    assert hausdorff_mm(EMPTY, EMPTY, EACH_MM) is None


def test_a_map_whose_crop_misses_the_slice_has_no_positive_evidence() -> None:
    crop = Crop(500, 500, 64, 48, INPUT, SHAPE)
    found = agree(_explanation(np.ones((6, 8)), crop), LUNGS, _area(_rectangle(20, 30, 30, 40)), EACH_MM)
    assert found.no_evidence
    assert found.pointing_hit is False


def test_a_finite_region_is_infinitely_far_from_nothing_which_is_no_number() -> None:
    assert hausdorff_mm(EMPTY, LUNGS.mask, EACH_MM) is None
    assert hausdorff_mm(LUNGS.mask, EMPTY, EACH_MM) is None


@pytest.mark.parametrize(
    ("lungs", "word"),
    [
        (Lungs(EMPTY, problem="Too little lung was found on this slice."), "Too little lung"),
        (Lungs(LUNGS.mask, doubt="One lung is missing."), "One lung is missing"),
        (Lungs(EMPTY), "empty"),
        (Lungs(_rectangle(40, 50, 12, 68)), "100 % of the annotation lies outside the lung mask"),
    ],
    ids=["problem", "doubt", "empty", "annotation outside"],
)
def test_what_rests_on_a_lung_mask_that_failed_is_not_given_and_the_reason_is(lungs: Lungs, word: str) -> None:
    mask = _rectangle(20, 30, 30, 40)
    found = agree(_one_hot(2, 3), lungs, _area(mask), EACH_MM)
    sound = agree(_one_hot(2, 3), LUNGS, _area(mask), EACH_MM)
    assert found.lung_reason is not None
    assert word in found.lung_reason
    for name in ON_LUNGS:
        assert getattr(found, name) is None, name
        assert getattr(sound, name) is not None, name
    for name in (
        "pointing_hit",
        "mass",
        "rank_accuracy",
        "iou_at_half",
        "iou_cells",
        "lesion_recall",
        "hd95_mm",
        "distance_mm",
    ):
        assert getattr(found, name) == getattr(sound, name), name


@pytest.mark.parametrize(("rows", "holds"), [(7, True), (6, False)])
def test_a_part_of_the_annotation_may_lie_outside_the_lungs(rows: int, holds: bool) -> None:
    mask = _rectangle(50 - rows, 60 - rows, 30, 40)  # `rows` of its 10 rows are lung
    found = agree(_one_hot(2, 3), LUNGS, _area(mask), EACH_MM)
    assert MOST_OUTSIDE_LUNG == 0.3
    assert (found.lung_reason is None) == holds


def test_an_annotation_is_not_clipped_to_the_lungs() -> None:
    mask = _rectangle(43, 53, 30, 40)  # 3 of 10 rows outside
    explanation = _random_map(np.random.default_rng(3))
    found = agree(explanation, LUNGS, _area(mask), EACH_MM)
    heatmap = explanation.heatmap().astype(float)
    assert found.mass == pytest.approx(heatmap[mask].sum() / heatmap.sum())
    assert found.rank_chance == 100 / LUNGS.mask.sum()
    assert found.pointing_chance == found.average_precision_chance == 70 / LUNGS.mask.sum()


@pytest.mark.parametrize("t", [0.0, -0.5, 1.01, math.nan])
def test_a_threshold_outside_its_range_is_refused(t: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        agree(_one_hot(2, 3), LUNGS, [], None, t)


def test_masks_of_another_slice_are_refused() -> None:
    with pytest.raises(ValueError, match="annotation of"):
        agree(_one_hot(2, 3), LUNGS, _area(np.ones((5, 5), np.bool_)), None)
    with pytest.raises(ValueError, match="lung mask of"):
        agree(_one_hot(2, 3), Lungs(np.ones((5, 5), np.bool_)), [], None)


def test_points_and_boxes_are_no_area() -> None:
    assert annotated_area([_point(3, 4), _box(1, 2, 3, 4)], SHAPE) is None
