# SPDX-License-Identifier: Apache-2.0
"""What `lbctl status` prints of the others; and texts of operators and of the network are printed literally, never as
rich's markup."""

from typing import Any

import pytest

from agent.cli.display import MAX_ADDRESSES, print_denied, print_explanation, print_instances, print_status


@pytest.mark.parametrize("text", ["see [/var/log]", "[/42]", "swap [disk]", "[fd00::1]:443", "[red]no[/]"])
def test_brackets_are_printed_literally(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_denied({"denied": [{"prefix": text, "configured": True}]})
    assert text in capsys.readouterr().out


def test_no_text_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_denied({"denied": [{"prefix": "\x1b[2J\x9b", "configured": True}]})
    assert r"\x1b[2J\x9b" in capsys.readouterr().out


NODE = {"address": "10.0.0.11", "state": "up", "cluster": 7, "epochs": [1], "epoch": 1, "next_epoch": None}
XDP = {"mode": "native", "interface": "eth0", "attached": True, "fallback_reason": None}
BGP = {"relay": "connected", "error": None, "peers": [], "down": []}
COUNTED = {"held": 1234, "age_s": 12.3}
AGREED = {"nodes": 3, "agree": True, "since": 1_700_000_000.0, "differing": [], "isolated": False, "unreachable": []}


def member(address: str, **changed: Any) -> dict[str, Any]:
    ways = {
        "plain": {"rtt_ms": 0.25, "asked": 40, "unanswered": 0},
        "gue": {"rtt_ms": 0.5, "asked": 4, "unanswered": 3},
    }
    usual = {
        "address": address, "tag": 11, "state": "up", "reachable": True, "services": {}, "since_s": 4.0, "version": 3,
        "has_new_epoch": True, "same_epoch": True, "epoch": 1, "silent_s": None, "why": "",
        "echo": {"answers": True, "agent_lives": True, "ways": ways},
    }  # fmt: skip
    return usual | changed


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what `lbctl status` prints of these members and this agreement, line by line."""
    monkeypatch.setenv("COLUMNS", "250")

    def printed(
        *members: dict[str, Any],
        claims: dict[str, Any] | None = None,
        pools: Any = (),
        sessions: Any = None,
        **changed: Any,
    ) -> list[str]:
        membership = AGREED | changed
        lists: dict[str, Any] = {"vips": [], "services": [], "problems": [], "egress": {"errors": []}, "pools": pools}
        own = member("10.0.0.11", echo=None)
        print_status(
            lists
            | {
                "node": NODE,
                "ready": True,
                "xdp": XDP,
                "fault": None,
                "bgp": BGP,
                "connections": COUNTED,
                "sessions": None,
            }
            | {"members": [own, *members], "membership": membership, "claims": claims, "sessions": sessions}
        )
        return capsys.readouterr().out.splitlines()

    return printed


def test_status_shows_claims_if_there_are_some(printed: Any) -> None:
    none: dict[str, Any] = {"given": 0, "taken": {}, "full": {}}
    assert printed(claims=none) == printed(claims=None)
    taken = {"10.0.0.12": 5, "10.0.0.13": 40}
    assert printed(claims=none | {"given": 7, "taken": taken})[-1] == "claims: 7 rows by this node, 45 by 2 others"
    line = printed(claims=none | {"given": 7, "taken": taken, "nearly_full": {"web": 20}})[-1]
    assert line.startswith("20 rows of web have one place left")


def test_status_shows_a_pool_beside_the_vips(printed: Any) -> None:
    row = {"pool": "10.255.0.0/27", "wanted": True, "announced": False, "why": "forwarding"}
    (line,) = [line for line in printed(pools=[row]) if "10.255.0.0/27" in line]
    assert line.split() == ["10.255.0.0/27", "(pool", "of", "NAT)", "not", "yet", "forwarding"]


def test_status_shows_how_each_member_answers(printed: Any) -> None:
    dead = {"answers": True, "agent_lives": False, "ways": {"plain": {"rtt_ms": None, "asked": 0, "unanswered": 0}}}
    lines = printed(member("10.0.0.12"), member("10.0.0.13", echo=dead), member("10.0.0.14", silent_s=65.0))
    rows = {address: line for line in lines if (address := line.partition(" ")[0]).startswith("10.")}
    assert "this node" in rows["10.0.0.11"]
    assert "plain 0.25 ms; gue 0.5 ms, 3 of 4 lost" in rows["10.0.0.12"]
    assert "its agent does not run; plain - ms" in rows["10.0.0.13"]
    assert "silent for 1 m" in rows["10.0.0.14"]


def test_status_shows_the_connections(printed: Any) -> None:
    assert "connections of clients: 1,234, counted 12 s ago" in printed()


def test_status_shows_whether_all_agree(printed: Any) -> None:
    assert printed()[-1] == "all 3 nodes agree since 2023-11-14 22:13:20Z"
    assert not any("agree" in line for line in printed(nodes=1))
    differing = [{"address": "10.0.0.12", "in": "view"}, {"address": "10.0.0.13", "in": "tables"}]
    assert printed(agree=False, differing=differing)[-2:] == [
        "10.0.0.12 differs from this node in its view since 2023-11-14 22:13:20Z",
        "10.0.0.13 differs from this node in its tables since 2023-11-14 22:13:20Z",
    ]
    assert any("no other node answers this one" in line for line in printed(isolated=True))


def test_status_shows_whom_only_some_hear(printed: Any) -> None:
    def last(by: list[str], reached_by: list[str]) -> str:
        return str(printed(unreachable=[{"address": "10.0.0.12", "by": by, "reached_by": reached_by}])[-1])

    many = [f"10.0.0.{n}" for n in range(13, 13 + MAX_ADDRESSES + 3)]
    assert last(["10.0.0.11"], many[:2]) == "10.0.0.11 does not hear 10.0.0.12; 10.0.0.13, 10.0.0.14 do"
    assert last(many[:2], ["10.0.0.11"]) == "10.0.0.13, 10.0.0.14 do not hear 10.0.0.12; 10.0.0.11 does"
    assert last(["10.0.0.11"], many).endswith(f"; {', '.join(many[:MAX_ADDRESSES])} and 3 more do")
    assert "agree" in last(many, []), "nobody hears it: its own row shows that it is silent"


def test_instances(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    one = {"name": "web@1", "state": "standby", "weight": 0, "listeners": 2, "pid": 7, "added": True}
    one |= {"why": "", "processes": 1}
    sick = one | {"name": "web@2", "state": "unhealthy", "added": False, "why": "no answer"}
    web = {"name": "web", "policy": "standby", "preferred": "web@1", "instances": [one, sick]}
    print_instances({"services": [web, {"name": "db", "policy": "spread", "preferred": None, "instances": []}]})
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == ["service", "policy", "instance", "state", "weight", "listeners", "pid"]
    assert rows[0] == ["web", "standby", "web@1", "standby", "0", "2", "7", "added", "by", "hand,", "preferred"]
    assert rows[1] == ["web", "standby", "web@2", "unhealthy", "0", "2", "7", "no", "answer"]
    assert rows[2] == ["db", "spread", "none", "found"]


def test_explanation_of_a_session(capsys: pytest.CaptureFixture[str]) -> None:
    """Its service is known only where the session is; a backend opens none."""
    response = {
        "flow": "[fd00:ff::]:40000", "service": None, "forward": "gue", "denied": None, "tried": ["10.0.0.11"],
        "silent": [], "epochs": [{"epoch": 5, "in_use": True, "row": 452, "chain": ["10.0.0.11"]}], "slot": 7232,
        "session": None, "nodes": [{"node": "10.0.0.11", "held": "here", "not_held": "dropped"}],
    }  # fmt: skip
    print_explanation(response)
    text = capsys.readouterr().out
    assert text.startswith(
        "[fd00:ff::]:40000: service unknown here (gue)\n"
        "epoch 0x00000005 (for new flows): row 452, chain 10.0.0.11\n"
        "no session of it on this node\n"
    )
    assert "SYN" not in text


def test_sessions_of_nat_by_state(printed: Any) -> None:
    states = {"established": 700, "half-open": 50, "closing": 1, "closed": 17, "free": 256}
    line = "sessions of NAT: 700 established, 50 half-open, 1 closing, 17 closed; 75% of 1,024 slots used"
    assert line in printed(claims=None, sessions={"slots": 1024, **states})
    assert not any("NAT" in one for one in printed(claims=None, sessions={}))
