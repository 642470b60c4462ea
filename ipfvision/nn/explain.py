"""Class activation maps: where the evidence for a class lies.

ResNet-50 ends in average pooling and one linear layer, so Grad-CAM (Selvaraju et al., ICCV 2017) at layer4 is the class
activation map of Zhou et al. (CVPR 2016): the gradient of the logit z_c = mean over cells of (w_c . A) + b_c with respect to
A_k is w_ck / N in every cell, and the map is ReLU(sum_k w_ck A_k) up to the factor 1 / N.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ipfvision.core.findings import TARGETS, Explanation, SignedEvidence
from ipfvision.core.geometry import Crop
from ipfvision.nn import torchvision_door
from ipfvision.nn.network import TARGET_LAYER, Head, Model

Maps = npt.NDArray[np.float32]


def _method(name: str) -> Callable[..., Any]:
    """The grad-cam package's class for a method. Imported late: it takes seconds."""
    torchvision_door.load()  # grad-cam imports torchvision
    import pytorch_grad_cam  # noqa: PLC0415

    methods: dict[str, Callable[..., Any]] = {
        "gradcam": pytorch_grad_cam.GradCAM,
        "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
        "hirescam": pytorch_grad_cam.HiResCAM,
        "layercam": pytorch_grad_cam.LayerCAM,
        "eigencam": pytorch_grad_cam.EigenCAM,
    }
    if name not in methods:
        raise ValueError(f"no explanation method {name}; there are {', '.join(methods)}")
    return methods[name]


def package_maps(model: Model, features: torch.Tensor, method: str) -> Maps:
    """Maps for all targets from layer4's output, by the grad-cam package on the head alone.

    The body is not differentiated, so both classes cost one pass of a head that is a thousandth of the network.

    Parameters
    ----------
    features
        (1, 2048, h, w) float32.

    Returns
    -------
    (targets, h, w) float32, at least 0, not rescaled. Unlike the package's own output, magnitudes are kept: no minimum is
    subtracted and nothing is divided by a maximum. Grad-CAM is a cell's share of the logit's mean: times the number of cells it
    is in logits, as `class_maps` is.
    """
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: PLC0415

    kind = _method(method)
    # A head of its own for every call: the package hooks the module it is given, and hooks on one shared module would cross
    # between threads and put one reader's map on another's scan, without an error.
    head = Head(model.linear)
    with torch.enable_grad(), kind(model=head, target_layers=[head.features]) as cam:
        batch = features.detach().repeat(len(TARGETS), 1, 1, 1).requires_grad_(True)
        targets = [ClassifierOutputTarget(index) for index in range(len(TARGETS))]
        logits = cam.activations_and_grads(batch)
        gradients = None
        if cam.uses_gradients:
            sum(target(output) for target, output in zip(targets, logits, strict=True)).backward()
            gradients = cam.activations_and_grads.gradients[0].cpu().numpy()
        activations = cam.activations_and_grads.activations[0].cpu().numpy()
        maps = cam.get_cam_image(batch, head.features, targets, activations, gradients, eigen_smooth=False)
    return np.maximum(np.asarray(maps, np.float32), 0)


def class_maps(linear: nn.Linear, features: torch.Tensor) -> Maps:
    """The closed form of Grad-CAM at layer4, in logits: ReLU(sum_k w_ck A_k) for every slice and class.

    Parameters
    ----------
    features
        (N, 2048, h, w).

    Returns
    -------
    (N, targets, h, w) float32. Without the ReLU, the mean over cells plus the bias is the class's logit.
    """
    with torch.no_grad():
        signed = torch.einsum("ck,nkhw->nchw", linear.weight.float(), features.float())
        return np.asarray(signed.clamp(min=0).cpu().numpy(), np.float32)


def signed_evidence(model: Model, features: torch.Tensor, crop: Crop) -> SignedEvidence:
    """The map whose mean over cells plus the bias is the margin.

    Parameters
    ----------
    features
        (1, 2048, h, w) float32: layer4's output.
    """
    weight, bias = model.linear.weight, model.linear.bias
    with torch.no_grad():
        difference = (weight[0] - weight[1]).float()
        cells = torch.einsum("k,khw->hw", difference, features[0].float()).cpu().numpy()
    return SignedEvidence(np.asarray(cells, np.float32), float(bias[0] - bias[1]), crop)


def explain(model: Model, features: torch.Tensor, crop: Crop, method: str = "gradcam") -> dict[str, Explanation]:
    """Explanations of one slice for every target.

    Grad-CAM comes in its closed form, in logits: the package's own, to 1e-5, in a tenth of the time, and seconds sooner for the
    first slice, because the package need not be imported. The other methods come from the package, in units of their own.

    Parameters
    ----------
    features
        (1, 2048, h, w) float32: layer4's output.
    """
    closed = method == "gradcam"
    maps = class_maps(model.linear, features)[0] if closed else package_maps(model, features, method)
    unit = "logits" if closed else "arbitrary"
    return {
        target: Explanation(cells, crop, target=target, method=method, layer=TARGET_LAYER, unit=unit)
        for target, cells in zip(TARGETS, maps, strict=True)
    }
