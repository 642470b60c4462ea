"""The checkpoint that is shipped: it is the one its card describes, and it answers the sample scans as their README says."""

import json
from pathlib import Path

import numpy as np
import pytest

from ipfvision.core.annotation import Finding
from ipfvision.core.findings import Decision
from ipfvision.workflow.intake import take_in_paths
from ipfvision.workflow.reading import DEFAULT_MODEL, Reader
from ipfvision.workflow.samples import SampleScan, list_samples, sample_annotations

SAMPLES = list_samples()


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.open()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.path.name)
def test_each_sample_is_answered_as_its_readme_says(reader: Reader, sample: SampleScan) -> None:
    (series,) = take_in_paths([sample.path]).series
    slices = sorted(series.slices, key=lambda scan: -scan.plane.distance_mm() if scan.plane else 0.0)  # from top to bottom
    found = [reading.prediction.decision for reading in reader.read_all(slices)]
    assert found == [Decision(expected) for expected in sample.slices]


@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if sample.mask], ids=lambda sample: sample.path.name)
def test_the_map_lies_on_what_was_drawn(reader: Reader, sample: SampleScan) -> None:
    (series,) = take_in_paths([sample.path]).series
    reading = reader.read(series.slices[0])
    heatmap = reading.explanations["ipf"].heatmap()
    drawn = [one.mask for one in sample_annotations(sample) if one.said.finding is not Finding.GROUND_GLASS]
    mask = np.logical_or.reduce(drawn)
    mass = float(heatmap[mask].sum() / heatmap.sum())
    chance = float(mask.sum() / (reading.lungs.mask | mask).sum())
    assert mass > 1.5 * chance


def test_both_classes_are_explained_from_one_map(reader: Reader) -> None:
    """The last layer's rows are opposite, so what speaks for IPF is what does not speak for normal lung."""
    (series,) = take_in_paths([SAMPLES[1].path]).series
    explanations = reader.read(series.slices[0]).explanations
    assert not ((explanations["ipf"].cells > 0) & (explanations["normal"].cells > 0)).any()


def test_the_card_says_what_it_was_trained_on_and_how_it_did() -> None:
    card = json.loads(DEFAULT_MODEL.with_suffix(".json").read_text())
    details = card["details"]
    assert details["training"]["data"]["training_patients"]
    assert details["training"]["start"]["name"]
    assert details["limits"]
    figures = details["figures"]["auroc_ipf_against_normal"]
    assert figures["interval_95"][0] <= figures["auroc"] <= figures["interval_95"][1]
    calibrating = set(details["calibration"]["patients"]["ipf"])
    assert calibrating.isdisjoint(details["training"]["data"]["training_patients"])


def test_the_readme_of_the_models_names_the_shipped_checkpoint() -> None:
    card = json.loads(DEFAULT_MODEL.with_suffix(".json").read_text())
    readme = Path(DEFAULT_MODEL.parent / "README.md").read_text()
    assert card["sha256"][:12] in readme
    assert card["status"] in readme
