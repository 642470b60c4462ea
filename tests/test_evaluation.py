"""The figures of an evaluation against scikit-learn's and SciPy's, and the path they are measured through against the page."""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given as over
from hypothesis import strategies as st
from scipy.stats import beta, kendalltau
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, jaccard_score, roc_auc_score

from ipfvision import cli, images, plots
from ipfvision.core.findings import TARGETS, Decision, Explanation, ModelCard
from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import Lungs, find_lungs
from ipfvision.core.slice import PixelSpacing, Scale, Slice, Source, grey
from ipfvision.core.window import LUNG
from ipfvision.errors import InputRefused
from ipfvision.nn import openvino_door, runtime
from ipfvision.nn.network import card_path, card_to_json, load
from ipfvision.nn.preprocess import prepare
from ipfvision.nn.training import MapNetwork, Recipe
from ipfvision.synthetic.case import disease_mask
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow import drawn_lesions
from ipfvision.workflow import evaluation_figures as figures
from ipfvision.workflow.answers import Answer, Given, Memory, answer_all, answers, halves, open_scan
from ipfvision.workflow.evaluation import collection_rows, evaluate, measure, sides
from ipfvision.workflow.evaluation_figures import area_with_interval, cost_of_precision, exact_interval
from ipfvision.workflow.evaluation_report import Sheets, worst_errors, write_report
from ipfvision.workflow.gating import HeldOut
from ipfvision.workflow.intake import take_in_paths
from ipfvision.workflow.reading import Reader
from ipfvision.workflow.samples import SAMPLES
from ipfvision.workflow.shipping import CROP_MARGIN, drawn_temperature, measure_precision, operating_shift, platt, ship, weighed
from ipfvision.workflow.training import ManifestRow, NormalSlice, read_manifest

CARD = ModelCard(
    name="card",
    sha256="0" * 64,
    status="test",
    labels=TARGETS,
    window=LUNG,
    input_shape=(96, 128),
    mean=0.2,
    standard_deviation=0.8,
    crop_margin=0.1,
    dilated_layer4=True,
    padding_mode="replicate",
    temperature=1.0,
    operating_point=0.5,
    uncertain_band=(0.4, 0.6),
    map_reference=5.0,
)


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
    shift, temperature = platt(*weighed(given))
    probability = 1 / (1 + np.exp(-(np.array([7.0, -4.0]) + shift) / temperature))
    assert 0.6 < probability[0] < 0.97
    assert 0.03 < probability[1] < 0.4


def test_the_number_of_patients_on_a_side_does_not_move_the_operating_point() -> None:
    """Two classes alike but for their sign stay apart at 0, however few have the disease."""
    given = _answers("ipf", {f"P{n}": [2.0, 4.0] for n in range(2)}) + _answers(
        "normal", {f"N{n}": [-2.0, -4.0] for n in range(20)}
    )
    assert platt(*weighed(given))[0] == pytest.approx(0, abs=1e-3)
    for temperature in (0.3, 1.0, 3.0):
        assert operating_shift(given, temperature) == pytest.approx(0, abs=1e-3 * temperature + 1e-4)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_drawn_pictures_is_that_which_made_them(temperature: float) -> None:
    rng = np.random.default_rng(4)
    margins = rng.normal(0, 2 * temperature, 6000)
    truth = rng.uniform(size=6000) < 1 / (1 + np.exp(-margins / temperature))
    drawn = HeldOut(np.zeros((6000, 1), np.float32), margins, truth)
    assert drawn_temperature(drawn) == pytest.approx(temperature, rel=0.1)
    one_kind = HeldOut(drawn.pooled, margins, np.ones(6000, bool))
    with pytest.raises(InputRefused, match="all of one kind"):
        drawn_temperature(one_kind)


def test_nothing_is_calibrated_without_both_classes() -> None:
    with pytest.raises(InputRefused, match="nothing to calibrate on"):
        operating_shift(_answers("normal", {"N": [-2.0]}), 1.0)


def _scored(rng: np.random.Generator, per_patient: int = 1) -> tuple[list[Answer], np.ndarray, np.ndarray]:
    """Answers of 30 patients, with their probabilities and truth."""
    given = _answers("ipf", {f"P{n:02}": list(rng.normal(1, 2, per_patient)) for n in range(12)})
    given += _answers("normal", {f"N{n:02}": list(rng.normal(-1, 2, per_patient)) for n in range(10)})
    given += _answers("other_disease", {f"O{n:02}": list(rng.normal(-1, 2, per_patient)) for n in range(8)})
    shares = 1 / (1 + np.exp(-np.array([answer.margin for answer in given], np.float64)))
    return given, shares, np.array([answer.row.label == "ipf" for answer in given])


@pytest.mark.parametrize("seed", range(3))
def test_the_reliability_curve_and_the_brier_score_are_scikit_learns(seed: int) -> None:
    given, shares, truth = _scored(np.random.default_rng(seed))
    found = figures.calibration(given, CARD)
    observed, mean = calibration_curve(truth, shares, n_bins=figures.BINS)
    assert [one["share_of_ipf"] for one in found["bins"]] == pytest.approx(list(observed))
    assert [one["mean_probability"] for one in found["bins"]] == pytest.approx(list(mean))
    assert found["brier"]["value"] == pytest.approx(brier_score_loss(truth, shares))
    counts = [one["pictures"] for one in found["bins"]]
    error = np.average(np.abs(observed - mean), weights=counts)
    assert found["expected_calibration_error"]["value"] == pytest.approx(error)
    low, high = found["brier"]["interval_95"]
    assert low < found["brier"]["value"] < high


