"""Hounsfield units, padding, geometry, warnings and provenance of DICOM slices."""

import struct

import ct_files
import numpy as np
import pytest
from pydicom.dataset import Dataset

from ipfvision import dicom
from ipfvision.core.slice import Scale
from ipfvision.core.window import Window
from ipfvision.dicom.kernels import is_soft

HU = ct_files.chest()


def read(content, file="made.dcm"):
    (scan,) = dicom.read(content, file)
    return scan


# Hounsfield units


def test_a_written_slice_is_read_back_exactly():
    written = ct_files.scan(z=12.5)
    scan = read(dicom.write_ct(written, uid_seed="x"))
    assert (scan.pixels == written.pixels).all()
    assert scan.pixels.dtype == np.int16
    assert scan.scale is Scale.HOUNSFIELD
    assert scan.plane == written.plane
    assert scan.spacing == written.spacing
    assert scan.file_window == Window(-600, 1500)
    assert scan.thickness_mm == 1.0
    assert not scan.padding.any()
    assert scan.warnings == ()


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_uids():
    first, again, other = (dicom.write_ct(ct_files.scan(series=None), uid_seed=seed) for seed in ("a", "a", "b"))
    assert first == again
    assert read(first).source.series_instance_uid != read(other).source.series_instance_uid


def test_a_written_slice_with_padding_is_read_back_with_it():
    padding = np.zeros(HU.shape, np.bool_)
    padding[:, :5] = True
    written = ct_files.scan()
    written = type(written)(written.pixels, written.scale, written.source, padding, plane=written.plane)
    scan = read(dicom.write_ct(written, uid_seed="x"))
    assert (scan.padding == padding).all()
    assert (scan.pixels[~padding] == HU[~padding]).all()


def test_a_picture_without_hounsfield_units_is_not_written_as_ct():
    grey = ct_files.scan()
    grey = type(grey)(np.zeros((4, 4), np.float32), Scale.GREY, grey.source, np.zeros((4, 4), np.bool_))
    with pytest.raises(ValueError, match="Hounsfield"):
        dicom.write_ct(grey, uid_seed="x")


def test_hounsfield_units_of_a_real_signed_slice_are_the_hand_computed_ones(shared_data):
    """GE, explicit little endian, 16 bits signed, slope 1, intercept -1024: HU = stored - 1024, taken from the raw bytes."""
    (path,) = (shared_data / "planes" / "A002304" / "axial").iterdir()
    content = path.read_bytes()
    start = content.rindex(b"\xe0\x7f\x10\x00OW\x00\x00") + 12
    scan = read(content)
    for row, column in ((256, 256), (200, 150), (300, 380), (100, 255)):
        (stored,) = struct.unpack_from("<h", content, start + 2 * (512 * row + column))
        assert scan.pixels[row, column] == stored - 1024
    assert struct.unpack_from("<h", content, start)[0] == -2000  # the circle: -3024 HU, and padding
    assert scan.padding[0, 0]
    assert 0.2 < scan.padding.mean() < 0.23  # the corners outside an inscribed circle: 1 - pi / 4
    assert not scan.padding[200:300, 200:300].any()


def test_hounsfield_units_of_a_real_unsigned_slice_are_the_hand_computed_ones(shared_data):
    """Philips, implicit little endian, 12 bits unsigned in 16, slope 1, intercept -1024."""
    path = min((shared_data / "lungpetctdx" / "Lung_Dx-A0001").glob("*.dcm"))
    content = path.read_bytes()
    start = content.rindex(b"\xe0\x7f\x10\x00" + struct.pack("<I", 512 * 512 * 2)) + 8
    stored = np.frombuffer(content, "<u2", 512 * 512, start).reshape(512, 512)
    scan = read(content)
    assert (scan.pixels == stored.astype(int) - 1024).all()
    assert scan.pixels.dtype == np.int16


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -100), (-3, 50), (1, -1024)])
def test_whole_slope_and_intercept_give_int16_for_every_cell(dtype, slope, intercept):
    limits = np.iinfo(dtype)
    low, high = max(limits.min, -2000), min(limits.max, 2000)
    stored = np.random.default_rng(1).integers(low, high, (20, 30), endpoint=True).astype(dtype)
    made = ct_files.with_pixels(ct_files.dataset(RescaleSlope=slope, RescaleIntercept=intercept), stored, limits.bits)
    scan = read(ct_files.to_bytes(made))
    assert scan.pixels.dtype == np.int16
    assert (scan.pixels == stored.astype(int) * slope + intercept).all()


