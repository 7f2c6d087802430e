# SPDX-License-Identifier: Apache-2.0
"""The deny list and the backends of NAT services, whose answers it would drop."""

from ipaddress import ip_address, ip_network

import pytest

from agent.address import Network
from agent.errors import AgentError
from agent.forwarding.deny_list import DenyList

BACKENDS = [ip_address("10.9.0.12"), ip_address("10.9.0.11"), ip_address("fd09::1")]
WHOLE, OTHER = ip_network("10.9.0.0/24"), ip_network("10.8.0.0/24")


def deny_list(written: list[frozenset[Network]], *added: Network) -> DenyList:
    return DenyList([OTHER], frozenset(added), written.append, lambda: None, BACKENDS)


def test_a_prefix_with_a_backend_is_refused() -> None:
    written: list[frozenset[Network]] = []
    denied = deny_list(written)
    for prefix, backend in ((WHOLE, r"10\.9\.0\.11"), (ip_network("fd09::/16"), "fd09::1")):
        with pytest.raises(AgentError, match=f"^{backend} is a backend, whose answers would be dropped; deny smaller"):
            denied.add(prefix)
    assert (written, denied.added) == ([], frozenset())
    denied.add(ip_network("10.9.0.128/25"))
    assert written == [{OTHER, ip_network("10.9.0.128/25")}]
    assert denied.problems() == []


def test_a_prefix_that_was_denied_before_a_backend_came_is_a_problem() -> None:
    assert deny_list([], WHOLE, ip_network("10.7.0.0/24")).problems() == [
        "10.9.0.11 is a backend, but 10.9.0.0/24 is denied, so its answers are dropped: `lbctl deny del 10.9.0.0/24`"
    ]
