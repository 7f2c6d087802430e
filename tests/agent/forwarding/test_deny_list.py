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


@pytest.mark.parametrize(
    ("prefix", "share"),
    [
        ("0.0.0.0/0", "all IPv4"),
        ("10.0.0.0/7", "1/128 of all IPv4"),
        ("::/0", "all IPv6"),
        ("2000::/3", "1/8 of all IPv6"),
    ],
)
def test_a_prefix_of_many_clients_is_denied_only_by_force(prefix: str, share: str) -> None:
    written: list[frozenset[Network]] = []
    denied = DenyList([], frozenset(), written.append, lambda: None)
    with pytest.raises(AgentError) as error:
        denied.add(ip_network(prefix))
    assert str(error.value) == (
        f"{prefix} has {share} addresses, so this node would serve none of the clients there; deny longer prefixes, or "
        "use --force"
    )
    assert (written, denied.added) == ([], frozenset())
    denied.add(ip_network(prefix), force=True)
    assert written == [{ip_network(prefix)}]


@pytest.mark.parametrize("prefix", ["10.0.0.0/8", "2002::/16", "224.0.0.0/3", "240.0.0.0/4", "fc00::/7", "8000::/1"])
def test_prefixes_that_need_no_force(prefix: str) -> None:
    denied = DenyList([], frozenset(), lambda _: None, lambda: None)
    denied.add(ip_network(prefix))
    assert denied.added == {ip_network(prefix)}


def test_force_denies_no_backend() -> None:
    with pytest.raises(AgentError, match="is a backend"):
        deny_list([]).add(ip_network("0.0.0.0/0"), force=True)
