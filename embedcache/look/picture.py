"""A map of embeddings as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedcache.look.colouring import MARKERS, MISSING, OTHER, Classes, Numbers
from embedcache.look.projection import Projection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

_LONGEST = 30
Flags = NDArray[np.bool_]


def draw(
    file: Path, projection: Projection, colouring: Classes | Numbers | None, shapes: Classes | None, title: str
) -> None:
    """Draw the map: legends to the right of it, the axes named, missing values grey and below the others."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    legends = colouring is not None or shapes is not None
    figure = Figure(figsize=(10.4 if legends else 8.0, 6.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes, side = figure.subplots(1, 2, width_ratios=(7.4, 2.9)) if legends else (figure.subplots(), None)
    n = len(projection.rows)
    size = float(np.clip(40_000 / n, 4, 36))
    groups = [(np.ones(n, np.bool_), "o")] if shapes is None else _by_shape(shapes)
    scale = None
    for chosen, marker in groups:
        scale = _scatter(axes, projection, colouring, chosen, marker, size) or scale
    if side is not None:
        side.set_axis_off()
        if isinstance(colouring, Numbers) and scale is not None:
            bar = side.inset_axes((0.02, 0.42, 0.09, 0.55))
            figure.colorbar(scale, cax=bar, label=colouring.title)
        _legends(side, colouring, shapes)
    axes.set_xlabel(projection.axes[0])
    axes.set_ylabel(projection.axes[1])
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, format="png")


def _by_shape(shapes: Classes) -> list[tuple[Flags, str]]:
    missing = [(shapes.codes < 0, "x")] if (shapes.codes < 0).any() else []
    return [*missing, *((shapes.codes == code, MARKERS[code]) for code in range(len(shapes.names)))]


def _scatter(
    axes: Axes, projection: Projection, colouring: Classes | Numbers | None, chosen: Flags, marker: str, size: float
) -> ScalarMappable | None:
    """Draw the chosen rows; returns what a colour bar describes."""
    x, y = projection.places.T

    def points(flags: Flags, **colours: Any) -> ScalarMappable:
        width = 0.8 if marker == "x" else 0
        return axes.scatter(x[flags], y[flags], s=size, marker=marker, linewidths=width, alpha=0.8, **colours)

    if colouring is None:
        points(chosen, color="#0072b2")
        return None
    if isinstance(colouring, Numbers):
        missing = np.isnan(colouring.values)
        points(chosen & missing, color=MISSING)
        there = chosen & ~missing
        if not there.any():
            return None
        low, high = np.nanmin(colouring.values), np.nanmax(colouring.values)
        return points(there, c=colouring.values[there], cmap="viridis", vmin=low, vmax=high)
    points(chosen & (colouring.codes < 0), color=MISSING)
    others = np.array([*colouring.colours, ""])[colouring.codes] == OTHER
    points(chosen & others, color=OTHER)
    # all classes in one call and in the order of the rows, so that none covers another
    there = chosen & (colouring.codes >= 0) & ~others
    if there.any():
        points(there, color=np.array(colouring.colours)[colouring.codes[there]].tolist())
    return None


def _legends(side: Axes, colouring: Classes | Numbers | None, shapes: Classes | None) -> None:
    """Colours at the top, shapes at the bottom, with how many rows have each."""
    if isinstance(colouring, Classes):
        entries = [_entry(name, colour, "o", count) for name, colour, count in _counted(colouring, colouring.colours)]
        side.add_artist(_legend(side, entries, colouring.title, "upper left"))
    elif isinstance(colouring, Numbers) and (missing := int(np.isnan(colouring.values).sum())):
        side.add_artist(_legend(side, [_entry("missing", MISSING, "o", missing)], None, "center left", 0.34))
    if shapes is not None:
        markers = [*MARKERS[: len(shapes.names)], "x"]
        counted = _counted(shapes, (OTHER,) * len(shapes.names))
        entries = [_entry(name, OTHER, markers[at], count) for at, (name, _, count) in enumerate(counted)]
        _legend(side, entries, shapes.title, "lower left")


def _counted(classes: Classes, colours: Sequence[str]) -> list[tuple[str, str, int]]:
    counts = np.bincount(classes.codes + 1, minlength=len(classes.names) + 1).tolist()
    missing = [("missing", MISSING, counts[0])] if counts[0] else []
    return [*zip(classes.names, colours, counts[1:], strict=True), *missing]


def _entry(name: str, colour: str, marker: str, count: int) -> Line2D:
    from matplotlib.lines import Line2D

    label = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
    # a dollar sign would begin a formula
    label = f"{label} ({count:,})".replace("$", r"\$")
    return Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, label=label)


def _legend(
    side: Axes, entries: Sequence[Line2D], title: str | None, where: str, height: float | None = None
) -> Legend:
    at = {"upper left": 1.0, "lower left": 0.0}.get(where, height or 0.0)
    made: Legend = side.legend(
        handles=list(entries), title=title, loc=where, bbox_to_anchor=(-0.06, at), borderaxespad=0.0, frameon=False,
        fontsize=8, title_fontsize=9, alignment="left",
    )  # fmt: skip
    return made
