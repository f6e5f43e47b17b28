"""The rank-value encoding: a cell as its genes' tokens, the gene first that stands out most.

Theodoris et al., Transfer learning enables predictions in network biology, Nature 618, 2023 (Methods, "Rank value encoding
of transcriptomes"), as the authors' TranscriptomeTokenizer does it. With c the counts of a cell, n their sum and m the
median of a gene's nonzero normalised counts over the pretraining corpus,

    value of a gene = c / n * 10,000 / m

Genes with a count are put in the order of falling values, and the first `limit` stay. n is the sum over all genes that the
input has, also those without a token, as the authors' column n_counts is; it is the same for all genes of a cell, so that it
decides no rank. Genes with one token are one gene, whose counts are summed.

The authors sort with numpy's quicksort, which leaves the order of equal values to the machine. Here they keep the order of
the input's genes, so that one input has the same tokens everywhere.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from embedcache.cells.vocabulary import GeneMap, GeneVocabulary
from embedcache.sources.cells import lists_as_text

TARGET_SUM = 10_000.0


class Ranking:
    """Ranks the genes of blocks of cells that all have the same genes.

    Parameters
    ----------
    genes : tokens and medians of the G genes; those without either are left out.
    most : how many genes of a cell stay.
    """

    def __init__(self, genes: GeneMap, most: int) -> None:
        with_token = genes.with_medians()
        kept = np.flatnonzero(with_token.tokens >= 0)
        tokens, first, place = np.unique(with_token.tokens[kept], return_index=True, return_inverse=True)
        order = np.argsort(first)  # columns in the order in which the input first names their gene
        self.tokens = tokens[order].astype(np.int64)
        self.medians = with_token.medians[kept][first[order]]
        self.most = most
        self._column = np.full(len(genes.tokens), -1, np.int64)
        self._column[kept] = np.argsort(order)[place]

    def __call__(self, counts: sparse.csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rank cells by their counts (n, G): the tokens of all cells end to end, and how many each has (n,)."""
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        known = self._by_token(counts)
        lengths = np.diff(known.indptr)
        values = known.data / np.repeat(totals, lengths) * TARGET_SUM / self.medians[known.indices]
        order = np.empty(len(values), np.int64)
        bounds = known.indptr.tolist()
        for start, stop in pairwise(bounds):  # 5 times as fast as one sort by cell and value
            order[start:stop] = start + np.argsort(-values[start:stop], kind="stable")
        rank = np.arange(len(values)) - np.repeat(known.indptr[:-1], lengths)
        return self.tokens[known.indices[order[rank < self.most]]], np.minimum(lengths, self.most).astype(np.int64)

    def _by_token(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Counts (n, T) by token, float64, without zeros, each row in the order of `tokens`."""
        columns = self._column[counts.indices]
        kept = columns >= 0
        before = np.concatenate([[0], np.cumsum(kept)])
        by_token = sparse.csr_matrix(
            (counts.data[kept].astype(np.float64), columns[kept], before[counts.indptr]),
            shape=(counts.shape[0], len(self.tokens)),
        )
        by_token.sum_duplicates()
        by_token.eliminate_zeros()
        return by_token


def cells_as_text(tokens: NDArray[np.int64], lengths: NDArray[np.int64], vocabulary: GeneVocabulary) -> pa.Array:
    """Write ranked tokens, end to end, as the text of n cells, framed by the encoder's special tokens, if it has any."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if vocabulary.cls is not None and vocabulary.eos is not None:
        places = np.stack([starts[:-1], starts[1:]], axis=1).ravel()
        tokens = np.insert(tokens, places, np.tile([vocabulary.cls, vocabulary.eos], len(lengths)))
        starts = starts + 2 * np.arange(len(starts))
    return lists_as_text(pa.LargeListArray.from_arrays(pa.array(starts), pa.array(tokens)))
