"""From a slice to what the page and the command line show: the answer, the maps, the picture and the JSON."""

import math
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ipfvision.core.findings import Decision, Explanation, ModelCard, Prediction, SignedEvidence
from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import Lungs, find_lungs
from ipfvision.core.marks import Mark, fill_in, find_marks
from ipfvision.core.overlay import display_grey, overlay
from ipfvision.core.slice import Slice, grey
from ipfvision.core.window import LUNG, Window
from ipfvision.images import write_png
from ipfvision.nn.series import ahead, in_groups
from ipfvision.nn.turns import Turns
from ipfvision.workflow.gating import note, refusal
from ipfvision.workflow.uploads import Refusal

if TYPE_CHECKING:
    from ipfvision.nn.network import Model
    from ipfvision.nn.runtime import Runtime

DEFAULT_MODEL = Path(__file__).parents[2] / "models" / "ipf_resnet50.safetensors"

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "gradcam": "Grad-CAM",
        "gradcam++": "Grad-CAM++",
        "hirescam": "HiResCAM",
        "layercam": "LayerCAM",
        "eigencam": "EigenCAM (one map for both classes)",
    }
)
"""Names of the explanation methods, with the words to show for each. Here, so that naming them does not import torch."""

SHORTCUT_ODDS = 3.0
"""When marks go, the calibrated odds of IPF may change by this factor before the answer is flagged: as from a probability of
0.50 to 0.75."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One slice, read."""

    scan: Slice
    prediction: Prediction
    explanations: Mapping[str, Explanation]
    """By target ("ipf", "normal"); empty if the slice was refused."""
    model_input: npt.NDArray[np.float32] | None
    """(rows, columns) in [0, 1]: the grey image that the model saw; None if the slice was refused."""
    lungs: Lungs
    evidence: SignedEvidence | None = None
    """What the margin is made of; None if the slice was refused."""
    marks: tuple[Mark, ...] = ()
    """What was drawn on the picture before it came here."""
    filled: Slice | None = None
    """What the model read in place of `scan`: the same slice with the marks filled in; None where there were none."""
    with_marks: Prediction | None = None
    """What the answer would be with the marks left in; None if the model sees none of them, or the slice was refused."""
    shortcut: str | None = None
    """One sentence if the marks change the answer; else None."""
    gate_distance: float | None = None
    """From the training pictures, as the model's gate measures it; None if it has no gate, or no lungs were found."""
    unlike: str | None = None
    """One sentence if the answer is for a picture unlike the training pictures; else None."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the reader: the slice's own, that marks were filled in, and that it is unlike the training pictures."""
        own = self.scan.warnings if self.filled is None else self.filled.warnings
        return own if self.unlike is None else (*own, self.unlike)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One slice, made ready for the network. The images and the crop are None if no lungs were found."""

    scan: Slice
    lungs: Lungs
    marks: tuple[Mark, ...]
    filled: Slice | None
    image: npt.NDArray[np.float32] | None = None
    """(rows, columns) in [0, 1]: the model's input."""
    marked: npt.NDArray[np.float32] | None = None
    """The same with the marks left in; None if the model sees none of them."""
    crop: Crop | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One slice, seen by the model, before any decision or map. What the network says is None if no lungs were found."""

    prepared: Prepared
    features: Any = None
    """(1, 2048, h, w): layer4's output, for `ipfvision.nn` alone."""
    pooled: npt.NDArray[np.float32] | None = None
    """(2048,): its mean over all cells, which the last layer weighs."""
    margin: float | None = None
    """z_IPF - z_normal in logits."""
    margin_with_marks: float | None = None
    """The same with the marks left in; None if the model sees none of them."""
    gate_distance: float | None = None
    """As in `Reading`."""


