"""Cross-validation: nobody is answered by a network that saw them, and a killed run goes on with its fold."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from ipfvision.errors import InputRefused, RunStopped
from ipfvision.workflow.crossvalidation import Left, crossvalidate, make_folds, summarize
from ipfvision.workflow.labelled import LabelledPicture
from tests.test_labelled import TINY, Drawn, _folders, _pictures, drawn

__all__ = ["drawn"]  # a fixture


@pytest.mark.parametrize(("folds", "expected"), [(None, 14), (14, 14), (4, 4)])
def test_each_patient_is_left_out_once_and_never_trained_on_then(folds: int | None, expected: int) -> None:
    pictures = _pictures(*(f"i{n}" for n in range(6)), *(f"n{n}" for n in range(8)))
    whose = [str(picture.patient) for picture in pictures]
    made = make_folds(pictures, whose, folds, 0)
    assert len(made) == expected
    assert sorted(index for _, out in made for index in out) == list(range(len(pictures)))
    for train, out in made:
        assert not {whose[i] for i in train} & {whose[i] for i in out}
        assert len(train) + len(out) == len(pictures)


def test_more_than_thirty_patients_are_left_out_in_five_groups_with_both_classes() -> None:
    pictures = _pictures(*(f"i{n}" for n in range(16)), *(f"n{n}" for n in range(16)))
    made = make_folds(pictures, [str(picture.patient) for picture in pictures], None, 0)
    assert len(made) == 5
    for _, out in made:
        assert {pictures[i].label for i in out} == {"ipf", "normal"}


@pytest.mark.parametrize(
    ("patients", "folds", "sentence"),
    [
        (("i1", "i2", "n1", "n2", "n3"), None, "class ipf has 2 patients"),
        (("i1", "i2", "i3", "n1", "n2", "n3"), 9, "6 patients make 2 to 6 folds"),
        (("i1", "i2", "i3", "n1", "n2", "n3", "n4"), 5, "at most 3 folds"),
    ],
)
def test_too_few_patients_are_refused_in_a_sentence(patients: tuple[str, ...], folds: int | None, sentence: str) -> None:
    pictures = _pictures(*patients)
    with pytest.raises(InputRefused, match=sentence):
        make_folds(pictures, [str(picture.patient) for picture in pictures], folds, 0)


def _left(label: str, patient: str, margin: float) -> Left:
    return Left(LabelledPicture(f"{patient}/{margin}.png", label, patient), patient, margin, 1)


def test_figures_are_of_patients_and_their_intervals_are_exact() -> None:
    left = [_left("ipf", f"i{n}", margin) for n in range(5) for margin in (2.0 - n, 1.5 - n)]
    left += [_left("normal", f"n{n}", n - 2.6) for n in range(4)]
    found = summarize(left, [3, 4], split_images=False)
    means = [1.75 - n for n in range(5)] + [n - 2.6 for n in range(4)]
    truth = [True] * 5 + [False] * 4
    assert found["auroc_of_patients"]["auroc"] == pytest.approx(roc_auc_score(truth, means))
    assert found["sensitivity_of_patients"]["count"] == 2
    assert found["specificity_of_patients"]["count"] == 3
    low, high = found["sensitivity_of_patients"]["interval_95"]
    assert low == pytest.approx(beta.ppf(0.025, 2, 4))
    assert high == pytest.approx(beta.ppf(0.975, 3, 3))
    assert found["pictures_called_right"] == {"ipf": {"count": 4, "of": 10}, "normal": {"count": 3, "of": 4}}
    assert found["split"] == "by patient"
    assert "i1" not in json.dumps(found["patients"])
    assert "inflated" in summarize(left, [3], split_images=True)["split"]


def test_a_killed_crossvalidation_goes_on_with_its_fold_and_names_patients_only_in_the_tables(
    tmp_path: Path, drawn: Drawn
) -> None:
    data = _folders(tmp_path / "data", drawn)
    options = replace(TINY, epochs=1)

    class KilledError(Exception):
        pass

    def kill(sentence: str) -> None:
        if sentence.startswith("fold 2"):
            raise KilledError

    with pytest.raises(KilledError):
        crossvalidate(data, tmp_path / "out", options, 3, kill)
    first = (tmp_path / "out" / "folds" / "fold_001.json").stat().st_mtime_ns
    assert not (tmp_path / "out" / "summary.json").exists()
    summary = crossvalidate(data, tmp_path / "out", options, 3, lambda _: None)
    assert (tmp_path / "out" / "folds" / "fold_001.json").stat().st_mtime_ns == first
    assert summary["folds"] == 3
    assert summary["epochs_chosen"] == [1, 1, 1]
    assert "Pipf" not in (tmp_path / "out" / "summary.json").read_text()
    patients = list(csv.DictReader((tmp_path / "out" / "patients.csv").read_text().splitlines()))
    assert {row["patient"] for row in patients} == {f"P{label}{seed}" for label, seed in drawn}
    assert all(np.isfinite(float(row["mean_margin"])) for row in patients)
    assert (tmp_path / "out" / "margins.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "out" / "folds").iterdir()) == [f"fold_00{n}.json" for n in (1, 2, 3)]
    with pytest.raises(RunStopped, match="other pictures or options"):
        crossvalidate(data, tmp_path / "out", replace(options, seed=3), 3, lambda _: None)
