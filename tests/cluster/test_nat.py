# SPDX-License-Identifier: Apache-2.0
"""NAT, live: topology/nat.clab.yml with BIRD, ExaBGP, agents and XDP, and backends that know nothing of anylb.

    client ── router ──┬── segment ── b1 b2 b3 b4, later b5
                       └── farm ───── s1 s2 s3: their answers to the pool arrive at any node

What must live on: connections and UDP flows whose node and backend live. The control of each change of nodes is HAProxy
on the same nodes with the same backends, behind plain ECMP: the same change must break some of its connections.
"""

import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest
from support.cluster_lab import FOUR
from support.nat_lab import (
    BACKENDS,
    CONTROL_SOURCE,
    CONTROL_VIP,
    ECHO_PORT,
    NEW_POOL,
    NEW_POOL6,
    POOL,
    POOL6,
    UDP_PORT,
    VIP,
    VIP6,
    WEB_PORT,
    WIDE_POOL,
    WIDE_POOL6,
    NatLab,
    Sessions,
    nat_lab,
)
from support.packets import ACK, FIN, RST, SYN, TCP, ipv4, tcp
from support.segment_faults import without_power
from support.waiting import wait_for

from topology.traffic.controller import TrafficController
from topology.traffic.sockets import ABORT

pytestmark = pytest.mark.lab
FIVE = (*FOUR, "b5")
HELD, HELD_BY_CONTROL, OTHERS = 400, 200, 40
MANY = 120
"""So many that it is never by chance that a node has none."""
NOBODY = "10.1.77.1"
"""An address of the clients' network that nothing has: what is sent to it is lost."""
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
KINDS = [(STREAM, VIP, ECHO_PORT), (STREAM, VIP6, ECHO_PORT), (DATAGRAM, VIP, UDP_PORT), (DATAGRAM, VIP6, UDP_PORT)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatLab]:
    with nat_lab("nat-test", tmp_path_factory.mktemp("nat")) as made:
        wait_for(lambda: made.serves(FOUR), "four nodes that do NAT")
        yield made


@dataclass
class Clients:
    """Those that hold connections all the time, to NAT and to its control, and those that ask when a test does."""

    lab: NatLab
    nat: TrafficController
    control: TrafficController
    others: Sessions

    def open(self) -> None:
        """Hold HELD connections through NAT, others of each kind, and some through the control."""
        self.close()
        for traffic, count in ((self.nat, HELD), (self.control, HELD_BY_CONTROL)):
            traffic.begin()
            traffic.open(count)
        for kind, vip, port in KINDS[1:]:
            self.others.open(kind, vip, port, OTHERS)
        for traffic, count in ((self.nat, HELD), (self.control, HELD_BY_CONTROL)):
            wait_for(lambda t=traffic, n=count: t.progress().open >= n, "connections to be open")  # type: ignore[misc]
        for traffic in (self.nat, self.control):
            settle(traffic)

    def close(self) -> None:
        """Close all: each connection that is held sends all the time, which a test that needs none would pay for."""
        self.nat.close_held()
        self.control.close_held()
        self.others.close()

    def broken(self, lost: frozenset[str] = frozenset(), backend: str = "") -> list[str]:
        """Return what broke through NAT, but for clients' ends in `lost` and connections of `backend`."""
        settle(self.nat, lost)
        held = [one for one in self.nat.report()[0] if one.state == "broken" and one.source not in lost]
        found = [f"{one.source} at {one.owner}: {one.reason}" for one in held if one.owner != backend]
        others = self.others.broken(may_break=lambda one: one.end in lost or one.backend == backend)
        return found + [f"{one.end} at {one.backend}: no answer" for one in others]

    def control_breaks(self) -> None:
        """Wait until more than a tenth of the control's connections are broken: the change was one that breaks some.

        Then close the others of the control.
        """
        broken = lambda: sum(one.state == "broken" for one in self.control.report()[0])  # noqa: E731
        wait_for(lambda: broken() > HELD_BY_CONTROL / 10, "connections of the control to break")
        self.control.close_held()


def settle(traffic: TrafficController, lost: frozenset[str] = frozenset()) -> None:
    """Wait until each connection but those in `lost` has answered what was sent from now on, or is broken."""
    now = time.monotonic()
    wait_for(lambda: not traffic.progress(now, lost).unsettled, "all to answer or to break")


