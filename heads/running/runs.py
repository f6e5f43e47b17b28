"""The run directory: what one training leaves behind, written beside its place and renamed when it is whole.

config.yaml               every option as it was resolved
run_manifest.json         who ran what, where, when, with which versions, on which store and which split
metrics.json              metrics of every split, with intervals; baselines; epochs or the grid as `history`
predictions.parquet       row, id, split, what is true and what was said (`predictions.py`), digest of the sequence
predictions_val_test.npz  val_y_true, val_y_prob, test_y_true, test_y_prob
history.csv               every epoch of every trial, or, where there are no epochs, every trial
grid.csv                  every trial, where there are epochs
breakdown.csv             metrics of the head and its baselines on test rows, by stratum and by group
split_certificate.json    what was looked for between train and the rows that judge, and what was found
model/                    the head (see `heads.head`)
baselines/                what it must beat, as fitted on the training rows (`heads.baselines.saved_baselines`)
encoder/, features.zarr   of a fine-tuning: the encoder as it was trained, and the rows as it sees them
FOLD/                     of a fine-tuning in folds: the run of each fold's encoder and head, with all of this
README.md                 the model card
plots/, report.html
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from safetensors import SafetensorError

from embedcache.errors import HeadError
from heads.data.target import Target
from heads.running import predictions

if TYPE_CHECKING:
    from embedcache.storage.store import Store
    from heads.data.features import Rows

MANIFEST, METRICS, CONFIG, HISTORY = "run_manifest.json", "metrics.json", "config.yaml", "history.csv"
GRID, BREAKDOWN, CERTIFICATE = "grid.csv", "breakdown.csv", "split_certificate.json"
ENCODER = "encoder"
"""Folder of the encoder that a fine-tuning trained."""
PREDICTIONS, ARRAYS, MODEL, PLOTS, REPORT = (
    "predictions.parquet",
    "predictions_val_test.npz",
    "model",
    "plots",
    "report.html",
)
PACKAGES = (
    "embedcache", "torch", "numpy", "scipy", "scikit-learn", "lightgbm", "faiss-cpu", "pyarrow", "zarr", "safetensors",
    "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """Everything needed to repeat a run."""

    git_commit_sha: str | None
    command: str
    args: Mapping[str, Any]
    dataset_path: str
    outdir: str
    hostname: str
    device: str
    started_at_utc: str
    finished_at_utc: str
    python_version: str
    package_versions: Mapping[str, str]
    resolved_tokenization: Mapping[str, Any]
    store_fingerprint: str
    store_rows_digest: str
    encoder: Mapping[str, Any]
    split_certificate: str
    """Hash of the split and of what was found in it."""


def make_manifest(
    store: Store,
    *,
    dataset: str,
    command: str,
    args: Mapping[str, Any],
    outdir: Path,
    device: str,
    started: datetime,
    certificate: str,
) -> Manifest:
    """Fill in a manifest for a run that ends now; times are UTC. `store` holds its features, `dataset` is where its rows
    are from."""
    encoder = dict(store.attrs["encoder"])
    return Manifest(
        git_commit_sha=_git_commit(),
        command=command,
        args=args,
        dataset_path=dataset,
        outdir=str(outdir.resolve()),
        hostname=socket.gethostname(),
        device=device,
        started_at_utc=started.isoformat(timespec="seconds"),
        finished_at_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        python_version=platform.python_version(),
        package_versions=_versions(),
        resolved_tokenization={
            "encoder": encoder.get("name"),
            "alphabet": encoder.get("alphabet"),
            "token_limit": encoder.get("token_limit"),
            "overlong": store.attrs.get("overlong"),
            "blocks": store.attrs.get("blocks"),
        },
        store_fingerprint=store.fingerprint,
        store_rows_digest=rows_digest(store),
        encoder=encoder,
        split_certificate=certificate,
    )


def _git_commit() -> str | None:
    """Commit of the repository that the command runs in."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def rows_digest(store: Store) -> str:
    """Hash of the ids and sequences of a store in their order: two stores with the same one hold the same rows."""
    # one hash a column, so that it does not matter where the parts of a store are cut
    columns = [hashlib.blake2b(digest_size=16) for _ in range(3)]
    for batch in store.read_rows(["id", "digest"]).to_batches():
        ids, sequences = batch.columns
        lengths = pc.binary_length(ids).to_numpy(zero_copy_only=False)
        columns[0].update("".join(ids.to_pylist()).encode())
        columns[1].update(lengths.astype("<i8").tobytes())
        columns[2].update(b"".join(digest or b"" for digest in sequences.to_pylist()))
    return hashlib.blake2b(b"".join(column.digest() for column in columns), digest_size=16).hexdigest()


