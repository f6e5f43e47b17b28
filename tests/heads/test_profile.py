from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from embedcache import load_encoder, open_store
from embedcache.errors import HeadError
from heads.data.features import ArrayRows
from heads.head import load_tensors, save_tensors
from heads.saving.distribution import Distribution, chance_of_outside
from heads.saving.profile import (
    FILE,
    SAMPLE_ROWS,
    RowFacts,
    TrainingProfile,
    facts_of,
    facts_of_sequences,
    profile_of,
    profile_of_rows,
)
from tests.heads.stores import write_store


def contigs(rng, count, shortest, longest, gc=0.45):
    letters = np.array(list("ACGT"))
    shares = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    return ["".join(rng.choice(letters, n, p=shares)) for n in rng.integers(shortest, longest + 1, count)]


def store_of(path, sequences, model="kmer:3"):
    features = load_encoder(model).encode(sequences).astype(np.float16)
    return open_store(write_store(path, features, {"sequence": sequences, "length": [*map(len, sequences)]}))


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    rng = np.random.default_rng(0)
    return store_of(tmp_path_factory.mktemp("p") / "contigs.zarr", contigs(rng, 600, 500, 3000))


def everything(store):
    return np.arange(len(store))


def test_reads_of_150_letters_are_far_from_contigs_of_500_to_3000(tmp_path, training):
    reads = store_of(tmp_path / "reads.zarr", contigs(np.random.default_rng(1), 300, 150, 150))
    departure = profile_of(training, everything(training)).departure_of(reads, everything(reads))
    assert departure.far
    said = departure.sentences()
    assert said[0].startswith("new rows are 150 letters long (median), training rows 1,8")
    assert "100% of them lie outside" in said[0]
    with pytest.raises(HeadError, match="--strict: the rows are far .* 150 letters long"):
        departure.refuse()


def test_they_are_told_by_their_features_alone(training):
    reads = contigs(np.random.default_rng(1), 300, 150, 150)
    features = ArrayRows(load_encoder("kmer:3").encode(reads))
    departure = profile_of(training, everything(training)).departure(features, np.arange(300), RowFacts(None, None))
    assert [shift.quantity for shift in departure.shifts] == ["distance"]
    assert departure.far


def test_three_reads_are_enough(tmp_path, training):
    reads = store_of(tmp_path / "reads.zarr", contigs(np.random.default_rng(1), 3, 150, 150))
    assert profile_of(training, everything(training)).departure_of(reads, np.arange(3)).far


def test_one_row_that_nothing_in_training_comes_near_is_far():
    rng = np.random.default_rng(0)
    source = ArrayRows(rng.standard_normal((121, 8)))
    profile = profile_of_rows(source, np.arange(120), RowFacts(np.full(120, 60.0), None))
    for length, far in ((10.0, True), (55.0, False), (60.0, False), (65.0, False), (90.0, True)):
        departure = profile.departure(source, np.array([120]), RowFacts(np.array([length]), None))
        assert (departure.far, bool(departure.sentences())) == (far, far)


@pytest.mark.parametrize(
    ("trained", "new"), [(20, 20), (50, 1), (100, 1), (120, 3), (200, 5), (400, 400), (30, 1000), (1000, 30)]
)
def test_another_sample_of_the_same_data_is_never_far(trained, new):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scale = np.arange(1, 31) ** -0.5 * 10.0 ** rng.integers(-3, 3, 30)
        values = 3 * scale + rng.standard_t(4, (trained + new, 30)) * scale  # heavy tails, means far from zero
        facts = RowFacts(np.round(rng.lognormal(6, 0.8, trained + new)), rng.beta(20, 25, trained + new))
        source, rows = ArrayRows(values.astype(np.float32)), np.arange(trained + new)
        first = RowFacts(facts.lengths[:trained], facts.gc[:trained])
        last = RowFacts(facts.lengths[trained:], facts.gc[trained:])
        departure = profile_of_rows(source, rows[:trained], first).departure(source, rows[trained:], last)
        assert not departure.far, (seed, departure)
        assert departure.sentences() == (), (seed, departure)
        departure.refuse()


