"""The recommendation endpoint.

A request's way, by file: `app.py` (routes) → `schemas.py` (what is asked and answered) →
`recommender.py` (user vector, search, ranking, reasons) over one immutable edition → `feedback.py`
(what the user did with the answer). `services/problems.py` turns failures into RFC 9457 documents,
`telemetry.py` counts and times, `loading.py` finds the edition that serves.
"""
