"""What the readings of a study add up to."""

import statistics
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readings import STUDY, answer, box, case, drawn, opinion, review
from sklearn.metrics import cohen_kappa_score, f1_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from ipfvision.core.annotation import Finding
from ipfvision.core.findings import Decision
from ipfvision.core.reader_statistics import Estimate
from ipfvision.core.review import (
    Diagnosis,
    Judgment,
    MapAgreement,
    MapVerdict,
    Mode,
    Reason,
    Review,
)
from ipfvision.workflow.reader_agreement import count, dice, that_count

UIP, PROBABLE, INDETERMINATE, ALTERNATIVE = Diagnosis
READERS = ("Ada", "Ben", "Cleo")
TWELVE = {
    "Ada": [0, 0, 1, 2, 3, 0, 1, 1, 2, 3, 3, 0],
    "Ben": [0, 1, 1, 2, 3, 0, 0, 1, 3, 3, 2, 0],
    "Cleo": [0, 0, 2, 2, 3, 1, 1, 0, 2, 3, 3, 1],
}
NOTHING = Estimate(None, None, 0)


def twelve(said: dict[str, list[int]] = TWELVE) -> list[Review]:
    """First opinions as they are in the table, and everybody says UIP once the machine has spoken."""
    diagnoses = tuple(Diagnosis)
    return [
        review(reader, number, opinion(UIP), opinion(diagnoses[answered]))
        for reader, own in said.items()
        for number, answered in enumerate(own, start=1)
    ]


def test_twelve_cases_and_three_readers_have_the_kappas_of_scikit_learn() -> None:
    found = count(twelve())
    assert (found.readers, found.cases, found.examinations, found.reviews) == (READERS, 12, 12, 36)
    assert found.first is not None
    diagnosis = found.first.diagnosis
    plain, weighted, same = [], [], []
    for pair, names in zip(diagnosis.pairs, combinations(READERS, 2), strict=True):
        assert pair.readers == names
        first, second = (np.array(TWELVE[name]) for name in names)
        plain.append(cohen_kappa_score(first, second))
        weighted.append(cohen_kappa_score(first, second, weights="quadratic"))
        same.append(float((first == second).mean()))
        assert pair.kappa.value == pytest.approx(plain[-1])
        assert pair.weighted_kappa is not None
        assert pair.weighted_kappa.value == pytest.approx(weighted[-1])
        assert pair.same.value == pytest.approx(same[-1])
        assert pair.kappa.cases == 12
        assert pair.kappa.interval_95 is not None
        assert pair.kappa.interval_95[0] < plain[-1] < pair.kappa.interval_95[1]
    assert diagnosis.kappa.value == pytest.approx(np.mean(plain))
    assert diagnosis.weighted_kappa is not None
    assert diagnosis.weighted_kappa.value == pytest.approx(np.mean(weighted))
    assert diagnosis.same.value == pytest.approx(np.mean(same))
    table = np.array(list(TWELVE.values())).T
    assert diagnosis.fleiss.value == pytest.approx(fleiss_kappa(aggregate_raters(table, 4)[0]))
    assert dict(diagnosis.counts)["Ada"] == (4, 3, 2, 3)


def test_readers_who_all_say_uip_after_the_reveal_have_no_kappa() -> None:
    diagnosis = count(twelve()).revised.diagnosis
    assert diagnosis.same == Estimate(1.0, None, 12)
    assert diagnosis.kappa == diagnosis.fleiss == diagnosis.alpha == Estimate(None, None, 12)


@settings(max_examples=20, deadline=None)
@given(st.permutations(READERS), st.permutations(range(12)))
def test_neither_the_readers_names_nor_the_order_of_rows_matter(names: list[str], order: list[int]) -> None:
    said = {name: [TWELVE[old][index] for index in order] for name, old in zip(names, READERS, strict=True)}
    before, after = count(twelve()).first, count(twelve(said)[::-1]).first
    assert before is not None
    assert after is not None
    for name in ("kappa", "weighted_kappa", "fleiss", "alpha", "same"):
        assert getattr(after.diagnosis, name).value == pytest.approx(getattr(before.diagnosis, name).value)


