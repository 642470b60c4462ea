from pathlib import Path

import pytest

from ipfvision.cli import main
from ipfvision.core.review import Mode
from ipfvision.workflow.samples import SAMPLES
from ipfvision.workflow.studies import Studies


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IPFVISION_REVIEWS", str(tmp_path / "here"))
    return tmp_path


def _begin(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["studies", "create", "Trial", *map(str, sorted(SAMPLES.glob("0*"))), "--coordinator", "Ada", *more]) == 0
    said = capsys.readouterr()
    assert "The scans are not kept" in said.err
    return said.out.strip()


def test_a_folder_becomes_a_study_that_is_listed_exported_and_imported(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _begin(capsys, "--mode", "open", "--seed", "5")
    with Studies.open() as studies:
        assert (studies.get(study).mode, studies.get(study).seed) == (Mode.OPEN, 5)
        assert len(studies.cases(study)) == len(list(SAMPLES.glob("0*")))
    assert main(["studies", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  0/9  Ada"

    packed = folder / "study.zip"
    assert main(["studies", "export", study, "--by", "ada", "--out", str(packed)]) == 0
    monkeypatch.setenv("IPFVISION_REVIEWS", str(folder / "there"))
    assert main(["studies", "import", str(packed)]) == 0
    assert capsys.readouterr().out.strip() == study
    with Studies.open() as studies:
        assert len(studies.cases(study)) == 9


def test_what_is_wrong_is_one_sentence_and_exit_code_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = _begin(capsys)
    with Studies.open() as studies:
        studies.join(study, "Bob")
    for arguments, sentence in (
        (["export", study, "--by", "Bob", "--out", str(folder / "x.zip")], "Only a coordinator"),
        (["export", "nothing", "--by", "Ada", "--out", str(folder / "x.zip")], "no such study"),
        (["import", __file__], "damaged"),
        (["import", str(folder / "nowhere.zip")], "nowhere.zip"),
        (["create", "Trial", __file__, "--coordinator", "Ada"], "no study was begun"),
    ):
        assert main(["studies", *arguments]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert "Traceback" not in said
    assert not (folder / "x.zip").exists()


def test_pictures_of_a_folder_are_one_case_if_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    apart = _begin(capsys)
    stacked = _begin(capsys, "--stacked-pictures")
    with Studies.open() as studies:
        assert len(studies.cases(apart)) > len(studies.cases(stacked))
