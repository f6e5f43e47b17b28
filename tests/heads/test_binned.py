"""Binned features are made once, found again by what they are, and not believed where they may have been changed."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from embedcache import open_store
from heads.data.features import ArrayRows
from heads.trees import binned
from heads.trees.binned import bin_rows, cache_folder
from tests.heads.stores import planted, write_store

X, _ = planted(900)


def test_bins_are_read_again_for_other_labels_and_settings_and_made_anew_for_other_features(tmp_path):
    source, rows = ArrayRows(X), np.arange(0, 600)
    first = bin_rows(source, rows, {"max_bin": 63}, cache=tmp_path)
    again = bin_rows(ArrayRows(X.copy()), rows.copy(), {"max_bin": 63}, cache=tmp_path)
    assert (first.from_cache, again.from_cache, again.key == first.key) == (False, True, True)
    changed = X.copy()
    changed[5, 5] += 1
    for other, some, bins in ((ArrayRows(changed), rows, 63), (source, rows[1:], 63), (source, rows, 31)):
        made = bin_rows(other, some, {"max_bin": bins}, cache=tmp_path)
        assert (made.from_cache, made.key == first.key) == (False, False)


def test_bins_of_a_store_are_those_of_its_array(tmp_path):
    store = open_store(write_store(tmp_path / "a.zarr", X, {}))
    rows = np.arange(3, 700)
    streamed = bin_rows(store, rows, {"max_bin": 63}, cache=None).dataset
    whole = lightgbm.Dataset(
        X[rows].astype(np.float64),
        np.zeros(len(rows)),
        params={"max_bin": 63, "feature_pre_filter": False, "verbosity": -1},
    ).construct()
    streamed._dump_text(tmp_path / "streamed.txt")
    whole._dump_text(tmp_path / "whole.txt")
    assert (tmp_path / "streamed.txt").read_text() == (tmp_path / "whole.txt").read_text()


@pytest.mark.parametrize("damage", ["cut", "changed", "no checksum", "for others to write"])
def test_a_damaged_cache_is_made_anew_with_a_note(tmp_path, damage):
    source, rows = ArrayRows(X), np.arange(600)
    made = bin_rows(source, rows, {"max_bin": 63}, cache=tmp_path)
    file = tmp_path / made.key / binned.DATA
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "changed":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "no checksum":
        (tmp_path / made.key / binned.CHECKSUM).unlink()
    else:
        file.chmod(0o666)
    again = bin_rows(source, rows, {"max_bin": 63}, cache=tmp_path)
    assert not again.from_cache
    assert "made anew" in again.notes[0]
    assert bin_rows(source, rows, {"max_bin": 63}, cache=tmp_path).from_cache


def test_a_cache_that_cannot_be_written_gives_a_note(tmp_path):
    (tmp_path / "file").write_text("")
    made = bin_rows(ArrayRows(X), np.arange(600), {"max_bin": 63}, cache=tmp_path / "file")
    assert "could not be kept" in made.notes[0]
    assert made.dataset.num_data() == 600


def test_the_cache_keeps_to_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(binned, "CACHE_BYTES", 40_000)
    keys = [bin_rows(ArrayRows(X), np.arange(start, 600), {}, cache=tmp_path).key for start in range(5)]
    kept = {path.name for path in tmp_path.iterdir()}
    assert keys[-1] in kept
    assert keys[0] not in kept


def test_the_cache_lies_where_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "embedcache" / "binned"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "embedcache" / "binned"
