"""A head, its steps and its calibration as one ONNX graph: float32 features in, what `heads predict` writes out.

Products run in float32 as they do here; what comes after the scores runs in float64, so that probabilities near 0 and 1 stay
what they are.

Axes: n rows, D features, C columns of the outputs, J columns that are calibrated each by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedcache.errors import HeadError
from heads.data.features import Standardisation
from heads.data.target import Kind
from heads.deciding.calibration import LEAST, Calibrator, Curve, Line
from heads.head import Head
from heads.linear.logistic import LogisticModel
from heads.linear.prototype import PrototypeModel
from heads.linear.quantile import QuantileModel
from heads.linear.ridge import RidgeModel
from heads.perceptron.ensemble import EnsembleModel
from heads.perceptron.mlp_model import MLPModel
from heads.steps import Normalise, Project, Scale, Step
from heads.trees.boosting import BoostingModel
from heads.trees.tree_nodes import tree_nodes

if TYPE_CHECKING:
    from onnx import ModelProto

    from heads.deciding.decisions import Decisions
    from heads.linear.linear_map import LinearMap

OPSET = 18
"""Of ai.onnx: read by onnxruntime 1.14 (2023) and later."""
ML_OPSET = 3
"""Of ai.onnx.ml, for trees."""
IR_VERSION = 8
"""The file format that came with the opset."""
INPUT, OUTPUT = "features", "outputs"


def build(head: Head, steps: Sequence[Step], decisions: Decisions) -> ModelProto:
    """Return the graph: `INPUT` (n, D) float32 -> `OUTPUT` (n, C) float32.

    Raises HeadError where there is no form of the head in ONNX.
    """
    from onnx import TensorProto, checker, helper

    graph = Graph()
    values = INPUT
    dim = head.dim
    for step in reversed(steps):
        dim = _width_before(step, dim)
    for step in steps:
        values = graph.step(step, values)
    outputs = graph.calibrated(decisions, graph.head(head, values))
    graph.nodes.append(helper.make_node("Cast", [outputs], [OUTPUT], to=TensorProto.FLOAT))
    made = helper.make_graph(
        graph.nodes,
        "head",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", dim])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", head.outputs])],
        graph.initialisers,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == "ai.onnx.ml" for node in graph.nodes):
        opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
    model = helper.make_model(made, producer_name="embedcache", opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model)
    return model


def _width_before(step: Step, dim: int) -> int:
    return len(step.centre) if isinstance(step, Project) else dim


class Graph:
    """Nodes and constants; every method takes names of values and returns the name of a new one."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """Add a node with one output."""
        from onnx import helper

        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, values: object) -> str:
        """Add an array or a tensor in its own type."""
        from onnx import numpy_helper

        array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        name = f"constant_{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def double(self, values: str) -> str:
        from onnx import TensorProto

        return self.node("Cast", values, to=TensorProto.DOUBLE)

    def single(self, values: str) -> str:
        from onnx import TensorProto

        return self.node("Cast", values, to=TensorProto.FLOAT)

    def columns(self, values: str, *which: int) -> str:
        """Some columns of (n, C)."""
        return self.node("Gather", values, self.constant(np.array(which, np.int64)), axis=1)

    def negated(self, values: str) -> str:
        """1 - values, in float64."""
        return self.node("Sub", self.constant(1.0), values)

    # what is done before

    def step(self, step: Step, values: str) -> str:
        """Apply a step to float32 features."""
        if isinstance(step, Normalise):
            lengths = self.node("ReduceL2", values, self.constant(np.array([1])), keepdims=1)
            return self.node("Div", values, self.node("Max", lengths, self.constant(np.finfo(np.float32).tiny)))
        if isinstance(step, Scale):
            return self.standardised(step.standardisation, values)
        assert isinstance(step, Project)
        return self.node("MatMul", self.centred(step.centre, values), self.constant(step.axes.float()))

    def centred(self, centre: torch.Tensor, values: str) -> str:
        """Features less their means, in the precision of the means, as float32."""
        if centre.dtype == torch.float64:
            return self.single(self.node("Sub", self.double(values), self.constant(centre)))
        return self.node("Sub", values, self.constant(centre))

    def standardised(self, standardisation: Standardisation, values: str) -> str:
        """`Standardisation.apply_`."""
        return self.node("Mul", self.centred(standardisation.centre, values), self.constant(standardisation.factor))

    # heads

    def head(self, head: Head, values: str) -> str:
        """Outputs of a head as float64 from float32 features."""
        if isinstance(head, EnsembleModel):
            members = [self.head(member, values) for member in head.members]
            return self.node("Div", self.node("Sum", *members), self.constant(float(len(members))))
        if isinstance(head, LogisticModel):
            scores = self.linear(head.standardisation, head.weights, head.intercepts, values)
            if head.multilabel:
                return self.linked("multilabel", scores)
            return self.linked("multiclass" if len(head.weights) > 1 else "binary", scores)
        if isinstance(head, PrototypeModel):
            return self.linked("multiclass", self.map(head.map, values))
        if isinstance(head, RidgeModel):
            return self.map(head.map, values)
        if isinstance(head, QuantileModel):
            return self.rising(self.map(head.map, values), head.outputs)
        if isinstance(head, MLPModel):
            return self.perceptron(head, values)
        if isinstance(head, BoostingModel):
            return self.trees(head, values)
        if head.kind == "knn":
            raise HeadError(
                "--to onnx: a knn head has no form in ONNX: its neighbours are ordered in more than the float32 of a graph; "
                "take --to sklearn, whose neighbours are the same"
            )
        raise HeadError(
            f"--to onnx: a {head.kind} head has no form in ONNX; lr, ridge, quantile, mlp, lightgbm and prototype have, and "
            "ensembles of them"
        )

    def linear(
        self, standardisation: Standardisation, weights_CD: torch.Tensor, intercepts_C: torch.Tensor, values: str
    ) -> str:
        """Scores (n, C) in float64 of products in float32."""
        products = self.node("MatMul", self.standardised(standardisation, values), self.constant(weights_CD.T.float()))
        return self.node("Add", self.double(products), self.constant(intercepts_C.double()))

    def map(self, linear: LinearMap, values: str) -> str:
        return self.linear(linear.standardisation, linear.weights, linear.intercepts, values)

    def perceptron(self, head: MLPModel, values: str) -> str:
        hidden = self.standardised(head.standardisation, values)
        for layer, (weight, bias) in enumerate(zip(head.perceptron.weights, head.perceptron.biases, strict=True)):
            hidden = self.node("Relu", hidden) if layer else hidden
            hidden = self.node("Add", self.node("MatMul", hidden, self.constant(weight[0])), self.constant(bias[0, 0]))
        scaled = self.node("Mul", self.double(hidden), self.constant(head.scale))
        scores = self.node("Add", scaled, self.constant(head.shift))
        return self.rising(scores, head.outputs) if head.target == "regression" else self.linked(head.target, scores)

    def trees(self, head: BoostingModel, values: str) -> str:
        """Boosters of each member beside each other, linked, and the mean over the members."""
        each, members = len(head.trees) // head.members, []
        for first in range(0, len(head.trees), each):
            linked = []
            for trees, start in list(zip(head.trees, head.start, strict=True))[first : first + each]:
                raw = self.node("TreeEnsembleRegressor", values, domain="ai.onnx.ml", **tree_nodes(trees))
                scores = self.node("Add", self.double(raw), self.constant(np.array(start)))
                # the last axis is the one that Softmax takes where none is named
                linked.append(self.node(head.link.capitalize(), scores))
            together = self.node("Concat", *linked, axis=1)
            if head.target == "binary":
                together = self.node("Concat", self.negated(together), together, axis=1)
            elif head.target == "multiclass":
                together = self.to_sum_1(together, head.outputs)
            elif head.target == "regression":
                together = self.rising(together, head.outputs)
            members.append(together)
        return self.node("Div", self.node("Sum", *members), self.constant(float(len(members))))

    def linked(self, kind: Kind, scores: str) -> str:
        """Probabilities (n, C) of scores, of two classes (n, 1)."""
        if kind == "multilabel":
            return self.node("Sigmoid", scores)
        if kind == "multiclass":
            return self.node("Softmax", scores, axis=1)
        no, yes = self.node("Sigmoid", self.node("Neg", scores)), self.node("Sigmoid", scores)
        return self.node("Concat", no, yes, axis=1)

    def rising(self, values: str, columns: int) -> str:
        """Each row sorted."""
        from onnx import helper

        if columns == 1:
            return values
        output = f"sorted_{len(self.nodes)}"
        count = self.constant(np.array([columns]))
        self.nodes.append(
            helper.make_node("TopK", [values, count], [output, f"{output}_places"], axis=1, largest=0, sorted=1)
        )
        return output

    def to_sum_1(self, yes: str, columns: int) -> str:
        """Divide each row by its sum; a row of zeros becomes all alike."""
        sums = self.node("ReduceSum", yes, self.constant(np.array([1])), keepdims=1)
        empty = self.node("Equal", sums, self.constant(0.0))
        divided = self.node("Div", yes, self.node("Where", empty, self.constant(1.0), sums))
        return self.node("Where", empty, self.constant(1 / columns), divided)

    # what is done after

    def calibrated(self, decisions: Decisions, outputs: str) -> str:
        """What `Decisions.apply` gives for outputs."""
        kind, columns = decisions.kind, decisions.columns
        if kind == "regression":
            return self.rising(outputs, columns)
        if decisions.prior is not None:
            weighted = self.node("Mul", outputs, self.constant(np.array(decisions.prior.factors)))
            if kind == "multilabel":
                outputs = self.node("Div", weighted, self.node("Add", weighted, self.negated(outputs)))
            else:
                outputs = self.to_sum_1(weighted, columns)
        return (
            outputs if decisions.calibrator is None else self.calibrator(decisions.calibrator, kind, columns, outputs)
        )

    def calibrator(self, calibrator: Calibrator, kind: Kind, columns: int, outputs: str) -> str:
        """`Calibrator.apply`."""
        if kind == "multiclass" and calibrator.method == "temperature":
            (line,) = calibrator.columns
            assert isinstance(line, Line)
            return self.node("Softmax", self.node("Mul", self.log(outputs), self.constant(line.slope)), axis=1)
        made = []
        for place, column in enumerate(calibrator.columns):
            yes = self.columns(outputs, 1 if kind == "binary" else place)
            no = self.columns(outputs, 0) if kind == "binary" else self.negated(yes)
            made.append(self.curve(column, yes) if isinstance(column, Curve) else self.line(column, yes, no))
        yes_columns, no_columns = (self.node("Concat", *part, axis=1) for part in zip(*made, strict=True))
        if kind == "binary":
            return self.node("Concat", no_columns, yes_columns, axis=1)
        return self.to_sum_1(yes_columns, columns) if kind == "multiclass" else yes_columns

    def log(self, values: str) -> str:
        return self.node("Log", self.node("Max", values, self.constant(LEAST)))

    def line(self, line: Line, yes: str, no: str) -> tuple[str, str]:
        odds = self.node("Sub", self.log(yes), self.log(no))
        scores = self.node("Add", self.node("Mul", odds, self.constant(line.slope)), self.constant(line.offset))
        return self.node("Sigmoid", scores), self.node("Sigmoid", self.node("Neg", scores))

    def curve(self, curve: Curve, yes: str) -> tuple[str, str]:
        """Value of the first knot, and for each stretch its slope times how far the score has come along it."""
        knots, values = np.array(curve.scores), np.array(curve.values)
        if len(knots) == 1:
            knots, values = np.array([knots[0], knots[0] + 1]), np.repeat(values, 2)
        low, high = self.constant(knots[:-1]), self.constant(knots[1:])
        along = self.node("Sub", self.node("Min", self.node("Max", yes, low), high), low)
        slopes = self.constant((np.diff(values) / np.diff(knots))[:, None])
        risen = self.node("Add", self.node("MatMul", along, slopes), self.constant(values[0]))
        return risen, self.negated(risen)
