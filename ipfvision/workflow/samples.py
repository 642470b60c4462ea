"""The sample scans: slices that the project draws itself, with the disease drawn in them, so that anyone can try it."""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision import dicom, images
from ipfvision.core.annotation import Annotation, Finding, Said
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Slice, Source, hash_pixels
from ipfvision.core.window import LUNG, apply_window
from ipfvision.synthetic.case import READER, disease_mask
from ipfvision.synthetic.fibrosis import Pattern, Place, Plan, draw_fibrosis
from ipfvision.synthetic.field import LungField
from ipfvision.synthetic.thorax import draw_thorax

SAMPLES = Path(__file__).resolve().parents[2] / "sample_scans"
"""Where the repository keeps them."""
MANIFEST = "samples.json"
FINER = 2
"""Slices are drawn at this many times the resolution of their file, and averaged down."""
CHEST_MM = 250.0
"""Height of the lungs from apex to base: what a difference in level means in mm."""
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""The same for every file, so that the same slices give the same archive."""


@dataclass(frozen=True, slots=True)
class SampleScan:
    """One file of the sample scans and what a reader should find in it."""

    path: Path
    """A DICOM slice, a PNG slice, or a .zip with a DICOM series."""
    title: str
    expected: str
    """"ipf" or "normal"; of a series, whether any slice shows fibrosis."""
    slices: tuple[str, ...]
    """The same for every slice of the file, from top to bottom."""
    mask: Path | None
    """PNG of the slice's size, 255 where fibrosis was drawn; None where none was drawn, and for a series."""
    findings: tuple[str, ...]
    """What was drawn, as `ipfvision.core.annotation.Finding` names it."""
    seed: int


@dataclass(frozen=True, slots=True)
class _Recipe:
    file: str
    title: str
    seed: int
    levels: tuple[float, ...]
    """One for each slice, as in `draw_thorax`."""
    plans: tuple[Plan | None, ...]
    """One for each slice; None draws no fibrosis."""
    size: int
    spacing_mm: float
    must_have: frozenset[Finding] = field(default_factory=frozenset)
    """Drawn again with the next seed until these findings are there."""


_DrawnSlice = tuple[Slice, tuple[Annotation, ...]]
_HONEYCOMBING, _MIXED, _PROBABLE = Pattern.HONEYCOMBING, Pattern.MIXED, Pattern.PROBABLE
_DICOM, _PNG, _SERIES = (320, 1.06), (384, 0.88), (240, 1.4)


def _plans(pattern: Pattern, place: Place, *severities: float) -> tuple[Plan | None, ...]:
    return tuple(Plan(pattern, place, severity) if severity > 0 else None for severity in severities)


_NONE: tuple[Plan | None, ...] = (None,)
RECIPES = (
    _Recipe("01_normal.dcm", "Normal, at the level of the heart", 101, (0.62,), _NONE, *_DICOM),
    _Recipe(
        "02_honeycombing.dcm",
        "Honeycombing, at the base and behind",
        102,
        (0.74,),
        _plans(_HONEYCOMBING, Place.POSTERIOR, 0.75),
        *_DICOM,
        frozenset({Finding.HONEYCOMBING}),
    ),
    _Recipe(
        "03_subpleural_cysts.dcm",
        "Subpleural cysts with reticulation",
        103,
        (0.56,),
        _plans(_PROBABLE, Place.DIFFUSE, 0.6),
        *_DICOM,
        frozenset({Finding.SUBPLEURAL_CYSTS}),
    ),
    _Recipe("04_normal_upper.png", "Normal, at the level of the aortic arch", 104, (0.29,), _NONE, *_PNG),
    _Recipe("05_normal_base.png", "Normal, above the diaphragm", 105, (0.8,), _NONE, *_PNG),
    _Recipe(
        "06_honeycombing_diffuse.png",
        "Honeycombing all around",
        106,
        (0.68,),
        _plans(_HONEYCOMBING, Place.DIFFUSE, 0.8),
        *_PNG,
        frozenset({Finding.HONEYCOMBING}),
    ),
    _Recipe(
        "07_traction_bronchiectasis.png",
        "Honeycombing, subpleural cysts, traction bronchiectasis",
        107,
        (0.7,),
        _plans(_MIXED, Place.POSTERIOR, 0.9),
        *_PNG,
        frozenset({Finding.HONEYCOMBING, Finding.SUBPLEURAL_CYSTS, Finding.TRACTION_BRONCHIECTASIS}),
    ),
    _Recipe(
        "08_honeycombing_anterior.png",
        "Honeycombing in front, in the upper lungs",
        108,
        (0.4,),
        _plans(_HONEYCOMBING, Place.ANTERIOR, 0.7),
        *_PNG,
        frozenset({Finding.HONEYCOMBING}),
    ),
    _Recipe(
        "09_series.zip",
        "Series of five slices, with fibrosis that grows towards the base",
        109,
        (0.5, 0.58, 0.66, 0.74, 0.82),
        _plans(_HONEYCOMBING, Place.POSTERIOR, 0, 0, 0.45, 0.7, 1.0),
        *_SERIES,
    ),
)


