"""``--genome G.fa --sites SITES``: the letters around sites, read by place and turned to the strand of each site.

A record holds the widest stretch that any view of it needs (see `embedcache.sequences.views`), from 5' to 3' on the site's
strand, so that the base at index ``center`` is the site itself. Of a variant, the allele begins there, and both records of a
pair have the same number of letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import pyarrow as pa
import pysam
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE
from embedcache.sequences.alphabet import reverse_complement
from embedcache.sequences.views import View
from embedcache.sources.batches import BATCH_LETTERS, BATCH_ROWS, first_fault
from embedcache.sources.files import InputFile
from embedcache.sources.reference import Reference
from embedcache.sources.sites import OWN, Sites, SiteTable
from embedcache.sources.variants import VCF_EXTENSIONS, VariantTable

_SHOWN = 3


@dataclass(frozen=True)
class Cutting:
    """How windows are cut out of a genome."""

    views: tuple[View, ...]
    edge: str = "pad"
    """Of windows that reach over the end of a contig: ``pad`` with N, ``drop`` or ``shorten``."""
    skip_bad: bool = False
    """Leave sites out that cannot be used; otherwise the first one is an error."""

    @cached_property
    def before(self) -> int:
        """Letters before the site that the widest view needs."""
        return max(view.before for view in self.views)

    @cached_property
    def after(self) -> int:
        """Letters from the site on, itself included."""
        return max(view.after for view in self.views)

    @cached_property
    def least_before(self) -> int:
        """Letters before the site without which a view has none at all."""
        return int(any(not view.after for view in self.views))


class GenomeWindows:
    """A reader (`embedcache.sources.batches.Reader`) of the windows around the sites of one file.

    Raises
    ------
    InputError
        On opening: as `Reference`, `SiteTable` and `VariantTable`. While reading: the first site that lies outside the
        genome, has no strand or place, or, of a variant, another reference than the genome, with its place in the file.
    """

    def __init__(self, reference: Reference, sites: SiteTable | VariantTable, cutting: Cutting) -> None:
        self.reference, self.sites, self.cutting = reference, sites, cutting
        self.file = sites.file
        self.text = sites.text
        number = pa.string() if self.text else pa.int64()
        own = dict(zip(OWN, (number, pa.string(), number, pa.string()), strict=True))
        self.schema = pa.schema([*own.items(), *sites.schema])
        self._counts = _Counts()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What became of the sites in the last full pass."""
        return (*self.reference.remarks, *self.sites.remarks, *self._counts.lines(self))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all windows from the start."""
        counts, found = _Counts(), False
        with self.reference.opened() as fasta:
            for sites in self._sites():
                windows = self._windows(sites, fasta, counts)
                if windows.kept:
                    found = True
                    yield self._batch(sites, windows)
        self._counts = counts
        if not found:
            raise self.file.error("none of its sites can be used:\n" + "\n".join(counts.lines(self)))

    def places(self) -> Iterator[str]:
        """Say for window after window where its site stands in the file."""
        rows = enumerate(self.sites.places())
        at, place = next(rows, (0, ""))
        with self.reference.opened() as fasta:
            for sites in self._sites():
                for row in sites.rows[self._windows(sites, fasta, _Counts()).kept].tolist():
                    while at < row:
                        at, place = next(rows)
                    yield place

    def _sites(self) -> Iterator[Sites]:
        """The sites, at most 16,384 at a time, and no more than 64 MB of windows; pairs stay together."""
        rows = max(2, min(BATCH_ROWS, BATCH_LETTERS // (self.cutting.before + self.cutting.after)) // 2 * 2)
        for sites in self.sites.batches():
            for first in range(0, len(sites.contigs), rows):
                yield sites if rows >= len(sites.contigs) else _part(sites, first, first + rows)

    def _windows(self, sites: Sites, fasta: pysam.FastaFile, counts: _Counts) -> _Windows:
        """Cut the windows of some sites; those that cannot be used are counted, or raise `InputError`."""
        faults, lengths = dict(sites.faults), self.reference.lengths
        for row, (contig, site) in enumerate(zip(sites.contigs, sites.sites.tolist(), strict=True)):
            if row in faults:
                continue
            if contig not in lengths:
                faults[row] = self.reference.unknown(contig)
            elif site >= lengths[contig]:
                faults[row] = (
                    f"position {sites.positions[row]:,} lies outside {contig}, which has {lengths[contig]:,} letters in "
                    f"{self.reference.name} (positions count from {self.sites.base})"
                )
        good = np.asarray([row for row in range(len(sites.contigs)) if row not in faults], np.int64)
        first_n, stop_n, over_n2 = self._bounds(sites, good)
        contigs = [sites.contigs[row] for row in good.tolist()]
        stretches = self.reference.stretches(fasta, contigs, first_n, stop_n)
        cut = _Windows()
        for row, stretch, over in zip(good.tolist(), stretches, over_n2.tolist(), strict=True):
            turned = reverse_complement(stretch) if sites.minus[row] else stretch
            center = self.cutting.before - over[0]
            fault = self._fault(sites, row, turned, center)
            if fault is not None:
                faults[row] = fault
            elif not any(over) or self.cutting.edge != "drop":
                cut.add(row, *self._window(sites, row, turned, center))
            if fault is None and any(over):
                counts.over += 1
                counts.missing += sum(over)
        if faults and not self.cutting.skip_bad:
            row = min(faults)
            raise self._error(int(sites.rows[row]), faults[row])
        counts.add_bad(sites, faults)
        return cut if sites.alleles is None else cut.in_pairs()

    def _bounds(
        self, sites: Sites, good: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of sites inside the genome: the letters [first, stop) of their contigs that windows have, and how many more they
        would have before the site and after it on its strand, (n, 2)."""
        at, minus = sites.sites[good], sites.minus[good]
        before, after = self.cutting.before, np.full(len(good), self.cutting.after)
        if sites.alleles is not None:
            reference, alleles = sites.alleles
            longer = [len(reference[row]) - min(len(alleles[row]), self.cutting.after) for row in good.tolist()]
            after = np.maximum(after + np.asarray(longer, np.int64), [len(reference[row]) for row in good.tolist()])
        lengths = np.asarray([self.reference.lengths[sites.contigs[row]] for row in good.tolist()], np.int64)
        first = np.where(minus, at - after + 1, at - before)
        stop = np.where(minus, at + before + 1, at + after)
        over_first, over_stop = np.maximum(-first, 0), np.maximum(stop - lengths, 0)
        over = np.stack((np.where(minus, over_stop, over_first), np.where(minus, over_first, over_stop)), axis=1)
        return np.maximum(first, 0), np.minimum(stop, lengths), over

    def _fault(self, sites: Sites, row: int, stretch: bytes, center: int) -> str | None:
        """What is wrong with a site as it is seen in the genome."""
        if center < self.cutting.least_before:
            return f"position {sites.positions[row]:,} has no letter upstream of it on {sites.contigs[row]}"
        if sites.alleles is not None:
            reference = sites.alleles[0][row]
            found = stretch[center : center + len(reference)].decode().upper()
            if found != reference:
                return (
                    f"the reference allele is {reference} and the genome has {found} at {sites.contigs[row]}:"
                    f"{sites.positions[row]}; {self.reference.name} may be another assembly"
                )
        return None

    def _window(self, sites: Sites, row: int, stretch: bytes, center: int) -> tuple[bytes, int]:
        """The letters of a window, and the index of the site in them."""
        before, after = self.cutting.before, self.cutting.after
        if sites.alleles is not None:
            reference, allele = sites.alleles[0][row], sites.alleles[1][row]
            stretch = (stretch[:center] + allele.encode() + stretch[center + len(reference) :])[: center + after]
        if self.cutting.edge == "pad":
            return (b"N" * (before - center) + stretch).ljust(before + after, b"N"), before
        return stretch, center

    def _batch(self, sites: Sites, windows: _Windows) -> pa.RecordBatch:
        kept = pa.array(windows.kept, pa.int64())
        contigs = [sites.contigs[row] for row in windows.kept]
        positions = [sites.positions[row] for row in windows.kept]
        strands = ["-" if sites.minus[row] else "+" for row in windows.kept]
        if sites.names is None:
            ids = [f"{contig}:{at}:{way}" for contig, at, way in zip(contigs, positions, strands, strict=True)]
        else:
            ids = [sites.names[row] for row in windows.kept]
        number = self.schema.field("center").type
        own = [pa.array(windows.centers).cast(number), pa.array(contigs, pa.string())]
        own += [pa.array(positions, pa.int64()).cast(number), pa.array(strands, pa.string())]
        sequences = pa.array(windows.letters, pa.large_binary()).cast(pa.large_string())
        fault = first_fault(pa.array(ids, pa.string()), sequences)
        if fault is not None:
            row = int(sites.rows[windows.kept[fault.row]])
            raise self._error(
                row, f"{fault.found} is among its letters" if fault.column == "sequence" else "it has no id"
            )
        arrays = [pa.array(ids, pa.string()), sequences, *own, *(column.take(kept) for column in sites.columns)]
        return pa.RecordBatch.from_arrays(arrays, names=[ID, SEQUENCE, *self.schema.names])

    def _error(self, row: int, what: str) -> InputError:
        way_out = "" if self.cutting.skip_bad else "; correct it, or leave such sites out with --skip-bad"
        return self.file.error(f"{what}{way_out}", next(islice(self.sites.places(), row, None)))


