"""Is a heat map to be trusted: what each check found, and the array arithmetic that the checks need.

Maps are compared on their own grid of cells: brought to pixels, two sparse maps would be alike in all that is empty in both,
and a window of eleven pixels would see less than one cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Grid: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

ALIKE = 0.5
"""Structural similarity halfway between unrelated (0) and the same (1): below it two maps do not show the same."""
LEVEL = 0.05
"""Chance at which random parts of the lung would do what the annotated area did, from which that is not taken for luck."""
NOISE = 0.01
"""Standard deviation of the noise on imputed grey values (Rong et al. 2022): 15 HU in the lung window, a CT's own noise."""
UNSOLVED = 1e-5
"""Largest difference, in grey, between an imputed value and the mean of its neighbors at which the solution is taken: within
1e-3 of the exact one, a tenth of the noise."""
LEAST_PIECE = 64
"""Pixels that a piece of a region keeps when it is cut to find room for it elsewhere: crumbs would be imputed from what lies
between them."""

_NEIGHBORS = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], np.float64) / 12
"""Rong et al. 2022: direct neighbors 1/6, diagonal ones 1/12."""


class Verdict(Enum):
    """What a check says in one word."""

    PASSED = "passed"
    FAILED = "failed"
    UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True)
class Undefined:
    """A check that could not be made."""

    sentence: str
    """Why, for a clinician."""
    verdict: ClassVar[Verdict] = Verdict.UNDEFINED


