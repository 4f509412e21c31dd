"""From captured packets to flows and their features; one code for training and for live traffic.

A packet's way is the order of the folders:

1. `capture`: files, pipes and interfaces as batches of packets.
2. `packets`: each packet's layers, its flow's key, or the reason why it has none.
3. `flows`: the bidirectional flow table, and what is kept of a flow's first packets.
4. `features`: the tiers T0, T1 and T2, and the list of what is kept out of them.

Enter through `meter.read_flows`, which walks 1 to 3; `report.flow_lines` prints the result.
Everything that looks at each packet is compiled (`compiled.py`) and has a slow twin in a
`reference.py`. Imports nothing from `services/`, `pipelines/` or `errata/`, nor from the rooms
beside it.
"""

from feature_store.traffic.meter import FlowMeter, read_flows

__all__ = ["FlowMeter", "read_flows"]
