"""Lung disease that is not fibrosis, and edits that are no disease: what a network must not take for fibrosis.

Terms follow the Fleischner Society's glossary (Radiology 2008;246:697-722). Each function draws one finding into the field.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from ipfvision.synthetic.field import Image, LungField, Mask, Values, logistic
from ipfvision.synthetic.shapes import Course, coverage, line, net, pack_cysts, radii_between, tubes

SOFT_TISSUE_HU = (-80.0, 60.0)


def centrilobular_emphysema(field: LungField) -> None:
    """Dark spots without walls, from a few to confluent, over lung that has lost attenuation."""
    rng = field.rng
    severity = 0.1 + 0.95 * rng.random() ** 0.7
    scale = rng.uniform(2.5, 8)
    spots = field.noise(scale) + 0.5 * field.noise(scale * 0.45) + rng.uniform(0.3, 0.9) * field.noise(40)
    if rng.random() < 0.5:
        spots = spots + rng.uniform(0, 2) * (0.5 - field.height)
    share = logistic((spots - (1.4 - 2.1 * severity)) * rng.uniform(2, 6))
    field.brighten(-rng.uniform(0, 70) * severity * field.inside)
    aerated = np.clip((-650 - field.hu) / 150, 0, 1)
    field.paint(rng.uniform(-1000, -960), share * aerated * rng.uniform(0.6, 1))
    if severity > 0.6 and rng.random() < 0.5:
        # What is left between confluent spots: thin strands that are no reticulation.
        strands = line(net(field, field.lungs & (share > 0.3), 5, 11), 0.5, field.mm)
        field.brighten(strands * share * rng.uniform(100, 350))


def paraseptal_emphysema(field: LungField) -> None:
    """One row of thin-walled spaces at the pleura."""
    rng, mm = field.rng, field.mm
    largest = rng.uniform(3.5, 10)
    row = field.lungs & (field.depth > 0.35 * largest) & (field.depth < 0.75 * largest) & (field.outer_depth < 40)
    row &= field.noise(rng.uniform(20, 60)) > rng.uniform(-1.0, 1.2)
    if rng.random() < 0.4:
        row &= field.height < rng.uniform(0.4, 0.8)
    cells = pack_cysts(
        field, row, radii_between(field, row, 0.4 * largest, largest, tries=6), closeness=rng.uniform(0.7, 0.95), warp_mm=0.5
    )
    wall = rng.uniform(0.2, 0.7)
    room = np.minimum(cells.to_border - wall, 0.3 - cells.nearest)
    lumen = coverage(room, mm)
    cover = coverage(0.3 + wall - cells.nearest, mm)
    field.paint(rng.uniform(-800, -300) * (1 - lumen) + rng.uniform(-1000, -960) * lumen, cover)


def bullae(field: LungField) -> None:
    """A few large air spaces with a wall as thin as a hair."""
    rng, mm = field.rng, field.mm
    where = field.lungs & (field.depth < rng.uniform(8, 40))
    radii = rng.uniform(6, rng.uniform(10, 34), int(rng.integers(1, 9)))
    cells = pack_cysts(field, where, radii, closeness=0.7, warp_mm=rng.uniform(0.5, 1.5), warp_scale_mm=12)
    wall = rng.uniform(0.3, 0.7)
    lumen = coverage(np.minimum(cells.to_border - wall / 2, -cells.nearest), mm)
    cover = coverage(wall - cells.nearest, mm)
    field.paint(rng.uniform(-750, -350) * (1 - lumen) + rng.uniform(-1005, -970) * lumen, cover)


def thin_walled_cysts(field: LungField) -> None:
    """Cysts spread over the whole lung: lymphangioleiomyomatosis, Langerhans cell histiocytosis, and a few by chance."""
    rng, mm = field.rng, field.mm
    bizarre = rng.random() < 0.35
    largest = rng.uniform(2.0, 9)
    radii = rng.uniform(0.8, 1, int(rng.integers(4, 30))) * largest
    if rng.random() < 0.7:
        n = int(10 ** rng.uniform(1, 2.7) * min(1.0, (5 / largest) ** 1.3))
        radii = 1.0 + (largest - 1.0) * rng.random(max(4, n)) ** rng.uniform(1, 2.5)
    where = field.lungs & (field.depth > 1)
    if rng.random() < 0.3:
        where &= field.noise(40) > rng.uniform(-1, 0.5)
    cells = pack_cysts(
        field,
        where,
        radii,
        closeness=rng.uniform(0.6, 1.2) if bizarre else 1.1,
        warp_mm=rng.uniform(0.8, 1.8) if bizarre else 0.3,
    )
    wall = rng.uniform(0.5, 1.4) if bizarre else rng.uniform(0.25, 0.7)
    joined = 0.0 if bizarre and rng.random() < 0.5 else wall / 2
    room = np.minimum(cells.to_border - joined, -cells.nearest)
    lumen = coverage(room, mm)
    cover = coverage(wall - cells.nearest, mm)
    wall_hu = rng.uniform(-400, -50) if bizarre else rng.uniform(-750, -250)
    field.paint(wall_hu * (1 - lumen) + rng.uniform(-1000, -950) * lumen, cover)
    if bizarre and rng.random() < 0.5:
        _spots(field, where, int(rng.integers(5, 60)), (1.0, 3.5), rng.uniform(-300, 20))


def bronchiectasis(field: LungField) -> None:
    """Widened bronchi without fibrosis around them: cylindrical, varicose or in clusters of cysts; some with mucus."""
    rng, mm = field.rng, field.mm
    center = field.lungs & (field.depth > rng.uniform(3, 16))
    for _ in range(int(rng.integers(1, 5))):
        cluster = center & (field.blob(center, rng.uniform(400, 5000), 0.6) > 0)
        if not cluster.any():
            continue
        wall = rng.uniform(0.6, 2.0)
        wall_hu = np.minimum(rng.uniform(-300, 20) + 80 * field.noise(6), 60)
        if rng.random() < 0.35:
            cells = pack_cysts(
                field,
                cluster,
                rng.uniform(2, rng.uniform(3.5, 8), int(rng.integers(5, 60))),
                closeness=rng.uniform(0.8, 1.3),
                warp_mm=rng.uniform(0.2, 0.7),
            )
            lumen = coverage(np.minimum(cells.to_border - wall / 2, -cells.nearest), mm)
            cover = coverage(wall - cells.nearest, mm)
        else:
            course = Course(
                radius_mm=(1.1, rng.uniform(1.8, 5)),
                length_mm=(10, 45),
                cut_across=rng.uniform(0.4, 0.95),
                beading=rng.uniform(0.03, 0.3),
                taper=rng.uniform(-0.2, 0.4),
            )
            inside = tubes(field, cluster, int(rng.integers(3, 18)), course)
            lumen = coverage(-inside, mm)
            cover = coverage(wall - inside, mm)
        air = np.where(field.noise(12) > rng.uniform(0.5, 3), rng.uniform(-100, 30), rng.uniform(-1000, -940))
        field.paint(wall_hu * (1 - lumen) + air * lumen, cover)
        if rng.random() < 0.4:
            around = logistic((field.blob(cluster, rng.uniform(300, 2500), 1) + 2) / 2)
            field.brighten(around * rng.uniform(40, 300) * np.clip(0.6 + 0.5 * field.noise(8), 0, 2))
    if rng.random() < 0.35:
        _tree_in_bud_cluster(field, center)


def consolidation(field: LungField) -> None:
    """Dense patches that hide vessels, often with air bronchograms: lobar, patchy, or along the pleura."""
    rng = field.rng
    zone = _zone(field)
    cover = np.zeros(field.shape, np.float32)
    for _ in range(int(rng.integers(1, 7))):
        patch = field.blob(zone, 10 ** rng.uniform(2.2, 4), rng.uniform(0.3, 1.2))
        cover = np.maximum(cover, logistic(patch / rng.uniform(0.5, 4)))
    if rng.random() < 0.2:
        # Lobar: filled up to a fissure, a straight sharp border.
        angle, offset = rng.normal(0, 0.35), rng.uniform(0.35, 0.8)
        side = field.height + field.across * math.tan(angle) * 0.5 - offset
        cover = np.maximum(cover, coverage(side * 200, 1) * (field.across * rng.choice([-1, 1]) > 0))
    ragged = np.clip(1 + rng.uniform(-0.1, 0.25) * field.noise(rng.uniform(1.5, 6)), 0, 1)
    density = np.asarray(rng.uniform(*SOFT_TISSUE_HU) - rng.uniform(0, 250) * np.clip(field.noise(12), 0, 2), np.float32)
    keep = field.hu.copy()
    share = np.asarray(cover * ragged * rng.uniform(0.75, 1), np.float32)
    field.paint(density, share)
    if rng.random() < 0.7:
        course = Course(radius_mm=(0.8, rng.uniform(1.2, 2.6)), length_mm=(8, 40), cut_across=0.3, beading=0.05, taper=0.5)
        inside = tubes(field, field.lungs & (cover > 0.6) & (field.depth > 3), int(rng.integers(2, 14)), course)
        field.paint(rng.uniform(-990, -850), coverage(-inside, field.mm) * (cover > 0.4))
    if rng.random() < 0.5:
        halo = np.asarray(cv2.GaussianBlur(cover, (0, 0), rng.uniform(3, 10) / field.mm) * rng.uniform(100, 400), np.float32)
        field.brighten(halo * np.clip(0.8 + 0.4 * field.noise(8), 0, 2))
    dense = keep > -300
    field.hu = np.asarray(np.where(dense, np.maximum(field.hu, keep), field.hu), np.float32)


def ground_glass(field: LungField) -> None:
    """Haze through which vessels stay visible: patchy, diffuse, peripheral (COVID-19), central, crazy paving, mosaic."""
    rng, mm = field.rng, field.mm
    kind = str(rng.choice(["peripheral", "patchy", "diffuse", "central", "mosaic"], p=[0.35, 0.25, 0.2, 0.1, 0.1]))
    cover = np.zeros(field.shape, np.float32)
    if kind in ("peripheral", "patchy"):
        zone = _zone(field) if kind == "patchy" else field.lungs & (field.depth < rng.uniform(6, 30))
        if rng.random() < 0.4:
            back = zone & (field.height > rng.uniform(0.2, 0.6))
            zone = back if back.any() else zone
        for _ in range(int(rng.integers(1, 10))):
            patch = field.blob(zone, 10 ** rng.uniform(2.2, 3.9), rng.uniform(0.3, 1.2))
            cover = np.maximum(cover, logistic(patch / rng.uniform(0.6, 5)))
    elif kind == "diffuse":
        cover = np.asarray(
            rng.uniform(0.5, 1) * logistic((field.noise(rng.uniform(15, 60)) + rng.uniform(0, 2)) * 2), np.float32
        )
        if rng.random() < 0.5:
            cover = cover * logistic((field.depth - rng.uniform(0, 6)) / 2)
    elif kind == "central":
        cover = logistic((field.depth - rng.uniform(8, 22)) / rng.uniform(3, 8))
    else:
        cover = logistic((field.noise(rng.uniform(12, 25)) - rng.uniform(-0.5, 0.5)) * 8)
    texture = np.clip(0.9 + rng.uniform(0.05, 0.4) * field.noise(rng.uniform(3, 14)), 0, 1.6)
    strength = rng.uniform(60, 200) if kind == "mosaic" else rng.uniform(80, 480)
    if kind != "mosaic" and rng.random() < 0.15:
        # Reversed halo: denser at the rim.
        rim = np.clip(1 - np.abs(cover - 0.4) / 0.3, 0, 1)
        field.brighten(rim * rng.uniform(200, 500))
    field.brighten(cover * texture * strength, ceiling=-150)
    where = (cover > 0.3) & field.lungs
    if rng.random() < 0.4 and where.any():
        mesh = rng.uniform(3, 7)
        border = net(field, where, mesh, mesh * rng.uniform(1.3, 2))
        lines = line(border * 2, rng.uniform(0.7, 1.4), mm) * cover * np.clip(0.7 + 0.5 * field.noise(15), 0, 1.3)
        field.brighten(lines * rng.uniform(100, 450), ceiling=-150)
    if rng.random() < 0.35:
        dense = logistic((field.noise(rng.uniform(4, 14)) - rng.uniform(0.2, 1.4)) * 5)
        field.brighten(dense * cover * rng.uniform(150, 600), ceiling=0)


def nodules(field: LungField) -> None:
    """A few nodules or a mass, smooth or spiculated, solid or part-solid."""
    rng, mm = field.rng, field.mm
    count = int(rng.integers(1, 9)) if rng.random() < 0.7 else int(rng.integers(9, 60))
    largest = rng.uniform(3, 22) if count < 9 else rng.uniform(2, 8)
    cells = pack_cysts(
        field,
        field.lungs,
        rng.uniform(1.5, largest, count),
        closeness=0.9,
        warp_mm=rng.uniform(0.3, 1.6),
        warp_scale_mm=rng.uniform(4, 10),
    )
    surface: Values = -cells.nearest
    if rng.random() < 0.4:
        spikes = np.maximum(0, field.noise(2.0)) * rng.uniform(0.5, 3)
        surface = surface + spikes * np.exp(-np.maximum(0, cells.nearest) / 3)
    field.paint(rng.uniform(*SOFT_TISSUE_HU), coverage(surface, mm) * np.float32(rng.uniform(0.5, 1)))
    if rng.random() < 0.3:
        halo = logistic(-(cells.nearest - rng.uniform(1, 5)) / 1.5)
        field.brighten(halo * rng.uniform(80, 350))


def small_nodules(field: LungField) -> None:
    """Countless nodules of 1-4 mm: perilymphatic (along pleura, fissures, septa, in clusters), or miliary."""
    rng = field.rng
    if rng.random() < 0.3:
        _spots(field, field.lungs, int(10 ** rng.uniform(1.8, 3)), (0.6, rng.uniform(1, 2)), rng.uniform(-250, 30))
        return
    septa = net(field, field.lungs, rng.uniform(6, 9), rng.uniform(10, 15))
    lymphatic = field.lungs & ((septa < 1.0) | (field.depth < 2.0) | (_vessels(field) & (field.depth > 8)))
    lymphatic &= field.noise(rng.uniform(15, 45)) > rng.uniform(-1.2, 0.9)
    largest = rng.uniform(1.1, 2.4)
    _spots(field, lymphatic, int(10 ** rng.uniform(1.9, 3.1)), (0.6, largest), rng.uniform(-250, 40))
    if rng.random() < 0.4:
        lines = line(septa, rng.uniform(0.6, 1.1), field.mm) * np.clip(field.noise(25), 0, 1)
        field.brighten(lines * rng.uniform(150, 450))
    if rng.random() < 0.35:
        # Confluent: conglomerate masses around the hilum, with satellites.
        core = field.lungs & (field.depth > 12)
        patch = field.blob(core, rng.uniform(300, 3000), 1.2)
        field.paint(rng.uniform(-100, 40), coverage(patch, 2.0) * rng.uniform(0.6, 1))
        _spots(field, field.lungs & (patch > -14), int(rng.integers(40, 260)), (0.6, largest), rng.uniform(-250, 40))


def tree_in_bud(field: LungField) -> None:
    """Clusters of centrilobular nodules on little branches."""
    rng = field.rng
    zone = field.lungs & (field.depth > 3)
    for _ in range(int(rng.integers(1, 9))):
        _tree_in_bud_cluster(field, zone)


def cavities(field: LungField) -> None:
    """Air inside a thick, uneven wall, often with consolidation and small nodules around (tuberculosis, abscess, tumor)."""
    rng, mm = field.rng, field.mm
    for _ in range(int(rng.integers(1, 6))):
        zone = field.lungs & (field.depth > 2) if rng.random() < 0.6 else _zone(field)
        outside = field.blob(zone, 10 ** rng.uniform(1.9, 3.5), rng.uniform(0.2, 0.9))
        if float(outside.max()) < 2:
            continue
        wall = np.asarray(rng.uniform(1.5, 0.5 * float(outside.max()) + 1.6) * (1 + 0.4 * field.noise(8)), np.float32)
        lumen = coverage(outside - np.maximum(wall, 0.8), mm)
        if rng.random() < 0.3:
            level = field.pick((lumen > 0.5) & field.lungs)
            if level is not None:
                lumen = lumen * (np.arange(field.shape[0])[:, None] <= level[0])
        texture = rng.uniform(*SOFT_TISSUE_HU) * (1 - lumen) + rng.uniform(-1000, -920) * lumen
        field.paint(texture, coverage(outside, mm))
        if rng.random() < 0.5:
            around = logistic((outside + rng.uniform(2, 10)) / rng.uniform(1.5, 5)) * np.clip(
                0.5 + 0.7 * field.noise(6), 0, 1.5
            )
            field.brighten(around * (1 - lumen) * rng.uniform(80, 500), ceiling=-100)
        if rng.random() < 0.5:
            _spots(
                field,
                field.lungs & (outside > -30) & (outside < 0),
                int(rng.integers(10, 150)),
                (0.7, 2.2),
                rng.uniform(-250, 30),
            )


def dependent_atelectasis(field: LungField) -> None:
    """Haze, bands and dense strips in the lowest (posterior) lung, smooth and without cysts."""
    rng, mm = field.rng, field.mm
    low = logistic((field.height - rng.uniform(0.5, 0.85)) / 0.06)
    deep = rng.uniform(4, 34) * (0.7 + 0.4 * field.noise(30))
    haze = low * logistic((deep - field.depth) / rng.uniform(1, 6))
    field.brighten(haze * rng.uniform(150, 600) * np.clip(0.9 + 0.3 * field.noise(10), 0, 1.5), ceiling=-100)
    if rng.random() < 0.4:
        strip = coverage(0.35 * deep + 0.8 * field.noise(6) - field.depth, 2 * mm) * low
        field.paint(rng.uniform(-150, 40), strip)
    if rng.random() < 0.35:
        # Subpleural curvilinear line.
        curve = line(field.depth - rng.uniform(4, 12) - field.noise(20), rng.uniform(1, 2), mm)
        field.brighten(curve * low * (field.noise(25) > -0.3) * rng.uniform(200, 500))


def pleural_effusion(field: LungField) -> None:
    """Fluid behind the lung: the back of the pleural space is filled up to a curved border."""
    rng, mm = field.rng, field.mm
    side = rng.choice([-1, 1])
    which = np.ones(field.shape, np.bool_) if rng.random() < 0.4 else field.across * side > 0
    rise = np.clip((field.height - rng.uniform(0.3, 0.8)) / 0.3, 0, 1.5)
    fluid = coverage(rng.uniform(4, 30) * rise + 0.5 * field.noise(20) - field.depth - 0.3, mm) * which
    field.paint(rng.uniform(-10, 40), fluid)
    if rng.random() < 0.6:
        beside = cv2.GaussianBlur(fluid, (0, 0), rng.uniform(2, 8) / mm) * (1 - fluid)
        field.brighten(beside * rng.uniform(200, 900), ceiling=0)


def septal_lines(field: LungField) -> None:
    """Smooth thickening of interlobular septa, as in edema: polygons of 10-25 mm, without cysts."""
    rng = field.rng
    border = net(field, field.lungs, rng.uniform(5, 7), rng.uniform(8, 13))
    patches = np.clip(rng.uniform(0, 1) + 0.8 * field.noise(30), 0, 1)
    lines = line(border * 2, rng.uniform(0.7, 1.8), field.mm) * patches
    if rng.random() < 0.5:
        lines = lines * np.exp(-field.depth / rng.uniform(8, 30))
    field.brighten(lines * rng.uniform(250, 700))
    if rng.random() < 0.5:
        field.brighten(patches * rng.uniform(20, 200) * np.clip(0.8 + 0.4 * field.noise(12), 0, 2))


def bands(field: LungField) -> None:
    """Fissures, scars and plate-like atelectasis: long lines, straight or slightly curved."""
    rng, mm = field.rng, field.mm
    for _ in range(int(rng.integers(1, 6))):
        place = field.pick(field.lungs)
        if place is None:
            return
        angle, bend = rng.uniform(0, math.pi), rng.normal(0, 0.004)
        down = (np.arange(field.shape[0], dtype=np.float32)[:, None] - place[0]) * mm
        right = (np.arange(field.shape[1], dtype=np.float32)[None, :] - place[1]) * mm
        along = right * math.cos(angle) + down * math.sin(angle)
        beside = down * math.cos(angle) - right * math.sin(angle) + bend * along**2 + 0.5 * field.noise(20)
        width = rng.uniform(0.6, 5) if rng.random() < 0.5 else rng.uniform(0.5, 1.2)
        ends = logistic((rng.uniform(8, 60) - np.abs(along)) / 2)
        cover = line(beside, width, mm) * ends * rng.uniform(0.3, 1)
        field.paint(rng.uniform(-350, 20), cover)


def air_trapping(field: LungField) -> None:
    """Lobules or large areas darker than the rest."""
    rng = field.rng
    lobules = logistic((field.noise(rng.uniform(8, 50)) - rng.uniform(-0.3, 0.9)) * rng.uniform(2, 10))
    field.brighten(-lobules * rng.uniform(30, 130))


def pleural_cap(field: LungField) -> None:
    """Irregular thickening of the pleura, scars and plaques: soft tissue at the surface, no cysts."""
    rng = field.rng
    where = field.noise(rng.uniform(25, 60)) - rng.uniform(-0.5, 0.8)
    thickness = np.clip(where * rng.uniform(1.5, 8), -2, 12) + rng.uniform(0, 0.6) * field.noise(6)
    field.paint(rng.uniform(-100, 60), coverage(thickness - field.depth, field.mm * 1.5))


def edited_patch(field: LungField) -> None:
    """No disease at all: a patch that was smoothed, sharpened, made noisy, displaced or painted in like lung."""
    rng, mm = field.rng, field.mm
    cover = coverage(field.blob(field.lungs & (field.depth < rng.uniform(8, 60)), 10 ** rng.uniform(2.3, 4), 1), 2 * mm)
    kind = int(rng.integers(5))
    if kind == 0:
        other = np.asarray(cv2.GaussianBlur(field.hu, (0, 0), rng.uniform(0.6, 2.2)), np.float32)
    elif kind == 1:
        other = np.asarray(field.hu + rng.uniform(0.5, 1.5) * (field.hu - cv2.GaussianBlur(field.hu, (0, 0), 1.2)), np.float32)
    elif kind == 2:
        other = np.asarray(field.hu + field.fresh_noise() * rng.uniform(0.5, 1.8), np.float32)
    elif kind == 3:
        field.distort(cover, rng.uniform(1, 4), rng.uniform(8, 25))
        return
    else:
        field.paint(rng.uniform(-880, -780) + 25 * field.noise(3), cover * np.float32(rng.uniform(0.5, 1)))
        return
    cover = cover * field.inside
    field.hu = np.asarray(field.hu * (1 - cover) + other * cover, np.float32)


DISTRACTORS: dict[str, tuple[Callable[[LungField], None], float]] = {
    "centrilobular emphysema": (centrilobular_emphysema, 1.5),
    "paraseptal emphysema": (paraseptal_emphysema, 1.2),
    "bullae": (bullae, 0.8),
    "thin-walled cysts": (thin_walled_cysts, 1.3),
    "bronchiectasis": (bronchiectasis, 1.5),
    "consolidation": (consolidation, 1.6),
    "ground glass": (ground_glass, 2.4),
    "nodules": (nodules, 0.8),
    "small nodules": (small_nodules, 1.2),
    "tree-in-bud": (tree_in_bud, 0.8),
    "cavities": (cavities, 1.3),
    "dependent atelectasis": (dependent_atelectasis, 1.2),
    "pleural effusion": (pleural_effusion, 0.5),
    "septal lines": (septal_lines, 0.8),
    "bands": (bands, 0.6),
    "air trapping": (air_trapping, 0.4),
    "pleural cap": (pleural_cap, 0.5),
    "edited patch": (edited_patch, 0.8),
}
"""What can be drawn: name -> function, and how often relative to the others."""


def draw_distractors(field: LungField) -> tuple[str, ...]:
    """Draw one to three distractors, not twice the same.

    Returns
    -------
    Their names in the order in which they were drawn.
    """
    names = list(DISTRACTORS)
    weights = np.array([DISTRACTORS[name][1] for name in names])
    count = int(field.rng.choice([1, 2, 3], p=[0.5, 0.33, 0.17]))
    chosen = [names[int(k)] for k in field.rng.choice(len(names), size=count, replace=False, p=weights / weights.sum())]
    for name in chosen:
        DISTRACTORS[name][0](field)
    return tuple(chosen)


def _zone(field: LungField) -> Mask:
    """Where patches begin: the whole lung, its periphery, its middle, its front or its back."""
    rng = field.rng
    kind = int(rng.integers(5))
    if kind == 0:
        zone = field.lungs
    elif kind == 1:
        zone = field.lungs & (field.depth < rng.uniform(6, 25))
    elif kind == 2:
        zone = field.lungs & (field.depth > rng.uniform(8, 20))
    elif kind == 3:
        zone = field.lungs & (field.height > rng.uniform(0.4, 0.8))
    else:
        zone = field.lungs & (field.height < rng.uniform(0.2, 0.6))
    return zone if zone.any() else field.lungs


def _vessels(field: LungField) -> Mask:
    """Near vessels."""
    dense = ((field.hu > -500) & field.lungs).astype(np.uint8)
    return cv2.dilate(dense, np.ones((3, 3), np.uint8)) > 0


def _spots(field: LungField, where: Mask, count: int, radius_mm: tuple[float, float], hu: float) -> None:
    """Small round nodules."""
    if not where.any():
        return
    radii = field.rng.uniform(*radius_mm, count)
    spots = pack_cysts(field, where, radii, closeness=0.6, warp_mm=0.15, warp_scale_mm=3, reach_mm=0.5)
    field.paint(hu, coverage(-spots.nearest, field.mm))


def _tree_in_bud_cluster(field: LungField, where: Mask) -> None:
    rng = field.rng
    cluster = field.lungs & (field.blob(where, 10 ** rng.uniform(2, 3.2), 0.8) > 0)
    if not cluster.any():
        return
    hu = rng.uniform(-300, 20)
    branches = Course(radius_mm=(0.5, 0.9), length_mm=(4, 12), cut_across=0.0, beading=0.3, wander=0.3, taper=0.3)
    inside = tubes(field, cluster, int(rng.integers(3, 14)), branches)
    field.paint(hu, coverage(-inside, field.mm))
    _spots(field, cluster, int(rng.integers(10, 70)), (0.7, 1.9), hu)
    if rng.random() < 0.4:
        haze: Image = logistic((field.blob(cluster, rng.uniform(100, 900), 1) + 1) / 2)
        field.brighten(haze * rng.uniform(50, 350))
