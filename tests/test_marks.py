"""Marks drawn on pictures: found, told apart, filled in, and not taken for the disease."""

import json
import math
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ipfvision import images
from ipfvision.core.annotation import Annotation, Finding, PointAnnotation
from ipfvision.core.findings import Decision, Prediction
from ipfvision.core.lungs import Lungs, find_lungs
from ipfvision.core.marks import Mark, MarkKind, as_annotations, fill_in, find_marks
from ipfvision.core.slice import Scale, Slice, Source, grey
from ipfvision.core.window import LUNG
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.reading import Reader, _shortcut, result

Mask = npt.NDArray[np.bool_]
FIGURE = "figures/ipf_honeycombing_arrows_orphanet_2008_fig2.jpeg"
COLORS = [(255, 0, 0), (255, 255, 0), (0, 200, 255), (0, 255, 0), (255, 0, 255)]
KINDS = {
    "arrow": MarkKind.ARROW,
    "open arrow": MarkKind.ARROW,
    "triangle": MarkKind.ARROWHEAD,
    "notched arrowhead": MarkKind.ARROWHEAD,
    "ellipse": MarkKind.CIRCLE,
    "box": MarkKind.CIRCLE,
}


@cache
def chest(seed: int) -> tuple[Slice, Lungs]:
    """A drawn chest in a lung window, as an 8-bit picture."""
    thorax = draw_thorax(np.random.default_rng(seed), level=(0.4, 0.55, 0.7, 0.85)[seed % 4], size=512)
    hu = Slice(thorax.pixels, Scale.HOUNSFIELD, Source("x", "DICOM", "0"), np.zeros(thorax.pixels.shape, np.bool_))
    scan = images.read(images.write_png(np.rint(grey(hu, LUNG) * 255).astype(np.uint8)), "x")
    return scan, find_lungs(scan)


@dataclass(frozen=True)
class Drawn:
    content: bytes
    kind: str
    color: str
    pixels: Mask
    tip: tuple[float, float] | None
    region: Mask | None
    share_seen: float
    """Share of the mark that differs from what it covers by more than 60 of 255."""

    @property
    def is_plain_to_see(self) -> bool:
        return self.share_seen > 0.7


def draw(seed: int) -> Drawn:
    """A mark of any kind and color with its tip or middle in the lungs, as PNG or JPEG."""
    rng = np.random.default_rng(seed)
    scan, lungs = chest(seed % 4)
    before = np.rint(scan.pixels * 255).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    canvas, width = before.copy(), scan.shape[1]
    kind = str(rng.choice(list(KINDS)))
    color = str(rng.choice(["white", "black", "color"]))
    rgb = {"white": (255,) * 3, "black": (0,) * 3, "color": COLORS[int(rng.integers(len(COLORS)))]}[color]
    rows, columns = np.nonzero(lungs.mask)
    at = int(rng.integers(len(rows)))
    tip = np.array([columns[at], rows[at]], float)
    angle, thick, length = rng.uniform(0, 2 * math.pi), int(rng.integers(1, 5)), max(18.0, rng.uniform(0.02, 0.1) * width)
    along = np.array([math.cos(angle), math.sin(angle)])
    aside = np.array([-along[1], along[0]])
    region = None

    def fill(*corners: npt.NDArray[np.float64]) -> None:
        cv2.fillPoly(canvas, [np.rint(np.array(corners) * 16).astype(np.int32)], rgb, cv2.LINE_AA, 4)

    if kind == "arrow":
        head = rng.uniform(0.3, 0.5) * length
        half, shaft = max(rng.uniform(0.25, 0.45) * head + 1, thick * 1.2 + 2), max(0.7, thick / 2)
        neck, end, back = tip + along * head * rng.uniform(0.75, 1), tip + along * length, tip + along * head
        fill(
            tip,
            back + aside * half,
            neck + aside * shaft,
            end + aside * shaft,
            end - aside * shaft,
            neck - aside * shaft,
            back - aside * half,
        )
    elif kind == "open arrow":
        begin = tuple(int(value) for value in tip + along * length)
        tip = np.array([int(value) for value in tip], float)
        cv2.arrowedLine(
            canvas, begin, tuple(int(value) for value in tip), rgb, thick, cv2.LINE_AA, tipLength=rng.uniform(0.25, 0.5)
        )
    elif KINDS[kind] is MarkKind.ARROWHEAD:
        half, back = rng.uniform(0.25, 0.45) * length, tip + along * length
        notch = [tip + along * length * rng.uniform(0.6, 0.8)] if kind == "notched arrowhead" else []
        fill(tip, back + aside * half, *notch, back - aside * half)
    else:
        x, y = (int(value) for value in tip)
        a, b = (int(rng.uniform(0.02, 0.12) * width) + 4 for _ in range(2))
        inside = np.zeros(scan.shape, np.uint8)
        if kind == "ellipse":
            turn = rng.uniform(0, 180)
            cv2.ellipse(canvas, (x, y), (a, b), turn, 0, 360, rgb, thick, cv2.LINE_AA)
            cv2.ellipse(inside, (x, y), (a, b), turn, 0, 360, (1,), cv2.FILLED)
        else:
            cv2.rectangle(canvas, (x - a, y - b), (x + a, y + b), rgb, thick)
            cv2.rectangle(inside, (x - a, y - b), (x + a, y + b), (1,), cv2.FILLED)
        region = inside > 0
    pixels = (canvas != before).any(axis=2)
    seen = np.abs(canvas.astype(int) - before).max(axis=2)[pixels] > 60
    if rng.random() < 0.4:
        content = cv2.imencode(".jpg", canvas[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(80, 96))])[1].tobytes()
    else:
        content = images.write_png(canvas)
    pointed = None if region is not None else (float(tip[0]) + 0.5, float(tip[1]) + 0.5)
    return Drawn(content, kind, color, pixels, pointed, region, float(seen.mean()))


def iou(first: Mask, second: Mask) -> float:
    return float((first & second).sum() / (first | second).sum())


def found_in(drawn: Drawn) -> tuple[Slice, tuple[Mark, ...]]:
    scan = images.read(drawn.content, "x")
    return scan, find_marks(scan, find_lungs(scan))


@pytest.mark.slow
def test_drawn_marks_are_found_with_their_kind_tip_and_region() -> None:
    recall: dict[str, list[bool]] = {}
    tip_errors, overlaps, regions, false = [], [], [], 0
    for seed in range(150):
        drawn = draw(seed)
        _, marks = found_in(drawn)
        right = [mark for mark in marks if (mark.pixels & drawn.pixels).sum() > 0.5 * mark.pixels.sum()]
        false += len(marks) - len(right)
        named = [mark for mark in right if mark.kind is KINDS[drawn.kind]]
        if drawn.is_plain_to_see:
            recall.setdefault(KINDS[drawn.kind].value, []).append(bool(named))
        for mark in named:
            overlaps.append(iou(mark.pixels, drawn.pixels))
            if mark.tip is not None and drawn.tip is not None:
                tip_errors.append(math.dist(mark.tip, drawn.tip))
            if mark.region is not None and drawn.region is not None:
                regions.append(iou(mark.region, drawn.region))
    for kind, hits in recall.items():
        assert len(hits) >= 15
        assert np.mean(hits) >= 0.8, kind
    assert false <= 3
    assert np.median(tip_errors) <= 1.5
    assert np.mean(np.array(tip_errors) > 5) <= 0.05
    assert np.median(overlaps) >= 0.75
    assert np.median(regions) >= 0.8


@pytest.mark.parametrize("seed", range(4))
def test_an_unmarked_chest_has_no_marks(seed: int) -> None:
    assert find_marks(*chest(seed)) == ()


def test_hounsfield_units_have_no_black_and_white() -> None:
    hu = np.full((128, 128), -800, np.int16)
    hu[40:80, 60:62] = 3071
    scan = Slice(hu, Scale.HOUNSFIELD, Source("x", "DICOM", "0"), np.zeros(hu.shape, np.bool_))
    assert find_marks(scan) == ()


@pytest.mark.parametrize("color", ["white", "black", "color"])
def test_the_tip_is_the_pointed_end_whichever_way_it_points(color: str) -> None:
    rgb = {"white": (255,) * 3, "black": (0,) * 3, "color": (255, 220, 0)}[color]
    rng = np.random.default_rng(0)
    for angle in np.radians(range(0, 360, 30)):
        canvas = np.clip(rng.normal(90, 6, (200, 200)), 0, 255).astype(np.uint8)[:, :, None].repeat(3, axis=2)
        tip = np.array([100 + 25 * math.cos(angle), 100 + 25 * math.sin(angle)])
        tail = 200 - tip
        aside = np.array([-math.sin(angle), math.cos(angle)])
        neck = tip + (tail - tip) * 0.35
        corners = [tip, neck + 7 * aside, neck + aside, tail + aside, tail - aside, neck - aside, neck - 7 * aside]
        cv2.fillPoly(canvas, [np.rint(np.array(corners) * 16).astype(np.int32)], rgb, cv2.LINE_AA, 4)
        (mark,) = find_marks(images.read(images.write_png(canvas), "x"))
        assert mark.kind is MarkKind.ARROW
        assert mark.tip is not None
        assert math.dist(mark.tip, tip + 0.5) < 2


def test_colored_letters_in_a_row_are_text_and_say_nothing_of_findings() -> None:
    canvas = np.full((400, 400, 3), 60, np.uint8)
    cv2.putText(canvas, "HOLE", (20, 90), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 0), 2, cv2.LINE_AA)
    (mark,) = find_marks(images.read(images.write_png(canvas), "x"))
    assert mark.kind is MarkKind.TEXT
    assert as_annotations([mark]) == ()


def test_a_colored_scribble_is_a_mark_of_no_known_kind() -> None:
    canvas = np.full((160, 160, 3), 60, np.uint8)
    points = np.array([[20, 20], [60, 90], [80, 30], [120, 120], [30, 110]], np.int32)
    cv2.polylines(canvas, [points], isClosed=False, color=(255, 0, 0), thickness=2)
    (mark,) = find_marks(images.read(images.write_png(canvas), "x"))
    assert mark.kind is MarkKind.OTHER
    assert as_annotations([mark]) == ()


def test_a_circle_is_an_area_and_an_arrow_a_point() -> None:
    pixels, region = np.zeros((9, 9), np.bool_), np.zeros((9, 9), np.bool_)
    pixels[2, 2:7], region[4, 4] = True, True
    area, point = as_annotations(
        [Mark(MarkKind.CIRCLE, pixels, region=region), Mark(MarkKind.ARROWHEAD, pixels, tip=(2.5, 2.5))]
    )
    assert isinstance(area, Annotation)
    assert (area.mask == region).all()
    assert isinstance(point, PointAnnotation)
    assert (point.x, point.y) == (2.5, 2.5)
    for one, label in ((area, "circle"), (point, "arrowhead")):
        assert (one.said.finding, one.said.label, one.said.origin) == (Finding.OTHER, label, "burned-in mark")


@pytest.mark.parametrize(
    "parts",
    [
        {"kind": MarkKind.ARROW},
        {"kind": MarkKind.CIRCLE},
        {"kind": MarkKind.TEXT, "tip": (1.0, 1.0)},
        {"kind": MarkKind.OTHER, "region": np.ones((4, 4), np.bool_)},
    ],
)
def test_a_mark_has_the_parts_of_its_kind(parts: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="nothing else has"):
        Mark(pixels=np.ones((4, 4), np.bool_), **parts)  # type: ignore[arg-type]


def test_a_mark_without_pixels_is_none() -> None:
    with pytest.raises(ValueError, match="has pixels"):
        Mark(MarkKind.TEXT, np.zeros((4, 4), np.bool_))


