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


def _begin(x_label: str, y_label: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5.2, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e9ec", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
