"""What the page and the viewer say to each other (docs/viewer-wire.md), as bytes and plain JSON: no HTTP, no Streamlit."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import Annotation, BoxAnnotation, Finding, OnSlice
from ipfvision.core.findings import Decision, Explanation, ModelCard
from ipfvision.core.orientation import edges
from ipfvision.core.run_lengths import encode
from ipfvision.core.slice import Scale, Series, Slice
from ipfvision.core.window import LUNG, MEDIASTINUM
from ipfvision.workflow.reading import Reading, full_scale

PATH = "/ipfvision/v1"
"""Where the routes begin, below the server's own base path."""
NOT_MEASURED = -32768
GREY_STEPS = 32767
COLORS = {
    Finding.HONEYCOMBING: "#48dbfb",
    Finding.SUBPLEURAL_CYSTS: "#7dff8a",
    Finding.TRACTION_BRONCHIECTASIS: "#ff7ac6",
    Finding.RETICULATION: "#ffe14d",
    Finding.GROUND_GLASS: "#b9a3ff",
    Finding.OTHER: "#ffffff",
}
"""Of outlines and masks: bright enough to be seen on lung and on soft tissue, and told apart without red against green."""

FINDINGS = [{"id": one.value, "name": one.value.capitalize(), "color": color} for one, color in COLORS.items()]
PRESETS = [
    {"name": name, "center": window.center, "width": window.width}
    for name, window in (("Lung", LUNG), ("Mediastinum", MEDIASTINUM))
]


def pixels(scan: Slice) -> bytes:
    """int16, little endian, row-major: Hounsfield units, or grey in 32767 steps; -32768 where nothing was measured."""
    if scan.scale is Scale.GREY:
        values = np.rint(scan.pixels * GREY_STEPS)
    else:
        values = np.rint(scan.pixels) if scan.pixels.dtype != np.int16 else scan.pixels
    content = np.asarray(np.clip(values, NOT_MEASURED + 1, GREY_STEPS), "<i2")
    content[scan.padding] = NOT_MEASURED
    return bytes(content.data)


def stack(series: Series, identity: str) -> dict[str, Any]:
    """What the viewer must know of a series before its first pixel."""
    return {"id": identity, "slices": [_slice(scan) for scan in series.slices], "first_end": _first_end(series)}


def _slice(scan: Slice) -> dict[str, Any]:
    rows, columns = scan.shape
    return {
        "rows": rows,
        "columns": columns,
        "scale": scan.scale.value,
        "spacing": None if scan.spacing is None else [scan.spacing.row_mm, scan.spacing.column_mm],
        "position_mm": None if scan.plane is None else round(scan.plane.distance_mm(), 3),
        "letters": None if scan.plane is None else asdict(edges(scan.plane)),
        "inverted": scan.inverted,
        "window": None if scan.file_window is None else [scan.file_window.center, scan.file_window.width],
    }


def _first_end(series: Series) -> str | None:
    first, last = series.slices[0].plane, series.slices[-1].plane
    if first is None or last is None or first.position[2] == last.position[2]:
        return None
    return "feet" if first.position[2] < last.position[2] else "head"


def answers(readings: Sequence[Reading | None]) -> dict[str, Any]:
    """What is known along the stack."""
    return {
        "probability": [None if reading is None else reading.prediction.probability for reading in readings],
        "refused": [reading is not None and reading.prediction.decision is Decision.REFUSED for reading in readings],
    }


def maps(card: ModelCard, reading: Reading) -> dict[str, Any]:
    """The answer and the maps of one slice, on the model's own grid."""
    prediction, shown = reading.prediction, reading.explanations
    return {
        "decision": prediction.decision.value,
        "probability": prediction.probability,
        "margin": prediction.margin,
        "unit": next((one.unit for one in shown.values()), "logits"),
        "full_scale": card.map_reference,
        "maps": {target: _map(card, explanation) for target, explanation in shown.items()},
        "lungs": runs(reading.lungs.mask) if reading.lungs.problem is None else None,
    }


def _map(card: ModelCard, explanation: Explanation) -> dict[str, Any]:
    crop, peak_xy = explanation.crop, explanation.peak_xy()
    return {
        "shape": list(explanation.cells.shape),
        "crop": [crop.left, crop.top, crop.width, crop.height],
        # The shortest decimals that give the same float32 again.
        "values": [float(str(value)) for value in explanation.cells.ravel()],
        "peak": explanation.peak,
        "peak_xy": None if peak_xy is None else list(peak_xy),
        "full_scale": full_scale(card, explanation),
    }


def runs(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Run lengths as JSON takes them."""
    found: list[int] = encode(mask).tolist()
    return found


def annotations(those: Iterable[OnSlice]) -> list[dict[str, Any]]:
    """Annotations that came from files, on their slice."""
    return [_annotation(one) for one in those]


def _annotation(one: OnSlice) -> dict[str, Any]:
    said = {name: getattr(one.said, name) for name in ("label", "origin", "matched_by")} | {"finding": one.said.finding.value}
    if isinstance(one, Annotation):
        return {"kind": "mask", **said, "runs": runs(one.mask)}
    if isinstance(one, BoxAnnotation):
        return {"kind": "box", **said, "box": [one.left, one.top, one.right, one.bottom]}
    return {"kind": "point", **said, "x": one.x, "y": one.y}
