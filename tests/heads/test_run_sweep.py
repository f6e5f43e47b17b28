from __future__ import annotations

import csv
import json

import pytest

from embedcache.errors import HeadError
from heads.running.run_sweep import METRICS, sweep
from heads.running.sweep_plan import Sweep
from heads.running.sweep_tables import SUMMARY, TABLE

PLAN = Sweep.parse(["head=lr,mlp", "seed=0,1,2"])


class Trainer:
    """Makes runs as `heads train` does: the directory is there only once it is whole."""

    def __init__(self, *, fails=(), dies_at=None, values=None):
        self.made, self.fails, self.dies_at, self.values = [], fails, dies_at, values or {}

    def __call__(self, point, outdir):
        if len(self.made) == self.dies_at:
            raise KeyboardInterrupt
        if point["head"] in self.fails:
            raise HeadError("a class is missing\nfrom train")
        self.made.append(dict(point))
        val = self.values.get(point["head"], 0.5) + 0.1 * int(point["seed"])
        metrics = {
            "n_rows": 5,
            "val": {"auprc": val, "rows": 3, "auprc_ci": [0, 1]},
            "test": {"auprc": 1 - val, "rows": 2},
        }
        outdir.mkdir()
        (outdir / METRICS).write_text(json.dumps(metrics))
        return metrics


def lines(folder):
    with (folder / TABLE).open() as file:
        return list(csv.DictReader(file))


def test_every_combination_has_a_run_and_a_line(tmp_path):
    trainer = Trainer(values={"mlp": 0.6})
    swept = sweep(PLAN, tmp_path / "s", trainer, metric="auprc")
    assert trainer.made == [{"head": head, "seed": seed} for head in ("lr", "mlp") for seed in "012"]
    found = lines(tmp_path / "s")
    assert [(line["head"], line["seed"], line["val_auprc"]) for line in found][3:5] == [
        ("mlp", "0", "0.6"),
        ("mlp", "1", "0.7"),
    ]
    assert all((tmp_path / "s" / line["run"] / METRICS).exists() for line in found)
    assert found[0]["run"] == "head=lr,seed=0"
    assert swept.best.point == {"head": "mlp"}


def test_the_best_is_chosen_by_the_mean_of_validation_rows_and_not_by_test_rows(tmp_path):
    swept = sweep(PLAN, tmp_path / "s", Trainer(values={"lr": 0.3, "mlp": 0.4}), metric="auprc")
    assert swept.points[0].mean("test", "auprc") > swept.points[1].mean("test", "auprc")
    assert swept.best.point == {"head": "mlp"}
    summary = (tmp_path / "s" / SUMMARY).read_text()
    assert "| **best** | mlp | 3 | 0.5000 ± 0.1000 | 0.5000 ± 0.1000 |  |" in summary


def test_a_metric_that_is_better_when_lower_is_taken_so(tmp_path):
    def trainer(point, outdir):
        outdir.mkdir()
        return {"val": {"rmse": float(point["alpha"])}}

    assert sweep(Sweep.parse(["alpha=3,1,2"]), tmp_path / "s", trainer, metric="rmse").best.point == {"alpha": "1"}


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path):
    first, second = Trainer(dies_at=4), Trainer()
    with pytest.raises(KeyboardInterrupt):
        sweep(PLAN, tmp_path / "s", first, metric="auprc")
    assert len(lines(tmp_path / "s")) == 4
    said = []
    swept = sweep(PLAN, tmp_path / "s", second, metric="auprc", say=said.append)
    assert first.made + second.made == [dict(point) for point in PLAN.points]
    assert said[3] == "[4/6] head mlp, seed 0: val auprc 0.5000 finished before"
    assert len(swept.runs) == len(lines(tmp_path / "s")) == 6
    assert swept == sweep(PLAN, tmp_path / "s", Trainer(dies_at=0), metric="auprc")


