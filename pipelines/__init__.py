"""Floor 2, offline: what runs to an end.

`recommender/` turns an interaction log and a catalogue into a trained, measured and published
recommender. Pipelines import features and state (`feature_store`) and models (`models`); they never
import `services`, and what both need lives a floor below.
"""
