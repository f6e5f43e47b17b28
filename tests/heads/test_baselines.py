from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedcache import load_encoder, open_store
from embedcache.errors import HeadError
from heads.baselines.fit_baselines import baselines, prior, stratum
from heads.baselines.naive_bayes import gene_matrix
from heads.data.strata import Strata
from heads.data.target import Examples, Target
from heads.judging.metrics import score
from heads.splitting.splits import TEST, TRAIN, VAL
from tests.heads.stores import write_store

N = 600


@dataclass(frozen=True)
class Task:
    """The rows of a store that take part: here all but every tenth."""

    target: Target
    strata: object = None
    weights: object = None
    rows: np.ndarray = field(default_factory=lambda: np.flatnonzero(np.arange(N) % 10 != 9))

    @property
    def parts(self):
        return np.array([TRAIN, TRAIN, TRAIN, VAL, TEST])[np.arange(len(self.rows)) % 5]

    def part(self, part):
        return np.flatnonzero(self.parts == part)

    def examples(self, part):
        return Examples(self.rows, self.target, self.weights).take(self.part(part))


def sequences(shortest=60, longest=60, seed=0):
    rng = np.random.default_rng(seed)
    richness = rng.random(N)
    made = []
    for share, length in zip(richness, rng.integers(shortest, longest + 1, N), strict=True):
        made.append(
            "".join(rng.choice(list("ACGT"), length, p=[(1 - share) / 2, share / 2, share / 2, (1 - share) / 2]))
        )
    return made, richness


def store_of(path, texts, **options):
    values = np.random.default_rng(1).standard_normal((N, 3)).astype(np.float16)
    columns = {} if texts is None else {"sequence": texts}
    return open_store(write_store(path, values, columns, **options))


def target_of(kind, richness, task_rows):
    rows = richness[task_rows]
    if kind == "binary":
        return Target("binary", ("host", "viral"), (rows > 0.7).astype(np.int64))
    if kind == "multiclass":
        return Target("multiclass", ("a", "b", "c"), np.digitize(rows, [0.3, 0.6]))
    if kind == "multilabel":
        return Target("multilabel", ("x", "y"), np.stack([rows > 0.4, rows > 0.8], axis=1).astype(np.int64))
    return Target("regression", ("score",), rows)


ROWS = Task(Target("regression", ("x",), np.zeros(1))).rows


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_every_kind_of_target_has_its_baselines(tmp_path, kind):
    texts, richness = sequences()
    strata = Strata("context", np.arange(len(ROWS)) % 3 - 1, ("CG", "CHG"))
    task = Task(target_of(kind, richness, ROWS), strata)
    found, missing = baselines(store_of(tmp_path / "s.zarr", texts), task)
    model, first = ("ridge", "mean only") if kind == "regression" else ("lr", "prior only")
    assert [baseline.name for baseline in found] == [first, "stratum only", f"kmer:4 {model}", f"onehot:60 {model}"]
    assert missing == []
    test = task.part(TEST)
    metric = "r2" if kind == "regression" else "auprc"
    values = [score(task.target.take(test), baseline.outputs[test], metric) for baseline in found]
    assert {baseline.outputs.shape for baseline in found} == {(len(ROWS), task.target.outputs)}
    assert values[2] > values[0] + 0.3  # k-mers see how rich a sequence is
    assert values[3] > values[0]


def test_the_prior_is_the_shares_of_the_training_rows():
    _, richness = sequences()
    for kind in ("binary", "multilabel", "regression"):
        task = Task(target_of(kind, richness, ROWS))
        train = task.target.values[task.part(TRAIN)].astype(float)
        expected = [1 - train.mean(), train.mean()] if kind == "binary" else np.atleast_1d(train.mean(0))
        np.testing.assert_allclose(prior(task).outputs, np.tile(expected, (len(ROWS), 1)))


