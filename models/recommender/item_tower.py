"""The item tower: what an item is to a user who may want it, and what it says of one who had it.

    z_i = n(E_i + C c_i + G g_i)                                   the vector that is searched
    p_j = e^{w_j} (v_j + P_j + C' c_j + G' g_j)                    the vector that a history sums
    v_j = Σ_r a_r Σ_{i: j → i in r} s_ji z̃_i

with n(x) = x / ‖x‖₂, c the content, g the graph network's vector (`hgnn.py`), s_ji the strength of
the edge j → i, and z̃ = z before it is normalised. The sum over r is one linear convolution per
edge type of the item graph with a learned gain a_r: having had j speaks for what j's edges point
at. E, P and w are free parameters of items: an item without interactions has none, and stands on
its content, its links and its graph vector alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ItemInputs:
    """What is known of every item.

    Shapes:
        content: (n, F) float32, F may be 0.
        graph: (n, d_g) float32 vectors of the graph network, d_g may be 0.
        edges: edge type → strengths of the edges between two ranges of rows.
        trained: (n,) bool, which items have interactions, and so free vectors.
    """

    content: Tensor
    graph: Tensor
    edges: Mapping[str, EdgeBlock]
    trained: Tensor


@dataclass(frozen=True)
class EdgeBlock:
    """The edges of one edge type: from the rows `sources` to the rows `destinations`.

    Shapes:
        strength: (len(sources), len(destinations)), entry (j, i) for the edge j → i.
    """

    sources: slice
    destinations: slice
    strength: SparseOperator


class ItemTower(nn.Module):
    """See the module.

    Shapes:
        returns: z (n, d) unit rows, p (n, d)
    """

    def __init__(
        self,
        *,
        n_items: int,
        dimension: int,
        d_content: int,
        d_graph: int,
        edge_types: tuple[str, ...],
        free_vectors: bool = True,
        initial: Tensor | None = None,
        vector_dropout: float = 0.0,
        unit_history: bool = False,
    ) -> None:
        """Free vectors start at `initial` (n, d), or small and random.

        `unit_history` normalises p before e^w: a history item then speaks as loudly as its learned
        weight says, not as its vector is long, and popular items do not drown the others.

        `vector_dropout` hides that share of the free vectors in each training step, so that
        content and graph learn to stand alone (DropoutNet, NeurIPS 2017).
        """
        super().__init__()
        self.vector_dropout = vector_dropout
        self.unit_history = unit_history
        start = torch.randn(n_items, dimension) / dimension**0.5 if initial is None else initial
        self.free = nn.Parameter(start.clone()) if free_vectors else None
        self.free_history = nn.Parameter(torch.zeros(n_items, dimension)) if free_vectors else None
        sides = {"content": d_content, "graph": d_graph}
        self.sides = nn.ModuleDict()
        for name, width in sides.items():
            if width:
                # Beside free vectors a side starts almost silent: it adds, it does not disturb.
                std = 1e-3 if free_vectors else width**-0.5
                self.sides[name] = _small_linear(width, dimension, std)
                self.sides[f"{name}_history"] = _small_linear(width, dimension, std)
        self.edge_types = edge_types
        self.gain = nn.Parameter(torch.ones(len(edge_types)))
        self.log_weight = nn.Parameter(torch.zeros(n_items)) if free_vectors else None

    def forward(self, inputs: ItemInputs) -> tuple[Tensor, Tensor]:
        """See the class."""
        z = self._sum(self.free, inputs, suffix="", scale=self._kept(inputs))
        p = self._sum(self.free_history, inputs, suffix="_history", scale=self._kept(inputs))
        for gain, edge_type in zip(self.gain, self.edge_types, strict=True):
            block = inputs.edges[edge_type]
            p[block.sources] += gain * block.strength(z[block.destinations])
        if self.unit_history:
            p = functional.normalize(p, dim=-1)
        if self.log_weight is not None:
            p = p * (self.log_weight * inputs.trained).exp()[:, None]
        return functional.normalize(z, dim=-1), p

    def _kept(self, inputs: ItemInputs) -> Tensor:
        kept = inputs.trained.to(torch.float32)
        if self.training and self.vector_dropout:
            kept = kept * (torch.rand_like(kept) >= self.vector_dropout)
        return kept[:, None]  # (n, 1)

    def _sum(
        self, free: Tensor | None, inputs: ItemInputs, *, suffix: str, scale: Tensor
    ) -> Tensor:
        parts = [] if free is None else [free * scale]
        for name, values in (("content", inputs.content), ("graph", inputs.graph)):
            if f"{name}{suffix}" in self.sides:
                parts.append(self.sides[f"{name}{suffix}"](values))
        if not parts:
            raise ValueError("an item tower needs free vectors, content or graph vectors")
        return torch.stack(parts).sum(0)  # (n, d)


class SparseOperator:
    """A constant sparse matrix (n, m) that multiplies (m, d) tensors, with its gradient.

    Both the matrix and its transpose are kept in compressed rows: forward and backward are then
    the same fast product.
    """

    def __init__(self, matrix: Tensor) -> None:
        """`matrix`: (n, m) float32 in any layout."""
        with warnings.catch_warnings():
            # torch calls its CSR layout beta; the product used here is checked by a test.
            warnings.filterwarnings("ignore", message="Sparse")
            self.matrix = matrix.to_sparse_csr()
            self.transposed = matrix.transpose(0, 1).to_sparse_csr()

    @classmethod
    def from_csr(
        cls, indptr: Tensor, indices: Tensor, values: Tensor, shape: tuple[int, int]
    ) -> SparseOperator:
        """From compressed rows: (n + 1,) int64, (E,) int64, (E,) float32."""
        rows = torch.arange(shape[0]).repeat_interleave(indptr.diff())
        places = torch.stack([rows, indices])
        return cls(torch.sparse_coo_tensor(places, values, shape, check_invariants=True))

    def __call__(self, x: Tensor) -> Tensor:
        """(m, d) → (n, d)."""
        product: Callable[..., Tensor] = _SparseProduct.apply
        return product(x, self.matrix, self.transposed)


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        product: Tensor = torch.sparse.mm(matrix, x)
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return torch.sparse.mm(ctx.transposed, gradient.contiguous()), None, None


def _small_linear(d_in: int, d_out: int, std: float) -> nn.Linear:
    layer = nn.Linear(d_in, d_out, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer
