"""How far lists for new users lean on popularity, and on which: fitted on users not met before.

    trial = trial_part(log, config.new_users)       # what a trial training may know
    leaning = fit(trial_edition, log, trial, user_features, config)

Everybody who appears in the newest part of the log for the first time is asked after n = 0, 1, 2,
4 and 8 of their items for the rest. For each n the share of popularity (`PopularityShare`) that
gives the best NDCG is kept, and never more of it than for a shorter history. Popularity itself may
forget: an interaction counts 2^(-age / half-life), with the half-life that serves all these lengths
best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.editions import RecommenderEdition
from feature_store.editions.popularity_share import PopularityShare, blend
from feature_store.interactions.log import InteractionLog
from pipelines.recommender.cases import EvaluationCases
from pipelines.recommender.config import NewUsersConfig, RecommenderConfig
from pipelines.recommender.trial_cases import later_cases, ndcg

# Newcomers go on in one sitting, where popular things follow each other for long: lengths of 16 and
# more, fitted on them, cost users of that length who come back (MovieLens-100K).
LENGTHS = (0, 1, 2, 4, 8)
SHARES = tuple(round(0.1 * step, 1) for step in range(11))
HALF_LIVES_DAYS = (None, 180.0, 90.0, 30.0, 14.0, 7.0)
# So many users tell a share of .1 from the next one; more cost time, as do many items.
MAX_USERS, MAX_SCORES = 400, 20_000_000
# Beyond this multiple of the longest history that was asked after, the model speaks alone.
REACH = 4
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Leaning:
    """What was fitted.

    Attributes:
        share: of popularity, by the length of the history.
        half_life_days: of an interaction's weight in it; None weighs all alike.
    """

    share: PopularityShare
    half_life_days: float | None

    def __str__(self) -> str:
        shares = zip(self.share.lengths, self.share.shares, strict=True)
        after = ", ".join(f"{share:g} after {length}" for length, share in shares)
        forgets = f"half-life {self.half_life_days:g} days" if self.half_life_days else "all times"
        return f"{after or 'nothing fitted'} ({forgets})"


NOT_FITTED = Leaning(PopularityShare(), None)


def trial_part(log: InteractionLog, config: NewUsersConfig) -> NDArray[np.bool_] | None:
    """(n,) the interactions that a trial training may know; None where nothing can be fitted."""
    if not config.enabled or log.timestamp_ms is None or len(log) == 0:
        return None
    ordered = np.sort(log.timestamp_ms)
    cut = ordered[round((len(ordered) - 1) * (1 - config.validation_share))]
    earlier = log.timestamp_ms < cut
    if not earlier.any() or len(_newcomers(log, earlier)) < config.min_users:
        return None
    return np.asarray(earlier)


def popularity(log: InteractionLog, half_life_days: float | None) -> NDArray[np.float32]:
    """(n_items,) users of each item, the recent ones counting more; the sum is that of users."""
    pair = log.user * log.n_items + log.item
    last = len(pair) - 1 - np.unique(pair[::-1], return_index=True)[1]  # in time order in a user
    weight = np.ones(len(last))
    if half_life_days is not None and log.timestamp_ms is not None:
        age = (log.timestamp_ms.max() - log.timestamp_ms[last]) / _DAY_MS
        weight = 0.5 ** (age / half_life_days)
        weight *= len(last) / weight.sum()
    return np.bincount(log.item[last], weight, log.n_items).astype(np.float32)


def fit(
    edition: RecommenderEdition,
    log: InteractionLog,
    trial: NDArray[np.bool_],
    user_features: NDArray[np.float32],
    config: RecommenderConfig,
) -> Leaning:
    """The best leaning of `edition`, which was trained on `log.take(trial)`, for new users.

    Args:
        edition: of the trial.
        log: all of the training interactions.
        trial: (n,) from `trial_part`.
        user_features: (n_users, F), rows as in the log.
        config: of the trial; its seed draws among very many users.
    """
    users = _newcomers(log, trial)
    most = max(min(MAX_USERS, MAX_SCORES // log.n_items), config.new_users.min_users)
    if len(users) > most:
        users = np.sort(np.random.default_rng(config.seed).choice(users, most, replace=False))
    known = log.take(trial)
    logs = {each: np.log1p(popularity(known, each)) for each in HALF_LIVES_DAYS}
    lengths: list[int] = []
    # half-life → (lengths, shares) NDCG
    found: dict[float | None, list[list[float]]] = {each: [] for each in logs}
    for length in LENGTHS:
        cases = _cases(log, users, length, config)
        if cases is None or len(cases) < config.new_users.min_users:
            break
        lengths.append(length)
        model = edition.scores(cases.history, user_features[cases.user_rows])
        for each, log_popularity in logs.items():
            found[each].append(
                [float(ndcg(cases, blend(model, log_popularity, w)).mean()) for w in SHARES]
            )
    if not lengths:
        return NOT_FITTED
    half_life = max(found, key=lambda each: float(np.mean(np.max(found[each], axis=1))))
    best = np.array(SHARES)[np.argmax(found[half_life], axis=1)]
    shares = np.minimum.accumulate(best).tolist()
    if shares[-1] > 0:
        lengths.append(REACH * max(lengths[-1], 1))
        shares.append(0.0)
    return Leaning(PopularityShare(lengths=tuple(lengths), shares=tuple(shares)), half_life)


def _newcomers(log: InteractionLog, earlier: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Users who have no interaction in `earlier`."""
    return np.setdiff1d(log.user, log.user[earlier])


def _cases(
    log: InteractionLog, users: NDArray[np.int64], length: int, config: RecommenderConfig
) -> EvaluationCases | None:
    """The rest of each user's items, after the first `length` interactions."""
    mine = log.take(np.isin(log.user, users))
    place = np.arange(len(mine)) - np.searchsorted(mine.user, mine.user)
    earlier, later = mine.take(place < length), mine.take(place >= length)
    return later_cases(earlier, later, users, config.history)
