"""Estimates: what is counted is what the extraction then makes, and what is timed says how."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cli.embedcache import cli
from embedcache import load_encoder, open_store
from embedcache.encoders.sketch import sketch
from embedcache.encoding import Encoding
from embedcache.errors import EmbedcacheError
from embedcache.extraction.estimate import DiskPart, Estimate, InputPart, MemoryPart, ModelPart, TimePart, estimate
from embedcache.extraction.pace import load_probe
from embedcache.extraction.preflight import Options
from embedcache.extraction.survey import SAMPLE, survey
from embedcache.sources import open_source
from embedcache.storage.layout import StorePaths
from tests.encoders.golden import golden_folder
from tests.encoders.hub_server import HubServer
from tests.processes import command
from tests.stores import random_reads, run_extract, write_fasta


def estimated(model: object, *inputs: object, options: Options | None = None, **settings: object) -> Estimate:
    """Estimate on the CPU, measuring as little as possible."""
    source = open_source([str(file) for file in inputs])
    return estimate(source, str(model), options or Options(), device="cpu", seconds=0.01, **settings)  # type: ignore[arg-type]


def proteins(count: int, longest: int = 300, seed: int = 0) -> list[str]:
    """Random proteins of mixed lengths."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for length in rng.integers(5, longest, count)]


@pytest.mark.parametrize(
    ("model", "sequences", "options"),
    [
        ("kmer:3", random_reads(3000), Options()),
        ("kmer:3", [*random_reads(1500), *random_reads(1500)], Options()),
        ("onehot:30", random_reads(100), Options(overlong="truncate", dtype="float32")),
        ("golden esm2", [*proteins(40), "MKT" * 900, *proteins(30)], Options()),
        ("golden esm2", [*proteins(40), "MKT" * 900], Options(overlong="skip", layers=("mid", -1))),
        ("golden esm2", [*proteins(40), "MKT" * 900], Options(overlong="truncate", poolings=("mean", "max"))),
        ("golden esm2", [*proteins(60), "MKT" * 900], Options(poolings=("none",))),
        ("golden ntv1", ["ACGTN" * 30, *random_reads(80), "ACGT" * 4000], Options()),
        ("golden dnabert2", random_reads(80), Options(poolings=("center:10",))),
    ],
)
def test_what_is_counted_is_what_the_extraction_makes(
    tmp_path: Path, model: str, sequences: list[str], options: Options
) -> None:
    name = str(golden_folder(model.removeprefix("golden "), tmp_path)) if model.startswith("golden") else model
    fasta = write_fasta(tmp_path / "r.fa", sequences)
    options = replace(options, shard_rows=16 if options.poolings == ("none",) else 1024)  # else the time decides them
    found = estimated(name, fasta, options=options)
    done = run_extract(tmp_path / "s.zarr", fasta, model=name, options=options)
    assert (found.input.rows, found.input.tokens, found.input.overlong_rows) == (done.rows, done.tokens, done.overlong)
    assert found.input.encoded_tokens == done.encoded_tokens
    assert found.input.repeated_rows == done.identical_rows
    paths = StorePaths(tmp_path / "s.zarr")
    arrays = [*(paths.array / "c").rglob("*"), *(paths.offsets / "c").rglob("*")]
    assert found.disk.embeddings_bytes == sum(file.stat().st_size for file in arrays if file.is_file())
    tables = sum(file.stat().st_size for file in (paths.array / "rows").iterdir())
    assert tables / 1.5 - 5000 < found.disk.table_bytes < tables * 1.5
    assert found.model.weights == ("real" if model.startswith("golden") else "none")


def test_more_records_than_the_sample_are_carried_over_by_their_lengths(tmp_path: Path) -> None:
    reads = sorted(random_reads(2 * SAMPLE, longest=400), key=len)
    folder = golden_folder("dnabert2", tmp_path)
    found = estimated(folder, write_fasta(tmp_path / "r.fa", reads))
    real = int(load_encoder(str(folder)).tokenize(reads).lengths.sum())
    assert found.input.rows == 2 * SAMPLE
    assert found.input.tokens == pytest.approx(real, rel=0.005)


