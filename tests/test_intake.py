"""What a user drops becomes ordered series, and a sentence for the rest."""

import io
import os
import zipfile
from pathlib import Path

import ct_files
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ipfvision import images
from ipfvision.workflow import intake, uploads
from ipfvision.workflow.intake import Upload, take_in, take_in_paths

PNG = images.write_png(np.zeros((8, 8), np.uint8))
GIF = b"GIF89a" + bytes(30)


def stack(places, **options):
    return [Upload(f"{i}.dcm", ct_files.ct(ct_files.scan(z=z, number=i, **options))) for i, z in enumerate(places)]


def places(series):
    return [scan.plane.position[2] for scan in series.slices]


def zipped(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def only_refusal(result):
    assert not result.series
    (refusal,) = result.refusals
    return refusal


# Order

SPREAD = stack([0, 1.25, 2.5, 3.75, 5, 6.25, 7.5])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.permutations(SPREAD))
def test_a_series_has_one_order_whatever_order_the_files_came_in(uploads):
    (series,) = take_in(uploads).series
    assert places(series) == [0, 1.25, 2.5, 3.75, 5, 6.25, 7.5]
    assert series.notes == ()
    assert series.series_instance_uid == "1.2.3.4"


def test_order_is_by_position_and_not_by_name_or_number():
    uploads = [
        Upload("b", ct_files.ct(ct_files.scan(z=10, number=1))),
        Upload("a", ct_files.ct(ct_files.scan(z=30, number=2))),
        Upload("c", ct_files.ct(ct_files.scan(z=20, number=3))),
    ]
    (series,) = take_in(uploads).series
    assert places(series) == [10, 20, 30]


def test_a_tilted_series_is_ordered_along_its_normal():
    tilt = np.radians(20)
    cosines = [1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))]
    normal = np.cross(cosines[:3], cosines[3:])
    uploads = []
    for i in (3, 0, 2, 1):
        position = [float(value) for value in 2.0 * i * normal]
        uploads.append(
            Upload(
                str(i),
                ct_files.ct(ct_files.scan(number=i, z=i), ImageOrientationPatient=cosines, ImagePositionPatient=position),
            )
        )
    (series,) = take_in(uploads).series
    assert [scan.source.instance_number for scan in series.slices] == [0, 1, 2, 3]
    assert not any("ap" in note for note in series.notes if note.startswith("Uneven"))


def test_frames_of_an_enhanced_ct_are_one_series_in_order_of_place():
    stacks = np.stack([ct_files.chest(seed=i) for i in range(4)])
    (series,) = take_in([Upload("enhanced", ct_files.to_bytes(ct_files.enhanced(stacks)))]).series
    assert places(series) == [-6, -4, -2, 0]
    assert [scan.source.frame for scan in series.slices] == [4, 3, 2, 1]


def test_series_are_separated_by_their_uid_and_the_largest_comes_first():
    result = take_in(stack([0, 1], series="1.2.9") + stack([0, 1, 2], series="1.2.8"))
    assert [(one.series_instance_uid, len(one.slices)) for one in result.series] == [("1.2.8", 3), ("1.2.9", 2)]


# Notes


def test_uneven_gaps_are_said_in_mm():
    (series,) = take_in(stack([0, 1, 2, 5, 6])).series
    (note,) = series.notes
    assert note.startswith("Uneven gaps: slices are mostly 1 mm apart")
    assert "1 of 4 distances are 3 mm" in note


def test_space_that_no_slice_covers_is_said_in_mm():
    (series,) = take_in(stack([0, 10, 20])).series
    (note,) = series.notes
    assert "10 mm apart and 1 mm thick" in note


def test_a_slice_given_twice_is_kept_once_and_said():
    uploads = stack([0, 1, 2])
    (series,) = take_in([*uploads, Upload("again", uploads[1].content)]).series
    assert places(series) == [0, 1, 2]
    assert any("given more than once" in note for note in series.notes)


def test_a_slice_given_again_under_another_uid_is_kept_once():
    first = ct_files.scan(z=0)
    uploads = [Upload("a", ct_files.ct(first, SOPInstanceUID="1.2.5")), Upload("b", ct_files.ct(first, SOPInstanceUID="1.2.6"))]
    (series,) = take_in(uploads).series
    assert len(series.slices) == 1


