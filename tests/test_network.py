"""Weights load only with their own card, and torchvision opens without its compiled operators."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ipfvision.errors import ModelUnusable
from ipfvision.nn import torchvision_door
from ipfvision.nn.network import build, card_path, load, save, to_tensor


def test_weights_survive_the_way_to_disk_to_half_precision(random_model: Callable[..., object], tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build(dilated_layer4=True, padding_mode="replicate").eval()
    save(network, tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size < 48e6
    weights = random_model.weights  # type: ignore[attr-defined]
    again = load(weights).network.state_dict()
    assert again["fc.weight"].dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in load(weights).network.parameters())


def test_batchnorm_is_in_evaluation_mode(random_model: Callable[..., object]) -> None:
    model = load(random_model.weights)  # type: ignore[attr-defined]
    norms = [module for module in model.network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert not any(norm.training for norm in norms)


def test_the_keys_are_those_of_a_plain_torchvision_resnet50() -> None:
    plain = torchvision_door.load().models.resnet50(num_classes=2)
    assert build(dilated_layer4=True, padding_mode="replicate").state_dict().keys() == plain.state_dict().keys()


def test_padding_changes_only_the_frame() -> None:
    torch.manual_seed(2)
    zeros, replicate = build(dilated_layer4=True, padding_mode="zeros"), build(dilated_layer4=True, padding_mode="replicate")
    replicate.load_state_dict(zeros.state_dict())
    image = torch.randn(1, 1024, 20, 20)
    with torch.inference_mode():
        first, second = (net.eval().get_submodule("layer4")(image) for net in (zeros, replicate))
    difference = (first - second).abs().amax(dim=(0, 1))
    assert difference[0].max() > 0
    assert difference[7:13, 7:13].max() < 1e-4


def _copy(random_model: object, folder: Path) -> Path:
    weights = random_model.weights  # type: ignore[attr-defined]
    copy = folder / "m.safetensors"
    copy.write_bytes(weights.read_bytes())
    card_path(copy).write_text(card_path(weights).read_text())
    return copy


def test_damaged_weights_are_not_loaded(random_model: object, tmp_path: Path) -> None:
    copy = _copy(random_model, tmp_path)
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(bytes(content))
    with pytest.raises(ModelUnusable, match="SHA-256"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda card: card.pop("answer"), "damaged"),
        (lambda card: card.update(labels=["normal", "ipf"]), "labels"),
        (lambda card: card["architecture"].update(network="resnet18"), "resnet18"),
        (lambda card: card["answer"].update(temperature=0), "positive"),
        (lambda card: card["answer"].update(operating_point=2), "operating|band"),
    ],
)
def test_a_card_that_does_not_fit_is_refused_in_a_sentence(
    random_model: object, tmp_path: Path, change: Callable[[dict[str, object]], object], says: str
) -> None:
    copy = _copy(random_model, tmp_path)
    card = json.loads(card_path(copy).read_text())
    change(card)
    card_path(copy).write_text(json.dumps(card))
    with pytest.raises(ModelUnusable, match=says):
        load(copy)


def test_missing_weights_and_a_missing_card_are_said(random_model: object, tmp_path: Path) -> None:
    copy = _copy(random_model, tmp_path)
    copy.unlink()
    with pytest.raises(ModelUnusable, match="missing"):
        load(copy)
    card_path(copy).unlink()
    with pytest.raises(ModelUnusable, match="card"):
        load(copy)


def test_another_architecture_with_a_right_hash_is_refused(random_model: object, tmp_path: Path) -> None:
    import safetensors.torch

    from ipfvision.nn.network import sha256

    copy = _copy(random_model, tmp_path)
    safetensors.torch.save_file({"fc.weight": torch.zeros(2, 512)}, copy)
    card = json.loads(card_path(copy).read_text())
    card["sha256"] = sha256(copy)
    card_path(copy).write_text(json.dumps(card))
    with pytest.raises(ModelUnusable, match="do not fit"):
        load(copy)


def test_the_input_is_normalised_grey_in_three_channels(random_model: Callable[..., object]) -> None:
    card = load(random_model.weights).card  # type: ignore[attr-defined]
    tensor = to_tensor(np.full((2, 4, 6), 0.5, np.float32), card)
    assert tensor.shape == (2, 3, 4, 6)
    assert tensor.numpy() == pytest.approx((0.5 - card.mean) / card.standard_deviation)


def test_the_door_declares_nothing_where_torchvision_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: sys.modules.setdefault(name, sys))
    monkeypatch.setattr(torch.library, "Library", None)  # declaring anything would fail
    torchvision_door.load()


def test_the_door_passes_on_every_other_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("libcudart.so.13 is broken")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="libcudart"):
        torchvision_door.load()


def test_after_the_door_the_architectures_work() -> None:
    torchvision = torchvision_door.load()
    assert torchvision.models.resnet50 is sys.modules["torchvision.models"].resnet50
