"""Annotation files of every kind reach their slices, and everything else gets a sentence while the scan stays."""

import gzip
import io
import json
import random
import struct
import time
import zipfile
import zlib

import ct_files
import cv2
import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian
from test_dicom_segmentation import content as seg_content
from test_dicom_segmentation import cts, seg, segment
from test_dicom_structure_set import SQUARE, contour, rtstruct
from test_dicom_structure_set import content as rtstruct_content

from ipfvision import images
from ipfvision.core.annotation import Annotation, BoxAnnotation, Finding, PointAnnotation
from ipfvision.workflow import annotations
from ipfvision.workflow.annotations import split_uploads, take_in_annotation_paths, take_in_annotations
from ipfvision.workflow.intake import Upload, take_in, take_in_paths

ROWS, COLUMNS = ct_files.ROWS, ct_files.COLUMNS
FILES = cts(3)
"""Slices at z = 0, 1 and 2 mm; rows are 0.7 mm apart and columns 0.8 mm."""
UPLOADS = tuple(Upload(f"slice_{z}.dcm", ct_files.to_bytes(file)) for z, file in enumerate(FILES))
SCAN = take_in(UPLOADS).series
DRAWN = np.zeros((3, ROWS, COLUMNS), np.bool_)
for z in range(3):
    DRAWN[z, 10 + z : 20, 8 : 30 + z] = True
