"""Frames of Pixel Data (7FE0,0010) to stored values. Which decoder, and why: `docs/decisions/0001-decoders.md`.

Before a stream reaches a decoder its own header is read here and compared with Rows and Columns: a decoder is never asked
for another size than the one that was counted, and memory is never allocated on the word of a damaged stream. After
decoding a stream that ended early is refused, because decoders fill the rest with something that looks like a picture.
"""

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from jpeg_ls import decode_pixel_data as decode_jpeg_ls  # type: ignore[import-untyped]
from openjpeg.utils import decode as decode_jpeg_2000
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from rle.utils import decode_segment as decode_rle_segment  # type: ignore[attr-defined]

from ipfvision.dicom.jpeg_process import decode_jpeg
from ipfvision.errors import InputRefused, NotAnImage, UnsupportedEncoding

NATIVE = frozenset((ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian))
_JPEG_DCT = frozenset((JPEGBaseline8Bit, JPEGExtended12Bit))
_JPEG_LOSSLESS = frozenset((JPEGLossless, JPEGLosslessSV1))
_JPEG_LS = frozenset((JPEGLSLossless, JPEGLSNearLossless))
_JPEG_2000 = frozenset((JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL))
SUPPORTED = NATIVE | _JPEG_DCT | _JPEG_LOSSLESS | _JPEG_LS | _JPEG_2000 | {RLELossless}
LOSSY = frozenset((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless))
"""Syntaxes that are always lossy. JPEG 2000 (.91) and HTJ2K (.203) may be either: Lossy Image Compression says."""

_MOST_TILES = 4096
"""A 4096 x 4096 image in tiles of 64 x 64; a damaged header asks for millions, one by one."""

