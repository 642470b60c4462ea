"""Training and reading see the same crop of the same grey."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfvision.core.lungs import Lungs
from ipfvision.core.slice import Scale, Slice, Source, grey
from ipfvision.core.window import LUNG
from ipfvision.nn.preprocess import lung_crop, prepare

INPUT = (288, 384)


def _lungs(
    left: int, top: int, width: int, height: int, shape: tuple[int, int] = (512, 512), middle: float | None = None
) -> Lungs:
    mask = np.zeros(shape, np.bool_)
    mask[top : top + height, left : left + width] = True
    return Lungs(mask, middle=middle)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(60, 300), st.integers(60, 300), st.floats(0, 0.3))
def test_the_lungs_lie_in_the_crop_with_room_and_pixels_stay_square(
    left: int, top: int, width: int, height: int, margin: float
) -> None:
    crop = lung_crop(_lungs(left, top, width, height), (512, 512), INPUT, margin)
    assert crop.left <= left + 1
    assert crop.top <= top + 1
    assert crop.left + crop.width >= left + width - 1
    assert crop.top + crop.height >= top + height - 1
    across, down = crop.scale
    assert across == pytest.approx(down, rel=0.02)


def test_a_lung_too_dense_to_be_found_is_not_cut_off() -> None:
    only_left_of_the_middle = _lungs(100, 150, 180, 200, middle=250.0)
    crop = lung_crop(only_left_of_the_middle, (512, 512), INPUT, 0.1)
    assert crop.left + crop.width >= 400


def test_without_lungs_there_is_no_crop() -> None:
    with pytest.raises(ValueError, match="no bounds"):
        lung_crop(Lungs(np.zeros((50, 50), np.bool_)), (50, 50), INPUT, 0.1)


def test_padding_never_reaches_the_model_as_tissue() -> None:
    hu = np.full((300, 300), 40, np.int16)
    padding = np.zeros(hu.shape, np.bool_)
    padding[:, :150] = True
    scan = Slice(hu, Scale.HOUNSFIELD, Source("x", "DICOM", "0"), padding)
    image, crop = prepare(grey(scan, LUNG), _lungs(0, 0, 300, 225, (300, 300)), INPUT, 0.0)
    middle = int(crop.to_input(150, 0)[0])
    assert image[:, : middle - 1].max() == 0
    assert image[:, middle + 2 :].min() > 0.9


def test_the_input_is_grey_between_0_and_1() -> None:
    noise = np.random.default_rng(0).random((200, 200)).astype(np.float32)
    image, _ = prepare(noise, _lungs(50, 50, 60, 60, (200, 200)), INPUT, 0.1)
    assert image.shape == INPUT
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1