@dataclass(frozen=True, slots=True)
class Randomization:
    """Does the map depend on what the network learned? Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.

    A random network's map has no scale and no zero, so every map is replaced by the ranks of its cells before two are compared.
    """

    layers: tuple[str, ...]
    """In the order in which they were made random, each on top of those before: from the answer down to the image."""
    similarities: tuple[float | None, ...]
    """Structural similarity to the original map after each of them; None where the map became empty."""
    finals: tuple[float, ...]
    """Similarity of the original map to each of several networks that are random throughout."""
    references: tuple[float, ...]
    """Similarity of each two of these random networks' maps."""

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.similarities) or not self.finals or not self.references:
            raise ValueError("randomization needs a similarity for each layer, and random networks to compare with")

    @property
    def similarity(self) -> float:
        """Mean similarity of the original map to maps of random networks."""
        return float(np.mean(self.finals))

    @property
    def reference(self) -> float:
        """How alike two random networks' maps can be: the largest of `references`."""
        return max(self.references)

    @property
    def verdict(self) -> Verdict:
        """Passed if within the reference. A map that ignores the weights has a reference of 1, so it must be below 0.5 too."""
        return Verdict.PASSED if self.similarity <= min(self.reference, ALIKE) else Verdict.FAILED

    @property
    def sentence(self) -> str:
        figures = f"similarity {self.similarity:.2f}; two random networks reach {self.reference:.2f}"
        if self.verdict is Verdict.PASSED:
            return f"The map changes when the network's weights are randomized ({figures})."
        return (
            f"The map changes too little when the network's weights are randomized, so it shows more of the image ({figures})."
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """What is left of the answer as more and more of the image is imputed."""

    margins: tuple[float, ...]
    """In favor of the map's class, in logits; one per percentage, the first for the whole image."""
    probabilities: tuple[float, ...]
    """Calibrated probability of the map's class."""

    def area(self, percents: Sequence[int]) -> float:
        """Mean margin over the percentages, by the trapezoidal rule, in logits."""
        return float(np.trapezoid(self.margins, percents) / (percents[-1] - percents[0]))


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Does the answer rest on what the map marks? ROAD: Rong et al., ICML 2022, with noisy linear imputation."""

    percents: tuple[int, ...]
    """Of the model's input, removed; begins with 0."""
    most_first: Curve
    least_first: Curve
    random: tuple[Curve, ...]
    """Random orders of the map's cells, brought to pixels as the map is: single pixels in random order remove next to nothing,
    since their neighbors tell what they were."""

    def __post_init__(self) -> None:
        if self.percents[0] != 0 or list(self.percents) != sorted(set(self.percents)) or not self.random:
            raise ValueError("the percentages rise from 0, and there is a random order to compare with")
        if any(len(curve.margins) != len(self.percents) for curve in (self.most_first, self.least_first, *self.random)):
            raise ValueError("a curve has one margin per percentage")

    @property
    def most_first_area(self) -> float:
        return self.most_first.area(self.percents)

    @property
    def least_first_area(self) -> float:
        return self.least_first.area(self.percents)

    @property
    def random_areas(self) -> tuple[float, ...]:
        return tuple(curve.area(self.percents) for curve in self.random)

    @property
    def verdict(self) -> Verdict:
        """Passed if every random order lies between the two."""
        areas = self.random_areas
        passed = self.most_first_area < min(areas) and self.least_first_area > max(areas)
        return Verdict.PASSED if passed else Verdict.FAILED

    @property
    def sentence(self) -> str:
        areas = self.random_areas
        sooner, later = self.most_first_area < min(areas), self.least_first_area > max(areas)
        figures = (
            f"mean margin {self.most_first_area:.2f} with the marked part removed first, {self.least_first_area:.2f} with it "
            f"removed last, {min(areas):.2f} to {max(areas):.2f} in random order"
        )
        if sooner and later:
            return f"The answer rests on what the map marks ({figures})."
        if sooner:
            return f"The answer falls when what the map marks is removed, but also when the rest is ({figures})."
        if later:
            return f"What the map leaves out matters little, but what it marks matters no more than chance ({figures})."
        return f"The answer rests on what the map marks no more than on random parts ({figures})."


@dataclass(frozen=True, slots=True)
class Occlusion:
    """Does the answer rest on what the reader marked? The annotated area is filled in from its surroundings."""

    change: float
    """Of the margin in favor of the class when the annotation is filled in, in logits; negative where it was evidence."""
    random_changes: tuple[float, ...] = ()
    """The same for random parts of the lung of the same area and shape that do not overlap the annotation."""
    reason: str | None = None
    """Why there is nothing to compare with; None if there is."""

    def __post_init__(self) -> None:
        if (self.reason is None) != bool(self.random_changes):
            raise ValueError("an occlusion has random parts to compare with, or a reason why not")

    @property
    def rank(self) -> float | None:
        """Share of random parts whose removal takes less of the margin than the annotation's, ties half; None without any."""
        if not self.random_changes:
            return None
        changes = np.array(self.random_changes)
        return float(((changes > self.change) + 0.5 * (changes == self.change)).mean())

    @property
    def chance(self) -> float | None:
        """One-sided permutation p: (1 + random parts that take at least as much) / (1 + random parts); None without any."""
        if not self.random_changes:
            return None
        return (1 + int((np.array(self.random_changes) <= self.change).sum())) / (1 + len(self.random_changes))

    @property
    def verdict(self) -> Verdict:
        if self.chance is None:
            return Verdict.UNDEFINED
        return Verdict.PASSED if self.change < 0 and self.chance <= LEVEL else Verdict.FAILED

    @property
    def sentence(self) -> str:
        filled = f"Filling in the annotated area changes the margin by {self.change:+.2f} logits"
        if self.reason is not None:
            return f"{filled}; {self.reason}"
        count = len(self.random_changes)
        less = sum(other > self.change for other in self.random_changes)
        mean = float(np.mean(self.random_changes))
        if self.verdict is Verdict.PASSED:
            return (
                f"{filled}, further down than {less} of {count} random parts of the lung of the same size (mean {mean:+.2f})."
            )
        return (
            f"{filled}, further down than only {less} of {count} random parts of the lung of the same size (mean {mean:+.2f}): "
            "the answer does not rest on the annotated area in particular."
        )


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same slice, changed in a way that should not matter, and read again from the start."""

    change: str
    """In words: "mirrored", "moved by one pixel", ..."""
    similarity: float | None
    """Structural similarity of the map, brought back, to the original; None if there was no answer."""
    margin_change: float | None
    """In favor of the map's class, in logits; None if there was no answer."""
    same_decision: bool

    def __post_init__(self) -> None:
        if (self.similarity is None) != (self.margin_change is None):
            raise ValueError("a reading that was refused has no numbers, and another has both")


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Is the map the same when the slice is read again, changed in a way that should not matter?"""

    repeats: tuple[Repeat, ...]

    def __post_init__(self) -> None:
        if not self.repeats:
            raise ValueError("repeatability needs a repeat")

    @property
    def least(self) -> Repeat:
        """The repeat that is least like the original."""
        return min(self.repeats, key=lambda one: -1.0 if one.similarity is None else one.similarity)

    @property
    def verdict(self) -> Verdict:
        """Passed if no repeat changes the decision, and each map is more like the original than not."""
        least = self.least.similarity
        passed = least is not None and least >= ALIKE and all(one.same_decision for one in self.repeats)
        return Verdict.PASSED if passed else Verdict.FAILED

    @property
    def sentence(self) -> str:
        least = self.least
        changed = [one.change for one in self.repeats if not one.same_decision]
        if least.similarity is None:
            return f"Read again, the slice was refused when {least.change}."
        figures = f"lowest similarity {least.similarity:.2f}, when {least.change}"
        if changed:
            return f"Read again, the answer changes when the slice is {' or '.join(changed)} ({figures})."
        if self.verdict is Verdict.PASSED:
            return f"The map stays when the slice is {', '.join(one.change for one in self.repeats)} ({figures})."
        return f"The answer stays when the slice is read again, but the map does not ({figures})."


@dataclass(frozen=True, slots=True)
class Trust:
    """All checks of one map."""

    target: str
    method: str
    randomization: Randomization | Undefined
    faithfulness: Faithfulness | Undefined
    occlusion: Occlusion | Undefined
    repeatability: Repeatability | Undefined


def structural_similarity(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating], full_range: float) -> float | None:
    """Mean structural similarity (Wang et al., IEEE Trans Image Process 2004, equation 13).

    Gaussian window of standard deviation 1.5 cut at 11 x 11, K1 = 0.01, K2 = 0.03, mirrored at the border and averaged over all
    of the grid, since a map of cells has hardly anything but border.

    Parameters
    ----------
    first, second
        (h, w), the same shape.
    full_range
        L of the paper: the span of values, in the maps' unit.

    Returns
    -------
    In [-1, 1]; None without a span (two empty maps are not alike).
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"two maps of one shape are compared, not {first.shape} and {second.shape}")
    if full_range <= 0:
        return None

    def mean(values: Grid) -> Grid:
        return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT), np.float64)

    x, y = first.astype(np.float64) / full_range, second.astype(np.float64) / full_range
    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    return float(similarity.mean())


