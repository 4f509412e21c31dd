"""Neighbour lists: the strongest weights of a linear item-item model, and what they count.

    partial    S of EASE (`feature_store/interactions/partial.py`): what an item adds to a
               prediction when the others are known
    cosine     of shared users (`feature_store/interactions/graph.py`), scaled to a best score of
               about 1

Of row j, which items j speaks for, the `length` largest positive weights are kept. On phones among
electronics (56,415 items, validation, λ 30) 128 of them ranked better than all (HR@10 .120 against
.115): small weights are mostly noise.

    weight = choose_weight(trial_edition, log, trial, user_features, config)

tries what the lists count on the newest interactions, which the trial training was not told, for
users whom it knew. Of all weights whose NDCG is within one standard error of the best one's, the
smallest is taken: 0, no lists at all, unless they help beyond doubt (Breiman et al., 1984).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.editions import RecommenderEdition
from feature_store.interactions.graph import normalise
from feature_store.interactions.joined import pairs_of
from feature_store.interactions.log import InteractionLog
from feature_store.interactions.partial import PartialWeights
from feature_store.interactions.strongest import strongest
from pipelines.recommender.cases import EvaluationCases
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.sparse_rows import keep_largest
from pipelines.recommender.trial_cases import later_cases, ndcg

FloatArray = NDArray[np.float32]

WEIGHTS = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
# Fewer users cannot tell two weights apart; more cost time, as do many items.
MIN_USERS, MAX_USERS, MAX_SCORES = 50, 2_000, 40_000_000
_BLOCK_ITEMS, _SAMPLED_USERS = 512, 512


def partial_lists(
    weights: PartialWeights, *, n_items: int, targets: NDArray[np.int64], length: int
) -> sp.csr_matrix:
    """(n_items, n_items) csr: of each row of S the `length` largest positive weights.

    Args:
        weights: S.
        n_items: its size.
        targets: (T,) rows of the items that are ranked: only they are in lists.
        length: of a list.
    """
    blocks = []
    for start in range(0, n_items, _BLOCK_ITEMS):
        block = weights.rows(np.arange(start, min(start + _BLOCK_ITEMS, n_items)))
        found, strength = strongest(block.T[targets], min(length, len(targets)))
        owner, place = np.nonzero(found >= 0)
        entries = strength[owner, place], (owner, targets[found[owner, place]])
        blocks.append(sp.csr_matrix(entries, shape=(len(block), n_items)))
    return sp.vstack(blocks, format="csr")


def cosine_lists(
    interactions: sp.csr_matrix, *, targets: NDArray[np.int64], length: int, max_pairs: int
) -> sp.csr_matrix | None:
    """The same of the normalised cosine, scaled to a mean best score of 1; None where more than
    `max_pairs` pairs of items share a user, counted as often as they do."""
    incidence = sp.csr_matrix(interactions.T)
    if pairs_of(incidence) > max_pairs:
        return None
    normalised = normalise(incidence)
    n_items = normalised.shape[0]
    listed = np.zeros(n_items, np.bool_)
    listed[targets] = True
    others = sp.csr_matrix(sp.diags(listed.astype(np.float32)) @ normalised).T.tocsr()
    blocks = []
    for start in range(0, n_items, _BLOCK_ITEMS):
        alike = sp.csr_matrix(normalised[start : start + _BLOCK_ITEMS] @ others)
        owner = np.repeat(np.arange(alike.shape[0]), np.diff(alike.indptr))
        alike.data[alike.indices == owner + start] = 0.0
        blocks.append(keep_largest(alike, length))
    lists = sp.vstack(blocks, format="csr")
    lengths = np.diff(interactions.indptr)
    known = np.flatnonzero(lengths)
    some = known[np.linspace(0, len(known) - 1, min(len(known), _SAMPLED_USERS)).astype(np.int64)]
    best = float((interactions[some] @ lists).max(axis=1).mean())
    lists.data /= np.float32(max(best, 1e-12))
    return lists


def choose_weight(
    edition: RecommenderEdition,
    log: InteractionLog,
    trial: NDArray[np.bool_],
    user_features: FloatArray,
    config: RecommenderConfig,
) -> float:
    """What the lists count: the rule of the module.

    Args:
        edition: trained on `log.take(trial)`, with lists of weight 1.
        log: all of the training interactions.
        trial: (n,) what the trial was told.
        user_features: (n_users, F), rows as in the log.
        config: whose seed draws among very many users.
    """
    cases = _cases(log, trial, config)
    if edition.lists is None or cases is None or len(cases) < MIN_USERS:
        return 0.0
    plain = replace(edition, lists=None).scores(cases.history, user_features[cases.user_rows])
    listed = np.zeros_like(plain)
    edition.lists.add_to(listed, cases.history)
    return smallest_within_an_error(
        {weight: ndcg(cases, plain + np.float32(weight) * listed) for weight in WEIGHTS}
    )


def smallest_within_an_error(found: dict[float, NDArray[np.float64]]) -> float:
    """The smallest key whose mean is within one standard error of the best mean's.

    Args:
        found: key → (C,) figures of the same cases; the error is that of the paired difference.
    """
    best = max(found, key=lambda each: float(found[each].mean()))
    for key in sorted(found):
        lost = found[best] - found[key]
        if lost.mean() <= lost.std() / len(lost) ** 0.5:
            return key
    return best


def _cases(
    log: InteractionLog, trial: NDArray[np.bool_], config: RecommenderConfig
) -> EvaluationCases | None:
    """What users of the trial did after it, for as many of them as are worth their time."""
    known, later = log.take(trial), log.take(~trial)
    users = np.intersect1d(known.user, later.user)
    most = min(MAX_USERS, MAX_SCORES // log.n_items)
    if len(users) > most:
        users = np.sort(np.random.default_rng(config.seed).choice(users, most, replace=False))
    return later_cases(known, later, users, config.history)