def test_the_same_seed_gives_the_same_interval() -> None:
    one, two, other = (count(twelve(), seed=seed).first for seed in (1, 1, 2))
    assert one is not None
    assert one == two
    assert one != other


def test_nothing_read_is_no_error_and_no_figure() -> None:
    found = count([])
    assert (found.study, found.readers, found.reviews, found.first) == (None, (), 0, None)
    assert found.revised.diagnosis.kappa == found.revised.gap.gap == found.readings[0].to_lock.median == NOTHING
    assert found.readings[0].to_lock.quartiles is None


def test_one_reader_agrees_with_nobody() -> None:
    found = count([one for one in twelve() if one.reader == "Ada"])
    assert found.first is not None
    assert found.first.diagnosis.pairs == ()
    assert found.first.diagnosis.fleiss == found.first.diagnosis.kappa == NOTHING


def test_a_case_that_one_reader_has_not_finished_counts_for_the_others() -> None:
    found = count(twelve()[:-2]).first
    assert found is not None
    assert [pair.kappa.cases for pair in found.diagnosis.pairs] == [12, 10, 10]
    assert (found.diagnosis.fleiss.cases, found.diagnosis.alpha.cases) == (10, 12)


def test_a_corrected_review_does_not_count_twice() -> None:
    given = twelve()
    last = replace(given[0], id="corrected", supersedes=given[0].id, revised=opinion(ALTERNATIVE))
    again = replace(last, id="again", supersedes="corrected", revised=opinion(INDETERMINATE))
    found = that_count([last, *given, again])
    assert len(found) == 36
    assert found[0] is again
    assert count([again, last, *given]).reviews == 36


def test_reviews_of_two_studies_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="study by study"):
        count([review("Ada", 1, opinion(UIP)), review("Ada", 2, opinion(UIP), study=replace(STUDY, id="s2"))])
    with pytest.raises(ValueError, match="one review of a case"):
        count([review("Ada", 1, opinion(UIP)), review("Ada", 1, opinion(UIP), identity="other")])


def test_cases_of_one_examination_are_drawn_together() -> None:
    given = [replace(one, case=replace(one.case, study_instance_uid="1.2.3")) for one in twelve()]
    found = count(given)
    assert found.first is not None
    assert found.examinations == 1
    assert found.first.diagnosis.kappa.value is not None
    assert found.first.diagnosis.kappa.interval_95 is None


LEFT, RIGHT, WIDE = box(0, 0, 4, 4), box(4, 4, 8, 8), box(0, 0, 4, 8)
HONEYCOMBING, TRACTION = Finding.HONEYCOMBING, Finding.TRACTION_BRONCHIECTASIS


def test_dice_is_the_f1_score_of_all_slices_at_once() -> None:
    rng = np.random.default_rng(2)
    first, second = ({index: rng.random((5, 7)) < 0.4 for index in range(3)} for _ in range(2))
    flat = [np.concatenate([one[index].ravel() for index in range(3)]) for one in (first, second)]
    assert dice(first, second) == pytest.approx(f1_score(*flat))
    assert dice(first, second) == dice(second, first)


def test_two_empty_drawings_have_no_dice_and_one_against_none_is_0() -> None:
    assert dice({}, {0: box(0, 0, 0, 0)}) is None
    assert dice({0: LEFT}, {}) == 0
    assert dice({0: LEFT}, {1: LEFT}) == 0


