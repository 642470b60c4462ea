"""`python -m benchmarks.lungs`: how much of the lung the mask holds, first of all at the pleura, and what it takes from others.

Against the drawn thorax, which knows its lungs, without and with disease at the pleura; against the lobes of an automatic
segmentation; and against the mask of the same real slice before disease was drawn into it. The last two need the real scans.
"""

import argparse
import gzip
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.lungs import Lungs, find_lungs, pleural_distance_mm
from ipfvision.core.slice import PixelSpacing, Scale, Slice, Source
from ipfvision.synthetic.fibrosis import Pattern, Place, Plan, draw_fibrosis
from ipfvision.synthetic.field import LungField
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.intake import take_in_paths
from ipfvision.workflow.training import normal_slices

Mask = npt.NDArray[np.bool_]
Find = Callable[[Slice], Lungs]
RIM_MM = 10.0


@dataclass(frozen=True, slots=True)
class Case:
    """A slice and its true lungs."""

    kind: str
    scan: Slice
    lungs: Mask
    spacing: PixelSpacing


@dataclass(frozen=True, slots=True)
class Score:
    """How well a mask holds the lungs of one slice."""

    dice: float
    rim_recall: float
    """Share of the true lung within 10 mm of its pleura that the mask holds."""
    rim_precision: float
    """Share of the mask within 10 mm of its own boundary that is lung."""
    refused: bool = False
    doubted: bool = False


def score(found: Lungs, case: Case) -> Score:
    if found.problem is not None:
        return Score(0, 0, 0, refused=True)
    true_rim = case.lungs & (pleural_distance_mm(case.lungs, case.spacing) <= RIM_MM)
    found_rim = found.mask & (pleural_distance_mm(found.mask, case.spacing) <= RIM_MM)
    return Score(
        dice=float(2 * (found.mask & case.lungs).sum() / (found.mask.sum() + case.lungs.sum())),
        rim_recall=float((found.mask & true_rim).sum() / true_rim.sum()),
        rim_precision=float((found_rim & case.lungs).sum() / found_rim.sum()),
        doubted=found.doubt is not None,
    )


def as_slice(hu: npt.NDArray[np.float32], spacing: PixelSpacing) -> Slice:
    return Slice(hu, Scale.HOUNSFIELD, Source("drawn", "PNG", ""), hu < -1500, spacing)


