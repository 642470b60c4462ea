"""What happens to a slice on its way to a picture file: marks, text, fields of view, JPEG, wrong windows, blur, noise.

Applied to both classes alike, so that none of it says anything about the lungs. Geometry is left to the caller.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.synthetic.field import Image

Canvas = npt.NDArray[np.uint8]
Disturbance = Callable[[Image, np.random.Generator], Image]

UNTOUCHED = 0.25
"""Share of pictures that stay as they are."""
LETTERS = "ABCDEFGHIJKLMNOPRSTUVWXYZ0123456789:.-/ "


def arrows(canvas: Canvas, rng: np.random.Generator) -> None:
    """Arrows and arrowheads, white or black."""
    height, width = canvas.shape
    for _ in range(int(rng.integers(1, 5))):
        angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.02, 0.12) * width
        tip = (int(rng.uniform(0.05, 0.95) * width), int(rng.uniform(0.05, 0.95) * height))
        tail = (int(tip[0] + length * math.cos(angle)), int(tip[1] + length * math.sin(angle)))
        color = _shade(rng.choice([0.0, 1.0, rng.uniform(0.6, 1)]))
        if rng.random() < 0.4:
            side = 0.4 * length
            corners = [
                tip,
                (int(tail[0] - side * math.sin(angle)), int(tail[1] + side * math.cos(angle))),
                (int(tail[0] + side * math.sin(angle)), int(tail[1] - side * math.cos(angle))),
            ]
            cv2.fillConvexPoly(canvas, np.array(corners, np.int32), color, cv2.LINE_AA)
        else:
            thick = int(rng.integers(1, max(2, width // 150) + 1))
            cv2.arrowedLine(canvas, tail, tip, color, thick, cv2.LINE_AA, tipLength=rng.uniform(0.2, 0.5))


def circles(canvas: Canvas, rng: np.random.Generator) -> None:
    """Circles, ellipses and boxes around something or nothing."""
    height, width = canvas.shape
    for _ in range(int(rng.integers(1, 4))):
        middle = (int(rng.uniform(0.1, 0.9) * width), int(rng.uniform(0.1, 0.9) * height))
        axes = (int(rng.uniform(0.02, 0.15) * width), int(rng.uniform(0.02, 0.15) * height))
        color, thick = _shade(rng.choice([0.0, 1.0, 0.8])), int(rng.integers(1, max(2, width // 200) + 1))
        if rng.random() < 0.3:
            corner = (middle[0] + axes[0], middle[1] + axes[1])
            cv2.rectangle(canvas, middle, corner, color, thick, cv2.LINE_AA)
        else:
            cv2.ellipse(canvas, middle, axes, rng.uniform(0, 180), 0, 360, color, thick, cv2.LINE_AA)


def text(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lines of letters, mostly near the border, as scanners and teaching files burn them in."""
    height, width = canvas.shape
    for _ in range(int(rng.integers(1, 7))):
        words = "".join(rng.choice(list(LETTERS), int(rng.integers(1, 22))))
        size = rng.uniform(0.0006, 0.002) * width
        if rng.random() < 0.8:
            x = int(rng.choice([rng.uniform(0, 0.06), rng.uniform(0.6, 0.9)]) * width)
            y = int(rng.choice([rng.uniform(0.02, 0.15), rng.uniform(0.85, 0.99)]) * height)
        else:
            x, y = int(rng.uniform(0, 0.9) * width), int(rng.uniform(0.05, 0.98) * height)
        color = _shade(rng.choice([1.0, rng.uniform(0.5, 1), 0.0]))
        if rng.random() < 0.15:
            (wide, high), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
            cv2.rectangle(canvas, (x - 2, y - high - 2), (x + wide + 2, y + 3), (255 - color[0],), -1)
        cv2.putText(canvas, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def ruler(canvas: Canvas, rng: np.random.Generator) -> None:
    """A scale with ticks along one border."""
    height, width = canvas.shape
    upright = rng.random() < 0.6
    long, short = (height, width) if upright else (width, height)
    at = int(short * rng.choice([rng.uniform(0.01, 0.06), rng.uniform(0.94, 0.99)]))
    begin, end = int(long * rng.uniform(0.1, 0.4)), int(long * rng.uniform(0.6, 0.9))
    ticks = int(rng.integers(4, 22))
    shade = _shade(rng.uniform(0.6, 1))
    sign = 1 if at < short / 2 else -1
    for k in range(ticks + 1):
        place = begin + (end - begin) * k // ticks
        tick = sign * int(0.01 * short * (2 if k % 5 == 0 else 1) + 1)
        a, b = (at, place), (at + tick, place)
        cv2.line(canvas, a if upright else a[::-1], b if upright else b[::-1], shade, 1)
    a, b = (at, begin), (at, end)
    cv2.line(canvas, a if upright else a[::-1], b if upright else b[::-1], shade, 1)


def _shade(grey: float) -> tuple[int]:
    return (round(255 * grey),)


def _burned(mark: Callable[[Canvas, np.random.Generator], None]) -> Disturbance:
    """Burn a mark into a picture; the rest of it keeps its exact values."""

    def burn(grey: Image, rng: np.random.Generator) -> Image:
        before = np.round(np.clip(grey, 0, 1) * 255).astype(np.uint8)
        canvas = before.copy()
        mark(canvas, rng)
        return np.where(canvas != before, canvas.astype(np.float32) / np.float32(255), grey)

    return burn


def field_of_view(grey: Image, rng: np.random.Generator) -> Image:
    """Black, grey or white outside a circle or a frame."""
    height, width = grey.shape
    keep = np.zeros(grey.shape, np.uint8)
    if rng.random() < 0.75:
        radius = int(rng.uniform(0.47, 0.62) * max(height, width))
        middle = (int(width * rng.uniform(0.47, 0.53)), int(height * rng.uniform(0.47, 0.53)))
        cv2.circle(keep, middle, radius, (1,), -1)
    else:
        near, far = rng.uniform(0, 0.04, 2), 1 - rng.uniform(0, 0.04, 2)
        keep[int(near[0] * height) : int(far[0] * height), int(near[1] * width) : int(far[1] * width)] = 1
    outside = float(rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 0.5), 1.0]))
    return np.where(keep > 0, grey, np.float32(outside)).astype(np.float32)


