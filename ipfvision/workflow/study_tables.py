"""A study's readings as tables: CSV and JSON for whoever counts on, and iMRMC's layout for multi-reader multi-case analysis.

Nothing of a patient is in them: cases are numbers, hashes of pixels and DICOM UIDs. What readers typed may name somebody, so it
is left out unless it is asked for. docs/reviews.md describes every column.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from statistics import fmean
from typing import Any

from ipfvision import __version__
from ipfvision.core.annotation import Finding
from ipfvision.core.reader_statistics import Estimate
from ipfvision.core.review import Case, Diagnosis, Drawn, MachineAnswer, Opinion, Review
from ipfvision.errors import InputRefused, StudyProblem
from ipfvision.workflow.reader_agreement import Agreement, AnswerAgreement, Counted, count, most_like_ipf, that_count

ALONE, AIDED = 1, 2
"""iMRMC's "modalities": before and after the machine's answer was seen."""
TRUTH_IN_R = ("truth", "truth")
"""Reader and modality of the rows that hold the truth; iMRMC's R package looks for these words, its Java program for `-1`."""
TRUTH_IN_JAVA = (-1, 0)
LONGEST_CASE_NUMBER = 9
"""Digits, in a table of the truth: more are no case's, and Python converts no more than some thousands."""
NEEDS_TRUTH = (
    "The table for iMRMC needs the truth of at least one case with IPF and one without that somebody has read; please give a "
    "table with the columns case and truth."
)


def study_files(reviews: Iterable[Review], truth: Mapping[int, bool] | None = None, *, texts: bool = False) -> dict[str, bytes]:
    """All tables of a study by file name: `reviews.csv`, `reviews.json`, `agreement.csv`, `agreement.json`, and with a truth
    also `imrmc.csv` and `study.imrmc`.

    Parameters
    ----------
    reviews
        Those that were corrected later may be among them: they are listed, and not counted.
    truth
        Whether it is IPF, by case number (`read_truth`).
    texts
        With the readers' comments.

    Raises
    ------
    StudyProblem
        If there is a truth, and not of both kinds.
    """
    given = list(reviews)
    counted = count(given, truth)
    found = {
        "reviews.csv": reviews_csv(given, texts=texts),
        "reviews.json": reviews_json(given, texts=texts),
        "agreement.csv": agreement_csv(counted),
        "agreement.json": agreement_json(counted),
    }
    if truth is not None:
        found |= {"imrmc.csv": imrmc_csv(given, truth), "study.imrmc": imrmc_input(given, truth)}
    return {name: text.encode() for name, text in found.items()}


def reviews_csv(reviews: Iterable[Review], *, texts: bool = False) -> str:
    """One line for each finished review, by case and reader."""
    given = list(reviews)
    counting, numbers = _numbers(given)
    lines = [_line(one, counting, numbers, texts=texts) for one in _in_order(given)]
    names = list(_line_names(texts=texts))
    return _csv(names, ([line[name] for name in names] for line in lines))


def reviews_json(reviews: Iterable[Review], *, texts: bool = False) -> str:
    """The same whole: with drawings as run lengths (`ipfvision.core.run_lengths`) and the answer for every slice."""
    given = list(reviews)
    counting, numbers = _numbers(given)
    study = given[0].study if given else None
    cases = sorted({one.case.id: one.case for one in given}.values(), key=lambda one: one.number)
    return _json(
        {
            "application": "ipfvision",
            "version": __version__,
            "study": None
            if study is None
            else {
                "id": study.id,
                "title": study.title,
                "mode": study.mode.value,
                "seed": study.seed,
                "created": _time(study.created),
            },
            "cases": [_case(one) for one in cases],
            "reviews": [_whole(one, counting, numbers, texts=texts) for one in _in_order(given)],
        }
    )


def agreement_json(counted: Counted) -> str:
    """Every figure of `ipfvision.workflow.reader_agreement.Counted` under its own name; null is "not defined"."""
    return _json(_plain(counted))


