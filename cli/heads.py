"""`heads`: train light heads on a store of embeddings, predict with them, evaluate, export and sweep them."""

from __future__ import annotations

from typing import NoReturn

import click

from cli.errors import run
from cli.evaluate import evaluate
from cli.export_head import export
from cli.finetune import finetune_command
from cli.predict import predict
from cli.sweep import sweep
from cli.train import train
from cli.training_log import log_command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def heads() -> None:
    """Train light heads on cached embeddings, in seconds."""


for command in (train, predict, evaluate, export, sweep, finetune_command(train), log_command):
    heads.add_command(command)


def main() -> NoReturn:
    """Entry point of the program `heads`."""
    run(heads, "heads")
