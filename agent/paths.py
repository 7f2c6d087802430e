# SPDX-License-Identifier: Apache-2.0
"""The files and folders that the agent and lbctl share with the machine. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the agent keeps its files. A reboot empties `run`."""

    run: Path = Path("/run/anylb")
    pins: Path = Path("/sys/fs/bpf/anylb")
    relay: Path = Path("/run/anylb-bgp/relay.sock")
    kept: Path = Path("/var/lib/anylb")
    programs: Path = Path("/var/cache/anylb")
    """Compiled programs, for the next start."""

    @property
    def lock(self) -> Path:
        """The file that the agent locks while it runs."""
        return self.run / "agent.lock"

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.run / "agent.sock"

    @property
    def state(self) -> Path:
        """The state that an agent leaves for the next one."""
        return self.run / "state.json"

    @property
    def instances(self) -> Path:
        """What an agent leaves for the next one about the instances of services (instances/record.py)."""
        return self.run / "instances.json"

    @property
    def hand_over(self) -> Path:
        """The socket on which servers hand their listeners over."""
        return self.run / "instances.sock"

    @property
    def instance_pins(self) -> Path:
        """The pins of the choice among instances. It is no part of the data path: it stays when that is detached."""
        return self.pins.with_name(f"{self.pins.name}_instances")

    @property
    def steering_pins(self) -> Path:
        """The pins of what gives services' connections to servers elsewhere."""
        return self.pins.with_name(f"{self.pins.name}_steering")

    @property
    def settings(self) -> Path:
        """The kernel's settings that agents changed on this boot, with their values before (setting_record.py)."""
        return self.run / "settings.json"

    @property
    def members(self) -> Path:
        """The members that an agent knew (saved_members.py)."""
        return self.run / "members.json"

    @property
    def known_nodes(self) -> Path:
        """The addresses of the members that this node knew; they outlive a reboot."""
        return self.kept / "nodes.json"

    @property
    def orders(self) -> Path:
        """The operator's orders for VIPs; they outlive a reboot."""
        return self.kept / "orders.json"

    @property
    def history(self) -> Path:
        """The texts of lb.yml that ran, and the deadline of a change (change/history.py); they outlive a reboot."""
        return self.kept / "config.json"

    @property
    def events(self) -> Path:
        """What happened on this node (daemon/event_log.py); it outlives a reboot."""
        return self.kept / "events.jsonl"