def agreement_csv(counted: Counted) -> str:
    """One line for each figure with its interval: which opinion, which figure, of what, between whom."""
    lines = []
    for agreement in (counted.first, counted.revised):
        if agreement is not None:
            lines += _agreement_lines(agreement)
    lines += _answer_lines("revised", counted.verdicts)
    for scores in counted.map_scores:
        for name in ("dice", "rank_accuracy", "pointing"):
            lines.append(("revised", f"map {name}", "", scores.reader, "map", getattr(scores, name)))
    for reading in counted.readings:
        who = reading.reader or ""
        for name in ("share_changed", "share_towards", "share_away"):
            lines.append(("", name, "diagnosis", who, "", getattr(reading.changes, name)))
        lines.append(("first", "median seconds", "to lock", who, "", reading.to_lock.median))
        lines.append(("revised", "median seconds", "after lock", who, "", reading.after_lock.median))
    names = ("opinion", "figure", "of", "reader", "other", "value", "low_95", "high_95", "cases")
    return _csv(names, ([*line[:5], *_estimate(line[5])] for line in lines))


def read_truth(text: str) -> dict[int, bool]:
    """Whether it is IPF, by case number, from a .csv with the columns `case` and `truth` (1 or 0).

    Raises
    ------
    InputRefused
        If it has other columns, another value, or a case twice.
    """
    try:
        table = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
        if not {"case", "truth"} <= set(table.fieldnames or ()):
            raise InputRefused("The table of the truth lacks the column case or the column truth.")
        rows = [((line["case"] or "").strip(), (line["truth"] or "").strip()) for line in table]
    except csv.Error:
        raise InputRefused("The table of the truth is not a .csv file that can be read.") from None
    found: dict[int, bool] = {}
    for number, (case, truth) in enumerate(rows, start=2):
        if not (case.isascii() and case.isdigit() and len(case) <= LONGEST_CASE_NUMBER) or truth not in {"0", "1"}:
            raise InputRefused(f"Line {number} of the truth is not a case number with 1 (IPF) or 0 (not IPF).")
        if int(case) in found:
            raise InputRefused(f"Line {number} of the truth names a case for the second time.")
        found[int(case)] = truth == "1"
    return found


def suspicion(opinion: Opinion) -> int:
    """How UIP-like a reader finds a case, as one number for a ROC curve: -5 (certainly something else) to 10 (certainly UIP).

    The diagnosis comes first: UIP 6 to 10, probable UIP 1 to 5, indeterminate 0, alternative -1 to -5. Confidence orders within
    it; in "indeterminate" it points nowhere.
    """
    match opinion.diagnosis:
        case Diagnosis.UIP:
            return 5 + opinion.confidence
        case Diagnosis.PROBABLE_UIP:
            return opinion.confidence
        case Diagnosis.INDETERMINATE:
            return 0
        case Diagnosis.ALTERNATIVE:
            return -opinion.confidence


def imrmc_csv(reviews: Iterable[Review], truth: Mapping[int, bool]) -> str:
    """As a data frame for iMRMC's R package (`doIMRMC(read.csv(...))`): readerID, caseID, modalityID, score.

    Raises
    ------
    StudyProblem
        If no case with IPF, or none without, was read and has a truth.
    """
    truths, scores = _imrmc(reviews, truth)
    reader, modality = TRUTH_IN_R
    rows = [(reader, case, modality, score) for case, score in truths]
    return _csv(("readerID", "caseID", "modalityID", "score"), [*rows, *scores])


def imrmc_input(reviews: Iterable[Review], truth: Mapping[int, bool]) -> str:
    """As an input file for iMRMC's Java program: counts, then the same rows below "BEGIN DATA:".

    Raises
    ------
    StudyProblem
        As `imrmc_csv`.
    """
    truths, scores = _imrmc(reviews, truth)
    diseased = sum(score for _, score in truths)
    head = [
        "Readings exported by ipfvision: modality 1 is the reader alone, 2 the reader who has seen the machine's answer",
        f"NR: {len({row[0] for row in scores})}",
        f"N0: {len(truths) - diseased}",
        f"N1: {diseased}",
        f"NM: {len({row[2] for row in scores})}",
        "BEGIN DATA:",
    ]
    reader, modality = TRUTH_IN_JAVA
    rows = [(reader, case, modality, score) for case, score in truths]
    return "\n".join([*head, *(",".join(str(value) for value in row) for row in [*rows, *scores])]) + "\n"


Score = tuple[int, int, int, int]


def _imrmc(reviews: Iterable[Review], truth: Mapping[int, bool]) -> tuple[list[tuple[int, int]], list[Score]]:
    """(case, truth) of every case that was read, and (reader, case, modality, score) of every opinion on it."""
    given = list(reviews)
    _, numbers = _numbers(given)
    known = [one for one in that_count(given) if one.case.number in truth]
    truths = sorted({(one.case.number, int(truth[one.case.number])) for one in known})
    if {score for _, score in truths} != {0, 1}:
        raise StudyProblem(NEEDS_TRUTH)
    scores = [
        (numbers[one.reader], one.case.number, modality, suspicion(opinion))
        for one in known
        for modality, opinion in ((ALONE, one.first), (AIDED, one.revised))
        if opinion is not None
    ]
    return truths, sorted(scores)


