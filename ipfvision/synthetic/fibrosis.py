"""Pulmonary fibrosis in the pattern of usual interstitial pneumonia, drawn into lung without it.

What is drawn, and where, follows the Fleischner Society's glossary (Radiology 2008;246:697-722) and the guideline on
idiopathic pulmonary fibrosis (Am J Respir Crit Care Med 2022;205:e18-e47): clustered cysts of 3-10 mm with shared, well
defined walls under the pleura; reticulation; traction bronchiectasis; basal and posterior by preference. A share of cases
lies in front, above or everywhere, so that a network cannot learn the place instead of the pattern.
"""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from ipfvision.core.annotation import Finding
from ipfvision.synthetic.field import Image, LungField, Mask, Values, logistic
from ipfvision.synthetic.shapes import Course, coverage, line, net, pack_cysts, radii_between, tubes


class Pattern(Enum):
    """What dominates a case."""

    HONEYCOMBING = "honeycombing"
    MIXED = "honeycombing with reticulation"
    PROBABLE = "reticulation with traction bronchiectasis"
    EARLY = "early reticulation"


class Place(Enum):
    """Where a case lies by preference."""

    POSTERIOR = "posterior"
    ANTERIOR = "anterior"
    LATERAL = "lateral"
    DIFFUSE = "diffuse"
    PATCHY = "patchy"


PATTERNS = {Pattern.HONEYCOMBING: 0.3, Pattern.MIXED: 0.37, Pattern.PROBABLE: 0.18, Pattern.EARLY: 0.15}
PLACES = {Place.POSTERIOR: 0.4, Place.ANTERIOR: 0.15, Place.LATERAL: 0.1, Place.DIFFUSE: 0.2, Place.PATCHY: 0.15}
SMALLEST_REGION_MM2 = 400.0
"""Less than that is not what a radiologist would call a pattern."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Where disease lies."""

    reach: Image
    """(h, w) mm: how deep below the pleura disease goes at this place."""
    inwards: Image
    """(h, w) mm: signed distance to the inner border of the disease, positive inside."""
    mask: Mask


@dataclass(frozen=True, slots=True)
class Plan:
    """The choices that one case is made of."""

    pattern: Pattern
    place: Place
    severity: float
    """In [0, 1]: how deep and how dense."""


def plan_fibrosis(rng: np.random.Generator) -> Plan:
    """Draw the lots of one case. Slight disease is as frequent as severe."""
    pattern = list(PATTERNS)[int(rng.choice(len(PATTERNS), p=list(PATTERNS.values())))]
    place = list(PLACES)[int(rng.choice(len(PLACES), p=list(PLACES.values())))]
    severity = float(rng.uniform(0.08, 1.0))
    if pattern is Pattern.EARLY:
        severity *= 0.6
    return Plan(pattern, place, severity)


def draw_fibrosis(field: LungField, plan: Plan) -> dict[Finding, Mask]:
    """Draw fibrosis and say where each finding lies.

    Returns
    -------
    (h, w) bool by finding, only those that were drawn; at least one of them is not ground glass.
    """
    rng = field.rng
    masks: dict[Finding, Mask] = {}
    region = _region(field, plan)
    before = field.hu.copy()
    around = logistic((region.inwards + rng.uniform(0, 8)) / 4) * field.inside
    if rng.random() < 0.6:
        field.distort(around, rng.uniform(0.5, 2.5) * (0.3 + plan.severity), rng.uniform(12, 30))

    if plan.pattern is Pattern.EARLY or rng.random() < 0.65:
        glass = _ground_glass(field, plan, region)
        if field.area_mm2(glass) > 30:
            masks[Finding.GROUND_GLASS] = glass
    reticulation = _reticulation(field, plan, region)
    if field.area_mm2(reticulation) > 30:
        masks[Finding.RETICULATION] = reticulation
    if plan.pattern in (Pattern.HONEYCOMBING, Pattern.MIXED):
        masks[Finding.HONEYCOMBING] = _honeycombing(field, plan, region)
        # Vessels and airways run on through honeycombing that lies deep.
        keep = np.clip((before + 350) / 150, 0, 1) * np.clip((field.depth - 4) / 3, 0, 1)
        field.hu = np.asarray(field.hu + keep * np.maximum(before - field.hu, 0), np.float32)
    if plan.pattern is not Pattern.HONEYCOMBING and rng.random() < (0.25 if plan.pattern is Pattern.EARLY else 0.45):
        cysts = _subpleural_cysts(field, plan, region)
        if field.area_mm2(cysts) > 10:
            masks[Finding.SUBPLEURAL_CYSTS] = cysts
    often = {Pattern.HONEYCOMBING: 0.45, Pattern.MIXED: 0.6, Pattern.PROBABLE: 1.0, Pattern.EARLY: 0.25}[plan.pattern]
    if rng.random() < often:
        airways = _traction_bronchiectasis(field, plan, region)
        if field.area_mm2(airways) > 10:
            masks[Finding.TRACTION_BRONCHIECTASIS] = airways
    if rng.random() < 0.5:
        _irregular_pleura(field, plan, region)
    if not any(mask.any() for finding, mask in masks.items() if finding is not Finding.GROUND_GLASS):
        masks[Finding.RETICULATION] = region.mask
    return masks


