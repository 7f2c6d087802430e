# SPDX-License-Identifier: Apache-2.0
"""Which services not all nodes have."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from support.channel_network import address, state

from agent.channel.service_difference import MAX_LINES, differences
from agent.channel.state import ServiceEndpoint, StateShare
from agent.model import State

WEB = ServiceEndpoint(ip_address("192.0.2.10"), "tcp", 443)
MAIL = ServiceEndpoint(ip_address("192.0.2.11"), "tcp", 25)
DNS = ServiceEndpoint(ip_address("2001:db8::53"), "udp", 53)
UP = StateShare(100, 100, State.UP, True)
LEFT = StateShare(100, 0, State.LEFT, False)


def lines(*others: dict[ServiceEndpoint, StateShare], own: tuple[ServiceEndpoint, ...] = (WEB,)) -> tuple[str, ...]:
    """What is wrong, without the next step, which all have."""
    found = differences(own, {address(i): replace(state(), shares=shares) for i, shares in enumerate(others)})
    assert all(": give all nodes the same services, then `lbctl reload`" in line for line in found)
    return tuple(line.partition(": give all")[0] for line in found)


def test_equal_services_are_no_difference() -> None:
    assert lines({WEB: UP}, {WEB: replace(UP, weight=5, effective=0, state=State.DRAINING)}) == ()


def test_each_direction() -> None:
    assert lines({WEB: UP, MAIL: UP}) == ("10.0.0.11 serves 192.0.2.11:25/tcp, this node does not",)
    assert lines({DNS: UP}, own=(DNS, WEB)) == ("this node serves 192.0.2.10:443/tcp, 10.0.0.11 does not",)


def test_another_port_is_one_line() -> None:
    assert lines({WEB._replace(port=444): UP}) == ("10.0.0.11 serves 192.0.2.10:444/tcp, this node :443",)
    assert lines({WEB._replace(port=0): UP}) == ("10.0.0.11 serves 192.0.2.10:any/tcp, this node :443",)


def test_nodes_with_the_same_difference_share_a_line() -> None:
    extra = {WEB: UP, DNS: UP}
    assert lines(extra, extra) == ("10.0.0.11 and 10.0.0.12 serve [2001:db8::53]:53/udp, this node does not",)
    assert lines(*[extra] * 1000) == ("10.0.0.11 and 999 other nodes serve [2001:db8::53]:53/udp, this node does not",)
    assert lines({WEB: UP}, {WEB: UP}, own=(WEB, DNS)) == (
        "this node serves [2001:db8::53]:53/udp, 10.0.0.11 and 10.0.0.12 do not",
    )


def test_a_node_that_left_differs_in_nothing() -> None:
    assert lines({WEB: LEFT}, {}) == ()
    assert lines({WEB: UP, DNS: LEFT}) == ()
    assert lines({WEB: LEFT, DNS: UP}, own=(WEB, DNS)) == ("this node serves 192.0.2.10:443/tcp, 10.0.0.11 does not",)


def test_the_lines_are_bounded() -> None:
    found = lines({ServiceEndpoint(IPv4Address("192.0.2.20"), "tcp", port): UP for port in range(1, 101)}, own=(WEB,))
    assert len(found) == MAX_LINES + 1
    assert found[0] == "10.0.0.11 serves 192.0.2.20:1/tcp, this node does not"
    assert found[-1] == "85 more differences between the nodes' services"
