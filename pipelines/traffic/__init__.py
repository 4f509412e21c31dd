"""From captures to a published traffic classifier, and the honest measure of it.

A run's way: `labels` and `dataset` (captures → labelled flows), `split` (by recording and time),
`train_network`, `train_tree` and `train_forest`, `training` (all, and how they decide),
`evaluation` (beside `baselines`), `model_card`, `pipeline` (all of it, and the registry).
"""
