"""Annotations from files come to lie on the slices that they were drawn on, or a sentence says why not."""

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ipfvision.core.annotation import (
    Annotation,
    BoxAnnotation,
    ContoursInPatient,
    DrawnOnImage,
    Finding,
    MaskInPatient,
    Said,
)
from ipfvision.core.placement import Placed, place, trace
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Series, Slice, Source

SAID = Said(Finding.HONEYCOMBING, "DICOM SEG", "a", "DICOM SEG")
SHAPE = (12, 16)
SPACING = PixelSpacing(0.7, 0.8)
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def ct(z: float, uid: str | None = None, frame: str | None = "1.9", thickness_mm: float | None = 5.0) -> Slice:
    source = Source("ct.dcm", "DICOM", "", sop_instance_uid=uid, frame_of_reference_uid=frame)
    plane = Plane((0.0, 0.0, z), *AXIAL)
    pixels = np.zeros(SHAPE, np.int16)
    return Slice(pixels, Scale.HOUNSFIELD, source, np.zeros(SHAPE, np.bool_), SPACING, plane, thickness_mm)


def stack(*z: float, frame: str | None = "1.9", thickness_mm: float | None = 5.0) -> Series:
    return Series(tuple(ct(one, f"1.{number}", frame, thickness_mm) for number, one in enumerate(z, 1)))


def picture(name: str, shape: tuple[int, int] = SHAPE) -> Slice:
    pixels = np.zeros(shape, np.float32)
    return Slice(pixels, Scale.GREY, Source(name, "PNG", ""), np.zeros(shape, np.bool_))


def drawn(seed: int = 0) -> npt.NDArray[np.bool_]:
    return np.random.default_rng(seed).random(SHAPE) < 0.4


def mask(z: float, uids: tuple[str, ...] = (), frame: str | None = "1.9", said: Said = SAID, seed: int = 0) -> MaskInPatient:
    return MaskInPatient(drawn(seed), Plane((0.0, 0.0, z), *AXIAL), SPACING, said, uids, frame)


def where(placed: Placed) -> dict[tuple[int, int], list[str]]:
    return {target: [one.said.matched_by for one in annotations] for target, annotations in placed.by_slice.items()}


def test_the_named_slice_comes_before_the_nearest_one() -> None:
    placed = place([mask(1.4, ("1.1",))], [stack(0, 2, 4)])
    assert where(placed) == {(0, 0): ["SOP Instance UID, 1.4 mm away"]}
    assert len(placed.notes) == 1
    assert where(place([mask(0, ("1.1",))], [stack(0, 2, 4)])) == {(0, 0): ["SOP Instance UID"]}


def test_without_a_name_the_nearest_slice_within_half_a_spacing_is_taken() -> None:
    series = [stack(0, 2, 4)]
    assert where(place([mask(2.9)], series)) == {(0, 1): ["position, 0.9 mm away"]}
    assert where(place([mask(4.9)], series)) == {(0, 2): ["position, 0.9 mm away"]}
    off = place([mask(5.2), mask(-9, seed=1)], series)
    assert off.by_slice == {}
    (problem,) = off.problems
    assert problem.startswith("Not shown: 2 masks on no open slice, neither by SOP Instance UID nor by position;")


def test_the_spacing_is_that_to_the_nearer_neighbor_and_the_reach_never_more_than_a_thickness() -> None:
    uneven = [stack(0, 1, 10, 11)]
    assert place([mask(5)], uneven).by_slice == {}
    assert where(place([mask(0.4)], uneven)) == {(0, 0): ["position, 0.4 mm away"]}
    gaps = [stack(0, 40, thickness_mm=1.0)]
    assert place([mask(3)], gaps).by_slice == {}
    assert where(place([mask(0.9)], gaps)) == {(0, 0): ["position, 0.9 mm away"]}
    alone = [stack(0, thickness_mm=3.0)]
    assert where(place([mask(1.4)], alone)) == {(0, 0): ["position, 1.4 mm away"]}
    assert place([mask(1.6)], alone).by_slice == {}