class Reader:
    """A loaded model. Safe to share between threads: they take turns (`ipfvision.nn.turns`).

    One slice at a time is made ready, on one core; one at a time goes through the network, on all of them.
    """

    def __init__(self, model: "Model", runtime: "Runtime | None" = None) -> None:
        """Without a runtime, the model's own torch network computes."""
        self._model = model
        self._runtime = runtime
        self._preparing = Turns()
        self._computing = Turns()
        self._batch = 1 if runtime is None else runtime.batch

    @property
    def card(self) -> ModelCard:
        return self._model.card

    @property
    def model(self) -> "Model":
        """The model itself, for the other use cases of this layer. It is shared: nobody changes it or hooks it."""
        return self._model

    @property
    def computed_by(self) -> str:
        """What computes the network, with its version; for people."""
        return "torch" if self._runtime is None else self._runtime.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what computes the network here: why reading is slower than it need be."""
        return () if self._runtime is None else self._runtime.notes

    @classmethod
    def open(cls, weights: Path = DEFAULT_MODEL) -> "Reader":
        """Load a checkpoint and its card, and make it ready to run; raises ModelUnusable with a sentence.

        torch is imported here and not before: it takes seconds. The first start of a model takes some seconds more
        (`ipfvision.nn.runtime`).
        """
        from ipfvision.nn.network import load  # noqa: PLC0415
        from ipfvision.nn.runtime import prepare  # noqa: PLC0415

        model = load(weights)
        return cls(model, prepare(model))

    def prepare(self, scan: Slice, *, urgent: bool = False) -> Prepared:
        """Marks, fill, lungs and crop of one slice: all that needs no network, and may be done before its turn comes.

        Parameters
        ----------
        urgent
            As in `read`.
        """
        from ipfvision.nn.preprocess import prepare  # noqa: PLC0415

        # Beside a pass on a GPU all cores are free; otherwise they are the network's, but for one.
        with self._preparing.turn(urgent=urgent) if self._batch == 1 else nullcontext():
            lungs, marks, filled = without_marks(scan)
            if lungs.problem is not None:
                return Prepared(scan, lungs, marks, filled)
            card, marked = self.card, None
            image, crop = prepare(grey(filled or scan, card.window), lungs, card.input_shape, card.crop_margin)
            if marks:
                # The same crop, so that the marks are the only difference.
                marked, _ = prepare(grey(scan, card.window), lungs, card.input_shape, card.crop_margin)
                marked = marked if (marked != image).any() else None
            return Prepared(scan, lungs, marks, filled, image, marked, crop)

    def see(self, given: Slice | Prepared) -> Seen:
        """What the model sees of a slice and what it makes of that: marks, fill, lungs, crop, one pass.

        Reading, measuring and shipping all come through here, so that a card cannot describe another path than the page's.
        """
        prepared = given if isinstance(given, Prepared) else self.prepare(given)
        with self._turn_for([prepared]):
            return self._see_all([prepared])[0]

    def _see_all(self, given: Sequence[Prepared]) -> list[Seen]:
        """As many images in one pass as the runtime takes; the caller has the turn."""
        from ipfvision.nn.classify import pooled, run  # noqa: PLC0415
        from ipfvision.nn.network import to_tensor  # noqa: PLC0415

        images = [image for prepared in given for image in (prepared.image, prepared.marked) if image is not None]
        passed: deque[tuple[Any, float]] = deque()
        for group in in_groups(images, self._batch):
            features, logits = run(self._model, to_tensor(np.stack(group), self.card), self._runtime)
            margins = (logits[:, 0] - logits[:, 1]).tolist()
            passed.extend((features[place : place + 1], margin) for place, margin in enumerate(margins))

        def seen(prepared: Prepared) -> Seen:
            if prepared.image is None:
                return Seen(prepared)
            features, margin = passed.popleft()
            with_marks = None if prepared.marked is None else passed.popleft()[1]
            means, gate = pooled(features), self._model.gate
            distance = None if gate is None else float(gate.distance(means)[0])
            return Seen(prepared, features, means[0], margin, with_marks, distance)

        return [seen(prepared) for prepared in given]

    def answer(self, seen: Seen) -> Prediction:
        """The answer for what was seen, a refusal included: of the page and of every measurement alike."""
        from ipfvision.nn.classify import decide  # noqa: PLC0415

        if seen.margin is None:
            return Prediction(Decision.REFUSED, str(seen.prepared.lungs.problem))
        gate = self._model.gate
        if gate is not None and seen.gate_distance is not None:
            reason = refusal(gate, seen.gate_distance, self.card)
            if reason is not None:
                return Prediction(Decision.REFUSED, reason)
        return decide(seen.margin, self.card)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn at all cores: for what computes with the network, or with a copy of it, on ways of its own."""
        from ipfvision.nn.runtime import torch_threads  # noqa: PLC0415

        with self._computing.turn(), nullcontext() if self._runtime is None else torch_threads(self._runtime.threads):
            yield

    @contextmanager
    def _turn_for(self, given: Sequence[Prepared], *, urgent: bool = False) -> Iterator[None]:
        """Wait for a turn at the runtime; beside it, one thread computes. Where there is nothing to compute, do not wait."""
        from ipfvision.nn.runtime import torch_threads  # noqa: PLC0415

        if all(prepared.image is None for prepared in given):
            yield
            return
        with self._computing.turn(urgent=urgent), nullcontext() if self._runtime is None else torch_threads(1):
            yield

    def read(self, scan: Slice, method: str = "gradcam", *, urgent: bool = False) -> Reading:
        """Answer and maps for both targets of one slice.

        A slice on which no lungs are found, or that the model's gate refuses, gets a refusal with the reason, and no maps.

        Parameters
        ----------
        urgent
            Somebody looks at this slice and waits: it comes before the series that others, or the same reader, have read.

        Raises
        ------
        ValueError
            If the method is not one of `METHODS`.
        """
        _check_method(method)
        prepared = self.prepare(scan, urgent=urgent)
        with self._turn_for([prepared], urgent=urgent):
            return self._finish(self._see_all([prepared])[0], method)

    def read_all(
        self, slices: Iterable[Slice], method: str = "gradcam", cancelled: threading.Event | None = None
    ) -> Generator[Reading, None, None]:
        """One reading at a time, in order. Only one slice is made ready beforehand, so that memory does not grow.

        On a GPU it is a batch: as many go through the network in one pass, and as many are made ready meanwhile.

        Parameters
        ----------
        slices
            May decode them one by one: that is done beforehand, too.
        cancelled
            Once it is set, the network computes nothing more. To stop iterating does the same.
        """
        _check_method(method)
        with closing(ahead(self.prepare, slices, cancelled, self._batch)) as ready:
            for group in in_groups(ready, self._batch):
                with self._turn_for(group):
                    if cancelled is not None and cancelled.is_set():
                        return
                    readings = deque(self._finish(seen, method) for seen in self._see_all(group))
                while readings:  # nobody holds what was handed out
                    yield readings.popleft()

    def _finish(self, seen: Seen, method: str) -> Reading:
        """The network's part of a reading."""
        from ipfvision.nn.classify import decide  # noqa: PLC0415
        from ipfvision.nn.explain import explain, signed_evidence  # noqa: PLC0415

        prepared = seen.prepared
        scan, lungs, marks, filled = prepared.scan, prepared.lungs, prepared.marks, prepared.filled
        prediction = self.answer(seen)
        distance, gate = seen.gate_distance, self._model.gate
        if prediction.decision is Decision.REFUSED or prepared.image is None or prepared.crop is None:
            return Reading(scan, prediction, {}, None, lungs, marks=marks, filled=filled, gate_distance=distance)
        crop, features, card = prepared.crop, seen.features, self.card
        with_marks = None if seen.margin_with_marks is None else decide(seen.margin_with_marks, card)
        return Reading(
            scan=scan,
            prediction=prediction,
            explanations=explain(self._model, features, crop, method),
            model_input=prepared.image,
            lungs=lungs,
            evidence=signed_evidence(self._model, features, crop),
            marks=marks,
            filled=filled,
            with_marks=with_marks,
            shortcut=None if with_marks is None else _shortcut(prediction, with_marks, card),
            gate_distance=distance,
            unlike=None if gate is None or distance is None else note(gate, distance),
        )


