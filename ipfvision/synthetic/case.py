"""One training or sample case: a real or drawn slice with, or without, drawn fibrosis."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ipfvision.core.annotation import Annotation, Finding, Said
from ipfvision.synthetic.distractors import draw_distractors
from ipfvision.synthetic.fibrosis import draw_fibrosis, plan_fibrosis
from ipfvision.synthetic.field import Image, LungField, Mask

READER = "synthetic"
DISTRACTED_NORMAL = 0.75
DISTRACTED_DISEASED = 0.35
"""Share of cases with distractors, without and with fibrosis."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A slice, what was drawn into it, and where."""

    pixels: Image
    """(H, W) float32 Hounsfield units."""
    annotations: tuple[Annotation, ...]
    """One for each finding of fibrosis that was drawn; empty for a case without."""
    distractors: tuple[str, ...]
    """Names of what else was drawn: keys of `ipfvision.synthetic.distractors.DISTRACTORS`."""
    severity: float
    """Share of the lungs' area in the disease mask, in [0, 1]; 0 without fibrosis."""


def disease_mask(annotations: Iterable[Annotation], shape: tuple[int, int]) -> Mask:
    """(H, W) bool: where fibrosis was drawn. Ground glass alone is not counted, because it is not specific."""
    union = np.zeros(shape, np.bool_)
    for annotation in annotations:
        if annotation.said.finding is not Finding.GROUND_GLASS:
            union |= annotation.mask
    return union


def draw_case(
    hu: Image, lungs: Mask, mm_per_pixel: float, rng: np.random.Generator, *, diseased: bool, distractors: bool = True
) -> Case:
    """Draw one case into a slice without fibrosis.

    Distractors come from the same generator in both classes, so that "was edited" is no clue.

    Parameters
    ----------
    hu
        (H, W) float32 Hounsfield units of an axial slice, patient supine.
    lungs
        (H, W) bool.
    mm_per_pixel
        Distance between pixel centers; see `ipfvision.synthetic.field.millimetres_per_pixel_from_lungs` if it is not known.
    rng
        Same state, same case.
    diseased
        Whether to draw fibrosis.
    distractors
        Whether to draw distractors now and then; False is for measuring what they are good for.

    Raises
    ------
    ValueError
        If the lungs are too small to draw in, or the scale is not that of a CT.
    """
    field = LungField(hu, lungs, mm_per_pixel, rng)
    distracted = rng.random() < (DISTRACTED_DISEASED if diseased else DISTRACTED_NORMAL)
    names = draw_distractors(field) if distracted and distractors else ()
    drawn: dict[Finding, Mask] = draw_fibrosis(field, plan_fibrosis(rng)) if diseased else {}
    annotations = tuple(Annotation(field.whole(mask), Said(finding, READER)) for finding, mask in drawn.items())
    disease = disease_mask(annotations, hu.shape)
    severity = float(np.count_nonzero(disease)) / float(np.count_nonzero(field.lungs))
    return Case(field.result(), annotations, names, severity)