def test_other_pixels_at_the_same_place_are_kept_and_said():
    uploads = [*stack([0, 1, 2]), Upload("other", ct_files.ct(ct_files.scan(ct_files.chest(seed=99), z=1, number=9)))]
    (series,) = take_in(uploads).series
    assert places(series) == [0, 1, 1, 2]
    assert any("other pixels" in note for note in series.notes)


def test_other_pixels_under_the_same_uid_are_kept_and_said():
    uploads = [Upload(str(z), ct_files.ct(ct_files.scan(z=z, number=z), SOPInstanceUID="1.2.5")) for z in (0, 1)]
    (series,) = take_in(uploads).series
    assert len(series.slices) == 2
    assert any("(0008,0018)" in note for note in series.notes)


def test_slices_of_another_size_or_direction_in_one_series_are_split_off_and_said():
    small = ct_files.scan(ct_files.chest(32, 32), z=3, number=9)
    turned = ct_files.ct(ct_files.scan(z=4, number=10), ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    result = take_in([*stack([0, 1, 2]), Upload("small", ct_files.ct(small)), Upload("turned", turned)])
    assert [len(series.slices) for series in result.series] == [3, 1, 1]
    assert all("split into 3 stacks" in series.notes[0] for series in result.series)


def test_slices_without_a_position_stand_at_the_end_and_are_said():
    lost = ct_files.ct(ct_files.scan(z=5, number=9), ImagePositionPatient=None)
    (series,) = take_in([Upload("lost", lost), *stack([0, 1])]).series
    assert series.slices[-1].plane is None
    assert any("(0020,0032)" in note for note in series.notes)


def test_slices_without_any_position_are_ordered_by_number():
    uploads = [
        Upload(name, ct_files.ct(ct_files.scan(number=n, z=n), ImagePositionPatient=None)) for name, n in (("a", 10), ("b", 9))
    ]
    (series,) = take_in(uploads).series
    assert [scan.source.instance_number for scan in series.slices] == [9, 10]


def test_slices_that_name_no_series_are_put_together_and_said():
    uploads = [Upload(str(z), ct_files.ct(ct_files.scan(z=z, number=z), SeriesInstanceUID="")) for z in (0, 1)]
    (series,) = take_in(uploads).series
    assert len(series.slices) == 2
    assert any("(0020,000E)" in note for note in series.notes)


# Pictures


def test_pictures_are_one_series_in_natural_order_of_their_names():
    uploads = [Upload(f"slice{i}.png", images.write_png(np.full((8, 8), i, np.uint8))) for i in (10, 9, 1, 100)]
    (series,) = take_in(uploads).series
    assert [scan.source.file for scan in series.slices] == ["slice1.png", "slice9.png", "slice10.png", "slice100.png"]
    assert series.series_instance_uid is None
    assert any("order of their names" in note for note in series.notes)


def test_pictures_of_two_folders_are_two_series():
    content = zipped({"one/1.png": PNG, "one/2.png": PNG, "two/1.png": PNG})
    assert [len(series.slices) for series in take_in([Upload("both.zip", content)]).series] == [2, 1]


def test_pictures_and_dicom_are_not_mixed():
    result = take_in([Upload("1.png", PNG), *stack([0, 1])])
    assert [len(series.slices) for series in result.series] == [2, 1]


# By content, never by name


def test_names_do_not_matter():
    uploads = [Upload("slice.jpg", ct_files.ct()), Upload("report.pdf", PNG), Upload("x", zipped({"noext": ct_files.ct()}))]
    result = take_in(uploads)
    assert not result.refusals
    assert sum(len(series.slices) for series in result.series) == 2  # the same CT slice twice is one


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"just text", "neither"), (GIF, "neither"), (bytes(500), "neither"), (b"\x89PNG\r\n\x1a\n", "damaged")],
)
def test_a_named_file_that_is_no_image_is_refused(content, words):
    refusal = only_refusal(take_in([Upload("slice.dcm", content)]))
    assert refusal.file == "slice.dcm"
    assert words in refusal.reason


def test_one_bad_file_does_not_stop_the_others():
    good = stack(range(30))
    bad = [Upload("bad1", b""), Upload("bad2", good[0].content[:1000]), Upload("bad3", ct_files.ct(Modality="MR"))]
    result = take_in([*good[:10], *bad, *good[10:]])
    assert len(result.series[0].slices) == 30
    assert [refusal.file for refusal in result.refusals] == ["bad1", "bad2", "bad3"]


def test_nothing_gives_nothing():
    assert take_in([]) == intake.Intake((), ())


# .zip

COMPANIONS = {
    "__MACOSX/._1.dcm": b"\0\5\x16\7",
    ".DS_Store": b"\0\0\0\1Bud1",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "LICENSE": b"CC BY 4.0",
    "README.md": b"# Data",
    "labels.csv": b"a,b",
    "report.pdf": b"%PDF-1.7\0",
    "viewer/start.exe": b"MZ\0\0",
    "DICOMDIR": ct_files.ct(Modality=None),
    "empty": b"",
}


def test_companions_in_a_zip_are_passed_over_in_silence():
    members = {f"series/{upload.name}": upload.content for upload in stack([0, 1, 2])}
    result = take_in([Upload("scan.zip", zipped(members | COMPANIONS))])
    assert len(result.series[0].slices) == 3
    assert not result.refusals
    assert result.series[0].slices[0].source.file == "scan.zip/series/0.dcm"


def test_a_damaged_image_in_a_zip_is_said():
    result = take_in([Upload("scan.zip", zipped({"1.dcm": b"oops", "2.dcm": b"", "3": bytes(3000)}))])
    assert [refusal.file for refusal in result.refusals] == ["scan.zip/1.dcm", "scan.zip/2.dcm", "scan.zip/3"]


def test_a_zip_without_any_image_is_refused():
    for members in ({}, COMPANIONS):
        refusal = only_refusal(take_in([Upload("scan.zip", zipped(members))]))
        assert refusal.file == "scan.zip"
        assert "No DICOM, PNG or JPEG" in refusal.reason


@pytest.mark.parametrize(
    "name", ["../evil.dcm", "a/../../evil.dcm", "/etc/evil.dcm", "..\\evil.dcm", "C:\\evil.dcm", "\\\\host\\evil"]
)
def test_a_zip_whose_names_leave_their_folder_is_not_opened(name):
    refusal = only_refusal(take_in([Upload("scan.zip", zipped({"good.dcm": ct_files.ct(), name: ct_files.ct()}))]))
    assert refusal.file == "scan.zip"
    assert "out of its own folder" in refusal.reason


def test_a_zip_inside_a_zip_is_not_opened():
    refusal = only_refusal(take_in([Upload("outer.zip", zipped({"inner.zip": zipped({"1": ct_files.ct()})}))]))
    assert refusal.file == "outer.zip/inner.zip"
    assert ".zip inside a .zip" in refusal.reason


