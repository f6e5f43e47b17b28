"""Raw sequences through the heads of a run: encoded by its encoder, or by those of all folds where each has its own.

Axes: n records of a window, k of them with features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from embedcache.errors import HeadError
from embedcache.rawfeatures import RawFeatures, Window
from embedcache.records import Source
from heads.data.features import ArrayRows
from heads.data.target import Doubles
from heads.running.open_run import Run


@dataclass(frozen=True)
class RawOutputs:
    """A run with the encoders of its heads, one for all of them or one for each."""

    run: Run
    encoders: tuple[RawFeatures, ...]
    device: torch.device

    @classmethod
    def load(
        cls,
        run: Run,
        device: torch.device,
        *,
        model: str | None = None,
        center: str | None = None,
        trust_remote_code: bool = False,
    ) -> RawOutputs:
        """Load the encoders, or the one that `model` names; `center` as in `RawFeatures.load`.

        Raises ModelError where one that can be loaded is another than the head was trained on, HeadError where one is named
        and several are needed.
        """
        if model is not None and not run.one_encoder:
            raise HeadError(f"--model names one encoder, and {run.path} has one for each fold: leave it out")
        encoders = []
        for number, head in enumerate(run.heads[:1] if run.one_encoder else run.heads):
            own = run.encoder_of(number)
            encoders.append(
                RawFeatures.load(
                    head.card.encoder,
                    head.card.fingerprint,
                    whose="the head",
                    device=str(device),
                    model=model or (None if own is None else str(own)),
                    center=center,
                    trust_remote_code=trust_remote_code,
                    instead="extract the sequences with `embedcache extract`, and give the store with --features",
                )
            )
        return cls(run, tuple(encoders), device)

    def windows(self, source: Source, *, any_alphabet: bool = False) -> Iterator[tuple[Window, Doubles]]:
        """Records of an input, or their positions, with the features of the first encoder, and the outputs (k, outputs) of
        those that have features of every encoder."""
        first, *others = self.encoders
        done = 0
        for window in first.windows(source, any_alphabet=any_alphabet):
            found = [window, *(other.window(source, window.inputs, done) for other in others)]
            encoded = np.logical_and.reduce([one.encoded for one in found])
            found = [one.only(encoded) for one in found]
            sources = [ArrayRows(one.features) for one in found]
            rows = np.arange(int(encoded.sum()))
            if self.run.one_encoder:
                outputs = self.run.outputs(sources[0], rows, self.device)
            else:
                outputs = self.run.outputs_of(sources, rows, self.device)
            yield found[0], outputs
            done += len(window.inputs)
