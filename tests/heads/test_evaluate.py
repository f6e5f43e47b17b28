"""`heads evaluate` judges a head on rows that it has not seen, and says which; a damaged run is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.heads.program import refused, run
from tests.heads.stores import ROWS, planted, write_store


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run that a test may damage."""
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


def evaluate(folder, outdir, features, *options):
    run(folder, "evaluate", outdir, "--features", features, "--bootstrap", "0", "-o", "m.json", *options)
    return json.loads((folder / "m.json").read_text())


def test_another_dataset_with_the_same_ids_is_not_taken_for_the_training(trained, data, columns, tmp_path):
    other = write_store(tmp_path / "other.zarr", data[0] + 1, columns)
    judged = evaluate(tmp_path, trained[0], other)
    assert (judged["rows_of"], judged["rows"]) == ("all rows", ROWS)
    assert not any("left out" in note for note in judged["notes"])


def test_rows_that_trained_or_tuned_the_head_are_left_out_of_a_grown_store(trained, data, columns, tmp_path):
    more, codes = planted(200, seed=5)
    grown = {name: values + values[:200] for name, values in columns.items()}
    grown["label"] = columns["label"] + np.array(["host", "viral"])[codes].tolist()
    store = write_store(tmp_path / "grown.zarr", np.concatenate([data[0], more]), grown)
    judged = evaluate(tmp_path, trained[0], store)
    assert judged["rows"] == 300 + 200
    assert judged["notes"][0] == "1,200 rows that trained or tuned the head are left out"
    assert evaluate(tmp_path, trained[0], store, "--split", "test")["rows"] == 300 + 40
    assert "1,200 rows that trained" in run(tmp_path, "evaluate", trained[0], "--features", store).stdout


def test_another_store_is_split_by_the_column_of_the_training(data, columns, tmp_path):
    renamed = {"fold" if name == "split" else name: values for name, values in columns.items()}
    store = write_store(tmp_path / "reads.zarr", data[0], renamed)
    quick = ("--bootstrap", "0", "--c", "0.1", "--class-weight", "none")
    run(tmp_path, "train", "--features", store, "--split", "fold", *quick, "--output", "run")
    other = write_store(tmp_path / "other.zarr", data[0] + 1, renamed | {"split": ["train"] * ROWS})
    assert evaluate(tmp_path, "run", other, "--split", "test")["rows"] == 300
    bare = write_store(tmp_path / "bare.zarr", data[0] + 1, {"label": columns["label"]})
    assert "has no 'fold' column" in refused(tmp_path, "evaluate", "run", "--features", bare, "--split", "test")
    strange = write_store(tmp_path / "strange.zarr", data[0] + 1, renamed | {"fold": ["a"] * ROWS})
    said = refused(tmp_path, "evaluate", "run", "--features", strange, "--split", "test")
    assert "it holds 'a'; known are train" in said


def test_rows_without_a_label_are_counted(trained, data, columns, tmp_path):
    labels = [None if i < 30 else label for i, label in enumerate(columns["label"])]
    store = write_store(tmp_path / "holed.zarr", data[0] + 1, {"label": labels})
    judged = evaluate(tmp_path, trained[0], store)
    assert judged["rows"] == ROWS - 30
    assert judged["notes"][0] == "30 rows without a label are left out"


@pytest.mark.parametrize("manifest", ["[]", '{"args": null}', "null", '{"args": {"columns": {"colour": "red"}}}', "{"])
def test_a_damaged_manifest_is_refused(copied, store, tmp_path, manifest):
    (copied / "run_manifest.json").write_text(manifest)
    assert "missing or damaged" in refused(tmp_path, "evaluate", copied, "--features", store)


def test_a_manifest_that_does_not_name_its_store_is_refused(copied, store, tmp_path):
    manifest = json.loads((copied / "run_manifest.json").read_text())
    del manifest["store_rows_digest"]
    (copied / "run_manifest.json").write_text(json.dumps(manifest))
    assert "missing or damaged" in refused(tmp_path, "evaluate", copied, "--features", store)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.drop_columns("split"), "is damaged: it does not say which rows"),
        (lambda table: table.set_column(0, "row", pa.array(["x"] * len(table))), "is damaged: it does not say"),
        (lambda table: table.set_column(0, "row", pa.array([10**6] * len(table))), "rows that the store does not have"),
        (lambda table: table.set_column(0, "row", pa.array([-1] * len(table))), "rows that the store does not have"),
        (lambda table: table.set_column(0, "row", pa.nulls(len(table), pa.int64())), "does not have"),
    ],
)
def test_damaged_predictions_are_refused(copied, store, tmp_path, damage, message):
    file = copied / "predictions.parquet"
    pq.write_table(damage(pq.read_table(file)), file)
    assert message in refused(tmp_path, "evaluate", copied, "--features", store)


def test_missing_predictions_are_named_once(copied, store, tmp_path):
    (copied / "predictions.parquet").unlink()
    said = refused(tmp_path, "evaluate", copied, "--features", store)
    assert said.count("predictions.parquet") == 1
    assert "is missing" in said


def test_a_run_knows_its_store_again_however_its_rows_are_cut(trained, data, columns, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.heads.stores.SHARD_ROWS", 4096)
    again = write_store(tmp_path / "again.zarr", data[0], columns)
    assert evaluate(tmp_path, trained[0], again)["rows_of"] == "test rows of the training"
