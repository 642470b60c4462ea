"""The scorecard beside the panes: does the map agree with the annotation, and what is the margin made of? HTML strings only.

Few numbers are large; the rest stands in a table that is one click away. Every number has its chance value beside it and its
definition in a tooltip. An undefined number is a dash with its reason, never a 0.
"""

import base64
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ipfvision.core.agreement import Agreement
from ipfvision.core.annotation import Finding, OnSlice, finding_of
from ipfvision.core.evidence import EvidenceBudget
from ipfvision.core.findings import Explanation, ModelCard, in_two_digits
from ipfvision.core.plausibility import Plausibility
from ipfvision.core.profile import Disagreement, ProfileRow
from ipfvision.core.slice import PixelSpacing
from ipfvision.core.trust import Trust, Verdict
from ipfvision.synthetic.case import READER
from ipfvision.ui.markup import TARGET_WORDS, listing, number, plural, refusals, signed
from ipfvision.workflow.annotations import Annotated
from ipfvision.workflow.scoring import Scored

DASH = "\N{EN DASH}"
MARK_ORIGIN = "burned-in mark"
UNMATCHED = (MARK_ORIGIN, "drawn here")
"""These were made on the slice itself."""
WEAK = 0.1
"""Share of full color below which a map is too weak to be drawn, as `ipfvision.workflow.reading.picture` draws it."""
EXAMPLES = "Points and boxes mark examples of a finding: the map may be right in other places too."
LARGER = "larger than the lung"
"""In the place of a chance of more than 1: of the annotation."""
SOME_NAMES = 3
"""Of annotations, that a caution names."""
SOME_REFUSALS = 2
"""Shown in full; the others are one click away."""
DEFINITIONS = {
    "hit": "Pointing game: does the map's largest value lie in the annotation? By chance: the annotation's share of the lung.",
    "mass": "Energy-based pointing game: the part of the map that lies inside the annotation. By chance: the annotation's area "
    "against that of the lung.",
    "places": "Marked points and boxes that the map touches where it is at least half its peak.",
    "enrichment": "How many times more of the map lies inside the annotation than if it were spread evenly over the lung.",
}


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


def strip(agreement: Agreement, cautions: Sequence[str] = ()) -> str:
    """Pointing hit, share of the map inside the annotation, and enrichment, each with what chance would give.

    Parameters
    ----------
    cautions
        Why these numbers say less than they seem to.
    """
    if not agreement.annotated:
        nothing = "Nothing is annotated on this slice." if agreement.annotated is None else "A reader marked nothing here."
        return f'<div class="ipf-cards"><div class="ipf-card"><span>{nothing}</span><strong>{DASH}</strong></div></div>'
    hit = agreement.pointing_hit
    # Only areas have a share of the map.
    has_area = agreement.mass is not None or agreement.rank_chance is not None
    if hit is False and not has_area and not agreement.no_evidence:
        cautions = [*cautions, EXAMPLES]
    kind = "" if hit is None or cautions else "good" if hit else "bad"
    of_all = _by_chance(agreement.rank_chance)
    where = "the map is empty" if agreement.no_evidence else _by_chance(agreement.pointing_chance)
    found = agreement.lesion_recall
    by_one = "by chance 1.0 \N{MULTIPLICATION SIGN}" if agreement.enrichment is not None else "not known here"
    cards = [_card("Peak on the annotation", _hit(hit), where, DEFINITIONS["hit"], kind)]
    if has_area or agreement.no_evidence or found is None or not agreement.lesions:
        cards.append(_card("Share of the map inside", _percent(agreement.mass), of_all, DEFINITIONS["mass"]))
        cards.append(_card("Enrichment", _times(agreement.enrichment), by_one, DEFINITIONS["enrichment"]))
    else:
        count = f"{round(found * agreement.lesions)} of {agreement.lesions}"
        cards.append(_card("Marked places found", count, "at half the peak", DEFINITIONS["places"]))
    # One line at most: what it takes, the images lose.
    line = escape(" ".join(cautions))
    said = f'<p class="ipf-caution" title="{line}">{line}</p>' if cautions else ""
    return f'<div class="ipf-cards">{"".join(cards)}</div>{said}'


def _hit(hit: bool | None) -> str:
    return DASH if hit is None else "Hit" if hit else "Miss"


def _times(value: float | None) -> str:
    return _decimal(value, 1, " \N{MULTIPLICATION SIGN}")


def _by_chance(chance: float | None) -> str:
    if chance is None:
        return "chance not known"
    return LARGER if chance > 1 else f"by chance {_percent(chance)}"