PICTURES = take_in(
    [
        Upload(f"ct_{z}.png", images.write_png(np.clip(ct_files.chest(seed=z) // 8 + 128, 0, 255).astype(np.uint8)))
        for z in range(3)
    ]
).series


def segmentation(label="Honeycombing", drawn=DRAWN, files=FILES):
    return seg_content(seg(files, drawn.astype(np.uint8), segments=[segment(1, label)]))


def structures(*names, z=(0.0, 1.0, 2.0), frame=None):
    return rtstruct_content(rtstruct([(name, [contour(SQUARE, z=one) for one in z]) for name in names], frame=frame))


def volume(drawn=DRAWN):
    """(z, y, x) on the slices' grid, in RAS."""
    affine = np.array([[-0.8, 0, 0, 20], [0, -0.7, 0, 15], [0, 0, 1.0, 0], [0, 0, 0, 1]])
    made = nibabel.Nifti1Image(drawn.astype(np.uint8).transpose(2, 1, 0), affine)
    made.set_sform(affine, 1)
    return made.to_bytes()


def mask(z=0):
    return images.write_png(DRAWN[z].astype(np.uint8) * 255)


def tiff(z=0):
    buffer = io.BytesIO()
    Image.fromarray(DRAWN[z]).save(buffer, "TIFF", compression="tiff_lzw")
    return buffer.getvalue()


def labelme(name="slice_1.dcm", points=((8, 11), (31, 11), (31, 20), (8, 20)), kind="polygon", label="cyst"):
    drawn = {"label": label, "points": [list(point) for point in points], "shape_type": kind}
    return json.dumps({"shapes": [drawn], "imagePath": name, "imageHeight": ROWS, "imageWidth": COLUMNS}).encode()


def coco(*names):
    found = [{"id": i, "file_name": name, "height": ROWS, "width": COLUMNS} for i, name in enumerate(names)]
    drawn = [
        {"image_id": i, "category_id": 7, "segmentation": [[8, 11, 31, 11, 31, 20, 8, 20]], "bbox": [8, 11, 23, 9]}
        for i in range(len(names))
    ]
    return json.dumps({"images": found, "annotations": drawn, "categories": [{"id": 7, "name": "GGO"}]}).encode()


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def take(*files, series=SCAN, **more):
    """Files as (name, content) or content alone."""
    uploads = [Upload(*one) if isinstance(one, tuple) else Upload("file", one) for one in files]
    return take_in_annotations(uploads, series, **more)


def mask_at(result, index):
    (one,) = result.by_slice[0, index]
    assert isinstance(one, Annotation)
    return one.mask


def refusal(result):
    assert not result.by_slice
    (one,) = result.refusals
    assert one.reason.endswith(".")
    return one.reason


VOLUMES = {"SEG": segmentation(), "NIfTI": volume(), "packed NIfTI": gzip.compress(volume())}


@pytest.mark.parametrize("content", VOLUMES.values(), ids=VOLUMES)
def test_a_volume_lands_on_every_slice(content):
    result = take(content)
    assert result.refusals == ()
    for index in range(3):
        assert (mask_at(result, index) == DRAWN[index]).all()


def test_contours_land_on_every_slice():
    result = take(structures("Reticulation"))
    assert sorted(result.by_slice) == [(0, 0), (0, 1), (0, 2)]
    assert result.by_slice[0, 0][0].said.finding is Finding.RETICULATION


@pytest.mark.parametrize("make", [mask, tiff])
@pytest.mark.parametrize("name", ["slice_1.png", "a folder/slice_1_mask.png", "mask_slice_1.tif", "slice_1_honeycombing.png"])
def test_a_mask_picture_lands_on_the_slice_of_its_name(make, name):
    result = take((name, make(1)))
    assert (mask_at(result, 1) == DRAWN[1]).all()
    assert list(result.by_slice) == [(0, 1)]
    assert result.by_slice[0, 1][0].said.matched_by == "file name"


def test_a_mask_picture_of_no_name_lands_on_the_only_slice_of_its_size():
    single = take_in(UPLOADS[:1]).series
    assert (mask_at(take(("other.png", mask()), series=single), 0) == DRAWN[0]).all()


def test_labelme_and_coco_land_on_the_slice_that_they_name():
    for content in (labelme(), coco("slice_1.dcm"), coco("elsewhere.png", "x/slice_1.png", "another.png")):
        result = take(content)
        assert result.refusals == ()
        assert (mask_at(result, 1) == drawn_square()).all()


def drawn_square():
    expected = np.zeros((ROWS, COLUMNS), np.bool_)
    expected[11:20, 8:31] = True
    return expected


def test_points_and_boxes_stay_what_they_are():
    result = take(labelme(points=((9, 9), (12, 15)), kind="rectangle"), labelme(points=((9.5, 9.5),), kind="point"))
    box, point = result.by_slice[0, 1]
    assert isinstance(box, BoxAnnotation)
    assert isinstance(point, PointAnnotation)


def test_all_kinds_together_and_a_bad_one_between_them():
    result = take(
        segmentation(), ("bad", b"nothing"), structures("GGO"), ("slice_0.png", mask()), labelme(), coco("slice_2.dcm")
    )
    assert [one.file for one in result.refusals] == ["bad"]
    assert {one.said.origin for found in result.by_slice.values() for one in found} == {
        "DICOM SEG",
        "RTSTRUCT",
        "mask",
        "LabelMe",
        "COCO",
    }


def test_an_empty_mask_is_an_annotation_that_says_none_was_found():
    result = take(("slice_0.png", images.write_png(np.zeros((ROWS, COLUMNS), np.uint8))))
    assert not mask_at(result, 0).any()
    assert result.refusals == ()


def test_pictures_take_masks_by_name():
    result = take(("ct_2_mask.png", mask(2)), coco("ct_1.png"), series=PICTURES)
    assert {PICTURES[0].slices[index].source.file for _, index in result.by_slice} == {"ct_1.png", "ct_2.png"}


# Labels


def test_labels_are_counted_and_chosen_by_a_part_of_their_name_or_their_finding():
    content = structures("Lung_left", "Lung_right", "Honeycomb 1")
    everything = take(content)
    assert dict(everything.labels) == {"Lung_left": 3, "Lung_right": 3, "Honeycomb 1": 3}
    assert len(everything.by_slice[0, 0]) == 3
    for wanted, many in ((["lung"], 2), (["LEFT"], 1), (["honeycombing"], 1), (["left", "comb"], 2)):
        chosen = take(content, labels=wanted)
        assert len(chosen.by_slice[0, 0]) == many
        assert chosen.labels == everything.labels
    assert "None of the 3 labels" in refusal(take(content, labels=["liver"]))


def test_what_has_no_label_is_kept_whatever_was_chosen():
    assert len(take(("slice_0.png", mask()), labels=["liver"]).by_slice) == 1


def test_a_file_of_too_many_areas_asks_for_a_choice_before_any_is_drawn(monkeypatch):
    monkeypatch.setattr(annotations, "MOST_PIXELS", 5 * ROWS * COLUMNS)
    result = take(structures("a", "b"))
    assert "too many to show at once; please choose some of its 2 labels" in refusal(result)
    assert set(result.labels) == {"a", "b"}
    assert len(take(structures("a", "b"), labels=["a"]).by_slice) == 3


def test_files_beyond_the_limit_are_refused_once(monkeypatch):
    monkeypatch.setattr(annotations, "MOST_PIXELS", 4 * ROWS * COLUMNS)
    result = take(segmentation(), structures("a"), structures("b"), structures("c"))
    assert len(result.by_slice[0, 0]) == 2
    (one,) = result.refusals
    assert "were not read" in one.reason


# One sentence each


def test_an_annotation_of_another_scan_is_refused():
    far = cts(3)
    for number, file in enumerate(far):
        file.ImagePositionPatient[2] += 500
        file.SOPInstanceUID = f"1.2.3.{number}"
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    assert "on no open slice" in refusal(take(segmentation(files=far)))
    assert "on no open slice" in refusal(take(structures("a", z=(300.0,))))


def test_an_annotation_of_another_patient_is_refused():
    assert "another frame of reference" in refusal(take(structures("a", frame="1.2.3.999")))


def test_an_annotation_of_another_size_is_refused():
    small = images.write_png(np.eye(20, dtype=np.uint8) * 255)
    assert "20 x 20 pixels" in refusal(take(("slice_0.png", small)))


def test_an_annotation_entirely_outside_the_slices_is_refused():
    far = [(x + 5000, y) for x, y in SQUARE]
    content = rtstruct_content(rtstruct([("a", [contour(far, z=0.0)])]))
    assert "outside" in refusal(take(content))


def test_a_coco_file_of_other_images_is_refused():
    assert "about 2 images, and none" in refusal(take(coco("a.png", "b.png")))


def test_a_self_crossing_polygon_is_shown_and_said():
    result = take(labelme(points=((8, 11.3), (31, 20.3), (31, 11.3), (8, 20.3))))
    assert mask_at(result, 1).any()
    assert "crosses itself" in result.notes[0]


def test_two_gigabytes_of_nifti_are_refused():
    header = nibabel.Nifti1Header()
    header.set_data_shape((512, 512, 1024))
    header.set_data_dtype(np.float64)
    header.set_sform(np.eye(4), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    assert "2,048 MB" in refusal(take(gzip.compress(header.binaryblock + bytes(2**20))))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"GIF89a", "no annotation"),
        (UPLOADS[0].content, "neither a segmentation"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "save the mask as PNG"),
        (b"{}", "neither LabelMe's"),
        (zipped({"a": zipped({})}), ".zip inside a .zip"),
        (zipped({}), "No annotation was found in it"),
    ],
)
def test_what_is_no_annotation_gets_a_sentence(content, words):
    assert words in refusal(take(content))


def test_without_a_scan_everything_is_refused_and_nothing_raised():
    result = take(segmentation(), volume(), mask(), labelme(), coco("a.png"), series=())
    assert len(result.refusals) == 5
    assert not result.by_slice


def test_pictures_have_no_place_for_what_lies_in_a_patient():
    assert "which the open pictures do not have" in refusal(take(volume(), series=PICTURES))


def test_equal_notes_are_said_once_with_their_number():
    drawn = np.where(DRAWN[0], 200, 50).astype(np.uint8)
    (note,) = take(*((f"slice_{z}.png", images.write_png(drawn)) for z in range(3))).notes
    assert note.endswith("(3 files)")


# Containers


def test_a_zip_of_annotations_is_opened_and_the_rest_of_it_passed_over():
    members = {"slice_0.png": mask(), "seg.dcm": segmentation(), "notes.txt": b"text", "ct/slice_0.dcm": UPLOADS[0].content}
    members |= {"settings.json": b'{"a": 1}', "ct_1.jpg": b"\xff\xd8\xff\xe0" + bytes(30)}
    members |= {"ct_1.png": images.write_png(np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS)).astype(np.uint8))}
    result = take(("all.zip", zipped(members)))
    assert result.refusals == ()
    assert len(result.by_slice[0, 0]) == 2


