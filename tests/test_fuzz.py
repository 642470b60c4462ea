"""Thousands of damaged files: an intake or a named error each time, and never anything else."""

import io
import random
import struct
import threading
import time
import zipfile

import ct_files
import lossless_jpeg
import numpy as np
import openjpeg.utils
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from ipfvision import images
from ipfvision.workflow.intake import Intake, Upload, take_in

resource = pytest.importorskip("resource", reason="measures memory as Unix does")

DAMAGED = 4000
SLOWEST_SECONDS = 5.0
"""Of one file on a busy machine; a whole one takes 3 ms."""
MOST_MORE_MEMORY = 600 * 2**20
"""Bytes over the whole run, at its peak."""

SYNTAXES = [
    b"1.2.840.10008.1.2",
    b"1.2.840.10008.1.2.1",
    b"1.2.840.10008.1.2.1.99",
    b"1.2.840.10008.1.2.2",
    *(b"1.2.840.10008.1.2.4." + end for end in (b"50", b"51", b"57", b"70", b"80", b"81", b"90", b"91", b"201", b"203")),
    b"1.2.840.10008.1.2.5",
    b"1.2.840.10008.1.2.4.102",
]
HEADERS = [  # group, element, VR: values that decide on memory and shape
    (0x0028, 0x0002, "US"),
    (0x0028, 0x0008, "IS"),
    (0x0028, 0x0010, "US"),
    (0x0028, 0x0011, "US"),
    (0x0028, 0x0100, "US"),
    (0x0028, 0x0101, "US"),
    (0x0028, 0x0102, "US"),
    (0x0028, 0x0103, "US"),
    (0x0028, 0x1052, "DS"),
    (0x0028, 0x1053, "DS"),
    (0x0020, 0x0032, "DS"),
    (0x0020, 0x0037, "DS"),
    (0x0028, 0x0030, "DS"),
    (0x0018, 0x0050, "DS"),
    (0x0008, 0x0005, "CS"),
    (0x0028, 0x0120, "US"),
    (0x0028, 0x1050, "DS"),
]


def sound_files():
    hu = ct_files.chest()
    stored = (hu.astype(int) + 1024).astype(np.uint16)
    rle, jpeg_ls = ct_files.dataset(), ct_files.dataset()
    rle.compress(RLELossless, encoding_plugin="pydicom")
    jpeg_ls.compress(JPEGLSLossless, encoding_plugin="pyjpegls")
    baseline, photograph = io.BytesIO(), io.BytesIO()
    Image.fromarray((stored >> 4).astype(np.uint8)).save(baseline, "JPEG")
    Image.fromarray((stored >> 4).astype(np.uint8)).convert("RGB").save(photograph, "JPEG", progressive=True)
    eight_bits = ct_files.with_pixels(ct_files.dataset(RescaleSlope=16), (stored >> 4).astype(np.uint8), 8)
    j2k = bytes(openjpeg.utils.encode_array(stored, bits_stored=12, photometric_interpretation=2, use_mct=False))
    deflated = ct_files.dataset()
    deflated.file_meta.TransferSyntaxUID = SYNTAXES[2].decode()
    files = [
        ct_files.ct(),
        ct_files.ct()[132:],
        ct_files.to_bytes(rle),
        ct_files.to_bytes(jpeg_ls),
        ct_files.to_bytes(deflated),
        ct_files.to_bytes(ct_files.enhanced(np.stack([hu, hu]))),
        ct_files.compressed(j2k, JPEG2000Lossless),
        ct_files.compressed(lossless_jpeg.encode(stored, 12, 1), JPEGLosslessSV1),
        ct_files.compressed(baseline.getvalue(), JPEGBaseline8Bit, eight_bits),
        images.write_png((stored >> 4).astype(np.uint8)),
        images.write_png(stored),
        photograph.getvalue(),
    ]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, content in enumerate(files[:3] + files[9:]):
            archive.writestr(f"folder/{i}", content)
    return [*files, packed.getvalue()]


def flip(content, rng, _):
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64))):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return damaged


def flip_head(content, rng, _):
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        damaged[rng.randrange(min(len(damaged), 1200))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return damaged


def truncate(content, rng, _):
    return content[: rng.randrange(len(content))]


def cut_out(content, rng, _):
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randrange(1, 500) :]