def consolidate(
    hu: npt.NDArray[np.float32], lungs: Mask, spacing: PixelSpacing, rng: np.random.Generator, depth_mm: float
) -> npt.NDArray[np.float32]:
    """Airless lung under the costal pleura of part of both lungs: the worst that a threshold can meet.

    It reaches `depth_mm` at its deepest, is as dense as the chest wall, and holds no air at all.
    """
    mm = spacing.column_mm
    depth = pleural_distance_mm(lungs, spacing)
    points = cv2.findNonZero(lungs.astype(np.uint8))
    hull = np.zeros(lungs.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    costal = pleural_distance_mm(hull > 0, spacing) < depth + 12
    rows, columns = np.indices(lungs.shape)
    reach = np.zeros(lungs.shape, np.float32)
    _, labels, _, centers = cv2.connectedComponentsWithStats(lungs.astype(np.uint8))
    for label in range(1, len(centers)):
        x, y = centers[label]
        outwards = 0.0 if x > lungs.shape[1] / 2 else np.pi
        angle = np.arctan2(rows - y, columns - x)
        middle = outwards + rng.uniform(-1.3, 1.3)
        away = np.abs(np.angle(np.exp(1j * (angle - middle))))
        fade = np.clip((rng.uniform(0.6, 1.6) - away) / 0.3, 0, 1)
        reach = np.where(labels == label, fade, reach)
    grain = cv2.GaussianBlur(rng.standard_normal(lungs.shape).astype(np.float32), (0, 0), 6 / mm)
    reach = reach * depth_mm * np.clip(0.8 + 0.25 * grain / grain.std(), 0.2, 1)
    dense = (lungs & costal & (depth < reach)).astype(np.float32)
    cover = cv2.GaussianBlur(dense, (0, 0), 0.6 / mm)
    noise = cv2.GaussianBlur(rng.standard_normal(lungs.shape).astype(np.float32), (0, 0), 0.8)
    solid = rng.uniform(10, 70) + 20 * noise / noise.std()
    return np.asarray(hu + cover * np.maximum(0, solid - hu), np.float32)


SEVERITIES = {"reticulation": Pattern.PROBABLE, "honeycombing": Pattern.HONEYCOMBING, "mixed": Pattern.MIXED}


def diseased(case: Case, rng: np.random.Generator) -> Iterator[Case]:
    """The same slice with fibrosis at the pleura, moderate and severe, and with airless rims of 5 to 20 mm."""
    hu = case.scan.pixels.astype(np.float32)
    for name, pattern in SEVERITIES.items():
        for severity in (0.5, 1.0):
            field = LungField(hu, case.lungs, case.spacing.column_mm, rng)
            place = (Place.POSTERIOR, Place.DIFFUSE)[int(rng.integers(2))]
            draw_fibrosis(field, Plan(pattern, place, severity))
            yield replace(case, kind=f"{name} {severity}", scan=as_slice(field.result(), case.spacing))
    for depth in (5, 10, 15, 20):
        dense = consolidate(hu, case.lungs, case.spacing, rng, depth)
        yield replace(case, kind=f"airless rim {depth} mm", scan=as_slice(dense, case.spacing))


def phantoms(seeds: range) -> Iterator[Case]:
    """Drawn chests from above the carina to the base."""
    for seed in seeds:
        for level in (0.3, 0.45, 0.6, 0.75, 0.9):
            rng = np.random.default_rng([seed, int(100 * level)])
            thorax = draw_thorax(rng, level=level, spacing_mm=float(rng.uniform(0.6, 0.8)))
            case = Case("healthy", as_slice(thorax.pixels.astype(np.float32), thorax.spacing), thorax.lungs, thorax.spacing)
            yield case
            yield from diseased(case, rng)


def real_normals(data: Path, every: int, find: Find, patients: list[str] | None = None) -> Iterator[Case]:
    """Real slices without disease and the same with it drawn in; the truth is the mask of the one without."""
    for index, normal in enumerate(normal_slices(data, patients)[::every]):
        spacing = PixelSpacing(normal.mm_per_pixel, normal.mm_per_pixel)
        scan = as_slice(normal.hu, spacing)
        lungs = find(scan).mask
        if lungs.sum() * normal.mm_per_pixel**2 < 6000:
            continue
        yield from diseased(Case("normal", scan, lungs, spacing), np.random.default_rng(index))


def read_nifti_mask(path: Path) -> Mask:
    """(slices, rows, columns) of a gzipped NIfTI-1 mask of bytes, rows from front to back as DICOM has them."""
    content = gzip.decompress(path.read_bytes())
    columns, rows, slices = np.frombuffer(content, "<i2", 3, 42)
    if int(np.frombuffer(content, "<i2", 1, 70)[0]) != 2:
        raise ValueError(f"{path.name} is no mask of bytes")
    start = int(np.frombuffer(content, "<f4", 1, 108)[0])
    values = np.frombuffer(content, np.uint8, int(columns) * int(rows) * int(slices), start)
    volume = values.reshape(slices, rows, columns) > 0
    to_patient = np.frombuffer(content, "<f4", 8, 280).reshape(2, 4)  # x and y: right to left, back to front
    if to_patient[0, 0] > 0:
        volume = volume[:, :, ::-1]
    if to_patient[1, 1] > 0:
        volume = volume[:, ::-1]
    return volume


def lobes(data: Path) -> Iterator[Case]:
    """Twenty real slices with the lobes of an automatic segmentation. The masks' slice spacing is wrong; their order is not."""
    series = take_in_paths([data / "rtstruct"]).series[0]
    volume = np.logical_or.reduce([read_nifti_mask(path) for path in sorted((data / "rtstruct" / "lobes").glob("*.nii.gz"))])
    for scan, lungs in zip(sorted(series.slices, key=lambda one: one.plane.position[2]), volume, strict=True):
        yield Case("lobes", scan, lungs, scan.spacing)


def table(cases: Iterator[Case], find: Find) -> dict[str, list[Score]]:
    scores: dict[str, list[Score]] = {}
    for case in cases:
        scores.setdefault(case.kind, []).append(score(find(case.scan), case))
    return scores


def show(title: str, scores: dict[str, list[Score]]) -> None:
    print(f"\n{title}")
    print(
        f"{'':22} {'n':>4} {'Dice':>6} {'worst':>6} {'rim recall':>11} {'worst':>6} {'rim precision':>14} {'worst':>6}"
        f" {'refused':>8} {'doubted':>8}"
    )
    for kind, rows in scores.items():
        read = [row for row in rows if not row.refused]
        dice, recall, precision = (
            np.array([getattr(row, name) for row in read]) for name in ("dice", "rim_recall", "rim_precision")
        )
        print(
            f"{kind:22} {len(rows):4} {dice.mean():6.3f} {dice.min():6.3f} {recall.mean():11.3f} {recall.min():6.3f}"
            f" {precision.mean():14.3f} {precision.min():6.3f} {len(rows) - len(read):8} {sum(row.doubted for row in rows):8}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lungs", description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--every", type=int, default=18, help="take every n-th real normal slice")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("IPFVISION_DATA", "../shared/data")))
    arguments = parser.parse_args()
    show("Drawn thorax, against its own lungs", table(phantoms(range(arguments.seeds)), find_lungs))
    if not (arguments.data / "manifest.csv").is_file():
        print("\nNo real scans: set IPFVISION_DATA or --data.")
        return 0
    show("Real slices, against the lobes of an automatic segmentation", table(lobes(arguments.data), find_lungs))
    show(
        "Real normal slices with drawn disease, against the mask before it was drawn",
        table(real_normals(arguments.data, arguments.every, find_lungs), find_lungs),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
