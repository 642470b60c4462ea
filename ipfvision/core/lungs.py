"""Lung mask with a failure verdict: the crop that the model sees, the gate in front of it, and where the pleura is."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.slice import PixelSpacing, Scale, Slice, grey
from ipfvision.core.window import LUNG, apply_window

WORKING_SIZE = 512
"""Longest side, in pixels, at which the mask is found; larger slices are averaged down first."""
AIR_BELOW = float(apply_window(np.array([-400.0]), LUNG)[0])
"""Grey value in the lung window that separates air and lung from soft tissue: -400 HU."""
TEXTURE_STEP = 120 / LUNG.width
"""What stands out from a piece's median by more than this (120 HU in the lung window) is a vessel or a wall."""
LEAST_TEXTURE = 0.02
"""Share of a dark piece that stands out so, which makes it lung and not gas in trachea, stomach or bowel."""
GAS_BELOW = float(apply_window(np.array([-975.0]), LUNG)[0])
"""A piece with a median below this (-975 HU) is gas, if the largest piece is clearly brighter: emphysema's median lies above
it, and in an image of another window the largest piece is as dark."""
CLEARLY_BRIGHTER = 60 / LUNG.width
LEAST_LUNG = 0.015
"""Smallest share of the body's area that is taken for a slice through the lungs."""
LEAST_COMPONENT = 0.004
"""Smallest share of the body's area that a piece of lung has."""
LARGEST_BESIDE = 0.3
"""Largest area beside the body as a share of the body's: an arm has up to 0.11 on real slices, a second slice from 0.47 on."""
LEAST_WIDE = 0.96
"""Least width over height of an upright chest, of body or lungs: real slices have at least 1.00 of body where the field of view
cuts it off (there 1.3 of lungs), those turned on their side at most 0.95 and 0.89."""
LEAST_CONTRAST = 0.2
"""Smallest difference between the medians of soft tissue and lung, as a share of the grey range."""
CLOSING = 0.035
"""Radius of the closing, as a share of the body's width (about 12 mm): takes dense subpleural rims and walls back in."""
CUT_OFF_MM = 8.0
"""A small piece of air this near to a lung belongs to it."""
AERATED_BELOW = 0.78
"""Grey value in the lung window below which tissue holds air: -180 HU; fat is denser."""
AERATED_MM, LEAST_AERATED_MM2 = 4.0, 60.0
"""Thickness and area that such tissue has, unlike the blurred edge of a lung."""
BODY_MM = 343.0
"""Width of the body that stands for the scale: the mask must not depend on whether a file states its spacing."""
RAYS = 96
"""Directions from a lung's middle in which its chest wall is looked for."""
BONE_ABOVE = 0.97
"""Grey value of bone in the lung window: above 105 HU. Ribs bound what may be taken back in."""
FAT = (0.79, 0.88)
"""Grey values of fat in the lung window, -165 to -30 HU: between air and rib it is fat outside the pleura, not lung."""
PLEURA_TO_RIB_MM = 3.0
"""From a healthy lung's surface to the rib behind it: 2 mm in the median on real normal slices, 3.3 mm on drawn ones."""
RIB_REACH_MM = 28.0
"""A rib farther than this from all air of the lung says nothing about where the pleura is."""
THICKEST_RIM_MM = 35.0
"""Airless tissue thicker than this between air and chest wall is not taken for lung."""
THINNEST_RIM_MM = 4.0
"""Nor is what is thinner: it is the closing's business, and extrapleural tissue is as thin."""
STIFFNESS = 60.0
"""Weight of the wall's curvature, with one ray in `RAYS` as the unit of length."""
INWARD = 3e-4
"""Weight of a ray whose air ends short of the wall: next to nothing, so that the wall runs over dense rims."""
RIB_WEIGHT = 0.3
RIB_RAYS, GAP_RAYS = 3, 6
"""Rays on either side among which a rib's inner surface is the nearest bone; and as many as a gap between ribs may have."""
FAT_LAYER_MM = 2.0
"""A layer of fat is at least this thick: what is thinner may be the blurred edge of air."""
FAT_AT_RIB_MM = 6.0
"""Fat this near to a rib lies between it and the pleura; fat farther inwards means that the rib is not the lung's own."""
LEAST_LUNG_WITH_RIM = 0.03
"""Share of the body's area from which a lung is given a dense rim: at the apex muscle, in the recess liver, is too near."""
LEAST_SOFT_TISSUE = 0.82
"""Least grey value of the body's soft tissue that fits the lung window: in another one, bone and fat have other values."""
LEAST_SIDE = 0.2
"""Smallest area of one lung as a share of the other's."""
LEAST_MEASURED = 0.03
"""Smallest share of the body's area that is worth measuring on: in less, all lung is near the pleura."""
MOST_AIRLESS = 0.2
"""Largest share of one lung that may be without air before its outline is a guess; real normal slices reach 0.15."""
BLACK = 0.1
"""Darker than any air in the lung window."""
FITS = 10
"""Rounds of the asymmetric fit; it has settled by then."""
COSTAL_BEHIND, COSTAL_IN_FRONT = 0.28, 0.6
"""How far from the middle a surface is costal, as a share of the lung's own reach: beyond spine and aorta; beyond the heart."""
MIDDLE_REACH = 0.15
"""How far from the middle, as a share of the lungs' width on either side, the line between the two lungs may run."""
ASIDE = 0.01
"""What a step aside costs that line, in pixels of lung."""


