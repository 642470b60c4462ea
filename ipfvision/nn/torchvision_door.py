"""The one door to torchvision: it also opens where torchvision's compiled operators cannot be loaded.

The compiled operators want CUDA libraries, which a CPU-only torch does not bring. Then `import torchvision` fails with
"operator torchvision::nms does not exist", although the architectures and transforms used here need none of these operators.
Only in that case are the missing operators declared (without an implementation, so that calling one still fails) and the import
repeated. Where torchvision loads, nothing is done.
"""

import importlib
import sys
from types import ModuleType

import torch

MISSING = "operator torchvision::nms does not exist"
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""Schemas that torchvision 0.28 refers to while it is imported (torchvision/_meta_registrations.py)."""

_declared: list[torch.library.Library] = []
"""A library's declarations live as long as the object."""


def load() -> ModuleType:
    """Import torchvision, declaring its missing operators only if that is why the import fails."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in OPERATORS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
    return importlib.import_module("torchvision")
