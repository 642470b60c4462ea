"""`python -m benchmarks.gate MODEL DATA`: which pictures the refusal gate refuses.

The foreign pictures are made from the training slices of DATA, from the synthetic thorax and from what scikit-learn and
scikit-image bring along. The gate is the model's own, or fitted to the pools of `--run`. Real validation pictures are only
reported.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision import dicom, images
from ipfvision.core.slice import Scale, Slice, Source
from ipfvision.core.window import LUNG, Window, apply_window
from ipfvision.errors import InputRefused
from ipfvision.nn.gate import Gate
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.gating import fit_gate
from ipfvision.workflow.reading import Reader
from ipfvision.workflow.training import ManifestRow, read_manifest

Image = npt.NDArray[np.float32]


def picture(values: npt.NDArray[np.floating]) -> Slice:
    """Grey values as a picture of a file would come: no Hounsfield units, no spacing."""
    pixels = np.ascontiguousarray(np.clip(values, 0, 1), np.float32)
    return Slice(pixels, Scale.GREY, Source("made", "PNG", ""), np.zeros(pixels.shape, np.bool_))


def stack(data: Path, rows: Sequence[ManifestRow]) -> Image:
    """(slices, H, W) Hounsfield units of one training patient, as the files' names order them."""
    found = []
    for row in sorted(rows, key=lambda row: row.file):
        content = (data / row.file).read_bytes()
        if row.scale == "hu_window":
            hu = images.read(content, row.file).pixels * LUNG.width + (LUNG.center - LUNG.width / 2)
        else:
            scan = dicom.read(content, row.file)[0]
            hu = np.where(scan.padding, -1024, scan.pixels)
        found.append(cv2.resize(hu.astype(np.float32), (512, 512), interpolation=cv2.INTER_AREA))
    return np.stack(found)


def training_stacks(data: Path) -> dict[str, Image]:
    """One stack per training patient, and two drawn ones."""
    patients: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in read_manifest(data):
        if row.use == "train":
            patients[row.patient].append(row)
    stacks = {patient: stack(data, rows) for patient, rows in sorted(patients.items())}
    for seed in (1, 2):
        levels = np.linspace(0.15, 0.97, 40)
        drawn = [draw_thorax(np.random.default_rng(seed), level=float(level)).pixels for level in levels]
        stacks[f"phantom {seed}"] = np.stack(drawn).astype(np.float32)
    return stacks


def _reslice(hu: Image, position: float, axis: int) -> Image:
    plane = np.take(hu, int(position * hu.shape[axis]), axis=axis)
    return np.asarray(cv2.resize(plane, (512, 440), interpolation=cv2.INTER_LINEAR), np.float32)


def _axial(stacks: dict[str, Image], rng: np.random.Generator) -> Image:
    hu = stacks[sorted(stacks)[rng.integers(len(stacks))]]
    return np.asarray(hu[int(rng.uniform(0.25, 0.8) * len(hu))], np.float32)


def _lung(hu: npt.NDArray[np.floating]) -> Image:
    return np.asarray(apply_window(hu, LUNG), np.float32)


def _cut(image: Image, rng: np.random.Generator, share: float) -> Image:
    height, width = (int(share * side) for side in image.shape)
    y, x = (int(rng.uniform(0.15, 0.85 - share) * side) for side in image.shape)
    return image[y : y + height, x : x + width]


def _cloud(rng: np.random.Generator) -> Image:
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))
    spectrum = np.fft.fft2(rng.standard_normal((512, 512))) / (frequency + 1 / 512) ** rng.uniform(0.8, 1.6)
    cloud = np.real(np.fft.ifft2(spectrum))
    return np.asarray((cloud - cloud.min()) / np.ptp(cloud), np.float32)