@dataclass(frozen=True, slots=True, eq=False)
class Lungs:
    """The lungs on one slice, or why they were not found."""

    mask: npt.NDArray[np.bool_]
    """(H, W), read-only; all False when `problem` is not None. Dense rims are in it: this is what is measured on."""
    problem: str | None = None
    """One sentence: why this is not taken for a slice through the lungs."""
    doubt: str | None = None
    """One sentence: why numbers that rest on this mask are not given, although the model may read the slice; else None."""
    middle: float | None = None
    """Column of the body's middle, in pixels: where one lung is too dense to be found, the other one tells its extent."""
    frame: tuple[int, int, int, int] | None = None
    """(left, top, width, height) of the air that was found, in pixels: the model's crop rests on it, so that no guess about a
    dense rim moves what the model sees. None if the mask itself is the frame."""

    def __post_init__(self) -> None:
        view = self.mask.view()
        view.flags.writeable = False
        object.__setattr__(self, "mask", view)

    def bounds(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) in pixels of what the model's crop rests on; raises ValueError if the mask is empty."""
        if not self.mask.any():
            raise ValueError("an empty lung mask has no bounds")
        return self.frame or _bounding_box(self.mask)


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return left, top, width, height


def _disk(radius: float) -> npt.NDArray[np.uint8]:
    size = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def _opened(mask: npt.NDArray[np.uint8], radius: float) -> npt.NDArray[np.uint8]:
    """Opening with a disk, of the part of the image that has anything set."""
    disk = _disk(radius)
    left, top, width, height = cv2.boundingRect(mask)
    if width == 0:
        return mask
    margin = len(disk) // 2
    box = slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin)
    opened = np.zeros_like(mask)
    opened[box] = cv2.morphologyEx(mask[box], cv2.MORPH_OPEN, disk)
    return opened