def _weight(field: LungField, plan: Plan) -> Image:
    """(h, w) in [0, 1]: how much disease the place gets."""
    rng = field.rng
    base = rng.uniform(0.0, 0.5)
    if plan.place is Place.POSTERIOR:
        shape = logistic((field.height - rng.uniform(0.35, 0.75)) / 0.1)
    elif plan.place is Place.ANTERIOR:
        shape = logistic((rng.uniform(0.25, 0.6) - field.height) / 0.1)
        base *= 0.5
    elif plan.place is Place.LATERAL:
        shape = logistic((np.abs(field.across) - rng.uniform(0.45, 0.75)) / 0.08)
    elif plan.place is Place.PATCHY:
        shape = logistic((field.noise(rng.uniform(20, 45)) - rng.uniform(-0.2, 0.7)) * 4)
        base *= 0.3
    else:
        return np.ones(field.shape, np.float32)
    return np.asarray(base + (1 - base) * shape, np.float32)


def _region(field: LungField, plan: Plan) -> Region:
    """Where the disease lies; made larger until it is large enough to be seen."""
    rng, mm = field.rng, field.mm
    weight: Values = _weight(field, plan)
    if rng.random() < 0.3:
        sign = 1 if rng.random() < 0.5 else -1
        weight = weight * np.where(field.across * sign > 0, 1.0, rng.uniform(0.0, 0.6))
    # Along the mediastinum and at vessels the mask's surface is no costal pleura: less disease there, but not none.
    medial = rng.uniform(0.3, 1.0)
    weight = weight * (medial + (1 - medial) * np.exp(-np.maximum(0, field.outer_depth - 8) / rng.uniform(15, 50)))
    patches = np.clip(0.7 + 0.65 * field.noise(28), 0.02, 2)
    ragged = np.minimum(rng.uniform(1, 3), 1.2 + 2 * plan.severity) * field.noise(5)
    # Not into fluid or consolidation that was drawn before: no honeycombing is seen there.
    size = max(3, round(5 / mm))
    dense = cv2.morphologyEx((field.hu > -300).astype(np.uint8), cv2.MORPH_OPEN, np.ones((size, size), np.uint8)) > 0
    aerated = field.lungs & ~dense
    deepest = (4 + 27 * plan.severity**1.3) * rng.uniform(0.75, 1.25)
    if plan.place is Place.DIFFUSE:
        deepest *= 0.75
    for _ in range(8):
        reach = np.asarray(deepest * weight * patches, np.float32)
        inwards = np.asarray(reach - field.depth + ragged, np.float32)
        small = ((inwards > 0) & aerated & (reach > 2.0)).astype(np.uint8)
        size = max(2, round(1.6 / mm))
        mask = cv2.morphologyEx(small, cv2.MORPH_OPEN, np.ones((size, size), np.uint8)) > 0
        if field.area_mm2(mask) >= SMALLEST_REGION_MM2:
            return Region(reach, inwards, mask)
        deepest = deepest * 1.35 + 2
        weight = np.minimum(weight + 0.08, 1)
    everywhere = np.full(field.shape, 8.0, np.float32)
    inwards = np.asarray(everywhere - field.depth, np.float32)
    return Region(everywhere, inwards, (inwards > 0) & field.lungs)