@pytest.fixture(scope="module")
def all_clients(lab: NatLab) -> Iterator[Clients]:
    nat = lab.traffic("nat", VIP, "10.1.1")
    control = lab.traffic("control", CONTROL_VIP, CONTROL_SOURCE)
    try:
        yield Clients(lab, nat, control, lab.sessions())
    finally:
        nat.quit()
        control.quit()


@pytest.fixture
def clients(all_clients: Clients) -> Iterator[Clients]:
    yield all_clients
    all_clients.close()


# Requests and answers


@pytest.mark.parametrize(("kind", "vip", "port"), KINDS, ids=["tcp-4", "tcp-6", "udp-4", "udp-6"])
def test_requests_reach_all_backends_and_answers_come_from_the_vip(
    lab: NatLab, kind: socket.SocketKind, vip: str, port: int
) -> None:
    """A connected socket takes answers of the VIP's address and port alone."""
    sessions = lab.sessions()
    sessions.open(kind, vip, port, 60)
    assert set(sessions.backends()) == set(BACKENDS)
    assert sessions.broken() == []
    if kind == STREAM:
        pools = [ip_network(pool) for pool in (POOL, POOL6)]
        peers = {ip_address(peer) for backend in BACKENDS for peer in lab.peers(backend)}
        assert peers
        assert all(any(peer in pool for pool in pools) for peer in peers), peers
    sessions.close()


def test_the_port_of_a_backend_may_be_another(lab: NatLab) -> None:
    bodies = set()
    for _ in range(60):
        with lab.connect(VIP, WEB_PORT) as one:
            one.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: one.recv(4096), b""))
        bodies.add(answer.splitlines()[-1].decode())
    assert bodies == set(BACKENDS)


def test_answers_arrive_at_other_nodes_than_the_owner(lab: NatLab) -> None:
    before, sent_on = lab.nat_counters(), lab.answers_sent_on()
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, MANY)
    listed = [one["client"] for node in FOUR for one in lab.lbctl(node, "session", "list", "-o", "json")["sessions"]]
    assert {one.end for one in sessions.held} <= set(listed)
    sessions.close()
    now = lab.nat_counters()
    for counter in ("forward_backend", "forward_client", "forward_first"):
        assert all(now[node][counter] > before[node][counter] for node in FOUR), counter
    assert lab.answers_sent_on() - sent_on > MANY, "of at least two answers to each client, three of four"


# Nodes come and go


def test_nodes_join_drain_and_leave_and_no_session_breaks(lab: NatLab, clients: Clients) -> None:
    clients.open()
    lab.start("b5", "speaker", "agent")
    wait_for(lambda: lab.serves(FIVE), "b5 to have joined")
    lab.route_control(FIVE)
    assert clients.broken() == []
    clients.control_breaks()

    clients.open()
    handed_over = held_at(lab, clients, "b5")
    assert len(handed_over) > HELD / 10
    lab.request("b5", "POST", "/drain")
    wait_for(lambda: lab.serves(FOUR), "b5 to own nothing")
    lab.route_control(FOUR)
    wait_for(lambda: handed_over <= set(lab.states(FOUR)), "the others to have its sessions")
    lab.request("b5", "POST", "/leave")
    lab.stop("b5", "agent", "speaker")
    assert clients.broken() == []
    clients.control_breaks()


def test_the_sessions_of_a_node_without_power_are_lost_and_no_others(lab: NatLab, clients: Clients) -> None:
    clients.open()
    lost = frozenset(lab.states(["b4"]))
    assert HELD / 10 < len(lost & {one.source for one in clients.nat.report()[0]}) < HELD
    with without_power(lab, "b4"):
        wait_for(lambda: lab.serves(FOUR[:3]), "three nodes")
        lab.route_control(FOUR[:3])
        assert clients.broken(lost=lost) == []
        clients.control_breaks()
    wait_for(lambda: lab.serves(FOUR), "b4 to be back")
    lab.route_control(FOUR)
    assert clients.broken(lost=lost) == [], "b4 booted without sessions, and took none that it did not know"


