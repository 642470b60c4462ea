"""`make benchmark`: speed as ratios, every pair of contenders measured in turn in one run.

Absolute times differ between machines and with what else runs on them; a ratio of two things done in turn hardly does. The
sample is one that the project draws itself; the model is the shipped one.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender, measured in turn; the first round warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            begun = time.perf_counter()
            contender()
            if number:
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def maps(rounds: int) -> dict[str, float]:
    """Maps of both classes over the bare forward pass, and what the grad-cam package's default usage takes for one class."""
    import numpy as np
    import torch

    from ipfvision.core.geometry import Crop
    from ipfvision.nn import torchvision_door
    from ipfvision.nn.classify import run
    from ipfvision.nn.explain import explain, package_maps
    from ipfvision.nn.network import load, to_tensor
    from ipfvision.workflow.reading import DEFAULT_MODEL

    torchvision_door.load()
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, tutorial = load(DEFAULT_MODEL), load(DEFAULT_MODEL)
    rows, columns = model.card.input_shape
    crop = Crop(0, 0, columns, rows, (rows, columns), (rows, columns))
    image = to_tensor(np.random.default_rng(0).random((1, rows, columns)).astype(np.float32), model.card)
    for parameter in tutorial.network.parameters():
        parameter.requires_grad_(True)  # as in a network that was just loaded by torchvision

    def bare() -> object:
        with torch.inference_mode():
            return model.network(image)

    def ours() -> object:
        features, _ = run(model, image)
        return explain(model, features, crop)

    def package_on_head() -> object:
        features, _ = run(model, image)
        return package_maps(model, features, "gradcam")

    def default(*classes: int) -> object:
        with GradCAM(model=tutorial.network, target_layers=[tutorial.network.layer4]) as cam:
            return [cam(input_tensor=image, targets=[ClassifierOutputTarget(index)]) for index in classes]

    found = interleaved(
        {
            "bare": bare,
            "both classes, ours": ours,
            "both classes, package on the head alone": package_on_head,
            "one class, package default": lambda: default(0),
            "both classes, package default": lambda: default(0, 1),
        },
        rounds,
    )
    bare_seconds = found.pop("bare")
    return {f"maps over bare forward: {name}": seconds / bare_seconds for name, seconds in found.items()}


def file_to_overlay(rounds: int) -> dict[str, float]:
    """From a DICOM file's bytes to an overlay, ours over the usual tutorial path with the same network."""
    import io

    import numpy as np
    import pydicom
    import torch
    from PIL import Image
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    from ipfvision.nn import torchvision_door
    from ipfvision.nn.network import load
    from ipfvision.workflow.intake import Upload, take_in
    from ipfvision.workflow.reading import DEFAULT_MODEL, Reader, picture
    from ipfvision.workflow.samples import list_samples

    torchvision_door.load()
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    content = next(sample.path for sample in list_samples() if sample.path.suffix == ".dcm").read_bytes()
    reader, network = Reader.open(), load(DEFAULT_MODEL).network
    rows, columns = reader.card.input_shape
    network.requires_grad_(True)

    def ours() -> object:
        scan = take_in([Upload("sample", content)]).series[0].slices[0]
        return picture(reader.card, reader.read(scan))

    def tutorial() -> object:
        dataset = pydicom.dcmread(io.BytesIO(content))
        dataset.WindowCenter, dataset.WindowWidth = -600, 1500
        shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        shown = ((shown - shown.min()) / (np.ptp(shown) + 1e-6) * 255).astype(np.uint8)
        small = np.asarray(Image.fromarray(shown).resize((columns, rows))).astype(np.float32) / 255
        tensor = torch.from_numpy((small - 0.5) / 0.25).float().expand(1, 3, -1, -1).contiguous()
        network(tensor).softmax(dim=1)
        with GradCAM(model=network, target_layers=[network.layer4]) as cam:
            both = [cam(input_tensor=tensor, targets=[ClassifierOutputTarget(index)])[0] for index in (0, 1)]
        return [show_cam_on_image(np.repeat(small[:, :, None], 3, axis=2), one, use_rgb=True) for one in both]

    found = interleaved({"ours": ours, "tutorial": tutorial}, rounds)
    return {"file to overlay, both classes: ours over the tutorial path": found["ours"] / found["tutorial"]}


def start(rounds: int) -> dict[str, float]:
    """What importing costs, over an empty Python: the package's own use cases, and torch with everything."""

    def python(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

    found = interleaved(
        {
            "numpy and cv2": python("import numpy, cv2"),
            "reading, without torch": python("import ipfvision.workflow.reading, ipfvision.workflow.intake"),
            "streamlit": python("import streamlit"),
            "model ready": python("from ipfvision.workflow.reading import Reader; Reader.open()"),
        },
        rounds,
    )
    base = found.pop("numpy and cv2")
    return {f"start over importing numpy and cv2: {name}": seconds / base for name, seconds in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write {name: ratio}")
    arguments = parser.parse_args()
    import torch

    print(f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    ratios = {**maps(arguments.rounds), **file_to_overlay(arguments.rounds), **start(max(3, arguments.rounds // 3))}
    for name, ratio in ratios.items():
        print(f"{ratio:8.2f}  {name}")
    if arguments.json:
        arguments.json.write_text(json.dumps(ratios, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
