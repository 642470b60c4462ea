"""Every transfer syntax gives back the pixels that went in."""

import base64
import json
from io import BytesIO
from pathlib import Path

import ct_files
import gdcm
import lossless_jpeg
import numpy as np
import openjpeg.utils
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
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

from ipfvision import dicom
from ipfvision.dicom import jpeg_process
from ipfvision.errors import NotAnImage, UnsupportedEncoding

HU = ct_files.chest()
STORED = (HU.astype(int) + 1024).astype(np.uint16)
STREAMS = json.loads(Path(__file__).with_name("streams.json").read_text())
Y, X = np.mgrid[:32, :40]
STREAM_STORED = np.rint(1500 + 1400 * np.sin(X / 7) * np.cos(Y / 9)).astype(np.uint16)


def only(content):
    (scan,) = dicom.read(content, "made.dcm")
    return scan


def j2k(pixels, bits, **options):
    return bytes(openjpeg.utils.encode_array(pixels, bits_stored=bits, photometric_interpretation=2, use_mct=False, **options))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_little_endian_syntaxes_are_exact(syntax):
    made = ct_files.dataset()
    made.file_meta.TransferSyntaxUID = syntax
    scan = only(ct_files.to_bytes(made))
    assert (scan.pixels == HU).all()
    assert scan.source.transfer_syntax == syntax.name


def big_endian():
    made = ct_files.dataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    made.PixelData = STORED.astype(">u2").tobytes()
    buffer = BytesIO()
    written = Dataset(made)  # has no byte order of its own yet
    written.file_meta = made.file_meta
    dcmwrite(buffer, written, enforce_file_format=True)
    return buffer.getvalue()


def test_big_endian_is_exact():
    assert (only(big_endian()).pixels == HU).all()


def bare(content):
    """Without preamble and meta information."""
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]


def test_a_file_without_preamble_and_meta_information_is_read_in_every_byte_order():
    made = ct_files.dataset()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    implicit = bare(ct_files.to_bytes(made))
    for content in (implicit, bare(ct_files.ct()), bare(big_endian())):
        assert dicom.is_dicom(content)
        assert (only(content).pixels == HU).all()


def test_a_file_without_preamble_but_with_meta_information_is_read():
    made = ct_files.dataset()
    made.compress(RLELossless, encoding_plugin="pydicom")
    content = ct_files.to_bytes(made)[132:]
    assert dicom.is_dicom(content)
    assert (only(content).pixels == HU).all()


def test_compressed_pixels_without_a_named_syntax_are_refused():
    made = ct_files.dataset()
    made.compress(RLELossless, encoding_plugin="pydicom")
    with pytest.raises(UnsupportedEncoding, match=r"does not say how"):
        only(bare(ct_files.to_bytes(made)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_rle_is_exact_for_every_cell_size(dtype):
    stored = (STORED // 16).astype(dtype) if dtype is np.uint8 else STORED.astype(dtype)
    made = ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0), stored, np.dtype(dtype).itemsize * 8)
    made.compress(RLELossless, encoding_plugin="pydicom")
    assert (only(ct_files.to_bytes(made)).pixels == stored).all()


def test_jpeg_ls_lossless_is_exact():
    made = ct_files.dataset()
    made.compress(JPEGLSLossless, encoding_plugin="pyjpegls")
    assert (only(ct_files.to_bytes(made)).pixels == HU).all()


def test_jpeg_ls_near_lossless_keeps_its_promise_and_is_called_lossy():
    made = ct_files.dataset()
    made.compress(JPEGLSNearLossless, encoding_plugin="pyjpegls", jls_error=3)
    scan = only(ct_files.to_bytes(made))
    assert 0 < np.abs(scan.pixels.astype(int) - HU).max() <= 3
    assert any("Lossy" in warning for warning in scan.warnings)


def test_jpeg_2000_lossless_is_exact():
    assert (only(ct_files.compressed(j2k(STORED, 12), JPEG2000Lossless)).pixels == HU).all()


def test_signed_jpeg_2000_is_exact():
    made = ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0), HU, 16)
    assert (only(ct_files.compressed(j2k(HU, 16), JPEG2000Lossless, made)).pixels == HU).all()


def test_jpeg_2000_in_a_jp2_wrapper_is_read():
    stream = bytes(openjpeg.utils.encode_array(STORED, bits_stored=12, photometric_interpretation=2, codec_format=1))
    assert stream[4:8] == b"jP  "
    assert (only(ct_files.compressed(stream, JPEG2000Lossless)).pixels == HU).all()


