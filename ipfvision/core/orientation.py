"""Which side of the patient each edge of a slice is: the letters beside an image."""

from dataclasses import dataclass

from ipfvision.core.slice import Plane

_NAMES = (("L", "R"), ("P", "A"), ("H", "F"))
"""Towards growing and falling x, y, z in the patient's coordinate system (PS3.3 C.7.6.1.1.1, Patient Orientation)."""
LEAST_COSINE = 0.2
"""A second letter is given to a direction that leans by more than about 12 degrees."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Letters for the four edges of an image as it is shown."""

    left: str
    right: str
    top: str
    bottom: str


def edges(plane: Plane) -> Edges:
    """Letters from Image Orientation (Patient): one for each edge, or more where it lies between two directions."""
    return Edges(_letters(plane.row, -1), _letters(plane.row, 1), _letters(plane.column, -1), _letters(plane.column, 1))


def _letters(direction: tuple[float, float, float], sign: int) -> str:
    strongest = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(
        _NAMES[axis][0 if sign * direction[axis] > 0 else 1] for axis in strongest if abs(direction[axis]) >= LEAST_COSINE
    )
