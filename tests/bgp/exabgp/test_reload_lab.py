# SPDX-License-Identifier: Apache-2.0
"""`lbctl bgp reload` on the wire, and the fate of a session when its processes stall, die or exit (wire_lab.py)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from support.bgp_capture import KEEPALIVE, OPEN, UPDATE, read_capture
from support.waiting import wait_for
from support.wire_lab import LASTING_TO_R1, PLAIN, TO_R1, VIP, VIP6, WireLab, session

from bgp.route import Route

pytestmark = pytest.mark.lab

TO_R2 = "{address: 10.0.1.1, as: 65002, hold_time_s: 30, source: 10.0.1.11}"
HOLD_S = 3
"""Of TO_R1."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireLab]:
    with WireLab.up(tmp_path_factory.mktemp("reload"), f"reload-{os.getpid()}") as wire:
        yield wire


@pytest.fixture
def wire(lab: WireLab) -> Iterator[WireLab]:
    lab.configure("r1", PLAIN)
    lab.configure("r2", session("b1", "10.0.1.11", local="10.0.1.1", own_as=65002))
    yield lab
    lab.stop_nodes()
    for router in lab.IDS:
        lab.configure(router, "")


def test_reload_resets_only_changed_sessions(wire: WireLab):
    wire.b1.start(LASTING_TO_R1)
    wait_for(lambda: VIP in wire.received("r1", "b1"), "the VIP")
    session_of_r1, relay = wire.session_since("r1", "b1"), wire.b1.relay_pid()

    def untouched() -> bool:
        return wire.session_since("r1", "b1") == session_of_r1 and wire.b1.relay_pid() == relay

    wire.b1.configure(LASTING_TO_R1, TO_R2)
    result = wire.b1.reload()
    assert result.returncode == 0, result.stderr
    assert "10.0.0.1, 10.0.1.1" in result.stdout
    wait_for(lambda: VIP in wire.received("r2", "b1"), "a new router comes up and receives the routes")
    assert untouched()

    session_of_r2 = wire.session_since("r2", "b1")
    wire.b1.configure(LASTING_TO_R1, TO_R2.replace("hold_time_s: 30", "hold_time_s: 6"))
    assert wire.b1.reload().returncode == 0
    wait_for(lambda: "Hold timer" in wire.birdc("r2", "show", "protocols", "all", "b1"), "it is up")
    wait_for(lambda: wire.established("r2", "b1") and wire.session_since("r2", "b1") != session_of_r2, "a new session")
    wait_for(lambda: VIP in wire.received("r2", "b1"), "received again")
    assert untouched()

    wire.b1.configure(LASTING_TO_R1, TO_R2.replace("hold_time_s: 30", "hold_time_s: 6, local_as: 65009"))
    wire.configure("r2", session("b1", "10.0.1.11", local="10.0.1.1", own_as=65002, peer_as=65009))
    assert wire.b1.reload().returncode == 0
    wait_for(lambda: "65009" in wire.attributes("r2", VIP), "with another AS: all routes, from the new AS")
    assert untouched()

    wire.b1.configure(LASTING_TO_R1)
    assert wire.b1.reload().returncode == 0
    wait_for(lambda: not wire.established("r2", "b1"), "a removed session goes down")
    wait_for(lambda: [peer.address for peer in wire.b1.snapshot.peers] == ["10.0.0.1"], "removed here too")
    assert untouched()
    assert wire.b1.snapshot.error is None


def test_allowlist_is_reloaded_without_a_new_relay(wire: WireLab):
    wire.b1.start(LASTING_TO_R1)
    other = Route.of("10.99.7.7/32", "10.0.0.11")
    wire.b1.desired = [*wire.b1.default_routes, other]
    wait_for(lambda: "10.99.7.7/32" in (wire.b1.snapshot.error or ""), "refused: no VIP of lb.yml")
    wait_for(lambda: VIP in wire.received("r1", "b1"), "the VIP")
    mark, relay = wire.session_since("r1", "b1"), wire.b1.relay_pid()
    assert other.prefix not in wire.received("r1", "b1")
    wire.b1.configure(LASTING_TO_R1, allow="[10.99.0.0/16, '2001:db8:99::/64']")
    assert wire.b1.reload().returncode == 0
    wait_for(lambda: other.prefix in wire.received("r1", "b1"), "allowed now")
    wire.b1.configure(LASTING_TO_R1)
    assert wire.b1.reload().returncode == 0
    wait_for(lambda: other.prefix not in wire.received("r1", "b1"), "withdrawn")
    assert wire.session_since("r1", "b1") == mark
    assert wire.b1.relay_pid() == relay


