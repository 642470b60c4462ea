"""Plots for reports, as PNG. matplotlib is imported nowhere else, and late: it takes a second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRONG, FAINT, CHANCE = "#1f5a92", "#9db8d2", "#b3541e"


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one curve; None leaves a gap."""

    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Panel:
    """One of several plots over the same axis."""

    y_label: str
    lines: Mapping[str, Line]
    interval: tuple[Line, Line] | None = None
    """Lower and upper bound of the last line."""
    interval_name: str = ""
    top: float | None = None
    """Of the y axis, which begins at 0; None fits it to the lines."""


def curves(
    strong: Line, faint: Sequence[Line], x_label: str, y_label: str, strong_name: str, faint_name: str, *, joined: bool = True
) -> bytes:
    """One curve for all and a faint one for each patient, both axes from 0; as PNG.

    Parameters
    ----------
    joined
        False draws points only: where x need not grow from one point to the next.
    """
    figure, axes = _begin(x_label, y_label)
    style = "-" if joined else "none"
    for index, line in enumerate(faint):
        label = faint_name if index == 0 else None
        axes.plot(line.x, _gaps(line.y), color=FAINT, linewidth=1, linestyle=style, marker="" if joined else ".", label=label)
    axes.plot(strong.x, _gaps(strong.y), color=STRONG, linewidth=2.2, linestyle=style, marker=".", label=strong_name)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9)
    return _png(figure)


def strips(groups: Mapping[str, Sequence[float]], y_label: str, chance: float, chance_name: str) -> bytes:
    """Every value as a dot, one column for each group, with a line at chance, on a logarithmic axis; as PNG.

    Values of 0, which such an axis cannot show, lie at its foot as open dots.
    """
    figure, axes = _begin("", y_label)
    positive = [value for values in groups.values() for value in values if value > 0]
    foot = min([*positive, chance]) / 2
    for column, values in enumerate(groups.values()):
        for row, value in enumerate(values):
            offset = ((row * 7) % 11 - 5) / 30  # spread sideways, the same each time
            face = STRONG if value > 0 else "none"
            axes.plot(column + offset, max(value, foot), "o", markersize=4, markerfacecolor=face, markeredgecolor=STRONG)
    axes.set_yscale("log")
    for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        ticks("{x:g}")
    axes.axhline(chance, color=CHANCE, linewidth=1.2, linestyle="--", label=chance_name)
    axes.set_xticks(range(len(groups)), list(groups), fontsize=8, rotation=30 if len(groups) > 4 else 0, ha="center")
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.legend(frameon=False, fontsize=9)
    return _png(figure)


def dots(groups: Mapping[str, Sequence[float]], y_label: str, line: float, line_name: str, notes: Sequence[str]) -> bytes:
    """Every value as a dot, one column for each group, with a level that matters, and sentences under it; as PNG."""
    figure, axes = _begin("\n".join(notes), y_label)
    axes.xaxis.label.set(fontsize=8, color=CHANCE)
    for column, values in enumerate(groups.values()):
        places = [column + ((row * 7) % 11 - 5) / 30 for row in range(len(values))]  # spread sideways, the same each time
        axes.plot(places, values, "o", markersize=5, color=STRONG, alpha=0.8)
    axes.axhline(line, color=CHANCE, linewidth=1.2, linestyle="--", label=line_name)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.legend(facecolor="white", framealpha=0.8, edgecolor="none", fontsize=8)
    return _png(figure)


def unit_square(lines: Mapping[str, Line], x_label: str, y_label: str, diagonal: str) -> bytes:
    """Curves between 0 and 1 on both axes, with the diagonal; as PNG."""
    figure, axes = _begin(x_label, y_label)
    _diagonal(axes, diagonal)
    for color, (name, line) in zip(_several(lines), lines.items(), strict=True):
        axes.plot(line.x, _gaps(line.y), color=color, linewidth=2, label=name)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return _png(figure)