def _text(rng: np.random.Generator) -> Image:
    page = np.full((700, 540), 255, np.uint8)
    for line in range(24):
        words = " ".join("".join(rng.choice(list("abcdefghijklmnop"), rng.integers(2, 9))) for _ in range(7))
        cv2.putText(page, words, (20, 30 + 28 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.55, 0, 1, cv2.LINE_AA)
    black_on_white = (page / 255).astype(np.float32)
    return black_on_white if rng.random() < 0.5 else 1 - black_on_white


def _head(rng: np.random.Generator) -> Image:
    image = np.zeros((512, 512), np.float32)
    center = (256 + int(rng.integers(-20, 20)), 256)
    axes = (int(rng.uniform(150, 180)), int(rng.uniform(190, 220)))
    cv2.ellipse(image, center, axes, 0, 0, 360, 1.0, -1)
    cv2.ellipse(image, center, (axes[0] - 14, axes[1] - 14), 0, 0, 360, 0.5, -1)
    for side in (-30, 30):
        cv2.ellipse(image, (center[0] + side, 240), (14, 50), side / 3, 0, 360, 0.1, -1)
    image += rng.normal(0, 0.03, image.shape).astype(np.float32) * (image > 0)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 2), np.float32)


def _photographs() -> list[Image]:
    from skimage import data as skimage_data
    from sklearn.datasets import load_sample_images

    found = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in load_sample_images().images]
    found += [skimage_data.camera(), skimage_data.coins(), skimage_data.moon(), skimage_data.page(), skimage_data.brick()]
    return [np.asarray(image / 255, np.float32) for image in found]


def _sheet(stacks: dict[str, Image], rng: np.random.Generator) -> Image:
    four = [cv2.resize(_lung(_axial(stacks, rng)), (256, 256), interpolation=cv2.INTER_AREA) for _ in range(4)]
    return np.asarray(np.block([[four[0], four[1]], [four[2], four[3]]]), np.float32)


def _radiograph(hu: Image, axis: int) -> Image:
    depth = np.clip(hu + 1000, 0, None).sum(axis=axis)
    shown = cv2.resize(depth.astype(np.float32), (512, 440), interpolation=cv2.INTER_LINEAR)
    return np.asarray(shown / np.quantile(shown, 0.995), np.float32)


