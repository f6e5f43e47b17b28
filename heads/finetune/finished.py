"""What a training leaves when it is over, from which the run is judged and written: at once, or after another start.

WORK/encoder/      the encoder with its best weights, where it was trained
WORK/head/         the tensors of the head
WORK/fitted.json   its settings and all that it was chosen from; it is written last: a training without it is not over
"""

from __future__ import annotations

import json
from pathlib import Path

from embedcache.encoding import Encoding
from embedcache.errors import HeadError
from embedcache.storage.commit import write_durably
from heads.finetune.journal import FITTED
from heads.finetune.model import FinetuneModel
from heads.finetune.options import FinetuneOptions
from heads.finetune.save import save_encoder
from heads.fitting import Fitted
from heads.head import DAMAGED
from heads.perceptron.mlp_model import MLPModel
from heads.running.runs import ENCODER

HEAD = "head"


def is_over(work: Path, options: FinetuneOptions) -> bool:
    """Whether the training of a folder is over."""
    return (work / FITTED).exists() and (not options.trains_encoder or (work / ENCODER).exists())


def write_finished(
    work: Path, fitted: Fitted, model: FinetuneModel, encoding: Encoding, options: FinetuneOptions
) -> None:
    """Write what a training has come to; the model has the weights of its best epoch."""
    if options.trains_encoder:
        save_encoder(work / ENCODER, model, encoding, options)
    (work / HEAD).mkdir(exist_ok=True)
    record = {
        "head": dict(fitted.head.save(work / HEAD)),
        "trials": [dict(trial) for trial in fitted.trials],
        "history": [dict(epoch) for epoch in fitted.history],
        "notes": list(fitted.notes),
    }
    # in the order in which they are shown
    write_durably(work / FITTED, [memoryview(json.dumps(record, indent=1).encode())])


def read_finished(work: Path) -> Fitted:
    """Read it back; raises HeadError where it is damaged."""
    try:
        said = json.loads((work / FITTED).read_text())
        head = MLPModel.load(work / HEAD, said["head"])
        return Fitted(head, tuple(said["trials"]), 0, tuple(said["history"]), tuple(said["notes"]))
    except DAMAGED as error:
        raise HeadError(f"{work / FITTED} is damaged ({error}): begin the training anew with --restart") from None
