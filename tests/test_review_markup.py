"""What the pages of studies say, as HTML: escaped, in words, and a dash where nothing is defined."""

import re

import pytest

from ipfvision.core.findings import Decision
from ipfvision.core.reader_statistics import Estimate
from ipfvision.core.review import Diagnosis, Judgment, MapVerdict, Reason, Review, Stage
from ipfvision.ui import review_markup, study_markup
from ipfvision.workflow.reader_agreement import count
from tests.readings import STUDY, answer, opinion, review

EVIL = "<img src=x onerror=alert(1)>"


def texts(html: str) -> str:
    return re.sub(r"<[^>]+>", " ", html)


def study_of(*said: tuple[str, int, Diagnosis, Diagnosis]) -> list[Review]:
    """Blinded readings: reader, case, first, revised."""
    return [
        review(reader, number, opinion(revised), opinion(first), judgment=Judgment(MapVerdict.AGREES))
        for reader, number, first, revised in said
    ]


@pytest.mark.parametrize(
    ("kappa", "word"),
    [
        (-0.3, "no better than chance"), (0.0, "no better than chance"), (0.01, "slight"), (0.2, "slight"), (0.21, "fair"),
        (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"), (0.81, "almost perfect"), (1.0, "almost perfect"),
    ],
)  # fmt: skip
def test_a_kappa_is_a_word_as_landis_and_koch_have_it(kappa: float, word: str) -> None:
    assert review_markup.strength(kappa) == word


def test_what_is_not_defined_is_a_dash_and_no_number() -> None:
    assert review_markup.figure(Estimate(None, None, 3)) == review_markup.figure(None) == "\N{EN DASH}"
    assert review_markup.figure(Estimate(0.5, None, 3)) == "0.50"
    assert review_markup.figure(Estimate(0.5, (-0.1, 0.9), 3)) == "0.50 (\N{MINUS SIGN}0.10 to 0.90)"
    assert review_markup.figure(Estimate(0.5, (0.25, 1.0), 3), as_percent=True) == "50 % (25 % to 100 %)"


def test_the_headlines_say_how_often_readers_agree_and_what_the_answer_changed() -> None:
    uip, other = Diagnosis.UIP, Diagnosis.ALTERNATIVE
    given = study_of(
        ("Ada", 1, uip, uip), ("Ada", 2, other, uip), ("Ada", 3, uip, uip), ("Ada", 4, other, other),
        ("Bo", 1, uip, uip), ("Bo", 2, other, other), ("Bo", 3, other, uip), ("Bo", 4, other, other),
    )  # fmt: skip
    said = texts(review_markup.headlines(count(given)))
    assert "8 readings of 4 cases by 2 readers." in said
    # Three of four alike; by chance (2 x 1 + 2 x 3) / 16 = 1/2: kappa (3/4 - 1/2) / (1/2).
    assert "the same diagnosis in 75 % of the cases: moderate agreement beyond chance (kappa 0.50)" in said
    # The machine said IPF each time.
    assert "changed in 2 of 8 blinded readings: 2 towards the machine\u2019s answer, 0 away from it" in said
    assert "These are 4 cases." in said


def test_one_reader_alone_agrees_with_nobody_and_the_page_says_no_figure() -> None:
    counted = count(study_of(("Ada", 1, Diagnosis.UIP, Diagnosis.UIP)))
    assert "the same diagnosis" not in texts(review_markup.headlines(counted))
    table = texts(review_markup.agreement(counted))
    assert re.search("Cohen\u2019s kappa\\s+\N{EN DASH}\\s+\N{EN DASH}\\s", table)
    assert "Pair by pair" not in table


def test_whatever_was_typed_is_escaped() -> None:
    one = review(
        EVIL, 1, opinion(Diagnosis.UIP, comment=EVIL), judgment=Judgment(MapVerdict.PARTLY, (Reason.VESSEL,), EVIL),
        machine=answer(Decision.IPF),
    )  # fmt: skip
    counted = count([one])
    shown = [
        review_markup.readings([one]),
        review_markup.headlines(counted),
        review_markup.agreement(counted),
        review_markup.framed(b"", EVIL),
        review_markup.legend({EVIL: "#ffffff"}),
        study_markup.heading(EVIL, EVIL),
        study_markup.progress({EVIL: (0, 1)}, {EVIL: EVIL}),
        study_markup.news(EVIL),
        study_markup.refused([(EVIL, EVIL)]),
        study_markup.case_head(1, 0, 1, STUDY, Stage.READING),
    ]
    assert not [html for html in shown if "<img src=x" in html]


def test_a_line_says_the_verdict_with_its_reasons_and_another_model() -> None:
    one = review("Ada", 3, opinion(Diagnosis.UIP, 5), opinion(Diagnosis.INDETERMINATE, 2), seconds=(61.0, 75.5),
                 judgment=Judgment(MapVerdict.DISAGREES, (Reason.EMPHYSEMA, Reason.VESSEL)))  # fmt: skip
    said = texts(review_markup.readings([one]))
    for words in ("indeterminate for UIP (2)", "UIP (5)", "disagrees: emphysema, vessel", "IPF-like 0.88", "1:01", "0:14"):
        assert words in said
