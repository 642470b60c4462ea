"""Scoring a collection: who counts as a patient, what the table says, and that the report names nobody."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ipfvision import cli
from ipfvision.errors import InputRefused
from ipfvision.workflow.collection import agree_collection, cases_of, mean_over_patients
from ipfvision.workflow.reading import Reader
from ipfvision.workflow.samples import SAMPLES


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.open()


def _collection(folder: Path) -> Path:
    """Two patients in folders, one slice beside them with its mask in a folder of its own."""
    for patient, name in (("SECRET^NAME", "02_honeycombing.dcm"), ("second", "06_honeycombing_diffuse.png")):
        (folder / patient).mkdir()
        shutil.copy(SAMPLES / name, folder / patient)
        mask = SAMPLES / "masks" / (Path(name).stem + ".png")
        shutil.copy(mask, folder / patient / f"{Path(name).stem}_mask.png")
    shutil.copy(SAMPLES / "04_normal_upper.png", folder)
    shutil.copy(SAMPLES / "03_subpleural_cysts.dcm", folder)
    (folder / "masks").mkdir()
    shutil.copy(SAMPLES / "masks" / "03_subpleural_cysts.png", folder / "masks")
    return folder


def _table(out: Path) -> list[dict[str, str]]:
    with (out / "slices.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_subfolders_with_scans_are_patients_and_masks_are_found_wherever_they_lie(tmp_path: Path) -> None:
    cases = {case.patient: case for case in cases_of(_collection(tmp_path))}
    assert set(cases) == {"SECRET^NAME", "second", None}
    assert [len(case.scans) for case in cases.values()] == [1, 1, 2]
    assert [len(case.annotations) for case in cases.values()] == [1, 1, 1]


def test_a_collection_gives_a_table_a_summary_and_a_report_that_names_nobody(tmp_path: Path, reader: Reader) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    summary = agree_collection(_collection(source), out, reader)
    rows = _table(out)
    assert len(rows) == summary["counts"]["slices"] == 4
    assert summary["counts"]["patients"] == 4
    assert summary["counts"]["annotated"] == sum(row["pointing_hit"] != "" for row in rows) == 3
    hits = [int(row["pointing_hit"]) for row in rows if row["pointing_hit"]]
    assert summary["agreement"]["pointing_hit"]["mean"] == pytest.approx(np.mean(hits))
    masses = [float(row["mass"]) for row in rows if row["mass"]]
    assert summary["agreement"]["mass"]["mean"] == pytest.approx(np.mean(masses))
    assert {path.name for path in out.iterdir()} == {
        "slices.csv", "summary.json", "report.html", "iou_over_threshold.png", "froc.png", "enrichment.png",
    }  # fmt: skip
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(summary))
    for name in ("summary.json", "report.html"):
        text = (out / name).read_text("utf-8")
        assert "SECRET" not in text
        assert "honeycombing.dcm" not in text
    report = (out / "report.html").read_text("utf-8")
    assert "http" not in report.replace("http-equiv", "")
    assert "not a\nmedical device" in report or "not a medical device" in report


def test_the_command_does_the_same_by_a_manifest_and_says_which_files_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _collection(tmp_path)
    manifest = tmp_path / "cases.csv"
    manifest.write_text(
        "scan,annotation,patient\n02.dcm,02.png,one\n",
    )
    assert cli.main(["agree", str(manifest), "--out", str(tmp_path / "none")]) == 2
    assert "2 of 2 files that are not there" in capsys.readouterr().err
    shutil.copy(source / "SECRET^NAME" / "02_honeycombing.dcm", tmp_path / "02.dcm")
    shutil.copy(SAMPLES / "masks" / "02_honeycombing.png", tmp_path / "02.png")
    assert cli.main(["agree", str(manifest), "--out", str(tmp_path / "out")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["counts"]["patients"] == summary["counts"]["annotated"] == 1
    assert summary["agreement"]["mass"]["interval_95"] is None


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\xfe\x00\x01" * 10])
def test_what_is_no_manifest_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    with pytest.raises(InputRefused, match="manifest"):
        list(cases_of(path))


def test_a_collection_without_any_annotation_is_refused_before_anything_is_written(tmp_path: Path, reader: Reader) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(SAMPLES / "01_normal.dcm", tmp_path / "in")
    with pytest.raises(InputRefused, match="No annotation"):
        agree_collection(tmp_path / "in", tmp_path / "out", reader)
    assert not (tmp_path / "out").exists()


def test_every_patient_weighs_the_same_however_many_slices_there_are() -> None:
    values = [("many", 1.0)] * 30 + [("few", 0.0), ("few", None)]
    found = mean_over_patients(values)
    assert found["mean"] == 0.5
    assert (found["slices"], found["patients"]) == (31, 2)
    low, high = found["interval_95"]
    assert (low, high) == (0.0, 1.0)
    assert mean_over_patients([("one", 0.3)])["interval_95"] is None
    assert mean_over_patients([("one", None)])["mean"] is None
