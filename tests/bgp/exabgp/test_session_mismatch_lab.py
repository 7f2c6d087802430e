# SPDX-License-Identifier: Apache-2.0
"""Options of a BGP peer that both ends must have, checked at real routers (wire_lab.py).

Each case is a session between addresses that b1 and the router have for it alone. First one end lacks what the other
has, or both wait for the other, and the session stays down: all cases at once, beside one that is up. Then one end is
changed while all goes on, and the session comes up; but for one, see there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.waiting import wait_for
from support.wire_lab import LASTING_TO_R1, VIP, VIP6, WireLab, session

pytestmark = pytest.mark.lab

NEVER_S = 5.0
"""How long a session must stay down to prove it: ExaBGP retries every second or two."""
IDENTITY = "10.254.0.11/32"
SECRET, LATER_SECRET, GTSM = "password_file: bgp.secret", "password_file: later.secret", "ttl_security: true"
RIGHT, OTHER, TTL = 'password "correct horse";', 'password "other";', "ttl security on;"


@dataclass(frozen=True)
class Case:
    """What the ends of a session have: options of the peer in lb.yml and of the session in BIRD's configuration."""

    node: str
    router: str
    later_node: str | None = None
    """None: as at first."""
    later_router: str | None = None
    at: str = "r1"
    six: bool = False
    connects: bool = False
    """Whether the router connects, too."""
    later_connects: bool = False


ROUTER_ALONE = "the router alone has GTSM"
CASES = {
    "the passwords differ": Case(LATER_SECRET, RIGHT),  # the file's content is changed
    "the node alone has a password": Case(SECRET, "", later_router=RIGHT),
    "the node alone has GTSM": Case(GTSM, "", later_router=TTL),  # BIRD sends with TTL 1, dropped here
    ROUTER_ALONE: Case("", TTL),
    "with GTSM over IPv6, the passwords differ": Case(
        f"{SECRET}, {GTSM}", TTL + OTHER, later_router=TTL + RIGHT, six=True
    ),
    "with a password over IPv6, the node alone has GTSM": Case(
        f"{SECRET}, {GTSM}", RIGHT, later_router=TTL + RIGHT, six=True
    ),
    "the node alone has no multihop": Case("", "", later_node="multihop: 2", at="r3"),
    "both are passive": Case("passive: true", "", later_connects=True),
    "with GTSM, the node passive, the passwords differ": Case(
        f"passive: true, {SECRET}, {GTSM}", TTL + OTHER, later_router=TTL + RIGHT, connects=True
    ),
}
NAMES = {case: f"s{number}" for number, case in enumerate(CASES)}
"""The sessions' names at the routers."""
AS = {"r1": 65000, "r3": 65003}
UP = "plain"
"""A session without any of these options: it shows that the speaker runs."""


def ends(name: str) -> tuple[str, str]:
    """Return the session's addresses at node and router. With an address both BIRD and ExaBGP have one session."""
    number, case = int(NAMES[name][1:]), CASES[name]
    if case.at == "r3":
        return "10.0.0.11", "10.0.9.2"
    net = "2001:db8::" if case.six else "10.0.0."
    return f"{net}{200 + number}", f"{net}{100 + number}"


def peer(name: str, later: bool) -> str:
    """Return the peer of lb.yml."""
    case, (own, router) = CASES[name], ends(name)
    options = case.later_node if later and case.later_node is not None else case.node
    families = "[ipv4, ipv6]" if case.six else "[ipv4]"
    fixed = f"address: '{router}', as: {AS[case.at]}, source: '{own}', hold_time_s: 30, families: {families}"
    return f"{{{fixed}{', ' if options else ''}{options}}}"


def protocol(name: str, later: bool) -> str:
    """Return the session in the router's configuration."""
    case, (own, router) = CASES[name], ends(name)
    return session(
        NAMES[name],
        own,
        local=router,
        own_as=AS[case.at],
        families=("ipv4", "ipv6") if case.six else ("ipv4",),
        reach="multihop 5" if case.at == "r3" else "direct",
        connect="passive off" if case.connects or (later and case.later_connects) else "passive on",
        more=case.later_router if later and case.later_router is not None else case.router,
    )


