"""The registry as people read it: a table by family, one encoder in full, and the same as fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Any

from embedcache.encoders.registry import REGISTRY, SHORT, WEIGHT_FREE, Entry, find
from embedcache.errors import ModelError
from embedcache.progress import size

_POOLED = {"mean:all": "mean of all tokens, special ones too", "mean:inner": "mean of the tokens without special ones"}


def count(number: int) -> str:
    """A number of weights as people write it: ``436 k``, ``7.5 M``, ``498 M``, ``15.1 B``."""
    for unit, one in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= one:
            return f"{number / one:.{0 if number >= 100 * one else 1}f} {unit}"
    return str(number)


def table() -> Iterator[str]:
    """The lines of ``embedcache models``, none wider than 160 columns."""
    yield (
        f"{'alias':<23} {'parameters':>10} {'dim':>5} {'layers':>6} {'tokens':>9}  {'pool':<10} {'layer':>5}  "
        f"{'licence':<15}  hub id"
    )
    for group, entries in groupby(REGISTRY.values(), key=lambda entry: entry.group):
        yield f"{group.name}: {group.takes}"
        for entry in entries:
            pinned = f" @{entry.revision[:7]}" if entry.revision != "main" else ""
            yield (
                f"  {entry.alias:<21} {count(entry.parameters):>10} {entry.hidden:>5,} {entry.layers:>6} "
                f"{entry.token_limit:>9,}  {entry.pooling:<10} {entry.layer:>5}  {entry.licence:<15}  "
                f"{entry.repo_id}{pinned}"
            )
    yield "Without weights"
    for name, what in WEIGHT_FREE.items():
        yield f"  {name:<21} {what}"
    yield (
        "Any other checkpoint of these families: its hub id (ORG/NAME) or a folder with config.json and weights. Any other "
        "encoder of the hub: hf:ORG/NAME, slower."
    )


def details(name: str) -> Iterator[str]:
    """The lines of ``embedcache models NAME``; raises `ModelError` as `named` does."""
    entry = named(name)
    also = _also(entry)
    weights = 4 * entry.parameters
    terms = ": no commercial use" if "NC" in entry.licence else ""
    yield entry.alias + (f" (also {', '.join(also)})" if also else "")
    yield f"  family      {entry.group.name}"
    yield f"  takes       {entry.group.takes}"
    yield f"  limit       {entry.token_limit:,} tokens, special ones counted; longer input goes in windows (--overlong)"
    yield (
        f"  vector      {entry.hidden:,} values: {_POOLED[entry.pooling]} ({entry.pooling}), of layer {entry.layer} "
        f"({entry.group.pooling})"
    )
    yield (
        f"  size        {entry.parameters:,} weights in {entry.layers} layers: {size(weights)} in float32, "
        f"{size(weights / 2)} in bfloat16"
    )
    yield f"  hub id      {entry.repo_id}, revision {entry.revision}"
    yield f"  licence     {entry.licence}{terms}"


def fields(entry: Entry) -> dict[str, Any]:
    """All that is known of an entry, for JSON."""
    return asdict(entry) | {
        "also": _also(entry),
        "family": entry.group.name,
        "takes": entry.group.takes,
        "alphabet": entry.alphabet,
        "parameters": entry.parameters,
    }


def named(name: str) -> Entry:
    """The registry's entry of an alias or hub id; raises `ModelError` where there is none."""
    other = name.lower().startswith(("kmer:", "onehot:", "hf:"))
    entry = None if other else find(name)[2]
    if entry is None:
        raise ModelError(f"{name} is not in the list of `embedcache models`; it can be used by that name all the same")
    return entry


def _also(entry: Entry) -> list[str]:
    return [short for short, alias in SHORT.items() if alias == entry.alias]
