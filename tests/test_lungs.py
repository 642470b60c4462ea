"""The lungs are found where they are, and everything else is refused in a sentence."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from ipfvision.core.lungs import Lungs, find_lungs, pleural_distance_mm, sides
from ipfvision.core.slice import PixelSpacing, Scale, Slice, Source, grey
from ipfvision.core.window import LUNG, MEDIASTINUM, apply_window
from ipfvision.synthetic.case import draw_case
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.intake import take_in_paths

SOURCE = Source("drawn", "PNG", "0")


def _slice(hu: np.ndarray) -> Slice:
    return Slice(hu, Scale.HOUNSFIELD, SOURCE, np.zeros(hu.shape, np.bool_))


def _picture(image: np.ndarray) -> Slice:
    return Slice(image.astype(np.float32), Scale.GREY, SOURCE, np.zeros(image.shape, np.bool_))


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize("level", [0.3, 0.5, 0.7, 0.9])
def test_the_drawn_thorax_has_its_own_lungs(level: float) -> None:
    thorax = draw_thorax(np.random.default_rng(3), level=level, size=384)
    found = find_lungs(_slice(thorax.pixels))
    assert found.problem is None
    assert _dice(found.mask, thorax.lungs) > 0.9


def test_hounsfield_and_its_lung_window_picture_give_the_same_lungs() -> None:
    thorax = draw_thorax(np.random.default_rng(4), level=0.6, size=384)
    scan = _slice(thorax.pixels)
    picture = np.rint(grey(scan, LUNG) * 255).astype(np.float32) / 255
    assert _dice(find_lungs(scan).mask, find_lungs(_picture(picture)).mask) > 0.99


def test_subpleural_honeycombing_stays_in_the_mask() -> None:
    thorax = draw_thorax(np.random.default_rng(5), level=0.7, size=512)
    kept = []
    for seed in range(6):
        hu = thorax.pixels.astype(np.float32)
        case = draw_case(hu, thorax.lungs, thorax.spacing.column_mm, np.random.default_rng(seed), diseased=True)
        lesion = np.logical_or.reduce([annotation.mask for annotation in case.annotations])
        kept.append((find_lungs(_slice(case.pixels.astype(np.float32))).mask & lesion).sum() / lesion.sum())
    assert np.median(kept) > 0.95
    assert min(kept) > 0.75


def test_a_soft_tissue_window_is_refused_and_the_way_out_is_said() -> None:
    thorax = draw_thorax(np.random.default_rng(6), level=0.6, size=384)
    found = find_lungs(_picture(apply_window(thorax.pixels, MEDIASTINUM)))
    assert found.problem is not None
    assert "lung window" in found.problem
    assert not found.mask.any()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((256, 256)),
        np.ones((256, 256)),
        np.full((256, 256), 0.5),
        np.random.default_rng(0).random((256, 256)),
        np.tile(np.linspace(0, 1, 256), (256, 1)),
        np.zeros((8, 8)),
        np.zeros((1, 900)),
    ],
    ids=["black", "white", "grey", "noise", "ramp", "tiny", "strip"],
)
def test_what_is_no_chest_is_refused(image: np.ndarray) -> None:
    found = find_lungs(_picture(image))
    assert found.problem is not None
    assert found.problem.endswith(".")


def test_a_head_is_refused() -> None:
    head = np.zeros((256, 256), np.float32)
    cv2.ellipse(head, (128, 128), (80, 100), 0, 0, 360, 0.95, -1)
    cv2.ellipse(head, (128, 128), (72, 92), 0, 0, 360, 0.7, -1)
    assert find_lungs(_picture(head)).problem is not None


def test_slices_of_the_belly_and_neck_are_refused_and_those_of_the_chest_are_not(shared_data: Path) -> None:
    verdicts = {}
    for name, members in {"lidc/LIDC-IDRI-0646": ["z_000.png", "z_150.png", "z_272.png"]}.items():
        for member in members:
            scan = take_in_paths([shared_data / name / member]).series[0].slices[0]
            verdicts[member] = find_lungs(scan).problem is None
    assert verdicts == {"z_000.png": False, "z_150.png": True, "z_272.png": False}


def test_real_lobes_are_found(shared_data: Path) -> None:
    """Against TotalSegmentator's lobes is an issue of its own; here: two lungs of plausible size on every chest slice."""
    for series in take_in_paths([shared_data / "rtstruct"]).series:
        for scan in series.slices:
            found = find_lungs(scan)
            assert found.problem is None
            assert scan.spacing is not None
            assert 15_000 < found.mask.sum() * scan.spacing.row_mm * scan.spacing.column_mm < 60_000


