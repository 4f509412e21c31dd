"""The traffic classifier's networks: a flow's first packets in, class logits out.

A flow's way is the order of the files:

1. `embedding.py`: packets and bytes become tokens.
2. `encoder.py`: residual blocks over the tokens and a trailing class token; as a whole sequence, or
   packet by packet with a recurrent state.
3. `mixers.py`: what a block mixes tokens with, Mamba-1 or Mamba-2; `causal_conv.py` and
   `selective_scan.py` are their two recurrences, with kernels in `cpu/` and `cuda/`; `ssd.py` is
   Mamba-2's.
4. `classifier.py`: logits, and the hidden representation that they come from.

`masked_autoencoder.py` pre-trains 1 to 3 without labels. Nothing here reads a file or knows a
class's name. Imports nothing from the floors above.
"""