def test_a_point_that_fails_is_a_line_with_its_sentence_and_is_tried_again(tmp_path):
    trainer = Trainer(fails=["lr"])
    swept = sweep(PLAN, tmp_path / "s", trainer, metric="auprc")
    assert len(trainer.made) == 3
    assert {line["failure"] for line in lines(tmp_path / "s")[:3]} == {"a class is missing from train"}
    assert swept.best.point == {"head": "mlp"}
    again = Trainer()
    sweep(PLAN, tmp_path / "s", again, metric="auprc")
    assert [point["head"] for point in again.made] == ["lr"] * 3
    assert not any(line["failure"] for line in lines(tmp_path / "s"))


def test_a_point_with_a_failed_seed_is_not_the_best_by_its_lucky_ones(tmp_path):
    class OneFails(Trainer):
        def __call__(self, point, outdir):
            if dict(point) == {"head": "mlp", "seed": "0"}:
                raise HeadError("no memory")
            return super().__call__(point, outdir)

    assert sweep(PLAN, tmp_path / "s", OneFails(values={"mlp": 0.6}), metric="auprc").best.point == {"head": "lr"}


def test_where_all_fail_there_is_no_best(tmp_path):
    swept = sweep(PLAN, tmp_path / "s", Trainer(fails=["lr", "mlp"]), metric="auprc")
    assert swept.best is None
    assert "no point has that metric of validation rows" in (tmp_path / "s" / SUMMARY).read_text()


def test_options_can_vary_together():
    plan = Sweep.parse(["c=1,2", "seed=5,6"], "zip")
    assert plan.points == ((("c", "1"), ("seed", "5")), (("c", "2"), ("seed", "6")))
    with pytest.raises(HeadError, match="c has 2, seed has 3"):
        Sweep.parse(["c=1,2", "seed=5,6,7"], "zip")


def test_a_file_says_the_same_with_values_that_hold_commas(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("vary:\n  steps: ['l2,pca:8', l2]\n  --class_weight: balanced\n  c: [0.1, 1]\n  seed: [0, 1]\n")
    plan = Sweep.read(file)
    assert plan.values["steps"] == ("l2,pca:8", "l2")
    assert plan.values["class-weight"] == ("balanced",)
    assert len(plan.points) == 8
    assert len(Sweep.read(write_plan(tmp_path, "vary: {c: [0.1, 1], seed: [0, 1]}"), "zip").points) == 2


def write_plan(folder, text):
    file = folder / "plan.yaml"
    file.write_text(text)
    return file


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "reads.fa.gz").write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    with pytest.raises(HeadError, match="is no sweep"):
        Sweep.read(tmp_path / "reads.fa.gz")


@pytest.mark.parametrize(
    "text", ["[1, 2]", "vary: 3", "vary: {a: [[1]]}", "grid: {a: [1]}", "vary: {a: [1]}\nmore: 1", "{"]
)
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(HeadError, match="is no sweep"):
        Sweep.read(tmp_path / "sweep.yaml")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "nothing varies"),
        (["c"], "write option=value"),
        (["c="], "has no values"),
        (["c=1", "c=2"], "given twice"),
        (["c=1,1"], "same run twice"),
    ],
)
def test_what_makes_no_sweep_on_the_command_line_is_refused(given, why):
    with pytest.raises(HeadError, match=why):
        Sweep.parse(given)


def test_a_mode_that_there_is_not_is_refused():
    with pytest.raises(HeadError, match="product or zip"):
        Sweep.parse(["c=1"], "sum")


