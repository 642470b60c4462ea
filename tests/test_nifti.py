"""NIfTI: every axis order lands on the same voxels of the patient, and nothing large or homeless is taken in."""

import gzip
import itertools
import struct
import time
import tracemalloc

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipfvision import nifti
from ipfvision.core.annotation import Annotation, Finding
from ipfvision.core.placement import place
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Series, Slice, Source
from ipfvision.errors import AnnotationUnusable, NotAnAnnotation, TooLarge
from ipfvision.workflow.intake import take_in_paths

Z = np.array([0.0, 0.0, 1.0])
SHAPE = (12, 9, 7)
"""Of a volume whose axes are i, j, k."""
AFFINE = np.array([[-0.7, 0, 0, 30], [0, -0.9, 0, 40], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])
"""LPS order, as CT lies: rows to the left, columns to the back, planes upwards."""


def labels(seed=0, count=1):
    rng = np.random.default_rng(seed)
    return (rng.integers(1, count + 1, SHAPE) * (rng.random(SHAPE) < 0.3)).astype(np.uint8)


def image(volume, affine=AFFINE, kind=nibabel.Nifti1Image, code=1):
    made = kind(volume, affine)
    made.set_sform(affine, code)
    made.set_qform(affine, code)
    return made


def read(content, normal=Z, file="mask.nii.gz"):
    if not isinstance(content, bytes):
        content = content.to_bytes()
    assert nifti.is_nifti(content)
    return nifti.read(content, file, normal)


def points(items, label=None):
    """The voxels' centers in LPS, rounded, told from what the masks say of their own place (PS3.3 C.7.6.2.1.1)."""
    found = set()
    for item in items:
        if label is not None and item.said.label != label:
            continue
        for row, column in np.argwhere(item.mask):
            x = np.asarray(item.plane.position) + np.asarray(item.plane.row) * item.spacing.column_mm * column
            x = x + np.asarray(item.plane.column) * item.spacing.row_mm * row
            found.add(tuple(np.round(x, 3) + 0.0))
    return found


def points_of(volume, affine, value):
    """The same from the affine alone: NIfTI's x and y have the other sign."""
    voxels = np.argwhere(volume == value)
    ras = nibabel.affines.apply_affine(affine, voxels)
    return {tuple(np.round(point * [-1, -1, 1], 3) + 0.0) for point in ras}


def test_a_mask_lies_where_its_affine_says():
    volume = labels()
    assert points(read(image(volume)).items) == points_of(volume, AFFINE, 1)


ORIENTATIONS = ["".join(letters) for axes in itertools.permutations(("RL", "AP", "IS")) for letters in itertools.product(*axes)]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_order_and_direction_of_axes_is_the_same_mask(orientation):
    volume = labels(count=2)
    start = nibabel.io_orientation(AFFINE)
    way = nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(orientation))
    turned = image(volume).as_reoriented(way)
    items = read(turned).items
    straight = read(image(volume)).items
    for label in ("value 1", "value 2"):
        assert points(items, label) == points(straight, label)
    assert {item.plane.row for item in items} == ({(-1, 0, 0)} if "R" in orientation else {(1, 0, 0)})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.tuples(*[st.floats(-3, 3)] * 3))
def test_an_oblique_volume_lies_where_its_affine_says(seed, angles):
    a, b, c = angles
    turn = nibabel.eulerangles.euler2mat(a, b, c)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 1.1, 2.0])
    affine[:3, 3] = np.random.default_rng(seed).uniform(-200, 200, 3)
    volume = labels(seed)
    made = image(volume, affine)
    stored = nibabel.Nifti1Image.from_bytes(made.to_bytes())
    items = read(made).items
    ours, theirs = (np.array(sorted(found)) for found in (points(items), points_of(volume, stored.affine, 1)))
    nearest = np.abs(ours[:, None] - theirs[None]).max(axis=2).min(axis=1)
    assert len(ours) == len(theirs)
    assert nearest.max() < 0.005


def test_planes_lie_across_the_axis_closest_to_the_slices_normal():
    sagittal = read(image(labels()), normal=np.array([0.96, 0.2, 0.2])).items
    assert all(abs(item.plane.normal[0]) > 0.99 for item in sagittal)
    assert points(sagittal) == points(read(image(labels())).items)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [False, True])
def test_both_versions_are_read_packed_or_not(kind, packed):
    content = image(labels(), kind=kind).to_bytes()
    assert len(read(gzip.compress(content) if packed else content).items) == SHAPE[2]


