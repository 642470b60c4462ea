"""One rule by which outlines become pixels."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipfvision.core.rasterize import FARTHEST, crosses_itself, fill_polygons

SQUARE = np.array([[1.0, 1], [4, 1], [4, 3], [1, 3]])
coordinates = st.floats(-6, 14, allow_nan=False, width=32)
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8).map(np.array)


def winding_parity(polygon, x, y):
    """Crossings of a ray to the left, one edge and one pixel at a time."""
    odd = False
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        (ax, ay), (bx, by) = sorted((start.tolist(), end.tolist()), key=lambda corner: corner[::-1])
        if ay <= y < by and ax + (y - ay) / (by - ay) * (bx - ax) <= x:
            odd = not odd
    return odd


def by_hand(outlines, shape):
    mask = np.zeros(shape, np.bool_)
    for row, column in np.ndindex(shape):
        mask[row, column] = sum(winding_parity(one, column + 0.5, row + 0.5) for one in outlines) % 2
    return mask


@settings(max_examples=150, deadline=None)
@given(st.lists(polygons, max_size=3))
def test_the_mask_is_that_of_counting_crossings_pixel_by_pixel(outlines):
    assert (fill_polygons(outlines, (8, 9)) == by_hand(outlines, (8, 9))).all()


def test_a_square_on_pixel_borders_is_exactly_its_pixels():
    mask = fill_polygons([SQUARE], (5, 6))
    assert np.argwhere(mask).tolist() == [[row, column] for row in (1, 2) for column in (1, 2, 3)]


def test_a_polygon_in_a_polygon_is_a_hole():
    mask = fill_polygons([SQUARE * 4, SQUARE + np.array([6, 5])], (20, 20))
    assert mask.sum() == 12 * 8 - 3 * 2


def test_where_a_polygon_winds_twice_is_outside():
    twice = np.concatenate([SQUARE, SQUARE])
    assert not fill_polygons([twice], (5, 6)).any()


@settings(max_examples=60, deadline=None)
@given(polygons, st.floats(-3, 3, width=32), st.floats(-3, 3, width=32))
def test_the_two_sides_of_a_cut_share_no_pixel_and_leave_none_out(polygon, dx, dy):
    """A polygon and the same with one more corner differ by a triangle."""
    corner = (polygon[0] + polygon[-1]) / 2 + np.array([dx, dy])
    larger = np.concatenate([polygon, corner[None]])
    triangle = np.array([polygon[-1], corner, polygon[0]])
    assert (fill_polygons([larger], (8, 9)) == (fill_polygons([polygon], (8, 9)) ^ fill_polygons([triangle], (8, 9)))).all()


@given(polygons)
@settings(max_examples=60, deadline=None)
def test_the_direction_and_the_first_corner_do_not_matter(polygon):
    mask = fill_polygons([polygon], (8, 9))
    assert (mask == fill_polygons([polygon[::-1]], (8, 9))).all()
    assert (mask == fill_polygons([np.roll(polygon, 2, axis=0)], (8, 9))).all()


@pytest.mark.parametrize("outlines", [[], [np.empty((0, 2))], [SQUARE[:2]], [SQUARE + 100], [SQUARE - 100]])
def test_what_encloses_nothing_inside_the_image_is_empty(outlines):
    assert not fill_polygons(outlines, (5, 6)).any()


def test_a_polygon_around_the_image_fills_it():
    assert fill_polygons([SQUARE * 1e6 - 2e6], (5, 6)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2 * FARTHEST])
def test_coordinates_that_are_no_place_are_an_error(bad):
    with pytest.raises(ValueError, match="finite"):
        fill_polygons([np.array([[0, 0], [1, 0], [1, bad]])], (5, 6))
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        fill_polygons([np.zeros((3, 3))], (5, 6))


def test_the_area_of_a_disc_is_close():
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    disc = np.stack([256 + 200 * np.cos(angle), 256 + 200 * np.sin(angle)], axis=1)
    assert fill_polygons([disc], (512, 512)).sum() == pytest.approx(np.pi * 200**2, rel=1e-3)


def test_a_large_outline_takes_no_time():
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    disc = np.stack([2048 + 2000 * np.cos(angle), 2048 + 2000 * np.sin(angle)], axis=1)
    started = time.monotonic()
    fill_polygons([disc], (4096, 4096))
    assert not crosses_itself(disc)
    assert time.monotonic() - started < 10


def crosses_by_hand(polygon):
    def side(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    edges = list(zip(polygon, np.roll(polygon, -1, axis=0), strict=True))
    return any(
        side(*p, q[0]) * side(*p, q[1]) < 0 and side(*q, p[0]) * side(*q, p[1]) < 0
        for i, p in enumerate(edges)
        for q in edges[i + 1 :]
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=9))
def test_crossings_are_found_where_every_pair_of_edges_is_looked_at(corners):
    polygon = np.array(corners, np.float64)
    assert crosses_itself(polygon) == crosses_by_hand(polygon)


def test_a_bow_tie_crosses_itself_and_a_square_does_not():
    assert crosses_itself(np.array([[0.0, 0], [4, 4], [4, 0], [0, 4]]))
    assert not crosses_itself(SQUARE)
    assert not crosses_itself(SQUARE[:2])
