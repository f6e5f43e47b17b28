"""Where the dictionaries of an encoder of cells are: named by the user, in its folder, or in the hub repository.

tokens      token_dictionary*          gene -> token id
medians     gene_median_dictionary*    gene -> median of its nonzero normalised counts
names       gene_name_id_dict*         symbol -> Ensembl id
synonyms    ensembl_mapping_dict*      Ensembl id or symbol -> the id that the tokens are listed under
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedcache.cells.dictionary import WHAT, Kind, read_names, read_numbers, read_tokens
from embedcache.cells.model import GENEFORMER, CellModel
from embedcache.cells.vocabulary import CLS, EOS, GeneVocabulary
from embedcache.errors import InputError, ModelError
from embedcache.sources.side_file import SideFile

STEMS: Mapping[Kind, str] = {
    "tokens": "token_dictionary",
    "medians": "gene_median_dictionary",
    "names": "gene_name_id_dict",
    "synonyms": "ensembl_mapping_dict",
}
OPTIONS: Mapping[Kind, str] = {
    "tokens": "--gene-tokens",
    "medians": "--gene-medians",
    "names": "--gene-names",
    "synonyms": "--ensembl-mapping",
}
EXTENSIONS = (".pkl", ".pickle", ".json", ".tsv", ".csv")


@dataclass(frozen=True)
class GeneFileOptions:
    """The dictionaries that the user named."""

    tokens: str | None = None
    medians: str | None = None
    names: str | None = None
    synonyms: str | None = None

    def given(self) -> dict[Kind, Path]:
        """Those that were named, by kind."""
        named: dict[Kind, str | None] = {
            "tokens": self.tokens, "medians": self.medians, "names": self.names, "synonyms": self.synonyms,
        }  # fmt: skip
        return {kind: Path(path) for kind, path in named.items() if path}


def read_vocabulary(
    model: CellModel, options: GeneFileOptions, *, medians: bool, ask: bool = True, progress: bool = False
) -> GeneVocabulary:
    """Find and read the dictionaries of an encoder.

    Parameters
    ----------
    medians : whether they are needed; cells that are ranked already need none.
    ask : whether the hub may be asked; otherwise the files must be here.

    Raises
    ------
    InputError : a dictionary is missing or unreadable, or belongs to another encoder.
    ModelError : the hub does not give them.
    """
    files = _find(model, options, ("tokens", "medians") if medians else ("tokens",), ask, progress)
    tokens = read_tokens(files["tokens"])
    if (most := max(tokens.values())) >= model.vocabulary:
        raise InputError(
            f"{files['tokens']} has token ids up to {most:,}, and {model.name} takes {model.vocabulary:,} of them, from 0: "
            "it belongs to another encoder; name the right one with --gene-tokens"
        )
    cls, eos = _specials(model, tokens, files["tokens"])
    return GeneVocabulary(
        tokens,
        model.limit,
        cls,
        eos,
        read_numbers(files["medians"], "medians") if medians else {},
        read_names(files["names"], "names") if "names" in files else {},
        read_names(files["synonyms"], "synonyms") if "synonyms" in files else {},
        tuple(SideFile.of(path) for kind, path in files.items() if medians or kind != "medians"),
    )


def _specials(model: CellModel, tokens: Mapping[str, int], file: Path) -> tuple[int | None, int | None]:
    if not model.specials:
        return None, None
    if (tokens.get(CLS), tokens.get(EOS)) != (2, 3):
        raise InputError(
            f"{file} gives {CLS} and {EOS} the ids {tokens.get(CLS)} and {tokens.get(EOS)}, and {model.name} begins "
            "and ends its cells with 2 and 3: it belongs to another encoder; name the right one with --gene-tokens"
        )
    return 2, 3


def _find(
    model: CellModel, options: GeneFileOptions, needed: Sequence[Kind], ask: bool, progress: bool
) -> dict[Kind, Path]:
    files = options.given()
    for folder in _folders(model):
        for kind in STEMS:
            if kind not in files and (found := _in_folder(folder, kind, model)):
                files[kind] = found
    missing = [kind for kind in needed if kind not in files]
    if missing and model.hub_folder is None:
        raise InputError(
            f"{model.name} has no {' and no '.join(f'{WHAT[kind]} ({STEMS[kind]}*)' for kind in missing)} beside its "
            f"config.json: name {' and '.join(OPTIONS[kind] for kind in missing)}"
        )
    if missing:
        published = _published(model, ask, progress)
        for kind in STEMS:
            if kind not in files and (found := _in_folder(published, kind, model)):
                files[kind] = found
    if lacking := [kind for kind in needed if kind not in files]:
        raise InputError(
            f"{GENEFORMER} has no {' and no '.join(STEMS[kind] for kind in lacking)}* in {model.hub_folder}: name "
            f"{' and '.join(OPTIONS[kind] for kind in lacking)}"
        )
    return files


def _folders(model: CellModel) -> list[Path]:
    """The model's folder, and, in a clone of the authors' repository, the one beside it that has the dictionaries."""
    if model.folder is None:
        return []
    beside = [model.folder.resolve().parent / model.hub_folder] if model.hub_folder else []
    return [folder for folder in (model.folder, *beside) if folder.is_dir()]


def _in_folder(folder: Path, kind: Kind, model: CellModel) -> Path | None:
    """The dictionary of a kind in a folder; of several that of the encoder's corpus."""
    found = sorted(path for path in folder.glob(f"{STEMS[kind]}*") if path.suffix.lower() in EXTENSIONS)
    if len(found) < 2:
        return found[0] if found else None
    for corpus in model.corpus:
        named = [path for path in found if path.stem == f"{STEMS[kind]}_{corpus}".rstrip("_")]
        if len(named) == 1:
            return named[0]
    names = ", ".join(path.name for path in found)
    raise InputError(f"{folder} has several files of {WHAT[kind]} ({names}): choose one with {OPTIONS[kind]}")


def _published(model: CellModel, ask: bool, progress: bool) -> Path:
    from embedcache.encoders.hub import fetch_beside

    assert model.hub_folder is not None
    patterns = [f"{stem}*" for stem in STEMS.values()]
    # a folder or another repository has no revision of the authors' repository
    revision = model.revision if model.folder is None else "main"
    try:
        return fetch_beside(GENEFORMER, revision, model.hub_folder, patterns, progress=progress, ask=ask).directory
    except ModelError as error:
        raise ModelError(f"{error} Or name the dictionaries: --gene-tokens, --gene-medians, --gene-names.") from error
