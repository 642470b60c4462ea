"""Kappas and their kin, against scikit-learn, statsmodels and tables that were published with their result."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score

from ipfvision.core.reader_statistics import (
    BOOTSTRAPS,
    MISSING,
    Estimate,
    Ratings,
    bootstrap_draws,
    cohen_kappa,
    estimate,
    fleiss_kappa,
    krippendorff_alpha,
    mean_over_patients,
    median,
    percent_agreement,
)

CATEGORIES = 4


def once(cases: int) -> np.ndarray:
    """The sample alone, nothing drawn again."""
    return np.ones((1, cases))


def ratings_of(readers: int, least: int = 0) -> st.SearchStrategy[Ratings]:
    return st.integers(1, 25).flatmap(
        lambda cases: arrays(np.int64, (readers, cases), elements=st.integers(least, CATEGORIES - 1))
    )


FLEISS_1971 = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)
"""Ten subjects, fourteen raters, five categories: the worked example of many textbooks, kappa 0.210."""

KRIPPENDORFF_2011 = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
)
"""Four observers, twelve units, 0 is missing: Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), C."""


def spread(counts: np.ndarray) -> Ratings:
    """(raters, subjects) of a table of counts: in which order the raters stand does not matter."""
    return np.stack([np.repeat(np.arange(counts.shape[1]), row) for row in counts], axis=1).astype(np.int64)


def test_the_worked_example_of_fleiss_kappa() -> None:
    assert float(fleiss_kappa(spread(FLEISS_1971), 5, once(10))[0]) == pytest.approx(0.210, abs=5e-4)


def test_the_worked_example_of_krippendorffs_alpha() -> None:
    ratings = np.where(KRIPPENDORFF_2011 == 0, MISSING, KRIPPENDORFF_2011 - 1).astype(np.int64)
    assert float(krippendorff_alpha(ratings, 5, once(12))[0]) == pytest.approx(0.743, abs=5e-4)


def test_cohens_own_example() -> None:
    # Cohen 1960: three categories, 200 cases, p_o = 0.70, p_e = 0.41, kappa = 0.492.
    table = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    first, second = np.repeat(np.stack(np.indices((3, 3))).reshape(2, 9), table.ravel(), axis=1)
    assert float(cohen_kappa(first, second, 3, once(200))[0]) == pytest.approx(0.29 / 0.59, abs=1e-12)
    assert float(percent_agreement(first, second, once(200))[0]) == pytest.approx(0.70)


@given(ratings_of(2), st.booleans())
def test_cohens_kappa_is_scikit_learns(ratings: Ratings, quadratic: bool) -> None:
    ours = float(cohen_kappa(*ratings, CATEGORIES, once(ratings.shape[1]), quadratic=quadratic)[0])
    if len(np.unique(ratings)) == 1:
        assert np.isnan(ours)
    else:
        labels = range(CATEGORIES)
        theirs = cohen_kappa_score(*ratings, labels=labels, weights="quadratic" if quadratic else None)
        assert ours == pytest.approx(theirs, abs=1e-12)


@given(ratings_of(3))
def test_fleiss_kappa_is_that_of_statsmodels(ratings: Ratings) -> None:
    from statsmodels.stats.inter_rater import aggregate_raters
    from statsmodels.stats.inter_rater import fleiss_kappa as theirs

    ours = float(fleiss_kappa(ratings, CATEGORIES, once(ratings.shape[1]))[0])
    if len(np.unique(ratings)) == 1:
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(float(theirs(aggregate_raters(ratings.T, CATEGORIES)[0])), abs=1e-12)


@given(ratings_of(3), st.permutations(range(CATEGORIES)), st.permutations(range(3)))
def test_names_of_categories_and_the_order_of_readers_do_not_matter(
    ratings: Ratings, names: list[int], order: list[int]
) -> None:
    one = once(ratings.shape[1])
    renamed = np.array(names)[ratings]
    for measure in (fleiss_kappa, krippendorff_alpha):
        before = measure(ratings, CATEGORIES, one)
        assert measure(renamed, CATEGORIES, one) == pytest.approx(before, abs=1e-12, nan_ok=True)
        assert measure(ratings[order], CATEGORIES, one) == pytest.approx(before, abs=1e-12, nan_ok=True)
    first, second, _ = ratings
    kappa = cohen_kappa(first, second, CATEGORIES, one)
    assert cohen_kappa(*renamed[:2], CATEGORIES, one) == pytest.approx(kappa, abs=1e-12, nan_ok=True)
    assert cohen_kappa(second, first, CATEGORIES, one) == pytest.approx(kappa, abs=1e-12, nan_ok=True)


def test_a_weighted_kappa_does_depend_on_the_order_of_the_categories() -> None:
    first, second = np.array([0, 1, 2, 3, 0, 3]), np.array([0, 2, 2, 3, 1, 3])
    swapped = np.array([0, 3, 2, 1])
    plain = cohen_kappa(first, second, CATEGORIES, once(6), quadratic=True)
    assert cohen_kappa(swapped[first], swapped[second], CATEGORIES, once(6), quadratic=True) != pytest.approx(plain)


@given(ratings_of(3, least=MISSING))
def test_answers_that_are_missing_are_left_out(ratings: Ratings) -> None:
    one = once(ratings.shape[1])
    both = (ratings[:2] >= 0).all(axis=0)
    assert cohen_kappa(*ratings[:2], CATEGORIES, one) == pytest.approx(
        cohen_kappa(*ratings[:2, both], CATEGORIES, once(int(both.sum()))), nan_ok=True
    )
    complete = (ratings >= 0).all(axis=0)
    assert fleiss_kappa(ratings, CATEGORIES, one) == pytest.approx(
        fleiss_kappa(ratings[:, complete], CATEGORIES, once(int(complete.sum()))), nan_ok=True
    )


@given(ratings_of(2), st.data())
def test_a_case_that_is_drawn_twice_counts_as_two_cases(ratings: Ratings, data: st.DataObject) -> None:
    cases = ratings.shape[1]
    drawn = np.array([data.draw(st.lists(st.integers(0, 3), min_size=cases, max_size=cases))])
    repeated = np.repeat(ratings, drawn[0], axis=1)
    one, times = once(repeated.shape[1]), drawn.astype(np.float64)
    for measure in (fleiss_kappa, krippendorff_alpha):
        assert measure(ratings, CATEGORIES, times) == pytest.approx(measure(repeated, CATEGORIES, one), nan_ok=True)
    for quadratic in (False, True):
        assert cohen_kappa(*ratings, CATEGORIES, times, quadratic=quadratic) == pytest.approx(
            cohen_kappa(*repeated, CATEGORIES, one, quadratic=quadratic), nan_ok=True
        )
    assert percent_agreement(*ratings, times) == pytest.approx(percent_agreement(*repeated, one), nan_ok=True)
    values = ratings[0] / 7
    expected = statistics.median(np.repeat(values, drawn[0])) if drawn.any() else np.nan
    assert float(median(values, times)[0]) == pytest.approx(expected, nan_ok=True)


@given(ratings_of(2))
def test_two_readers_never_agree_more_than_wholly(ratings: Ratings) -> None:
    cases = ratings.shape[1]
    for value in (cohen_kappa(*ratings, CATEGORIES, once(cases)), fleiss_kappa(ratings, CATEGORIES, once(cases))):
        assert np.isnan(value).all() or -1 <= float(value[0]) <= 1 + 1e-12


def test_one_category_for_everybody_has_no_kappa_though_all_agree() -> None:
    same = np.full((3, 5), 2)
    for measure in (fleiss_kappa, krippendorff_alpha):
        assert np.isnan(measure(same, CATEGORIES, once(5))).all()
    assert np.isnan(cohen_kappa(*same[:2], CATEGORIES, once(5))).all()
    assert percent_agreement(*same[:2], once(5)).tolist() == [1.0]


def test_no_common_case_has_no_agreement() -> None:
    first, second = np.array([0, MISSING]), np.array([MISSING, 1])
    draws = bootstrap_draws(["a", "b"])
    for values in (
        percent_agreement(first, second, draws),
        cohen_kappa(first, second, CATEGORIES, draws),
        fleiss_kappa(np.stack([first, second]), CATEGORIES, draws),
        krippendorff_alpha(np.stack([first, second]), CATEGORIES, draws),
    ):
        assert estimate(values, 0) == Estimate(None, None, 0)


def test_no_case_at_all_is_not_an_error() -> None:
    none = np.zeros((2, 0), np.int64)
    draws = bootstrap_draws([])
    assert np.isnan(cohen_kappa(*none, CATEGORIES, draws)).all()
    assert np.isnan(krippendorff_alpha(none, CATEGORIES, draws)).all()
    assert np.isnan(mean_over_patients(np.zeros(0), [], draws)).all()
    assert np.isnan(median(np.zeros(0), draws)).all()


def test_a_patients_cases_are_drawn_together() -> None:
    draws = bootstrap_draws(["a", "a", "b", "c"], seed=3)
    assert draws.shape == (BOOTSTRAPS + 1, 4)
    assert (draws[0] == 1).all()
    assert (draws[:, 0] == draws[:, 1]).all()
    assert (draws[1:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert draws[1:].mean(axis=0) == pytest.approx([1, 1, 1, 1], abs=0.06)
    assert (draws == bootstrap_draws(["a", "a", "b", "c"], seed=3)).all()


def test_patients_weigh_alike_whoever_has_how_many_cases() -> None:
    values = np.array([0.0, 0.0, 0.0, 1.0, np.nan])
    assert mean_over_patients(values, ["a", "a", "a", "b", "c"], once(5)).tolist() == [0.5]


def test_an_interval_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(5)
    first = rng.integers(0, 3, 60)
    second = np.where(rng.random(60) < 0.7, first, rng.integers(0, 3, 60))
    draws = bootstrap_draws(range(60))
    found = estimate(cohen_kappa(first, second, 3, draws), 60)
    drawn = [rng.integers(0, 60, 60) for _ in range(1000)]
    plain = np.quantile([cohen_kappa_score(first[own], second[own]) for own in drawn], [0.025, 0.975])
    assert found.value == pytest.approx(cohen_kappa_score(first, second))
    assert found.interval_95 == pytest.approx(plain, abs=0.03)


def test_an_interval_that_the_cases_cannot_give_is_not_given() -> None:
    draws = bootstrap_draws(range(8))
    alike = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    assert estimate(cohen_kappa(alike, alike, 2, draws), 8) == Estimate(1.0, None, 8)
    rare = np.array([0, 0, 0, 0, 0, 0, 0, 1])
    assert estimate(cohen_kappa(rare, rare, 2, draws), 8).interval_95 is None
    one_patient = bootstrap_draws(["a"] * 8)
    assert estimate(cohen_kappa(alike, rare, 2, one_patient), 8).interval_95 is None


def test_an_interval_needs_a_figure() -> None:
    with pytest.raises(ValueError, match="no interval"):
        Estimate(None, (0.0, 1.0), 3)
