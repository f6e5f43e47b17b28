"""A genome in FASTA, read by place: indexed, from plain or bgzip files, or unpacked once where it is plain gzip."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pysam
from numpy.typing import NDArray

from embedcache.sources.files import input_file
from embedcache.sources.seekable import Seekable

_GAP, _RUN = 1 << 14, 1 << 22
"""Letters between two stretches that are read rather than passed over, and letters that are read at once."""


class Reference:
    """The contigs of a genome.

    The index (``.fai``, for bgzip ``.gzi`` too) is made beside the file where it is not there or older than the genome;
    where that folder cannot be written to, it lies in a temporary folder, which goes with this object, as does the copy
    that a plain gzip file is unpacked to.

    Raises
    ------
    InputError : the file is not FASTA, is damaged, or cannot be indexed.
    """

    def __init__(self, path: str) -> None:
        self.file = input_file(path, attach=False)
        self._check_is_fasta()
        self._seekable = Seekable(self.file)
        self.path, self.remarks = self._seekable.path, self._seekable.remarks
        self._indexes = self._index()
        with self.opened() as fasta:
            self.lengths: dict[str, int] = dict(zip(fasta.references, fasta.lengths, strict=True))

    @property
    def name(self) -> str:
        """As the user named the file."""
        return self.file.name

    @contextmanager
    def opened(self) -> Iterator[pysam.FastaFile]:
        """Open the genome for `stretches`."""
        try:
            with quiet(), pysam.FastaFile(str(self.path), *map(str, self._indexes)) as fasta:
                yield fasta
        except (OSError, ValueError) as error:
            raise self.file.error(f"the genome cannot be read ({error}); remove its index, or copy it again") from None

    def unknown(self, contig: str) -> str:
        """Say that there is no such contig, and which ones there are."""
        other = contig.removeprefix("chr") if contig.startswith("chr") else f"chr{contig}"
        names = list(self.lengths)
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6:,} more" if names[6:] else "")
        hint = f"; the genome says {other!r}: name contigs alike" if other in self.lengths else ""
        return f"there is no contig {contig!r} in {self.name}, which has {shown}{hint}"

    def stretches(
        self, fasta: pysam.FastaFile, contigs: list[str], first_n: NDArray[np.int64], stop_n: NDArray[np.int64]
    ) -> list[bytes]:
        """Letters [first, stop) of contigs as they are in the file, in any order; stretches lie within their contigs.

        Neighbours are read together, so that sites that lie close cost one reading; about 4 MB are held at a time beside
        what is returned.
        """
        found = [b""] * len(contigs)
        rows = sorted(range(len(contigs)), key=lambda row: (contigs[row], first_n[row]))
        firsts, stops = first_n[rows].tolist(), stop_n[rows].tolist()
        at = 0
        while at < len(rows):
            contig, begin = contigs[rows[at]], firsts[at]
            end, after = stops[at], at + 1
            while after < len(rows) and contigs[rows[after]] == contig:
                if firsts[after] > end + _GAP or stops[after] > begin + _RUN:
                    break
                end, after = max(end, stops[after]), after + 1
            run = fasta.fetch(contig, begin, end).encode()
            for which in range(at, after):
                found[rows[which]] = run[firsts[which] - begin : stops[which] - begin]
            at = after
        return found

    def _check_is_fasta(self) -> None:
        line, head = self.file.head
        if not head:
            raise self.file.error("the genome is empty")
        if not head.startswith(b">"):
            raise self.file.error("the genome is not FASTA: expected a line that starts with '>'", line)

    def _index(self) -> tuple[Path, ...]:
        """The index files, made where they are not there."""
        endings = (".fai", ".gzi") if self.file.gzipped and self.path == self.file.path else (".fai",)
        beside = tuple(self.path.with_name(self.path.name + ending) for ending in endings)
        changed = self.path.stat().st_mtime
        if all(index.exists() and index.stat().st_mtime >= changed for index in beside):
            return beside
        contigs = self._count_contigs()
        made = tuple(self._seekable.folder / f"index{ending}" for ending in endings)
        options = [
            word for name, file in zip(("--fai-idx", "--gzi-idx"), made, strict=False) for word in (name, str(file))
        ]
        try:
            with quiet():
                pysam.faidx(str(self.path), *options)
        except pysam.SamtoolsError:
            raise self.file.error(
                "the genome cannot be indexed: all lines of a contig but the last must have one length; `seqkit seq -w 80` "
                "writes it so"
            ) from None
        if len(made[0].read_text().splitlines()) < contigs:
            raise self.file.error("a contig is there twice, or has no name; give each a name of its own")
        try:
            for new, index in zip(made, beside, strict=True):
                _put(new, index)
        except OSError:
            self.remarks.append(f"         the index of {self.name} is made for this run: its folder is read-only")
            return made
        return beside

    def _count_contigs(self) -> int:
        """Headers in the file; reading it all finds damage that the index does not tell."""
        count, last = 0, b"\n"
        with self.file.reading() as stream:
            while block := stream.read(1 << 22):
                count += (last + block).count(b"\n>")
                last = block[-1:]
        return count


@contextmanager
def quiet() -> Iterator[None]:
    """Keep htslib from writing to the screen what is said as an error anyway."""
    before = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(before)


def _put(file: Path, place: Path) -> None:
    """Copy a file to its place whole or not at all, whoever else does so."""
    partial = place.with_name(f"{place.name}.partial-{os.getpid()}")
    try:
        shutil.copyfile(file, partial)
        partial.replace(place)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
