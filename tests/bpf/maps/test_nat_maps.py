# SPDX-License-Identifier: Apache-2.0
"""The maps of NAT: writing and reading back, and sessions as numpy sees them."""

import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path

import numpy as np
import pytest

from bpf.errors import BpfError
from bpf.kernel.atomic import compare_exchange
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import NatConf
from bpf.layout.nat_backend import BackendEntry, BackendLoad, Balance, Choice, NatHop, NatServiceEntry
from bpf.layout.session import Session, SessionState, Tag, TagFlag
from bpf.maps.maps import Maps
from bpf.maps.nat_maps import NatMaps
from bpf.maps.session_map import SessionMap, now_tick

ROWS, SESSIONS = 4096, 1 << 16


def opened(folder: Path, ipv6: bool = True) -> tuple[Maps, NatMaps, SessionMap]:
    maps = Maps.open(folder, ROWS, NatShape(SESSIONS, ipv6))
    assert maps.nat
    assert maps.sessions
    return maps, maps.nat, maps.sessions


def session(client: str) -> Session:
    vip, backend, nat = (
        ("10.99.0.1", "10.9.0.11", "10.255.0.1")
        if ":" not in client
        else ("2001:db8:99::1", "2001:db8:9::11", "fd00:ff::1")
    )
    ends = (ip_address(client), 40000, ip_address(vip), 443, ip_address(backend), 8443, ip_address(nat), 32769)
    return Session(6, *ends, backend_index=1, service_slot=2)


def test_next_process_reads_everything_back(folder: Path) -> None:
    conf = NatConf(SESSIONS, 9, IPv4Network("10.255.0.0/31"), hop4=4097)
    service = NatServiceEntry(Balance.ROUND_ROBIN, choices=(Choice(1), Choice(4095)))
    backend, hop = BackendEntry(IPv6Address("2001:db8:9::11"), 8443, 1), NatHop(b"\2\0\0\0\0\1", vlan=7)
    one, six = session("10.1.0.2"), session("2001:db8:64::2")
    tag = Tag(3, SessionState.EST, TagFlag.COPIED, now_tick()).pack()

    maps, nat, sessions = opened(folder)
    nat.write_conf(conf)
    nat.write_service(3, service)
    nat.write_backend(4095, backend)
    nat.write_hop(4097, hop)
    nat.pulls[4095] = 5
    sessions.write(SESSIONS - 1, one)
    sessions.write(SESSIONS - 2, six)
    assert compare_exchange(
        sessions.tags, np.array([SESSIONS - 1]), np.zeros(1, np.uint64), np.array([tag], np.uint64)
    ).all()
    maps.close()

    maps, nat, sessions = opened(folder)
    assert nat.conf() == conf
    assert nat.service(3) == service
    assert nat.backends() == {4095: backend}
    assert (nat.hop(4097), nat.hop(1)) == (hop, None)
    assert nat.load(4095) == BackendLoad()
    assert nat.pulls[4095] == 5
    assert len(sessions) == SESSIONS
    assert np.flatnonzero(sessions.tags).tolist() == [SESSIONS - 1]
    assert (sessions.read(SESSIONS - 1), sessions.read(SESSIONS - 2, ipv6=True)) == (one, six)
    assert sessions.sessions4["client"][SESSIONS - 1] == int(IPv4Address("10.1.0.2"))
    assert (sessions.sessions4[-1].tobytes(), sessions.sessions6[-2].tobytes()) == (one.pack(), six.pack())
    nat.write_backend(4095, None)
    nat.write_hop(4097, None)
    assert (nat.backends(), nat.hop(4097)) == ({}, None)
    maps.close()


def test_fewer_choices_leave_none_of_the_old_ones(folder: Path) -> None:
    maps, nat, _ = opened(folder)
    many = NatServiceEntry(choices=[Choice(i, i) for i in range(1, 257)])
    for entry in (many, replace(many, choices=(Choice(9),)), replace(many, choices=())):
        nat.write_service(255, entry)
        assert nat.service(255).choices == tuple(entry.choices)
    maps.close()


@pytest.mark.parametrize("index", [0, 4096, 5000])
def test_indexes_that_are_none(folder: Path, index: int) -> None:
    maps, nat, _ = opened(folder)
    with pytest.raises(BpfError, match=f"backend index {index} is not in 1-4095"):
        nat.write_backend(index, None)
    with pytest.raises(BpfError, match="service slot 256"):
        nat.write_service(256, NatServiceEntry())
    with pytest.raises(BpfError, match="next-hop index 4098"):
        nat.write_hop(4098, None)
    maps.close()


def test_without_ipv6_services_there_is_no_room_for_their_sessions(folder: Path) -> None:
    maps, _, sessions = opened(folder, ipv6=False)
    assert sessions.sessions6 is None
    with pytest.raises(ValueError, match="no sessions of IPv6"):
        sessions.write(1, session("2001:db8:64::2"))
    maps.close()


def test_without_nat_there_are_no_such_maps(folder: Path) -> None:
    maps = Maps.open(folder, ROWS)
    assert (maps.nat, maps.sessions) == (None, None)
    assert not {"session_tags", "nat_confs"} & {pin.name for pin in folder.iterdir()}
    maps.close()


def test_tick_is_that_of_the_coarse_clock() -> None:
    """Which is behind CLOCK_MONOTONIC by 10 ms at most."""
    before = time.monotonic_ns() - 10_000_000
    assert before >> 30 <= now_tick() <= time.monotonic_ns() >> 30


def test_sessions_stay_watched_when_the_conf_is_written(folder: Path) -> None:
    maps, nat, _ = opened(folder)
    conf = NatConf(SESSIONS, 9, IPv4Network("10.255.0.0/31"), mss4=1400)
    nat.set_watched(True)  # before there is a conf
    nat.write_conf(conf)
    assert nat.conf() == replace(nat.conf(), watched=True, mss4=1400)
    nat.write_conf(replace(conf, mss4=1300))
    assert nat.conf() == replace(nat.conf(), watched=True, mss4=1300)
    nat.set_watched(False)
    assert nat.conf() == replace(nat.conf(), watched=False, mss4=1300)
    reader = nat.open_events()
    assert reader.read() == []
    reader.close()
    maps.close()