def test_drawings_are_compared_together_and_finding_by_finding() -> None:
    given = [
        review("Ada", 1, opinion(UIP, 3, drawn(LEFT), drawn(RIGHT, TRACTION))),
        review("Ben", 1, opinion(UIP, 3, drawn(WIDE), drawn(RIGHT, TRACTION, 1)), of=case(1, slices=2)),
        review("Ada", 2, opinion(UIP)),
        review("Ben", 2, opinion(UIP)),
    ]
    together, honeycombing, traction = count(given).revised.drawings
    assert (together.finding, honeycombing.finding, traction.finding) == (None, HONEYCOMBING, TRACTION)
    assert together.mean == Estimate(2 * 16 / (32 + 48), None, 1)
    assert honeycombing.mean.value == pytest.approx(2 * 16 / (16 + 32))
    assert traction.mean.value == 0
    assert together.pairs[0].readers == ("Ada", "Ben")


def test_whether_a_finding_is_there_at_all_has_a_kappa_of_its_own() -> None:
    marked = {"Ada": [1, 1, 0, 0, 1, 0], "Ben": [1, 0, 0, 0, 1, 1]}
    given = [
        review(reader, number, opinion(UIP, 3, *[drawn(LEFT)] * there))
        for reader, own in marked.items()
        for number, there in enumerate(own)
        if number > 0
    ] + [review(reader, 6, opinion(UIP, 3, drawn(LEFT))) for reader in marked]
    (present,) = count(given).revised.present
    assert present.question == "honeycombing"
    assert present.kappa.value == pytest.approx(cohen_kappa_score([1, 0, 0, 1, 0, 1], [0, 0, 0, 1, 1, 1]))
    assert present.weighted_kappa is None


def test_a_reader_who_never_draws_takes_no_part_in_dice() -> None:
    given = [
        review(reader, 1, opinion(UIP, 3, *drawings))
        for reader, drawings in {"Ada": [drawn(LEFT)], "Ben": [drawn(WIDE)], "Cleo": []}.items()
    ]
    together = count(given).revised.drawings[0]
    assert [pair.dice.value for pair in together.pairs] == [pytest.approx(32 / 48), None, None]
    looked = [*given[:2], review("Cleo", 1, opinion(UIP, 3, drawn(box(0, 0, 0, 0))))]
    assert [pair.dice.value for pair in count(looked).revised.drawings[0].pairs] == [pytest.approx(32 / 48), 0, 0]


def test_the_gap_is_between_readers_and_between_the_map_and_readers() -> None:
    machine = answer(maps={0: RIGHT})
    given = [
        review(reader, 1, opinion(UIP, 3, drawn(mask)), machine=machine)
        for reader, mask in {"Ada": LEFT, "Ben": WIDE, "Cleo": RIGHT}.items()
    ]
    gap = count(given).revised.gap
    between = [32 / 48, 0.0, 0.0]
    with_map = [0.0, 0.0, 1.0]
    assert gap.reader_to_reader.value == pytest.approx(np.mean(between))
    assert gap.map_to_reader.value == pytest.approx(np.mean(with_map))
    assert gap.gap.value == pytest.approx(np.mean(between) - np.mean(with_map))
    assert [(name, others.value, own.value) for name, others, own in gap.each] == [
        ("Ada", pytest.approx((32 / 48) / 2), 0.0),
        ("Ben", pytest.approx((32 / 48) / 2), 0.0),
        ("Cleo", 0.0, 1.0),
    ]


def test_a_map_that_draws_as_the_readers_do_has_no_gap() -> None:
    machine = answer(maps={0: LEFT, 1: RIGHT})
    drawings = (drawn(LEFT), drawn(RIGHT, TRACTION, 1))
    given = [
        review(name, number, opinion(UIP, 3, *drawings), machine=machine, of=case(number, slices=2))
        for name in READERS
        for number in (1, 2)
    ]
    assert count(given).revised.gap.gap == Estimate(0.0, None, 2)


def test_a_map_without_evidence_is_a_reader_who_marked_nothing() -> None:
    given = [review(name, 1, opinion(UIP, 3, drawn(LEFT)), machine=answer(maps={0: box(0, 0, 0, 0)})) for name in READERS]
    assert count(given).revised.gap.gap.value == 1.0


