"""Targets, losses, samplers, masks and batches: what heads have, fine-tuning has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from embedcache import load_encoder, open_store
from embedcache.encoders.trainable import TrainableTrunk
from embedcache.extraction.preflight import Options, encoding_of
from embedcache.sequences.views import View
from heads.data.features import Standardisation
from heads.data.sampling import EpochSampler
from heads.data.target import Examples, Target
from heads.finetune.batch import Mask, TokenInputs
from heads.finetune.model import FinetuneModel, Products
from heads.finetune.order import Order
from heads.finetune.tokens import TokenRows
from heads.perceptron.losses import Loss
from heads.perceptron.perceptrons import Perceptrons
from tests.heads.finetune.conftest import reads, small_model
from tests.heads.finetune.test_modes import metrics
from tests.heads.program import run
from tests.stores import run_extract


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store whose rows have columns of all kinds of targets, 3 classes and a quantity among them."""
    folder = tmp_path_factory.mktemp("knobs")
    rng = np.random.default_rng(5)
    sequences = reads(120, 2)
    table = pa.table(
        {
            "id": [f"r{i}" for i in range(120)],
            "sequence": sequences,
            "kind": [("Normal", "Border", "Tumor")[i % 3] for i in range(120)],
            "height": rng.normal(170, 10, 120),
            "a": [i % 2 for i in range(120)],
            "b": [i // 2 % 2 for i in range(120)],
            "donor": [f"d{i // 7 % 6}" for i in range(120)],
            "split": [("train", "train", "train", "val", "test")[i // 6 % 5] for i in range(120)],
        }
    )
    pq.write_table(table, folder / "many.parquet")
    small_model("dna_bert_6", folder)
    run_extract(folder / "many.zarr", folder / "many.parquet", model=str(folder / "dna_bert_6"))
    return folder


QUICK = ("--features", "many.zarr", "--epochs", "1", "--bootstrap", "0", "--near", "0")
ASKED = {
    "classes": ["--label", "kind", "--class-weight", "Normal=1,Border=1.3,Tumor=2", "--focal", "2",
                "--label-smoothing", "0.1"],
    "groups": ["--label", "kind", "--group", "donor", "--sampler", "class-group", "--mixup", "0.6",
               "--mixup-probability", "0.3", "--mask", "0.05", "--accumulate", "4", "--select", "f1"],
    "labels": ["--label", "a,b", "--batch-tokens", "600"],
    "quantity": ["--label", "height", "--loss", "huber"],
    "quantiles": ["--label", "height", "--quantiles", "0.1,0.5,0.9", "--loss", "pinball"],
    "correlation": ["--label", "height", "--loss", "correlation"],
    "rare": ["--label", "a", "--pos-weight", "3", "--calibration", "platt", "--threshold", "mcc", "--layer-lr-decay", "0.8"],
    "linear": ["--label", "a", "--schedule", "linear", "--warmup", "0.2", "--recompute", "--precision", "bfloat16"],
}  # fmt: skip


@pytest.mark.parametrize("name", list(ASKED))
def test_targets_and_knobs_of_heads_serve_fine_tuning(name, many):
    options = ["--mode", "full", *ASKED[name]]
    run(many, "finetune", *QUICK, *options, "--output", name)
    found = metrics(many / name)
    kinds = {
        "classes": "multiclass",
        "groups": "multiclass",
        "labels": "multilabel",
        "rare": "binary",
        "linear": "binary",
    }
    assert found["target"] == kinds.get(name, "regression")
    assert np.isfinite(found["history"][0]["train_loss"])
    assert found["test"]["rows"] == 24


def test_masks_hide_tokens_and_never_special_ones(ground):
    encoder = load_encoder(str(ground / "model"))
    tokens = encoder.tokenize(reads(20))
    hidden = Mask.of(encoder, 0.3).hidden(tokens, np.random.default_rng(0))
    changed = hidden.ids != tokens.ids
    assert 0.2 < changed.mean() < 0.4
    assert set(hidden.ids[changed].tolist()) == {encoder.tokenizer.id_of["[MASK]"]}
    ends = np.concatenate((tokens.offsets[:-1], tokens.offsets[1:] - 1))
    assert not changed[ends].any()


def order_of(**options) -> Order:
    target = Target("binary", (0, 1), np.arange(50) % 2)
    return Order(EpochSampler(Examples(np.arange(50), target), "none"), (0, 0), 50, 8, **options)


def test_every_epoch_takes_every_row_once_in_its_own_order():
    first, second = ([ticket.rows for ticket in order_of().epoch(epoch)] for epoch in (0, 1))
    for epoch in (first, second):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(50))
        assert {len(part) for part in epoch} <= {7, 8}
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    again = [ticket.rows.tolist() for ticket in order_of().epoch(1)]
    assert again == [part.tolist() for part in second], "an epoch is the same after those before it or alone"


def test_batches_of_tokens_are_as_many_in_every_epoch_and_never_empty():
    lengths = np.full(50, 10)
    lengths[7] = 900
    order = order_of(lengths=lengths, batch_tokens=100)
    for epoch in range(3):
        parts = [ticket.rows for ticket in order.epoch(epoch)]
        assert len(parts) == order.batches == 14
        assert all(len(part) for part in parts)
        assert sorted(np.concatenate(parts).tolist()) == list(range(50))


def test_processes_share_each_batch_and_weigh_their_part_of_it():
    whole = order_of().epoch(0)
    parts = [order_of(process=process, processes=2).epoch(0) for process in (0, 1)]
    for ticket, *own in zip(whole, *parts, strict=True):
        assert sorted(np.concatenate([part.rows[part.own] for part in own]).tolist()) == sorted(ticket.rows.tolist())
        assert sum(part.weight for part in own) == pytest.approx(2)


def test_sequences_over_the_limit_are_trained_in_the_windows_that_are_extracted(ground, tmp_path):
    encoder = load_encoder(str(ground / "model"))
    long = ["".join(np.random.default_rng(i).choice(list("ACGT"), 1400)) for i in range(2)]
    fasta = tmp_path / "long.fa"
    fasta.write_text("".join(f">r{i}\n{s}\n" for i, s in enumerate([*reads(3), *long])))
    options = Options(dtype="float32", poolings=("mean", "max", "cls", "last"))
    run_extract(tmp_path / "long.zarr", fasta, model=encoder, options=options)
    _compare(open_store(tmp_path / "long.zarr"), encoder, options)


def test_views_and_strands_are_trained_as_they_are_extracted(ground, tmp_path):
    encoder = load_encoder(str(ground / "model"))
    fasta = tmp_path / "sites.fa"
    fasta.write_text("".join(f">r{i}\n{s}\n" for i, s in enumerate(reads(6))))
    options = Options(dtype="float32", views=(View("both", 15), View("upstream", 12)), strands="average")
    run_extract(tmp_path / "sites.zarr", fasta, model=encoder, options=options)
    _compare(open_store(tmp_path / "sites.zarr"), encoder, options)


def _compare(store, encoder, options) -> None:
    """The training model's features of some rows are the store's."""
    encoding = encoding_of(encoder, options, store.column_names)
    assert encoding.fingerprint == store.fingerprint
    rows = TokenRows.read(store, np.arange(len(store)), encoding)
    trunk = TrainableTrunk.of(encoder.weights)
    plain = Standardisation(torch.zeros(store.dim), torch.ones(store.dim))
    head = Perceptrons.drawn((store.dim, 1), [torch.Generator()])
    full = torch.float32
    model = FinetuneModel(trunk, encoding.readout, head, plain, Loss("binary"), 0.0, Products(full, full)).eval()
    inputs = TokenInputs(rows, encoding, trunk, torch.device("cpu"))
    some = np.asarray([4, 0, 2, 3, 1])
    with torch.no_grad():
        found = model.features(inputs.inputs(some))
    np.testing.assert_allclose(found, store.take(some), atol=2e-5)


def test_an_input_is_kept_as_a_store_with_the_contexts_that_were_asked_for(ground):
    options = ["--mode", "top", "--top-layers", "1", "--epochs", "1", "--bootstrap", "0", "--near", "0"]
    shared = ["--model", "model", "--input", "reads.tsv", "--context", "15", "--side", "all"]
    run(ground, "finetune", *shared, *options, "--output", "contexts")
    kept = open_store(ground / "contexts.zarr")
    assert [block.name for block in kept.blocks] == ["upstream_15", "downstream_15", "both_15"]
    tuned = open_store(ground / "contexts" / "features.zarr")
    assert (tuned.dim, len(tuned)) == (kept.dim, len(kept))
