"""LightGBM's trees as the attributes of ONNX's TreeEnsembleRegressor (ai.onnx.ml, version 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedcache.errors import HeadError

if TYPE_CHECKING:
    from heads.trees.model import Trees


def tree_nodes(trees: Trees) -> dict[str, Any]:
    """Return the attributes; raw scores (n, outputs) are the sums of the leaves.

    Raises HeadError where a split treats zeros as missing, which ONNX cannot say.
    """
    found = _Nodes()
    for number, tree in enumerate(trees.booster.dump_model()["tree_info"]):
        found.add(number, number % trees.outputs, tree["tree_structure"])
    return {
        **found.nodes,
        **found.leaves,
        "n_targets": trees.outputs,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
    }


class _Nodes:
    def __init__(self) -> None:
        names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
        self.nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in (*names, "missing_value_tracks_true")}
        self.leaves: dict[str, list[Any]] = {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add(self, tree: int, output: int, root: dict[str, Any]) -> None:
        """Add a tree whose leaves count for one of the outputs; nodes are numbered as they are met."""
        waiting, numbers = [(root, 0)], 1
        while waiting:
            node, number = waiting.pop()
            if "leaf_value" in node:
                self._node(tree, number, 0, "LEAF", 0.0, 0, 0, 0)
                for name, value in zip(self.leaves, (tree, number, output, float(node["leaf_value"])), strict=True):
                    self.leaves[name].append(value)
                continue
            if node["missing_type"] == "Zero" or node["decision_type"] != "<=":
                raise HeadError(
                    "--to onnx: these trees take zeros as missing, which ONNX has no word for; model.txt in the head's "
                    "folder is LightGBM's own text, which LightGBM reads in every language"
                )
            children = numbers, numbers + 1
            numbers += 2
            self._node(
                tree, number, node["split_feature"], "BRANCH_LEQ", _below(node["threshold"]), *children,
                int(node["default_left"]),
            )  # fmt: skip
            waiting += [(node["left_child"], children[0]), (node["right_child"], children[1])]

    def _node(self, *values: object) -> None:
        for column, value in zip(self.nodes.values(), values, strict=True):
            column.append(value)


def _below(threshold: float) -> float:
    """The largest float32 that is not above a threshold: the same float32 features are below both."""
    single = np.float32(threshold)
    return float(single if float(single) <= threshold else np.nextafter(single, np.float32(-np.inf)))
