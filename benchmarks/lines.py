"""The lines of the benchmarks' table: which ratios, what they should reach, and what must hold whatever the speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """One line of the table: a figure, what it is a ratio to, and what it should reach."""

    what: str
    figure: float
    reach: float
    unit: str = "x"
    at_most: bool = False
    missing: str = ""
    """Why there is no figure."""
    most: float = math.inf
    """What the figure could be at the most on this machine, where that is known."""

    @property
    def reached(self) -> bool:
        """Whether the figure is as good as it should be."""
        return self.figure <= self.reach if self.at_most else self.figure >= self.reach

    def __str__(self) -> str:
        if self.missing:
            return self.measured
        sign = "<=" if self.at_most else ">="
        return f"{self.measured} reach {sign} {self.reach:g}{self.unit}{self._verdict}"

    @property
    def _verdict(self) -> str:
        if self.reached:
            return ""
        if self.most < self.reach:
            return f"   beyond this machine, whose products would allow {self.most:.2f}{self.unit}"
        return "   NOT REACHED"

    @property
    def measured(self) -> str:
        """The figure alone, for sizes at which the aim means nothing."""
        return f"  {self.what:<70} " + (self.missing or f"{self.figure:>9.3g}{self.unit:<2}")


REACHES = {
    "DNA_bert_6": {
        "float32": {"plain loop": 5.0, "sentence-transformers": 2.5, "openvino": 1.1},
        "bfloat16": {"sentence-transformers": 1.5, "openvino": 1.0},
    },
    "nt500m": {
        "float32": {"plain loop": 5.0, "sentence-transformers": 2.3, "openvino": 1.1},
        "bfloat16": {"sentence-transformers": 1.2, "openvino": 1.0},
    },
    "esm2-650m": {"float32": {"plain loop": 5.0, "sentence-transformers": 2.3, "openvino": 1.1}},
}
"""Times each peer that extraction should be, by encoder and precision."""
PEERS = {
    "plain loop": "plain transformers loop",
    "sentence-transformers": "sentence-transformers",
    "openvino": "sentence-transformers on OpenVINO",
}


def extraction_lines(found: dict[str, Any]) -> list[Line]:
    """Ratios of extraction, the share of tokenizing, and the share of what the machine can do."""
    lines = []
    for encoder, precisions in REACHES.items():
        for precision, peers in precisions.items():
            programs = found["encoders"][encoder][precision]["programs"]
            ours = programs["embedcache"]
            for peer, reach in peers.items():
                what = f"{encoder} {precision} / {PEERS[peer]}"
                if peer in programs:
                    times = ours["tokens_per_second"] / programs[peer]["tokens_per_second"]
                    # a peer that runs at three quarters of the machine's matrix rate cannot be beaten twice over
                    lines.append(Line(what, times, reach, most=1 / programs[peer]["matrix_share"]))
                else:
                    lines.append(Line(what, math.nan, reach, missing=found["openvino"]))
        share = max(found["encoders"][encoder][precision]["tokenizer_share"] for precision in precisions)
        lines.append(Line(f"{encoder} tokenizing / extraction, wall time", 100 * share, 5, "%", at_most=True))
    for precision in ("float32", "bfloat16"):
        share = found["encoders"]["nt500m"][precision]["programs"]["embedcache"]["matrix_share"]
        lines.append(Line(f"nt500m {precision} / matrix rate of this machine", share, 0.8))
    return lines


def extraction_programs(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every program on every encoder at every precision: what it is, and its figures."""
    for encoder, precisions in REACHES.items():
        for precision in precisions:
            for program, figures in found["encoders"][encoder][precision]["programs"].items():
                yield f"{encoder} {precision} {program}", figures


def reading_lines(found: dict[str, Any]) -> list[Line]:
    """Ratios of the reader."""
    ways = found["ways"]
    return [
        Line("reading 1,024 random rows / numpy memmap", ways["random"]["embedcache"]["times_memmap"], 0.7),
        Line("reading a block-shuffled epoch / numpy memmap", ways["epoch"]["embedcache"]["times_memmap"], 0.9),
        Line("1,024 random rows of a merge / memmap of the copy", ways["random"]["merged"]["times_memmap"], 0.7),
        Line("a block-shuffled epoch of a merge / memmap of the copy", ways["epoch"]["merged"]["times_memmap"], 0.9),
        Line("reading all rows / numpy memmap", ways["scan"]["embedcache"]["times_memmap"], 0.7),
        Line(
            "reading 1,024 random rows / zarr-python",
            ways["random"]["embedcache"]["rows_per_second"] / ways["random"]["zarr-python"]["rows_per_second"],
            100,
        ),
    ]


def fastq_lines(found: dict[str, Any]) -> list[Line]:
    """Reads a second, the share of dnaio's speed, and the memory that more reads take."""
    return [
        Line("FASTQ into record batches", found["plain"]["reads_per_second"]["embedcache"] / 1e6, 1, " M reads/s"),
        Line("FASTQ into record batches / dnaio alone", found["plain"]["share"], 0.35),
        Line("the same, gzipped", found["gzip"]["share"], 0.35),
        Line("memory that 5M reads take more than 2.5M", found["growth_bytes"] / 1e6, 30, " MB", at_most=True),
    ]


