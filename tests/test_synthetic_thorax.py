"""The drawn chest: air in the lungs, lungs in the body, bones where bones are."""

import cv2
import numpy as np
import pytest

from ipfvision.synthetic.case import disease_mask, draw_case
from ipfvision.synthetic.field import millimetres_per_pixel_from_lungs
from ipfvision.synthetic.thorax import Thorax, draw_thorax

LEVELS = (0.05, 0.25, 0.45, 0.65, 0.85, 1.0)


def thorax(level: float = 0.6, seed: int = 1) -> Thorax:
    return draw_thorax(np.random.default_rng(seed), level=level, size=256, spacing_mm=1.4)


def test_the_same_seed_draws_the_same_chest() -> None:
    assert thorax(seed=2).pixels.tobytes() == thorax(seed=2).pixels.tobytes()
    assert thorax(seed=2).pixels.tobytes() != thorax(seed=3).pixels.tobytes()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", [1, 2])
def test_lungs_are_air_inside_a_body(level: float, seed: int) -> None:
    drawn = thorax(level, seed)
    assert drawn.pixels.shape == drawn.lungs.shape == (256, 256)
    assert drawn.pixels.dtype == np.int16
    assert drawn.lungs.dtype == np.bool_
    assert drawn.spacing.column_mm == pytest.approx(1.4)
    inner = cv2.erode(drawn.lungs.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert -920 < np.median(drawn.pixels[inner]) < -750
    around = (cv2.dilate(drawn.lungs.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0) & ~(
        cv2.dilate(drawn.lungs.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    )
    assert np.mean(drawn.pixels[around] > -250) > 0.9
    edge = np.ones_like(drawn.lungs)
    edge[10:-10, 4:-4] = False
    assert not (drawn.lungs & edge).any()


def test_the_lungs_are_about_as_large_as_lungs() -> None:
    areas = {level: np.count_nonzero(thorax(level).lungs) * 1.4**2 for level in LEVELS}
    assert 2000 < areas[0.05] < areas[0.25] < areas[0.45]
    assert 20000 < areas[0.45] < 50000
    assert areas[1.0] < areas[0.65]
    assert millimetres_per_pixel_from_lungs(thorax(0.6).lungs) == pytest.approx(1.4, rel=0.2)


def test_there_is_bone_fat_and_muscle() -> None:
    pixels = draw_thorax(np.random.default_rng(0), level=0.5, size=512, spacing_mm=0.7).pixels
    assert np.mean(pixels > 400) > 0.005
    soft = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), 2)
    assert np.mean((soft > -130) & (soft < -70)) > 0.03
    assert np.mean((soft > 20) & (soft < 90)) > 0.08


def test_the_reconstruction_circle_empties_the_corners() -> None:
    drawn = draw_thorax(np.random.default_rng(0), level=0.5, size=256, spacing_mm=1.4, reconstruction_circle=True)
    assert (drawn.pixels[:20, :20] == -1024).all()
    assert (drawn.pixels[128, :] > -1024).any()


def test_a_small_field_of_view_holds_a_smaller_chest() -> None:
    drawn = draw_thorax(np.random.default_rng(0), level=0.5, size=256, spacing_mm=1.1)
    columns = np.flatnonzero(drawn.lungs.any(axis=0))
    assert columns[0] > 5
    assert columns[-1] < 250


def test_what_makes_no_sense_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="level"):
        draw_thorax(rng, level=1.5)
    with pytest.raises(ValueError, match="spacing"):
        draw_thorax(rng, level=0.5, size=10)


@pytest.mark.parametrize("level", LEVELS)
def test_fibrosis_can_be_drawn_at_every_level(level: float) -> None:
    drawn = thorax(level)
    case = draw_case(drawn.pixels.astype(np.float32), drawn.lungs, 1.4, np.random.default_rng(0), diseased=True)
    disease = disease_mask(case.annotations, drawn.lungs.shape)
    assert disease.any()
    assert not (disease & ~drawn.lungs).any()
