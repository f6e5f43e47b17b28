"""Heads on several stores, on some of their blocks, on merged ones, and with labels from a table."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache import load_encoder, open_store
from embedcache.combining.concat import concat
from embedcache.combining.merge import MergeOptions, merge
from embedcache.combining.select import SelectOptions, select
from embedcache.errors import HeadError, InputError, ModelError, StoreError
from embedcache.extraction.extract import extract
from embedcache.extraction.preflight import Options
from embedcache.input_options import InputOptions
from embedcache.progress import Progress
from embedcache.sequences.views import views_of
from embedcache.sources import open_records
from heads.data.feature_stores import Features
from tests.heads.program import refused, run
from tests.heads.stores import planted, write_store
from tests.letter_encoder import LetterEncoder
from tests.stores import run_extract, write_fasta

QUICK = ("--bootstrap", "0", "--c", "0.1,1", "--near", "0")
EXAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "pprmeta_example"


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Rows of two classes in a store each, with no label column of their own."""
    folder = tmp_path_factory.mktemp("halves")
    X, codes = planted(1200)
    for code, name in enumerate(("host", "viral")):
        ids = [f"r{i}" for i in np.flatnonzero(codes == code)]
        split = [("train", "train", "val", "test")[int(one[1:]) % 4] for one in ids]
        write_store(folder / f"{name}.zarr", X[codes == code], {"id": ids, "split": split})
    return folder


def test_stores_of_one_class_each_train_as_their_concatenation_does(halves, tmp_path):
    both = [f"{halves / 'viral.zarr'}:label=1", f"{halves / 'host.zarr'}:label=0"]
    features = [word for store in both for word in ("--features", store)]
    said = run(tmp_path, "train", *features, "--output", "several", *QUICK).stdout
    assert "viral.zarr: " in said
    assert "rows, label 1" in said
    concat(both, tmp_path / "all.zarr", Progress(quiet=True))
    run(tmp_path, "train", "--features", "all.zarr", "--output", "one", *QUICK)
    assert metrics(tmp_path / "several")["test"] == metrics(tmp_path / "one")["test"]
    manifest = json.loads((tmp_path / "several/run_manifest.json").read_text())
    assert manifest["args"]["features"] == both
    assert manifest["dataset_path"] == f"{halves / 'viral.zarr'}, {halves / 'host.zarr'}"
    judged = run(tmp_path, "evaluate", "several", *features, "--bootstrap", "0").stdout
    assert "test rows of the training" in judged
    run(tmp_path, "predict", "several", "--features", halves / "host.zarr", "-o", "p.parquet")
    assert len(pq.read_table(tmp_path / "p.parquet")) == len(open_store(halves / "host.zarr"))
    run(tmp_path, "train", *features, *QUICK)
    assert (tmp_path / "runs/viral+host-lr/metrics.json").exists()


def test_stores_that_do_not_go_together_are_refused(halves, tmp_path):
    other = write_store(tmp_path / "other.zarr", planted(50)[0], {}, encoder="another")
    words = ("--features", f"{halves / 'viral.zarr'}:label=1", "--features", f"{other}:label=0")
    with pytest.raises(StoreError, match="do not hold the same kind of rows"):
        run(tmp_path, "train", *words, *QUICK)
    viral = halves / "viral.zarr"
    with pytest.raises(StoreError, match="occur twice"):
        run(tmp_path, "train", "--features", f"{viral}:label=1", "--features", f"{viral}:label=0", *QUICK)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """A store of three blocks, one of the middle one alone, and a table of labels."""
    folder = tmp_path_factory.mktemp("blocks")
    rng = np.random.default_rng(0)
    reads = [
        "".join(rng.choice(list("ACGT"), 60, p=[0.3 - 0.1 * (i % 2), 0.2, 0.2 + 0.1 * (i % 2), 0.3]))
        for i in range(400)
    ]
    fasta = write_fasta(folder / "r.fa", reads)
    table = folder / "labels.tsv"
    table.write_text("id\tlabel\n" + "".join(f"r{i}\t{i % 2}\n" for i in range(400)))
    poolings = ("mean", "max", "cls")
    run_extract(folder / "three.zarr", fasta, model=LetterEncoder(), metadata=table, options=Options(poolings=poolings))
    run_extract(folder / "max.zarr", fasta, model=LetterEncoder(), metadata=table, options=Options(poolings=("max",)))
    run_extract(folder / "bare.zarr", fasta, model=LetterEncoder(), options=Options(poolings=("mean",)))
    return folder


