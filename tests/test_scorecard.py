"""The scorecard's HTML: every number with its chance, a reason for every dash, and nothing said by color alone."""

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfvision.core.agreement import Agreement
from ipfvision.core.annotation import Annotation, Finding, OnSlice, PointAnnotation, Said
from ipfvision.core.evidence import EvidenceBudget
from ipfvision.core.findings import TARGETS, Decision, Explanation, ModelCard, Prediction
from ipfvision.core.geometry import Crop
from ipfvision.core.plausibility import Plausibility
from ipfvision.core.profile import Disagreement, ProfileRow
from ipfvision.core.slice import PixelSpacing
from ipfvision.core.trust import Repeat, Repeatability, Trust, Undefined
from ipfvision.core.window import LUNG
from ipfvision.ui import scorecard
from ipfvision.workflow.annotations import Annotated
from ipfvision.workflow.scoring import Scored
from ipfvision.workflow.uploads import Refusal

ROOT = Path(__file__).parents[1]
CSS = (ROOT / "ipfvision" / "ui" / "style.css").read_text("utf-8")
EVIL = '<img src="https://elsewhere.example/x.png" onerror="alert(1)">'
SPACING = PixelSpacing(0.7, 0.7)
CARD = ModelCard(
    name="m", sha256="0123456789abcdef", status="preliminary", labels=TARGETS, window=LUNG, input_shape=(32, 32), mean=0.5,
    standard_deviation=0.5, crop_margin=0.1, dilated_layer4=True, padding_mode="zeros", temperature=2.0, operating_point=0.7,
    uncertain_band=(0.6, 0.8), map_reference=20.0,
)  # fmt: skip
COMPARED = Agreement(
    annotated=True, no_evidence=False, lung_reason=None, cell_mm=(12.0, 12.0), pointing_hit=True, pointing_hit_any_tie=True,
    pointing_chance=0.31, mass=0.73, enrichment=2.43, rank_accuracy=0.66, rank_chance=0.3, iou_at_half=0.13, dice_at_half=0.24,
    otsu=0.4, iou_at_otsu=0.2, iou_cells=0.32, dice_cells=0.48, auroc=0.94, average_precision=0.88,
    average_precision_chance=0.29, lesions=4, smallest_lesion_mm2=10.0, lesion_recall=0.25, false_regions=2, distance_mm=1.5,
    hd95_mm=105.8,
)  # fmt: skip
NOTHING = Agreement(annotated=None, no_evidence=False, lung_reason=None, cell_mm=None)


def area(label: str = "", finding: Finding = Finding.OTHER, **said: str) -> Annotation:
    return Annotation(np.ones((4, 4), bool), Said(finding, "a mask", label, **said))


