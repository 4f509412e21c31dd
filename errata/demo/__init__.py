"""The demo: every real part composed, on real data, from one command.

`movielens.py` fetches the data; `recommender.py` trains, serves, clicks and shows what changed.
"""
