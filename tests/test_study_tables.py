"""A study's readings as tables."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from readings import STUDY, answer, box, case, drawn, opinion, review
from sklearn.metrics import roc_auc_score

from ipfvision.core.annotation import Finding
from ipfvision.core.findings import Decision
from ipfvision.core.review import Diagnosis, Judgment, MapAgreement, MapVerdict, Mode, Reason, Review
from ipfvision.core.run_lengths import decode
from ipfvision.errors import InputRefused, StudyProblem
from ipfvision.workflow.reader_agreement import count
from ipfvision.workflow.study_tables import (
    agreement_csv,
    agreement_json,
    imrmc_csv,
    imrmc_input,
    read_truth,
    reviews_csv,
    reviews_json,
    study_files,
    suspicion,
)

UIP, PROBABLE, INDETERMINATE, ALTERNATIVE = Diagnosis
TRUTH = {1: True, 2: True, 3: False, 4: False}
NAME = "Müller, Käthe *1949"


def readings() -> list[Review]:
    """Two readers, four cases; one has corrected herself."""
    first = {"Ada": [UIP, PROBABLE, ALTERNATIVE, PROBABLE], "Ben": [PROBABLE, ALTERNATIVE, INDETERMINATE, UIP]}
    revised = {"Ada": [UIP, UIP, ALTERNATIVE, INDETERMINATE], "Ben": [UIP, PROBABLE, INDETERMINATE, PROBABLE]}
    found = [
        review(
            reader,
            number,
            opinion(revised[reader][number - 1], 4, drawn(box(0, 0, 2, 3)), comment=NAME),
            opinion(first[reader][number - 1], 1 + number % 5, drawn(box(0, 0, 0, 0)), comment=NAME),
            judgment=Judgment(MapVerdict.PARTLY, (Reason.VESSEL, Reason.OTHER), NAME),
            agreement=(MapAgreement(0, 0.25, None, True),),
            machine=answer(maps={0: box(0, 0, 4, 4)}),
            of=case(number, study_instance_uid=f"1.2.{number}"),
        )
        for reader in first
        for number in TRUTH
    ]
    corrected = replace(found[0], id="corrected", supersedes=found[0].id, revised=opinion(INDETERMINATE, 2))
    return [*found, corrected]


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_each_review_has_one_line_and_says_whether_it_counts() -> None:
    lines = table(reviews_csv(readings()))
    assert [(line["case"], line["reader"], line["counts"]) for line in lines[:3]] == [
        ("1", "Ada", "0"),
        ("1", "Ada", "1"),
        ("1", "Ben", "1"),
    ]
    assert len(lines) == 9
    before, after, _ = lines[:3]
    assert after["supersedes"] == before["review"]
    assert (before["first_diagnosis"], before["first_confidence"]) == ("UIP", "2")
    assert (after["revised_diagnosis"], after["revised_confidence"]) == ("indeterminate for UIP", "2")
    assert (before["first_honeycombing_pixels"], before["revised_honeycombing_pixels"]) == ("0", "6")
    assert after["revised_honeycombing_pixels"] == ""
    assert (before["verdict"], before["reasons"]) == ("partly", "vessel; other")
    assert (before["seconds_to_lock"], before["seconds_after_lock"]) == ("30.0", "20.0")
    assert (before["decision"], before["map_dice"], before["map_rank_accuracy"], before["map_pointing"]) == (
        "ipf",
        "0.25",
        "",
        "1.0",
    )
    assert before["locked"] == "2026-01-05T09:00:30.000+00:00"
    assert before["study_instance_uid"] == "1.2.1"


def test_json_holds_drawings_that_can_be_drawn_again() -> None:
    found = json.loads(reviews_json(readings()))
    assert found["study"]["title"] == STUDY.title
    assert [one["number"] for one in found["cases"]] == [1, 2, 3, 4]
    (drawing,) = found["reviews"][0]["revised"]["drawings"]
    assert drawing["finding"] == Finding.HONEYCOMBING.value
    assert (decode(np.array(drawing["runs"], np.uint32), tuple(drawing["shape"])) == box(0, 0, 2, 3)).all()
    assert found["reviews"][0]["answer"]["slices"][0]["decision"] == "ipf"


def test_what_readers_typed_is_written_only_if_asked_for() -> None:
    for text in (content.decode() for content in study_files(readings(), TRUTH).values()):
        assert "Müller" not in text
    asked = study_files(readings(), TRUTH, texts=True)
    assert table(asked["reviews.csv"].decode())[0]["verdict_text"] == NAME
    assert json.loads(asked["reviews.json"])["reviews"][0]["first"]["comment"] == NAME


def test_open_readings_leave_what_they_have_not_empty() -> None:
    study = replace(STUDY, mode=Mode.OPEN)
    given = [review("Ada", 1, opinion(UIP), machine=answer(Decision.REFUSED), study=study)]
    (line,) = table(reviews_csv(given))
    assert (line["mode"], line["first_diagnosis"], line["locked"], line["probability"]) == ("open", "", "", "")
    assert (line["decision"], line["verdict"], line["seconds_to_lock"]) == ("refused", "", "")
    assert line["seconds_after_lock"] == "50.0"
    assert json.loads(reviews_json(given))["reviews"][0]["first"] is None


def test_a_study_without_reviews_is_a_table_without_lines() -> None:
    files = study_files([])
    assert table(files["reviews.csv"].decode()) == []
    assert files["reviews.csv"].startswith(b"study,mode,case,reader,")
    assert json.loads(files["reviews.json"])["study"] is None
    assert json.loads(files["agreement.json"])["revised"]["diagnosis"]["kappa"] == {
        "value": None,
        "interval_95": None,
        "cases": 0,
    }
    assert set(files) == {"reviews.csv", "reviews.json", "agreement.csv", "agreement.json"}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x"])
def test_no_text_becomes_a_formula_in_a_spreadsheet(name: str) -> None:
    given = [review(name, 1, opinion(UIP))]
    assert table(reviews_csv(given))[0]["reader"] == f"'{name}"
    assert json.loads(reviews_json(given))["reviews"][0]["reader"] == name


def test_every_figure_has_a_line_with_its_interval() -> None:
    counted = count(readings())
    lines = table(agreement_csv(counted))
    assert counted.first is not None

    def find(opinion: str, figure: str, of: str, reader: str = "", other: str = "") -> dict[str, str]:
        wanted = {"opinion": opinion, "figure": figure, "of": of, "reader": reader, "other": other}
        (found,) = (line for line in lines if wanted.items() <= line.items())
        return found

    pair = counted.first.diagnosis.pairs[0]
    line = find("first", "cohen kappa", "diagnosis", "Ada", "Ben")
    assert float(line["value"]) == pytest.approx(pair.kappa.value, abs=1e-6)
    assert line["cases"] == "4"
    assert find("first", "dice", "all findings", "Ada", "Ben")["value"] == ""
    gap = find("revised", "gap", "all findings", "", "map")
    assert float(gap["value"]) == pytest.approx(counted.revised.gap.gap.value, abs=1e-6)
    assert find("revised", "map dice", "", "Ben", "map")["value"] == "0.25"
    assert find("first", "median seconds", "to lock")["value"] == "30.0"
    assert find("revised", "cohen kappa, quadratic", "map", "Ada", "Ben")["value"] == ""
    assert json.loads(agreement_json(counted))["first"]["diagnosis"]["pairs"][0]["kappa"]["value"] == pair.kappa.value


def test_imrmcs_table_gives_the_roc_areas_of_the_readings() -> None:
    lines = table(imrmc_csv(readings(), TRUTH))
    assert list(lines[0]) == ["readerID", "caseID", "modalityID", "score"]
    # What `doAUCmrmc` of the R package stops at: no reader or no modality "truth", a case without it, a row twice.
    truths = {line["caseID"]: int(line["score"]) for line in lines if line["readerID"] == "truth"}
    assert truths == {"1": 1, "2": 1, "3": 0, "4": 0}
    assert all((line["readerID"] == "truth") == (line["modalityID"] == "truth") for line in lines)
    assert {line["caseID"] for line in lines} == set(truths)
    assert len({(line["readerID"], line["caseID"], line["modalityID"]) for line in lines}) == len(lines)
    areas = {}
    for reader in "12":
        for modality in "12":
            own = [line for line in lines if (line["readerID"], line["modalityID"]) == (reader, modality)]
            assert [line["caseID"] for line in own] == ["1", "2", "3", "4"]
            areas[reader, modality] = roc_auc_score(
                [truths[line["caseID"]] for line in own], [int(line["score"]) for line in own]
            )
    # With IPF against without. Ada: 7, 3 against -4, 5; then 0 (corrected), 9 against -4, 0. Ben: 2, -3 against 0, 10; then
    # 9, 4 against 0, 4.
    assert areas == {("1", "1"): 0.75, ("1", "2"): 0.875, ("2", "1"): 0.25, ("2", "2"): 0.875}


def test_imrmcs_input_file_says_what_its_java_program_reads() -> None:
    # It looks for "BEGIN DATA:", the sizes above it from the fourth character on, and the reader "-1".
    lines = imrmc_input(readings(), TRUTH).splitlines()
    begin = next(index for index, line in enumerate(lines) if line.upper().startswith("BEGIN DATA:"))
    sizes = {key: int(line[3:]) for line in lines[:begin] for key in ("NR:", "N0:", "N1:", "NM:") if key in line.upper()}
    rows = [tuple(field.strip() for field in line.split(",")) for line in lines[begin + 1 :]]
    truths = {case: score for reader, case, _, score in rows if reader == "-1"}
    scores = [row for row in rows if row[0] != "-1"]
    assert {len(row) for row in rows} == {4}
    assert sizes == {
        "NR:": len({row[0] for row in scores}),
        "N0:": list(truths.values()).count("0"),
        "N1:": list(truths.values()).count("1"),
        "NM:": len({row[2] for row in scores}),
    }
    assert len({row[:3] for row in scores}) == len(scores) == 16
    assert {row[1] for row in scores} <= set(truths)


def test_cases_without_a_truth_are_not_in_imrmcs_table() -> None:
    lines = table(imrmc_csv(readings(), {1: True, 3: False, 99: True}))
    assert {line["caseID"] for line in lines} == {"1", "3"}


@pytest.mark.parametrize("truth", [{}, {1: True, 2: True}, {3: False}, {1: True, 99: False}])
def test_a_truth_of_one_kind_makes_no_table_for_imrmc(truth: dict[int, bool]) -> None:
    for write in (imrmc_csv, imrmc_input, study_files):
        with pytest.raises(StudyProblem, match="the columns case and truth"):
            write(readings(), truth)


def test_a_score_orders_diagnosis_before_confidence() -> None:
    order = [
        *((ALTERNATIVE, confidence) for confidence in (5, 4, 3, 2, 1)),
        (INDETERMINATE, 3),
        *((PROBABLE, confidence) for confidence in (1, 2, 3, 4, 5)),
        *((UIP, confidence) for confidence in (1, 2, 3, 4, 5)),
    ]
    scores = [suspicion(opinion(diagnosis, confidence)) for diagnosis, confidence in order]
    assert scores == list(range(-5, 11))
    assert len({suspicion(opinion(INDETERMINATE, confidence)) for confidence in (1, 5)}) == 1


def test_a_truth_is_read_from_a_table() -> None:
    assert read_truth("\ufeffcase,truth,note\n1,1,biopsy\n 12 , 0 ,\n") == {1: True, 12: False}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lacks the column"),
        ("case,verdict\n1,1\n", "lacks the column"),
        ("case,truth\n1,IPF\n", "Line 2"),
        ("case,truth\n1,1\nCT-7,0\n", "Line 3"),
        ("case,truth\n1\n", "Line 2"),
        ("case,truth\n1,1\n" + "1" * 5000 + ",1\n", "Line 3"),
        ("case,truth\n1,1\n1,0\n", "Line 3 of the truth names a case for the second time"),
    ],
)
def test_a_truth_that_cannot_be_read_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(InputRefused, match=reason):
        read_truth(text)
