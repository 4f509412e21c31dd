"""Floor 0: pure torch, tensors in, tensors out.

No files, no network, no Redis, no tables. `recommender/` holds the heterogeneous graph network
and the two towers, `traffic/` the state space encoder of packets and its classifier.
"""
