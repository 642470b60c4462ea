"""The JSON of a reading with its annotations, as the README names it."""

import json
from pathlib import Path

import numpy as np
import pytest

from ipfvision.core.agreement import agree
from ipfvision.core.annotation import Annotation, Finding, Said
from ipfvision.workflow.intake import take_in_paths
from ipfvision.workflow.reading import Reader, Reading
from ipfvision.workflow.samples import SAMPLES
from ipfvision.workflow.scoring import AGREEMENT_KEYS, EVIDENCE_KEYS, PLAUSIBILITY_KEYS, score, score_result, scored_result


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.open()


@pytest.fixture(scope="module")
def reading(reader: Reader) -> Reading:
    return reader.read(take_in_paths([SAMPLES / "02_honeycombing.dcm"]).series[0].slices[0])


def _annotation(reading: Reading) -> Annotation:
    mask = np.zeros(reading.scan.shape, np.bool_)
    mask[200:240, 60:120] = True
    return Annotation(mask, Said(Finding.HONEYCOMBING, "reader", "left", "drawn here", "drawn on this slice"))


def test_the_evidence_adds_up_to_the_answers_own_margin(reading: Reading) -> None:
    for given in (None, (_annotation(reading),)):
        found = score_result(score(reading, given))["evidence"]
        parts = [found[key] or 0.0 for key in EVIDENCE_KEYS if key != "margin"]
        assert sum(parts) == pytest.approx(found["margin"], abs=1e-4)
        assert found["margin"] == pytest.approx(reading.prediction.margin, abs=1e-4)
    assert score_result(score(reading, None))["evidence"]["annotated"] is None


def test_without_annotations_there_is_no_agreement_and_on_a_slice_without_one_everything_in_it_is_null(
    reading: Reading,
) -> None:
    assert score_result(score(reading, None))["agreement"] is None
    assert set(score_result(score(reading, ()))["agreement"].values()) == {None}


def test_what_is_scored_is_the_map_of_the_named_class(reading: Reading) -> None:
    annotation = _annotation(reading)
    for target in ("ipf", "normal"):
        expected = agree(reading.explanations[target], reading.lungs, [annotation], reading.scan.spacing)
        assert score_result(score(reading, [annotation], target))["agreement"]["mass"] == expected.mass


def test_the_json_has_every_name_that_the_readme_promises(reader: Reader, reading: Reading) -> None:
    document = scored_result(reader.card, [reading], [(_annotation(reading),)])
    entry = json.loads(json.dumps(document))["slices"][0]
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    for part, keys in (("agreement", AGREEMENT_KEYS), ("evidence", EVIDENCE_KEYS), ("plausibility", PLAUSIBILITY_KEYS)):
        assert tuple(entry[part]) == keys
        for key in keys:
            assert f'"{key}"' in readme
    assert entry["annotations"] == [
        {"finding": "honeycombing", "label": "left", "origin": "drawn here", "matched_by": "drawn on this slice"}
    ]


def test_a_refused_slice_has_no_scores(reader: Reader) -> None:
    from dataclasses import replace

    scan = take_in_paths([SAMPLES / "01_normal.dcm"]).series[0].slices[0]
    empty = replace(scan, pixels=np.full(scan.shape, 40, np.int16))
    refused = reader.read(empty)
    assert score_result(score(refused, ())) == {"agreement": None, "evidence": None, "plausibility": None}
