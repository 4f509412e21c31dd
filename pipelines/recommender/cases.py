"""Who is asked what: splits of an interaction log, and the cases an evaluation ranks.

    split = temporal_split(user, item, timestamp, n_users=U, n_items=I)
    ranker = EASE.fit(split.interactions("train"))
    cases = split.cases("test", history=("train", "validation"))

A log is three parallel arrays of one row per interaction, in the order of the file: `user` and
`item` (int64 indices) and, where there is one, `timestamp` (int64, milliseconds).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
ALL = "all"
"""The slice of every case and every target; no other slice may take the name."""


@dataclass(frozen=True, eq=False)
class EvaluationCases:
    """C questions to a ranker: given this history, which of these items come next?

    Shapes:
        history: (C, N) float32 csr, what the user had consumed before.
        targets: (C, N) bool csr, at least one per case.
        excluded: (C, N) bool csr, what may not be recommended, usually the history.
        user_rows: (C,) int64, the case's user in the data set, for side features.
        candidates: (N,) bool, the items that compete, or None for all of them.
        slices: name to (C,) bool, the cases of the slice.
        item_slices: name to (N,) bool. The slice asks the same cases, shows the same lists, and
            counts only these targets; a case that has none of them is not in it.

    Raises ValueError where there is no case, a shape disagrees, a matrix holds duplicates or
    explicit zeros, a case has no target, or a target is excluded or no candidate: it could never be
    hit.
    """

    history: csr_matrix
    targets: csr_matrix
    excluded: csr_matrix
    user_rows: NDArray[np.int64]
    candidates: NDArray[np.bool_] | None = None
    slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    item_slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.targets.shape
        for name in ("history", "targets", "excluded"):
            matrix = getattr(self, name)
            if matrix.shape != shape:
                raise ValueError(f"{name} has shape {matrix.shape}, targets have {shape}")
            if not matrix.has_canonical_format or matrix.count_nonzero() != matrix.nnz:
                raise ValueError(f"{name} holds duplicates or explicit zeros")
        if self.user_rows.shape != shape[:1]:
            raise ValueError(f"{len(self.user_rows)} user rows for {shape[0]} cases")
        for name, cases in self.slices.items():
            _check_mask(f"slice {name!r}", cases, size=shape[0])
        for name, items in self.item_slices.items():
            _check_mask(f"item slice {name!r}", items, size=shape[1])
        names = Counter([ALL, *self.slices, *self.item_slices])
        if repeated := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"slice names used twice or reserved: {repeated}")
        if not len(self):
            raise ValueError("no case to evaluate")
        if not_asked := int((self.n_targets == 0).sum()):
            raise ValueError(f"{not_asked} of {shape[0]} cases have no target")
        if banned := self.targets.multiply(self.excluded).nnz:
            raise ValueError(f"{banned} targets are excluded from being recommended")
        if self.candidates is not None:
            _check_mask("candidates", self.candidates, size=shape[1])
            if outside := int((~self.candidates[self.targets.indices]).sum()):
                raise ValueError(f"{outside} targets are not among the candidates")

    def __len__(self) -> int:
        return int(self.targets.shape[0])

    @property
    def n_items(self) -> int:
        """Width of every matrix here, candidates or not."""
        return int(self.targets.shape[1])

    @property
    def n_targets(self) -> NDArray[np.int64]:
        """Targets per case, (C,)."""
        counts: NDArray[np.int64] = np.diff(self.targets.indptr).astype(np.int64)
        return counts


@dataclass(frozen=True, eq=False)
class Split:
    """An interaction log whose rows are labelled train, validation or test.

    Shapes: `user`, `item` (R,) int64; `part` (R,) of the names in `PARTS`.
    Raises ValueError when lengths disagree, an index is out of range, or a label is unknown.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    part: NDArray[np.str_]
    n_users: int
    n_items: int

    def __post_init__(self) -> None:
        if not len(self.user) == len(self.item) == len(self.part):
            raise ValueError(
                f"{len(self.user)} users, {len(self.item)} items and {len(self.part)} labels"
            )
        for name, index, size in (
            ("user", self.user, self.n_users),
            ("item", self.item, self.n_items),
        ):
            if len(index) and not 0 <= index.min() <= index.max() < size:
                raise ValueError(f"{name} indices {index.min()}…{index.max()} not in [0, {size})")
        if unknown := {*np.unique(self.part).tolist()} - {*PARTS}:
            raise ValueError(f"labels {sorted(unknown)} are not among {PARTS}")

    def interactions(self, *parts: Part) -> csr_matrix:
        """Who consumed what in these parts: (n_users, n_items) float32 csr of ones."""
        rows = np.isin(self.part, parts)
        return _binary(self.user[rows], self.item[rows], shape=(self.n_users, self.n_items))

    def cases(
        self,
        part: Part,
        *,
        history: Sequence[Part] = ("train",),
        candidates: NDArray[np.bool_] | None = None,
    ) -> EvaluationCases:
        """Ask every user that has something new in `part`, given what they did in `history`.

        The history is excluded from the lists, so a target that it already holds is no target.
        `history` for a final test is usually ("train", "validation"): what a user did before is
        known when they are asked, also to a model that was trained without it.

        Slices, each left out when it holds no case: `warm` (history among the candidates), `cold`
        (history, but none among the candidates), `new_users` (no history), and the item slice
        `cold_items` (targets without an interaction in the train part).
        Raises ValueError when nobody has a target.
        """
        past, wanted = self.interactions(*history), self.interactions(part)
        wanted = wanted - wanted.multiply(past)
        if candidates is not None:
            _check_mask("candidates", candidates, size=self.n_items)
            wanted = wanted.multiply(candidates[None, :])
        wanted = csr_matrix(wanted, dtype=np.bool_)
        wanted.eliminate_zeros()
        users = np.flatnonzero(np.diff(wanted.indptr)).astype(np.int64)
        if not len(users):
            raise ValueError(f"no user has a new interaction in the {part} part")
        past = past[users]
        n_past = np.diff(past.indptr)
        n_relevant = n_past if candidates is None else past @ candidates.astype(np.float32)
        slices = {
            "warm": n_relevant > 0,
            "cold": (n_relevant == 0) & (n_past > 0),
            "new_users": n_past == 0,
        }
        targets = wanted[users]
        untrained = np.diff(self.interactions("train").tocsc().indptr) == 0
        return EvaluationCases(
            history=past,
            targets=targets,
            excluded=past.astype(np.bool_),
            user_rows=users,
            candidates=candidates,
            slices={name: cases for name, cases in slices.items() if cases.any()},
            item_slices={"cold_items": untrained} if untrained[targets.indices].any() else {},
        )

    def with_validation(
        self, *, share: float, seed: int, popularity_tilt: float = 0.0, item_spread: float = 0.0
    ) -> Split:
        """Move a random share of every user's train rows to validation, rounded down.

        For data that comes with a train and a test part only, to choose parameters by. Where the
        test part is no even draw, neither should this be: a row of item i is drawn with weight
        n_i^popularity_tilt · e^(item_spread · ε_i), n_i the item's train rows and ε_i one standard
        normal number per item.
        """
        _check_share("share", share)
        rng = np.random.default_rng(seed)
        part = self.part.astype("<U10")
        train = np.flatnonzero(part == "train")
        race = -np.log1p(-rng.random(len(train)))  # the first of exponential clocks (Efraimidis)
        if popularity_tilt or item_spread:
            rows = np.maximum(np.bincount(self.item[train], minlength=self.n_items), 1)
            weight = rows**popularity_tilt * np.exp(item_spread * rng.standard_normal(self.n_items))
            race = race / weight[self.item[train]]
        rank, count = _rank_in_user(self.user[train], race)
        part[train[rank < np.floor(share * count)]] = "validation"
        return replace(self, part=part)


