"""Multinomial naive Bayes on cells: what the genes of a cell and their ranks say without any encoder.

A cell is a list of gene tokens, the most expressed gene first. Expression follows Zipf's law - the share of transcripts
of the gene of rank r falls as 1/r (Furusawa and Kaneko, Phys. Rev. Lett. 90, 088102, 2003) - so 1/r stands for the counts
that the ranks were made of, and the multinomial model of counts holds for it. Presence alone, 1 for every gene of the list,
is the other choice; the validation rows choose.

Axes: n cells, V genes, C classes, L labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa

from embedcache.alphabet import Letters
from embedcache.errors import HeadError
from heads.features import Rows
from heads.metrics import better, score
from heads.target import Codes, Doubles, Target

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Weighting = Literal["rank", "presence"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
SMOOTHINGS = (0.01, 0.1, 1.0)
"""Counts added to every gene of every class (Lidstone); 1 is Laplace's rule."""
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


def naive_bayes(cells: list[pa.Array], target: Target, train: Rows, val: Rows, metric: str) -> tuple[Doubles, str]:
    """Return outputs (n, C) of all cells, and the weighting; every choice is made by the metric on the validation rows.

    Parameters
    ----------
    cells : the text of the n cells.
    target : of the n cells: classes, or several labels.
    train, val : positions of the rows that are fitted, and that choose.
    """
    tried: list[tuple[float, Doubles, Weighting]] = []
    for weighting in WEIGHTINGS:
        weights_nV = gene_matrix(cells, weighting)
        for smoothing in SMOOTHINGS:
            outputs = _outputs(weights_nV, target, train, smoothing)
            tried.append((score(target.take(val), outputs[val], metric), outputs, weighting))
    best = tried[0]
    for trial in tried[1:]:
        if better(metric, trial[0], best[0]):
            best = trial
    return best[1:]


def _outputs(weights_nV: csr_matrix, target: Target, train: Rows, smoothing: float) -> Doubles:
    if target.kind == "multilabel":
        labels = [_probabilities(weights_nV, codes, train, 2, smoothing)[:, 1] for codes in target.values.T]
        return np.stack(labels, axis=1)
    return _probabilities(weights_nV, target.values.astype(np.int64), train, len(target.names), smoothing)


def _probabilities(weights_nV: csr_matrix, codes_n: Codes, train: Rows, classes: int, smoothing: float) -> Doubles:
    """Probabilities (n, classes); a class without training rows has 0."""
    from sklearn.naive_bayes import MultinomialNB

    fitted = MultinomialNB(alpha=smoothing).fit(weights_nV[train], codes_n[train])
    found = np.zeros((len(codes_n), classes))
    found[:, fitted.classes_] = fitted.predict_proba(weights_nV)
    return found