def test_another_genome_is_far_by_its_share_of_g_and_c(tmp_path, training):
    rng = np.random.default_rng(2)
    other = store_of(tmp_path / "gc.zarr", contigs(rng, 300, 500, 3000, gc=0.7))
    departure = profile_of(training, everything(training)).departure_of(other, everything(other))
    assert departure.far
    assert any("70% G and C (median), training rows 45%" in sentence for sentence in departure.sentences())
    assert not next(shift for shift in departure.shifts if shift.quantity == "length").far


def test_another_mix_of_lengths_that_training_saw_is_mentioned_and_not_far():
    rng = np.random.default_rng(0)
    source, rows = ArrayRows(rng.standard_normal((2000, 8))), np.arange(1000)
    mixed = RowFacts(np.where(rng.random(1000) < 0.3, 150.0, rng.integers(500, 3000, 1000)), None)
    departure = profile_of_rows(source, rows, mixed).departure(
        source, rows + 1000, RowFacts(np.full(1000, 150.0), None)
    )
    assert not departure.far
    assert departure.sentences()[0].startswith("new rows are 150 letters long (median)")


def test_features_whose_means_move_together_are_far_though_no_row_is_outside():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1500, 40))
    values[1000:, :20] += 0.9
    departure = profile_of_rows(ArrayRows(values), np.arange(1000), RowFacts(None, None)).departure(
        ArrayRows(values), np.arange(1000, 1500), RowFacts(None, None)
    )
    assert departure.moved == 0.5
    assert departure.far
    assert "50% of the features have another mean" in departure.sentences()[-1]


def test_rows_that_all_have_one_length_leave_room_for_a_letter_more():
    source, rows = ArrayRows(np.random.default_rng(0).standard_normal((400, 5))), np.arange(200)
    profile = profile_of_rows(source, rows, RowFacts(np.full(200, 501.0), None))
    assert not profile.departure(source, rows + 200, RowFacts(np.full(200, 502.0), None)).far
    assert profile.departure(source, rows + 200, RowFacts(np.full(200, 100.0), None)).far


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    for first, second in [
        (rng.normal(0, 1, 5000), rng.normal(0.4, 1, 800)),
        (rng.poisson(2, 900), rng.poisson(4, 500)),
    ]:
        found = Distribution.of(first.astype(float)).distance(second.astype(float))
        assert abs(found - ks_2samp(first, second).statistic) < 0.02
    assert Distribution.of(np.full(10, 7.0)).distance(np.full(3, 7.0)) == 0


def test_the_chance_of_rows_outside_is_beta_binomial():
    from scipy.stats import betabinom

    for count, rows, trained in [(0, 5, 20), (3, 3, 600), (7, 40, 100), (1, 1, 1), (900, 50_000, 3000)]:
        beyond = min(2 + 0.01 * (trained - 1), trained)
        expected = betabinom.sf(count - 1, rows, beyond, trained + 1 - beyond)
        np.testing.assert_allclose(chance_of_outside(count, rows, trained), expected, rtol=1e-6)