def test_a_broken_slope_gives_float32():
    made = ct_files.dataset(RescaleSlope="0.5", RescaleIntercept="-1024.25")
    scan = read(ct_files.to_bytes(made))
    assert scan.pixels.dtype == np.float32
    assert np.allclose(scan.pixels, (HU.astype(float) + 1024) * 0.5 - 1024.25)


def test_whole_numbers_beyond_int16_give_float32_and_not_wrapped_ones():
    scan = read(ct_files.ct(RescaleSlope=100, RescaleIntercept=-1024))
    assert scan.pixels.dtype == np.float32
    assert (scan.pixels == (HU.astype(np.float32) + 1024) * 100 - 1024).all()


@pytest.mark.parametrize("signed", [False, True])
def test_overlay_bits_above_the_stored_bits_are_masked_off(signed):
    values = HU.astype(int) if signed else HU.astype(int) + 1024
    cells = (values & 0xFFF) | np.where(np.arange(HU.shape[1]) % 2, 0xF000, 0x3000)
    made = ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0 if signed else -1024), cells.astype(np.uint16), 12)
    made.PixelRepresentation = int(signed)
    assert (read(ct_files.to_bytes(made)).pixels == HU).all()


def test_values_stored_in_the_upper_bits_are_shifted_down():
    cells = ((HU.astype(int) + 1024) << 4).astype(np.uint16)
    made = ct_files.with_pixels(ct_files.dataset(), cells, 12, high_bit=15)
    assert (read(ct_files.to_bytes(made)).pixels == HU).all()


def test_the_pixels_cannot_be_changed():
    scan = read(ct_files.ct())
    with pytest.raises(ValueError, match="read-only"):
        scan.pixels[0, 0] = 0


def test_a_rescale_type_of_unspecified_is_taken_as_hounsfield_where_air_and_tissue_fit():
    scan = read(ct_files.ct(RescaleType="US"))
    assert (scan.pixels == HU).all()
    assert any("(0028,1054)" in warning for warning in scan.warnings)


@pytest.mark.parametrize("words", ["HU", "Houndsfield Unit", "Hounsfield", None])
def test_a_rescale_type_that_means_hounsfield_is_taken_without_a_word(words):
    assert read(ct_files.ct(RescaleType=words)).warnings == ()


# Enhanced CT


def test_every_frame_of_an_enhanced_ct_has_its_own_rescale_and_place():
    stacks = np.stack([ct_files.chest(seed=i) for i in range(3)])
    frames = dicom.read(ct_files.to_bytes(ct_files.enhanced(stacks)), "made.dcm")
    for i, (scan, hu) in enumerate(zip(frames, stacks, strict=True)):
        slope = i + 1
        assert (scan.pixels == (hu.astype(int) + 1024 * slope) // slope * slope - 1024 * slope).all()
        assert scan.plane is not None
        assert scan.plane.position == (0, 0, -2.0 * i)
        assert scan.source.frame == i + 1
        assert scan.source.kernel == "LUNG"
        assert scan.spacing is not None
        assert (scan.spacing.row_mm, scan.spacing.column_mm, scan.thickness_mm) == (0.7, 0.8, 1.5)
        assert scan.file_window == Window(-500, 1400)


def test_a_multi_frame_file_without_functional_groups_is_read_without_places():
    stored = np.stack([HU, HU]) + 1024
    made = ct_files.with_pixels(ct_files.dataset(NumberOfFrames=2), stored.astype(np.uint16), 12)
    frames = dicom.read(ct_files.to_bytes(made), "made.dcm")
    assert [scan.plane for scan in frames] == [None, None]
    assert [scan.source.frame for scan in frames] == [1, 2]
    assert (frames[1].pixels == HU).all()


# Padding


def outside_circle(rows=128, columns=128, radius=None):
    y, x = np.mgrid[:rows, :columns]
    return (y - (rows - 1) / 2) ** 2 + (x - (columns - 1) / 2) ** 2 > (radius or rows / 2) ** 2


def slice_with(hu, **changes):
    return read(ct_files.to_bytes(ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0, **changes), hu, 16)))


