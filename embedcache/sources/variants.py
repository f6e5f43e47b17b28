"""VCF and BCF: each alternative allele is a pair of records, the reference's and its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pysam

from embedcache.errors import InputError
from embedcache.records import metadata_name
from embedcache.sources.files import InputFile
from embedcache.sources.reference import quiet
from embedcache.sources.seekable import Seekable
from embedcache.sources.sites import OWN, Sites

VCF_EXTENSIONS = (".vcf", ".bcf")
COLUMNS = ("variant", "group", "allele", "reference", "alternative", "rsid", "qual", "filter")
"""Columns of every variant; ``group`` is the variant, so that a split keeps its two records together."""
_BLOCK = 4096


class VariantTable:
    """Variants of a VCF or BCF file; ids are ``chr:pos:REF>ALT:ref`` and ``:alt``, and every INFO field is a column.

    Fields of INFO with one value for each alternative allele have that allele's, those with several the values by comma.

    Raises
    ------
    InputError
        On opening: the file is no VCF. While reading: it is cut off or damaged.
    """

    text = True
    base = 1

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self._seekable = Seekable(file)
        self.remarks = self._seekable.remarks
        with self._opened() as variants:
            self._info = {name: str(variants.header.info[name].number) for name in variants.header.info}
        taken = {*COLUMNS, *OWN}
        named = {name: f"{name}_in" if name.lower() in taken else metadata_name(name) for name in self._info}
        self.schema = pa.schema([(name, pa.string()) for name in (*COLUMNS, *named.values())])

    def batches(self) -> Iterator[Sites]:
        """Read all variants from the start; neighbouring sites are pairs of reference and alternative."""
        pairs = ((row, record, at) for row, record in self._records() for at in range(len(record.alts or ("",))))
        while block := list(islice(pairs, _BLOCK)):
            yield self._sites(block)

    def places(self) -> Iterator[str]:
        """Say for variant after variant its number and where it is."""
        return (f"variant {row + 1} ({record.chrom}:{record.pos})" for row, record in self._records())

    def _sites(self, block: list[tuple[int, Any, int]]) -> Sites:
        names: list[str] = []
        values: list[list[str | None]] = []
        reference, alleles = [], []
        faults: dict[int, str] = {}
        for number, (_, record, at) in enumerate(block):
            ref, alt = str(record.ref or "").upper(), str((record.alts or ("",))[at])
            variant = f"{record.chrom}:{record.pos}:{ref}>{alt}"
            if not alt.isalpha():
                why = (
                    "has no alternative allele"
                    if alt in ("", ".")
                    else f"has the alternative {alt}, which is no sequence"
                )
                faults[2 * number] = faults[2 * number + 1] = f"{variant} {why}"
            known = [self._value(record, name, at) for name in self._info]
            score = None if record.qual is None else f"{record.qual:g}"
            shared = [ref, alt, record.id, score, ";".join(record.filter.keys()) or None, *known]
            for which, letters in (("ref", ref), ("alt", alt.upper())):
                names.append(f"{variant}:{which}")
                values.append([variant, variant, which, *shared])
                reference.append(ref)
                alleles.append(letters)
        sites = np.repeat([record.pos - 1 for _, record, _ in block], 2).astype(np.int64)
        return Sites(
            np.repeat([row for row, _, _ in block], 2).astype(np.int64),
            [record.chrom for _, record, _ in block for _ in range(2)],
            sites,
            (sites + 1).tolist(),
            np.zeros(2 * len(block), np.bool_),
            names,
            [pa.array(column, pa.string()) for column in zip(*values, strict=True)],
            faults,
            (reference, alleles),
        )

    def _value(self, record: Any, name: str, at: int) -> str | None:
        """A field of INFO as text, of the alternative allele `at`."""
        value = record.info.get(name)
        if isinstance(value, tuple):
            one = self._info[name] == "A" and at < len(value)
            value = value[at] if one else ",".join("." if part is None else _written(part) for part in value)
        return None if value is None else _written(value)

    def _records(self) -> Iterator[tuple[int, Any]]:
        numbers = count()
        with self._opened() as variants:
            rows = iter(variants)
            for row in numbers:
                try:
                    with quiet():
                        record = next(rows, None)
                except (OSError, ValueError) as error:
                    raise self.file.error(
                        f"the rows after this one are cut off or damaged ({error}); copy or download it again",
                        f"variant {row}",
                    ) from None
                if record is None:
                    return
                yield row, record

    def _opened(self) -> Any:
        try:
            with quiet():
                return pysam.VariantFile(str(self._seekable.path))
        except (OSError, ValueError) as error:
            raise self._no_vcf(error) from None

    def _no_vcf(self, error: Exception) -> InputError:
        return self.file.error(f"this is no VCF that can be read ({error}); it begins with ##fileformat=VCF")


def _written(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else "true" if value is True else str(value)
