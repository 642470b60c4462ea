"""One mask of several readers': by majority, or by STAPLE, which weighs each reader by how well they do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import Finding
from ipfvision.core.review import Review
from ipfvision.errors import StudyProblem
from ipfvision.workflow.reader_agreement import Word, opinion_of, that_count

Mask: TypeAlias = npt.NDArray[np.bool_]

MOST_ITERATIONS = 200
"""Of STAPLE. Drawings that overlap settled within 100 where it was tried; drawings that lie apart do not settle."""


@dataclass(frozen=True, slots=True, eq=False)
class Staple:
    """What STAPLE makes of several masks, and of those who drew them."""

    mask: Mask
    """Where the probability is above one half."""
    sensitivity: tuple[float, ...] | None
    """Of each mask, in their order, against the hidden truth; likewise `specificity`, which the empty rest of a slice brings
    near to 1. None if all masks are alike: then there is nothing to tell them apart by."""
    specificity: tuple[float, ...] | None


def drawn_by_readers(
    reviews: Iterable[Review],
    case_id: str,
    slice_index: int,
    findings: Iterable[Finding] = tuple(Finding),
    word: Word = Word.REVISED,
) -> dict[str, Mask]:
    """Each reader's mask of one slice; empty for a reader of the case who marked nothing on this slice.

    Readers who drew nothing on any slice of any case take no part, as in `ipfvision.workflow.reader_agreement`.
    """
    counted, findings = that_count(reviews), tuple(findings)
    drawing = {one.reader for one in counted if (opinion := opinion_of(one, word)) is not None and opinion.drawings}
    found = {}
    for one in counted:
        opinion = opinion_of(one, word)
        if one.case.id == case_id and opinion is not None and one.reader in drawing:
            mask = opinion.mask(slice_index, findings)
            found[one.reader] = np.zeros(one.case.slices[slice_index].shape, np.bool_) if mask is None else mask
    return found


def majority(masks: Sequence[Mask]) -> Mask:
    """Pixels that more than half of the readers marked; of two readers, what both did.

    Raises
    ------
    ValueError
        Without a mask, or if they differ in shape.
    """
    _check(masks)
    votes = np.sum(np.array(masks), axis=0, dtype=np.int64)
    return np.asarray(2 * votes > len(masks))


def has_staple() -> bool:
    """Whether SimpleITK is installed."""
    return find_spec("SimpleITK") is not None


def staple(masks: Sequence[Mask]) -> Staple:
    """Simultaneous truth and performance level estimation (Warfield et al., IEEE Trans Med Imaging 2004;23:903-921).

    SimpleITK's own, over the whole slice and with its own prior, so that it can be repeated elsewhere. Masks that are all alike
    need no estimation, and SimpleITK's is not defined for empty ones: they are returned as they are.

    Raises
    ------
    StudyProblem
        If SimpleITK is not installed.
    ValueError
        Without a mask, or if they differ in shape.
    """
    _check(masks)
    if all((mask == masks[0]).all() for mask in masks):
        return Staple(masks[0].copy(), None, None)
    try:
        sitk: Any = import_module("SimpleITK")  # optional, slow to import, and without types
    except ModuleNotFoundError:
        raise StudyProblem(
            "STAPLE needs the package SimpleITK, which is not installed here: pip install SimpleITK, or use the majority."
        ) from None
    estimation = sitk.STAPLEImageFilter()
    estimation.SetForegroundValue(1)
    estimation.SetMaximumIterations(MOST_ITERATIONS)
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    probability = sitk.GetArrayFromImage(estimation.Execute(images))
    return Staple(probability > 0.5, tuple(estimation.GetSensitivity()), tuple(estimation.GetSpecificity()))


def _check(masks: Sequence[Mask]) -> None:
    if not masks:
        raise ValueError("a consensus is of at least one mask")
    if len({mask.shape for mask in masks}) > 1:
        raise ValueError("masks of one consensus are of one slice")
