"""Numbers stand beside words that fit them."""

from __future__ import annotations

from embedcache.counted import counted, counted_of


def test_one_is_singular_and_all_else_is_plural() -> None:
    assert [counted(number, "row") for number in (0, 1, 2500)] == ["0 rows", "1 row", "2,500 rows"]
    assert [counted(number, "row is", "rows are") for number in (1, 2)] == ["1 row is", "2 rows are"]
    assert counted(2, "quality", "qualities") == "2 qualities"


def test_a_part_of_a_whole_has_a_verb_that_fits() -> None:
    said = [counted_of(part, whole, "shard") for part, whole in ((2, 3), (1, 3), (0, 3), (0, 1))]
    assert said == ["2 of 3 shards are", "1 of 3 shards is", "0 of 3 shards are", "0 of 1 shard is"]
