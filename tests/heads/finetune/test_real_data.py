"""Fine-tuning on real data: cells of tumours with donors held out, and cytosines of a plant genome by their context."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache.sequences.alphabet import reverse_complement
from tests.heads.finetune.conftest import small_model
from tests.heads.finetune.test_modes import metrics
from tests.heads.program import run
from tests.stores import run_extract

SPLIT = {"MGH53": "test", "MGH36": "val"}


@pytest.mark.slow
def test_cells_of_tumours_with_donors_held_out(shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / "oligodendroglioma" / "cells.tsv").open() as file:
        cells = {row["cell"]: row for row in csv.DictReader(file, delimiter="\t")}
    with gzip.open(shared_data / "oligodendroglioma" / "expression.tsv.gz", "rt") as file:
        names = next(file).split()
        values_GN = np.loadtxt(file, usecols=range(1, len(names) + 1), delimiter="\t")
    # the genes that vary most as Geneformer's tokens: ranked by expression over its median where a gene is expressed
    values_GN = values_GN[np.argsort(-np.log1p(values_GN).var(1), kind="stable")[:1900]]
    medians_G = np.asarray([np.median(row[row > 0]) for row in values_GN])
    relative_NG = (values_GN / medians_G[:, None]).T
    ranked = [np.argsort(-own, kind="stable")[: min(200, int((own > 0).sum()))] for own in relative_NG]
    kept = [cells[name] for name in names]
    table = {
        "id": names,
        "input_ids": [(order + 4).tolist() for order in ranked],
        "label": [cell["class"] for cell in kept],
        "donor": [cell["donor"] for cell in kept],
        "split": [SPLIT.get(cell["donor"], "train") for cell in kept],
    }
    pq.write_table(pa.table(table), tmp_path / "cells.parquet")
    small_model("geneformer", tmp_path)
    run_extract(tmp_path / "cells.zarr", tmp_path / "cells.parquet", model=str(tmp_path / "geneformer"))
    options = ["--mode", "full", "--group", "donor", "--sampler", "class-group", "--mask", "0.05", "--mixup", "0.6",
               "--mixup-probability", "0.2", "--accumulate", "2", "--patience", "3", "--select", "f1", "--epochs", "4",
               "--lr", "1e-3", "--batch", "16", "--bootstrap", "0"]  # fmt: skip
    run(tmp_path, "finetune", "--features", "cells.zarr", *options, "--output", "run", "--log", "history.md")
    found = metrics(tmp_path / "run")
    assert found["classes"] == ["Malignant", "Microglia", "Oligodendrocyte"]
    assert found["val"]["rows"] == 41
    assert found["test"]["rows"] == 57
    assert "val F1" in (tmp_path / "history.md").read_text()
    losses = [epoch["train_loss"] for epoch in found["history"]]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_rare_methylated_cytosines_by_context(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ath_wgbs_chr1"
    with gzip.open(folder / "genome.fa.gz", "rt") as file:
        genome = "".join(line.strip() for line in file if not line.startswith(">"))
    with gzip.open(folder / "sites.tsv.gz", "rt") as file:
        sites = [row for row in csv.DictReader(file, delimiter="\t") if 20 <= int(row["pos"]) < len(genome) - 20]
    chosen = [site for i, site in enumerate(sites) if i % 40 == 0 or (site["label"] == "1" and i % 4 == 0)]
    windows = [genome[int(site["pos"]) - 21 : int(site["pos"]) + 20].encode() for site in chosen]
    strands = [site["strand"] for site in chosen]
    sequences = [(w if s == "+" else reverse_complement(w)).decode() for w, s in zip(windows, strands, strict=True)]
    lines = ["id\tsequence\tlabel\tsplit\tcontext"]
    for site, sequence in zip(chosen, sequences, strict=True):
        lines.append("\t".join([site["pos"], sequence, site["label"], site["split"], site["context"]]))
    (tmp_path / "sites.tsv").write_text("\n".join(lines) + "\n")
    small_model("ntv1", tmp_path)
    run_extract(tmp_path / "sites.zarr", tmp_path / "sites.tsv", model=str(tmp_path / "ntv1"))
    options = ["--mode", "top", "--top-layers", "1", "--strata", "context", "--pos-weight", "5", "--threshold-by-stratum",
               "--epochs", "2", "--bootstrap", "0", "--near", "0"]  # fmt: skip
    run(tmp_path, "finetune", "--features", "sites.zarr", *options, "--output", "run")
    found = metrics(tmp_path / "run")
    assert set(found["breakdown"]["context"]) >= {"CG", "CHG", "CHH"}
    assert "stratum only" in " ".join(found["baselines"])
    assert 0 < found["val"]["auprc"] < 1
