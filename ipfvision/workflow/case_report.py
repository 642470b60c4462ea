"""The page and the figure of a case: what stands on them. No patient is named on either."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ipfvision import __version__
from ipfvision.case_page import (
    CasePage,
    ColorBar,
    Facts,
    Legend,
    Outline,
    Pane,
    Part,
    Scale,
    Spot,
    Table,
    draw_figure,
    write_pdf,
    write_png,
)
from ipfvision.core.agreement import HALF, Agreement
from ipfvision.core.annotation import Annotation, BoxAnnotation, Finding, OnSlice, PointAnnotation
from ipfvision.core.evidence import EvidenceBudget
from ipfvision.core.findings import Decision, Explanation, in_two_digits
from ipfvision.core.orientation import edges
from ipfvision.core.overlay import display_grey, overlay
from ipfvision.core.plausibility import Plausibility
from ipfvision.core.review import Opinion
from ipfvision.core.slice import PixelSpacing, Slice
from ipfvision.core.slice import Scale as PixelScale
from ipfvision.core.window import Window
from ipfvision.images import write_png as write_image
from ipfvision.workflow.reading import Reading, full_scale, picture
from ipfvision.workflow.sent_case import PROGRAM, SentCase, SentSlice, map_region, map_words

RESEARCH = "Research use only. Not a medical device, not a diagnosis."
BANNER = f"{RESEARCH} It tells IPF from normal lung, and nothing else."
OPACITY, THRESHOLD = 0.6, 0.1
"""As `ipfvision.workflow.reading.picture` draws by default: the page says which."""
FINDING_COLORS: Mapping[Finding, str] = MappingProxyType(
    {
        Finding.HONEYCOMBING: "#48dbfb",
        Finding.SUBPLEURAL_CYSTS: "#7dff8a",
        Finding.TRACTION_BRONCHIECTASIS: "#ff7ac6",
        Finding.RETICULATION: "#ffe14d",
        Finding.GROUND_GLASS: "#b9a3ff",
        Finding.OTHER: "#ffffff",
    }
)
"""As in the viewer."""
MAP_COLOR = "#ff9a3c"
WORDS = {
    Decision.IPF: "IPF-like",
    Decision.NORMAL: "Normal-like",
    Decision.UNCERTAIN: "Uncertain",
    Decision.REFUSED: "Not read",
}
DASH = "\N{EN DASH}"
BAR_MM = (200, 100, 50, 20, 10, 5, 2, 1)


def case_pdf(case: SentCase, index: int | None = None) -> bytes:
    """One page of a case, about one slice of it; the key slice unless another is named."""
    return write_pdf(case_page(case, index))


def case_page_png(case: SentCase, index: int | None = None) -> bytes:
    """The same page as a picture."""
    return write_png(case_page(case, index))


def case_figure(case: SentCase, index: int | None = None) -> bytes:
    """`case_picture` as a PNG file, without any metadata."""
    return write_image(case_picture(case, index))


def case_picture(case: SentCase, index: int | None = None) -> npt.NDArray[np.uint8]:
    """Slice, map over it, and annotations, side by side: each pixel of the slice is at least one of the picture.

    Returns
    -------
    (H, W, 3) RGB: what `ipfvision.workflow.sending_dicom` puts into a Secondary Capture.
    """
    one = case.slices[case.key if index is None else index]
    prediction = one.reading.prediction
    heading = WORDS[prediction.decision]
    if prediction.probability is not None:
        heading += f", calibrated probability of IPF against normal lung {in_two_digits(prediction.probability)}"
    return draw_figure(_panes(case, one), heading, f"{RESEARCH} Model {case.card.name}, SHA-256 {case.card.sha256[:12]}.")


def case_page(case: SentCase, index: int | None = None) -> CasePage:
    """What the page says."""
    chosen = case.key if index is None else index
    one = case.slices[chosen]
    prediction = one.reading.prediction
    scale = None
    if prediction.probability is not None:
        share = in_two_digits(prediction.probability)
        scale = Scale(prediction.probability, case.card.uncertain_band, "0: normal lung", f"1: IPF; here {share}, calibrated")
    parts_note = "The slice was not read, so there is no evidence to divide."
    if one.scored.evidence is not None:
        parts_note = (
            "In logits; each bar begins where the one above ended. To the right it speaks for IPF, to the left for normal lung."
        )
        if one.scored.evidence.lung_reason is not None:
            parts_note += f" What lies in the lungs and what outside cannot be told apart: {one.scored.evidence.lung_reason}"
    return CasePage(
        title="Case report",
        right=f"{PROGRAM} {__version__}, {case.made:%Y-%m-%d %H:%M} UTC",
        banner=BANNER,
        answer=WORDS[prediction.decision],
        reason=prediction.reason,
        scale=scale,
        panes=_panes(case, one),
        scores=_scores(one),
        parts=_parts(one.scored.evidence),
        parts_title="What the margin is made of",
        parts_note=parts_note,
        said=_said(case),
        facts=_facts(case, chosen),
        warnings=one.reading.warnings if one.reading.shortcut is None else (one.reading.shortcut, *one.reading.warnings),
    )


def _panes(case: SentCase, one: SentSlice) -> tuple[Pane, ...]:
    reading = one.reading
    scan, explanation = reading.scan, reading.explanations.get(case.target)
    grey = np.repeat(display_grey(scan, case.window)[:, :, None], 3, axis=2)
    aspect = 1.0 if scan.spacing is None else scan.spacing.row_mm / scan.spacing.column_mm
    letters = None
    if scan.plane is not None:
        found = edges(scan.plane)
        letters = (found.left, found.right, found.top, found.bottom)
    bar = _bar(scan.spacing, scan.shape[1])
    shown = _window_words(case.window) if scan.scale is PixelScale.HOUNSFIELD else "grey values as they came"
    plain = Pane(grey, f"CT, {shown}", aspect, letters, bar)
    mapped = _map_pane(case, reading, explanation, aspect, letters)
    return plain, mapped, replace(_drawn_pane(case, one, explanation, grey, aspect), edges=letters)


def _map_pane(
    case: SentCase, reading: Reading, explanation: Explanation | None, aspect: float, letters: tuple[str, str, str, str] | None
) -> Pane:
    image = picture(case.card, reading, case.target, window=case.window, opacity=OPACITY, threshold=THRESHOLD)
    if explanation is None:
        return Pane(image, "No map: the slice was not read", aspect, letters)
    full = full_scale(case.card, explanation)
    unit = "logits" if explanation.unit == "logits" else "no unit"
    ramp = np.linspace(0, full, 256, dtype=np.float32)[None]
    colors = overlay(np.full(ramp.shape, 110, np.uint8), ramp, full, OPACITY, THRESHOLD)[0]
    rows, columns = explanation.cells.shape
    cell = explanation.crop.width / columns, explanation.crop.height / rows
    peak = "empty" if explanation.peak == 0 else f"peak {_number(explanation.peak)}"
    return Pane(
        image,
        f"{map_words(explanation)}, {peak}",
        aspect,
        letters,
        cell=cell,
        colors=ColorBar(colors, f"0; drawn from {_number(THRESHOLD * full)}", f"{_number(full)} {unit} and more"),
    )


def _drawn_pane(
    case: SentCase, one: SentSlice, explanation: Explanation | None, grey: npt.NDArray[np.uint8], aspect: float
) -> Pane:
    outlines: list[Outline] = []
    spots: list[Spot] = []
    legend: list[Legend] = []
    if explanation is not None and explanation.peak > 0:
        outlines.append(Outline(map_region(explanation), MAP_COLOR, is_dashed=True))
        legend.append(Legend(MAP_COLOR, f"map, at least {100 * HALF:.0f} % of its peak", is_dashed=True))
    named: dict[Finding, list[OnSlice]] = {}
    for given in one.annotations or ():
        named.setdefault(given.said.finding, []).append(given)
    for finding, several in named.items():
        color = FINDING_COLORS[finding]
        legend.append(Legend(color, finding.value if finding is not Finding.OTHER else "other annotation"))
        for given in several:
            match given:
                case Annotation():
                    outlines.append(Outline(given.mask, color))
                case PointAnnotation():
                    spots.append(Spot(given.x, given.y, color))
                case BoxAnnotation():
                    spots.append(Spot(given.left, given.top, color, given.right - given.left, given.bottom - given.top))
    by = f"Drawn by {case.reader}" if case.reader else "Annotations"
    title = "No annotation" if one.annotations is None else "Nothing was drawn" if not one.annotations else by
    return Pane(grey, title, aspect, outlines=tuple(outlines), spots=tuple(spots), legend=tuple(legend[:4]))


def _bar(spacing: PixelSpacing | None, columns: int) -> tuple[float, str] | None:
    """A scale bar of at most a third of the picture."""
    if spacing is None:
        return None
    length = next((mm for mm in BAR_MM if mm <= columns * spacing.column_mm / 3), BAR_MM[-1])
    return length / spacing.column_mm, f"{length} mm"


def _scores(one: SentSlice) -> Table:
    agreement, found = one.scored.agreement, one.scored.plausibility
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    if agreement is not None:
        rows += _agreement_rows(agreement)
        notes += _why(agreement)
    else:
        notes.append("No annotation was given, so agreement is not defined.")
    if found is not None:
        rows += _plausibility_rows(found)
    notes.append(f"Overlaps and regions at {100 * HALF:.0f} % of the map's peak. {DASH}: not defined here.")
    return Table("The map against what was drawn", ("", "value", "by chance"), tuple(rows), tuple(notes))


def _agreement_rows(found: Agreement) -> list[tuple[str, ...]]:
    chance = _percent(found.rank_chance)
    hit = DASH if found.pointing_hit is None else "yes" if found.pointing_hit else "no"
    regions = DASH if found.false_regions is None else str(found.false_regions)
    return [
        ("Peak on the annotation", hit, _percent(found.pointing_chance)),
        ("Share of the map inside", _percent(found.mass), chance),
        ("Enrichment", DASH if found.enrichment is None else f"{found.enrichment:.1f} \N{MULTIPLICATION SIGN}", "1.0"),
        ("Rank accuracy", _percent(found.rank_accuracy), chance),
        ("Dice", _decimal(found.dice_at_half), ""),
        ("Intersection over union", _decimal(found.iou_at_half), ""),
        ("The same on the map's own cells", _decimal(found.iou_cells), ""),
        ("Pixel AUROC inside the lungs", _decimal(found.auroc), "0.50"),
        ("Lesions found", _percent(found.lesion_recall), ""),
        ("Regions of the map off any annotation", regions, ""),
        ("Peak to the annotation, mm", _decimal(found.distance_mm, 1), ""),
        ("95th percentile Hausdorff, mm", _decimal(found.hd95_mm, 1), ""),
    ]


def _plausibility_rows(found: Plausibility) -> list[tuple[str, ...]]:
    return [
        ("Map outside the lungs", _percent(found.outside_lung_mass), ""),
        ("Map within 10 mm of the pleura", _percent(found.subpleural_share), _percent(found.subpleural_chance)),
    ]


def _why(found: Agreement) -> list[str]:
    """Sentences for the dashes."""
    if found.annotated is None:
        return ["Nothing is annotated on this slice: agreement is not defined."]
    if not found.annotated:
        return ["A reader looked and marked nothing on this slice: overlaps are not defined."]
    if found.no_evidence:
        return ["The map is empty: there is nothing that could lie in the annotation."]
    if found.lung_reason is not None:
        return [f"Chance and enrichment are not known: {found.lung_reason}"]
    return []


def _parts(found: EvidenceBudget | None) -> tuple[Part, ...]:
    if found is None:
        return ()
    lung = "Lungs" if found.annotated is None else "Lung, not annotated"
    parts = [
        Part("Constant", found.bias, _signed(found.bias)),
        Part("Padding", found.padding, _signed(found.padding)),
        Part("Outside lungs", found.outside_lung, _signed(found.outside_lung)),
        Part(lung, found.other_lung, _signed(found.other_lung)),
    ]
    if found.annotated is not None:
        parts.append(Part("Annotated", found.annotated, _signed(found.annotated)))
    return (*parts, Part("Margin", found.margin, _signed(found.margin), is_total=True))


def _said(case: SentCase) -> Facts:
    rows: list[tuple[str, str]] = []
    if case.reader is not None:
        rows.append(("Reader", f"{case.reader} (as typed in)"))

    def opinion(when: str, one: Opinion | None) -> None:
        if one is not None:
            rows.append((when, f"{one.diagnosis.value}; confidence {one.confidence} of 5"))
            if one.comment:
                rows.append(("Comment", one.comment))

    opinion("Before the answer", case.first)
    opinion("With the answer", case.revised)
    if case.judgment is not None:
        verdict = case.judgment.verdict.value
        reasons = ", ".join(reason.value for reason in case.judgment.reasons)
        rows.append(("The map", f"{verdict}: {reasons}" if reasons else verdict))
        if case.judgment.text:
            rows.append(("On the map", case.judgment.text))
    if not rows or (case.revised is None and case.first is None and case.judgment is None):
        rows.append(("", "No verdict was given on this case."))
    return Facts("What the reader says", tuple(rows))


def _facts(case: SentCase, index: int) -> Facts:
    one, card = case.slices[index], case.card
    scan, explanation = one.reading.scan, one.reading.explanations.get(case.target)
    rows = [("Model", f"{card.name} ({card.status})"), ("Weights, SHA-256", card.sha256)]
    margin = one.reading.prediction.margin
    low, high = card.uncertain_band
    rows.append(("Thresholds", f"IPF-like from {card.operating_point:.2f}; uncertain {low:.2f} to {high:.2f}"))
    if margin is not None:
        rows.append(("Margin", f"{_signed(margin)} logits, temperature {card.temperature:.2f}"))
    if scan.scale is PixelScale.HOUNSFIELD:
        rows.append(("Model's window", _window_words(card.window)))
    rows.append(("Model's input", f"{card.input_shape[1]} \N{MULTIPLICATION SIGN} {card.input_shape[0]} pixels"))
    if explanation is not None:
        cell = explanation.cell_mm(scan.spacing)
        rows.append(("Map", f"{map_words(explanation)}, {explanation.layer}"))
        size = "not known: no pixel spacing in the file"
        if cell is not None:
            size = f"{cell[0]:.0f} \N{MULTIPLICATION SIGN} {cell[1]:.0f} mm: nothing smaller can be located"
        rows.append(("Cell", size))
    rows += _scan_rows(scan)
    if len(case.slices) > 1:
        rows.append(("Slice", f"{index + 1} of {len(case.slices)} of this case; {_answers(case.slices)}"))
    return Facts("Where this comes from", tuple(rows))


def _scan_rows(scan: Slice) -> list[tuple[str, str]]:
    """Of the file, what cannot name a patient: numbers and hashes."""
    rows = [("Pixels, SHA-256", scan.source.pixel_sha256)]
    if scan.spacing is not None:
        spacing = f"{scan.spacing.row_mm:.3f} \N{MULTIPLICATION SIGN} {scan.spacing.column_mm:.3f} mm"
        thickness = "" if scan.thickness_mm is None else f", {scan.thickness_mm:.3g} mm thick"
        rows.append(("Pixel size", spacing + thickness))
    if scan.source.sop_instance_uid is not None:
        frame = "" if scan.source.frame is None else f", frame {scan.source.frame}"
        rows.append(("SOP Instance UID", scan.source.sop_instance_uid + frame))
    return rows


def _answers(slices: Sequence[SentSlice]) -> str:
    decisions = [one.reading.prediction.decision for one in slices]
    return ", ".join(f"{decisions.count(one)} {WORDS[one]}" for one in Decision if one in decisions)


def _window_words(window: Window) -> str:
    return f"window {_number(window.center, 0)} / {_number(window.width, 0)} HU"


def _number(value: float, digits: int = 1) -> str:
    """A number with a real minus sign, and no "-0.0"."""
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", "\N{MINUS SIGN}")


def _signed(value: float) -> str:
    text = _number(value, 2)
    return text if text.startswith("\N{MINUS SIGN}") or float(text) == 0 else "+" + text


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.0f} %"


def _decimal(value: float | None, digits: int = 2) -> str:
    return DASH if value is None else _number(value, digits)
