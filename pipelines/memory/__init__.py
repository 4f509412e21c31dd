"""The error memory measured and tuned: predict, then learn, in the order of time.

`stream.py` is what is replayed; `prequential.py` replays it through a memory with delayed labels;
`baselines.py` are the other ways to follow a stream; `metrics.py`, `evaluation.py` and `report.py`
compare them; `tuning.py` chooses a policy on an early part, or none. `luflow.py` and `ratings.py`
read streams and train the models that are frozen before them.
"""