def test_a_damaged_annotation_in_a_zip_is_named():
    (one,) = take(("all.zip", zipped({"a.png": mask()[:60], "slice_0.png": mask()}))).refusals
    assert one.file == "all.zip/a.png"


def test_an_empty_volume_that_packs_a_thousand_to_one_is_no_bomb():
    large = np.zeros((70, 1000, 1000), np.bool_)
    large[0, 0, 0] = True
    content = zipped({"mask.nii": volume(large)})
    assert len(content) * 500 < 70_000_000
    assert len(take(("all.zip", content)).by_slice) == 1


def test_files_and_folders_are_read_from_disk(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "slice_0_mask.png").write_bytes(mask())
    (tmp_path / "folder" / "readme.txt").write_text("text")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(volume()))
    seen = []
    result = take_in_annotation_paths(
        [tmp_path / "folder", tmp_path / "a.nii.gz", tmp_path / "missing"], SCAN, lambda done, total: seen.append((done, total))
    )
    assert len(result.by_slice[0, 0]) == 2
    assert [one.file for one in result.refusals] == [str(tmp_path / "missing")]
    assert seen == [(1, 3), (2, 3), (3, 3)]


# Dropped together


def names(uploads):
    return [one.name for one in uploads]


def test_scans_and_annotations_dropped_together_go_their_ways():
    rng = np.random.default_rng(0)
    picture = images.write_png(rng.integers(0, 256, (ROWS, COLUMNS)).astype(np.uint8))
    jpeg = cv2.imencode(".jpg", rng.integers(0, 256, (ROWS, COLUMNS)).astype(np.uint8))[1].tobytes()
    scans, drawn = split_uploads(
        [
            *UPLOADS,
            Upload("seg.dcm", segmentation()),
            Upload("rt.dcm", structures("a")),
            Upload("a.nii.gz", gzip.compress(volume())),
            Upload("labelme.json", labelme()),
            Upload("coco.json", coco("a")),
            Upload("mask.png", mask()),
            Upload("mask.tif", tiff()),
            Upload("ct.png", picture),
            Upload("ct.jpg", jpeg),
            Upload("readme.txt", b"text"),
        ]
    )
    assert names(scans) == [*names(UPLOADS), "ct.png", "ct.jpg", "readme.txt"]
    assert names(drawn) == ["seg.dcm", "rt.dcm", "a.nii.gz", "labelme.json", "coco.json", "mask.png", "mask.tif"]


