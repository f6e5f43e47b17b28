from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from embedcache import load_encoder, open_store
from embedcache.encoding import Encoding
from embedcache.errors import InputError, ModelError
from embedcache.extraction.preflight import Options
from embedcache.rawfeatures import RawFeatures, encoder_record
from embedcache.sources import open_source
from tests.letter_encoder import LetterEncoder
from tests.stores import random_reads, run_extract, write_fasta


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "reads.fa", random_reads(300))


def extracted(tmp_path, fasta, name="s.zarr", **options):
    run_extract(tmp_path / name, fasta, **options)
    return open_store(tmp_path / name)


def loaded(store, **options):
    """As `heads predict` has it: from the JSON of a saved head."""
    record = json.loads(json.dumps(encoder_record(store)))
    return RawFeatures.load(record, store.fingerprint, device="cpu", progress=False, **options)


def all_features(raw, fasta, rows=64, **options):
    windows = list(raw.windows(open_source([str(fasta)]), rows, **options))
    ids = [str(name) for window in windows for name in window.records.column("id").to_pylist()]
    return (
        ids,
        np.concatenate([window.encoded for window in windows]),
        np.concatenate([w.features for w in windows]),
    )


@pytest.mark.parametrize("model", ["kmer:4", "onehot:120"])
def test_features_of_a_file_are_bit_for_bit_those_of_its_store(tmp_path, fasta, model):
    store = extracted(tmp_path, fasta, model=model)
    ids, encoded, features = all_features(loaded(store), fasta)
    assert ids == store.ids.tolist()
    assert encoded.all()
    assert features.dtype == store.dtype
    np.testing.assert_array_equal(features, store.take(np.arange(len(store))))


def test_so_are_several_layers_and_poolings_of_a_transformer_with_random_weights(tmp_path):
    fasta = write_fasta(tmp_path / "few.fa", random_reads(24))
    options = Options(shard_rows=1024, poolings=("mean", "max"), layers=(1, -1), any_alphabet=True)
    store = extracted(tmp_path, fasta, model="esm2-8m", random_weights=True, options=options)
    *_, features = all_features(loaded(store), fasta, any_alphabet=True)
    np.testing.assert_array_equal(features, store.take(np.arange(len(store))))


def test_records_over_the_limit_have_no_features_where_the_training_skipped_them(tmp_path, fasta):
    encoder = LetterEncoder(k=1, limit=60)
    for policy in ("skip", "truncate", "window"):
        options = Options(shard_rows=1024, overlong=policy)
        store = extracted(tmp_path, fasta, f"{policy}.zarr", model=encoder, options=options)
        raw = raw_with(encoder, policy)
        _, encoded, features = all_features(raw, fasta)
        assert np.flatnonzero(~encoded).tolist() == store.quarantined.tolist()
        assert len(store.quarantined) > 0 or policy != "skip"
        np.testing.assert_array_equal(features, store.take(np.flatnonzero(encoded)))


def raw_with(encoder, policy):
    return RawFeatures(Encoding(encoder, encoder.readout(), policy), np.dtype(np.float16))


def test_a_record_over_the_limit_of_an_encoder_that_takes_none_is_named(fasta):
    with pytest.raises(InputError, match=r"'r\d+' at .*reads.fa, line \d+ has \d+ .*takes 60: cut it"):
        list(raw_with(LetterEncoder(k=1, limit=60), "error").windows(open_source([str(fasta)])))


def test_memory_holds_a_window_and_not_the_file(tmp_path, fasta):
    raw = loaded(extracted(tmp_path, fasta, model="kmer:2"))
    sizes = [len(window.features) for window in raw.windows(open_source([str(fasta)]), 128)]
    assert sizes == [128, 128, 44]


def test_another_encoder_is_refused_in_one_sentence(tmp_path, fasta):
    store = extracted(tmp_path, fasta, model="kmer:4")
    with pytest.raises(ModelError, match="kmer:3 makes features with the fingerprint .* --model"):
        loaded(store, model="kmer:3")
    with pytest.raises(ModelError, match="cannot be loaded .* --model"):
        loaded(store, model="no-such-encoder")


@pytest.mark.parametrize("lost", ["blocks", "overlong", "precision", "name", "dtype"])
def test_a_head_that_does_not_say_how_its_features_were_made_is_refused(tmp_path, fasta, lost):
    store = extracted(tmp_path, fasta, model="kmer:4")
    record = encoder_record(store)
    del record[lost]
    with pytest.raises(ModelError, match="does not say how its features were made"):
        RawFeatures.load(record, store.fingerprint)


def test_proteins_given_to_a_head_on_dna_are_refused(tmp_path, fasta):
    raw = loaded(extracted(tmp_path, fasta, model="kmer:4"))
    proteins = write_fasta(tmp_path / "proteins.fa", ["MKLVFFAEDVGSNKQWERTY"] * 5)
    with pytest.raises(InputError, match="looks like protein"):
        list(raw.windows(open_source([str(proteins)])))


def test_stored_sequences_come_in_the_order_of_their_rows(tmp_path):
    reads = random_reads(2500, shortest=10, longest=20)
    store = extracted(tmp_path, write_fasta(tmp_path / "many.fa", reads))
    rows = np.array([0, 3, 1023, 1024, 2047, 2400, 2499])
    found = pa.concat_arrays(list(store.sequences(rows))).to_pylist()
    assert found == [reads[row] for row in rows]
    assert load_encoder("kmer:3").hidden == store.dim