@contextmanager
def new_folder(outdir: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a folder beside `outdir` that becomes it when the block ends well, and goes when it does not.

    Raises HeadError where `outdir` holds something already and `overwrite` is not given, and where it cannot be written.
    """
    refuse_existing(outdir, overwrite)
    place = outdir.resolve()  # what a link points at is replaced, and the link stays
    partial = place.parent / f".{place.name}.partial-{os.getpid()}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        if place.exists():
            replaced = place.parent / f".{place.name}.replaced-{os.getpid()}"
            place.rename(replaced)
            partial.rename(place)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            partial.rename(place)
    except BrokenPipeError:  # of the account on the screen, not of the folder
        raise
    except (OSError, SafetensorError) as error:
        raise HeadError(f"the run directory {outdir} cannot be written: {reason(error)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def reason(error: OSError | SafetensorError) -> str:
    """Return why a file could not be written, in the words of the system where it has some."""
    said = re.search(r"\(os error (\d+)\)", str(error))  # safetensors puts the number into its sentence
    number = int(said[1]) if said else getattr(error, "errno", None)
    return os.strerror(number) if number else " ".join(str(error).split())


def refuse_existing(outdir: Path, overwrite: bool) -> None:
    """Raise HeadError where `outdir` cannot become a run, or holds something and `overwrite` is not given."""
    nearest = next(path for path in (outdir, *outdir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise HeadError(f"--output {outdir}: {nearest} is a file; name a directory")
    place, here = outdir.resolve(), Path.cwd()
    if place == here or place in here.parents:
        raise HeadError(f"--output {outdir}: the folder you are in cannot be replaced; name one inside it")
    if outdir.exists() and any(outdir.iterdir()):
        if not overwrite:
            raise HeadError(f"--output {outdir} is not empty; name another directory, or give --overwrite")
        if not (outdir / MANIFEST).exists():
            raise HeadError(f"--overwrite replaces runs only, and {outdir} is not one (it has no {MANIFEST})")


def free_name(store: Path, kind: str) -> Path:
    """Return ``runs/STORE-KIND``, with -2, -3 ... where that is taken."""
    stem = f"{store.resolve().name.removesuffix('.zarr')}-{kind}"
    outdir, number = Path("runs") / stem, 1
    while outdir.exists():
        number += 1
        outdir = Path("runs") / f"{stem}-{number}"
    return outdir


def fold_folders(names: Sequence[str]) -> dict[str, str]:
    """What the folders of folds are called, by their names; no two alike. Empty for the one of no name."""
    found: dict[str, str] = {}
    for name in names:
        stem = folder = re.sub(r"[^\w=.-]+", "-", name)[:100]
        number = 1
        while folder in found.values():
            number += 1
            folder = f"{stem}-{number}"
        found[name] = folder
    return found


def fold_runs(run: Path) -> list[Path]:
    """The runs of single folds within a run."""
    found = [file.parent for file in run.glob(f"*/{MANIFEST}")]
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def write_json(path: Path, value: object) -> None:
    """Write JSON; a number that is not finite becomes null, which every reader takes."""
    path.write_text(json.dumps(_finite(value), indent=1, default=str) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def write_config(path: Path, options: Mapping[str, Any]) -> None:
    """Write the resolved options."""
    path.write_text(yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True))


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write flat records as CSV, one line each; fields that a record lacks stay empty."""
    fields = list(dict.fromkeys(field for record in records for field in record))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def write_predictions(
    folder: Path, store: Store, rows: Rows, target: Target, splits: Sequence[str], said: Mapping[str, pa.Array]
) -> None:
    """Write ``predictions.parquet`` of the n rows that took part, and the arrays that older scripts read.

    Parameters
    ----------
    rows, target, splits : of each row its number in the store, what is true, and the name of its part or fold.
    said : the columns of `heads.running.predictions.said`.
    """
    table = {
        "row": pa.array(rows),
        **dict(zip(store.row_names, store.read_rows(store.row_names).take(pa.array(rows)).columns, strict=True)),
        "split": pa.array(splits, pa.string()),
        **predictions.true(target),
        **said,
        "digest": store.column("digest").take(pa.array(rows)),
    }
    pq.write_table(pa.table(table), folder / PREDICTIONS, compression="zstd")
    named = np.array(splits)
    probabilities = [name for name in said if name.startswith("y_prob")] or ["y_pred"]
    shown = np.stack([np.asarray(said[name]) for name in probabilities], axis=1)
    shown = shown[:, 0] if len(probabilities) == 1 else shown
    arrays: dict[str, Any] = {}
    for part in ("val", "test"):
        chosen = named == part
        arrays |= {f"{part}_y_true": target.values[chosen], f"{part}_y_prob": shown[chosen]}
    np.savez(folder / ARRAYS, **arrays)


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as it is written."""
    return asdict(manifest)
