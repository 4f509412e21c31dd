"""Why an item is in a list: the history that brought it, and the corrections that moved it."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from feature_store.interactions.history_rows import HistoryRows
from services.recommend.assortment import Assortment
from services.recommend.item_texts import SCORE_DECIMALS
from services.recommend.lists import Lists
from services.recommend.loading import Served
from services.recommend.memory import MemoryStage
from services.recommend.ranking import Candidates

MAX_REASONS = 3


def explained(
    served: Served,
    candidates: Candidates,
    lists: Lists,
    number: int,
    history: HistoryRows,
) -> bytes:
    """The items of list `number` as JSON, with what brought and moved them."""
    assortment, count = served.assortment, int(lists.counts[number])
    places = slice(0, count) if lists.places is None else lists.places[number]
    rows = lists.rows[number, :count]
    scores = lists.scores[number, :count].astype(np.float64).round(SCORE_DECIMALS)
    reasons = _reasons(assortment, history, rows)
    corrections = _corrections(served, candidates, number, places)
    return orjson.dumps(
        [
            item | {"reasons": reasons[at], "corrections": corrections[at]}
            for at, item in enumerate(assortment.described(rows.tolist(), scores.tolist()))
        ]
    )


def _corrections(
    served: Served, candidates: Candidates, number: int, chosen: NDArray[np.int64] | slice
) -> list[list[dict[str, Any]]]:
    """Per item, what each stage added, and of the memory how many errors it heard."""
    moved = {name: each[number][chosen].tolist() for name, each in candidates.moved.items()}
    rows = candidates.rows[number][chosen]
    heard = {
        stage.name: stage.heard(candidates.users[number], rows).tolist()
        for stage in served.stages
        if isinstance(stage, MemoryStage) and stage.name in moved and len(rows)
    }
    return [
        [
            {"by": name, "added": added[at]}
            | ({"errors": heard[name][at]} if name in heard else {})
            for name, added in moved.items()
            if added[at]
        ]
        for at in range(len(rows))
    ]


def _reasons(
    assortment: Assortment, history: HistoryRows, rows: NDArray[np.int64]
) -> list[list[dict[str, Any]]]:
    """Per item the history items that brought it, the strongest first."""
    if len(history.indices) == 0 or len(rows) == 0:
        return [[] for _ in rows]
    sources, parts = assortment.edition.reasons(history, assortment.vectors(rows), rows)
    explained = []
    for shares in parts:
        best = [place for place in np.argsort(-shares)[:MAX_REASONS] if shares[place] > 0]
        named = [int(sources[place]) for place in best]
        explained.append(
            [
                {"item_id": item_id, "title": title, "contribution": float(shares[place])}
                for item_id, title, place in zip(
                    assortment.item_ids(named), assortment.titles(named), best, strict=True
                )
            ]
        )
    return explained
