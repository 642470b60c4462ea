"""Readings from the store to the figures and tables, as a coordinator gets them."""

import csv
import io
from datetime import timedelta
from itertools import combinations
from itertools import count as counting
from pathlib import Path

import pytest
from readings import MODEL, START, answer, box, case, drawn
from sklearn.metrics import cohen_kappa_score

from ipfvision.core.review import BlindReview, Diagnosis, Draft, MapVerdict, RevealedReview, Review
from ipfvision.store import NewCase, Store, file_address
from ipfvision.workflow.reader_agreement import count
from ipfvision.workflow.studies import Studies
from ipfvision.workflow.study_tables import study_files

SAID = {
    "Ada": [0, 0, 1, 2, 3, 0, 1, 1, 2, 3, 3, 0],
    "Ben": [0, 1, 1, 2, 3, 0, 0, 1, 3, 3, 2, 0],
    "Cleo": [0, 0, 2, 2, 3, 1, 1, 0, 2, 3, 3, 1],
}


def read(studies: Studies, study_id: str, case_id: str, reader: str, draft: Draft) -> Review:
    found = studies.open_case(study_id, case_id, reader)
    assert isinstance(found, BlindReview)
    studies.lock(found.id, reader, found.revision, draft, MODEL)
    revealed = studies.reveal(found.id, reader, lambda _: answer(maps={0: box(0, 0, 4, 4)}))
    assert isinstance(revealed, RevealedReview)
    said = Draft(Diagnosis.UIP, 4, draft.drawings, verdict=MapVerdict.AGREES)
    done = studies.finish(found.id, reader, revealed.revision, said)
    assert isinstance(done, Review)
    return done


def test_three_readings_of_twelve_cases_give_scikit_learns_kappas_after_they_were_kept(tmp_path: Path) -> None:
    ticks, seconds = counting(), counting(step=5)
    with Studies(
        Store(file_address(tmp_path / "reviews.sqlite")),
        clock=lambda: START + timedelta(seconds=next(ticks)),
        stopwatch=lambda: float(next(seconds)),
    ) as studies:
        study = studies.create("Twelve cases", "Ada")
        cases = studies._store.add_cases(study.id, [NewCase(case(number).slices) for number in range(1, 13)], START)
        for reader in SAID:
            studies.join(study.id, reader)
        for reader, own in SAID.items():
            for one, answered in zip(cases, own, strict=True):
                last = read(studies, study.id, one.id, reader, Draft(tuple(Diagnosis)[answered], 3, (drawn(box(0, 0, 4, 4)),)))
        again = studies.reopen(last.id, "Cleo")
        assert isinstance(again, RevealedReview)
        studies.finish(again.id, "Cleo", again.revision, Draft(Diagnosis.PROBABLE_UIP, 2, verdict=MapVerdict.AGREES))

        counted = count(studies.reviews(study.id, "Ada"))
        assert count(studies.reviews(study.id, "Ada", history=True)) == counted
        files = study_files(studies.reviews(study.id, "Ada", history=True), {1: True, 2: True, 3: False})

    assert counted.reviews == 36
    assert counted.first is not None
    pairs = counted.first.diagnosis.pairs
    assert [pair.kappa.value for pair in pairs] == [
        pytest.approx(cohen_kappa_score(SAID[first], SAID[second])) for first, second in combinations(SAID, 2)
    ]
    assert [pair.weighted_kappa.value for pair in pairs if pair.weighted_kappa] == [
        pytest.approx(cohen_kappa_score(SAID[first], SAID[second], weights="quadratic"))
        for first, second in combinations(SAID, 2)
    ]
    assert counted.first.drawings[0].mean.value == 1
    assert counted.first.gap.gap.value == 0
    assert counted.readings[0].changes.away == 0
    assert counted.readings[0].to_lock.median.value == 5
    assert dict(counted.revised.diagnosis.counts)["Cleo"] == (11, 1, 0, 0)
    lines = list(csv.DictReader(io.StringIO(files["reviews.csv"].decode())))
    assert len(lines) == 37
    assert sum(line["counts"] == "1" for line in lines) == 36
    assert len(files["imrmc.csv"].splitlines()) == 1 + 3 + 3 * 3 * 2
