"""Training on labelled pictures: who is on which side, what is refused, and that a killed or full run loses nothing."""

import csv
import json
import resource
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ipfvision import images
from ipfvision.cli import main
from ipfvision.core.window import LUNG, apply_window
from ipfvision.errors import InputRefused, ModelUnusable, RunStopped
from ipfvision.nn.augmentation import Augmentation
from ipfvision.nn.labelled import Epoch, Outcome, Pictures, chosen_epoch, label_loss, train_labelled
from ipfvision.nn.starting_weights import adopt_imagenet, start
from ipfvision.nn.training import LabelledRecipe, MapNetwork, load_run
from ipfvision.synthetic.case import disease_mask, draw_case
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.labelled import LabelledPicture, open_picture, read_collection, split_collection
from ipfvision.workflow.labelled_training import Options, prepare_pictures, recipe_for, train_labelled_run
from tests.ct_files import ct, scan

SIZE = (64, 96)
TINY = Options(start="random", size=SIZE, epochs=2, patience=3, batch=4)


def _png(seed: int, *, ipf: bool) -> tuple[bytes, bytes]:
    """A small drawn slice and its mask, as PNG."""
    rng = np.random.default_rng(seed)
    thorax = draw_thorax(rng, level=0.7, size=200, spacing_mm=1.7)
    case = draw_case(thorax.pixels.astype(np.float32), thorax.lungs, 1.7, rng, diseased=ipf, distractors=False)
    mask = disease_mask(case.annotations, case.pixels.shape).astype(np.uint8) * 255
    return images.write_png(np.rint(apply_window(case.pixels, LUNG) * 255).astype(np.uint8)), images.write_png(mask)


@pytest.fixture(scope="module")
def drawn() -> dict[tuple[str, int], tuple[bytes, bytes]]:
    """Pictures of three patients of each class, with their masks."""
    return {(label, seed): _png(seed, ipf=label == "ipf") for label in ("ipf", "normal") for seed in range(3)}


Drawn = dict[tuple[str, int], tuple[bytes, bytes]]


def _folders(where: Path, drawn: Drawn) -> Path:
    for (label, seed), (picture, _) in drawn.items():
        (where / label / f"P{label}{seed}").mkdir(parents=True)
        (where / label / f"P{label}{seed}" / "a.png").write_bytes(picture)
    return where


def _manifest(where: Path, rows: list[dict[str, str]]) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (where / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return where


def _rows(*patients: str, use: str | None = None) -> list[dict[str, str]]:
    given = [{"file": f"{name}.png", "label": "ipf" if name[0] == "i" else "normal", "patient": name} for name in patients]
    return given if use is None else [row | {"use": use} for row in given]


def test_a_folder_per_class_gives_labels_and_its_sub_folders_the_patients(tmp_path: Path, drawn: Drawn) -> None:
    data = _folders(tmp_path, drawn)
    (data / "ipf" / "loose.png").write_bytes(drawn["ipf", 0][0])
    (data / "ipf" / "Pipf0" / "a_mask.png").write_bytes(drawn["ipf", 0][1])
    (data / "ipf" / ".DS_Store").write_bytes(b"x")
    found = {picture.file: picture for picture in read_collection(data)}
    assert len(found) == 7
    assert found["ipf/Pipf0/a.png"] == LabelledPicture("ipf/Pipf0/a.png", "ipf", "Pipf0", "ipf/Pipf0/a_mask.png")
    assert found["ipf/loose.png"].patient is None
    assert found["normal/Pnormal2/a.png"].label == "normal"


def test_a_member_of_an_archive_and_a_dicom_file_are_pictures_like_any_other(tmp_path: Path, drawn: Drawn) -> None:
    slice_ = scan()
    _manifest(
        tmp_path,
        [
            {"file": "a.zip/b.png", "label": "ipf", "patient": "i"},
            {"file": "c.dcm", "label": "normal", "patient": "n"},
        ],
    )
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.png", drawn["ipf", 1][0])
    (tmp_path / "c.dcm").write_bytes(ct(slice_))
    first, second = (open_picture(tmp_path, picture) for picture in read_collection(tmp_path))
    assert first.source.format == "PNG"
    assert (second.pixels == slice_.pixels).all()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"file": "a.png", "label": "uip", "patient": "1"}], "'uip' were found"),
        ([{"file": "a.png", "label": "ipf"}], "lacks the column patient"),
        (_rows("i1", use="train") + _rows("i1", use="test"), "more than once"),
        ([*_rows("i1", use="train"), {"file": "z.png", "label": "ipf", "patient": "i1", "use": "test"}], "more than one use"),
        (_rows("i1", use="holdout"), "another use"),
        ([{"file": "", "label": "ipf", "patient": "1"}], "Line 2"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused_in_a_sentence(
    tmp_path: Path, rows: list[dict[str, str]], sentence: str
) -> None:
    with pytest.raises(InputRefused, match=sentence):
        read_collection(_manifest(tmp_path, rows))


def test_an_empty_folder_and_folders_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="holds no pictures"):
        read_collection(tmp_path)
    (tmp_path / "nsip").mkdir()
    (tmp_path / "nsip" / "a.png").write_bytes(b"x")
    with pytest.raises(InputRefused, match="'nsip'"):
        read_collection(tmp_path)
    with pytest.raises(InputRefused, match="no folder"):
        read_collection(tmp_path / "nowhere")


