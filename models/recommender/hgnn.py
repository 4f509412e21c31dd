"""Heterogeneous graph network over items: one GraphSAGE convolution per edge type.

After 2T-HGNN (arXiv 2403.05185, section 3), inductive by construction: what an item is to itself
(x) holds only what it has before anyone met it; what its neighbours are to it (y) also holds what
interactions taught about them.

    h_v       = σ(W_own x_v),   m_u = σ(W_heard y_u)
    AGG_r(v)  = max over u in N_r(v) of σ(W_r m_u + b_r)
    h_v       ← σ(W h_v + Σ_r V_r AGG_r(v)),   m ← h     (no σ after the last layer)
    z_v       = h_v / ‖h_v‖₂
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import HeteroConv

from models.recommender.max_pool import MaxPoolConv
from models.recommender.neighbours import EdgeType


class HeteroGraphNetwork(nn.Module):
    """Item features and an item graph in, one unit vector per item out.

    An item without a single edge still gets a vector, from its own features alone.

    Shapes:
        own: item type → (n_type, d_own); heard: item type → (n_type, d_heard)
        edge_index: edge type → (2, E)
        returns: item type → (n_type, d_out), rows of unit length
    """

    def __init__(
        self,
        *,
        edge_types: Sequence[EdgeType],
        node_types: Sequence[str],
        d_own: int,
        d_heard: int,
        d_hidden: int,
        d_out: int,
        n_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        # Narrow before the first convolution: it gathers d_hidden numbers per edge, not d_heard.
        self.enter_own = nn.Linear(d_own, d_hidden)
        self.enter_heard = nn.Linear(d_heard, d_hidden)
        sizes = [*[d_hidden] * n_layers, d_out]
        self.layers = nn.ModuleList()
        self.own = nn.ModuleList()
        for before, after in itertools.pairwise(sizes):
            convolutions = {edge_type: MaxPoolConv(before, after) for edge_type in edge_types}
            self.layers.append(HeteroConv(convolutions, aggr="sum"))
            self.own.append(nn.ModuleList([nn.Linear(before, after) for _ in node_types]))
        self.dropout = dropout
        # By position: a type's name may hold characters that a module's name may not.
        self.position_of = {kind: position for position, kind in enumerate(node_types)}

    def forward(
        self,
        own: Mapping[str, Tensor],
        heard: Mapping[str, Tensor],
        edge_index: Mapping[EdgeType, Tensor],
    ) -> dict[str, Tensor]:
        """See the class."""
        hidden = {kind: functional.relu(self.enter_own(rows)) for kind, rows in own.items()}
        spoken = {kind: functional.relu(self.enter_heard(rows)) for kind, rows in heard.items()}
        for depth, (convolution, keep) in enumerate(zip(self.layers, self.own, strict=True)):
            messages = convolution(spoken, dict(edge_index)) if edge_index else {}
            updated = {
                kind: keep.get_submodule(str(self.position_of[kind]))(rows)
                for kind, rows in hidden.items()
            }
            for kind, message in messages.items():
                updated[kind] = updated[kind] + message
            if depth < len(self.layers) - 1:
                updated = {
                    kind: functional.dropout(
                        functional.relu(rows), self.dropout, training=self.training
                    )
                    for kind, rows in updated.items()
                }
            hidden = spoken = updated
        return {kind: functional.normalize(rows, dim=-1) for kind, rows in hidden.items()}


def link_margin_loss(
    anchor: Tensor, positive: Tensor, negatives: Tensor, *, margin: float
) -> Tensor:
    """Mean over links and negatives of max(0, a·n − a·p + margin) (2T-HGNN, equation 3).

    Shapes:
        anchor, positive: (B, d); negatives: (N, d); returns: scalar
    """
    gap = anchor @ negatives.T - (anchor * positive).sum(-1, keepdim=True)  # (B, N)
    return functional.relu(gap + margin).mean()


def link_softmax_loss(
    anchor: Tensor, positive: Tensor, negatives: Tensor, *, temperature: float
) -> Tensor:
    """Cross entropy of the true neighbour among the shared negatives.

    Shapes:
        anchor, positive: (B, d); negatives: (N, d); returns: scalar
    """
    true = (anchor * positive).sum(-1, keepdim=True)  # (B, 1)
    logits = torch.cat([true, anchor @ negatives.T], dim=1) / temperature  # (B, 1 + N)
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
