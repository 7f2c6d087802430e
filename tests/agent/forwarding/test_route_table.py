# SPDX-License-Identifier: Apache-2.0
"""Routes indexed by neighbor and by prefix, compared with passes through all of them."""

from ipaddress import IPv4Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from agent.address import Address
from agent.forwarding.route_table import RouteTable
from agent.netlink.route import KernelRoute

ADDRESSES: list[Address] = [IPv4Address("10.0.0.0") + n * 64 for n in range(8)]
ADDRESSES += [ip_address("2001:db8::") + n for n in range(4)]
GATEWAYS = [None, ip_address("10.9.0.1"), ip_address("fe80::1")]
PREFIXES = ["0.0.0.0/0", "10.0.0.0/24", "10.0.0.64/32", "10.0.0.65/32", "10.0.1.128/25", "11.0.0.0/8", "::/0"]
PREFIXES += ["2001:db8::2/127", "255.255.255.255/32", "2001:db8::9/128"]

routes = st.one_of(
    st.none(), st.builds(KernelRoute, st.none(), st.sampled_from([2, 3]), st.sampled_from(GATEWAYS), st.just(0))
)
steps = st.lists(
    st.one_of(st.frozensets(st.sampled_from(ADDRESSES)), st.tuples(st.sampled_from(ADDRESSES), routes)), max_size=30
)


@given(steps)
def test_indexes_equal_a_pass_through_all(
    changes: list[frozenset[Address] | tuple[Address, KernelRoute | None]],
) -> None:
    table, followed, model = RouteTable(), frozenset(ADDRESSES[:9]), dict[Address, KernelRoute | None]()
    table.follow(followed)
    for change in changes:
        if isinstance(change, frozenset):
            followed = change
            table.follow(followed)
            model = {address: route for address, route in model.items() if address in followed}
            continue
        address, found = change
        route = found and KernelRoute(address, found.ifindex, found.gateway)
        known = address in model and model[address] == route
        assert table.put(address, route) == (address in followed and not known)
        if address in followed:
            model[address] = route
        users: dict[object, set[Address]] = {}
        for one in filter(None, model.values()):
            users.setdefault(one.neighbor, set()).add(one.address)
        assert {one: set(table.users(one)) for one in table.neighbors} == users
        assert all(table.get(one) == model.get(one) for one in ADDRESSES)
    for prefix in map(ip_network, PREFIXES):
        assert set(table.within(prefix)) == {one for one in followed if one in prefix}
    assert not table.users((7, ADDRESSES[0]))
