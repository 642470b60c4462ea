"""Mask pictures: which area is annotated, and what is no mask."""

import struct
import tracemalloc
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from ipfvision import images
from ipfvision.core.annotation import Finding
from ipfvision.core.mask_values import MOST_VALUES, find_areas
from ipfvision.errors import AnnotationUnusable, InputRefused, NotAnAnnotation, TooLarge

DRAWN = np.zeros((24, 32), np.bool_)
DRAWN[5:14, 8:20] = True
DRAWN[7, 9] = False


def encoded(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(content, file="folder/ct_mask.png"):
    if not isinstance(content, bytes):
        content = images.write_png(content)
    return images.read_mask(content, file)


def masks(file):
    return {item.on.said.label: item.on.mask for item in file.items}


def only(file):
    (item,) = file.items
    return item.on.mask


BINARY = {
    "1 bit": Image.fromarray(DRAWN),
    "8 bit, 255": Image.fromarray(DRAWN.astype(np.uint8) * 255),
    "8 bit, 1": Image.fromarray(DRAWN.astype(np.uint8)),
    "16 bit": Image.fromarray(DRAWN.astype(np.uint16) * 40_000),
    "RGB, white": Image.fromarray(np.dstack([DRAWN.astype(np.uint8) * 255] * 3)),
    "RGB, red": Image.fromarray(np.dstack([DRAWN.astype(np.uint8) * 255, *[np.zeros_like(DRAWN, np.uint8)] * 2])),
    "palette": Image.fromarray(DRAWN.astype(np.uint8) * 255).quantize(2),
    "grey with alpha": Image.fromarray(DRAWN.astype(np.uint8) * 255).convert("LA"),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("image", BINARY.values(), ids=BINARY)
def test_a_two_valued_picture_is_its_area_however_it_is_stored(image, kind):
    file = read(encoded(image, kind))
    assert (only(file) == DRAWN).all()
    assert file.items[0].on.said.label == ""
    assert file.items[0].image_shape == DRAWN.shape
    assert file.notes == ()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "group4"])
@pytest.mark.parametrize("big", [False, True])
def test_compressed_tiff_is_read(compression, big):
    assert (only(read(encoded(BINARY["1 bit"], "TIFF", compression=compression, big_tiff=big))) == DRAWN).all()


def test_a_tiff_whose_white_is_0_is_read_as_it_looks():
    stored = encoded(BINARY["8 bit, 255"], "TIFF", tiffinfo={262: 0})
    with Image.open(BytesIO(stored)) as opened:
        assert (only(read(stored)) == (np.asarray(opened) > 0)).all()


def test_the_finding_is_read_from_the_files_name_and_the_name_is_kept_for_matching():
    item = read(DRAWN.astype(np.uint8), "a folder/honeycombing.png").items[0]
    assert item.on.said.finding is Finding.HONEYCOMBING
    assert item.image_name == "honeycombing.png"
    assert read(DRAWN.astype(np.uint8)).items[0].on.said.finding is Finding.OTHER


def test_an_all_black_picture_is_an_empty_mask_that_says_looked_and_found_none():
    assert not only(read(np.zeros((8, 8), np.uint8))).any()


def test_a_picture_of_one_other_value_says_nothing():
    with pytest.raises(AnnotationUnusable, match="same value"):
        read(np.full((8, 8), 255, np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_of_a_label_picture_is_an_area(dtype):
    labels = np.zeros((24, 32), dtype)
    for value in range(1, 12):
        labels[2 * value - 1, value : value + 9] = value
        labels[2 * value, value : value + 9] = value
    found = masks(read(labels))
    assert list(found) == [f"value {value}" for value in range(1, 12)]
    for value in range(1, 12):
        assert (found[f"value {value}"] == (labels == value)).all()


def test_of_few_values_a_single_pixel_counts():
    labels = np.zeros((24, 32), np.uint8)
    labels[3, 3], labels[9, :] = 2, 1
    assert {label: int(mask.sum()) for label, mask in masks(read(labels)).items()} == {"value 1": 32, "value 2": 1}


def test_every_color_of_a_colored_mask_is_an_area():
    picture = np.zeros((24, 32, 3), np.uint8)
    picture[2:6, 2:9], picture[8:15, 8:15], picture[20:, 20:] = (255, 0, 0), (0, 255, 0), (255, 255, 255)
    found = masks(read(picture))
    assert {label: int(mask.sum()) for label, mask in found.items()} == {
        "color #ff0000": 28,
        "color #00ff00": 49,
        "color #ffffff": 48,
    }


def test_the_entries_of_a_palette_are_labels():
    image = Image.fromarray(DRAWN.astype(np.uint8) * 3 + np.roll(DRAWN, 10, axis=0) * np.uint8(2)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 0, 128, 128])
    assert set(masks(read(encoded(image)))) == {"value 2", "value 3"}


def test_a_palette_that_begins_with_a_color_is_read_by_color():
    image = Image.fromarray(np.where(DRAWN, 0, 1).astype(np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 0])
    assert (only(read(encoded(image))) == DRAWN).all()


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 0, 0), (255, 255, 255), (90, 90, 90)])
def test_what_is_drawn_on_glass_is_annotated_whatever_its_color(color):
    picture = np.zeros((24, 32, 4), np.uint8)
    picture[DRAWN] = (*color, 255)
    assert (only(read(encoded(Image.fromarray(picture)))) == DRAWN).all()