def test_the_sample_comes_from_all_over_the_input_and_is_seeded(tmp_path: Path) -> None:
    encoder = load_encoder("kmer:3")
    encoding = Encoding(encoder, encoder.readout(), "window")
    source = open_source([str(write_fasta(tmp_path / "r.fa", random_reads(4 * SAMPLE)))])
    first, again, other = (survey(source, encoding, seed) for seed in (0, 0, 1))
    assert len(first.sampled) == SAMPLE
    np.testing.assert_allclose(np.histogram(first.sampled, 4, (0, 4 * SAMPLE))[0], SAMPLE / 4, rtol=0.2)
    np.testing.assert_array_equal(first.sampled, again.sampled)
    assert (first.sampled != other.sampled).any()
    assert first.sample.column("id").to_pylist() == [f"r{row}" for row in first.sampled]


def test_time_is_positive_and_finite_and_lies_within_its_spread(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", proteins(200))
    found = estimated("esm2-8m", fasta).time
    assert 0 < found.seconds_low <= found.seconds <= found.seconds_high < math.inf
    assert 0 < found.reading_seconds < found.seconds
    assert found.batches_measured >= 1
    assert math.isfinite(found.tokens_per_second)
    assert math.isfinite(found.rows_per_second)


def test_nothing_to_encode_still_has_a_time(tmp_path: Path) -> None:
    found = estimated("onehot:5", write_fasta(tmp_path / "r.fa", ["ACGTACGT"]), options=Options(overlong="skip"))
    assert (found.input.encoded_tokens, found.time.batches_measured) == (0, 0)
    assert 0 < found.time.seconds < math.inf


def test_json_has_every_figure_and_the_next_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fasta = write_fasta(tmp_path / "my reads.fa", random_reads(20))
    words = [
        "--model",
        "kmer:2",
        "--input",
        str(fasta),
        "--overlong",
        "truncate",
        "--drop-sequence",
        "--seconds",
        "0.1",
    ]
    said = CliRunner().invoke(cli, ["estimate", *words, "--json"], catch_exceptions=False)
    found = json.loads(said.stdout)
    parts = {"model": ModelPart, "input": InputPart, "disk": DiskPart, "memory": MemoryPart, "time": TimePart}
    for name, part in parts.items():
        assert set(part.__dataclass_fields__) <= set(found[name])
    assert set(found) == {*parts, "cautions", "next"}
    assert found["memory"]["fits"] is True
    assert found["disk"]["free_bytes"] > found["disk"]["embeddings_bytes"] > 0
    program, *arguments = shlex.split(found["next"])
    assert program == "embedcache"
    assert arguments[-2:] == ["--output", "my reads.zarr"]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    assert "sequence" not in open_store(tmp_path / "my reads.zarr").column_names


def test_the_table_says_units_and_the_next_step(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "p.fa", [*proteins(20), "MKT" * 900, *proteins(20)])
    said = (
        CliRunner()
        .invoke(
            cli, ["estimate", "--model", "esm2-8m", "--input", str(fasta), "--seconds", "0.1"], catch_exceptions=False
        )
        .stdout
    )
    assert re.search(r"input .*41 rows, [\d,]+ letters, [\d,]+ tokens", said)
    assert "1 row (2.4%) is over the limit of 1,024 tokens: --overlong window" in said
    assert "20 rows (48.8%) have the sequence of another" in said
    assert re.search(r"disk .*41 x 320 float16 = [\d.]+ kB.* free", said)
    assert re.search(r"time .* about [\d.]+ s .*tokens/s.*rows/s", said)
    assert said.splitlines()[-1].startswith("next     embedcache extract --model esm2-8m")
    assert max(map(len, said.splitlines()[1:-1])) <= 170


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "nt500", "--input", "{fasta}"],
        ["--model", "kmer:4", "--input", "{missing}"],
        ["--model", "kmer:4", "--input", "{empty}"],
        ["--model", "kmer:4", "--input", "{fasta}", "--pool", "median"],
        ["--model", "kmer:4", "--input", "{fasta}", "--layer", "3"],
        ["--model", "kmer:4", "--input", "{fasta}", "--shard-rows", "1000"],
        ["--model", "onehot:9", "--input", "{fasta}", "--overlong", "window"],
        ["--model", "onehot:9", "--input", "{fasta}"],
        ["--model", "kmer:2:protein", "--input", "{fasta}"],
        ["--model", "kmer:2", "--input", "{fasta}", "--device", "cuda:7"],
        ["--model", "kmer:2", "--input", "{fasta}", "{fasta}"],
        ["--model", "{folder}", "--input", "{fasta}"],
    ],
)
def test_bad_input_gives_the_sentence_that_extract_gives(tmp_path: Path, arguments: list[str]) -> None:
    files = {
        "fasta": write_fasta(tmp_path / "r.fa", random_reads(3)),
        "missing": tmp_path / "nothing.fa",
        "empty": write_fasta(tmp_path / "empty.fa", []),
        "folder": tmp_path,
    }
    words = [word.format(**files) for word in arguments]
    with pytest.raises(EmbedcacheError) as refused:
        CliRunner().invoke(cli, ["estimate", *words], catch_exceptions=False)
    with pytest.raises(EmbedcacheError, match=re.escape(str(refused.value))):
        CliRunner().invoke(cli, ["extract", *words, "--output", str(tmp_path / "s.zarr")], catch_exceptions=False)