def without_marks(scan: Slice) -> tuple[Lungs, tuple[Mark, ...], Slice | None]:
    """The lungs as the model is to see them, the marks that were drawn on a slice, and the slice with these filled in.

    The last is None if there are no marks.
    """
    lungs = find_lungs(scan)
    marks = find_marks(scan, lungs)
    if not marks:
        return lungs, marks, None
    filled = fill_in(scan, np.logical_or.reduce([mark.pixels for mark in marks]))
    return find_lungs(filled), marks, filled


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"no explanation method {method}; there are {', '.join(METHODS)}")


def _shortcut(without: Prediction, with_marks: Prediction, card: ModelCard) -> str | None:
    """One sentence if the answer rests on the marks."""
    if without.margin is None or with_marks.margin is None:
        return None
    shares = f"(probability of IPF {with_marks.probability:.2f} with them, {without.probability:.2f} without)"
    if without.decision is not with_marks.decision:
        return (
            f"The answer is {without.decision.value} without the marks drawn on the picture, and {with_marks.decision.value} "
            f"with them {shares}: the model takes the marks, or what they hide, for evidence."
        )
    if abs(without.margin - with_marks.margin) / card.temperature > math.log(SHORTCUT_ODDS):
        return f"The marks drawn on the picture change the odds of IPF by more than {SHORTCUT_ODDS:.0f} times {shares}."
    return None


def full_scale(card: ModelCard, explanation: Explanation) -> float:
    """Map value to draw in full color: the card's, or the map's own peak for a method that is not in logits."""
    if explanation.unit == "logits" or explanation.peak == 0:
        return card.map_reference
    return explanation.peak