def test_a_label_picture_of_many_values_is_a_mask_only_by_its_name_beside_its_slice():
    many = images.write_png(np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((16, 16), np.uint8)))
    picture = images.write_png(np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8))
    beside = [Upload("ct.png", picture), Upload("ct_mask.png", many), Upload("labels/ct.png", many)]
    assert names(split_uploads(beside)[1]) == ["ct_mask.png", "labels/ct.png"]
    alone = [Upload("ct.png", picture), Upload("other_mask.png", many), Upload("many.png", many)]
    assert split_uploads(alone)[1] == ()


def test_a_zip_of_both_is_opened_and_one_of_either_is_left_whole():
    ct = {f"ct/{one.name}": one.content for one in UPLOADS}
    both = split_uploads([Upload("both.zip", zipped(ct | {"slice_0_mask.png": mask(), "list.txt": b"text"}))])
    assert names(both[0]) == [*(f"both.zip/{name}" for name in ct), "both.zip/list.txt"]
    assert names(both[1]) == ["both.zip/slice_0_mask.png"]
    scan = take_in(both[0])
    assert (len(scan.series), scan.refusals) == (1, ())
    assert (mask_at(take_in_annotations(both[1], scan.series), 0) == DRAWN[0]).all()
    scans = Upload("ct.zip", zipped(ct | {"list.txt": b"text", "settings.json": b"{}"}))
    assert split_uploads([scans]) == ((scans,), ())
    drawn = Upload("masks.zip", zipped({"a.png": mask(), "list.txt": b"text"}))
    assert split_uploads([drawn]) == ((), (drawn,))


def test_what_lies_with_annotations_in_a_folder_goes_with_them():
    files = [Upload("masks/a.png", mask(), "masks"), Upload("masks/list.txt", b"text", "masks")]
    assert split_uploads(files) == ((), tuple(files))
    files = [Upload("ct/a.dcm", UPLOADS[0].content, "ct"), Upload("ct/list.txt", b"text", "ct")]
    assert split_uploads(files) == (tuple(files), ())


@pytest.mark.parametrize("content", [b"PK\x03\x04damaged", zipped({"../a": b"x"})])
def test_a_bad_zip_goes_with_the_scans_which_say_why(content):
    upload = Upload("a.zip", content)
    assert split_uploads([upload]) == ((upload,), ())
    assert len(take_in([upload]).refusals) == 1


# Damage


SOUND = [
    segmentation(),
    structures("Honeycombing", "Lung"),
    volume(),
    gzip.compress(volume(), mtime=0),
    mask(),
    tiff(),
    images.write_png(DRAWN.sum(axis=0).astype(np.uint16)),
    labelme(),
    coco("slice_1.dcm"),
    zipped({"slice_0.png": mask(), "a.nii": volume()}),
]


