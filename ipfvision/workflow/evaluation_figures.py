"""The numbers of an evaluation, from answers: ROC areas, rates, calibration, risk against coverage, profile, source control.

What is not defined is None. A picture's patient is what is drawn again in a bootstrap, never the picture.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from ipfvision.core.findings import Decision, ModelCard
from ipfvision.workflow.answers import LABELS, Answer, by_patient

BOOTSTRAPS = 2000
BINS = 10
"""Of the reliability curve, equally wide."""
NEGATIVES = ("normal", "other_disease")
"""What IPF is calibrated and risked against. NSIP and the little diseased slices of IPF patients are reported apart: what the
right answer to them is, is not settled."""
LEAST_SERIES = 8
"""Slices from which a profile along the patient is drawn."""

FOLDS = 5

Floats = npt.NDArray[np.float64]


def exact_interval(successes: int, trials: int) -> list[float]:
    """Clopper-Pearson 95 % interval of a rate."""
    from scipy.stats import binomtest  # noqa: PLC0415

    interval = binomtest(successes, trials).proportion_ci(0.95, "exact")
    return [float(interval.low), float(interval.high)]


def rate(successes: int, trials: int) -> dict[str, Any]:
    """A rate with its exact interval; None of no trials."""
    if trials == 0:
        return {"rate": None, "count": 0, "of": 0, "interval_95": None}
    return {
        "rate": successes / trials,
        "count": successes,
        "of": trials,
        "interval_95": exact_interval(successes, trials),
    }


def _edges(draws: Floats) -> list[float] | None:
    """95 % percentile interval of bootstrap draws; NaN is a draw in which the figure is not defined."""
    defined = draws[~np.isnan(draws)]
    return [round(float(edge), 6) for edge in np.quantile(defined, [0.025, 0.975])] if defined.size else None


def _times_drawn(sizes: Sequence[int], seed: int) -> list[Floats]:
    """For every side, (BOOTSTRAPS, patients): how often each patient is drawn, with replacement and within the side."""
    rng = np.random.default_rng(seed)
    return [
        np.stack([np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(BOOTSTRAPS)]).astype(np.float64)
        for size in sizes
    ]


def _wins(ours: Sequence[Floats], theirs: Sequence[Floats]) -> Floats:
    """(our patients, their patients): pairs of pictures of which ours has the higher margin, ties half (Mann and Whitney)."""
    return np.array([[float((np.sign(own[:, None] - other) + 1).sum() / 2) for other in theirs] for own in ours])


def area_with_interval(
    given: Sequence[Answer], negatives: Collection[str], positives: Collection[str] = ("ipf",), seed: int = 0
) -> dict[str, Any]:
    """AUROC of IPF against `negatives`, with a 95 % percentile interval from a bootstrap over patients within each side.

    `patients_alike` is the same area with every patient weighing alike, whoever has how many pictures.
    """
    return grouped_area(list(by_patient(given, positives)), list(by_patient(given, negatives)), seed)


def grouped_area(ours: Sequence[Floats], theirs: Sequence[Floats], seed: int = 0) -> dict[str, Any]:
    """The same for scores that are given as one array for each patient, or for whatever else is to be drawn again."""
    if not ours or not theirs:
        return {
            "auroc": None,
            "interval_95": None,
            "patients_alike": None,
            "images": [0, 0],
            "patients": [len(ours), len(theirs)],
        }
    wins, counts = _wins(ours, theirs), [np.array([float(len(own)) for own in side]) for side in (ours, theirs)]
    interval = None
    if len(ours) > 1 or len(theirs) > 1:  # of one patient on each side there is nothing to draw again
        first, second = _times_drawn([len(ours), len(theirs)], seed)
        interval = _edges(((first @ wins) * second).sum(axis=1) / ((first @ counts[0]) * (second @ counts[1])))
    return {
        "auroc": float(wins.sum() / counts[0].sum() / counts[1].sum()),
        "interval_95": interval,
        "patients_alike": float((wins / np.outer(*counts)).mean()),
        "images": [int(count.sum()) for count in counts],
        "patients": [len(ours), len(theirs)],
    }


def within_patients(given: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """For every patient with diseased and other slices: AUROC of the ones against the others."""
    found = {}
    for patient in sorted({answer.row.patient for answer in given if answer.row.label == "ipf_patient"}):
        figure = area_with_interval([answer for answer in given if answer.row.patient == patient], ("ipf_patient",))
        if figure["auroc"] is not None:
            found[patient] = figure
    return found


def roc(given: Sequence[Answer], negatives: Collection[str]) -> tuple[list[float], list[float]] | None:
    """False positive and true positive rates; None if a side is missing."""
    from sklearn.metrics import roc_curve  # noqa: PLC0415

    ours, theirs = list(by_patient(given, ("ipf",))), list(by_patient(given, negatives))
    if not ours or not theirs:
        return None
    scores = np.concatenate([*ours, *theirs])
    alarms, hits, _ = roc_curve(np.arange(len(scores)) < sum(map(len, ours)), scores)
    return [float(value) for value in alarms], [float(value) for value in hits]


def decisions(given: Iterable[Answer], card: ModelCard) -> list[Decision]:
    """What the page says of each picture."""
    from ipfvision.nn.classify import decide  # noqa: PLC0415

    return [Decision.REFUSED if answer.margin is None else decide(answer.margin, card).decision for answer in given]


def probabilities(given: Iterable[Answer], card: ModelCard) -> list[float | None]:
    """Calibrated probability of IPF for each picture; None if it was refused."""
    from ipfvision.nn.classify import probability  # noqa: PLC0415

    return [None if answer.margin is None else probability(answer.margin, card.temperature) for answer in given]


def rates(given: Sequence[Answer], card: ModelCard) -> dict[str, Any]:
    """How often the card's answer is right, per label, with exact intervals; refusals and "uncertain" are counted apart.

    `called_ipf`: share of the pictures that got an answer (uncertain is one) that are called IPF. `at_operating_point`: the
    share whose probability reaches the operating point, were there no uncertain band: for IPF the sensitivity, for the others
    the false alarms. The exact interval takes pictures for independent, which those of one patient are not: where patients have
    many pictures it is too narrow. `patients_at_operating_point` counts each patient once, by the patient's median picture.
    """
    figures = {}
    for label in LABELS:
        rows = [answer for answer in given if answer.row.label == label]
        said = decisions(rows, card)
        answered = sum(one is not Decision.REFUSED for one in said)
        reached = sum(share is not None and share >= card.operating_point for share in probabilities(rows, card))
        medians = [float(np.median(own)) for own in by_patient(rows, (label,))]
        called = [share >= card.operating_point for share in _logistic(np.array(medians) / card.temperature)]
        figures[label] = {
            "at_operating_point": rate(reached, answered),
            "patients_at_operating_point": rate(sum(map(bool, called)), len(called)),
            "called_ipf": rate(said.count(Decision.IPF), answered),
            "called_normal": said.count(Decision.NORMAL),
            "uncertain": said.count(Decision.UNCERTAIN),
            "refused": said.count(Decision.REFUSED),
            "refused_by_gate": sum(answer.refused_by_gate for answer in rows),
            "pictures": len(rows),
            "patients": len({answer.row.patient for answer in rows}),
        }
    return figures


def cost_of_precision(full: Sequence[Answer], reduced: Sequence[Answer], card: ModelCard) -> dict[str, Any]:
    """What less exact arithmetic does to the answers to the same pictures.

    Margins in logits; maps as a share of the card's reference, as they are drawn.
    """
    pairs = list(zip(full, reduced, strict=True))
    margins = [abs(a.margin - b.margin) for a, b in pairs if a.margin is not None and b.margin is not None]
    maps = [float(np.abs(a.cells - b.cells).max()) for a, b in pairs if a.cells is not None and b.cells is not None]
    return {
        "pictures": len(pairs),
        "largest_margin_difference": max(margins, default=0.0),
        "largest_map_difference": max(maps, default=0.0) / card.map_reference,
        "answers_changed": sum(a is not b for a, b in zip(decisions(full, card), decisions(reduced, card), strict=True)),
        "auroc_ipf_against_normal": area_with_interval(reduced, ("normal",)),
        "auroc_ipf_against_other_disease": area_with_interval(reduced, ("other_disease",)),
        "at_operating_point": rates(reduced, card),
    }


def _logistic(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))), np.float64)


def calibration(given: Sequence[Answer], card: ModelCard, seed: int = 0) -> dict[str, Any]:
    """Reliability curve, Brier score and expected calibration error of IPF against `NEGATIVES`, every patient weighing alike.

    The expected calibration error is the mean distance between the mean probability and the share of IPF in each of `BINS` bins
    (Guo et al., ICML 2017). It is never negative, so a few patients alone lift it above 0. Intervals are from a bootstrap over
    patients within each side.
    """
    ours, theirs = (
        [_logistic(own / card.temperature) for own in by_patient(given, labels)] for labels in (("ipf",), NEGATIVES)
    )
    if not ours or not theirs:
        return {"brier": None, "expected_calibration_error": None, "bins": [], "patients": [len(ours), len(theirs)]}
    # (patients, bins): every figure is a quotient of sums over patients, so that a draw is a matrix product
    sums = [_in_bins(own, 1.0) for own in ours] + [_in_bins(own, 0.0) for own in theirs]
    weight, share, truth, squared = np.stack(sums, axis=1)
    once = np.ones((1, len(weight)))
    drawn = np.concatenate(_times_drawn([len(ours), len(theirs)], seed), axis=1)

    def brier(times: Floats) -> Floats:
        return np.asarray((times @ squared).sum(axis=1) / (times @ weight).sum(axis=1))

    def error(times: Floats) -> Floats:
        return np.asarray(np.abs(times @ (share - truth)).sum(axis=1) / (times @ weight).sum(axis=1))

    def observed(times: Floats) -> Floats:
        of = times @ weight
        return np.asarray(np.divide(times @ truth, of, out=np.full_like(of, np.nan), where=of > 0))

    pictures = np.bincount(_bin_of(np.concatenate([*ours, *theirs])), minlength=BINS)
    shares_of_ipf, intervals = observed(once)[0], observed(drawn)
    return {
        "brier": {"value": float(brier(once)[0]), "interval_95": _edges(brier(drawn))},
        "expected_calibration_error": {"value": float(error(once)[0]), "interval_95": _edges(error(drawn))},
        "bins": [
            {
                "from": index / BINS,
                "to": (index + 1) / BINS,
                "pictures": int(pictures[index]),
                "weight_in_patients": float(weight[:, index].sum()),
                "mean_probability": float(share[:, index].sum() / weight[:, index].sum()),
                "share_of_ipf": float(shares_of_ipf[index]),
                "interval_95": _edges(intervals[:, index]),
            }
            for index in np.flatnonzero(pictures)
        ],
        "pictures": int(pictures.sum()),
        "patients": [len(ours), len(theirs)],
    }


def _bin_of(shares: Floats) -> npt.NDArray[np.intp]:
    return np.minimum((shares * BINS).astype(np.intp), BINS - 1)


def _in_bins(shares: Floats, truth: float) -> Floats:
    """(4, BINS) of one patient, whose pictures weigh 1 together: weight, and weighted probability, truth, squared error."""
    found = _bin_of(shares)
    sums = (np.ones_like(shares), shares, np.full_like(shares, truth), np.square(shares - truth))
    return np.stack([np.bincount(found, values, BINS) / len(shares) for values in sums])


def risk_coverage(given: Sequence[Answer], card: ModelCard) -> dict[str, Any] | None:
    """How many answers are wrong if only the surest are given (El-Yaniv and Wiener, JMLR 2010;11:1605-1641).

    Pictures of IPF and of `NEGATIVES`, surest first: the farther a probability is from the operating point, on its own side's
    scale, the surer. Wrong is to stand on the wrong side of the operating point. Coverage is of all pictures, so it ends where
    the refusals begin. `as_used` is what the card does: refused and uncertain get no answer. None without a picture.
    """
    rows = [answer for answer in given if answer.row.label in {"ipf", *NEGATIVES}]
    shares, point = probabilities(rows, card), card.operating_point
    answered = [(share, answer.row.label == "ipf") for share, answer in zip(shares, rows, strict=True) if share is not None]
    if not answered:
        return None
    sureness = [
        (share - point) / max(1 - point, 1e-9) if share >= point else (point - share) / max(point, 1e-9)
        for share, _ in answered
    ]
    order = np.argsort(-np.array(sureness), kind="stable")
    wrong = np.array([(share >= point) != ipf for share, ipf in answered])[order]
    given_so_far = np.arange(1, len(wrong) + 1)
    risk = np.cumsum(wrong) / given_so_far
    said = decisions(rows, card)
    used = [(one is Decision.IPF) != (row.row.label == "ipf") for one, row in zip(said, rows, strict=True) if one in _SURE]
    return {
        "coverage": [float(value) for value in given_so_far / len(rows)],
        "risk": [float(value) for value in risk],
        "area_under_curve": float(risk.mean()),
        "pictures": len(rows),
        "as_used": {
            "coverage": rate(len(used), len(rows)),
            "wrong": rate(sum(used), len(used)),
            "uncertain": said.count(Decision.UNCERTAIN),
            "refused": said.count(Decision.REFUSED),
        },
    }


_SURE = (Decision.IPF, Decision.NORMAL)


def profiles(given: Sequence[Answer], card: ModelCard) -> list[dict[str, Any]]:
    """For every patient with a series of slices whose places are known: does the probability of IPF rise towards the base?

    Spearman's rank correlation of probability with the way down the patient, and the share of pairs of slices of which the
    lower one has the higher probability (ties count half; 0.5 is chance). Both rest on one patient, whose slices depend on
    each other: there is no interval for them.
    """
    from scipy.stats import spearmanr  # noqa: PLC0415

    found = []
    placed = [answer for answer in given if answer.position_mm is not None]
    for patient, group in groupby(sorted(placed, key=lambda one: one.row.patient), key=lambda one: one.row.patient):
        rows = sorted(group, key=lambda one: -float(one.position_mm or 0))
        shares = probabilities(rows, card)
        down = np.array([float(rows[0].position_mm or 0) - float(row.position_mm or 0) for row in rows])
        known = np.array([share is not None for share in shares])
        values = np.array([share for share in shares if share is not None])
        if len(values) < LEAST_SERIES or len(np.unique(values)) < 2 or len(np.unique(down[known])) < 2:
            continue
        thirds = np.minimum((down[known] / down.max() * 3).astype(int), 2)
        found.append(
            {
                "patient": patient,
                "spearman": float(spearmanr(down[known], values).statistic),
                "lower_is_higher": lower_is_higher(down[known], values),
                "slices": len(values),
                "refused": int((~known).sum()),
                "mean_probability_by_third": [
                    float(values[thirds == third].mean()) if (thirds == third).any() else None for third in range(3)
                ],
                "down_mm": [float(value) for value in down],
                "probability": shares,
                "label": [row.row.label for row in rows],
            }
        )
    return found


def lower_is_higher(down_mm: Floats, values: Floats) -> float | None:
    """Share of the pairs at different places of which the lower one has the larger value, ties counted half."""
    lower = down_mm[:, None] > down_mm[None, :]
    if not lower.any():
        return None
    higher = np.sign(values[:, None] - values[None, :])
    return float(((higher + 1) / 2)[lower].mean())


def by_source(given: Sequence[Answer], card: ModelCard) -> list[dict[str, Any]]:
    """For every folder and label: how many pictures, of how many patients, what was answered, and the mean margin."""
    keys = sorted({(answer.source, LABELS.index(answer.row.label)) for answer in given})
    return [
        {
            "source": source,
            "label": LABELS[label],
            **_counts([a for a in given if (a.source, a.row.label) == (source, LABELS[label])], card),
        }
        for source, label in keys
    ]


def by_each_patient(given: Sequence[Answer], card: ModelCard) -> list[dict[str, Any]]:
    """The same for every patient and label, in the order of the labels."""
    keys = sorted({(LABELS.index(answer.row.label), answer.row.patient) for answer in given})
    found = []
    for label, patient in keys:
        own = [a for a in given if (a.row.label, a.row.patient) == (LABELS[label], patient)]
        found.append({"patient": patient, "label": LABELS[label], "source": own[0].source, **_counts(own, card)})
    return found


def _counts(own: Sequence[Answer], card: ModelCard) -> dict[str, Any]:
    said = decisions(own, card)
    shares = [share for share in probabilities(own, card) if share is not None]
    margins = [answer.margin for answer in own if answer.margin is not None]
    return {
        "pictures": len(own),
        "patients": len({answer.row.patient for answer in own}),
        **{decision.value: said.count(decision) for decision in Decision},
        "mean_margin": float(np.mean(margins)) if margins else None,
        "probability": [min(shares), float(np.median(shares)), max(shares)] if shares else None,
    }


def source_control(given: Sequence[tuple[str, str, npt.NDArray[np.float32]]], seed: int = 0) -> dict[str, Any]:
    """Can a straight line tell from the model's features which source a picture came from?

    Logistic regression on standardized features, five folds by patient. Every source weighs the same, and within a source
    every patient: chance is 1 / (number of sources). A source with one patient cannot be held out and is left out. The
    interval is from a bootstrap over patients of the held-out answers; the regressions are not fitted again.

    Parameters
    ----------
    given
        Source, patient and (2048,) features of each picture.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.model_selection import PredefinedSplit, cross_val_predict  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    patients = {source: {one[1] for one in given if one[0] == source} for source in sorted({one[0] for one in given})}
    asked = [source for source, own in patients.items() if len(own) > 1]
    left_out = [source for source, own in patients.items() if len(own) <= 1]
    rows = [one for one in given if one[0] in asked]
    counts = {
        source: {"pictures": sum(one[0] == source for one in rows), "patients": len(patients[source])} for source in asked
    }
    if len(asked) < 2:
        return {"accuracy": None, "interval_95": None, "chance": None, "sources": counts, "left_out": left_out}
    truth = np.array([one[0] for one in rows])
    groups = np.array([f"{one[0]} {one[1]}" for one in rows])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"))
    rng = np.random.default_rng(seed)
    # Dealt out within each source, so that no fold's training lacks one.
    fold_of = {
        f"{source} {own}": n % FOLDS for source in asked for n, own in enumerate(rng.permutation(sorted(patients[source])))
    }
    folds = PredefinedSplit([fold_of[group] for group in groups])
    told = cross_val_predict(model, np.stack([one[2] for one in rows]), truth, cv=folds)
    sides = [
        [float((told == truth)[groups == group].mean()) for group in np.unique(groups[truth == source])] for source in asked
    ]

    times = _times_drawn([len(side) for side in sides], seed)
    draws = np.mean([own @ np.array(side) / len(side) for own, side in zip(times, sides, strict=True)], axis=0)
    return {
        "accuracy": float(np.mean([np.mean(side) for side in sides])),
        "interval_95": _edges(draws),
        "chance": 1 / len(asked),
        "sources": counts,
        "left_out": left_out,
    }
