"""Cases by which training chooses what it does not learn by gradients, of its own interactions."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.interactions.history import HistoryPolicy
from feature_store.interactions.log import InteractionLog
from pipelines.recommender.cases import EvaluationCases
from pipelines.recommender.evaluation import KnownScores, evaluate

CUTOFF = 20


def later_cases(
    earlier: InteractionLog,
    later: InteractionLog,
    users: NDArray[np.int64],
    policy: HistoryPolicy,
) -> EvaluationCases | None:
    """What each of `users` (U,) met later and had not met earlier; None where nobody met anything.

    `policy` says how loudly the history speaks.
    """
    history = policy.matrix(earlier)[users]
    met = earlier.matrix()[users]
    rest = later.matrix()[users]
    rest = sp.csr_matrix(rest - rest.multiply(met))
    rest.eliminate_zeros()
    asked = np.flatnonzero(np.diff(rest.indptr))
    if len(asked) == 0:
        return None
    for matrix in (history, met, rest):
        matrix.sort_indices()
    return EvaluationCases(
        history=history[asked],
        targets=rest[asked].astype(np.bool_),
        excluded=met[asked].astype(np.bool_),
        user_rows=users[asked],
    )


def ndcg(cases: EvaluationCases, scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """(C,) NDCG@`CUTOFF` of the lists that scores (C, N) make."""
    found = evaluate(
        KnownScores(scores, cases.user_rows),
        cases,
        item_popularity=np.ones(cases.n_items),
        cutoffs=(CUTOFF,),
        batch_size=len(cases),
    )
    return found.slices["all"].per_case[f"ndcg@{CUTOFF}"]
