"""A saved head for programs without embedcache: one ONNX file, or a folder that scikit-learn alone can load.

Both give the outputs that `heads predict` writes, after prior correction and calibration; thresholds by stratum are in the
metadata (`about`) and not applied, and conformal sets stay with the head.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcache.errors import HeadError
from heads.data.features import Standardisation
from heads.deciding.calibration import Line
from heads.deciding.decisions import Decisions
from heads.head import Head
from heads.linear.logistic import LogisticModel
from heads.linear.prototype import PrototypeModel
from heads.linear.quantile import QuantileModel
from heads.linear.ridge import RidgeModel
from heads.neighbours import KNNModel
from heads.perceptron.ensemble import EnsembleModel
from heads.perceptron.mlp_model import MLPModel
from heads.steps import Project, Scale, Step

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from heads.saving.saved import SavedHead

MODULE, WEIGHTS = "sklearn_head.py", "weights.npz"
Floats = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[np.generic]]


def export_onnx(saved: SavedHead, file: Path) -> None:
    """Write a head as one ONNX file; what is not part of the graph is in its metadata (`about`).

    Raises HeadError where the package onnx is missing, the head has no form in ONNX, or the file cannot be written.
    """
    if find_spec("onnx") is None:
        raise HeadError("--to onnx needs the package onnx: pip install 'embedcache[export]'")
    from onnx import helper

    from heads.saving.onnx_graph import build

    model = build(saved.head, _steps(saved), saved.decisions)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in about(saved).items()})
    _write(file, model.SerializeToString())


def export_sklearn(saved: SavedHead, folder: Path) -> None:
    """Write a folder of two files, ``sklearn_head.py`` and ``weights.npz``; its `load` gives a fitted pipeline.

    Raises HeadError where scikit-learn has no twin of the head, or the folder cannot be written.
    """
    layout, arrays = _twin(saved)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / WEIGHTS, allow_pickle=False, layout=np.array(json.dumps(layout)), **arrays)
    except OSError as error:
        raise HeadError(f"--output {folder} cannot be written: {error.strerror}") from None
    _write(folder / MODULE, Path(__file__).with_name(MODULE).read_bytes())


def to_sklearn(saved: SavedHead) -> Pipeline:
    """Return a head as a fitted scikit-learn pipeline; raises HeadError where there is no twin of it."""
    from heads.saving.sklearn_head import pipeline

    return pipeline(*_twin(saved))


def about(saved: SavedHead) -> dict[str, Any]:
    """What a program must know that runs an exported head, as JSON has it."""
    card, threshold, cuts = saved.card, saved.decisions.threshold, saved.decisions.thresholds
    return {
        "kind": card.kind,
        "target": card.target,
        "names": list(card.names),
        "label": list(card.label),
        "quantiles": list(saved.head.quantiles),
        "thresholds": list(threshold) if isinstance(threshold, tuple) else [] if threshold is None else [threshold],
        "strata": card.strata,
        "thresholds_by_stratum": {} if cuts is None else {name: list(one) for name, one in cuts.strata.items()},
        "fingerprint": card.fingerprint,
        "encoder": dict(card.encoder),
    }


def _steps(saved: SavedHead) -> Sequence[Step]:
    return () if saved.steps is None else saved.steps.steps


def refuse_existing(output: Path) -> None:
    """Raise HeadError where a file, or a folder that holds something, would be overwritten."""
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise HeadError(f"--output {output} is there already: name another one, or give --overwrite")


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise HeadError(f"--output {file} cannot be written: {error.strerror}") from None


# scikit-learn


@dataclass(frozen=True)
class _Layers:
    """A perceptron, of one layer a linear model: weights (in, out) and biases (out,) in float64."""

    kind: str
    standardisation: Standardisation
    weights: Sequence[Floats]
    biases: Sequence[Floats]

    def scaled(self, slopes: Floats | float, offsets: Floats | float) -> _Layers:
        """The same with scores times `slopes` plus `offsets`."""
        weights, biases = list(self.weights), list(self.biases)
        weights[-1], biases[-1] = weights[-1] * slopes, biases[-1] * slopes + offsets
        return _Layers(self.kind, self.standardisation, weights, biases)

    def arrays(self, at: str) -> Arrays:
        """By the names that `heads.saving.sklearn_head` reads."""
        named: Arrays = {
            f"{at}.centre": _plain(self.standardisation.centre),
            f"{at}.factor": _plain(self.standardisation.factor),
        }
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named |= {f"{at}.weight{layer}": weight, f"{at}.bias{layer}": bias}
        return named


def _twin(saved: SavedHead) -> tuple[dict[str, Any], Arrays]:
    """What `heads.saving.sklearn_head.pipeline` takes."""
    head, decisions = saved.head, saved.decisions
    steps = _steps(saved)
    arrays: Arrays = {}
    for place, step in enumerate(steps):
        if isinstance(step, Scale):
            scale = step.standardisation
            arrays |= {f"steps.{place}.centre": _plain(scale.centre), f"steps.{place}.factor": _plain(scale.factor)}
        elif isinstance(step, Project):
            arrays |= {f"steps.{place}.centre": _plain(step.centre), f"steps.{place}.axes": _plain(step.axes)}
    values = {**about(saved), "steps": [step.name for step in steps]}
    if isinstance(head, KNNModel):
        more, found = _neighbours(head, decisions)
        return {**values, **more, "head": "neighbours"}, arrays | found
    if isinstance(head, EnsembleModel):
        if saved.card.target == "multilabel" or decisions.prior is not None or decisions.calibrator is not None:
            raise _no_twin("an ensemble of labels, or one that is calibrated")
        members = [_layers(member) for member in head.members]
        for place, layers in enumerate(members):
            arrays |= layers.arrays(f"head.{place}")
        return {**values, "head": "ensemble", "members": [layers.kind for layers in members]}, arrays
    layers = _with_decisions(_layers(head), decisions)
    return {**values, "head": layers.kind}, arrays | layers.arrays("head")


def _neighbours(head: KNNModel, decisions: Decisions) -> tuple[dict[str, Any], Arrays]:
    """Settings and rows of neighbours that scikit-learn's own estimators poll alike."""
    why = ""
    if head.index != "exact":
        why = f"neighbours found by an approximate index ({head.index})"
    elif head.quantiles:
        why = "quantiles of neighbours"
    elif len(np.unique(head.votes.numpy())) > 1:
        why = "neighbours whose votes are weighted by class or by row: scikit-learn's know their distances only, so one"
    elif decisions.prior is not None or decisions.calibrator is not None:
        why = "neighbours with a calibration or a prior correction"
    if why:
        raise _no_twin(why, "`heads predict` gives the scores; train with --index exact and without weights for a twin")
    values_NM = _plain(head.values)
    if head.target in ("binary", "multiclass"):
        if not values_NM.any(0).all():
            raise _no_twin("neighbours of which none is of one of the classes", "`heads predict` gives the scores")
        values_NM = values_NM.argmax(1)[:, None]
    settings = {"k": head.k, "metric": head.metric, "temperature": head.temperature}
    return settings, {"head.rows": head.rows.numpy(), "head.values": values_NM}


