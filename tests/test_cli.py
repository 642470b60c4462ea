"""The command line: what it writes, what it says, and how it ends."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ipfvision import images
from ipfvision.cli import main
from ipfvision.workflow.samples import SAMPLES, list_samples


@pytest.fixture
def model(random_model: object) -> list[str]:
    return ["--model", str(random_model.weights)]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def sample() -> Path:
    return next(scan.path for scan in list_samples() if scan.path.suffix == ".png")


def test_read_writes_json_and_overlay_and_ends_well(model: list[str], sample: Path, tmp_path: Path) -> None:
    found, overlays = tmp_path / "found.json", tmp_path / "overlays"
    assert main(["read", str(sample), "--json", str(found), "--overlay", str(overlays), "--method", "layercam", *model]) == 0
    content = json.loads(found.read_text())
    (part,) = content["slices"]
    assert part["file"] == str(sample)
    assert part["scale"] == "grey"
    assert part["explanation"]["method"] == "layercam"
    (overlay,) = overlays.iterdir()
    assert sample.stem not in overlay.name
    picture = cv2.imread(str(overlay))
    assert picture.shape[:2] == images.read(sample.read_bytes(), "sample").shape


def test_json_to_standard_output_is_nothing_but_json(
    model: list[str], sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", str(sample), "--json", "-", "--target", "normal", *model]) == 0
    assert json.loads(capsys.readouterr().out)["slices"][0]["explanation"]["target"] == "normal"


def test_one_bad_file_does_not_stop_the_others(
    model: list[str], sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.dcm").write_bytes(b"DICM, they said")
    assert main(["read", str(tmp_path / "broken.dcm"), str(sample), "--json", "-", *model]) == 0
    said = capsys.readouterr()
    decisions = {Path(part["file"]).name: part["decision"] for part in json.loads(said.out)["slices"]}
    assert decisions["broken.dcm"] == "refused"
    assert decisions[sample.name] != "refused"
    assert "broken.dcm" in said.err


def test_nothing_readable_ends_with_2_and_the_reasons(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.dcm").write_bytes(b"")
    grey = np.full((64, 64), 9, np.uint8)
    (tmp_path / "plain.png").write_bytes(images.write_png(grey))
    assert main(["read", str(tmp_path / "broken.dcm"), str(tmp_path / "plain.png"), *model]) == 2
    said = capsys.readouterr().err
    assert "broken.dcm" in said
    assert "plain.png" in said
    assert "No slice could be read." in said


def test_a_missing_file_and_a_missing_model_are_one_sentence_each(
    model: list[str], sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", str(tmp_path / "nowhere.dcm"), *model]) == 2
    assert "nowhere.dcm" in capsys.readouterr().err
    assert main(["read", str(sample), "--model", str(tmp_path / "none.safetensors")]) == 2
    said = capsys.readouterr().err
    assert "missing" in said
    assert "Traceback" not in said


def test_an_unknown_command_is_not_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["diagnose"])
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_samples_can_be_made_again(tmp_path: Path) -> None:
    assert main(["samples", "--out", str(tmp_path / "again")]) == 0
    made = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert made == sorted(path.name for path in SAMPLES.iterdir())


def test_a_series_in_a_zip_shows_progress(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(images.write_png(np.full((64, 64), number, np.uint8)))
    assert main(["read", str(tmp_path), *model]) == 2
    assert "reading 6/6" in capsys.readouterr().err
