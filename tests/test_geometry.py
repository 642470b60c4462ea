"""The way from a slice to the model's input and back."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from ipfvision.core.findings import Explanation
from ipfvision.core.geometry import Crop
from ipfvision.core.slice import PixelSpacing

INPUT = (288, 384)

crops = st.builds(
    Crop,
    left=st.integers(-60, 150),
    top=st.integers(-60, 150),
    width=st.integers(200, 700),
    height=st.integers(150, 500),
    input_shape=st.just(INPUT),
    slice_shape=st.just((512, 512)),
)


@given(crops, st.floats(0, 384), st.floats(0, 288))
def test_to_slice_and_back_is_the_identity(crop: Crop, x: float, y: float) -> None:
    assert crop.to_input(*crop.to_slice(x, y)) == pytest.approx((x, y), abs=1e-6)


@pytest.mark.parametrize("size", [40, 96, 160, 384, 700])
def test_a_disc_comes_back_from_the_input_to_its_place_within_half_a_pixel(size: int) -> None:
    image = np.zeros((512, 512), np.float32)
    cv2.circle(image, (230, 301), 9, 1.0, -1)
    crop = Crop(201, 270, size, size * 3 // 4, INPUT, (512, 512))
    seen = crop.cut(image)
    rows, columns = np.mgrid[0:288, 0:384]
    x = float((seen * (columns + 0.5)).sum() / seen.sum())
    y = float((seen * (rows + 0.5)).sum() / seen.sum())
    inside = image.copy()
    inside[:, : crop.left] = inside[: crop.top] = 0
    inside[:, crop.left + crop.width :] = inside[crop.top + crop.height :] = 0
    rows, columns = np.mgrid[0:512, 0:512]
    expected = (inside * (columns + 0.5)).sum() / inside.sum(), (inside * (rows + 0.5)).sum() / inside.sum()
    assert crop.to_slice(x, y) == pytest.approx(expected, abs=0.5)


def test_cells_come_back_bilinear_as_scipy_says() -> None:
    cells = np.random.default_rng(1).random((18, 24)).astype(np.float32)
    crop = Crop(40, 61, 384, 288, INPUT, (400, 500))
    pasted = crop.paste_cells(cells)
    rows, columns = np.mgrid[61 : 61 + 288, 40 : 40 + 384]
    cell_y, cell_x = (rows + 0.5 - 61) / 16 - 0.5, (columns + 0.5 - 40) / 16 - 0.5
    expected = map_coordinates(cells, [cell_y, cell_x], order=1, mode="nearest")
    # OpenCV's remap places samples on a grid of 1/32 of a cell
    np.testing.assert_allclose(pasted[61 : 61 + 288, 40 : 40 + 384], expected, atol=1 / 32)


def test_the_map_is_zero_outside_the_crop() -> None:
    crop = Crop(50, 60, 100, 75, INPUT, (200, 220))
    pasted = crop.paste_cells(np.ones((18, 24), np.float32))
    assert pasted[60:135, 50:150].min() == 1
    pasted[60:135, 50:150] = 0
    assert pasted.max() == 0


def test_what_lies_beyond_the_slice_is_black() -> None:
    crop = Crop(-100, -75, 400, 300, (288, 384), (100, 100))
    seen = crop.cut(np.ones((100, 100), np.float32))
    assert seen[0, 0] == 0
    assert seen[-1, -1] == 0
    assert seen[144, 192 - 40] == 1


def test_a_crop_that_misses_the_slice_is_all_black() -> None:
    assert Crop(900, 900, 40, 30, INPUT, (100, 100)).cut(np.ones((100, 100), np.float32)).max() == 0


def test_a_crop_refuses_another_slices_image() -> None:
    with pytest.raises(ValueError, match="belongs to a slice"):
        Crop(0, 0, 10, 10, INPUT, (100, 100)).cut(np.zeros((99, 100), np.float32))


def _explanation(cells: np.ndarray, crop: Crop) -> Explanation:
    return Explanation(cells, crop, target="ipf", method="gradcam", layer="layer4", unit="logits")


def test_the_peak_lies_in_the_hottest_cell() -> None:
    cells = np.zeros((18, 24), np.float32)
    cells[4, 20] = 3.0
    crop = Crop(10, 20, 480, 360, INPUT, (512, 512))
    explanation = _explanation(cells, crop)
    x, y = explanation.peak_xy() or (0, 0)
    assert (x, y) == pytest.approx((10 + 20.5 * 20, 20 + 4.5 * 20), abs=1)
    assert explanation.peak == 3.0
    assert explanation.cell_mm(PixelSpacing(0.7, 0.7)) == pytest.approx((14.0, 14.0))


def test_an_empty_map_has_no_peak_and_without_spacing_there_are_no_millimetres() -> None:
    explanation = _explanation(np.zeros((18, 24), np.float32), Crop(0, 0, 100, 75, INPUT, (100, 100)))
    assert explanation.peak_xy() is None
    assert explanation.peak == 0
    assert explanation.cell_mm(None) is None


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(5, 60), st.integers(5, 60), st.integers(0, 2**32 - 1))
def test_cell_shares_are_what_counting_fine_points_gives(left: int, top: int, width: int, height: int, seed: int) -> None:
    crop = Crop(left, top, width, height, (8, 8), (30, 40))
    mask = np.random.default_rng(seed).random((30, 40)) < 0.5
    finer = 8  # each cell is sampled at 8 x 8 points per pixel-and-cell fraction: with 4 cells, 8 * width points across
    x = left + (np.arange(4 * finer * width) + 0.5) / (4 * finer)
    y = top + (np.arange(4 * finer * height) + 0.5) / (4 * finer)
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    inside = ((row >= 0) & (row < 30))[:, None] & ((column >= 0) & (column < 40))[None, :]
    points = mask[np.clip(row, 0, 29)[:, None], np.clip(column, 0, 39)[None, :]] & inside
    expected = points.reshape(4, finer * height, 4, finer * width).mean(axis=(1, 3))
    np.testing.assert_allclose(crop.cell_shares(mask, (4, 4)), expected, atol=1e-9)
