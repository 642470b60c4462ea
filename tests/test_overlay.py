"""The picture never lies about the CT under it, nor about how strong a map is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfvision.core.overlay import display_grey, outline, overlay
from ipfvision.core.slice import Scale, Slice, Source
from ipfvision.core.window import LUNG, MEDIASTINUM

GREY = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)


def test_an_empty_map_leaves_the_ct_untouched_byte_for_byte() -> None:
    picture = overlay(GREY, np.zeros(GREY.shape, np.float32), full_scale=5)
    assert all((picture[:, :, channel] == GREY).all() for channel in range(3))


@given(st.floats(0, 1), st.floats(0.01, 1), st.integers(0, 2**31))
def test_where_the_map_is_zero_or_below_the_threshold_the_ct_is_untouched(threshold: float, opacity: float, seed: int) -> None:
    heatmap = np.random.default_rng(seed).random(GREY.shape).astype(np.float32) * 8
    heatmap[:, 25:] = 0
    picture = overlay(GREY, heatmap, 5.0, opacity, threshold)
    dark = (heatmap == 0) | (heatmap / np.float32(5.0) < threshold)
    assert (picture[dark] == GREY[dark][:, None]).all()


def test_a_weak_map_looks_weaker_than_a_strong_one() -> None:
    black = np.zeros((8, 8), np.uint8)
    weak = overlay(black, np.full((8, 8), 1.0, np.float32), 10.0, threshold=0)
    strong = overlay(black, np.full((8, 8), 10.0, np.float32), 10.0, threshold=0)
    assert weak.sum() < strong.sum() / 3


def test_a_map_above_full_scale_looks_as_one_at_full_scale() -> None:
    at = overlay(GREY, np.full(GREY.shape, 5.0, np.float32), 5.0)
    above = overlay(GREY, np.full(GREY.shape, 50.0, np.float32), 5.0)
    assert (at == above).all()


def test_an_outline_lies_inside_its_mask_and_only_there() -> None:
    mask = np.zeros(GREY.shape, np.bool_)
    mask[10:20, 10:30] = True
    picture = outline(GREY, mask, (0, 255, 0))
    changed = (picture != GREY[:, :, None]).any(axis=2)
    border = mask.copy()
    border[11:19, 11:29] = False
    assert (changed == border).all()


def test_an_outline_at_the_images_edge_is_closed() -> None:
    picture = outline(np.zeros((5, 5), np.uint8), np.ones((5, 5), np.bool_), (0, 255, 0))
    assert (picture[0, :, 1] == 255).all()
    assert picture[2, 2, 1] == 0


def _slice(hu: np.ndarray, *, inverted: bool = False) -> Slice:
    padding = np.zeros(hu.shape, np.bool_)
    padding[0, 0] = True
    source = Source("x", "DICOM", "0")
    return Slice(hu.astype(np.int16), Scale.HOUNSFIELD, source, padding, inverted=inverted)


def test_monochrome1_is_inverted_after_windowing_and_padding_stays_black() -> None:
    hu = np.array([[0, -1350], [150, -600]])
    plain, inverted = display_grey(_slice(hu), LUNG), display_grey(_slice(hu, inverted=True), LUNG)
    assert plain[0, 0] == inverted[0, 0] == 0
    assert (plain.astype(int) + inverted)[[0, 1, 1], [1, 0, 1]] == pytest.approx([255, 255, 255], abs=1)


def test_a_picture_without_hounsfield_units_is_not_windowed() -> None:
    grey = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    scan = Slice(grey, Scale.GREY, Source("x", "PNG", "0"), np.zeros((3, 4), np.bool_))
    assert (display_grey(scan, LUNG) == display_grey(scan, MEDIASTINUM)).all()
    assert (display_grey(scan, LUNG) == np.rint(grey * 255)).all()