@pytest.mark.parametrize(
    ("machine", "masks"),
    [(answer(maps={0: LEFT}), [box(0, 0, 0, 0)] * 2), (answer(Decision.REFUSED, {0: LEFT}), [LEFT, WIDE])],
    ids=["nobody marked anything", "no map"],
)
def test_without_anything_to_compare_there_is_no_gap(machine, masks) -> None:  # type: ignore[no-untyped-def]
    given = [
        review(name, 1, opinion(UIP, 3, drawn(mask)), machine=machine) for name, mask in zip(READERS[:2], masks, strict=True)
    ]
    assert count(given).revised.gap.gap == NOTHING


def test_slices_that_nobody_marked_do_not_count_against_the_map() -> None:
    machine = answer(maps={0: LEFT, 1: WIDE})
    given = [review(name, 1, opinion(UIP, 3, drawn(LEFT)), machine=machine, of=case(1, slices=2)) for name in READERS[:2]]
    assert count(given).revised.gap.gap.value == 0.0


def test_each_reader_is_compared_with_the_map_that_was_shown() -> None:
    given = [
        review("Ada", 1, opinion(UIP, 3, drawn(LEFT)), machine=answer(maps={0: LEFT}, model="b" * 64)),
        review("Ben", 1, opinion(UIP, 3, drawn(LEFT)), machine=answer(maps={0: RIGHT}, model="c" * 64)),
    ]
    found = count(given)
    assert found.models == ("b" * 64, "c" * 64)
    assert [own.value for _, _, own in found.revised.gap.each] == [1.0, 0.0]


def test_the_maps_scores_are_means_over_cases_of_what_was_kept() -> None:
    kept = [MapAgreement(0, 0.2, None, True), MapAgreement(1, 0.4, 0.5, False)]
    given = [
        review("Ada", 1, opinion(UIP), agreement=tuple(kept)),
        review("Ada", 2, opinion(UIP), agreement=(MapAgreement(0, 0.7, None, True),)),
        review("Ada", 3, opinion(UIP)),
    ]
    (scores,) = count(given).map_scores
    assert (scores.dice.value, scores.dice.cases) == (pytest.approx(0.5), 2)
    assert scores.rank_accuracy == Estimate(0.5, None, 1)
    assert scores.pointing.value == pytest.approx(0.75)


def test_changes_after_the_reveal_are_told_by_their_direction() -> None:
    said = [
        (PROBABLE, UIP, Decision.IPF),
        (INDETERMINATE, UIP, Decision.IPF),
        (UIP, PROBABLE, Decision.IPF),
        (UIP, UIP, Decision.IPF),
        (UIP, ALTERNATIVE, Decision.NORMAL),
        (ALTERNATIVE, INDETERMINATE, Decision.NORMAL),
        (UIP, ALTERNATIVE, Decision.UNCERTAIN),
        (UIP, PROBABLE, Decision.REFUSED),
    ]
    given = [
        review("Ada", number, opinion(after, 3 + number % 2), opinion(before), machine=answer(decision))
        for number, (before, after, decision) in enumerate(said, start=1)
    ]
    found = count(given, truth={1: True, 3: False, 5: False, 6: True, 7: True})
    changes = found.readings[0].changes
    assert (changes.readings, changes.directed, changes.changed) == (8, 6, 7)
    assert (changes.towards, changes.away) == (3, 2)
    assert (changes.more_confident, changes.less_confident) == (4, 0)
    assert changes.share_changed.value == pytest.approx(7 / 8)
    assert changes.share_towards.value == pytest.approx(3 / 6)
    assert changes.share_away.value == pytest.approx(2 / 6)
    assert found.readings[1] == replace(found.readings[0], reader="Ada")
    assert found.when_right is not None
    assert found.when_wrong is not None
    assert (found.when_right.readings, found.when_right.towards, found.when_right.away) == (2, 2, 0)
    assert (found.when_wrong.readings, found.when_wrong.towards, found.when_wrong.away) == (2, 0, 2)


