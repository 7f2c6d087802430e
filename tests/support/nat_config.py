# SPDX-License-Identifier: Apache-2.0
"""Configurations with services of mode nat, for tests of logic."""

from functools import cache

from agent.config.file import parse
from agent.config.schema import Config

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - name: web
    vip: 192.0.2.10
    protocol: tcp
    port: 443
    mode: nat
    backends: [{address: 10.9.0.11, port: 8443}, {address: 10.9.0.12, port: 8443, weight: 50}]
  - name: dns
    vip: 192.0.2.11
    protocol: udp
    port: 53
    mode: nat
    balance: least_connections
    health: {type: tcp, port: 53}
    backends: [{address: 10.9.0.11, port: 53}, {address: 10.9.0.13, port: 53, weight: 0}]
  - {name: dsr, vip: 192.0.2.12, protocol: tcp, port: 80}
nat: {pool: 10.255.0.0/27, sessions: 65536}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24], key: none}
table: {rows: 4096}
"""


@cache
def nat_config(text: str = TEXT) -> Config:
    """Return a configuration, which nothing changes."""
    return parse(text, "lb.yml")
