"""What computes the network says what torch says, or it is not used."""

import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.numpy
import torch

from ipfvision.core.lungs import find_lungs
from ipfvision.core.slice import Slice, grey
from ipfvision.nn import openvino_door, runtime
from ipfvision.nn.classify import run
from ipfvision.nn.explain import class_maps
from ipfvision.nn.network import Model, build, load, to_tensor
from ipfvision.nn.preprocess import prepare as to_input
from ipfvision.nn.runtime import (
    BF16_TOLERANCE,
    LOGIT_TOLERANCE,
    MAP_TOLERANCE,
    Answers,
    Runtime,
    answers,
    checking_images,
    disagreement,
    on_openvino,
    on_torch,
    prepare,
)
from ipfvision.workflow.intake import take_in_paths
from ipfvision.workflow.reading import DEFAULT_MODEL, Reader
from ipfvision.workflow.samples import list_samples

ROOT = Path(__file__).parents[1]
Models = Callable[..., Model]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("IPFVISION_CACHE", str(folder))
    return folder


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class Passes:
    """Counts the forward passes of a torch network."""

    def __init__(self, model: Model) -> None:
        self.count = 0
        model.network.get_submodule("layer4").register_forward_hook(self._one)

    def _one(self, *_: object) -> None:
        self.count += 1


def _images(count: int, seed: int = 0, shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape)).astype(np.float32)


def _with_bf16(model: Model) -> Runtime:
    return Runtime("bf16", lambda images: on_torch(model).features(images).bfloat16().float())


def _in_training_mode(model: Model) -> Runtime:
    network = build(model.card.dilated_layer4, model.card.padding_mode)
    network.load_state_dict(model.network.state_dict())
    return on_torch(Model(model.card, network.train()))


@pytest.mark.parametrize("padding_mode", ["zeros", "replicate"])
@pytest.mark.parametrize("dilated", [False, True])
def test_openvino_computes_the_features_of_every_architecture(random_model: Models, dilated: bool, padding_mode: str) -> None:
    model = random_model(dilated_layer4=dilated)
    for block in model.network.get_submodule("layer4").children():
        block.conv2.padding_mode = padding_mode  # type: ignore[assignment]
        block.conv2._reversed_padding_repeated_twice = [int(block.conv2.padding[0])] * 4
    pixels = to_tensor(_images(2), model.card)
    found = on_openvino(model, threads=1).features(pixels)
    expected, _ = run(model, pixels)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_the_padding_is_not_taken_for_another(random_model: Models) -> None:
    """Or the test of every architecture could not fail."""
    model = random_model()
    pixels = to_tensor(_images(1), model.card)
    replicated = on_openvino(model, threads=1).features(pixels)
    for block in model.network.get_submodule("layer4").children():
        block.conv2.padding_mode = "zeros"  # type: ignore[assignment]
    assert (on_openvino(model, threads=1).features(pixels) - replicated).abs().max() > 0.01 * replicated.max()


def test_building_a_runtime_leaves_the_network_as_it_was(random_model: Models, cache: Path) -> None:
    model = random_model()
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    prepare(model)
    assert not any(module.training for module in model.network.modules())
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    for name, tensor in model.network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.usefixtures("cache", "no_gpu")
def test_the_default_on_a_cpu_is_openvino_and_needs_no_word(random_model: Models) -> None:
    found = prepare(random_model())
    assert found.name.startswith("OpenVINO 20")
    assert found.notes == ()


@pytest.mark.parametrize("number", [1, 2, 5])
def test_any_number_of_images_gives_each_its_own_answer(random_model: Models, number: int) -> None:
    model = random_model()
    fast, images = on_openvino(model, threads=1), _images(5)
    together = answers(model, fast, images[:number])
    for index in range(number):
        alone = answers(model, fast, images[index : index + 1])
        one = slice(index, index + 1)
        assert disagreement(Answers(together.logits[one], together.maps[one]), alone) is None