def configure_routers(wire: WireLab, later: bool) -> None:
    for router in AS:
        sessions = [protocol(name, later) for name, case in CASES.items() if case.at == router]
        wire.configure(router, "".join([*([session(UP, "10.0.0.11")] if router == "r1" else []), *sessions]))


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireLab]:
    """The lab with all sessions, of which one end lacks something."""
    with WireLab.up(tmp_path_factory.mktemp("mismatch"), f"mismatch-{os.getpid()}") as made:
        for name, case in CASES.items():
            if case.at == "r1":
                for node, device, address in zip(("b1", "r1"), ("eth1", "br0"), ends(name), strict=True):
                    text = [f"{address}/64", "nodad"] if case.six else [f"{address}/24"]
                    made.lab.exec(node, ["ip", "address", "add", *text, "dev", device])
        configure_routers(made, later=False)
        made.b1.write_password("bgp.secret", "correct horse")
        made.b1.write_password("later.secret", "wrong horse")
        made.b1.start(LASTING_TO_R1, *(peer(name, later=False) for name in CASES))
        yield made


@pytest.fixture(scope="module")
def came_up(wire: WireLab) -> set[str]:
    """Which sessions were up at some time while one end lacked something."""
    wait_for(lambda: wire.established("r1", UP), "the session that lacks nothing")
    found: set[str] = set()
    deadline = time.monotonic() + NEVER_S
    while time.monotonic() < deadline:
        found.update(*(wire.all_established(router) for router in AS))
        time.sleep(0.1)
    assert UP in found
    return found


@pytest.fixture(scope="module")
def agreed(wire: WireLab, came_up: set[str]) -> WireLab:
    """The lab once both ends have the same, without a restart."""
    assert came_up
    configure_routers(wire, later=True)
    wire.b1.write_password("later.secret", "correct horse")
    wire.b1.configure(LASTING_TO_R1, *(peer(name, later=True) for name in CASES))
    done = wire.b1.reload()
    assert done.returncode == 0, done.stderr
    return wire


@pytest.mark.parametrize("name", CASES)
def test_session_stays_down_while_the_ends_differ(came_up: set[str], name: str):
    assert NAMES[name] not in came_up


def test_router_that_drops_the_answers_has_sent_its_open(wire: WireLab):
    """The ends could connect. Were both changed now, each would wait for the other's OPEN for long."""
    wait_for(lambda: "OpenSent" in wire.birdc("r1", "show", "protocols", NAMES[ROUTER_ALONE]), "the router's OPEN")


@pytest.mark.parametrize("name", [name for name in CASES if name != ROUTER_ALONE])
def test_session_comes_up_once_both_ends_agree(agreed: WireLab, name: str):
    case = CASES[name]
    expected = {VIP, VIP6, IDENTITY} if case.six else {VIP, IDENTITY}
    wait_for(lambda: agreed.established(case.at, NAMES[name]), "the session")
    wait_for(lambda: agreed.received(case.at, NAMES[name]) == expected, "the routes at the router")


def test_passwords_are_in_no_log_argument_or_snapshot(agreed: WireLab):
    wait_for(lambda: agreed.established("r1", NAMES["the passwords differ"]), "the session, by the second password")
    node = agreed.b1
    assert node.speaker is not None
    argv = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (node.speaker.pid, node.relay_pid())]
    for place in (node.log.read_text(), *map(repr, argv), *map(repr, node.snapshots)):
        assert "horse" not in place
        assert "Y29ycmVjdCBob3JzZQ" not in place, "nor as base64"
    conf = agreed.lab.root("b1") / "run/anylb-bgp/exabgp.conf"
    assert conf.stat().st_mode & 0o777 == 0o640


def test_password_file_that_others_may_read_is_refused(agreed: WireLab):
    agreed.b1.write_password("bgp.secret", "correct horse", mode=0o644)
    try:
        refused = agreed.b1.reload()
    finally:
        agreed.b1.write_password("bgp.secret", "correct horse")
    assert refused.returncode == 1
    assert "other users have access (mode 644); chmod 600" in refused.stderr
    assert re.search(r"lb\.yml:\d+:\d+: bgp\.peers\[2\]\.password_file: ", refused.stderr)
