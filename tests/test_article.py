"""The article's recipe is repeated with its faults counted, and nothing of it can be shipped."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipfvision.cli import main
from ipfvision.core.findings import TARGETS
from ipfvision.core.slice import Scale, Slice, Source, hash_pixels
from ipfvision.core.window import LUNG, apply_window
from ipfvision.errors import InputRefused, ModelUnusable
from ipfvision.images import write_png
from ipfvision.nn.article import STATE, ArticleRecipe, Epoch, Outcome, Pictures, _batches, best_epoch, margins, train
from ipfvision.nn.network import build
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.article import (
    MANIFEST,
    PLOT,
    REPORT,
    Shown,
    as_pictures,
    facts,
    forbid_shipping,
    random_split,
    repeat_article,
    score,
    shown,
    source_guesses,
    what_is_wrong,
)
from ipfvision.workflow.shipping import ship

TINY = ArticleRecipe(start="random", epochs=2, size=64, batch=4)


def _shown(count: int = 10, *, patients: int | None = None, seed: int = 0) -> list[Shown]:
    rng = np.random.default_rng(seed)
    return [
        Shown(
            image=rng.integers(0, 256, (64, 64)).astype(np.uint8),
            ipf=index % 2 == 0,
            patient=None if patients is None else f"secret-{index % patients}",
            pixel_sha256=f"{seed}-{index}",
            marked=False,
            form=("PNG", 64, 64),
        )
        for index in range(count)
    ]


@given(st.integers(5, 400), st.integers(0, 50))
def test_a_random_split_takes_a_fifth_of_the_pictures_for_testing(count: int, seed: int) -> None:
    training, test = random_split(count, seed)
    assert sorted([*training, *test]) == list(range(count))
    assert abs(len(test) - count / 5) <= 0.5


def test_23_pictures_leave_five_for_testing_as_in_the_article() -> None:
    assert [len(side) for side in random_split(23, 0)] == [18, 5]


def test_four_pictures_are_too_few() -> None:
    with pytest.raises(InputRefused, match="4 pictures"):
        random_split(4, 0)


@given(st.integers(2, 60), st.integers(2, 9))
def test_no_picture_is_learned_alone(count: int, size: int) -> None:
    batches = _batches(np.arange(count), size)
    assert np.concatenate(batches).tolist() == list(range(count))
    assert all(2 <= len(batch) <= size + 1 for batch in batches)


def test_the_first_epoch_of_least_test_loss_is_chosen() -> None:
    losses = (0.9, 0.4, 0.6, 0.4)
    history = tuple(Epoch(number, 0.0, 1.0, loss, 3, 1.0) for number, loss in enumerate(losses, start=1))
    assert best_epoch(history).epoch == 2


def test_a_network_learns_what_is_plain_to_see() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2 == 0
    images = np.clip(rng.normal(100, 20, (24, 64, 64)) + 80 * labels[:, None, None], 0, 255).astype(np.uint8)
    pictures = Pictures(images, labels)
    recipe = replace(TINY, batch=8, epochs=3)
    outcome = train(recipe, pictures.take(np.arange(18)), pictures.take(np.arange(18, 24)))
    first, last = outcome.history[0], outcome.history[-1]
    assert last.training_loss < first.training_loss / 2
    assert last.training_accuracy >= 0.9
    called = margins(outcome.network, pictures, recipe)[18:] > 0
    assert last.test_correct == np.count_nonzero(called == labels[18:])


def test_a_positive_margin_is_ipf() -> None:
    network = build(dilated_layer4=False, padding_mode="zeros")
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([1.5, 0.5]))  # in the order of TARGETS
    assert TARGETS[0] == "ipf"
    assert margins(network, as_pictures(_shown(2)), TINY) == pytest.approx([1.0, 1.0])


def test_a_killed_run_goes_on_to_the_same_figures(tmp_path: Path) -> None:
    pictures = as_pictures(_shown())
    training, test = pictures.take(np.arange(7)), pictures.take(np.arange(7, 10))
    whole = train(TINY, training, test, None)

    class KilledError(Exception):
        pass

    def kill(so_far: Outcome) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(TINY, training, test, tmp_path, kill)
    assert (tmp_path / STATE).is_file()
    with pytest.raises(InputRefused, match="other pictures or options"):
        train(TINY, test, training, tmp_path)
    with pytest.raises(InputRefused, match="other pictures or options"):
        train(replace(TINY, seed=9), training, test, tmp_path)
    resumed = train(TINY, training, test, tmp_path)
    assert [epoch.epoch for epoch in resumed.history] == [1, 2]
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        assert ours.training_loss == pytest.approx(theirs.training_loss, rel=1e-3)
        assert ours.test_loss == pytest.approx(theirs.test_loss, rel=1e-3)
    for name, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert not list(tmp_path.iterdir())  # a finished run keeps no weights


def test_patients_on_both_sides_are_counted() -> None:
    ones = [replace(one, patient=patient) for one, patient in zip(_shown(6), ["a", "a", "b", "c", "a", None], strict=True)]
    counted = facts(ones, np.array([0, 2, 5]), np.array([1, 3, 4]))
    assert counted["patients"] == 3
    assert counted["patients_on_both_sides"] == 1
    assert counted["test_pictures_of_training_patients"] == 2
    assert counted["pictures_with_known_patient"] == 5
    said = " ".join(what_is_wrong(counted, None))
    assert "1 of 3 patients are on both sides, and 2 of 3 test pictures" in said
    assert "The patients of 1 pictures are not known" in said


def test_unknown_patients_are_not_called_none() -> None:
    counted = facts(_shown(), *random_split(10, 0))
    assert counted["patients"] is None
    assert counted["patients_on_both_sides"] is None
    assert any("the patients are not known" in sentence for sentence in what_is_wrong(counted, None))


def test_the_same_picture_on_both_sides_is_counted() -> None:
    ones = _shown(5)
    ones[4] = replace(ones[4], pixel_sha256=ones[0].pixel_sha256)
    assert facts(ones, np.array([0, 1, 2]), np.array([3, 4]))["test_pictures_also_in_training"] == 1
    assert facts(ones, np.array([0, 4, 2]), np.array([3, 1]))["test_pictures_also_in_training"] == 0


def test_five_of_five_right_is_said_with_its_interval_of_48_to_100() -> None:
    assert score(5, 5)["interval_95"][0] == pytest.approx(0.025 ** (1 / 5))  # all right: the lower bound has a closed form
    said = what_is_wrong(facts(_shown(23), *random_split(23, 0)), {"epoch": 7, **score(5, 5)})
    assert any("100 %" in sentence and "from 48 to 100 %" in sentence for sentence in said)
    assert any("test pictures chose the epoch (7" in sentence for sentence in said)
    assert any("not calibrated" in sentence for sentence in said)


def test_a_source_that_gives_the_class_away_is_said() -> None:
    same = _shown(20)
    assert source_guesses(same) == 0  # of two equal halves the other one is always the commoner among the others
    by_format = [replace(one, form=("PNG" if one.ipf else "JPEG", 64, 64)) for one in same]
    assert source_guesses(by_format) == 20
    said = " ".join(what_is_wrong(facts(by_format, *random_split(20, 0)), None))
    assert "format and size alone tell the class of 20 of 20" in said
    assert "alone tell" not in " ".join(what_is_wrong(facts(same, *random_split(20, 0)), None))


def _chest(arrows: bool) -> Slice:
    thorax = draw_thorax(np.random.default_rng(5), level=0.6, size=256, spacing_mm=1.4)
    grey = np.rint(apply_window(thorax.pixels.astype(np.float32), LUNG) * 255).astype(np.uint8)
    if arrows:
        cv2.arrowedLine(grey, (95, 70), (70, 95), (255,), 2, cv2.LINE_AA, tipLength=0.4)
        cv2.arrowedLine(grey, (190, 150), (170, 125), (255,), 2, cv2.LINE_AA, tipLength=0.4)
    pixels = grey / np.float32(255)
    return Slice(pixels, Scale.GREY, Source("a.png", "PNG", hash_pixels(pixels)), np.zeros(pixels.shape, np.bool_))


def test_marks_are_found_and_left_on_the_picture() -> None:
    bare, drawn = (shown(_chest(arrows), ipf=True, patient=None, size=128) for arrows in (False, True))
    assert not bare.marked
    assert drawn.marked
    assert drawn.image.shape == (128, 128)
    assert np.abs(drawn.image.astype(int) - bare.image).max() > 80  # the network sees them, as in the article


def test_a_run_says_what_is_wrong_with_it_and_keeps_no_name(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = repeat_article(_shown(patients=3), tmp_path / "run", TINY, said.append)
    assert len(outcome.history) == 2
    content = json.loads((tmp_path / "run" / MANIFEST).read_text())
    assert content["finished"]
    assert content["shippable"] is False
    assert content["start"]["name"] == "random, seed 0"
    assert content["counted"]["patients_on_both_sides"] >= 1
    report = (tmp_path / "run" / REPORT).read_text("utf-8")
    for sentence in content["what_is_wrong"]:
        assert sentence in report
        assert sentence in said
    assert "secret" not in report + json.dumps(content) + " ".join(said)
    plot = cv2.imdecode(np.frombuffer((tmp_path / "run" / PLOT).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert plot.shape[0] > 300
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {MANIFEST, PLOT, REPORT}


def test_such_a_run_is_never_shipped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    repeat_article(_shown(), run, replace(TINY, epochs=1))
    with pytest.raises(ModelUnusable, match="never shipped"):
        ship(run, tmp_path, tmp_path / "model.safetensors", lambda _: None)
    assert not (tmp_path / "model.safetensors").exists()
    forbid_shipping(tmp_path)  # nothing of this recipe lies there


def test_a_run_of_another_recipe_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"weights")
    with pytest.raises(InputRefused, match="another recipe"):
        repeat_article(_shown(), tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_the_command_line_repeats_it_on_a_folder_per_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, one in enumerate(_shown(6)):
        path = tmp_path / "data" / ("ipf" if one.ipf else "normal") / f"patient-{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_png(one.image))
    (tmp_path / "data" / "ipf" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    command = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--recipe", "article", "--start", "random"]
    assert main([*command, "--epochs", "1"]) == 0
    said = capsys.readouterr().err
    assert "epoch 1 of 1" in said
    assert "broken.png" in said
    assert "Pictures were split, not patients" in said
    counted = json.loads((tmp_path / "run" / MANIFEST).read_text())["counted"]
    assert counted["pictures"] == {"ipf": 3, "normal": 3}
    assert main([*command, "--epochs", "0"]) == 2
    assert "At least one epoch" in capsys.readouterr().err


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="Both classes"):
        repeat_article([replace(one, ipf=True) for one in _shown()], tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()