@pytest.mark.parametrize("scale", [Scale.GREY, Scale.HOUNSFIELD])
def test_a_ramp_is_filled_in_as_a_ramp(scale: Scale) -> None:
    ramp = np.tile(np.linspace(0.2, 0.8, 64, dtype=np.float32), (64, 1))
    if scale is Scale.HOUNSFIELD:
        ramp = np.rint(ramp * 1000 - 1000).astype(np.int16)
    whole = Slice(ramp, scale, Source("x", "PNG", "0"), np.zeros(ramp.shape, np.bool_))
    pixels = np.zeros(ramp.shape, np.bool_)
    pixels[30:33, 20:44] = True
    marked = ramp.copy()
    marked[pixels] = marked.max()
    filled = fill_in(replace(whole, pixels=marked), pixels)
    span = float(ramp.max()) - float(ramp.min())
    assert np.abs(filled.pixels.astype(float) - ramp).max() < 0.03 * span
    assert filled.pixels.dtype == ramp.dtype
    far = cv2.dilate(pixels.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0
    assert (filled.pixels[far] == ramp[far]).all()


def test_a_filled_slice_is_the_same_document_and_says_so() -> None:
    scan, _ = chest(0)
    pixels = np.zeros(scan.shape, np.bool_)
    assert fill_in(scan, pixels) is scan
    pixels[200:210, 200:210] = True
    filled = fill_in(scan, pixels)
    assert filled.source == scan.source
    assert "filled in" in filled.warnings[-1]
    with pytest.raises(ValueError, match="like the slice"):
        fill_in(scan, pixels[:10])


def test_filling_in_brings_back_most_of_what_the_mark_took() -> None:
    for seed in range(40):
        drawn = draw(seed)
        scan, marks = found_in(drawn)
        if not marks:
            continue
        clean = chest(seed % 4)[0].pixels
        filled = fill_in(scan, np.logical_or.reduce([mark.pixels for mark in marks])).pixels
        before, after = np.abs(scan.pixels - clean)[drawn.pixels], np.abs(filled - clean)[drawn.pixels]
        if before.mean() > 0.15:
            assert after.mean() < 0.6 * before.mean()


def prediction(decision: Decision, probability: float, margin: float) -> Prediction:
    return Prediction(decision, "", probability, margin)


def test_an_answer_that_changes_with_the_marks_is_a_shortcut(random_model: object) -> None:
    card = replace(random_model().card, temperature=2.0)  # type: ignore[operator]
    normal = prediction(Decision.NORMAL, 0.3, -1.7)
    flipped = _shortcut(normal, prediction(Decision.IPF, 0.7, 1.7), card)
    assert flipped is not None
    assert "normal without" in flipped
    assert "ipf with" in flipped
    assert _shortcut(normal, prediction(Decision.NORMAL, 0.29, -1.8), card) is None
    assert _shortcut(normal, normal, card) is None
    moved = _shortcut(prediction(Decision.NORMAL, 0.1, -4.4), prediction(Decision.NORMAL, 0.3, -1.7), card)
    assert moved is not None
    assert "3 times" in moved
    barely = 2.0 * math.log(3.0)
    for step, flagged in ((barely - 0.01, False), (barely + 0.01, True)):
        sentence = _shortcut(prediction(Decision.NORMAL, 0.1, -5.0), prediction(Decision.NORMAL, 0.2, -5.0 + step), card)
        assert (sentence is not None) is flagged


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.open()


def test_the_answer_is_without_the_marks_and_the_other_is_kept(reader: Reader) -> None:
    drawn = next(one for one in map(draw, range(40)) if one.kind == "notched arrowhead" and found_in(one)[1])
    scan, marks = found_in(drawn)
    reading = reader.read(scan)
    assert [mark.kind for mark in reading.marks] == [mark.kind for mark in marks]
    assert reading.filled is not None
    assert reading.prediction.margin == reader.read(replace(reading.filled, warnings=())).prediction.margin
    assert reading.with_marks is not None
    assert reading.with_marks.margin != reading.prediction.margin
    assert reading.warnings[-1].startswith("Marks drawn")

    (part,) = json.loads(json.dumps(result(reader.card, [reading])))["slices"]
    (mark,) = part["marks"]
    assert set(mark) == {"kind", "x", "y", "bounds"}
    assert drawn.tip is not None
    assert math.dist((mark["x"], mark["y"]), drawn.tip) < 5
    assert part["with_marks"]["margin"] == reading.with_marks.margin
    assert set(part["with_marks"]) == {"probability", "decision", "margin"}
    assert part["shortcut"] is None
    assert part["warnings"][-1].startswith("Marks drawn")


def test_a_picture_without_marks_has_one_answer(reader: Reader) -> None:
    reading = reader.read(chest(0)[0])
    assert (reading.marks, reading.filled, reading.with_marks, reading.shortcut) == ((), None, None, None)
    (part,) = result(reader.card, [reading])["slices"]
    assert (part["marks"], part["with_marks"], part["shortcut"]) == ([], None, None)


def test_the_published_figure_has_two_arrowheads_and_an_arrow(reader: Reader, shared_data: object) -> None:
    """Tips by eye. The disease, not the marks, makes the answer, and the map stays where it was."""
    scan = images.read((shared_data / FIGURE).read_bytes(), "figure")  # type: ignore[operator]
    reading = reader.read(scan)
    kinds = [mark.kind for mark in reading.marks]
    assert kinds == [MarkKind.ARROWHEAD, MarkKind.ARROWHEAD, MarkKind.ARROW]
    for mark, tip in zip(reading.marks, [(52, 459), (185.5, 585.5), (600, 474)], strict=True):
        assert mark.tip is not None
        assert math.dist(mark.tip, tip) < 4
    assert reading.prediction.decision is Decision.IPF
    assert reading.with_marks is not None
    assert reading.with_marks.decision is Decision.IPF
    assert reading.shortcut is None


def test_few_unmarked_real_pictures_get_a_mark(shared_data: object) -> None:
    paths = sorted((shared_data / "lidc").rglob("*.png"))[::16]  # type: ignore[operator]
    paths += sorted((shared_data / "emphysema_normal").iterdir())[::10]  # type: ignore[operator]
    paths += sorted((shared_data / "medpix").iterdir())[::4]  # type: ignore[operator]
    marked = 0
    for path in paths:
        scan = images.read(path.read_bytes(), "x")
        marked += bool(find_marks(scan, find_lungs(scan)))
    assert len(paths) > 30
    assert marked <= 1
