"""What is done to features before a head sees them, in the order that ``--steps`` names; fitted on training rows only.

l2            each row to length 1; a row of zeros stays zero
standardise   each feature to mean 0 and deviation 1; a feature that is constant over the training rows becomes 0
pca:K         the K directions of most variance, each signed so that its largest coefficient is positive
whiten        all directions, or those of the pca before it, to variance 1; directions with less than `FLOOR` of the
              largest variance hold rounding and are left out

They are scikit-learn's Normalizer, StandardScaler, PCA and PCA(whiten=True). Every head works behind any of them: it
reads `SteppedRows` as it would read the store.

Axes: n rows of a block, D features in, d features out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch.nn import functional

from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from heads.data.features import Design, Rows, RowSource, Standardisation, Values
from heads.data.gram import spectrum
from heads.head import load_tensors, save_tensors

FILE = "steps.safetensors"
FLOOR = 1e-7
"""Share of the largest variance: what float16 rounds away is about a tenth of it."""
KNOWN = "l2, standardise, pca:K (K components) and whiten"


@dataclass(frozen=True)
class StepOption:
    """One step as it was asked for; of `pca` with its number of components."""

    name: str
    components: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one step; raises `HeadError` where it is none."""
        name, colon, number = text.strip().partition(":")
        if name == "pca" and number.isdecimal() and int(number) > 0:
            return cls(name, int(number))
        if name in ("l2", "standardise", "whiten") and not colon:
            return cls(name)
        raise HeadError(f"--steps holds {text.strip()!r}, which is no step; the steps are {KNOWN}")

    def __str__(self) -> str:
        return self.name if self.components is None else f"{self.name}:{self.components}"


@dataclass(frozen=True)
class StepsOptions:
    """Steps in the order in which they are applied."""

    steps: tuple[StepOption, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``l2,standardise,pca:128,whiten``; raises `HeadError` where a part is no step."""
        return cls(tuple(StepOption.parse(part) for part in text.split(",")))

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))


class Step(Protocol):
    """A fitted step."""

    name: ClassVar[str]

    def width(self, dim_in: int) -> int:
        """Features out for features in; raises ValueError where it takes another width."""
        ...

    def apply(self, values_nD: torch.Tensor) -> torch.Tensor:
        """Return (n, d) float32; the values given may be changed."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Normalise:
    """Rows to length 1."""

    name: ClassVar[str] = "l2"

    def width(self, dim_in: int) -> int:
        return dim_in

    def apply(self, values_nD: torch.Tensor) -> torch.Tensor:
        return functional.normalize(values_nD, dim=1, eps=torch.finfo(values_nD.dtype).tiny).float()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


@dataclass(frozen=True)
class Scale:
    """Features to mean 0 and deviation 1."""

    standardisation: Standardisation

    name: ClassVar[str] = "standardise"

    def width(self, dim_in: int) -> int:
        if {self.standardisation.centre.shape, self.standardisation.factor.shape} != {(dim_in,)}:
            raise ValueError("the tensors of a step do not fit each other")
        return dim_in

    def apply(self, values_nD: torch.Tensor) -> torch.Tensor:
        return self.standardisation.apply_(values_nD)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"centre": self.standardisation.centre, "factor": self.standardisation.factor}


@dataclass(frozen=True)
class Project:
    """x -> (x - centre) @ axes, with centre (D,) and axes (D, d), whose lengths whiten where that was asked for."""

    centre: torch.Tensor
    axes: torch.Tensor

    name: ClassVar[str] = "project"

    def width(self, dim_in: int) -> int:
        dim, width = self.axes.shape
        if self.centre.shape != (dim_in,) or dim != dim_in:
            raise ValueError("the tensors of a step do not fit each other")
        return width

    def apply(self, values_nD: torch.Tensor) -> torch.Tensor:
        return values_nD.sub_(self.centre).float() @ self.axes

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"centre": self.centre, "axes": self.axes}


