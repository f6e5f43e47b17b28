"""Where there is no terminal a running fit still tells how far it is, now and then."""

from __future__ import annotations

import io

from heads import progress
from heads.progress import told


def test_a_line_is_told_now_and_then_where_there_is_no_terminal(monkeypatch):
    stream = io.StringIO()
    with told("mlp head", stream) as reach:
        reach(1, 20, "epoch 1")  # nothing yet: a quick fit says nothing
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
        reach(3, 20, "epoch 3, val AUPRC 0.412")
        reach(1500, 2000, "")
    assert stream.getvalue() == "mlp head: 3 of 20, epoch 3, val AUPRC 0.412\nmlp head: 1,500 of 2,000\n"


def test_on_a_terminal_it_is_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with told("mlp head", stream) as reach:
        reach(3, 20, "epoch 3")
    assert "mlp head" in stream.getvalue()
