"""From what the user chose to one source of records: the reader of the input, and what is done to its records."""

from __future__ import annotations

from embedcache.errors import InputError
from embedcache.input_options import InputOptions
from embedcache.records import Source
from embedcache.sources.inputs import open_source


def open_records(options: InputOptions) -> Source:
    """Open what the user chose as one source.

    Raises
    ------
    InputError : the input cannot be read, or the options do not go together.
    """
    if options.reverse_complement == "add":
        raise InputError("--reverse-complement add is not there yet: take average or canonical")
    return open_source(
        options.inputs,
        metadata=options.metadata,
        id_column=options.id_column,
        sequence_column=options.sequence_column,
    )
