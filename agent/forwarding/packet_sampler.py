# SPDX-License-Identifier: Apache-2.0
"""Samples of packets for one who traces them.

While there is none, the program spends one test on it and writes nothing. It has one filter, so one trace runs at a
time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

from agent.errors import AgentError
from bpf.layout.sampling import Sample, SampleFilter
from bpf.maps.sampling_map import SamplingMap

PERIOD_S: Final = 0.05
"""How often samples are fetched: the ring buffer holds 1,500, so up to 30,000 a second are seen."""


class PacketSampler:
    """Brings the samples of a node's data path to one reader at a time."""

    def __init__(self, sampling: SamplingMap) -> None:
        """Sampling is switched off: an agent that was killed may have left it on."""
        self._sampling, self._busy = sampling, False
        sampling.write(None)

    def require_free(self) -> None:
        """Raise AgentError while a trace runs."""
        if self._busy:
            raise AgentError("another trace runs on this node; the data path has one filter: end that one first")

    async def samples(self, wanted: SampleFilter) -> AsyncGenerator[list[Sample], None]:
        """Yield what is sampled, again and again, until the generator is closed; first an empty list, once it samples.

        Raises AgentError while another one runs.
        """
        self.require_free()
        self._busy = True
        try:
            with contextlib.closing(self._sampling.open_reader()) as reader:
                reader.read()  # what an earlier trace left
                self._sampling.write(wanted)
                yield []
                while True:
                    await asyncio.sleep(PERIOD_S)
                    yield reader.read()
        finally:
            self._sampling.write(None)
            self._busy = False