def _numbers(given: Sequence[Review]) -> tuple[set[str], dict[str, int]]:
    """The IDs of the reviews that count, and the readers' numbers, by their names' order."""
    readers = sorted({one.reader for one in given})
    return {one.id for one in that_count(given)}, {reader: number for number, reader in enumerate(readers, start=1)}


def _in_order(given: Iterable[Review]) -> list[Review]:
    return sorted(given, key=lambda one: (one.case.number, one.reader, one.times.finished or one.times.opened))


_TEXTS = ("first_comment", "revised_comment", "verdict_text")


def _line_names(*, texts: bool) -> Iterable[str]:
    yield from ("study", "mode", "case", "reader", "reader_number", "counts", "review", "supersedes")
    for word in ("first", "revised"):
        yield from (f"{word}_diagnosis", f"{word}_confidence")
    yield from ("verdict", "reasons", "decision", "probability", "map_dice", "map_rank_accuracy", "map_pointing")
    yield from ("opened", "locked", "revealed", "finished", "seconds_to_lock", "seconds_after_lock")
    yield from ("model", "model_sha256", "model_changed", "application_version")
    yield from ("study_instance_uid", "series_instance_uid", "slices")
    for word in ("first", "revised"):
        yield from (_pixels(word, finding) for finding in Finding)
    if texts:
        yield from _TEXTS


def _pixels(word: str, finding: Finding) -> str:
    return f"{word}_{finding.name.lower()}_pixels"


def _line(one: Review, counting: set[str], numbers: Mapping[str, int], *, texts: bool) -> dict[str, Any]:
    prediction, judgment, times = most_like_ipf(one.answer), one.judgment, one.times
    line: dict[str, Any] = {
        "study": one.study.title,
        "mode": one.study.mode.value,
        "case": one.case.number,
        "reader": one.reader,
        "reader_number": numbers[one.reader],
        "counts": one.id in counting,
        "review": one.id,
        "supersedes": one.supersedes,
        "verdict": None if judgment is None else judgment.verdict.value,
        "reasons": None if judgment is None else "; ".join(reason.value for reason in judgment.reasons),
        "decision": prediction.decision.value,
        "probability": prediction.probability,
        "opened": _time(times.opened),
        "locked": _time(times.locked),
        "revealed": _time(times.revealed),
        "finished": _time(times.finished),
        "seconds_to_lock": times.seconds_to_lock,
        "seconds_after_lock": times.seconds - (times.seconds_to_lock or 0.0),
        "model": one.answer.model_name,
        "model_sha256": one.answer.model_sha256,
        "model_changed": one.model_changed,
        "application_version": one.application_version,
        "study_instance_uid": one.case.study_instance_uid,
        "series_instance_uid": one.case.series_instance_uid,
        "slices": len(one.case.slices),
    }
    for name in ("dice", "rank_accuracy", "pointing"):
        values = [float(value) for each in one.agreement if (value := getattr(each, name)) is not None]
        line[f"map_{name}"] = fmean(values) if values else None
    for word, opinion in (("first", one.first), ("revised", one.revised)):
        line[f"{word}_diagnosis"] = None if opinion is None else opinion.diagnosis.value
        line[f"{word}_confidence"] = None if opinion is None else opinion.confidence
        for finding in Finding:
            line[_pixels(word, finding)] = None if opinion is None else _marked(opinion.drawings, finding)
    if texts:
        said = ("" if one.first is None else one.first.comment, one.revised.comment, "" if judgment is None else judgment.text)
        line |= dict(zip(_TEXTS, said, strict=True))
    return line


def _marked(drawings: Iterable[Drawn], finding: Finding) -> int | None:
    """Pixels marked as a finding, on all slices; None if nobody drew it, not even empty."""
    own = [sum(one.runs[1::2]) for one in drawings if one.finding is finding]
    return sum(own) if own else None


def _case(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "number": case.number,
        "study_instance_uid": case.study_instance_uid,
        "series_instance_uid": case.series_instance_uid,
        "slices": [
            {
                "pixel_sha256": one.pixel_sha256,
                "shape": list(one.shape),
                "sop_instance_uid": one.sop_instance_uid,
                "frame": one.frame,
            }
            for one in case.slices
        ],
    }