@pytest.mark.parametrize("make", [on_torch, lambda model: on_openvino(model, threads=2)], ids=["torch", "openvino"])
def test_eight_threads_get_what_one_gets(random_model: Models, make: Callable[[Model], Runtime]) -> None:
    model = random_model()
    shared, images = make(model), _images(8)
    alone = [answers(model, shared, images[index : index + 1]) for index in range(8)]
    assert all(disagreement(one, alone[0]) is not None for one in alone[1:])  # or a crossing would not be seen
    jobs = list(range(8)) * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: answers(model, shared, images[index : index + 1]), jobs))
    for index, one in zip(jobs, found, strict=True):
        assert disagreement(one, alone[index]) is None


def test_what_a_runtime_computes_may_be_differentiated_from_there_on(random_model: Models) -> None:
    model = random_model()
    for one in (on_torch(model), on_openvino(model, threads=1)):
        features = one.features(to_tensor(_images(1), model.card)).requires_grad_(True)
        features.mean().backward()
        assert features.grad is not None


def test_without_a_runtime_the_models_own_network_answers_even_a_changed_one(random_model: Models) -> None:
    model = random_model()
    pixels = to_tensor(_images(1), model.card)
    fast = on_openvino(model, threads=1)
    with torch.no_grad():
        model.network.get_submodule("layer4.2.conv3").weight.neg_()
    changed, _ = run(model, pixels)
    kept, _ = run(model, pixels, fast)
    assert (changed - kept).abs().max() > 0.1 * float(kept.max())


@pytest.mark.usefixtures("cache", "no_gpu")
@pytest.mark.parametrize("wrong", [_with_bf16, _in_training_mode])
def test_a_runtime_that_says_something_else_is_refused_and_torch_answers(
    random_model: Models, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Model], Runtime]
) -> None:
    model = random_model()
    monkeypatch.setattr(runtime, "on_openvino", lambda model, _: wrong(model))
    found = prepare(model)
    assert found.name.startswith("torch")
    (note,) = found.notes
    assert "was refused, because its" in note
    pixels = to_tensor(_images(1), model.card)
    torch.testing.assert_close(found.features(pixels), run(model, pixels)[0], rtol=0, atol=0)


def test_the_tolerances_are_those_that_are_stated() -> None:
    maps = np.zeros((1, 2, 2, 2), np.float32)
    maps[0, 0, 0, 0] = 40  # the scale of the image, of both classes' maps
    expected = Answers(np.array([[3.0, -3.0]], np.float32), maps)

    def moved(logit: float = 0, cell: float = 0) -> str | None:
        other = expected.maps.copy()
        other[0, 1, 1, 1] += cell
        return disagreement(Answers(expected.logits + np.float32(logit), other), expected)

    assert moved() is None
    assert moved(logit=0.99 * LOGIT_TOLERANCE) is None
    assert "logits" in str(moved(logit=1.01 * LOGIT_TOLERANCE))
    assert moved(cell=0.99 * MAP_TOLERANCE * 40) is None
    assert "heat maps" in str(moved(cell=1.01 * MAP_TOLERANCE * 40))
    assert "logits" in str(moved(logit=float("nan")))
    assert "heat maps" in str(moved(cell=float("nan")))
    assert "another size" in str(disagreement(Answers(expected.logits, maps[..., :1]), expected))


def test_a_map_is_not_excused_by_the_scale_of_another_image() -> None:
    maps = np.ones((2, 2, 1, 1), np.float32)
    maps[1] = 1000
    expected = Answers(np.zeros((2, 2), np.float32), maps)
    other = maps.copy()
    other[0] += 0.5
    assert disagreement(Answers(expected.logits, other), expected) is not None


def test_the_images_of_the_check_never_change_and_light_the_maps(random_model: Models) -> None:
    images = checking_images((96, 128))
    np.testing.assert_array_equal(images, checking_images((96, 128)))
    assert images.min() >= 0
    assert images.max() <= 1
    model = load(DEFAULT_MODEL)
    found = answers(model, on_torch(model), checking_images(model.card.input_shape))
    assert (found.maps.max(axis=(1, 2, 3)) > 0.5).all()


