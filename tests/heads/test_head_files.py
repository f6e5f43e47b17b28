"""A saved head comes back as it was, in another process too; a damaged or hostile file gives an error and runs nothing."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embedcache.errors import HeadError
from heads.features import ArrayRows
from heads.head import CARD, TENSORS, HeadCard, load_head, save_head
from heads.logistic import LogisticHead
from tests.heads.stores import planted


def card(classes=("host", "viral"), threshold=0.3, dim=24):
    return HeadCard("lr", dim, classes, threshold, "label", "fingerprint", "made-up")


@pytest.fixture(params=[2, 3])
def saved(request, tmp_path):
    """A folder with a head of two or three classes, its features, and their probabilities before saving."""
    X, codes = planted(300, 24, request.param)
    head = LogisticHead(C=0.1).fit(X, codes).model_
    classes = ("host", "viral", "phage")[: request.param]
    save_head(tmp_path, head, card(classes, 0.3 if request.param == 2 else None))
    np.save(tmp_path / "X.npy", X)
    return tmp_path, X, head.probabilities(ArrayRows(X), np.arange(300))


class Malice:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_head_loaded_in_a_new_process_gives_identical_scores(saved):
    folder, _, before = saved
    script = (
        "import sys, numpy as np; from pathlib import Path; from heads.features import ArrayRows\n"
        "from heads.head import load_head; folder = Path(sys.argv[1]); X = np.load(folder / 'X.npy')\n"
        "head, card = load_head(folder); np.save(folder / 'after.npy', head.probabilities(ArrayRows(X), np.arange(300)))"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, cwd=root)
    after = np.load(folder / "after.npy")
    if torch.get_num_threads() == 1:
        assert (after == before).all()
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_the_card_comes_back_as_it_was(saved):
    folder, *_ = saved
    head, back = load_head(folder)
    assert (back.label, back.fingerprint, back.dim) == ("label", "fingerprint", 24)
    assert len(back.classes) == head.classes


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
@pytest.mark.parametrize("name", [TENSORS, CARD])
def test_a_truncated_file_is_refused(saved, name, share):
    folder, *_ = saved
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(HeadError, match="is damaged"):
        load_head(folder)


@pytest.mark.parametrize("name", [TENSORS, CARD])
def test_a_pickle_in_place_of_a_file_is_refused_and_not_run(saved, name):
    folder, *_ = saved
    (folder / name).write_bytes(pickle.dumps(Malice(folder / "ran")))
    with pytest.raises(HeadError, match="is damaged"):
        load_head(folder)
    torch.save({"weights": Malice(folder / "ran")}, folder / name)
    with pytest.raises(HeadError, match="is damaged"):
        load_head(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "os.system"}, "names the head kind 'os.system'; known here: lr"),
        ({"kind": ["lr"]}, "is damaged"),
        ({"classes": 5}, "is damaged"),
        ({"classes": ["a", "b", "c", "d"]}, "do not fit each other"),
        ({"dim": 23}, "do not fit each other"),
        ({"threshold": "high"}, "is damaged"),
        ({"format_version": 99}, "update embedcache"),
        ({"extra": 1}, "is damaged"),
    ],
)
def test_a_card_with_wrong_fields_is_refused(saved, change, message):
    folder, *_ = saved
    values = json.loads((folder / CARD).read_text()) | change
    (folder / CARD).write_text(json.dumps(values))
    with pytest.raises(HeadError, match=message):
        load_head(folder)


def test_tensors_of_wrong_shape_or_value_are_refused(saved):
    folder, *_ = saved
    tensors = load_file(folder / TENSORS)
    for name, tensor in (
        ("weights", torch.zeros(5)),
        ("centre", torch.zeros(3)),
        ("factor", torch.full((24,), torch.nan)),
    ):
        save_file({**tensors, name: tensor}, folder / TENSORS)
        with pytest.raises(HeadError, match="is damaged"):
            load_head(folder)


def test_a_folder_without_a_head_is_named(tmp_path):
    with pytest.raises(HeadError, match="does not hold a saved head"):
        load_head(tmp_path)
