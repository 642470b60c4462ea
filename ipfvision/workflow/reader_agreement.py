"""What the readings of a study add up to: agreement of readers with each other and with the map, changes of mind, times.

What counts is each reader's last finished review of each case. Undefined is None, everywhere. Intervals are from a bootstrap
over examinations (`ipfvision.core.reader_statistics`): nothing else is known of a patient. docs/reviews.md says what each
number means.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ipfvision.core.agreement import HALF
from ipfvision.core.annotation import Finding
from ipfvision.core.findings import Decision, Prediction
from ipfvision.core.reader_statistics import (
    MISSING,
    Estimate,
    Floats,
    Ratings,
    bootstrap_draws,
    cohen_kappa,
    estimate,
    fleiss_kappa,
    krippendorff_alpha,
    mean_over_patients,
    median,
    percent_agreement,
    rated_by_both,
)
from ipfvision.core.review import Case, Diagnosis, Judgment, MachineAnswer, MapVerdict, Opinion, Review

Mask: TypeAlias = npt.NDArray[np.bool_]
Masks: TypeAlias = Mapping[int, Mask]
"""What was marked in a case, by slice; a slice that is not in here is unmarked."""

ALL_FINDINGS = tuple(Finding)


class Word(StrEnum):
    """Which of a reader's two opinions is counted."""

    FIRST = "first"
    """As it was locked, before the machine's answer. There is none in the open mode."""
    REVISED = "revised"
    """The last word, with the machine's answer known."""


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two readers and one question."""

    readers: tuple[str, str]
    same: Estimate
    """Share in [0, 1] of the cases in which they say the same."""
    kappa: Estimate
    """Cohen's, every disagreement weighing alike."""
    weighted_kappa: Estimate | None
    """Cohen's with quadratic weights; None for a question whose answers are in no order."""


@dataclass(frozen=True, slots=True)
class AnswerAgreement:
    """All readers and one question."""

    question: str
    answers: tuple[str, ...]
    counts: tuple[tuple[str, tuple[int, ...]], ...]
    """Of each reader, how often each answer was given: a kappa of rare answers cannot be read without it."""
    pairs: tuple[PairAgreement, ...]
    same: Estimate
    kappa: Estimate
    weighted_kappa: Estimate | None
    """These three: means over the pairs in which the figure is defined."""
    fleiss: Estimate
    """Of the cases that all readers answered."""
    alpha: Estimate
    """Krippendorff's, of the cases that at least two readers answered."""


@dataclass(frozen=True, slots=True)
class PairDice:
    """Two readers' drawings."""

    readers: tuple[str, str]
    dice: Estimate


@dataclass(frozen=True, slots=True)
class DrawingAgreement:
    """All readers' drawings of one finding, or of all together.

    The Dice of a case is of all its slices at once. If neither marked anything it is not defined; if one did, it is 0.
    """

    finding: Finding | None
    """None: all findings together."""
    pairs: tuple[PairDice, ...]
    mean: Estimate
    """Over pairs, then over cases."""


@dataclass(frozen=True, slots=True)
class MapGap:
    """The headline: is the map as near to the readers as they are to each other?

    Here the map at half its peak is one more reader, under the readers' own rule: empty against marked is 0. It is compared on
    the slices that have a map and that at least one reader marked, all together; the readers on the same slices.
    """

    reader_to_reader: Estimate
    map_to_reader: Estimate
    gap: Estimate
    """Reader to reader minus map to reader, over the same cases: 0 is a map that is as good as a reader."""
    each: tuple[tuple[str, Estimate, Estimate], ...]
    """Reader, Dice with the other readers, Dice with the map."""


@dataclass(frozen=True, slots=True)
class MapScores:
    """The map with one reader's last drawings as docs/agreement.md defines it: nothing marked, or an empty map, is left out."""

    reader: str
    dice: Estimate
    rank_accuracy: Estimate
    pointing: Estimate
    """Share of slices whose peak lies in what was drawn."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the readers' opinions of one kind agree."""

    word: Word
    diagnosis: AnswerAgreement
    present: tuple[AnswerAgreement, ...]
    """Of each finding that anybody marked: whether it was marked in the case at all."""
    drawings: tuple[DrawingAgreement, ...]
    """All findings together, then each finding that anybody marked."""
    gap: MapGap


