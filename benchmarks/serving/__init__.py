"""Parts of `benchmarks.serve_latency`: a world to serve, the load, the baselines.

`world.py` publishes an edition of chosen size and fills Redis with users; `load.py` is the load
tool, a process of its own; `bare_fastapi.py` and `litserve_app.py` are the servers that ours is
compared with; `processes.py` starts and ends servers.
"""
