"""A map of embeddings as one HTML file that needs nothing else: hover, zoom, and names to hide."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedcache.look.colouring import MISSING, OTHER, Classes, Numbers
from embedcache.look.projection import Projection
from embedcache.records import ID, RESERVED
from embedcache.storage.store import Store

_STEPS = 32
_MOST_COLUMNS, _LONGEST = 12, 80
_CODES = ("circle", "triangle", "square", "diamond", "triangle down", "cross")


def write_page(
    file: Path,
    store: Store,
    projection: Projection,
    colouring: Classes | Numbers | None,
    shapes: Classes | None,
    title: str,
) -> None:
    """Write the page: coordinates, colours, and id and columns of each drawn row."""
    colours, colour, group, legend = _colours(colouring, len(projection.rows))
    own = [name for name in store.column_names if name not in RESERVED or name == "length"][:_MOST_COLUMNS]
    rows = store.read_rows([ID, *own]).take(pa.array(projection.rows))
    own = [name for name in own if rows.column(name).null_count < len(rows)]
    if shapes is not None:
        entries = [[f"{name} ({_CODES[code]})", OTHER, None] for code, name in enumerate(shapes.names)]
        legend.append({"title": f"{shapes.title} (shape)", "entries": entries})
    data = {
        "title": title,
        "axes": list(projection.axes),
        "x": [float(f"{value:.5g}") for value in projection.places[:, 0].tolist()],
        "y": [float(f"{value:.5g}") for value in projection.places[:, 1].tolist()],
        "ids": rows.column(ID).to_pylist(),
        "columns": own,
        "values": [[_shown(value) for value in rows.column(name).to_pylist()] for name in own],
        "colours": colours,
        "colour": colour,
        "group": group,
        "shape": None if shapes is None else np.maximum(shapes.codes, 0).tolist(),
        "legend": legend,
    }
    # a value such as </script> would end the script: JSON may write the slash in another way
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    template = files("embedcache.look").joinpath("page.html").read_text(encoding="utf-8")
    file.write_text(template.replace("__DATA__", text), encoding="utf-8")


def _colours(
    colouring: Classes | Numbers | None, n: int
) -> tuple[list[str], list[int], list[int], list[dict[str, Any]]]:
    """The colours, which of them each row has, the group it is hidden with, and the legend."""
    if colouring is None:
        return ["#0072b2"], [0] * n, [0] * n, []
    if isinstance(colouring, Classes):
        codes = np.where(colouring.codes < 0, len(colouring.names), colouring.codes).tolist()
        counts = np.bincount(codes, minlength=len(colouring.names) + 1)
        names = [*zip(colouring.names, colouring.colours, strict=True), ("missing", MISSING)]
        entries = [[f"{name} ({counts[at]:,})", colour, at] for at, (name, colour) in enumerate(names) if counts[at]]
        return [colour for _, colour in names], codes, codes, [{"title": colouring.title, "entries": entries}]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    known = np.isfinite(colouring.values)
    low, high = (np.min(colouring.values[known]), np.max(colouring.values[known])) if known.any() else (0.0, 1.0)
    shares = (np.where(known, colouring.values, low) - low) / ((high - low) or 1.0)
    steps = np.where(known, np.minimum((shares * _STEPS).astype(int), _STEPS - 1), _STEPS)
    scale = [to_hex(colormaps["viridis"]((at + 0.5) / _STEPS)) for at in range(_STEPS)]
    marks = [0, _STEPS // 4, _STEPS // 2, 3 * _STEPS // 4, _STEPS - 1]
    entries = [[f"{low + (high - low) * at / (_STEPS - 1):.4g}", scale[at], None] for at in marks]
    if not known.all():
        entries.append([f"missing ({int((~known).sum()):,})", MISSING, 1])
    return (
        [*scale, MISSING],
        steps.tolist(),
        (~known).astype(int).tolist(),
        [{"title": colouring.title, "entries": entries}],
    )


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
