"""Fixtures of the tests of transforms: records as FASTA with columns attached, and what comes out of options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedcache.input_options import InputOptions
from embedcache.records import Source
from embedcache.sources import open_records

Open = Callable[..., Source]


def rows(source: Source) -> list[dict[str, Any]]:
    """All records of a source."""
    return [row for batch in source.batches() for row in batch.to_pylist()]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Write records as FASTA, ``attached`` columns with them, and open them with options."""

    def open_(records: dict[str, str], attached: str = "", **options: Any) -> Source:
        path = tmp_path / "records.fa"
        path.write_text("".join(f">{name} text\n{sequence}\n" for name, sequence in records.items()))
        return open_records(InputOptions((f"{path}{attached}",), **options))

    return open_
