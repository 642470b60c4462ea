"""Is this map to be trusted: all checks of one slice's map, step by step, on demand.

Four checks: random weights, removed pixels, the annotation filled in (`ipfvision.nn.trust`), and the same slice read again.
69 forward passes on a slice with an annotated area, 49 on one without.
"""

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import Annotation, OnSlice
from ipfvision.core.findings import TARGETS, Explanation
from ipfvision.core.slice import Scale, Slice
from ipfvision.core.trust import (
    Curve,
    Faithfulness,
    Mask,
    Occlusion,
    Randomization,
    Repeat,
    Repeatability,
    Trust,
    Undefined,
    structural_similarity,
)
from ipfvision.core.window import LUNG
from ipfvision.workflow.reading import Reader, Reading

HU_STEP = 10
"""Added and taken away: within the calibration of a scanner's water value."""

Progress = Callable[[int, int], None]
Found = TypeVar("Found")
Pixels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass done."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class _Variant:
    """The same slice, changed in a way that should not matter, and the way back for its map."""

    change: str
    scan: Slice
    back: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def trust_key(reader: Reader, reading: Reading, annotations: Sequence[OnSlice], target: str = "ipf", seed: int = 0) -> str:
    """What a result of `check` depends on, as one SHA-256: two calls with one key have one result."""
    explanation = reading.explanations.get(target)
    area = _area(annotations)
    digest = hashlib.sha256()
    for part in (
        reader.card.sha256,
        reading.scan.source.pixel_sha256,
        target,
        "refused" if explanation is None else explanation.method,
        str(seed),
        f"{reading.scan.shape} {reading.lungs.doubt}",
        "" if area is None else _mask_hash(area),
        _mask_hash(reading.lungs.mask),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _mask_hash(mask: Mask) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()


def checking(
    reader: Reader, reading: Reading, annotations: Sequence[OnSlice] = (), target: str = "ipf", seed: int = 0
) -> Generator[Step, None, Trust]:
    """Make all checks of one reading's map; yields after every forward pass. Stop iterating to cancel.

    The same seed gives the same result. Only annotated areas are filled in; points and boxes are not areas of a lesion.

    Raises
    ------
    ValueError
        If the target is no class, or the slice was refused and has no map.
    """
    from ipfvision.nn import trust as nn_trust  # noqa: PLC0415 - torch takes seconds

    if target not in TARGETS:
        raise ValueError(f"no target {target}; there are {', '.join(TARGETS)}")
    explanation = reading.explanations.get(target)
    image = reading.model_input
    if explanation is None or image is None:
        raise ValueError("a slice that was refused has no map to check")
    model, method = reader.model, explanation.method
    marked, reason = _to_occlude(annotations, explanation)
    variants = _variants(reading.scan)
    lit = explanation.peak > 0
    total = nn_trust.OCCLUSION_PASSES if marked is not None else 0
    if lit:
        total += nn_trust.randomization_passes(model) + nn_trust.FAITHFULNESS_PASSES + len(variants)
    done = 0

    def counted(check: Generator[None, None, Found]) -> Generator[Step, None, Found]:
        nonlocal done
        while True:
            try:
                next(check)
            except StopIteration as end:
                found: Found = end.value
                return found
            done += 1
            yield Step(done, total)

    name = "IPF" if target == TARGETS[0] else "normal lung"
    empty = Undefined(f"The map for {name} is empty on this slice: there is no map to check.")
    randomization: Randomization | Undefined = empty
    faithfulness: Faithfulness | Undefined = empty
    repeatability: Repeatability | Undefined = empty
    occlusion: Occlusion | Undefined = Undefined(reason)
    if lit:
        randomization = yield from counted(nn_trust.randomization(model, image, explanation.cells, target, method, seed))
        faithfulness = yield from counted(nn_trust.faithfulness(model, image, explanation.cells, target, seed))
        repeatability = yield from counted(_repeat(reader, reading, explanation, variants))
    if marked is not None:
        room = _on_input(reading.lungs.mask, explanation, 0.5) & ~marked
        check = nn_trust.occlusion(model, image, marked, room, target, seed, reading.lungs.doubt)
        occlusion = yield from counted(check)
    if done < total:
        yield Step(total, total)
    return Trust(target, method, randomization, faithfulness, occlusion, repeatability)


def check(
    reader: Reader,
    reading: Reading,
    annotations: Sequence[OnSlice] = (),
    target: str = "ipf",
    seed: int = 0,
    progress: Progress | None = None,
) -> Trust:
    """`checking` in one go. `progress` is told (done, total) after every forward pass; what it raises stops the checks."""
    steps = checking(reader, reading, annotations, target, seed)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            found: Trust = end.value
            return found
        if progress is not None:
            progress(step.done, step.total)


def _area(annotations: Sequence[OnSlice]) -> Mask | None:
    """Union of the annotated areas; None if there is none."""
    masks = [one.mask for one in annotations if isinstance(one, Annotation)]
    return np.logical_or.reduce(masks) if masks else None


def _on_input(mask: Mask, explanation: Explanation, share: float) -> Mask:
    """A region of the slice on the model's input: the pixels of which at least `share` lies in it."""
    return np.asarray(explanation.crop.cut(mask.astype(np.float32)) >= share, np.bool_)


def _to_occlude(annotations: Sequence[OnSlice], explanation: Explanation) -> tuple[Mask | None, str]:
    """The annotated area on the model's input, or None and the reason."""
    area = _area(annotations)
    if area is None:
        return None, "No area is annotated on this slice: there is nothing to fill in."
    if not area.any():
        return None, "The annotation marks nothing on this slice: there is nothing to fill in."
    marked = _on_input(area, explanation, 1e-3)  # whatever it touches, so that nothing of it is left
    if not marked.any():
        return None, "The annotated area lies outside what the model sees of this slice."
    if marked.all():
        return None, "The annotated area covers all that the model sees: nothing is left to fill it in from."
    return marked, ""


def _variants(scan: Slice) -> tuple[_Variant, ...]:
    def mirrored(values: Pixels) -> Pixels:
        return values[:, ::-1]

    def moved(values: Pixels) -> Pixels:
        return np.concatenate([values[:, :1], values[:, :-1]], axis=1)

    def moved_back(values: Pixels) -> Pixels:
        return np.concatenate([values[:, 1:], values[:, -1:]], axis=1)

    def unmoved(values: Pixels) -> Pixels:
        return values

    def everywhere(way: Callable[[Pixels], Pixels]) -> Slice:
        return replace(scan, pixels=np.ascontiguousarray(way(scan.pixels)), padding=np.ascontiguousarray(way(scan.padding)))

    # An image without Hounsfield units is taken to be in a lung window, where 0.7 percent of the grey range is 10 HU.
    step = f"{HU_STEP} HU" if scan.scale is Scale.HOUNSFIELD else f"{100 * HU_STEP / LUNG.width:.1f} % of grey"
    return (
        _Variant("mirrored", everywhere(mirrored), mirrored),
        _Variant("moved by one pixel", everywhere(moved), moved_back),
        _Variant(f"made brighter by {step}", _brighter(scan, HU_STEP), unmoved),
        _Variant(f"made darker by {step}", _brighter(scan, -HU_STEP), unmoved),
    )


def _brighter(scan: Slice, step_hu: int) -> Slice:
    """Add to every pixel: Hounsfield units, or what they are in grey if the image is in the lung window."""
    if scan.scale is Scale.GREY:
        pixels = np.clip(scan.pixels + np.float32(step_hu / LUNG.width), 0, 1)
    elif scan.pixels.dtype == np.int16:
        limits = np.iinfo(np.int16)
        pixels = np.clip(scan.pixels.astype(np.int32) + step_hu, limits.min, limits.max).astype(np.int16)
    else:
        pixels = scan.pixels + np.float32(step_hu)
    return replace(scan, pixels=pixels)


def _repeat(
    reader: Reader, reading: Reading, explanation: Explanation, variants: tuple[_Variant, ...]
) -> Generator[None, None, Repeatability]:
    """Read each variant as any slice is read, lungs and crop found anew: that is what a reader would get.

    The maps are compared on the cells of the first one, in their own unit: a map that only becomes weaker is not the same.
    """
    cells = replace(explanation.crop, input_shape=explanation.cells.shape)
    margin, target = reading.prediction.margin, explanation.target
    sign = 1 if target == TARGETS[0] else -1
    original = cells.cut(explanation.heatmap())
    repeats = []
    for variant in variants:
        again = reader.read(variant.scan, explanation.method)
        yield
        same = again.prediction.decision is reading.prediction.decision
        if target not in again.explanations or again.prediction.margin is None or margin is None:
            repeats.append(Repeat(variant.change, None, None, same))
            continue
        back = cells.cut(np.ascontiguousarray(variant.back(again.explanations[target].heatmap())))
        similarity = structural_similarity(original, back, max(float(original.max()), float(back.max())))
        repeats.append(Repeat(variant.change, similarity, sign * (again.prediction.margin - margin), same))
    return Repeatability(tuple(repeats))


def trust_result(trust: Trust) -> dict[str, Any]:
    """The JSON of a check: a verdict word, a sentence and named numbers each; what is undefined is null.

    Margins are in logits, in favor of the map's class.
    """
    return {
        "target": trust.target,
        "method": trust.method,
        "randomization": _randomization_result(trust.randomization),
        "faithfulness": _faithfulness_result(trust.faithfulness),
        "occlusion": _occlusion_result(trust.occlusion),
        "repeatability": _repeatability_result(trust.repeatability),
    }


def _verdict_result(found: Randomization | Faithfulness | Occlusion | Repeatability | Undefined) -> dict[str, Any]:
    return {"verdict": found.verdict.value, "sentence": found.sentence}


def _randomization_result(found: Randomization | Undefined) -> dict[str, Any]:
    if isinstance(found, Undefined):
        return {**_verdict_result(found), "similarity": None, "reference": None, "similarity_after": None}
    return {
        **_verdict_result(found),
        "similarity": found.similarity,
        "reference": found.reference,
        "similarity_after": dict(zip(found.layers, found.similarities, strict=True)),
    }


def _faithfulness_result(found: Faithfulness | Undefined) -> dict[str, Any]:
    if isinstance(found, Undefined):
        names = ("percents", "most_first_area", "least_first_area", "random_areas", "most_first", "least_first", "random")
        return {**_verdict_result(found), **dict.fromkeys(names)}

    def curve(one: Curve) -> dict[str, list[float]]:
        return {"margins": list(one.margins), "probabilities": list(one.probabilities)}

    return {
        **_verdict_result(found),
        "percents": list(found.percents),
        "most_first_area": found.most_first_area,
        "least_first_area": found.least_first_area,
        "random_areas": list(found.random_areas),
        "most_first": curve(found.most_first),
        "least_first": curve(found.least_first),
        "random": [curve(one) for one in found.random],
    }


def _occlusion_result(found: Occlusion | Undefined) -> dict[str, Any]:
    if isinstance(found, Undefined):
        return {**_verdict_result(found), "margin_change": None, "random_changes": None, "rank": None, "chance": None}
    return {
        **_verdict_result(found),
        "margin_change": found.change,
        "random_changes": list(found.random_changes) or None,
        "rank": found.rank,
        "chance": found.chance,
    }


def _repeatability_result(found: Repeatability | Undefined) -> dict[str, Any]:
    if isinstance(found, Undefined):
        return {**_verdict_result(found), "least_similarity": None, "repeats": None}
    return {
        **_verdict_result(found),
        "least_similarity": found.least.similarity,
        "repeats": [
            {
                "change": one.change,
                "similarity": one.similarity,
                "margin_change": one.margin_change,
                "same_decision": one.same_decision,
            }
            for one in found.repeats
        ],
    }
