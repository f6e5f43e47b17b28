"""Dictionaries about genes: token ids, medians, names; as pickle, JSON, or a table of two columns."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from embedcache.cells.plain_pickle import read_plain_pickle
from embedcache.errors import InputError

Kind = Literal["tokens", "medians", "names", "synonyms"]
WHAT: Mapping[Kind, str] = {
    "tokens": "genes and their token ids",
    "medians": "genes and their medians",
    "names": "gene symbols and their Ensembl ids",
    "synonyms": "gene ids and the ids that took their place",
}
_ENSEMBL = re.compile(r"ENS[A-Z]*\d+")


def read_numbers(path: str | Path, kind: Kind) -> dict[str, float]:
    """Read gene -> positive median; raises `InputError` where a value is anything else."""
    numbers = {}
    for gene, value in _read(path, kind).items():
        number = _number(value)
        if number is None or not math.isfinite(number) or number <= 0:
            raise _wrong(path, kind, gene, value, "a number above 0")
        numbers[gene] = number
    return numbers


def read_tokens(path: str | Path) -> dict[str, int]:
    """Read gene -> token id from 0; raises `InputError` where a value is anything else, or two genes have one id."""
    tokens = {}
    for gene, value in _read(path, "tokens").items():
        number = _number(value)
        if number is None or not number.is_integer() or not 0 <= number < 2**31:
            raise _wrong(path, "tokens", gene, value, "a whole number from 0")
        tokens[gene] = int(number)
    if len(set(tokens.values())) < len(tokens):
        seen: dict[int, str] = {}
        gene = next(gene for gene, token in tokens.items() if seen.setdefault(token, gene) != gene)
        raise InputError(
            f"{path}: {gene!r} and {seen[tokens[gene]]!r} have the same token id {tokens[gene]}: every gene has its own "
            "in a token dictionary; give names of one gene with --ensembl-mapping"
        )
    return tokens


def read_names(path: str | Path, kind: Kind) -> dict[str, str]:
    """Read name -> name; values that are no text (None, NaN: names without an id) are left out."""
    return {name: value for name, value in _read(path, kind).items() if isinstance(value, str) and value}


def _read(path: str | Path, kind: Kind) -> dict[str, object]:
    extension = Path(path).suffix.lower()
    if extension in (".pkl", ".pickle"):
        found = read_plain_pickle(path)
    else:
        text = _text(path)
        if extension == ".json":
            try:
                found = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path} is not readable JSON ({error})") from error
        else:
            found = _as_dictionary(path, _rows(path, text, kind))
    if not isinstance(found, dict) or not found or not all(isinstance(gene, str) for gene in found):
        raise InputError(
            f"{path} is no dictionary of {WHAT[kind]}: give a pickle, a JSON object or a table of two columns"
        )
    return found


def _as_dictionary(path: str | Path, rows: Iterator[tuple[str, str]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in rows:
        if found.setdefault(name, value) != value:
            raise InputError(
                f"{path}: {name!r} is there twice, with {found[name]!r} and {value!r}: leave one row for each"
            )
    return found


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text: give a pickle (.pkl), JSON (.json) or a table (.tsv, .csv)"
        ) from error


def _rows(path: str | Path, text: str, kind: Kind) -> Iterator[tuple[str, str]]:
    """The first two columns of a table, without its header if it has one."""
    first_line = text.split("\n", 1)[0]
    delimiter = next((mark for mark in "\t,;" if mark in first_line), "\t")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for number, row in enumerate(rows, 1):
        if not row:
            continue
        if len(row) < 2:
            raise InputError(
                f"{path}, line {number}: one column where two are expected, {WHAT[kind]}, with tabs or commas between"
            )
        is_value = _number(row[1]) is not None if kind in ("tokens", "medians") else _ENSEMBL.match(row[1].strip())
        if number > 1 or is_value:
            yield row[0].strip(), row[1].strip()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _wrong(path: str | Path, kind: Kind, gene: str, value: object, expected: str) -> InputError:
    return InputError(
        f"{path}: {gene!r} has {str(value)[:40]!r} where {expected} belongs ({WHAT[kind]}): mend the file"
    )
