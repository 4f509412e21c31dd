"""What a published model is made of: written by training, read by serving and batch scoring.

An *edition* composes the rooms beside it (interactions, vectors) and the networks below into the
one object that answers. It is the only room of this floor that knows others.
"""

from feature_store.editions.recommender import RecommenderEdition
from feature_store.editions.scoring import Scoring

__all__ = ["RecommenderEdition", "Scoring"]