def ranks(values: npt.NDArray[np.floating]) -> Grid:
    """Each value's rank among all, from above 0 to below 1; equal values get their mean rank."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray(((ends - counts / 2) / values.size)[which].reshape(values.shape), np.float64)


def removal_order(relevance: npt.NDArray[np.floating], ties: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Indices into the flattened map, most relevant first; equals stay in the order `ties`, a permutation of all indices.

    A threshold at a percentile takes *all* of the ties with it: in a sparse map, nine tenths of the image for any percentage
    beyond the lit one.
    """
    return np.asarray(ties[np.argsort(-relevance.ravel()[ties], kind="stable")], np.intp)


def first_of(order: npt.NDArray[np.intp], percent: float, shape: tuple[int, int]) -> Mask:
    """(H, W) mask of exactly the first `percent` of the pixels in an order, rounded to a whole pixel."""
    mask = np.zeros(order.size, np.bool_)
    mask[order[: round(order.size * percent / 100)]] = True
    return mask.reshape(shape)


def impute(
    image: npt.NDArray[np.float32], missing: Mask, random: np.random.Generator, noise: float = NOISE
) -> npt.NDArray[np.float32]:
    """Noisy linear imputation (Rong et al., ICML 2022): each missing pixel is its neighbors' weighted mean, plus noise.

    The weights are symmetric, so the linear system is solved by conjugate gradients, with OpenCV's filter for the matrix: a
    tenth of a second where a sparse factorization takes half a second.

    Parameters
    ----------
    image
        (H, W) float32 in [0, 1].
    noise
        Standard deviation, in grey; 0 for the plain solution.

    Returns
    -------
    (H, W) float32 in [0, 1]; what is not missing is as it was.
    """
    if missing.shape != image.shape:
        raise ValueError(f"the image is {image.shape}, what is missing {missing.shape}")
    if missing.all():
        raise ValueError("nothing is left to impute from")
    if not missing.any():
        return image.copy()

    def neighbors(values: Grid) -> Grid:
        return np.asarray(cv2.filter2D(values, -1, _NEIGHBORS, borderType=cv2.BORDER_CONSTANT), np.float64)

    weight = neighbors(np.ones(image.shape))  # less than 1 at the border, where some neighbors are not there
    values = np.where(missing, float(image[~missing].mean()), image.astype(np.float64))
    rest = np.where(missing, neighbors(values) - weight * values, 0)
    scaled = rest / weight
    direction, size = scaled, float((rest * scaled).sum())
    for _ in range(image.size):
        if float(np.abs(rest).max()) <= UNSOLVED:
            break
        changed = np.where(missing, weight * direction - neighbors(direction), 0)
        step = size / float((direction * changed).sum())
        values += step * direction
        rest -= step * changed
        scaled = rest / weight
        before, size = size, float((rest * scaled).sum())
        direction = scaled + size / before * direction
    values[missing] += noise * random.standard_normal(int(missing.sum()))
    return np.where(missing, np.clip(values, 0, 1), image).astype(np.float32)


