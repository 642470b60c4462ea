"""How far readers agree beyond chance, each figure with an interval over cases.

Every function takes `draws`, (D, cases): how often each case counts. Row 0 is the sample itself, all ones; the others are a
bootstrap (`bootstrap_draws`). It returns D values at once, NaN where the figure is not defined in that draw; `estimate` makes
one figure with its interval of them. Readers are not drawn again: an interval speaks of other cases read by the same readers.

Ratings are whole numbers from 0 to categories - 1, and `MISSING` where a reader has not answered.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ratings = npt.NDArray[np.int64]

MISSING = -1
BOOTSTRAPS = 2000
LEAST_DEFINED = 0.95
"""Share of the draws in which a figure must be defined to have an interval: the others cannot speak for those left out."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and how far it would move with other cases.

    Raises
    ------
    ValueError
        If there is an interval without a figure.
    """

    value: float | None
    """None where it is not defined."""
    interval_95: tuple[float, float] | None
    """Percentiles of a bootstrap over patients, or over cases where no patient is known. None where nothing varies
    (one patient; perfect agreement), or where the figure is not defined in more than 1 in 20 draws.
    """
    cases: int
    """That it rests on."""

    def __post_init__(self) -> None:
        if self.value is None and self.interval_95 is not None:
            raise ValueError("a figure that is not defined has no interval")


def bootstrap_draws(patients: Sequence[Hashable], seed: int = 0) -> Floats:
    """(BOOTSTRAPS + 1, cases): how often each case counts. All cases of a patient are drawn together.

    Parameters
    ----------
    patients
        Of each case; the case itself where no patient is known.
    """
    index = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    of_case = np.array([index[patient] for patient in patients], np.intp)
    draws = np.ones((BOOTSTRAPS + 1, len(of_case)))
    if len(index) > 1:
        drawn = np.random.default_rng(seed).integers(0, len(index), (BOOTSTRAPS, len(index)))
        times = np.stack([np.bincount(row, minlength=len(index)) for row in drawn])
        draws[1:] = times[:, of_case]
    return draws


def estimate(values: Floats, cases: int) -> Estimate:
    """The figure of the sample, which is the first value, with the 95 % interval of the others."""
    if np.isnan(values[0]):
        return Estimate(None, None, cases)
    others = values[1:][~np.isnan(values[1:])]
    if len(others) < max(LEAST_DEFINED * (len(values) - 1), 1) or np.ptp(others) < 1e-12:
        return Estimate(float(values[0]), None, cases)
    low, high = np.quantile(others, [0.025, 0.975])
    return Estimate(float(values[0]), (float(low), float(high)), cases)


def rated_by_both(first: Ratings, second: Ratings) -> npt.NDArray[np.bool_]:
    """(cases,): which ones both readers have answered."""
    both: npt.NDArray[np.bool_] = (first != MISSING) & (second != MISSING)
    return both


def percent_agreement(first: Ratings, second: Ratings, draws: Floats) -> Floats:
    """(D,): share in [0, 1] of the cases that both have answered in which they said the same; NaN if there is none."""
    both = rated_by_both(first, second)
    return _divide(draws[:, both] @ (first == second)[both].astype(np.float64), draws[:, both].sum(axis=1))


def cohen_kappa(first: Ratings, second: Ratings, categories: int, draws: Floats, *, quadratic: bool = False) -> Floats:
    """(D,): Cohen's kappa over the cases that both have answered (Cohen, Educ Psychol Meas 1960;20:37-46).

    With `quadratic` a disagreement counts with the square of its distance (Cohen, Psychol Bull 1968;70:213-220): only for
    categories that are in order. NaN if chance alone could not disagree: no case, or one category for both.

    It gives what `sklearn.metrics.cohen_kappa_score` gives, for all draws in one matrix product: that function takes about a
    millisecond for each.
    """
    both = rated_by_both(first, second)
    cells = np.eye(categories**2)[first[both] * categories + second[both]]
    tables = (draws[:, both] @ cells).reshape(len(draws), categories, categories)
    place = np.arange(categories)
    distance = np.square(place[:, None] - place) if quadratic else (place[:, None] != place)
    observed = (tables * distance).sum(axis=(1, 2))
    by_chance = np.einsum("di,ij,dj->d", tables.sum(axis=2), distance.astype(np.float64), tables.sum(axis=1))
    return 1 - _divide(observed * tables.sum(axis=(1, 2)), by_chance)


def fleiss_kappa(ratings: Ratings, categories: int, draws: Floats) -> Floats:
    """(D,): Fleiss' kappa of (readers, cases), over the cases that *all* readers have answered (Psychol Bull 1971;76:378-382).

    NaN with fewer than two readers, without a complete case, or if all of them gave one and the same answer everywhere.
    """
    complete = (ratings != MISSING).all(axis=0)
    readers = len(ratings)
    if readers < 2 or not complete.any():
        return np.full(len(draws), np.nan)
    counts, own = _counts(ratings[:, complete], categories), draws[:, complete]
    cases = own.sum(axis=1)
    agreeing = _divide(own @ ((np.square(counts).sum(axis=1) - readers) / (readers * (readers - 1))), cases)
    by_chance = np.square(_divide(own @ counts, readers * cases[:, None])).sum(axis=1)
    return _divide(agreeing - by_chance, 1 - by_chance)


def krippendorff_alpha(ratings: Ratings, categories: int, draws: Floats) -> Floats:
    """(D,): Krippendorff's alpha of (readers, cases) for categories without order: of all cases with two answers or more.

    It needs no complete cases (Hayes and Krippendorff, Commun Methods Meas 2007;1:77-89). NaN if no case has two answers, or if
    they are one and the same everywhere.
    """
    counts = _counts(ratings, categories)
    given = counts.sum(axis=1)
    paired = given >= 2
    counts, given, own = counts[paired], given[paired], draws[:, paired]
    disagreeing = own @ ((np.square(given) - np.square(counts).sum(axis=1)) / np.maximum(given - 1, 1))
    totals = own @ counts
    values = totals.sum(axis=1)
    by_chance = np.square(values) - np.square(totals).sum(axis=1)
    return 1 - _divide(disagreeing * (values - 1), by_chance)


def mean_over_patients(values: Floats, patients: Sequence[Hashable], draws: Floats) -> Floats:
    """(D,): mean over patients of each patient's mean over cases. NaN among the values does not count."""
    defined = ~np.isnan(values)
    own = [patient for patient, there in zip(patients, defined, strict=True) if there]
    cases = Counter(own)
    share = np.array([1 / cases[patient] for patient in own])
    weights = draws[:, defined] * share
    return _divide(weights @ values[defined], weights.sum(axis=1))


def median(values: Floats, draws: Floats) -> Floats:
    """(D,): median of all values, each counted as often as its draw says: the mean of the two middle ones if they are even."""
    order = np.argsort(values, kind="stable")
    if not len(order):
        return np.full(len(draws), np.nan)
    ranked, reached = values[order], np.cumsum(draws[:, order], axis=1)
    total = reached[:, -1:]
    lower = ranked[np.argmax(reached > (total - 1) // 2, axis=1)]
    upper = ranked[np.argmax(reached > total // 2, axis=1)]
    return np.where(total[:, 0] > 0, (lower + upper) / 2, np.nan)


def _counts(ratings: Ratings, categories: int) -> Floats:
    """(cases, categories): how many readers gave each answer."""
    return np.stack([(ratings == category).sum(axis=0) for category in range(categories)], axis=1).astype(np.float64)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is 0; whole numbers of cases make that exact."""
    ratio: Floats = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)
    return ratio
