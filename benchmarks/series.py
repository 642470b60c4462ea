"""`python -m benchmarks.series`: a series of drawn slices from files to both maps, as ratios to the network alone.

Each round takes a block of slices through every contender in turn, so that whatever else the machine does falls on all of them;
the figures are medians over rounds of the time for one slice. The unit is one slice through the runtime that the app chose, the
images ready, answer included and no map. Arithmetic is counted as well: convolutions of the runtime's own graph, and what torch
counts of the heads, to the plain network's forward pass.

Figures to write down need an idle machine and all 300 slices. On a busy one even ratios of times mean little:
`--processor-time` counts what all threads of the process used instead, which waiting for a core hardly changes.
"""

import argparse
import io
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openjpeg.utils
import pydicom
import torch
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless
from torch.utils.flop_counter import FlopCounterMode

from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import find_lungs
from ipfvision.core.marks import find_marks
from ipfvision.core.slice import Scale, Slice, Source, grey, hash_pixels
from ipfvision.core.window import LUNG
from ipfvision.dicom.writing import write_ct
from ipfvision.nn import openvino_door, torchvision_door
from ipfvision.nn.classify import run
from ipfvision.nn.explain import class_maps, explain
from ipfvision.nn.network import Model, load, to_tensor
from ipfvision.nn.preprocess import prepare
from ipfvision.nn.runtime import Runtime
from ipfvision.nn.runtime import prepare as prepare_runtime
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.intake import Upload, take_in
from ipfvision.workflow.reading import DEFAULT_MODEL, Reader

BLOCK = 5
READERS = 8
CHESTS = 8
"""Drawn; the other slices are these with noise of their own."""