def test_refused_reload_changes_nothing(wire: WireLab):
    wire.b1.start(LASTING_TO_R1, TO_R2)
    wait_for(lambda: wire.established("r1", "b1") and wire.established("r2", "b1"), "both sessions")
    marks = wire.session_since("r1", "b1"), wire.session_since("r2", "b1")
    run_dir = wire.lab.root("b1") / "run/anylb-bgp"
    before = {name: (run_dir / name).read_bytes() for name in ("exabgp.conf", "allow", "bfd.json")}
    wire.b1.configure(LASTING_TO_R1, TO_R2.replace("hold_time_s: 30", "hold_time_s: 2"))
    assert "hold_time_s: 2 is not in 3-65535" in wire.b1.reload().stderr
    wire.b1.configure(LASTING_TO_R1, "{address: 2001:db8:5::1, as: 1, source: 2001:db8:5::2, passive: true}")
    assert "does not listen on 2001:db8:5::2" in wire.b1.reload().stderr
    lb_yml = wire.lab.root("b1") / "etc/anylb/lb.yml"
    lb_yml.write_text(lb_yml.read_text().replace("local_as: 65001", "local_as: 65001\n  user: daemon"))
    wire.b1.configure(LASTING_TO_R1)
    lb_yml.write_text(lb_yml.read_text().replace("  local_as: 65001", "  local_as: 65001\n  user: daemon"))
    assert "bgp.user: ExaBGP runs as another user" in wire.b1.reload().stderr
    lb_yml.write_text("bgp: [")
    result = wire.b1.reload()
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert (wire.session_since("r1", "b1"), wire.session_since("r2", "b1")) == marks
    assert {name: (run_dir / name).read_bytes() for name in before} == before
    # The control: without the faults the reload does change something.
    wire.b1.configure(LASTING_TO_R1)
    assert wire.b1.reload().returncode == 0
    wait_for(lambda: not wire.established("r2", "b1"), "r2 is removed")


def test_reload_without_a_speaker_is_refused(wire: WireLab):
    wire.b1.configure(TO_R1)
    assert "ExaBGP does not run here: `systemctl start lb-bgp`" in wire.b1.reload().stderr


def test_unreachable_router_does_not_block_a_reload(wire: WireLab):
    wire.b1.start(LASTING_TO_R1, "{address: 10.0.9.9, as: 65000, multihop: 9}")
    wait_for(lambda: VIP in wire.received("r1", "b1"), "the VIP")
    mark = wire.session_since("r1", "b1")
    wire.b1.desired = [wire.b1.identity]
    wait_for(lambda: VIP not in wire.received("r1", "b1"), "withdrawn")
    wire.b1.configure(LASTING_TO_R1, TO_R2)
    assert wire.b1.reload().returncode == 0
    wait_for(lambda: wire.established("r2", "b1"), "r2")
    assert wire.session_since("r1", "b1") == mark


def test_stalled_relay_loses_nothing_until_it_blocks_exabgp(wire: WireLab):
    wire.b1.start(TO_R1)
    wait_for(lambda: VIP in wire.received("r1", "b1"), "the VIP")
    mark, relay = wire.session_since("r1", "b1"), wire.b1.relay_pid()
    os.kill(relay, signal.SIGSTOP)
    began = time.monotonic()
    try:
        wire.b1.desired = [wire.b1.identity]
        wait_for(lambda: time.monotonic() > began + HOLD_S + 0.5, "longer than the hold time: keepalives were sent")
        assert VIP in wire.received("r1", "b1"), "it stays"
        assert wire.session_since("r1", "b1") == mark
    finally:
        os.kill(relay, signal.SIGCONT)
    wait_for(lambda: VIP not in wire.received("r1", "b1"), "withdrawn when the relay runs again")
    assert wire.session_since("r1", "b1") == mark
    wire.b1.desired = wire.b1.default_routes
    wait_for(lambda: VIP in wire.received("r1", "b1"), "back")
    # More than its pipe holds: ExaBGP blocks on the relay and sends no keepalives. The router must drop the routes.
    flood = "".join(f"route 198.18.{i >> 8}.{i & 255}/32 blackhole; " for i in range(4000))
    exported = PLAIN.replace("export where source = RTS_BGP", "export where source ~ [RTS_BGP, RTS_STATIC]")
    wire.configure("r1", exported)
    wait_for(lambda: VIP in wire.received("r1", "b1"), "back")
    os.kill(relay, signal.SIGSTOP)
    try:
        wire.configure("r1", exported + f"protocol static flood {{ ipv4; {flood} }}\n")
        wait_for(lambda: VIP not in wire.received("r1", "b1"), "the hold timer removes the routes")
    finally:
        os.kill(relay, signal.SIGCONT)
    wait_for(lambda: VIP in wire.received("r1", "b1"), "restored")
    wait_for(lambda: wire.b1.snapshot.error is None and wire.b1.snapshot.advertised >= {VIP}, "in the agent's snapshot")


