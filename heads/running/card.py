"""The model card of a run: a README.md that says what the head is, what it was made of, how good it is, where it fails.

The front matter is that of the Hugging Face hub (https://huggingface.co/docs/hub/model-cards), so that a run directory can
be published as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from heads.head import read_json
from heads.running.report import MEANINGLESS, TITLES, shown_metrics
from heads.saving.distribution import Distribution
from heads.saving.profile import Quantity, TrainingProfile
from heads.splitting.stop_on import StopOn

CARD = "README.md"
_TASKS = {
    "binary": "tells two classes apart",
    "multiclass": "tells classes apart",
    "multilabel": "says of several labels which apply",
    "regression": "predicts a measured quantity",
}
_HUB_TASKS = {"regression": "tabular-regression"}
_HUB_LICENCES = {
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
    "BSD-3-Clause": "bsd-3-clause",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
    "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
}
"""The hub's word for a licence of an encoder; others are named in the text alone."""
_MOST_NOTES = 30


def write_card(folder: Path, metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Write the card of a run whose heads are saved already.

    Parameters
    ----------
    folder : the run directory.
    metrics, manifest : what ``metrics.json`` and ``run_manifest.json`` hold.
    """
    name = Path(manifest["outdir"]).name
    front = yaml.safe_dump(_front_matter(name, metrics, manifest), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {name}",
        *_warning(manifest),
        *_what(metrics, manifest),
        *_data(metrics, manifest),
        *_metrics(metrics),
        *_decisions(metrics),
        *_limits(metrics, manifest, _profile_of(folder)),
        *_use(name, metrics, manifest),
        *_repeat(manifest),
    ]
    (folder / CARD).write_text(f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n")


def _front_matter(name: str, metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    encoder, target = manifest["encoder"], metrics["target"]
    task = _HUB_TASKS.get(target, "tabular-classification")
    test = metrics.get("test", {})
    found = [
        {"type": metric, "value": round(test[metric], 6), "name": TITLES[metric]}
        for metric in TITLES
        if isinstance(test.get(metric), float)
    ]
    dataset = Path(manifest["dataset_path"]).name
    front: dict[str, Any] = {
        "library_name": "embedcache",
        "pipeline_tag": task,
        "tags": ["embedcache", "biology", *([encoder["alphabet"]] if encoder.get("alphabet") else [])],
    }
    if encoder.get("licence") in _HUB_LICENCES:
        front["license"] = _HUB_LICENCES[encoder["licence"]]
    if encoder.get("repo_id"):
        front["base_model"] = encoder["repo_id"]
    if found and not encoder.get("meaningless"):
        result = {"task": {"type": task}, "dataset": {"name": dataset, "type": dataset}, "metrics": found}
        front["model-index"] = [{"name": name, "results": [result]}]
    return front


def _warning(manifest: Mapping[str, Any]) -> Iterator[str]:
    if manifest["encoder"].get("meaningless"):
        yield f"> **MEANINGLESS**: {MEANINGLESS}."


def _what(metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    encoder, kind = manifest["encoder"], manifest["args"].get("kind", "")
    blocks = manifest["resolved_tokenization"].get("blocks") or []
    of = f" ({', '.join(block['name'] for block in blocks)})" if blocks else ""
    head = f"A head (`{kind}`) on frozen embeddings of"
    if _has_encoders(metrics, manifest):
        head = f"{len(metrics['selected'])} encoders, each trained in a fold together with its head (`{kind}`), from"
    yield (
        f"{head} `{encoder.get('name')}`{of}: it {_TASKS[metrics['target']]}, `{metrics['label']}`{_classes(metrics)}"
        f"{_for_each_letter(manifest)}."
    )


def _for_each_letter(manifest: Mapping[str, Any]) -> str:
    return ", letter by letter of a sequence: its rows are letters" if manifest["args"].get("per_position") else ""


def _has_encoders(metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether each fold has an encoder of its own."""
    return "folds" in metrics and manifest["args"].get("finetune", {}).get("mode") not in (None, "frozen")


def _classes(metrics: Mapping[str, Any]) -> str:
    names = [f"`{name}`" for name in metrics["classes"]]
    if metrics["target"] == "regression":
        return ""
    if metrics["target"] == "binary":
        return f": {names[1]} (positive) or {names[0]}"
    return f": {', '.join(names)}"


def _data(metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "## Data and split"
    rows = [f"{part} {metrics[part]['rows']:,}" for part in ("train", "stop", "val", "test") if part in metrics]
    yield _list(
        [
            f"Rows: {metrics['n_rows']:,} of `{Path(manifest['dataset_path']).name}` ({', '.join(rows)})",
            f"Split: {metrics['split']}",
            f"Split certificate: `{manifest['split_certificate']}` (split_certificate.json says what was looked for)",
            f"Features: fingerprint `{manifest['store_fingerprint']}`; sequences over the limit of the encoder: "
            f"{manifest['resolved_tokenization'].get('overlong')}",
        ]
    )


def _metrics(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The head beside its baselines, on test and on validation rows."""
    quantiles = metrics.get("decisions", {}).get("quantiles", [])
    columns = shown_metrics(metrics["target"], quantiles)
    yield "## Metrics"
    for part in ("test", "val"):
        if part in metrics:
            rows = {"**this head**": metrics, **metrics["baselines"]}
            lines = [[name, *(_cell(found[part], metric) for metric in columns)] for name, found in rows.items()]
            of_positive = ""
            if metrics["target"] == "binary" and metrics[part].get("prevalence") is not None:
                of_positive = f", {metrics[part]['prevalence']:.2%} of them positive"
            yield f"{part.capitalize()}, {metrics[part]['rows']:,} rows{of_positive}:"
            yield _table([part, *(TITLES[metric] for metric in columns)], lines)
    yield (
        "Brackets are 95 % bootstrap intervals. Settings were chosen, and thresholds tuned, on validation rows alone"
        f" (by {TITLES.get(metrics.get('select', ''), 'the metric in config.yaml')}{_stopped(metrics)}). metrics.json has "
        "more metrics, and those by stratum and group."
    )


def _stopped(metrics: Mapping[str, Any]) -> str:
    """What stopped the fits early, where any had epochs or rounds."""
    stop_on = metrics.get("stop_on")
    return "" if stop_on is None else f"; each fit was stopped early by that of the {StopOn.parse(stop_on).words}"


def _cell(found: Mapping[str, Any], metric: str) -> str:
    value, interval = found.get(metric), found.get(f"{metric}_ci")
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval and None not in interval else "")


def _decisions(metrics: Mapping[str, Any]) -> Iterator[str]:
    decisions = metrics.get("decisions") or {}
    said = []
    cuts = decisions.get("thresholds")
    if cuts:
        names = metrics["classes"] if metrics["target"] == "multilabel" else metrics["classes"][1:]
        overall = ", ".join(f"`{name}` from {cut:.4g} on" for name, cut in zip(names, cuts["overall"], strict=True))
        said.append(f"Threshold, tuned on validation rows: {overall}")
        if cuts["strata"]:
            said.append(f"Thresholds of their own: {len(cuts['strata'])} strata (model/head.json)")
    elif metrics["target"] == "multiclass":
        said.append("The most probable class is predicted")
    if decisions.get("calibrator"):
        said.append(f"Calibration on validation rows: {decisions['calibrator']['method']}")
    elif metrics["target"] != "regression":
        said.append("Probabilities are as the head gives them, not calibrated")
    if decisions.get("prior"):
        said.append("Probabilities are corrected for class weights or sampling (model/head.json)")
    if decisions.get("conformal"):
        what = "intervals" if metrics["target"] == "regression" else "sets of classes"
        said.append(
            f"Conformal {what} that miss {decisions['conformal']['alpha']:.0%} of rows like the validation rows"
        )
    if said:
        yield "## Decisions"
        yield _list(said)


def _limits(metrics: Mapping[str, Any], manifest: Mapping[str, Any], profile: TrainingProfile | None) -> Iterator[str]:
    encoder = manifest["encoder"]
    said = []
    if profile is not None:
        shown: tuple[tuple[Quantity, str, str], ...] = (
            ("length", f"Length in {profile.unit}", ",.0f"),
            ("gc", "Share of G and C", ".0%"),
        )
        said += [
            f"{text}: {_range(profile.distributions[quantity], form)} in 99 % of the training rows; of rows beyond that the "
            "metrics above say nothing (`heads predict --strict` refuses them)"
            for quantity, text, form in shown
            if quantity in profile.distributions
        ]
    if not _has_encoders(metrics, manifest):
        said.append(
            f"Takes only features with the fingerprint `{manifest['store_fingerprint'][:12]}`; others are refused"
        )
    if encoder.get("licence"):
        said.append(
            f"The weights of the encoder are licensed {encoder['licence']}, which may bind what is made with them"
        )
    notes = list(metrics.get("notes", ()))
    said += [note[:1].upper() + note[1:] for note in notes[:_MOST_NOTES]]
    if len(notes) > _MOST_NOTES:
        said.append(f"{len(notes) - _MOST_NOTES:,} more notes are in metrics.json")
    yield "## Limits"
    yield _list(said)


def _range(held: Distribution, form: str) -> str:
    low, high = (f"{bound:{form}}" for bound in held.range)
    return low if low == high else f"{low} to {high} (median {held.median:{form}})"


def _use(name: str, metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "## Use"
    if _has_encoders(metrics, manifest):
        yield _code("sh", f"heads predict {name} --input reads.fa -o predictions.parquet   # the mean of all folds")
        yield "Each folder with a `run_manifest.json` in it is the run of one fold, with its encoder, head and metrics."
        return
    yield _code(
        "sh",
        f"heads predict {name} --features STORE -o predictions.parquet   # a store of the same encoder\n"
        f"heads predict {name} --input reads.fa -o predictions.parquet   # or the sequences themselves",
    )
    yield _code(
        "python",
        "import pathlib, embedcache, heads.running.open_run, numpy as np\n"
        f'store, run = embedcache.open_store("STORE"), heads.running.open_run.open_run(pathlib.Path("{name}"))\n'
        'decided = run.first.decide(run.outputs(store, np.arange(len(store)), "cpu"))   # .outputs and .predictions',
    )


def _repeat(manifest: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{package} {version}" for package, version in manifest["package_versions"].items())
    yield "## Repeat"
    yield _code("sh", str(manifest["command"]))
    commit = manifest.get("git_commit_sha")
    yield (
        f"Made {manifest['finished_at_utc']} on {manifest['device']}, Python {manifest['python_version']}, {versions}"
        + (f", at commit `{commit}`" if commit else "")
        + ". run_manifest.json and config.yaml have every option."
    )


def _profile_of(folder: Path) -> TrainingProfile | None:
    """The profile beside the first saved head of a run."""
    for file in sorted(folder.glob("model/**/head.json")):
        settings = read_json(file).get("profile")
        return None if settings is None else TrainingProfile.load(file.parent, settings)
    return None


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in (head, rule, *lines)
    )


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
