"""Every planted leak is found, and nothing else; the certificate of the same split is the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import embedcache
from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from heads.data.features import ArrayRows
from heads.data.labels import MISSING
from heads.data.target import Target
from heads.splitting.certificate import THRESHOLD, Sequences, certify, read_sequences
from heads.splitting.splits import TEST, TRAIN, VAL
from tests.heads.stores import write_store

TURNED = str.maketrans("ACGT", "TGCA")
PARTS = np.repeat([TRAIN, VAL, TEST], [300, 100, 100])


def digest(sequence):
    return hashlib.blake2b(sequence.encode(), digest_size=16).digest()


class Split:
    """500 rows of random DNA and steep features with groups of four inside the parts, and what is planted in them."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.sequences = ["".join(letters) for letters in rng.choice(list("ACGT"), (500, 60))]
        self.values = (rng.standard_normal((500, 40)) * np.arange(1, 41) ** -0.7) + rng.normal(0, 3, 40)
        self.groups = np.arange(500) // 4
        self.parts = PARTS.copy()
        self.target = Target("binary", ("no", "yes"), np.arange(500) % 2)

    def copy(self, row, of, *, turned=False):
        """The same sequence, or its reverse complement, with features of its own."""
        self.sequences[row] = self.sequences[of][::-1].translate(TURNED) if turned else self.sequences[of]
        if not turned:
            self.values[row] = self.values[of]

    def resemble(self, row, of, noise=0.02):
        """Almost the same features."""
        shift = np.random.default_rng(row).standard_normal(40)
        self.values[row] = self.values[of] + noise * self.values.std(0) * shift

    def certificate(self, **changed):
        turned = [sequence[::-1].translate(TURNED) for sequence in self.sequences]
        both = zip(self.sequences, turned, strict=True)
        given = {
            "parts": self.parts,
            "target": self.target,
            "sequences": Sequences(
                np.array([digest(sequence) for sequence in self.sequences], "S16"),
                np.array([digest(min(pair)) for pair in both], "S16"),
                True,
            ),
            "groups": self.groups,
            "rows": np.arange(500),
            "source": ArrayRows(self.values.astype(np.float32)),
        }
        return certify(**(given | changed))


def counts(certificate):
    return {
        (overlap.part, overlap.other): (overlap.identical, overlap.reversed, overlap.near, overlap.groups)
        for overlap in certificate.overlaps
    }


CLEAN = {("val", "train"): (0, 0, 0, 0), ("test", "train"): (0, 0, 0, 0), ("test", "val"): (0, 0, None, 0)}


def test_a_clean_split_has_no_leak():
    certificate = Split().certificate()
    assert counts(certificate) == CLEAN
    assert certificate.leaks == certificate.warnings == ()
    certificate.require_clean()
    assert "  none found" in certificate.lines()


@pytest.mark.parametrize(("row", "of", "pair"), [(310, 7, ("val", "train")), (450, 7, ("test", "train"))])
def test_every_leak_is_found_in_its_place_and_nothing_else(row, of, pair):
    for plant, found in (
        (lambda split: split.copy(row, of), (1, 0, 0, 0)),
        (lambda split: split.copy(row, of, turned=True), (0, 1, 0, 0)),
        (lambda split: split.resemble(row, of), (0, 0, 1, 0)),
        (lambda split: split.groups.__setitem__(row, split.groups[of]), (0, 0, 0, 1)),
    ):
        split = Split()
        plant(split)
        certificate = split.certificate()
        assert counts(certificate) == CLEAN | {pair: found}
        assert len(certificate.leaks) == 1
        with pytest.raises(HeadError, match=f"--strict: the split leaks: 1 .*{pair[0]}"):
            certificate.require_clean()


def test_test_and_val_are_held_against_each_other():
    split = Split()
    split.copy(450, 310)
    split.copy(451, 311, turned=True)
    split.groups[452] = split.groups[312]
    split.resemble(453, 313)  # a near-duplicate is looked for in train only
    assert counts(split.certificate()) == CLEAN | {("test", "val"): (1, 1, None, 1)}