def test_stalled_exabgp_loses_its_routes_after_the_hold_time_and_recovers(wire: WireLab):
    wire.b1.start(TO_R1)
    wire.b2.start(TO_R1)
    both = {"10.0.0.11", "10.0.0.12"}
    wait_for(lambda: wire.next_hops("r1", VIP) == both, "both")
    assert wire.b1.speaker is not None
    os.kill(wire.b1.speaker.pid, signal.SIGSTOP)
    wait_for(lambda: wire.next_hops("r1", VIP) == {"10.0.0.12"}, "the hold time")
    os.kill(wire.b1.speaker.pid, signal.SIGCONT)
    wait_for(lambda: wire.next_hops("r1", VIP) == both, "both again")


def test_sigterm_withdraws_the_routes_at_once_and_ends_all_processes(wire: WireLab):
    wire.b1.start(LASTING_TO_R1)
    wait_for(lambda: VIP in wire.received("r1", "b1"), "the VIP")
    relay = wire.b1.relay_pid()
    assert wire.b1.speaker is not None
    wire.b1.speaker.terminate()
    wait_for(lambda: not wire.next_hops("r1", VIP), "no route, long before the hold time")
    assert wire.b1.speaker.wait(60) == 0
    wait_for(lambda: not os.path.exists(f"/proc/{relay}"), "no relay")


def test_whole_session_advertises_only_vips_and_the_identity(wire: WireLab):
    """Checks the capture, and checks the capture against the router's routes: a gap in it would prove nothing."""
    capture = wire.lab.root("r1") / "run/session.pcap"
    argv = ["tcpdump", "-i", "br0", "--immediate-mode", "-U", "-w", "/run/session.pcap", "-Z", "root", "tcp port 179"]
    dump = wire.lab.spawn("r1", argv, log=wire.folder / "tcpdump.log")
    wait_for(lambda: "listening on br0" in (wire.folder / "tcpdump.log").read_text(), "tcpdump")
    six = session("b1_6", wire.b1.address6, local="2001:db8::1", families=("ipv6",))
    wire.configure("r1", PLAIN + six)
    wire.b1.start(LASTING_TO_R1, "{address: '2001:db8::1', as: 65000, hold_time_s: 3}")
    wire.b2.start(LASTING_TO_R1)
    wire.b1.desired = [*wire.b1.default_routes, Route.of("10.99.0.2/32", "10.0.0.11"), wire.b2.identity]
    wait_for(
        lambda: {VIP, "10.254.0.11/32"} <= wire.received("r1", "b1") and VIP6 in wire.received("r1", "b1_6"), "all"
    )
    wait_for(lambda: {r.prefix for p in wire.b1.snapshot.peers for r in p.routes} >= {"10.254.0.12/32"}, "b2 is known")
    wire.b1.desired = [wire.b1.identity]
    wait_for(lambda: not wire.received("r1", "b1_6") and VIP not in wire.received("r1", "b1"), "withdrawn")
    wire.birdc("r1", "restart", "b1")
    wait_for(lambda: wire.established("r1", "b1"), "a second session")
    wait_for(lambda: "10.254.0.11/32" in wire.received("r1", "b1"), "received again")
    wire.stop_nodes()
    wait_for(lambda: not wire.established("r1", "b1"), "down")
    wait_for(lambda: read_capture(capture, "10.0.0.11").types.count(OPEN) == 2, "both sessions in the file")
    dump.terminate()
    dump.wait()
    four, v6 = read_capture(capture, "10.0.0.11"), read_capture(capture, wire.b1.address6)
    assert set(four.advertised) == {(VIP, "10.0.0.11"), ("10.254.0.11/32", "10.0.0.11")}
    assert set(v6.advertised) == {(VIP6, wire.b1.address6)}
    assert set(four.withdrawn) == {VIP}
    assert set(v6.withdrawn) == {VIP6}
    assert four.types.count(OPEN) == 2
    assert v6.types.count(OPEN) == 1
    assert {UPDATE, KEEPALIVE} <= set(four.types)
    other = read_capture(capture, "10.0.0.12")
    assert (VIP, "10.0.0.12") in other.advertised, "the control: the reader finds the routes of others"
