"""Masks on the wire."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ipfvision.core import run_lengths

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(MASKS)
def test_a_mask_comes_back_pixel_for_pixel(mask: np.ndarray) -> None:
    runs = run_lengths.check(run_lengths.encode(mask).tolist(), mask.size)
    np.testing.assert_array_equal(run_lengths.decode(runs, mask.shape), mask)


@given(MASKS)
def test_runs_are_those_that_counting_gives(mask: np.ndarray) -> None:
    counted = [len(list(group)) for _, group in groupby(mask.ravel().tolist())]
    assert run_lengths.encode(mask).tolist() == ([0] if mask.flat[0] else []) + counted


@given(st.lists(st.integers(-3, 40), max_size=6))
def test_only_runs_that_fill_the_slice_are_taken(runs: list[int]) -> None:
    good = bool(runs) and sum(runs) == 20 and runs[0] >= 0 and all(run > 0 for run in runs[1:])
    if good:
        assert run_lengths.check(runs, 20).tolist() == runs
    else:
        with pytest.raises(ValueError, match="run lengths"):
            run_lengths.check(runs, 20)


@pytest.mark.parametrize("runs", [None, "20", {"0": 20}, [20.0], [True, 19], ["20"], [[20]], []])
def test_what_is_no_list_of_whole_numbers_is_refused(runs: object) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        run_lengths.check(runs, 20)