def logistic_lines(found: dict[str, Any]) -> list[Line]:
    """Ratios of the logistic grid, and of one multinomial regression."""
    return [
        Line("16 logistic regressions / scikit-learn loop, preconditioner at hand", found["ratio_warm"], 200),
        Line("16 logistic regressions / scikit-learn loop, from nothing", found["ratio_cold"], 50),
        Line("16 logistic regressions / scikit-learn loop warm-started along C", found["ratio_warm_started"], 25),
        Line("largest objective gap of the 16 to float64 Newton", found["largest_gap"], 1e-6, "", at_most=True),
        Line("multinomial regression of 3 classes / scikit-learn", found["multinomial"]["ratio_warm"], 20),
    ]


def ridge_lines(found: dict[str, Any]) -> list[Line]:
    """Ratio of the path of strengths."""
    return [
        Line("ridge path of 10 / scikit-learn loop, moments at hand", found["ratio_warm"], 50),
        Line("largest objective gap of the path to float64", found["largest_gap"], 1e-6, "", at_most=True),
    ]


def finetune_lines(found: dict[str, Any]) -> list[Line]:
    """Ratios of an epoch from cached states."""
    what = f"top {found['trained']} of {found['layers']} layers from cached states, an epoch"
    return [
        Line(f"{what} / transformers, lower layers frozen", found["ratio"], 5),
        Line("the same / our own lower layers at every step", found["ratio_whole"], 3),
    ]


def mlp_lines(found: dict[str, Any]) -> list[Line]:
    """Ratios of an epoch, and of the time to the peer's best metric."""
    # a floor that was measured in a busier moment than the epoch says nothing
    most = max(found["ratio_most"] or math.inf, found["ratio"], found["ratio_large_batch"])
    return [
        Line("MLP epoch / TensorDataset and DataLoader loop", found["ratio"], 3, most=most),
        Line("the same with batches of 1,024", found["ratio_large_batch"], 3, most=most),
    ]


def boosting_lines(found: dict[str, Any]) -> list[Line]:
    """Ratio of the trees."""
    return [
        Line("LightGBM from cached bins / LGBMClassifier at its defaults", found["ratio_warm"], 5),
        Line("its AUPRC on held-out rows / LGBMClassifier's", found["auprc"] / found["auprc_peer"], 1),
    ]


def neighbours_lines(found: dict[str, Any]) -> list[Line]:
    """Ratio of exact search."""
    return [
        Line("20 nearest rows / faiss flat", found["ratio"], 2.5),
        Line("recall of the 20 nearest rows", found["recall"], 0.999, ""),
    ]


def leakage_lines(found: dict[str, Any]) -> list[Line]:
    """Ratio of the screen for near-duplicates."""
    return [Line("near-duplicates of test in train / faiss range search", found["ratio"], 5)]


def metrics_lines(found: dict[str, Any]) -> list[Line]:
    """Ratio of the bootstrap, and its time."""
    seconds = max(found[ties]["seconds"] for ties in ("without_ties", "with_ties"))
    return [
        Line("1,000 bootstraps of AUROC, AUPRC and MCC / scikit-learn loop", found["ratio"], 25),
        Line("the same over 45,000 rows", seconds, 0.5, " s", at_most=True),
    ]


def outofcore_lines(found: dict[str, Any]) -> list[Line]:
    """Peak memory and throughput of the grid from a store that is larger than it."""
    return [
        Line("peak memory of the grid on 1M x 1280 from a store / 1.5 GB", found["share"], 1, at_most=True),
        Line("its throughput in each pass", found["gigabytes_per_second"], 0, " GB/s"),
    ]


def memory_lines(found: dict[str, Any]) -> list[Line]:
    """Peak memory against its bound."""
    return [Line("peak memory of extraction / (model + 700 MB + 16 B a row)", found["share"], 1.0, at_most=True)]


LINES: dict[str, Callable[[dict[str, Any]], list[Line]]] = {
    "reading": reading_lines,
    "fastq": fastq_lines,
    "logistic": logistic_lines,
    "ridge": ridge_lines,
    "metrics": metrics_lines,
    "boosting": boosting_lines,
    "mlp": mlp_lines,
    "finetune": finetune_lines,
    "neighbours": neighbours_lines,
    "leakage": leakage_lines,
    "outofcore": outofcore_lines,
    "memory": memory_lines,
    "extraction": extraction_lines,
}


def wrong_results(report: dict[str, Any]) -> list[str]:
    """What does not hold though it must, whatever the speed: the peers' results, and the optimum of what is minimised."""
    checks: list[tuple[str, bool]] = []
    if "extraction" in report:
        for program, figures in extraction_programs(report["extraction"]):
            least, needed = figures["least_cosine"], figures["needed_cosine"]
            checks.append((f"{program}: cosine {least:.6f} to the plain loop", least >= needed))
    for name in ("logistic", "ridge", "metrics", "neighbours"):
        if name in report:
            checks.append((f"{name}: beyond its gate", report[name]["within_gate"]))
    if "leakage" in report:
        checks.append(("leakage: other pairs than faiss", report["leakage"]["same_pairs"]))
    if not report["quick"]:
        if "mlp" in report:
            checks.append(("mlp: a worse metric than the loop", report["mlp"]["same_metric"]))
        if "boosting" in report:
            checks.append(("boosting: a worse AUPRC than LGBMClassifier", report["boosting"]["within_gate"]))
    return [what for what, right in checks if not right]
