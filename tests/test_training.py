"""Training repeats, resumes, splits by patient and holds the class map to the masks."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ipfvision import cli, images
from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import find_lungs
from ipfvision.core.slice import Scale, Slice, Source
from ipfvision.core.window import LUNG, apply_window
from ipfvision.errors import InputRefused, ModelUnusable, RunStopped
from ipfvision.nn.starting_weights import BLOCKS, start
from ipfvision.nn.training import Batch, Examples, MapNetwork, Recipe, auroc, cell_figures, load_run, map_loss, spread, train
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.training import (
    FILES_OF_A_SEED,
    NormalSlice,
    draw_example,
    draw_shard,
    normal_slices,
    read_manifest,
    train_run,
)

TINY = Recipe(start="random", input_shape=(64, 96), steps=4, coarse_share=0.25, batch=2, every=2, warm_up=1, frozen=())


def _examples(count: int = 8) -> Examples:
    rng = np.random.default_rng(0)
    return Examples(
        rng.integers(0, 256, (count, 64, 96)).astype(np.uint8),
        np.arange(count) % 2 == 0,
        rng.integers(0, 256, (count, 4, 6)).astype(np.uint8),
        np.full((count, 4, 6), 255, np.uint8),
    )


def test_a_half_sized_example_keeps_its_shares() -> None:
    examples = _examples()
    coarse = Batch.of(examples, torch.device("cpu")).halved().examples()
    assert (coarse.labels == examples.labels).all()
    assert coarse.images.shape == (8, 32, 48)
    assert coarse.lesions.shape == (8, 2, 3)
    for whole, half in ((examples.images, coarse.images), (examples.lesions, coarse.lesions)):
        assert np.allclose(whole.mean(axis=(1, 2)), half.mean(axis=(1, 2)), atol=0.51)
        assert half[3, 1, 2] == round(whole[3, 2:4, 4:6].mean())


def test_a_mirrored_example_has_its_masks_mirrored_and_the_others_are_as_they_were() -> None:
    examples = _examples(2)
    flipped = Batch.of(examples, torch.device("cpu")).mirrored(np.array([True, False])).examples()
    for name in ("images", "lesions", "lungs"):
        before, after = getattr(examples, name), getattr(flipped, name)
        assert (after[0] == before[0, :, ::-1]).all()
        assert (after[1] == before[1]).all()


def test_masks_on_a_fine_grid_are_pooled_to_cells_that_divide_it() -> None:
    examples = _examples(2)
    coarse = examples.on_cells((2, 3))
    assert coarse.lesions[1, 0, 2] == round(examples.lesions[1, :2, 4:].mean())
    assert coarse.images is examples.images
    with pytest.raises(ValueError, match="does not divide"):
        examples.on_cells((3, 3))


def test_training_spreads_a_map_as_the_page_does() -> None:
    cells = np.random.default_rng(5).normal(size=(6, 8)).astype(np.float32)
    on_page = Crop(0, 0, 32, 24, (24, 32), (24, 32)).paste_cells(cells)
    in_training = spread(torch.from_numpy(cells)[None], (24, 32))[0].numpy()
    assert np.abs(on_page - in_training).max() < 1e-5
    assert spread(torch.from_numpy(cells)[None], (6, 8))[0].numpy().tolist() == cells.tolist()


def test_a_killed_run_goes_on_to_the_same_network(tmp_path: Path) -> None:
    examples = _examples()
    whole = train(TINY, examples, examples, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(line: dict[str, object]) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(TINY, examples, examples, tmp_path / "killed", kill)
    assert load_run(tmp_path / "killed")[2] == 2
    resumed = train(TINY, examples, examples, tmp_path / "killed")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4]


def test_a_folder_of_another_recipe_is_not_overwritten(tmp_path: Path) -> None:
    examples = _examples()
    train(replace(TINY, steps=2), examples, examples, tmp_path)
    with pytest.raises(RunStopped, match="another recipe"):
        train(replace(TINY, steps=2, seed=5), examples, examples, tmp_path)


def test_an_empty_folder_holds_no_run(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="no training run"):
        load_run(tmp_path)


def test_the_classifier_has_the_trained_map_as_its_margin() -> None:
    torch.manual_seed(3)
    model = MapNetwork(TINY).eval()
    with torch.no_grad():
        model.weight.normal_()
        model.bias.fill_(0.7)
    image = torch.randn(2, 3, 48, 64)
    with torch.inference_mode():
        margin = model(image).mean(dim=(1, 2)) + model.bias
        logits = model.as_classifier().eval()(image)
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], margin, rtol=1e-4, atol=1e-4)
    again = MapNetwork(TINY)
    again.network.load_state_dict(model.network.state_dict())
    again.adopt_head()
    torch.testing.assert_close(again.weight, model.weight)
    torch.testing.assert_close(again.bias, model.bias)


def _loss(class_map: torch.Tensor, label: float, lesion: torch.Tensor, weight: float = 1.0) -> float:
    lungs = torch.ones_like(lesion)
    return float(map_loss(class_map[None], torch.tensor(0.0), torch.tensor([label]), lesion[None], lungs[None], weight))


def test_the_loss_wants_the_map_on_the_lesion_and_nowhere_on_normal_lung() -> None:
    lesion = torch.zeros(6, 8)
    lesion[4:, :3] = 1
    on, beside = lesion * 12 - 6, lesion.flip(0) * 12 - 6
    assert _loss(on, 1.0, lesion) < _loss(beside, 1.0, lesion)
    assert _loss(on, 1.0, lesion, weight=0) == pytest.approx(_loss(beside, 1.0, lesion, weight=0))
    nothing = torch.zeros(6, 8)
    assert _loss(nothing - 6, 0.0, nothing) < _loss(on, 0.0, nothing)


def test_masks_finer_than_the_cells_say_where_within_a_cell_a_lesion_ends() -> None:
    lesion = torch.zeros(24, 32)
    lesion[:, :14] = 1  # ends in the middle of the fourth cell of eight
    least = []
    for border in (-24.0, 0.0, 24.0):  # of the fourth cell: the map crosses the edge before, in and behind its middle
        class_map = torch.full((6, 8), -24.0)
        class_map[:, :3], class_map[:, 3] = 24.0, border
        lungs, label = torch.ones_like(lesion), torch.ones(1)
        sure = 9 - class_map.mean()  # the answer is right in each case: the map alone is to differ
        least.append(float(map_loss(class_map[None], sure, label, lesion[None], lungs[None], 1.0, 0.0, 4.0)))
    assert least[1] == min(least)


def test_an_edge_above_zero_asks_for_more_in_the_lesion() -> None:
    lesion = torch.zeros(6, 8)
    lesion[4:, :3] = 1
    lungs, weak = torch.ones_like(lesion), lesion * 5

    def loss(edge: float) -> float:
        return float(map_loss(weak[None], torch.tensor(0.0), torch.ones(1), lesion[None], lungs[None], 1.0, edge, 1.0))

    assert loss(8.0) > loss(2.0)


def test_the_loss_outside_the_lungs_is_dearer() -> None:
    lesion, lungs = torch.zeros(6, 8), torch.ones(6, 8)
    lesion[4:, :3] = 1
    lungs[:2] = 0
    stray_out, stray_in = lesion * 12 - 6, lesion * 12 - 6
    stray_out[0, 0], stray_in[3, 7] = 6, 6
    first, second = (
        float(map_loss(stray[None], torch.tensor(0.0), torch.tensor([1.0]), lesion[None], lungs[None], 1.0))
        for stray in (stray_out, stray_in)
    )
    assert first > second


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_the_map_can_be_held_at_zero_outside_the_lungs_from_both_sides(label: float) -> None:
    lesion, lungs = torch.zeros(6, 8), torch.ones(6, 8)
    lesion[4:, :3] = label
    lungs[:2] = 0

    def price(outside: float, inside: float = -6.0) -> float:
        """What the weight adds to the loss."""
        class_map = torch.full((6, 8), inside)
        class_map[:2] = outside
        given = (class_map[None], torch.tensor(0.0), torch.tensor([label]), lesion[None], lungs[None], 1.0, 8.0, 4.0)
        return float(map_loss(*given, 0.1) - map_loss(*given))

    assert price(0.0) == pytest.approx(0, abs=1e-5)
    assert price(-9.0) == pytest.approx(0.9, abs=1e-4)
    assert price(9.0) == pytest.approx(0.9, abs=1e-4)
    assert price(-9.0, inside=3.0) == pytest.approx(0.9, abs=1e-4)
    lungs[:] = 1
    assert price(-9.0) == pytest.approx(0, abs=1e-5)


def test_a_weight_below_zero_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", str(tmp_path), "--out", str(tmp_path / "run"), "--outside-weight", "-1"]) == 2
    assert "from 0 on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_loss_is_finite_when_nothing_is_drawn_or_lit() -> None:
    zeros = torch.zeros(6, 8)
    assert np.isfinite(_loss(zeros - 80, 1.0, zeros))
    assert np.isfinite(_loss(zeros - 80, 1.0, zeros + 1e-3))
    assert np.isfinite(_loss(zeros + 80, 0.0, zeros))


def test_cell_figures_of_a_perfect_and_of_an_empty_map() -> None:
    examples = _examples(2)
    lesions = np.zeros((2, 4, 6), np.uint8)
    lesions[0, 2, :2] = 255
    examples = Examples(examples.images, np.array([True, False]), lesions, examples.lungs)
    perfect = np.where(lesions > 0, 5.0, -5.0).astype(np.float32)
    figures = cell_figures(perfect, np.array([2.0, -2.0], np.float32), examples)
    assert figures == {"auroc": 1.0, "pointing_hit": 1.0, "mass_ratio": pytest.approx(12.0), "iou_cells": 1.0}
    empty = cell_figures(np.full_like(perfect, -5), np.array([0.0, 0.0], np.float32), examples)
    assert empty == {"auroc": 0.5, "pointing_hit": 0.0, "mass_ratio": None, "iou_cells": 0.0}


def test_one_class_has_no_roc_area() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([True, True])) is None


def test_a_resnet152_keeps_as_many_blocks_as_a_resnet50_has() -> None:
    assert [kept for _, kept in BLOCKS.values()] == [3, 4, 6, 3]


def test_random_weights_repeat_by_seed_and_a_missing_start_is_said() -> None:
    first, second = MapNetwork(TINY), MapNetwork(TINY)
    start(first.network, "random", 4)
    start(second.network, "random", 4)
    assert torch.equal(first.network.get_submodule("conv1").weight, second.network.get_submodule("conv1").weight)
    with pytest.raises(ModelUnusable, match="missing"):
        start(first.network, "nowhere.safetensors", 0)


@pytest.fixture(scope="module")
def normals() -> list[NormalSlice]:
    thorax = draw_thorax(np.random.default_rng(1), level=0.6, size=320, spacing_mm=1.0)
    hu = thorax.pixels.astype(np.float32)
    scan = Slice(hu, Scale.HOUNSFIELD, Source("x", "PNG", ""), np.zeros(hu.shape, np.bool_))
    return [NormalSlice(hu, find_lungs(scan), 1.0, "drawn")]


def test_a_shard_repeats_by_seed_and_appears_whole(normals: list[NormalSlice], tmp_path: Path) -> None:
    paths = [draw_shard(normals, tmp_path / name, 0, (96, 128), 16, seed=7) for name in ("a", "b")]
    first, second = (np.load(path) for path in paths)
    for name in ("images", "labels", "lesions", "lungs"):
        assert (first[name] == second[name]).all()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["pool_00000.npz"]
    assert 0.2 < first["labels"].mean() < 0.8


def test_a_large_pool_holds_the_smaller_ones_of_the_next_seeds(normals: list[NormalSlice], tmp_path: Path) -> None:
    behind = np.load(draw_shard(normals, tmp_path / "large", FILES_OF_A_SEED + 1, (96, 128), 16, seed=7))
    own = np.load(draw_shard(normals, tmp_path / "small", 1, (96, 128), 16, seed=8))
    assert all((behind[name] == own[name]).all() for name in own.files)


def test_only_drawn_disease_has_a_mask(normals: list[NormalSlice]) -> None:
    for seed in range(12):
        example = draw_example(normals, (96, 128), 16, np.random.default_rng(seed))
        assert example.image.shape == (96, 128)
        assert example.lesion.shape == example.lung.shape == (6, 8)
        if not example.diseased:
            assert example.lesion.max() == 0


def _collection(folder: Path, rows: list[dict[str, str]]) -> Path:
    thorax = draw_thorax(np.random.default_rng(2), level=0.6, size=320, spacing_mm=1.0)
    content = images.write_png(np.rint(apply_window(thorax.pixels, LUNG) * 255).astype(np.uint8))
    folder.mkdir(exist_ok=True)
    for row in rows:
        (folder / row["file"]).write_bytes(content)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "patient", "use", "scale"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _row(name: str, patient: str, use: str = "train") -> dict[str, str]:
    return {"file": name, "label": "normal", "patient": patient, "use": use, "scale": "hu_window"}


def test_validation_pictures_are_never_drawn_into(tmp_path: Path) -> None:
    data = _collection(tmp_path / "d", [_row("a.png", "P1"), _row("b.png", "P2"), _row("c.png", "P3", "validation")])
    assert {normal.patient for normal in normal_slices(data)} == {"P1", "P2"}
    assert {normal.patient for normal in normal_slices(data, ["P2"])} == {"P2"}


def test_a_collection_without_a_second_patient_or_a_manifest_is_refused_in_a_sentence(tmp_path: Path) -> None:
    data = _collection(tmp_path / "d", [_row("a.png", "P1")])

    def attempt(folder: Path, held_out: str) -> None:
        train_run(folder, tmp_path / "o", held_out=[held_out], start="random", steps=1, cases=1, seed=0, say=lambda _: None)

    with pytest.raises(InputRefused, match="No patient is left"):
        attempt(data, "P1")
    with pytest.raises(InputRefused, match="no training patient P9"):
        attempt(data, "P9")
    with pytest.raises(InputRefused, match=r"manifest\.csv"):
        attempt(tmp_path, "P1")
    (data / "manifest.csv").write_text("file,label\n")
    with pytest.raises(InputRefused, match="lacks the columns patient, scale, use"):
        read_manifest(data)
