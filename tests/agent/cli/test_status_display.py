# SPDX-License-Identifier: Apache-2.0
"""What `lbctl status` prints: failing things first, in 80 columns, and each thing in a line of its own in a pipe."""

from typing import Any

import pytest

from agent.cli.member_display import MAX_ADDRESSES
from agent.cli.status_display import print_brief, print_status

NODE = {"address": "10.0.0.11", "state": "up", "cluster": 7, "epochs": [1], "epoch": 1, "next_epoch": None}
XDP = {"mode": "native", "interface": "eth0", "attached": True, "fallback_reason": None}
BGP = {"relay": "connected", "error": None, "peers": [], "down": []}
COUNTED = {"held": 1234, "age_s": 12.3}
AGREED = {
    "nodes": 3, "agree": True, "since": 1_700_000_000.0, "differing": [], "services": [], "isolated": False,
    "unreachable": [],
}  # fmt: skip


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

    def printed(
        *members: dict[str, Any],
        claims: dict[str, Any] | None = None,
        pools: Any = (),
        sessions: Any = None,
        former: Any = None,
        columns: int = 250,
        show: Any = print_status,
        top: Any = None,
        **changed: Any,
    ) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        membership = AGREED | changed
        lists: dict[str, Any] = {"vips": [], "services": [], "problems": [], "egress": {"errors": []}, "pools": pools}
        own = member("10.0.0.11", echo=None)
        show(
            lists
            | {
                "node": NODE,
                "ready": True,
                "xdp": XDP,
                "fault": None,
                "bgp": BGP,
                "connections": COUNTED,
                "nat": {"former": former} if former else None,
            }
            | {"members": [own, *members], "membership": membership, "claims": claims, "sessions": sessions}
            | (top or {})
        )
        return capsys.readouterr().out.splitlines()

    return printed


def test_status_shows_claims_if_there_are_some(printed: Any) -> None:
    none: dict[str, Any] = {"given": 0, "taken": {}, "full": {}}
    assert printed(claims=none) == printed(claims=None)
    taken = {"10.0.0.12": 5, "10.0.0.13": 40}
    assert printed(claims=none | {"given": 7, "taken": taken})[-1] == "claims: 7 rows by this node, 45 by 2 others"
    assert printed(claims=none | {"given": 7, "full": {"web": 9}})[-1].endswith("by 0 others; 9 rows of web are full")
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


@pytest.mark.parametrize(
    ("used", "following", "shown"),
    [
        (5, None, "the new table (0x5); when all servers do, write table: {version: 2} into lb.yml"),
        (4, None, "the previous table (0x4)"),
        (4, 5, "the previous table (0x4), about to change"),
    ],
)
def test_status_names_the_table_of_two_and_how_to_end_it(
    printed: Any, used: int, following: int | None, shown: str
) -> None:
    end = {"end_of_previous": "write table: {version: 2} into lb.yml"}
    lines = printed(top={"node": NODE | end | {"epochs": [5, 4], "epoch": used, "next_epoch": following}})
    assert [line for line in lines if "two epochs" in line] == [f"two epochs: new connections use {shown}"]


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
    line = "10.0.0.12 serves 10.99.0.1:7001/tcp, this node :7000"
    assert printed(services=[line])[-1] == line
    assert any("no other node answers this one" in line for line in printed(isolated=True))


def test_status_shows_which_nodes_only_some_reach(printed: Any) -> None:
    def last(by: list[str], reached_by: list[str]) -> str:
        return str(printed(unreachable=[{"address": "10.0.0.12", "by": by, "reached_by": reached_by}])[-1])

    many = [f"10.0.0.{n}" for n in range(13, 13 + MAX_ADDRESSES + 3)]
    assert last(["10.0.0.11"], many[:2]) == "10.0.0.11 does not reach 10.0.0.12; 10.0.0.13, 10.0.0.14 do"
    assert last(many[:2], ["10.0.0.11"]) == "10.0.0.13, 10.0.0.14 do not reach 10.0.0.12; 10.0.0.11 does"
    assert last(["10.0.0.11"], many).endswith(f"; {', '.join(many[:MAX_ADDRESSES])} and 3 more do")
    assert "agree" in last(many, []), "none reaches it: its own row shows that it is silent"


def test_sessions_of_nat_by_state(printed: Any) -> None:
    states = {"established": 700, "half-open": 50, "closing": 1, "closed": 17, "free": 256}
    line = "sessions of NAT: 700 established, 50 half-open, 1 closing, 17 closed; 75% of 1,024 slots used"
    assert line in printed(claims=None, sessions={"slots": 1024, **states})
    assert not any("NAT" in one for one in printed(claims=None, sessions={}))


