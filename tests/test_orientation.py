"""Letters beside the image, and whether the anatomy agrees with them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ipfvision.core.orientation import Edges, edges, spine_in_front
from ipfvision.core.slice import Plane, Scale, Slice, Source
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.intake import take_in_paths


@pytest.mark.parametrize(
    ("row", "column", "letters"),
    [
        ((1, 0, 0), (0, 1, 0), Edges("R", "L", "A", "P")),  # supine, as radiologists hang it
        ((-1, 0, 0), (0, -1, 0), Edges("L", "R", "P", "A")),  # prone
        ((1, 0, 0), (0, 0, -1), Edges("R", "L", "H", "F")),  # coronal
        ((0, 1, 0), (0, 0, -1), Edges("A", "P", "H", "F")),  # sagittal
    ],
)
def test_the_letters_are_those_of_the_patient(row: tuple, column: tuple, letters: Edges) -> None:
    assert edges(Plane((0.0, 0.0, 0.0), row, column)) == letters


def test_a_turned_slice_gets_two_letters_and_a_slight_turn_none() -> None:
    def turned(degrees: float) -> Edges:
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return edges(Plane((0.0, 0.0, 0.0), (cosine, sine, 0.0), (-sine, cosine, 0.0)))

    assert turned(30) == Edges("RA", "LP", "AL", "PR")
    assert turned(5) == Edges("R", "L", "A", "P")


def _thoraxes(row: tuple, column: tuple, *, turned: bool, count: int = 6) -> list[Slice]:
    """A drawn chest at several levels, spine down, or turned by 180 degrees; the file says `row` and `column`."""
    found = []
    for level in np.linspace(0.3, 0.8, count):
        thorax = draw_thorax(np.random.default_rng(3), level=float(level), size=256, spacing_mm=1.3)
        pixels = thorax.pixels.astype(np.int16)
        pixels = np.ascontiguousarray(pixels[::-1, ::-1]) if turned else pixels
        plane = Plane((0.0, 0.0, 100 * float(level)), row, column)
        nothing = np.zeros(pixels.shape, np.bool_)
        found.append(Slice(pixels, Scale.HOUNSFIELD, Source("drawn", "DICOM", str(level)), nothing, thorax.spacing, plane))
    return found


@pytest.mark.parametrize(
    ("row", "column", "turned", "wrong"),
    [
        ((1, 0, 0), (0, 1, 0), False, False),
        ((-1, 0, 0), (0, -1, 0), True, False),  # stored front down, and the file says so
        ((-1, 0, 0), (0, -1, 0), False, True),
        ((1, 0, 0), (0, 1, 0), True, True),
    ],
)
def test_a_spine_in_front_gives_wrong_letters_away(row: tuple, column: tuple, turned: bool, wrong: bool) -> None:
    assert spine_in_front(_thoraxes(row, column, turned=turned)) is wrong


def test_nothing_is_said_of_few_slices_of_other_planes_or_of_no_bone() -> None:
    wrong = _thoraxes((-1, 0, 0), (0, -1, 0), turned=False)
    assert spine_in_front(wrong)
    assert not spine_in_front(wrong[:4])
    assert not spine_in_front([])
    assert not spine_in_front(_thoraxes((1, 0, 0), (0, 0, -1), turned=False))
    assert not spine_in_front([replace(one, pixels=np.full(one.shape, 40, np.int16)) for one in wrong])


@pytest.mark.parametrize(("source", "wrong"), [("osic_421.zip", True), ("lungpetctdx", False), ("rtstruct", False)])
def test_real_series_are_told_apart(shared_data: Path, source: str, wrong: bool) -> None:
    said = [any("spine" in note for note in series.notes) for series in take_in_paths([shared_data / source]).series]
    assert said == [wrong] * len(said)
    assert said