def test_in_calibration_patients_weigh_alike_however_many_pictures_they_have() -> None:
    rng = np.random.default_rng(5)
    given, shares, truth = _scored(rng, per_patient=3)
    many = [*given, *([given[0]] * 20)]  # the first patient sends a picture twenty times more
    weights = np.full(len(many), 1 / 3)
    own = [index for index, answer in enumerate(many) if answer.row.patient == given[0].row.patient]
    weights[own] = 1 / len(own)
    expected = brier_score_loss([*truth, *([truth[0]] * 20)], [*shares, *([shares[0]] * 20)], sample_weight=weights)
    assert figures.calibration(many, CARD)["brier"]["value"] == pytest.approx(expected)


def test_calibration_against_one_class_is_not_defined() -> None:
    found = figures.calibration(_answers("ipf", {"P1": [1.0]}), CARD)
    assert found["brier"] is None
    assert found["expected_calibration_error"] is None


def test_the_area_with_patients_alike_is_scikit_learns_with_weights() -> None:
    given = _answers("ipf", {"P1": [3.0, 2.5, 2.0, 1.0], "P2": [-1.0]}) + _answers("normal", {"N1": [0.0, -2.0], "N2": [2.2]})
    weights = [0.25] * 4 + [1.0] + [0.5] * 2 + [1.0]
    expected = roc_auc_score([True] * 5 + [False] * 3, [a.margin for a in given], sample_weight=weights)
    assert area_with_interval(given, ("normal",))["patients_alike"] == pytest.approx(expected)


def test_the_interval_of_an_area_is_that_of_patients_drawn_again_and_measured_by_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    ours = {f"P{n}": list(rng.normal(0.7, 1, n % 3 + 1)) for n in range(6)}
    theirs = {f"N{n}": list(rng.normal(0, 1, n % 2 + 1)) for n in range(8)}
    found = area_with_interval(_answers("ipf", ours) + _answers("normal", theirs), ("normal",))
    first, second = figures._times_drawn([6, 8], 0)
    areas = []
    for times, others in zip(first, second, strict=True):
        scores, truth = [], []
        for side, drawn, positive in ((ours, times, True), (theirs, others, False)):
            for own, count in zip((side[name] for name in sorted(side)), drawn, strict=True):
                scores += own * int(count)
                truth += [positive] * len(own) * int(count)
        areas.append(roc_auc_score(truth, scores) if len(areas) < 40 else np.nan)
    wins = figures._wins([np.array(ours[name]) for name in sorted(ours)], [np.array(theirs[name]) for name in sorted(theirs)])
    sizes = [np.array([len(side[name]) for name in sorted(side)]) for side in (ours, theirs)]
    quick = ((first @ wins) * second).sum(axis=1) / ((first @ sizes[0]) * (second @ sizes[1]))
    assert quick[:40] == pytest.approx(areas[:40])
    assert found["interval_95"] == pytest.approx(list(np.quantile(quick, [0.025, 0.975])), abs=1e-5)


def test_one_patient_on_each_side_gives_no_interval() -> None:
    given = _answers("ipf", {"P1": [3.0, 1.0]}) + _answers("ipf_patient", {"P1": [0.0, 2.0]})
    (found,) = figures.within_patients(given).values()
    assert found["auroc"] == 0.75
    assert found["interval_95"] is None


def test_a_missing_side_has_no_area() -> None:
    found = area_with_interval(_answers("ipf", {"P1": [3.0]}), ("normal",))
    assert found["auroc"] is None
    assert found["patients"] == [1, 0]


def test_uncertain_and_refused_are_counted_apart_from_what_is_called() -> None:
    given = _answers("ipf", {"P1": [3.0, 0.1, -0.1, -3.0], "P2": [4.0]})
    refused = replace(given[0], margin=None, peak=None, refused="No lungs were found.")
    found = figures.rates([*given, refused], CARD)["ipf"]
    assert (found["uncertain"], found["refused"], found["called_normal"]) == (2, 1, 1)
    assert (found["called_ipf"]["count"], found["called_ipf"]["of"]) == (2, 5)
    assert (found["at_operating_point"]["count"], found["at_operating_point"]["of"]) == (3, 5)
    assert found["at_operating_point"]["interval_95"] == exact_interval(3, 5)
    # P1's median picture lies at 0, a probability of one half
    assert found["patients_at_operating_point"] == {"rate": 1.0, "count": 2, "of": 2, "interval_95": exact_interval(2, 2)}


def test_what_the_gate_refuses_is_told_from_what_has_no_lungs() -> None:
    (answer,) = _answers("normal", {"N1": [1.0]})
    no_lungs = replace(answer, margin=None, peak=None, refused="No lungs were found.")
    unlike = replace(no_lungs, refused="Too unlike.", pooled=np.zeros(3, np.float32), gate_distance=9.0)
    found = figures.rates([answer, no_lungs, unlike], CARD)["normal"]
    assert (found["refused"], found["refused_by_gate"]) == (2, 1)


def test_a_label_without_a_picture_has_no_rate() -> None:
    assert figures.rates([], CARD)["nsip"]["called_ipf"] == {"rate": None, "count": 0, "of": 0, "interval_95": None}