def _whole(one: Review, counting: set[str], numbers: Mapping[str, int], *, texts: bool) -> dict[str, Any]:
    line, judgment, times = _line(one, counting, numbers, texts=texts), one.judgment, one.times
    return {
        "id": one.id,
        "case": one.case.number,
        **{name: line[name] for name in ("reader", "reader_number", "counts", "supersedes")},
        "first": None if one.first is None else _opinion(one.first, texts=texts),
        "revised": _opinion(one.revised, texts=texts),
        "judgment": None
        if judgment is None
        else {"verdict": judgment.verdict.value, "reasons": [reason.value for reason in judgment.reasons]}
        | ({"text": judgment.text} if texts else {}),
        "answer": _answer(one.answer),
        "model_changed": one.model_changed,
        "agreement": _plain(one.agreement),
        "times": {name: _time(getattr(times, name)) for name in ("opened", "locked", "revealed", "finished")}
        | {"seconds_to_lock": times.seconds_to_lock, "seconds": times.seconds},
        "application_version": one.application_version,
    }


def _opinion(opinion: Opinion, *, texts: bool) -> dict[str, Any]:
    drawings = [
        {"slice": one.slice_index, "finding": one.finding.value, "shape": list(one.shape), "runs": list(one.runs)}
        for one in opinion.drawings
    ]
    said = {"diagnosis": opinion.diagnosis.value, "confidence": opinion.confidence, "drawings": drawings}
    return said | ({"comment": opinion.comment} if texts else {})


def _answer(answer: MachineAnswer) -> dict[str, Any]:
    return {
        "model": answer.model_name,
        "model_sha256": answer.model_sha256,
        "slices": [
            {
                "slice": one.slice_index,
                "decision": one.prediction.decision.value,
                "probability": one.prediction.probability,
                "margin": one.prediction.margin,
            }
            for one in answer.slices
        ],
    }


Line = tuple[str, str, str, str, str, Estimate]
"""Opinion, figure, of what, reader, other reader, and the figure."""


def _agreement_lines(agreement: Agreement) -> list[Line]:
    word = agreement.word.value
    lines = []
    for answers in (agreement.diagnosis, *agreement.present):
        lines += _answer_lines(word, answers)
    for drawings in agreement.drawings:
        finding = "all findings" if drawings.finding is None else drawings.finding.value
        lines += [(word, "dice", finding, *pair.readers, pair.dice) for pair in drawings.pairs]
        lines.append((word, "mean dice", finding, "", "", drawings.mean))
    gap = agreement.gap
    lines += [
        (word, "gap: dice, reader to reader", "all findings", "", "", gap.reader_to_reader),
        (word, "gap: dice, map to reader", "all findings", "", "map", gap.map_to_reader),
        (word, "gap", "all findings", "", "map", gap.gap),
    ]
    for reader, others, with_map in gap.each:
        lines.append((word, "gap: dice, reader to reader", "all findings", reader, "", others))
        lines.append((word, "gap: dice, map to reader", "all findings", reader, "map", with_map))
    return lines


def _answer_lines(word: str, answers: AnswerAgreement) -> list[Line]:
    lines: list[Line] = []
    for pair in answers.pairs:
        lines += [(word, "same answer", answers.question, *pair.readers, pair.same)]
        lines += [(word, "cohen kappa", answers.question, *pair.readers, pair.kappa)]
        if pair.weighted_kappa is not None:
            lines += [(word, "cohen kappa, quadratic", answers.question, *pair.readers, pair.weighted_kappa)]
    overall = {"mean same answer": answers.same, "mean cohen kappa": answers.kappa}
    if answers.weighted_kappa is not None:
        overall["mean cohen kappa, quadratic"] = answers.weighted_kappa
    overall |= {"fleiss kappa": answers.fleiss, "krippendorff alpha": answers.alpha}
    return lines + [(word, name, answers.question, "", "", figure) for name, figure in overall.items()]


def _estimate(one: Estimate) -> list[Any]:
    return [one.value, *(one.interval_95 or (None, None)), one.cases]


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds")


def _plain(value: Any) -> Any:
    """A frozen type as JSON has it."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Empty for None, 1 and 0 for yes and no; a text that a spreadsheet would run as a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return f"'{value}"
    return value