def random_part(mask: Mask, room: Mask, random: np.random.Generator) -> Mask | None:
    """A random place for a region: the same area and shape, elsewhere.

    Each 8-connected piece is placed on its own, turned by a random multiple of 90 degrees or mirrored, wholly inside the room
    and beside the other pieces. A piece that fits nowhere, such as a long rim of the pleura, is cut across its long side into
    halves, these perhaps again.

    Parameters
    ----------
    mask
        (H, W) the region.
    room
        (H, W) where its parts may lie.

    Returns
    -------
    (H, W) with as many pixels as `mask`, inside `room`; None if there was no room in this try.
    """
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    pieces = [np.argwhere(labels == label) for label in range(1, count)]
    free, placed = room.copy(), np.zeros_like(mask)
    while pieces:
        pieces.sort(key=len)  # the largest first, while there is room
        piece = pieces.pop()
        spot = _spot(piece, free, random)
        if spot is not None:
            placed[spot[:, 0], spot[:, 1]] = True
            free[spot[:, 0], spot[:, 1]] = False
        elif len(piece) < 2 * LEAST_PIECE:
            return None
        else:
            pieces.extend(_halves(piece))
    return placed


def _spot(piece: npt.NDArray[np.intp], free: Mask, random: np.random.Generator) -> npt.NDArray[np.intp] | None:
    """(N, 2) rows and columns where the piece fits, in the first of eight random orientations in which it fits anywhere."""
    for turn in random.permutation(8):
        kernel = np.zeros(np.ptp(piece, axis=0) + 1, np.float32)
        kernel[tuple((piece - piece.min(axis=0)).T)] = 1
        kernel = np.ascontiguousarray(np.rot90(kernel if turn < 4 else kernel[::-1], int(turn) % 4))
        if kernel.shape[0] > free.shape[0] or kernel.shape[1] > free.shape[1]:
            continue
        fit = cv2.matchTemplate(free.astype(np.float32), kernel, cv2.TM_CCORR)  # how much of the piece is in the room, by place
        corners = np.argwhere(np.asarray(fit) > len(piece) - 0.5)
        if len(corners):
            return np.asarray(np.argwhere(kernel > 0) + corners[random.integers(len(corners))], np.intp)
    return None


def _halves(piece: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    """Cut across the long axis, in two parts of as many pixels."""
    centered = piece - piece.mean(axis=0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    order = np.argsort(centered @ axes[:, -1], kind="stable")
    return [piece[order[: len(piece) // 2]], piece[order[len(piece) // 2 :]]]