@given(seed=st.integers(0, 10_000), row_mm=st.floats(0.3, 3), column_mm=st.floats(0.3, 3), square=st.booleans())
def test_pleural_distance_is_scipys_euclidean_distance(seed: int, row_mm: float, column_mm: float, square: bool) -> None:
    spacing = PixelSpacing(row_mm, row_mm if square else column_mm)
    rng = np.random.default_rng(seed)
    mask = cv2.GaussianBlur(rng.standard_normal((60, 47)), (0, 0), rng.uniform(0.5, 6)) > -0.1
    mask[tuple(rng.integers(0, mask.shape))] = False
    expected = distance_transform_edt(mask, sampling=(spacing.row_mm, spacing.column_mm))
    found = pleural_distance_mm(mask, spacing)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_border_of_the_picture_is_no_pleura() -> None:
    mask = np.ones((20, 30), np.bool_)
    mask[:, 29] = False
    assert pleural_distance_mm(mask, PixelSpacing(1, 1))[10, 0] == 29
    assert np.isinf(pleural_distance_mm(np.ones((4, 5), np.bool_), PixelSpacing(1, 2))).all()


def test_no_lungs_have_no_distance_and_no_sides() -> None:
    nothing = np.zeros((40, 50), np.bool_)
    for spacing in (PixelSpacing(1, 1), PixelSpacing(1, 2)):
        assert not pleural_distance_mm(nothing, spacing).any()
    assert not np.any(sides(Lungs(nothing)))


@pytest.mark.parametrize("bridge", [0, 6], ids=["apart", "touching"])
def test_each_side_is_one_lung_even_where_both_touch(bridge: int) -> None:
    left, right = np.zeros((100, 160), np.uint8), np.zeros((100, 160), np.uint8)
    cv2.ellipse(left, (45, 50), (30, 40), 0, 0, 360, 1, -1)
    cv2.ellipse(right, (118, 50), (33, 40), 0, 0, 360, 1, -1)
    both = (left | right) > 0
    both[30 : 30 + bridge, 45:118] = True
    for middle in (None, 80.0):
        on_left, on_right = sides(Lungs(both, middle=middle))
        assert not (on_left & on_right).any()
        assert np.array_equal(on_left | on_right, both)
        assert on_left[left > 0].all()
        assert on_right[right > 0].all()


@pytest.mark.parametrize("middle", [None, 10.0, 159.0, -5.0, 400.0])
def test_the_sides_always_add_up_to_the_lungs(middle: float | None) -> None:
    mask = cv2.GaussianBlur(np.random.default_rng(1).standard_normal((120, 160)), (0, 0), 9) > 0
    on_left, on_right = sides(Lungs(mask, middle=middle))
    assert np.array_equal(on_left ^ on_right, mask)


def test_a_lung_that_is_alone_stays_whole_on_its_side() -> None:
    mask = np.zeros((100, 160), np.uint8)
    cv2.ellipse(mask, (45, 50), (38, 40), 0, 0, 360, 1, -1)
    on_left, on_right = sides(Lungs(mask > 0, middle=80.0))
    assert np.array_equal(on_left, mask > 0)
    assert not on_right.any()