def weak_map(explanation: Explanation, full: float) -> str | None:
    """A caution if the map is too weak for numbers about it to say much; `full` is its value in full color."""
    if explanation.peak <= 0 or explanation.peak >= WEAK * full:
        return None
    unit = " logits" if explanation.unit == "logits" else ""
    return f"Weak map: its peak is {number(explanation.peak, 2)}{unit}, full color {number(full, 1)}."


def other_things(given: Sequence[OnSlice]) -> str | None:
    """A caution if the annotations have names, and none names a finding of fibrosis."""
    if not given or any(names_a_finding(one) for one in given):
        return None
    names = list(dict.fromkeys(one.said.label for one in given))
    few = ", ".join(names[:SOME_NAMES]) + (f" and {len(names) - SOME_NAMES} more" if len(names) > SOME_NAMES else "")
    return f"Not called a finding of fibrosis: {few}."


def names_a_finding(one: OnSlice) -> bool:
    """False if an annotation has a name of its own that is none of the findings: an organ. Marks and plain masks have none."""
    said = one.said
    if said.finding is not Finding.OTHER or not said.label or said.origin == MARK_ORIGIN:
        return True
    return finding_of(said.label) is not Finding.OTHER  # several findings in one outline


def annotations_read(found: Annotated) -> str:
    """What annotation files gave, for the side bar: refusals in full, notes one click away."""
    many = sum(map(len, found.by_slice.values()))
    said = f"{plural(many, 'annotation')} on {plural(len(found.by_slice), 'slice')}" if many else "No annotation was taken in"
    shown = [(refusal.file, refusal.reason) for refusal in found.refusals]
    more = refusals(shown[SOME_REFUSALS:])
    if len(shown) > SOME_REFUSALS:
        more = f"<details><summary>{plural(len(shown) - SOME_REFUSALS, 'more file')} not read</summary>{more}</details>"
    else:
        more = ""
    notes = ""
    if found.notes:
        notes = f"<details><summary>{plural(len(found.notes), 'note')}</summary>{listing('', found.notes, 'note')}</details>"
    return f'<div class="ipf-now"><b>{said}</b></div>{refusals(shown[:SOME_REFUSALS]) if shown else ""}{more}{notes}'


def why_undefined(scored: Scored, spacing: PixelSpacing | None) -> list[str]:
    """Sentences for the dashes."""
    found, agreement = [], scored.agreement
    if agreement is not None:
        if agreement.annotated is None:
            found.append("Nothing is annotated on this slice: agreement is not defined.")
        elif not agreement.annotated:
            found.append("A reader looked and marked nothing on this slice: overlaps are not defined.")
        elif agreement.no_evidence:
            found.append("The map is empty: there is nothing that could lie in the annotation.")
        elif agreement.mass is None:
            found.append("Only points and boxes are annotated: shares and overlaps are of areas.")
        elif agreement.iou_cells is None:
            found.append("The annotation fills no cell of the map by half: it is finer than the map.")
        if agreement.annotated and spacing is None:
            found.append("No pixel spacing in this file: nothing is known in mm.")
        if agreement.annotated and agreement.lung_reason is not None:
            found.append(f"Chance and enrichment are not known: {agreement.lung_reason}")
    if scored.plausibility is not None and scored.plausibility.lung_mask != "ok" and not found:
        found.append(f"Where in the lungs the map lies is not known: {scored.plausibility.lung_mask}")
    return found


def agreement_rows(agreement: Agreement) -> list[Row]:
    """Every number of agreement, with its chance and its definition."""
    of_all = agreement.rank_chance
    chance = LARGER if of_all is not None and of_all > 1 else _percent(of_all)
    lesion = agreement.smallest_lesion_mm2
    least = "" if lesion is None else f" of at least {number(lesion, 0)} mm\N{SUPERSCRIPT TWO}"
    otsu = "Otsu's threshold" if agreement.otsu is None else f"Otsu's threshold, here {_percent(agreement.otsu)} of the peak"
    return [
        Row("Peak on the annotation", _hit(agreement.pointing_hit), _percent(agreement.pointing_chance),
            DEFINITIONS["hit"]),
        Row("The same, of equal maxima any", _hit(agreement.pointing_hit_any_tie), "",
            "If the largest value occurs more than once: does any of them lie in the annotation?"),
        Row("Share of the map inside", _percent(agreement.mass), chance, DEFINITIONS["mass"]),
        Row("Enrichment", _times(agreement.enrichment), _times(1), DEFINITIONS["enrichment"]),
        Row("Rank accuracy", _percent(agreement.rank_accuracy), chance,
            "Of the strongest pixels of the map, as many as are annotated: how many of them are annotated."),
        Row("IoU at half the peak", _decimal(agreement.iou_at_half), "",
            "Intersection over union of the annotation and the area where the map is at least half its peak."),
        Row("Dice at half the peak", _decimal(agreement.dice_at_half), "", "The same as Dice: 2 IoU / (1 + IoU)."),
        Row("IoU at Otsu's threshold", _decimal(agreement.iou_at_otsu), "", f"The same at {otsu}."),
        Row("IoU on the map's own cells", _decimal(agreement.iou_cells), "",
            "The same with the annotation pooled to the map's cells: how much of a low IoU is the grid's fault."),
        Row("Pixel AUROC inside the lung", _decimal(agreement.auroc), "0.50",
            "Probability that an annotated pixel has a higher map value than another pixel of the lung."),
        Row("Average precision inside the lung", _decimal(agreement.average_precision),
            _decimal(agreement.average_precision_chance),
            "Area under the precision-recall curve of the map against the annotation."),
        Row("Lesions found", _percent(agreement.lesion_recall), "",
            f"Annotated regions{least} that the map touches at half its peak; here {agreement.lesions or 0} in all."),
        Row("False regions", DASH if agreement.false_regions is None else str(agreement.false_regions), "",
            "Regions of the map at half its peak that touch no annotation."),
        Row("Peak to the annotation", _decimal(agreement.distance_mm, 1, " mm"), "",
            "From the map's largest value to the nearest annotated pixel; 0 on it."),
        Row("95th percentile Hausdorff distance", _decimal(agreement.hd95_mm, 1, " mm"), "",
            "Between the outlines of the annotation and of the map at half its peak."),
    ]  # fmt: skip


