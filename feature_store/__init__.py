"""Floor 1: one definition of every feature, and of all state between offline and online.

Features: `interactions/`. State: `offline/`, `online/`, `vectors/`, `registry/`. The rooms do not
import each other; training and serving both import them, which is what makes the two compute the
same thing.
"""
