"""Requests and captures that nobody should send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson

from feature_store.traffic.capture import NotACaptureError, open_capture

LARGEST_SEED_BYTES = 12_000
MOST_SEEDS = 400
# A stream without an end is no answer that can be waited for.
ENDLESS = "/v1/verdicts"
_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_ODD_BYTES = (b"\x00", b"\xff", b'"', b"{", b"[" * 200, b"\\u0000", b"\xed\xa0\x80", b"1e999", b"-")


def small_captures(data: Path) -> list[bytes]:
    """The small captures under a folder.

    Raises:
        ValueError: there is none.
    """
    found = []
    for path in sorted(data.rglob("*")):
        if not path.is_file() or not 24 <= path.stat().st_size <= LARGEST_SEED_BYTES:
            continue
        try:
            with open_capture(path):
                found.append(path.read_bytes())
        except NotACaptureError:
            continue
    if not found:
        raise ValueError(f"no capture of up to {LARGEST_SEED_BYTES:,} bytes in {data}")
    return found[:: max(1, len(found) // MOST_SEEDS)]


def mutate(capture: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes of a capture."""
    body = bytearray(capture)
    for _ in range(int(rng.integers(1, 5))):
        if not body:
            break
        at = int(rng.integers(len(body)))
        length = int(rng.integers(1, 65))
        match int(rng.integers(7)):
            case 0:
                body[at] ^= 1 << int(rng.integers(8))
            case 1:
                body[at : at + length] = rng.bytes(length)
            case 2:
                del body[at:]
            case 3:
                body[at:at] = body[at : at + length] * int(rng.integers(1, 20))
            case 4:
                start = int(rng.integers(len(other)))
                body[at : at + length] = other[start : start + length]
            case 5:
                del body[at : at + length]
            case _:
                width, order = (2, 4)[int(rng.integers(2))], ("little", "big")[int(rng.integers(2))]
                value = _EXTREMES[int(rng.integers(len(_EXTREMES)))] & (256**width - 1)
                # Aligned: there the lengths and counts of headers are.
                body[at & ~1 : (at & ~1) + width] = value.to_bytes(width, order)
    return bytes(body)


def mutated(seeds: list[bytes], rng: np.random.Generator, n: int) -> Iterator[bytes]:
    """`n` captures with something changed."""
    for _ in range(n):
        one, other = (seeds[int(k)] for k in rng.integers(len(seeds), size=2))
        yield mutate(one, other, rng)


@dataclass(frozen=True)
class Example:
    """A right request."""

    method: str
    path: str
    body: bytes = b""


def changed(
    client: httpx.Client, examples: list[Example], rng: np.random.Generator, n: int
) -> Iterator[httpx.Request]:
    """Right requests with something changed."""
    bodies = [each.body for each in examples if each.body]
    for _ in range(n):
        example = examples[int(rng.integers(len(examples)))]
        method, path, body = example.method, example.path, example.body
        if body:
            other = bodies[int(rng.integers(len(bodies)))]
            match int(rng.integers(4)):
                case 0:
                    body = mutate(body, other, rng)
                case 1:
                    body = _other_values(body, rng)
                case 2:
                    odd, at = (int(rng.integers(n)) for n in (len(_ODD_BYTES), len(body)))
                    body = body[:at] + _ODD_BYTES[odd] + body[at:]
                case _:
                    body = other
        if rng.random() < 0.2:
            path = path + "%" + rng.bytes(1).hex() + ("?k=" + str(rng.integers(-5, 2**40)))
        if rng.random() < 0.05:
            method = str(rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]))
        if path.startswith(ENDLESS):
            continue
        headers = {"content-type": "application/json"}
        if rng.random() < 0.1:
            headers["content-type"] = str(rng.choice(["text/plain", "multipart/form-data", ";;"]))
        if rng.random() < 0.1:
            headers["errata-catalogue"] = rng.bytes(8).hex()
        if rng.random() < 0.1:
            headers["x-request-id"] = rng.bytes(100).hex()
        yield client.build_request(method, path, content=body, headers=headers)


def _other_values(body: bytes, rng: np.random.Generator) -> bytes:
    """JSON in which one member has a value of another kind."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    values: list[Any] = [
        None, True, -1, 0, 2**53, 1e300, "", "x" * 5_000, "\x00", "\u202e𝕏", [], {}, [[]],
        ["a"] * 2_000, {"a": {"b": {"c": 1}}},
    ]  # fmt: skip
    if isinstance(found, dict) and found:
        name = list(found)[int(rng.integers(len(found)))]
        found[name] = values[int(rng.integers(len(values)))]
    return orjson.dumps(found)