def test_a_head_on_one_block_fits_every_store_that_has_it(blocks, tmp_path):
    three, alone = open_store(blocks / "three.zarr"), open_store(blocks / "max.zarr")
    name = three.blocks[1].name
    said = run(tmp_path, "train", "--features", three.path, "--blocks", name, "--output", "one", *QUICK).stdout
    assert f"blocks {name} of 3" in said
    assert metrics(tmp_path / "one")["n_rows"] == 400
    run(tmp_path, "train", "--features", alone.path, "--output", "alone", *QUICK)
    assert metrics(tmp_path / "one")["test"] == metrics(tmp_path / "alone")["test"]
    scores = {}
    for run_name in ("one", "alone"):
        for store in (three, alone):
            said = run(tmp_path, "predict", run_name, "--features", store.path, "-o", "p.parquet").stdout
            assert (": those of the training" in said) == (store is three)
            scores[run_name, store.path.name] = pq.read_table(tmp_path / "p.parquet")["y_prob"].to_pylist()
    assert len({tuple(found) for found in scores.values()}) == 1
    assert (
        "test rows of the training"
        in run(tmp_path, "evaluate", "one", "--features", three.path, "--bootstrap", "0").stdout
    )
    with pytest.raises(HeadError, match="extract the sequences with the same encoder"):
        run(tmp_path, "predict", "one", "--features", blocks / "bare.zarr", "-o", "p.parquet")
    with pytest.raises(InputError, match="has no block 'min'"):
        run(tmp_path, "train", "--features", three.path, "--blocks", "min", *QUICK)


def test_a_head_on_several_blocks_finds_them_whatever_their_order(blocks, tmp_path):
    three = open_store(blocks / "three.zarr")
    names = [block.name for block in three.blocks]
    run(tmp_path, "train", "--features", three.path, "--blocks", f"{names[2]},{names[0]}", "--output", "two", *QUICK)
    turned = select(three.path, tmp_path / "t.zarr", SelectOptions(blocks=(names[0], names[2])), Progress(quiet=True))
    for store in (three, turned):
        run(tmp_path, "predict", "two", "--features", store.path, "-o", f"{len(store.blocks)}.parquet")
    found = [pq.read_table(tmp_path / f"{n}.parquet")["y_prob"].to_pylist() for n in (3, 2)]
    assert found[0] == found[1]


