"""PNG and JPEG in and out, and masks as PNG and TIFF. Pillow is imported nowhere else."""

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from ipfvision.core.annotation import Annotation, AnnotationFile, DrawnOnImage, Finding, FromFile, Said, finding_of
from ipfvision.core.mask_values import Areas, find_areas
from ipfvision.core.slice import Scale, Slice, Source, hash_pixels
from ipfvision.errors import (
    AnnotationUnusable,
    InputRefused,
    NotAnAnnotation,
    NotAnImage,
    NotAxialCT,
    TooLarge,
    UnsupportedEncoding,
)

MOST_PIXELS = 2**24
"""Width times height: 4096 x 4096."""
COLORED_FROM = 24
"""Difference between a pixel's largest and smallest channel, of 255, from which it is colored: grey in JPEG stays below."""
MOST_COLORED = 0.05
"""Share of colored pixels up to which an image is grey with marks on it, such as arrows; a photograph has far more."""
FEWEST_COLORED = 16
"""Colored pixels from which marks are mentioned."""

MOST_TIFF_TAGS = 1000
TRANSPARENT_BELOW = 128
"""Alpha of 255 from which a pixel of a mask is drawn."""
MOSTLY_ANNOTATED = 0.75
"""Share of a two-valued picture from which it is asked whether it is inverted: no lesion fills as much of a slice."""
FEW_COLORS = 8
"""No CT slice has as few colors: noise alone gives it more."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_image(content: bytes) -> bool:
    """Whether the content begins like PNG or JPEG."""
    return content.startswith((_PNG, _JPEG))


def read(content: bytes, file: str) -> Slice:
    """Read a picture of a CT slice as grey values. It has no Hounsfield units, pixel spacing or place.

    Transparency is put over black, a turn asked for by EXIF is carried out, and color is reduced to luminance (ITU-R BT.601,
    which leaves grey as it is). 8 bits are divided by 255 and 16 bits by 65535, unless they hold 12-bit values, which are
    divided by 4095. Values are never stretched: a dark picture stays dark.

    Parameters
    ----------
    content
        A PNG or JPEG file.
    file
        What the user calls it: kept in `Source.file`, and in no message.

    Returns
    -------
    A slice of `Scale.GREY`.

    Raises
    ------
    NotAnImage
        If it is empty, neither PNG nor JPEG, damaged or truncated.
    NotAxialCT
        If it is a color photograph.
    UnsupportedEncoding
        If it is a JPEG in printing colors.
    TooLarge
        If its header says that it has more than `MOST_PIXELS`; nothing is decoded then.
    """
    if content.startswith(_PNG):
        kind = "PNG"
        width, height, bit_depth = _check_png(content)
    elif content.startswith(_JPEG):
        kind = "JPEG"
        width, height, bit_depth = _check_jpeg(content)
    else:
        raise NotAnImage("This file is neither PNG nor JPEG; please give the CT slice as DICOM, PNG or JPEG.")
    if not width or not height:
        _refuse_damaged(kind)
    if width * height > MOST_PIXELS:
        raise TooLarge(
            f"This {kind} says that it has {width:,} x {height:,} pixels, and at most {MOST_PIXELS:,} are read; please give a "
            "smaller one."
        )
    try:
        pixels, colored, warnings = _decode(content, bit_depth)
    except InputRefused:
        raise
    except Exception:  # noqa: BLE001  the one seam around Pillow: OSError, SyntaxError, struct.error and more on damaged files
        _refuse_damaged(kind)
    return Slice(
        pixels=pixels,
        scale=Scale.GREY,
        source=Source(file=file, format=kind, pixel_sha256=hash_pixels(pixels)),
        padding=np.zeros(pixels.shape, np.bool_),
        warnings=tuple(warnings),
        colored=colored,
    )


def _refuse_damaged(kind: str) -> NoReturn:
    raise NotAnImage(f"This {kind} is damaged or incomplete; please export it again.") from None


def _check_png(content: bytes) -> tuple[int, int, int]:
    """Walk the chunks and their checksums (PNG specification, 5.3): Pillow does not look at those of the pixels.

    Returns
    -------
    (width, height, bits per channel).
    """
    at, header = len(_PNG), b""
    while at + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        if at + 12 + length > len(content):
            break
        data = content[at + 8 : at + 8 + length]
        is_critical = not name[0] & 0x20
        if is_critical and zlib.crc32(data, zlib.crc32(name)) != int.from_bytes(
            content[at + 8 + length : at + 12 + length], "big"
        ):
            break
        if name == b"IHDR":
            header = data
        elif name == b"IEND":
            if len(header) != 13:
                break
            width, height, bit_depth = struct.unpack(">IIB", header[:9])
            return width, height, bit_depth
        at += 12 + length
    _refuse_damaged("PNG")


def _check_jpeg(content: bytes) -> tuple[int, int, int]:
    """Walk the markers to the frame header (ITU-T T.81 B.2.2).

    Returns
    -------
    (width, height, bits per channel).
    """
    at = 2
    while at + 9 < len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width = struct.unpack_from(">BHH", content, at + 4)
            return width, height, precision
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    _refuse_damaged("JPEG")


def _decode(content: bytes, bit_depth: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None, list[str]]:
    warnings: list[str] = []
    colored = None
    with Image.open(BytesIO(content), formats=("PNG", "JPEG")) as opened:
        if opened.mode == "CMYK":
            raise UnsupportedEncoding(
                "This JPEG is in printing colors (CMYK), in which grey values are not what they were on the scanner; please "
                "give the slice as DICOM, PNG or a grey JPEG."
            )
        opened.load()
        image: Image.Image = opened
        if _exif_turn(opened):
            image = ImageOps.exif_transpose(opened)
            warnings.append("The picture was turned as its EXIF data ask for: check that the spine is at the bottom.")
        if image.mode.startswith("I"):
            return _sixteen_bits(np.asarray(image), warnings), None, warnings
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if int(np.asarray(image)[..., 3].min()) < 255:
                warnings.append("Parts of the picture are transparent: they were put over black.")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
        if image.mode not in ("1", "L"):
            image = image.convert("RGB")
            rgb = np.asarray(image)
            if (rgb[..., 0] != rgb[..., 1]).any() or (rgb[..., 1] != rgb[..., 2]).any():
                colored = _check_color(rgb, warnings)
        values = np.asarray(image.convert("L")).astype(np.float32)
    values /= np.float32(255)
    if bit_depth == 16:
        warnings.append("The picture has 16 bits per color channel, of which 8 were read.")
    return values, colored, warnings


def _exif_turn(image: Image.Image) -> bool:
    """Whether EXIF asks for a turn or a mirror image (Exif 2.3, tag 0x0112). Damaged EXIF data ask for nothing."""
    try:
        return image.getexif().get(0x0112, 1) in range(2, 9)
    except Exception:  # noqa: BLE001  Pillow parses EXIF here: nothing in it is worth refusing a picture for
        return False


def _sixteen_bits(values: npt.NDArray[Any], warnings: list[str]) -> npt.NDArray[np.float32]:
    """16-bit grey. A file that stays below 4096 holds the 12 bits of a scanner, and divided by 65535 it would look black."""
    highest = int(values.max())
    if 0 < highest < 4096:
        warnings.append(
            f"The 16-bit picture has no value above {highest}: it was taken for 12-bit data, so that 4095 is white."
        )
        scale = 4095
    else:
        scale = 65535
    grey = values.astype(np.float32)
    grey /= np.float32(scale)
    return np.clip(grey, 0, 1, out=grey)


def _check_color(rgb: npt.NDArray[np.uint8], warnings: list[str]) -> npt.NDArray[np.bool_] | None:
    """Where the picture is in color, if that is enough for a mark; a picture that is mostly in color is refused.

    Smoothed edges and what JPEG spreads are left out: they have less than half of the color of the mark beside them.
    """
    spread = rgb.max(axis=2) - rgb.min(axis=2)
    colored = np.asarray(spread >= COLORED_FROM)
    share = float(colored.mean())
    if share > MOST_COLORED:
        raise NotAxialCT(
            f"This picture is in color ({share:.0%} of its pixels), and a CT slice is grey: it is a photograph or has a color "
            "overlay; please give the slice itself."
        )
    if np.count_nonzero(colored) < FEWEST_COLORED:
        return None
    warnings.append(f"Colored marks cover {share:.1%} of the picture.")
    strongest = np.asarray(Image.fromarray(spread).filter(ImageFilter.MaxFilter(7)))
    return np.asarray(colored & (spread >= strongest / 2))


def write_png(image: npt.NDArray[Any]) -> bytes:
    """Encode a picture as PNG, without loss and without any metadata.

    Parameters
    ----------
    image
        (H, W) uint8 or uint16 grey, or (H, W, 3) uint8 RGB.

    Raises
    ------
    ValueError
        If the array has another shape or type.
    """
    is_grey = image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
    is_color = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not (is_grey or is_color) or image.size == 0:
        raise ValueError(f"a PNG is (H, W) uint8 or uint16, or (H, W, 3) uint8, not {image.shape} {image.dtype}")
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def is_mask_format(content: bytes) -> bool:
    """Whether the content begins like PNG or TIFF, the pictures in which a mask keeps its values."""
    return content.startswith((_PNG, *_TIFF))


def has_few_colors(content: bytes) -> bool:
    """Whether this PNG or TIFF has at most `FEW_COLORS` colors, as a mask has and a CT slice never; False if unreadable."""
    try:
        values, _ = _decode_mask(content)
    except InputRefused:
        return False
    return len(np.unique(values)) <= FEW_COLORS


def read_mask(content: bytes, file: str) -> AnnotationFile:
    """Read a picture of annotated areas: PNG or TIFF of the same size as the CT slice.

    Black (value 0) and transparency are background; where there is neither, the most frequent value is. Two values are one
    area, without a label: its finding is read from the file's name. Of several values or colors each one is an area, labeled
    "value 3" or "color #ff0000"; so are the entries of a palette whose first one is black. Softened edges go to the nearest
    value. A picture that is all background is an empty mask: "looked, and found none".

    Parameters
    ----------
    content
        A PNG or TIFF file of 1, 8 or 16 bits, grey, color or palette, with or without transparency.
    file
        What the user calls it: its last part becomes `DrawnOnImage.image_name`, and stands in no message.

    Raises
    ------
    NotAnAnnotation
        If it is neither PNG nor TIFF, or an image of a patient.
    AnnotationUnusable
        If it is damaged, of one value that is not 0, or of several pages.
    TooLarge
        If its header says that it has more than `MOST_PIXELS`; nothing is decoded then.
    """
    values, kind = _decode_mask(content)
    is_color = kind == "color"
    areas = find_areas(values, is_color=is_color)
    if areas is None:
        raise NotAnAnnotation(
            "This picture has many grey values or colors, like an image of a patient and unlike a mask; please give a mask: 0 "
            "outside the annotated area and another value inside."
        )
    name = PurePosixPath(file.replace("\\", "/")).name
    if not areas.by_value:
        if areas.background != 0:
            raise AnnotationUnusable(
                "All pixels of this mask have the same value, which is not 0: it does not say which area is annotated."
            )
        return _one_area(np.zeros(values.shape, np.bool_), finding_of(name), "", name)
    notes = _mask_notes(areas)
    if len(areas.by_value) == 1:
        (mask,) = areas.by_value.values()
        return replace(_one_area(mask, finding_of(name), "", name), notes=notes)
    items: list[FromFile] = []
    for value, mask in areas.by_value.items():
        items += _one_area(mask, Finding.OTHER, f"color #{value:06x}" if is_color else f"value {value}", name).items
    return AnnotationFile(tuple(items), notes)


def _one_area(mask: npt.NDArray[np.bool_], finding: Finding, label: str, name: str) -> AnnotationFile:
    annotation = Annotation(mask, Said(finding, reader="mask picture", label=label, origin="mask"))
    height, width = mask.shape
    return AnnotationFile((DrawnOnImage(annotation, (height, width), name),))


def _mask_notes(areas: Areas) -> tuple[str, ...]:
    notes = []
    share = sum(float(mask.mean()) for mask in areas.by_value.values())
    if areas.background != 0:
        notes.append("No pixel of this mask is 0: its most frequent value was taken for the background.")
    elif share > MOSTLY_ANNOTATED:
        notes.append(f"{share:.0%} of this mask is annotated: if black marks the area, please invert it and give it again.")
    if areas.blurred:
        notes.append(f"This mask has softened edges: {areas.blurred:,} pixels between its values went to the nearest value.")
    return tuple(notes)


def _decode_mask(content: bytes) -> tuple[npt.NDArray[np.uint32], Literal["value", "color"]]:
    """(H, W) values, or colors as 0xRRGGBB; 0 where transparent."""
    if content.startswith(_PNG):
        kind = "PNG"
        try:
            width, height, _ = _check_png(content)
        except NotAnImage as error:
            raise AnnotationUnusable(str(error)) from None
    elif content.startswith(_TIFF):
        kind = "TIFF"
        width, height = _check_tiff(content)
    else:
        raise NotAnAnnotation("This picture is neither PNG nor TIFF; please save the mask as PNG, which keeps its values.")
    if not width or not height:
        _refuse_damaged_mask(kind)
    if width * height > MOST_PIXELS:
        raise TooLarge(
            f"This {kind} says that it has {width:,} x {height:,} pixels, and at most {MOST_PIXELS:,} are read; please give a "
            "mask of the CT slice's own size."
        )
    try:
        with Image.open(BytesIO(content), formats=(kind,)) as opened:
            opened.load()
            return _mask_values(ImageOps.exif_transpose(opened) if _exif_turn(opened) else opened)
    except InputRefused:
        raise
    except Exception:  # noqa: BLE001  the same seam as in `read`
        _refuse_damaged_mask(kind)


def _refuse_damaged_mask(kind: str) -> NoReturn:
    raise AnnotationUnusable(f"This {kind} is damaged or incomplete; please export it again.") from None


def _check_tiff(content: bytes) -> tuple[int, int]:
    """(width, height) from the first directory (TIFF 6.0, section 2; BigTIFF has 8-byte offsets and counts)."""
    order = "<" if content.startswith(b"II") else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")
    try:
        (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), content, at)
        at += 8 if is_big else 2
        step = 20 if is_big else 12
        if count > MOST_TIFF_TAGS:
            _refuse_damaged_mask("TIFF")
        sizes = {}
        for entry in range(at, at + count * step, step):
            tag, kind = struct.unpack_from(order + "HH", content, entry)
            if tag in (256, 257):
                (sizes[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), content, entry + (12 if is_big else 8))
        (following,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, at + count * step)
    except struct.error:
        _refuse_damaged_mask("TIFF")
    if following:
        raise AnnotationUnusable("This TIFF holds several pages; please give one mask for each slice, named like its slice.")
    return sizes.get(256, 0), sizes.get(257, 0)


def _mask_values(image: Image.Image) -> tuple[npt.NDArray[np.uint32], Literal["value", "color"]]:
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(image).astype(np.uint32), "value"
    if image.mode == "F" or image.mode.startswith("I"):
        return _whole_values(np.asarray(image)), "value"
    if image.mode == "P" and not image.has_transparency_data:
        palette = np.reshape(image.getpalette("RGB") or [0, 0, 0], (-1, 3))
        if not palette[0].any() and (palette != palette[:, :1]).any():
            return np.asarray(image).astype(np.uint32), "value"
    rgba = np.asarray(image.convert("RGBA")).astype(np.uint32)
    is_grey = (rgba[..., 0] == rgba[..., 1]) & (rgba[..., 1] == rgba[..., 2])
    drawn = rgba[..., 3] >= TRANSPARENT_BELOW
    is_color = bool((drawn & ~is_grey).any())
    values = rgba[..., 0] << np.uint32(16) | rgba[..., 1] << np.uint32(8) | rgba[..., 2] if is_color else rgba[..., 0]
    if not drawn.all():
        if drawn.any() and not values[drawn].any():
            values = drawn.astype(np.uint32)  # black on glass
        values = np.asarray(np.where(drawn, values, 0), np.uint32)
    return values, "color" if is_color else "value"


def _whole_values(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Labels of 16 or 32 bits; a map of shares in [0, 1] is annotated from one half on."""
    numbers = values.astype(np.float64)
    if not (numbers >= 0).all() or float(numbers.max()) >= 2**32:
        raise NotAnAnnotation("This picture has values that are negative or no numbers, so it is no mask.")
    if (numbers != np.rint(numbers)).any():
        if float(numbers.max()) > 1:
            raise NotAnAnnotation("This picture has fractions between its values, as an image has, and so is no mask.")
        return (numbers >= 0.5).astype(np.uint32)
    return numbers.astype(np.uint32)


def read_drawn(content: bytes) -> npt.NDArray[np.bool_]:
    """(h, w) pixels of a PNG or TIFF that are neither black nor transparent; raises like `read_mask`."""
    return np.asarray(_decode_mask(content)[0] != 0, np.bool_)