def _components(mask: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """4-connected labels and their statistics (left, top, width, height, area); label 0 is the background, without an area."""
    left, top, width, height = cv2.boundingRect(mask)
    labels = np.zeros(mask.shape, np.int32)
    if width == 0:
        return labels, np.zeros((1, 5), np.int32)
    box = slice(top, top + height), slice(left, left + width)
    _, labels[box], statistics, _ = cv2.connectedComponentsWithStats(mask[box], connectivity=4)
    statistics += np.array([left, top, 0, 0, 0], np.int32)
    statistics[0] = 0
    return labels, np.asarray(statistics, np.int32)


def _fill_holes(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    return filled


def _body(tissue: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], float]:
    """Largest piece of tissue with its holes filled, and the area of the next one as a share of its own.

    Opened first, so that it lets go of the table and of clothes.
    """
    opened = _opened(tissue, max(tissue.shape) / 170)
    labels, statistics = _components(opened)
    order = 1 + np.argsort(-statistics[1:, cv2.CC_STAT_AREA])[:2]
    filled = [_fill_holes((labels == label).astype(np.uint8)) for label in order]
    if not filled:
        return np.zeros_like(tissue), 0.0
    return filled[0], 0.0 if len(filled) < 2 else float(filled[1].sum() / filled[0].sum())


def find_lungs(scan: Slice) -> Lungs:
    """Find the lungs on an axial slice.

    Air inside the body's outline, in pieces that have the texture of lung, closed by about 12 mm so that honeycombing and
    dense subpleural disease stay in. An image without Hounsfield units is taken to be in a lung window; if its lungs are
    plain black, it was not, and the verdict says so.

    Returns
    -------
    The mask on the slice's own grid, or an empty mask with the problem in a sentence. Never raises on a valid slice.
    """
    nothing = np.zeros(scan.shape, np.bool_)
    image = grey(scan, LUNG)
    shrink = min(1.0, WORKING_SIZE / max(scan.shape))
    if shrink < 1:
        small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, np.float32)
    if min(image.shape) < 32:
        return Lungs(nothing, f"The image is only {scan.shape[1]} x {scan.shape[0]} pixels: too small for a CT slice.")

    smooth = cv2.GaussianBlur(image, (0, 0), max(image.shape) / 700)
    tissue = (smooth >= AIR_BELOW).astype(np.uint8)
    body, another = _body(tissue)
    body_area = int(body.sum())
    if body_area < 0.05 * body.size:
        return Lungs(
            nothing,
            "No body was found in the image: an axial chest CT slice in a lung window (center -600, width 1500) is expected.",
        )
    air = ((tissue == 0) & (body == 1)).astype(np.uint8)

    left, _, body_width, _ = cv2.boundingRect(body)
    labels, statistics = _components(air)
    mask = np.zeros_like(air)
    kept = np.zeros_like(air)
    rim = _disk(max(image.shape) / 150)  # the wall's blur is not texture
    black = found = 0
    brightest_gas = 0.0
    if len(statistics) > 1:
        largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
        if float(np.median(image[labels == largest])) > GAS_BELOW + CLEARLY_BRIGHTER:
            brightest_gas = GAS_BELOW
    for label in range(1, len(statistics)):
        x, y, width, height, area = (int(value) for value in statistics[label])
        if area < LEAST_COMPONENT * body_area:
            continue
        box = slice(y, y + height), slice(x, x + width)
        piece = labels[box] == label
        values = image[box][piece]
        found += area
        black += int((values < 0.02).sum())
        inner = cv2.erode(piece.astype(np.uint8), rim, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        within = image[box][inner]
        median = float(np.median(within)) if within.size else 1.0
        dark = median < GAS_BELOW + CLEARLY_BRIGHTER
        if median < brightest_gas or (dark and (within > median + TEXTURE_STEP).mean() < LEAST_TEXTURE):
            continue
        center = (x + width / 2 - left) / body_width
        if 0.42 < center < 0.58 and width < 0.14 * body_width and area < 0.02 * body_area:
            continue  # trachea or a main bronchus: midline, narrow and small
        kept[box] |= piece
        mask |= _closed(piece, round(CLOSING * body_width), y, x, body)

    if found >= LEAST_LUNG * body_area and black > 0.6 * found:
        return Lungs(
            nothing,
            "The lungs are plain black in this image, so it shows no lung detail: export it in a lung window "
            "(center -600, width 1500), or give the DICOM file.",
        )
    share = float(mask.sum()) / body_area
    if share < LEAST_LUNG:
        return Lungs(
            nothing,
            f"Too little lung was found on this slice ({100 * share:.1f} % of the body's area, at least "
            f"{100 * LEAST_LUNG:.1f} % expected): choose an axial slice through the lungs, in a lung window.",
        )
    if scan.plane is None and (problem := _framing(body, mask, another, scan.spacing)) is not None:
        return Lungs(nothing, problem)
    soft_tissue = float(np.median(image[(body == 1) & (tissue == 1)]))
    contrast = soft_tissue - float(np.median(image[mask == 1]))
    if contrast < LEAST_CONTRAST:
        return Lungs(
            nothing,
            f"Lung and soft tissue differ by only {100 * contrast:.0f} % of the grey range (at least "
            f"{100 * LEAST_CONTRAST:.0f} % expected): export the image in a lung window (center -600, width 1500).",
        )

    def full(small: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        large = cv2.resize(small, scan.shape[::-1], interpolation=cv2.INTER_NEAREST) if shrink < 1 else small
        return (np.asarray(large) > 0) & ~scan.padding

    middle = left + body_width / 2
    millimeter = body_width / BODY_MM
    kept |= _cut_off(image, labels, statistics, kept, (left, body_width), LEAST_COMPONENT * body_area, millimeter)
    whole = np.zeros_like(mask)
    blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), millimeter), np.float32)
    if scan.scale is Scale.HOUNSFIELD:  # in a picture of another window, fat may be as dark
        kept |= _partly_aerated(blurred, kept, air & (1 - kept), body, millimeter)
    # Each lung on its own: where disease joins the two, the mediastinum would be a hole to fill.
    lungs = [_fill_holes(_close(side, CLOSING * body_width)) for side in sides(Lungs(kept > 0, middle=middle))]
    between = _between(lungs, middle)
    airless = 0.0
    for lung, outwards in zip(lungs, (-1, 1), strict=True):
        whole |= lung & body
        if soft_tissue > LEAST_SOFT_TISSUE and lung.sum() > LEAST_LUNG_WITH_RIM * body_area:
            rim, missing = _dense_rim(lung > 0, blurred, outwards, between, millimeter)
            whole |= rim & body
            airless = max(airless, missing)
    found_air = full(mask)
    return Lungs(
        full(whole),
        doubt=_doubt(lungs, airless, body_area),
        middle=middle / shrink,
        frame=_bounding_box(found_air) if found_air.any() else None,
    )


