"""The DICOM objects of a case: SEG of what was drawn and of the map, the map, a picture, a report; each a series of its own."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ipfvision import __version__
from ipfvision.core.agreement import HALF
from ipfvision.core.annotation import Annotation, Finding
from ipfvision.core.evidence import EvidenceBudget
from ipfvision.core.findings import Decision, Explanation
from ipfvision.core.review import Diagnosis, MapVerdict, Reason
from ipfvision.core.slice import PixelSpacing, Scale, Slice
from ipfvision.dicom.codes import Term
from ipfvision.dicom.originals import Maker, Original, Written, check_one_patient, find_originals
from ipfvision.dicom.parametric_map import write_map
from ipfvision.dicom.secondary_capture import write_picture
from ipfvision.dicom.segmentation_writing import Area, write_drawn, write_map_region
from ipfvision.dicom.structured_report import Answer, Group, Number, write_report
from ipfvision.errors import InputRefused
from ipfvision.synthetic.case import READER as SYNTHETIC
from ipfvision.workflow.reading import full_scale
from ipfvision.workflow.sent_case import PROGRAM, Sent, SentCase, SentSlice, map_region, map_words
from ipfvision.workflow.uploads import Progress, Refusal, Upload, gather, is_junk

Mask = npt.NDArray[np.bool_]
MOST_RATIO = 1100
"""Of a .zip with the scan's files, as for annotations: only a slice's own file is decoded."""
FIRST_SERIES_NUMBER = 9001
"""Far from those that scanners give."""
MOST_MAPPED = 100
"""Slices in one Parametric Map: 100 MB of 512 x 512 floats."""
MOST_REPORTED = 40
"""Slices of which a report speaks: each takes some fifty content items, and nobody reads more."""
_RESEARCH = "Research use only, not for diagnosis."
_ODD = (
    "No valid object can be made of what the scan's own files say, perhaps because they contradict one another in where the "
    "slices lie (Image Position (Patient) (0020,0032), Image Orientation (Patient) (0020,0037)); please export the CT again."
)


def case_dicom(
    case: SentCase, originals: Iterable[Upload], picture: npt.NDArray[np.uint8], progress: Progress | None = None
) -> Sent:
    """The DICOM objects of a case, by file name: SEG of what was drawn and of the map, the map, a picture, a report.

    Parameters
    ----------
    originals
        The scan's own files once more, or a .zip of them; others among them are passed over.
    picture
        (H, W, 3) RGB of the key slice, without anything that names a patient.

    Raises
    ------
    InputRefused
        If the slices are no DICOM, are not of one series, or their files are not among those given, were changed, or name more
        than one patient.
    """
    scans = [one.reading.scan for one in case.slices]
    _check_one_series(scans)
    found, refusals = _find(scans, originals, progress)
    if missing := len(scans) - len(found):
        if refusals:
            raise InputRefused(refusals[0].reason)
        raise InputRefused(
            f"The DICOM files of {missing} of {len(scans)} slices of this case were not given: what is sent carries the "
            "patient and study of the scan, which this program does not keep; please give the files of the scan again."
        )
    own = [found[index] for index in range(len(scans))]
    check_one_patient(own)
    return _Sender(case, own, picture, refusals).send()


def _check_one_series(scans: Sequence[Slice]) -> None:
    if any(scan.scale is Scale.GREY or scan.source.format != "DICOM" for scan in scans):
        raise InputRefused(
            "This case is of pictures (PNG or JPEG), which belong to no study: nothing can be written for a PACS. The page "
            "(PDF), the figure (PNG) and the JSON can be saved."
        )
    if any(scan.source.sop_instance_uid is None for scan in scans):
        raise InputRefused(
            "A slice of this case has no SOP Instance UID (0008,0018), so nothing can refer to it; please export the CT again."
        )
    if len({(scan.source.study_instance_uid, scan.source.series_instance_uid, scan.shape) for scan in scans}) > 1:
        raise InputRefused("The slices of this case are of more than one series; please send each series by itself.")


def _find(
    scans: Sequence[Slice], uploads: Iterable[Upload], progress: Progress | None
) -> tuple[dict[int, Original], tuple[Refusal, ...]]:
    found: dict[int, Original] = {}
    with gather(uploads, MOST_RATIO) as basket:
        total = len(basket.files)
        for done in range(1, total + 1):
            file = basket.files.popleft()
            if len(found) < len(scans) and not is_junk(file.name):
                try:
                    found |= find_originals(file.load(), scans)
                except InputRefused as error:
                    basket.refuse(file.name, error)
            if progress is not None:
                progress(done, total)
        return found, tuple(basket.refusals)


_YES, _NO = Term("yes", "Yes"), Term("no", "No")
_DECISIONS = {
    Decision.IPF: Term("like_ipf", "IPF-like"),
    Decision.NORMAL: Term("like_normal", "Normal-like"),
    Decision.UNCERTAIN: Term("uncertain", "Uncertain"),
    Decision.REFUSED: Term("refused", "Not read"),
}
_DIAGNOSES = {
    Diagnosis.UIP: Term("uip", "UIP"),
    Diagnosis.PROBABLE_UIP: Term("probable_uip", "Probable UIP"),
    Diagnosis.INDETERMINATE: Term("indeterminate", "Indeterminate for UIP"),
    Diagnosis.ALTERNATIVE: Term("alternative", "Alternative diagnosis"),
}
_VERDICTS = {
    one: Term(one.value, f"The map {one.value}" if one is not MapVerdict.PARTLY else "The map agrees in part")
    for one in MapVerdict
}
_REASONS = {
    Reason.TRACTION_BRONCHIECTASIS: Term("traction", "Traction bronchiectasis"),
    Reason.EMPHYSEMA: Term("emphysema", "Emphysema"),
    Reason.VESSEL: Term("vessel", "Vessel"),
    Reason.ARTEFACT: Term("artefact", "Artefact"),
    Reason.MARK_OR_TEXT: Term("mark_or_text", "Mark or text"),
    Reason.OUTSIDE_LUNG: Term("outside_lung", "Outside lung"),
    Reason.MISSED_HONEYCOMBING: Term("missed_hc", "Missed honeycombing"),
    Reason.OTHER: Term("other", "Other"),
}
_CONFIDENCES = {number: Term(f"confidence_{number}", f"{number} of 5") for number in range(1, 6)}
_NUMBERS = {
    "mass": Term("mass", "Share of the map inside the annotation"),
    "enrichment": Term("enrichment", "Share of the map inside over share of the lung's area"),
    "rank_accuracy": Term("rank_accuracy", "Relevance rank accuracy"),
    "iou_at_half": Term("iou_at_half", "Intersection over union at half the peak"),
    "dice_at_half": Term("dice_at_half", "Dice at half the peak"),
    "auroc": Term("auroc", "Area under the ROC curve of pixels inside the lungs"),
    "average_precision": Term("avg_precision", "Average precision of pixels inside the lungs"),
    "lesion_recall": Term("lesion_recall", "Share of lesions found"),
    "false_regions": Term("false_regions", "Regions of the map that touch no annotation"),
    "distance_mm": Term("peak_distance", "Distance from the map's peak to the annotation"),
    "hd95_mm": Term("hd95", "95th percentile Hausdorff distance"),
}
_PROBABILITY = Term("probability_ipf", "Calibrated probability of IPF against normal lung")
_MARGIN = Term("margin", "Margin for IPF over normal lung, in logits")
_EVIDENCE = {
    "annotated": Term("ev_annotated", "Evidence inside the annotation, in logits"),
    "other_lung": Term("ev_other_lung", "Evidence in the other lung, in logits"),
    "outside_lung": Term("ev_outside", "Evidence outside the lungs, in logits"),
    "padding": Term("ev_padding", "Evidence in the padding, in logits"),
    "bias": Term("ev_bias", "The model's bias, in logits"),
}


class _Sender:
    """Makes the objects of one case one after the other; each is a series of its own."""

    def __init__(
        self, case: SentCase, originals: list[Original], picture: npt.NDArray[np.uint8], refusals: tuple[Refusal, ...]
    ) -> None:
        self._case = case
        self._originals = originals
        self._picture = picture
        self._refusals = refusals
        card = case.card
        self._maker = Maker(PROGRAM, __version__, card.name, card.sha256, case.reader)
        self._notes: list[str] = []
        self._files: dict[str, bytes] = {}

    def send(self) -> Sent:
        case, key = self._case, self._case.key
        drawn, areas = self._drawn()
        region = self._region()
        heatmap = self._map()
        picture = self._make(
            "picture",
            "The picture",
            lambda number: write_picture(self._originals[key], self._picture, self._maker, number),
        )
        groups: list[Group] = []
        for index in self._weightiest(MOST_REPORTED, "The report speaks"):
            one = case.slices[index]
            seen = [made for made in (heatmap.get(index), picture if index == key else None) if made is not None]
            groups.append(self._answer(index, one, tuple(seen)))
            if drawn is not None:
                groups += [
                    Group(
                        name=f"{area.label}, slice {index + 1}",
                        original=index,
                        numbers=_area(area.masks[index], one.reading.scan.spacing),
                        finding=area.finding,
                        region=(drawn, number),
                    )
                    for number, area in enumerate(areas, 1)
                    if (number, index) in drawn.frames
                ]
            groups += self._map_group(index, one, region)
        groups += self._opinions(key)
        self._make("report", "The report", lambda number: write_report(self._originals, groups, self._maker, number))
        return Sent(dict(self._files), tuple(self._notes), self._refusals)

    def _make(self, kind: str, what: str, write: Callable[[int], Written]) -> Written | None:
        """Keep what `write` makes, given a series number. Where it cannot be made, note why: that never stops the others."""
        try:
            made = write(FIRST_SERIES_NUMBER + len(self._files))
        except InputRefused as error:
            self._notes.append(f"{what} was left out. {error}")
            return None
        except ValueError:  # highdicom and pydicom on odd values, which they quote, and which may name the patient
            self._notes.append(f"{what} was left out. {_ODD}")
            return None
        self._files[f"{self._case.name}_{kind}.dcm"] = made.content
        return made

    def _drawn(self) -> tuple[Written | None, list[Area]]:
        """The segmentation of what a person drew, if there is any."""
        case = self._case
        shape = case.slices[0].reading.scan.shape
        masks: dict[Finding, list[Mask]] = {}
        others = drawn_by_program = 0
        for index, one in enumerate(case.slices):
            for given in one.annotations or ():
                if not isinstance(given, Annotation):
                    others += 1
                elif given.said.reader == SYNTHETIC or given.said.origin == "burned-in mark":
                    drawn_by_program += 1
                elif given.mask.any():
                    on = masks.setdefault(given.said.finding, [np.zeros(shape, np.bool_) for _ in case.slices])
                    on[index] |= given.mask
        if others:
            self._notes.append("Points and boxes are no areas: they are not in the segmentation of what was drawn.")
        if drawn_by_program:
            self._notes.append("What this program drew or found itself is not in the segmentation of what a reader drew.")
        areas = [Area(finding, finding.value, tuple(masks[finding])) for finding in Finding if finding in masks]
        if not areas:
            self._notes.append("No area was drawn by a reader, so there is no segmentation of it.")
            return None, []
        made = self._make(
            "seg_reader",
            "The segmentation of what was drawn",
            lambda number: write_drawn(self._originals, areas, self._maker, number),
        )
        return made, areas

    def _explanation(self, index: int) -> Explanation | None:
        return self._case.slices[index].reading.explanations.get(self._case.target)

    def _region(self) -> Written | None:
        explanations = [self._explanation(index) for index in range(len(self._originals))]
        lit = [one for one in explanations if one is not None and one.peak > 0]
        if not lit:
            self._notes.append("The map is empty on every slice, so there is no segmentation of it.")
            return None
        shape = self._case.slices[0].reading.scan.shape
        masks = [np.zeros(shape, np.bool_) if one is None else map_region(one) for one in explanations]
        return self._make(
            "seg_map",
            "The segmentation of the map",
            lambda number: write_map_region(
                self._originals,
                masks,
                self._maker,
                number,
                method=lit[0].method,
                label=f"{map_words(lit[0])}, at least half its peak",
                parameters=self._parameters(lit[0]),
            ),
        )

    def _weightiest(self, most: int, what: str) -> list[int]:
        """Indices of at most so many slices, in their order."""
        ranked = self._case.ranked()
        if len(ranked) > most:
            self._notes.append(f"{what} of {most} of {len(ranked)} slices: those drawn on, then the most IPF-like.")
        return sorted(ranked[:most])

    def _map(self) -> dict[int, Written]:
        """The parametric map, for each slice that it holds."""
        chosen = self._weightiest(MOST_MAPPED, "The map is")
        mapped = [(index, one) for index in chosen if (one := self._explanation(index)) is not None]
        if not mapped:
            self._notes.append("No slice has a map: the answer was refused on each.")
            return {}
        first = mapped[0][1]
        unit = "in logits" if first.unit == "logits" else "without a unit"
        made = self._make(
            "map",
            "The map",
            lambda number: write_map(
                [self._originals[index] for index, _ in mapped],
                [one.heatmap() for _, one in mapped],
                self._maker,
                number,
                method=first.method,
                explanation=f"{map_words(first)} at {first.layer}, {unit}",
                full_scale=max(full_scale(self._case.card, one) for _, one in mapped),
            ),
        )
        return {} if made is None else {index: made for index, _ in mapped}

    def _parameters(self, explanation: Explanation) -> dict[str, str]:
        return {"method": explanation.method, "target": explanation.target, "layer": explanation.layer, "threshold": str(HALF)}

    def _answer(self, index: int, one: SentSlice, seen: tuple[Written, ...]) -> Group:
        """What the model says of a slice, and what that rests on."""
        prediction, card = one.reading.prediction, self._case.card
        numbers: list[Number] = []
        if prediction.probability is not None and prediction.margin is not None:
            numbers += [Number(_PROBABILITY, prediction.probability, "1"), Number(_MARGIN, prediction.margin, "1")]
        numbers += _evidence(one.scored.evidence)
        return Group(
            name=f"model's answer, slice {index + 1}",
            original=index,
            numbers=tuple(numbers),
            answers=(Answer(Term("model_answer", "Answer of the model"), _DECISIONS[prediction.decision]),),
            comment=f"{prediction.reason} {_RESEARCH}",
            parameters={
                "temperature": f"{card.temperature:g}",
                "operating_point": f"{card.operating_point:g}",
            },
            seen_with=seen,
        )

    def _map_group(self, index: int, one: SentSlice, region: Written | None) -> list[Group]:
        """Where the map is high, and how that agrees with what was drawn."""
        explanation, agreement = self._explanation(index), one.scored.agreement
        if region is None or explanation is None or (1, index) not in region.frames:
            return []
        numbers = list(_area(map_region(explanation), one.reading.scan.spacing))
        unit = "logits" if explanation.unit == "logits" else "no unit"
        numbers.append(Number(Term("map_peak", f"Peak of the map ({unit})"), explanation.peak, "1"))
        cell = explanation.cell_mm(one.reading.scan.spacing)
        if cell is not None:
            numbers.append(Number(Term("map_cell", "Longer side of a cell of the map"), max(cell), "mm"))
        answers: tuple[Answer, ...] = ()
        if agreement is not None:
            for key, term in _NUMBERS.items():
                value = getattr(agreement, key)
                if value is not None:
                    numbers.append(Number(term, float(value), "mm" if key.endswith("_mm") else "1"))
            if agreement.pointing_hit is not None:
                hit = _YES if agreement.pointing_hit else _NO
                answers = (Answer(Term("pointing_hit", "Peak of the map on the annotation"), hit),)
        return [
            Group(
                name=f"map, slice {index + 1}",
                original=index,
                numbers=tuple(numbers),
                answers=answers,
                method=explanation.method,
                region=(region, 1),
                parameters=self._parameters(explanation),
            )
        ]

    def _opinions(self, key: int) -> list[Group]:
        """What the reader said of the case, before and after the answer, and of the map."""
        case = self._case
        groups = []
        for when, code, opinion in (("before the answer", "before", case.first), ("with the answer", "after", case.revised)):
            if opinion is not None:
                answers = (
                    Answer(Term(f"pattern_{code}", f"CT pattern, {when}"), _DIAGNOSES[opinion.diagnosis]),
                    Answer(Term(f"sure_{code}", f"Confidence, {when}"), _CONFIDENCES[opinion.confidence]),
                )
                groups.append(Group(f"reader's opinion, {when}", key, answers=answers, comment=opinion.comment))
        if case.judgment is not None:
            question = Term("map_reason", "Why the map does not agree")
            judged: tuple[Answer, ...] = (
                Answer(Term("map_verdict", "Verdict on the map"), _VERDICTS[case.judgment.verdict]),
                *(Answer(question, _REASONS[reason]) for reason in case.judgment.reasons),
            )
            groups.append(Group("reader's verdict on the map", key, answers=judged, comment=case.judgment.text))
        return groups


def _area(mask: Mask, spacing: PixelSpacing | None) -> tuple[Number, ...]:
    if spacing is None:
        return ()
    return (Number(Term("area", "Area on the slice"), float(mask.sum()) * spacing.row_mm * spacing.column_mm, "mm2"),)


def _evidence(budget: EvidenceBudget | None) -> list[Number]:
    if budget is None:
        return []
    return [Number(term, value, "1") for key, term in _EVIDENCE.items() if (value := getattr(budget, key)) is not None]
