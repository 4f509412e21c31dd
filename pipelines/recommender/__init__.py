"""The recommender offline: from an interaction log to a measured ranker.

Reading order, which is also the way of the data:

- `cases.py`            splits of an interaction log, and `EvaluationCases`: who is asked what
- `ranking_metrics.py`  top lists under one strict order (ties count against the model), and metrics
- `evaluation.py`       `Ranker`, `evaluate`, and paired intervals between two rankers
- `baselines/`          popularity, item kNN, EASE, iALS, text kNN, and their tuning on validation
- `report.py`           the comparison as a terminal table, as JSON and as one HTML page

Start at `evaluation.evaluate`: everything that scores items, ours or a baseline, passes through it
on the same cases. Nothing here may import `services`.
"""