def test_an_agent_that_ends_without_a_drain_leaves_its_sessions_where_packets_find_them(
    lab: NatLab, clients: Clients
) -> None:
    """The others take its rows 10 s later, and cannot ask it for its sessions. Its data path still has them."""
    clients.open()
    left = held_at(lab, clients, "b4")  # not UDP, which a new owner takes at once
    assert len(left) > HELD / 10
    lab.kill("b4", "agent", signal.SIGKILL)
    wait_for(lambda: lab.serves(FOUR[:3]), "three nodes to own all rows")
    lab.route_control(FOUR[:3])
    assert clients.broken() == []
    clients.control_breaks()
    assert not left & set(lab.states(FOUR[:3])), "no other node has them"
    lab.start_agent("b4")
    wait_for(lambda: lab.serves(FOUR), "b4 to be back")
    lab.route_control(FOUR)
    assert clients.broken() == []


@pytest.mark.parametrize("forward", ["gue", "ipip"])
def test_a_change_of_forward_restarts_agents_and_replaces_programs_and_breaks_nothing(
    lab: NatLab, clients: Clients, forward: str
) -> None:
    """Under open connections: for a time two nodes send by one method, two by another."""
    clients.open()
    config = lab.folder / "lb-nat.yml"
    config.write_text(re.sub(r"  forward: \w+", f"  forward: {forward}", config.read_text()))
    before = lab.nat_counters()
    for pair in (FOUR[:2], FOUR[2:]):
        for node in pair:
            lab.stop_agent(node, signal.SIGKILL)
            lab.start(node, "agent")
        wait_for(lambda: lab.serves(FOUR), "four nodes")
        assert clients.broken() == []
    now = lab.nat_counters()
    assert all(now[node]["rx_tunnel"] > before[node]["rx_tunnel"] for node in FOUR)


# Backends


def test_connections_of_a_backend_that_dies_are_reset_and_kept_only_where_it_says_so(
    lab: NatLab, clients: Clients
) -> None:
    """`on_down: keep` of the service by IPv6 is the control: without resets clients wait, and live on if it returns."""
    clients.open()
    kept = [one for one in clients.others.held if one.backend == "s3" and one.sock.type == STREAM]
    assert kept
    with lab.backend_cut_off("s3"):
        wait_for(
            lambda: not any(BACKENDS["s3"] in lab.backends_up(node) for node in FOUR), "s3 to be down on all nodes"
        )
        assert clients.broken(backend="s3") == []
        ends = [(one.state, one.reason) for one in clients.nat.report()[0] if one.owner == "s3"]
        assert len(ends) > HELD / 10
        assert set(ends) == {("broken", "reset")}
        sessions = lab.sessions()
        sessions.open(STREAM, VIP, ECHO_PORT, 60)
        assert set(sessions.backends()) == {"s1", "s2"}
        sessions.close()
    wait_for(lambda: lab.serves(FOUR), "s3 to be up")
    broken = clients.others.broken()  # UDP of the other services has moved to other backends
    assert [one.end for one in kept if one in broken] == []
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 60)
    assert set(sessions.backends()) == set(BACKENDS)
    sessions.close()


# Forged packets


def forged(source: tuple[str, int], flags: int, seq: int = 1, ack: int = 0) -> bytes:
    """Return a packet to the echo service, as if a client at `source` had sent it."""
    segment = tcp(src=source[0], dst=VIP, sport=source[1], dport=ECHO_PORT, flags=flags, seq=seq, ack=ack)
    return ipv4(segment, src=source[0], dst=VIP, protocol=TCP)


def test_forged_rsts_and_fins_close_nothing_and_a_real_rst_does(lab: NatLab) -> None:
    """After a FIN that counts, the SYN would begin another session in place of the client's."""
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 20)
    ends = {one.end for one in sessions.held}
    lab.forge(
        forged(one.sock.getsockname(), flags, seq=one.sequence + far & 0xFFFF_FFFF)
        for one in sessions.held
        for far in (1 << 21, 1 << 31, 255 << 24)
        for flags in (RST, FIN | ACK, SYN)
    )
    assert sessions.broken() == []
    assert {state for end, state in lab.states().items() if end in ends} == {"established"}
    for one in sessions.held:
        one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sessions.close()
    wait_for(lambda: not ends & set(lab.states()), "the control: sessions that their clients reset to be gone")


