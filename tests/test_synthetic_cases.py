"""Drawn cases: what stands in a mask is where it was drawn, and nothing else was touched."""

import time

import cv2
import numpy as np
import pytest

from ipfvision.core.annotation import Finding
from ipfvision.synthetic.case import Case, disease_mask, draw_case
from ipfvision.synthetic.distractors import DISTRACTORS
from ipfvision.synthetic.fibrosis import Pattern, Place, Plan, draw_fibrosis
from ipfvision.synthetic.field import LungField, millimetres_per_pixel_from_lungs
from ipfvision.synthetic.shapes import pack_cysts

SIZE = 256
SPACING_MM = 1.25


def slice_with_lungs(size: int = SIZE, spacing_mm: float = SPACING_MM) -> tuple[np.ndarray, np.ndarray]:
    """Two ellipses of 100 x 170 mm in a soft-tissue body, with noise and a few vessels."""
    rng = np.random.default_rng(5)
    lungs = np.zeros((size, size), np.uint8)
    center = size // 2
    for side in (-1, 1):
        middle = (int(center + side * 65 / spacing_mm), center)
        cv2.ellipse(lungs, middle, (int(50 / spacing_mm), int(85 / spacing_mm)), 0, 0, 360, 1, -1)
    hu = np.where(lungs > 0, -850.0, 40.0).astype(np.float32)
    for row, column in rng.uniform(0.2, 0.8, (40, 2)) * size:
        cv2.circle(hu, (int(column), int(row)), max(1, int(1.5 / spacing_mm)), (20.0,), -1)
    hu = cv2.GaussianBlur(hu, (0, 0), 0.7) + cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), 0.7) * 40
    return hu.astype(np.float32), lungs > 0


def case(seed: int, *, diseased: bool) -> Case:
    hu, lungs = slice_with_lungs()
    return draw_case(hu, lungs, SPACING_MM, np.random.default_rng(seed), diseased=diseased)


@pytest.mark.parametrize("diseased", [True, False])
def test_the_same_seed_draws_the_same_case(diseased: bool) -> None:
    first, again, other = (case(seed, diseased=diseased) for seed in (3, 3, 4))
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert [(a.said.finding, a.mask.tobytes()) for a in first.annotations] == [
        (a.said.finding, a.mask.tobytes()) for a in again.annotations
    ]
    assert first.distractors == again.distractors
    assert first.pixels.tobytes() != other.pixels.tobytes() or not (first.distractors or other.distractors)


@pytest.mark.parametrize("seed", range(25))
def test_a_mask_is_empty_exactly_where_no_fibrosis_was_drawn(seed: int) -> None:
    without, with_it = case(seed, diseased=False), case(seed, diseased=True)
    assert without.annotations == ()
    assert without.severity == 0
    disease = disease_mask(with_it.annotations, with_it.pixels.shape)
    assert np.count_nonzero(disease) * SPACING_MM**2 > 100
    assert 0 < with_it.severity <= 1
    assert {a.said.reader for a in with_it.annotations} == {"synthetic"}
    assert len({a.said.finding for a in with_it.annotations}) == len(with_it.annotations)
    assert all(a.mask.any() for a in with_it.annotations)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("diseased", [True, False])
def test_nothing_is_drawn_outside_the_lungs(seed: int, diseased: bool) -> None:
    hu, lungs = slice_with_lungs()
    drawn = draw_case(hu, lungs, SPACING_MM, np.random.default_rng(seed), diseased=diseased)
    far = cv2.distanceTransform((~lungs).astype(np.uint8), cv2.DIST_L2, 5) * SPACING_MM > 3
    assert np.array_equal(drawn.pixels[far], hu[far])
    for annotation in drawn.annotations:
        assert not (annotation.mask & ~lungs).any()
    assert drawn.pixels.dtype == np.float32
    assert np.isfinite(drawn.pixels).all()


def test_the_slice_that_is_drawn_on_stays_as_it_was() -> None:
    hu, lungs = slice_with_lungs()
    before = hu.copy()
    draw_case(hu, lungs, SPACING_MM, np.random.default_rng(0), diseased=True)
    assert np.array_equal(hu, before)


def test_disease_is_drawn_where_the_mask_says() -> None:
    hu, lungs = slice_with_lungs()
    field = LungField(hu, lungs, SPACING_MM, np.random.default_rng(2))
    masks = draw_fibrosis(field, Plan(Pattern.HONEYCOMBING, Place.POSTERIOR, 0.7))
    change = np.abs(field.result() - hu)
    honeycomb = field.whole(masks[Finding.HONEYCOMBING])
    assert change[honeycomb].mean() > 10 * change[lungs & ~honeycomb].mean()


@pytest.mark.parametrize("seed", range(6))
def test_honeycombing_is_darker_in_its_cysts_than_in_their_walls(seed: int) -> None:
    hu, lungs = slice_with_lungs(512, 0.65)
    field = LungField(hu, lungs, 0.65, np.random.default_rng(seed))
    mask = field.whole(draw_fibrosis(field, Plan(Pattern.HONEYCOMBING, Place.DIFFUSE, 0.8))[Finding.HONEYCOMBING])
    values = field.result()[mask]
    low, high = np.percentile(values, [10, 90])
    assert low < -750
    assert high > -600
    assert high - low > 250


def test_a_plan_is_followed_to_its_place() -> None:
    hu, lungs = slice_with_lungs()
    rows = {}
    for place in (Place.ANTERIOR, Place.POSTERIOR):
        centers = []
        for seed in range(6):
            field = LungField(hu, lungs, SPACING_MM, np.random.default_rng(seed))
            mask = field.whole(draw_fibrosis(field, Plan(Pattern.HONEYCOMBING, place, 0.6))[Finding.HONEYCOMBING])
            centers.append(np.nonzero(mask)[0].mean())
        rows[place] = np.mean(centers)
    assert rows[Place.ANTERIOR] + 20 < rows[Place.POSTERIOR]


