"""The traffic encoder on a processor: compiled kernels against the sequential scan in torch.

    python -m benchmarks.scan_cpu [--quick] [--threads N]

The reference size is NetMamba's: 4 Mamba-1 blocks, d_model 256, 512 channels, 16 states, 4 taps,
400 strides and a class token. Both contenders are the same encoder with the same weights on the
same inputs; they run one after the other in each repetition, the order turning, and the figures are
medians. *Sequential* is the form in which the recurrence is published (`selective_scan_ref` of
state-spaces/mamba, and the sequential scans of Transformers and mamba.py): decays and inputs of all
states at once, then a loop over the steps; *lean* is our own reference, which makes them step by
step and so stays in the cache. Both use torch's own convolution, and take all flows at once, as a
call of the published form does; *sequential_few* takes as many at a time as ours does (without
gradients), so that its states too are in the cache.

`speedup` is of wall-clock time, `cpu_speedup` of processor time, which other work on the machine
disturbs less; with one thread the two agree on a quiet machine.

Beside that: by how much feeding the tokens one by one differs, and figures of the size that ships
(d_model 128, 3 blocks, 20 packets), forward alone, and forward with backward.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Result
from models.traffic import encoder as encoders
from models.traffic import mixers
from models.traffic.causal_conv import causal_conv
from models.traffic.encoder import EncoderConfig, TrafficEncoder
from models.traffic.selective_scan import scan_reference, selective_scan

REFERENCE, REFERENCE_TOKENS = EncoderConfig(d_model=256, layers=4), 400
ENOUGH_S = 60
SHIPPING, SHIPPING_TOKENS = EncoderConfig(d_model=128, layers=3), 20


def main() -> None:
    """Run the benchmark."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    repetitions, flows, small_flows = (3, 4, 64) if arguments.quick else (7, 16, 256)
    result = Result("scan_cpu")
    encoder, tokens = prepare(REFERENCE, REFERENCE_TOKENS, flows)
    small, packets = prepare(SHIPPING, SHIPPING_TOKENS, small_flows)
    few = max(flows // 8, 1)
    figures: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    for name, act, count, times in (
        ("", lambda: encode(encoder, tokens), flows, repetitions),
        ("training_", lambda: learn(encoder, tokens[:few]), few, max(repetitions // 2, 1)),
        ("shipping_", lambda: encode(small, packets), small_flows, repetitions),
        ("shipping_training_", lambda: learn(small, packets), small_flows, repetitions),
    ):
        for way, (rate, cpu_rate) in compare(name, act, count, times).items():
            figures[way] |= {f"{name}flows_per_s": rate, f"{name}flows_per_cpu_s": cpu_rate}
    for way, error in differences(encoder, tokens).items():
        figures[way]["max_abs_error"] = error
    for way in WAYS:
        for key in [key for key in figures[way] if "flows_per_" in key]:
            gain = figures[way][key] / figures["sequential"][key]
            name = key.replace("flows_per_cpu_s", "cpu_speedup").replace("flows_per_s", "speedup")
            figures[way][name] = gain
    result.ours = figures.pop("fused") | {
        "step_max_abs_error": step_error(encoder, tokens[:2]),
        "shipping_step_ms": step_ms(small, flows=32),
    }
    result.baselines = figures
    result.details = {
        "threads": arguments.threads,
        "flows": flows,
        "repetitions": repetitions,
        "simd": torch.backends.cpu.get_cpu_capability(),
    }
    result.print()


def parse() -> argparse.Namespace:
    """Read the command line; there is no data to name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller batches, fewer repetitions")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def prepare(config: EncoderConfig, length: int, flows: int) -> tuple[TrafficEncoder, Tensor]:
    """An encoder and its input, the same in each run."""
    torch.manual_seed(0)
    encoder = TrafficEncoder(config).eval()
    return encoder, torch.randn(flows, length, config.d_model)


@torch.no_grad()
def encode(encoder: TrafficEncoder, tokens: Tensor) -> None:
    """Forward alone."""
    encoder.flow(tokens)


def learn(encoder: TrafficEncoder, tokens: Tensor) -> None:
    """Forward and backward; the gradients are dropped."""
    loss = encoder.flow(tokens).square().mean()
    torch.autograd.grad(loss, list(encoder.parameters()))


def compare(
    name: str, act: Callable[[], None], flows: int, repetitions: int
) -> dict[str, tuple[float, float]]:
    """Flows a second, and a second of processor time, each way, by turns, in about `ENOUGH_S`."""
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    started = time.perf_counter()
    for repetition in range(-1, repetitions):  # the first round warms up and is not counted
        if repetition > 0 and time.perf_counter() - started > ENOUGH_S:
            break
        turn = repetition % len(WAYS)
        for way in [*list(WAYS)[turn:], *list(WAYS)[:turn]]:
            with mixing(way):
                began, cpu_began = time.perf_counter(), time.process_time()
                act()
                took = time.perf_counter() - began, time.process_time() - cpu_began
            if repetition >= 0:
                taken[way].append(took)
    rates = {
        way: (flows / statistics.median(wall), flows / statistics.median(cpu))
        for way, (wall, cpu) in ((way, zip(*each, strict=True)) for way, each in taken.items())
    }
    for way, (rate, cpu_rate) in rates.items():
        print(
            f"{name or 'reference_'}{way}: {rate:.2f} flows/s, {cpu_rate:.2f} in processor time",
            file=sys.stderr,
        )
    return rates


@torch.no_grad()
def differences(encoder: TrafficEncoder, tokens: Tensor) -> dict[str, float]:
    """Largest difference of each way's outputs from the sequential ones, over all tokens."""
    outputs = {}
    for way in WAYS:
        with mixing(way):
            outputs[way] = encoder(tokens)
    wanted = outputs["sequential"]
    return {
        way: max(_apart(found.tokens, wanted.tokens), _apart(found.flow, wanted.flow))
        for way, found in outputs.items()
    }


@torch.no_grad()
def step_error(encoder: TrafficEncoder, tokens: Tensor) -> float:
    """Largest difference between whole sequences and their tokens one by one."""
    whole = encoder(tokens)
    state, outputs = encoder.initial_state(len(tokens)), []
    for t in range(tokens.shape[1]):
        output, state = encoder.step(tokens[:, t], state)
        outputs.append(output)
    one_by_one = torch.stack(outputs, dim=1)
    return max(_apart(one_by_one, whole.tokens), _apart(encoder.peek(state), whole.flow))


@torch.no_grad()
def step_ms(encoder: TrafficEncoder, *, flows: int) -> float:
    """Milliseconds of one packet of each flow and a verdict on it."""
    state = encoder.initial_state(flows)
    token = torch.randn(flows, encoder.config.d_model)
    times = []
    for _ in range(60):
        began = time.perf_counter()
        _, state = encoder.step(token, state)
        encoder.peek(state)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


@contextmanager
def mixing(way: str) -> Iterator[None]:
    """Let the mixers scan and convolve in one of the `WAYS` meanwhile."""
    for module, name in WAYS[way]:
        setattr(module, name, WAYS[way][module, name])
    try:
        yield
    finally:
        for module, name in WAYS["fused"]:
            setattr(module, name, WAYS["fused"][module, name])


def _sequential_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None,
    *, delta_bias: Tensor, reset: Tensor | None, **_overwrite: bool,
) -> Tensor:  # fmt: skip
    assert reset is None
    step = functional.softplus(delta + delta_bias)
    decays = torch.exp(step[..., None] * A)  # (P, L, E, N)
    inputs = (step * u)[..., None] * B[:, :, None]  # (P, L, E, N)
    state, states = torch.zeros_like(inputs[:, 0]), []
    for t in range(u.shape[1]):
        state = decays[:, t] * state + inputs[:, t]
        states.append(state)
    y = (torch.stack(states, dim=1) @ C[..., None])[..., 0] + D * u
    return y if z is None else y * functional.silu(z)


def _lean_scan(
    *tensors: Any, delta_bias: Tensor, reset: Tensor | None, **_overwrite: bool
) -> Tensor:
    y, _ = scan_reference(*tensors, delta_bias=delta_bias, reset=reset)
    return y


def _torch_conv(
    x: Tensor, weight: Tensor, bias: Tensor, *, reset: Tensor | None, **_overwrite: bool
) -> Tensor:
    assert reset is None
    padding = weight.shape[1] - 1
    y = functional.conv1d(
        x.transpose(1, 2), weight[:, None], bias, padding=padding, groups=x.shape[-1]
    )
    return functional.silu(y[..., : x.shape[1]].transpose(1, 2))


# What `models.traffic` calls, and how many channels × tokens it calls them with.
WAYS: dict[str, dict[tuple[ModuleType, str], Any]] = {
    way: {
        (mixers, "selective_scan"): scan,
        (mixers, "causal_conv"): conv,
        (encoders, "AT_ONCE"): at_once,
    }
    for way, scan, conv, at_once in (
        ("fused", selective_scan, causal_conv, encoders.AT_ONCE),
        ("sequential", _sequential_scan, _torch_conv, sys.maxsize),
        ("sequential_few", _sequential_scan, _torch_conv, encoders.AT_ONCE),
        ("lean", _lean_scan, _torch_conv, sys.maxsize),
    )
}


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


if __name__ == "__main__":
    main()
