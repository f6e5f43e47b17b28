"""LightGBM's text of trees, read with doubt before LightGBM sees it.

LightGBM follows whatever numbers a file holds: a child that is no node or a feature that is not there reads foreign
memory, and a broken file may end the process. So every tree is checked here, and of the text only what was checked is
handed over: header and trees, not the parameters that LightGBM writes after them.

The text: ``key=value`` lines of the header, the sizes of the trees in bytes among them, an empty line, the trees one
after another, ``end of trees``. Node i of a tree is its i-th split; a child c >= 0 is a node and c < 0 the leaf -c - 1.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from heads.data.target import Doubles

if TYPE_CHECKING:
    import lightgbm

MOST_LEAVES = 131_072
"""LightGBM's own limit."""
_END = "end of trees"
_HEADER = {
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "feature_infos",
    "monotone_constraints",
    "tree_sizes",
}
_PER_SPLIT = ("split_gain", "threshold", "internal_value", "internal_weight", "internal_count")
_NUMERICAL_SPLITS = (0, 2, 4, 6, 8, 10)
"""Decision types: 1 would be a categorical split, 2 sends missing values left, 4 and 8 say what is missing."""


@dataclass(frozen=True)
class Trees:
    """Boosted trees over D features, as `outputs` raw scores."""

    text: str
    dim: int
    outputs: int
    rounds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check the text; raises ValueError where it is not whole and sound."""
        try:
            return cls._parse(text)
        except KeyError as error:
            raise ValueError(f"the text of the trees lacks {error}") from None

    @classmethod
    def _parse(cls, text: str) -> Self:
        if not text.isascii():
            raise ValueError("the text of the trees holds foreign characters")
        head, _, body = text.partition("\n\n")
        first, *lines = head.split("\n")
        header = _fields(lines)
        if (
            first != "tree"
            or not set(header) <= _HEADER
            or not re.fullmatch(r"[a-z0-9_:. -]*", header.get("objective", ""))
        ):
            raise ValueError("the text of the trees has a damaged header")
        dim = _whole(header, "max_feature_idx", 1)[0] + 1
        outputs = _whole(header, "num_tree_per_iteration", 1)[0]
        if dim < 1 or outputs < 1 or _whole(header, "num_class", 1)[0] != outputs:
            raise ValueError("the text of the trees has a damaged header")
        if {len(header[key].split(" ")) for key in ("feature_names", "feature_infos")} != {dim}:
            raise ValueError("the text of the trees does not name its features")
        sizes = _whole(header, "tree_sizes")
        if not sizes or min(sizes) < 1 or len(sizes) % outputs:
            raise ValueError("the text of the trees does not hold the trees that it announces")
        start = 0
        for number, size in enumerate(sizes):
            _check_tree(body[start : start + size], number, dim)
            start += size
        if not body.startswith(_END + "\n", start):
            raise ValueError("the text of the trees is cut short")
        return cls(text, dim, outputs, len(sizes) // outputs)

    @property
    def digest(self) -> str:
        """Checksum of the text."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()

    @cached_property
    def booster(self) -> lightgbm.Booster:
        """The trees in LightGBM."""
        import lightgbm

        return lightgbm.Booster(model_str=self.text[: self.text.index(f"\n{_END}\n") + len(_END) + 2])

    def scores(self, values_nD: npt.NDArray[np.floating], threads: int) -> Doubles:
        """Raw scores (n, outputs), without the link of any objective."""
        found = self.booster.predict(values_nD, raw_score=True, num_threads=threads)
        return np.asarray(found, np.float64).reshape(len(values_nD), self.outputs)


def _check_tree(text: str, number: int, dim: int) -> None:
    first, *lines = text.rstrip("\n").split("\n")
    if first != f"Tree={number}" or not text.endswith("\n"):
        raise ValueError(f"tree {number} is not where it should be")
    tree = _fields(lines)
    try:
        leaves = _whole(tree, "num_leaves", 1)[0]
        if not 1 <= leaves <= MOST_LEAVES or _whole(tree, "num_cat", 1) != [0] or _whole(tree, "is_linear", 1) != [0]:
            raise ValueError("has a number of leaves or a kind of split that is not used here")
        _check_values(tree, "shrinkage", 1)
        _check_values(tree, "leaf_value", leaves)
        for key in _PER_SPLIT:
            _check_values(tree, key, leaves - 1)
        features, types = _whole(tree, "split_feature", leaves - 1), _whole(tree, "decision_type", leaves - 1)
        if any(not 0 <= feature < dim for feature in features) or any(kind not in _NUMERICAL_SPLITS for kind in types):
            raise ValueError("splits by something that is no feature")
        _check_children(_whole(tree, "left_child", leaves - 1), _whole(tree, "right_child", leaves - 1), leaves)
    except ValueError as error:
        raise ValueError(f"tree {number} {error}") from None


def _check_children(left: list[int], right: list[int], leaves: int) -> None:
    """Every node but the root and every leaf has one parent, and a node comes after its parent: so nothing goes round."""
    children = left + right
    if sorted(children) != [*range(-leaves, 0), *range(1, leaves - 1)] and leaves > 1:
        raise ValueError("has nodes that are not connected")
    if any(0 <= child <= node for side in (left, right) for node, child in enumerate(side)):
        raise ValueError("has nodes that go round")


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals or key in fields:
            raise ValueError(f"the text of the trees holds a damaged line: {line[:60]!r}")
        fields[key] = value
    return fields


def _whole(fields: dict[str, str], key: str, count: int | None = None) -> list[int]:
    """Whole numbers, written as LightGBM writes them: no other spelling that the two readers might take differently."""
    text = fields[key]
    if text and not re.fullmatch(r"-?[0-9]{1,10}( -?[0-9]{1,10})*", text):
        raise ValueError(f"has a damaged {key}")
    values = [int(value) for value in text.split()]
    if count is not None and len(values) != count:
        raise ValueError(f"has {len(values)} values of {key} where {count} belong")
    return values


def _check_values(fields: dict[str, str], key: str, count: int) -> None:
    text = fields[key]
    if text and not re.fullmatch(r"[-+0-9.e]+( [-+0-9.e]+)*", text):
        raise ValueError(f"has a damaged {key}")
    values = np.array(text.split(), np.float64)
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"has {len(values)} values of {key} where {count} belong, or one that is not finite")