def _pictures(*patients: str, use: str | None = None) -> list[LabelledPicture]:
    return [
        LabelledPicture(f"{name}/{n}.png", "ipf" if name[0] == "i" else "normal", name, use=use)
        for name in patients
        for n in range(3)
    ]


def test_no_patient_is_on_both_sides_and_both_sides_have_both_classes() -> None:
    given = _pictures(*(f"i{n}" for n in range(5)), *(f"n{n}" for n in range(9)))
    for seed in range(20):
        split = split_collection(given, seed)
        trained, measured = ({picture.patient for picture in side} for side in (split.training, split.validation))
        assert not trained & measured
        assert len(split.training) + len(split.validation) == len(given)
        assert {picture.label for picture in split.validation} == {picture.label for picture in split.training}
        assert split == split_collection(given, seed)
        assert not split.by_image
    assert len({split_collection(given, seed).validation for seed in range(20)}) > 5


def test_a_class_with_one_patient_and_unknown_patients_are_refused() -> None:
    with pytest.raises(InputRefused, match=r"class ipf has 1 patient \(3 pictures\)"):
        split_collection(_pictures("i1", "n1", "n2"), 0)
    unknown = [replace(picture, patient=None) for picture in _pictures("i1", "i2", "n1", "n2")]
    with pytest.raises(InputRefused, match="--split-images"):
        split_collection(unknown, 0)
    split = split_collection(unknown, 0, split_images=True)
    assert split.by_image
    assert len(split.training) + len(split.validation) == 12


def test_a_given_use_is_kept_and_test_pictures_are_on_neither_side() -> None:
    given = _pictures("i1", "n1", use="train") + _pictures("i2", "n2", use="validation") + _pictures("i3", "n3", use="test")
    split = split_collection(given, 0)
    assert {picture.patient for picture in split.training} == {"i1", "n1"}
    assert {picture.patient for picture in split.validation} == {"i2", "n2"}
    with pytest.raises(InputRefused, match="Some rows have a use"):
        split_collection([*given, *_pictures("i9")], 0)


