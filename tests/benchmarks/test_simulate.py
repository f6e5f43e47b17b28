"""What the simulated data promises: reproducible, rare positives, groups, and neither trivial nor hopeless to learn."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.simulate import (
    BACKGROUND_GENOMES,
    BASES,
    POSITIVE_GENOMES,
    main,
    simulate_dna,
    simulate_genomes,
    simulate_protein,
    simulate_reads,
    write_reads,
)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def canonical_4mers(letters: np.ndarray) -> np.ndarray:
    """Count 4-mers and their reverse complements together, (n, 136); 4-mers with N are left out."""
    codes = np.searchsorted(BASES[:4], letters).astype(np.int64)
    known = np.isin(letters, BASES[:4])
    windows = np.lib.stride_tricks.sliding_window_view(codes, 4, axis=1) @ 4 ** np.arange(3, -1, -1)
    whole = np.lib.stride_tricks.sliding_window_view(known, 4, axis=1).all(axis=2)
    counts = np.zeros((len(letters), 256))
    np.add.at(counts, (np.nonzero(whole)[0], windows[whole]), 1)
    kmers = np.arange(256)
    partner = sum((3 - (kmers >> 2 * place & 3)) << 2 * (3 - place) for place in range(4))
    return (counts + counts[:, partner])[:, kmers <= partner]


@pytest.mark.parametrize("seed", [1, 2])
def test_composition_separates_the_clades_in_part(seed: int) -> None:
    rng = generator(seed)
    genomes = simulate_genomes(rng)
    reads = simulate_reads(genomes, 6000, 0.04, rng)
    label = genomes.positive[reads.genome]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    by_genome = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    score = cross_val_predict(
        model, canonical_4mers(reads.letters), label, groups=reads.genome, cv=by_genome, method="predict_proba"
    )
    assert 0.7 < roc_auc_score(label, score[:, 1]) < 0.97


def test_reads_are_where_the_labels_say() -> None:
    rng = generator(3)
    genomes = simulate_genomes(rng)
    reads = simulate_reads(genomes, 4000, 0.25, rng)
    assert genomes.positive[reads.genome].sum() == 1000
    wrong = np.zeros(4)
    for letters, genome, start, reverse in zip(reads.letters, reads.genome, reads.start, reads.reverse, strict=True):
        first = genomes.starts[genome] + start
        assert start + 150 <= genomes.lengths[genome]
        bases = genomes.bases[first : first + 150]
        truth = BASES[3 - bases[::-1]] if reverse else BASES[bases]
        wrong += [(letters != truth).sum(), (letters == ord("N")).sum(), reverse, letters.size]
    assert 0.0045 < wrong[0] / wrong[3] < 0.0065
    assert 0.0003 < wrong[1] / wrong[3] < 0.0007
    assert 0.45 < wrong[2] / 4000 < 0.55


def test_genomes_of_a_clade_are_related() -> None:
    genomes = simulate_genomes(generator(1))
    assert genomes.positive.sum() == POSITIVE_GENOMES
    assert (~genomes.positive).sum() == BACKGROUND_GENOMES
    assert genomes.lengths.min() >= 20_000
    assert genomes.lengths.max() <= 60_000

    def words(genome: int) -> set[bytes]:
        first = genomes.starts[genome]
        text = genomes.bases[first : first + genomes.lengths[genome]].tobytes()
        return {text[i : i + 16] for i in range(len(text) - 15)}

    # Each clade has a circular ancestor of about 75 kb: many pieces overlap, and share 16-mers only by descent.
    positives = [words(genome) for genome in np.flatnonzero(genomes.positive)]
    related = [len(one & other) for i, one in enumerate(positives) for other in positives[:i]]
    unrelated = [len(words(genome) & positives[0]) for genome in range(10)]
    assert np.median(related) > 50
    assert max(unrelated) < 10


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_reads(tmp_path / name, 500, 0.04, seed)
    for file in ("reads.fa.gz", "labels.tsv", "README.txt"):
        a, b, c = [(tmp_path / name / file).read_bytes() for name in "abc"]
        assert a == b
        assert a != c


def test_the_command_writes_reads_labels_and_says_what_they_are(tmp_path: Path) -> None:
    begun = time.process_time()
    done = CliRunner().invoke(main, [str(tmp_path / "out")])
    assert time.process_time() - begun < 3
    assert done.exit_code == 0, done.output
    fasta = gzip.decompress((tmp_path / "out" / "reads.fa.gz").read_bytes()).decode().splitlines()
    header, *rows = [line.split("\t") for line in (tmp_path / "out" / "labels.tsv").read_text().splitlines()]
    assert header == ["id", "label", "group", "clade", "start", "strand"]
    assert [line.removeprefix(">") for line in fasta[::2]] == [row[0] for row in rows]
    assert {len(line) for line in fasta[1::2]} == {150}
    assert len(rows) == 20_000
    assert sum(row[1] == "1" for row in rows) == 800
    assert all((row[1] == "1") == (row[3] == "positive") and row[2].startswith(row[3]) for row in rows)
    assert {row[5] for row in rows} == {"+", "-"}
    assert "not real" in (tmp_path / "out" / "README.txt").read_text()


@pytest.mark.parametrize(("simulate", "alphabet"), [(simulate_dna, "ACGT"), (simulate_protein, "ACDEFGHIKLMNPQRSTVWY")])
def test_throughput_sequences_have_the_lengths_asked_for(
    simulate: Callable[[int, tuple[int, int, int], np.random.Generator], list[str]], alphabet: str
) -> None:
    sequences = simulate(3000, (100, 430, 1000), generator(1))
    lengths = np.array([len(sequence) for sequence in sequences])
    assert len(sequences) == 3000
    assert (lengths.min(), lengths.max()) >= (100, 900)
    assert lengths.max() <= 1000
    assert abs(lengths.mean() - 430) < 20
    assert set("".join(sequences)) == set(alphabet)
    assert sequences == simulate(3000, (100, 430, 1000), generator(1))
    assert simulate(0, (100, 430, 1000), generator(1)) == []
