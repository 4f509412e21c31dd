"""`python -m benchmarks`: the names of the benchmarks, one a line."""

import pkgutil

import benchmarks

_PARTS = {
    "__main__", "harness", "ranking", "item_types", "memory_captures", "serving",
    "traffic_protocol",
}  # fmt: skip

for module in pkgutil.iter_modules(benchmarks.__path__):
    if module.name not in _PARTS:
        print(module.name)