def splice(content, rng, others):
    other = rng.choice(others)
    return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]


def lie_in_header(content, rng, _):
    group, element, vr = rng.choice(HEADERS)
    at = content.find(struct.pack("<HH", group, element) + vr.encode())
    if at < 0 or at + 8 > len(content):
        return flip_head(content, rng, _)
    (length,) = struct.unpack_from("<H", content, at + 6)
    if vr == "US":
        value = struct.pack("<H", rng.choice((0, 1, 7, 8, 13, 255, 4096, 32768, 65535)))
    else:
        lies = (
            b"",
            b"0",
            b"-1",
            b"1e308",
            b"nan",
            b"inf",
            b"99999999",
            b"\xff\xfe",
            b"1\\2",
            b"-1e-320",
            b"0\\0\\0\\0\\0\\0",
            b"x" * 70,
        )
        value = rng.choice(lies)
    damaged = content[: at + 6] + struct.pack("<H", len(value)) + value + content[at + 8 + length :]
    return lie_in_header(damaged, rng, _) if rng.random() < 0.4 else damaged


def lie_in_length(content, rng, _):
    damaged = bytearray(content)
    at = rng.randrange(128, max(129, len(damaged) - 8))
    for tag in (b"\x28\x00", b"\xe0\x7f\x10\x00", b"\xfe\xff\x00\xe0", b"\x00\x52", b"\x20\x00", b"PK\x01\x02", b"IDAT"):
        if rng.random() < 0.4 and (found := damaged.find(tag, rng.randrange(len(damaged)))) >= 0:
            at = found + rng.choice((4, 6, 8))
    damaged[at : at + 4] = struct.pack(
        "<I", rng.choice((0, 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, rng.getrandbits(32)))
    )
    return damaged


def swap_syntax(content, rng, _):
    at = content.find(b"\x02\x00\x10\x00UI")
    if at < 0 or at + 8 > len(content):
        return flip(content, rng, _)
    (length,) = struct.unpack_from("<H", content, at + 6)
    syntax = rng.choice(SYNTAXES)
    return content[: at + 6] + struct.pack("<H", len(syntax)) + syntax + content[at + 8 + length :]


WAYS = [flip, flip_head, truncate, cut_out, splice, lie_in_header, lie_in_header, lie_in_length, swap_syntax]


def check(content, seed, name):
    started = time.monotonic()
    try:
        result = take_in([Upload("damaged", bytes(content))])
    except BaseException as error:  # noqa: BLE001  anything at all is a failure, a Rust panic too
        pytest.fail(f"seed {seed}, {name}: {type(error).__name__}: {error}")
    assert isinstance(result, Intake), name
    for series in result.series:
        for scan in series.slices:
            assert np.isfinite(scan.pixels).all(), (seed, name)
    assert all(refusal.reason.endswith(".") for refusal in result.refusals), (seed, name)
    assert time.monotonic() - started < SLOWEST_SECONDS, f"seed {seed}, {name}: too slow"
    return bool(result.series)


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
def test_thousands_of_damaged_files_give_slices_or_sentences(capfd):
    sound = sound_files()
    for i, content in enumerate(sound):
        assert check(content, "none", f"sound file {i}")
    threads, memory = threading.active_count(), peak_memory()
    read = 0
    for seed in range(DAMAGED):
        rng = random.Random(seed)
        which = seed % len(sound)
        way = rng.choice(WAYS)
        content = way(sound[which], rng, sound)
        if rng.random() < 0.2:
            content = rng.choice(WAYS)(bytes(content) or b"\0" * 200, rng, sound)
        read += check(content, seed, f"{way.__name__} of file {which}")
    assert 0.05 * DAMAGED < read < 0.8 * DAMAGED, read  # neither all refused at once nor all let through
    assert peak_memory() - memory < MOST_MORE_MEMORY
    assert threading.active_count() <= threads + 1
    assert capfd.readouterr() == ("", "")


def test_random_bytes_behind_every_beginning_are_refused():
    rng = random.Random(0)
    beginnings = (b"", bytes(128) + b"DICM", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"PK\x03\x04", b"\x08\x00\x05\x00")
    for seed in range(300):
        content = beginnings[seed % len(beginnings)] + rng.randbytes(rng.choice((0, 1, 10, 1000)))
        assert not check(content, seed, "random bytes")