def test_the_other_byte_order_is_read():
    volume = labels().astype(">i2")
    header = nibabel.Nifti1Header(endianness=">")
    made = nibabel.Nifti1Image(volume, AFFINE, header)
    made.set_sform(AFFINE, 1)
    assert made.to_bytes()[:4] == struct.pack(">i", 348)
    assert points(read(made).items) == points_of(volume, AFFINE, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_labels_are_read_from_every_type(dtype):
    volume = labels(count=3).astype(dtype)
    made = nibabel.Nifti1Image(volume, AFFINE, dtype=dtype)
    made.set_sform(AFFINE, 1)
    items = read(made).items
    for value in (1, 2, 3):
        assert points(items, f"value {value}") == points_of(volume, AFFINE, value)


def test_a_scaled_mask_is_unscaled():
    made = image(labels() * np.uint8(255))
    content = bytearray(made.to_bytes())
    struct.pack_into("<ff", content, 112, 1 / 255, 0)  # scl_slope, scl_inter
    items = read(bytes(content)).items
    assert {item.said.label for item in items} == {""}
    assert points(items) == points_of(labels(), AFFINE, 1)


def test_units_of_meters_and_micrometers_are_heeded():
    for unit, factor in (("meter", 1000), ("micron", 0.001)):
        affine = AFFINE.copy()
        affine[:3] /= factor
        made = image(labels(), affine)
        made.header.set_xyzt_units(unit)
        ours, theirs = (np.array(sorted(found)) for found in (points(read(made).items), points_of(labels(), AFFINE, 1)))
        assert np.allclose(ours, theirs, atol=0.01)


def test_the_qform_counts_where_there_is_no_sform():
    made = nibabel.Nifti1Image(labels(), AFFINE)
    made.set_qform(AFFINE, 1)
    made.set_sform(np.diag([9, 9, 9, 1]), 0)
    assert points(read(made).items) == points_of(labels(), AFFINE, 1)


def test_only_planes_that_hold_something_become_masks_and_only_that_part():
    volume = np.zeros(SHAPE, np.uint8)
    volume[4:6, 5, 2] = 1
    (item,) = read(image(volume)).items
    assert item.mask.shape == (3, 4)
    assert item.mask.sum() == 2
    assert item.frame_of_reference_uid is None


def test_a_single_label_has_no_name_of_its_own_and_its_finding_is_in_the_files_name():
    said = read(image(labels()), file="folder/honeycombing_left.nii.gz").items[0].said
    assert (said.finding, said.label, said.origin, said.reader) == (Finding.HONEYCOMBING, "", "NIfTI", "NIfTI")


def test_a_fourth_dimension_of_one_is_none():
    assert len(read(image(labels()[..., None])).items) == SHAPE[2]


def test_probabilities_are_annotated_from_one_half_on_and_said():
    volume = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    file = read(image(volume))
    assert points(file.items) == points_of(volume >= 0.5, AFFINE, 1)
    assert "probabilities" in file.notes[0]


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (np.zeros((4, 4, 4, 3), np.uint8), "4 dimensions"),
        (np.zeros(SHAPE, np.uint8), "empty"),
        (np.ones((3, 3, 3), np.complex64), "damaged"),
    ],
)
def test_what_is_no_mask_of_one_volume_is_refused(volume, words):
    with pytest.raises(AnnotationUnusable, match=words):
        read(image(volume))


@pytest.mark.parametrize(
    "volume",
    [
        np.random.default_rng(0).integers(-1000, 400, SHAPE).astype(np.int16),
        np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32),
        np.arange(600, dtype=np.int16).reshape(10, 10, 6),
        np.full(SHAPE, 70_000, np.int32),
        np.full(SHAPE, np.nan, np.float32),
        np.where(labels() > 0, 2, 0.3).astype(np.float32),
    ],
    ids=["CT", "noise", "600 values", "large", "no number", "labels and shares"],
)
def test_an_image_is_no_mask(volume):
    with pytest.raises(NotAnAnnotation, match="an image and not a mask"):
        read(image(volume))


def test_without_a_place_it_is_refused():
    with pytest.raises(AnnotationUnusable, match="sform and qform codes are 0"):
        read(image(labels(), code=0))


def test_sheared_axes_are_refused():
    affine = AFFINE.copy()
    affine[0, 1] = 0.3
    made = nibabel.Nifti1Image(labels(), affine)
    made.set_sform(affine, 1)
    with pytest.raises(AnnotationUnusable, match="right angles"):
        read(made)


