"""What is claimed, measured: every file is `python -m benchmarks.NAME [--quick] [--data DIR]`.

Each prints one JSON object on its last line (`harness.Result`). `RESULTS.md` holds what was
measured, with the command. `harness.py`, `ranking.py`, `item_types.py`, `serving/` and
`traffic_protocol.py` are shared parts, the rest are benchmarks.
"""
