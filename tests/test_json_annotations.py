"""LabelMe and COCO: areas, boxes and points in the pixels of a named image."""

import base64
import json
import warnings
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from ipfvision import images, json_annotations
from ipfvision.core.annotation import Annotation, BoxAnnotation, Finding, PointAnnotation
from ipfvision.core.rasterize import fill_polygons
from ipfvision.errors import AnnotationUnusable, NotAnAnnotation, TooLarge

SHAPE = (30, 40)
SQUARE = [[4, 6], [14, 6], [14, 20], [4, 20]]


def read(found, open_names=("ct.png",)):
    content = found if isinstance(found, bytes) else json.dumps(found).encode()
    assert json_annotations.is_json(content)
    return json_annotations.read(content, lambda name: name in open_names, images.read_drawn)


def labelme(*shapes, **changes):
    rows, columns = SHAPE
    file = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "ct.png", "imageData": None}
    return {**file, "imageHeight": rows, "imageWidth": columns, **changes}


def shape(points, kind="polygon", label="honeycombing", **more):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def coco(*annotations, categories=(), **changes):
    rows, columns = SHAPE
    file = {"images": [{"id": 1, "file_name": "ct.png", "height": rows, "width": columns}], "annotations": list(annotations)}
    return {**file, "categories": list(categories), **changes}


def area(segmentation, image=1, category=1, **more):
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def only(file):
    (item,) = file.items
    return item


def mask_of(file):
    on = only(file).on
    assert isinstance(on, Annotation)
    return on.mask


# LabelMe


def test_a_labelme_polygon_is_the_pixels_whose_centers_are_inside():
    item = only(read(labelme(shape(SQUARE))))
    assert (item.on.mask == fill_polygons([np.array(SQUARE, float)], SHAPE)).all()
    assert item.on.mask.sum() == 10 * 14
    assert (item.image_shape, item.image_name) == (SHAPE, "ct.png")
    said = item.on.said
    assert (said.finding, said.label, said.origin, said.reader) == (Finding.HONEYCOMBING, "honeycombing", "LabelMe", "LabelMe")


def test_a_polygon_without_a_shape_type_is_a_polygon():
    drawn = shape(SQUARE)
    del drawn["shape_type"]
    assert mask_of(read(labelme(drawn))).sum() == 140


@pytest.mark.parametrize("corners", [[[14, 20], [4, 6]], SQUARE])
def test_a_labelme_rectangle_stays_a_box(corners):
    on = only(read(labelme(shape(corners, "rectangle")))).on
    assert isinstance(on, BoxAnnotation)
    assert (on.left, on.top, on.right, on.bottom) == (4, 6, 14, 20)


def test_a_labelme_point_stays_a_point():
    on = only(read(labelme(shape([[3.5, 7.25]], "point")))).on
    assert isinstance(on, PointAnnotation)
    assert (on.x, on.y) == (3.5, 7.25)


def test_a_labelme_circle_is_the_disc_around_its_center():
    mask = mask_of(read(labelme(shape([[20, 15], [20, 25]], "circle"))))
    assert mask.sum() == pytest.approx(np.pi * 100, rel=0.02)
    assert (mask == mask[:, ::-1]).all()
    assert (mask == mask[::-1]).all()


def test_a_tiny_circle_or_polygon_is_not_lost():
    assert mask_of(read(labelme(shape([[7.1, 3.9], [7.1, 3.8]], "circle"))))[3, 7]
    tiny = [[7.1, 3.7], [7.3, 3.7], [7.2, 3.9]]
    mask = mask_of(read(labelme(shape(tiny))))
    assert np.argwhere(mask).tolist() == [[3, 7]]


def test_a_labelme_mask_is_its_png_at_its_place():
    part = np.array([[1, 0, 1], [0, 1, 1]], np.uint8) * 255
    stored = base64.b64encode(images.write_png(part)).decode()
    mask = mask_of(read(labelme(shape([[10, 5], [12, 6]], "mask", mask=stored))))
    assert (mask[5:7, 10:13] == (part > 0)).all()
    assert mask.sum() == 4


def test_a_labelme_mask_may_fill_its_box():
    stored = base64.b64encode(images.write_png(np.full((2, 3), 255, np.uint8))).decode()
    assert mask_of(read(labelme(shape([[10, 5], [12, 6]], "mask", mask=stored)))).sum() == 6


@pytest.mark.parametrize("stored", [None, "", "?", "aGVsbG8=", 7])
def test_a_damaged_labelme_mask_is_left_out_and_said(stored):
    file = read(labelme(shape(SQUARE), shape([[10, 5], [12, 6]], "mask", mask=stored)))
    assert len(file.items) == 1
    assert "1 annotation of this LabelMe file left out" in file.notes[0]


@pytest.mark.parametrize("kind", ["line", "linestrip"])
def test_a_line_encloses_no_area_and_is_said(kind):
    file = read(labelme(shape(SQUARE), shape([[1, 1], [9, 9]], kind), shape([[1, 1], [9, 9]], kind)))
    assert len(file.items) == 1
    assert file.notes == ("2 annotations of this LabelMe file left out: a line encloses no area.",)


