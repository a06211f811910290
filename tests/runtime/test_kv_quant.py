"""KIVI's cache: which tokens are rounded along which side, and the bytes that this takes."""

import pytest
import torch

from kick.errors import KickError
from kick.runtime.kv_quant import KVQuant
from kick.runtime.method import Cache
from kick.runtime.page_attention import PageAttention
from kick.runtime.sliding import Sliding
from kick.runtime.twilight import Twilight


def grid(numbers, bits):
    """Numbers on a grid of 2^bits points from the least to the largest, one at a time."""
    low, high = min(numbers), max(numbers)
    step = (high - low) / (2**bits - 1)
    return [low + round((number - low) / step) * step for number in numbers]


def test_keys_are_rounded_by_channel_and_values_by_token():
    method = KVQuant(bits=2, group=4, residual=8)
    keys, values = torch.randn(1, 19, 8), torch.randn(1, 19, 8)
    found, others = keys.clone(), values.clone()
    assert method.settle(found, others, (0, 0)) == (16, 11)
    for channel in range(8):
        for start in range(0, 16, 4):
            expected = grid(keys[0, start : start + 4, channel].tolist(), 2)
            assert found[0, start : start + 4, channel].tolist() == pytest.approx(expected, abs=1e-5)
    for token in range(11):
        for start in (0, 4):
            expected = grid(values[0, token, start : start + 4].tolist(), 2)
            assert others[0, token, start : start + 4].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(found[:, 16:], keys[:, 16:])
    assert torch.equal(others[:, 11:], values[:, 11:])


def test_what_is_rounded_is_rounded_once():
    method = KVQuant(bits=2, group=4, residual=8)
    keys, values = torch.randn(2, 24, 8), torch.randn(2, 24, 8)
    at_once = keys.clone(), values.clone()
    method.settle(*at_once, (0, 0))
    stepwise, done = (keys.clone(), values.clone()), (0, 0)
    for length in range(9, 25):
        done = method.settle(stepwise[0][:, :length], stepwise[1][:, :length], done)
    assert done == (24, 16)
    assert all(torch.equal(a, b) for a, b in zip(at_once, stepwise, strict=True))


def test_a_group_that_does_not_divide_the_width_is_refused():
    with pytest.raises(KickError, match="must divide the heads' width, 6"):
        KVQuant(bits=4, group=4, residual=4).settle(torch.zeros(1, 8, 6), torch.zeros(1, 8, 6), (0, 0))


def test_bytes_are_those_of_what_is_kept():
    cache = Cache(layer=2, length=100, heads=2, width=32, size=2)
    assert cache.bytes(100) == 2 * 100 * 2 * 32 * 2
    # 96 keys and 68 values of 64 numbers at 4 bits, 4 bytes per 32 of them; 4 keys and 32 values as they are
    rounded = 164 * 64 // 2 + 164 * 64 // 32 * 4
    assert KVQuant(bits=4).bytes(cache) == rounded + 36 * 64 * 2
    assert Sliding(window=40, sinks=4).bytes(cache) == cache.bytes(44)
    assert PageAttention(sub_page=8, page=16).bytes(cache) == cache.bytes(100) + cache.bytes(13)
    assert Twilight().bytes(cache) == cache.bytes(100) + 100 * 2 * (16 + 4)
