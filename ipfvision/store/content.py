"""Opinions, drafts and answers as JSON, and back through types that check themselves.

Only what the types hold is written: no place is left for a name, an ID or a date of a patient.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np

from ipfvision.core.annotation import Finding
from ipfvision.core.findings import Decision, Explanation, Prediction
from ipfvision.core.geometry import Crop
from ipfvision.core.review import (
    Diagnosis,
    Draft,
    Drawn,
    Judgment,
    MachineAnswer,
    MapAgreement,
    MapVerdict,
    Opinion,
    Reason,
    SliceAnswer,
)

CELLS = np.dtype("<f4")
LONGEST_SIDE = 2**15 - 2
"""Of a slice with a map, and of its crop: OpenCV's `remap` takes no more."""
MOST_CELLS = 1024
"""Of a map, on a side; a model's grid has some ten."""
LARGEST_MARGIN = 1e6
"""In logits."""


class Damaged(Exception):
    """What a database or an archive holds is not what was once written. Never shown: its catcher says which it was."""


def write(content: Mapping[str, Any]) -> str:
    """One line of JSON, the same for the same content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read(text: str) -> dict[str, Any]:
    """The JSON of a row; raises Damaged."""
    try:
        content = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Damaged from error
    if not isinstance(content, dict):
        raise Damaged
    return content


def from_draft(draft: Draft) -> dict[str, Any]:
    """The way back is `to_draft`."""
    return {
        "diagnosis": draft.diagnosis,
        "confidence": draft.confidence,
        "drawings": _from_drawings(draft.drawings),
        "comment": draft.comment,
        "verdict": draft.verdict,
        "reasons": list(draft.reasons),
        "verdict_text": draft.verdict_text,
    }


def to_draft(content: Mapping[str, Any]) -> Draft:
    """Raises Damaged."""
    try:
        return Draft(
            diagnosis=None if content["diagnosis"] is None else Diagnosis(content["diagnosis"]),
            confidence=None if content["confidence"] is None else _whole(content["confidence"]),
            drawings=_to_drawings(content["drawings"]),
            comment=to_text(content["comment"]),
            verdict=None if content["verdict"] is None else MapVerdict(content["verdict"]),
            reasons=tuple(Reason(reason) for reason in content["reasons"]),
            verdict_text=to_text(content["verdict_text"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged from error


def from_opinion(opinion: Opinion) -> dict[str, Any]:
    """The way back is `to_opinion`."""
    return {
        "diagnosis": opinion.diagnosis,
        "confidence": opinion.confidence,
        "drawings": _from_drawings(opinion.drawings),
        "comment": opinion.comment,
    }


def to_opinion(content: Mapping[str, Any]) -> Opinion:
    """Raises Damaged."""
    try:
        return Opinion(
            Diagnosis(content["diagnosis"]),
            _whole(content["confidence"]),
            _to_drawings(content["drawings"]),
            to_text(content["comment"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged from error


def from_judgment(judgment: Judgment | None) -> dict[str, Any] | None:
    """The way back is `to_judgment`."""
    if judgment is None:
        return None
    return {"verdict": judgment.verdict, "reasons": list(judgment.reasons), "text": judgment.text}


def to_judgment(content: Mapping[str, Any] | None) -> Judgment | None:
    """Raises Damaged."""
    if content is None:
        return None
    try:
        reasons = tuple(Reason(reason) for reason in content["reasons"])
        return Judgment(MapVerdict(content["verdict"]), reasons, to_text(content["text"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged from error


def from_agreement(agreement: Sequence[MapAgreement]) -> list[dict[str, Any]]:
    """The way back is `to_agreement`."""
    return [asdict(one) for one in agreement]


def to_agreement(content: Sequence[Mapping[str, Any]]) -> tuple[MapAgreement, ...]:
    """Raises Damaged."""
    try:
        return tuple(
            MapAgreement(
                _whole(one["slice_index"]),
                _share(one["dice"]),
                _share(one["rank_accuracy"]),
                None if one["pointing"] is None else _truth(one["pointing"]),
            )
            for one in content
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged from error


def from_answer(answer: MachineAnswer) -> dict[str, Any]:
    """The way back is `to_answer`."""
    return {
        "model_name": answer.model_name,
        "model_sha256": answer.model_sha256,
        "slices": [
            {
                "slice_index": one.slice_index,
                "decision": one.prediction.decision.value,
                "reason": one.prediction.reason,
                "probability": one.prediction.probability,
                "margin": one.prediction.margin,
                "map": None if one.explanation is None else _from_explanation(one.explanation),
            }
            for one in answer.slices
        ],
    }


def to_answer(content: Mapping[str, Any]) -> MachineAnswer:
    """Raises Damaged."""
    try:
        slices = tuple(
            SliceAnswer(
                _whole(one["slice_index"]),
                Prediction(
                    Decision(one["decision"]), to_text(one["reason"]), _share(one["probability"]), _margin(one["margin"])
                ),
                None if one["map"] is None else _to_explanation(one["map"]),
            )
            for one in content["slices"]
        )
        return MachineAnswer(to_text(content["model_name"]), to_text(content["model_sha256"]), slices)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise Damaged from error


def _from_explanation(explanation: Explanation) -> dict[str, Any]:
    """The map on the model's own grid, to the last bit: a few kilobytes."""
    return {
        "cells": base64.b64encode(explanation.cells.astype(CELLS).tobytes()).decode("ascii"),
        "shape": list(explanation.cells.shape),
        "crop": asdict(explanation.crop),
        "target": explanation.target,
        "method": explanation.method,
        "layer": explanation.layer,
        "unit": explanation.unit,
    }


