"""Whether the training rows hold what is to be learned of them."""

from __future__ import annotations

import numpy as np

from embedcache.errors import HeadError
from heads.data.target import Doubles, Target


def check_present(target: Target, weights: Doubles | None) -> None:
    """Refuse training rows without a class, or with a label that never changes: its intercept would have no optimum.

    Rows of weight 0 do not count. Raises HeadError naming the class or label.
    """
    if target.kind == "multilabel":
        for name, values in zip(target.names, target.values.T, strict=True):
            counted = np.bincount(values, weights, minlength=2)
            if not counted.all():
                raise HeadError(
                    f"label {name} is {int(counted.argmax())} in all {len(target):,} training rows: leave it out, or split "
                    "so that train has both"
                )
        return
    counted = np.bincount(target.values, weights, minlength=len(target.names))
    if not counted.all():
        missing = [str(name) for name, count in zip(target.names, counted, strict=True) if not count]
        raise HeadError(
            f"none of the {len(target):,} training rows has the class {', '.join(missing)}: split so that train holds every "
            "class, or leave rows of that class out"
        )
