"""The rank-value encoding: the published rule, gene by gene, on whole blocks of cells."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from embedcache.cells.rank import Ranking, cells_as_text
from embedcache.cells.vocabulary import GeneVocabulary

GENES = [f"ENSG{number:011d}" for number in range(40)]
TOKENS = {gene: 100 + at for at, gene in enumerate(GENES[:30])}  # the last ten have no token
MEDIANS = dict(zip(GENES, np.random.default_rng(1).uniform(0.2, 5, 40).tolist(), strict=True))
VOCABULARY = GeneVocabulary(TOKENS, 4096, None, None, MEDIANS)


def one_cell(counts: NDArray[np.float64], most: int = 4096) -> list[int]:
    """One cell by the words of the paper: divide, scale, divide by the median, sort."""
    known = [at for at in range(40) if counts[at] and GENES[at] in TOKENS]
    values = np.array([counts[at] / counts.sum() * 10_000 / MEDIANS[GENES[at]] for at in known])
    return [TOKENS[GENES[known[at]]] for at in np.argsort(-values, kind="stable")][:most]


def ranked(counts: NDArray[np.float64], names: list[str] = GENES, most: int = 4096) -> list[list[int]]:
    tokens, lengths = Ranking(VOCABULARY.map(names), most)(sparse.csr_matrix(counts))
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


def random_counts(cells: int = 50, genes: int = 40, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.5, 4, (cells, genes))).astype(float)


def test_blocks_are_ranked_as_single_cells_are() -> None:
    counts = random_counts()
    assert ranked(counts) == [one_cell(cell) for cell in counts]


def test_the_lowest_ranks_are_cut_off() -> None:
    counts = random_counts()
    assert ranked(counts, most=5) == [one_cell(cell, 5) for cell in counts]


def test_depth_and_genes_without_a_token_do_not_change_the_order() -> None:
    counts = random_counts()
    deeper = counts * 7
    deeper[:, 30:] += 1000
    assert ranked(deeper) == ranked(counts)


def test_equal_values_keep_the_order_of_the_input() -> None:
    medians = dict.fromkeys(GENES, 1.0)
    genes = GeneVocabulary(TOKENS, 4096, None, None, medians).map(GENES)
    tokens, _ = Ranking(genes, 4096)(sparse.csr_matrix(np.ones((1, 40))))
    assert tokens.tolist() == list(range(100, 130))
    back = GeneVocabulary(TOKENS, 4096, None, None, medians).map(GENES[::-1])
    tokens, _ = Ranking(back, 4096)(sparse.csr_matrix(np.ones((1, 40))))
    assert tokens.tolist() == list(range(129, 99, -1))


def test_genes_with_one_token_are_summed() -> None:
    counts = random_counts()
    split = np.concatenate([counts, np.zeros((50, 1))], axis=1)
    moved = np.floor(split[:, 3] / 2)
    split[:, 3] -= moved
    split[:, 40] = moved
    assert ranked(split, [*GENES, f"{GENES[3]}.7"]) == ranked(counts)


def test_a_gene_without_a_median_is_left_out() -> None:
    lacking = {gene: median for gene, median in MEDIANS.items() if gene != GENES[0]}
    genes = GeneVocabulary(TOKENS, 4096, None, None, lacking).map(GENES)
    tokens, _ = Ranking(genes, 4096)(sparse.csr_matrix(np.ones((1, 40))))
    assert sorted(tokens.tolist()) == list(range(101, 130))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32])
def test_counts_of_every_type_give_the_same_tokens(dtype: type[np.generic]) -> None:
    counts = np.minimum(random_counts(), 200)
    genes = VOCABULARY.map(GENES)
    expected = Ranking(genes, 4096)(sparse.csr_matrix(counts))[0]
    assert Ranking(genes, 4096)(sparse.csr_matrix(counts.astype(dtype)))[0].tolist() == expected.tolist()


def test_cells_are_framed_by_special_tokens_from_v2_on() -> None:
    tokens, lengths = np.array([7, 8, 9]), np.array([2, 0, 1])
    framed = GeneVocabulary({"a": 7}, 10, 2, 3)
    assert cells_as_text(tokens, lengths, framed).to_pylist() == ["2 7 8 3", "2 3", "2 9 3"]
    assert cells_as_text(tokens, lengths, GeneVocabulary({"a": 7}, 10, None, None)).to_pylist() == ["7 8", "", "9"]
    assert framed.genes == 8