def test_all_leaks_together_are_counted_each():
    split = Split()
    for i in range(5):
        split.copy(400 + i, i)
    for i in range(4):
        split.copy(420 + i, 20 + i, turned=True)
    for i in range(3):
        split.resemble(440 + i, 40 + i)
    split.groups[460:462] = split.groups[0]
    certificate = split.certificate()
    assert counts(certificate) == CLEAN | {("test", "train"): (5, 4, 3, 1)}
    leak = next(overlap for overlap in certificate.overlaps if overlap.part == "test" and overlap.other == "train")
    assert leak.group_rows == 2
    assert {(near.row, near.train_row) for near in leak.nearest} == {(440 + i, 40 + i) for i in range(3)}
    assert certificate.leaks[:2] == (
        "5 of 100 test rows have a sequence that is in train",
        "4 of 100 test rows have a sequence whose reverse complement is in train",
    )
    assert certificate.leaks[2].startswith("3 of 100 test rows have a near-duplicate in train, a cosine over 0.999")
    assert certificate.leaks[3] == "1 groups lie in train and test, with 2 of 100 test rows"


def test_repeats_inside_a_part_and_in_rows_that_take_no_part_are_no_leak():
    split = Split()
    split.copy(401, 400)
    split.copy(2, 1, turned=True)
    split.copy(420, 20)
    split.parts[420] = MISSING
    assert split.certificate().leaks == ()


def test_rows_without_a_group_share_none():
    split = Split()
    split.groups[[3, 333, 444]] = MISSING
    assert split.certificate().leaks == ()


@pytest.mark.parametrize("rounded", ["float16", "bfloat16"])
def test_rounding_hides_no_repeat(rounded):
    split = Split()
    values = pa.array(split.values[:3].ravel()).to_numpy().reshape(3, 40).astype(np.float32)
    split.values[440:443] = (
        values.astype(np.float16)
        if rounded == "float16"
        else ((values.view(np.uint32) + 0x8000) & np.uint32(0xFFFF0000)).view(np.float32)
    )
    assert counts(split.certificate()) == CLEAN | {("test", "train"): (0, 0, 3, 0)}


def test_the_threshold_is_a_choice():
    split = Split()
    split.resemble(440, 40, noise=0.3)
    assert split.certificate().leaks == ()
    assert len(split.certificate(threshold=0.8).overlaps[1].nearest) >= 1
    assert THRESHOLD == 0.999
    with pytest.raises(HeadError, match="between 0 and 1"):
        split.certificate(threshold=1.0)


def test_cosines_are_those_of_features_standardised_on_train():
    split = Split()
    split.resemble(440, 40)
    source = ArrayRows(split.values.astype(np.float32))
    fitted = standardise(source, np.arange(300))
    rows = ((split.values - fitted.centre.numpy()) * fitted.factor.numpy())[[440, 40]]
    cosine = rows[0] @ rows[1] / np.linalg.norm(rows, axis=1).prod()
    assert split.certificate().overlaps[1].nearest[0].cosine == pytest.approx(cosine, abs=2e-6)


def test_without_features_near_duplicates_are_not_looked_for():
    split = Split()
    split.resemble(440, 40)
    certificate = split.certificate(source=None)
    assert certificate.leaks == ()
    assert certificate.threshold is None
    assert "near-duplicate" not in certificate.lines()[0]
    assert "near-duplicate (cosine over 0.999 of standardised features)" in split.certificate().lines()[0]


def test_equal_splits_have_equal_certificates_and_any_change_another():
    first = Split().certificate()
    assert first == Split().certificate()
    assert first.hash == Split().certificate().hash
    moved, other = Split(), Split()
    moved.parts[[0, 499]] = moved.parts[[499, 0]]
    other.copy(450, 7)
    hashes = {first.hash, moved.certificate().hash, other.certificate().hash, replace(first, threshold=0.99).hash}
    assert len(hashes) == 4
    # another encoder's features are another certificate of the same split
    scaled = Split()
    scaled.resemble(450, 7)
    assert scaled.certificate().split == first.split
    assert scaled.certificate().hash != first.hash


