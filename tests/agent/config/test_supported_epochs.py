# SPDX-License-Identifier: Apache-2.0
"""Epochs from a configuration: equal for nodes whose tables agree, different for all others."""

from ipaddress import IPv4Address

from agent.config.epoch import end_of_previous, supported_epochs
from agent.config.file import parse
from agent.model import Member, Share, State
from agent.table.epoch import EpochUse, choose

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2, weight: 50}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""


def test_epoch_covers_everything_that_decides_rows() -> None:
    def epoch(old: str = "", new: str = "") -> int:
        text = TEXT.replace(old, new)
        assert old in TEXT
        return supported_epochs(parse(text, "lb.yml"))[0].number

    usual = epoch()
    assert epoch("weight: 50", "weight: 60, when_no_member: drop") == usual
    assert epoch("port: 443", "port: 444") == usual, "nodes may serve different services"
    others = [
        epoch("cluster: 7", "cluster: 8"),
        epoch("members:", "table: {rows: 4096}\nmembers:"),
        epoch("members:", "table: {chain: 3}\nmembers:"),
        epoch("weight: 50", "hash: maglev"),
        epoch("weight: 50", "affinity: 3-tuple"),
        epoch("weight: 50", "affinity: 2-tuple"),
    ]
    assert len({usual, *others}) == 7


def versions(table: str, services: str = "hash: maglev") -> list[int]:
    text = TEXT.replace("weight: 50", services).replace("members:", f"table: {table}\nmembers:")
    return [one.version for one in supported_epochs(parse(text, "lb.yml"))]


def test_epochs_of_release_0_2_0() -> None:
    """Frozen: other numbers would split a cluster while its nodes are upgraded."""
    rendezvous, maglev = (
        [one.number for one in supported_epochs(parse(TEXT.replace("weight: 50", kind), "lb.yml"))]
        for kind in ("hash: rendezvous", "hash: maglev")
    )
    assert rendezvous == [0x874B3DF]
    assert maglev == [0x76DF206C, 0x9E9D4F58], "that of 0.2.0 beside the newest"


def test_the_version_counts_only_where_it_changes_rows() -> None:
    assert versions("{}", "hash: rendezvous") == versions("{version: 2}", "hash: rendezvous") == [1]
    assert versions("{}") == [2, 1]
    assert versions("{version: 2}") == [2]
    assert versions("{version: 1}") == [1]


def test_a_previous_table_takes_the_place_of_the_former_version() -> None:
    """A node has two epochs at most."""
    assert versions("{chain: 3, previous: {chain: 4}}") == [2, 2]
    assert versions("{chain: 3, previous: {chain: 4, version: 1}}") == [2, 1]


def test_the_step_that_ends_the_previous_table_is_possible_and_ends_it() -> None:
    def end(table: str) -> str:
        text = TEXT.replace("weight: 50", "hash: maglev").replace("members:", f"table: {table}\nmembers:")
        return end_of_previous(parse(text, "lb.yml"))

    assert end("{}") == "write table: {version: 2} into lb.yml"
    assert end("{chain: 3, previous: {chain: 4}}") == "remove table.previous from lb.yml"
    assert end("{version: 2, previous: {version: 1}}") == "remove table.previous from lb.yml"


def test_a_cluster_uses_the_newest_version_that_all_members_know() -> None:
    def supported(table: str) -> tuple[int, ...]:
        text = TEXT.replace("weight: 50", "hash: maglev").replace("members:", f"table: {table}\nmembers:")
        return tuple(one.number for one in supported_epochs(parse(text, "lb.yml")))

    newest, former, only_newest = (supported(table) for table in ("{}", "{version: 1}", "{version: 2}"))
    assert choose(newest, map(member, [newest, former, former])) == EpochUse(former[0])
    assert choose(newest, map(member, [newest, newest, former])) == EpochUse(former[0])
    assert choose(newest, map(member, [newest, newest, newest])) == EpochUse(newest[0], alternating=True)
    assert choose(newest, map(member, [newest, newest, only_newest])) == EpochUse(newest[0])
    assert choose(only_newest, map(member, [newest, newest, only_newest])) == EpochUse(newest[0])


def member(epochs: tuple[int, ...]) -> Member:
    return Member(IPv4Address("10.0.0.11"), epochs, {"web": Share(100, 100, State.UP)}, False, 0.0, "")
