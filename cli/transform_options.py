"""The options that say what is done to records before they are encoded: ids, windows, translation."""

from __future__ import annotations

import click

TRANSFORM_OPTIONS = (
    click.option(
        "--duplicate-ids",
        type=click.Choice(["error", "suffix"]),
        default="error",
        show_default=True,
        help="Ids that come again: refuse them, or call the second x x.2, the third x.3.",
    ),
    click.option(
        "--windows",
        metavar="RULE",
        help="Cut sequences: LENGTH:STEP, as in 500:250, for windows side by side, or random:LENGTHSxCOUNT, as in "
        "random:150x1-3 for 1 to 3 of 150 letters from each record; lengths may be 100-200, or mixed as in "
        "random:30%:100-200,40%:200-500,30%:500-3000x1-3. Ids become id:start-stop, from 0; the column group is the "
        "record's, or else its id.",
    ),
    click.option(
        "--min-window",
        type=click.IntRange(min=1),
        metavar="N",
        help="Letters of the last, shorter window of LENGTH:STEP; what is shorter is left out.  [default: half of LENGTH]",
    ),
    click.option(
        "--short",
        type=click.Choice(["keep", "drop"]),
        help="Records that are shorter than their window: keep them whole, or drop them.  [default: keep]",
    ),
    click.option(
        "--about",
        type=click.IntRange(min=1),
        metavar="N",
        help="Draw about N random windows in all, the same number from each record on average, so that the classes of "
        "windows have the ratio of those of records.",
    ),
    click.option(
        "--window-seed",
        type=click.IntRange(0, 2**63 - 1),
        default=0,
        show_default=True,
        help="Seed of random windows; a record's depend on it and on its id alone.",
    ),
    click.option(
        "--translate",
        metavar="HOW",
        help="Read DNA as protein: six-frame (ids become xF1 to xR3, see --stops), longest-orf (of the six frames), or "
        "frame:N with N from 1 to 3, or -1 to -3 on the other strand. The column parent is the id of the DNA record.",
    ),
    click.option(
        "--genetic-code",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="NCBI's number of the code; 11 is that of bacteria.",
    ),
    click.option(
        "--stops",
        type=click.Choice(["split", "cut", "keep"]),
        help="Of a frame: a protein for each stretch between stops, only what is before the first, or all of it with * "
        "for stops.  [default: split; cut for frame:N]",
    ),
    click.option(
        "--orf",
        type=click.Choice(["stop", "start"]),
        help="longest-orf: from stop to stop, or from the first start codon in between, which becomes M.  [default: stop]",
    ),
    click.option(
        "--min-length",
        type=click.IntRange(min=1),
        metavar="N",
        help="Amino acids of a protein; shorter ones are left out.  [default: 20; 1 for frame:N]",
    ),
)
"""Beside ``--reverse-complement``, which also says how a record's two strands are encoded."""
