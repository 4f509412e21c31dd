"""Mamba-1 as compiled kernels for processors: both recurrences, forward and backward, and a step.

`vector.py` gives the compiler 16 floats at a time, `compiled.py` keeps what it made, `workers.py`
shares rows and channels among threads. On them stand `scan.py` and `conv.py`, one autograd function
each, whose slow twins are in `selective_scan.py` and `causal_conv.py`; without gradients `norm.py`,
whose twin is torch's; and for one token without gradients `embed.py`, which makes it, and
`step.py`, which takes it through a whole block: their twins are
`embedding.FlowEmbedding.next_token_by_parts` and `encoder.Block.step_by_parts`. Float32 only, and
only channels in multiples of 16; `supports` says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.traffic.cpu.vector import LANES


def supports(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels take inputs like `x` (P, L, E), and `others`, of any shape, beside it.

    Under autocast inputs are of two dtypes: the kernels would read one as if it were the other.
    """
    return (
        x.device.type == "cpu"
        and x.shape[-1] % LANES == 0
        and x.numel() > 0
        and all(each is None or each.dtype == torch.float32 for each in (x, *others))
    )
