"""The sample scans are the project's own, small, readable, and say what they show."""

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from ipfvision import dicom, images
from ipfvision.core.annotation import Finding
from ipfvision.core.lungs import find_lungs
from ipfvision.core.slice import Slice
from ipfvision.workflow.samples import MANIFEST, RECIPES, SAMPLES, SampleScan, list_samples, make_samples, sample_annotations

SHIPPED = list_samples()


def slices_of(sample: SampleScan) -> list[Slice]:
    content = sample.path.read_bytes()
    if sample.path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [scan for name in archive.namelist() for scan in dicom.read(archive.read(name), name)]
    return list(dicom.read(content, sample.path.name)) if dicom.is_dicom(content) else [images.read(content, sample.path.name)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder)
    return folder


def test_the_shipped_samples_are_complete_and_small() -> None:
    assert [sample.path.name for sample in SHIPPED] == [recipe.file for recipe in RECIPES]
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 1_600_000
    assert {sample.expected for sample in SHIPPED} == {"ipf", "normal"}
    assert sum(sample.expected == "ipf" for sample in SHIPPED) >= 4
    assert sum(sample.expected == "normal" for sample in SHIPPED) >= 3
    shown = {name for sample in SHIPPED for name in sample.findings}
    assert {"honeycombing", "subpleural cysts", "traction bronchiectasis"} <= shown
    assert shown <= {finding.value for finding in Finding}


@pytest.mark.parametrize("sample", SHIPPED, ids=lambda sample: sample.path.stem)
def test_every_slice_of_a_sample_is_read_and_its_lungs_are_found(sample: SampleScan) -> None:
    scans = slices_of(sample)
    assert len(scans) == len(sample.slices)
    assert all(find_lungs(scan).problem is None for scan in scans)
    assert not any(scan.warnings for scan in scans)
    assert ("ipf" in sample.slices) == (sample.expected == "ipf") == bool(sample.findings)


@pytest.mark.parametrize("sample", SHIPPED, ids=lambda sample: sample.path.stem)
def test_a_sample_has_a_mask_exactly_if_fibrosis_was_drawn_on_its_one_slice(sample: SampleScan) -> None:
    single = len(sample.slices) == 1
    assert (sample.mask is not None) == (single and sample.expected == "ipf")
    annotations = sample_annotations(sample)
    assert bool(annotations) == (sample.mask is not None)
    for annotation in annotations:
        (scan,) = slices_of(sample)
        assert annotation.mask.shape == scan.shape
        lungs = cv2.dilate(find_lungs(scan).mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        assert annotation.mask.any()
        assert np.mean(lungs[annotation.mask]) > 0.9


def test_the_shipped_samples_are_what_the_project_draws_today(made: Path) -> None:
    # Other builds of OpenCV may round differently: pixels are compared, not bytes.
    assert (made / MANIFEST).read_text(encoding="utf-8") == (SAMPLES / MANIFEST).read_text(encoding="utf-8")
    assert (made / "README.md").read_text(encoding="utf-8") == (SAMPLES / "README.md").read_text(encoding="utf-8")
    for new, shipped in zip(list_samples(made), SHIPPED, strict=True):
        for again, before in zip(slices_of(new), slices_of(shipped), strict=True):
            assert np.mean(np.abs(again.pixels.astype(np.float32) - before.pixels.astype(np.float32))) < 0.5
            assert again.spacing == before.spacing
            assert again.source.sop_instance_uid == before.source.sop_instance_uid


def test_the_same_bytes_come_out_twice(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = [recipe for recipe in RECIPES if recipe.file in ("02_honeycombing.dcm", "09_series.zip")]
    monkeypatch.setattr("ipfvision.workflow.samples.RECIPES", some)
    make_samples(tmp_path)
    for name in ("02_honeycombing.dcm", "09_series.zip", "masks/02_honeycombing.png"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_the_series_is_one_series_in_order() -> None:
    (sample,) = [sample for sample in SHIPPED if sample.path.suffix == ".zip"]
    scans = slices_of(sample)
    assert len({scan.source.series_instance_uid for scan in scans}) == 1
    assert len({scan.source.sop_instance_uid for scan in scans}) == len(scans)
    heights = [scan.plane.position[2] for scan in scans if scan.plane is not None]
    assert heights == sorted(heights, reverse=True)
    assert len(heights) == len(scans)


def test_a_folder_without_manifest_has_no_samples(tmp_path: Path) -> None:
    assert list_samples(tmp_path) == ()
