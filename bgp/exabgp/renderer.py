# SPDX-License-Identifier: Apache-2.0
"""The files that ExaBGP and the relay read: exabgp.conf, exabgp.env and the allowlist, rendered as text. Pure.

Owns ExaBGP's configuration language and its traps. speaker.py writes the files and starts the process.
"""

from __future__ import annotations

import base64
import re
from ipaddress import ip_address

from bgp.exabgp.config import Address, NeighborConfig, SpeakerConfig

ALLOW_NAME = "allow"
BGP_PORT = 179
GTSM_TTL = 255


def render(config: SpeakerConfig, python: str = "/usr/bin/python3") -> str:
    """Return exabgp.conf; `python` is the interpreter of the helpers."""
    relay = f"{python} -I -S {config.run_dir}/relay.pyz --allow {config.run_dir}/{ALLOW_NAME}"
    relay += f" --socket {config.socket_path} --agent-uid {config.agent_uid}"
    processes = f"process relay {{\n  run {relay};\n  encoder json;\n  respawn true;\n}}\n"
    if config.bfd_peers:
        # No neighbor names it, so it receives the answers to its own commands and nothing else.
        bfd = f"{python} -I -S {config.run_dir}/bfd.pyz --run-dir {config.run_dir}"
        processes += f"process bfd {{\n  run {bfd};\n  encoder text;\n  respawn true;\n}}\n"
    return processes + "".join(_render_neighbor(config, peer) for peer in config.peers)


def _render_neighbor(config: SpeakerConfig, peer: NeighborConfig) -> str:
    # adj-rib-out: ExaBGP advertises routes again on reconnecting, and can list them. adj-rib-in: the successor of a
    # killed relay can ask for the learned routes. graceful-restart: 0 would mean the hold time, for which routers would
    # keep a dead speaker's routes. passive: the default is not the one in ExaBGP's manual. api: the name must be
    # unique.
    families = "".join(f"\n    {family} unicast;" for family in peer.session_families)
    return f"""
neighbor {peer.address} {{
  local-address {peer.local_address};
  local-as {config.local_as_for(peer)};
  peer-as {peer.peer_as};
  router-id {config.router_id};
  hold-time {peer.hold_time_s};
  passive {"true" if peer.passive else "false"};
{_render_transport(config, peer)}  adj-rib-out true;
  adj-rib-in true;
  family {{{families}
  }}
  capability {{
    asn4 enable;
    route-refresh enable;
    graceful-restart {peer.graceful_restart_s or "disable"};
    add-path disable;
    multi-session disable;
    operational disable;
    extended-message disable;
  }}
  api relay-{str(peer.address).replace(":", "-")} {{
    processes [ relay ];
    neighbor-changes;
    receive {{
      parsed;
      update;
    }}
  }}
}}
"""


def _render_transport(config: SpeakerConfig, peer: NeighborConfig) -> str:
    # md5-base64: no byte of the password can confuse ExaBGP's parser. incoming-ttl checks received packets (IP_MINTTL).
    # By default ExaBGP sends with the kernel's TTL of 64, which a session with a neighbor on the link does not need.
    lines = []
    if peer.interface:
        lines.append(f"source-interface {peer.interface}")
    if peer.passive:
        lines.append(f"listen {BGP_PORT}")
    if peer.password is not None:
        lines += [f"md5-password {base64.b64encode(peer.password).decode()}", "md5-base64 true"]
    if peer.ttl_security:
        lines += [f"outgoing-ttl {GTSM_TTL}", f"incoming-ttl {GTSM_TTL}"]
    elif peer.multihop is not None:
        lines.append(f"outgoing-ttl {peer.multihop}")
    elif config.local_as_for(peer) != peer.peer_as:
        lines.append("outgoing-ttl 1")
    return "".join(f"  {line};\n" for line in lines)


def listen_addresses(text: str) -> frozenset[Address]:
    """Return the local addresses of the passive neighbors in an exabgp.conf that `render` returned."""
    found = re.findall(r"^  local-address (\S+);\n(?:(?!^}).*\n)*?  passive true;", text, re.MULTILINE)
    return frozenset(map(ip_address, found))


def render_env(config: SpeakerConfig) -> str:
    """Return exabgp.env.

    terminate: if the relay were lost for good, ExaBGP would close its sessions but stay alive; it must exit, so that
    the service restarts it. statistics: would log a line per keepalive. openwait: seconds to wait for the OPEN of a
    router that accepts the connection and stays silent. speed: checks timers every 50 ms instead of 10; sockets wake it
    in any case; idle, it takes 0.5 % of a core instead of 2. level: what happens to a session, and why, is a line of
    the relay's; ExaBGP's own add how it works through it.
    """
    return f"""\
[exabgp.daemon]
user = '{config.user}'
drop = true
daemonize = false
[exabgp.api]
ack = true
chunk = 20
cli = false
respawn = true
show-routes-format = v2
terminate = true
[exabgp.bgp]
openwait = 10
[exabgp.reactor]
speed = 5.0
[exabgp.log]
destination = stderr
level = WARNING
short = true
statistics = false
"""


def render_allowlist(config: SpeakerConfig) -> str:
    """Return the relay's allowlist (allowlist.py), one prefix per line."""
    advertised = [str(network) for network in sorted(config.allow, key=str)]
    exactly = [f"exactly {network}" for network in sorted(config.exactly, key=str)]
    learned = [f"learn {network}" for network in sorted(config.learn, key=str)]
    return "".join(f"{line}\n" for line in [*advertised, *exactly, *learned])


def secrets(config: SpeakerConfig) -> list[str]:
    """Return the passwords, which no message may contain, in each form in which ExaBGP might quote them."""
    passwords = [peer.password for peer in config.peers if peer.password is not None]
    return [base64.b64encode(p).decode() for p in passwords] + [p.decode(errors="replace") for p in passwords]
