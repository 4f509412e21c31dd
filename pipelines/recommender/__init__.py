"""The recommender offline: from an interaction log to a measured ranker.

Reading order, which is also the way of the data:

- `pipeline.py`             the whole run, from tables to a published version
- `config.py`               everything that can be set
- `preparation.py`          tables as arrays, and the item graph; `feedback.py` adds what was
                            collected online, `materialise.py` loads histories into Redis
- `train_graph_network.py`  the graph network on links
- `batches.py`, `train_towers.py`  the towers on hidden parts of histories
- `factorisation.py`, `linear_block.py`  where free vectors start, and the closed-form tail
- `new_users.py`            how far lists lean on popularity where little is known of a user
- `training.py`             all of it into one edition
- `cases.py`                splits of an interaction log, and `EvaluationCases`: who is asked what
- `ranking_metrics.py`      top lists under one strict order (ties count against the model)
- `evaluation.py`           `Ranker`, `evaluate`, and paired intervals between two rankers
- `baselines/`              popularity, item kNN, EASE, iALS, text kNN, and their tuning
- `report.py`               the comparison as a terminal table, as JSON and as one HTML page

Start at `evaluation.evaluate`: everything that scores items, ours or a baseline, passes through it
on the same cases. Nothing here may import `services`.
"""