def test_cysts_keep_their_size_in_millimeters_at_any_pixel_spacing() -> None:
    areas = []
    for size, spacing in ((256, 1.25), (512, 0.625)):
        hu, lungs = slice_with_lungs(size, spacing)
        field = LungField(hu, lungs, spacing, np.random.default_rng(1))
        cells = pack_cysts(field, field.lungs & (field.depth > 8), np.full(12, 6.0), closeness=1.2, warp_mm=0)
        inside = (cells.nearest < 0).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(inside)
        areas.append(np.median(stats[1:count, cv2.CC_STAT_AREA]) * spacing**2)
    expected = np.pi * 6.0**2
    assert areas == pytest.approx([expected, expected], rel=0.1)


def test_depth_of_disease_follows_the_pixel_spacing() -> None:
    shares = []
    for spacing in (1.25, 0.625):
        hu, lungs = slice_with_lungs(256, 1.25)
        found = []
        for seed in range(6):
            field = LungField(hu, lungs, spacing, np.random.default_rng(seed))
            masks = draw_fibrosis(field, Plan(Pattern.HONEYCOMBING, Place.DIFFUSE, 0.5))
            found.append(np.count_nonzero(masks[Finding.HONEYCOMBING]) / np.count_nonzero(field.lungs))
        shares.append(np.mean(found))
    # Half the spacing makes the same picture a chest of half the size, where the same depth in mm is a larger share.
    assert shares[1] > 1.3 * shares[0]


def test_lungs_too_small_to_draw_in_are_refused() -> None:
    hu, lungs = slice_with_lungs()
    tiny = np.zeros_like(lungs)
    tiny[100:120, 100:120] = True
    with pytest.raises(ValueError, match="too small"):
        draw_case(hu, tiny, SPACING_MM, np.random.default_rng(0), diseased=True)
    with pytest.raises(ValueError, match="too small"):
        draw_case(hu, np.zeros_like(lungs), SPACING_MM, np.random.default_rng(0), diseased=False)
    with pytest.raises(ValueError, match="mm_per_pixel"):
        draw_case(hu, lungs, 0.0, np.random.default_rng(0), diseased=False)
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        draw_case(hu, lungs[1:], SPACING_MM, np.random.default_rng(0), diseased=False)


@pytest.mark.parametrize("name", DISTRACTORS)
def test_every_distractor_draws_something_inside_the_lungs(name: str) -> None:
    hu, lungs = slice_with_lungs()
    far = cv2.distanceTransform((~lungs).astype(np.uint8), cv2.DIST_L2, 5) * SPACING_MM > 3
    largest = 0.0
    for seed in range(4):
        field = LungField(hu, lungs, SPACING_MM, np.random.default_rng(seed))
        DISTRACTORS[name][0](field)
        drawn = field.result()
        assert np.isfinite(drawn).all()
        assert np.array_equal(drawn[far], hu[far])
        largest = max(largest, float(np.abs(drawn - hu).max()))
    assert largest > 25


def test_both_classes_carry_distractors_of_the_same_kinds() -> None:
    kinds = {True: set(), False: set()}
    share = {True: 0, False: 0}
    n = 60
    for diseased in (True, False):
        for seed in range(n):
            names = case(seed, diseased=diseased).distractors
            kinds[diseased] |= set(names)
            share[diseased] += bool(names)
    assert kinds[True] <= set(DISTRACTORS)
    assert len(kinds[True] & kinds[False]) >= 8
    assert 0.15 < share[True] / n < 0.55
    assert 0.55 < share[False] / n < 0.95


def test_noise_that_is_drawn_is_as_strong_as_the_scans_own() -> None:
    hu, lungs = slice_with_lungs(512, 0.65)
    field = LungField(hu, lungs, 0.65, np.random.default_rng(0))
    calm = np.std(hu[lungs & (hu < -700)])
    assert field.noise_hu == pytest.approx(calm, rel=0.35)
    assert field.blur_px == pytest.approx(0.7, abs=0.2)


def test_vessels_count_as_lung_and_the_heart_does_not() -> None:
    hu, lungs = slice_with_lungs()
    wrong = lungs.copy()
    wrong[100:150, 110:146] = True  # the mediastinum of this slice is soft tissue
    field = LungField(hu, wrong, SPACING_MM, np.random.default_rng(0))
    on_slice = field.whole(field.lungs)
    assert not on_slice[115:135, 124:132].any()
    holes = lungs & (hu < -500)
    with_vessels = LungField(hu, holes, SPACING_MM, np.random.default_rng(0))
    assert np.count_nonzero(lungs & ~with_vessels.whole(with_vessels.lungs)) < 0.02 * np.count_nonzero(lungs)


def test_the_guessed_scale_assumes_lungs_of_265_mm() -> None:
    lungs = np.zeros((64, 512), np.bool_)
    lungs[10:20, 50:450] = True
    assert millimetres_per_pixel_from_lungs(lungs) == pytest.approx(265 / 400)
    with pytest.raises(ValueError, match="empty"):
        millimetres_per_pixel_from_lungs(np.zeros((8, 8), np.bool_))


def test_a_case_is_drawn_quickly_enough_to_train_on() -> None:
    hu, lungs = slice_with_lungs(512, 0.65)
    begin = time.process_time()
    for seed in range(4):
        draw_case(hu, lungs, 0.65, np.random.default_rng(seed), diseased=True)
    assert (time.process_time() - begin) / 4 < 1.0