def test_without_black_the_most_frequent_value_is_background_and_said():
    file = read(np.where(DRAWN, 200, 50).astype(np.uint8))
    assert (only(file) == DRAWN).all()
    assert "most frequent value" in file.notes[0]


def test_an_inverted_mask_is_taken_as_it_is_and_asked_about():
    file = read(np.where(DRAWN, 0, 255).astype(np.uint8))
    assert (only(file) == ~DRAWN).all()
    assert "please invert it" in file.notes[0]


def test_softened_edges_go_to_the_nearest_value_and_are_said():
    large = np.kron(DRAWN.astype(np.uint8) * 255, np.ones((8, 8), np.uint8))
    soft = cv2.GaussianBlur(large, (3, 3), 0.8)
    assert len(np.unique(soft)) > 8
    file = read(soft)
    assert (only(file) == (soft >= 127.5)).all()
    assert "softened edges" in file.notes[0]


def test_softened_edges_of_colors_go_to_the_nearest_color():
    picture = np.zeros((192, 256, 3), np.uint8)
    picture[20:90, 20:90], picture[100:180, 100:200] = (255, 0, 0), (0, 0, 255)
    soft = cv2.GaussianBlur(picture, (5, 5), 1.0)
    found = masks(read(soft))
    assert set(found) == {"color #ff0000", "color #0000ff"}
    assert (found["color #ff0000"] == (picture[..., 0] > 0)).mean() > 0.995


def test_a_small_soft_lesion_is_not_lost():
    soft = np.zeros((64, 64), np.uint8)
    soft[30:33, 30:33] = [[20, 90, 15], [100, 255, 140], [30, 160, 25]]
    assert np.argwhere(only(read(soft))).tolist() == [[31, 31], [31, 32], [32, 31]]


NOISE = np.random.default_rng(0).normal(120, 20, (64, 64)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "picture",
    [NOISE, NOISE.astype(np.uint16) * 200, np.dstack([NOISE, NOISE // 2, NOISE]), np.where(NOISE > 110, NOISE, 0)],
    ids=["grey", "16 bit", "color", "mostly black"],
)
def test_an_image_of_a_patient_is_no_mask(picture):
    with pytest.raises(NotAnAnnotation, match="image of a patient"):
        read(picture.astype(picture.dtype if picture.dtype != np.int64 else np.uint8))


def test_a_smooth_ramp_has_too_many_values():
    ramp = np.repeat(np.arange(MOST_VALUES + 10, dtype=np.uint8), 4)[None].repeat(8, axis=0)
    assert find_areas(ramp.astype(np.uint32)) is None


def test_no_real_ct_picture_is_taken_for_a_mask(shared_data):
    paths = sorted((shared_data / "medpix").glob("*.png")) + sorted((shared_data / "lidc").rglob("*.png"))[::8]
    assert len(paths) > 50
    for path in paths:
        content = path.read_bytes()
        assert not images.has_few_colors(content)
        with pytest.raises(NotAnAnnotation, match="image of a patient"):
            images.read_mask(content, path.name)


@pytest.mark.parametrize(("values", "words"), [(-1, "negative"), (0.5, "fractions"), (np.nan, "no numbers")])
def test_numbers_that_are_no_labels_are_refused(values, words):
    numbers = np.where(DRAWN, 7, values).astype(np.float32)
    with pytest.raises(NotAnAnnotation, match=words):
        read(encoded(Image.fromarray(numbers), "TIFF"))


def test_shares_between_0_and_1_are_annotated_from_one_half_on():
    shares = np.where(DRAWN, 0.8, 0.3).astype(np.float32)
    assert (only(read(encoded(Image.fromarray(shares), "TIFF"))) == DRAWN).all()


def test_a_tiff_of_several_pages_is_refused():
    page = BINARY["8 bit, 255"]
    with pytest.raises(AnnotationUnusable, match="several pages"):
        read(encoded(page, "TIFF", save_all=True, append_images=[page]))


def test_a_jpeg_is_refused_because_it_changes_values():
    with pytest.raises(NotAnAnnotation, match="save the mask as PNG"):
        read(encoded(BINARY["8 bit, 255"], "JPEG"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_truncated_mask_is_refused(kind):
    content = encoded(Image.fromarray(np.random.default_rng(1).integers(0, 2, (99, 99)).astype(np.uint8) * 255), kind)
    for share in (0.01, 0.3, 0.6, 0.95):
        with pytest.raises(InputRefused, match=r"damaged|neither|same value"):
            read(content[: int(share * len(content))])


def tiff(width, height):
    entries = struct.pack("<HHII", 256, 4, 1, width) + struct.pack("<HHII", 257, 4, 1, height)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + entries + bytes(4)


def png(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("make", [tiff, png])
def test_a_lying_size_is_refused_before_memory_is_taken(make):
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="pixels"):
            read(make(100_000, 100_000))
        with pytest.raises(AnnotationUnusable, match="damaged"):
            read(make(0, 5))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_mask_is_turned_by_exif_as_a_slice_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert (only(read(encoded(BINARY["8 bit, 255"], exif=exif))) == np.rot90(DRAWN, -1)).all()