def test_risk_falls_with_the_unsure_answers_and_ends_at_the_error_rate() -> None:
    given = _answers("ipf", {"P1": [5.0, 4.0, -0.2]}) + _answers("normal", {"N1": [-5.0, -3.0, 0.3]})
    found = figures.risk_coverage([*given, replace(given[0], margin=None)], CARD)
    assert found is not None
    assert found["risk"] == pytest.approx([0, 0, 0, 0, 1 / 5, 2 / 6])
    assert found["coverage"] == pytest.approx([n / 7 for n in range(1, 7)])
    assert found["as_used"]["coverage"]["count"] == 4
    assert (found["as_used"]["wrong"]["rate"], found["as_used"]["uncertain"], found["as_used"]["refused"]) == (0, 2, 1)
    assert figures.risk_coverage(_answers("nsip", {"P1": [1.0]}), CARD) is None


@over(st.lists(st.integers(-50, 50), min_size=2, max_size=30, unique=True), st.randoms(use_true_random=False))
def test_the_share_of_pairs_that_rise_downwards_is_kendalls_tau_in_other_words(values: list[int], random: Any) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    down, scores = np.arange(len(values), dtype=float), np.array(shuffled, float)
    expected = (kendalltau(down, scores).statistic + 1) / 2
    assert figures.lower_is_higher(down, scores) == pytest.approx(expected)


def test_slices_at_one_place_have_no_lower_one() -> None:
    assert figures.lower_is_higher(np.zeros(4), np.arange(4.0)) is None


def test_a_profile_that_rises_towards_the_base_is_told_from_one_that_falls() -> None:
    def series(patient: str, margins: Sequence[float]) -> list[Answer]:
        own = _answers("ipf", {patient: list(margins)})
        return [replace(answer, position_mm=1000.0 - 10 * index) for index, answer in enumerate(own)]

    rising, falling = series("R", np.linspace(-3, 3, 12)), series("F", np.linspace(3, -3, 12))
    rising[0] = replace(rising[0], margin=None)
    short = series("S", [0.0, 1.0, 2.0])
    falls, rises = figures.profiles([*rising[::-1], *falling, *short], CARD)
    assert (falls["patient"], falls["spearman"], falls["lower_is_higher"]) == ("F", pytest.approx(-1), 0)
    assert (rises["patient"], rises["spearman"], rises["lower_is_higher"]) == ("R", pytest.approx(1), 1)
    assert (rises["slices"], rises["refused"], rises["probability"][0]) == (11, 1, None)
    assert rises["down_mm"] == pytest.approx([10 * n for n in range(12)])
    first, second, third = rises["mean_probability_by_third"]
    assert first < second < third


def _features(rng: np.random.Generator, telling: float) -> list[tuple[str, str, Any]]:
    """Two sources of ten and four patients, the second one's features shifted."""
    return [
        (source, f"{source}{patient}", (rng.normal(shift, 1, 40)).astype(np.float32))
        for source, patients, shift in (("a", 10, 0.0), ("b", 4, telling))
        for patient in range(patients)
        for _ in range(5)
    ]


def test_the_source_control_finds_a_source_that_shows_and_none_that_does_not() -> None:
    rng = np.random.default_rng(0)
    shows = figures.source_control([*_features(rng, 2.0), ("alone", "x", np.zeros(40, np.float32))])
    assert shows["accuracy"] > 0.95
    assert shows["left_out"] == ["alone"]
    assert shows["chance"] == 0.5
    hidden = figures.source_control(_features(rng, 0.0))
    assert hidden["interval_95"][0] < 0.5 < hidden["interval_95"][1]


def test_features_that_name_the_patient_are_no_source() -> None:
    """Every patient has a place of its own: pictures of one patient in training and test would be told from each other."""
    rng = np.random.default_rng(1)
    given = []
    for number in range(12):
        center = rng.normal(0, 3, 60)
        given += [("ab"[number % 2], f"{number}", (center + rng.normal(0, 0.1, 60)).astype(np.float32)) for _ in range(6)]
    assert figures.source_control(given)["accuracy"] < 0.8


def test_with_one_source_there_is_nothing_to_tell() -> None:
    assert figures.source_control([("a", "p", np.zeros(3, np.float32)), ("a", "q", np.ones(3, np.float32))])["accuracy"] is None


def test_the_most_wrong_pictures_come_first() -> None:
    given = _answers("ipf", {"P1": [3.0, -2.0]}) + _answers("normal", {"N1": [2.5, -4.0]}) + _answers("nsip", {"S": [9.0]})
    given.append(replace(given[0], margin=None))
    assert [answer.margin for answer in worst_errors(CARD, given, 3)] == [2.5, -2.0, 3.0]


def test_the_patients_that_the_card_names_calibrate_and_trained_ones_are_named() -> None:
    given = _answers("ipf", {"P1": [1.0], "P2": [1.0]}) + _answers("normal", {"T": [0.0]})
    card = replace(
        CARD,
        details={"calibration": {"patients": {"ipf": ["P1"]}}, "training": {"data": {"training_patients": ["T", "U"]}}},
    )
    split = sides(card, given)
    assert {answer.row.patient for answer in split.calibrating} == {"P1"}
    assert {answer.row.patient for answer in split.reported} == {"P2", "T"}
    assert split.trained_on == ("T",)
    assert sides(CARD, given).calibrating == ()


# The path


@pytest.fixture(scope="module")
def reader(random_model: Callable[[], Any]) -> Reader:
    return Reader(random_model())


