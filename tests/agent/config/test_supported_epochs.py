# SPDX-License-Identifier: Apache-2.0
"""Epochs from a configuration: equal for nodes whose tables agree, different for all others."""

from agent.config.epoch import supported_epochs
from agent.config.file import parse

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
