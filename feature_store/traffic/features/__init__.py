"""What a classifier may see of a flow.

Enter through `tiers.flow_features` (arrays for a sequence model) and `tiers.feature_table` (a
matrix for trees). `protected.PROTECTED` lists what tiers T0 and T1 do not contain, and why.
"""

from feature_store.traffic.features.protected import PROTECTED, Header, ProtectedField
from feature_store.traffic.features.tiers import FlowFeatures, Tier, feature_table, flow_features

__all__ = [
    "PROTECTED",
    "FlowFeatures",
    "Header",
    "ProtectedField",
    "Tier",
    "feature_table",
    "flow_features",
]
