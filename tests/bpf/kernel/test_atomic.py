# SPDX-License-Identifier: Apache-2.0
"""Atomic operations on words that another process changes at the same time."""

import mmap
import os

import numpy as np
import pytest

from bpf.kernel import atomic


def shared_words(count: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, 8 * count), np.uint64)


def test_only_words_that_are_as_expected_are_written() -> None:
    words = shared_words(8)
    words[:] = np.arange(8, dtype=np.uint64) + np.uint64(1 << 63)
    expected = words[[1, 4, 6]]
    words[4] = 5
    written = atomic.compare_exchange(words, np.array([1, 4, 6]), expected, np.array([11, 14, 1 << 63], np.uint64))
    assert written.tolist() == [True, False, True]
    assert words[[1, 4, 6]].tolist() == [11, 5, 1 << 63]
    assert expected.tolist() == [(1 << 63) + 1, (1 << 63) + 4, (1 << 63) + 6], "the caller's array is not written to"


@pytest.mark.parametrize("rounds", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_two_processes_lose_no_change(rounds: int) -> None:
    """Each counts one word up by reading it, then exchanging it, and another by adding."""
    words, place = shared_words(3), np.array([1])
    child = os.fork()
    for _ in range(rounds):
        while True:
            old = words[place]
            if atomic.compare_exchange(words, place, old, old + np.uint64(1))[0]:
                break
        atomic.add(words, 2, 3)
        atomic.add(words, 2, -1)
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert words.tolist() == [0, 2 * rounds, 4 * rounds]


def test_adding_returns_what_was_there_and_wraps() -> None:
    words = shared_words(2)
    assert (atomic.add(words, 1, -1), atomic.add(words, 1, 2)) == (0, 2**64 - 1)
    assert words.tolist() == [0, 1]


@pytest.mark.parametrize("index", [-1, 4])
def test_nothing_outside_of_the_memory_is_written(index: int) -> None:
    words = shared_words(4)
    with pytest.raises(IndexError, match="not in 0-3"):
        atomic.compare_exchange(words, np.array([index]), words[:1], words[:1])
    with pytest.raises(IndexError, match="not in 0-3"):
        atomic.add(words, index, 1)


def test_a_view_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous: False"):
        atomic.add(shared_words(4)[::2], 1, 1)