def _manifest(folder: Path, rows: Sequence[tuple[str, str, str, str, str]]) -> Path:
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "patient", "use", "scale"), *rows])
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample scans as a manifest: a series in an archive, DICOM files, pictures, one of them with an arrow burned in."""
    folder = tmp_path_factory.mktemp("collection")
    for name in ("01_normal.dcm", "04_normal_upper.png", "06_honeycombing_diffuse.png", "02_honeycombing.dcm", "09_series.zip"):
        shutil.copy(SAMPLES / name, folder / name)
    marked = cv2.imread(str(SAMPLES / "06_honeycombing_diffuse.png"), cv2.IMREAD_GRAYSCALE)
    rows, columns = marked.shape
    tip = columns * 3 // 10, rows * 6 // 10
    arrow = np.array([tip, (tip[0] + 34, tip[1] - 12), (tip[0] + 34, tip[1] + 12)], np.int32)
    cv2.fillPoly(marked, [arrow], 255)
    cv2.polylines(marked, [arrow], isClosed=True, color=0, thickness=2)
    (folder / "marked.png").write_bytes(images.write_png(marked))
    import zipfile

    with zipfile.ZipFile(folder / "09_series.zip") as archive:
        members = archive.namelist()
    return _manifest(
        folder,
        [
            ("01_normal.dcm", "normal", "N1", "validation", "hounsfield"),
            ("04_normal_upper.png", "normal", "N2", "validation", "grey"),
            ("06_honeycombing_diffuse.png", "ipf", "P1", "validation", "grey"),
            ("marked.png", "ipf", "P2", "validation", "grey"),
            ("02_honeycombing.dcm", "ipf", "P3", "validation", "hounsfield"),
            *((f"09_series.zip/{member}", "ipf_patient", "P4", "validation", "hounsfield") for member in members),
        ],
    )


def test_an_answer_is_what_the_page_answers(reader: Reader, collection: Path) -> None:
    given = answer_all(reader, collection, read_manifest(collection), lambda _: None).answers
    assert any(answer.marks for answer in given)
    for answer in given:
        reading = reader.read(open_scan(collection, answer.row))
        assert answer.margin == reading.prediction.margin
        assert (answer.refused is None) == (reading.prediction.decision is not Decision.REFUSED)
        assert answer.marks == len(reading.marks)
        explanation = answer.explanation()
        if explanation is not None:
            heatmap = reading.explanations["ipf"].heatmap()
            assert np.allclose(explanation.heatmap(), heatmap, rtol=1e-4, atol=1e-5 * heatmap.max())
            assert answer.peak == pytest.approx(reading.explanations["ipf"].peak, rel=1e-5)


def test_an_answer_to_a_marked_real_picture_is_what_the_page_answers(reader: Reader, shared_data: Path) -> None:
    rows = [row for row in read_manifest(shared_data) if row.use == "validation" and row.label in {"ipf", "nsip"}]
    rows = [row for row in rows if not row.file.startswith("osic")] + [row for row in rows if row.file.startswith("osic")][:2]
    given = answer_all(reader, shared_data, rows, lambda _: None).answers
    assert any(answer.marks for answer in given)
    for answer in given:
        reading = reader.read(open_scan(shared_data, answer.row))
        assert (answer.margin, answer.refused is None) == (reading.prediction.margin, bool(reading.explanations))


def test_the_same_slice_taken_in_by_the_page_has_the_same_margin(reader: Reader, collection: Path) -> None:
    given = answer_all(reader, collection, read_manifest(collection), lambda _: None).answers
    by_file = {answer.row.file: answer.margin for answer in given}
    for name in ("01_normal.dcm", "04_normal_upper.png", "marked.png"):
        (series,) = take_in_paths([collection / name]).series
        assert reader.read(series.slices[0]).prediction.margin == by_file[name]


# What is remembered


class _Tired(Reader):
    """A reader that has nothing left to say."""

    def see(self, scan: Slice) -> Any:
        raise AssertionError("what was answered is not asked again")


def test_a_second_evaluation_asks_nothing_again(reader: Reader, collection: Path, tmp_path: Path) -> None:
    rows = read_manifest(collection)
    first = answer_all(reader, collection, rows, lambda _: None, tmp_path).answers
    again = answer_all(_Tired(reader.model), collection, rows, lambda _: None, tmp_path).answers
    for one, two in zip(first, again, strict=True):
        assert (one.row, one.margin, one.peak, one.refused, one.crop, one.position_mm, one.marks, one.margin_with_marks) == (
            (two.row, two.margin, two.peak, two.refused, two.crop, two.position_mm, two.marks, two.margin_with_marks)
        )
        assert one.gate_distance == two.gate_distance
        assert one.pooled == pytest.approx(two.pooled)
        assert one.cells == pytest.approx(two.cells)


def test_half_an_answer_and_another_checkpoints_answer_are_not_remembered(
    reader: Reader, collection: Path, tmp_path: Path
) -> None:
    rows = read_manifest(collection)[:1]
    (answer,) = answer_all(reader, collection, rows, lambda _: None, tmp_path).answers
    (file,) = tmp_path.glob("*/*.npz")
    key = file.stem
    assert Memory(tmp_path, reader.card, "torch").find(key, rows[0]) is not None
    assert Memory(tmp_path, replace(reader.card, sha256="1" * 64), "torch").find(key, rows[0]) is None
    assert Memory(tmp_path, replace(reader.card, crop_margin=0.2), "torch").find(key, rows[0]) is None
    assert Memory(tmp_path, reader.card, "another computer").find(key, rows[0]) is None
    content = file.read_bytes()
    for length in (0, len(content) // 2, len(content) - 10):
        file.write_bytes(content[:length])
        assert Memory(tmp_path, reader.card, "torch").find(key, rows[0]) is None
    (again,) = answer_all(reader, collection, rows, lambda _: None, tmp_path).answers
    assert again.margin == answer.margin


# Bad input


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_answered(
    reader: Reader, collection: Path, tmp_path: Path
) -> None:
    shutil.copy(collection / "01_normal.dcm", tmp_path / "good.dcm")
    (tmp_path / "torn.png").write_bytes((collection / "04_normal_upper.png").read_bytes()[:500])
    data = _manifest(
        tmp_path,
        [
            ("torn.png", "ipf", "P1", "validation", "grey"),
            ("absent.png", "ipf", "P1", "validation", "grey"),
            ("no.zip/member.dcm", "ipf", "P1", "validation", "hounsfield"),
            ("good.dcm", "normal", "P2", "validation", "hounsfield"),
            ("good.dcm", "tuberculosis", "P2", "validation", "hounsfield"),
            ("good.dcm", "normal", "P3", "train", "hounsfield"),
        ],
    )
    said: list[str] = []
    found = answer_all(reader, data, read_manifest(data), said.append)
    assert [answer.row.file for answer in found.answers] == ["good.dcm"]
    assert [file for file, _ in found.unreadable] == ["torn.png", "absent.png", "no.zip/member.dcm"]
    assert all(any(file in sentence for sentence in said) for file, _ in found.unreadable)
    assert found.other_labels == (("tuberculosis", 1),)
    assert any("'tuberculosis'" in sentence for sentence in said)


def test_a_collection_without_a_picture_to_measure_on_is_refused_in_a_sentence(reader: Reader, tmp_path: Path) -> None:
    empty = _manifest(tmp_path, [])
    with pytest.raises(InputRefused, match="no picture to measure on"):
        answer_all(reader, empty, read_manifest(empty), lambda _: None)
    torn = _manifest(tmp_path, [("absent.png", "ipf", "P1", "validation", "grey")])
    with pytest.raises(InputRefused, match="None of the 1 pictures could be read"):
        answer_all(reader, torn, read_manifest(torn), lambda _: None)


def test_the_command_line_says_bad_input_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(tmp_path / "no.safetensors"), str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said


# Drawn lesions


@pytest.fixture(scope="module")
def normal() -> NormalSlice:
    thorax = draw_thorax(np.random.default_rng(1), level=0.6, size=320, spacing_mm=1.0)
    hu = thorax.pixels.astype(np.float32)
    scan = Slice(hu, Scale.HOUNSFIELD, Source("x", "PNG", ""), np.zeros(hu.shape, np.bool_))
    return NormalSlice(hu, find_lungs(scan), 1.0, "drawn")


def _explanation(cells: np.ndarray, crop: Crop | None = None) -> Explanation:
    rows, columns = cells.shape
    own = crop or Crop(0, 0, 10 * columns, 10 * rows, (16 * rows, 16 * columns), (10 * rows, 10 * columns))
    return Explanation(cells.astype(np.float32), own, target="ipf", method="gradcam", layer="layer4", unit="logits")


def test_the_frame_of_a_map_is_its_outermost_cells() -> None:
    cells = np.zeros((4, 5))
    cells[0, 2], cells[2, 2], cells[3, 4] = 1, 2, 1
    assert drawn_lesions.mass_in_frame(_explanation(cells)) == pytest.approx(0.5)
    assert drawn_lesions.mass_in_frame(_explanation(np.zeros((4, 5)))) is None


def test_mass_is_outside_the_lung_by_its_distance_in_cells() -> None:
    cells = np.ones((4, 6))  # a uniform map: shares are areas
    lung = np.zeros((40, 60), np.bool_)
    lung[:, :20] = True
    for spacing in (None, PixelSpacing(0.7, 0.7)):
        assert drawn_lesions.mass_beyond(_explanation(cells), Lungs(lung), 0, spacing) == pytest.approx(40 / 60)
        # half a cell is 5 pixels: centers of columns 20 to 24 are at most 5 pixels from that of column 19
        assert drawn_lesions.mass_beyond(_explanation(cells), Lungs(lung), 0.5, spacing) == pytest.approx(35 / 60)
    doubted = Lungs(lung, doubt="The mask does not hold.")
    assert drawn_lesions.mass_beyond(_explanation(cells), doubted, 0.5, None) is None
    assert drawn_lesions.mass_beyond(_explanation(0 * cells), Lungs(lung), 0.5, None) is None


def test_sizes_begin_where_they_say() -> None:
    assert [drawn_lesions.size_of(share) for share in (0.0, 0.0999, 0.1, 0.2499, 0.25, 1.0)] == [
        "small",
        "small",
        "medium",
        "medium",
        "large",
        "large",
    ]


def test_overlaps_on_drawn_lesions_are_scikit_learns(reader: Reader, normal: NormalSlice, tmp_path: Path) -> None:
    rows = drawn_lesions.score_drawn(reader, [normal], lambda _: None, tmp_path, cases=2, seed=3)
    for row in (row for row in rows if row.finding == "all"):
        drawn = drawn_lesions.draw(normal, 3, row.case)
        assert drawn is not None
        case, scan = drawn
        area = disease_mask(case.annotations, scan.shape)
        reading = reader.read(scan)
        explanation, evidence = reading.explanations["ipf"], reading.evidence
        assert evidence is not None
        heatmap = explanation.heatmap()
        assert row.iou_positive == pytest.approx(jaccard_score(area.ravel(), heatmap.ravel() > 0))
        inside = (heatmap > 0) & reading.lungs.mask
        assert row.iou_positive_in_lung == pytest.approx(jaccard_score(area.ravel(), inside.ravel()))
        signed = explanation.crop.paste_cells(evidence.cells) > 0
        assert row.iou_sign == pytest.approx(jaccard_score(area.ravel(), signed.ravel()))
        colored = heatmap >= 0.1 * reader.card.map_reference
        assert row.iou_colored == pytest.approx(jaccard_score(area.ravel(), colored.ravel()))
        truth = explanation.crop.cell_shares(area, evidence.cells.shape) >= 0.4
        assert row.iou_cells == pytest.approx(jaccard_score(truth.ravel(), evidence.cells.ravel() > 0), abs=0.03)
        lit = explanation.cells >= 0.1 * reader.card.map_reference
        assert row.iou_cells_colored == pytest.approx(jaccard_score(truth.ravel(), lit.ravel()), abs=0.03)
        assert row.mass == pytest.approx(heatmap[area].sum() / heatmap.sum(), rel=1e-4)
        assert row.cell_mm == pytest.approx(max(explanation.crop.width / 8, explanation.crop.height / 6))
    assert any(row.iou_positive is not None for row in rows)


def test_drawn_cases_repeat_by_seed_and_go_on_where_they_stopped(reader: Reader, normal: NormalSlice, tmp_path: Path) -> None:
    first = drawn_lesions.score_drawn(reader, [normal], lambda _: None, tmp_path / "a", cases=2, seed=1)
    assert drawn_lesions.score_drawn(_Tired(reader.model), [normal], lambda _: None, tmp_path / "a", cases=2, seed=1) == first
    assert drawn_lesions.score_drawn(reader, [normal], lambda _: None, tmp_path / "b", cases=2, seed=1) == first
    findings = {row.finding for row in first}
    assert {"all", "nothing"} < findings


def test_means_of_drawn_lesions_are_over_slices(normal: NormalSlice) -> None:
    def row(case: int, on: int, mass: float) -> drawn_lesions.DrawnScore:
        return drawn_lesions.DrawnScore(case, on, "P", "all", "small", 0.05, "ipf", 0.9, mass=mass, pointing_hit=mass > 0.5)

    blank = drawn_lesions.DrawnScore(3, 2, "P", "nothing", "", 0.0, "uncertain", 0.55)
    found = drawn_lesions.summarize_drawn([row(0, 0, 1.0), row(1, 0, 0.0), row(2, 1, 1.0), blank], 0.5)
    assert found["all"]["figures"]["mass"]["mean"] == pytest.approx(0.75)
    assert found["all"]["figures"]["pointing_hit"]["mean"] == pytest.approx(0.75)
    assert found["by_size"]["large"]["figures"]["mass"]["mean"] is None
    assert found["by_size"]["small"]["cases"] == 3
    assert found["auroc"]["auroc"] == 1
    assert found["answers"]["fibrosis"]["called_ipf"]["count"] == 3
    blank_answers = found["answers"]["nothing"]
    assert (blank_answers["uncertain"], blank_answers["called_ipf"]["count"], blank_answers["at_operating_point"]["count"]) == (
        1,
        0,
        1,
    )


# The whole


@pytest.fixture(scope="module")
def report(random_model: Any, collection: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The checkpoint, the folder and the figures of one evaluation, of a card that names patients."""
    folder = tmp_path_factory.mktemp("report")
    data = folder / "data"
    shutil.copytree(collection, data)
    thorax = draw_thorax(np.random.default_rng(2), level=0.6, size=320, spacing_mm=1.0)
    from ipfvision.core.window import apply_window

    content = images.write_png(np.rint(apply_window(thorax.pixels, LUNG) * 255).astype(np.uint8))
    for name in ("held.png", "held2.png", "trained.png"):
        (data / name).write_bytes(content)
    (data / "torn <b>.png").write_bytes(b"torn")
    with (data / "manifest.csv").open("a", newline="") as file:
        csv.writer(file).writerows(
            [
                ("held.png", "normal", "H", "train", "hu_window"),
                ("trained.png", "normal", "T", "train", "hu_window"),
                ("torn <b>.png", "ipf", "P5", "validation", "grey"),
            ]
        )
    weights = folder / "model.safetensors"
    shutil.copy(random_model.weights, weights)
    card = load(random_model.weights).card
    details = {
        "calibration": {"patients": {"ipf": ["P1"], "normal": ["N1"]}},
        "training": {"data": {"training_patients": ["T"], "held_out_patients": ["H"]}},
    }
    card_path(weights).write_text(json.dumps(card_to_json(replace(card, details=details))))
    return weights, folder / "out", evaluate(weights, data, folder / "out", lambda _: None, drawn_cases=3)


