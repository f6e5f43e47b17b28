"""What the user chose about the input: where records come from, and what is done to them before they are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from embedcache.sequences.views import View


@dataclass(frozen=True)
class InputOptions:
    """Where records come from; `embedcache.sources.open_records` opens it."""

    inputs: tuple[str, ...] = ()
    """Paths, or ``-`` for standard input; each may have columns attached, as ``FILE:label=1``."""
    metadata: str | None = None
    """A table of more columns, joined by id."""
    id_column: str | None = None
    sequence_column: str | None = None
    splits: str | None = None
    """An .npz with the rows of train, val and test."""
    skip_bad: bool = False
    """Whether records that cannot be used are left out and counted, instead of ending the run."""
    counts_layer: str | None = None
    """Which matrix of an AnnData has the counts: ``X``, ``raw``, or a layer."""
    genes_in: Literal["rows", "columns"] | None = None
    """Which way a table of expression lies; None: as more genes are known."""
    gene_tokens: str | None = None
    """gene -> token id, instead of the encoder's own file; and so the next three."""
    gene_medians: str | None = None
    gene_names: str | None = None
    ensembl_mapping: str | None = None
    gene_vocabulary: str | None = None
    """gene -> number, of an .npz of ranked tokens."""
    genome: str | None = None
    """FASTA whose letters around `sites` are the records, instead of `inputs`."""
    sites: tuple[str, ...] = ()
    """Tables, BED, GFF or VCF files; each may have columns attached, as ``FILE:label=1``."""
    coordinates: str | None = None
    """``0`` or ``1``, the number of a contig's first base; None: as the format has it."""
    anchor: str | None = None
    """The base of an interval that is the site: ``start``, ``center`` (None too) or ``end`` on its strand."""
    context: str | None = None
    """Letters around a site that are looked at, several by comma; None: whole sequences."""
    side: str | None = None
    """``upstream``, ``downstream``, ``both``, or ``all`` three; None: both."""
    center: str | None = None
    """A column that says where in each sequence the site is, or ``middle``; None: the column ``center`` if there is one."""
    edge: str = "pad"
    """Of contexts that reach over an end: ``pad``, ``drop`` or ``shorten``."""
    reverse_complement: str | None = None
    """``add`` a record for the other strand of each, or encode both and take the ``average``, or the ``canonical`` one."""
    duplicate_ids: str = "error"
    """``error``, or ``suffix``: the second ``x`` is called ``x.2``."""
    windows: str | None = None
    """``LENGTH:STEP`` or ``random:LENGTHSxCOUNT``, see `embedcache.transforms.windows`."""
    short: str | None = None
    """Records shorter than a window: ``keep`` them whole (None too), or ``drop`` them."""
    min_window: int | None = None
    """Letters of the last window of a record; None: half a window."""
    about: int | None = None
    """How many random windows there should be in all."""
    window_seed: int = 0
    translate: str | None = None
    """``six-frame``, ``longest-orf`` or ``frame:N``, see `embedcache.transforms.translation`."""
    genetic_code: int = 1
    stops: str | None = None
    """``split``, ``keep`` or ``cut``."""
    orf: str | None = None
    """``start`` or ``stop``."""
    min_length: int | None = None
    """Amino acids of a protein."""

    @property
    def views(self) -> tuple[View, ...]:
        """All contexts of the side, or of all sides; raises `InputError` for those that make no sense."""
        from embedcache.errors import InputError
        from embedcache.sequences.views import views_of

        if self.context is None and (self.side is not None or self.edge != "pad"):
            raise InputError("--side and --edge are about contexts: say how many letters with --context, such as 100")
        return () if self.context is None else views_of(self.context, self.side or "both")

    @property
    def strands(self) -> str:
        """Which strands are encoded, as `embedcache.sequences.views.Scope` calls it."""
        return self.reverse_complement if self.reverse_complement in ("average", "canonical") else "given"