def test_a_forged_syn_and_ack_is_no_established_session(lab: NatLab) -> None:
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 1)  # the control
    (real,) = (one.end for one in sessions.held)
    ends = [(NOBODY, port) for port in range(2000, 2020)]
    lab.forge(forged(end, SYN, seq=7) for end in ends)
    wait_for(lambda: sum(end.startswith(f"{NOBODY}:") for end in lab.states()) >= len(ends), "half-open sessions")
    lab.forge(forged(end, ACK, seq=8, ack=number << 24) for end in ends for number in (1, 99))
    assert sessions.broken() == []
    states = lab.states()  # the backend resets some of them
    assert {states.get(f"{address}:{port}", "closed") for address, port in ends} <= {"half-open", "closed"}
    assert states[real] == "established"
    sessions.close()


def test_a_flood_of_syns_touches_no_session_and_is_refused_at_the_limit(lab: NatLab, clients: Clients) -> None:
    """Of each bucket at most half may be half-open; the scan frees these soon when there are many."""
    clients.open()
    before = lab.nat_counters()
    refused = lambda: sum(lab.nat_counters()[node]["drop_nat_full"] - before[node]["drop_nat_full"] for node in FOUR)  # noqa: E731
    first = forged((NOBODY, 1024), SYN)

    def flood() -> bool:
        # With the first one's checksum: no backend answers them. They fill slots all the same.
        lab.forge(first[:20] + port.to_bytes(2, "big") + first[22:] for port in range(1024, 65_536))
        return refused() > 1000

    wait_for(flood, "SYNs to be refused: a slow machine's flood leaves time to free slots")
    assert clients.broken() == []
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 20)  # each is repeated until there is room
    assert sessions.broken() == []
    sessions.close()
    assert clients.broken() == []


# Another pool, another number of sessions


def has_session(lab: NatLab, pool: str) -> bool:
    """Return whether a session that begins now gets an address of a pool."""
    sessions = lab.sessions()
    sessions.open(STREAM, VIP, ECHO_PORT, 1)
    (end,) = (one.end for one in sessions.held)
    found = end in lab.states(pool=pool)
    sessions.close()
    return found


def held_at(lab: NatLab, clients: Clients, node: str) -> set[str]:
    """Return the clients' ends of the connections whose sessions a node has, and which live on: other sessions may end
    before they are handed over."""
    return set(lab.states([node])) & {one.source for one in clients.nat.report()[0] if one.state == "open"}


def uses_new_table(lab: NatLab, node: str) -> bool:
    shown = lab.status(node)["node"]
    return len(shown["epochs"]) == 2 and bool(shown["epoch"] == shown["epochs"][0])


def previous(pool: str, pool6: str, sessions: int) -> str:
    return f"table: {{previous: {{nat: {{pool: {pool}, pool6: '{pool6}', sessions: {sessions}}}}}}}\n"


def test_another_pool_breaks_nothing_and_the_former_one_serves_until_it_is_empty(lab: NatLab, clients: Clients) -> None:
    """Node by node; under it an agent is killed and a node drained. Without `previous`, as the control, all break."""
    clients.open()
    config, (old, old6) = lab.folder / "lb-nat.yml", (POOL, POOL6)
    before = config.read_text()
    moved = before.replace(f"pool: {old}", f"pool: {NEW_POOL}").replace(f"pool6: {old6}", f"pool6: {NEW_POOL6}")
    config.write_text(moved)
    refusal = lab.lbctl("b1", "agent", "reload", code=1)
    assert re.match(r"lbctl: nat\.pool: its change ends [\d,]+ sessions of this node with addresses of ", refusal)
    config.write_text(moved + previous(old, old6, 65536))
    lab.reload("b1", "b2")
    wait_for(lambda: lab.serves(FOUR), "two nodes with both pools")
    assert clients.broken() == []
    assert has_session(lab, old), "not all nodes have the new pool"
    lab.stop_agent("b2", signal.SIGKILL)
    lab.start_agent("b2")
    lab.reload("b3", "b4")
    both = (old, old6, NEW_POOL, NEW_POOL6)
    wait_for(lambda: lab.serves(FOUR, both) and all(uses_new_table(lab, node) for node in FOUR), "the new table in use")
    assert has_session(lab, NEW_POOL)
    assert clients.broken() == []

    clients.others.open(STREAM, VIP, ECHO_PORT, OTHERS)
    handed_over = held_at(lab, clients, "b4")
    assert len(handed_over) > HELD / 10
    lab.request("b4", "POST", "/drain")
    wait_for(lambda: lab.serves(FOUR[:3], both), "b4 to own nothing")
    wait_for(lambda: handed_over <= set(lab.states(FOUR[:3])), "the others to have its sessions")
    assert len(lab.states(FOUR, pool=NEW_POOL)) >= OTHERS
    assert clients.broken() == []
    lab.request("b4", "POST", "/undrain")
    wait_for(lambda: lab.serves(FOUR, both), "b4 to be back")
    config.write_text(moved)
    refusal = lab.lbctl("b1", "agent", "reload", code=1)
    assert re.match(r"lbctl: table\.previous\.nat: its change ends [\d,]+ sessions of this node with addr", refusal)
    former = lambda: lab.status("b1")["nat"]["former"]  # noqa: E731
    wait_for(lambda: len(former()["elsewhere"]) == 3, "b1 to know that all others have such sessions")
    assert former()["sessions"] > HELD / 10
    assert clients.broken() == []

    clients.nat.close_held()
    clients.others.close()
    for node in FOUR:
        for pool in (old, old6):
            lab.request(node, "POST", f"/sessions/kill?pool={pool}")
    wait_for(lambda: not lab.hops(old) and not lab.hops(old6), "the empty pool to be withdrawn")
    assert former()["sessions"] == 0
    lab.reload(*FOUR)
    clients.open()
    config.write_text(before)
    lab.reload(*FOUR, force=True)
    wait_for(lambda: lab.serves(FOUR), "the pool of before")
    wait_for(lambda: sum(one.state == "broken" for one in clients.nat.report()[0]) > HELD / 2, "the control's to break")


