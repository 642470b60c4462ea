"""One case as a page (PDF) and as a figure (PNG). Beside `ipfvision.plots` the only place that imports matplotlib, and late.

It lays out what it is given, and knows nothing of what that means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 8.27, 11.69
"""A4, in inches."""
MARGIN = 0.5
GAP = 0.1
INK, QUIET, RULE, ALERT = "#17212b", "#5b6772", "#d5dbe1", "#b3541e"
ON_IMAGE = "#f4f7fa"
UNKNOWN = "\N{WHITE SQUARE}"
"""In the place of a character that the page's typeface does not have."""
PNG_DPI = 100
PANE_PIXELS = 512
"""About the longer side of a pane of the figure; larger slices keep their own size."""
FIGURE_SIZE, PAGE_SIZE = 9.5, 8.0
"""Of the words beside a pane, in points."""
WARNING_SIZE, MOST_WARNINGS = 7.0, 4


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """The border of a region."""

    mask: npt.NDArray[np.bool_]
    color: str
    is_dashed: bool = False


@dataclass(frozen=True, slots=True)
class Spot:
    """A point, or a box if it has a width and a height, in continuous pixel coordinates (left and upper edge 0)."""

    x: float
    y: float
    color: str
    width: float = 0.0
    height: float = 0.0


@dataclass(frozen=True, slots=True)
class Legend:
    """A colored line and what it stands for."""

    color: str
    words: str
    is_dashed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ColorBar:
    """The colors of a map, from 0 to full."""

    colors: npt.NDArray[np.uint8]
    """(N, 3) RGB."""
    low: str
    high: str


@dataclass(frozen=True, slots=True, eq=False)
class Pane:
    """One picture."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""
    title: str
    aspect: float = 1.0
    """Height over width of a pixel."""
    edges: tuple[str, str, str, str] | None = None
    """Letters for left, right, top, bottom."""
    bar: tuple[float, str] | None = None
    """Length of a scale bar in pixels, and what it stands for."""
    cell: tuple[float, float] | None = None
    """(width, height) in pixels of one cell of the map, drawn in a corner."""
    outlines: tuple[Outline, ...] = ()
    spots: tuple[Spot, ...] = ()
    colors: ColorBar | None = None
    legend: tuple[Legend, ...] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """A number between 0 and 1 on a line, with a band."""

    value: float
    band: tuple[float, float]
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Part:
    """One bar of a sum: it begins where the one before ended."""

    name: str
    value: float
    text: str
    is_total: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of words; the first column is wide."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, each value on as many lines as it takes."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class CasePage:
    """All that one page says."""

    title: str
    right: str
    """At the right of the title."""
    banner: str
    answer: str
    reason: str
    scale: Scale | None
    panes: tuple[Pane, ...]
    """Up to three."""
    scores: Table
    parts: tuple[Part, ...]
    parts_title: str
    parts_note: str
    said: Facts
    facts: Facts
    warnings: tuple[str, ...]


def write_pdf(page: CasePage) -> bytes:
    """The page as PDF, A4, without any metadata but the program's name. What does not fit is cut, and says so."""
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context({"pdf.fonttype": 42}):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        _Sheet(figure).draw(page)
        buffer = BytesIO()
        figure.savefig(buffer, format="pdf", metadata={"Creator": "ipfvision", "Producer": None, "CreationDate": None})
    return buffer.getvalue()


