"""The refusal gate: its distance is the one that others compute, it travels with the weights, and the page obeys it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA

from ipfvision.core.findings import Decision
from ipfvision.core.lungs import find_lungs
from ipfvision.core.slice import Scale, Slice, Source, grey
from ipfvision.core.window import LUNG, apply_window
from ipfvision.errors import InputRefused, ModelUnusable
from ipfvision.nn.gate import MARGIN, QUANTILE, Gate, described, fit
from ipfvision.nn.network import Model, card_path, card_to_json, load, save
from ipfvision.nn.preprocess import prepare
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.gating import fit_gate, note, refusal
from ipfvision.workflow.reading import Reader, result

RandomModel = Callable[..., Model]


def _examples(count: int, seed: int = 0, width: int = 40) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(5, width))
    return rng.normal(size=(count, 5)) @ mixing * 3 + rng.normal(size=(count, width)) + 7


def _picture(values: npt.NDArray[np.floating]) -> Slice:
    pixels = np.ascontiguousarray(np.clip(values, 0, 1), np.float32)
    return Slice(pixels, Scale.GREY, Source("test", "PNG", ""), np.zeros(pixels.shape, np.bool_))


def _thorax(seed: int, level: float = 0.5) -> Slice:
    drawn = draw_thorax(np.random.default_rng(seed), level=level, size=256, spacing_mm=1.4)
    return Slice(
        drawn.pixels, Scale.HOUNSFIELD, Source("test", "DICOM", ""), np.zeros(drawn.pixels.shape, np.bool_), drawn.spacing
    )


def _pools(folder: Path, input_shape: tuple[int, int]) -> Path:
    """A run's drawn pools: drawn thoraxes as the model gets them, noisier and brighter or darker each time."""
    scans = [_thorax(100 + index, 0.3 + 0.04 * index) for index in range(14)]
    inputs = np.stack([prepare(grey(scan, LUNG), find_lungs(scan), input_shape, 0.1)[0] for scan in scans])
    rng = np.random.default_rng(0)
    for name, group, times in (("train", inputs[:12], 8), ("validation", inputs[12:], 4)):
        (folder / name).mkdir()
        for number in range(2):
            again = np.tile(group, (times // 2, 1, 1)) + rng.normal(0, 0.03, (len(group) * times // 2, *input_shape))
            images = np.rint(255 * np.clip(again * rng.uniform(0.9, 1.1, (len(again), 1, 1)), 0, 1)).astype(np.uint8)
            np.savez(folder / name / f"pool_{number:05d}.npz", images=images)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _pools(tmp_path_factory.mktemp("run"), (96, 128))


def test_the_distance_is_mahalanobis_under_scikit_learns_probabilistic_pca() -> None:
    examples, others = _examples(200), _examples(30, seed=1)
    gate = fit(examples, [others], directions=5)
    oracle = PCA(5, svd_solver="full").fit(examples)
    precision = oracle.get_precision()
    expected = [mahalanobis(row, oracle.mean_, precision) / np.sqrt(40) for row in others]
    assert gate.distance(others) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 100), st.integers(0, 1000))
def test_the_distance_knows_no_unit_and_no_rotation(factor: float, seed: int) -> None:
    examples, others = _examples(80), _examples(9, seed=2)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(40, 40)))[0] * factor
    plain, turned = fit(examples, [others], 4), fit(examples @ turn, [others @ turn], 4)
    assert turned.distance(others @ turn) == pytest.approx(plain.distance(others), rel=1e-3)


def test_the_limit_is_the_quantile_of_the_group_that_lies_farthest() -> None:
    near, far = _examples(50, seed=3), _examples(50, seed=4) + 1
    gate = fit(_examples(200), [near, far, near[:0]], 5)
    assert gate.note_above == pytest.approx(np.quantile(gate.distance(far), QUANTILE))
    assert gate.note_above > np.quantile(gate.distance(near), QUANTILE)
    assert gate.refuse_above == pytest.approx(MARGIN * gate.note_above)


@pytest.mark.parametrize(
    ("examples", "held_out", "directions"),
    [
        (_examples(5), [_examples(4)], 5),
        (_examples(60), [], 5),
        (_examples(60), [_examples(0)], 5),
        (_examples(60), [_examples(4)], 40),
        (np.ones((60, 40)), [np.ones((4, 40))], 5),
    ],
)
def test_too_little_makes_no_gate(
    examples: npt.NDArray[np.float64], held_out: list[npt.NDArray[np.float64]], directions: int
) -> None:
    with pytest.raises(ValueError, match=r"do not fit|too few"):
        fit(examples, held_out, directions)


@pytest.mark.parametrize(
    "change",
    [
        {"noise": 0.0},
        {"refuse_above": 0.1},
        {"refuse_above": np.inf},
        {"note_above": np.nan},
        {"mean": np.zeros(3, np.float32)},
        {"variances": np.zeros(5, np.float32)},
        {"mean": np.full(40, np.nan, np.float32)},
    ],
)
def test_a_gate_that_makes_no_sense_is_not_made(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="gate"):
        replace(fit(_examples(60), [_examples(9)], 5), **change)  # type: ignore[arg-type]


def _checkpoint(model: Model, gate: Gate | None, weights: Path) -> Path:
    details = {} if gate is None else {"gate": described(gate)}
    card = replace(model.card, sha256=save(model.network, weights, gate), details=details)
    card_path(weights).write_text(json.dumps(card_to_json(card)))
    return weights


@pytest.fixture(scope="module")
def made(run: Path, random_model: RandomModel) -> Gate:
    return fit_gate(run, random_model())


