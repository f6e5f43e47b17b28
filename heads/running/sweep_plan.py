"""Which runs a sweep makes: every combination of the values of some options, or the first ones together, then the second."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from embedcache.errors import HeadError

Point = Mapping[str, str]
"""Options of one run by their name on the command line without dashes, and their values as text."""
Mode = Literal["product", "zip"]


@dataclass(frozen=True)
class Sweep:
    """Options that vary, each with its values."""

    values: Mapping[str, tuple[str, ...]]
    mode: Mode = "product"
    """All combinations, or the first values together, then the second ones, and so on."""

    def __post_init__(self) -> None:
        if self.mode not in ("product", "zip"):
            raise HeadError(f"the mode of a sweep is product or zip, not {self.mode!r}")
        empty = [name for name, values in self.values.items() if not values]
        if not self.values or empty:
            raise HeadError(
                f"--vary {empty[0]}= has no values" if empty else "nothing varies: give --vary option=value,value"
            )
        counts = {name: len(values) for name, values in self.values.items()}
        if self.mode == "zip" and len(set(counts.values())) > 1:
            said = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise HeadError(f"options that vary together need equally many values: {said}")
        if len(set(self.points)) < len(self.points):
            raise HeadError("a sweep would make the same run twice: a value is given twice")

    @classmethod
    def parse(cls, given: Sequence[str], mode: str = "product") -> Self:
        """Read ``option=value,value`` of the command line; values with commas go into a file (`read`)."""
        values: dict[str, tuple[str, ...]] = {}
        for text in given:
            name, equals, listed = text.partition("=")
            name = _name(name)
            if not equals or not name:
                raise HeadError(f"--vary {text}: write option=value,value, such as c=0.1,1")
            if name in values:
                raise HeadError(f"--vary {name} is given twice: put all of its values into one list")
            values[name] = tuple(value.strip() for value in listed.split(",") if value.strip())
        return cls(values, mode)  # type: ignore[arg-type]

    @classmethod
    def read(cls, file: Path, mode: Mode | None = None) -> Self:
        """Read a YAML file: ``vary: {option: [value, value]}`` and, if wanted, ``mode: zip``; a given mode goes before that.

        Raises HeadError where it is not one.
        """
        try:
            held = yaml.safe_load(file.read_text())
            if not isinstance(held, dict) or set(held) - {"vary", "mode"} or not isinstance(held["vary"], dict):
                raise TypeError("it holds something else")
            values = {_name(str(name)): tuple(map(_text, _listed(listed))) for name, listed in held["vary"].items()}
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
            raise HeadError(
                f"{file} is no sweep ({' '.join(str(error).split())}): write vary: {{option: [value, value]}}"
            ) from None
        return cls(values, mode or held.get("mode", "product"))

    @property
    def points(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """The options of every run, in the order of the values."""
        combine = itertools.product if self.mode == "product" else zip
        return tuple(tuple(zip(self.values, chosen, strict=True)) for chosen in combine(*self.values.values()))


def _name(text: str) -> str:
    return text.strip().lstrip("-").replace("_", "-")


def _listed(values: object) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _text(value: object) -> str:
    """A value of YAML as it would be typed."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise TypeError(f"{value!r} is no text and no number")