def write_png(page: CasePage, dpi: int = 110) -> bytes:
    """The same page as PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=dpi)
    _Sheet(figure).draw(page)
    return _png(figure)


def draw_figure(panes: Sequence[Pane], heading: str, footer: str) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB: the panes side by side, each pixel of a slice at least one pixel of the figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    sizes = [_pane_size(pane) for pane in panes]
    gap, top = 12, 58
    foot = round(PNG_DPI * max(_under_height(pane, FIGURE_SIZE) for pane in panes)) + 40
    width = sum(size[0] for size in sizes) + gap * (len(panes) + 1)
    height = max(size[1] for size in sizes) + top + foot
    figure = Figure(figsize=(width / PNG_DPI, height / PNG_DPI), dpi=PNG_DPI, facecolor="white")
    draw = _Sheet(figure)
    left = gap
    draw.text(gap / PNG_DPI, 0.12, heading, size=11, weight="bold")
    for pane, size in zip(panes, sizes, strict=True):
        box = (left / PNG_DPI, top / PNG_DPI, size[0] / PNG_DPI, size[1] / PNG_DPI)
        draw.pane(pane, box, nearest=True, size=FIGURE_SIZE)
        left += size[0] + gap
    draw.text(gap / PNG_DPI, (height - 22) / PNG_DPI, footer, size=8.5, color=ALERT)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()


def _pane_size(pane: Pane) -> tuple[int, int]:
    """(width, height) in pixels of the figure: a whole number of them for each of the slice's, where its pixels are square."""
    rows, columns = pane.image.shape[:2]
    factor = max(1, round(PANE_PIXELS / max(rows, columns)))
    if pane.aspect >= 1:
        return columns * factor, round(rows * factor * pane.aspect)
    return round(columns * factor / pane.aspect), rows * factor


