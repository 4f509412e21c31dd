"""The recommendation endpoint.

A request's way, by file: `guard.py` (limits) → `app.py` (routes), `direct.py` (the one that is
called most) → `service.py` → `batcher.py` (a bounded queue) → `catalogue.py` (one tenant: versions,
users, feedback) → `recommender.py` (user vectors, search, ranking, reasons) → `ranking.py` (where a
re-ranking stage goes), `diversity.py` → `predictions.py` (kept for their outcome).

Versions: `loading.py` finds the one that serves, `warm_up.py` has it answer before it does,
`assortment.py` knows its items and those added since. `schemas.py` is what is asked and answered,
`services/problems.py` turns failures into RFC 9457 documents, `telemetry.py` counts and times,
`users.py` survives a Redis that is away, `workers.py` runs the processes.
"""