def flip(content, rng):
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64))):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def flip_head(content, rng):
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        damaged[rng.randrange(min(len(damaged), 400))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(damaged)


def truncate(content, rng):
    return content[: rng.randrange(len(content))]


def cut_out(content, rng):
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randrange(1, 200) :]


def lie(content, rng):
    """Replace a number in text, or four bytes, by one that decides on memory."""
    if content[:1] == b"{":
        digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
        at = rng.choice(digits)
        what = (b"-1", b"1e308", b"null", b"99999999999", b"NaN", b'"x"', b"[]", b"{}", b"0.5", b"true", b"1e9")
        return content[:at] + rng.choice(what) + content[at + 1 :]
    damaged = bytearray(content)
    at = rng.randrange(max(1, len(damaged) - 4))
    damaged[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000)))
    if content.startswith(b"\x89PNG"):  # with its checksum mended, so that the lie is believed
        damaged[29:33] = struct.pack(">I", zlib.crc32(bytes(damaged[12:29])))
    return bytes(damaged)


def test_hundreds_of_damaged_files_give_annotations_or_sentences(capfd):
    for content in SOUND:
        assert take(("slice_0.png", content)).by_slice
    shown = 0
    total = 900
    for seed in range(total):
        rng = random.Random(seed)
        way = rng.choice((flip, flip_head, truncate, cut_out, lie, lie))
        content = way(SOUND[seed % len(SOUND)], rng)
        started = time.monotonic()
        try:
            result = take(("slice_0.png", content))
            split_uploads([Upload("a", content)])
        except BaseException as error:  # noqa: BLE001  anything at all is a failure
            pytest.fail(f"seed {seed}, {way.__name__}: {type(error).__name__}: {error}")
        assert time.monotonic() - started < 5, f"seed {seed}: too slow"
        assert all(one.reason.endswith(".") for one in result.refusals), seed
        assert result.by_slice or result.refusals, seed
        said, complained = capfd.readouterr()
        assert not said
        assert not complained or SOUND[seed % len(SOUND)].startswith(b"II*"), complained  # libtiff has a mouth of its own
        for (_, index), found in result.by_slice.items():
            for one in found:
                assert not isinstance(one, Annotation) or one.mask.shape == SCAN[0].slices[index].shape
        shown += bool(result.by_slice)
    assert 0.05 * total < shown < 0.8 * total, shown


def test_contours_with_an_element_of_an_unknown_kind_are_refused():
    """pydicom converts an element when it is asked for it, and raises then."""
    made = rtstruct([("a", [contour(SQUARE)])])
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    damaged = rtstruct_content(made).replace(b"\x06\x30\x20\x00SQ", b"\x06\x30\x20\x00D\x07")
    assert "damaged" in refusal(take(damaged))


def test_real_contours_and_masks_of_one_segmentation_agree(shared_data):
    folder = shared_data / "rtstruct"
    series = take_in_paths(sorted(folder.glob("CT*.dcm"))).series
    contours = take_in_annotation_paths([folder / "rt-struct-test-data-81-100.dcm"], series, labels=["lung_lower_lobe_left"])
    masks = take_in_annotation_paths([folder / "lobes" / "lung_lower_lobe_left.nii.gz"], series)
    assert len(contours.by_slice) == 20
    assert len(contours.labels) == 104
    ours, theirs = mask_at(masks, 0), mask_at(contours, 0)
    assert (ours & theirs).sum() * 2 / (ours.sum() + theirs.sum()) > 0.99
    assert series[0].slices[0].pixels[ours].mean() < -750


def test_annotations_of_two_files_are_joined_in_the_order_in_which_they_came():
    first, second = take(("slice_1_mask.png", mask(1)), b"noise"), take(structures("cyst"), ("02.json", b"{}"))
    both = first.joined(second)
    assert list(both.by_slice) == [(0, 0), (0, 1), (0, 2)]
    assert both.by_slice[0, 1] == (*first.by_slice[0, 1], *second.by_slice[0, 1])
    assert both.by_slice[0, 2] == second.by_slice[0, 2]
    assert both.refusals == (*first.refusals, *second.refusals)
    assert both.notes == (*first.notes, *second.notes)
    assert both.labels == {"": 1, "cyst": second.labels["cyst"]}
    assert first.joined(first).labels == {"": 2}
    assert len(first.by_slice[0, 1]) == 1, "the first is as it was"
