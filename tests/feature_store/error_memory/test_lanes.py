"""Loops in the machine's vectors against numpy."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.error_memory.kernels import exp_all, nearest_of
from feature_store.error_memory.lanes import float_of_bits, products, squared_distances
from feature_store.error_memory.neighbours import half_bits


@numba.njit
def call_products(key, rows, out):
    products(key, rows, out)


@numba.njit
def call_distances(key, rows, out):
    squared_distances(key, rows, out)


@numba.njit
def call_float_of_bits(bits):
    return float_of_bits(bits)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), d=st.integers(0, 67), n=st.integers(0, 131))
def test_products_and_distances_of_any_shape(seed, d, n):
    rng = np.random.default_rng(seed)
    key, rows = rng.standard_normal(d, np.float32), rng.standard_normal((d, n), np.float32)
    out = np.full(n + 1, 7, np.float32)
    call_products(key, rows, out[:n])
    np.testing.assert_allclose(out[:n], key.astype(float) @ rows, rtol=1e-5, atol=1e-5)
    kept = half_bits(rows)
    call_distances(key, kept, out[:n])
    exact = ((key[:, None].astype(float) - kept.view(np.float16)) ** 2).sum(0)
    np.testing.assert_allclose(out[:n], exact, rtol=1e-5)
    assert out[n] == 7


def test_a_free_slot_is_infinitely_far():
    rows = np.full((3, 20), np.inf, np.float16).view(np.uint16)
    out = np.empty(20, np.float32)
    call_distances(np.array([0, -1, 70_000], np.float32), rows, out)
    assert np.isposinf(out).all()


def test_a_kept_key_is_finite():
    largest = half_bits(np.array([1e9, -np.inf, 1.0], np.float32)).view(np.float16)
    np.testing.assert_array_equal(largest, np.array([65_504, -65_504, 1], np.float16))


def test_exponentials_are_precise():
    values = np.concatenate([np.linspace(0, 60, 10_001), [np.inf]]).astype(np.float32)
    out = np.empty_like(values)
    exp_all(-1.0, values, out)
    np.testing.assert_allclose(out[:-1], np.exp(-values[:-1].astype(float)), rtol=5e-6)
    assert 0 <= out[-1] < 2e-38


@pytest.mark.parametrize("n", [1, 7, 64])
def test_the_nearest_is_found(n):
    distances = np.random.default_rng(n).random(n, np.float32)
    assert nearest_of(distances) == distances.min()
    assert nearest_of(np.full(n, np.inf, np.float32)) == np.inf


def test_bits_are_a_float():
    assert call_float_of_bits(np.int32(0x3F800000)) == 1.0