@dataclass(frozen=True)
class Steps:
    """Fitted steps, applied one after another."""

    dim_in: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    """What the user should know of the fit, each a sentence without a full stop."""

    @property
    def dim_out(self) -> int:
        """Width after the last step; raises ValueError where the steps do not fit each other."""
        dim = self.dim_in
        for step in self.steps:
            dim = step.width(dim)
        return dim

    def apply(self, values_nD: torch.Tensor) -> torch.Tensor:
        """Return (n, d) float32 for (n, D) float32 or float64 on the CPU, which may be changed."""
        for step in self.steps:
            values_nD = step.apply(values_nD)
        return values_nD

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tensors into an existing folder; what is returned goes into head.json."""
        tensors = {
            f"{place}.{key}": tensor for place, step in enumerate(self.steps) for key, tensor in step.tensors().items()
        }
        save_tensors(folder, tensors, FILE)
        return {"dim": self.dim_in, "steps": [step.name for step in self.steps], "notes": list(self.notes)}

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """Invert `save`; raises as `heads.head.Head.load` does."""
        tensors = load_tensors(folder, FILE)
        made: list[Step] = []
        for place, name in enumerate(settings["steps"]):
            if name == Normalise.name:
                made.append(Normalise())
            elif name == Scale.name:
                made.append(Scale(Standardisation(tensors[f"{place}.centre"], tensors[f"{place}.factor"])))
            elif name == Project.name:
                made.append(Project(tensors[f"{place}.centre"], tensors[f"{place}.axes"]))
            else:
                raise ValueError(f"{name!r} is no step")
        if not isinstance(settings["dim"], int) or not all(isinstance(note, str) for note in settings["notes"]):
            raise TypeError("a setting of the steps has the wrong type")
        steps = cls(settings["dim"], tuple(made), tuple(settings["notes"]))
        if steps.dim_out < 1:
            raise ValueError("the steps leave no feature")
        return steps


@dataclass(frozen=True)
class SteppedRows:
    """A source of rows as they are after the steps."""

    source: RowSource
    steps: Steps

    @property
    def dim(self) -> int:
        return self.steps.dim_out

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: Rows, out: Values | None = None) -> Values:
        """Return rows `indices` as (n, d) float32, in `out` if it is given."""
        stored_nD = torch.from_numpy(self.source.take(indices))
        wide = torch.float64 if stored_nD.dtype == torch.float64 else torch.float32
        values_nd = self.steps.apply(stored_nD.to(wide)).numpy()
        if out is None:
            return values_nd
        out[...] = values_nd
        return out


def fit_steps(source: RowSource, rows: Rows, options: StepsOptions, device: torch.device | str = "cpu") -> Steps:
    """Fit every step to the given rows, as the steps before it leave them.

    Parameters
    ----------
    rows : the training rows, and no others
    device : where the second moments are summed up

    Raises
    ------
    HeadError : a value is not finite, there are fewer rows or features than components, or nothing varies.
    """
    steps = Steps(source.dim, ())
    asked = list(options.steps)
    while asked:
        option = asked.pop(0)
        before = SteppedRows(source, steps) if steps.steps else source
        notes: tuple[str, ...] = ()
        step: Step
        if option.name == "l2":
            step = Normalise()
        elif option.name == "standardise":
            step = Scale(standardise(before, rows))
        else:
            whiten = option.name == "whiten" or (bool(asked) and asked[0].name == "whiten")
            if option.name == "pca" and whiten:
                asked.pop(0)
            step, notes = _principal_axes(before, rows, option.components, whiten, device)
        steps = Steps(source.dim, (*steps.steps, step), steps.notes + notes)
    return steps


def _principal_axes(
    source: RowSource, rows: Rows, components: int | None, whiten: bool, device: torch.device | str
) -> tuple[Project, tuple[str, ...]]:
    """Directions of most variance, by the eigenvectors of the covariance matrix; all of them if `components` is None."""
    asked = "whiten" if components is None else f"pca:{components}"
    most = min(len(rows), source.dim)
    if components is not None and components > most:
        raise HeadError(
            f"--steps {asked} asks for more directions than {len(rows):,} rows of {source.dim:,} features have"
        )
    centre = standardise(source, rows).centre
    centred = Standardisation(centre, torch.ones_like(centre, dtype=torch.float32))
    moments = spectrum(Design(source, rows, centred, device=device, memory_bytes=0))
    variances, axes_DD = moments.values.flip(0).cpu(), moments.vectors.flip(1).cpu()
    if variances[0] <= 0:
        raise HeadError(f"--steps {asked}: the features do not vary over the {len(rows):,} training rows")
    keep = components or most
    notes = []
    if components is not None:
        share = float(variances[:keep].sum() / variances.sum())
        notes.append(f"{asked} keeps {100 * share:.1f} % of the variance of the training rows")
    if whiten:
        varied = int((variances[:keep] > FLOOR * variances[0]).sum())
        if varied < keep:
            notes.append(
                f"whiten leaves out {keep - varied:,} of {keep:,} directions without variance in the training rows"
            )
        keep = varied
    axes_Dd = axes_DD[:, :keep]
    largest_d = axes_Dd.gather(0, axes_Dd.abs().argmax(0, keepdim=True))
    axes_Dd = axes_Dd * largest_d.sign()
    if whiten:
        axes_Dd = axes_Dd * ((len(rows) - 1) / variances[:keep]).sqrt()
    return Project(centre, axes_Dd.float().contiguous()), tuple(notes)