def _framing(
    body: npt.NDArray[np.uint8], lungs: npt.NDArray[np.uint8], another: float, spacing: PixelSpacing | None
) -> str | None:
    """One sentence if a picture that does not say how it lies is no upright slice of one whole chest; else None."""
    if another > LARGEST_BESIDE:
        return (
            f"The picture shows more than one body (the next one has {100 * another:.0f} % of the largest one's area, at most "
            f"{100 * LARGEST_BESIDE:.0f} % can be an arm): give one axial slice in each file."
        )
    pixel = 1.0 if spacing is None else spacing.column_mm / spacing.row_mm
    of_body, of_lungs = (pixel * width / height for _, _, width, height in map(_bounding_box, (body > 0, lungs > 0)))
    if of_body < LEAST_WIDE and of_lungs < LEAST_WIDE:
        return (
            f"Body and lungs are taller than wide in this picture (width over height {of_body:.2f} and {of_lungs:.2f}): an "
            "upright whole axial slice is expected, neither turned on its side nor squeezed nor cut down to one lung."
        )
    return None


def _doubt(lungs: list[npt.NDArray[np.uint8]], airless: float, body_area: int) -> str | None:
    """One sentence, or None if the mask is fit to be measured on."""
    areas = [int(lung.sum()) for lung in lungs]
    if min(areas) < LEAST_SIDE * max(areas):
        side = "left" if areas[0] < areas[1] else "right"
        return (
            f"Almost no lung was found on the {side} side of the picture: it is missing there, cut off by the border, "
            "or too dense to be told apart."
        )
    if sum(areas) < LEAST_MEASURED * body_area:
        return (
            f"Lung is only {100 * sum(areas) / body_area:.1f} % of the body on this slice, and measuring needs at least "
            f"{100 * LEAST_MEASURED:.0f} %: the slice lies at the very top or bottom of the lungs."
        )
    if airless > MOST_AIRLESS:
        return (
            f"About {100 * airless:.0f} % of one lung is as dense as the chest wall (at most {100 * MOST_AIRLESS:.0f} % can be "
            "bridged), so its outline is a guess."
        )
    return None