def test_one_damaged_file_is_left_out_by_name_and_many_refuse_the_collection(tmp_path: Path, drawn: Drawn) -> None:
    rows = []
    for n in range(30):
        label = "ipf" if n % 2 else "normal"
        (tmp_path / f"{n}.png").write_bytes(drawn[label, 0][0])
        rows.append({"file": f"{n}.png", "label": label, "patient": f"P{n}"})
    data = _manifest(tmp_path, rows)
    (tmp_path / "7.png").write_bytes(drawn["ipf", 0][0][:200])
    prepared = prepare_pictures(data, read_collection(data), SIZE)
    assert [refusal.file for refusal in prepared.unreadable] == ["7.png"]
    assert len(prepared.pictures) == 29
    (tmp_path / "8.png").unlink()
    with pytest.raises(InputRefused, match=r"2 of 30 pictures cannot be read, more than 5 %: 7\.png"):
        prepare_pictures(data, read_collection(data), SIZE)


def test_what_is_trained_on_is_what_reading_sees(tmp_path: Path, drawn: Drawn, random_model) -> None:  # type: ignore[no-untyped-def]
    from ipfvision.workflow.reading import Reader

    data = _folders(tmp_path, drawn)
    model = random_model()
    prepared = prepare_pictures(data, read_collection(data), model.card.input_shape)
    seen = Reader(model).see(open_picture(data, prepared.pictures[0]))
    assert np.abs(prepared.images[0] / 255 - seen.prepared.image).max() < 0.5 / 255 + 1e-6


def _some(count: int = 4) -> Pictures:
    rng = np.random.default_rng(1)
    masks = np.zeros((count, 2, *SIZE), np.uint8)
    masks[:, 1] = 255
    masks[::2, 0, 16:48, 32:64] = 255
    labels = np.arange(count) % 2 == 0
    return Pictures(rng.integers(0, 256, (count, *SIZE)).astype(np.uint8), labels, masks, tuple("aabbccdd"[:count]))


def test_masks_move_with_their_pictures_and_a_seed_repeats_the_change() -> None:
    bright = np.zeros((6, 64, 96), np.uint8)
    bright[:, 20:44, 10:40] = 255
    masks = np.stack([bright, 255 - bright], axis=1)
    change = Augmentation()
    changed, moved = change(bright, masks, (0, 1))
    again, _ = change(bright, masks, (0, 1))
    other, _ = change(bright, masks, (0, 2))
    assert (changed == again).all()
    assert (changed != other).any()
    for image, (mask, _) in zip(changed, moved, strict=True):
        inside, outside = image[mask > 0].mean(), image[mask == 0].mean()
        assert inside > 180
        assert outside < 40


def test_batches_hold_half_of_each_class_and_every_patient_in_turn() -> None:
    some = _some(8)
    index = some.balanced(0, range(8))
    assert some.labels[index].tolist() == [True] * 8 + [False] * 8
    for first in (0, 4):
        assert {some.patients[i] for i in index[first : first + 4]} == set("abcd")
    later = some.balanced(0, range(5, 8))
    assert (later[:3] == index[5:8]).all()


def test_weights_make_classes_and_patients_alike() -> None:
    some = _some(6).take(np.array([0, 2, 2, 1, 3, 5]))
    weights = some.weights()
    assert weights.sum() == pytest.approx(1)
    assert weights[some.labels].sum() == pytest.approx(0.5)
    assert weights[0] == pytest.approx(0.25)


def test_the_label_loss_is_torchs() -> None:
    margins, labels = np.array([-2.0, 0.5, 3.0]), np.array([False, True, True])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(margins), torch.from_numpy(0.96 * labels + 0.02)
    )
    assert label_loss(margins, labels, np.full(3, 1 / 3)) == pytest.approx(float(expected))


def _epoch(number: int, loss: float | None) -> Epoch:
    return Epoch(number, 1.0, 0.5, loss, None, None, 0.0, 1.0)


def test_the_first_epoch_of_least_validation_loss_is_chosen() -> None:
    assert chosen_epoch([_epoch(1, 0.7), _epoch(2, 0.4), _epoch(3, 0.4), _epoch(4, 0.5)]) == 2
    assert chosen_epoch([_epoch(1, None), _epoch(2, None)]) == 2


