"""Letters beside the image."""

import math

import pytest

from ipfvision.core.orientation import Edges, edges
from ipfvision.core.slice import Plane


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