def test_a_stratum_has_its_own_shares_and_one_unseen_in_training_those_of_all():
    _, richness = sequences()
    for kind in ("multiclass", "multilabel", "regression"):
        codes = np.arange(len(ROWS)) % 4 - 1
        task = Task(target_of(kind, richness, ROWS))
        codes[task.part(TEST)[:7]] = 3
        outputs = stratum(task, Strata("context", codes, ("CG", "CHG", "CHH", "CN"))).outputs
        truth = task.target.values
        truth = np.eye(3)[truth] if kind == "multiclass" else truth.reshape(len(ROWS), -1).astype(float)
        train = task.part(TRAIN)
        overall = truth[train].mean(0)
        for row in range(0, len(ROWS), 17):
            own = train[codes[train] == codes[row]]
            np.testing.assert_allclose(outputs[row], (truth[own].sum(0) + overall) / (len(own) + 1))
        np.testing.assert_allclose(outputs[task.part(TEST)[0]], overall)


def test_the_regression_on_k_mers_is_scikit_learns(tmp_path):
    texts, richness = sequences(30, 90)
    features = load_encoder("kmer:4").encode([texts[row] for row in ROWS]).astype(np.float64)
    for kind in ("binary", "regression"):
        task = Task(target_of(kind, richness, ROWS))
        found, _ = baselines(store_of(tmp_path / f"{kind}.zarr", texts), task)
        train, val = task.part(TRAIN), task.part(VAL)
        closest = np.inf
        for strength in [10.0**power for power in range(-2, 8)] if kind == "regression" else np.logspace(-4, 1, 8):
            for weight in (None, "balanced"):
                if kind == "regression":
                    theirs = make_pipeline(StandardScaler(), Ridge(strength)).fit(
                        features[train], task.target.values[train]
                    )
                    outputs = theirs.predict(features)[:, None]
                else:
                    model = LogisticRegression(C=strength, class_weight=weight, tol=1e-8, max_iter=2000)
                    theirs = make_pipeline(StandardScaler(), model).fit(features[train], task.target.values[train])
                    outputs = theirs.predict_proba(features)
                closest = min(closest, np.abs(found[1].outputs - outputs).max())
        assert closest < 2e-3
        assert len(val)


def test_sequences_of_several_lengths_have_no_one_hot_baseline_and_it_is_said_why(tmp_path):
    texts, richness = sequences(30, 90)
    found, missing = baselines(store_of(tmp_path / "s.zarr", texts), Task(target_of("binary", richness, ROWS)))
    assert [baseline.name for baseline in found] == ["prior only", "kmer:4 lr"]
    assert len(missing) == 1
    assert "the sequences have 30 to 90 letters" in missing[0]


def test_places_that_are_the_same_in_all_training_sequences_are_left_out(tmp_path):
    inner, richness = sequences(30, 30)
    padded = ["A" * 500 + text + "C" * 500 for text in inner]
    task = Task(target_of("binary", richness, ROWS))
    wide, narrow = (
        baselines(store_of(tmp_path / name, rows), task)[0][-1] for name, rows in (("w", padded), ("n", inner))
    )
    assert (wide.name, wide.model.composition.encoder) == ("onehot:1030 lr", "onehot:30")
    np.testing.assert_allclose(wide.outputs, narrow.outputs)
    same = ["ACGT" * 10] * N
    _, missing = baselines(store_of(tmp_path / "same", same), task)
    assert missing[-1] == "no baseline on one-hot letters: all training sequences are the same"


def test_of_long_sequences_the_middle_is_looked_at_and_the_table_says_so(tmp_path):
    texts, richness = sequences(600, 600)
    task = Task(target_of("binary", richness, ROWS))
    found, missing = baselines(store_of(tmp_path / "s.zarr", texts), task)
    assert (found[-1].name, missing) == ("onehot:600, middle 512 lr", [])
    assert (found[-1].model.composition.places[0], found[-1].model.composition.places[-1]) == (44, 555)


def test_features_are_no_baseline_of_themselves(tmp_path):
    texts, richness = sequences()
    store = store_of(tmp_path / "s.zarr", texts, encoder="kmer:4")
    found, missing = baselines(store, Task(target_of("binary", richness, ROWS)))
    assert [baseline.name for baseline in found] == ["prior only", "onehot:60 lr"]
    assert missing == ["no baseline on kmer:4: the features are kmer:4 themselves"]


def test_what_does_not_fit_memory_is_left_out(tmp_path):
    texts, richness = sequences()
    _, missing = baselines(
        store_of(tmp_path / "s.zarr", texts), Task(target_of("binary", richness, ROWS)), memory_bytes=100_000
    )
    assert [("--memory" in reason) for reason in missing] == [True, True]


