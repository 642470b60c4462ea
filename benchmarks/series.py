"""`python -m benchmarks.series`: a series of drawn slices from files to both maps, as ratios to the network alone.

Each round takes a block of slices through every contender in turn, so that whatever else the machine does falls on all of them;
the figures are medians over rounds of the time for one slice. The unit is one slice through the runtime that the app chose, the
image ready, answer included and no map. Arithmetic is counted as well: convolutions of the runtime's own graph, and what torch
counts of the heads, to the plain network's forward pass. Then come memory, imports and starts, each in a process of its own.

The other packages stand beside ours as their own documents use them, on torch's network, for the maps of both classes; those
that are not installed (requirements-peers.txt) are left out.

Figures to write down need an idle machine and all 300 slices. On a busy one even ratios of times mean little:
`--processor-time` counts what all threads of the process used instead, which waiting for a core hardly changes. It cannot show
what overlapping saves.
"""

import argparse
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
from ipfvision.core.slice import Scale, Slice, Source, hash_pixels
from ipfvision.core.window import LUNG
from ipfvision.dicom.writing import write_ct
from ipfvision.nn import openvino_door, torchvision_door
from ipfvision.nn.classify import run
from ipfvision.nn.explain import class_maps, explain, package_maps
from ipfvision.nn.network import Model, build, load, to_tensor
from ipfvision.nn.runtime import Runtime, on_openvino, on_torch, torch_threads
from ipfvision.nn.runtime import prepare as prepare_runtime
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.intake import Upload, take_in
from ipfvision.workflow.reading import DEFAULT_MODEL, Reader, picture
from ipfvision.workflow.samples import list_samples
from ipfvision.workflow.scoring import scored_entry

ROOT = Path(__file__).parents[1]
BLOCK = 10
READERS = 8
CHESTS = 8
"""Drawn; the other slices are these with noise of their own."""
STARTS = 5
"""Of each program; the figure is their median."""
START_SECONDS = 120
APP = "uncompressed files to both maps, a series as the app reads it"
DEFAULT_WAY = "files to both maps, grad-cam's default way"

Step = Callable[[int], object]


def plain_files(count: int) -> Iterator[bytes]:
    """Drawn slices as uncompressed DICOM, one by one."""
    chests = [draw_thorax(np.random.default_rng(0), level=level) for level in np.linspace(0.3, 0.9, min(count, CHESTS))]
    for number in range(count):
        chest, noise = chests[number % len(chests)], np.random.default_rng([1, number])
        pixels = (chest.pixels + noise.normal(0, 5, chest.pixels.shape)).astype(np.int16)
        source = Source("drawn", "DICOM", hash_pixels(pixels), instance_number=number + 1)
        scan = Slice(pixels, Scale.HOUNSFIELD, source, np.zeros(pixels.shape, np.bool_), chest.spacing, file_window=LUNG)
        yield write_ct(scan, uid_seed=f"series {number}")


def files(count: int) -> tuple[list[bytes], list[bytes]]:
    """The same slices as uncompressed DICOM and as JPEG 2000."""
    plain, packed = list(plain_files(count)), []
    for content in plain:
        dataset = pydicom.dcmread(io.BytesIO(content))
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