def files(count: int) -> tuple[list[bytes], list[bytes]]:
    """The same slices as uncompressed DICOM and as JPEG 2000."""
    chests = [draw_thorax(np.random.default_rng(0), level=level) for level in np.linspace(0.3, 0.9, min(count, CHESTS))]
    plain, packed = [], []
    for number in range(count):
        chest, noise = chests[number % len(chests)], np.random.default_rng([1, number])
        pixels = (chest.pixels + noise.normal(0, 5, chest.pixels.shape)).astype(np.int16)
        source = Source("drawn", "DICOM", hash_pixels(pixels), instance_number=number + 1)
        scan = Slice(pixels, Scale.HOUNSFIELD, source, np.zeros(pixels.shape, np.bool_), chest.spacing, file_window=LUNG)
        plain.append(write_ct(scan, uid_seed=f"series {number}"))
        dataset = pydicom.dcmread(io.BytesIO(plain[-1]))
        stream = openjpeg.utils.encode_array(dataset.pixel_array, bits_stored=12, photometric_interpretation=2, use_mct=False)
        dataset.PixelData = encapsulate([bytes(stream)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        packed.append(buffer.getvalue())
    return plain, packed


def opened(content: bytes) -> Slice:
    return take_in([Upload("slice", content)]).series[0].slices[0]


def tutorial(network: torch.nn.Module, content: bytes, model: Model) -> list[np.ndarray]:
    """From a file to both maps as the grad-cam package's README does it, on the whole network, one class after the other."""
    from PIL import Image
    from pydicom.pixels import apply_modality_lut, apply_windowing
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.WindowCenter, dataset.WindowWidth = model.card.window.center, model.card.window.width
    shown = apply_windowing(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    shown = ((shown - shown.min()) / (np.ptp(shown) + 1e-6) * 255).astype(np.uint8)
    rows, columns = model.card.input_shape
    small = np.asarray(Image.fromarray(shown).resize((columns, rows))).astype(np.float32) / 255
    pixels = ((torch.from_numpy(small) - model.card.mean) / model.card.standard_deviation).expand(1, 3, -1, -1).contiguous()
    with GradCAM(model=network, target_layers=[network.get_submodule("layer4")]) as cam:
        return [cam(input_tensor=pixels, targets=[ClassifierOutputTarget(index)])[0] for index in (0, 1)]


def flop_ratio(model: Model, runtime: Runtime, image: torch.Tensor) -> float:
    """Arithmetic of the body, the answer and both maps, over that of the plain network's forward pass."""
    with torch.inference_mode(), FlopCounterMode(display=False) as plain:
        model.network(image)
    if runtime.name.startswith("OpenVINO"):
        body = graph_flops(openvino_door.body_graph(model.network, model.card.input_shape))
        features = runtime.features(image)
    else:
        with FlopCounterMode(display=False) as counted:
            features = runtime.features(image)
        body = counted.get_total_flops()
    with FlopCounterMode(display=False) as heads:
        model.linear(features.mean(dim=(2, 3)))
        explain(model, features, whole(model))
    return (body + heads.get_total_flops()) / plain.get_total_flops()


def graph_flops(graph: object) -> int:
    """Two for each multiplication of a convolution, one image."""
    total = 0
    for node in graph.get_ops():  # type: ignore[attr-defined]
        if node.get_type_name() == "Convolution":
            out = [int(size.get_length()) for size in list(node.get_output_partial_shape(0))[1:]]
            _, inputs, height, width = node.get_input_shape(1)
            total += 2 * int(np.prod(out)) * inputs * height * width
    return total


def whole(model: Model) -> Crop:
    rows, columns = model.card.input_shape
    return Crop(0, 0, columns, rows, (rows, columns), (rows, columns))


def measure(count: int, clock: Callable[[], float]) -> dict[str, float]:
    torchvision_door.load()
    model = load(DEFAULT_MODEL)
    card = model.card
    runtime = prepare_runtime(model)
    reader = Reader(model, runtime)
    print(f"computed by {reader.computed_by}, input {card.input_shape[0]} x {card.input_shape[1]}")
    for note in reader.notes:
        print(note)
    plain, packed = files(count)
    scans, ready = [opened(content) for content in plain], []
    for scan in scans:
        image, _ = prepare(grey(scan, card.window), find_lungs(scan), card.input_shape, card.crop_margin)
        ready.append(to_tensor(image[None], card))
    differentiable = load(DEFAULT_MODEL).network
    for parameter in differentiable.parameters():
        parameter.requires_grad_(True)  # as in a network that was just loaded by torchvision
    pool = ThreadPoolExecutor(READERS)

    def each(step: Callable[[int], object], take: int | None = None) -> Callable[[Sequence[int]], int]:
        """Slice after slice; the slow ones see only the first of each block."""

        def block(numbers: Sequence[int]) -> int:
            for number in numbers[:take]:
                step(number)
            return len(numbers[:take])

        return block

    def eight_readers(numbers: Sequence[int]) -> int:
        list(pool.map(lambda number: run(model, ready[number], runtime), numbers))
        return len(numbers)

    contenders = {
        "bare": each(lambda number: run(model, ready[number], runtime)),
        "images to both maps, closed form": each(
            lambda number: class_maps(model.linear, run(model, ready[number], runtime)[0])
        ),
        "images to both maps, grad-cam's on the head": each(
            lambda number: explain(model, run(model, ready[number], runtime)[0], whole(model))
        ),
        "answers for eight readers at once": eight_readers,
        "uncompressed files to slices": each(lambda number: opened(plain[number])),
        "JPEG 2000 files to slices": each(lambda number: opened(packed[number])),
        "lungs and marks": each(lambda number: find_marks(scans[number], find_lungs(scans[number]))),
        "uncompressed files to both maps, as the app reads": each(lambda number: reader.read(opened(plain[number]))),
        "JPEG 2000 files to both maps, as the app reads": each(lambda number: reader.read(opened(packed[number]))),
        "torch's bare forward": each(lambda number: run(model, ready[number])),
        "files to both maps, grad-cam's default way": each(
            lambda number: tutorial(differentiable, plain[number], model), take=1
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender(range(1))  # warms up
    for start in range(0, count, BLOCK):
        for name, contender in contenders.items():
            begun = clock()
            done = contender(range(start, min(start + BLOCK, count)))
            times[name].append((clock() - begun) / done)
    pool.shutdown()
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    bare = medians.pop("bare")
    print(f"{count} slices in {len(times['bare'])} rounds; the unit is {bare * 1000:.0f} ms")
    ratios = {name: seconds / bare for name, seconds in medians.items()}
    app, default = "uncompressed files to both maps, as the app reads", "files to both maps, grad-cam's default way"
    ratios["the app over grad-cam's default way"] = medians[app] / medians[default]
    ratios["arithmetic of body, answer and both maps over the plain forward"] = flop_ratio(model, runtime, ready[0])
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.series", description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--processor-time", action="store_true", help="of all threads, instead of the time that passes")
    parser.add_argument("--json", type=Path, help="write {name: ratio}")
    arguments = parser.parse_args()
    load_now = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads, load {load_now:.1f}"
    )
    ratios = measure(arguments.slices, time.process_time if arguments.processor_time else time.perf_counter)
    for name, ratio in ratios.items():
        print(f"{ratio:8.3f}  {name}")
    if arguments.json:
        arguments.json.write_text(json.dumps(ratios, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
