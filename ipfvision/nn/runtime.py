"""What computes the body of the network: torch always, something faster where that is proven to say the same.

On a CPU that is OpenVINO (docs/decisions/0007-cpu-runtime.md), with a GPU torch on CUDA. Before a runtime answers for any
slice, its logits and maps of a few drawn images are held against torch in fp32 on the CPU; one that does not fit is refused, in
a sentence, and torch is used. torch's own side of that comparison is kept in a cache folder, so that only the first start of a
model waits for it. Nothing of a patient goes there.
"""

import copy
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import platformdirs
import safetensors.numpy
import torch
from safetensors import SafetensorError

from ipfvision.nn import openvino_door
from ipfvision.nn.explain import class_maps
from ipfvision.nn.network import Model, body, to_tensor

RUNTIME = "IPFVISION_RUNTIME"
"""Environment variable: "torch" for torch on the CPU, whatever else there is."""
THREADS = "IPFVISION_THREADS"
"""Environment variable: how many threads one pass may use; unset, one for each physical core (torch's own count)."""
PRECISION = "IPFVISION_PRECISION"
"""Environment variable: "bf16" for less exact arithmetic in half the time, where the card says what that costs."""
CACHE = "IPFVISION_CACHE"
"""Environment variable: another folder than the user's cache."""

LOGIT_TOLERANCE = 1e-3
"""In logits."""
MAP_TOLERANCE = 1e-3
"""Of the largest value of torch's maps (Grad-CAM in logits, of both classes) of the same image."""
BF16_TOLERANCE = 0.2
"""In logits, and of the largest value of torch's maps. bf16 differs by 0.04 and 0.06 on the images of the check; this tells it
from a wrong network, no more. What it costs on real pictures stands in the card."""

GPU_BATCH = 8
"""Slices in one pass on a GPU. Layer4's features of as many are 50 MB."""

Images = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Runtime:
    """Something that computes the body of a network. Safe to share between threads; calls wait for each other."""

    name: str
    """With its version, for people."""
    features: Callable[[torch.Tensor], torch.Tensor]
    """(N, 3, rows, columns) -> (N, 2048, h, w) float32 on the CPU: layer4's output. It may be differentiated from there on."""
    notes: tuple[str, ...] = ()
    """Sentences for whoever runs the program: why it is not the runtime that was expected, what is slower than it need be."""
    threads: int = 1
    """Of one pass."""
    batch: int = 1
    """Slices of a series that go through in one pass; where it is more than one, the pass leaves the processor's cores free."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a runtime says of `checking_images`."""

    logits: npt.NDArray[np.float32]
    """(N, targets)."""
    maps: npt.NDArray[np.float32]
    """(N, targets, h, w): Grad-CAM in logits."""

    def __post_init__(self) -> None:
        if not len(self.logits) or self.logits.ndim != 2 or self.maps.ndim != 4 or self.maps.shape[:2] != self.logits.shape:
            raise ValueError("logits are (N, targets), maps (N, targets, h, w)")

    def first(self) -> "Answers":
        return Answers(self.logits[:1], self.maps[:1])


def prepare(model: Model) -> Runtime:
    """The fastest runtime here that says what torch says, ready to run. Never fails: torch on the CPU is always there."""
    threads, notes = _set_threads()
    torch_here = on_torch(model)
    wanted = os.environ.get(RUNTIME, "")
    if wanted not in ("", "torch"):
        notes = (*notes, f"{RUNTIME} is {wanted!r}, which says nothing here: leave it unset, or set it to torch.")
    less = os.environ.get(PRECISION, "") not in ("", "f32")
    if wanted == "torch":
        return replace(torch_here, notes=(*notes, f"{PRECISION} has no effect beside {RUNTIME}=torch.") if less else notes)
    if less:
        reduced, said = _reduced(model, threads, torch_here)
        notes = (*notes, *said)
        if reduced is not None:
            return replace(reduced, notes=notes)
    starts: list[Callable[[], Runtime]] = [lambda: on_openvino(model, threads)]
    if (gpu := gpu_here()) is not None:
        starts.insert(0, lambda: on_gpu(model, gpu))
    for start in starts:
        try:
            fast = start()
            problem, unkept = _check(model, fast, torch_here)
        except (ImportError, OSError, RuntimeError) as error:
            problem = f"Reading is slower than it need be: a faster runtime does not start here ({_first_line(error)})."
        else:
            if problem is None:
                return replace(fast, notes=notes if unkept is None else (*notes, unkept))
            problem = f"Reading is slower than it need be: {fast.name} was refused, because {problem}."
        notes = (*notes, problem)
    return replace(torch_here, notes=notes)