@dataclass(frozen=True, slots=True)
class Changes:
    """What readers changed when they saw the machine's answer: blinded readings only."""

    readings: int
    directed: int
    """In which the machine said IPF or normal; after an uncertain answer or a refusal there is no towards."""
    changed: int
    """Other diagnosis than before."""
    towards: int
    """Of the directed: the diagnosis moved towards UIP after "IPF", or away from it after "normal"; `away` is the reverse."""
    away: int
    more_confident: int
    less_confident: int
    redrawn: int
    """Other drawings than before."""
    share_changed: Estimate
    share_towards: Estimate
    """Of the directed readings; likewise `share_away`."""
    share_away: Estimate


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long readings took, in hand: pauses are not counted."""

    median: Estimate
    quartiles: tuple[float, float] | None
    """25th and 75th percentile of the readings; None without one."""
    readings: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One reader's changes and times, or those of all."""

    reader: str | None
    """None: all of them."""
    changes: Changes
    to_lock: Seconds
    """Until the first opinion was locked; the open mode has none."""
    after_lock: Seconds
    """From the lock until the case was finished; in the open mode the whole reading."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What the readings of a study add up to."""

    study: str | None
    """Its title; None without a review."""
    readers: tuple[str, ...]
    cases: int
    """With at least one finished review."""
    examinations: int
    """As far as is known: cases with one Study Instance UID are of one. The bootstrap draws these."""
    reviews: int
    models: tuple[str, ...]
    """SHA-256 of the models whose answers were shown. With more than one, the map's figures mix them."""
    first: Agreement | None
    """None without a blinded reading."""
    revised: Agreement
    map_scores: tuple[MapScores, ...]
    verdicts: AnswerAgreement
    """On the map."""
    reasons: tuple[tuple[str, int], ...]
    """What the map was said to light, or to miss, most frequent first."""
    readings: tuple[Reading, ...]
    """All readers together, then each."""
    when_right: Changes | None
    """Changes where the machine's answer was the truth; likewise `when_wrong`. None where no truth was given."""
    when_wrong: Changes | None


def that_count(reviews: Iterable[Review]) -> list[Review]:
    """The reviews that were not corrected by a later one, by case number, then reader.

    Raises
    ------
    ValueError
        If they are of several studies, or two of one reader and case remain.
    """
    given = {one.id: one for one in reviews}
    corrected = {one.supersedes for one in given.values()}
    last = sorted((one for key, one in given.items() if key not in corrected), key=lambda one: (one.case.number, one.reader))
    if len({one.study.id for one in last}) > 1:
        raise ValueError("reviews are counted study by study")
    if len({(one.case.id, one.reader) for one in last}) < len(last):
        raise ValueError("a reader has one review of a case that counts")
    return last


def opinion_of(review: Review, word: Word) -> Opinion | None:
    """The one or the other opinion; None for the first one of the open mode."""
    return review.first if word is Word.FIRST else review.revised


def examination(case: Case) -> str:
    """What is drawn again in a bootstrap: the Study Instance UID, or the case itself where there is none."""
    return case.study_instance_uid or case.id


def most_like_ipf(answer: MachineAnswer) -> Prediction:
    """What the machine says of a case: of its slices, the one that looks most like IPF; a refusal if it refused all."""
    read = [one.prediction for one in answer.slices if one.prediction.margin is not None]
    return max(read, key=lambda one: one.margin or 0.0) if read else answer.slices[0].prediction


def count(reviews: Iterable[Review], truth: Mapping[int, bool] | None = None, seed: int = 0) -> Counted:
    """Add up the readings of one study.

    Parameters
    ----------
    reviews
        All of them: those that were corrected are left out here. None at all is a study without figures.
    truth
        Whether it is IPF, by case number, as far as it is known.

    Raises
    ------
    ValueError
        As `that_count`.
    """
    given = that_count(reviews)
    table = _Table.of(given, seed)
    verdicts = table.ratings(lambda one: None if one.judgment is None else _VERDICTS.index(one.judgment.verdict))
    judged = [one.judgment for one in given if one.judgment is not None]
    known = None if truth is None else [(one, truth[one.case.number]) for one in given if one.case.number in truth]
    return Counted(
        study=given[0].study.title if given else None,
        readers=table.readers,
        cases=len(table.cases),
        examinations=len(set(table.examinations)),
        reviews=len(given),
        models=tuple(sorted({one.answer.model_sha256 for one in given})),
        first=_agreement(table, Word.FIRST) if any(one.first is not None for one in given) else None,
        revised=_agreement(table, Word.REVISED),
        map_scores=tuple(_map_scores(table, reader) for reader in table.readers),
        verdicts=_answers(table, "map", tuple(_VERDICTS), verdicts, ordered=True),
        reasons=_reasons(judged),
        readings=(
            _reading(table, None, given),
            *(_reading(table, reader, [one for one in given if one.reader == reader]) for reader in table.readers),
        ),
        when_right=None if known is None else _changes(table, [one for one, ipf in known if _right(one, ipf) is True]),
        when_wrong=None if known is None else _changes(table, [one for one, ipf in known if _right(one, ipf) is False]),
    )


