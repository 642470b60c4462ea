"""The scorecard beside the panes: does the map agree with the annotation, and what is the margin made of? HTML strings only.

Few numbers are large; the rest stands in a table that is one click away. Every number has its chance value beside it and its
definition in a tooltip. An undefined number is a dash with its reason, never a 0.
"""

import base64
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ipfvision.core.agreement import Agreement
from ipfvision.core.annotation import OnSlice
from ipfvision.core.evidence import EvidenceBudget
from ipfvision.core.findings import ModelCard
from ipfvision.core.plausibility import Plausibility
from ipfvision.core.profile import Disagreement, ProfileRow
from ipfvision.core.trust import Trust, Verdict
from ipfvision.ui.markup import TARGET_WORDS, number, plural, share, signed
from ipfvision.workflow.scoring import Scored

DASH = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    value: str
    chance: str
    definition: str


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.0f} %"


def _decimal(value: float | None, digits: int = 2, unit: str = "") -> str:
    return DASH if value is None else number(value, digits) + unit


def _card(name: str, value: str, below: str, definition: str, kind: str = "") -> str:
    return (
        f'<div class="ipf-card {kind}" title="{escape(definition)}"><span>{escape(name)}</span><strong>{escape(value)}</strong>'
        f"<small>{escape(below)}</small></div>"
    )


def large_numbers(agreement: Agreement) -> str:
    """Pointing hit, enrichment, and the share of the map inside the annotation, each with what chance would give."""
    hit = agreement.pointing_hit
    pointing = DASH if hit is None else "Hit" if hit else "Miss"

    def by(chance: float | None) -> str:
        if chance is None:
            return "chance unknown"
        return "more is annotated than there is lung" if chance > 1 else f"by chance {_percent(chance)}"

    cards = [
        _card(
            "Strongest point on the annotation", pointing, by(agreement.pointing_chance),
            "Pointing game: is the map's largest value inside the annotation? Chance: the annotation's share of the lung.",
            "" if hit is None else "good" if hit else "bad",
        ),
        _card(
            "Enrichment", _decimal(agreement.enrichment, 1, " \N{MULTIPLICATION SIGN}"),
            "by chance 1.0 \N{MULTIPLICATION SIGN}",
            "How many times denser the map is inside the annotation than if it were spread evenly over the lung.",
        ),
        _card(
            "Share of the map inside", _percent(agreement.mass), by(agreement.rank_chance),
            "Energy-based pointing game: the part of the map's positive evidence that lies inside the annotation.",
        ),
    ]  # fmt: skip
    return f'<div class="ipf-cards">{"".join(cards)}</div>'


def why_undefined(scored: Scored) -> list[str]:
    """Sentences for the dashes."""
    found = []
    if scored.agreement is not None:
        if scored.agreement.mass is None and scored.agreement.pointing_hit is None:
            found.append("Nothing is annotated on this slice: agreement is not defined.")
        elif scored.agreement.mass is None:
            found.append("The map is empty, or only points and boxes are annotated: overlaps are not defined.")
        if scored.agreement.lung_reason is not None:
            found.append(f"Chance and enrichment are not given: {scored.agreement.lung_reason}")
    return found


def agreement_rows(agreement: Agreement) -> list[Row]:
    """Every number of agreement, with its chance and its definition."""
    chance = _percent(agreement.rank_chance)
    return [
        Row("Rank accuracy", _percent(agreement.rank_accuracy), chance,
            "Of the pixels where the map is strongest, as many as are annotated: the share that lies in the annotation."),
        Row("IoU at half the peak", _decimal(agreement.iou_at_half), DASH,
            "Area where the map is at least half its peak, and the annotation: intersection over union."),
        Row("Dice at half the peak", _decimal(agreement.dice_at_half), DASH, "The same, as Dice: 2 IoU / (1 + IoU)."),
        Row("IoU on the map's own cells", _decimal(agreement.iou_cells), DASH,
            "The same with the annotation pooled to the map's cells: how much of a low IoU is the grid's fault."),
        Row("Pixel AUROC inside the lung", _decimal(agreement.auroc), "0.50",
            "Chance that an annotated lung pixel has a higher map value than one that is not annotated."),
        Row("Average precision inside the lung", _decimal(agreement.average_precision),
            _decimal(agreement.average_precision_chance),
            "Area under the precision-recall curve of the map against the annotation."),
        Row("Lesions found", _percent(agreement.lesion_recall), DASH,
            "Annotated regions of at least 10 mm\N{SUPERSCRIPT TWO} that the map covers somewhere at half its peak."),
        Row("False regions", DASH if agreement.false_regions is None else str(agreement.false_regions), DASH,
            "Regions of the map at half its peak that touch no annotation."),
        Row("Peak to annotation", _decimal(agreement.distance_mm, 1, " mm"), DASH,
            "From the map's largest value to the nearest annotated pixel."),
        Row("95th percentile Hausdorff distance", _decimal(agreement.hd95_mm, 1, " mm"), DASH,
            "Between the outlines of the annotation and of the map at half its peak."),
    ]  # fmt: skip


