"""What is told of the encoders that have a short name: on the screen, in JSON and in the README."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.embedcache import cli
from embedcache.encoders.listing import count
from embedcache.encoders.registry import REGISTRY, SHORT, Entry
from embedcache.errors import ModelError

README = Path(__file__).resolve().parents[2] / "README.md"


def models(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["models", *arguments], catch_exceptions=False)


def test_the_table_fits_the_screen_and_has_every_encoder_with_its_figures() -> None:
    lines = models().stdout.splitlines()
    assert max(map(len, lines)) <= 160
    rows = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert {"kmer:K", "onehot:L"} == set(rows) - set(REGISTRY)
    for alias, entry in REGISTRY.items():
        shown = (
            count(entry.parameters),
            f"{entry.hidden:,}",
            f"{entry.token_limit:,}",
            entry.pooling,
            str(entry.layer),
        )
        for figure in (*shown, entry.licence, entry.repo_id):
            assert f" {figure}" in rows[alias], (alias, figure)
    assert "hf:ORG/NAME" in lines[-1]
    assert "folder" in lines[-1]


def test_the_table_goes_by_family() -> None:
    lines = models().stdout.splitlines()
    of_family, family = {}, ""
    for line in lines[1:]:
        if line.startswith("  "):
            of_family[line.split()[0]] = family
        else:
            family = line.partition(":")[0]
    assert of_family["esm2-8m"] == of_family["esm2-15b"] == "ESM-2"
    assert of_family["nt500m"] == "Nucleotide Transformer v1" != of_family["nt-v2-500m"]


def test_json_has_all_fields() -> None:
    entries = {entry["alias"]: entry for entry in json.loads(models("--json").stdout)}
    assert list(entries) == list(REGISTRY)
    assert set(Entry.__dataclass_fields__) | {"parameters", "alphabet", "family", "takes", "also"} == set(
        entries["nt500m"]
    )
    assert entries["esm2-650m"]["parameters"] == REGISTRY["esm2-650m"].parameters
    assert json.loads(models("geneformer-v1-10m", "--json").stdout) == entries["geneformer-v1-10m"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nt500m", ["DNA in 6-mers", "no commercial use", "1,000 tokens", "mean:all", "478,798,080 weights"]),
        ("esm2-8m", ["proteins", "MIT", "c731040fcd8d73dceaa04b0a8e6329b345b0f5df", "mean:inner"]),
        ("facebook/esm2_t6_8M_UR50D", ["esm2-8m"]),
        ("geneformer-v2-104m", ["cells", "of layer -2"]),
        *((short, [alias, f"also {short}"]) for short, alias in SHORT.items()),
    ],
)
def test_one_encoder_is_told_in_full(name: str, said: list[str]) -> None:
    shown = models(name).stdout
    for part in said:
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 160


@pytest.mark.parametrize(
    ("name", "said"),
    [("nt500", "did you mean nt500m"), ("kmer:4", "not in the list"), ("some/where", "not in the list"),
     ("hf:some/where", "not in the list")],
)  # fmt: skip
def test_an_encoder_that_is_not_in_the_list_is_refused_in_one_sentence(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        models(name)


def test_the_readme_lists_the_same_encoders() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| ")]
    start = next(i for i, row in enumerate(rows) if row.startswith("| family |"))
    expected = [readme_row(list(entries)) for _, entries in groupby(REGISTRY.values(), key=lambda entry: entry.group)]
    assert rows[start + 1 : start + 1 + len(expected)] == expected


def readme_row(entries: list[Entry]) -> str:
    """A family's row of the README's table."""
    names = ", ".join(f"`{entry.alias}` {count(entry.parameters)}" for entry in entries)
    limits = sorted({entry.token_limit for entry in entries})
    tokens = " to ".join(f"{limit:,}" for limit in dict.fromkeys((limits[0], limits[-1])))
    ((pooling, layer, licence),) = {(entry.pooling, entry.layer, entry.licence) for entry in entries}
    return f"| {entries[0].group.name} | {names} | {tokens} | {pooling}, {layer} | {licence} |"