def with_intervals(
    groups: Mapping[str, Sequence[tuple[float, float, float, float]]], x_label: str, y_label: str, diagonal: str
) -> bytes:
    """Points (x, y, low, high) with their intervals in y, between 0 and 1 on both axes, with the diagonal; as PNG."""
    figure, axes = _begin(x_label, y_label)
    _diagonal(axes, diagonal)
    for color, (name, points) in zip(_several(groups), groups.items(), strict=True):
        x, y, low, high = (list(column) for column in zip(*points, strict=True))
        axes.vlines(x, low, high, color=color, linewidth=1.2)
        axes.plot(x, y, "o", color=color, markersize=6, label=name)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return _png(figure)


def with_mark(line: Line, mark: tuple[float, float], x_label: str, y_label: str, name: str, mark_name: str) -> bytes:
    """One curve, and one point on it or near it that is in use; both axes from 0; as PNG."""
    figure, axes = _begin(x_label, y_label)
    axes.plot(line.x, _gaps(line.y), color=STRONG, linewidth=2, label=name)
    axes.plot(*mark, "o", color=CHANCE, markersize=8, label=mark_name, zorder=3)
    highest = max([value for value in (*line.y, mark[1]) if value is not None])
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.02 * max(highest, 0.1), max(1.15 * highest, 0.1))
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return _png(figure)


def along(
    groups: Mapping[str, Line], band: tuple[float, float], x_label: str, y_label: str, band_name: str, missing: Sequence[float]
) -> bytes:
    """Points along an axis, one color for each group, y between 0 and 1; as PNG.

    Parameters
    ----------
    missing
        Places without a value: small ticks at the foot.
    """
    figure, axes = _begin(x_label, y_label)
    axes.axhspan(*band, color="#eef1f4", label=band_name)
    for color, (name, line) in zip(_several(groups), groups.items(), strict=True):
        axes.plot(line.x, _gaps(line.y), "o", color=color, markersize=4.5, label=name)
    if missing:
        axes.plot(missing, [0.0] * len(missing), "|", color="#4a5560", markersize=9, label="refused")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, fontsize=9)
    return _png(figure)


def histories(
    panels: Sequence[Panel], x_label: str, chosen: tuple[float, str] | None, title: str, notes: Sequence[str]
) -> bytes:
    """Panels side by side over whole numbers, one of them marked in all, and under them sentences to be read with them; as PNG.

    Parameters
    ----------
    chosen
        The marked number and what it is called.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    foot = 0.2 + 0.172 * len(notes)
    whole = Figure(figsize=(4.6 * len(panels), 3.6 + foot), dpi=90, layout="constrained")
    upper, lower = whole.subfigures(2, 1, squeeze=False, height_ratios=[3.6, foot])[:, 0]
    upper.suptitle(title, fontsize=11)
    for axes, panel in zip(upper.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _dress(axes, x_label, panel.y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for color, (name, line) in zip((FAINT, STRONG, *_several(panel.lines)[1:]), panel.lines.items(), strict=False):
            axes.plot(line.x, _gaps(line.y), color=color, linewidth=2, marker=".", label=name)
        if panel.interval is not None:
            low, high = panel.interval
            axes.fill_between(
                low.x, _gaps(low.y), _gaps(high.y), color=STRONG, alpha=0.12, linewidth=0, label=panel.interval_name
            )
        if chosen is not None:
            axes.axvline(chosen[0], color=CHANCE, linewidth=1.3, linestyle="--", label=chosen[1])
        axes.set_ylim(0, panel.top)
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    lower.text(0.02, 0.98, "\n".join(notes), fontsize=8.5, color=CHANCE, va="top", linespacing=1.45)
    return _png(whole)


def _several(groups: Mapping[str, object]) -> Sequence[str]:
    return [(STRONG, "#8a4f9e", "#3f8058", "#6b6f76")[index % 4] for index in range(len(groups))]


def _diagonal(axes: "Axes", name: str) -> None:
    axes.plot([0, 1], [0, 1], color=CHANCE, linewidth=1.2, linestyle="--", label=name)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)


def _begin(x_label: str, y_label: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5.2, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, x_label, y_label)
    return figure, axes


def _dress(axes: "Axes", x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e9ec", linewidth=0.7)
    axes.set_axisbelow(True)


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
