"""Verdicts on traffic, while it passes.

A packet's way, by file: a source (`feature_store.traffic.capture`, or `clock.Replay`) →
`stream.py` (the flow table, what is due, what is given up: `policy.py`) → `reader.py` (network and
tree, from recurrent states: `states.py`) → `correction.py` (the one place between an edition's
word and what is emitted) → `verdict.py` → `sinks/`. `counts.py` keeps account; `loading.py` finds
the edition. `app.py` has the routes: uploads, and the live verdicts as server-sent events.

Over several machines: `publishing.py` is a sensor, which writes flows that ended into a queue
(`feature_store.queues`); `worker.py` reads them, and `ledger.py` gives each flow its one verdict.
"""