def test_jpeg_2000_lossy_is_close():
    scan = only(ct_files.compressed(j2k(STORED, 12, compression_ratios=[3]), JPEG2000))
    assert 0 < np.abs(scan.pixels.astype(int) - HU).max() < 60
    assert any("with loss" in warning for warning in scan.warnings)


@pytest.mark.parametrize("name", ["J2K_pixelrep_mismatch.dcm", "693_J2KI.dcm"])
def test_a_jpeg_2000_stream_of_another_sign_than_the_header_agrees_with_pydicom(name):
    path = Path(get_testdata_file(name))
    made = dcmread(path)
    scan = only(path.read_bytes())
    assert (scan.pixels == made.pixel_array * int(made.RescaleSlope) + int(made.RescaleIntercept)).all()


def stream_dataset():
    return ct_files.with_pixels(ct_files.dataset(), STREAM_STORED, 12)


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL])
def test_lossless_htj2k_is_exact(syntax):
    stream = base64.b64decode(STREAMS["htj2k_lossless"])
    scan = only(ct_files.compressed(stream, syntax, stream_dataset()))
    assert (scan.pixels == STREAM_STORED.astype(int) - 1024).all()


def test_lossy_htj2k_is_close():
    scan = only(ct_files.compressed(base64.b64decode(STREAMS["htj2k_lossy"]), HTJ2K, stream_dataset()))
    assert np.abs(scan.pixels - (STREAM_STORED.astype(int) - 1024)).max() <= 31


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [12, 16])
def test_lossless_jpeg_is_exact_with_every_predictor(predictor, bits):
    stored = STORED if bits == 12 else (STORED.astype(int) * 16 + 5).astype(np.uint16)
    made = ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0), stored, bits)
    syntax = JPEGLosslessSV1 if predictor == 1 else JPEGLossless
    scan = only(ct_files.compressed(lossless_jpeg.encode(stored, bits, predictor), syntax, made))
    assert (scan.pixels == stored).all()


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        (gdcm.TransferSyntax.JPEGLosslessProcess14, JPEGLossless),
        (gdcm.TransferSyntax.JPEGLosslessProcess14_1, JPEGLosslessSV1),
    ],
)
def test_lossless_jpeg_as_gdcm_writes_it_is_exact(kind, syntax, tmp_path):
    (tmp_path / "native").write_bytes(ct_files.ct())
    reader = gdcm.ImageReader()
    reader.SetFileName(str(tmp_path / "native"))
    assert reader.Read()
    changer = gdcm.ImageChangeTransferSyntax()
    changer.SetTransferSyntax(gdcm.TransferSyntax(kind))
    changer.SetInput(reader.GetImage())
    assert changer.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "compressed"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(changer.GetOutput())
    assert writer.Write()
    scan = only((tmp_path / "compressed").read_bytes())
    assert scan.source.transfer_syntax == syntax.name
    assert (scan.pixels == HU).all()


def test_signed_lossless_jpeg_is_exact():
    made = ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0), HU, 16)
    stream = lossless_jpeg.encode(HU.view(np.uint16), 16, 1)
    assert (only(ct_files.compressed(stream, JPEGLosslessSV1, made)).pixels == HU).all()


def test_twelve_bit_jpeg_is_close_and_called_lossy():
    stream = base64.b64decode(STREAMS["jpeg_extended_12_bit"])
    scan = only(ct_files.compressed(stream, JPEGExtended12Bit, stream_dataset()))
    assert np.abs(scan.pixels - (STREAM_STORED.astype(int) - 1024)).max() <= 2
    assert any("Lossy" in warning for warning in scan.warnings)


def test_twelve_bit_jpeg_of_an_old_scanner_has_the_values_that_pydicom_tests_for():
    # pydicom's own tests, for another decoder: [420, 140] is 244 and [230, 120] is 95.
    made = dcmread(get_testdata_file("JPEG-lossy.dcm"))
    stream = next(generate_frames(made.PixelData, number_of_frames=1))
    pixels = np.frombuffer(jpeg_process.decode_jpeg(stream, 1024, 256, 16, 12), "<u2").reshape(1024, 256)
    assert (pixels[420, 140], pixels[230, 120]) == (244, 95)