class _Sheet:
    """Draws on a figure in inches from its upper left corner."""

    def __init__(self, figure: "Figure") -> None:
        self._figure = figure
        self._width, self._height = figure.get_size_inches()

    def text(self, x: float, y: float, words: str, *, size: float = 8.0, color: str = INK, **more: Any) -> None:
        """Words with their upper left corner at (x, y). They are never read as mathematics."""
        more = {"va": "top", "ha": "left", **more}
        self._figure.text(
            x / self._width, 1 - y / self._height, _drawable(words), fontsize=size, color=color, parse_math=False, **more
        )

    def lines(self, x: float, y: float, words: str, width: float, most: int, *, size: float = 8.0, **more: Any) -> float:
        """Words on as many lines as they take, at most so many; returns where the next line begins."""
        wrapped = _wrap(_drawable(words), width, size, is_bold=more.get("weight") == "bold")
        if len(wrapped) > most:
            wrapped = [*wrapped[: most - 1], wrapped[most - 1][:-12].rstrip() + " \N{HORIZONTAL ELLIPSIS} (cut)"]
        for line in wrapped:
            self.text(x, y, line, size=size, **more)
            y += _line(size)
        return y

    def rule(self, y: float, x: float = MARGIN, width: float | None = None) -> None:
        from matplotlib.lines import Line2D  # noqa: PLC0415

        right = self._width - MARGIN if width is None else x + width
        down = 1 - y / self._height
        self._figure.add_artist(Line2D([x / self._width, right / self._width], [down, down], color=RULE, linewidth=0.8))

    def axes(self, box: tuple[float, float, float, float]) -> "Axes":
        """Bare axes at (left, top, width, height)."""
        left, top, width, height = box
        axes = self._figure.add_axes(
            (left / self._width, 1 - (top + height) / self._height, width / self._width, height / self._height)
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        return axes

    def draw(self, page: CasePage) -> None:
        inner = WIDTH - 2 * MARGIN
        self.text(MARGIN, 0.42, page.title, size=15, weight="bold")
        self.text(WIDTH - MARGIN, 0.5, page.right, size=8, color=QUIET, ha="right")
        self.lines(MARGIN, 0.74, page.banner, inner, 1, size=8.5, color=ALERT, weight="bold")
        self.rule(0.97)
        self._answer(page, 1.05)
        below = self._panes(page.panes, 1.92)
        self.rule(below)
        half = (inner - 0.3) / 2
        right = MARGIN + half + 0.3
        scores = self._table(page.scores, MARGIN, below + 0.1, half)
        parts = self._parts(page, right, below + 0.1, half)
        middle = max(scores, parts) + 0.06
        self.rule(middle)
        foot = HEIGHT - 0.42
        warned = [f"\N{BULLET} {one}" for one in page.warnings[:MOST_WARNINGS]]
        taken = sum(min(2, len(_wrap(_drawable(one), inner, WARNING_SIZE))) for one in warned)
        room = foot - _line(WARNING_SIZE) * taken - (0.12 if warned else 0)
        self._facts(page.said, MARGIN, middle + 0.1, half, room)
        self._facts(page.facts, right, middle + 0.1, half, room)
        y = room + 0.08
        for warning in warned:
            y = self.lines(MARGIN, y, warning, inner, 2, size=WARNING_SIZE, color=ALERT)
        self.rule(foot + 0.02)
        self.lines(MARGIN, foot + 0.07, page.banner, inner, 1, size=7, color=QUIET)

    def _answer(self, page: CasePage, top: float) -> None:
        self.text(MARGIN, top + 0.03, page.answer, size=16, weight="bold")
        self.lines(MARGIN, top + 0.37, page.reason, 4.1, 3, size=8)
        if page.scale is None:
            return
        axes = self.axes((4.9, top + 0.12, WIDTH - MARGIN - 4.9, 0.2))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.axhspan(0.3, 0.7, color="#e3e8ed")
        low, high = page.scale.band
        axes.fill_between([low, high], 0.3, 0.7, color="#b9c4cf", linewidth=0)
        axes.plot([page.scale.value], [0.5], marker="D", markersize=8, color=INK, clip_on=False)
        self.text(4.9, top + 0.38, page.scale.low, size=7, color=QUIET)
        self.text(WIDTH - MARGIN, top + 0.38, page.scale.high, size=7, color=QUIET, ha="right")

    def _panes(self, panes: Sequence[Pane], top: float) -> float:
        each = (WIDTH - 2 * MARGIN - GAP * (len(panes) - 1)) / max(3, len(panes))
        tallest = 0.0
        for number, pane in enumerate(panes):
            rows, columns = pane.image.shape[:2]
            tall = min(each * rows * pane.aspect / columns, 3.2)
            wide = tall * columns / (rows * pane.aspect)
            left = MARGIN + number * (each + GAP) + (each - wide) / 2
            self.pane(pane, (left, top + 0.2, wide, tall), nearest=False, size=PAGE_SIZE)
            tallest = max(tallest, tall)
        return top + 0.2 + tallest + max(_under_height(pane, PAGE_SIZE) for pane in panes) + 0.12

    def pane(self, pane: Pane, box: tuple[float, float, float, float], *, nearest: bool, size: float) -> None:
        """A picture with its title above, and its colors or legend below."""
        left, top, width, height = box
        rows, columns = pane.image.shape[:2]
        self.lines(left, top - _line(size) - 0.02, pane.title, width, 1, size=size, weight="bold")
        axes = self.axes(box)
        axes.imshow(pane.image, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest" if nearest else "none")
        axes.set_xlim(0, columns)
        axes.set_ylim(rows, 0)
        for outline in pane.outlines:
            if outline.mask.any():
                padded = np.pad(outline.mask, 1).astype(np.float32)
                x, y = np.arange(columns + 2) - 0.5, np.arange(rows + 2) - 0.5
                style = "dashed" if outline.is_dashed else "solid"
                axes.contour(x, y, padded, levels=[0.5], colors=[outline.color], linewidths=1.0, linestyles=style)
        for spot in pane.spots:
            self._spot(axes, spot)
        self._on_image(axes, pane, size)
        self._under(pane, (left, top + height + 0.05, width), size)

    def _spot(self, axes: "Axes", spot: Spot) -> None:
        from matplotlib.patches import Rectangle  # noqa: PLC0415

        if spot.width > 0:
            axes.add_patch(Rectangle((spot.x, spot.y), spot.width, spot.height, fill=False, color=spot.color, linewidth=1))
        else:
            axes.plot([spot.x], [spot.y], marker="+", markersize=9, color=spot.color)

    def _on_image(self, axes: "Axes", pane: Pane, size: float) -> None:
        from matplotlib.patches import Rectangle  # noqa: PLC0415
        from matplotlib.patheffects import withStroke  # noqa: PLC0415

        rows, columns = pane.image.shape[:2]
        # Light on a dark rim: readable on lung and on bone.
        rim = [withStroke(linewidth=2, foreground="#000000b0")]
        if pane.edges is not None:
            places = (
                (0.02, 0.5, "left", "center"),
                (0.98, 0.5, "right", "center"),
                (0.5, 0.98, "center", "top"),
                (0.5, 0.02, "center", "bottom"),
            )
            for letters, (x, y, across, along) in zip(pane.edges, places, strict=True):
                axes.text(
                    x,
                    y,
                    letters,
                    transform=axes.transAxes,
                    ha=across,
                    va=along,
                    color=ON_IMAGE,
                    path_effects=rim,
                    fontsize=size,
                )
        if pane.bar is not None:
            length, words = pane.bar
            right, down = 0.96 * columns, 0.955 * rows
            axes.plot(
                [right - length, right], [down, down], color=ON_IMAGE, path_effects=rim, linewidth=2, solid_capstyle="butt"
            )
            axes.text(
                right - length / 2,
                0.945 * rows,
                words,
                ha="center",
                va="bottom",
                color=ON_IMAGE,
                path_effects=rim,
                fontsize=size - 1.5,
            )
        if pane.cell is not None:
            width, height = pane.cell
            left, top = 0.03 * columns, 0.97 * rows - height
            axes.add_patch(Rectangle((left, top), width, height, fill=False, color=ON_IMAGE, path_effects=rim, linewidth=0.8))
            axes.text(
                left + width + 0.015 * columns,
                0.97 * rows,
                "1 cell",
                ha="left",
                va="bottom",
                color=ON_IMAGE,
                path_effects=rim,
                fontsize=size - 1.5,
            )

    def _under(self, pane: Pane, place: tuple[float, float, float], size: float) -> None:
        left, top, width = place
        small = size - 1.5
        if pane.colors is not None:
            axes = self.axes((left, top, width, 0.1))
            axes.imshow(pane.colors.colors[None], aspect="auto", interpolation="bilinear", extent=(0, 1, 0, 1))
            self.text(left, top + 0.12, pane.colors.low, size=small, color=QUIET)
            self.text(left + width, top + 0.12, pane.colors.high, size=small, color=QUIET, ha="right")
            top += 0.12 + _line(small)
        for legend in pane.legend:
            axes = self.axes((left, top, 0.22, _line(small)))
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.axhspan(0, 1, color="#20262c")
            axes.plot([0.1, 0.9], [0.5, 0.5], color=legend.color, linewidth=1.4, linestyle="--" if legend.is_dashed else "-")
            self.lines(left + 0.28, top + 0.01, legend.words, width - 0.28, 1, size=small)
            top += _line(small) + 0.02

    def _table(self, table: Table, x: float, y: float, width: float) -> float:
        self.text(x, y, table.title, size=9, weight="bold")
        y += 0.2
        at = [x, *(x + width * share for share in (0.72, 1.0))]
        for column, words in enumerate(table.head):
            self.text(at[column], y, words, size=6.8, color=QUIET, ha="left" if column == 0 else "right")
        y += 0.14
        for row in table.rows:
            for column, words in enumerate(row):
                weight = "bold" if column == 1 else "normal"
                self.text(at[column], y, words, size=7.6, ha="left" if column == 0 else "right", weight=weight)
            y += 0.152
        for note in table.notes:
            y = self.lines(x, y + 0.02, note, width, 3, size=6.8, color=QUIET)
        return y

    def _parts(self, page: CasePage, x: float, y: float, width: float) -> float:
        self.text(x, y, page.parts_title, size=9, weight="bold")
        y += 0.24
        if page.parts:
            tall = 0.24 * len(page.parts)
            self._waterfall(page.parts, (x + 1.15, y, width - 1.15 - 0.55, tall))
            for number, part in enumerate(page.parts):
                down = y + 0.24 * number + 0.05
                weight = "bold" if part.is_total else "normal"
                self.text(x, down, part.name, size=7.6, weight=weight)
                self.text(x + width, down, part.text, size=7.6, ha="right", weight=weight)
            y += tall + 0.06
        return self.lines(x, y, page.parts_note, width, 6, size=6.8, color=QUIET)

    def _waterfall(self, parts: Sequence[Part], box: tuple[float, float, float, float]) -> None:
        axes = self.axes(box)
        axes.set_ylim(len(parts), 0)
        axes.axvline(0, color=QUIET, linewidth=0.8)
        end = 0.0
        for number, part in enumerate(parts):
            start = 0.0 if part.is_total else end
            end = start + part.value
            color = INK if part.is_total else ("#c8742c" if part.value >= 0 else "#3f8f80")
            axes.barh(number + 0.5, part.value, left=start, height=0.62, color=color)
            if number + 1 < len(parts):
                axes.plot([end, end], [number + 0.8, number + 1.2], color=QUIET, linewidth=0.7)
        axes.margins(x=0.04)

    def _facts(self, facts: Facts, x: float, y: float, width: float, room: float) -> None:
        self.text(x, y, facts.title, size=9, weight="bold")
        y += 0.2
        first = 1.15
        for name, words in facts.rows:
            left = max(1, int((room - y) / _line(7.2)))
            if y + _line(7.2) > room:
                self.text(x, y - 0.02, "\N{HORIZONTAL ELLIPSIS} more in the JSON", size=6.8, color=QUIET)
                return
            self.text(x, y, name, size=7.2, color=QUIET)
            y = self.lines(x + first, y, words, width - first, min(left, 8), size=7.2) + 0.025


def _line(size: float) -> float:
    """Height of a line in inches, for a size in points."""
    return size * 1.28 / 72


def _under_height(pane: Pane, size: float) -> float:
    """Room in inches below a pane for its colors and its legend."""
    small = _line(size - 1.5)
    return 0.05 + (0 if pane.colors is None else 0.12 + small) + len(pane.legend) * (small + 0.02)


def _wrap(words: str, width: float, size: float, *, is_bold: bool = False) -> list[str]:
    """Lines of at most a width in inches; a word that is longer by itself is broken."""
    most = width * 72 / size
    lines: list[str] = []
    for paragraph in words.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if _ems(longer, is_bold=is_bold) <= most:
                line = longer
                continue
            if line:
                lines.append(line)
            line = word
            while _ems(line, is_bold=is_bold) > most:
                fits = next(end for end in range(len(line), 0, -1) if end == 1 or _ems(line[:end], is_bold=is_bold) <= most)
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line)
    return lines


def _ems(words: str, *, is_bold: bool) -> float:
    """Width of a line, as a multiple of the size of its letters."""
    return sum(_advance(one, is_bold=is_bold) for one in words)


@cache
def _advance(character: str, *, is_bold: bool) -> float:
    from matplotlib.font_manager import FontProperties, findfont, get_font  # noqa: PLC0415

    font = get_font(findfont(FontProperties(family="DejaVu Sans", weight="bold" if is_bold else "normal")))
    font.set_size(100, 72)
    return float(font.load_char(ord(character)).linearHoriAdvance) / 65536 / 100


def _drawable(words: str) -> str:
    """The words with `UNKNOWN` for what the typeface does not have: matplotlib would warn of each, on the server's log."""
    known = _characters()
    return "".join(one if one == "\n" or ord(one) in known else UNKNOWN for one in words)


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font  # noqa: PLC0415

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