def _closed(piece: npt.NDArray[np.bool_], radius: int, y: int, x: int, body: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """One piece of lung, closed and with its holes filled, on the whole image's grid and inside the body."""
    padded = np.pad(piece.astype(np.uint8), radius + 1)
    closed = _fill_holes(np.asarray(cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disk(radius)), np.uint8))
    full = np.zeros_like(body)
    height, width = piece.shape
    inner = closed[radius + 1 : radius + 1 + height, radius + 1 : radius + 1 + width]
    full[y : y + height, x : x + width] = inner
    return full & body


def _close(mask: npt.NDArray[np.bool_], radius: float) -> npt.NDArray[np.uint8]:
    """Closing with a disk, by distances: their time does not grow with the radius. The picture's border is no boundary."""
    closed = mask.astype(np.uint8)
    left, top, width, height = cv2.boundingRect(closed)
    box = slice(top, top + height), slice(left, left + width)
    margin = int(radius) + 2
    away = np.pad(1 - closed[box], margin, constant_values=1)
    dilated = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= radius
    inside = cv2.distanceTransform(dilated.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > radius
    closed[box] |= inside[margin:-margin, margin:-margin]
    return closed


def _between(lungs: list[npt.NDArray[np.uint8]], middle: float) -> float:
    """Column halfway between the outer edges of both lungs; the body's middle where one of them is missing or small."""
    areas = [int(lung.sum()) for lung in lungs]
    if min(areas) < max(areas) / 4:
        return middle
    left, _, width, _ = cv2.boundingRect(lungs[0] | lungs[1])
    return left + width / 2


def _cut_off(
    image: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    statistics: npt.NDArray[np.int32],
    kept: npt.NDArray[np.uint8],
    body: tuple[int, int],
    judged: float,
    millimeter: float,
) -> npt.NDArray[np.uint8]:
    """Pieces too small to be a lung by themselves that lie near one: what dense disease has cut off from it.

    Parameters
    ----------
    body
        (left, width) in pixels. Near its middle such a piece is an airway or the esophagus.
    judged
        Area in pixels from which a piece was looked at by itself.
    """
    around = (cv2.dilate(kept, _disk(CUT_OFF_MM * millimeter)) > 0) & (kept == 0)
    near = np.bincount(labels[around], minlength=len(statistics)) > 0
    center = (statistics[:, cv2.CC_STAT_LEFT] + statistics[:, cv2.CC_STAT_WIDTH] / 2 - body[0]) / body[1]
    area = statistics[:, cv2.CC_STAT_AREA]
    taken = near & (area >= 4 * millimeter**2) & (area < judged) & (np.abs(center - 0.5) > 0.12)
    taken[0] = False
    found = np.zeros(kept.shape, np.uint8)
    for label in np.flatnonzero(taken):
        x, y, width, height, _ = (int(value) for value in statistics[label])
        box = slice(y, y + height), slice(x, x + width)
        piece = labels[box] == label
        if image[box][piece].mean(dtype=np.float64) > BLACK:  # else a drawn arrowhead
            found[box] |= piece
    return found


def _partly_aerated(
    blurred: npt.NDArray[np.float32],
    kept: npt.NDArray[np.uint8],
    gas: npt.NDArray[np.uint8],
    body: npt.NDArray[np.uint8],
    millimeter: float,
) -> npt.NDArray[np.uint8]:
    """Tissue too dense for the threshold that still holds more air than fat does, where it touches the lungs.

    Parameters
    ----------
    gas
        (H, W) of 0 and 1: other air, whose blurred wall is none of it: trachea, esophagus, bowel.
    """
    walls = cv2.dilate(gas, _disk(AERATED_MM * millimeter))
    hazy = ((blurred < AERATED_BELOW) & (kept == 0) & (walls == 0) & (body == 1)).astype(np.uint8)
    hazy = _opened(hazy, AERATED_MM / 2 * millimeter)
    labels, statistics = _components(hazy)
    touching = np.bincount(labels[cv2.dilate(kept, _disk(millimeter)) > 0], minlength=len(statistics)) > 0
    touching &= statistics[:, cv2.CC_STAT_AREA] >= LEAST_AERATED_MM2 * millimeter**2
    touching[0] = False
    return np.asarray(touching[labels], np.uint8)


def _polar(
    image: npt.NDArray[Any], center: tuple[float, float], reach: int, interpolation: int = cv2.INTER_NEAREST
) -> npt.NDArray[Any]:
    """(RAYS, reach): the image along rays from a center, 0 beyond its border."""
    flags = interpolation | cv2.WARP_POLAR_LINEAR | cv2.WARP_FILL_OUTLIERS
    return np.asarray(cv2.warpPolar(image, (reach, RAYS), center, reach, flags))


def _least_around(values: npt.NDArray[np.float64], rays: int) -> npt.NDArray[np.float64]:
    """(RAYS,) least value among each ray and as many on either side."""
    around = np.stack([np.roll(values, step) for step in range(-rays, rays + 1)])
    return np.asarray(around.min(axis=0), np.float64)


def _outermost(polar: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(RAYS,) distance of the last set pixel on each ray, 0 if there is none."""
    last = polar.shape[1] - 1 - (polar[:, ::-1] > 0).argmax(axis=1)
    return np.where((polar > 0).any(axis=1), last, 0).astype(np.float64)


def _ends_of_rows(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """(N, 2) first and last set (x, y) of every row that has any: they have the hull and the bounds of the whole mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([first, rows], axis=1), np.stack([last, rows], axis=1)]).astype(np.int32)