def plausibility_rows(found: Plausibility) -> list[Row]:
    """Where the map lies, without an annotation."""
    return [
        Row("Outside the lungs", _percent(found.outside_lung_mass), "", "Share of the map that lies outside the lung mask."),
        Row("Within 10 mm of the pleura", _percent(found.subpleural_share), _percent(found.subpleural_chance),
            "Of the map inside the lungs, the share in the subpleural rim. By chance: the rim's share of the lungs."),
        Row("In the right lung", _percent(found.right_share), "", "Of the map inside the lungs, the patient's right side."),
        Row("In the left lung", _percent(found.left_share), "", "Of the map inside the lungs, the patient's left side."),
    ]  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """One line each; a chance that nobody has defined is left empty."""
    lines = "".join(
        f'<tr><th scope="row">{escape(row.name)}</th><td>{escape(row.value)}</td><td>{escape(row.chance)}</td>'
        f"<td>{escape(row.definition)}</td></tr>"
        for row in rows
    )
    head = '<th scope="col">number</th><th scope="col">value</th><th scope="col">by chance</th><th scope="col">what it is</th>'
    return f'<table class="ipf-table"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


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
    if found.annotated is None:
        parts = [(name, "Lungs" if name == "other_lung" else words, why, value) for name, words, why, value in parts]
    ends = [0.0]
    for *_, value in parts:
        ends.append(ends[-1] + value)
    operating = margin_called_ipf(card)
    low, high = min(0.0, operating, *ends), max(0.0, operating, *ends)
    room = 0.03 * ((high - low) or 1.0)
    low, span = low - room, (high - low or 1.0) + 2 * room

    def at(value: float) -> float:
        return 100 * (value - low) / span

    zero = f'<u class="zero" style="left:{at(0):.2f}%"></u>'

    lines = ""
    for (name, words, why, value), start, end in zip(parts, ends, ends[1:], strict=False):
        left, width = at(min(start, end)), max(100 * abs(value) / span, 0.4)
        lines += (
            f'<div class="part" title="{escape(why)}"><span>{escape(words)}</span><div class="lane">{zero}'
            f'<i class="{name}" style="left:{left:.2f}%;width:{width:.2f}%"></i>'
            f'<u style="left:{at(end):.2f}%"></u></div><b>{signed(value)}</b></div>'
        )
    lines += (
        f'<div class="part sum"><span>Margin</span><div class="lane">{zero}'
        f'<i class="margin" style="left:{at(min(0, found.margin)):.2f}%;width:{100 * abs(found.margin) / span:.2f}%"></i>'
        f'<u class="from" style="left:{at(operating):.2f}%"></u></div><b>{signed(found.margin)}</b></div>'
    )
    said = (
        "In logits. Each bar begins where the one above ends, and the last ends at the margin: to the right it speaks for "
        f"{TARGET_WORDS['ipf']}, to the left for {TARGET_WORDS['normal']}. Dashed: the operating point, {signed(operating)}."
    )
    if found.outside_lung < 0 < found.bias:
        said += (
            " What lies outside the lungs as a rule pulls the sum down, on normal slices and others alike, and the constant "
            "makes up for it: the lungs tell slices apart."
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
    origins = Counter(_came_from(one) for one in given)
    said = "; ".join(f"{many} \N{MULTIPLICATION SIGN} {words}" if many > 1 else words for words, many in origins.items())
    name = f"The map for {TARGET_WORDS[target]} against {plural(len(given), 'annotation')}"
    return f'<p class="ipf-heading">{escape(name)}</p><p class="ipf-quiet">{escape(said)}</p>'


def _came_from(one: OnSlice) -> str:
    said = one.said
    if not said.origin:
        return "drawn by this program" if said.reader == READER else said.reader
    by = said.matched_by
    return said.origin if not by or said.origin in UNMATCHED else f"{said.origin}, matched by {by}"


def shortcut(sentence: str) -> str:
    """A warning above the panes."""
    return f'<div class="ipf-shortcut" role="alert"><b>Marks on the picture.</b> {escape(sentence)}</div>'


def trust_words() -> str:
    """Before the checks are made."""
    return (
        '<p class="ipf-quiet">Four checks. A map that shows what the model learned changes when the model forgets it. If the '
        "map is right, the answer falls when what it marks is hidden. If the annotated disease counts, hiding it matters more "
        "than hiding other lung. And the same slice, mirrored or a little brighter, gives the same map. Ten seconds to a "
        "minute.</p>"
    )


def _with_minus(sentence: str) -> str:
    return re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", sentence)


def trust(found: Trust) -> str:
    """Verdict and sentence of each check; a word and a shape, not a color alone."""
    checks = (
        ("Depends on what the model learned", found.randomization),
        ("The answer rests on what the map marks", found.faithfulness),
        ("The answer rests on the annotation", found.occlusion),
        ("The same when the slice is read again", found.repeatability),
    )
    words = {
        Verdict.PASSED: "\N{CHECK MARK} yes",
        Verdict.FAILED: "\N{MULTIPLICATION X} no",
        Verdict.UNDEFINED: f"{DASH} not known",
    }
    lines = "".join(
        f'<li class="{one.verdict.value}"><b>{escape(name)}: {words[one.verdict]}</b>'
        f"<small>{escape(_with_minus(one.sentence))}</small></li>"
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
    share = "" if probability is None else f" ({in_two_digits(probability)})"
    return f"Slice {row.index + 1}: {KINDS[row.disagreement]}{share}"


def worst_heading() -> str:
    """Above the worst disagreements of a series."""
    return '<p class="ipf-heading">Worst disagreements first</p>'


def all_agree(compared: int) -> str:
    """In the place of the worst disagreements."""
    agreed = "The slice that was compared agrees." if compared == 1 else f"All {compared} slices that were compared agree."
    return f'<p class="ipf-quiet">{agreed} What that takes: the answer fits, and the peak is on the annotation.</p>'


def profile(rows: Sequence[ProfileRow], count: int, current: int) -> str:
    """Three curves along a series: probability, evidence inside the annotation, share of the map inside; told by dashes too."""
    step = 1000 / max(1, count - 1)
    inside = [(row.index, None if row.budget is None else row.budget.annotated) for row in rows]
    largest = max((abs(value) for _, value in inside if value is not None), default=0.0) or 1.0
    curves = (
        ("#ffb05c", "none", [(row.index, row.prediction.probability) for row in rows]),
        ("#48dbfb", "9 6", [(row.index, None if row.agreement is None else row.agreement.mass) for row in rows]),
        ("#7dff8a", "1 6", [(index, None if value is None else 0.5 + value / largest / 2) for index, value in inside]),
    )
    drawn = '<path fill="none" stroke="#4a5560" d="M0 1 H1000 M0 50 H1000 M0 99 H1000" vector-effect="non-scaling-stroke"/>'
    for color, dashes, values in curves:
        path, last = "", -2
        for index, value in values:
            if value is None:
                continue
            path += f"{'L' if index == last + 1 else 'M'}{index * step:.1f} {99 - 98 * min(max(value, 0), 1):.1f} "
            if index != last + 1:
                path += f"L{index * step:.1f} {99 - 98 * min(max(value, 0), 1):.1f} "
            last = index
        drawn += (
            f'<path fill="none" stroke="{color}" stroke-width="2.5" stroke-dasharray="{dashes}" '
            'stroke-linecap="round" stroke-linejoin="round" '
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
        '<b style="color:#48dbfb">Blue, dashed</b>: share of the map inside the annotation, 0 to 1. '
        '<b style="color:#7dff8a">Green, dotted</b>: evidence inside the annotation, '
        f"{signed(-largest, 1)} to {signed(largest, 1)} logits, 0 in the middle. White: this slice.</p></div>"
    )


def _profile_said(rows: Sequence[ProfileRow]) -> str:
    compared = [row for row in rows if row.disagreement < Disagreement.NOT_COMPARED]
    worse = sum(row.disagreement < Disagreement.NONE for row in compared)
    return f"{plural(len(compared), 'slice')} compared, of which {worse} disagree"