@pytest.mark.slow
def test_nothing_is_asked_of_the_network_and_nothing_is_downloaded(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "p.fa", proteins(20))
    golden_folder("esm2", tmp_path / "hub").rename(tmp_path / "hub" / "tiny-esm")
    hub = HubServer(tmp_path)
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    words = ("--input", fasta, "--seconds", 0.1)

    unknown = command("estimate", "--model", "hub/tiny-esm", *words, env=environment)
    assert unknown.returncode == 2
    assert "not on this machine" in unknown.stderr
    known = json.loads(command("estimate", "--model", "esm2-8m", *words, "--json", env=environment, check=True).stdout)
    assert known["model"]["weights"] == "random"
    assert known["model"]["download_bytes"] == pytest.approx(31_375_984, rel=0.1)  # the published file, with its heads
    assert hub.requests == []
    assert not (tmp_path / "home").exists()

    command(
        "extract",
        "--model",
        "hub/tiny-esm",
        "--input",
        fasta,
        "--output",
        tmp_path / "s.zarr",
        env=environment,
        check=True,
    )
    asked = len(hub.requests)
    here = json.loads(
        command("estimate", "--model", "hub/tiny-esm", *words, "--json", env=environment, check=True).stdout
    )
    assert (here["model"]["weights"], here["model"]["download_bytes"]) == ("real", 0)
    assert len(hub.requests) == asked
    hub.close()


def test_an_encoder_too_big_for_the_memory_is_measured_by_some_of_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fasta = write_fasta(tmp_path / "p.fa", proteins(20))
    whole = estimated("esm2-8m", fasta)
    monkeypatch.setattr("embedcache.extraction.estimate.free_memory", lambda _: 15_000_000)
    part = estimated("esm2-8m", fasta, options=Options(layers=(5,)))
    assert (whole.model.layers_measured, part.model.layers_measured, part.model.layers) == (6, 2, 6)
    assert (part.input, part.disk.dim, part.model.parameters) == (whole.input, whole.disk.dim, whole.model.parameters)
    said = "\n".join(part.lines())
    assert "2 of the 6 layers" in said
    assert not part.memory.fits
    assert "more than is free" in said


@pytest.mark.parametrize("model", ["esm2-8m", "hyenadna-small-32k"])
def test_a_part_of_the_layers_stands_for_as_much_arithmetic_as_the_whole(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = sketch(model)
    assert plan is not None
    monkeypatch.setattr("embedcache.extraction.pace._MOST_WEIGHTS", {True: 0, False: 0})
    probe = load_probe(lambda name, **how: load_encoder(name, device="cpu", **how), model, plan, torch.float32, None)
    whole = load_encoder(model, random_weights=True, device="cpu")
    last = whole.readout()
    assert probe.layers == 2
    assert probe.encoder.readout() == last
    assert probe.work(last)(500.0, 100.0) == pytest.approx(whole.flops(500.0, 100.0))
    first = whole.readout(layers=(1,))
    assert probe.work(first)(500.0, 100.0) == pytest.approx(whole.flops(500.0, 100.0) / plan.layers)


def test_the_sketch_of_an_encoder_agrees_with_the_encoder() -> None:
    plan = sketch("esm2-8m")
    assert plan is not None
    encoder = load_encoder("esm2-8m", random_weights=True, device="cpu")
    assert plan.config == encoder.trunk.config  # type: ignore[attr-defined]
    assert plan.layers == encoder.layers
    assert plan.memory(torch.float32) == 4 * plan.parameters == plan.download_bytes
    assert 0.5 < plan.memory(torch.bfloat16) / plan.memory(torch.float32) < 0.52
    assert sketch("kmer:4") is None