def test_what_is_left_of_the_former_pool_of_nat(printed: Any) -> None:
    pools = ["10.255.0.0/27", "fd00:ff::/123"]
    left = {"pools": pools, "of": None, "sessions": 1200, "newest_s": 240, "elsewhere": ["10.0.0.12"]}
    named = "former pool of NAT 10.255.0.0/27, fd00:ff::/123:"
    assert f"{named} 1,200 sessions are left, none new for 4 m; 10.0.0.12 too" in printed(former=left)
    none = {**left, "sessions": 0, "newest_s": None}
    assert f"{named} 0 sessions are left; 10.0.0.12 too" in printed(former=none)
    uncounted = left | {"sessions": None, "newest_s": None}
    assert f"{named} the sessions that are left are being counted" in printed(former=uncounted)
    empty = printed(former={**none, "elsewhere": []})
    assert f"{named} no session is left; remove table.previous.nat" in empty
    fewer = printed(former={**left, "pools": [], "of": 65_536})
    assert "former nat.sessions 65,536: 1,200 sessions are left, none new for 4 m; 10.0.0.12 too" in fewer


def service(name: str, **changed: Any) -> dict[str, Any]:
    members = [{"address": f"10.0.0.{n}", "state": "up", "effective": 100, "weight": 100} for n in (11, 12)]
    usual = {
        "name": name, "protocol": "tcp", "endpoint": "[2001:db8:1234:5678:9abc:def0:1234:5678]:443", "healthy": True,
        "why": "", "effective": 100, "weight": 100, "members": members, "digest": "ab12cd34", "local_clients": None,
        "instances": None,
    }  # fmt: skip
    return usual | changed


FAILING = {
    "ready": False,
    "fault": "XDP was detached from eth0",
    "problems": ["10.0.0.99 is named, but its data path does not answer " * 3],
    "services": [service("web"), service("db", healthy=False, why="connection refused", effective=0)],
    "vips": [
        {"vip": "2001:db8:1234:5678:9abc:def0:1234:5678", "wanted": True, "announced": True, "why": "healthy"},
        {"vip": "192.0.2.10", "wanted": True, "announced": False, "why": "no BGP session is up"},
    ],
}


@pytest.mark.parametrize("show", [print_status, print_brief])
def test_80_columns_are_enough_and_failing_things_come_first(printed: Any, show: Any) -> None:
    silent = member("10.0.0.12", silent_s=65.0, why="does not answer")
    lines = printed(silent, top=FAILING, columns=80, show=show)
    assert max(map(len, lines)) <= 80
    assert "not ready" in " ".join(lines[:2])
    text = " ".join(" ".join(lines).split())
    assert text.index("XDP was detached") < text.index("db is unhealthy: connection refused") < 700
    if show is print_status:
        rows = [line.split()[0] for line in lines if line]
        assert rows.index("192.0.2.10") < rows.index("2001:db8:1234:5678:9abc:def0:1234:5678")
        assert rows.index("db", rows.index("service")) < rows.index("web")
        assert rows.index("10.0.0.12") < rows.index("10.0.0.11"), "the silent member comes first"


def test_brief_counts_what_is_well(printed: Any) -> None:
    silent = member("10.0.0.12", silent_s=65.0)
    assert printed(silent, top=FAILING, show=print_brief)[-1] == (
        "1 of 2 VIPs announced; 1 of 2 services healthy; 1 of 2 members up; 0 of 0 BGP sessions up"
    )


def test_of_many_services_those_with_less_weight_are_named(printed: Any) -> None:
    full = {f"s{n}": {"state": "up", "effective": 100, "weight": 100} for n in range(50)}
    lines = printed(
        member("10.0.0.12", services=full), member("10.0.0.13", services=full | {"s7": full["s7"] | {"effective": 0}})
    )
    assert any("10.0.0.12" in line and "all of 50 full" in line for line in lines)
    assert any("10.0.0.13" in line and "s7 0/100" in line and "s8" not in line for line in lines)


def test_a_long_name_of_a_service_gives_way(printed: Any) -> None:
    long = service(f"shop-{'x' * 54}-443", endpoint="192.0.2.10:443", digest="8e1a30d4c870a781")
    lines = printed(top=FAILING | {"services": [long]}, columns=80)
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("shop-") and "-443" in line for line in lines)
