"""What cannot be trained is refused in a sentence that says what can be done."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from embedcache.errors import EmbedcacheError
from embedcache.extraction.preflight import Options
from heads.finetune import options as finetune_options
from tests.encoders.golden import golden_folder
from tests.heads.finetune.conftest import write_table
from tests.heads.finetune.test_modes import QUICK
from tests.heads.program import refused, run
from tests.stores import run_extract


def sentence(folder: Path, *options: str) -> str:
    """Of a training that is refused, whatever it leaves behind."""
    with pytest.raises(EmbedcacheError) as caught:
        run(folder, "finetune", *options, "--bootstrap", "0")
    return str(caught.value)


def test_an_encoder_that_cannot_be_trained_says_so(ground, tmp_path):
    hyena = str(golden_folder("hyenadna", tmp_path))
    assert re.search(
        "HyenaDNA cannot be trained here: take --mode frozen, or another encoder",
        sentence(ground, *QUICK[:2], "--mode", "full", "--model", hyena),
    )
    records = ("--input", "reads.tsv", "--model", hyena, "--output", "never")
    assert "HyenaDNA cannot be trained" in sentence(ground, *records)
    records = ("--input", "reads.tsv", "--model", "model", "--top-layers", "9", "--output", "never")
    assert "--top-layers 9" in sentence(ground, *records)
    assert not (ground / "never.zarr").exists(), "nothing is encoded for a training that cannot be"
    run_extract(ground / "kmers.zarr", ground / "reads.tsv", model="kmer:2")
    assert "kmer:2 has no weights" in sentence(ground, "--features", "kmers.zarr", "--mode", "top")


def test_a_frozen_encoder_of_any_kind_gets_a_head(ground):
    run_extract(ground / "few.zarr", ground / "reads.tsv", model="kmer:1")
    done = run(ground, "finetune", "--features", "few.zarr", "--mode", "frozen", "--epochs", "1", "--bootstrap", "0")
    assert "frozen, mlp head" in done.stdout


def test_a_store_of_another_encoder_serves_as_rows(ground):
    run_extract(ground / "other.zarr", ground / "reads.tsv", model="kmer:1")
    options = ["--model", "model", "--mode", "top", "--top-layers", "1", "--epochs", "1", "--bootstrap", "0"]
    run(ground, "finetune", "--features", "other.zarr", *options, "--output", "rows")
    assert (ground / "rows" / "encoder" / "model.safetensors").exists()


def test_a_store_without_sequences_can_only_be_frozen(ground):
    options = Options(drop_sequence=True)
    run_extract(ground / "bare.zarr", ground / "reads.tsv", model=str(ground / "model"), options=options)
    assert re.search("keeps no sequences.*--mode frozen", sentence(ground, "--features", "bare.zarr", "--mode", "full"))


def test_rows_of_one_class_and_rows_that_do_not_validate_are_refused(ground, tmp_path):
    write_table(tmp_path / "reads.tsv", ["ACGTACGTACGTTTGACA"] * 20)
    lines = (tmp_path / "reads.tsv").read_text().splitlines()
    same = [lines[0], *(line.replace("\t1\t", "\t0\t") for line in lines[1:])]
    (tmp_path / "one.tsv").write_text("\n".join(same) + "\n")
    run_extract(tmp_path / "one.zarr", tmp_path / "one.tsv", model=str(ground / "model"))
    assert "at least two classes" in sentence(tmp_path, "--features", "one.zarr", "--mode", "full")


def test_a_metric_that_makes_no_sense_is_refused(ground):
    assert "r2" in refused(ground, "finetune", *QUICK, "--mode", "frozen", "--select", "r2", "--output", "metric")


def test_a_missing_package_is_named_with_the_line_to_type(ground, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(finetune_options, "find_spec", lambda name: None if name == "peft" else found(name))
    said = refused(ground, "finetune", *QUICK, "--mode", "full", "--lora", "4")
    assert "needs peft, which is not installed: pip install 'embedcache[finetune]'" in said


def test_the_heads_of_a_checkpoint_are_named_and_not_used(ground, tmp_path):
    from safetensors.torch import load_file, save_file
    from torch import zeros

    from embedcache import load_encoder

    folder = golden_folder("dna_bert_6", tmp_path)
    (folder / "model.safetensors").chmod(0o644)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"classifier.weight": zeros(2, 32), "classifier.bias": zeros(2)}, folder / "model.safetensors")
    remarks = load_encoder(str(folder)).remarks
    assert any("classifier.bias, classifier.weight" in remark for remark in remarks)
