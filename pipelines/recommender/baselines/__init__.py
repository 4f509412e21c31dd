"""What a recommender must beat: rankers that need no user table, each well tuned.

- `popularity.py`  the most consumed items, for everybody
- `item_knn.py`    items like those consumed, by co-consumption
- `ease.py`        a linear item–item model in closed form: the strongest of the simple ones
- `dual_ease.py`   the same where items outnumber users by far
- `ials.py`        implicit matrix factorisation, users folded in from their history
- `text_knn.py`    items that read like those consumed: no interaction needed
- `tuning.py`      parameters chosen on validation cases

Each is a frozen dataclass with a `fit` constructor and satisfies `evaluation.Ranker`.
"""

from pipelines.recommender.baselines.dual_ease import DualEASE, fit_ease
from pipelines.recommender.baselines.ease import EASE
from pipelines.recommender.baselines.ials import IALS
from pipelines.recommender.baselines.item_knn import ItemKNN
from pipelines.recommender.baselines.popularity import Popularity
from pipelines.recommender.baselines.text_knn import TextKNN
from pipelines.recommender.baselines.tuning import Tuning, tune

__all__ = [
    "EASE",
    "IALS",
    "DualEASE",
    "ItemKNN",
    "Popularity",
    "TextKNN",
    "Tuning",
    "fit_ease",
    "tune",
]
