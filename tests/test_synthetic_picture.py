"""What is done to pictures says nothing about lungs, and is the same for both classes."""

import numpy as np
import pytest

from ipfvision.synthetic.picture import DISTURBANCES, disturb


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    ramp = np.linspace(0.1, 0.9, width, dtype=np.float32)
    return np.ascontiguousarray(np.broadcast_to(ramp, (height, width)))


@pytest.mark.parametrize("seed", range(40))
def test_a_disturbed_picture_keeps_its_shape_and_range(seed: int) -> None:
    grey = picture()
    before = grey.copy()
    out = disturb(grey, np.random.default_rng(seed))
    assert out.shape == grey.shape
    assert out.dtype == np.float32
    assert 0 <= out.min() <= out.max() <= 1
    assert np.array_equal(grey, before)
    assert out.tobytes() == disturb(grey, np.random.default_rng(seed)).tobytes()


def test_some_pictures_stay_as_they_are() -> None:
    same = sum(np.array_equal(disturb(picture(), np.random.default_rng(seed)), picture()) for seed in range(60))
    assert 5 < same < 40


@pytest.mark.parametrize("name", DISTURBANCES)
def test_every_disturbance_changes_the_picture(name: str) -> None:
    outs = [DISTURBANCES[name][0](picture(), np.random.default_rng(seed)) for seed in range(4)]
    assert all(out.shape == picture().shape and out.dtype == np.float32 for out in outs)
    assert any(np.abs(out - picture()).max() > 0.002 for out in outs)


@pytest.mark.parametrize("name", ["circles", "arrows", "text", "ruler"])
def test_marks_leave_the_rest_of_the_picture_alone(name: str) -> None:
    out = DISTURBANCES[name][0](picture(), np.random.default_rng(1))
    assert np.mean(out == picture()) > 0.5
