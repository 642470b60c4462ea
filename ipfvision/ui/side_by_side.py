"""Pictures of one slice, side by side: what each reader drew, what they drew together, and the map. No Streamlit."""

from collections.abc import Iterable, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import Finding
from ipfvision.core.findings import Explanation, ModelCard
from ipfvision.core.overlay import display_grey, outline, overlay
from ipfvision.core.review import Drawn
from ipfvision.core.slice import Slice
from ipfvision.core.window import LUNG
from ipfvision.ui.viewer.wire import COLORS
from ipfvision.workflow.reading import full_scale

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
LEAST_ROWS = 512
"""A line of one pixel on a small slice would be as thick as what it surrounds."""
LINE_PIXELS = 3
CONSENSUS_COLOR = (255, 255, 255)


def ground(scan: Slice | None, shape: tuple[int, int]) -> Pixels:
    """(H, W) grey in the lung window; black where the scan is not at hand."""
    return np.zeros(shape, np.uint8) if scan is None else display_grey(scan, LUNG)


def drawn_picture(grey: Pixels, drawings: Iterable[Drawn]) -> Pixels:
    """(H, W, 3), enlarged: outlines of a reader's findings on this slice, in the findings' colors."""
    picture = _enlarge(np.repeat(grey[:, :, None], 3, axis=2))
    for one in drawings:
        picture = _outline(picture, one.mask(), _rgb(one.finding))
    return picture


def mask_picture(grey: Pixels, mask: Mask) -> Pixels:
    """(H, W, 3), enlarged: one outline in white."""
    picture = _enlarge(np.repeat(grey[:, :, None], 3, axis=2))
    return _outline(picture, mask, CONSENSUS_COLOR)


def map_picture(grey: Pixels, card: ModelCard | None, explanation: Explanation) -> Pixels:
    """(H, W, 3), enlarged: the map over the slice, at the scale of the card if there is one."""
    scale = full_scale(card, explanation) if card is not None else max(explanation.peak, 1e-6)
    return _enlarge(overlay(grey, explanation.heatmap(), scale))


def findings_of(drawings: Iterable[Drawn]) -> Mapping[Finding, str]:
    """Findings that are marked, with their colors."""
    return {one.finding: COLORS[one.finding] for one in drawings if len(one.runs) > 1}


def _outline(picture: Pixels, mask: Mask, color: tuple[int, int, int]) -> Pixels:
    """Thick enough to be seen in a picture that is shown smaller than it is."""
    left = _enlarge(mask)
    cross = np.asarray(cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.uint8)
    for _ in range(LINE_PIXELS):
        picture = outline(picture, left > 0, color)
        left = np.asarray(cv2.erode(left, cross, borderType=cv2.BORDER_CONSTANT, borderValue=0), np.uint8)
    return picture


def _enlarge(image: npt.NDArray[np.generic]) -> Pixels:
    times = max(1, -(-LEAST_ROWS // image.shape[0]))
    return np.asarray(image.repeat(times, axis=0).repeat(times, axis=1), np.uint8)


def _rgb(finding: Finding) -> tuple[int, int, int]:
    color = COLORS[finding].lstrip("#")
    return int(color[0:2], 16), int(color[2:4], 16), int(color[4:6], 16)