_RLE_SLACK = 16
"""Bytes that a segment may unpack to beyond its pixels: segments are padded to even length (PS3.5 G.3.1)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one frame is stored (PS3.3 C.7.6.3.1)."""

    rows: int
    columns: int
    bits_allocated: int
    """8, 16 or 32."""
    bits_stored: int
    high_bit: int
    is_signed: bool

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * (self.bits_allocated // 8)


def cells(frame: bytes | memoryview, syntax: UID, layout: Layout) -> npt.NDArray[Any]:
    """Decode one frame to the cells as they are stored: with overlay bits, without sign.

    Returns
    -------
    (rows, columns) uint8, uint16 or uint32, native byte order. A new array for compressed frames, a read-only view on the
    frame for native little endian ones.

    Raises
    ------
    NotAnImage
        If the stream is damaged, truncated or of another size than the header says.
    UnsupportedEncoding
        If it is of another process, precision or number of components than its transfer syntax allows here.
    """
    if syntax in NATIVE:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        array = np.frombuffer(frame, f"{order}u{layout.bits_allocated // 8}", layout.rows * layout.columns)
        return array.astype(array.dtype.newbyteorder("="), copy=False).reshape(layout.rows, layout.columns)
    try:
        return _decompressed(bytes(frame), syntax, layout)
    except InputRefused:
        raise
    except BaseException as error:
        # The one seam around the decoders. They raise what they like on damaged data: ValueError, RuntimeError, MemoryError,
        # struct.error, and pylibjpeg-rle a Rust PanicException, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        _refuse_damaged()


def _refuse_damaged() -> NoReturn:
    raise NotAnImage(
        "The compressed pixel data of this image are damaged or incomplete (Pixel Data (7FE0,0010)) and could not be decoded; "
        "please export the image again."
    ) from None


def _decompressed(stream: bytes, syntax: UID, layout: Layout) -> npt.NDArray[Any]:
    shape = (layout.rows, layout.columns)
    if syntax == RLELossless:
        return _rle(stream, layout)
    if syntax in _JPEG_2000:
        stream = _j2k_codestream(stream, layout)
        values = decode_jpeg_2000(stream, j2k_format=0)
        return _as_cells(values.reshape(shape), layout)
    precision = _check_jpeg(stream, syntax, layout)
    allocated = 8 if precision <= 8 else 16
    if syntax in _JPEG_LS:
        samples = bytes(decode_jpeg_ls(stream)[0])
    else:
        samples = decode_jpeg(stream, layout.rows, layout.columns, allocated, precision)
    return _as_cells(np.frombuffer(samples, f"<u{allocated // 8}").reshape(shape), layout)


def _as_cells(values: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """Into the file's own Bits Allocated, modulo its range: a decoder's container follows the precision of the stream."""
    return values.astype(f"u{layout.bits_allocated // 8}", copy=False)


def stored_values(raw: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """Take the stored value out of its cell: Bits Stored ending at High Bit, with its sign (PS3.5 8.1.1).

    Bits outside are dropped: old files keep overlays there (PS3.5 8.1.2, retired).

    Returns
    -------
    Same shape, a new and writeable array; signed if the pixel representation is.
    """
    size = layout.bits_allocated
    result = raw.copy()
    result <<= size - 1 - layout.high_bit
    if layout.is_signed:
        result = result.view(f"i{size // 8}")
    result >>= size - layout.bits_stored
    return result


def _rle(stream: bytes, layout: Layout) -> npt.NDArray[Any]:
    """One segment for each byte of a cell, highest byte first, behind a header of 16 numbers (PS3.5 G.3 to G.5)."""
    if len(stream) < 64:
        _refuse_damaged()
    size = layout.bits_allocated // 8
    count, *offsets = struct.unpack_from("<16I", stream)
    borders = [*offsets[:size], len(stream)]
    if count != size or borders[0] < 64 or any(first >= second for first, second in pairwise(borders)):
        _refuse_damaged()
    pixels = layout.rows * layout.columns
    planes = np.empty((pixels, size), np.uint8)
    for place, (start, end) in enumerate(pairwise(borders)):
        # A damaged last run reads on: into bytes that mean "nothing", and not past the end, which makes the decoder panic.
        plane = decode_rle_segment(stream[start:end] + b"\x80" * 128)
        if not pixels <= len(plane) <= pixels + _RLE_SLACK:
            _refuse_damaged()
        planes[:, size - 1 - place] = np.frombuffer(plane, np.uint8, pixels)
    return planes.view(f"<u{size}").reshape(layout.rows, layout.columns)


def _check_jpeg(stream: bytes, syntax: UID, layout: Layout) -> int:
    """Walk the markers of a JPEG or JPEG-LS stream to the start of its only scan (ITU-T T.81 annex B, T.87 annex C).

    Returns
    -------
    Sample precision in bits.
    """
    if syntax in _JPEG_LS:
        frame_markers: tuple[int, ...] = (0xF7,)
    elif syntax in _JPEG_LOSSLESS:
        frame_markers = (0xC3,)
    else:
        frame_markers = (0xC0,) if syntax == JPEGBaseline8Bit else (0xC0, 0xC1)
    if stream[:2] != b"\xff\xd8":
        _refuse_damaged()
    at, precision = 2, 0
    while True:
        while stream[at : at + 2] == b"\xff\xff":  # fill bytes (B.1.1.2)
            at += 1
        if at + 4 > len(stream) or stream[at] != 0xFF:
            _refuse_damaged()
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        segment = stream[at + 4 : at + 2 + length]
        if length < 2 or at + 2 + length >= len(stream):
            _refuse_damaged()
        if marker in frame_markers:
            if len(segment) < 9 or precision:
                _refuse_damaged()
            precision, rows, columns, components = struct.unpack(">BHHB", segment[:6])
            _check_stream(rows, columns, components, precision, 16, layout)
        elif marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
            raise UnsupportedEncoding(
                f"This image says that it is stored as {syntax.name}, but its JPEG stream is of another process; please export "
                "it again without compression (Transfer Syntax UID (0002,0010))."
            )
        elif marker == 0xC4:
            _check_huffman_tables(segment)
        elif marker == 0xDA:
            break
        at += 2 + length
    if not precision or segment[:1] != b"\x01":
        _refuse_damaged()
    if syntax in _JPEG_DCT and precision not in ((8,) if syntax == JPEGBaseline8Bit else (8, 12)):
        _refuse_damaged()
    # Inside the scan a byte of 0xFF is always stuffed, so this is the End of Image; after it may come padding.
    if stream.find(b"\xff\xd9", at) < 0:
        raise NotAnImage(
            "The JPEG data of this image end early (Pixel Data (7FE0,0010)): the file is truncated; please export it again."
        )
    return precision


def _check_huffman_tables(segment: bytes) -> None:
    """Code lengths must add up to what the segment holds, and to a prefix code (T.81 B.2.4.2, C.2)."""
    at = 0
    while at < len(segment):
        counts = segment[at + 1 : at + 17]
        codes = 0
        for bits, count in enumerate(counts, 1):
            codes += count << (16 - bits)
        at += 17 + sum(counts)
        if len(counts) < 16 or codes > 0x10000 or at > len(segment):
            _refuse_damaged()


def _check_stream(rows: int, columns: int, components: int, precision: int, most_bits: int, layout: Layout) -> None:
    if (rows, columns) != (layout.rows, layout.columns):
        raise NotAnImage(
            f"The compressed image is {rows} x {columns} pixels, but Rows (0028,0010) and Columns (0028,0011) say "
            f"{layout.rows} x {layout.columns}: the file is damaged; please export it again."
        )
    if components != 1:
        raise UnsupportedEncoding(
            f"The compressed image has {components} color components, and a CT image has 1 (Samples per Pixel (0028,0002)); "
            "please give the original CT image."
        )
    if not 2 <= precision <= min(most_bits, layout.bits_allocated):
        _refuse_damaged()


def _j2k_codestream(stream: bytes, layout: Layout) -> bytes:
    """Check a JPEG 2000 or HTJ2K codestream (ITU-T T.800 annex A): its size, and that all of it is there.

    Returns
    -------
    The bare codestream: some files wrap it in a JP2 header, which DICOM forbids (PS3.5 A.4.4).
    """
    start = stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0:
        _refuse_damaged()
    stream = stream[start:]
    if len(stream) < 44:
        _refuse_damaged()
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components, depth = struct.unpack_from(
        ">8IHB", stream, 8
    )
    _check_stream(bottom - top, right - left, components, (depth & 0x7F) + 1, 32, layout)
    if not tile_width or not tile_height or tile_left > left or tile_top > top:
        _refuse_damaged()
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    if tiles > _MOST_TILES:
        _refuse_damaged()

    at, found = 2, False
    while at + 4 <= len(stream):
        marker, length = struct.unpack_from(">HH", stream, at)
        if marker == 0xFF90:  # start of a tile-part: its length leads to the next one (A.4.2)
            (tile_part,) = struct.unpack_from(">I", stream, at + 6)
            found = True
            if tile_part == 0:  # "to the end of the codestream"
                at = len(stream)
            elif tile_part < 14:
                _refuse_damaged()
            else:
                at += tile_part
        elif marker == 0xFFD9:
            break
        elif found or marker < 0xFF00 or length < 2:
            _refuse_damaged()
        else:
            at += 2 + length
    if not found or at > len(stream):
        raise NotAnImage(
            "The JPEG 2000 data of this image end early (Pixel Data (7FE0,0010)): the file is truncated; export it again."
        )
    return stream