@pytest.mark.parametrize("fill", [-3024, -2048, -2000, -32768])
def test_an_untagged_circle_of_an_impossible_value_is_padding(fill):
    hu = ct_files.chest(128, 128)
    circle = outside_circle()
    hu[circle] = fill
    assert (slice_with(hu).padding == circle).all()


def test_a_circle_filled_with_minus_1024_around_noisy_air_is_padding():
    hu = ct_files.chest(128, 128)
    circle = outside_circle()
    hu[circle] = -1024
    assert (slice_with(hu).padding == circle).all()


def test_a_tagged_value_is_padding():
    hu = ct_files.chest(128, 128)
    circle = outside_circle()
    hu[circle] = -1100
    made = ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0), hu, 16)
    made.add_new(0x00280120, "SS", -1100)
    assert (read(ct_files.to_bytes(made)).padding == circle).all()


def test_a_tagged_range_is_padding_to_both_ends():
    hu = ct_files.chest(128, 128)
    circle = outside_circle()
    hu[circle] = np.random.default_rng(0).integers(-1300, -1200, circle.sum(), endpoint=True)
    made = ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0), hu, 16)
    made.add_new(0x00280120, "SS", -1200)
    made.add_new(0x00280121, "SS", -1300)
    assert (read(ct_files.to_bytes(made)).padding == circle).all()


def test_a_tag_of_the_wrong_sign_means_the_same_bits():
    hu = ct_files.chest(128, 128)
    circle = outside_circle()
    hu[circle] = -1100
    made = ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0), hu, 16)
    made.add_new(0x00280120, "US", 65536 - 1100)
    assert (read(ct_files.to_bytes(made)).padding == circle).all()


def test_padding_that_fills_the_whole_cell_beyond_the_stored_bits_is_padding():
    cells = (ct_files.chest(128, 128).astype(int) + 1024).astype(np.uint16)
    circle = outside_circle()
    cells[circle] = 63536  # -2000 in 16 bits, where 12 are stored: masked, it would be 1072 HU of bone
    made = ct_files.with_pixels(ct_files.dataset(), cells, 12)
    made.add_new(0x00280120, "US", 63536)
    assert (read(ct_files.to_bytes(made)).padding == circle).all()


def test_a_tagged_value_that_tissue_can_have_is_padding_only_at_the_border():
    """Padding value 0 with intercept 0: water. Inside the patient it stays."""
    hu = ct_files.chest(128, 128)
    circle = outside_circle()
    hu[circle] = 0
    hu[60:70, 60:70] = 0
    made = ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0), hu, 16)
    made.add_new(0x00280120, "SS", 0)
    assert (read(ct_files.to_bytes(made)).padding == circle).all()


@pytest.mark.parametrize("fill", [0, -1024, -2000, 3000])
def test_a_smaller_image_on_a_larger_canvas_has_a_padded_border(fill):
    hu = np.full((160, 200), fill, np.int16)
    hu[20:148, 30:158] = ct_files.chest(128, 128)
    expected = np.ones(hu.shape, np.bool_)
    expected[20:148, 30:158] = False
    assert (slice_with(hu).padding == expected).all()