def temporal_split(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    timestamp: NDArray[np.int64],
    *,
    n_users: int,
    n_items: int,
    test_share: float = 0.1,
    validation_share: float = 0.1,
) -> Split:
    """Cut the log at two moments: train before the first, validation between, test from the second.

    One clock for everybody, as in production: nothing of the test period is known to the model.
    Shares are of rows; rows of one timestamp stay together, in the later part. Users whose first
    interaction comes after the cut are the `new_users` of the cases.
    Raises ValueError for an empty test share, or when no row is left before the first cut.
    """
    _check_share("test_share + validation_share", test_share + validation_share)
    if len(timestamp) != len(user):
        raise ValueError(f"{len(timestamp)} timestamps for {len(user)} interactions")
    if not len(timestamp) or test_share == 0:
        raise ValueError(f"{len(timestamp)} rows and a test share of {test_share} leave no test")
    ordered, n = np.sort(timestamp), len(timestamp)
    test_from = ordered[min(n - 1, round(n * (1 - test_share)))]
    validation_from = ordered[min(n - 1, round(n * (1 - test_share - validation_share)))]
    part = np.where(
        timestamp >= test_from,
        "test",
        np.where(timestamp >= validation_from, "validation", "train"),
    )
    if not (part == "train").any():
        raise ValueError(f"no interaction is earlier than the cut at {validation_from} ms")
    return Split(user=user, item=item, part=part, n_users=n_users, n_items=n_items)