def make_samples(folder: Path) -> None:
    """Draw the sample scans again: slices, masks, manifest, README. The same bytes each time with the same libraries.

    Parameters
    ----------
    folder
        Made if it is not there. Files of the same name are replaced, others stay.
    """
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    rows = []
    for recipe in RECIPES:
        drawn = _draw(recipe)
        expected = tuple("ipf" if annotations else "normal" for _, annotations in drawn)
        mask_name = None
        if len(drawn) == 1:
            scan, annotations = drawn[0]
            content = (
                dicom.write_ct(scan, uid_seed=recipe.file)
                if recipe.file.endswith(".dcm")
                else images.write_png(np.round(apply_window(scan.pixels, LUNG) * 255).astype(np.uint8))
            )
            if annotations:
                mask_name = f"masks/{Path(recipe.file).stem}.png"
                mask = disease_mask(annotations, scan.shape).astype(np.uint8) * np.uint8(255)
                (folder / mask_name).write_bytes(images.write_png(mask))
        else:
            content = _zipped([dicom.write_ct(scan, uid_seed=recipe.file) for scan, _ in drawn])
        (folder / recipe.file).write_bytes(content)
        names = {annotation.said.finding.value for _, annotations in drawn for annotation in annotations}
        rows.append(
            {
                "file": recipe.file,
                "title": recipe.title,
                "expected": "ipf" if "ipf" in expected else "normal",
                "slices": list(expected),
                "findings": sorted(names),
                "mask": mask_name,
                "seed": recipe.seed,
            }
        )
    (folder / MANIFEST).write_text(json.dumps({"samples": rows}, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(rows), encoding="utf-8")


def list_samples(folder: Path = SAMPLES) -> tuple[SampleScan, ...]:
    """The sample scans of a folder in the order of its manifest; none if there is no manifest."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return ()
    rows: list[dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))["samples"]
    return tuple(
        SampleScan(
            path=folder / row["file"],
            title=row["title"],
            expected=row["expected"],
            slices=tuple(row["slices"]),
            mask=None if row["mask"] is None else folder / row["mask"],
            findings=tuple(row["findings"]),
            seed=int(row["seed"]),
        )
        for row in rows
    )


def sample_annotations(sample: SampleScan) -> tuple[Annotation, ...]:
    """The drawn disease of a sample as one annotation on its slice; none where nothing was drawn, or for a series."""
    if sample.mask is None:
        return ()
    mask = images.read(sample.mask.read_bytes(), sample.mask.name).pixels > 0.5
    only = [finding for finding in Finding if (finding.value,) == sample.findings]
    # The one mask of a sample holds all that was drawn but the ground glass.
    label = ", ".join(name for name in sample.findings if name != Finding.GROUND_GLASS.value)
    return (Annotation(mask, Said(only[0] if only else Finding.OTHER, READER, label, "drawn by this program")),)


def _draw(recipe: _Recipe) -> list[_DrawnSlice]:
    """Slices and annotations of one recipe, from top to bottom."""
    for attempt in range(20):
        drawn: list[_DrawnSlice] = []
        for number, (level, plan) in enumerate(zip(recipe.levels, recipe.plans, strict=True), start=1):
            pixels, masks = _draw_fine(recipe, level, plan, attempt)
            annotations = tuple(Annotation(_coarse(mask) >= 0.5, Said(finding, READER)) for finding, mask in masks.items())
            hu = np.clip(np.round(_coarse(pixels)), -1024, 3071).astype(np.int16)
            drawn.append((_slice(hu, recipe, number, level), annotations))
        if recipe.must_have <= {annotation.said.finding for _, annotations in drawn for annotation in annotations}:
            return drawn
    raise ValueError(f"the plan of {recipe.file} never draws {', '.join(f.value for f in recipe.must_have)}")


def _draw_fine(
    recipe: _Recipe, level: float, plan: Plan | None, attempt: int
) -> tuple[npt.NDArray[np.float32], dict[Finding, npt.NDArray[np.bool_]]]:
    """A slice at `FINER` times the resolution of the file, and the masks of what was drawn: walls are thinner than a pixel."""
    spacing = recipe.spacing_mm / FINER
    rng = np.random.default_rng(recipe.seed)
    thorax = draw_thorax(rng, level=level, size=recipe.size * FINER, spacing_mm=spacing)
    pixels = thorax.pixels.astype(np.float32)
    if plan is None:
        return pixels, {}
    canvas = LungField(pixels, thorax.lungs, spacing, np.random.default_rng([recipe.seed, attempt]))
    masks = draw_fibrosis(canvas, plan)
    return canvas.result(), {finding: canvas.whole(mask) for finding, mask in masks.items()}


def _coarse(image: npt.NDArray[np.float32] | npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Mean over `FINER` x `FINER` pixels."""
    size = (image.shape[1] // FINER, image.shape[0] // FINER)
    return np.asarray(cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32)


def _slice(pixels: npt.NDArray[np.int16], recipe: _Recipe, number: int, level: float) -> Slice:
    corner = -(recipe.size - 1) / 2 * recipe.spacing_mm
    # PS3.3 C.7.6.2.1.1: z grows towards the head, and level towards the base.
    plane = Plane((corner, corner, round(-CHEST_MM * level, 3)), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    return Slice(
        pixels=pixels,
        scale=Scale.HOUNSFIELD,
        source=Source(
            file=recipe.file,
            format="DICOM",
            pixel_sha256=hash_pixels(pixels),
            instance_number=number,
            manufacturer="ipfvision (drawn)",
        ),
        padding=np.zeros(pixels.shape, np.bool_),
        spacing=PixelSpacing(recipe.spacing_mm, recipe.spacing_mm),
        plane=plane,
        thickness_mm=1.5,
        file_window=LUNG,
    )


def _zipped(files: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, content in enumerate(files, start=1):
            entry = zipfile.ZipInfo(f"series/{number:02d}.dcm", ZIP_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            archive.writestr(entry, content, compresslevel=9)
    return buffer.getvalue()


def _readme(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Sample scans",
        "",
        "Axial chest CT slices to try the product on. **No patient is in them**: body, lungs, vessels, noise and disease were",
        "drawn by this project (`ipfvision.synthetic`), from the seeds in `samples.json`. They are under the project's own",
        "licence. Make them again with:",
        "",
        "```",
        "python -m ipfvision samples",
        "```",
        "",
        "They are schematic: good for learning the page and for tests, of no value for judging how well the model reads",
        "patients. `masks/` holds, for each slice with fibrosis, where it was drawn: white is honeycombing, subpleural cysts,",
        "traction bronchiectasis or dense reticulation; ground glass alone is not counted.",
        "",
        "| file | what it shows | findings drawn | expected answer |",
        "|---|---|---|---|",
    ]
    for row in rows:
        answers = row["slices"]
        expected = row["expected"] if len(set(answers)) == 1 else ", ".join(answers) + " (top to bottom)"
        lines.append(f"| `{row['file']}` | {row['title']} | {', '.join(row['findings']) or 'none'} | {expected} |")
    return "\n".join(lines) + "\n"