@dataclass
class _Windows:
    """Windows that were cut, and the sites (rows of a batch) they are of."""

    kept: list[int] = field(default_factory=list)
    letters: list[bytes] = field(default_factory=list)
    centers: list[int] = field(default_factory=list)

    def add(self, row: int, letters: bytes, center: int) -> None:
        self.kept.append(row)
        self.letters.append(letters)
        self.centers.append(center)

    def in_pairs(self) -> _Windows:
        """Those of which the other one of the pair is there too."""
        there = {*self.kept}
        both = [at for at, row in enumerate(self.kept) if row ^ 1 in there]
        return _Windows(
            [self.kept[at] for at in both], [self.letters[at] for at in both], [self.centers[at] for at in both]
        )


@dataclass
class _Counts:
    """What became of the sites in one pass."""

    over: int = 0
    missing: int = 0
    bad: int = 0
    first_bad: list[tuple[int, str]] = field(default_factory=list)

    def add_bad(self, sites: Sites, faults: dict[int, str]) -> None:
        rows = dict(sorted((int(sites.rows[row]), fault) for row, fault in faults.items()))
        self.bad += len(rows)
        self.first_bad += [*rows.items()][: _SHOWN - len(self.first_bad)]

    def lines(self, windows: GenomeWindows) -> Iterator[str]:
        if self.over:
            padded = f"filled with {self.missing:,} N"
            fate = {"pad": padded, "drop": "left out", "shorten": "shorter"}[windows.cutting.edge]
            over = counted(self.over, "window reaches over the end of its", "windows reach over the end of their")
            yield f"         {over} contig and {'is' if self.over == 1 else 'are'} {fate} (--edge)"
        if self.bad:
            sites = counted(self.bad, f"site of {windows.file.name} is", f"sites of {windows.file.name} are")
            yield f"         {sites} left out (--skip-bad), the first:"
            for row, what in self.first_bad:
                yield f"           {next(islice(windows.sites.places(), row, None))}: {what}"


