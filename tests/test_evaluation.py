"""The figures of an evaluation against scikit-learn's and SciPy's, and the path they are measured through against the page."""

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from ipfvision.workflow.answers import Answer, halves
from ipfvision.workflow.evaluation_figures import area_with_interval, exact_interval
from ipfvision.workflow.shipping import platt
from ipfvision.workflow.training import ManifestRow


def _answers(label: str, margins: dict[str, list[float]]) -> list[Answer]:
    return [
        Answer(ManifestRow("f", label, patient, "validation", "grey"), margin, 1.0)
        for patient, own in margins.items()
        for margin in own
    ]


def test_no_patient_both_calibrates_and_is_reported() -> None:
    given = _answers("ipf", {f"P{n}": [1.0, 2.0] for n in range(5)}) + _answers("normal", {f"N{n}": [0.0] for n in range(4)})
    first, second = halves(given)
    assert {a.row.patient for a in first}.isdisjoint({a.row.patient for a in second})
    assert len(first) + len(second) == len(given)
    assert {a.row.label for a in first} == {a.row.label for a in second} == {"ipf", "normal"}


def test_a_patient_with_two_labels_stays_on_one_side() -> None:
    given = _answers("ipf", {"P1": [3.0], "P2": [2.0]}) + _answers("ipf_patient", {"P2": [0.0]})
    first, second = halves(given)
    assert {a.row.patient for a in first} == {"P1"}
    assert {a.row.label for a in second} == {"ipf", "ipf_patient"}


def test_the_area_is_scikit_learns_and_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    given = _answers("ipf", {f"P{n}": list(rng.normal(1, 1, 3)) for n in range(6)})
    given += _answers("normal", {f"N{n}": list(rng.normal(0, 1, 2)) for n in range(9)})
    found = area_with_interval(given, ("normal",))
    truth = [a.row.label == "ipf" for a in given]
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, [a.margin for a in given]))
    low, high = found["interval_95"]
    assert low < found["auroc"] < high
    assert found["patients"] == [6, 9]


@pytest.mark.parametrize(("successes", "trials"), [(5, 5), (0, 7), (3, 10)])
def test_exact_intervals_are_clopper_and_pearsons(successes: int, trials: int) -> None:
    low, high = exact_interval(successes, trials)
    assert low == pytest.approx(0 if successes == 0 else beta.ppf(0.025, successes, trials - successes + 1))
    assert high == pytest.approx(1 if successes == trials else beta.ppf(0.975, successes + 1, trials - successes))


def test_five_of_five_right_is_not_certainty() -> None:
    assert exact_interval(5, 5)[0] == pytest.approx(0.478, abs=0.001)


def test_calibration_puts_one_half_between_the_classes_and_is_never_sure_of_three_patients() -> None:
    given = _answers("ipf", {f"P{n}": [6.0, 8.0] for n in range(3)})
    given += _answers("normal", {f"N{n}": [-4.0] for n in range(10)}) + _answers("other_disease", {"D1": [-1.0], "D2": [1.0]})
    shift, temperature = platt(given)
    probability = 1 / (1 + np.exp(-(np.array([7.0, -4.0]) + shift) / temperature))
    assert 0.6 < probability[0] < 0.97
    assert 0.03 < probability[1] < 0.4