_DIAGNOSES = tuple(Diagnosis)
_VERDICTS = tuple(MapVerdict)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Readers by cases, and how often each case is drawn."""

    readers: tuple[str, ...]
    cases: tuple[Case, ...]
    examinations: tuple[str, ...]
    reviews: Mapping[tuple[str, str], Review]
    """By reader and case ID."""
    draws: Floats

    @classmethod
    def of(cls, given: Sequence[Review], seed: int) -> "_Table":
        cases = tuple({one.case.id: one.case for one in given}.values())
        examinations = tuple(examination(case) for case in cases)
        return cls(
            tuple(sorted({one.reader for one in given})),
            cases,
            examinations,
            {(one.reader, one.case.id): one for one in given},
            bootstrap_draws(examinations, seed),
        )

    def ratings(self, answer: Callable[[Review], int | None]) -> Ratings:
        """(readers, cases)."""
        found = np.full((len(self.readers), len(self.cases)), MISSING, np.int64)
        for row, reader in enumerate(self.readers):
            for column, case in enumerate(self.cases):
                one = self.reviews.get((reader, case.id))
                said = None if one is None else answer(one)
                if said is not None:
                    found[row, column] = said
        return found

    def of_readings(self, given: Sequence[Review]) -> Floats:
        """(D, readings): how often each reading counts, which is as often as its case."""
        place = {case.id: column for column, case in enumerate(self.cases)}
        return self.draws[:, [place[one.case.id] for one in given]]

    def mean(self, values: Floats) -> Estimate:
        """Of (cases,) values, NaN where not defined: over examinations."""
        cases = int((~np.isnan(values)).sum())
        return estimate(mean_over_patients(values, self.examinations, self.draws), cases)


def _agreement(table: _Table, word: Word) -> Agreement:
    said = {key: opinion_of(one, word) for key, one in table.reviews.items()}
    drawing = {reader for (reader, _), one in said.items() if one is not None and one.drawings}
    drawn = {(reader, case): None if one is None or reader not in drawing else one for (reader, case), one in said.items()}
    marked = [finding for finding in Finding if any(one and _marks(one, finding) for one in drawn.values())]

    def diagnosis(review: Review) -> int | None:
        one = opinion_of(review, word)
        return None if one is None else _DIAGNOSES.index(one.diagnosis)

    def present(finding: Finding) -> Callable[[Review], int | None]:
        def answer(review: Review) -> int | None:
            one = drawn[review.reader, review.case.id]
            return None if one is None else int(_marks(one, finding))

        return answer

    return Agreement(
        word=word,
        diagnosis=_answers(table, "diagnosis", _DIAGNOSES, table.ratings(diagnosis), ordered=True),
        present=tuple(
            _answers(table, finding.value, ("not marked", "marked"), table.ratings(present(finding)), ordered=False)
            for finding in marked
        ),
        drawings=tuple(_drawings(table, drawn, finding) for finding in (None, *marked)),
        gap=_gap(table, drawn),
    )


def _answers(table: _Table, question: str, answers: Sequence[str], ratings: Ratings, *, ordered: bool) -> AnswerAgreement:
    size = len(answers)
    pairs, shares, kappas, weighted = [], [], [], []
    for row, other in combinations(range(len(table.readers)), 2):
        first, second = ratings[row], ratings[other]
        cases = int(rated_by_both(first, second).sum())
        shares.append(percent_agreement(first, second, table.draws))
        kappas.append(cohen_kappa(first, second, size, table.draws))
        if ordered:
            weighted.append(cohen_kappa(first, second, size, table.draws, quadratic=True))
        pairs.append(
            PairAgreement(
                (table.readers[row], table.readers[other]),
                estimate(shares[-1], cases),
                estimate(kappas[-1], cases),
                estimate(weighted[-1], cases) if ordered else None,
            )
        )
    answered = (ratings != MISSING).sum(axis=0)
    several, complete = int((answered >= 2).sum()), int(((answered == len(ratings)) & (answered >= 2)).sum())
    return AnswerAgreement(
        question=question,
        answers=tuple(str(one) for one in answers),
        counts=tuple(
            (reader, tuple(int((own == answer).sum()) for answer in range(size)))
            for reader, own in zip(table.readers, ratings, strict=True)
        ),
        pairs=tuple(pairs),
        same=_over_pairs(shares, several),
        kappa=_over_pairs(kappas, several),
        weighted_kappa=_over_pairs(weighted, several) if ordered else None,
        fleiss=estimate(fleiss_kappa(ratings, size, table.draws), complete),
        alpha=estimate(krippendorff_alpha(ratings, size, table.draws), several),
    )


def _over_pairs(values: Sequence[Floats], cases: int) -> Estimate:
    """Mean over the pairs for which the sample defines the figure; a draw that leaves one of them undefined does not count."""
    defined = [one for one in values if not np.isnan(one[0])]
    return estimate(np.mean(defined, axis=0), cases) if defined else Estimate(None, None, cases)


def _marks(opinion: Opinion, finding: Finding) -> bool:
    """Whether any pixel was marked: runs of unset and set pixels take turns."""
    return any(one.finding is finding and sum(one.runs[1::2]) > 0 for one in opinion.drawings)


def _masks(opinion: Opinion, findings: Iterable[Finding]) -> Masks:
    findings = tuple(findings)
    found = {index: opinion.mask(index, findings) for index in {one.slice_index for one in opinion.drawings}}
    return {index: mask for index, mask in found.items() if mask is not None and mask.any()}


def dice(first: Masks, second: Masks) -> float | None:
    """Dice of two drawings of one case, all slices together; None if neither marks anything.

    Raises
    ------
    ValueError
        If they are of different pixels.
    """
    area = sum(np.count_nonzero(mask) for masks in (first, second) for mask in masks.values())
    if area == 0:
        return None
    return 2 * sum(np.count_nonzero(first[index] & second[index]) for index in first.keys() & second.keys()) / area


def _nan(value: float | None) -> float:
    return np.nan if value is None else value


def _drawings(table: _Table, drawn: Mapping[tuple[str, str], Opinion | None], finding: Finding | None) -> DrawingAgreement:
    findings = ALL_FINDINGS if finding is None else (finding,)
    pairs = list(combinations(table.readers, 2))
    values = np.full((len(pairs), len(table.cases)), np.nan)
    for column, case in enumerate(table.cases):
        masks = {reader: _masks(one, findings) for reader in table.readers if (one := drawn.get((reader, case.id))) is not None}
        for row, (first, second) in enumerate(pairs):
            if first in masks and second in masks:
                values[row, column] = _nan(dice(masks[first], masks[second]))
    return DrawingAgreement(
        finding,
        tuple(PairDice(pair, table.mean(own)) for pair, own in zip(pairs, values, strict=True)),
        table.mean(_mean_of_rows(values)),
    )


def _mean_of_rows(values: Floats) -> Floats:
    """(columns,): of each column the mean of what is defined; NaN if nothing is."""
    defined = ~np.isnan(values)
    counted = defined.sum(axis=0)
    sums = np.where(defined, values, 0.0).sum(axis=0)
    found: Floats = np.divide(sums, counted, out=np.full(len(counted), np.nan), where=counted > 0)
    return found


def _gap(table: _Table, drawn: Mapping[tuple[str, str], Opinion | None]) -> MapGap:
    shape = (len(table.readers), len(table.cases))
    others, with_map = np.full(shape, np.nan), np.full(shape, np.nan)
    between = np.full(len(table.cases), np.nan)
    for column, case in enumerate(table.cases):
        masks = {
            row: _masks(one, ALL_FINDINGS)
            for row, reader in enumerate(table.readers)
            if (one := drawn.get((reader, case.id))) is not None
        }
        if len(masks) < 2:
            continue
        answers = {row: table.reviews[table.readers[row], case.id].answer for row in masks}
        slices = {index for own in masks.values() for index in own}
        slices = {index for index in slices if all(_has_map(answer, index) for answer in answers.values())}
        own = {row: {index: mask for index, mask in found.items() if index in slices} for row, found in masks.items()}
        dices = {pair: dice(own[pair[0]], own[pair[1]]) for pair in combinations(own, 2)}
        if all(value is None for value in dices.values()):
            continue
        between[column] = _nan(_mean(dices.values()))
        maps: dict[str, Masks] = {}
        for row, answer in answers.items():
            if answer.model_sha256 not in maps:
                maps[answer.model_sha256] = _map_masks(answer, slices)
            with_map[row, column] = _nan(dice(maps[answer.model_sha256], own[row]))
            others[row, column] = _nan(_mean(value for pair, value in dices.items() if row in pair))
    map_to_reader = _mean_of_rows(with_map)
    return MapGap(
        reader_to_reader=table.mean(between),
        map_to_reader=table.mean(map_to_reader),
        gap=table.mean(between - map_to_reader),
        each=tuple(
            (reader, table.mean(with_others), table.mean(with_the_map))
            for reader, with_others, with_the_map in zip(table.readers, others, with_map, strict=True)
        ),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _has_map(answer: MachineAnswer, index: int) -> bool:
    one = answer.of(index)
    return one is not None and one.explanation is not None


def _map_masks(answer: MachineAnswer, slices: Iterable[int]) -> Masks:
    """The map at half its peak, as in `ipfvision.core.agreement`; without positive evidence it marks nothing."""
    found = {}
    for index in slices:
        one = answer.of(index)
        if one is not None and one.explanation is not None:
            heatmap = one.explanation.heatmap()
            peak = heatmap.max()
            if peak > 0:
                found[index] = heatmap / peak >= np.float32(HALF)
    return found


def _map_scores(table: _Table, reader: str) -> MapScores:
    def of(name: str) -> Estimate:
        values = []
        for case in table.cases:
            one = table.reviews.get((reader, case.id))
            values.append(_nan(None if one is None else _mean(getattr(each, name) for each in one.agreement)))
        return table.mean(np.array(values, np.float64))

    return MapScores(reader, of("dice"), of("rank_accuracy"), of("pointing"))


def _reasons(judged: Iterable[Judgment]) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(reason.value for judgment in judged for reason in judgment.reasons).most_common())


def _direction(review: Review) -> int:
    """Which way the machine's answer points along the diagnoses: -1 towards UIP, 1 away from it, 0 nowhere."""
    return {Decision.IPF: -1, Decision.NORMAL: 1}.get(most_like_ipf(review.answer).decision, 0)