def test_the_certificate_is_json_with_its_hash():
    split = Split()
    split.copy(450, 7)
    certificate = split.certificate()
    read = json.loads(json.dumps(certificate.to_json()))
    assert read["hash"] == certificate.hash
    assert read["leaks"] == list(certificate.leaks)
    assert read["parts"][2] == {"part": "test", "rows": 100, "counts": [50, 50], "mean": None, "deviation": None}


def test_what_each_part_holds_is_said_for_every_kind_of_target():
    split = Split()
    rng = np.random.default_rng(0)
    several = Target("multilabel", ("a", "b"), (rng.random((500, 2)) < [0.5, 0.1]).astype(np.int64))
    certificate = split.certificate(target=several)
    assert certificate.parts[0].counts == tuple(several.values[:300].sum(0))
    values = rng.standard_normal(500)
    certificate = split.certificate(target=Target("regression", ("score",), values))
    assert certificate.parts[1].mean == pytest.approx(values[300:400].mean(), abs=1e-6)
    assert "mean" in certificate.lines()[1]


@pytest.mark.parametrize(
    ("target", "warning"),
    [
        (Target("binary", ("no", "yes"), np.where(PARTS == TEST, 0, np.arange(500) % 2)), "test has one class only"),
        (
            Target(
                "multilabel",
                ("a", "b"),
                np.stack([np.arange(500) % 2, np.where(PARTS == VAL, 1, np.arange(500) % 2)], 1),
            ),
            "val has one class only for b",
        ),
    ],
)
def test_parts_of_one_class_are_warned_of(target, warning):
    certificate = Split().certificate(target=target)
    assert certificate.warnings == (warning,)
    assert certificate.lines()[-1] == f"  WARNING: {warning}"
    certificate.require_clean()


@pytest.mark.parametrize("stranded", [True, False])
def test_digests_are_read_from_the_store(tmp_path, stranded):
    digests = [digest(f"sequence {i}") for i in range(6)]
    strands = [digest(f"strand {i // 2}") if stranded else None for i in range(6)]
    columns = {"digest": pa.array(digests, pa.binary(16)), "rc_digest": pa.array(strands, pa.binary(16))}
    path = write_store(tmp_path / "store", np.eye(6, 4, dtype=np.float16), columns)
    sequences = read_sequences(embedcache.open_store(path), np.array([0, 2, 3]))
    assert sequences.stranded == stranded
    assert sequences.digests.tobytes() == b"".join(digests[row] for row in (0, 2, 3))
    assert (sequences.canonical[1] == sequences.canonical[2]) == stranded


def test_the_nearest_training_row_is_known_where_none_is_over_the_threshold(monkeypatch):
    split = Split()
    train, test = split.parts == TRAIN, split.parts == TEST
    scaled = (split.values - split.values[train].mean(0)) / split.values[train].std(0)
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    nearest = (unit[test] @ unit[train].T).max(1)
    found = split.certificate().overlaps[1].closest
    assert found.rows == 100
    assert found.highest == pytest.approx(nearest.max(), abs=1e-4)
    assert found.percentile == pytest.approx(np.quantile(nearest, 0.99), abs=1e-4)
    said = f"  nearest training row of 100 test rows: cosine {found.highest:.4f} at most, for 99 % of them"
    assert any(line.startswith(said) for line in split.certificate().lines())
    assert split.certificate().overlaps[2].closest is None
    assert split.certificate(source=None).overlaps[1].closest is None
    monkeypatch.setattr("heads.splitting.certificate.PRODUCTS", 300 * 40 * 30)
    split.resemble(499, 7)
    found = split.certificate()
    assert found.overlaps[1].closest.rows == 25
    assert found.overlaps[1].closest.highest == pytest.approx(found.overlaps[1].nearest[0].cosine, abs=1e-4)
    assert "nearest training row of 25 of 100 test rows" in "\n".join(found.lines())
