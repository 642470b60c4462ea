"""The checks of a heat map: their arithmetic against independent oracles, and what they say of maps that are known."""

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import rankdata
from skimage.metrics import structural_similarity as skimage_similarity
from torch import nn

from ipfvision.core.annotation import Annotation, Finding, PointAnnotation, Said
from ipfvision.core.findings import Decision
from ipfvision.core.slice import Scale, Slice
from ipfvision.core.trust import (
    Curve,
    Faithfulness,
    Occlusion,
    Randomization,
    Repeat,
    Repeatability,
    Trust,
    Undefined,
    Verdict,
    first_of,
    impute,
    random_part,
    ranks,
    removal_order,
    structural_similarity,
)
from ipfvision.nn import torchvision_door
from ipfvision.nn import trust as nn_trust
from ipfvision.nn.network import Model
from ipfvision.workflow.intake import take_in_paths
from ipfvision.workflow.reading import Reader, Reading
from ipfvision.workflow.samples import list_samples, sample_annotations
from ipfvision.workflow.trust import _brighter, _to_occlude, check, checking, trust_key, trust_result

RNG = np.random.default_rng(0)
SAID = Said(Finding.HONEYCOMBING, "test")
MAPS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30),
    elements=st.floats(0, 8, width=32, allow_subnormal=False),
)


def first_slice(path: Path) -> Slice:
    (series,) = take_in_paths([path]).series
    return series.slices[0]


SAMPLE = next(sample for sample in list_samples() if sample.path.stem == "02_honeycombing")


def drain(check: Any) -> Any:
    while True:
        try:
            next(check)
        except StopIteration as end:
            return end.value


# Structural similarity


