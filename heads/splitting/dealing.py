"""Dealing rows to parts: every class is spread as evenly as groups that stay whole allow.

Axes: N rows, G groups, C classes, P parts, V = C + 1 things to spread: each class, and the rows as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heads.data.target import Codes, Doubles

MOST_CLASSES = 64
"""So many of the commonest classes are spread one by one over groups; the others together."""
SEARCHED = 400
"""Groups that take part in the search for better places; beyond it the greedy choice alone is as even as makes a
difference."""
MOST_STEPS = 400
MOST_TRIES, TRIED, THROWN = 100, 4000, 4
"""The fewer the groups, the more often the search begins anew with so many groups thrown."""
SIGNIFICANT = 1e-12
"""A gain in evenness below this is rounding."""


def deal(classes: Codes, groups: Codes | None, shares: Sequence[int], seed: int) -> Codes:
    """Deal N rows to P parts in proportion to `shares`, and return the part of each row (N,).

    Parameters
    ----------
    classes : (N,) what is to be spread evenly: class codes from 0
    groups : (N,) group codes from 0, a group goes to one part as a whole; None where each row goes by itself
    shares : (P,) such as 3, 1, 1 for 60, 20 and 20 %

    Rows of one class, and groups with the same count of each class, are dealt in turn, in full rounds. What is left goes
    where the unevenness grows least: rows of rare classes first, groups the heaviest first. Then single groups change
    places as long as that lessens the unevenness.

    Unevenness is the sum over parts p and things v of (x_pv - s_p)^2 / s_p, with x_pv the part's share of the thing: in
    proportion to the chi-square distance between what the parts hold and what they should. A row of a rare class weighs
    as much more as the class is rarer; of a class with one row, that goes to the greatest part.

    No part is left without groups where there are as many groups as parts.
    """
    if not len(classes):
        return np.empty(0, np.int64)
    random = np.random.default_rng(seed)
    turns = _turns(shares)
    if groups is None:
        return _deal_rows(classes, _fractions(shares), turns, random)
    _, group_N = np.unique(groups, return_inverse=True)
    return _deal_groups(_counts(_commonest(classes), group_N), _fractions(shares), turns, random)[group_N]


def unevenness(classes: Codes, parts: Codes, shares: Sequence[int]) -> float:
    """Unevenness (see `deal`) of rows (N,) of the given classes in the given parts; 0 where all are spread in proportion."""
    weights_GV = _weights(_counts(classes, np.arange(len(classes))))
    held_PV = np.zeros((len(shares), weights_GV.shape[1]))
    np.add.at(held_PV, parts, weights_GV)
    share_P1 = _fractions(shares)[:, None]
    return float(((held_PV - share_P1) ** 2 / share_P1).sum())


def _turns(shares: Sequence[int]) -> Codes:
    """One round of dealing: each part as often as its share says."""
    order = sorted((turn / share, part) for part, share in enumerate(shares) for turn in range(share))
    return np.array([part for _, part in order])


def _fractions(shares: Sequence[int]) -> Doubles:
    return np.array(shares, np.float64) / sum(shares)


def _deal_alike(kind_n: Codes, turns: Codes, random: np.random.Generator) -> tuple[Codes, Codes]:
    """Deal rows or groups of equal kinds in full rounds; return parts (n,), and which are left, in random order."""
    shuffled = random.permutation(len(kind_n))
    order = shuffled[np.argsort(kind_n[shuffled], kind="stable")]
    kind, size_K = kind_n[order], np.bincount(kind_n)
    place = np.arange(len(order)) - (np.cumsum(size_K) - size_K)[kind]
    parts_n = np.empty(len(order), np.int64)
    parts_n[order] = turns[place % len(turns)]
    left = order[place >= (size_K - size_K % len(turns))[kind]]
    return parts_n, random.permutation(left)


def _deal_rows(class_N: Codes, share_P: Doubles, turns: Codes, random: np.random.Generator) -> Codes:
    """Return the part of each row (N,)."""
    parts_N, left = _deal_alike(class_N, turns, random)
    rows_C = np.bincount(class_N)
    # full rounds are in proportion, so that what the parts still lack is their share of what is left
    lacking_CP = (rows_C % len(turns))[:, None] * share_P
    lacking_P = lacking_CP.sum(0)
    for row in left[np.argsort(rows_C[class_N[left]], kind="stable")]:
        lacks_P = lacking_CP[class_N[row]]
        growth_P = ((1 - 2 * lacks_P) / rows_C[class_N[row]] ** 2 + (1 - 2 * lacking_P) / len(class_N) ** 2) / share_P
        part = int(growth_P.argmin())
        parts_N[row] = part
        lacks_P[part] -= 1
        lacking_P[part] -= 1
    return parts_N


def _commonest(classes: Codes) -> Codes:
    """Keep the commonest classes apart and put all others together."""
    rows_C = np.bincount(classes)
    if len(rows_C) <= MOST_CLASSES:
        return classes
    rank_C = np.argsort(np.argsort(-rows_C, kind="stable"))
    return np.asarray(np.minimum(rank_C, MOST_CLASSES)[classes], np.int64)


def _counts(classes: Codes, group_N: Codes) -> Codes:
    """Rows of each class in each group (G, C)."""
    shape = int(group_N.max(initial=-1)) + 1, int(classes.max(initial=-1)) + 1
    return np.bincount(group_N * shape[1] + classes, minlength=shape[0] * shape[1]).reshape(shape)


def _weights(counts_GC: Codes) -> Doubles:
    """What each group holds of each class, and of the rows, as fractions of all (G, V)."""
    rows_GV = np.column_stack([counts_GC, counts_GC.sum(1)]).astype(np.float64)
    return np.asarray(rows_GV / np.maximum(rows_GV.sum(0), 1), np.float64)


def _deal_groups(counts_GC: Codes, share_P: Doubles, turns: Codes, random: np.random.Generator) -> Codes:
    """Return the part of each group (G,)."""
    weights_GV = _weights(counts_GC)
    parts_G, left = _deal_alike(np.unique(counts_GC, axis=0, return_inverse=True)[1], turns, random)
    left = left[np.argsort(-np.square(weights_GV[left]).sum(1), kind="stable")]
    excess_PV = _deal_greedily(weights_GV, parts_G, left, share_P)
    others = np.setdiff1d(np.arange(len(parts_G)), left)
    searched = np.concatenate([left, others]) if len(left) < SEARCHED else left
    searched = searched[:: -(-len(searched) // SEARCHED)]
    held_P = np.bincount(parts_G, minlength=len(share_P))
    best = _search(weights_GV[searched], parts_G[searched], excess_PV, share_P, held_P)
    for _ in range(min(MOST_TRIES, TRIED // len(counts_GC))):
        # from the best so far, with a few groups thrown anywhere, the search may end in a better place
        parts_n = best.parts_n.copy()
        parts_n[random.integers(len(parts_n), size=THROWN)] = random.integers(len(share_P), size=THROWN)
        excess_PV, held_P = best.excess_PV.copy(), best.held_P.copy()
        for group in np.flatnonzero(parts_n != best.parts_n):
            _move(excess_PV, held_P, weights_GV[searched[group]], best.parts_n[group], parts_n[group])
        tried = _search(weights_GV[searched], parts_n, excess_PV, share_P, held_P)
        if tried.unevenness < best.unevenness:
            best = tried
    parts_G[searched] = best.parts_n
    return parts_G


def _deal_greedily(weights_GV: Doubles, parts_G: Codes, left: Codes, share_P: Doubles) -> Doubles:
    """Fill in the parts of the groups that are left, in their order; return what each part holds above its share (P, V)."""
    excess_PV = -share_P[:, None] * weights_GV[left].sum(0)
    for group in left:
        weight_V = weights_GV[group]
        growth_P = (2 * (excess_PV @ weight_V) + weight_V @ weight_V) / share_P
        part = int(growth_P.argmin())
        parts_G[group] = part
        excess_PV[part] += weight_V
    return np.asarray(excess_PV, np.float64)


@dataclass(frozen=True)
class _Dealt:
    """Parts of the groups that are searched (n,), what each part holds above its share, and how many groups it has."""

    parts_n: Codes
    excess_PV: Doubles
    held_P: Codes
    unevenness: float


def _move(excess_PV: Doubles, held_P: Codes, weight_V: Doubles, old: int, new: int) -> None:
    excess_PV[old] -= weight_V
    excess_PV[new] += weight_V
    held_P[old] -= 1
    held_P[new] += 1


def _search(weights_nV: Doubles, parts_n: Codes, excess_PV: Doubles, share_P: Doubles, held_P: Codes) -> _Dealt:
    """Move one group, or exchange two, whichever gains most, until nothing does; a part's last group stays.

    The groups that are not searched count in `excess_PV` and `held_P`, which are changed in place.
    """
    parts_n = parts_n.copy()
    each = np.arange(len(parts_n))
    square_n = np.square(weights_nV).sum(1)
    apart_nn = square_n[:, None] + square_n - 2 * weights_nV @ weights_nV.T
    for _ in range(MOST_STEPS):
        slope_nP = 2 * weights_nV @ (excess_PV / share_P[:, None]).T
        own_n = slope_nP[each, parts_n]
        inverse_n = 1 / share_P[parts_n]
        move_nP = slope_nP - own_n[:, None] + square_n[:, None] * (1 / share_P + inverse_n[:, None])
        move_nP[each, parts_n] = np.inf
        move_nP[held_P[parts_n] == 1] = np.inf
        if (held_P == 0).any():
            move_nP[:, held_P == 0] -= move_nP[np.isfinite(move_nP)].max(initial=0) + 1
        there_nn = slope_nP[:, parts_n]
        swap_nn = there_nn + there_nn.T - own_n[:, None] - own_n + apart_nn * (inverse_n[:, None] + inverse_n)
        if min(move_nP.min(initial=np.inf), swap_nn.min(initial=np.inf)) >= -SIGNIFICANT:
            break
        if move_nP.min() <= swap_nn.min():
            group, part = np.unravel_index(move_nP.argmin(), move_nP.shape)
            moves = [(group, part)]
        else:
            one, other = np.unravel_index(swap_nn.argmin(), swap_nn.shape)
            moves = [(one, parts_n[other]), (other, parts_n[one])]
        for group, part in moves:
            _move(excess_PV, held_P, weights_nV[group], int(parts_n[group]), int(part))
            parts_n[group] = part
    return _Dealt(parts_n, excess_PV, held_P, float((excess_PV**2 / share_P[:, None]).sum()))