def _to_explanation(content: Mapping[str, Any]) -> Explanation:
    given, shape = content["crop"], _pair(content["shape"])
    left, top, width, height = (_whole(given[name]) for name in ("left", "top", "width", "height"))
    crop = Crop(left, top, width, height, _pair(given["input_shape"]), _pair(given["slice_shape"]))
    if max(abs(left), abs(top), width, height, *crop.input_shape, *crop.slice_shape) > LONGEST_SIDE:
        raise ValueError(f"the crop of a map has sides of at most {LONGEST_SIDE}")
    if not 0 < min(shape) <= max(shape) <= MOST_CELLS:
        raise ValueError(f"a map has at most {MOST_CELLS} cells on a side")
    cells = np.frombuffer(base64.b64decode(content["cells"], validate=True), CELLS).reshape(shape)
    named = (to_text(content[name]) for name in ("target", "method", "layer", "unit"))
    return Explanation(cells.astype(np.float32), crop, *named)


def _from_drawings(drawings: Sequence[Drawn]) -> list[dict[str, Any]]:
    return [
        {"slice_index": one.slice_index, "finding": one.finding.value, "shape": list(one.shape), "runs": list(one.runs)}
        for one in drawings
    ]


def _to_drawings(content: Sequence[Mapping[str, Any]]) -> tuple[Drawn, ...]:
    return tuple(
        Drawn(_whole(one["slice_index"]), Finding(one["finding"]), _pair(one["shape"]), tuple(one["runs"])) for one in content
    )


def to_text(given: object) -> str:
    """A text that every page and file can hold; raises TypeError or ValueError."""
    if not isinstance(given, str):
        raise TypeError("a text is expected")
    given.encode()  # half of a surrogate pair is no text
    return given


def _pair(numbers: Sequence[Any]) -> tuple[int, int]:
    first, second = numbers
    return _whole(first), _whole(second)


def _whole(given: object) -> int:
    if type(given) is not int:  # True is none
        raise TypeError("a whole number is expected")
    return given


def _truth(given: object) -> bool:
    if not isinstance(given, bool):
        raise TypeError("true or false is expected")
    return given


def _share(given: object) -> float | None:
    return _number(given, 0, 1)


def _margin(given: object) -> float | None:
    return _number(given, -LARGEST_MARGIN, LARGEST_MARGIN)


def _number(given: object, least: float, most: float) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError("a number is expected")
    if not least <= given <= most:  # nor is NaN
        raise ValueError(f"a number from {least} to {most} is expected")
    return given


def _no_number(name: str) -> NoReturn:
    """JSON has no infinity and no NaN, though Python's reader takes them."""
    raise ValueError(f"{name} is no number")