@pytest.mark.parametrize(
    ("texts", "alphabet", "why"), [(None, "dna", "--drop-sequence"), (["?"] * N, "other", "not DNA, proteins or cells")]
)
def test_a_store_without_sequences_has_only_the_prior(tmp_path, texts, alphabet, why):
    _, richness = sequences()
    store = store_of(tmp_path / "s.zarr", texts, alphabet=alphabet)
    found, missing = baselines(store, Task(target_of("binary", richness, ROWS)))
    assert [baseline.name for baseline in found] == ["prior only"]
    assert why in missing[0]


def test_proteins_have_pairs_of_residues(tmp_path):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 50)) for _ in range(N)]
    task = Task(Target("binary", (0, 1), np.array([text.count("K") > 2 for text in texts]).astype(np.int64)[ROWS]))
    found, _ = baselines(store_of(tmp_path / "s.zarr", texts, alphabet="protein"), task)
    assert [baseline.name for baseline in found] == ["prior only", "kmer:2:protein lr", "onehot:50:protein lr"]


def cells(by="rank"):
    """Cells of three types: a type shows in which genes come first, or in which are there at all."""
    rng = np.random.default_rng(0)
    types = rng.integers(0, 3, N)
    made = []
    for kind in types:
        genes = rng.permutation(200) + 10
        favoured = 10 + np.arange(15) + 20 * kind
        if by == "rank":
            genes = np.concatenate([rng.permutation(favoured), np.setdiff1d(genes, favoured)[rng.permutation(185)]])
            genes = np.concatenate([genes[:30][rng.permutation(30)], genes[30:]])
        else:
            genes = rng.permutation(np.concatenate([favoured, genes[:100]]))
        made.append(" ".join(map(str, dict.fromkeys(genes.tolist()))))
    return made, types


@pytest.mark.parametrize("by", ["rank", "presence"])
def test_naive_bayes_tells_cell_types_by_ranks_or_by_presence(tmp_path, by):
    texts, types = cells(by)
    task = Task(Target("multiclass", ("a", "b", "c"), types[ROWS]))
    found, missing = baselines(store_of(tmp_path / "s.zarr", texts, alphabet="cell"), task)
    assert missing == []
    assert [baseline.name for baseline in found] == [
        "prior only",
        f"naive bayes on gene {by}{'s' if by == 'rank' else ''}",
    ]
    test = task.part(TEST)
    assert score(task.target.take(test), found[1].outputs[test], "acc") > 0.9
    np.testing.assert_allclose(found[1].outputs.sum(1), 1)


def test_naive_bayes_is_scikit_learns_on_one_over_the_rank():
    texts, types = cells()
    dense = np.zeros((N, 210))
    for row, text in enumerate(texts):
        for rank, gene in enumerate(text.split(), 1):
            dense[row, int(gene)] = 1 / rank
    matrix = gene_matrix([pa.array(texts[:250]), pa.array(texts[250:])], "rank")
    np.testing.assert_allclose(matrix.toarray(), dense, rtol=1e-6)
    ours, theirs = (MultinomialNB(alpha=0.1).fit(X, types).predict_proba(X) for X in (matrix, dense))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert (gene_matrix([pa.array(texts)], "presence").toarray() == (dense > 0)).all()


def test_naive_bayes_takes_several_labels_and_no_quantity(tmp_path):
    texts, types = cells()
    store = store_of(tmp_path / "s.zarr", texts, alphabet="cell")
    labels = np.stack([types == 0, types != 2], axis=1).astype(np.int64)
    task = Task(Target("multilabel", ("x", "y"), labels[ROWS]))
    found, _ = baselines(store, task)
    test = task.part(TEST)
    assert score(task.target.take(test), found[1].outputs[test], "auroc") > 0.9
    _, missing = baselines(store, Task(Target("regression", ("x",), types[ROWS].astype(float))))
    assert missing == ["no baseline of naive Bayes: it learns classes, not a measured quantity"]


def test_cells_that_are_no_token_ids_are_an_error():
    with pytest.raises(HeadError, match="other than token ids"):
        gene_matrix([pa.array(["1 2", "CD4 CD8"])], "rank")
