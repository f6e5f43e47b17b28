"""``embedcache cache``: what a folder of stores holds, and what of it could go."""

from __future__ import annotations

import json
from pathlib import Path

import click

from embedcache.counted import counted


@click.group()
def cache() -> None:
    """Look after a folder of stores that many extractions share (`embedcache extract --cache DIR`)."""


@cache.command("list")
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, in bytes.")
def list_stores(folder: str, as_json: bool) -> None:
    """List all stores below DIR.

    ELSEWHERE counts the rows that another store of the same encoding has too. Nothing is written.
    """
    from embedcache.progress import size
    from embedcache.reusing.cachefolder import look, rows_elsewhere

    stores = look(folder, lambda line: click.echo(f"caution  {line}", err=True))
    elsewhere = rows_elsewhere(stores)
    if as_json:
        described = [store.to_dict() | {"rows_elsewhere": elsewhere[store.path]} for store in stores]
        click.echo(json.dumps(described, indent=1))
        return
    wide = max([len(str(store.path)) for store in stores], default=0)
    name = max([len(store.encoder) for store in stores], default=0)
    click.echo(
        f"{'STORE':<{wide}}  {'ENCODER':<{name}}  {'ROWS':>12}  {'ELSEWHERE':>12}  {'SIZE':>9}  CHANGED, UTC      STATE"
    )
    for store in stores:
        click.echo(
            f"{store.path!s:<{wide}}  {store.encoder:<{name}}  {store.status.rows_done:>12,}  "
            f"{elsewhere[store.path]:>12,}  {size(store.size_bytes):>9}  {store.changed_utc[:16]}  {store.state}"
        )
    click.echo(f"{counted(len(stores), 'store')}, {size(sum(store.size_bytes for store in stores))}")


@cache.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option(
    "--yes/--dry-run", default=False, help="Remove, or only print what would be removed.  [default: --dry-run]"
)
@click.option("--older-than", default="0d", show_default=True, metavar="AGE", help="Only what was not changed for so long: "
              "12h, 90d, 2w. What was changed within the last hour stays in any case.")  # fmt: skip
@click.option("--keep-model", "keep_models", multiple=True, metavar="NAME", help="Keep all stores of this encoder, by its "
              "alias or hub id; may be given several times.")  # fmt: skip
def gc(folder: str, yes: bool, older_than: str, keep_models: tuple[str, ...]) -> None:
    """Remove from DIR what is of no more use; without --yes, print it only.

    That is: what killed processes left behind; stores that are not finished (their finished shards go too); and stores whose
    every row - id, sequence, columns and values - is in another one, of which the copy is checked before. The last copy of a
    row stays. Never removed: what is no store, what is being written, what lies outside DIR behind a link, and stores that
    a merged, concatenated or selected store below DIR is made of. Such stores outside DIR are not known here: look first.
    """
    from embedcache.progress import size
    from embedcache.reusing.cachecleaning import removable, remove, seconds_of
    from embedcache.reusing.cachefolder import look

    age = seconds_of(older_than)
    stores = look(folder, lambda line: click.echo(f"caution  {line}", err=True))
    found = removable(Path(folder), stores, older_than=age, keep_models=keep_models)
    freed = 0
    for removal in found:
        refused = remove(removal) if yes else None
        if refused is not None:
            click.echo(f"kept          {removal.path}: {refused}")
            continue
        freed += removal.size_bytes
        click.echo(f"{'removed' if yes else 'would remove'}  {removal.path}  {size(removal.size_bytes)}  {removal.why}")
    left = "" if yes or not found else "; --yes removes them"
    click.echo(
        f"{size(freed)} in {len(found):,} of {counted(len(stores), 'store or left-over', 'stores and left-overs')}{left}"
    )
