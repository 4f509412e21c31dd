"""Which packets belong together, and what is kept of them.

Enter through `table.FlowTable`; `flow` says what a flow is, `fields` which header fields are
kept. `tracker` is the compiled algorithm, `reference` its slow twin.
"""

from feature_store.traffic.flows.fields import HEADER_FIELDS
from feature_store.traffic.flows.flow import FLOW, EndReason, FlowBatch
from feature_store.traffic.flows.table import FlowSettings, FlowTable

__all__ = ["FLOW", "HEADER_FIELDS", "EndReason", "FlowBatch", "FlowSettings", "FlowTable"]
