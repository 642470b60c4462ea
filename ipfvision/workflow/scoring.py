"""Readings against what was annotated on their slices: the numbers for the page, the JSON and the reports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ipfvision.core.agreement import Agreement, agree
from ipfvision.core.annotation import OnSlice
from ipfvision.core.evidence import EvidenceBudget, evidence_budget
from ipfvision.core.findings import ModelCard
from ipfvision.core.plausibility import Plausibility, plausibility
from ipfvision.workflow.reading import Reading, result
from ipfvision.workflow.uploads import Refusal

AGREEMENT_KEYS = (
    "pointing_hit",
    "pointing_chance",
    "mass",
    "enrichment",
    "rank_accuracy",
    "iou_at_half",
    "dice_at_half",
    "auroc",
    "average_precision",
    "lesion_recall",
    "false_regions",
    "distance_mm",
    "hd95_mm",
)
"""What the JSON and the tables give of an `Agreement`, by these names."""
EVIDENCE_KEYS = ("annotated", "other_lung", "outside_lung", "padding", "bias", "margin")
PLAUSIBILITY_KEYS = ("outside_lung_mass", "subpleural_share", "left_share", "right_share", "lung_mask")


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Everything that compares one map with the slice's annotations and its lungs. None where the slice was refused."""

    agreement: Agreement | None
    """None, too, where no annotation was given at all."""
    evidence: EvidenceBudget | None
    plausibility: Plausibility | None


def score(reading: Reading, annotations: Sequence[OnSlice] | None, target: str = "ipf") -> Scored:
    """Compare the map for `target` with the annotations.

    Parameters
    ----------
    annotations
        Of this slice; empty if there are annotations, but none of this slice; None if none were given at all.
    """
    explanation, evidence = reading.explanations.get(target), reading.evidence
    if explanation is None or evidence is None:
        return Scored(None, None, None)
    drawn = annotations or ()
    spacing, plane = reading.scan.spacing, reading.scan.plane
    return Scored(
        None if annotations is None else agree(explanation, reading.lungs, drawn, spacing),
        evidence_budget(evidence, reading.lungs, drawn),
        plausibility(explanation, reading.lungs, spacing, plane, drawn),
    )


def score_result(scored: Scored) -> dict[str, Any]:
    """For the JSON: three objects with the names that the README lists; what is undefined is null."""

    def chosen(found: object, keys: Sequence[str]) -> dict[str, Any] | None:
        return None if found is None else {key: getattr(found, key) for key in keys}

    return {
        "agreement": chosen(scored.agreement, AGREEMENT_KEYS),
        "evidence": chosen(scored.evidence, EVIDENCE_KEYS),
        "plausibility": chosen(scored.plausibility, PLAUSIBILITY_KEYS),
    }


def scored_entry(card: ModelCard, reading: Reading, given: Sequence[OnSlice] | None, target: str = "ipf") -> dict[str, Any]:
    """One slice of `scored_result`: what a long series is written from, reading by reading.

    Parameters
    ----------
    given
        The slice's annotations, as in `score`.
    """
    (entry,) = result(card, [reading], target)["slices"]
    return {**entry, **score_result(score(reading, given, target)), "annotations": [_said(one) for one in given or ()]}


def scored_result(
    card: ModelCard,
    readings: Iterable[Reading],
    annotations: Iterable[Sequence[OnSlice] | None],
    target: str = "ipf",
    refusals: Iterable[Refusal] = (),
) -> dict[str, Any]:
    """The JSON of `ipfvision.workflow.reading.result`, with every slice's scores.

    Parameters
    ----------
    annotations
        Of each reading, as in `score`.
    """
    entries = [scored_entry(card, reading, given, target) for reading, given in zip(readings, annotations, strict=True)]
    document = result(card, (), target, refusals)
    for refused in document["slices"]:
        refused.update(score_result(Scored(None, None, None)), annotations=[])
    document["slices"][:0] = entries
    return document


def _said(one: OnSlice) -> dict[str, str]:
    said = one.said
    return {"finding": said.finding.value, "label": said.label, "origin": said.origin, "matched_by": said.matched_by}
