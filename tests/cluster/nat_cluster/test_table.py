# SPDX-License-Identifier: Apache-2.0
"""NAT, live: another pool, and another number of sessions, node by node."""

import re
import signal

import pytest
from support.cluster_lab import FOUR
from support.nat_clients import HELD, OTHERS, STREAM, Clients, has_session, held_at
from support.nat_lab import ECHO_PORT, NEW_POOL, NEW_POOL6, POOL, POOL6, VIP, WIDE_POOL, WIDE_POOL6, NatLab
from support.waiting import wait_for

pytestmark = pytest.mark.lab


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