def _ground_glass(field: LungField, plan: Plan, region: Region) -> Mask:
    """Hazy attenuation around and beyond the fibrosis."""
    rng = field.rng
    if plan.pattern is Pattern.EARLY:
        amount, wide = rng.uniform(20, 160), rng.uniform(0.8, 1.4)
    else:
        amount, wide = rng.uniform(40, 300), rng.uniform(1.0, 1.9)
    inwards = region.reach * wide + rng.uniform(-1, 3) - field.depth
    patches = np.clip(0.7 + 0.5 * field.noise(15), 0, 2)
    added = np.asarray(amount * patches * logistic(inwards / rng.uniform(1.5, 5)) * field.inside, np.float32)
    field.brighten(added)
    return (added > 90) & field.lungs


def _reticulation(field: LungField, plan: Plan, region: Region) -> Mask:
    """Fine and coarse intralobular lines: a polygonal net and ridges of noise, in patches."""
    rng, mm = field.rng, field.mm
    main = plan.pattern in (Pattern.PROBABLE, Pattern.EARLY)
    amount = rng.uniform(0.75, 1.1) if main else rng.uniform(0.3, 1.0)
    if plan.pattern is Pattern.EARLY:
        amount = rng.uniform(0.5, 0.95)
    inwards = region.reach * rng.uniform(1.0, 1.6 if main else 1.9) + 1 - field.depth
    fade = logistic(inwards / rng.uniform(0.8, 2.0)) * field.inside
    wide = (inwards > -2) & field.lungs
    lines = np.zeros(field.shape, np.float32)
    coarse = rng.uniform(1.6, 2.8)
    if rng.random() < 0.85:
        border = net(field, wide, coarse, coarse * rng.uniform(1.5, 2.6))
        patches = np.clip(0.55 + 0.8 * field.noise(7), 0, 1.3)
        lines += line(border * 2, rng.uniform(0.7, 1.5), mm) * patches * rng.uniform(650, 1150)
    for scale, width, chance in ((rng.uniform(2.5, 5), 0.22, 0.7), (rng.uniform(1.5, 2.5), 0.3, 0.8)):
        if rng.random() < chance:
            ridges = np.clip(1 - np.abs(field.noise(scale)) / width, 0, 1)
            patches = np.clip(0.2 + 0.9 * field.noise(9), 0, 1.2)
            lines = np.maximum(lines, ridges * patches * rng.uniform(450, 900))
    lines = np.asarray(lines * fade * amount, np.float32)
    field.brighten(lines)
    density = cv2.GaussianBlur(lines, (0, 0), 2.5 / mm)
    limit = 25.0 if main else 45.0
    return (density > min(limit, 0.6 * float(density.max()))) & (fade > 0.35) & field.lungs


def _honeycombing(field: LungField, plan: Plan, region: Region) -> Mask:
    """Stacked cysts with shared walls; also returns small islands, opened to what a reader would draw."""
    rng, mm = field.rng, field.mm
    where = region.mask
    if plan.pattern is Pattern.MIXED:
        islands = field.noise(rng.uniform(12, 30)) > rng.uniform(-1.0, 0.4)
        some = where & islands
        if field.area_mm2(some) > 0.2 * field.area_mm2(where):
            where = some
    smallest = rng.uniform(0.7, 1.3)
    largest = rng.uniform(1.9, 5.2)
    size = np.exp(rng.uniform(0.1, 0.4) * field.noise(rng.uniform(10, 30)))
    if rng.random() < 0.5:
        # Larger cysts on the inner side of a rind of small ones, or the other way round.
        size = size * np.clip(1 + rng.uniform(-0.6, 0.8) * (field.depth / (region.reach + 3) - 0.5), 0.6, 1.7)
    radii = radii_between(field, where, smallest, largest, tries=10, skew=rng.uniform(1.3, 3.0))
    cysts = pack_cysts(
        field,
        where,
        radii,
        closeness=rng.uniform(0.45, 0.9),
        warp_mm=rng.uniform(0.25, 0.6),
        warp_scale_mm=rng.uniform(2, 4.5),
        size=size,
        most=2600,
    )
    wall = np.clip(rng.uniform(0.22, 0.65) * (1 + 0.45 * field.noise(4)), 0.12, 1.4)
    room = np.minimum(cysts.to_border - wall, rng.uniform(0.4, 1.6) - cysts.nearest)
    room = np.minimum(room, field.depth - rng.uniform(0.3, 1.0) * wall)
    lumen = coverage(room, mm)
    wall_hu = rng.uniform(-250, 80) + 90 * field.noise(2.5) + 90 * field.noise(9)
    air = np.clip(rng.normal(rng.uniform(-975, -895), rng.uniform(10, 45), cysts.count + 1), -1005, -760)
    hazy = rng.random(cysts.count + 1) < rng.uniform(0, 0.07)
    air[hazy] = rng.uniform(-850, -500, np.count_nonzero(hazy))
    air_hu = air[cysts.index] + 25 * field.noise(3)
    between = wall_hu - rng.uniform(50, 350) * np.clip((cysts.nearest - 0.8) / 1.5, 0, 1)
    texture = between * (1 - lumen) + air_hu * lumen
    cover = coverage(np.where(where, 0.6, -0.6) - np.maximum(0, cysts.nearest - 1.5), mm)
    near = np.maximum(cover, coverage(np.maximum(wall, 0.4) - cysts.nearest, mm)) * field.inside
    field.paint(np.minimum(texture, 80), near)
    return _as_drawn_by_hand(field, near > 0.5)