@pytest.mark.usefixtures("no_gpu")
def test_torch_is_asked_at_the_first_start_only(random_model: Models, cache: Path) -> None:
    model = random_model()
    passes = Passes(model)
    prepare(model)
    assert passes.count == 1
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    assert prepare(model).name.startswith("OpenVINO")
    assert passes.count == 1
    assert kept.read_bytes() == content


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "other numbers", "nothing in it"])
def test_a_damaged_cache_is_made_again(random_model: Models, cache: Path, damage: str) -> None:
    model = random_model()
    prepare(model)
    (kept,) = cache.iterdir()
    good = kept.read_bytes()
    content = safetensors.numpy.load(good)
    other = {"logits": content["logits"] + 1, "maps": content["maps"]}
    none = {"logits": content["logits"][:0], "maps": content["maps"][:0]}
    kept.write_bytes(
        {
            "empty": b"",
            "half": good[: len(good) // 2],
            "garbage": bytes(range(256)) * 20,
            "other numbers": safetensors.numpy.save(other),
            "nothing in it": safetensors.numpy.save(none),
        }[damage]
    )
    passes = Passes(model)
    found = prepare(model)
    assert found.name.startswith("OpenVINO")
    assert found.notes == ()
    assert passes.count == 1
    assert kept.read_bytes() == good


@pytest.mark.usefixtures("no_gpu")
def test_another_checkpoint_or_card_is_checked_for_itself(random_model: Models, cache: Path) -> None:
    model = random_model()
    prepare(model)
    for number, change in enumerate(({"sha256": "0" * 64}, {"mean": 0.3}, {"input_shape": (64, 96)}), start=2):
        other = Model(replace(model.card, **change), model.network)
        passes = Passes(other)
        prepare(other)
        assert passes.count >= 1
        assert len(list(cache.iterdir())) == number


def test_a_card_is_not_checked_again_for_what_does_not_touch_the_arithmetic(random_model: Models, cache: Path) -> None:
    model = random_model()
    prepare(model)
    prepare(Model(replace(model.card, name="renamed", temperature=2.0, details={"note": "x"}), model.network))
    assert len(list(cache.iterdir())) == 1


@pytest.mark.usefixtures("no_gpu")
def test_a_cache_folder_that_cannot_be_made_is_said_and_nothing_else_changes(
    random_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("IPFVISION_CACHE", str(tmp_path / "file" / "cache"))
    found = prepare(random_model())
    assert found.name.startswith("OpenVINO")
    (note,) = found.notes
    assert "Set IPFVISION_CACHE" in note
    assert str(tmp_path) not in note


@pytest.fixture
def full_disk(cache: Path) -> Iterator[None]:
    """No file may grow beyond 100 bytes: a write ends with the system's own error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    cache.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("no_gpu", "full_disk")
def test_a_full_disk_is_said_and_leaves_nothing_behind(random_model: Models, cache: Path) -> None:
    # The model was loaded and compiled with the limit in place: only the write to the cache meets it.
    found = prepare(load(random_model.weights))  # type: ignore[attr-defined]
    assert found.name.startswith("OpenVINO")
    assert len(found.notes) == 1
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("cache", "no_gpu")
def test_torch_answers_where_openvino_does_not_start(random_model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("libtbb.so.12: cannot open shared object file")

    monkeypatch.setattr(openvino_door, "load", missing)
    found = prepare(random_model())
    assert found.name.startswith("torch")
    (note,) = found.notes
    assert "libtbb.so.12" in note


@pytest.mark.usefixtures("cache")
def test_openvino_answers_where_the_gpu_does_not(random_model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Model, device: torch.device) -> Runtime:
        assert device.type == "cuda"
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime, "on_gpu", full)
    found = prepare(random_model())
    assert found.name.startswith("OpenVINO")
    (note,) = found.notes
    assert note.endswith("(CUDA out of memory).")


@pytest.mark.usefixtures("cache")
def test_a_site_may_ask_for_torch(random_model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPFVISION_RUNTIME", "torch")
    found = prepare(random_model())
    assert found.name.startswith("torch")
    assert found.notes == ()
    monkeypatch.setenv("IPFVISION_RUNTIME", "turbo")
    assert "'turbo'" in prepare(random_model()).notes[0]


COST = {"pictures": 217, "largest_margin_difference": 0.0312, "answers_changed": 1}


def _measured(model: Model) -> Model:
    return replace(model, card=replace(model.card, details={"reduced_precision": {"bf16": COST}}))


@pytest.mark.usefixtures("cache", "no_gpu")
def test_a_site_may_ask_for_bf16_and_is_told_what_it_costs(shipped: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    if not openvino_door.has_bf16():
        pytest.skip("this processor has no bf16")
    model = _measured(shipped)
    exact = prepare(model)
    assert exact.notes == ()  # off unless it is asked for
    monkeypatch.setenv("IPFVISION_PRECISION", "bf16")
    for _ in range(2):  # the second time from the cache
        found = prepare(model)
        assert found.name == f"{exact.name} in bf16"
        (note,) = found.notes
        assert "217 real pictures by up to 0.03 logits, which changed 1 answers" in note
    images = checking_images(model.card.input_shape)[:1]
    full, less = answers(model, exact, images), answers(model, found, images)
    assert disagreement(less, full) is not None  # it is another arithmetic
    assert disagreement(less, full, (BF16_TOLERANCE, BF16_TOLERANCE)) is None
    monkeypatch.setenv("IPFVISION_PRECISION", "f32")
    assert prepare(model).name == exact.name


@pytest.mark.usefixtures("cache", "no_gpu")
def test_what_is_asked_for_and_cannot_be_is_said_and_answered_exactly(
    random_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = prepare(random_model()).name

    def note(model: Model, asked: str) -> str:
        monkeypatch.setenv("IPFVISION_PRECISION", asked)
        found = prepare(model)
        assert found.name == exact
        return found.notes[0]

    assert "'int4'" in note(_measured(random_model()), "int4")
    assert "card does not say" in note(random_model(), "bf16")
    for odd in (None, {}, {"bf16": None}, {"bf16": {"pictures": 3}}):
        model = random_model()
        odd_card = replace(model.card, details={"reduced_precision": odd})
        assert "card does not say" in note(replace(model, card=odd_card), "bf16")
    with monkeypatch.context() as patch:
        patch.setattr(openvino_door, "has_bf16", lambda: False)
        assert "this processor" in note(_measured(random_model()), "bf16")
    with monkeypatch.context() as patch:
        patch.setenv("IPFVISION_RUNTIME", "torch")
        assert prepare(_measured(random_model())).notes == (
            "IPFVISION_PRECISION has no effect beside IPFVISION_RUNTIME=torch.",
        )
        assert runtime.in_bf16(random_model()) is None
    on_openvino = runtime.on_openvino
    monkeypatch.setattr(openvino_door, "has_bf16", lambda: True)
    monkeypatch.setattr(
        runtime,
        "on_openvino",
        lambda model, threads, precision="f32": (
            on_openvino(model, threads) if precision == "f32" else replace(_in_training_mode(model), name="wrong")
        ),
    )
    assert "differ from torch's" in note(_measured(random_model()), "bf16")


@pytest.fixture
def threads() -> Iterator[None]:
    before, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before)
    cv2.setNumThreads(of_opencv)


@pytest.mark.usefixtures("cache", "threads", "no_gpu")
def test_a_site_may_say_how_many_threads_a_slice_gets(random_model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    compile_body = openvino_door.compile_body
    monkeypatch.setattr(openvino_door, "compile_body", lambda *given: (asked.append(given[2]), compile_body(*given))[1])
    monkeypatch.setenv("IPFVISION_THREADS", "3")
    assert prepare(random_model()).notes == ()
    assert (asked.pop(), torch.get_num_threads(), cv2.getNumThreads()) == (3, 3, 1)
    for wrong in ("0", "-1", "many", "1.5"):
        monkeypatch.setenv("IPFVISION_THREADS", wrong)
        (note,) = prepare(random_model()).notes
        assert repr(wrong) in note
        assert (asked.pop(), torch.get_num_threads()) == (3, 3)


def test_openvino_neither_calls_home_nor_leaves_a_trace_there(tmp_path: Path) -> None:
    """Its telemetry would make a folder in the home directory, start a process and look an address up at the import.

    torch comes before the watch begins: with CUDA it asks ldconfig where its libraries are.
    """
    code = """
        import sys
        from ipfvision.nn import openvino_door
        assert "openvino" not in sys.modules
        seen = []
        calls = ("socket.", "subprocess.Popen", "os.fork", "os.posix_spawn", "os.mkdir")
        sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(calls) else None)
        openvino = openvino_door.load()
        openvino.Core().available_devices
        print(sorted({event for event in seen if event != "socket.gethostname"}), openvino.__version__)
    """
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("CI", None)  # the telemetry holds still in CI
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("[] 20"), found.stdout
    assert not (tmp_path / "intel").exists()


def _inputs(scans: list[Slice], model: Model) -> Iterator[np.ndarray]:
    """What the model sees of the slices on which lungs are found."""
    card = model.card
    for scan in scans:
        lungs = find_lungs(scan)
        if lungs.problem is None:
            yield to_input(grey(scan, card.window), lungs, card.input_shape, card.crop_margin)[0]


@pytest.fixture(scope="module")
def shipped() -> Model:
    return load(DEFAULT_MODEL)


def _hold_together(model: Model, inputs: Iterator[np.ndarray]) -> int:
    """Torch and OpenVINO on each input, against the stated tolerances; says how many there were."""
    fast = on_openvino(model, torch.get_num_threads())
    count = 0
    for image in inputs:
        pixels = to_tensor(image[None], model.card)
        (features, logits), (fast_features, fast_logits) = run(model, pixels), run(model, pixels, fast)
        maps, fast_maps = class_maps(model.linear, features), class_maps(model.linear, fast_features)
        assert float((logits - fast_logits).abs().max()) <= LOGIT_TOLERANCE
        assert np.abs(maps - fast_maps).max() <= MAP_TOLERANCE * maps.max()
        count += 1
    return count


@pytest.mark.slow
def test_openvino_says_what_torch_says_on_every_sample_scan(shipped: Model) -> None:
    series = take_in_paths([sample.path for sample in list_samples()]).series
    scans = [scan for one in series for scan in one.slices]
    assert _hold_together(shipped, _inputs(scans, shipped)) >= len(list_samples())


@pytest.mark.slow
def test_openvino_says_what_torch_says_on_real_scans(shipped: Model, shared_data: Path) -> None:
    pictures = [*sorted((shared_data / "medpix").rglob("*.png"))[::6], *sorted((shared_data / "lidc").rglob("*.png"))[::60]]
    series = take_in_paths(pictures).series
    assert _hold_together(shipped, _inputs([scan for one in series for scan in one.slices], shipped)) >= 5


def test_the_reader_reads_the_same_with_and_without_a_runtime(shipped: Model) -> None:
    scan = take_in_paths([list_samples()[1].path]).series[0].slices[0]
    fast = Reader(shipped, on_openvino(shipped, torch.get_num_threads())).read(scan)
    slow = Reader(shipped).read(scan)
    assert fast.prediction.decision is slow.prediction.decision
    assert fast.prediction.margin == pytest.approx(slow.prediction.margin, abs=2 * LOGIT_TOLERANCE)
    assert fast.explanations.keys() == slow.explanations.keys() == {"ipf", "normal"}
    scale = max(explanation.peak for explanation in slow.explanations.values())
    for target, explanation in slow.explanations.items():
        assert np.abs(fast.explanations[target].cells - explanation.cells).max() <= MAP_TOLERANCE * scale
