"""Conditions on the columns of a rows table, such as ``split == 'train' and length >= 500``.

The grammar is a part of Python's, read by its own parser and worked out here, never evaluated:

    columns          by their names, or col('a b') where a name has blanks
    values           text in quotes, numbers, True, False, None (null)
    comparisons      == != < <= > >=, in [...], not in [...], is None, is not None
    sums             + - * /
    conditions       and, or, not

A comparison with a missing value is neither true nor false, and such rows are left out.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedcache.errors import InputError
from embedcache.records import SEQUENCE
from embedcache.storage.store import Store

_WORDS = {"null": None, "true": True, "false": False}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: pc.equal, ast.NotEq: pc.not_equal, ast.Lt: pc.less, ast.LtE: pc.less_equal, ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}  # fmt: skip
_SUMS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply,
    ast.Div: lambda left, right: pc.divide(_as_double(left), right),
}  # fmt: skip


def matching(store: Store, text: str) -> NDArray[np.bool_]:
    """Which rows of a store a condition holds for, (N,).

    Raises
    ------
    InputError : the condition cannot be read, names a column that is not there, or compares text with numbers.
    """
    try:
        parsed = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise InputError(f"--where {text}: {reason}; write it as split == 'train' and length >= 500") from None
    found = _Condition(store, text).value(parsed.body)
    if not isinstance(found, pa.ChunkedArray) or not pa.types.is_boolean(found.type):
        raise InputError(f"--where {text} is no condition on a column; write it as split == 'train' and length >= 500")
    return np.asarray(found.fill_null(False), np.bool_)


class _Condition:
    def __init__(self, store: Store, text: str) -> None:
        self.store, self.text = store, text

    def value(self, node: ast.expr) -> Any:
        """An array (N,), or a plain value."""
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, str | int | float):
                return value
            case ast.Name(id=name):
                return self.column(name) if name in self.store.column_names or name not in _WORDS else _WORDS[name]
            case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))], keywords=[]):
                return self.column(name)
            case ast.BoolOp(op=op, values=values):
                combine = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
                found = self.condition(values[0])
                for other in values[1:]:
                    found = self.tried(combine, found, self.condition(other))
                return found
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.tried(pc.invert, self.condition(operand))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.value(operand)
                return self.tried(operator.neg if isinstance(value, int | float) else pc.negate, value)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _SUMS:
                return self.tried(_SUMS[type(op)], self.value(left), self.value(right))
            case ast.Compare(left=left, ops=ops, comparators=others):
                found = None
                for compared_by, one, two in zip(ops, [left, *others], others, strict=False):
                    held = self.compared(one, compared_by, two)
                    found = held if found is None else pc.and_kleene(found, held)
                return found
        raise self.error(f"'{ast.unparse(node)}' is not understood")

    def column(self, name: str) -> pa.ChunkedArray:
        if name == SEQUENCE or name not in self.store.column_names:
            known = ", ".join(column for column in self.store.column_names if column != SEQUENCE)
            raise self.error(
                f"{self.store.path} has no column '{name}' to choose by (text stands in quotes); it has {known}"
            )
        column = self.store.column(name)
        return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column

    def condition(self, node: ast.expr) -> pa.ChunkedArray:
        found = self.value(node)
        if not isinstance(found, pa.ChunkedArray) or not pa.types.is_boolean(found.type):
            raise self.error(f"'{ast.unparse(node)}' is neither true nor false for a row")
        return found

    def compared(self, one: ast.expr, op: ast.cmpop, two: ast.expr) -> Any:
        left = self.value(one)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(two, ast.List | ast.Tuple | ast.Set):
                raise self.error(f"'{ast.unparse(two)}' is no list: write it as in ['a', 'b']")
            members = [self.value(member) for member in two.elts]
            found = self.tried(self.among, left, members)
            return self.tried(pc.invert, found) if isinstance(op, ast.NotIn) else found
        right = self.value(two)
        if isinstance(op, ast.Is | ast.IsNot) or right is None:
            if right is not None or not isinstance(left, pa.ChunkedArray):
                raise self.error("'is' asks whether a column is None")
            empty = pc.is_null(left, nan_is_null=pa.types.is_floating(left.type))
            return empty if isinstance(op, ast.Is | ast.Eq) else pc.invert(empty)
        if not any(isinstance(side, pa.ChunkedArray) for side in (left, right)):
            raise self.error(f"'{ast.unparse(one)}' and '{ast.unparse(two)}' are both no columns")
        self.check_kinds(left, right)
        return self.tried(_COMPARISONS[type(op)], left, right)

    def among(self, column: pa.ChunkedArray, members: list[Any]) -> pa.ChunkedArray:
        for member in members:
            self.check_kinds(column, member)
        found = pc.is_in(column, pa.array(members).cast(column.type))
        return pc.if_else(column.is_valid(), found, None)

    def check_kinds(self, left: Any, right: Any) -> None:
        """Raise where text is held against numbers."""
        if _is_text(left) != _is_text(right):
            raise self.error("text is compared with numbers: 'a' and '1' are text, 1 is a number")

    def tried(self, function: Callable[..., Any], *values: Any) -> Any:
        try:
            return function(*values)
        except (pa.ArrowException, TypeError, ValueError, ZeroDivisionError) as error:
            raise self.error(" ".join(str(error).split())[:200]) from None

    def error(self, what: str) -> InputError:
        return InputError(f"--where {self.text}: {what}")


def _is_text(value: Any) -> bool:
    kind = value.type if isinstance(value, pa.ChunkedArray) else pa.scalar(value).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _as_double(value: Any) -> Any:
    return value.cast(pa.float64()) if isinstance(value, pa.ChunkedArray) else float(value)