def picture(
    card: ModelCard,
    reading: Reading,
    target: str = "ipf",
    *,
    window: Window = LUNG,
    opacity: float = 0.6,
    threshold: float = 0.1,
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8: the slice in the reader's window, with the map for `target` over it if there is one."""
    shown = display_grey(reading.scan, window)
    explanation = reading.explanations.get(target)
    if explanation is None:
        return np.repeat(shown[:, :, None], 3, axis=2)
    return overlay(shown, explanation.heatmap(), full_scale(card, explanation), opacity, threshold)


def picture_png(card: ModelCard, reading: Reading, target: str = "ipf") -> bytes:
    """`picture` in the lung window, as a PNG file."""
    return write_png(picture(card, reading, target))


def _file_stem(number: int, reading: Reading, target: str) -> str:
    method = reading.explanations[target].method if target in reading.explanations else "refused"
    return f"{number:04d}_{reading.scan.source.pixel_sha256[:12]}_{target}_{method}"


def overlay_name(number: int, reading: Reading, target: str) -> str:
    """File name for an overlay: a number and the pixels' hash; never the input's own name, which may name a patient."""
    return _file_stem(number, reading, target) + ".png"


def map_name(number: int, reading: Reading, target: str) -> str:
    """File name for a heat map, like `overlay_name`."""
    return _file_stem(number, reading, target) + ".npy"


def write_map(path: Path, explanation: Explanation) -> None:
    """Write a heat map on the slice's own pixels, (H, W) float32 in the map's unit, as .npy."""
    np.save(path, explanation.heatmap(), allow_pickle=False)


def _slice_result(reading: Reading, target: str) -> dict[str, Any]:
    scan, prediction = reading.scan, reading.prediction
    explanation = reading.explanations.get(target)
    share = prediction.probability
    source = scan.source
    found: dict[str, Any] | None = None
    if explanation is not None:
        cell = explanation.cell_mm(scan.spacing)
        peak_xy = explanation.peak_xy()
        found = {
            "method": explanation.method,
            "target": explanation.target,
            "layer": explanation.layer,
            "unit": explanation.unit,
            "peak": explanation.peak,
            "peak_xy": None if peak_xy is None else list(peak_xy),
            "cell_mm": None if cell is None else round(max(cell), 2),
        }
    return {
        "file": source.file,
        "frame": source.frame,
        "scale": scan.scale.value,
        "probability": None if share is None else {"ipf": share, "normal": 1 - share},
        "margin": prediction.margin,
        "decision": prediction.decision.value,
        "reason": prediction.reason,
        "gate_distance": reading.gate_distance,
        "warnings": list(reading.warnings),
        "explanation": found,
        "marks": [_mark_result(mark) for mark in reading.marks],
        "with_marks": None if reading.with_marks is None else _answer_result(reading.with_marks),
        "shortcut": reading.shortcut,
        "source": {
            "pixel_sha256": source.pixel_sha256,
            "sop_instance_uid": source.sop_instance_uid,
            "series_instance_uid": source.series_instance_uid,
            "position_mm": None if scan.plane is None else round(scan.plane.distance_mm(), 3),
            "thickness_mm": scan.thickness_mm,
        },
    }


def _mark_result(mark: Mark) -> dict[str, Any]:
    x, y = mark.place
    return {"kind": mark.kind.value, "x": x, "y": y, "bounds": list(mark.bounds)}


def _answer_result(prediction: Prediction) -> dict[str, Any]:
    share = prediction.probability
    return {
        "probability": None if share is None else {"ipf": share, "normal": 1 - share},
        "decision": prediction.decision.value,
        "margin": prediction.margin,
    }


def _refusal_result(refused: Refusal) -> dict[str, Any]:
    nothing = dict.fromkeys(("frame", "scale", "probability", "margin"))
    return {
        "file": refused.file,
        **nothing,
        "decision": Decision.REFUSED.value,
        "reason": refused.reason,
        "gate_distance": None,
        "warnings": [],
        "explanation": None,
        "marks": [],
        "with_marks": None,
        "shortcut": None,
        "source": None,
    }


def result(
    card: ModelCard, readings: Iterable[Reading], target: str = "ipf", refusals: Iterable[Refusal] = ()
) -> dict[str, Any]:
    """The JSON of one run: the model that answered, one object per slice, and one per file that was refused.

    `probability` is calibrated and of IPF against normal; it is null where the slice was refused. `gate_distance` is that from
    the training pictures, and the model's `gate` says beyond which distance an answer is noted or refused; both are null
    without a gate. `explanation` is of `target`; `peak_xy` is the (column, row) of its largest value, `cell_mm` the longer side
    of one cell of the map. The answer is without the `marks` that were drawn on the picture, `with_marks` is the answer with
    them; a mark's `x` and `y` are what it points at (continuous slice coordinates), its `bounds` are left, top, width and
    height in pixels.
    """
    return {
        "model": {
            "name": card.name,
            "sha256": card.sha256,
            "status": card.status,
            "window": {"center": card.window.center, "width": card.window.width},
            "temperature": card.temperature,
            "operating_point": card.operating_point,
            "uncertain_band": list(card.uncertain_band),
            "gate": card.details.get("gate"),
        },
        "slices": [
            *(_slice_result(reading, target) for reading in readings),
            *(_refusal_result(refused) for refused in refusals),
        ],
    }
