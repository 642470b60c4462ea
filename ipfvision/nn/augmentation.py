"""Small changes of labelled pictures while training, with torchvision's transforms (v2): geometry moves the masks along."""

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ipfvision.nn import torchvision_door

DEGREES = 8
SHIFT = 0.04
"""Share of the picture's width and height."""
SCALE = (0.92, 1.09)
BRIGHTNESS, CONTRAST = 0.12, 0.2
NOISE = 0.015
"""Standard deviation, as a share of the grey range."""

Pictures = npt.NDArray[np.uint8]


class Augmentation:
    """Mirror, turn, shift, scale, brightness, contrast, blur, noise; the same seed changes the same pictures alike."""

    def __init__(self) -> None:
        torchvision_door.load()
        v2: Any = importlib.import_module("torchvision.transforms.v2")
        self._tensors: Any = importlib.import_module("torchvision.tv_tensors")
        image = self._tensors.Image
        self._change = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomAffine(DEGREES, (SHIFT, SHIFT), SCALE, interpolation=v2.InterpolationMode.BILINEAR, fill=0),
                v2.ColorJitter(brightness=BRIGHTNESS, contrast=CONTRAST),
                v2.RandomApply([v2.GaussianBlur(3, (0.3, 0.9))], 0.25),
                v2.ToDtype({image: torch.float32, "others": None}, scale=True),
                v2.RandomApply([v2.GaussianNoise(0, NOISE)], 0.5),
            ]
        )

    def __call__(self, images: Pictures, masks: Pictures, seed: tuple[int, ...]) -> tuple[Pictures, Pictures]:
        """Change each picture in its own way.

        Parameters
        ----------
        images
            (N, H, W) grey, 255 is 1.0.
        masks
            (N, M, H, W): they move with their picture and nothing else happens to them.
        """
        changed_images, changed_masks = np.empty_like(images), np.empty_like(masks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            for index in range(len(images)):
                image, mask = self._change(
                    self._tensors.Image(torch.from_numpy(images[index][None].copy())),
                    self._tensors.Mask(torch.from_numpy(masks[index].copy())),
                )
                changed_images[index] = np.rint(np.clip(image[0].numpy(), 0, 1) * 255).astype(np.uint8)
                changed_masks[index] = mask.numpy()
        return changed_images, changed_masks