def test_masks_farther_apart_than_the_slices_lie_on_the_nearest_ones() -> None:
    slices = stack(*np.arange(0, 8, 0.8).tolist(), thickness_mm=0.8)
    planes = [mask(1.6 * number, frame=None, seed=number) for number in range(5)]
    placed = place(planes, [slices])
    assert sorted(placed.by_slice) == [(0, 0), (0, 2), (0, 4), (0, 6), (0, 8)]
    for (_, index), (one,) in placed.by_slice.items():
        assert isinstance(one, Annotation)
        assert np.array_equal(one.mask, drawn(index // 2))


def test_of_several_planes_of_one_region_the_nearest_is_taken_and_of_two_regions_both() -> None:
    items = [mask(-0.9, seed=1), mask(0.1, seed=2), mask(0.9, seed=3), mask(0.8, said=replace(SAID, label="b"), seed=4)]
    placed = place(items, [stack(0, 2)])
    first, second = placed.by_slice[0, 0]
    assert isinstance(first, Annotation)
    assert isinstance(second, Annotation)
    assert np.array_equal(first.mask, drawn(2))
    assert np.array_equal(second.mask, drawn(4))
    assert placed.notes == ("Of several planes of one region on one slice the nearest was taken; 2 planes farther away not.",)


def test_frames_of_one_object_are_told_apart_by_position() -> None:
    enhanced = Series(tuple(ct(z, "1.7") for z in (0.0, 2.0, 4.0)))
    assert where(place([mask(4, ("1.7",)), mask(2, ("1.7",))], [enhanced])) == {
        (0, 1): ["SOP Instance UID"],
        (0, 2): ["SOP Instance UID"],
    }


@pytest.mark.parametrize(("uids", "words"), [((), "in another frame of reference"), (("1.1",), "contradicts itself")])
def test_another_frame_of_reference_is_refused(uids: tuple[str, ...], words: str) -> None:
    placed = place([mask(0, uids, frame="1.8")], [stack(0, 2)])
    assert placed.by_slice == {}
    assert words in placed.problems[0]


def test_slices_of_another_scan_need_more_than_the_same_position() -> None:
    named = mask(0, ("9.9",), frame=None)
    assert place([named], [stack(0, 2)]).by_slice == {}
    # Another reconstruction of the same scan.
    assert where(place([mask(0, ("9.9",))], [stack(0, 2)])) == {(0, 0): ["position, 0.0 mm away"]}


def test_position_alone_never_chooses_between_two_scans() -> None:
    twice = [stack(0, 2), stack(0, 2, frame="1.8")]
    assert place([mask(0, frame=None)], twice).by_slice == {}
    assert "more than one open scan" in place([mask(0, frame=None)], twice).problems[0]
    assert where(place([mask(0)], twice)) == {(0, 0): ["position, 0.0 mm away"]}
    assert sorted(place([mask(0)], [stack(0, 2), stack(0, 3)]).by_slice) == [(0, 0), (1, 0)]


def test_planes_that_are_not_parallel_are_refused_and_the_opposite_direction_is_parallel() -> None:
    tilt = np.radians(3)
    tilted = Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, float(np.cos(tilt)), float(np.sin(tilt))))
    assert "not parallel" in place([replace(mask(0), plane=tilted)], [stack(0, 2)]).problems[0]
    height = (SHAPE[0] - 1) * SPACING.row_mm
    upside_down = Plane((0.0, height, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
    placed = place([replace(mask(0), plane=upside_down, mask=drawn()[::-1])], [stack(0, 2)])
    (one,) = placed.by_slice[0, 0]
    assert isinstance(one, Annotation)
    assert np.array_equal(one.mask, drawn())


def test_what_lies_outside_the_slice_is_refused_and_what_is_empty_is_kept() -> None:
    beside = replace(mask(0), plane=Plane((100.0, 0.0, 0.0), *AXIAL))
    assert "outside the area" in place([beside], [stack(0, 2)]).problems[0]
    contour = ContoursInPatient((np.array([[90, 90, 0], [95, 90, 0], [95, 95, 0.0]]),), SAID)
    assert "outside the area" in place([contour], [stack(0, 2)]).problems[0]
    empty = replace(mask(0), mask=np.zeros((1, 1), np.bool_))
    (one,) = place([empty], [stack(0, 2)]).by_slice[0, 0]
    assert isinstance(one, Annotation)
    assert not one.mask.any()


def test_pictures_and_slices_without_a_pixel_size_have_no_place_for_it() -> None:
    assert "pictures do not have" in place([mask(0)], [Series((picture("a.png"),))]).problems[0]
    unknown = Series((replace(ct(0), spacing=None),))
    assert "not known" in place([mask(0)], [unknown]).problems[0]


def test_half_covered_pixels_belong_to_a_finer_mask_and_the_smallest_one_is_not_lost() -> None:
    fine = np.zeros((SHAPE[0] * 4, SHAPE[1] * 4), np.bool_)
    plane = Plane((-0.3, -0.2625, 0.0), *AXIAL)
    item = MaskInPatient(fine, plane, PixelSpacing(0.175, 0.2), SAID, (), "1.9")
    covered = fine.copy()
    covered[8:12, 8:16] = True
    covered[8:10, 16:20] = True  # half of the next pixel
    covered[8:9, 20:24] = True  # a quarter of the one after it
    (one,) = place([replace(item, mask=covered)], [stack(0, 2)]).by_slice[0, 0]
    assert isinstance(one, Annotation)
    assert np.argwhere(one.mask).tolist() == [[2, 2], [2, 3], [2, 4]]
    dot = fine.copy()
    dot[9, 9] = True
    (one,) = place([replace(item, mask=dot)], [stack(0, 2)]).by_slice[0, 0]
    assert isinstance(one, Annotation)
    assert np.argwhere(one.mask).tolist() == [[2, 2]]


@pytest.mark.parametrize("mm", [0.001, 1e-300])
def test_a_mask_between_all_samples_is_the_pixel_that_it_lies_in(mm: float) -> None:
    tiny = MaskInPatient(np.ones((1, 1), np.bool_), Plane((3.13, 2.07, 0.0), *AXIAL), PixelSpacing(mm, mm), SAID)
    (one,) = place([tiny], [stack(0, 2)]).by_slice[0, 0]
    assert isinstance(one, Annotation)
    assert np.argwhere(one.mask).tolist() == [[3, 4]]


def _is_inside(x: Fraction, y: Fraction, corners: list[tuple[Fraction, Fraction]]) -> bool:
    """Inside by even-odd or on a line, in exact numbers."""
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        cross = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        if cross == 0 and min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1):
            return True
        if (y0 <= y) != (y1 <= y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


half_steps = st.tuples(st.integers(-4, 20), st.integers(-4, 20))


@settings(max_examples=200, deadline=None)
@given(st.lists(half_steps, min_size=3, max_size=8))
def test_a_contour_is_the_pixels_whose_center_is_inside_or_on_its_line(steps: list[tuple[int, int]]) -> None:
    corners = [(Fraction(x, 2), Fraction(y, 2)) for x, y in steps]
    half = Fraction(1, 2)
    expected = np.array([[_is_inside(x + half, y + half, corners) for x in range(8)] for y in range(8)])
    found = trace([np.array(steps, np.float64) / 2], (8, 8))
    if expected.any():
        assert np.array_equal(found, expected)
    else:
        # Too thin for any center: only pixels that it comes by.
        for row, column in np.argwhere(found):
            assert min(steps)[0] / 2 - 1 <= column <= max(steps)[0] / 2
            assert min(y for _, y in steps) / 2 - 1 <= row <= max(y for _, y in steps) / 2


@settings(max_examples=100, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_what_opencv_traces_through_pixel_centers_comes_back(pixels: npt.NDArray[np.bool_]) -> None:
    found, _ = cv2.findContours(pixels.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    contours = [one[:, 0].astype(np.float64) + 0.5 for one in found]
    assert np.array_equal(trace(contours, (pixels.shape[0], pixels.shape[1])), pixels)


@pytest.mark.parametrize(
    ("contour", "expected"),
    [
        ([(3.1, 4.1), (3.3, 4.1), (3.2, 4.4)], [[4, 3]]),
        ([(2.5, 3.5), (5.5, 3.5)], [[3, 2], [3, 3], [3, 4], [3, 5]]),
        ([(2.5, 1.7), (2.5, 4.7)], [[2, 2], [3, 2], [4, 2]]),
        ([(1.2, 2.7), (4.2, 2.7), (4.2, 2.9), (1.2, 2.9)], [[2, 1], [2, 2], [2, 3]]),
    ],
)
def test_what_no_center_lies_in_is_not_lost(contour: list[tuple[float, float]], expected: list[list[int]]) -> None:
    assert np.argwhere(trace([np.array(contour)], (8, 8))).tolist() == expected


def test_contours_far_beyond_the_slice_cost_no_memory() -> None:
    far = np.array([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)])
    assert trace([far], (8, 8)).all()


def on_image(name: str | None, shape: tuple[int, int] = SHAPE, origin: str = "mask", seed: int = 0) -> DrawnOnImage:
    on = Annotation(np.random.default_rng(seed).random(shape) < 0.5, replace(SAID, origin=origin))
    return DrawnOnImage(on, shape, name)


@pytest.mark.parametrize(
    "name",
    [
        "slice_2.png",
        "SLICE_2.TIF",
        "slice_2_mask.png",
        "slice_2-mask.nii.gz",
        "a/b/slice_2_annotation.json",
        "Slice_2_label.png",
    ],
)
def test_a_name_finds_its_slice_whatever_its_case_ending_and_suffix(name: str) -> None:
    pictures = Series(tuple(picture(f"folder/slice_{number}.png") for number in range(12)))
    assert where(place([on_image(name)], [pictures])) == {(0, 2): ["file name"]}


def test_without_a_name_the_only_slice_of_the_size_is_taken() -> None:
    pictures = Series((picture("a.png"), picture("b.png", (9, 9)), picture("c.png", (9, 9))))
    box = DrawnOnImage(BoxAnnotation(1, 2, 3, 4, SAID), SHAPE)
    assert where(place([on_image(None), on_image("whatever.png"), box], [pictures])) == {
        (0, 0): ["only slice of this size"] * 3
    }
    assert "which 2 open slices have" in place([on_image(None, (9, 9))], [pictures]).problems[0]
    assert "12 x 17" in place([on_image(None, (12, 17))], [pictures]).problems[0]


def test_another_size_than_that_of_the_named_slice_is_refused_with_both() -> None:
    placed = place([on_image("a_mask.png", (24, 32))], [Series((picture("a.png"), picture("b.png", (24, 32))))])
    assert placed.by_slice == {}
    assert "24 x 32" in placed.problems[0]
    assert "12 x 16" in placed.problems[0]


def test_a_collection_of_other_images_does_not_gather_on_the_only_slice_of_its_size() -> None:
    items = [on_image(f"image_{number}.png", origin="COCO") for number in range(5)]
    placed = place(items, [Series((picture("mine.png"),))])
    assert placed.by_slice == {}
    assert placed.problems == (
        "Not shown: 5 annotations of other images than the open ones; please open the images that the annotation names.",
    )
    assert where(place([*items, on_image("mine.jpg", origin="COCO")], [Series((picture("mine.png"),))])) == {
        (0, 0): ["file name"]
    }
    masks = [on_image(f"finding_{number}.png") for number in range(2)]
    assert len(place(masks, [Series((picture("mine.png"),))]).by_slice[0, 0]) == 2
