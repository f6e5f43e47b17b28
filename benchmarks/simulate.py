"""Simulated data with known truth: labelled reads of two clades, and plain sequences for throughput benchmarks.

The labelled set stands for a common task: find the few reads of one clade of viruses among many of another. Every
value comes from ``Generator(PCG64(seed))``; the same seed gives the same files.

1. *Ancestor.* Genes (60-500 codons, both strands) between stretches of 50-400 bases. Proteins are drawn from mean
   amino acid frequencies (UniProtKB/Swiss-Prot statistics), codons from a random synonymous usage, the stretches from
   a Markov chain of order 3 whose rows are Dirichlet draws.
2. *Clades* (background, positive). The logarithms of codon usage and of the Markov rows drift apart by `DRIFT`, with
   a tilt of `GC_TILT` towards or away from G and C; a fifth of the amino acids are replaced. Layout and protein ends
   are kept, so that clades are related as distant families are.
3. *Genomes* (40 background, 12 positive; 20-60 kb). Each is a piece of its clade's ancestor, in which 5-25 % of the
   bases were substituted, drawn from a GC content of the genome's own (standard deviation `GENOME_GC_SD`). Reads of
   one genome are therefore more alike than reads of two, and a split that ignores the group looks too good.
4. *Reads* of 150 bases from both strands, 0.5 % of the bases misread, 0.05 % N. Four in a hundred are positive.

`DRIFT` and `GC_TILT` are set so that logistic regression on canonical 4-mers, split by genome, reaches an AUROC of
about 0.85 (20,000 reads: 0.83 with seed 1, 0.80-0.91 with seeds 1-8; average precision 0.22-0.48): something is to be
learnt from composition, and something is left for an encoder to find.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

BACKGROUND_GENOMES, POSITIVE_GENOMES = 40, 12
READ_LENGTH = 150
ANCESTOR_LENGTH = 70_000
DRIFT = 0.5
GC_TILT = 0.29
GENOME_GC_SD = 0.05
AMINO_ACID_CHANGES = 0.2
SUBSTITUTIONS = (0.05, 0.25)
MISREAD, UNREAD = 0.005, 0.0005

BASES = np.frombuffer(b"ACGTN", np.uint8)
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
# Per cent of residues in UniProtKB/Swiss-Prot (its release statistics), in the order of AMINO_ACIDS.
AMINO_ACID_PERCENT = (
    *(8.25, 1.38, 5.46, 6.71, 3.86, 7.07, 2.27, 5.91, 5.79, 9.64),
    *(2.41, 4.06, 4.74, 3.93, 5.52, 6.65, 5.36, 6.85, 1.10, 2.92),
)
# The standard genetic code in the order AAA, AAC, AAG, AAT, ACA, ... (NCBI translation table 1).
CODE = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
CODONS = np.array(list(product(range(4), repeat=3)), np.uint8)
IS_GC = np.array([0, 1, 1, 0])

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Composition:
    """What a lineage prefers: logarithms of weights, (20, 64) codons per amino acid and (64, 4) bases per 3-mer."""

    codon_usage: Floats
    transitions: Floats

    def drifted(self, tilt: float, rng: np.random.Generator) -> Composition:
        """Return the preferences of a descendant: random drift, and `tilt` per G or C in codon ends and next bases."""
        usage = self.codon_usage + DRIFT * rng.standard_normal(64) + tilt * IS_GC[CODONS[:, 2]]
        return Composition(usage, self.transitions + DRIFT * rng.standard_normal((64, 4)) + tilt * IS_GC)


@dataclass(frozen=True)
class Genomes:
    """All genomes end to end as base codes 0-3, with their bounds, names and clades."""

    bases: Bytes
    starts: Ints
    lengths: Ints
    names: list[str]
    positive: NDArray[np.bool_]


@dataclass(frozen=True)
class Reads:
    """Reads as letters (n, 150), and where they came from."""

    letters: Bytes
    genome: Ints
    start: Ints
    """First base in the genome, counted from 0 on its forward strand."""
    reverse: NDArray[np.bool_]


def simulate_dna(n: int, lengths: tuple[int, int, int], rng: np.random.Generator) -> list[str]:
    """Return `n` DNA sequences of an order-3 Markov chain; `lengths` as in `draw_lengths`, in nucleotides."""
    sizes = draw_lengths(n, lengths, rng)
    transitions = np.log(rng.dirichlet([8.0] * 4, size=64))
    return _cut(BASES[_markov(int(sizes.sum()), transitions, rng)], sizes)


def simulate_protein(n: int, lengths: tuple[int, int, int], rng: np.random.Generator) -> list[str]:
    """Return `n` proteins of mean composition that start with M; `lengths` as in `draw_lengths`, in residues."""
    sizes = draw_lengths(n, lengths, rng)
    letters = np.frombuffer(AMINO_ACIDS.encode(), np.uint8)[_residues(int(sizes.sum()), rng)]
    letters[np.cumsum(sizes) - sizes] = ord("M")
    return _cut(letters, sizes)


def draw_lengths(n: int, lengths: tuple[int, int, int], rng: np.random.Generator) -> Ints:
    """Return `n` lengths from a log-normal distribution; `lengths` is (shortest, mean, longest)."""
    shortest, mean, longest = lengths
    sigma = 0.45
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, size=n)
    return np.clip(np.rint(drawn), shortest, longest).astype(np.int64)


def simulate_genomes(rng: np.random.Generator) -> Genomes:
    """Return the genomes of both clades, background first (steps 1 to 3 of the module's text)."""
    in_code = np.array([[aa == letter for letter in CODE] for aa in AMINO_ACIDS])
    usage = np.where(in_code, 0.7 * rng.standard_normal(64), -np.inf)
    root = Composition(usage, np.log(rng.dirichlet([8.0] * 4, size=64)))
    gene_codons = rng.integers(60, 500, size=ANCESTOR_LENGTH // 1000)
    gaps = rng.integers(50, 400, size=gene_codons.size)
    forward = rng.random(gene_codons.size) < 0.5
    proteins = _residues(int(gene_codons.sum()), rng)

    genomes, names = [], []
    for clade, count, tilt in (("background", BACKGROUND_GENOMES, -GC_TILT), ("positive", POSITIVE_GENOMES, GC_TILT)):
        composition = root.drifted(tilt, rng)
        changed = rng.random(proteins.size) < AMINO_ACID_CHANGES
        residues = np.where(changed, _residues(proteins.size, rng), proteins)
        ancestor = _genome(residues, gene_codons, gaps, forward, composition, rng)
        genomes += [_descendant(ancestor, rng) for _ in range(count)]
        names += [f"{clade}_{number:02d}" for number in range(1, count + 1)]
    lengths = np.array([genome.size for genome in genomes])
    positive = np.arange(len(names)) >= BACKGROUND_GENOMES
    return Genomes(np.concatenate(genomes), np.cumsum(lengths) - lengths, lengths, names, positive)


def simulate_reads(genomes: Genomes, reads: int, positives: float, rng: np.random.Generator) -> Reads:
    """Return `reads` reads in random order, of which the fraction `positives` is from the positive clade."""
    wanted = round(reads * positives)
    genome = np.empty(reads, np.int64)
    for part, chosen in ((genome[:wanted], genomes.positive), (genome[wanted:], ~genomes.positive)):
        weights = genomes.lengths * chosen
        part[:] = rng.choice(genomes.lengths.size, size=part.size, p=weights / weights.sum())
    rng.shuffle(genome)
    start = rng.integers(0, genomes.lengths[genome] - READ_LENGTH + 1)
    reverse = rng.random(reads) < 0.5

    bases = genomes.bases[(genomes.starts[genome] + start)[:, None] + np.arange(READ_LENGTH)]
    bases[reverse] = 3 - bases[reverse, ::-1]
    misread = rng.random(bases.shape, np.float32) < MISREAD
    bases[misread] = (bases[misread] + rng.integers(1, 4, size=int(misread.sum()))) % 4
    bases[rng.random(bases.shape, np.float32) < UNREAD] = 4
    return Reads(BASES[bases], genome, start, reverse)


def _genome(
    residues: Ints,
    gene_codons: Ints,
    gaps: Ints,
    forward: NDArray[np.bool_],
    composition: Composition,
    rng: np.random.Generator,
) -> Bytes:
    """Write proteins as genes between random stretches, in the given layout and with the lineage's preferences."""
    codons = _draw(composition.codon_usage, residues, rng)
    between = _markov(int(gaps.sum()), composition.transitions, rng)
    pieces: list[Bytes] = []
    first_codon, first_base = np.cumsum(gene_codons) - gene_codons, np.cumsum(gaps) - gaps
    for gene, gap, codon, base, plus in zip(gene_codons, gaps, first_codon, first_base, forward, strict=True):
        start, stop = CODE.index("M"), CODE.index("*")
        coding = CODONS[[start, *codons[codon : codon + gene], stop]].ravel()
        pieces += [between[base : base + gap], coding if plus else 3 - coding[::-1]]
    return np.concatenate(pieces)


def _descendant(ancestor: Bytes, rng: np.random.Generator) -> Bytes:
    """Return a genome that descends from its clade's (circular) ancestor: a piece of it, with substitutions."""
    length = rng.integers(20_000, 60_001)
    genome = np.roll(ancestor, -rng.integers(ancestor.size))[:length]
    gc = np.clip(IS_GC[ancestor].mean() + GENOME_GC_SD * rng.standard_normal(), 0.2, 0.8)
    new = rng.choice(4, size=genome.size, p=np.where(IS_GC == 1, gc, 1 - gc) / 2).astype(np.uint8)
    return np.where(rng.random(genome.size) < rng.uniform(*SUBSTITUTIONS), new, genome)


def _residues(n: int, rng: np.random.Generator) -> Ints:
    percent = np.array(AMINO_ACID_PERCENT)
    return rng.choice(percent.size, size=n, p=percent / percent.sum())


def _draw(log_weights: Floats, rows: Ints, rng: np.random.Generator) -> Ints:
    """Draw one column for each of `rows`, with probabilities proportional to exp(log_weights[row])."""
    bounds = np.exp(log_weights).cumsum(axis=1)
    bounds /= bounds[:, -1:]
    # Row r owns the interval [r, r + 1) of one long line, so that one search serves all rows.
    line = (bounds + np.arange(len(bounds))[:, None]).ravel()
    found = np.searchsorted(line, rows + rng.random(rows.size), side="right")
    columns: Ints = np.minimum(found - rows * bounds.shape[1], bounds.shape[1] - 1)
    return columns


def _markov(n: int, transitions: Floats, rng: np.random.Generator) -> Bytes:
    """Return `n` bases of an order-3 chain, as many short chains run side by side and joined."""
    chains = max(1, min(4096, n // 200))
    steps = -(-n // chains)
    bases = np.empty((chains, steps), np.uint8)
    state = rng.integers(0, 64, size=chains)
    for step in range(steps):
        base = _draw(transitions, state, rng)
        bases[:, step] = base
        state = (state * 4 + base) % 64
    return bases.ravel()[:n]


def _cut(letters: Bytes, sizes: Ints) -> list[str]:
    text = letters.tobytes().decode("ascii")
    ends = np.cumsum(sizes).tolist()
    return [text[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True)]


def write_reads(folder: Path, reads: int, positives: float, seed: int) -> None:
    """Write reads.fa.gz, labels.tsv and README.txt into `folder`; existing files are replaced."""
    rng = np.random.Generator(np.random.PCG64(seed))
    genomes = simulate_genomes(rng)
    drawn = simulate_reads(genomes, reads, positives, rng)
    ids = [f"read_{number:06d}" for number in range(1, reads + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    fasta = "".join(f">{name}\n{sequence}\n" for name, sequence in zip(ids, _rows(drawn.letters), strict=True))
    # Without a time stamp, so that the same seed gives the same bytes.
    (folder / "reads.fa.gz").write_bytes(gzip.compress(fasta.encode(), compresslevel=6, mtime=0))
    label = genomes.positive[drawn.genome].astype(int).tolist()
    group = [genomes.names[genome] for genome in drawn.genome]
    strand = np.where(drawn.reverse, "-", "+").tolist()
    columns = zip(ids, label, group, drawn.start.tolist(), strand, strict=True)
    lines = [f"{i}\t{y}\t{g}\t{g.partition('_')[0]}\t{start}\t{way}" for i, y, g, start, way in columns]
    (folder / "labels.tsv").write_text("\n".join(["id\tlabel\tgroup\tclade\tstart\tstrand", *lines, ""]))
    (folder / "README.txt").write_text(
        "Simulated, not real: "
        f"`python -m benchmarks.simulate OUTDIR --reads {reads} --positives {positives} --seed {seed}`\n"
        f"{reads} reads of {READ_LENGTH} bases, {sum(label)} of them from the positive clade (label 1).\n"
        "labels.tsv: id, label, group (the genome a read is from: never split it), clade, start (from 0), strand.\n\n"
        f"{(__doc__ or '').strip()}\n"
    )


def _rows(letters: Bytes) -> Sequence[str]:
    return _cut(letters.ravel(), np.full(len(letters), letters.shape[1]))


@click.command()
@click.argument("folder", metavar="OUTDIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--reads", default=20_000, show_default=True, type=click.IntRange(1), help="Number of reads.")
@click.option("--positives", default=0.04, show_default=True, type=click.FloatRange(0, 1), help="Fraction of label 1.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Same seed, same files.")
def main(folder: Path, reads: int, positives: float, seed: int) -> None:
    """Simulate labelled reads of two clades into OUTDIR: reads.fa.gz, labels.tsv, README.txt."""
    write_reads(folder, reads, positives, seed)
    click.echo(f"{reads} reads in {folder / 'reads.fa.gz'}, labels and groups in {folder / 'labels.tsv'}")


if __name__ == "__main__":
    main()