def _curvature() -> npt.NDArray[np.float64]:
    """(RAYS, RAYS) matrix of the squared second difference around a closed curve."""
    one = np.eye(RAYS)
    second = np.roll(one, 1, axis=1) - 2 * one + np.roll(one, -1, axis=1)
    return second.T @ second


CURVATURE = STIFFNESS * _curvature()


def _dense_rim(
    side: npt.NDArray[np.bool_],
    blurred: npt.NDArray[np.float32],
    outwards: int,
    middle: float,
    millimeter: float,
) -> tuple[npt.NDArray[np.uint8], float]:
    """What lies between the air of one lung and its costal chest wall, where that is thick.

    Along rays from the lung's middle, the wall is the stiffest closed curve that lies on the air where air reaches it, runs
    over the gaps (asymmetric least squares with a curvature penalty, after Eilers, Anal Chem 2003), is drawn to the inner
    surface of the ribs and never crosses it. Towards the mediastinum and the heart nothing is added.

    Parameters
    ----------
    outwards
        -1 for the lung on the left of the picture, 1 for the one on its right.
    middle
        Column between the two lungs.

    Returns
    -------
    rim
        (H, W) of 0 and 1; it may leave the body.
    missing
        Share of the lung's extent that has no air between its outermost air and the costal wall, taken in or not.
    """
    added = np.zeros(side.shape, np.uint8)
    if np.count_nonzero(side) < 50 * millimeter**2:
        return added, 0.0
    outline = _ends_of_rows(side)
    hull = cv2.convexHull(outline)
    moments = cv2.moments(hull)
    if moments["m00"] <= 0:
        return added, 0.0
    center = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    left, _, width, height = cv2.boundingRect(outline)
    reach = int(np.hypot(width, height) + 60 * millimeter)
    convex = cv2.fillConvexPoly(np.zeros(side.shape, np.uint8), hull, 1)
    lung, tissue = _polar(side.astype(np.uint8), center, reach), _polar(blurred, center, reach, cv2.INTER_LINEAR)
    air, surface = _outermost(lung), _outermost(_polar(convex, center, reach))

    along = np.arange(reach)
    bones = (tissue > BONE_ABOVE) & (along >= air[:, None] - 2 * millimeter)
    hit = bones.any(axis=1)
    rib = np.where(hit, bones.argmax(axis=1), 10.0 * reach)
    angle = np.arange(RAYS) * 2 * np.pi / RAYS
    right, down = np.cos(angle), np.sin(angle)
    lateral = outwards * (center[0] + surface * right - middle)
    half = max(1.0, middle - left if outwards < 0 else left + width - middle)
    costal = (air > 0) & (lateral > np.where(down > 0, COSTAL_BEHIND, COSTAL_IN_FRONT) * half) & (outwards * right > -0.4)
    # Fat lies outside the pleura: where a layer of it begins, the lung has ended.
    in_range = ((tissue > FAT[0]) & (tissue < FAT[1])).astype(np.uint8)
    layer = np.ones((1, max(1, round(FAT_LAYER_MM * millimeter))), np.uint8)
    fatty = cv2.morphologyEx(in_range, cv2.MORPH_OPEN, layer) > 0
    fatty &= along >= air[:, None] + 2 * millimeter
    fat = np.where(fatty.any(axis=1), fatty.argmax(axis=1), 10.0 * reach)
    # Of a rib only its inner surface counts, not its ends, nor the shoulder blade behind a gap between ribs.
    wall_at = rib - PLEURA_TO_RIB_MM * millimeter
    drawn = (
        hit
        & costal
        & (fat > rib - FAT_AT_RIB_MM * millimeter)
        & (rib - surface <= RIB_REACH_MM * millimeter)
        & (rib - air > (PLEURA_TO_RIB_MM + 4) * millimeter)
        & (rib <= _least_around(rib, RIB_RAYS) + 1.5 * millimeter)
        & (rib - surface <= _least_around(rib - surface, GAP_RAYS) + 4 * millimeter)
    )
    wall: npt.NDArray[Any] = surface
    before: bytes | None = None
    for _ in range(FITS):
        on_air = np.where(surface >= wall - millimeter, 1.0, INWARD)
        crossed = hit & (wall > wall_at) & (rib >= surface)
        on_rib = np.where(crossed, 1.0, np.where(drawn, RIB_WEIGHT, 0.0))
        weights = on_air.tobytes() + on_rib.tobytes()
        if weights == before:
            break
        before = weights
        wall = np.linalg.solve(np.diag(on_air + on_rib) + CURVATURE, on_air * surface + on_rib * wall_at)
    wall = np.maximum(wall, surface)
    wall = np.minimum(wall, np.maximum(np.minimum(rib - 2 * millimeter, fat), air))
    taken = costal & (wall - air <= THICKEST_RIM_MM * millimeter)
    extent = np.maximum(wall, air)
    missing = float((extent**2 - air**2)[costal].sum() / max(1.0, (extent**2).sum()))
    near, far = np.maximum(air - 2 * millimeter, 0), wall
    inner = np.stack([center[0] + near * right, center[1] + near * down], axis=1)
    outer = np.stack([center[0] + far * right, center[1] + far * down], axis=1)
    for ray in np.flatnonzero(taken & np.roll(taken, -1)):
        after = (ray + 1) % RAYS
        corners = np.stack([inner[ray], outer[ray], outer[after], inner[after]])
        cv2.fillConvexPoly(added, np.rint(corners).astype(np.int32), 1)
    return _opened(added & ~side.astype(np.uint8), THINNEST_RIM_MM / 2 * millimeter), missing