def text(html: str) -> str:
    """What is read, tags and tooltips left out."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def explanation(peak: float, unit: str = "logits") -> Explanation:
    cells = np.array([[0, peak], [0, 0]], np.float32)
    return Explanation(cells, Crop(0, 0, 40, 40, (32, 32), (40, 40)), "ipf", "gradcam", "layer4", unit)


def test_each_large_number_has_its_chance_beside_it_and_its_definition_in_a_tooltip() -> None:
    html = scorecard.strip(COMPARED)
    assert [text(card).strip() for card in re.findall(r'<div class="ipf-card .*?</div>', html)] == [
        "Peak on the annotation Hit by chance 31 %",
        "Share of the map inside 73 % by chance 30 %",
        "Enrichment 2.4 × by chance 1.0 ×",
    ]
    assert len(re.findall(r'title="[^"]{40,}"', html)) == 3


def test_a_hit_and_a_miss_differ_in_word_and_in_line_not_in_color_alone() -> None:
    assert "Miss" in scorecard.strip(replace(COMPARED, pointing_hit=False))
    assert "border-left-style: dashed" in re.search(r"\.ipf-card\.bad \{([^}]*)\}", CSS)[1]  # type: ignore[index]


def test_more_annotated_than_there_is_lung_is_said_and_no_chance_is_over_100_percent() -> None:
    large = replace(COMPARED, rank_chance=1.24)
    html = scorecard.strip(large) + scorecard.table(scorecard.agreement_rows(large))
    assert "larger than the lung" in html
    assert "124 %" not in html


def test_a_slice_without_annotation_gets_a_dash_and_no_number() -> None:
    for agreement, words in ((NOTHING, "Nothing is annotated"), (replace(NOTHING, annotated=False), "marked nothing")):
        html = scorecard.strip(agreement)
        assert words in html
        assert not re.search(r"\d", text(html))


def test_an_empty_map_misses_and_has_no_share() -> None:
    empty = replace(NOTHING, annotated=True, no_evidence=True, pointing_hit=False, pointing_chance=0.3)
    shown = text(scorecard.strip(empty))
    assert "Miss the map is empty" in shown
    assert f"Share of the map inside {scorecard.DASH}" in shown
    assert "0 %" not in shown


def test_arrows_get_the_places_found_and_no_share() -> None:
    pointed = replace(NOTHING, annotated=True, pointing_hit=False, pointing_chance=0.02, lesions=3, lesion_recall=1 / 3)
    shown = text(scorecard.strip(pointed))
    assert "Marked places found 1 of 3 at half the peak" in shown
    assert "Share of the map" not in shown
    assert scorecard.EXAMPLES in shown
    assert scorecard.EXAMPLES not in scorecard.strip(replace(pointed, pointing_hit=True))
    assert scorecard.EXAMPLES not in scorecard.strip(replace(COMPARED, pointing_hit=False))


def test_a_weak_map_takes_the_shine_off_a_hit() -> None:
    caution = scorecard.weak_map(explanation(1.9), 20.0)
    assert caution is not None
    assert "1.90 logits" in caution
    html = scorecard.strip(COMPARED, [caution])
    assert caution in html
    assert "ipf-card good" not in html
    assert "ipf-card good" in scorecard.strip(COMPARED)
    assert scorecard.weak_map(explanation(2.0), 20.0) is None
    assert scorecard.weak_map(explanation(0.0), 20.0) is None


@pytest.mark.parametrize(
    ("those", "is_other"),
    [
        ([area("rib_left_7"), area("aorta")], True),
        ([area("rib_left_7"), area("Honeycombing", Finding.HONEYCOMBING)], False),
        ([area()], False),
        ([area("circle", origin="burned-in mark")], False),
        ([], False),
    ],
)
def test_outlines_of_organs_are_told_from_findings(those: list[OnSlice], *, is_other: bool) -> None:
    said = scorecard.other_things(those)
    assert (said is not None) == is_other
    if said is not None:
        assert said == "Not called a finding of fibrosis: rib_left_7, aorta."


def test_one_outline_of_several_findings_is_disease() -> None:
    assert scorecard.other_things([area("honeycombing, reticulation")]) is None


def test_many_names_are_cut_short() -> None:
    said = scorecard.other_things([area(f"rib_{number}") for number in range(9)])
    assert said is not None
    assert said.endswith("rib_0, rib_1, rib_2 and 6 more.")


@pytest.mark.parametrize(
    ("changes", "spacing", "words"),
    [
        ({"annotated": None}, SPACING, "Nothing is annotated on this slice"),
        ({"annotated": False}, SPACING, "marked nothing"),
        ({"no_evidence": True}, SPACING, "The map is empty"),
        ({"mass": None}, SPACING, "Only points and boxes"),
        ({"iou_cells": None}, SPACING, "finer than the map"),
        ({"hd95_mm": None, "distance_mm": None}, None, "nothing is known in mm"),
        ({"lung_reason": "The lung mask is empty."}, SPACING, "Chance and enrichment are not known: The lung mask is empty."),
    ],
)
def test_every_dash_has_its_reason(changes: Mapping[str, object], spacing: PixelSpacing | None, words: str) -> None:
    scored = Scored(replace(COMPARED, **changes), None, Plausibility("ok"))  # type: ignore[arg-type]
    assert any(words in sentence for sentence in scorecard.why_undefined(scored, spacing))


def test_without_annotation_a_lung_mask_that_failed_is_the_reason() -> None:
    (sentence,) = scorecard.why_undefined(Scored(None, None, Plausibility("One lung is missing.")), SPACING)
    assert "One lung is missing." in sentence


def test_numbers_that_are_all_there_need_no_reason() -> None:
    assert scorecard.why_undefined(Scored(COMPARED, None, Plausibility("ok")), SPACING) == []


def cells(html: str) -> list[list[str]]:
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_the_table_has_each_number_with_its_chance_and_its_definition() -> None:
    plausible = Plausibility("ok", 0.17, 0.63, 0.41, 0.52, 0.48)
    head, *rows = cells(scorecard.table(scorecard.agreement_rows(COMPARED) + scorecard.plausibility_rows(plausible)))
    assert head == ["number", "value", "by chance", "what it is"]
    found = {name: (value, chance) for name, value, chance, _ in rows}
    assert found["Rank accuracy"] == ("66 %", "30 %")
    assert found["Pixel AUROC inside the lung"] == ("0.94", "0.50")
    assert found["Average precision inside the lung"] == ("0.88", "0.29")
    assert found["IoU at half the peak"] == ("0.13", "")
    assert found["95th percentile Hausdorff distance"] == ("105.8 mm", "")
    assert found["False regions"] == ("2", "")
    assert found["Within 10 mm of the pleura"] == ("63 %", "41 %")
    assert found["In the left lung"] == ("52 %", "")
    assert all(len(definition) > 20 for *_, definition in rows)


def test_what_is_undefined_is_a_dash_and_never_a_zero() -> None:
    rows = scorecard.agreement_rows(NOTHING) + scorecard.plausibility_rows(Plausibility("No lungs."))
    assert {row.value for row in rows} == {scorecard.DASH}


def lanes(html: str) -> list[tuple[str, float, float]]:
    """Name, left edge and right edge of each bar, in percent."""
    found = re.findall(r'<i class="(\w+)" style="left:([\d.]+)%;width:([\d.]+)%"', html)
    return [(name, float(left), float(left) + float(width)) for name, left, width in found]


LOGITS = st.floats(-30, 30).map(lambda value: round(value, 3)).filter(lambda value: abs(value) > 0.5)


@given(*[LOGITS] * 5)
def test_each_bar_begins_where_the_last_ended_and_the_last_ends_at_the_margin(
    bias: float, padding: float, outside: float, other: float, annotated: float
) -> None:
    parts = (bias, padding, outside, other, annotated)
    found = EvidenceBudget(annotated, other, outside, padding, bias, sum(parts))
    html = scorecard.budget(found, CARD)
    *bars, (name, margin_left, margin_right) = lanes(html)
    assert (name, [one for one, *_ in bars]) == ("margin", ["bias", "padding", "outside_lung", "other_lung", "annotated"])
    zero = float(re.search(r'class="zero" style="left:([\d.]+)%', html)[1])  # type: ignore[index]
    ends = [zero]
    for (_, left, right), value in zip(bars, parts, strict=True):
        start, end = (left, right) if value > 0 else (right, left)
        assert start == pytest.approx(ends[-1], abs=0.03)
        ends.append(end)
    margin_start, margin_end = (margin_left, margin_right) if sum(parts) > 0 else (margin_right, margin_left)
    assert margin_start == pytest.approx(zero, abs=0.5)
    assert margin_end == pytest.approx(ends[-1], abs=0.5)
    assert all(0 <= left <= right <= 100.5 for _, left, right in [*bars, ("margin", margin_left, margin_right)])


def test_the_budget_says_its_numbers_in_words_and_without_annotation_leaves_that_part_out() -> None:
    html = scorecard.budget(EvidenceBudget(None, -0.5, -1.93, 0.0, 2.44, 0.01), CARD)
    shown = text(html)
    for words in (
        "Constant +2.44",
        "Padding 0.00",
        "Outside the lungs \N{MINUS SIGN}1.93",
        "Lungs \N{MINUS SIGN}0.50",
        "Margin +0.01",
    ):
        assert words in shown.replace("  ", " ")
    assert 'class="annotated"' not in html


def test_the_operating_point_is_where_the_answer_turns() -> None:
    turning = scorecard.margin_called_ipf(CARD)
    assert 1 / (1 + np.exp(-turning / CARD.temperature)) == pytest.approx(CARD.operating_point)


def test_a_constant_that_makes_up_for_what_lies_outside_the_lungs_is_explained() -> None:
    words = "the constant makes up for it"
    assert words in scorecard.budget(EvidenceBudget(None, 7.4, -12.2, 0.0, 7.7, 2.9), CARD)
    assert words not in scorecard.budget(EvidenceBudget(None, 7.4, 0.5, 0.0, -5.0, 2.9), CARD)
    assert words not in scorecard.budget(EvidenceBudget(None, -7.4, 0.0, 0.0, 7.7, 0.3), CARD)


def test_a_lung_mask_that_failed_is_said_beside_the_budget() -> None:
    found = EvidenceBudget(0.1, 0.1, 0.1, 0.1, 0.1, 0.5, "One lung is missing.")
    assert "One lung is missing." in scorecard.budget(found, CARD)


def test_where_annotations_came_from_is_counted_and_said() -> None:
    seg = area("cyst", origin="DICOM SEG", matched_by="SOP Instance UID")
    mark = PointAnnotation(3, 4, Said(Finding.OTHER, "the picture's author", "arrow", "burned-in mark"))
    sample = Annotation(np.ones((4, 4), bool), Said(Finding.HONEYCOMBING, "synthetic"))
    shown = text(scorecard.heading([seg, seg, mark, sample], "ipf"))
    assert "against 4 annotations" in shown
    assert "2 × DICOM SEG, matched by SOP Instance UID; burned-in mark; drawn by this program" in shown
    assert "drop one in the side bar" in scorecard.heading(None, "ipf")


def test_nothing_from_a_file_becomes_markup() -> None:
    trust = Trust("ipf", "gradcam", *[Undefined(EVIL)] * 4)
    said = scorecard.other_things([area(EVIL)])
    assert said is not None
    pieces = [
        scorecard.strip(COMPARED, [said]),
        scorecard.heading([area(EVIL, origin=EVIL, matched_by=EVIL)], "ipf"),
        scorecard.shortcut(EVIL),
        scorecard.trust(trust),
        scorecard.table([scorecard.Row(EVIL, EVIL, EVIL, EVIL)]),
        scorecard.budget(EvidenceBudget(None, 0, 0, 0, 0, 0, EVIL), CARD),
        scorecard.annotations_read(Annotated({}, (Refusal(EVIL, EVIL),) * 5, (EVIL,), {})),
    ]
    assert not any("<img" in piece for piece in pieces)
    assert all("&lt;img" in piece for piece in pieces)


def test_every_check_has_a_word_a_sign_and_its_sentence() -> None:
    stays = Repeatability((Repeat("mirrored", 0.95, 0.1, same_decision=True),))
    changes = Repeatability((Repeat("mirrored", 0.2, 0.1, same_decision=False),))
    html = scorecard.trust(Trust("ipf", "gradcam", Undefined("The map is empty."), Undefined("x"), Undefined("y"), stays))
    assert "\N{EN DASH} not known" in html
    assert "The map is empty." in html
    assert "\N{CHECK MARK} yes" in html
    assert stays.sentence in html
    failed = scorecard.trust(Trust("ipf", "gradcam", Undefined("x"), Undefined("x"), Undefined("y"), changes))
    assert "\N{MULTIPLICATION X} no" in failed


def test_a_minus_in_a_sentence_is_a_minus_and_a_hyphen_stays() -> None:
    html = scorecard.trust(Trust("ipf", "gradcam", *[Undefined("-1.5 of Grad-CAM (mean -0.2).")] * 4))
    assert "\N{MINUS SIGN}1.5 of Grad-CAM (mean \N{MINUS SIGN}0.2)." in html


def test_files_that_were_not_read_are_in_sight_and_notes_one_click_away() -> None:
    refusals = tuple(Refusal(f"file{number}", f"Reason {number}.") for number in range(5))
    html = scorecard.annotations_read(Annotated({(0, 0): (area(), area())}, refusals, ("A note.",), {"": 2}))
    in_sight = re.sub(r"<details>.*?</details>", "", html)
    assert "2 annotations on 1 slice" in html
    assert "Reason 1." in in_sight
    assert "Reason 4." not in in_sight
    assert "Reason 4." in html
    assert "A note." not in in_sight
    assert "3 more files not read" in html


def row(index: int, probability: float, agreement: Agreement | None, decision: Decision = Decision.IPF) -> ProfileRow:
    return ProfileRow(index, Prediction(decision, "r", probability, 1.0), agreement, None, annotated=agreement is not None)


def test_the_profile_tells_its_curves_by_dashes_and_says_how_many_disagree() -> None:
    html = scorecard.profile([row(0, 0.9, COMPARED), row(1, 0.2, COMPARED, Decision.NORMAL), row(3, 0.8, None)], 5, 1)
    svg = base64.b64decode(re.search(r"base64,([^\"]+)\"", html)[1]).decode()  # type: ignore[index]
    dashes = re.findall(r'stroke-dasharray="([^"]*)"', svg)
    assert len(set(dashes)) == len(dashes) == 3
    assert 'alt="2 slices compared, of which 1 disagree"' in html
    assert "dashed" in html
    assert "dotted" in html
    probability = re.search(r'stroke="#ffb05c"[^>]* d="([^"]*)"', svg)
    assert probability is not None
    assert [point[1:] for point in re.findall(r"[ML][\d.]+ [\d.]+", probability[1])] == [
        "0.0 10.8", "0.0 10.8", "250.0 79.4", "750.0 20.6", "750.0 20.6",
    ]  # fmt: skip


def test_a_disagreement_is_said_in_words() -> None:
    missed = row(6, 0.02, COMPARED, Decision.NORMAL)
    assert missed.disagreement is Disagreement.MISSED
    assert scorecard.disagreement_words(missed) == "Slice 7: annotated, called normal (0.02)"
    assert set(scorecard.KINDS) == set(Disagreement)


def _luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    shares = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_scorecards_colors_have_the_contrast_of_wcag_aa() -> None:
    named = dict(re.findall(r"--ipf-([a-z]+): (#[0-9a-f]{6});", CSS))
    theme = (ROOT / ".streamlit" / "config.toml").read_text("utf-8")
    grounds = [named["background"], *re.findall(r"ackgroundColor = \"(#[0-9a-f]{6})\"", theme)]
    in_words = re.findall(r'<b style="color:(#[0-9a-f]{6})"', scorecard.profile([], 2, 0))
    assert len(in_words) == 3
    for ground in grounds:
        assert all(contrast(color, ground) >= 4.5 for color in in_words)
    lane = re.search(r"\.ipf-budget \.lane \{[^}]*background: (#[0-9a-f]{6})", CSS)
    assert lane is not None
    bars = re.findall(r"\.ipf-budget \.lane i[.\w]* \{[^}]*background: ([^;]+);", CSS)
    assert len(bars) >= 5
    for bar in bars:
        color = named[bar[10:-1]] if bar.startswith("var(") else bar
        assert contrast(color, lane[1]) >= 3, bar


def test_the_bars_of_one_budget_have_colors_of_their_own() -> None:
    found = dict(re.findall(r"\.ipf-budget \.lane i\.(\w+) \{ background: ([^;]+); \}", CSS))
    assert all(first != second for first, second in pairwise(sorted(found.values())))
