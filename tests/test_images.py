"""PNG and JPEG: grey values without Hounsfield units, and no photographs."""

import struct
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ipfvision import images
from ipfvision.core.slice import Scale
from ipfvision.errors import NotAnImage, NotAxialCT, TooLarge, UnsupportedEncoding

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (24, 32)).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(content):
    return images.read(content, "picture")


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "LA"])
def test_grey_is_the_same_however_it_is_stored(mode):
    image = Image.fromarray(GREY)
    scan = read(encoded(image.quantize(256) if mode == "P" else image.convert(mode)))
    assert (scan.pixels == GREY.astype(np.float32) / np.float32(255)).all()
    assert scan.scale is Scale.GREY
    assert scan.warnings == ()
    assert (scan.spacing, scan.plane, scan.thickness_mm, scan.file_window) == (None, None, None, None)
    assert not scan.padding.any()


def test_one_bit_is_black_and_white():
    assert set(np.unique(read(encoded(Image.fromarray(GREY > 127))).pixels)) == {0, 1}


def test_sixteen_bits_are_divided_by_65535():
    values = RNG.integers(0, 65536, (24, 32)).astype(np.uint16)
    values[0, 0] = 65535
    scan = read(images.write_png(values))
    assert np.allclose(scan.pixels, values / 65535, atol=1e-7)
    assert scan.warnings == ()


def test_twelve_bits_in_sixteen_are_divided_by_4095_and_said():
    values = RNG.integers(0, 4096, (24, 32)).astype(np.uint16)
    scan = read(images.write_png(values))
    assert np.allclose(scan.pixels, values / 4095, atol=1e-7)
    assert any("12-bit" in warning for warning in scan.warnings)