def test_without_a_truth_nothing_is_right_or_wrong() -> None:
    found = count(twelve())
    assert found.when_right is None
    assert found.when_wrong is None


def test_the_slice_most_like_ipf_speaks_for_the_case() -> None:
    normal, ipf = answer(Decision.NORMAL, {0: LEFT}), answer(Decision.IPF, {1: LEFT})
    machine = replace(normal, slices=(*normal.slices, *ipf.slices))
    given = [review("Ada", 1, opinion(UIP), opinion(PROBABLE), machine=machine, of=case(1, slices=2))]
    assert count(given).readings[0].changes.towards == 1


def test_a_drawing_that_says_nothing_new_is_not_redrawn() -> None:
    empty = drawn(box(0, 0, 0, 0), TRACTION)
    given = [
        review("Ada", 1, opinion(UIP, 3, drawn(LEFT), empty), opinion(UIP, 3, drawn(LEFT))),
        review("Ada", 2, opinion(UIP, 3, drawn(WIDE)), opinion(UIP, 3, drawn(LEFT))),
    ]
    assert count(given).readings[0].changes.redrawn == 1


def test_open_readings_have_one_opinion_and_no_changes() -> None:
    study = replace(STUDY, mode=Mode.OPEN)
    found = count([review("Ada", 1, opinion(UIP), study=study, seconds=(None, 40.0))])
    assert found.first is None
    assert found.readings[0].changes.readings == 0
    assert found.readings[0].changes.share_changed == NOTHING
    assert found.readings[0].to_lock.readings == 0
    assert found.readings[0].after_lock.median.value == 40.0


def test_reading_times_have_medians_and_quartiles() -> None:
    times = [(10.0, 15.0), (30.0, 31.0), (20.0, 60.0), (90.0, 90.0)]
    given = [
        review("Ada", number, opinion(UIP), opinion(UIP), seconds=seconds) for number, seconds in enumerate(times, start=1)
    ]
    found = count(given).readings[0]
    to_lock, after = [one[0] for one in times], [one[1] - one[0] for one in times]
    assert found.to_lock.median.value == statistics.median(to_lock)
    assert found.to_lock.quartiles == pytest.approx(tuple(np.percentile(to_lock, [25, 75])))
    assert found.after_lock.median.value == statistics.median(after)
    assert found.to_lock.median.interval_95 is not None
    low, high = found.to_lock.median.interval_95
    assert 10 <= low < 25 < high <= 90


def test_verdicts_on_the_map_and_their_reasons_are_counted() -> None:
    judgments = [
        ("Ada", 1, Judgment(MapVerdict.AGREES)),
        ("Ben", 1, Judgment(MapVerdict.PARTLY, (Reason.VESSEL,))),
        ("Ada", 2, Judgment(MapVerdict.DISAGREES, (Reason.EMPHYSEMA, Reason.VESSEL))),
        ("Ben", 2, Judgment(MapVerdict.DISAGREES, (Reason.VESSEL,))),
        ("Ada", 3, None),
        ("Ben", 3, Judgment(MapVerdict.AGREES)),
    ]
    found = count([review(reader, number, opinion(UIP), judgment=one) for reader, number, one in judgments])
    assert found.reasons == (("vessel", 3), ("emphysema", 1))
    assert dict(found.verdicts.counts) == {"Ada": (1, 0, 1), "Ben": (1, 1, 1)}
    assert found.verdicts.weighted_kappa is not None
    assert found.verdicts.weighted_kappa.value == pytest.approx(cohen_kappa_score([0, 2], [1, 2], weights="quadratic"))
    assert found.verdicts.weighted_kappa.cases == 2