def test_a_canvas_around_a_circle_is_padding_with_the_circle():
    inner = ct_files.chest(128, 128)
    inner[outside_circle()] = -2000
    hu = np.zeros((160, 160), np.int16)
    hu[16:144, 16:144] = inner
    expected = np.ones(hu.shape, np.bool_)
    expected[16:144, 16:144] = outside_circle()
    assert (slice_with(hu).padding == expected).all()


def test_clipped_air_around_a_patient_is_not_padding():
    hu = np.maximum(ct_files.chest(128, 128), -990)
    hu[ct_files.chest(128, 128) < -900] = -1000  # uniform air, to the border and in the lungs
    assert not slice_with(hu).padding.any()


def test_streaks_below_minus_1500_inside_the_patient_stay():
    hu = ct_files.chest(128, 128)
    hu[60:64, 60:100] = -1800
    assert not slice_with(hu).padding.any()


def test_a_uniform_image_has_no_padding():
    assert not slice_with(np.full((64, 64), -1000, np.int16)).padding.any()


# Geometry


def test_gantry_tilt_is_still_axial():
    tilt = np.radians(25)
    cosines = [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]
    assert read(ct_files.ct(ImageOrientationPatient=cosines)).warnings == ()


@pytest.mark.parametrize(
    ("cosines", "words"),
    [
        ([-1, 0, 0, 0, -1, 0], "turned by 180 degrees"),
        ([-1, 0, 0, 0, 1, 0], "mirrored"),
        ([1, 0, 0, 0, -1, 0], "mirrored"),
        ([0, 1, 0, -1, 0, 0], "turned by about 90 degrees"),
    ],
)
def test_an_unusual_orientation_is_read_as_stored_and_said(cosines, words):
    scan = read(ct_files.ct(ImageOrientationPatient=cosines))
    assert (scan.pixels == HU).all()
    assert any(words in warning and "(0020,0037)" in warning for warning in scan.warnings)


@pytest.mark.parametrize(("position", "words"), [("HFP", "prone"), ("FFP", "prone"), ("HFDL", "left side")])
def test_a_patient_not_on_the_back_is_said(position, words):
    assert any(words in warning for warning in read(ct_files.ct(PatientPosition=position)).warnings)


def test_a_slice_without_position_is_read_and_said():
    scan = read(ct_files.ct(ImagePositionPatient=None))
    assert scan.plane is None
    assert any("(0020,0032)" in warning for warning in scan.warnings)


def test_without_orientation_image_type_axial_is_taken_and_said():
    scan = read(ct_files.ct(ImageOrientationPatient=None))
    assert any("(0020,0037)" in warning for warning in scan.warnings)


@pytest.mark.parametrize("spacing", [None, [0, 0.7], ["0.7"], [-1, 1]])
def test_without_pixel_spacing_nothing_is_given_in_mm(spacing):
    scan = read(ct_files.ct(PixelSpacing=spacing))
    assert scan.spacing is None
    assert any("mm" in warning and "(0028,0030)" in warning for warning in scan.warnings)


# Windows


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"WindowCenter": [-600, 40], "WindowWidth": [1500, 400]}, Window(-600, 1500)),
        ({"WindowCenter": None}, None),
        ({"WindowWidth": 0}, None),
        ({"VOILUTFunction": "SIGMOID"}, None),
    ],
)
def test_the_first_linear_window_of_the_file_is_kept(changes, window):
    assert read(ct_files.ct(**changes)).file_window == window


# Warnings


@pytest.mark.parametrize(
    ("changes", "tag"),
    [
        ({"SliceThickness": 5}, "(0018,0050)"),
        ({"ConvolutionKernel": "STANDARD", "Manufacturer": "GE MEDICAL SYSTEMS"}, "(0018,1210)"),
        ({"LossyImageCompression": "01", "LossyImageCompressionRatio": 10}, "(0028,2110)"),
        ({"BurnedInAnnotation": "YES"}, "(0028,0301)"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "(0028,0004)"),
    ],
)
def test_what_limits_the_reading_is_said_with_its_tag(changes, tag):
    (warning,) = read(ct_files.ct(**changes)).warnings
    assert tag in warning