def test_a_dark_picture_stays_dark():
    assert read(encoded(Image.fromarray(GREY // 8))).pixels.max() <= 31 / 255


def png(width, height, depth, color, rows, *, interlace=0):
    """A PNG by hand: what Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_an_interlaced_png_is_read():
    """Adam7 of a 2 x 2 image: pass 1 has (0, 0), pass 6 has (0, 1), pass 7 the second row."""
    scan = read(png(2, 2, 8, 0, b"\0\x0a" + b"\0\x14" + b"\0\x1e\x28", interlace=1))
    assert np.rint(scan.pixels * 255).tolist() == [[10, 20], [30, 40]]


def test_sixteen_bit_color_channels_are_read_with_eight_and_said():
    row = b"\0" + struct.pack(">6H", 65535, 65535, 65535, 0, 0, 0)
    scan = read(png(2, 1, 16, 2, row))
    assert scan.pixels.tolist() == [[1, 0]]
    assert any("16 bits" in warning for warning in scan.warnings)


def test_transparency_is_put_over_black_and_said():
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[:, :, 3] = 255
    pixels[:, 4:, 3] = 0
    scan = read(encoded(Image.fromarray(pixels)))
    assert (scan.pixels[:, 4:] == 0).all()
    assert scan.pixels[0, 0] == np.float32(200) / np.float32(255)
    assert any("transparent" in warning for warning in scan.warnings)


def test_a_transparent_palette_color_is_put_over_black():
    image = Image.fromarray(np.full((8, 8), 3, np.uint8)).convert("P")
    assert read(encoded(image, transparency=3)).pixels.max() == 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_a_grey_jpeg_is_close(options):
    smooth = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8) * 4
    for mode in ("L", "RGB"):
        scan = read(encoded(Image.fromarray(smooth).convert(mode), "JPEG", quality=95, **options))
        assert np.abs(scan.pixels * 255 - smooth).max() < 6
        assert scan.source.format == "JPEG"


def test_a_turn_asked_for_by_exif_is_carried_out_and_said():
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side: turn clockwise
    smooth = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8) * 4
    scan = read(encoded(Image.fromarray(smooth), "JPEG", quality=95, exif=exif))
    assert scan.shape == (32, 24)
    assert np.abs(scan.pixels * 255 - np.rot90(smooth, -1)).max() < 6
    assert any("turned" in warning for warning in scan.warnings)


def photograph():
    y, x = np.mgrid[:64, :64]
    return np.stack([x * 4, y * 4, 255 - x * 4], axis=2).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_color_photograph_is_refused(kind):
    with pytest.raises(NotAxialCT, match="in color"):
        read(encoded(Image.fromarray(photograph()), kind))


def test_colored_marks_on_grey_are_accepted_and_said():
    marked = np.repeat(RNG.integers(0, 256, (64, 64, 1)).astype(np.uint8), 3, axis=2)
    marked[10:14, 10:30] = (255, 220, 0)
    scan = read(encoded(Image.fromarray(marked)))
    (warning,) = scan.warnings
    assert "Colored marks" in warning
    assert scan.colored is not None
    assert (scan.colored == (marked[..., 0] != marked[..., 2])).all()


def test_a_grey_jpeg_saved_in_color_has_no_marks():
    noisy = Image.fromarray(np.repeat(RNG.integers(0, 256, (64, 64, 1)).astype(np.uint8), 3, axis=2))
    scan = read(encoded(noisy, "JPEG", quality=60))
    assert scan.warnings == ()
    assert scan.colored is None


def test_a_slight_tint_is_not_color():
    tinted = np.repeat(GREY[..., None], 3, axis=2).astype(int) + np.array([0, 4, 8])
    assert read(encoded(Image.fromarray(np.clip(tinted, 0, 255).astype(np.uint8)))).warnings == ()


def test_printing_colors_are_refused():
    with pytest.raises(UnsupportedEncoding, match="CMYK"):
        read(encoded(Image.new("CMYK", (8, 8)), "JPEG"))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_picture_is_refused(kind, share):
    content = encoded(Image.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8))), kind)
    with pytest.raises(NotAnImage, match=r"damaged|neither"):
        read(content[: int(share * len(content))])


def test_a_png_with_a_flipped_bit_is_refused_by_its_checksum():
    content = bytearray(encoded(Image.fromarray(GREY)))
    content[len(content) // 2] ^= 1
    with pytest.raises(NotAnImage):
        read(bytes(content))


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"BM", b"II*\0", b"text"])
def test_other_content_is_refused(content):
    with pytest.raises(NotAnImage, match="neither PNG nor JPEG"):
        read(content)


def test_a_lying_size_is_refused_before_memory_is_taken():
    tracemalloc.start()
    try:
        for width, height in ((65_535, 65_535), (2**31 - 1, 2**31 - 1), (4097, 4096)):
            with pytest.raises(TooLarge, match="pixels"):
                read(png(width, height, 8, 0, b""))
        jpeg = bytearray(encoded(Image.fromarray(GREY), "JPEG"))
        at = jpeg.index(b"\xff\xc0")
        jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
        with pytest.raises(TooLarge):
            read(bytes(jpeg))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_png_of_less_data_than_its_size_is_refused():
    with pytest.raises(NotAnImage):
        read(png(4000, 4000, 8, 0, b"\0" * 100))


def test_a_uniform_picture_is_accepted():
    """What it shows is for the lung gate to judge."""
    assert read(encoded(Image.new("L", (64, 64), 0))).pixels.max() == 0


def test_text_in_a_png_reaches_nothing():
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "Mustermann")
    assert "Mustermann" not in repr(read(encoded(Image.fromarray(GREY), pnginfo=text)).source)


def test_pillows_own_limit_is_left_alone():
    before = Image.MAX_IMAGE_PIXELS
    read(encoded(Image.fromarray(GREY)))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "image",
    [GREY, GREY.astype(np.uint16) * 257, np.dstack([GREY, GREY // 2, GREY // 3])],
    ids=["8 bit", "16 bit", "RGB"],
)
def test_a_written_png_holds_exactly_the_picture(image):
    with Image.open(BytesIO(images.write_png(image))) as opened:
        assert (np.asarray(opened) == image).all()


@pytest.mark.parametrize("image", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)])
def test_other_arrays_are_not_written(image):
    with pytest.raises(ValueError, match="a PNG is"):
        images.write_png(image)


def test_every_real_picture_is_read_without_a_warning(shared_data):
    paths = [path for folder in ("figures", "medpix") for path in sorted((shared_data / folder).iterdir())]
    paths += sorted((shared_data / "lidc").rglob("*.png"))[::20] + sorted((shared_data / "emphysema_normal").iterdir())[::20]
    pictures = [path for path in paths if images.is_image(path.read_bytes())]
    assert len(pictures) > 50
    for path in pictures:
        assert images.read(path.read_bytes(), path.name).warnings == ()
