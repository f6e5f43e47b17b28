"""Multinomial naive Bayes on cells: what the genes of a cell and their ranks say without any encoder.

A cell is a list of gene tokens, the most expressed gene first. Expression follows Zipf's law - the share of transcripts
of the gene of rank r falls as 1/r (Furusawa and Kaneko, Phys. Rev. Lett. 90, 088102, 2003) - so 1/r stands for the counts
that the ranks were made of, and the multinomial model of counts holds for it. Presence alone, 1 for every gene of the list,
is the other choice; the validation rows choose.

Axes: n cells, V genes, C classes, L labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import torch

from embedcache.errors import HeadError
from embedcache.sequences.alphabet import Letters
from heads.data.features import Rows
from heads.data.target import Codes, Doubles, Target
from heads.head import Settings, load_tensors, save_tensors
from heads.json_values import mapping
from heads.judging.metrics import better, score

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Weighting = Literal["rank", "presence"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
SMOOTHINGS = (0.01, 0.1, 1.0)
"""Counts added to every gene of every class (Lidstone); 1 is Laplace's rule."""
_NEVER = -1e300
BYTES_PER_TOKEN = 24
"""Of memory while a matrix is made: its index and value, and the number that was read."""


def gene_matrix(cells: Iterable[pa.Array], weighting: Weighting) -> csr_matrix:
    """Return (n, V) weights of the genes of each cell, from the text of the cells' token ids, as float32.

    Raises HeadError where a cell holds something other than whole numbers with blanks between them.
    """
    from scipy.sparse import csr_matrix

    genes, lengths = [], []
    for part in cells:
        letters = Letters.of(part)
        if not np.isin(letters.bytes_, list(b"0123456789 ")).all():
            raise HeadError("a cell holds something other than token ids such as '144 1486 1256'")
        for start, stop in zip(letters.offsets[:-1].tolist(), letters.offsets[1:].tolist(), strict=True):
            tokens = np.array(bytes(letters.bytes_[start:stop]).split(), np.int32)
            genes.append(tokens)
            lengths.append(len(tokens))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    flat = np.concatenate(genes) if genes else np.empty(0, np.int32)
    if weighting == "rank":
        ranks = np.arange(len(flat)) - np.repeat(offsets[:-1], lengths) + 1
        weights = (1 / ranks).astype(np.float32)
    else:
        weights = np.ones(len(flat), np.float32)
    return csr_matrix((weights, flat, offsets), shape=(len(lengths), int(flat.max(initial=0)) + 1))


@dataclass(frozen=True)
class NaiveBayes:
    """Fitted models: one for the classes, or one for each label.

    `tables` hold log probabilities of the genes (classes, V) and of the classes (classes,), in float64; genes beyond V are
    left out.
    """

    weighting: Weighting
    multilabel: bool
    tables: tuple[tuple[Doubles, Doubles], ...]

    def __call__(self, cells: list[pa.Array]) -> Doubles:
        """Outputs (n, C) of the text of n cells."""
        return self.of_matrix(gene_matrix(cells, self.weighting))

    def of_matrix(self, weights_nV: csr_matrix) -> Doubles:
        """Outputs (n, C) of cells by the weights of their genes."""
        found = [_probabilities(weights_nV, genes_cV, classes_c) for genes_cV, classes_c in self.tables]
        return np.stack([label[:, 1] for label in found], axis=1) if self.multilabel else found[0]

    def save(self, folder: Path) -> Settings:
        """Write head.safetensors."""
        tensors: dict[str, torch.Tensor] = {}
        for place, (genes_cV, classes_c) in enumerate(self.tables):
            tensors |= {f"{place}.genes": torch.from_numpy(genes_cV), f"{place}.classes": torch.from_numpy(classes_c)}
        save_tensors(folder, tensors)
        return {"weighting": self.weighting, "multilabel": self.multilabel}

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        """Invert `save`; raises as `heads.head.Head.load` does."""
        fields, tensors = mapping(settings, "weighting", "multilabel"), load_tensors(folder)
        tables = []
        for place in range(len(tensors) // 2):
            genes_cV, classes_c = tensors[f"{place}.genes"].double(), tensors[f"{place}.classes"].double()
            if genes_cV.ndim != 2 or genes_cV.shape[:1] != classes_c.shape:
                raise ValueError("the tables of naive Bayes do not fit each other")
            tables.append((genes_cV.numpy(), classes_c.numpy()))
        if fields["weighting"] not in WEIGHTINGS or not tables or not isinstance(fields["multilabel"], bool):
            raise ValueError("the settings of naive Bayes are none that this program makes")
        return cls(fields["weighting"], fields["multilabel"], tuple(tables))


def naive_bayes(
    cells: list[pa.Array], target: Target, train: Rows, val: Rows, metric: str
) -> tuple[NaiveBayes, Doubles]:
    """Return a model and its outputs (n, C) of all cells; every choice is made by the metric on the validation rows.

    Parameters
    ----------
    cells : the text of the n cells.
    target : of the n cells: classes, or several labels.
    train, val : positions of the rows that are fitted, and that choose.
    """
    tried: list[tuple[float, NaiveBayes, Doubles]] = []
    for weighting in WEIGHTINGS:
        weights_nV = gene_matrix(cells, weighting)
        for smoothing in SMOOTHINGS:
            model = _fit(weights_nV, target, train, smoothing, weighting)
            outputs = model.of_matrix(weights_nV)
            tried.append((score(target.take(val), outputs[val], metric), model, outputs))
    best = tried[0]
    for trial in tried[1:]:
        if better(metric, trial[0], best[0]):
            best = trial
    return best[1:]


def _fit(weights_nV: csr_matrix, target: Target, train: Rows, smoothing: float, weighting: Weighting) -> NaiveBayes:
    if target.kind == "multilabel":
        tables = [_table(weights_nV, codes, train, 2, smoothing) for codes in target.values.T]
        return NaiveBayes(weighting, True, tuple(tables))
    codes = target.values.astype(np.int64)
    return NaiveBayes(weighting, False, (_table(weights_nV, codes, train, len(target.names), smoothing),))


def _table(
    weights_nV: csr_matrix, codes_n: Codes, train: Rows, classes: int, smoothing: float
) -> tuple[Doubles, Doubles]:
    """Log probabilities of genes and classes; a class without training rows has a probability that is as good as 0."""
    from sklearn.naive_bayes import MultinomialNB

    fitted = MultinomialNB(alpha=smoothing).fit(weights_nV[train], codes_n[train])
    genes_cV, classes_c = np.zeros((classes, weights_nV.shape[1])), np.full(classes, _NEVER)
    genes_cV[fitted.classes_], classes_c[fitted.classes_] = fitted.feature_log_prob_, fitted.class_log_prior_
    return genes_cV, classes_c


def _probabilities(weights_nV: csr_matrix, genes_cV: Doubles, classes_c: Doubles) -> Doubles:
    """Probabilities (n, classes)."""
    from scipy.special import softmax

    known = min(weights_nV.shape[1], genes_cV.shape[1])
    scores_nc = weights_nV[:, :known] @ genes_cV[:, :known].T + classes_c
    return np.asarray(softmax(scores_nc, axis=1), np.float64)
