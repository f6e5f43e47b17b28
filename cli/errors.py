"""How both programs end: one clear sentence on stderr, exit code 2 for the user's mistake, 1 for ours."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from typing import NoReturn

import click

from embedcache.errors import EmbedcacheError


def run(group: click.Group, name: str) -> NoReturn:
    """Run a click group as a program, and exit.

    Unexpected errors leave their traceback in a file that the sentence names. A reader that goes away (``| head``)
    ends the program quietly.
    """
    try:
        code = group.main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except EmbedcacheError as error:
        _end(f"error: {error}", 2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _end("error: interrupted; nothing half-written is left behind", 2)
    except BrokenPipeError:
        # the interpreter flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        _end(f"error: unexpected {type(error).__name__}: {_one_line(error)}. {_keep_traceback(name)}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or "no message"


def _keep_traceback(name: str) -> str:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"{name}-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exc(file=file)
    except OSError:
        return "Its traceback could not be written"
    return f"This is our mistake; please send us {file.name}"


def _end(sentence: str, code: int) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(code)
