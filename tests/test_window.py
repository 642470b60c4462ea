"""Windowing is the DICOM LINEAR function, as pydicom computes it too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from ipfvision.core.window import GREY, LUNG, MEDIASTINUM, Window, adjust_grey, apply_window


def pydicom_window(values, window):
    """In [0, 1]; pydicom spreads over the range of 16 signed bits."""
    described = Dataset()
    described.PhotometricInterpretation = "MONOCHROME2"
    described.BitsStored = 16
    described.PixelRepresentation = 1
    described.WindowCenter, described.WindowWidth = window.center, window.width
    return (apply_windowing(values, described) + 32768) / 65535


@given(center=st.integers(-1500, 1500), width=st.integers(2, 5000))
def test_it_equals_pydicom(center, width):
    values = np.arange(-4000, 4001, 7, dtype=np.int16)
    window = Window(center, width)
    assert np.allclose(apply_window(values, window), pydicom_window(values, window), atol=2e-6)


@pytest.mark.parametrize("window", [LUNG, MEDIASTINUM, Window(0, 1.5)])
def test_presets_equal_pydicom_on_every_hounsfield_unit(window):
    values = np.arange(-3024, 3072, dtype=np.int16)
    assert np.allclose(apply_window(values, window), pydicom_window(values, window), atol=2e-6)


def test_the_formula_by_hand():
    """PS3.3 C.11.2.1.2.1 for the lung window: black to -1350, white from 149, and in between (x + 600.5) / 1499 + 0.5."""
    values = np.array([-3024, -1350, -1349, -600, 0, 149, 150, 3000], np.int16)
    expected = [0, 0, 1 / 1499, (-600 + 600.5) / 1499 + 0.5, 600.5 / 1499 + 0.5, 1, 1, 1]
    assert apply_window(values, LUNG) == pytest.approx(expected, abs=1e-6)


def test_a_width_of_one_is_a_threshold():
    """Black to center - 0.5, white above."""
    assert apply_window(np.array([38, 39, 40, 41]), Window(40, 1)).tolist() == [0, 0, 1, 1]


@given(st.lists(st.floats(-4000, 4000, width=32), min_size=2, max_size=20), st.integers(-1000, 1000), st.integers(1, 4000))
def test_more_hounsfield_units_are_never_darker(values, center, width):
    ordered = np.sort(np.asarray(values, np.float32))
    assert (np.diff(apply_window(ordered, Window(center, width))) >= 0).all()


def test_the_values_are_not_changed():
    values = np.zeros((2, 2), np.float32)
    apply_window(values, LUNG)
    assert (values == 0).all()


@pytest.mark.parametrize("width", [0.99, 0, -5, float("nan"), float("inf")])
def test_a_width_that_dicom_forbids_is_refused(width):
    with pytest.raises(ValueError, match="window"):
        Window(0, width)


def test_brightness_as_it_came_changes_nothing():
    grey = np.linspace(0, 1, 11, dtype=np.float32)
    assert (adjust_grey(grey, GREY) == grey).all()