def _part(sites: Sites, first: int, stop: int) -> Sites:
    """Some neighbours out of a batch of sites."""
    alleles = None if sites.alleles is None else (sites.alleles[0][first:stop], sites.alleles[1][first:stop])
    return Sites(
        sites.rows[first:stop],
        sites.contigs[first:stop],
        sites.sites[first:stop],
        sites.positions[first:stop],
        sites.minus[first:stop],
        None if sites.names is None else sites.names[first:stop],
        [column.slice(first, stop - first) for column in sites.columns],
        {row - first: fault for row, fault in sites.faults.items() if first <= row < stop},
        alleles,
    )


def open_sites(
    file: InputFile, coordinates: int | None, anchor: str | None, id_column: str | None
) -> SiteTable | VariantTable:
    """Open a file of sites, told by its name or its first bytes; raises `InputError` as the two do."""
    if file.extension not in VCF_EXTENSIONS and not file.head[1].startswith(b"##fileformat=VCF"):
        return SiteTable(file, coordinates, anchor or "center", id_column)
    given = {"--coordinates": coordinates, "--anchor": anchor, "--id-column": id_column}
    if useless := [name for name, value in given.items() if value is not None]:
        raise file.error(
            f"{useless[0]} is for other tables: VCF counts from 1, and variants are called after themselves"
        )
    return VariantTable(file)
