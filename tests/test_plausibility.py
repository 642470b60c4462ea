"""Where evidence lies: the budget that adds up, the anatomy of a map, and the series with its worst slice first."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ipfvision import dicom
from ipfvision.core.agreement import agree
from ipfvision.core.annotation import Annotation, BoxAnnotation, Finding, OnSlice, PointAnnotation, Said
from ipfvision.core.evidence import EvidenceBudget, evidence_budget
from ipfvision.core.findings import Decision, Explanation, Prediction, SignedEvidence
from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import Lungs, find_lungs
from ipfvision.core.plausibility import Plausibility, plausibility, pleural_rim, thirds
from ipfvision.core.profile import Disagreement, ProfileRow, worst_first
from ipfvision.core.slice import PixelSpacing, Plane, Slice, grey
from ipfvision.nn.classify import run
from ipfvision.nn.explain import signed_evidence
from ipfvision.nn.network import load, to_tensor
from ipfvision.nn.preprocess import prepare
from ipfvision.workflow.intake import take_in_paths
from ipfvision.workflow.reading import DEFAULT_MODEL, Reader
from ipfvision.workflow.samples import list_samples, sample_annotations

Mask = npt.NDArray[np.bool_]

SAID = Said(Finding.HONEYCOMBING, "synthetic")
SHAPE = (60, 80)
INPUT = (48, 64)
CROP = Crop(8, 6, 64, 48, INPUT, SHAPE)
EACH_MM = PixelSpacing(1.0, 1.0)
AXIAL = Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
PRONE = Plane((0.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
SAGITTAL = Plane((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))

unhurried = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)
crops = st.builds(
    Crop,
    left=st.integers(-60, 60),
    top=st.integers(-50, 50),
    width=st.integers(5, 150),
    height=st.integers(5, 120),
    input_shape=st.just(INPUT),
    slice_shape=st.just(SHAPE),
)


def _rectangle(top: int, bottom: int, left: int, right: int, shape: tuple[int, int] = SHAPE) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


TWO = _rectangle(10, 50, 10, 36) | _rectangle(10, 50, 44, 70)
LUNGS = Lungs(TWO, middle=40.0)
EMPTY = np.zeros(SHAPE, np.bool_)


def _explanation(cells: npt.NDArray[np.floating], crop: Crop = CROP) -> Explanation:
    return Explanation(cells.astype(np.float32), crop, target="ipf", method="gradcam", layer="layer4", unit="logits")


def _total(budget: EvidenceBudget) -> float:
    return (budget.annotated or 0.0) + budget.other_lung + budget.outside_lung + budget.padding + budget.bias


# --- the evidence budget


@unhurried
@given(crops, seeds, st.booleans())
def test_the_budget_adds_up_to_the_margin_wherever_the_crop_lies(crop: Crop, seed: int, annotated: bool) -> None:
    rng = np.random.default_rng(seed)
    evidence = SignedEvidence(rng.normal(scale=30, size=(6, 8)).astype(np.float32), float(rng.normal()), crop)
    annotations: list[OnSlice] = [Annotation(rng.random(SHAPE) < 0.3, SAID)] if annotated else []
    budget = evidence_budget(evidence, Lungs(rng.random(SHAPE) < 0.5), annotations)
    assert _total(budget) == pytest.approx(budget.margin, abs=1e-9)
    assert (budget.annotated is not None) == annotated


def test_each_part_of_the_budget_is_the_sum_over_its_cells() -> None:
    """Cells of 8 x 8 pixels, regions drawn in whole cells, a column of cells beyond the slice: sums by hand."""
    crop = Crop(-8, 0, 64, 48, INPUT, (48, 56))
    cells = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    lungs = Lungs(_rectangle(8, 40, 8, 48, (48, 56)))
    area = _rectangle(16, 24, 8, 16, (48, 56)) | _rectangle(40, 48, 0, 8, (48, 56))  # in the lung and outside it
    budget = evidence_budget(SignedEvidence(cells, 0.25, crop), lungs, [Annotation(area, SAID)])
    inside = float(cells[2, 2] + cells[5, 1])
    lung = float(cells[1:5, 2:7].sum() - cells[2, 2])
    assert budget.annotated == pytest.approx(inside / 48, abs=1e-6)
    assert budget.other_lung == pytest.approx(lung / 48, abs=1e-6)
    assert budget.padding == pytest.approx(float(cells[:, 0].sum()) / 48, abs=1e-6)
    assert budget.outside_lung == pytest.approx((float(cells[:, 1:].sum()) - inside - lung) / 48, abs=1e-6)
    assert budget.bias == 0.25


def _evidence(seed: int = 0) -> SignedEvidence:
    return SignedEvidence(np.random.default_rng(seed).normal(size=(6, 8)).astype(np.float32), 0.1, CROP)


@pytest.mark.parametrize(
    "annotations",
    [
        [],
        [Annotation(EMPTY, SAID)],
        [PointAnnotation(20, 20, SAID), BoxAnnotation(12, 12, 20, 20, SAID)],
    ],
    ids=["none", "empty", "points and boxes"],
)
def test_without_an_annotated_area_there_is_no_evidence_inside_it_and_the_rest_still_adds_up(
    annotations: list[OnSlice],
) -> None:
    budget = evidence_budget(_evidence(), LUNGS, annotations)
    assert budget.annotated is None
    assert _total(budget) == pytest.approx(budget.margin, abs=1e-9)


def test_a_crop_inside_the_slice_has_no_evidence_in_padding() -> None:
    assert evidence_budget(_evidence(), LUNGS).padding == pytest.approx(0, abs=1e-12)


def test_a_crop_beside_the_slice_has_all_its_evidence_in_padding() -> None:
    crop = Crop(200, 200, 64, 48, INPUT, SHAPE)
    budget = evidence_budget(SignedEvidence(np.ones((6, 8), np.float32), 0.5, crop), LUNGS)
    assert (budget.other_lung, budget.outside_lung, budget.padding) == (0.0, 0.0, 1.0)


def test_a_lung_mask_that_is_in_doubt_is_said_beside_the_budget_which_still_adds_up() -> None:
    budget = evidence_budget(_evidence(), Lungs(TWO, doubt="One lung is missing."))
    assert budget.lung_reason == "One lung is missing."
    assert _total(budget) == pytest.approx(budget.margin, abs=1e-9)


def test_a_budget_refuses_masks_of_another_slice() -> None:
    with pytest.raises(ValueError, match="lung mask of"):
        evidence_budget(_evidence(), Lungs(np.ones((5, 5), np.bool_)))
    with pytest.raises(ValueError, match="annotation of"):
        evidence_budget(_evidence(), LUNGS, [Annotation(np.ones((5, 5), np.bool_), SAID)])


def _assert_budget_is_the_margin(reader: Reader, scan: Slice, annotations: list[OnSlice]) -> EvidenceBudget:
    reading = reader.read(scan)
    assert reading.evidence is not None
    assert reading.prediction.margin is not None
    budget = evidence_budget(reading.evidence, reading.lungs, annotations)
    assert budget.margin == pytest.approx(reading.prediction.margin, abs=1e-4)
    assert _total(budget) == pytest.approx(reading.prediction.margin, abs=1e-4)
    return budget


def test_the_shipped_models_margin_on_its_samples_is_the_sum_of_its_parts() -> None:
    reader = Reader.open()
    samples = [sample for sample in list_samples() if sample.mask is not None][:3]
    assert samples
    for sample in samples:
        (series,) = take_in_paths([sample.path]).series
        budget = _assert_budget_is_the_margin(reader, series.slices[0], list(sample_annotations(sample)))
        assert budget.annotated is not None


def test_the_shipped_models_margin_on_real_slices_is_the_sum_of_its_parts(shared_data: Path) -> None:
    """Whole slices, and the same slices cut at the lungs' top and bottom, so that the model's input reaches beyond them."""
    model = load(DEFAULT_MODEL)
    files = sorted(shared_data.glob("lungpetctdx/*/*.dcm"))[10::25] + sorted(shared_data.glob("rtstruct/CT*.dcm"))[4::9]
    assert len(files) >= 4
    for file in files:
        (whole,) = dicom.read(file.read_bytes(), file.name)
        lungs = find_lungs(whole)
        assert lungs.problem is None, file
        _, top, _, height = lungs.bounds()
        for rows in (slice(None), slice(top, top + height)):
            mask = lungs.mask[rows]
            image = grey(whole, model.card.window)[rows]
            image, crop = prepare(image, Lungs(mask), model.card.input_shape, model.card.crop_margin)
            features, logits = run(model, to_tensor(image[None], model.card))
            evidence = signed_evidence(model, features, crop)
            noise = ndimage.gaussian_filter(np.random.default_rng(top).normal(size=mask.shape), 12)
            for annotations in ([], [Annotation(np.asarray(noise > 0.02), SAID)]):
                budget = evidence_budget(evidence, Lungs(mask), annotations)
                assert _total(budget) == pytest.approx(float(logits[0, 0] - logits[0, 1]), abs=1e-4)
                assert (budget.annotated is None) == (not annotations)
                if rows != slice(None):
                    assert abs(budget.padding) > 1e-6


# --- the anatomy of a map


@unhurried
@given(seeds, st.sampled_from([EACH_MM, PixelSpacing(0.75, 1.25), PixelSpacing(2.0, 0.5)]))
def test_shares_are_the_ratios_of_their_definition(seed: int, spacing: PixelSpacing) -> None:
    rng = np.random.default_rng(seed)
    explanation = _explanation(rng.random((6, 8)))
    found = plausibility(explanation, LUNGS, spacing, AXIAL)
    heatmap = explanation.heatmap().astype(float)
    to_pleura = ndimage.distance_transform_edt(TWO, sampling=(spacing.row_mm, spacing.column_mm))
    rim = TWO & (to_pleura <= 10)
    assert found.lung_mask == "ok"
    assert found.outside_lung_mass == pytest.approx(heatmap[~TWO].sum() / heatmap.sum())
    assert found.subpleural_share == pytest.approx(heatmap[rim].sum() / heatmap[TWO].sum())
    assert found.subpleural_chance == pytest.approx(rim.sum() / TWO.sum())
    assert found.right_share == pytest.approx(heatmap[:, :40][TWO[:, :40]].sum() / heatmap[TWO].sum())
    assert found.left_share == pytest.approx(heatmap[:, 40:][TWO[:, 40:]].sum() / heatmap[TWO].sum())


@unhurried
@given(seeds)
def test_the_pleural_rim_is_the_distance_transforms_also_for_lungs_at_the_slices_edge(seed: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 5)
    mask = np.asarray(noise > np.quantile(noise, 0.5))
    spacing = PixelSpacing(0.75, 1.25)
    expected = mask & (ndimage.distance_transform_edt(mask, sampling=(0.75, 1.25)) <= 10)
    np.testing.assert_array_equal(pleural_rim(Lungs(mask), spacing), expected)


def test_the_slices_own_edge_is_no_pleura() -> None:
    rim = pleural_rim(Lungs(_rectangle(0, 60, 0, 60)), EACH_MM)
    np.testing.assert_array_equal(rim, _rectangle(0, 60, 50, 60))


def test_a_map_on_the_images_left_is_on_the_patients_right() -> None:
    cells = np.zeros((6, 8))
    cells[2, 1] = 1.0
    for plane in (None, AXIAL):
        found = plausibility(_explanation(cells), LUNGS, None, plane)
        assert (found.left_share, found.right_share) == (0.0, 1.0)


def test_a_slice_shown_the_other_way_round_has_its_sides_exchanged() -> None:
    cells = np.zeros((6, 8))
    cells[2, 1] = 1.0
    found = plausibility(_explanation(cells), LUNGS, None, PRONE)
    assert (found.left_share, found.right_share) == (1.0, 0.0)


def test_a_sagittal_slice_has_no_sides() -> None:
    found = plausibility(_explanation(np.ones((6, 8))), LUNGS, None, SAGITTAL)
    assert found.left_share is None
    assert found.right_share is None
    assert found.outside_lung_mass is not None


def test_without_the_bodys_middle_the_sides_are_told_by_the_two_lungs() -> None:
    explanation = _explanation(np.random.default_rng(1).random((6, 8)))
    assert plausibility(explanation, Lungs(TWO), None) == plausibility(explanation, LUNGS, None)


def test_a_single_lung_without_the_bodys_middle_has_no_sides() -> None:
    speck = _rectangle(30, 32, 60, 62)
    for mask in (_rectangle(10, 50, 10, 36), _rectangle(10, 50, 10, 36) | speck):
        found = plausibility(_explanation(np.ones((6, 8))), Lungs(mask), None)
        assert found.left_share is None


def test_without_pixel_spacing_nothing_is_subpleural() -> None:
    found = plausibility(_explanation(np.ones((6, 8))), LUNGS, None)
    assert found.subpleural_share is None
    assert found.subpleural_chance is None
    assert found.outside_lung_mass is not None


def test_an_empty_map_lies_nowhere() -> None:
    assert plausibility(_explanation(np.zeros((6, 8))), LUNGS, EACH_MM) == Plausibility("ok")


def test_a_map_outside_the_lungs_has_no_shares_inside_them() -> None:
    lungs = Lungs(_rectangle(0, 5, 0, 20) | _rectangle(0, 5, 60, 80), middle=40.0)  # above the crop
    found = plausibility(_explanation(np.ones((6, 8))), lungs, EACH_MM)
    assert found.outside_lung_mass == 1.0
    assert found.subpleural_share is None
    assert found.left_share is None


@pytest.mark.parametrize(
    ("lungs", "word"),
    [
        (Lungs(EMPTY, problem="No body was found."), "No body"),
        (Lungs(TWO, doubt="One lung is missing."), "One lung"),
        (Lungs(EMPTY), "empty"),
    ],
    ids=["problem", "doubt", "empty"],
)
def test_a_lung_mask_that_failed_gives_its_reason_and_no_numbers(lungs: Lungs, word: str) -> None:
    found = plausibility(_explanation(np.ones((6, 8))), lungs, EACH_MM)
    assert word in found.lung_mask
    assert found == Plausibility(found.lung_mask)


def test_a_lung_mask_that_misses_a_large_part_of_the_annotation_has_failed() -> None:
    outside: list[OnSlice] = [Annotation(_rectangle(52, 58, 20, 60), SAID)]
    assert plausibility(_explanation(np.ones((6, 8))), LUNGS, EACH_MM).lung_mask == "ok"
    found = plausibility(_explanation(np.ones((6, 8))), LUNGS, EACH_MM, annotations=outside)
    assert "outside the lung mask" in found.lung_mask
    assert found.outside_lung_mass is None


def test_plausibility_refuses_a_lung_mask_of_another_slice() -> None:
    with pytest.raises(ValueError, match="lung mask of"):
        plausibility(_explanation(np.ones((6, 8))), Lungs(np.ones((5, 5), np.bool_)), None)


# --- the thirds of a series


def test_slices_evenly_spaced_count_alike() -> None:
    found = thirds([1, 2, 3, 4, 5, 6], [0, 10, 20, 30, 40, 50])
    assert found is not None
    assert (found.lower, found.middle, found.upper) == pytest.approx((3 / 21, 7 / 21, 11 / 21))


@unhurried
@given(
    st.lists(st.tuples(st.integers(0, 300), st.floats(0, 100)), min_size=3, max_size=30, unique_by=lambda pair: pair[0]), seeds
)
def test_thirds_do_not_depend_on_the_order_and_add_up(pairs: list[tuple[int, float]], seed: int) -> None:
    position, mass = [float(pair[0]) for pair in pairs], [pair[1] for pair in pairs]
    found = thirds(mass, position)
    shuffled = np.random.default_rng(seed).permutation(len(pairs))
    again = thirds([mass[index] for index in shuffled], [position[index] for index in shuffled])
    assert found == again
    if found is None:
        assert max(mass) == 0
    else:
        assert found.upper + found.middle + found.lower == pytest.approx(1)


@unhurried
@given(st.lists(st.integers(0, 300), min_size=3, max_size=30, unique=True))
def test_a_uniform_map_has_a_third_in_each_third_however_the_slices_are_spaced(positions: list[int]) -> None:
    found = thirds([2.5] * len(positions), [float(position) for position in positions])
    assert found is not None
    assert (found.upper, found.middle, found.lower) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_turning_the_patient_round_exchanges_upper_and_lower() -> None:
    mass, position = [1.0, 7.0, 2.0, 0.0, 4.0], [0.0, 1.0, 9.0, 10.0, 19.0]
    one, other = thirds(mass, position), thirds(mass, [-where for where in position])
    assert one is not None
    assert other is not None
    assert (one.upper, one.middle, one.lower) == pytest.approx((other.lower, other.middle, other.upper))


@pytest.mark.parametrize(
    ("mass", "position"),
    [([], []), ([1.0, 1.0], [0.0, 5.0]), ([1.0, 1.0, 1.0], [0.0, 5.0, 5.0]), ([0.0, 0.0, 0.0], [0.0, 5.0, 9.0])],
    ids=["no slices", "two slices", "two positions", "no mass"],
)
def test_too_few_slices_or_no_mass_have_no_thirds(mass: list[float], position: list[float]) -> None:
    assert thirds(mass, position) is None


@pytest.mark.parametrize(
    ("mass", "position"),
    [([1.0], []), ([-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]), ([math.nan, 1.0, 1.0], [0.0, 1.0, 2.0])],
    ids=["lengths", "negative", "not a number"],
)
def test_thirds_refuse_what_is_no_mass(mass: list[float], position: list[float]) -> None:
    with pytest.raises(ValueError, match="masses"):
        thirds(mass, position)


# --- the series, worst first

AREA: list[OnSlice] = [Annotation(_rectangle(20, 30, 12, 22), SAID)]
NOTHING_MARKED: list[OnSlice] = [Annotation(EMPTY, SAID)]


def _row(
    index: int,
    probability: float | None,
    annotations: list[OnSlice],
    cell: tuple[int, int] | None = (2, 1),
    inside: float | None = None,
) -> ProfileRow:
    """A map with one hot cell; cell (2, 1) lies on `AREA`."""
    if probability is None:
        return ProfileRow(index, Prediction(Decision.REFUSED, "no lungs"), annotated=bool(annotations))
    decision = Decision.IPF if probability > 0.65 else Decision.NORMAL if probability < 0.35 else Decision.UNCERTAIN
    cells = np.zeros((6, 8))
    if cell is not None:
        cells[cell] = 1.0
    budget = None if inside is None else EvidenceBudget(inside, 0.0, 0.0, 0.0, 0.0, inside)
    agreement = agree(_explanation(cells), LUNGS, annotations, EACH_MM)
    return ProfileRow(index, Prediction(decision, "", probability, 0.0), agreement, budget, annotated=bool(annotations))


MISSED = _row(0, 0.1, AREA)
MISSED_BY_LESS = _row(1, 0.3, AREA)
UNMARKED = _row(2, 0.9, NOTHING_MARKED)
ELSEWHERE = _row(3, 0.9, AREA, (5, 7))
AGAINST = _row(4, 0.9, AREA, inside=-0.5)
UNSURE = _row(5, 0.5, AREA)
UNREAD = _row(6, None, AREA)
AGREED = _row(7, 0.9, AREA, inside=0.5)
BOTH_NORMAL = _row(8, 0.1, NOTHING_MARKED)
NOT_ANNOTATED = _row(9, 0.9, [])
REFUSED = _row(10, None, [])


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (MISSED, Disagreement.MISSED),
        (UNMARKED, Disagreement.UNMARKED),
        (ELSEWHERE, Disagreement.ELSEWHERE),
        (_row(0, 0.9, AREA, None), Disagreement.ELSEWHERE),
        (_row(0, 0.5, AREA, (5, 7)), Disagreement.ELSEWHERE),
        (AGAINST, Disagreement.ELSEWHERE),
        (UNSURE, Disagreement.UNSURE),
        (_row(0, 0.5, NOTHING_MARKED), Disagreement.UNSURE),
        (UNREAD, Disagreement.UNREAD),
        (AGREED, Disagreement.NONE),
        (BOTH_NORMAL, Disagreement.NONE),
        (NOT_ANNOTATED, Disagreement.NOT_COMPARED),
        (REFUSED, Disagreement.NOT_COMPARED),
        (ProfileRow(0, Prediction(Decision.IPF, "", 0.9, 2.0)), Disagreement.NOT_COMPARED),
    ],
)
def test_each_kind_of_disagreement_is_what_its_description_says(row: ProfileRow, kind: Disagreement) -> None:
    assert row.disagreement is kind


def test_the_worst_slices_come_first() -> None:
    rows = [REFUSED, NOT_ANNOTATED, BOTH_NORMAL, AGREED, UNREAD, UNSURE, AGAINST, ELSEWHERE, UNMARKED, MISSED_BY_LESS, MISSED]
    order = [row.index for row in worst_first(rows)]
    assert order[:6] == [0, 1, 2, 3, 4, 5]
    assert order[6] == 6
    assert set(order[7:9]) == {7, 8}
    assert order[9:] == [9, 10]


def test_a_surer_mistake_is_a_larger_one() -> None:
    assert MISSED.size == pytest.approx(0.9)
    assert MISSED_BY_LESS.size == pytest.approx(0.7)
    assert UNMARKED.size == pytest.approx(0.9)
    assert UNSURE.size == pytest.approx(0.5)


def test_of_maps_elsewhere_the_one_with_less_inside_is_worse() -> None:
    assert ELSEWHERE.agreement is not None
    assert ELSEWHERE.agreement.mass is not None
    assert ELSEWHERE.size == pytest.approx(1 - ELSEWHERE.agreement.mass)
    assert _row(0, 0.9, AREA, None).size == 1.0


def test_points_are_hit_or_not() -> None:
    point: list[OnSlice] = [PointAnnotation(20, 26, SAID)]
    assert _row(0, 0.9, point).size == 0.0
    assert _row(0, 0.9, point, (5, 7)).size == 1.0
    assert _row(0, 0.9, point, (5, 7)).disagreement is Disagreement.ELSEWHERE


def test_what_is_not_compared_has_no_size() -> None:
    assert [row.size for row in (UNREAD, REFUSED, NOT_ANNOTATED)] == [0.0, 0.0, 0.0]


def test_equal_slices_stay_in_the_order_of_the_series() -> None:
    rows = [_row(index, 0.2, AREA) for index in (4, 2, 7)]
    assert [row.index for row in worst_first(rows)] == [2, 4, 7]