def test_the_report_needs_no_other_file_and_escapes_what_it_names(report: tuple[Path, Path, dict[str, Any]]) -> None:
    page = (report[1] / "report.html").read_text("utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http://" not in page
    assert "https://" not in page
    assert "torn <b>" not in page
    assert "torn &lt;b&gt;.png" in page
    assert page.count("data:image/png;base64,") >= 5


def test_an_evaluation_writes_figures_and_tables_that_agree(report: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, found = report
    assert json.loads((out / "figures.json").read_text()) == json.loads(json.dumps(found))
    with (out / "answers.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == found["data"]["pictures"] == sum(one["pictures"] for one in found["by_source"])
    assert {line["patient"] for line in lines if line["patient_is"] == "calibrating"} == {"P1", "N1"}
    assert found["data"]["unreadable"][0][0] == "torn <b>.png"
    with (out / "drawn_lesions.csv").open(newline="") as file:
        drawn = list(csv.DictReader(file))
    assert {row["patient"] for row in drawn} == {"H"}
    assert found["drawn_lesions"]["all"]["cases"] == len({row["case"] for row in drawn if row["finding"] == "all"})
    ours = [line for line in lines if line["label"] == "ipf" and line["margin"]]
    theirs = [line for line in lines if line["label"] == "normal" and line["margin"]]
    truth = [True] * len(ours) + [False] * len(theirs)
    assert found["auroc"]["ipf_against_normal"]["auroc"] == pytest.approx(
        roc_auc_score(truth, [float(line["margin"]) for line in ours + theirs])
    )


def test_an_evaluation_changes_nothing_of_the_model(report: tuple[Path, Path, dict[str, Any]], random_model: Any) -> None:
    assert report[0].read_bytes() == random_model.weights.read_bytes()


def test_a_card_describes_the_weights_that_were_written(collection: Path, tmp_path: Path) -> None:
    """The answers that the card's figures rest on are those of the written, rounded weights."""
    recipe = Recipe(input_shape=(96, 128), steps=1)
    torch.manual_seed(1)
    model = MapNetwork(recipe)
    with torch.no_grad():
        model.weight.normal_(0, 0.02)
        model.bias.fill_(1.2345)
    run = tmp_path / "run"
    run.mkdir()
    state = {"recipe": json.dumps(asdict(recipe)), "model": model.state_dict(), "step": 1}
    torch.save(state, run / "state.pt")
    for name, content in (("run.json", "{}"), ("start.json", "{}"), ("log.jsonl", "{}")):
        (run / name).write_text(content + "\n")
    rng = np.random.default_rng(3)
    inputs = []
    for row in read_manifest(collection):
        scan = open_scan(collection, row)
        inputs.append(prepare(grey(scan, LUNG), find_lungs(scan), recipe.input_shape, CROP_MARGIN)[0])
    varied = [inputs[n % len(inputs)] * rng.uniform(0.7, 1.2) + rng.normal(0, 0.05, recipe.input_shape) for n in range(108)]
    drawn = np.rint(np.clip(varied, 0, 1) * 255).astype(np.uint8)
    for pool, images_of_it in (("train", drawn[:100]), ("validation", drawn[100:])):
        (run / pool).mkdir()
        np.savez(run / pool / "pool_0000.npz", images=images_of_it, labels=np.arange(len(images_of_it)) % 2 == 0)
    weights = tmp_path / "shipped.safetensors"
    with pytest.raises(InputRefused):
        ship(run, tmp_path, weights, lambda _: None)
    assert not weights.exists()  # until all is measured
    assert not card_path(weights).exists()
    said = ship(run, collection, weights, lambda _: None)
    assert load(weights).card.details["figures"] == json.loads(json.dumps(said["figures"]))
    with (run / "answers.csv").open(newline="") as file:
        told = {line["file"]: line["margin"] for line in csv.DictReader(file)}
    for answer in answers(weights, collection, lambda _: None):
        assert answer.margin is None or answer.margin == pytest.approx(float(told[answer.row.file]), abs=1e-4)
    assert load(weights).card.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    gate = load(weights).gate
    assert gate is not None
    assert load(weights).card.details["gate"]["refuse_above"] == gate.refuse_above
    reduced = load(weights).card.details["reduced_precision"]
    assert list(reduced) == (["bf16"] if openvino_door.has_bf16() else [])
    for cost in reduced.values():
        assert cost["pictures"] == len(told)
        assert 0 < cost["largest_margin_difference"] < 0.2
        assert 0 < cost["largest_map_difference"] < 0.2


def test_a_card_learns_later_what_less_exact_arithmetic_costs(
    collection: Path, random_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ship` cannot say it where the processor has no bf16; nothing else of the checkpoint changes."""
    weights = tmp_path / "model.safetensors"
    for given, place in ((random_model.weights, weights), (card_path(random_model.weights), card_path(weights))):
        shutil.copy(given, place)
    before = card_path(weights).read_text()
    monkeypatch.setattr(runtime, "in_bf16", lambda model: None)
    assert cli.main(["precision", str(weights), str(collection)]) == 2
    assert "does not compute in bf16" in capsys.readouterr().err
    assert card_path(weights).read_text() == before

    def rounded(model: Any) -> runtime.Runtime:
        return replace(found := runtime.on_torch(model), features=lambda images: found.features(images).bfloat16().float())

    monkeypatch.setattr(runtime, "in_bf16", rounded)
    said = measure_precision(weights, collection, lambda _: None)
    now, then = json.loads(card_path(weights).read_text()), json.loads(before)
    assert now["details"].pop("reduced_precision") == json.loads(json.dumps(said))
    then["details"].pop("reduced_precision", None)
    assert now == then
    assert said["bf16"]["pictures"] == len(answers(weights, collection, lambda _: None))
    assert said["bf16"]["largest_margin_difference"] > 0


def test_what_less_exact_arithmetic_costs_is_counted() -> None:
    card = replace(CARD, temperature=1.0, map_reference=2.0)
    full = _answers("ipf", {"P1": [3.0, 0.0], "P2": [2.0]}) + _answers("normal", {"N1": [-2.0, -0.7]})
    moved = [replace(one, margin=one.margin + shift) for one, shift in zip(full, (0.1, 0, 0, 0, 0.3), strict=True)]
    grid = np.zeros((2, 3), np.float32)
    full[0], moved[0] = replace(full[0], cells=grid), replace(moved[0], cells=grid + np.float32(0.5))
    found = cost_of_precision(full, moved, card)
    assert found["pictures"] == 5
    assert found["largest_margin_difference"] == pytest.approx(0.3)
    assert found["largest_map_difference"] == pytest.approx(0.25)
    assert found["answers_changed"] == 1  # -0.7 is called normal, -0.4 uncertain
    assert found["auroc_ipf_against_normal"] == area_with_interval(moved, ("normal",))
    refused = [replace(one, margin=None) for one in full]
    assert cost_of_precision(refused, refused, card)["largest_margin_difference"] == 0.0
    assert cost_of_precision(full, refused, card)["answers_changed"] == 5


# Collections


def test_a_folder_per_class_is_measured_and_what_is_no_class_of_the_model_is_counted(reader: Reader, tmp_path: Path) -> None:
    for label, patient in (("ipf", "A"), ("ipf", "B"), ("normal", "C"), ("sarcoidosis", "D")):
        folder = tmp_path / label / patient
        folder.mkdir(parents=True)
        shutil.copy(SAMPLES / ("04_normal_upper.png" if label == "normal" else "06_honeycombing_diffuse.png"), folder / "a.png")
    shutil.copy(SAMPLES / "05_normal_base.png", tmp_path / "normal" / "loose.png")
    found = answer_all(reader, tmp_path, collection_rows(tmp_path), lambda _: None)
    assert [(answer.row.label, answer.row.patient) for answer in found.answers] == [
        ("ipf", "A"),
        ("ipf", "B"),
        ("normal", "C"),
        ("normal", "unknown: normal/loose.png"),
    ]
    assert found.other_labels == (("sarcoidosis", 1),)
    # a folder per class is no source: the control would find the class
    assert {answer.source for answer in found.answers} == {"the collection"}


def test_a_manifest_without_a_use_is_measured_whole(collection: Path, tmp_path: Path) -> None:
    shutil.copytree(collection, tmp_path / "data")
    with (tmp_path / "data" / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "patient"), ("marked.png", "IPF", "P1"), ("01_normal.dcm", "Normal", "")])
    rows = collection_rows(tmp_path / "data")
    assert [(row.label, row.patient, row.use) for row in rows] == [
        ("ipf", "P1", "validation"),
        ("normal", "unknown: 01_normal.dcm", "validation"),
    ]


def test_an_empty_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="holds no pictures"):
        collection_rows(tmp_path)
    with pytest.raises(InputRefused, match="no folder nowhere"):
        collection_rows(tmp_path / "nowhere")


# Plots


def _pixels(png: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def test_plots_show_what_they_are_given() -> None:
    """The same plot of other values is another picture, of the same size."""

    def each(high: float) -> list[bytes]:
        line = plots.Line([0.0, 0.4, 1.0], [0.0, high, 1.0])
        return [
            plots.unit_square({"a": line}, "x", "y", "chance"),
            plots.with_intervals({"a": [(0.3, high, high - 0.1, high + 0.1)]}, "x", "y", "perfect"),
            plots.with_mark(line, (0.5, high), "x", "y", "curve", "used"),
            plots.along({"a": line}, (0.35, 0.65), "mm", "p", "uncertain", missing=[0.2, high]),
        ]

    for first, second in zip(each(0.5), each(0.8), strict=True):
        one, two = _pixels(first), _pixels(second)
        assert one.shape == two.shape
        assert (one != two).any()


def test_a_profile_with_a_refused_slice_is_on_the_report(tmp_path: Path) -> None:
    own = _answers("ipf", {"P1": [float(n) for n in range(-4, 6)]}) + _answers("normal", {"N1": [-3.0], "N2": [-2.0]})
    own = [replace(answer, position_mm=-5.0 * n) if answer.row.patient == "P1" else answer for n, answer in enumerate(own)]
    own[3] = replace(own[3], margin=None, refused="No lungs were found.")
    given = Given(tuple(own))
    write_report(CARD, measure(CARD, given, [], []), given.answers, Sheets([], [], []), tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert (tmp_path / "profile_1.png").is_file()
    assert "P1, from head to foot: Spearman" in page
    assert "1 picture was refused" in page
    assert "Not measured: the card names no patient held out" in page


def test_a_collection_of_one_class_has_a_report_without_figures_that_are_not_defined(tmp_path: Path) -> None:
    given = Given(tuple(_answers("normal", {"N1": [-3.0]})))
    found = measure(CARD, given, [], [])
    write_report(CARD, found, given.answers, Sheets([], [], []), tmp_path)
    assert found["auroc"]["ipf_against_normal"]["auroc"] is None
    assert "roc.png" not in {path.name for path in tmp_path.iterdir()}
