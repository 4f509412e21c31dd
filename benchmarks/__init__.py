"""What is claimed, measured: every file is `python -m benchmarks.NAME [--quick] [--data DIR]`.

Each prints one JSON object on its last line (`harness.Result`). `RESULTS.md` holds what was
measured, with the command. `harness.py`, `ranking.py` and `item_types.py` are shared parts, the
rest are benchmarks.
"""