def _right(review: Review, ipf: bool) -> bool | None:
    """None if the machine took no side."""
    direction = _direction(review)
    return None if direction == 0 else (direction < 0) == ipf


def _changes(table: _Table, given: Sequence[Review]) -> Changes:
    both = [(one, one.first) for one in given if one.first is not None]
    moves = np.array([_DIAGNOSES.index(one.revised.diagnosis) - _DIAGNOSES.index(first.diagnosis) for one, first in both])
    surer = np.array([one.revised.confidence - first.confidence for one, first in both])
    directions = np.array([_direction(one) for one, _ in both])
    along = moves * directions
    draws = table.of_readings([one for one, _ in both])
    directed = directions != 0

    def share(which: Mask, among: Mask) -> Estimate:
        cases = len({one.case.id for (one, _), there in zip(both, among, strict=True) if there})
        own = draws[:, among]
        total = own.sum(axis=1)
        found = np.divide(own @ which[among], total, out=np.full(len(total), np.nan), where=total > 0)
        return estimate(found, cases)

    return Changes(
        readings=len(both),
        directed=int(directed.sum()),
        changed=int((moves != 0).sum()),
        towards=int((along > 0).sum()),
        away=int((along < 0).sum()),
        more_confident=int((surer > 0).sum()),
        less_confident=int((surer < 0).sum()),
        redrawn=sum(_redrawn(first, one.revised) for one, first in both),
        share_changed=share(moves != 0, np.ones(len(both), np.bool_)),
        share_towards=share(along > 0, directed),
        share_away=share(along < 0, directed),
    )


def _redrawn(first: Opinion, revised: Opinion) -> bool:
    """Whether other pixels are marked: an empty drawing more or less changes nothing."""
    before, after = (
        {(one.slice_index, one.finding): one.runs for one in opinion.drawings if sum(one.runs[1::2]) > 0}
        for opinion in (first, revised)
    )
    return before != after


def _reading(table: _Table, reader: str | None, given: Sequence[Review]) -> Reading:
    locked = [(one, one.times.seconds_to_lock) for one in given if one.times.seconds_to_lock is not None]
    return Reading(
        reader,
        _changes(table, given),
        _seconds(table, [one for one, _ in locked], [seconds for _, seconds in locked]),
        _seconds(table, given, [one.times.seconds - (one.times.seconds_to_lock or 0.0) for one in given]),
    )


def _seconds(table: _Table, given: Sequence[Review], seconds: Sequence[float]) -> Seconds:
    values = np.array(seconds, np.float64)
    cases = len({one.case.id for one in given})
    quartiles = None
    if len(values):
        low, high = np.quantile(values, [0.25, 0.75])
        quartiles = (float(low), float(high))
    return Seconds(estimate(median(values, table.of_readings(given)), cases), quartiles, len(values))