def _layers(head: Head) -> _Layers:
    if isinstance(head, LogisticModel):
        return _Layers("logistic", head.standardisation, [_plain(head.weights).T], [_plain(head.intercepts)])
    if isinstance(head, PrototypeModel):
        weights_DK, intercepts_K = _plain(head.map.weights).T, _plain(head.map.intercepts)
        if head.outputs == 2:  # of two classes the difference of the scores is the log odds
            weights_DK, intercepts_K = np.diff(weights_DK, axis=1), np.diff(intercepts_K)
        return _Layers("logistic", head.map.standardisation, [weights_DK], [intercepts_K])
    if isinstance(head, RidgeModel | QuantileModel) and head.outputs == 1:
        return _Layers("linear", head.map.standardisation, [_plain(head.map.weights).T], [_plain(head.map.intercepts)])
    if isinstance(head, MLPModel) and not (head.target == "regression" and head.outputs > 1):
        weights = [_plain(weight[0]) for weight in head.perceptron.weights]
        biases = [_plain(bias[0, 0]) for bias in head.perceptron.biases]
        return _Layers("perceptron", head.standardisation, weights, biases).scaled(head.scale, head.shift)
    if head.kind == "lightgbm":
        raise HeadError(
            "--to sklearn: trees have no twin in scikit-learn; model.txt in the head's folder is LightGBM's own text, which "
            "LightGBM reads in every language, and --to onnx makes one file"
        )
    what = "several quantiles, which are put in order," if len(head.quantiles) > 1 else f"a {head.kind} head"
    raise _no_twin(what)


def _no_twin(what: str, way_out: str = "take --to onnx") -> HeadError:
    return HeadError(f"--to sklearn: there is no twin of {what} here; {way_out}")


def _with_decisions(layers: _Layers, decisions: Decisions) -> _Layers:
    """Prior correction and lines through the log odds become part of the last layer: scores are log odds."""
    kind = decisions.kind
    if decisions.prior is not None:
        offsets = np.log(decisions.prior.factors)
        layers = layers.scaled(1.0, offsets[1:] - offsets[:1] if kind == "binary" else offsets)
    if decisions.calibrator is None:
        return layers
    lines = [line for line in decisions.calibrator.columns if isinstance(line, Line)]
    alike = kind == "multiclass" and decisions.calibrator.method == "temperature"
    if not lines or (kind == "multiclass" and not alike):
        raise _no_twin(
            f"{decisions.calibrator.method} calibration of {'three classes and more' if lines else 'scores'}"
        )
    return layers.scaled(np.array([line.slope for line in lines]), np.array([line.offset for line in lines]))


def _plain(tensor: Any) -> Floats:
    return np.asarray(tensor.detach().cpu().double().numpy(), np.float64)