def _subpleural_cysts(field: LungField, plan: Plan, region: Region) -> Mask:
    """A row or small groups of cysts right under the pleura, with walls that can be seen."""
    rng, mm = field.rng, field.mm
    largest = rng.uniform(2.2, 5.0)
    band = region.mask & (field.depth > 0.5) & (field.depth < largest * rng.uniform(1.2, 3.0))
    band &= field.noise(rng.uniform(8, 20)) > rng.uniform(-0.2, 1.2)
    radii = radii_between(field, band, 0.9, largest, tries=rng.uniform(1, 5), skew=rng.uniform(0.8, 2))
    cysts = pack_cysts(field, band, radii, closeness=rng.uniform(0.3, 0.9), warp_mm=rng.uniform(0.3, 0.7), warp_scale_mm=3)
    wall = np.clip(rng.uniform(0.3, 0.8) * (1 + 0.45 * field.noise(4)), 0.25, 1.5)
    room = np.minimum(np.minimum(cysts.to_border - wall / 2, -cysts.nearest), field.depth - wall / 2)
    lumen = coverage(room, mm)
    cover = coverage(wall - cysts.nearest, mm) * field.inside
    wall_hu = np.minimum(rng.uniform(-350, 0) + 120 * field.noise(4), 60)
    texture = wall_hu * (1 - lumen) + rng.uniform(-990, -900) * lumen
    field.paint(texture, cover)
    return (cover > 0.5) & field.lungs


def _traction_bronchiectasis(field: LungField, plan: Plan, region: Region) -> Mask:
    """Irregularly widened bronchi within and at the inner border of the fibrosis."""
    rng, mm = field.rng, field.mm
    where = field.lungs & (field.depth > 3) & (region.inwards > -rng.uniform(1, 8))
    course = Course(
        radius_mm=(1.1, rng.uniform(1.8, 3.6)),
        length_mm=(6, 24),
        cut_across=rng.uniform(0.3, 0.85),
        beading=rng.uniform(0.15, 0.4),
        wander=0.14,
        taper=rng.uniform(0, 0.3),
    )
    inside = tubes(field, where, int(rng.integers(2, 4 + int(12 * plan.severity))), course)
    wall = np.clip(rng.uniform(0.5, 1.3) * (1 + 0.4 * field.noise(4)), 0.2, 2.5)
    lumen = coverage(-inside, mm)
    cover = coverage(wall - inside, mm) * field.inside
    wall_hu = np.minimum(rng.uniform(-350, 0) + 150 * field.noise(4), 60)
    texture = wall_hu * (1 - lumen) + rng.uniform(-995, -930) * lumen
    field.paint(texture, cover)
    return (cover > 0.5) & field.lungs


def _irregular_pleura(field: LungField, plan: Plan, region: Region) -> None:
    """A ragged rim of soft tissue at the pleura: fibrosis takes volume, and the surface is no longer smooth."""
    rng = field.rng
    thickness = np.clip(rng.uniform(-1.0, 1.2) + rng.uniform(0.5, 1.3) * field.noise(rng.uniform(3, 8)), -1, 4.5)
    thickness = np.where(region.inwards + field.depth > field.depth, thickness, -1) * min(1.0, 0.5 + plan.severity)
    rim = coverage(thickness - field.depth, field.mm)
    field.paint(rng.uniform(-150, 40), rim)


def _as_drawn_by_hand(field: LungField, mask: Mask) -> Mask:
    """Close gaps narrower than a cyst: a reader outlines the region, not its walls."""
    size = max(3, round(2.0 / field.mm)) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return (cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0) & field.lungs