def test_2_5_mm_is_not_thick():
    assert read(ct_files.ct(SliceThickness=2.5)).warnings == ()


def test_monochrome1_is_shown_inverted_and_keeps_its_hounsfield_units():
    scan = read(ct_files.ct(PhotometricInterpretation="MONOCHROME1"))
    assert scan.inverted
    assert (scan.pixels == HU).all()


@pytest.mark.parametrize(
    ("kernel", "manufacturer", "soft"),
    [
        ("STANDARD", "GE MEDICAL SYSTEMS", True),
        ("SOFT", "GE MEDICAL SYSTEMS", True),
        ("CHST", "GE MEDICAL SYSTEMS", True),
        ("LUNG", "GE MEDICAL SYSTEMS", False),
        ("BONEPLUS", "GE MEDICAL SYSTEMS", False),
        ("B31f", "SIEMENS", True),
        ("I30f\\3", "SIEMENS", True),
        ("Br40d", "Siemens Healthineers", True),
        ("B60f", "SIEMENS", False),
        ("B70f", "SIEMENS", False),
        ("Bl57d", "SIEMENS", False),
        ("B45f", "SIEMENS", False),
        ("B", "Philips", True),
        ("L", "Philips", False),
        ("YC", "Philips", False),
        ("B", "SIEMENS", False),
        ("FC01", "TOSHIBA", True),
        ("FC18", "Canon Medical Systems", True),
        ("FC19", "TOSHIBA", False),
        ("FC51", "TOSHIBA", False),
        ("FC86", None, False),
        ("something new", "Someone", False),
        ("", None, False),
    ],
)
def test_soft_kernels_are_known_by_their_vendors_names(kernel, manufacturer, soft):
    assert is_soft(kernel, manufacturer) is soft


def test_more_pixel_data_than_the_size_asks_for_is_said():
    made = ct_files.dataset()
    made.PixelData += b"\0" * 100
    assert any("more pixel data" in warning for warning in read(ct_files.to_bytes(made)).warnings)


# Provenance


def test_the_hash_is_of_the_values_and_not_of_how_they_are_stored():
    signed = ct_files.to_bytes(ct_files.with_pixels(ct_files.dataset(RescaleIntercept=0), HU, 16))
    assert read(ct_files.ct()).source.pixel_sha256 == read(signed).source.pixel_sha256
    other = HU.copy()
    other[0, 0] += 1
    assert read(ct_files.ct(ct_files.scan(other))).source.pixel_sha256 != read(signed).source.pixel_sha256


def test_the_source_names_uids_kernel_manufacturer_and_file():
    made = ct_files.dataset(Manufacturer="SIEMENS", ConvolutionKernel="B60f", InstanceNumber=7)
    source = read(ct_files.to_bytes(made), "mine.dcm").source
    assert (source.file, source.format, source.manufacturer, source.kernel) == ("mine.dcm", "DICOM", "SIEMENS", "B60f")
    assert source.instance_number == 7
    assert source.sop_instance_uid == made.SOPInstanceUID
    assert source.series_instance_uid == made.SeriesInstanceUID
    assert source.study_instance_uid == made.StudyInstanceUID
    assert source.frame_of_reference_uid == made.FrameOfReferenceUID
    assert source.transfer_syntax == "Explicit VR Little Endian"


def test_an_sop_class_that_stands_only_in_the_meta_information_is_enough():
    """As in one export by OsiriX among the real scans."""
    made = ct_files.dataset()
    del made.SOPClassUID
    assert (read(_without_check(made)).pixels == HU).all()


def _without_check(made: Dataset) -> bytes:
    """pydicom writes no file without SOP class, so it is taken out of the bytes."""
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID
    content = ct_files.to_bytes(made)
    start = content.index(b"\x08\x00\x16\x00UI")
    return content[:start] + content[start + 8 + int.from_bytes(content[start + 6 : start + 8], "little") :]