def test_a_locked_zip_is_refused():
    content = bytearray(zipped({"1.dcm": ct_files.ct()}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    assert "password" in only_refusal(take_in([Upload("scan.zip", bytes(content))])).reason


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_a_truncated_zip_is_refused(share):
    content = zipped({"1.dcm": ct_files.ct()})
    assert "damaged" in only_refusal(take_in([Upload("scan.zip", content[: int(share * len(content))])])).reason


def test_an_entry_with_a_wrong_checksum_is_refused_alone():
    content = zipped({"1.dcm": ct_files.ct(), "2.dcm": ct_files.ct(ct_files.scan(z=1, number=2))})
    damaged = bytearray(content)
    damaged[200] ^= 0xFF
    result = take_in([Upload("scan.zip", bytes(damaged))])
    assert [refusal.file for refusal in result.refusals] == ["scan.zip/1.dcm"]
    assert len(result.series[0].slices) == 1


def test_an_entry_without_a_name_is_read():
    content = zipped({"QQQ": ct_files.ct()}).replace(b"QQQ", b"\0QQ")  # a name ends at its first 0
    assert len(take_in([Upload("scan.zip", content)]).series) == 1


def test_an_unusual_packing_method_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("1.dcm", ct_files.ct())
    assert "method" in only_refusal(take_in([Upload("scan.zip", buffer.getvalue())])).reason


def test_a_zip_bomb_is_stopped_by_what_it_unpacks_to(monkeypatch):
    monkeypatch.setattr(uploads, "RATIO_COUNTS_FROM", 100_000)
    members = {f"{i}.dcm": bytes(2_000_000) for i in range(5)}
    refusal = only_refusal(take_in([Upload("bomb.zip", zipped(members))]))
    assert refusal.file == "bomb.zip/0.dcm"
    assert "times its size" in refusal.reason


def test_a_zip_that_lies_about_its_sizes_is_counted_as_it_unpacks(monkeypatch):
    monkeypatch.setattr(uploads, "LARGEST_FILE", 100_000)
    content = bytearray(zipped({"1.dcm": bytes(5_000_000)}))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(mark) + offset
        content[at : at + 4] = (1000).to_bytes(4, "little")
    assert only_refusal(take_in([Upload("bomb.zip", bytes(content))]))


def test_more_bytes_than_allowed_in_all_are_refused_once(monkeypatch):
    monkeypatch.setattr(uploads, "MOST_UNPACKED_BYTES", 20_000)
    members = {upload.name: upload.content for upload in stack(range(10))}
    result = take_in([Upload("scan.zip", zipped(members))])
    assert 1 <= len(result.series[0].slices) < 4
    assert len(result.refusals) == 1
    assert "unpacks to more" in result.refusals[0].reason


def test_more_pixels_than_allowed_in_all_are_refused(monkeypatch):
    monkeypatch.setattr(intake, "MOST_PIXELS", 3 * ct_files.ROWS * ct_files.COLUMNS)
    result = take_in([Upload("scan.zip", zipped({upload.name: upload.content for upload in stack(range(10))}))])
    assert len(result.series[0].slices) == 4
    assert len(result.refusals) == 1


def test_more_files_than_allowed_are_refused_once(monkeypatch):
    monkeypatch.setattr(uploads, "MOST_FILES", 3)
    result = take_in(stack(range(10)))
    assert len(result.series[0].slices) == 3
    assert len(result.refusals) == 1


# Files and folders


def test_folders_are_searched_and_companions_passed_over(tmp_path):
    (tmp_path / "patient" / "series").mkdir(parents=True)
    for upload in stack([0, 1, 2]):
        (tmp_path / "patient" / "series" / upload.name).write_bytes(upload.content)
    (tmp_path / "LICENSE").write_text("CC BY")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1")
    result = take_in_paths([tmp_path])
    assert places(result.series[0]) == [0, 1, 2]
    assert not result.refusals
    assert result.series[0].slices[0].source.file == str(tmp_path / "patient" / "series" / "0.dcm")


def test_a_licence_given_by_name_is_refused(tmp_path):
    (tmp_path / "LICENSE").write_text("CC BY")
    assert "neither" in only_refusal(take_in_paths([tmp_path / "LICENSE"])).reason


def test_a_folder_without_images_is_refused_by_its_name(tmp_path):
    (tmp_path / "LICENSE").write_text("CC BY")
    assert only_refusal(take_in_paths([tmp_path])).file == str(tmp_path)


def test_a_zip_in_a_folder_is_opened(tmp_path):
    (tmp_path / "scan.zip").write_bytes(zipped({"1.dcm": ct_files.ct()}))
    result = take_in_paths([tmp_path])
    assert result.series[0].slices[0].source.file == str(tmp_path / "scan.zip") + "/1.dcm"
    assert not result.refusals


def test_a_missing_file_is_refused(tmp_path):
    assert "no such file" in only_refusal(take_in_paths([tmp_path / "nothing"])).reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in only_refusal(take_in_paths([tmp_path / "pipe"])).reason


def test_a_file_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "LARGEST_FILE", 1000)
    (tmp_path / "1.dcm").write_bytes(ct_files.ct())
    assert "larger than" in only_refusal(take_in_paths([tmp_path / "1.dcm"])).reason


def test_a_loop_of_folders_ends(tmp_path):
    (tmp_path / "1.dcm").write_bytes(ct_files.ct())
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(take_in_paths([tmp_path]).series[0].slices) == 1


# Progress and privacy


def test_progress_counts_to_the_total_with_the_files_inside_a_zip():
    calls = []
    members = {upload.name: upload.content for upload in stack([0, 1, 2])}
    take_in([Upload("a.zip", zipped(members)), Upload("bad", b"")], lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_nothing_is_written_to_disk(monkeypatch):
    members = {upload.name: upload.content for upload in stack([0, 1, 2])}
    uploads = [Upload("a.zip", zipped(members)), Upload("1.png", PNG), Upload("bad", b"")]
    written = []

    def opened(path, mode="r", *args, **options):
        if set(mode) & set("wax+"):
            written.append(path)
        return original(path, mode, *args, **options)

    original = io.open
    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr(io, "open", opened)
    assert len(take_in(uploads).series) == 2
    assert not written


def test_no_reason_repeats_the_name_of_the_file():
    uploads = [Upload("Mustermann^Erika", content) for content in (b"", b"x", ct_files.ct(Modality="MR"), zipped({}), GIF)]
    for refusal in take_in(uploads).refusals:
        assert "Mustermann" not in refusal.reason


# The real scans


def test_the_real_zip_of_a_series_is_read_whole_and_in_order(shared_data):
    result = take_in_paths([shared_data / "osic_421.zip"])
    (series,) = result.series
    assert not result.refusals
    assert len(series.slices) == 62
    assert {scan.shape for scan in series.slices} == {(768, 768)}
    along = [scan.plane.distance_mm() for scan in series.slices]
    assert along == sorted(along)
    assert sorted({round(float(step)) for step in np.diff(along)}) == [1, 9]
    assert any(note.startswith("Uneven gaps") and "1 mm" in note for note in series.notes)


def test_the_real_series_of_two_patients_are_separated(shared_data):
    result = take_in_paths([shared_data / "lungpetctdx"])
    assert sorted(len(series.slices) for series in result.series) == [30, 32]
    assert not result.refusals
    for series in result.series:
        assert any("Thick" in warning for warning in series.slices[0].warnings)


def test_of_real_planes_only_the_axial_ones_are_read(shared_data):
    result = take_in_paths([shared_data / "planes"])
    read = [scan.source.file for series in result.series for scan in series.slices]
    assert len(read) == 4
    assert all(Path(name).parent.name == "axial" for name in read)
    assert {Path(refusal.file).parent.name for refusal in result.refusals} == {"coronal", "sagittal"}
    assert all(Path(refusal.file).parent.name in refusal.reason for refusal in result.refusals)


def test_real_contours_are_refused_and_their_slices_read(shared_data):
    result = take_in_paths([shared_data / "rtstruct"])
    (series,) = result.series
    assert len(series.slices) == 20
    assert all(0.2 < scan.padding.mean() < 0.23 for scan in series.slices)
    assert any("1.6 mm" in note for note in series.notes)  # one slice is missing there
    assert "drawn contours" in only_refusal(intake.Intake((), result.refusals)).reason


def test_the_real_phantom_is_read_and_what_is_no_ct_refused(shared_data):
    result = take_in_paths([shared_data / "interop" / "rtutils"])
    assert [len(series.slices) for series in result.series] == [2]
    assert len(result.refusals) == 7


def test_real_jpegs_are_read(shared_data):
    (first, *_) = sorted((shared_data / "emphysema_normal").iterdir())
    assert len(take_in_paths([first]).series) == 1
    with Image.open(first) as opened:
        assert take_in_paths([first]).series[0].slices[0].shape == opened.size[::-1]


def test_what_is_no_image_is_passed_over_in_an_uploaded_folder_and_refused_by_itself() -> None:
    picture = images.write_png(np.full((40, 40), 7, np.uint8))
    letter = b"To whom it may concern"
    together = take_in([Upload("scans/1.png", picture, "scans"), Upload("scans/LICENSE", letter, "scans")])
    assert together.refusals == ()
    assert len(together.series) == 1
    (refusal,) = take_in([Upload("LICENSE", letter)]).refusals
    assert refusal.file == "LICENSE"
    (empty,) = take_in([Upload("scans/LICENSE", letter, "scans")]).refusals
    assert empty.file == "scans"