@pytest.mark.parametrize("bad", [np.diag([0, 1, 1, 1.0]), np.full((4, 4), np.nan), np.diag([1e9, 1, 1, 1])])
def test_an_affine_that_makes_no_sense_is_refused(bad):
    content = bytearray(image(labels()).to_bytes())
    struct.pack_into("<12f", content, 280, *bad[:3].ravel())
    with pytest.raises(AnnotationUnusable, match="damaged"):
        read(bytes(content))


def test_two_files_and_analyze_are_refused():
    for magic in (b"ni1\0", b"\0\0\0\0"):
        content = bytearray(image(labels()).to_bytes())
        content[344:348] = magic
        with pytest.raises(AnnotationUnusable, match="two files"):
            read(bytes(content))


PACKED = gzip.compress(b"hello", mtime=0), gzip.compress(bytes(5000), mtime=0)  # without the time, which would name the test


@pytest.mark.parametrize("content", [b"", b"x" * 348, b"\x1f\x8b", *PACKED])
def test_other_content_is_no_nifti(content):
    assert not nifti.is_nifti(content)
    with pytest.raises(NotAnAnnotation, match="no NIfTI"):
        nifti.read(content, "x", Z)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(packed, share):
    content = image(np.random.default_rng(0).integers(0, 2, (40, 40, 9)).astype(np.uint8)).to_bytes()
    content = gzip.compress(content) if packed else content
    with pytest.raises(AnnotationUnusable, match="damaged"):
        read(content[: int(share * len(content))])


def with_shape(*shape):
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float64)
    header.set_sform(AFFINE, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header.binaryblock + bytes(4)


@pytest.mark.parametrize("shape", [(512, 512, 1024), (32_767, 32_767, 32_767)])
def test_two_gigabytes_are_refused_at_once_from_the_header(shape):
    bomb = gzip.compress(with_shape(*shape) + bytes(2**25), compresslevel=1)
    read(image(labels()))  # nibabel is imported late: not part of what is measured
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(TooLarge, match="MB are read"):
            read(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < 2
    assert peak < 5_000_000


def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_counts():
    content = image(labels()).to_bytes()
    bomb = gzip.compress(content + bytes(2**27), compresslevel=1)
    tracemalloc.start()
    try:
        assert len(read(bomb).items) == SHAPE[2]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def scan_of(volume, affine):
    """CT slices on the volume's own grid, as a scanner would have written them."""
    width, height, depth = volume.shape
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    slices = []
    for k in range(depth):
        position = nibabel.affines.apply_affine(affine, (0, 0, k)) * [-1, -1, 1]
        slices.append(
            Slice(
                pixels=volume[:, :, k].T.astype(np.int16),
                scale=Scale.HOUNSFIELD,
                source=Source(f"{k}.dcm", "DICOM", ""),
                padding=np.zeros((height, width), np.bool_),
                spacing=PixelSpacing(float(sizes[1]), float(sizes[0])),
                plane=Plane(tuple(position.tolist()), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
                thickness_mm=float(sizes[2]),
            )
        )
    return Series(tuple(slices))


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SLA"])
def test_a_mask_lands_on_its_own_pixels_whatever_the_order_of_its_axes(orientation):
    volume = labels()
    series = scan_of(volume, AFFINE)
    way = nibabel.orientations.ornt_transform(nibabel.io_orientation(AFFINE), nibabel.orientations.axcodes2ornt(orientation))
    placed = place(read(image(volume).as_reoriented(way)).items, [series])
    assert placed.problems == ()
    for k, scan in enumerate(series.slices):
        (on,) = placed.by_slice[0, k]
        assert isinstance(on, Annotation)
        assert (on.mask == (scan.pixels > 0)).all()


def test_the_lobes_lie_on_the_lungs(shared_data):
    series = take_in_paths(sorted((shared_data / "rtstruct").glob("CT*.dcm"))).series
    (scan,) = series
    paths = sorted((shared_data / "rtstruct" / "lobes").glob("lung_*_lobe_left.nii.gz"))
    items = [item for path in paths for item in nifti.read(path.read_bytes(), path.name, Z).items]
    placed = place(items, series)
    # The masks say that they are 1.6 mm apart and the slices are 0.8 mm apart: every other slice has one.
    assert len(placed.by_slice) == 11
    for (_, k), found in placed.by_slice.items():
        mask = np.any([one.mask for one in found], axis=0)
        assert scan.slices[k].pixels[mask].mean() < -750
        # The left lung is on the right side of the picture.
        assert not mask[:, : mask.shape[1] // 2].any()
