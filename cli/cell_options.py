"""The options that are about cells, for every command that reads an input."""

from __future__ import annotations

import click

CELL_OPTIONS = (
    click.option(
        "--counts-layer",
        metavar="LAYER",
        help="Cells: which matrix of an AnnData has the counts: X, raw, or the name of a layer. Default: X.",
    ),
    click.option(
        "--genes-in",
        type=click.Choice(["rows", "columns"]),
        help="Cells: which way a table of expression lies. Default: as more of its names are genes of the encoder.",
    ),
    click.option(
        "--gene-tokens",
        type=click.Path(),
        metavar="FILE",
        help="Cells: genes and their token ids, as .pkl, .json or a table. Default, also of the next three: the encoder's "
        "own, in its folder or hub repository.",
    ),
    click.option("--gene-medians", type=click.Path(), metavar="FILE", help="Cells: genes and their medians."),
    click.option("--gene-names", type=click.Path(), metavar="FILE", help="Cells: gene symbols and their Ensembl ids."),
    click.option(
        "--ensembl-mapping", type=click.Path(), metavar="FILE", help="Cells: gene ids and those that took their place."
    ),
    click.option(
        "--gene-vocabulary",
        type=click.Path(),
        metavar="FILE",
        help="Cells: gene_symbol and token_id of an .npz of ranked tokens. Default: gene_vocab.tsv beside it.",
    ),
)
