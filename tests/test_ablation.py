"""The ablation changes one thing at a time, measures what it says, and goes on where it stopped."""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.ablation import BASE, FINE, HELD_OUT, ROWS, Row, drawn_figures, where_the_mass_lies
from ipfvision import images
from ipfvision.core.lungs import find_lungs
from ipfvision.core.slice import Scale, Slice, Source
from ipfvision.core.window import LUNG, apply_window
from ipfvision.nn.training import Examples
from ipfvision.synthetic.case import draw_case
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.training import FULL, Drawing, NormalSlice, draw_example, framed

TINY = Row(
    "tiny",
    "nothing",
    replace(BASE, start="random", frozen=(), input_shape=(96, 128), steps=2, batch=2, every=1, warm_up=1),
    cases=48,
)


def test_every_row_differs_from_the_base_in_one_thing() -> None:
    base, names = ROWS[0], [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    for row in ROWS[1:]:
        changed = [name for name, value in asdict(row.recipe).items() if value != asdict(base.recipe)[name]]
        changed += [name for name, value in asdict(row.drawing).items() if value != asdict(base.drawing)[name]]
        changed += ["cases"] * (row.cases != base.cases)
        # a stem of random weights cannot stay as it is
        assert len(changed) == 1 or changed == ["start", "frozen"], row.name


def test_rows_share_a_grid_that_their_own_cells_divide() -> None:
    for row in ROWS:
        rows, columns = row.recipe.input_shape
        assert rows % FINE[0] == 0
        assert rows // FINE[0] == columns // FINE[1]


def _examples() -> Examples:
    """Two with a lesion at the left edge and one without."""
    lesions, lungs = np.zeros((3, *FINE), np.uint8), np.zeros((3, *FINE), np.uint8)
    lungs[:, 8:40, 8:56] = 255
    lesions[:2, 16:32, 8:16] = 255
    return Examples(np.zeros((3, 192, 256), np.uint8), np.array([True, True, False]), lesions, lungs)


def test_larger_cells_hold_the_same_shares() -> None:
    examples = _examples().on_cells((12, 16))
    assert examples.lesions.shape == (3, 12, 16)
    assert examples.lesions.sum(axis=(1, 2)).tolist() == [8 * 255, 8 * 255, 0]
    assert examples.lesions[0, 4, 2] == 255


def test_a_map_that_is_right_in_every_cell_has_the_best_figures() -> None:
    examples = _examples()
    truth = np.asarray(examples.on_cells((12, 16)).lesions / 255.0 - 0.4, np.float32)
    found = drawn_figures(truth, np.array([2.0, 1.0, -1.0], np.float32), examples)
    assert found["own_cells"] == {"auroc": 1.0, "pointing_hit": 1.0, "mass_ratio": pytest.approx(12.0), "iou_cells": 1.0}
    # the lesion is a square of whole cells: bilinear cells blur its edges and cut its corners
    assert 0.9 < found["fine_grid_iou_at_best"] <= 1.0
    assert found["fine_grid"]["iou_cells"] <= found["fine_grid_iou_at_best"]
    assert found["lesions_share_of_lungs"] == pytest.approx(1 / 12)
    assert found["pointing_hit_interval_95"][1] == 1.0
    assert found["far_outside_lungs"] == found["outermost_cells"] == 0


def test_mass_at_the_rim_of_the_picture_is_seen_and_an_empty_map_has_none() -> None:
    examples = _examples()
    maps = np.zeros((3, 12, 16), np.float32)
    maps[0, 0, 0] = 1  # a corner, far from the lungs
    maps[1, 5, 5] = 1
    chosen = np.array([True, True, False])
    found = where_the_mass_lies(maps, examples, chosen)
    assert found == {"outside_lungs": 0.5, "far_outside_lungs": 0.5, "outermost_cells": 0.5}
    assert set(where_the_mass_lies(-maps, examples, chosen).values()) == {None}


@pytest.fixture(scope="module")
def normal() -> NormalSlice:
    thorax = draw_thorax(np.random.default_rng(1), level=0.6, size=320, spacing_mm=1.0)
    hu = thorax.pixels.astype(np.float32)
    scan = Slice(hu, Scale.HOUNSFIELD, Source("x", "PNG", ""), np.zeros(hu.shape, np.bool_))
    return NormalSlice(hu, find_lungs(scan), 1.0, "drawn")


AVX2, AVX512_SKX = 11, 256
"""OpenCV's numbers of these (`cv::CpuFeatures`), for which its Python has no names."""
WITH_AVX512 = (
    (169.63, 0.0),
    (157.48, 0.0),
    (173.64, 55.67),
    (151.55, 13.13),
    (183.73, 0.0),
    (156.85, 0.0),
    (146.25, 0.0),
    (160.19, 0.0),
)
"""Means of picture and lesions by seed, before parts of the drawing could be left out."""
WITH_AVX2 = (
    (169.03, 0.0),
    (156.55, 0.0),
    (168.71, 19.94),
    (155.39, 15.94),
    (167.96, 0.0),
    (155.99, 0.0),
    (146.14, 0.0),
    (159.23, 0.0),
)
"""The same on processors on which OpenCV rounds otherwise: one pixel more or less of lung, and chance takes another way."""


def test_the_whole_drawing_is_what_it_was_before_parts_could_be_left_out(normal: NormalSlice) -> None:
    if not cv2.checkHardwareSupport(AVX2):
        pytest.skip("what was drawn before is known for processors with AVX2 or AVX-512")
    before = WITH_AVX512 if cv2.checkHardwareSupport(AVX512_SKX) else WITH_AVX2
    for seed, (image, lesion) in enumerate(before):
        example = draw_example([normal], (96, 128), 16, np.random.default_rng(seed))
        # no more than what another build of OpenCV may round otherwise; any other order of chance is far from it
        assert float(example.image.mean()) == pytest.approx(image, abs=0.5)
        assert float(example.lesion.mean()) == pytest.approx(lesion, abs=0.5)


def test_the_whole_slice_shows_the_same_case_smaller(normal: NormalSlice) -> None:
    for seed in (2, 3):
        close, whole = (
            draw_example([normal], (96, 128), 4, np.random.default_rng(seed), drawing)
            for drawing in (FULL, Drawing(lung_crop=False))
        )
        assert close.diseased
        assert whole.diseased
        shares = [float(example.lesion.sum()) / float(example.lung.sum()) for example in (close, whole)]
        assert shares[0] == pytest.approx(shares[1], rel=0.05)
        assert whole.lung.sum() < close.lung.sum()
    crop = framed(normal.lungs, (320, 320), (96, 128), Drawing(lung_crop=False))
    assert (crop.top, crop.height) == (0, 320)
    assert crop.left + crop.width / 2 == pytest.approx(160, abs=1)


def test_without_distractors_nothing_but_fibrosis_is_drawn(normal: NormalSlice) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        case = draw_case(normal.hu, normal.lungs.mask, 1.0, rng, diseased=seed % 2 == 0, distractors=False)
        assert case.distractors == ()
        assert bool(case.annotations) == (seed % 2 == 0)
        if not case.annotations:
            assert (case.pixels == normal.hu).all()


def _collection(folder: Path) -> Path:
    thorax = draw_thorax(np.random.default_rng(2), level=0.6, size=320, spacing_mm=1.0)
    content = images.write_png(np.rint(apply_window(thorax.pixels, LUNG) * 255).astype(np.uint8))
    rows = [("a.png", "normal", "P1", "train", "hu_window"), ("b.png", "normal", HELD_OUT, "train", "hu_window")]
    for label in ("ipf", "normal", "other_disease"):
        rows += [(f"{label}{number}.png", label, f"{label}{number}", "validation", "grey") for number in range(2)]
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "patient", "use", "scale"), *rows])
    for row in rows:
        (folder / row[0]).write_bytes(content)
    return folder


@pytest.mark.slow
def test_a_finished_row_is_not_trained_again_and_another_of_its_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "VALIDATION_CASES", 48)
    data = tmp_path / "data"
    data.mkdir()
    _collection(data)
    said: list[str] = []
    found = ablation.run(TINY, data, tmp_path / "out", said.append)
    assert any(text.startswith("step 2 of 2") for text in said)
    said.clear()
    assert ablation.run(TINY, data, tmp_path / "out", said.append) == found
    assert said == []
    with pytest.raises(ValueError, match="another row"):
        ablation.run(replace(TINY, cases=96), data, tmp_path / "out", said.append)

    # the pictures are all the same one
    assert found["real"]["ipf_against_normal"]["auroc"] == 0.5
    assert found["real"]["ipf_against_normal"]["patients"] == [2, 2]
    assert found["real"]["diseased_against_other_slices_of_one_patient"]["auroc"] is None
    assert found["drawn"]["examples"] == 48
    ablation.write_tables([found], tmp_path)
    with (tmp_path / "table.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["row"] == "tiny"
    assert float(line["cell_mm"]) == found["cell_mm"]
    assert "| tiny |" in (tmp_path / "table.md").read_text()