def test_more_sessions_and_then_fewer_break_nothing(lab: NatLab, clients: Clients) -> None:
    """Node by node; under it an agent is killed. Without `previous`, as the control, those of a node break. It is the
    last test of this lab, and leaves that node as it is then."""
    clients.open()
    config, more_slots, wide = lab.folder / "lb-nat.yml", lab.sessions(), (WIDE_POOL, WIDE_POOL6)
    before = config.read_text()
    fewer = before.replace(f"pool: {POOL}", f"pool: {WIDE_POOL}").replace(f"pool6: {POOL6}", f"pool6: {WIDE_POOL6}")
    more = fewer.replace("sessions: 65536", "sessions: 131072")
    config.write_text(more)
    refusal = lab.lbctl("b1", "agent", "reload", code=1)
    assert re.match(r"lbctl: nat\.sessions: its change ends [\d,]+ sessions of this node, ", refusal)
    config.write_text(more + previous(POOL, POOL6, 65536))
    lab.reload("b1", "b2")
    wait_for(lambda: lab.serves(FOUR, (POOL, POOL6)), "two nodes with more slots, and the former prefix still")
    assert clients.broken() == []
    lab.kill("b2", "agent", signal.SIGKILL)
    lab.start("b2", "agent")
    wait_for(lambda: lab.service_status("b2"), "b2's next agent")
    lab.reload("b3", "b4")
    wait_for(lambda: lab.serves(FOUR, wide) and all(uses_new_table(lab, node) for node in FOUR), "the new table in use")
    wait_for(lambda: not lab.hops(POOL) and not lab.hops(POOL6), "the smaller prefix to be withdrawn")
    more_slots.open(STREAM, VIP, ECHO_PORT, OTHERS)
    assert lab.states(FOUR, pool="10.255.0.2/31"), "some have an address of the wider pool"
    assert clients.broken() == []

    config.write_text(fewer + previous(WIDE_POOL, WIDE_POOL6, 131072))
    lab.reload(*FOUR)
    wait_for(lambda: lab.serves(FOUR, wide) and all(uses_new_table(lab, node) for node in FOUR), "fewer for new ones")
    assert clients.broken() == []
    assert more_slots.broken() == []
    config.write_text(fewer)
    refusal = lab.lbctl("b1", "agent", "reload", code=1)
    assert re.match(r"lbctl: table\.previous\.nat: its change ends [\d,]+ sessions of this node, ", refusal)
    more_slots.close()
    wait_for(lambda: not any(lab.status(node)["nat"]["former"]["sessions"] for node in FOUR), "those of more to end")
    lab.reload(*FOUR)
    wait_for(lambda: lab.serves(FOUR, wide), "fewer slots")
    assert clients.broken() == []

    config.write_text(more)
    lab.reload("b1", force=True)
    wait_for(
        lambda: sum(one.state == "broken" for one in clients.nat.report()[0]) > HELD / 10, "the control's to break"
    )