def on_torch(model: Model) -> Runtime:
    """The model's own network on the CPU, one batch at a time: each has all threads, as it has with OpenVINO."""
    turn, threads = threading.Lock(), torch.get_num_threads()

    def features(images: torch.Tensor) -> torch.Tensor:
        with turn, torch_threads(threads), torch.inference_mode():
            found = body(model.network, images)
        return found.clone()  # a clone outside inference mode may be differentiated

    return Runtime(f"torch {torch.__version__}", features, threads=threads)


def gpu_here() -> torch.device | None:
    """The GPU that torch can use: NVIDIA's (or AMD's, under the same name), or Apple's; None if there is none."""
    for kind, there in (("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)):
        if there():
            return torch.device(kind)
    return None


def on_gpu(model: Model, device: torch.device) -> Runtime:
    """A copy of the network on the GPU, in fp32 throughout: TF32, the default of convolutions there, keeps 10 bits."""
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # missing in torch's stubs
    network = copy.deepcopy(model.network).to(device)
    turn = threading.Lock()

    def features(images: torch.Tensor) -> torch.Tensor:
        with turn, torch.inference_mode():
            found = body(network, images.to(device, memory_format=torch.channels_last)).cpu()
        return found.clone()

    what = torch.cuda.get_device_name() if device.type == "cuda" else "Apple's GPU"
    threads = torch.get_num_threads()  # of what torch computes beside it on the CPU
    return Runtime(f"torch {torch.__version__} on {what}", features, threads=threads, batch=GPU_BATCH)


def _reduced(model: Model, threads: int, torch_here: Runtime) -> tuple[Runtime | None, tuple[str, ...]]:
    """The runtime in the precision that the site asks for; or None. And sentences: what it costs, or why there is none."""
    wanted = os.environ[PRECISION]
    if wanted != "bf16":
        return None, (f"{PRECISION} is {wanted!r}; bf16 is expected, or nothing. It has no effect.",)
    if gpu_here() is not None:
        return None, (f"{PRECISION} has no effect: a GPU computes here, in full precision.",)
    cost = (model.card.details.get("reduced_precision") or {}).get(wanted) or {}
    if not {"pictures", "largest_margin_difference", "answers_changed"} <= set(cost):
        return None, (f"{PRECISION} has no effect: the model's card does not say what bf16 costs.",)
    try:
        if not openvino_door.has_bf16():
            return None, (f"{PRECISION} has no effect: this processor does not compute in bf16.",)
        fast = on_openvino(model, threads, wanted)
        problem, unkept = _check(model, fast, torch_here, (BF16_TOLERANCE, BF16_TOLERANCE))
    except (ImportError, OSError, RuntimeError) as error:
        problem, unkept = f"it does not start here ({_first_line(error)})", None
    if problem is not None:
        return None, (f"{PRECISION} has no effect: {problem}.",)
    said = (
        f"Answers are computed in bf16, as {PRECISION} asks, and differ from those that the card describes: on "
        f"{cost['pictures']} real pictures by up to {cost['largest_margin_difference']:.2f} logits, which changed "
        f"{cost['answers_changed']} answers."
    )
    return fast, (said,) if unkept is None else (said, unkept)


def in_bf16(model: Model) -> Runtime | None:
    """The body in bf16, to measure what that costs; None where the processor has no bf16, or OpenVINO is not to run."""
    if os.environ.get(RUNTIME, "") == "torch":
        return None
    try:
        return on_openvino(model, _set_threads()[0], "bf16") if openvino_door.has_bf16() else None
    except (ImportError, OSError, RuntimeError):
        return None


def on_openvino(model: Model, threads: int, precision: str = "f32") -> Runtime:
    """The body compiled by OpenVINO. Raises ImportError or RuntimeError where OpenVINO does not run."""
    run = openvino_door.compile_body(model.network, model.card.input_shape, threads, precision)
    version = openvino_door.load().__version__.partition("-")[0]
    return Runtime(
        f"OpenVINO {version}" + ("" if precision == "f32" else f" in {precision}"),
        lambda images: torch.from_numpy(run(images.contiguous().numpy())),
        threads=threads,
    )


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """What this thread computes with torch has as many threads.

    One is right for all that is small beside a pass: torch's other threads spin while they wait, on cores that a pass may have.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _set_threads() -> tuple[int, tuple[str, ...]]:
    """Threads of one pass, and a sentence if what the site said of them was no number.

    OpenCV gets one: it makes the next slice ready while the network has all cores.
    """
    cv2.setNumThreads(1)
    given = os.environ.get(THREADS, "")
    if not given:
        return torch.get_num_threads(), ()
    if not given.isdecimal() or int(given) < 1:
        return torch.get_num_threads(), (f"{THREADS} is {given!r}; a whole number from 1 on is expected. It has no effect.",)
    threads = int(given)
    torch.set_num_threads(threads)
    return threads, ()


def checking_images(input_shape: tuple[int, int]) -> Images:
    """Three inputs, always the same: a drawn chest, one with a coarse texture in its lungs, and noise up to the frame.

    Returns
    -------
    (3, rows, columns) float32 in [0, 1].
    """
    rows, columns = input_shape
    random = np.random.default_rng(0)

    def texture(cells: float) -> npt.NDArray[np.float32]:
        noise = cv2.GaussianBlur(random.standard_normal(input_shape).astype(np.float32), (0, 0), columns / cells)
        return np.asarray(noise / noise.std(), np.float32)

    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    chest = np.where(x**2 / 0.98 + y**2 / 0.9 < 1, 0.62, 0.0)
    lungs = (np.abs(x) - 0.45) ** 2 / 0.14 + (y + 0.05) ** 2 / 0.5 < 1
    healthy = np.where(lungs, 0.2 + 0.05 * texture(150), chest + 0.02 * texture(200))
    coarse = np.where(lungs & (y > -0.2), 0.45 + 0.25 * texture(100), healthy)
    noise = 0.5 + 0.3 * texture(60)
    return np.asarray(np.clip(np.stack([healthy, coarse, noise]), 0, 1), np.float32)


def answers(model: Model, runtime: Runtime, images: Images) -> Answers:
    """Logits and maps of images (N, rows, columns) in [0, 1], all in one batch."""
    features = runtime.features(to_tensor(images, model.card))
    with torch.no_grad():
        logits = model.linear(features.mean(dim=(2, 3)))
    # In C order: safetensors writes other arrays scrambled.
    return Answers(logits.numpy(), np.ascontiguousarray(class_maps(model.linear, features)))


def disagreement(
    found: Answers, expected: Answers, tolerances: tuple[float, float] = (LOGIT_TOLERANCE, MAP_TOLERANCE)
) -> str | None:
    """In what two answers differ by more than the tolerances (logits, maps), as the end of a sentence; None if in nothing."""
    if found.maps.shape != expected.maps.shape:
        return "its maps have another size than torch's"
    logits = float(np.abs(found.logits - expected.logits).max())
    if not logits <= tolerances[0]:  # so that not-a-number fails
        return f"its logits differ from torch's by {logits:.2g}"
    scale = expected.maps.max(axis=(1, 2, 3), keepdims=True)
    if not (np.abs(found.maps - expected.maps) <= tolerances[1] * scale).all():
        return f"its heat maps differ from torch's by more than {tolerances[1]:.1%} of their peak"
    return None


def _check(
    model: Model,
    runtime: Runtime,
    torch_here: Runtime,
    tolerances: tuple[float, float] = (LOGIT_TOLERANCE, MAP_TOLERANCE),
) -> tuple[str | None, str | None]:
    """What is wrong with a runtime, or None; and a sentence if torch's side of the check could not be kept, or None."""
    images = checking_images(model.card.input_shape)
    path = _cache_folder() / f"{_key(model, runtime)}.safetensors"
    kept = _read(path)
    # A start that is not the first computes one image: this processor may be another than that of the first start.
    if kept is not None and disagreement(answers(model, runtime, images[:1]), kept.first(), tolerances) is None:
        return None, None
    expected = answers(model, torch_here, images)
    problem = disagreement(answers(model, runtime, images), expected, tolerances)
    if problem is None:
        problem = disagreement(answers(model, runtime, images[:1]), expected.first(), tolerances)  # another number of images
    return (problem, None) if problem is not None else (None, _write(path, expected))


def _cache_folder() -> Path:
    given = os.environ.get(CACHE, "")
    return Path(given) if given else platformdirs.user_cache_path("ipfvision", appauthor=False)


def _key(model: Model, runtime: Runtime) -> str:
    """What torch's answers and the right to use a runtime depend on: another checkpoint, card or version has another key."""
    card = model.card
    scaling = (card.input_shape, card.mean, card.standard_deviation)
    given = [card.sha256, scaling, card.dilated_layer4, card.padding_mode, runtime.name, torch.__version__]
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()


def _read(path: Path) -> Answers | None:
    """None where nothing is kept, or what is kept is damaged."""
    try:
        content = safetensors.numpy.load(path.read_bytes())
        return Answers(content["logits"], content["maps"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _write(path: Path, expected: Answers) -> str | None:
    """Keep torch's answers, whole or not at all; a sentence if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            try:
                part.write(safetensors.numpy.save({"logits": expected.logits, "maps": expected.maps}))
                part.close()
                Path(part.name).replace(path)
            except OSError:
                Path(part.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        return (
            f"Every start takes some seconds longer than it need: the check of the model's runtime cannot be kept "
            f"({error.strerror}). Set {CACHE} to a folder that can be written."
        )
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