def test_structural_similarity_is_that_of_scikit_image() -> None:
    first = cv2.GaussianBlur(RNG.random((18, 24)), (0, 0), 2) * 40
    second = first + RNG.normal(0, 2, first.shape)
    span = float(max(first.max(), second.max()))
    _, everywhere = skimage_similarity(
        first, second, data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert structural_similarity(first, second, span) == pytest.approx(everywhere.mean(), abs=1e-9)


@given(MAPS)
def test_a_map_is_alike_to_itself_and_ranks_do_not_see_its_scale(values: np.ndarray) -> None:
    if values.any():
        assert structural_similarity(values, values, float(values.max())) == pytest.approx(1)
    np.testing.assert_array_equal(ranks(values), ranks(values * 2))


def test_two_empty_maps_have_no_similarity() -> None:
    empty = np.zeros((18, 24), np.float32)
    assert structural_similarity(empty, empty, 0.0) is None


def test_an_empty_map_is_not_like_a_full_one() -> None:
    assert (structural_similarity(np.zeros((18, 24)), np.ones((18, 24)), 1.0) or 0) < 0.01


@given(MAPS)
def test_ranks_are_those_of_scipy(values: np.ndarray) -> None:
    expected = (rankdata(values, method="average").reshape(values.shape) - 0.5) / values.size
    np.testing.assert_allclose(ranks(values), expected, atol=1e-12)


# Removing pixels


@given(st.integers(0, 100), st.floats(0, 1))
def test_a_sparse_map_loses_exactly_the_percentage(percent: int, lit: float) -> None:
    relevance = np.where(np.random.default_rng(1).random((30, 40)) < lit, np.random.default_rng(2).random((30, 40)), 0)
    order = removal_order(relevance, np.random.default_rng(3).permutation(relevance.size))
    mask = first_of(order, percent, (30, 40))
    assert mask.sum() == round(1200 * percent / 100)
    if mask.any() and not mask.all():
        assert relevance[mask].min() >= relevance[~mask].max()


def test_thresholding_a_sparse_map_removes_everything() -> None:
    """What the grad-cam package does with the same map: nine tenths are ties at zero, and all of them go."""
    torchvision_door.load()
    from pytorch_grad_cam.metrics.perturbation_confidence import RemoveMostRelevantFirst

    relevance = np.zeros((30, 40), np.float32)
    relevance[:6, :20] = 1 + np.random.default_rng(0).random((6, 20))  # a tenth of the map
    gone: list[float] = []

    def imputer(image: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        gone.append(1 - float(kept.float().mean()))
        return image

    RemoveMostRelevantFirst(50, imputer)(torch.zeros(1, 30, 40), torch.from_numpy(relevance))
    assert gone == [1.0]
    order = removal_order(relevance, np.arange(relevance.size))
    assert first_of(order, 50, (30, 40)).mean() == 0.5


def test_a_map_that_is_the_same_everywhere_leaves_the_given_order() -> None:
    ties = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(removal_order(np.full((10, 10), 3.0), ties), ties)


# Imputation


def solved_exactly(image: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The linear system of Rong et al. as a sparse matrix, pixel by pixel."""
    number = -np.ones(image.shape, int)
    number[missing] = np.arange(missing.sum())
    matrix = scipy.sparse.lil_matrix((missing.sum(), missing.sum()))
    right = np.zeros(missing.sum())
    for row, column in np.argwhere(missing):
        here = number[row, column]
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                y, x = row + down, column + across
                if (down, across) == (0, 0) or not (0 <= y < image.shape[0] and 0 <= x < image.shape[1]):
                    continue
                weight = 1 / 6 if down == 0 or across == 0 else 1 / 12
                matrix[here, here] += weight
                if missing[y, x]:
                    matrix[here, number[y, x]] -= weight
                else:
                    right[here] += weight * image[y, x]
    filled = image.astype(np.float64)
    filled[missing] = scipy.sparse.linalg.spsolve(matrix.tocsc(), right)
    return filled


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_imputation_solves_the_linear_system(share: float) -> None:
    random = np.random.default_rng(4)
    image = cv2.GaussianBlur(random.random((40, 50)), (0, 0), 3).astype(np.float32)
    blobs = cv2.GaussianBlur(random.random((40, 50)), (0, 0), 4)
    missing = blobs <= np.quantile(blobs, share)
    filled = impute(image, missing, random, noise=0)
    np.testing.assert_allclose(filled, solved_exactly(image, missing), atol=5e-4)
    np.testing.assert_array_equal(filled[~missing], image[~missing])


def test_imputation_of_one_grey_is_that_grey_and_its_noise_is_as_stated() -> None:
    image, missing = np.full((100, 100), 0.4, np.float32), np.zeros((100, 100), np.bool_)
    missing[10:90, 10:90] = True
    filled = impute(image, missing, np.random.default_rng(0))
    assert filled[missing].mean() == pytest.approx(0.4, abs=1e-3)
    assert filled[missing].std() == pytest.approx(0.01, rel=0.05)
    np.testing.assert_array_equal(filled, impute(image, missing, np.random.default_rng(0)))


def test_there_is_nothing_to_impute_from_when_all_is_missing() -> None:
    with pytest.raises(ValueError, match="nothing is left"):
        impute(np.zeros((4, 4), np.float32), np.ones((4, 4), np.bool_), np.random.default_rng(0))


# Random parts


@given(st.integers(0, 1000))
def test_a_random_part_has_the_same_area_inside_the_room(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((48, 64), np.bool_)
    mask[5:15, 5:9] = mask[20:23, 30:44] = True
    room = np.zeros_like(mask)
    room[4:44, 10:60] = True
    room &= ~mask
    part = random_part(mask, room, random)
    assert part is not None
    assert part.sum() == mask.sum()
    assert not (part & ~room).any()
    shapes = sorted(tuple(sorted(np.ptp(np.argwhere(labels), axis=0) + 1)) for labels in _pieces(part))
    assert shapes == [(3, 14), (4, 10)] or len(shapes) == 1  # the two pieces as they were, unless they touch


def _pieces(mask: np.ndarray) -> list[np.ndarray]:
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [labels == label for label in range(1, count)]


def test_a_rim_that_fits_nowhere_is_cut() -> None:
    mask, room = np.zeros((30, 30), np.bool_), np.zeros((30, 30), np.bool_)
    mask[:6, :28] = True
    room[5:28, 5:20] = True
    part = random_part(mask, room, np.random.default_rng(0))
    assert part is not None
    assert part.sum() == 6 * 28


def test_a_region_larger_than_the_room_has_no_random_part() -> None:
    mask, room = np.zeros((30, 30), np.bool_), np.zeros((30, 30), np.bool_)
    mask[:10] = True
    room[20:25] = True
    assert random_part(mask, room, np.random.default_rng(0)) is None


# Verdicts


def test_a_map_that_ignores_the_weights_fails_although_random_networks_agree_too() -> None:
    ignores = Randomization(("fc",), (1.0,), (1.0, 1.0), (1.0,))
    assert ignores.verdict is Verdict.FAILED
    assert Randomization(("fc",), (0.1,), (0.1, -0.1), (0.2,)).verdict is Verdict.PASSED
    assert Randomization(("fc",), (0.4,), (0.4, 0.4), (0.2,)).verdict is Verdict.FAILED


def curve(*margins: float) -> Curve:
    return Curve(margins, tuple(0.5 for _ in margins))


def test_the_area_is_the_mean_margin_over_the_percentages() -> None:
    assert curve(2, 2, 2).area((0, 10, 90)) == pytest.approx(2)
    assert curve(2, 0, 0).area((0, 10, 90)) == pytest.approx(10 / 90)


@pytest.mark.parametrize(
    ("most", "least", "verdict"),
    [
        (curve(2, -2), curve(2, 2), Verdict.PASSED),
        (curve(2, 0), curve(2, 0), Verdict.FAILED),
        (curve(2, 2), curve(2, -2), Verdict.FAILED),
    ],
)
def test_random_order_lies_between_most_and_least_relevant_first(most: Curve, least: Curve, verdict: Verdict) -> None:
    assert Faithfulness((0, 50), most, least, (curve(2, 0), curve(2, 0.5))).verdict is verdict


def test_an_annotation_passes_only_where_it_takes_more_than_chance() -> None:
    passed = Occlusion(-2.0, tuple(np.linspace(-1, 1, 19)))
    assert (passed.rank, passed.chance, passed.verdict) == (1.0, 0.05, Verdict.PASSED)
    assert Occlusion(-0.99, tuple(np.linspace(-1, 1, 19))).verdict is Verdict.FAILED
    assert Occlusion(0.1, tuple(np.linspace(0.2, 1, 19))).verdict is Verdict.FAILED  # it spoke against
    alone = Occlusion(-2.0, (), "there is no room.")
    assert (alone.rank, alone.chance, alone.verdict) == (None, None, Verdict.UNDEFINED)


def test_a_changed_answer_a_refusal_or_another_map_is_not_repeatable() -> None:
    same = Repeat("mirrored", 0.9, 0.1, same_decision=True)
    assert Repeatability((same,)).verdict is Verdict.PASSED
    assert Repeatability((same, Repeat("moved", 0.9, -3.0, same_decision=False))).verdict is Verdict.FAILED
    assert Repeatability((same, Repeat("moved", None, None, same_decision=False))).verdict is Verdict.FAILED
    assert Repeatability((same, Repeat("moved", 0.2, 0.0, same_decision=True))).verdict is Verdict.FAILED


# The network


def weights_hash(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def scan() -> Slice:
    return first_slice(SAMPLE.path)


@pytest.fixture(scope="module")
def random_reader(random_model: Callable[[], Model]) -> Reader:
    return Reader(random_model())


@pytest.fixture(scope="module")
def reading(random_reader: Reader, scan: Slice) -> Reading:
    return random_reader.read(scan)


@pytest.fixture(scope="module")
def drawn(scan: Slice) -> tuple[Annotation, ...]:
    return sample_annotations(SAMPLE)


def test_checks_count_their_passes_repeat_and_leave_the_shared_model_alone(random_reader: Reader, reading: Reading) -> None:
    rows, columns = np.argwhere(reading.lungs.mask)[len(np.argwhere(reading.lungs.mask)) // 3]
    spot = np.zeros(reading.scan.shape, np.bool_)
    spot[rows - 10 : rows + 10, columns - 10 : columns + 10] = True
    drawn = (Annotation(spot, SAID),)
    before = weights_hash(random_reader.model.network)
    global_state = torch.random.get_rng_state()
    seen: list[tuple[int, int]] = []
    first = check(random_reader, reading, drawn, seed=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 69) for done in range(1, 70)]
    assert isinstance(first.occlusion, Occlusion)
    assert len(first.occlusion.random_changes) == 19
    assert weights_hash(random_reader.model.network) == before
    assert torch.equal(torch.random.get_rng_state(), global_state)
    assert trust_result(check(random_reader, reading, drawn, seed=3)) == trust_result(first)


def test_checks_stop_where_the_reader_stops(random_reader: Reader, reading: Reading) -> None:
    class CancelError(Exception):
        pass

    seen: list[int] = []

    def cancel(done: int, _: int) -> None:
        seen.append(done)
        if done == 2:
            raise CancelError

    with pytest.raises(CancelError):
        check(random_reader, reading, progress=cancel)
    assert seen == [1, 2]
    steps = checking(random_reader, reading)
    next(steps)
    steps.close()


class Blind(nn.Module):
    """Says of every channel what the image is: nothing that could be learned."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(images[:, :1], 16).abs().expand(-1, 2048, -1, -1)


def test_a_network_that_only_shows_the_image_fails_randomization(random_model: Callable[[], Model], reading: Reading) -> None:
    network = nn.Sequential(OrderedDict(layer4=Blind(), fc=nn.Linear(2048, 2)))
    with torch.no_grad():
        network.get_submodule("fc").weight.fill_(0.01)
    blind = Model(random_model().card, network.requires_grad_(False))
    found = Reader(blind).read(reading.scan)
    cells = found.explanations["ipf"]
    image = found.model_input
    assert image is not None
    result = drain(nn_trust.randomization(blind, image, cells.cells, cells.target, "gradcam", 0))
    assert isinstance(result, Randomization)
    assert result.similarity == pytest.approx(1)
    assert result.verdict is Verdict.FAILED


def test_every_weight_is_made_random(random_model: Callable[[], Model]) -> None:
    one, other = random_model().network, random_model().network
    nn_trust.randomize(one, torch.Generator().manual_seed(1))
    nn_trust.randomize(other, torch.Generator().manual_seed(1))
    original = random_model().network
    assert weights_hash(one) == weights_hash(other)
    for (name, new), old in zip(one.named_parameters(), original.parameters(), strict=True):
        assert new.ndim == 1 or abs(float(torch.corrcoef(torch.stack([new.flatten(), old.flatten()]))[0, 1])) < 0.1, name
    assert nn_trust.layers_from_the_top(one) == ("fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1")


def test_a_layer_that_would_keep_its_weights_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="LayerNorm"):
        nn_trust.randomize(nn.LayerNorm(3), torch.Generator())


class Rough(nn.Module):
    """Its first channel is how rough the image is, so that the margin is known: imputed parts are smooth."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pool = nn.functional.avg_pool2d
        variance = pool(images[:, 0] ** 2, 16) - pool(images[:, 0], 16) ** 2
        return torch.cat([variance[:, None], torch.zeros(len(images), 2047, *variance.shape[1:])], dim=1)


@pytest.fixture
def rough(random_model: Callable[[], Model]) -> Model:
    """A network whose answer is how much of the image is rough."""
    network = nn.Sequential(OrderedDict(layer4=Rough(), fc=nn.Linear(2048, 2)))
    with torch.no_grad():
        network.get_submodule("fc").weight.zero_()[0, 0] = 10.0
        network.get_submodule("fc").bias.zero_()
    return Model(random_model().card, network.requires_grad_(False))


def checkered() -> tuple[np.ndarray, np.ndarray]:
    """Grey, with a checkered square; and where that is."""
    square = np.zeros((96, 128), np.bool_)
    square[32:64, 32:64] = True
    checks = np.indices((96, 128)).sum(axis=0) % 2
    return np.where(square, checks, 0.5).astype(np.float32), square


def test_a_true_map_is_faithful_and_its_opposite_is_not(rough: Model) -> None:
    image, square = checkered()
    cells = square[8::16, 8::16].astype(np.float32)
    true = drain(nn_trust.faithfulness(rough, image, cells, "ipf", 0))
    assert true.verdict is Verdict.PASSED
    assert drain(nn_trust.faithfulness(rough, image, cells, "ipf", 1)).random != true.random
    assert true.most_first.margins[-1] == pytest.approx(0, abs=0.01)
    assert drain(nn_trust.faithfulness(rough, image, 1 - cells, "ipf", 0)).verdict is Verdict.FAILED
    for_normal = drain(nn_trust.faithfulness(rough, image, cells, "normal", 0))
    assert for_normal.most_first.margins == pytest.approx([-margin for margin in true.most_first.margins])


def test_what_the_answer_rests_on_stands_out_when_it_is_filled_in(rough: Model) -> None:
    image, square = checkered()
    found = drain(nn_trust.occlusion(rough, image, square, ~square, "ipf", 0))
    variance = 0.25 / rough.card.standard_deviation**2
    assert found.change == pytest.approx(-10 * variance * square.mean(), rel=0.01)
    assert max(abs(change) for change in found.random_changes) < 0.01
    assert found.verdict is Verdict.PASSED
    nowhere = drain(nn_trust.occlusion(rough, image, square, np.zeros_like(square), "ipf", 0))
    assert nowhere.change == found.change
    assert nowhere.verdict is Verdict.UNDEFINED
    assert "no room" in nowhere.reason


# The use case


def test_without_an_area_there_is_nothing_to_fill_in(random_reader: Reader, reading: Reading, scan: Slice) -> None:
    nothing = Annotation(np.zeros(scan.shape, np.bool_), SAID)
    corner = np.zeros(scan.shape, np.bool_)
    corner[0, 0] = True
    for annotations, word in (
        ((), "No area"),
        ((PointAnnotation(3, 4, SAID),), "No area"),
        ((nothing,), "marks nothing"),
        ((Annotation(corner, SAID),), "outside what the model sees"),
    ):
        steps = checking(random_reader, reading, annotations)
        assert next(steps).total == 49
        steps.close()
        found, reason = _to_occlude(annotations, reading.explanations["ipf"])
        assert found is None
        assert word in reason


def test_an_empty_map_is_not_checked(random_reader: Reader, reading: Reading, drawn: tuple[Annotation, ...]) -> None:
    explanation = reading.explanations["ipf"]
    empty = replace(explanation, cells=np.zeros_like(explanation.cells))
    found = check(random_reader, replace(reading, explanations={"ipf": empty}), drawn)
    for one in (found.randomization, found.faithfulness, found.repeatability):
        assert isinstance(one, Undefined)
        assert "no map" in one.sentence
    assert isinstance(found.occlusion, Occlusion)  # it asks the answer, not the map
    written = trust_result(found)
    assert written["randomization"]["verdict"] == "undefined"
    assert written["randomization"]["similarity"] is None


def test_a_refused_slice_has_no_map_to_check(random_reader: Reader, reading: Reading) -> None:
    with pytest.raises(ValueError, match="no map"):
        check(random_reader, replace(reading, explanations={}))


def test_the_key_changes_with_all_that_the_result_depends_on(random_reader: Reader, reading: Reading, scan: Slice) -> None:
    one, other = np.zeros(scan.shape, np.bool_), np.zeros(scan.shape, np.bool_)
    one[200, 200], other[200, 201] = True, True
    keys = [
        trust_key(random_reader, reading, ()),
        trust_key(random_reader, reading, (), "normal"),
        trust_key(random_reader, reading, (), seed=1),
        trust_key(random_reader, reading, (Annotation(one, SAID),)),
        trust_key(random_reader, reading, (Annotation(other, SAID),)),
        trust_key(random_reader, random_reader.read(scan, "layercam"), ()),
    ]
    assert len(set(keys)) == len(keys)
    assert trust_key(random_reader, random_reader.read(scan), (Annotation(one, SAID),)) == keys[3]


def test_ten_hounsfield_units_are_a_step_in_grey_where_there_are_none(scan: Slice) -> None:
    assert scan.scale is Scale.HOUNSFIELD
    assert (_brighter(scan, 10).pixels.astype(int) - scan.pixels == 10).all()
    grey = next(sample for sample in list_samples() if sample.path.suffix == ".png")
    picture = first_slice(grey.path)
    brighter = _brighter(picture, 10).pixels
    middle = (picture.pixels > 0.1) & (picture.pixels < 0.9)
    np.testing.assert_allclose((brighter - picture.pixels)[middle], 10 / 1500, atol=1e-6)


def test_hounsfield_units_do_not_wrap() -> None:
    pixels = np.array([[32767, -32768]], np.int16)
    scan = Slice(pixels, Scale.HOUNSFIELD, first_slice(SAMPLE.path).source, np.zeros((1, 2), np.bool_))
    np.testing.assert_array_equal(_brighter(scan, 10).pixels, [[32767, -32758]])
    np.testing.assert_array_equal(_brighter(scan, -10).pixels, [[32757, -32768]])


@pytest.mark.slow
def test_the_shipped_map_of_a_sample_is_to_be_trusted(drawn: tuple[Annotation, ...]) -> None:
    reader = Reader.open()
    reading = reader.read(first_slice(SAMPLE.path))
    assert reading.prediction.decision is Decision.IPF
    found = check(reader, reading, drawn)
    assert isinstance(found, Trust)
    for one in (found.randomization, found.faithfulness, found.occlusion, found.repeatability):
        sys.stdout.write(f"{one.verdict.value}: {one.sentence}\n")  # pytest -s or -rP shows it
    assert isinstance(found.randomization, Randomization)
    assert found.randomization.verdict is Verdict.PASSED
    assert isinstance(found.faithfulness, Faithfulness)
    assert found.faithfulness.most_first_area < found.faithfulness.least_first_area
    assert isinstance(found.occlusion, Occlusion)
    assert found.occlusion.change < 0
    assert isinstance(found.repeatability, Repeatability)
    assert found.repeatability.verdict is Verdict.PASSED
