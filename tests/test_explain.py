"""Grad-CAM: the package's own answer, at the price of one pass; and never another reader's map."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from ipfvision.core.findings import TARGETS, Explanation
from ipfvision.core.geometry import Crop
from ipfvision.nn import torchvision_door
from ipfvision.nn.classify import run
from ipfvision.nn.explain import class_maps, explain, package_maps, signed_evidence
from ipfvision.nn.network import Head, Model
from ipfvision.workflow.reading import METHODS

SHAPE = (96, 128)
CROP = Crop(0, 0, 128, 96, SHAPE, SHAPE)


def _image(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 3, *SHAPE)).astype(np.float32))


@pytest.mark.parametrize("index", range(len(TARGETS)))
@pytest.mark.parametrize("dilated", [False, True])
def test_gradcam_equals_the_packages_default_usage(random_model: Callable[..., Model], index: int, dilated: bool) -> None:
    torchvision_door.load()
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = random_model(dilated_layer4=dilated)
    image = _image(3)
    features, _ = run(model, image)
    ours = explain(model, features, CROP)[TARGETS[index]].cells
    network = model.network
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    with GradCAM(model=network, target_layers=[network.get_submodule("layer4")]) as package:
        theirs = package(input_tensor=image, targets=[ClassifierOutputTarget(index)])[0]
    # the package scales to [0, 1] twice, before and after it enlarges the map
    scaled = scale_cam_image(scale_cam_image(ours[None], SHAPE[::-1]))[0]
    assert theirs.max() > 0.9
    np.testing.assert_allclose(scaled, theirs, atol=1e-5)


def test_the_packages_gradcam_on_the_head_alone_equals_the_closed_form(random_model: Callable[..., Model]) -> None:
    model = random_model()
    features, logits = run(model, _image(4))
    closed = class_maps(model.linear, features)[0]
    found = package_maps(model, features, "gradcam") * (features.shape[2] * features.shape[3])
    np.testing.assert_allclose(found, closed, rtol=1e-5, atol=1e-5 * closed.max())
    assert closed.max(axis=(1, 2)).min() > 0
    signed = torch.einsum("ck,nkhw->nchw", model.linear.weight, features).mean(dim=(2, 3)) + model.linear.bias
    assert signed.numpy() == pytest.approx(logits.numpy(), abs=1e-3)


def test_maps_for_both_classes_run_the_body_once(random_model: Callable[..., Model]) -> None:
    model = random_model()
    passes = []
    handle = model.network.get_submodule("layer4").register_forward_hook(lambda *_: passes.append(1))
    features, _ = run(model, _image(5))
    for method in METHODS:
        explain(model, features, CROP, method)
    handle.remove()
    assert len(passes) == 1


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_gives_a_map_of_the_models_grid(random_model: Callable[..., Model], method: str) -> None:
    model = random_model()
    features, _ = run(model, _image(6))
    for explanation in explain(model, features, CROP, method).values():
        assert explanation.cells.shape == features.shape[2:]
        assert explanation.cells.min() >= 0
        assert explanation.unit == ("logits" if method == "gradcam" else "arbitrary")


def test_an_unknown_method_is_a_programmers_mistake(random_model: Callable[..., Model]) -> None:
    model = random_model()
    features, _ = run(model, _image(6))
    with pytest.raises(ValueError, match="no explanation method"):
        explain(model, features, CROP, "jet")


def _crossed(explain_one: Callable[[torch.Tensor], np.ndarray], features: list[torch.Tensor], rounds: int) -> int:
    """How many of many concurrent maps differ from the map computed alone."""
    alone = [explain_one(feature) for feature in features]
    jobs = list(range(len(features))) * rounds

    def differs(index: int) -> bool:
        try:
            found = explain_one(features[index])
        except (RuntimeError, IndexError, AttributeError):  # hooks of another thread removed under this one
            return True
        return found.shape != alone[index].shape or bool(np.abs(found - alone[index]).max() > 1e-6)

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(differs, jobs))


def test_eight_readers_at_once_get_their_own_maps(random_model: Callable[..., Model]) -> None:
    model = random_model()
    features = [run(model, _image(seed))[0] for seed in range(8)]
    assert _crossed(lambda feature: package_maps(model, feature, "gradcam"), features, rounds=12) == 0


def test_hooks_on_one_shared_head_would_give_one_reader_anothers_map(random_model: Callable[..., Model]) -> None:
    """Why every call has a head of its own: the same two readers, one between the other's steps, on one hooked module."""
    torchvision_door.load()
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = random_model()
    mine, theirs = (run(model, _image(seed))[0].requires_grad_(True) for seed in (0, 1))
    targets = [ClassifierOutputTarget(0)]
    shared = Head(nn.Linear(2048, 2))
    shared.linear.load_state_dict(model.linear.state_dict())
    with GradCAM(model=shared, target_layers=[shared.features]) as cam:
        alone = cam(input_tensor=mine, targets=targets)
    came = []

    def another_reader_comes_between(*_: object) -> None:
        if not came:
            came.append(True)
            other(input_tensor=theirs, targets=targets)

    shared.features.register_forward_pre_hook(another_reader_comes_between)
    with (
        GradCAM(model=shared, target_layers=[shared.features]) as cam,
        GradCAM(model=shared, target_layers=[shared.features]) as other,
    ):
        crossed = cam(input_tensor=mine, targets=targets)
    assert np.abs(crossed - alone).max() > 0.1


def test_a_map_must_be_finite_and_not_negative() -> None:
    for bad in (np.full((2, 2), -1, np.float32), np.full((2, 2), np.nan, np.float32)):
        with pytest.raises(ValueError, match="class activation map"):
            Explanation(bad, CROP, target="ipf", method="gradcam", layer="layer4", unit="logits")


def test_the_signed_evidence_adds_up_to_the_margin(random_model: Callable[..., Model]) -> None:
    model = random_model()
    features, logits = run(model, _image(3))
    evidence = signed_evidence(model, features, CROP)
    assert evidence.margin == pytest.approx(float(logits[0, 0] - logits[0, 1]), rel=1e-5)
    assert float(evidence.cells.min()) < 0 < float(evidence.cells.max())
