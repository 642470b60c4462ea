"""Masks as run lengths: how a drawing travels between the browser and Python, and how it is kept.

Row-major over (H, W); runs of unset and set pixels in turn, the first of unset ones, so only the first may be 0.
"""

import numpy as np
import numpy.typing as npt


def encode(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Run lengths of an (H, W) mask; they add up to H * W."""
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    runs = np.diff(bounds)
    return np.concatenate(([0], runs) if flat.size and flat[0] else (runs,)).astype(np.uint32)


def check(runs: object, size: int) -> npt.NDArray[np.uint32]:
    """The same runs as an array, if they are a list of run lengths of `size` pixels. Raises ValueError if not."""
    if not isinstance(runs, list) or any(type(run) is not int for run in runs):
        raise ValueError("run lengths are whole numbers")
    if sum(runs) != size or not runs or runs[0] < 0 or any(run <= 0 for run in runs[1:]):
        raise ValueError(f"run lengths are positive, but for the first, and add up to {size} pixels")
    return np.array(runs, np.uint32)


def decode(runs: npt.NDArray[np.uint32], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(H, W) mask from its run lengths."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape)