def test_means_and_deviations_are_those_of_the_rows():
    values = np.random.default_rng(0).normal(5, 2, (300, 6)).astype(np.float32)
    values[:, 2] = 0.1
    profile = profile_of_rows(ArrayRows(values), np.arange(300), RowFacts(None, None))
    np.testing.assert_allclose(profile.mean, values.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(
        np.delete(profile.deviation, 2), np.delete(values.std(0, dtype=np.float64), 2), rtol=1e-6
    )
    assert profile.deviation[2] == 0


def test_training_rows_have_the_distance_that_they_would_have_as_new_rows():
    values = np.random.default_rng(0).standard_t(4, (40, 6))
    values[:, 2] = 0.1
    varied = np.delete(values, 2, axis=1)
    others = [np.delete(varied, row, axis=0) for row in range(40)]
    left_out = [(((row - rest.mean(0)) / rest.std(0)) ** 2).mean() for row, rest in zip(varied, others, strict=True)]
    found = profile_of_rows(ArrayRows(values), np.arange(40), RowFacts(None, None)).distributions["distance"]
    np.testing.assert_allclose(found.quantiles[[0, 51]], np.quantile(left_out, [0, 0.5]), rtol=1e-6)


def test_facts_of_sequences_are_their_letters_or_tokens():
    facts = facts_of_sequences(pa.array(["GCGCAT", "NNNN", "acgu", "A"]), "dna")
    assert facts.lengths.tolist() == [6, 4, 4, 1]
    np.testing.assert_allclose(facts.gc, [4 / 6, 0, 0.5, 0])
    assert facts_of_sequences(pa.array(["MKV"]), "protein").gc is None
    assert facts_of_sequences(pa.array(["144 1486 1256", "7"]), "cell").lengths.tolist() == [3, 1]


def test_a_store_without_sequences_has_the_lengths_that_it_keeps(tmp_path):
    features = np.ones((5, 3), np.float16)
    bare = open_store(write_store(tmp_path / "bare.zarr", features, {}))
    assert facts_of(bare, np.arange(5)) == RowFacts(None, None)
    kept = open_store(write_store(tmp_path / "kept.zarr", features, {"length": [1, 2, 3, 4, 5]}))
    assert facts_of(kept, np.array([1, 3])).lengths.tolist() == [2, 4]


def test_a_profile_comes_back_from_its_files_as_it_was(tmp_path, training):
    profile = profile_of(training, everything(training))
    settings = json.loads(json.dumps(profile.save(tmp_path)))
    again = TrainingProfile.load(tmp_path, settings)
    rows = everything(training)
    assert (
        again.departure_of(training, rows).shifts[0].distance == profile.departure_of(training, rows).shifts[0].distance
    )
    np.testing.assert_array_equal(again.deviation, profile.deviation)
    assert (again.rows, again.unit) == (600, "letters")


def test_files_that_do_not_fit_are_errors_and_nothing_else(tmp_path, training):
    settings = profile_of(training, everything(training)).save(tmp_path)
    for wrong in (
        {"rows": "600", "unit": "letters"},
        {"rows": 0, "unit": "letters"},
        {"rows": 600},
        {"rows": 600, "unit": 3},
    ):
        with pytest.raises((TypeError, ValueError, KeyError)):
            TrainingProfile.load(tmp_path, wrong)
    tensors = load_tensors(tmp_path, FILE)
    for lost in ("mean", "distance"):
        save_tensors(tmp_path, {name: tensor for name, tensor in tensors.items() if name != lost}, FILE)
        with pytest.raises((KeyError, ValueError)):
            TrainingProfile.load(tmp_path, settings)
    save_tensors(tmp_path, tensors | {"gc": tensors["gc"][:5]}, FILE)
    with pytest.raises(ValueError, match="wrong size"):
        TrainingProfile.load(tmp_path, settings)


def test_features_of_another_width_are_refused(training):
    profile = profile_of(training, everything(training))
    with pytest.raises(HeadError, match="5 features, the head was trained on 32"):
        profile.departure(ArrayRows(np.ones((3, 5))), np.arange(3), RowFacts(None, None))


def test_no_rows_are_not_far(training):
    departure = profile_of(training, everything(training)).departure(training, np.arange(0), RowFacts(None, None))
    assert not departure.far
    assert departure.sentences() == ()


def test_a_large_training_is_described_by_a_sample_of_its_rows(tmp_path):
    source = ArrayRows(np.random.default_rng(0).standard_normal((SAMPLE_ROWS + 1, 2)).astype(np.float16))
    store = open_store(write_store(tmp_path / "large.zarr", source.array, {"length": np.arange(len(source))}))
    profile = profile_of(store, np.arange(len(source)))
    assert profile.rows == (SAMPLE_ROWS + 2) // 2
