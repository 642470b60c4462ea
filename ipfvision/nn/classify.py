"""From logits to the words on the page."""

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ipfvision.core.findings import Decision, ModelCard, Prediction, in_two_digits
from ipfvision.nn.network import Model, body

if TYPE_CHECKING:
    from ipfvision.nn.runtime import Runtime


def run(model: Model, images: torch.Tensor, runtime: "Runtime | None" = None) -> tuple[torch.Tensor, torch.Tensor]:
    """One pass without gradients: (N, 3, H, W) -> features (N, 2048, h, w) and logits (N, 2).

    Parameters
    ----------
    runtime
        What computes the features; the model's own network if there is none, so that it may be a changed one.
    """
    if runtime is None:
        with torch.inference_mode():
            features = body(model.network, images)
        features = features.clone()  # a clone outside inference mode may be differentiated
    else:
        features = runtime.features(images)
    with torch.inference_mode():
        logits = model.linear(features.mean(dim=(2, 3)))
    return features, logits


def pooled(features: torch.Tensor) -> npt.NDArray[np.float32]:
    """(N, 2048, h, w) -> (N, 2048): the mean over cells."""
    return np.asarray(features.mean(dim=(2, 3)).cpu().numpy(), np.float32)


def probability(margin: float, temperature: float) -> float:
    """Calibrated probability of IPF against normal: logistic(margin / temperature), without overflow."""
    scaled = max(-500.0, min(500.0, margin / temperature))
    return 1 / (1 + math.exp(-scaled))


def decide(margin: float, card: ModelCard) -> Prediction:
    """The answer for a margin z_IPF - z_normal in logits."""
    share = probability(margin, card.temperature)
    said, point = in_two_digits(share), card.operating_point
    low, high = card.uncertain_band
    if low <= share < high:
        decision = Decision.UNCERTAIN
        reason = f"Too close to call: {said} lies between {low:.2f} and {high:.2f}, around the operating point."
    elif share >= point:
        decision = Decision.IPF
        reason = f"Looks more like IPF than normal lung: {said} is above the operating point {point:.2f}."
    else:
        decision = Decision.NORMAL
        reason = f"Looks more like normal lung than IPF: {said} is below the operating point {point:.2f}."
    return Prediction(decision, reason, share, margin)
