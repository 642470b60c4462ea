"""The machine's answer for a case of a study: from what was read, and back to what is shown.

What a reader once saw is shown to them again as it was kept, whatever model is loaded by then.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ipfvision.core.findings import ModelCard
from ipfvision.core.lungs import Lungs
from ipfvision.core.review import MachineAnswer, SliceAnswer
from ipfvision.core.slice import Slice
from ipfvision.workflow.reading import Reading

TARGET = "ipf"
METHOD = "gradcam"
"""Of the map that readers judge: one for all of them."""


def machine_answer(card: ModelCard, readings: Mapping[int, Reading]) -> MachineAnswer:
    """What is kept of the readings of a case, by index of the slice."""
    slices = (
        SliceAnswer(index, reading.prediction, reading.explanations.get(TARGET)) for index, reading in sorted(readings.items())
    )
    return MachineAnswer(card.name, card.sha256, tuple(slices))


def as_shown(answer: MachineAnswer, slices: Sequence[Slice]) -> dict[int, Reading]:
    """The answer as readings of the case's slices, by their index: with the map that was judged, without what was not kept."""
    shapes = {one.shape for one in slices}
    lungs = {shape: Lungs(np.zeros(shape, np.bool_), problem="The lungs were not kept.") for shape in shapes}
    found = {}
    for one in answer.slices:
        scan = slices[one.slice_index]
        maps = {} if one.explanation is None else {TARGET: one.explanation}
        found[one.slice_index] = Reading(scan, one.prediction, maps, None, lungs[scan.shape])
    return found


def most_telling(answer: MachineAnswer) -> int:
    """Index of the slice that looks most like IPF; of the first one if none was read."""
    return max(answer.slices, key=lambda one: one.prediction.probability or -1.0).slice_index
