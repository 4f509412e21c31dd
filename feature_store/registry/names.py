"""The names under which models are published."""

RECOMMENDER = "recommender"
TRAFFIC = "traffic"
