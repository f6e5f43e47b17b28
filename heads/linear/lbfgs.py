"""L-BFGS over many independent problems at once: one evaluation serves the trial points of all of them.

Nocedal and Wright, Numerical Optimization, algorithm 7.4, where the function itself gives a diagonal to begin the
inverse Hessian with, in place of a scaled identity. Every problem keeps its own step length, history and end.
Axes: K problems, P parameters, M pairs of history; k, those still open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from heads.data.moments import one_thread

Evaluate = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""(points (k, P), problems (k,) int64) -> objectives (k,), gradients (k, P), and a diagonal (k, P) near the inverse
Hessian there; all float64. The closer the diagonal, the fewer passes."""

HISTORY = 20
DECREASE = 1e-4
"""Sufficient decrease of a step (Armijo's constant)."""
NOISE = 1e-5
"""Relative noise of float32 objectives: below it the slope decides (Hager and Zhang's approximate Wolfe test, 2005)."""


@dataclass
class Minimum:
    """Where the problems stand: points (K, P), objectives, relative gaps and evaluations used (K,)."""

    points: torch.Tensor
    objectives: torch.Tensor
    gaps: torch.Tensor
    passes: torch.Tensor


class BatchedLBFGS:
    """Minimise K smooth convex functions; `run` may be called again with a finer `evaluate` and goes on from there.

    Parameters
    ----------
    start : (K, P) float64
    """

    def __init__(self, start: torch.Tensor) -> None:
        problems, _ = start.shape
        self.points = start.clone()
        self._steps_MKP = start.new_zeros((HISTORY, *start.shape))
        self._changes_MKP = start.new_zeros((HISTORY, *start.shape))
        self._rho_MK = start.new_zeros((HISTORY, problems))  # 0 in a free slot: it takes no part
        self._remembered = 0  # rounds of pairs; each goes into the next slot, in the end over the oldest
        self.passes = torch.zeros(problems, dtype=torch.int64, device=start.device)

    def run(
        self, evaluate: Evaluate, tolerance: float, most_passes: int, progress: Callable[[int], None] | None = None
    ) -> Minimum:
        """Go on until the estimated gap g'Hg / 2f of every problem is below `tolerance`, or `most_passes` are used.

        `progress` is told after each evaluation how many problems are still open.
        """
        everyone = torch.arange(len(self.points), device=self.points.device)
        values, slopes_KP, diagonals_KP = evaluate(self.points, everyone)
        self.passes += 1
        directions_KP = self._directions(slopes_KP, diagonals_KP, everyone)
        lengths = torch.ones_like(values)
        gaps = self._gaps(values, slopes_KP, directions_KP)
        for _ in range(most_passes - 1):
            open_k = (gaps > tolerance).nonzero()[:, 0]
            if progress is not None:
                progress(len(open_k))
            if not len(open_k):
                break
            step_kP = lengths[open_k, None] * directions_KP[open_k]
            trial_kP = self.points[open_k] + step_kP
            trial_values, trial_slopes_kP, trial_diagonals_kP = evaluate(trial_kP, open_k)
            self.passes[open_k] += 1
            along = (slopes_KP[open_k] * step_kP).sum(1)
            along_there = (trial_slopes_kP * step_kP).sum(1)
            rise = trial_values - values[open_k]
            fits = rise <= DECREASE * along
            fits |= (rise <= NOISE * values[open_k].abs()) & (along_there <= 0.8 * along.abs())
            # a rejected step is shortened to the minimum of the parabola through both ends
            parabola = (-along / (2 * (rise - along))).nan_to_num(0.1).clamp(0.1, 0.5)
            lengths[open_k] = torch.where(fits, 1.0, lengths[open_k] * parabola)

            moved = open_k[fits]
            self._remember(moved, step_kP[fits], (trial_slopes_kP - slopes_KP[open_k])[fits])
            self.points[moved] = trial_kP[fits]
            values[moved] = trial_values[fits]
            slopes_KP[moved] = trial_slopes_kP[fits]
            directions_KP[moved] = self._directions(slopes_KP[moved], trial_diagonals_kP[fits], moved)
            gaps[moved] = self._gaps(values[moved], slopes_KP[moved], directions_KP[moved])
        return Minimum(self.points, values, gaps, self.passes)

    @staticmethod
    def _gaps(values: torch.Tensor, slopes_kP: torch.Tensor, directions_kP: torch.Tensor) -> torch.Tensor:
        tiny = torch.finfo(values.dtype).tiny
        return -0.5 * (slopes_kP * directions_kP).sum(1) / values.abs().clamp(min=tiny)

    @one_thread()
    def _remember(self, problems: torch.Tensor, steps_kP: torch.Tensor, changes_kP: torch.Tensor) -> None:
        """Put the newest pairs over the oldest, where they show positive curvature beyond rounding."""
        curvature = (steps_kP * changes_kP).sum(1)
        sound = curvature > 1e-12 * steps_kP.norm(dim=1) * changes_kP.norm(dim=1)
        problems = problems[sound]
        slot = self._remembered % HISTORY
        self._remembered += 1
        self._rho_MK[slot] = 0
        self._rho_MK[slot, problems] = 1 / curvature[sound]
        self._steps_MKP[slot, problems] = steps_kP[sound]
        self._changes_MKP[slot, problems] = changes_kP[sound]

    @one_thread()
    def _directions(self, slopes_kP: torch.Tensor, diagonals_kP: torch.Tensor, problems: torch.Tensor) -> torch.Tensor:
        """Return -H g by the two-loop recursion."""
        newest_first = [round_ % HISTORY for round_ in range(self._remembered)][::-1][:HISTORY]
        direction_kP = -slopes_kP
        shares = []
        for slot in newest_first:
            share_k = self._rho_MK[slot, problems] * (self._steps_MKP[slot, problems] * direction_kP).sum(1)
            direction_kP = direction_kP - share_k[:, None] * self._changes_MKP[slot, problems]
            shares.append(share_k)
        direction_kP = diagonals_kP * direction_kP
        for slot in reversed(newest_first):
            back_k = self._rho_MK[slot, problems] * (self._changes_MKP[slot, problems] * direction_kP).sum(1)
            direction_kP = direction_kP + (shares.pop() - back_k)[:, None] * self._steps_MKP[slot, problems]
        return direction_kP