def test_sweeps_vary_blocks(blocks, tmp_path):
    three = open_store(blocks / "three.zarr")
    names = [block.name for block in three.blocks]
    (tmp_path / "plan.yaml").write_text(f"vary:\n  blocks: [{names[0]}, '{names[0]},{names[2]}']\n")
    run(tmp_path, "sweep", "--features", three.path, "--plan", "plan.yaml", "--output", "s", *QUICK)
    with (tmp_path / "s/sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["blocks"] for line in lines if line["run"]] == [names[0], f"{names[0]},{names[2]}"]
    assert all(float(line["val_auprc"]) > 0 for line in lines)


def test_labels_of_a_table_are_joined_for_training_and_for_evaluation(blocks, tmp_path):
    bare, table = blocks / "bare.zarr", blocks / "labels.tsv"
    said = run(tmp_path, "train", "--features", bare, "--labels", table, "--output", "r", *QUICK).stdout
    assert "label joined by id to 400 of 400 rows" in said
    half = tmp_path / "half.csv"
    half.write_text("id,label,split\n" + "".join(f"r{i},{(i + 1) % 2},val\n" for i in range(0, 400, 2)) + "x,1,val\n")
    judged = run(tmp_path, "evaluate", "r", "--features", bare, "--labels", table, "--bootstrap", "0").stdout
    assert "test rows of the training" in judged
    opened = Features((str(blocks / "three.zarr"),), labels=half)
    notes: list[str] = []
    store = opened.open(notes.append)
    assert "200 of 400 rows, in place of the store's own label; 1 row of the table has no partner" in notes[0]
    assert store.column("label").to_pylist()[:4] == [1, None, 1, None]
    assert store.column("label").type == pa.int64()
    np.testing.assert_array_equal(store.read(0, 400), open_store(blocks / "three.zarr").read(0, 400))
    (tmp_path / "other.csv").write_text("id,label\nnobody,1\n")
    why = refused(tmp_path, "train", "--features", bare, "--labels", tmp_path / "other.csv", *QUICK)
    assert "none of its 1 id is the id of a record" in why


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Contigs of phages, plasmids and chromosomes: k-mers of DNA beside the mean of the k-mers of six frames."""
    folder = tmp_path_factory.mktemp("merged")
    kept: list[tuple[str, str]] = []
    name = ""
    with gzip.open(EXAMPLE / "sequences.fa.gz", "rt") as file:
        for line in file:
            name, text = (line.strip()[1:], "") if line.startswith(">") else (name, line.strip())
            if text and (not kept or kept[-1][0] != name):
                kept.append((name, text))
            elif text and len(kept[-1][1]) < 600:
                kept[-1] = (name, kept[-1][1] + text)
    fasta = folder / "contigs.fa"
    fasta.write_text("".join(f">{name}\n{text}\n" for name, text in kept))
    labels = EXAMPLE / "labels.tsv"
    run_extract(folder / "dna.zarr", fasta, metadata=labels)
    records = open_records(InputOptions(inputs=(str(fasta),), translate="six-frame", min_length=20))
    extract(
        records, load_encoder("kmer:2:protein"), folder / "protein.zarr", Options(shard_rows=1024), Progress(quiet=True)
    )
    paths = [folder / "dna.zarr", folder / "protein.zarr"]
    merge(paths, folder / "both.zarr", MergeOptions(on=("protein=parent",), aggregate="mean"), Progress(quiet=True))
    return folder


def test_dna_and_protein_train_one_head_with_certificate_and_baselines(merged, tmp_path):
    both = open_store(merged / "both.zarr")
    assert [block.name for block in both.blocks] == ["dna", "protein"]
    words = ("--features", both.path, "--label", "class", "--output", "r", "--bootstrap", "0", "--c", "0.1,1")
    said = run(tmp_path, "train", *words).stdout
    assert "split certificate" in said
    found = metrics(tmp_path / "r")
    assert "kmer:4 lr" in found["baselines"]
    assert found["test"]["balanced_acc"] > 0.5
    assert "WARNING" not in run(tmp_path, "predict", "r", "--features", both.path, "-o", "p.parquet").stdout
    assert len(pq.read_table(tmp_path / "p.parquet")) == len(both)
    with pytest.raises(ModelError, match=r"merged of those of kmer:3 \+ kmer:2:protein, and one encoder alone"):
        run(tmp_path, "predict", "r", "--input", merged / "contigs.fa", "-o", "q.parquet")


def test_a_head_on_the_dna_of_a_merge_fits_the_dna_alone(merged, tmp_path):
    words = ("--label", "class", "--bootstrap", "0", "--c", "1", "--near", "0")
    run(tmp_path, "train", "--features", merged / "both.zarr", "--blocks", "dna", "--output", "r", *words)
    run(tmp_path, "predict", "r", "--features", merged / "dna.zarr", "-o", "a.parquet")
    run(tmp_path, "predict", "r", "--features", merged / "both.zarr", "-o", "b.parquet")
    tables = [pq.read_table(tmp_path / f"{name}.parquet") for name in "ab"]
    ids = set(tables[1]["id"].to_pylist())
    alone = tables[0].filter(pa.array([one in ids for one in tables[0]["id"].to_pylist()]))
    assert alone.drop_columns(["row"]).equals(tables[1].drop_columns(["row"]))
    with pytest.raises(HeadError, match="extract the sequences with the same encoder"):
        run(tmp_path, "predict", "r", "--features", merged / "protein.zarr", "-o", "c.parquet")


def test_a_head_on_one_view_encodes_raw_sequences_by_that_view(tmp_path):
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), 80)) for _ in range(300)]
    fasta = write_fasta(tmp_path / "r.fa", sequences)
    table = tmp_path / "labels.tsv"
    table.write_text("id\tlabel\n" + "".join(f"r{i}\t{int(one[40] in 'AC')}\n" for i, one in enumerate(sequences)))
    options = Options(views=views_of("5,9", "all"), shard_rows=1024)
    run_extract(tmp_path / "six.zarr", fasta, metadata=table, options=options)
    words = ("--features", "six.zarr", "--blocks", "both_9", "--output", "r", *QUICK)
    run(tmp_path, "train", *words)
    run(tmp_path, "predict", "r", "--features", "six.zarr", "-o", "a.parquet")
    run(tmp_path, "predict", "r", "--input", "r.fa", "-o", "b.parquet")
    a, b = (pq.read_table(tmp_path / f"{name}.parquet")["y_prob"].to_numpy() for name in "ab")
    np.testing.assert_allclose(a, b, atol=1e-6)
    run_extract(tmp_path / "one.zarr", fasta, options=Options(views=views_of("9", "both"), shard_rows=1024))
    run(tmp_path, "predict", "r", "--features", "one.zarr", "-o", "c.parquet")
    assert pq.read_table(tmp_path / "c.parquet")["y_prob"].to_numpy().tolist() == a.tolist()


def test_a_head_on_contexts_predicts_new_sites_from_the_genome(tmp_path):
    rng = np.random.default_rng(0)
    contigs = {name: "".join(rng.choice(list("ACGT"), 3000)) for name in ("c1", "c2")}
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in contigs.items()))
    sites = [(name, at, "+-"[at % 2]) for name in contigs for at in range(3, 3000, 9)]
    (tmp_path / "s.tsv").write_text(
        "chrom\tpos\tstrand\tlabel\n"
        + "".join(f"{name}\t{at}\t{way}\t{int(contigs[name][at - 1] in 'AC')}\n" for name, at, way in sites)
    )
    (tmp_path / "new.bed").write_text(
        "".join(f"{name}\t{at - 1}\t{at}\t{name}:{at}:{way}\t0\t{way}\n" for name, at, way in sites[::3])
    )
    options = Options(views=views_of("5,9", "all"), center="center", shard_rows=1024)
    records = open_records(
        InputOptions(genome=str(tmp_path / "g.fa"), sites=(str(tmp_path / "s.tsv"),), context="5,9", side="all")
    )
    extract(records, load_encoder("kmer:2", device="cpu"), tmp_path / "s.zarr", options, Progress(quiet=True))
    run(tmp_path, "train", "--features", "s.zarr", "--blocks", "both_5,downstream_9", "--output", "r", *QUICK)
    run(tmp_path, "predict", "r", "--features", "s.zarr", "-o", "a.parquet")
    said = run(tmp_path, "predict", "r", "--genome", "g.fa", "--sites", "new.bed", "--strict", "-o", "b.parquet").stdout
    assert "letters long" not in said, "the stored windows are wider than the blocks of the head"
    a, b = (pq.read_table(tmp_path / f"{name}.parquet") for name in "ab")
    assert b["id"].to_pylist() == a["id"].to_pylist()[::3]
    assert b["y_prob"].to_pylist() == a["y_prob"].to_pylist()[::3]
    assert "--sites" in refused(tmp_path, "predict", "r", "--genome", "g.fa", "-o", "c.parquet")
    moved = ("--genome", "g.fa", "--sites", "new.bed", "--windows", "9:3", "-o", "c.parquet")
    assert "--windows would move the site" in refused(tmp_path, "predict", "r", *moved)


def test_a_head_on_stored_windows_takes_the_centre_of_sites_and_one_on_sequences_takes_no_sites(tmp_path):
    rng = np.random.default_rng(1)
    genome = "".join(rng.choice(list("ACGT"), 4000))
    (tmp_path / "g.fa").write_text(f">c\n{genome}\n")
    places = range(20, 3900, 13)
    (tmp_path / "s.bed").write_text("".join(f"c\t{at}\t{at + 1}\tr{at}\t0\t+\n" for at in places))
    (tmp_path / "w.tsv").write_text(  # windows of 30 letters, whose site is the eleventh, and no middle
        "id\tsequence\tsite\tlabel\n"
        + "".join(f"r{at}\t{genome[at - 10 : at + 20]}\t11\t{int(genome[at] in 'AC')}\n" for at in places)
    )
    options = Options(views=views_of("8", "both"), center="site", one_based=True, shard_rows=1024)
    run_extract(tmp_path / "w.zarr", tmp_path / "w.tsv", options=options)
    run_extract(tmp_path / "whole.zarr", tmp_path / "w.tsv")
    for name in ("w", "whole"):
        run(tmp_path, "train", "--features", f"{name}.zarr", "--output", name, *QUICK)
    run(tmp_path, "predict", "w", "--features", "w.zarr", "-o", "a.parquet")
    run(tmp_path, "predict", "w", "--genome", "g.fa", "--sites", "s.bed", "-o", "b.parquet")
    a, b = (pq.read_table(tmp_path / f"{name}.parquet") for name in "ab")
    assert (a["id"].to_pylist(), a["y_prob"].to_pylist()) == (b["id"].to_pylist(), b["y_prob"].to_pylist())
    said = refused(tmp_path, "predict", "whole", "--genome", "g.fa", "--sites", "s.bed", "-o", "c.parquet")
    assert "this one takes whole sequences" in said
