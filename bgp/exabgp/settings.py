# SPDX-License-Identifier: Apache-2.0
"""What ExaBGP is to be told before it starts: its neighbors, as values that were checked, and as its own text.

Owns ExaBGP's configuration language and the traps in it. Writing the files and starting the process is speaker.py's.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from bgp.bfd.files import BfdPeer, BfdTimers
from bgp.errors import BgpError

SOCKET_NAME = "relay.sock"
ALLOW_NAME = "allow"
BGP_PORT = 179
MAX_PASSWORD_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN (linux/tcp.h)."""
GTSM_TTL = 255

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class NeighborConfig:
    """One neighbor.

    `hold_time_s` is what we offer: at least 3 (RFC 4271 section 4.2); the lower offer counts. `local_as`: our AS to
    this neighbor where it is not the speaker's. `families` ("ipv4", "ipv6"): the neighbor's own without. `password`:
    TCP MD5 (RFC 2385). `ttl_security`: packets from afar are dropped (RFC 5082). `multihop`: how many hops away it may
    be; a neighbor in another AS is next door without. `passive`: it connects to us, and we listen on `local_address`.
    `interface`: by which a link-local address is reached. `graceful_restart_s`: how long the neighbor is to keep
    routes of ours whose speaker is gone; 0 for not at all.
    """

    address: Address
    peer_as: int
    local_address: Address
    hold_time_s: int = 9
    local_as: int | None = None
    families: tuple[str, ...] = ()
    password: bytes | None = field(default=None, repr=False)
    ttl_security: bool = False
    multihop: int | None = None
    passive: bool = False
    interface: str | None = None
    graceful_restart_s: int = 0
    bfd: BfdTimers | None = None

    def __post_init__(self) -> None:
        if not 3 <= self.hold_time_s <= 65535:
            raise self._fault(f"hold time {self.hold_time_s} s is not in 3-65535")
        if self.local_address.version != self.address.version:
            raise self._fault(f"{self.local_address} is of another family")
        if self.password is not None and not 0 < len(self.password) <= MAX_PASSWORD_BYTES:
            raise self._fault(f"the password has {len(self.password)} bytes, not 1-{MAX_PASSWORD_BYTES}")
        if (self.address.version == 6 and self.address.is_link_local) != (self.interface is not None):
            raise self._fault("an interface belongs to a link-local IPv6 address, and to no other")
        if self.ttl_security and self.multihop:
            raise self._fault("GTSM is for a neighbor next door, and multihop for one that is not")

    def _fault(self, what: str) -> BgpError:
        return BgpError(f"bgp: neighbor {self.address}: {what}")

    def zoned(self, address: Address) -> str:
        """One of the session's addresses with its interface behind a % where it takes one."""
        return f"{address}%{self.interface}" if self.interface else str(address)

    @property
    def carries(self) -> tuple[str, ...]:
        """The address families of the session, in order."""
        return tuple(sorted(self.families)) or (f"ipv{self.address.version}",)


@dataclass(frozen=True, slots=True)
class SpeakerConfig:
    """Everything ExaBGP needs. `user` runs it and the relay; `agent_uid` may talk to the relay, besides root.

    `allow`: where the host routes must lie that the relay lets an agent announce. With none it lets nothing through.
    """

    local_as: int
    router_id: IPv4Address
    peers: tuple[NeighborConfig, ...]
    user: str = "nobody"
    run_dir: Path = Path("/run/anylb-bgp")
    agent_uid: int = 0
    allow: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if not self.peers:
            raise BgpError("bgp: no neighbor is configured: add one")
        addresses = [str(peer.address) for peer in self.peers]
        for address in addresses:
            if addresses.count(address) > 1:
                raise BgpError(f"bgp: neighbor {address} is configured twice: remove one")
        own = (peer.local_as for peer in self.peers if peer.local_as is not None)
        for number in (self.local_as, *own, *(peer.peer_as for peer in self.peers)):
            if not 0 < number < (1 << 32) - 1:
                raise BgpError(f"bgp: AS number {number} is not in 1-4294967294")
        if any(character.isspace() or character in ";{}#'\"" for character in str(self.run_dir)):
            raise BgpError(f"bgp: {self.run_dir}: ExaBGP cannot read a path with spaces or quotes: choose another")

    @property
    def socket_path(self) -> Path:
        """Where the agent finds the relay."""
        return self.run_dir / SOCKET_NAME

    @property
    def listens_on(self) -> frozenset[Address]:
        """The addresses whose BGP port it must open, which only root may."""
        return frozenset(peer.local_address for peer in self.peers if peer.passive)


