"""From what the user chose to one source of records: the reader of the input, and what is done to its records."""

from __future__ import annotations

from embedcache.input_options import InputOptions
from embedcache.records import Source
from embedcache.sources.cell_inputs import CellInputs, CellOptions
from embedcache.sources.duplicates import Numbered
from embedcache.sources.inputs import open_source
from embedcache.sources.splits import Splits
from embedcache.transforms import transformed


def open_records(
    options: InputOptions, model: str | None = None, *, ask: bool = True, progress: bool = False
) -> Source:
    """Open what the user chose as one source.

    Parameters
    ----------
    model : name of the encoder that will read the records, as for `load_encoder`: it decides how the genes of cells are
        ranked. None where no encoder takes part.
    ask : whether the hub may be asked for the dictionaries of genes that belong to it; `progress` shows a bar meanwhile.

    Raises
    ------
    InputError : the input cannot be read, or the options do not go together.
    ModelError : the hub does not give the dictionaries that cells need.
    """
    source: Source = open_source(
        options.inputs,
        metadata=options.metadata,
        id_column=options.id_column,
        sequence_column=options.sequence_column,
        cells=CellInputs(_cell_options(options), model, ask, progress),
    )
    if options.splits:
        source = Splits(source, options.splits)
    if options.duplicate_ids == "suffix":
        source = Numbered(source)
    return transformed(source, options)


def _cell_options(options: InputOptions) -> CellOptions:
    return CellOptions(
        counts_layer=options.counts_layer,
        genes_in=options.genes_in,
        gene_tokens=options.gene_tokens,
        gene_medians=options.gene_medians,
        gene_names=options.gene_names,
        ensembl_mapping=options.ensembl_mapping,
        gene_vocabulary=options.gene_vocabulary,
        skip_bad=options.skip_bad,
    )
