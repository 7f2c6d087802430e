# SPDX-License-Identifier: Apache-2.0
"""The response of `lbctl connections`, and its text. Its numbers are compared with a real cluster in
tests/cluster/node_agent/test_daemon.py."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from support.sockets import service_of

from agent.cli.connections import print_connections
from agent.connections.held import HeldRows
from agent.connections.monitor import ConnectionMonitor, Held
from agent.control.connections import connections
from agent.errors import AgentError
from agent.forwarding.map_writer import MapWriter
from agent.table.epoch import EpochUse
from bpf.layout.limits import CHAIN

WEB, DNS = service_of("10.99.0.1", 443), service_of("2001:db8::1", "any", "udp")
OLD = HeldRows(np.array([4, 5], np.uint32), np.array([2000, 15], np.uint32))
NEW = HeldRows(np.array([7, 8, 9, 10], np.uint32), np.array([1000, 200, 800, 15], np.uint32))
HELD = Held({WEB.key: {1: OLD, 2: NEW}}, {WEB.key: 500}, 4100.4, 0.00321)


class Rows:
    """The map writer, as far as it knows this node's places."""

    use: EpochUse | None = EpochUse(2)

    def own_places(self, service: str, epoch: int, rows: NDArray[np.uint32]) -> NDArray[np.int64]:
        assert epoch == 2
        return np.array([{7: 0, 8: 3, 9: CHAIN, 10: 0}[row] for row in rows.tolist()], np.int64)


def asked(writer: Rows | None = None, **query: str) -> tuple[int, Any]:
    async def read() -> Held:
        return HELD

    monitor = cast(ConnectionMonitor, SimpleNamespace(read=read))
    response = asyncio.run(connections(monitor, [WEB, DNS], cast("MapWriter | None", writer), query))
    return response.status, json.loads(response.body)


def test_connections_are_counted_by_this_nodes_place_in_the_epoch_of_new_flows() -> None:
    status, response = asked(Rows())
    assert (status, response["held"], response["cpu_ms"]) == (200, 2015, 3.2)
    web, dns = response["services"]
    assert (web["name"], web["endpoint"], web["protocol"]) == (WEB.name, "10.99.0.1:443", "tcp")
    assert (web["held"], web["owned"], web["later"], web["not_in_chain"]) == (2015, 1015, 200, 800)
    assert (web["oldest_s"], dns["oldest_s"]) == (3600, None)
    assert (dns["held"], dns["owned"], dns["later"], dns["not_in_chain"]) == (0, 0, 0, 0)


def test_without_rows_no_place_is_known() -> None:
    no_epoch = Rows()
    no_epoch.use = None
    for writer in (None, no_epoch):
        web = asked(writer)[1]["services"][0]
        assert (web["held"], web["owned"], web["later"], web["not_in_chain"]) == (2015, None, None, None)


def test_one_service_is_counted_alone_and_an_unknown_one_refused() -> None:
    status, response = asked(Rows(), service=DNS.name)
    assert (status, response["held"], len(response["services"])) == (200, 0, 1)
    status, response = asked(Rows(), service="nosuch")
    assert status == 404
    assert response["error"] == f"nosuch is not a service of this node; it has {WEB.name}, {DNS.name}"


def test_a_kernel_that_cannot_be_asked_is_an_error() -> None:
    async def read() -> Held:
        raise AgentError("connections cannot be counted: ...")

    monitor = cast(ConnectionMonitor, SimpleNamespace(read=read))
    with pytest.raises(AgentError, match="cannot be counted"):
        asyncio.run(connections(monitor, [WEB], None, {}))


def test_the_text_is_a_line_for_each_service_and_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    print_connections(asked(Rows())[1])
    head, web, dns, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["service", "VIP", "held", "owned", "later", "not", "in", "chain", "oldest,", "at", "least"]
    assert web.split() == [WEB.name, "tcp", "10.99.0.1:443", "2,015", "1,015", "200", "800", "1", "h"]
    assert dns.split() == [DNS.name, "udp", "[2001:db8::1]:any", "0", "0", "0", "0", "-"]
    assert len(head) == len(web) == len(dns)
    assert total == "2,015 in all"
    print_connections(asked(None, service=WEB.name)[1])
    assert capsys.readouterr().out.splitlines()[-1].split()[-5:] == ["-", "-", "-", "1", "h"]
