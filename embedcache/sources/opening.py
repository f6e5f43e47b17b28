"""From what the user chose to one source of records: the reader of the input, and what is done to its records."""

from __future__ import annotations

from embedcache.errors import InputError
from embedcache.input_options import InputOptions
from embedcache.records import Source
from embedcache.sequences.views import Scope
from embedcache.sources.cell_inputs import CellInputs, CellOptions, refuse_unused
from embedcache.sources.duplicates import Numbered
from embedcache.sources.files import input_file
from embedcache.sources.inputs import Records, open_metadata, open_source
from embedcache.sources.splits import Splits
from embedcache.transforms import transformed


def open_records(
    options: InputOptions,
    model: str | None = None,
    *,
    scope: Scope | None = None,
    ask: bool = True,
    progress: bool = False,
) -> Source:
    """Open what the user chose as one source.

    Parameters
    ----------
    model : name of the encoder that will read the records, as for `load_encoder`: it decides how the genes of cells are
        ranked. None where no encoder takes part.
    scope : what of the records will be encoded, where a head says so and not the options.
    ask : whether the hub may be asked for the dictionaries of genes that belong to it; `progress` shows a bar meanwhile.

    Raises
    ------
    InputError : the input cannot be read, or the options do not go together.
    ModelError : the hub does not give the dictionaries that cells need.
    """
    _check_views(options)
    source: Source = (
        _genome(options, options.genome, scope)
        if options.genome is not None
        else open_source(
            options.inputs,
            metadata=options.metadata,
            id_column=options.id_column,
            sequence_column=options.sequence_column,
            cells=CellInputs(_cell_options(options), model, ask, progress),
        )
    )
    if options.splits:
        source = Splits(source, options.splits)
    if options.duplicate_ids == "suffix":
        source = Numbered(source)
    return transformed(source, options)


def _check_views(options: InputOptions) -> None:
    """Refuse what would move the site of a view, and what needs a genome where there is none."""
    moving = {"--windows": options.windows, "--translate": options.translate,
              "--reverse-complement add": options.reverse_complement == "add"}  # fmt: skip
    if (options.views or options.genome is not None) and (given := [name for name, value in moving.items() if value]):
        raise InputError(f"{given[0]} would move the site that is looked around: make a store for each")
    about_sites = {"--sites": options.sites, "--coordinates": options.coordinates, "--anchor": options.anchor}
    if options.genome is None and (given := [name for name, value in about_sites.items() if value]):
        raise InputError(f"{given[0]} is about sites in a genome: name it with --genome")


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


def _genome(options: InputOptions, genome: str, scope: Scope | None) -> Source:
    from embedcache.sources.genome import Cutting, GenomeWindows, open_sites
    from embedcache.sources.reference import Reference

    if options.inputs or options.sequence_column:
        raise InputError("--genome cuts the sequences out itself: leave out --input and --sequence-column")
    refuse_unused(_cell_options(options))
    if not options.sites:
        raise InputError("--genome needs the sites to look at: name their table with --sites")
    views, edge = (options.views, options.edge) if scope is None else (scope.views, scope.edge)
    if not views and scope is not None:
        raise InputError(
            "--genome is for heads on the letters around sites, and this one takes whole sequences: --input"
        )
    if not views:
        raise InputError("--genome needs to know how many letters around a site: say --context, such as 100")
    if options.center is not None:
        raise InputError("--center is for stored sequences: sites of a genome have their centre in the column center")
    cutting = Cutting(views, edge, options.skip_bad)
    files = [input_file(text) for text in options.sites]
    coordinates = None if options.coordinates is None else int(options.coordinates)
    id_column = options.id_column if options.metadata is None else None
    tables = [open_sites(file, coordinates, options.anchor, id_column) for file in files]
    reference = Reference(genome)
    windows = [GenomeWindows(reference, table, cutting) for table in tables]
    source = Records(files, windows, open_metadata(options.metadata, options.id_column, strict=True))
    source.name = f"{source.name} in {reference.name}"
    return source
