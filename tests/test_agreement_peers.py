"""The shipped model's maps on the sample scans, scored by us and by the functions that others use: the same figures.

Quantus (Hedström et al., JMLR 2023;24:1-11) for the pointing game, relevance mass and relevance rank accuracy; scikit-image for
the Hausdorff distance. `make test` installs them (requirements-peers.txt); with CI=true a missing one is a failure.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ipfvision.core.agreement import Agreement, agree
from ipfvision.core.annotation import Annotation, Finding, Said
from ipfvision.core.distance import hausdorff_mm
from ipfvision.core.findings import Explanation
from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import Lungs
from ipfvision.core.regions import annotated_area
from ipfvision.core.slice import PixelSpacing
from ipfvision.workflow.intake import take_in_paths
from ipfvision.workflow.reading import Reader
from ipfvision.workflow.samples import list_samples, sample_annotations

EACH_MM = PixelSpacing(1.0, 1.0)


def _peer(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is missing: pip install -r requirements-peers.txt")
        pytest.skip(f"needs {name}: pip install -r requirements-peers.txt")


@dataclass(frozen=True, eq=False)
class Case:
    """A map of the shipped model beside what was drawn into the slice."""

    explanation: Explanation
    heatmap: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    ours: Agreement


def _cases() -> Iterator[Case]:
    reader = Reader.open()
    for sample in list_samples():
        if sample.mask is None:
            continue
        (series,) = take_in_paths([sample.path]).series
        reading = reader.read(series.slices[0])
        annotations = list(sample_annotations(sample))
        mask = annotated_area(annotations, reading.scan.shape)
        explanation = reading.explanations["ipf"]
        assert mask is not None
        ours = agree(explanation, reading.lungs, annotations, EACH_MM)
        yield Case(explanation, explanation.heatmap(), mask, ours)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    found = list(_cases())
    assert len(found) >= 4
    return found


def _by_quantus(metric: str, heatmap: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> Any:
    """Its own call, with the map and the mask as a batch of one."""
    measure = getattr(_peer("quantus"), metric)(disable_warnings=True, display_progressbar=False)
    (score,) = measure(
        model=None,
        x_batch=np.zeros((1, 1, *heatmap.shape)),
        y_batch=np.zeros(1, int),
        a_batch=heatmap[None, None].astype(np.float64),
        s_batch=mask[None, None],
    )
    return score


def test_quantus_plays_the_same_pointing_game(cases: list[Case]) -> None:
    for case in cases:
        assert case.ours.pointing_hit_any_tie == bool(_by_quantus("PointingGame", case.heatmap, case.mask))
    assert any(case.ours.pointing_hit for case in cases)


def test_quantus_finds_the_same_pointing_misses(cases: list[Case]) -> None:
    for case in cases:
        elsewhere = [Annotation(~case.mask, Said(Finding.OTHER, "synthetic"))]
        ours = agree(case.explanation, Lungs(np.ones_like(case.mask)), elsewhere, None)
        assert ours.pointing_hit_any_tie == bool(_by_quantus("PointingGame", case.heatmap, ~case.mask))


def test_quantus_finds_the_same_mass(cases: list[Case]) -> None:
    for case in cases:
        assert case.ours.mass == pytest.approx(_by_quantus("RelevanceMassAccuracy", case.heatmap, case.mask), abs=1e-9)


def test_quantus_finds_the_same_rank_accuracy(cases: list[Case]) -> None:
    """Its sort is not stable: pixels that are equal to the last one that counts may change places."""
    for case in cases:
        count = int(case.mask.sum())
        last = np.sort(case.heatmap, axis=None)[-count]
        ties = int((case.heatmap == last).sum()) - 1
        theirs = _by_quantus("RelevanceRankAccuracy", case.heatmap, case.mask)
        assert case.ours.rank_accuracy == pytest.approx(theirs, abs=ties / count + 1e-9)
        assert ties / count < 0.01


def test_scikit_image_finds_the_same_hausdorff_distance(cases: list[Case]) -> None:
    metrics, segmentation = _peer("skimage.metrics"), _peer("skimage.segmentation")

    def outline(mask: npt.NDArray[np.bool_]) -> Any:
        return segmentation.find_boundaries(mask, connectivity=1, mode="inner")

    for case in cases:
        region = case.heatmap >= 0.5 * case.heatmap.max()
        ours = hausdorff_mm(region, case.mask, EACH_MM, percentile=100)
        assert ours == pytest.approx(metrics.hausdorff_distance(outline(region), outline(case.mask)))
        assert case.ours.hd95_mm is not None
        assert ours is not None
        assert 0 < case.ours.hd95_mm <= ours


def test_scikit_image_finds_the_same_otsu_threshold(cases: list[Case]) -> None:
    """Its threshold is the middle of the last bin of the lower class, ours the edge above it."""
    filters = _peer("skimage.filters")
    compared = 0
    for case in cases:
        crop = case.explanation.crop
        rows = slice(max(0, crop.top), crop.top + crop.height)
        columns = slice(max(0, crop.left), crop.left + crop.width)
        scaled = (case.heatmap / case.heatmap.max())[rows, columns]
        if float(scaled.min()) == 0:  # its bins begin at the smallest value, ours at 0
            assert case.ours.otsu == pytest.approx(filters.threshold_otsu(scaled, nbins=256) + 1 / 512, abs=1e-6)
            compared += 1
    assert compared


def test_a_map_without_evidence_has_no_score_at_the_peer_and_misses_with_us() -> None:
    shape = (48, 64)
    nothing, mask = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    mask[3:9, 3:9] = True
    _peer("quantus")
    with pytest.raises(AssertionError, match="all equal to zero"):
        _by_quantus("PointingGame", nothing, mask)
    crop = Crop(0, 0, 64, 48, (48, 64), shape)
    explanation = Explanation(np.zeros((6, 8), np.float32), crop, "ipf", "gradcam", "layer4", "logits")
    ours = agree(explanation, Lungs(np.ones(shape, np.bool_)), [Annotation(mask, Said(Finding.OTHER, "synthetic"))], None)
    assert ours.pointing_hit_any_tie is False
    assert ours.mass is None