def peers(network: torch.nn.Module, ready: Sequence[torch.Tensor], targets: Sequence[int]) -> dict[str, Step]:
    """Maps for both classes from an image that is ready, as each package's documents do it."""
    layer, found = network.get_submodule("layer4"), dict[str, Step]()
    if importlib.util.find_spec("torchcam"):
        from torchcam.methods import CAM

        def torchcam(number: int) -> object:
            with torch.inference_mode(), CAM(network, layer, fc_layer="fc") as cam:
                scores = network(ready[number])
                return [cam(index, scores) for index in targets]

        found[f"images to both maps, torchcam {version('torchcam')} CAM"] = torchcam
    if importlib.util.find_spec("captum"):
        from captum.attr import LayerGradCam

        cam = LayerGradCam(network, layer)
        found[f"images to both maps, captum {version('captum')} LayerGradCam"] = lambda number: [
            cam.attribute(ready[number], target=index, relu_attributions=True) for index in targets
        ]
    if importlib.util.find_spec("monai"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at its import, about packages that it could use
            from monai.visualize import GradCAM

        maps = GradCAM(nn_module=network, target_layers="layer4")
        found[f"images to both maps, MONAI {version('monai')} GradCAM"] = lambda number: [
            maps(x=ready[number], class_idx=index) for index in targets
        ]
    return found


def version(package: str) -> str:
    return importlib.metadata.version(package)


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
    """Ratios of times, and of arithmetic, of everything that happens in one warm process."""
    torchvision_door.load()
    model = load(DEFAULT_MODEL)
    card = model.card
    runtime = prepare_runtime(model)
    reader = Reader(model, runtime)
    print(f"computed by {reader.computed_by}, input {card.input_shape[0]} x {card.input_shape[1]}")
    for note in reader.notes:
        print(note)
    plain, packed = files(count)
    scans = [opened(content) for content in plain]
    prepared = [reader.prepare(scan) for scan in scans]
    ready = [to_tensor(one.image[None], card) for one in prepared if one.image is not None]
    if len(ready) < count:
        raise RuntimeError("no lungs were found on a drawn slice")
    differentiable = load(DEFAULT_MODEL).network
    for parameter in differentiable.parameters():
        parameter.requires_grad_(True)  # as in a network that was just loaded by torchvision
    coarse = replace(model, card=replace(card, dilated_layer4=False), network=build(False, "replicate").eval())
    coarse_runtime = on_openvino(coarse, runtime.threads) if runtime.name.startswith("OpenVINO") else on_torch(coarse)
    pool = ThreadPoolExecutor(READERS)

    def each(step: Step, take: int | None = None) -> Callable[[Sequence[int]], int]:
        """Slice after slice; the slow ones see only the first of each block."""

        def block(numbers: Sequence[int]) -> int:
            for number in numbers[:take]:
                step(number)
            return len(numbers[:take])

        return block

    def passed(number: int, with_runtime: Runtime = runtime) -> torch.Tensor:
        with torch_threads(1):
            return run(model, ready[number], with_runtime)[0]

    def with_maps(maps: Callable[[torch.Tensor], object]) -> Step:
        def step(number: int) -> object:
            with torch_threads(1):
                return maps(run(model, ready[number], runtime)[0])

        return step

    def series(contents: Sequence[bytes]) -> Callable[[Sequence[int]], int]:
        return lambda numbers: sum(1 for _ in reader.read_all(opened(contents[number]) for number in numbers))

    def eight_readers(numbers: Sequence[int]) -> int:
        return sum(1 for _ in pool.map(lambda number: reader.see(prepared[number]), numbers))

    contenders = {
        "bare": each(passed),
        "images to both maps": each(with_maps(lambda features: class_maps(model.linear, features))),
        "images to both maps, grad-cam's on the head": each(
            with_maps(lambda features: package_maps(model, features, "gradcam"))
        ),
        "answers for eight readers at once": eight_readers,
        "uncompressed files to slices": each(lambda number: opened(plain[number])),
        "JPEG 2000 files to slices": each(lambda number: opened(packed[number])),
        "lungs and marks": each(lambda number: find_marks(scans[number], find_lungs(scans[number]))),
        "one uncompressed file to its overlay": each(
            lambda number: picture(card, reader.read(opened(plain[number]), urgent=True))
        ),
        APP: series(plain),
        "the same, nothing made ready beforehand": each(lambda number: reader.read(opened(plain[number]))),
        "JPEG 2000 files to both maps, a series as the app reads it": series(packed),
        "answers without the dilation of layer4": each(lambda number: passed(number, coarse_runtime)),
        "torch's bare forward": each(lambda number: run(model, ready[number])),
        **{name: each(step, take=1) for name, step in peers(differentiable, ready, (0, 1)).items()},
        DEFAULT_WAY: each(lambda number: tutorial(differentiable, plain[number], model), take=1),
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
    ratios["the series over grad-cam's default way"] = medians[APP] / medians[DEFAULT_WAY]
    ratios["arithmetic of body, answer and both maps over the plain forward"] = flop_ratio(model, runtime, ready[0])
    return ratios


def read_in_this_process(count: int) -> None:
    """Read as many slices, decoded one by one, keep what the JSON holds of each, and say how much memory that took at most."""
    reader = Reader.open()
    readings = reader.read_all(opened(content) for content in plain_files(count))
    entries = [scored_entry(reader.card, reading, None) for reading in readings]
    print(json.dumps({"slices": len(entries), "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def memory(few: int, many: int) -> dict[str, float]:
    """Peak memory of a long run over that of a short one."""

    def pipeline(count: int) -> float:
        command = [sys.executable, "-m", "benchmarks.series", "--read", str(count)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return float(json.loads(done.stdout)["kilobytes"])

    def command_line(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            for number, content in enumerate(plain_files(count)):
                Path(folder, f"{number}.dcm").write_bytes(content)
            code = (
                "import resource, sys; from ipfvision.cli import main; main(sys.argv[1:]);"
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            )
            command = [sys.executable, "-c", code, "read", folder, "--json", os.devnull]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            return float(done.stdout.splitlines()[-1])

    found = {}
    for name, peak in (("decoded one by one", pipeline), ("by the command line, which sorts them first", command_line)):
        small, large = peak(few), peak(many)
        print(f"{few} slices {name}: {small / 1024:.0f} MB at most, {many}: {large / 1024:.0f} MB")
        found[f"peak memory of {many} slices over {few}, {name}"] = large / small
    return found


def seconds_of(command: Sequence[str], **environment: str) -> float:
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, **environment})
    return time.perf_counter() - begun


def seconds_to_healthy(script: str) -> float:
    """From the start of a Streamlit script's server to its first healthy answer."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    options = ["--server.headless=true", f"--server.port={port}", "--server.fileWatcherType=none"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", script, *options],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while time.perf_counter() - begun < START_SECONDS:
            try:
                with urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1) as answer:
                    if answer.status == 200:
                        return time.perf_counter() - begun
            except OSError:
                time.sleep(0.01)
        raise RuntimeError(f"{script} did not start")
    finally:
        process.terminate()
        process.wait(timeout=20)


def starts() -> dict[str, float]:
    """Imports and starts; the import and the first answers in seconds, the app's start as a ratio."""
    python = sys.executable
    sample = str(list_samples()[0].path)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "empty.py")
        empty.write_text("import streamlit as st\nst.write('')\n")
        answer = [python, "-m", "ipfvision", "read", sample, "--json", os.devnull]
        seconds_of(answer)  # the check of the runtime is kept from here on
        rounds: dict[str, Callable[[], float]] = {
            "nothing": lambda: seconds_of([python, "-c", "pass"]),
            "import": lambda: seconds_of([python, "-c", "import ipfvision.workflow.reading"]),
            "empty app": lambda: seconds_to_healthy(str(empty)),
            "app": lambda: seconds_to_healthy("streamlit_app.py"),
            "answer": lambda: seconds_of(answer),
        }
        for _ in range(STARTS):
            for name, take in rounds.items():
                times.setdefault(name, []).append(take())
        first_ever = seconds_of(answer, IPFVISION_CACHE=str(Path(folder, "cache")))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    print(f"from nothing to healthy: the app {medians['app']:.2f} s, Streamlit's empty app {medians['empty app']:.2f} s")
    return {
        "import of the package's reading, without torch, in seconds": medians["import"] - medians["nothing"],
        "app from start to healthy over Streamlit's empty app": medians["app"] / medians["empty app"],
        "first answer after a cold start (command line), in seconds": medians["answer"],
        "first answer of a model that never ran here, in seconds": first_ever,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.series", description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--processor-time", action="store_true", help="of all threads, instead of the time that passes")
    parser.add_argument("--memory", type=int, nargs=2, default=(100, 1000), metavar=("FEW", "MANY"), help="0 0 leaves it out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {name: ratio}")
    parser.add_argument("--read", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read_in_this_process(arguments.read)
        return 0
    load_now = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, streamlit {version('streamlit')}, "
        f"grad-cam {version('grad-cam')}, {torch.get_num_threads()} threads, load {load_now:.1f}"
    )
    ratios = starts()
    ratios |= memory(*arguments.memory) if arguments.memory[1] else {}
    ratios |= measure(arguments.slices, time.process_time if arguments.processor_time else time.perf_counter)
    for name, ratio in ratios.items():
        print(f"{ratio:8.3f}  {name}")
    if arguments.json:
        arguments.json.write_text(json.dumps(ratios, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