def foreign(data: Path, each: int, seed: int = 0) -> Iterator[tuple[str, Slice]]:
    """Pictures that the model cannot judge, `each` of a kind, with the kind's name; none comes from a validation picture."""
    stacks = training_stacks(data)
    names = sorted(stacks)
    patients = [name for name in names if not name.startswith("phantom")]
    photographs = _photographs()

    def recipes(rng: np.random.Generator, index: int) -> dict[str, Callable[[], Image]]:
        hu = stacks[names[index % len(names)]]
        real = stacks[patients[index % len(patients)]]
        place = float(rng.uniform(0.32, 0.68))
        return {
            "coronal": lambda: _lung(_reslice(hu, place, 1)),
            "sagittal": lambda: _lung(_reslice(hu, 0.25 + 0.12 * place if index % 2 else 0.75 - 0.12 * place, 2)),
            "radiograph, from front or side": lambda: _radiograph(hu, 1 + index % 2),
            "above or below the lungs": lambda: _lung(real[-1 - index // 5] if index % 2 else real[index // 5]),
            "inverted": lambda: 1 - _lung(_axial(stacks, rng)),
            "mediastinal window": lambda: apply_window(_axial(stacks, rng), Window(40, 400)),
            "bone window": lambda: apply_window(_axial(stacks, rng), Window(300, 1800)),
            "gamma 0.35 or 3": lambda: _lung(_axial(stacks, rng)) ** (0.35 if index % 2 else 3.0),
            "a third of the slice": lambda: _cut(_lung(_axial(stacks, rng)), rng, 0.33),
            "half of the slice, one lung": lambda: np.hsplit(_lung(_axial(stacks, rng)), 2)[index % 2],
            "turned by 90 degrees": lambda: np.rot90(_lung(_axial(stacks, rng)), 1 + 2 * (index % 2)),
            "squeezed to half its width": lambda: cv2.resize(_lung(_axial(stacks, rng)), (256, 512)),
            "four slices on one sheet": lambda: _sheet(stacks, rng),
            "48 pixels wide": lambda: cv2.resize(_lung(_axial(stacks, rng)), (48, 48), interpolation=cv2.INTER_AREA),
            "heavy noise": lambda: _lung(_axial(stacks, rng)) + rng.normal(0, 0.3, (512, 512)).astype(np.float32),
            "two grey values": lambda: (_lung(_axial(stacks, rng)) > 0.5).astype(np.float32),
            "head": lambda: _head(rng),
            "photograph": lambda: _cut(photographs[index % len(photographs)], rng, 0.68),
            "clouds or noise": lambda: _cloud(rng) if index % 2 else rng.random((512, 512)).astype(np.float32),
            "page of text": lambda: _text(rng),
        }

    for index in range(each):
        rng = np.random.default_rng((seed, index))
        for kind, make in recipes(rng, index).items():
            yield kind, picture(make())


def _line(name: str, distances: Sequence[float], geometry: int, gate: Gate) -> str:
    found = np.array(distances)
    refused = int((found > gate.refuse_above).sum())
    noted = int((found > gate.note_above).sum()) - refused
    spread = f"{found.min():.2f} {np.median(found):.2f} {found.max():.2f}" if len(found) else "-"
    return f"{name:32} {len(found) + geometry:4} {geometry:9} {refused:7} {noted:6}   {spread}"


def main() -> None:
    """Print the tables of a checkpoint's own gate, or of one that is fitted to a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--run", type=Path, help="fit the gate to this run's drawn examples instead of taking the model's own")
    parser.add_argument("--each", type=int, default=12, help="foreign pictures of each kind")
    parser.add_argument("--most", type=int, default=480, help="drawn examples to fit a gate to")
    parser.add_argument("--every", type=int, default=4, help="of the validation pictures, every so many")
    chosen = parser.parse_args()
    loaded = Reader.open(chosen.model)
    gate = loaded.model.gate if chosen.run is None else fit_gate(chosen.run, loaded.model, chosen.most)
    if gate is None:
        parser.error("this model has no gate; --run fits one to the run that the model comes from")
    reader = Reader(replace(loaded.model, gate=gate))
    print(f"noted above {gate.note_above:.3f}, refused above {gate.refuse_above:.3f}")
    print(f"{'pictures':32} {'all':>4} {'no lungs':>9} {'refused':>7} {'noted':>6}   distance: least, median, most")

    def table(pictures: Iterator[tuple[str, Slice]]) -> None:
        distances: dict[str, list[float]] = defaultdict(list)
        geometry: dict[str, int] = defaultdict(int)
        for kind, scan in pictures:
            distance = reader.see(scan).gate_distance
            if distance is None:
                geometry[kind] += 1
            else:
                distances[kind].append(distance)
        for kind in dict.fromkeys([*distances, *geometry]):
            print(_line(kind, distances[kind], geometry[kind], gate))

    table(foreign(chosen.data, chosen.each))
    table(validation(chosen.data, chosen.every))


def validation(data: Path, every: int) -> Iterator[tuple[str, Slice]]:
    """Every so many real validation pictures of each label, with the label; files that are refused as files are left out."""
    seen: dict[str, int] = defaultdict(int)
    for row in read_manifest(data):
        if row.use != "validation" or ".zip/" in row.file:
            continue
        seen[row.label] += 1
        if seen[row.label] % every:
            continue
        content = (data / row.file).read_bytes()
        try:
            yield row.label, dicom.read(content, row.file)[0] if row.scale == "hounsfield" else images.read(content, row.file)
        except InputRefused:
            continue


if __name__ == "__main__":
    main()
