"""The regions of a slice that numbers are taken over: what was annotated, and the lungs if they can be relied on."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import Annotation, BoxAnnotation, OnSlice, PointAnnotation
from ipfvision.core.lungs import Lungs

Mask = npt.NDArray[np.bool_]

MOST_OUTSIDE_LUNG = 0.3
"""Largest share of an annotation that may lie outside the lung mask before the mask, or the annotation, is not believed. A mask
drawn over the pleura by a pixel or two stays well below it; an annotated consolidation that the mask lost does not."""


def annotated_area(annotations: Iterable[OnSlice], shape: tuple[int, int]) -> Mask | None:
    """The union M of the annotated areas; None if nothing was annotated as an area.

    Points and boxes are no areas and add nothing.

    Raises
    ------
    ValueError
        If a mask is not (H, W) of the slice.
    """
    union: Mask | None = None
    for annotation in annotations:
        if isinstance(annotation, Annotation):
            if annotation.mask.shape != shape:
                raise ValueError(f"an annotation of {annotation.mask.shape} is not on this slice of {shape}")
            union = annotation.mask.copy() if union is None else union | annotation.mask
    return union


def in_box(box: BoxAnnotation, shape: tuple[int, int]) -> Mask:
    """(H, W): the pixels whose centers lie in a box; of a box that holds no center, the pixel under its middle."""
    rows, columns = (np.arange(length) + 0.5 for length in shape)
    across = (columns >= box.left) & (columns <= box.right)
    down = (rows >= box.top) & (rows <= box.bottom)
    if not across.any():
        across = np.abs(columns - (box.left + box.right) / 2) <= 0.5
    if not down.any():
        down = np.abs(rows - (box.top + box.bottom) / 2) <= 0.5
    return np.asarray(down[:, None] & across[None, :], np.bool_)


def around_point(
    point: PointAnnotation, tolerance: float, shape: tuple[int, int], pixel: tuple[float, float] = (1.0, 1.0)
) -> Mask:
    """(H, W): the pixels whose centers lie within `tolerance` of a point; `pixel` is (width, height) in the same unit."""
    rows, columns = (np.arange(length) + 0.5 for length in shape)
    across, down = (columns - point.x) * pixel[0], (rows - point.y) * pixel[1]
    return np.asarray(np.square(down)[:, None] + np.square(across)[None, :] <= tolerance**2, np.bool_)


def lung_reason(lungs: Lungs, annotations: Sequence[OnSlice] = ()) -> str | None:
    """Why numbers that rest on the lung mask are not given, in a sentence; None if the mask holds.

    It fails on its own verdict, when it is empty, and when more than `MOST_OUTSIDE_LUNG` of the annotated area lies outside it.
    """
    verdict = lungs.problem or lungs.doubt
    if verdict is not None:
        return verdict
    if not lungs.mask.any():
        return "The lung mask is empty."
    shape = lungs.mask.shape
    area = annotated_area(annotations, (shape[0], shape[1]))
    if area is None or not area.any():
        return None
    outside = float((area & ~lungs.mask).sum() / area.sum())
    if outside <= MOST_OUTSIDE_LUNG:
        return None
    return (
        f"{100 * outside:.0f} % of the annotation lies outside the lung mask (more than {100 * MOST_OUTSIDE_LUNG:.0f} %): "
        "the mask misses a part of the lung, or the annotation is not of this slice."
    )