def sides(lungs: Lungs) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The lung on the left and the lung on the right of the picture (not of the patient), also where they touch.

    They are parted by the line from the top to the bottom of the picture that crosses least lung, near the body's middle.

    Returns
    -------
    Two (H, W) bool masks that do not overlap and together are the whole mask; both all False if the mask is.
    """
    mask = lungs.mask
    if not mask.any():
        return np.zeros_like(mask), np.zeros_like(mask)
    left, top, width, height = _bounding_box(mask)
    middle = left + width / 2 if lungs.middle is None else lungs.middle
    reach = max(1, round(MIDDLE_REACH * width))
    first = max(0, round(middle) - reach)
    last = min(mask.shape[1], round(middle) + reach + 1)
    if first >= last:  # a middle outside the picture
        first, last = (0, 1) if middle < 0 else (mask.shape[1] - 1, mask.shape[1])
    offset = np.abs(np.arange(first, last) - middle) / reach
    nearest = np.flatnonzero((offset == offset.min()) & ~mask[top : top + height, first:last].any(axis=0))
    if nearest.size:  # straight down the middle, through no lung: nothing is cheaper
        on_left = np.broadcast_to(np.arange(mask.shape[1]) < nearest[0] + first, mask.shape)
        return mask & on_left, mask & ~on_left
    cost = mask[top : top + height, first:last] + 0.02 * offset
    # The cheapest way down, one column to either side per row (a seam: Avidan and Shamir 2007).
    total = np.full((height, cost.shape[1] + 2), np.inf)
    total[0, 1:-1] = cost[0]
    least = np.empty(cost.shape[1])
    for above, here, own in zip(total[:-1], total[1:, 1:-1], cost[1:], strict=True):
        np.minimum(above[:-2], above[2:], out=least)
        np.add(least, ASIDE, out=least)
        np.minimum(least, above[1:-1], out=least)
        np.add(own, least, out=here)
    border = np.empty(height, np.int64)
    border[-1] = int(total[-1].argmin())
    for row in range(height - 1, 0, -1):
        column = border[row]
        border[row - 1] = column - 1 + int((total[row - 1, column - 1 : column + 2] + (ASIDE, 0, ASIDE)).argmin())
    border -= 1
    on_left = np.zeros_like(mask)
    on_left[top : top + height] = np.arange(mask.shape[1]) < (border + first)[:, None]
    return mask & on_left, mask & ~on_left


def pleural_distance_mm(lungs_mask: npt.NDArray[np.bool_], spacing: PixelSpacing) -> npt.NDArray[np.float32]:
    """Exact Euclidean distance from each lung pixel to the nearest pixel that is not lung, center to center.

    The boundary is that towards chest wall, diaphragm and mediastinum alike. The picture's border is none: where it cuts
    the lung, the pleura lies outside, unseen.

    Parameters
    ----------
    lungs_mask
        (H, W) bool.

    Returns
    -------
    (H, W) float32 in mm, 0 outside the lungs; infinite if there is nothing but lung.
    """
    if lungs_mask.all():
        return np.full(lungs_mask.shape, np.inf, np.float32)
    if abs(spacing.row_mm - spacing.column_mm) <= 1e-6 * spacing.row_mm:
        pixels = cv2.distanceTransform(lungs_mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return np.asarray(pixels * np.float32(spacing.row_mm), np.float32)
    # OpenCV knows square pixels only. Distance along the column first, then the least over all columns in reach.
    height, width = lungs_mask.shape
    rows = np.arange(height, dtype=np.float32)[:, None]
    above = np.maximum.accumulate(np.where(lungs_mask, -np.inf, rows), axis=0)
    below = np.minimum.accumulate(np.where(lungs_mask, np.inf, rows)[::-1], axis=0)[::-1]
    column = (np.minimum(rows - above, below - rows) * spacing.row_mm) ** 2
    nearest = column.copy()
    for step in range(1, width):
        across = (step * spacing.column_mm) ** 2
        if across >= nearest.max():
            break
        np.minimum(nearest[:, step:], column[:, :-step] + across, out=nearest[:, step:])
        np.minimum(nearest[:, :-step], column[:, step:] + across, out=nearest[:, :-step])
    return np.asarray(np.sqrt(nearest), np.float32)
