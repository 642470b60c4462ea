"""An encoder for lossless JPEG (ITU-T T.81 annex H), written from the standard: an oracle that shares no code with GDCM."""

import struct

import numpy as np
import numpy.typing as npt


def encode(image: npt.NDArray[np.uint16], precision: int, predictor: int) -> bytes:
    """One component, Huffman coded, any of the seven predictors."""
    rows, columns = image.shape
    # 17 difference categories, each with a code of 5 bits: wasteful, and right.
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    out = b"\xff\xd8"
    out += b"\xff\xc4" + struct.pack(">H", 2 + len(table)) + table
    out += b"\xff\xc3" + struct.pack(">HBHHB", 11, precision, rows, columns, 1) + b"\x01\x11\x00"
    out += b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes([1, 0, predictor, 0, 0])
    bits = []
    pixels = image.astype(int)
    for y in range(rows):
        for x in range(columns):
            difference = (int(pixels[y, x]) - _predict(pixels, y, x, precision, predictor)) % 65536
            difference -= 65536 if difference > 32768 else 0
            category = abs(difference).bit_length()
            bits.append(f"{category:05b}")
            if 0 < category < 16:
                value = difference if difference > 0 else difference + (1 << category) - 1
                bits.append(f"{value:0{category}b}")
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    coded = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    return out + coded + b"\xff\xd9"


def _predict(pixels: npt.NDArray[np.int_], y: int, x: int, precision: int, predictor: int) -> int:
    """H.1.2.1, table H.1: the first pixel, then the first row from the left, then each row's first pixel from above."""
    if y == 0:
        return 1 << (precision - 1) if x == 0 else int(pixels[0, x - 1])
    above = int(pixels[y - 1, x])
    if x == 0:
        return above
    left, corner = int(pixels[y, x - 1]), int(pixels[y - 1, x - 1])
    return (
        left,
        above,
        corner,
        left + above - corner,
        left + ((above - corner) >> 1),
        above + ((left - corner) >> 1),
        (left + above) >> 1,
    )[predictor - 1]