def test_eight_bit_baseline_jpeg_is_close_and_called_coarse():
    stored = (STORED >> 4).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=95)
    made = ct_files.with_pixels(ct_files.dataset(RescaleSlope=16), stored, 8)
    scan = only(ct_files.compressed(buffer.getvalue(), JPEGBaseline8Bit, made))
    assert np.abs(scan.pixels - (stored.astype(int) * 16 - 1024)).max() <= 16 * 12
    assert any("8 bits" in warning for warning in scan.warnings)


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile / Level 4.1"),
        ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
        ("1.2.840.10008.1.2.4.55", "JPEG Full Progression"),
        ("1.2.826.0.1.99999", "1.2.826.0.1.99999"),
    ],
)
def test_an_unsupported_transfer_syntax_is_named(uid, name):
    with pytest.raises(UnsupportedEncoding, match=r"\(0002,0010\)") as refused:
        only(ct_files.compressed(b"\0\0", uid))
    assert name in str(refused.value)


def streams():
    rle = ct_files.dataset()
    rle.compress(RLELossless, encoding_plugin="pydicom")
    jpeg_ls = ct_files.dataset()
    jpeg_ls.compress(JPEGLSLossless, encoding_plugin="pyjpegls")
    return {
        RLELossless: next(generate_frames(rle.PixelData, number_of_frames=1)),
        JPEGLSLossless: next(generate_frames(jpeg_ls.PixelData, number_of_frames=1)),
        JPEG2000Lossless: j2k(STORED, 12),
        JPEGLosslessSV1: lossless_jpeg.encode(STORED, 12, 1),
    }


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1], ids=lambda uid: uid.name)
def test_a_stream_that_ends_early_is_refused_and_not_filled_with_something(syntax):
    stream = streams()[syntax]
    for share in (0.01, 0.3, 0.9):
        with pytest.raises(NotAnImage, match=r"\(7FE0,0010\)"):
            only(ct_files.compressed(stream[: int(share * len(stream))], syntax))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1], ids=lambda uid: uid.name)
def test_a_stream_of_another_size_than_the_header_is_refused_before_decoding(syntax):
    with pytest.raises(NotAnImage, match=r"48 x 64 pixels.*4000 x 4000"):
        only(ct_files.compressed(streams()[syntax], syntax, ct_files.dataset(Rows=4000, Columns=4000)))


def test_a_color_stream_is_refused():
    buffer = BytesIO()
    Image.new("RGB", (64, 48), (200, 100, 50)).save(buffer, "JPEG")
    with pytest.raises(UnsupportedEncoding, match="3 color components"):
        only(ct_files.compressed(buffer.getvalue(), JPEGBaseline8Bit))


def test_progressive_jpeg_is_refused_as_another_process():
    buffer = BytesIO()
    Image.fromarray((STORED >> 4).astype(np.uint8)).save(buffer, "JPEG", progressive=True)
    with pytest.raises(UnsupportedEncoding, match="another process"):
        only(ct_files.compressed(buffer.getvalue(), JPEGBaseline8Bit))


def test_a_jpeg_process_that_dies_costs_one_image_and_not_the_program(monkeypatch):
    good = ct_files.compressed(streams()[JPEGLosslessSV1], JPEGLosslessSV1)
    only(good)
    started = jpeg_process._started

    def started_and_killed():
        process = started()
        process.kill()
        process.wait()
        return process

    monkeypatch.setattr(jpeg_process, "_started", started_and_killed)
    with pytest.raises(NotAnImage):
        only(good)
    monkeypatch.undo()
    assert (only(good).pixels == HU).all()


def test_a_jpeg_process_that_does_not_answer_is_ended(monkeypatch):
    import subprocess
    import sys

    jpeg_process.stop()
    silent = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    monkeypatch.setattr(jpeg_process, "_process", silent)
    monkeypatch.setattr(jpeg_process, "SECONDS_PER_FRAME", 0.2)
    with pytest.raises(NotAnImage):
        only(ct_files.compressed(streams()[JPEGLosslessSV1], JPEGLosslessSV1))
    assert silent.poll() is not None
    jpeg_process.stop()


def test_several_frames_are_read_from_one_compressed_object():
    stacks = np.stack([ct_files.chest(seed=i) for i in range(3)])
    made = ct_files.enhanced(stacks)
    native = dicom.read(ct_files.to_bytes(made), "made.dcm")
    made.compress(RLELossless, encoding_plugin="pydicom")
    frames = dicom.read(ct_files.to_bytes(made), "made.dcm")
    assert [scan.source.frame for scan in frames] == [1, 2, 3]
    for first, second in zip(native, frames, strict=True):
        assert (first.pixels == second.pixels).all()