def jpeg(grey: Image, rng: np.random.Generator) -> Image:
    """Through JPEG, sometimes at a lower resolution before."""
    height, width = grey.shape
    small = grey
    if rng.random() < 0.35:
        factor = rng.uniform(0.5, 0.95)
        small = _resized(grey, max(16, int(width * factor)), max(16, int(height * factor)))
    stored = np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 95))])
    decoded: Image = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.float32) / np.float32(255)
    return decoded if decoded.shape == grey.shape else _resized(decoded, width, height)


def resolution(grey: Image, rng: np.random.Generator) -> Image:
    """Made smaller and enlarged again, by some interpolation or other."""
    height, width = grey.shape
    factor = rng.uniform(0.4, 0.9)
    return _resized(_resized(grey, max(16, int(width * factor)), max(16, int(height * factor))), width, height)


def wrong_window(grey: Image, rng: np.random.Generator) -> Image:
    """Another window: what is black, and what is white. Air never turns so black that lung goes with it."""
    black, white = rng.uniform(-0.15, 0.27), rng.uniform(0.65, 1.4)
    return np.asarray((grey - black) / (white - black), np.float32)


def gamma(grey: Image, rng: np.random.Generator) -> Image:
    """Another display curve."""
    return np.asarray(np.clip(grey, 0, 1) ** np.float32(math.exp(rng.uniform(-0.5, 0.5))), np.float32)


def blur(grey: Image, rng: np.random.Generator) -> Image:
    """A softer kernel."""
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 1.4)), np.float32)


def sharpen(grey: Image, rng: np.random.Generator) -> Image:
    """A harder kernel, with its overshoot at edges and its stronger noise."""
    soft = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.7, 1.8))
    return np.asarray(grey + rng.uniform(0.3, 1.6) * (grey - soft), np.float32)


def noise(grey: Image, rng: np.random.Generator) -> Image:
    """Image noise, white or as coarse as a soft kernel makes it; sometimes in streaks from side to side."""
    grain = rng.standard_normal(grey.shape, np.float32)
    if rng.random() < 0.7:
        grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.4, 1.5)), np.float32)
    if rng.random() < 0.2:
        grain = np.asarray(grain + 2 * cv2.GaussianBlur(grain, (0, 0), sigmaX=rng.uniform(6, 20), sigmaY=0.7), np.float32)
    grain /= float(grain.std()) + 1e-6
    return np.asarray(grey + grain * np.float32(rng.uniform(0.005, 0.06)), np.float32)


DISTURBANCES: dict[str, tuple[Disturbance, float]] = {
    "resolution": (resolution, 0.12),
    "blur": (blur, 0.15),
    "sharpen": (sharpen, 0.2),
    "noise": (noise, 0.25),
    "wrong window": (wrong_window, 0.3),
    "gamma": (gamma, 0.2),
    "field of view": (field_of_view, 0.1),
    "circles": (_burned(circles), 0.08),
    "arrows": (_burned(arrows), 0.12),
    "text": (_burned(text), 0.15),
    "ruler": (_burned(ruler), 0.08),
    "jpeg": (jpeg, 0.3),
}
"""In the order in which they happen: name -> function, and its chance in a picture that is not left untouched."""


def disturb(grey: Image, rng: np.random.Generator) -> Image:
    """Treat a picture as scanners, teaching files and the web do.

    Parameters
    ----------
    grey
        (H, W) float32 in [0, 1]; not changed.
    rng
        Same state, same picture.

    Returns
    -------
    (H, W) float32 in [0, 1], a new array.
    """
    picture = np.array(grey, np.float32)
    if rng.random() >= UNTOUCHED:
        for function, chance in DISTURBANCES.values():
            if rng.random() < chance:
                picture = np.asarray(np.clip(function(picture, rng), 0, 1), np.float32)
    return picture


def _resized(grey: Image, width: int, height: int) -> Image:
    smaller = width < grey.shape[1]
    return np.asarray(
        cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC), np.float32
    )
