"""What a classifier may see of a flow.

Enter through `tiers.flow_features` (arrays for a sequence model) and `tiers.feature_table` (a
matrix for trees). `protected.py` lists what tiers T0 and T1 do not contain, and why.
"""

from feature_store.traffic.features.protected import (
    PROTECTED,
    PROTECTED_CONTENT,
    Header,
    ProtectedContent,
    ProtectedField,
)
from feature_store.traffic.features.tiers import FlowFeatures, Tier, feature_table, flow_features

__all__ = [
    "PROTECTED",
    "PROTECTED_CONTENT",
    "FlowFeatures",
    "Header",
    "ProtectedContent",
    "ProtectedField",
    "Tier",
    "feature_table",
    "flow_features",
]