def test_close_to_what_labelmes_own_way_of_drawing_gives():
    """LabelMe fills with Pillow, outline included: its mask is larger, by no more than the outline."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    blob = np.stack([20 + 11 * np.cos(angle), 15 + 9 * np.sin(2 * angle + 1) * 0.3 + 8 * np.sin(angle)], axis=1)
    picture = Image.new("1", SHAPE[::-1])
    ImageDraw.Draw(picture).polygon([tuple(point) for point in blob.tolist()], outline=1, fill=1)
    theirs, mask = np.asarray(picture), mask_of(read(labelme(shape(blob.tolist()))))
    assert (mask & theirs).sum() >= 0.95 * mask.sum()
    assert theirs.sum() - mask.sum() < 60


def test_a_self_crossing_outline_is_filled_by_even_odd_and_said():
    bow_tie = [[4, 4.3], [24, 24.3], [24, 4.3], [4, 24.3]]
    file = read(labelme(shape(bow_tie)))
    assert (mask_of(file) == fill_polygons([np.array(bow_tie, float)], SHAPE)).all()
    assert "1 annotation of this LabelMe file with an outline that crosses itself" in file.notes[0]


def test_what_lies_outside_its_image_is_left_out_and_said():
    far = [[100, 100], [120, 100], [120, 120]]
    drawn = [shape(far), shape(far[::2], "rectangle"), shape(far[:1], "point"), shape([[100, 100], [101, 100]], "circle")]
    file = read(labelme(shape(SQUARE), *drawn))
    assert len(file.items) == 1
    assert file.notes == ("4 annotations of this LabelMe file left out: entirely outside their image.",)


def test_a_box_is_cut_to_its_image():
    on = only(read(labelme(shape([[-5, -5], [100, 10]], "rectangle")))).on
    assert (on.left, on.top, on.right, on.bottom) == (0, 0, 40, 10)


@pytest.mark.parametrize(
    "points",
    [
        None,
        [],
        "x",
        [[1]],
        [[1, 2, 3]] * 3,
        [["a", 1]] * 3,
        [[None, 1]] * 3,
        [[True, 1]] * 3,
        [[1e300, 1]] * 3,
        [[1, 2], [3, 4]],
    ],
)
def test_points_that_make_no_polygon_are_left_out_and_said(points):
    file = read(labelme(shape(SQUARE), shape(points)))
    assert len(file.items) == 1
    assert "1 annotation of this LabelMe file left out: their numbers" in file.notes[0]


@pytest.mark.parametrize("size", [{"imageHeight": None}, {"imageWidth": "40"}, {"imageHeight": 0}, {"imageHeight": -3}])
def test_a_labelme_file_without_a_size_is_refused(size):
    with pytest.raises(AnnotationUnusable, match="imageHeight"):
        read(labelme(shape(SQUARE), **size))


def test_a_labelme_file_without_shapes_is_refused():
    with pytest.raises(AnnotationUnusable, match="holds no annotation"):
        read(labelme())


def test_a_label_is_one_short_line():
    assert only(read(labelme(shape(SQUARE, label=" a\n\tb\x00c ")))).on.said.label == "a b c"
    assert len(only(read(labelme(shape(SQUARE, label="x" * 500)))).on.said.label) == json_annotations.LONGEST_LABEL
    assert only(read(labelme(shape(SQUARE, label=None)))).on.said.label == ""


# COCO


def test_a_coco_polygon_is_the_pixels_whose_centers_are_inside():
    file = read(coco(area([[4, 6, 14, 6, 14, 20, 4, 20]]), categories=[{"id": 1, "name": "GGO"}]))
    assert (mask_of(file) == fill_polygons([np.array(SQUARE, float)], SHAPE)).all()
    assert only(file).on.said.label == "GGO"
    assert only(file).on.said.finding is Finding.GROUND_GLASS


def test_the_parts_of_a_coco_polygon_are_united_as_pycocotools_unites_them():
    parts = [[4, 6, 14, 6, 14, 20, 4, 20], [10, 10, 30, 10, 30, 25, 10, 25]]
    mask = mask_of(read(coco(area(parts))))
    theirs = decoded(coco_masks.merge(coco_masks.frPyObjects(parts, *SHAPE)))
    assert (mask == theirs).all()


def decoded(masks):
    with warnings.catch_warnings():  # pycocotools 2.0.11 does not know NumPy 2's copy keyword
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_masks.decode(masks).astype(bool)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**9))
def test_polygons_are_those_of_pycocotools_but_for_the_outline(seed):
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
    radius = rng.uniform(5, 14, 12)
    blob = np.stack([20 + radius * np.cos(angle), 15 + radius * np.sin(angle)], axis=1)
    mask = mask_of(read(coco(area([blob.ravel().tolist()]))))
    theirs = decoded(coco_masks.merge(coco_masks.frPyObjects([blob.ravel().tolist()], *SHAPE)))
    # They sample the outline at a fifth of a pixel: what differs lies within one pixel of it.
    length = np.linalg.norm(np.roll(blob, -1, axis=0) - blob, axis=1).sum()
    assert (mask ^ theirs).sum() <= 0.25 * length + 4


masks = st.integers(0, 10**9).map(
    lambda seed: np.random.default_rng(seed).random(SHAPE) < np.random.default_rng(seed + 1).choice([0.001, 0.1, 0.5, 0.99])
)


@settings(max_examples=60, deadline=None)
@given(masks)
def test_run_lengths_are_read_as_pycocotools_writes_them(mask):
    mask[3, 5] = True
    packed = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    packed["counts"] = packed["counts"].decode()
    assert (mask_of(read(coco(area(packed, iscrowd=1)))) == mask).all()


def test_plain_run_lengths_go_down_the_columns():
    rows, columns = SHAPE
    runs = [rows * 2 + 3, 4, rows * columns - rows * 2 - 7]
    mask = mask_of(read(coco(area({"size": list(SHAPE), "counts": runs}))))
    assert np.argwhere(mask).tolist() == [[3, 2], [4, 2], [5, 2], [6, 2]]


@pytest.mark.parametrize(
    "counts", ["", "\x00", "~~~~", "P" * 50, "ooooooooooo", [1, 2], [-5, 1205], [1200.0], ["1200"], None, 5, [10**30], "é"]
)
def test_damaged_run_lengths_are_left_out_and_said(counts):
    file = read(coco(area([[4, 6, 14, 6, 14, 20]]), area({"size": list(SHAPE), "counts": counts})))
    assert len(file.items) == 1
    assert "1 annotation of this COCO file left out: their numbers" in file.notes[0]


def test_run_lengths_of_another_size_are_left_out():
    with pytest.raises(AnnotationUnusable, match="do not fit"):
        read(coco(area({"size": [40, 30], "counts": [600, 600]})))


@pytest.mark.parametrize("segmentation", [None, []])
def test_an_annotation_with_only_a_bbox_stays_a_box(segmentation):
    on = only(read(coco(area(segmentation, bbox=[4, 6, 10, 14])))).on
    assert isinstance(on, BoxAnnotation)
    assert (on.left, on.top, on.right, on.bottom) == (4, 6, 14, 20)


def many_images(count=3):
    rows, columns = SHAPE
    found = [{"id": i, "file_name": f"folder/{i}.png", "height": rows, "width": columns} for i in range(count)]
    return coco(*(area([[4, 6, 14, 6, 14, 20 + i]], image=i) for i in range(count)), images=found)


def test_of_several_images_only_the_open_ones_are_read():
    file = read(many_images(), open_names=("folder/1.png",))
    assert only(file).image_name == "folder/1.png"


def test_a_coco_file_about_other_images_is_refused_in_one_sentence():
    with pytest.raises(AnnotationUnusable, match="about 3 images, and none that it annotates is open"):
        read(many_images())


def test_the_only_image_is_read_whatever_its_name():
    assert only(read(many_images(1))).image_name == "folder/0.png"


def test_ids_written_as_text_are_ids():
    found = coco(area([[4, 6, 14, 6, 14, 20]], image="1"), categories=[{"id": "1", "name": "cyst"}])
    assert only(read(found)).on.said.finding is Finding.SUBPLEURAL_CYSTS


def test_thousands_of_masks_are_refused_before_they_are_drawn():
    rows = columns = 4096
    image = [{"id": 1, "file_name": "ct.png", "height": rows, "width": columns}]
    with pytest.raises(TooLarge, match="areas"):
        read(coco(*[area([[0, 0, 9, 0, 9, 9]])] * 50, images=image))


# Both


@pytest.mark.parametrize(
    "content",
    [b"{", b"[" * 200_000, b"[1, 2", b'{"shapes": [}', b"{\xff\xfe", b'{"a": ' + b"9" * 10_000 + b"}", b'{"a": NaN}'],
)
def test_damaged_json_is_refused(content):
    with pytest.raises(AnnotationUnusable, match="damaged"):
        read(content)


@pytest.mark.parametrize("found", [{}, [], [1], {"shapes": 3}, {"images": []}, {"annotations": [], "images": 3}])
def test_other_json_is_no_annotation(found):
    with pytest.raises(NotAnAnnotation, match="neither LabelMe's"):
        read(found)


def test_a_byte_order_mark_and_utf_16_are_read():
    text = json.dumps(labelme(shape(SQUARE)))
    assert len(read(b"\xef\xbb\xbf" + text.encode()).items) == 1


def test_a_huge_file_is_refused_unread(monkeypatch):
    monkeypatch.setattr(json_annotations, "LARGEST_FILE", 100)
    with pytest.raises(TooLarge, match="larger"):
        read(labelme(shape(SQUARE)))


def test_an_image_larger_than_any_slice_is_refused():
    with pytest.raises(TooLarge, match="pixels"):
        read(labelme(shape(SQUARE), imageHeight=10**9))


def test_a_picture_is_no_json():
    buffer = BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    assert not json_annotations.is_json(buffer.getvalue())
    assert not json_annotations.is_json(b"")