@pytest.fixture(scope="module")
def gated(made: Gate, random_model: RandomModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _checkpoint(random_model(), made, tmp_path_factory.mktemp("gated") / "m.safetensors")


def test_the_file_brings_the_same_gate_back_and_the_cards_hash_covers_it(gated: Path, made: Gate, tmp_path: Path) -> None:
    model = load(gated)
    assert model.gate is not None
    for name, array in made.arrays().items():
        assert np.array_equal(array, model.gate.arrays()[name])
    assert described(model.gate) == model.card.details["gate"]
    assert sum(array.nbytes for array in made.arrays().values()) < 300_000
    moved = tmp_path / "m.safetensors"
    save(model.network, moved, replace(made, refuse_above=made.refuse_above * 2))
    card_path(moved).write_text(card_path(gated).read_text())
    with pytest.raises(ModelUnusable, match="SHA-256"):
        load(moved)


def test_a_checkpoint_without_a_gate_still_loads_and_refuses_nothing_for_its_features(random_model: RandomModel) -> None:
    reader = Reader(random_model())
    assert reader.model.gate is None
    reading = reader.read(_picture(1 - grey(_thorax(0), LUNG)))
    assert reading.gate_distance is None
    assert reading.unlike is None


def test_half_a_gate_is_refused_in_a_sentence(gated: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(gated)
    del tensors["gate.noise"]
    broken = tmp_path / "m.safetensors"
    safetensors.torch.save_file(tensors, broken)
    from ipfvision.nn.network import sha256

    card = json.loads(card_path(gated).read_text()) | {"sha256": sha256(broken)}
    card_path(broken).write_text(json.dumps(card))
    with pytest.raises(ModelUnusable, match="install the model again"):
        load(broken)


def _limited(model: Model, note_above: float, refuse_above: float) -> Reader:
    assert model.gate is not None
    return Reader(replace(model, gate=replace(model.gate, note_above=note_above, refuse_above=refuse_above)))


def test_beyond_the_limit_there_are_a_reason_and_a_distance_and_no_numbers_or_maps(gated: Path) -> None:
    model, scan = load(gated), _thorax(5)
    before = Reader(model).read(scan)
    assert before.prediction.decision is not Decision.REFUSED
    distance = before.gate_distance
    assert distance is not None
    strict = _limited(model, distance / 2, distance * 0.9)
    reading = strict.read(scan)
    assert reading.lungs.problem is None
    assert reading.prediction.decision is Decision.REFUSED
    assert "lung window (center -600, width 1500)" in reading.prediction.reason
    assert (reading.explanations, reading.model_input, reading.evidence, reading.unlike) == ({}, None, None, None)
    (found,) = result(strict.card, [reading])["slices"]
    assert found["gate_distance"] == distance
    assert (found["probability"], found["explanation"]) == (None, None)
    # `see` and `answer` are the way of every measurement, `read` that of the page.
    seen = strict.see(scan)
    assert (strict.answer(seen), seen.gate_distance) == (reading.prediction, distance)


def test_between_the_limits_the_answer_comes_with_a_note(gated: Path) -> None:
    model = load(gated)
    scan = _thorax(7)
    distance = Reader(model).read(scan).gate_distance
    assert distance is not None
    strict = _limited(model, distance * 0.9, distance * 1.1)
    reading = strict.read(scan)
    assert reading.prediction.decision is not Decision.REFUSED
    assert reading.unlike is not None
    assert reading.unlike in reading.warnings
    assert reading.unlike in result(strict.card, [reading])["slices"][0]["warnings"]


def test_the_sentences_part_at_the_limits(gated: Path) -> None:
    model = load(gated)
    gate = model.gate
    assert gate is not None
    for distance, noted, refused in (
        (gate.note_above, False, False),
        (gate.note_above * 1.01, True, False),
        (gate.refuse_above, True, False),
        (gate.refuse_above * 1.01, False, True),
    ):
        assert (note(gate, distance) is not None, refusal(gate, distance, model.card) is not None) == (noted, refused)


def test_a_run_of_another_model_or_without_examples_is_refused(run: Path, random_model: RandomModel, tmp_path: Path) -> None:
    model = random_model()
    with pytest.raises(InputRefused, match="holds 0 drawn examples"):
        fit_gate(tmp_path, model)
    with pytest.raises(InputRefused, match="holds 30 drawn examples"):
        fit_gate(run, model, most=30)
    with pytest.raises(InputRefused, match="96 x 128"):
        fit_gate(run, replace(model, card=replace(model.card, input_shape=(64, 64))))


@pytest.mark.slow
def test_the_shipped_network_passes_no_inverted_picture_in_silence_and_keeps_its_samples(tmp_path: Path) -> None:
    """A small synthetic pool gives the shipped checkpoint a gate, if it has none of its own."""
    from ipfvision.workflow.intake import take_in_paths
    from ipfvision.workflow.samples import list_samples

    reader = Reader.open()
    own = reader.model.gate is not None
    gate = reader.model.gate or fit_gate(_pools(tmp_path, reader.card.input_shape), reader.model)
    reader = Reader(replace(reader.model, gate=gate))
    for seed, level in ((1, 0.5), (2, 0.6)):
        drawn = draw_thorax(np.random.default_rng(seed), level=level).pixels
        seen = reader.see(_picture(1 - apply_window(drawn, LUNG)))
        assert seen.gate_distance is not None  # else lung geometry refused it, and the gate was not asked
        assert (note(gate, seen.gate_distance) is None) == (reader.answer(seen).decision is Decision.REFUSED)
        assert seen.gate_distance > gate.note_above
    # A stand-in that was fitted to a handful of drawn thoraxes says nothing of the samples.
    for sample in list_samples() if own else ():
        for scan in take_in_paths([sample.path]).series[0].slices:
            assert reader.answer(reader.see(scan)).decision is not Decision.REFUSED