FROZEN = ("conv1", "bn1", "layer1", "layer2", "layer3")
LOOP = LabelledRecipe(start="random", input_shape=SIZE, epochs=2, patience=3, batch=4, frozen=FROZEN)


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Of a run that nothing stopped."""
    return train_labelled(LOOP, _some(), _some(), tmp_path_factory.mktemp("whole"), "x")


def _is_same(found: Outcome, whole: Outcome) -> bool:
    assert [replace(e, seconds=0) for e in found.history] == [replace(e, seconds=0) for e in whole.history]
    weights = found.model.state_dict()
    return all(torch.equal(weights[name], tensor) for name, tensor in whole.model.state_dict().items())


@pytest.mark.parametrize("room", [1_000_000, 150_000_000])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_from_its_last_state(tmp_path: Path, whole: Outcome, room: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(history: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))

    try:
        with pytest.raises(RunStopped, match="no room left to write progress"):
            train_labelled(LOOP, _some(), _some(), tmp_path, "x", fill, seconds_between_states=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("*.part"))
    assert not (tmp_path / "state.pt").exists()
    assert _is_same(train_labelled(LOOP, _some(), _some(), tmp_path, "x"), whole)


def test_a_killed_run_goes_on_to_the_very_same_network(tmp_path: Path, whole: Outcome) -> None:
    some = _some()

    def kill(history: object) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train_labelled(LOOP, some, some, tmp_path / "killed", "x", kill, seconds_between_states=0)
    with pytest.raises(ModelUnusable, match="has not finished"):
        load_run(tmp_path / "killed")
    resumed = train_labelled(LOOP, some, some, tmp_path / "killed", "x")
    assert _is_same(resumed, whole)
    assert resumed.chosen == whole.chosen
    recipe, model, step = load_run(tmp_path / "killed")
    assert recipe == LOOP
    assert step == whole.chosen
    assert torch.equal(model.weight, whole.model.weight)
    assert not (tmp_path / "killed" / "progress.pt").exists()
    again = train_labelled(LOOP, some, some, tmp_path / "killed", "x", kill)  # finished: nothing is trained
    assert again.chosen == whole.chosen


def test_a_folder_with_a_run_on_other_pictures_is_left_alone(tmp_path: Path) -> None:
    some = _some()
    one = replace(LOOP, epochs=1)
    train_labelled(one, some, some, tmp_path, "x")
    before = (tmp_path / "state.pt").read_bytes()
    for recipe, identity in ((one, "y"), (replace(one, seed=1), "x")):
        with pytest.raises(RunStopped, match="choose another folder"):
            train_labelled(recipe, some, some, tmp_path, identity)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_run_says_all_that_decided_it_and_names_nobody(tmp_path: Path, drawn: Drawn) -> None:
    data = _folders(tmp_path / "data", drawn)
    said: list[str] = []
    found = train_labelled_run(data, tmp_path / "run", TINY, said.append)
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest == json.loads(json.dumps(found))
    assert manifest["finished"]
    assert manifest["split"] == "by patient"
    assert manifest["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]  # a build may add its CUDA
    assert len(manifest["curves"]) == 2
    assert manifest["start"]["name"] == "random, seed 0"
    assert "not held to anything" in manifest["map"]
    assert "Pipf" not in json.dumps(manifest)
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any("min left" in sentence for sentence in said)
    recipe, model, _ = load_run(tmp_path / "run")
    assert recipe.input_shape == SIZE
    assert recipe.map_weight == 0
    assert not model.training
    sides = list(csv.DictReader((tmp_path / "run" / "pictures.csv").read_text().splitlines()))
    assert {row["side"] for row in sides} == {"training", "validation"}


def test_a_split_by_image_says_so_wherever_figures_stand(tmp_path: Path, drawn: Drawn) -> None:
    data = _folders(tmp_path / "data", drawn)
    for file in list(data.rglob("a.png")):
        file.rename(file.parent.parent / f"{file.parent.name}.png")
    with pytest.raises(InputRefused, match="--split-images"):
        train_labelled_run(data, tmp_path / "run", TINY, lambda _: None)
    found = train_labelled_run(data, tmp_path / "run", replace(TINY, epochs=1, split_images=True), lambda _: None)
    assert "inflated" in found["split"]


def test_masks_hold_the_map_and_an_unusable_one_is_told(tmp_path: Path, drawn: Drawn) -> None:
    rows = []
    for (label, seed), (picture, mask) in drawn.items():
        (tmp_path / f"{label}{seed}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"{label}{seed}.png").write_bytes(picture)
        (tmp_path / f"m{label}{seed}.png").write_bytes(mask if seed else b"broken")
        rows.append({"file": f"{label}{seed}.png", "label": label, "patient": f"{label}{seed}"})
        rows[-1]["annotation"] = f"m{label}{seed}.png" if label == "ipf" else ""
    data = _manifest(tmp_path, rows)
    prepared = prepare_pictures(data, read_collection(data), SIZE)
    assert [refusal.file for refusal in prepared.problems] == ["mipf0.png"]
    lesions = {picture.file: mask[0].any() for picture, mask in zip(prepared.pictures, prepared.masks, strict=True)}
    assert lesions["ipf1.png"]
    assert lesions["ipf2.png"]
    assert not any(lesions[f"{name}.png"] for name in ("ipf0", "normal0", "normal1"))
    found = train_labelled_run(data, tmp_path / "run", replace(TINY, epochs=1), lambda _: None)
    assert "was held to the annotations of" in found["map"]
    assert load_run(tmp_path / "run")[0].map_weight == 1


def test_a_checkpoint_brings_what_it_sees_and_a_strange_one_is_refused(random_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    recipe = recipe_for(Options(start=str(random_model.weights)))
    assert recipe.input_shape == (96, 128)
    assert recipe.dilated_layer4
    card = json.loads(random_model.weights.with_suffix(".json").read_text())
    card["architecture"]["network"] = "densenet121"
    (tmp_path / "other.json").write_text(json.dumps(card))
    with pytest.raises(ModelUnusable, match="for a densenet121; a resnet50 is expected"):
        recipe_for(Options(start=str(tmp_path / "other.safetensors")))
    with pytest.raises(ModelUnusable, match="missing"):
        recipe_for(Options(start="nowhere.safetensors"))
    with pytest.raises(InputRefused, match="multiples of 32"):
        recipe_for(Options(start="random", size=(100, 100)))


def test_folding_imagenets_colors_leaves_what_the_first_stage_sees() -> None:
    from ipfvision.nn import torchvision_door

    torch.manual_seed(0)
    source = torchvision_door.load().models.resnet50(weights=None).eval()
    source.bn1.running_mean.normal_()
    network = MapNetwork(LOOP).network.eval()
    adopt_imagenet(network, source.state_dict())
    grey = torch.rand(1, 1, 64, 64)
    means = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]
    deviations = torch.tensor([0.229, 0.224, 0.225])[None, :, None, None]
    expected = source.bn1(source.conv1((grey - means) / deviations))
    found = network.bn1(network.conv1(((grey - 0.2333) / 0.8).expand(-1, 3, -1, -1)))
    torch.testing.assert_close(found[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2], rtol=1e-3, atol=1e-4)


def test_a_damaged_cache_of_imagenet_weights_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet50-11ad3fa6.pth").write_bytes(b"half")
    with pytest.raises(ModelUnusable, match="damaged"):
        start(MapNetwork(LOOP).network, "imagenet", 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "--recipe", "labelled", "--size", "100x100"], "multiples of 32"),
        (["train", "--recipe", "labelled", "--start", "nowhere.safetensors"], "missing"),
        (["crossvalidate", "--folds", "40", "--start", "random"], "6 patients make 2 to 6 folds, not 40"),
    ],
)
def test_the_command_line_refuses_in_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, drawn: Drawn, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _folders(tmp_path / "data", drawn)
    assert main([words[0], str(data), "--out", str(tmp_path / "out"), *words[1:]]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
