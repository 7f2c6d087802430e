# SPDX-License-Identifier: Apache-2.0
"""What `lbctl trace` may ask for, and what it gets of a sample; one trace at a time, and none left on."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any, cast

import pytest

from agent.control.http_server import Request
from agent.control.trace import Tracing, describe, routes, sample_filter
from agent.errors import AgentError
from agent.forwarding.packet_sampler import PacketSampler
from bpf.layout.counter import Counter
from bpf.layout.sampling import Sample, SampleFilter
from bpf.maps.sampling_map import SamplingMap

SERVICES = {1: "web", 2: "dns"}
SAMPLE = Sample(1_500_000_000, 1, 60, 1, Counter.DROP_GRACE, 0, 2, b"\x01\x02")


def test_a_filter_is_read() -> None:
    assert sample_filter({}, SERVICES) == SampleFilter()
    query = {"service": "dns", "client": "192.0.2.0/24", "event": "drop_grace", "every": "100"}
    assert sample_filter(query, SERVICES) == SampleFilter(100, 2, Counter.DROP_GRACE, ip_network("192.0.2.0/24"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"service": "wbe"}, "wbe is not a service of this node; it has dns, web"),
        ({"client": "192.0.2.1/24"}, "client: 192.0.2.1/24 has host bits set; write 192.0.2.7 or 192.0.2.0/24"),
        ({"client": "x"}, "client: 'x' does not appear to be"),
        ({"event": "rx"}, "rx is not an event of a packet; docs/counters.md lists them"),
        ({"every": "0"}, "every: 0 is not in 1-1000000"),
        ({"every": "9" * 5000}, "is not in 1-1000000"),
        ({"every": "-1"}, "every: -1 is not in"),
    ],
)
def test_a_wrong_filter_is_refused(query: dict[str, str], message: str) -> None:
    with pytest.raises(AgentError, match=message.replace("(", "\\(")):
        sample_filter(query, SERVICES)


def test_a_sample_is_described() -> None:
    found = describe(SAMPLE, SERVICES, boot=1000.0)
    assert found["time_s"] == 1001.5
    assert (found["service"], found["event"], found["hop"], found["head"]) == ("web", "drop_grace", 2, "0102")
    assert found["interface"] == "lo"
    assert found["why"]
    assert describe(Sample(0, 99_999, 60, 0, Counter.DROP_DENIED, 0, 0, b""), SERVICES, 0.0)["service"] is None


def test_only_root_may_trace_and_only_with_a_data_path() -> None:
    handler = routes(Tracing(None, {}))["GET", "/trace"]
    refused = cast(Any, handler(Request("GET", "/trace", uid=65_534)))
    assert refused.status == 403
    with pytest.raises(AgentError, match="no data path"):
        handler(Request("GET", "/trace"))


class _Map:
    """A map that has one sample for each reading."""

    def __init__(self) -> None:
        self.written: list[SampleFilter | None] = []

    def write(self, wanted: SampleFilter | None) -> None:
        self.written.append(wanted)

    def open_reader(self) -> "_Map":
        return self

    def read(self) -> list[Sample]:
        return [SAMPLE]

    def close(self) -> None:
        pass


async def _one(samples: AsyncIterator[list[Sample]]) -> list[Sample]:
    return await anext(samples)


def test_one_trace_at_a_time_and_none_is_left_on() -> None:
    sampling = _Map()

    async def run() -> None:
        sampler = PacketSampler(cast(SamplingMap, sampling))
        first = sampler.samples(SampleFilter(every=2))
        assert [await _one(first), await _one(first)] == [[], [SAMPLE]]  # the first when it samples
        with pytest.raises(AgentError, match="another trace runs"):
            await _one(sampler.samples(SampleFilter()))
        with pytest.raises(AgentError, match="another trace runs"):
            sampler.require_free()
        await first.aclose()
        second = sampler.samples(SampleFilter())
        await _one(second)
        await second.aclose()

    asyncio.run(run())
    assert sampling.written == [None, SampleFilter(every=2), None, SampleFilter(), None]
