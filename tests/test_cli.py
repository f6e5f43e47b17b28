"""The embedcache program as a user types it."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.embedcache import cli
from embedcache import open_store
from tests.encoders.golden import golden_folder
from tests.encoders.hub_server import COMMIT, HubServer
from tests.processes import MAIN, command, run_program, run_python
from tests.stores import random_reads, write_fasta

ROOT = Path(__file__).resolve().parents[1]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)


def test_contigs_with_labels_become_a_store(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "pprmeta_example"
    done = run_python(
        MAIN, "extract", "--model", "kmer:4", "--input", folder / "sequences.fa.gz", "--metadata", folder / "labels.tsv",
        "--output", tmp_path / "p.zarr",
    )  # fmt: skip
    assert "300 records" in done.stderr
    assert "rows/s" in done.stderr
    assert f"heads train --features {tmp_path / 'p.zarr'}" in done.stderr
    store = open_store(tmp_path / "p.zarr")
    assert (len(store), store.dim) == (300, 136)
    assert store.column("viral").to_pylist().count(1) == 100
    assert "viral" in invoke("info", store.path).output
    state = json.loads(invoke("status", store.path, "--json").output)
    assert (state["complete"], state["rows_done"], state["shards_done"]) == (True, 300, 1)
    assert "complete, 1 of 1 shard" in invoke("status", store.path).output
    assert "20 bit for bit" in invoke("verify", store.path, "--recompute", 20).output
    metrics = trained(store.path, tmp_path / "run", "--label", "viral")
    assert metrics["test"]["rows"] == 60
    assert metrics["test"]["auroc"] > 0.8  # 0.91 for a 1-4-mer logistic regression on the same test rows


def trained(store: Path, run: Path, *options: str) -> dict[str, Any]:
    """Run `heads train` in a process of its own and read its metrics."""
    run_program("heads", "train", "--features", store, "--output", run, *options, check=True)
    pictures = {"pr.png", "roc.png", "calibration.png", "confusion.png"}
    assert {file.name for file in (run / "plots").iterdir()} == pictures
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def test_windows_around_real_sites_become_a_store(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ath_wgbs_chr1"
    genome = "".join(gzip.open(folder / "genome.fa.gz", "rt").read().split("\n")[1:])
    rows = [line.split("\t") for line in gzip.open(folder / "sites.tsv.gz", "rt").read().splitlines()]
    header, sites = rows[0], [row for row in rows[1:] if 100 <= int(row[1]) <= len(genome) - 100][::20]
    table = tmp_path / "windows.tsv"
    lines = ["\t".join(["chrom", "pos_1based", "strand", "split", "label", "seq"])]
    for site in (dict(zip(header, row, strict=True)) for row in sites):
        centre = int(site["pos"]) - 1
        fields = [site["chrom"], site["pos"], site["strand"], site["split"], site["label"]]
        lines.append("\t".join([*fields, genome[centre - 20 : centre + 21]]))
    table.write_text("\n".join(lines) + "\n")
    model = golden_folder("ntv1", tmp_path)
    command(
        "extract", "--model", model, "--input", table, "--output", tmp_path / "w.zarr", "--layer", "mid,-1", check=True
    )
    store = open_store(tmp_path / "w.zarr")
    assert (len(store), store.dim) == (len(sites), 64)
    assert store.ids[0].startswith("chr1:")
    assert {"chrom", "pos_1based", "strand", "split", "label"} <= set(store.column_names)
    assert np.isfinite(np.asarray(store.embeddings)).all()
    taking_part = [split for split in store.column("split").to_pylist() if split != "purged"]
    metrics = trained(store.path, tmp_path / "run")
    assert metrics["n_rows"] == len(taking_part) < len(sites)
    assert metrics["test"]["rows"] == taking_part.count("test")


def test_several_inputs_with_columns_follow_one_another(tmp_path: Path) -> None:
    viral = write_fasta(tmp_path / "viral.fa", random_reads(5))
    host = write_fasta(tmp_path / "host.fa", random_reads(7, seed=1), first=5)
    for inputs in (
        ["--input", f"{viral}:label=1", f"{host}:label=0"],
        ["--input", f"{viral}:label=1", "--input", f"{host}:label=0"],
    ):
        invoke("extract", "--model", "kmer:2", *inputs, "--output", tmp_path / "s.zarr", "--quiet")
        assert open_store(tmp_path / "s.zarr").column("label").to_pylist() == [1] * 5 + [0] * 7


def test_standard_input_is_read(tmp_path: Path) -> None:
    words = ("extract", "--model", "kmer:2", "--input", "-", "--output", tmp_path / "s.zarr")
    assert run_python(MAIN, *words, text=">a\nACGT\n>b\nGG\n").returncode == 0
    assert open_store(tmp_path / "s.zarr").ids.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nt500", "--input", "{fasta}"], "did you mean nt500m"),
        (["--model", "kmer:4", "--input", "{missing}"], "does not exist|no such file|not there"),
        (["--model", "kmer:4", "--input", "{empty}"], "empty"),
        (["--model", "kmer:4", "--input", "{fasta}", "--pool", "median"], "no pooling 'median'"),
        (["--model", "kmer:4", "--input", "{fasta}", "--layer", "3"], "no layer 3"),
        (["--model", "kmer:4", "--input", "{fasta}", "--shard-rows", "1000"], "multiple of 1,024"),
        (["--model", "kmer:4", "--input", "{fasta}", "--dtype", "int8"], "float16"),
        (["--model", "onehot:9", "--input", "{fasta}", "--overlong", "window"], "cannot be averaged"),
        (["--model", "{folder}", "--input", "{fasta}"], "no config.json"),
        (["--input", "{fasta}"], "--model"),
    ],
)
def test_bad_input_is_one_sentence_with_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    files = {
        "fasta": write_fasta(tmp_path / "r.fa", random_reads(3)),
        "missing": tmp_path / "nothing.fa",
        "empty": write_fasta(tmp_path / "empty.fa", []),
        "folder": tmp_path,
    }
    done = command("extract", *[word.format(**files) for word in arguments], "--output", tmp_path / "s.zarr")
    assert done.returncode == 2
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_a_fault_of_ours_is_one_sentence_with_exit_code_1_and_a_log(tmp_path: Path) -> None:
    broken = (
        "import embedcache.sources\n"
        "def broken(*a, **k): raise ZeroDivisionError('division by zero')\n"
        "embedcache.sources.open_records = broken\n"
    )
    words = ("extract", "--model", "kmer:2", "--input", "x", "--output", tmp_path / "s")
    done = command(*words, before=broken)
    assert done.returncode == 1
    assert "unexpected ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    log = Path(re.findall(r"/\S+embedcache-error-\S+", done.stderr)[0])
    assert "ZeroDivisionError" in log.read_text()
    log.unlink()


def test_models_lists_every_alias_with_its_licence() -> None:
    lines = invoke("models").output
    assert "nt500m" in lines
    assert "CC BY-NC-SA 4.0" in lines
    entries = json.loads(invoke("models", "--json").output)
    assert {"nt500m", "esm2-650m", "fastesm2"} <= {entry["alias"] for entry in entries}


@pytest.mark.parametrize("command", ["extract", "estimate", "windows"])
def test_help_puts_every_option_of_the_input_under_a_heading(command: str) -> None:
    text = invoke(command, "--help").output
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith((" ", "Usage"))]
    assert headings[-1] == "Other options:"
    assert {"Records:", "Cells:", "Windows, strands, proteins:"} < set(headings)
    other = text[text.index("Other options:") :]
    assert set(re.findall(r"^  .*?(--[a-z-]+)", other, re.MULTILINE)) <= {
        "--quiet", "--help", "--output", "--overwrite", "--seconds", "--json"
    }  # fmt: skip


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; sys.argv = ['embedcache', '--help']\n"
        "from cli.embedcache import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'numpy', 'pyarrow', 'transformers'} & set(sys.modules)))"
    )
    assert run_python(code).returncode == 0


def test_commands_that_encode_nothing_do_not_import_torch(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 9)):
        write_fasta(tmp_path / f"{name}.fa", random_reads(9, seed=first), first)
        invoke(
            "extract", "--model", "kmer:2", "--input", tmp_path / f"{name}.fa", "--output", tmp_path / f"{name}.zarr"
        )
    commands = [
        ["verify", "a.zarr"],
        ["head", "a.zarr"],
        ["info", "a.zarr"],
        ["cache", "list", "."],
        ["concat", "a.zarr", "b.zarr", "--output", "both.zarr"],
        ["select", "both.zarr", "--where", "length > 0", "--output", "some.zarr"],
        ["export", "a.zarr", "--to", "parquet", "--output", "a.parquet"],
        ["import", "a.parquet", "--output", "again.zarr"],
    ]
    code = (
        "import json, sys\n"
        "from cli.embedcache import cli\n"
        "for words in json.loads(sys.argv[1]): cli(words, standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    done = run_python(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", json.dumps(commands), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(open_store(tmp_path / "again.zarr")) == 9


def test_a_hub_model_is_downloaded_once_and_used_offline_afterwards(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "p.fa", ["MKTAYIAKQR", "GVSERT"])
    golden_folder("esm2", tmp_path / "hub").rename(tmp_path / "hub" / "tiny-esm")
    hub = HubServer(tmp_path)
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    arguments = ("extract", "--model", "hub/tiny-esm", "--input", fasta, "--output")
    first = command(*arguments, tmp_path / "a.zarr", env=environment)
    hub.close()
    assert first.returncode == 0, first.stderr
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    command(*arguments, tmp_path / "b.zarr", check=True, env=offline)
    online, later = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    np.testing.assert_array_equal(np.asarray(online.embeddings), np.asarray(later.embeddings))
    assert online.attrs["encoder"]["revision"] == later.attrs["encoder"]["revision"] == COMMIT
    lost = command("extract", "--model", "esm2-35m", "--input", fasta, "--output", tmp_path / "c.zarr", env=offline)
    assert lost.returncode == 2
    assert "Traceback" not in lost.stderr
