"""A command with many options, whose help lists them under headings."""

from __future__ import annotations

from collections.abc import Mapping

import click

OTHER = "Other options"

_OF_SITES = ("genome", "sites", "coordinates", "anchor")
OF_INPUT: Mapping[str, tuple[str, ...]] = {
    "Records": ("inputs", "metadata", "id_column", "sequence_column", "duplicate_ids", "splits", "skip_bad"),
    "Letters around sites, of a genome or of sequences": (
        *_OF_SITES, "context", "side", "center", "edge",
    ),
    "Windows, strands, proteins": (
        "windows", "min_window", "short", "about", "window_seed", "reverse_complement", "translate", "genetic_code",
        "stops", "orf", "min_length",
    ),
    "Cells": (
        "counts_layer", "genes_in", "gene_tokens", "gene_medians", "gene_names", "ensembl_mapping", "gene_vocabulary",
    ),
}  # fmt: skip
"""Headings of the options that say where records come from, and the names of the parameters below each."""

OF_EXTRACTION: Mapping[str, tuple[str, ...]] = {
    "Encoder": (
        "model", "pool", "layer", "one_based", "overlong", "precision", "device", "batch_tokens", "alphabet",
        "any_alphabet", "random_weights", "seed", "trust_remote_code",
    ),
    **OF_INPUT,
    "Store": (
        "output", "dtype", "compress", "drop_sequence", "shard_rows", "on_bad_row", "reuse", "cache", "restart",
    ),
}  # fmt: skip


class Sectioned(click.Command):
    """Lists options under `sections`, in the order of the declaration; what is in none of them comes last."""

    sections: Mapping[str, tuple[str, ...]] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a definition list for each heading that has options."""
        of_name = {name: heading for heading, names in self.sections.items() for name in names}
        found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*self.sections, OTHER)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                found[of_name.get(parameter.name or "", OTHER)].append(record)
        for heading, records in found.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class OfExtraction(Sectioned):
    """`embedcache extract` and `embedcache estimate`."""

    sections = OF_EXTRACTION


class OfInput(Sectioned):
    """Commands that read records and encode nothing."""

    sections = OF_INPUT


class OfPredicting(Sectioned):
    """`heads predict`, whose rows are those of a store or are encoded on the way."""

    sections: Mapping[str, tuple[str, ...]] = {
        "Rows of a store": ("features",),
        "Or records": (*OF_INPUT["Records"], "model", "any_alphabet", "trust_remote_code"),
        "Or sites of a genome, with the letters around them that the head was trained on": _OF_SITES,
        "Windows, strands, proteins": OF_INPUT["Windows, strands, proteins"],
        "Cells": OF_INPUT["Cells"],
    }