def test_a_folder_of_another_sweep_or_of_something_else_is_refused(tmp_path):
    sweep(PLAN, tmp_path / "s", Trainer(), metric="auprc", fixed={"features": "a.zarr"})
    with pytest.raises(HeadError, match=r"other options \(features\)"):
        sweep(PLAN, tmp_path / "s", Trainer(), metric="auprc", fixed={"features": "b.zarr"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(HeadError, match="is not empty"):
        sweep(PLAN, tmp_path / "other", Trainer(), metric="auprc")
    with pytest.raises(HeadError, match="cannot be written"):
        sweep(PLAN, tmp_path / "other" / "thesis.tex" / "s", Trainer(), metric="auprc")


def test_more_points_may_be_added_to_a_sweep(tmp_path):
    sweep(PLAN, tmp_path / "s", Trainer(), metric="auprc")
    more = Trainer()
    sweep(Sweep.parse(["head=lr,mlp,knn", "seed=0,1,2"]), tmp_path / "s", more, metric="auprc")
    assert [point["head"] for point in more.made] == ["knn"] * 3


def test_values_that_make_no_folder_name_still_have_folders_of_their_own(tmp_path):
    plan = Sweep({"head": ("a/b", "a:b", "x" * 200 + "1", "x" * 200 + "2", ".."), "seed": ("0",)})
    swept = sweep(plan, tmp_path / "s", Trainer(), metric="auprc")
    names = [run.folder.name for run in swept.runs]
    assert len(set(names)) == 5
    assert all(len(name) < 120 and "/" not in name for name in names)
    assert all(run.folder.parent == tmp_path / "s" for run in swept.runs)


def test_a_narrowed_sweep_keeps_the_lines_of_the_earlier_one(tmp_path):
    sweep(PLAN, tmp_path / "s", Trainer(fails=["mlp"], values={"lr": 0.4}), metric="auprc")
    swept = sweep(Sweep.parse(["head=knn", "seed=0"]), tmp_path / "s", Trainer(values={"knn": 0.3}), metric="auprc")
    found = lines(tmp_path / "s")
    assert [(line["head"], line["earlier"]) for line in found] == [("knn", "")] + [("lr", "earlier")] * 3 + [
        ("mlp", "earlier")
    ] * 3
    assert found[-1]["failure"] == "a class is missing from train"
    assert (swept.best.point, swept.failed) == ({"head": "lr"}, ())
    summary = (tmp_path / "s" / SUMMARY).read_text()
    assert "| **best** earlier | lr | 3 |" in summary
    assert "Points marked as earlier" in summary
    sweep(PLAN, tmp_path / "s", Trainer(), metric="auprc")
    assert {line["head"]: line["earlier"] for line in lines(tmp_path / "s")} == {"lr": "", "mlp": "", "knn": "earlier"}


def test_an_interrupted_narrower_sweep_forgets_nothing(tmp_path):
    sweep(PLAN, tmp_path / "s", Trainer(), metric="auprc")
    with pytest.raises(KeyboardInterrupt):
        sweep(Sweep.parse(["head=knn,svm", "seed=0"]), tmp_path / "s", Trainer(dies_at=1), metric="auprc")
    found = lines(tmp_path / "s")
    assert [line["head"] for line in found] == ["knn"] + ["lr"] * 3 + ["mlp"] * 3
    assert len(sweep(Sweep.parse(["head=svm", "seed=0"]), tmp_path / "s", Trainer(), metric="auprc").runs) == 8


def test_a_damaged_note_of_a_sweep_is_refused(tmp_path):
    sweep(PLAN, tmp_path / "s", Trainer(), metric="auprc")
    (tmp_path / "s" / "sweep.json").write_text('{"fixed": {}, "runs": {"a": 3}}')
    with pytest.raises(HeadError, match="is damaged"):
        sweep(PLAN, tmp_path / "s", Trainer(), metric="auprc")


class Contexts:
    """Makes the runs of a context matrix: more letters are better, on both sides most of all."""

    def __call__(self, point, outdir):
        mode, size = point["blocks"].split("_")
        val = {"both": 0.3, "upstream": 0.2, "downstream": 0.1}[mode] + int(size) / 10_000
        outdir.mkdir()
        return {"val": {"auprc": val, "auroc": 0.6}, "test": {"auprc": val - 0.05, "auroc": 0.5}}


def test_options_of_words_and_numbers_are_summed_up_by_both(tmp_path):
    sizes, modes = ("50", "100", "200", "300", "400"), ("upstream", "downstream", "both")
    plan = Sweep({"blocks": tuple(f"{mode}_{size}" for mode in modes for size in sizes)})
    sweep(plan, tmp_path / "s", Contexts(), metric="auprc")
    with (tmp_path / "s" / "sweep_blocks.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [line["group"] for line in found] == [*modes, *sizes]
    assert [int(line["points"]) for line in found] == [5] * 3 + [3] * 5
    both, hundred = found[2], found[4]
    assert (both["best"], float(both["best_test_auprc"])) == ("blocks both_400", pytest.approx(0.29))
    assert float(both["mean_val_auprc"]) == pytest.approx(0.321)
    assert float(hundred["mean_test_auprc"]) == pytest.approx(0.16)
    assert float(hundred["mean_test_auroc"]) == pytest.approx(0.5)
    summary = (tmp_path / "s" / SUMMARY).read_text()
    assert "By the parts of `blocks`:" in summary
    assert "| both | 5 | both_400 | 0.3400 | 0.2900 | 0.3210 | 0.2710 |" in summary


def test_baselines_stand_below_the_groups_too(tmp_path):
    def trainer(point, outdir):
        metrics = Contexts()(point, outdir)
        rivals = {"lookup": {"val": {"auprc": 0.3, "auroc": 0.7}, "test": {"auprc": 0.25}}}
        (outdir / METRICS).write_text(json.dumps(metrics | {"baselines": rivals}))
        return metrics | {"baselines": rivals}

    sweep(Sweep({"blocks": ("both_50", "both_100", "upstream_50")}), tmp_path / "s", trainer, metric="auprc")
    with (tmp_path / "s" / "sweep_blocks.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert last["group"] == "baseline lookup"
    assert (last["best"], last["best_val_auprc"], last["mean_test_auprc"], last["mean_test_auroc"]) == (
        "", "0.3", "0.25", "",
    )  # fmt: skip
    summary = (tmp_path / "s" / SUMMARY).read_text()
    assert "| baseline lookup |  |  | 0.3000 | 0.2500 | 0.3000 | 0.2500 |" in summary


def test_other_options_are_not_summed_up(tmp_path):
    for values in (("a_1", "b"), ("a_1",), ("1_2", "3_4"), ("lr", "mlp")):
        plan = Sweep({"head": values, "seed": ("0",)})
        sweep(plan, tmp_path / "-".join(values), Trainer(), metric="auprc")
        assert not list((tmp_path / "-".join(values)).glob("sweep_*.csv"))


class Beside:
    """Makes runs with baselines: `prior` is the same in all, `lookup` depends on the options named by `of`."""

    def __init__(self, best, *, of=(), metric="auprc", lookup=0.4):
        self.best, self.of, self.metric, self.lookup = best, of, metric, lookup

    def __call__(self, point, outdir):
        outdir.mkdir()
        lookup = self.lookup + sum(int(point[name]) for name in self.of) / 100
        both = {
            name: {"val": {self.metric: v}, "test": {self.metric: v}}
            for name, v in (("prior", 0.1), ("lookup", lookup))
        }
        value = self.best + (0.05 if point["head"] == "mlp" else 0)
        metrics = {"val": {self.metric: value}, "test": {self.metric: value - 0.1}, "baselines": both}
        (outdir / METRICS).write_text(json.dumps(metrics))
        return metrics


def rivals(folder):
    return [line for line in lines(folder) if line["baseline"]]


def test_baselines_that_the_runs_agree_on_are_in_both_tables_once(tmp_path):
    sweep(PLAN, tmp_path / "s", Beside(0.5), metric="auprc")
    found = rivals(tmp_path / "s")
    assert [(line["baseline"], line["head"], line["seed"], line["test_auprc"]) for line in found] == [
        ("prior", "", "", "0.1"),
        ("lookup", "", "", "0.4"),
    ]
    assert [line["run"] for line in found] == ["", ""]
    summary = (tmp_path / "s" / SUMMARY).read_text()
    assert (
        "| baseline prior |  |  | 0.1000 | 0.1000 |  |\n| baseline lookup |  |  | 0.4000 | 0.4000 |  |\n\n" in summary
    )
    assert summary.count("lookup") == 2


def test_a_baseline_that_some_heads_leave_out_is_not_taken_for_one_of_the_others(tmp_path):
    def trainer(point, outdir):
        outdir.mkdir()
        held = {"test": {"auprc": 0.3}}
        rivals = {"prior": held} if point["head"] == "lr" else {"prior": held, "kmer": held}
        metrics = {"val": {"auprc": 0.4}, "test": {"auprc": 0.4}, "baselines": rivals}
        (outdir / METRICS).write_text(json.dumps(metrics))
        return metrics

    sweep(PLAN, tmp_path / "s", trainer, metric="auprc")
    assert [(line["baseline"], line["head"]) for line in rivals(tmp_path / "s")] == [("prior", ""), ("kmer", "")]


def test_baselines_that_an_option_changes_have_a_line_for_each_of_its_values(tmp_path):
    plan = Sweep.parse(["head=lr,mlp", "split-seed=1,2"])
    sweep(plan, tmp_path / "s", Beside(0.5, of=["split-seed"]), metric="auprc")
    found = [
        tuple(line[name] for name in ("baseline", "head", "split-seed", "val_auprc")) for line in rivals(tmp_path / "s")
    ]
    assert found == [("prior", "", "", "0.1"), ("lookup", "", "1", "0.41"), ("lookup", "", "2", "0.42")]
    summary = (tmp_path / "s" / SUMMARY).read_text()
    assert "| baseline lookup |  | 2 |  | 0.4200 | 0.4200 |  |" in summary


def test_baselines_that_the_seeds_change_are_a_mean_and_a_deviation(tmp_path):
    sweep(PLAN, tmp_path / "s", Beside(0.5, of=["seed"]), metric="auprc")
    assert "| baseline lookup |  |  | 0.4100 ± 0.0100 | 0.4100 ± 0.0100 |  |" in (tmp_path / "s" / SUMMARY).read_text()
    assert [line["seed"] for line in rivals(tmp_path / "s")] == ["", "0", "1", "2"]


@pytest.mark.parametrize(
    ("best", "metric", "said"),
    [
        (0.6, "auprc", "stands over the best baseline, lookup, by 0.1500: test auprc 0.5500 to 0.4000."),
        (0.4, "auprc", "does not stand over the best baseline, lookup: test auprc 0.3500 to 0.4000."),
        (0.45, "auprc", "does not stand over the best baseline, lookup: test auprc 0.4000 to 0.4000."),
        (0.1, "rmse", "stands over the best baseline, prior, by 0.1000: test rmse 0.0000 to 0.1000."),
        (0.3, "rmse", "does not stand over the best baseline, prior: test rmse 0.2000 to 0.1000."),
    ],
)
def test_whether_the_best_point_stands_over_the_best_baseline_is_said(tmp_path, best, metric, said):
    sweep(PLAN, tmp_path / "s", Beside(best, metric=metric), metric=metric)
    assert f"The best point {said}" in (tmp_path / "s" / SUMMARY).read_text()


def test_the_best_point_is_compared_with_the_baselines_of_its_own_rows(tmp_path):
    def trainer(point, outdir):
        easy = point["split-seed"] == "1"
        outdir.mkdir()
        lookup = {"test": {"auprc": 0.9 if easy else 0.3}}
        return {"val": {"auprc": 0.4 if easy else 0.5}, "test": {"auprc": 0.5}, "baselines": {"lookup": lookup}}

    sweep(Sweep.parse(["split-seed=1,2"]), tmp_path / "s", trainer, metric="auprc")
    assert "by 0.2000: test auprc 0.5000 to 0.3000" in (tmp_path / "s" / SUMMARY).read_text()


def test_baselines_of_earlier_runs_are_marked(tmp_path):
    plan = Sweep.parse(["head=lr", "split-seed=1"])
    sweep(plan, tmp_path / "s", Beside(0.5, of=["split-seed"]), metric="auprc")
    sweep(Sweep.parse(["head=lr", "split-seed=2"]), tmp_path / "s", Beside(0.5, of=["split-seed"]), metric="auprc")
    found = [(line["baseline"], line["split-seed"], line["earlier"]) for line in rivals(tmp_path / "s")]
    assert found == [("prior", "", ""), ("lookup", "2", ""), ("lookup", "1", "earlier")]
    assert "| baseline lookup earlier | " in (tmp_path / "s" / SUMMARY).read_text()