def plausibility_rows(found: Plausibility) -> list[Row]:
    """Where the map lies, without an annotation."""
    return [
        Row("Outside the lungs", _percent(found.outside_lung_mass), DASH, "Part of the map outside the lung mask."),
        Row("Within 10 mm of the pleura", _percent(found.subpleural_share), DASH, "Part of the map in the subpleural rim."),
        Row("Right lung, left lung", f"{_percent(found.right_share)}, {_percent(found.left_share)}", DASH,
            "Parts of the map in the patient's right and left lung."),
    ]  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The table, definitions as tooltips and as text for screen readers."""
    lines = "".join(
        f'<tr title="{escape(row.definition)}"><th scope="row">{escape(row.name)}<small>{escape(row.definition)}</small></th>'
        f"<td>{escape(row.value)}</td><td>{escape(row.chance)}</td></tr>"
        for row in rows
    )
    return (
        f'<table class="ipf-table"><thead><tr><th></th><th>value</th><th>chance</th></tr></thead><tbody>{lines}</tbody></table>'
    )


PARTS = (
    (
        "bias",
        "Constant",
        "The model's bias: where it starts from before it looks. Healthy lung then pulls the sum down, disease up.",
    ),
    ("padding", "Padding", "From the part of the model's input that lies beyond the slice."),
    ("outside_lung", "Outside the lungs", "From pixels of the slice outside the lung mask."),
    ("other_lung", "Lung, not annotated", "From lung outside the annotation."),
    ("annotated", "Annotated", "From inside the annotation."),
)


def margin_called_ipf(card: ModelCard) -> float:
    """The margin in logits from which a slice is called IPF: the operating point before calibration."""
    share = min(max(card.operating_point, 1e-6), 1 - 1e-6)
    return card.temperature * math.log(share / (1 - share))


def budget(found: EvidenceBudget, card: ModelCard) -> str:
    """The margin as the sum of its parts, in logits: each bar begins where the one before ended, and the last ends there."""
    parts = [(name, words, why, value) for name, words, why in PARTS if (value := getattr(found, name)) is not None]
    ends = [0.0]
    for *_, value in parts:
        ends.append(ends[-1] + value)
    operating = margin_called_ipf(card)
    low, high = min(0.0, operating, *ends), max(0.0, operating, *ends)
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return 100 * (value - low) / span

    lines = ""
    for (name, words, why, value), start, end in zip(parts, ends, ends[1:], strict=False):
        left, width = at(min(start, end)), max(100 * abs(value) / span, 0.4)
        lines += (
            f'<div class="part" title="{escape(why)}"><span>{escape(words)}</span><div class="lane">'
            f'<i class="{name}" style="left:{left:.2f}%;width:{width:.2f}%"></i>'
            f'<u style="left:{at(end):.2f}%"></u></div><b>{signed(value)}</b></div>'
        )
    lines += (
        '<div class="part sum"><span>Margin</span><div class="lane">'
        f'<i class="margin" style="left:{at(min(0, found.margin)):.2f}%;width:{100 * abs(found.margin) / span:.2f}%"></i>'
        f'<u class="from" style="left:{at(operating):.2f}%"></u></div><b>{signed(found.margin)}</b></div>'
    )
    said = (
        "Logits; they add up to the margin. Each bar begins where the one above ends: to the right it speaks for "
        f"{TARGET_WORDS['ipf']}, to the left for {TARGET_WORDS['normal']}. Dashed: from {signed(operating)} on the answer is "
        "IPF."
    )
    if found.lung_reason is not None:
        said += f" What lies in the lungs and what outside cannot be told apart here: {found.lung_reason}"
    heading_ = '<p class="ipf-heading">What the margin is made of</p>'
    return f'{heading_}<div class="ipf-budget">{lines}<p>{escape(said)}</p></div>'


def heading(given: Sequence[OnSlice] | None, target: str) -> str:
    """What is compared with what, and how the annotations came to this slice."""
    if given is None:
        said = "No annotation is open: drop one in the side bar, or draw one in the viewer."
        return f'<p class="ipf-heading">The map against an annotation</p><p class="ipf-quiet">{said}</p>'
    origins = Counter(f"{one.said.origin or one.said.reader}, matched by {one.said.matched_by}" if one.said.matched_by
                      else one.said.origin or one.said.reader for one in given)  # fmt: skip
    said = "; ".join(f"{many} \N{MULTIPLICATION SIGN} {words}" if many > 1 else words for words, many in origins.items())
    said = said or "Nothing is annotated on this slice."
    name = f"The map for {TARGET_WORDS[target]} against {plural(len(given), 'annotation')}"
    return f'<p class="ipf-heading">{escape(name)}</p><p class="ipf-quiet">{escape(said)}</p>'


def shortcut(sentence: str) -> str:
    """A warning above the panes."""
    return f'<div class="ipf-shortcut" role="alert"><b>Marks on the picture.</b> {escape(sentence)}</div>'


def trust_words() -> str:
    """Before the checks are made."""
    return (
        '<p class="ipf-quiet">Four checks: random weights must change the map; hiding what it calls important must change the '
        "answer; the annotation must matter more than other lung; the same slice read again must give the same map. They take "
        "some ten seconds.</p>"
    )


def trust(found: Trust) -> str:
    """Verdict and sentence of each check; a word and a shape, not a color alone."""
    checks = (
        ("Random weights", found.randomization),
        ("Hidden pixels", found.faithfulness),
        ("Hidden annotation", found.occlusion),
        ("Read again", found.repeatability),
    )
    words = {Verdict.PASSED: "passed", Verdict.FAILED: "failed", Verdict.UNDEFINED: "not possible"}
    lines = "".join(
        f'<li class="{one.verdict.value}"><b>{escape(name)}: {words[one.verdict]}</b><br>{escape(one.sentence)}</li>'
        for name, one in checks
    )
    return f'<ul class="ipf-list ipf-trust">{lines}</ul>'


KINDS = {
    Disagreement.MISSED: "annotated, called normal",
    Disagreement.UNMARKED: "not annotated, called IPF",
    Disagreement.ELSEWHERE: "evidence elsewhere",
    Disagreement.UNSURE: "uncertain",
    Disagreement.UNREAD: "annotated, not read",
    Disagreement.NONE: "agree",
    Disagreement.NOT_COMPARED: "not annotated",
}


def disagreement_words(row: ProfileRow) -> str:
    """For a button that goes to the slice."""
    probability = row.prediction.probability
    return f"Slice {row.index + 1}: {KINDS[row.disagreement]}" + ("" if probability is None else f" ({share(probability)})")


def worst_heading() -> str:
    """Above the worst disagreements of a series."""
    return '<p class="ipf-heading">Worst disagreements first</p>'


def profile(rows: Sequence[ProfileRow], count: int, current: int) -> str:
    """Three curves along a series: probability, evidence inside the annotation, share of the map inside."""
    step = 1000 / max(1, count - 1)
    inside = [(row.index, None if row.budget is None else row.budget.annotated) for row in rows]
    largest = max((abs(value) for _, value in inside if value is not None), default=0.0) or 1.0
    curves = (
        ("#ffb05c", [(row.index, row.prediction.probability) for row in rows]),
        ("#48dbfb", [(row.index, None if row.agreement is None else row.agreement.mass) for row in rows]),
        ("#7dff8a", [(index, None if value is None else 0.5 + value / largest / 2) for index, value in inside]),
    )
    drawn = '<path fill="none" stroke="#4a5560" d="M0 1 H1000 M0 50 H1000 M0 99 H1000" vector-effect="non-scaling-stroke"/>'
    for color, values in curves:
        path, last = "", -2
        for index, value in values:
            if value is None:
                continue
            path += f"{'L' if index == last + 1 else 'M'}{index * step:.1f} {99 - 98 * min(max(value, 0), 1):.1f} "
            if index != last + 1:
                path += f"L{index * step:.1f} {99 - 98 * min(max(value, 0), 1):.1f} "
            last = index
        drawn += (
            f'<path fill="none" stroke="{color}" stroke-width="2.5" stroke-linecap="round" stroke-linejoin="round" '
            f'vector-effect="non-scaling-stroke" d="{path}"/>'
        )
    drawn += f'<path stroke="#f4f7fa" stroke-width="2" vector-effect="non-scaling-stroke" d="M{current * step:.1f} 0 V100"/>'
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 100" preserveAspectRatio="none" width="1000" height="100">'
        f"{drawn}</svg>"
    )
    image = f'<img src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" alt="{_profile_said(rows)}">'
    return (
        f'<p class="ipf-heading">Along the series</p><div class="ipf-profile">{image}<p>'
        '<b style="color:#ffb05c">Orange</b>: probability of IPF, 0 to 1. '
        '<b style="color:#48dbfb">Blue</b>: share of the map inside the annotation, 0 to 1. '
        '<b style="color:#7dff8a">Green</b>: evidence inside the annotation, '
        f"{signed(-largest, 1)} to {signed(largest, 1)} logits, 0 in the middle. White: this slice.</p></div>"
    )


def _profile_said(rows: Sequence[ProfileRow]) -> str:
    compared = [row for row in rows if row.disagreement < Disagreement.NOT_COMPARED]
    worse = sum(row.disagreement < Disagreement.NONE for row in compared)
    return f"{plural(len(compared), 'slice')} compared, of which {worse} disagree"