def leave_last_out(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    timestamp: NDArray[np.int64] | None = None,
    *,
    n_users: int,
    n_items: int,
    validation: bool = True,
    among: NDArray[np.bool_] | None = None,
    seed: int | None = None,
) -> Split:
    """Hold out every user's last interaction for test, and the one before it for validation.

    Last by time, by file order at equal times or without timestamps, and at random where a `seed`
    is given. `among` (n_items,) limits what may be held out to some items, such as those of one
    content type. A user always keeps one interaction in train, and gives one to validation only if
    that leaves one: test comes first.
    """
    n = len(user)
    if timestamp is not None and len(timestamp) != n:
        raise ValueError(f"{len(timestamp)} timestamps for {n} interactions")
    if seed is not None:
        order: NDArray[np.generic] = np.random.default_rng(seed).random(n)
    else:
        order = np.arange(n) if timestamp is None else timestamp
    if among is not None:
        _check_mask("among", among, size=n_items)
    eligible = np.arange(n) if among is None else np.flatnonzero(among[item])
    rank, count = _rank_in_user(user[eligible], order[eligible])
    from_last = count - 1 - rank
    total = np.bincount(user, minlength=n_users)[user[eligible]]
    part = np.full(n, "train", dtype="<U10")
    part[eligible[(from_last == 0) & (total >= 2)]] = "test"
    if validation:
        part[eligible[(from_last == 1) & (total >= 3)]] = "validation"
    return Split(user=user, item=item, part=part, n_users=n_users, n_items=n_items)


def fixed_split(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    labels: Iterable[str],
    *,
    n_users: int,
    n_items: int,
) -> Split:
    """Take the data's own split: one label of `PARTS` per interaction."""
    part = np.array(list(labels), dtype=np.str_)
    return Split(user=user, item=item, part=part, n_users=n_users, n_items=n_items)


def _rank_in_user(
    user: NDArray[np.int64], order: NDArray[np.generic]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each row's place among its user's rows (0 first; ties by row), and how many there are."""
    by_user = np.lexsort((order, user))
    _, start, inverse, size = np.unique(
        user[by_user], return_index=True, return_inverse=True, return_counts=True
    )
    rank, count = np.empty((2, len(user)), dtype=np.int64)
    rank[by_user] = np.arange(len(user)) - start[inverse]
    count[by_user] = size[inverse]
    return rank, count


def _binary(
    user: NDArray[np.int64], item: NDArray[np.int64], *, shape: tuple[int, int]
) -> csr_matrix:
    matrix = csr_matrix((np.ones(len(user), dtype=np.float32), (user, item)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def _check_mask(name: str, mask: NDArray[np.bool_], *, size: int) -> None:
    if mask.dtype != np.bool_ or mask.shape != (size,):
        raise ValueError(f"{name} is {mask.dtype} {mask.shape}, not bool ({size},)")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"{name} is {share}, not in [0, 1)")
