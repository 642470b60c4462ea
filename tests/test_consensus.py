"""One mask of several readers'."""

import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from readings import box, case, drawn, opinion, review

from ipfvision.core.annotation import Finding
from ipfvision.core.review import Diagnosis
from ipfvision.errors import StudyProblem
from ipfvision.workflow.consensus import drawn_by_readers, majority, staple
from ipfvision.workflow.reader_agreement import Word


def disk(row: int, column: int, radius: int, size: int = 96) -> np.ndarray:
    rows, columns = np.ogrid[:size, :size]
    found: np.ndarray = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return found


def staple_by_hand(masks: list[np.ndarray]) -> tuple[np.ndarray, list[float], list[float]]:
    """Expectation and maximization as Warfield et al. 2004 write them, equations 14, 15, 18 and 19."""
    decisions = np.array([mask.ravel() for mask in masks], np.float64)
    prior = decisions.mean()
    p = q = np.full(len(masks), 0.99999)
    for _ in range(500):
        a = prior * np.prod(np.where(decisions == 1, p[:, None], 1 - p[:, None]), axis=0)
        b = (1 - prior) * np.prod(np.where(decisions == 0, q[:, None], 1 - q[:, None]), axis=0)
        w = a / (a + b)
        p, q = decisions @ w / w.sum(), (1 - decisions) @ (1 - w) / (1 - w).sum()
    return (w > 0.5).reshape(masks[0].shape), list(p), list(q)


THREE = [disk(40, 40, 12), disk(41, 42, 14), disk(39, 40, 9)]


@given(arrays(np.bool_, (3, 4, 5)))
def test_the_majority_of_three_is_their_median(masks: np.ndarray) -> None:
    assert (majority(list(masks)) == np.median(masks, axis=0).astype(bool)).all()


@given(arrays(np.bool_, (4, 3, 3)), st.permutations(range(4)))
def test_the_majority_does_not_ask_who_is_who(masks: np.ndarray, order: list[int]) -> None:
    assert (majority(list(masks)) == majority(list(masks[order]))).all()


def test_a_tie_is_no_majority() -> None:
    first, second = THREE[:2]
    assert (majority([first, second]) == (first & second)).all()
    assert not majority([first, ~first]).any()


def test_staple_is_what_the_article_says() -> None:
    pytest.importorskip("SimpleITK", reason="STAPLE needs SimpleITK, which the app does without")
    found, (mask, sensitivity, specificity) = staple(THREE), staple_by_hand(THREE)
    assert (found.mask == mask).all()
    assert found.sensitivity == pytest.approx(sensitivity, abs=1e-3)
    assert found.specificity == pytest.approx(specificity, abs=1e-3)


def test_staple_hears_the_reader_who_is_right_more() -> None:
    pytest.importorskip("SimpleITK", reason="STAPLE needs SimpleITK, which the app does without")
    careless = np.zeros_like(THREE[0])
    found = staple([*THREE[:2], careless])
    assert found.sensitivity is not None
    assert found.sensitivity[2] < 0.05
    assert min(found.sensitivity[:2]) > 0.9
    for order in permutations(range(3)):
        assert (staple([THREE[index] for index in order]).mask == staple(THREE).mask).all()


@pytest.mark.parametrize("mask", [np.zeros((4, 4), np.bool_), np.ones((4, 4), np.bool_), THREE[0]])
def test_readers_who_agree_need_no_estimation(mask: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    found = staple([mask, mask.copy()])
    assert (found.mask == mask).all()
    assert found.sensitivity is None
    assert found.specificity is None


def test_without_simpleitk_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(StudyProblem, match="pip install SimpleITK, or use the majority"):
        staple(THREE)


@pytest.mark.parametrize("consensus", [majority, staple])
def test_masks_of_several_slices_have_no_consensus(consensus) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="at least one"):
        consensus([])
    with pytest.raises(ValueError, match="one slice"):
        consensus([np.zeros((2, 3), np.bool_), np.zeros((3, 2), np.bool_)])


def test_readers_masks_of_a_slice_are_empty_where_they_marked_nothing_and_absent_where_they_never_draw() -> None:
    left, right, two = box(0, 0, 8, 4), box(0, 4, 8, 8), case(1, slices=2)
    uip, traction = Diagnosis.UIP, Finding.TRACTION_BRONCHIECTASIS
    given = [
        review("Ada", 1, opinion(uip, 3, drawn(left), drawn(right, traction)), opinion(uip, 3, drawn(left)), of=two),
        review("Ben", 1, opinion(uip, 3, drawn(left, slice_index=1)), opinion(uip), of=two),
        review("Cleo", 1, opinion(uip), opinion(uip), of=two),
        review("Ada", 2, opinion(uip, 3, drawn(right))),
    ]
    found = drawn_by_readers(given, "case-1", 0)
    assert list(found) == ["Ada", "Ben"]
    assert found["Ada"].all()
    assert not found["Ben"].any()
    assert (drawn_by_readers(given, "case-1", 0, [traction])["Ada"] == right).all()
    assert list(drawn_by_readers(given, "case-1", 0, word=Word.FIRST)) == ["Ada"]
    assert (drawn_by_readers(given, "case-1", 0, word=Word.FIRST)["Ada"] == left).all()
    assert drawn_by_readers(given, "case-3", 0) == {}