def render_allow(config: SpeakerConfig) -> str:
    """Return the relay's list of what may be announced (allowlist.py): a prefix to a line."""
    return "".join(f"{network}\n" for network in sorted(config.allow, key=str))


def render(config: SpeakerConfig, python: str = "/usr/bin/python3") -> str:
    """Return ExaBGP's configuration; `python` runs the relay."""
    relay = f"{python} -I -S {config.run_dir}/relay.pyz --allow {config.run_dir}/{ALLOW_NAME}"
    relay += f" --socket {config.socket_path} --agent-uid {config.agent_uid}"
    process = f"process relay {{\n  run {relay};\n  encoder json;\n  respawn true;\n}}\n"
    if bfd_peers(config):
        # Named by no neighbor: it hears the answers to its own commands and nothing else.
        bfd = f"{python} -I -S {config.run_dir}/bfd.pyz --run-dir {config.run_dir}"
        process += f"process bfd {{\n  run {bfd};\n  encoder text;\n  respawn true;\n}}\n"
    return process + "".join(_render_peer(config, peer) for peer in config.peers)


def bfd_peers(config: SpeakerConfig) -> tuple[BfdPeer, ...]:
    """Return whom the BFD process is to watch."""
    return tuple(
        BfdPeer(
            peer.zoned(peer.address),
            peer.zoned(peer.local_address),
            peer.bfd.interval_ms,
            peer.bfd.multiplier,
            peer.multihop is not None,
        )
        for peer in config.peers
        if peer.bfd is not None
    )


def _render_peer(config: SpeakerConfig, peer: NeighborConfig) -> str:
    # adj-rib-out: routes are announced again on reconnecting, and can be listed; adj-rib-in: a relay that follows a
    # killed one can ask for what was learned. graceful-restart: 0 would mean the hold time, and routers would keep a
    # dead speaker's routes that long. passive has another default than ExaBGP's manual says. The name after api must
    # not be used twice.
    families = "".join(f"\n    {family} unicast;" for family in peer.carries)
    return f"""
neighbor {peer.address} {{
  local-address {peer.local_address};
  local-as {own_as(config, peer)};
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
    # The password as base64, so that no byte in it means anything to ExaBGP's parser. incoming-ttl checks what arrives
    # (IP_MINTTL). Left alone, ExaBGP sends with the kernel's TTL of 64, which a session with a neighbor next door has
    # no use for.
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
    elif own_as(config, peer) != peer.peer_as:
        lines.append("outgoing-ttl 1")
    return "".join(f"  {line};\n" for line in lines)


def own_as(config: SpeakerConfig, peer: NeighborConfig) -> int:
    """The AS that we are to a neighbor."""
    return peer.local_as if peer.local_as is not None else config.local_as


def secrets(config: SpeakerConfig) -> list[str]:
    """What must not appear in a message, in each form in which ExaBGP might quote it."""
    passwords = [peer.password for peer in config.peers if peer.password is not None]
    return [base64.b64encode(p).decode() for p in passwords] + [p.decode(errors="replace") for p in passwords]


def render_settings(config: SpeakerConfig) -> str:
    """Return ExaBGP's environment file.

    terminate: were the relay lost for good, ExaBGP would stop its sessions but live on; better to end and be started
    again. statistics: a line per keepalive. openwait: seconds for a router that takes the connection but is silent.
    speed: looks at its timers every 50 ms, not 10; sockets wake it in any case; idle, it takes 0.5 % of a core, not 2.
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
level = INFO
short = true
statistics = false
"""
