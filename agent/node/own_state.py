# SPDX-License-Identifier: Apache-2.0
"""What this node publishes of itself: its state, whose version grows whenever the others are to know something new."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from agent.channel.nat_state import BackendOrder, NatState
from agent.channel.state import MAX_UNREACHABLE, NodeState, ServiceEndpoint, StateShare
from agent.model import NAT_KEY, Share
from agent.node.plan import ThisNode
from bpf.layout.echo import EchoFlag, EchoKind, EchoMessage

RELEASE = importlib.metadata.version("anylb")


class OwnState:
    """The state of this node. `boot` is the number of this boot."""

    def __init__(self, node: ThisNode, boot: int) -> None:
        config = node.config
        self.boot = boot
        self.endpoints = {s.key: ServiceEndpoint(s.vip, s.protocol, s.port_number) for s in config.services}
        """Of each service, by its key."""
        self.reads_claims = config.table.claims
        self.state: NodeState | None = None
        """None before it is first set."""
        self._node = node
        self._backends: tuple[Mapping[int, bool], Mapping[int, BackendOrder]] = {}, {}
        self._former = False

    @property
    def version(self) -> int:
        """The version of the state; 0 before the first."""
        return self.state.version if self.state else 0

    def set_shares(self, shares: Mapping[str, Share], ready: bool, unreachable: Sequence[IPv4Address]) -> bool:
        """Set the shares, by service and of the sessions, whether the tables are made of a whole view, and which nodes
        this one cannot reach; return whether the state is another one."""
        published = {
            endpoint: StateShare(s.weight, s.effective, s.state, s.announced)
            for service, s in shares.items()
            if (endpoint := self.endpoints.get(service))
        }
        share = shares.get(NAT_KEY)
        nat = NatState(share.weight, share.effective, share.state, *self._backends, self._former) if share else None
        unreachable, epochs = tuple(unreachable[:MAX_UNREACHABLE]), self._node.epochs
        state = NodeState(self.boot, 1, RELEASE, ready, epochs, published, unreachable, self.reads_claims, nat)
        return self._set(replace(state, gives_overview=True))

    def set_backends(self, results: Mapping[int, bool], orders: Mapping[int, BackendOrder]) -> bool:
        """Set the results of this node's checks of backends, and the orders for backends that it knows, both by the
        backend's number; return whether the state is another one. Without a share of the sessions it has neither."""
        self._backends = results, orders
        if self.state is None or self.state.nat is None:
            return False
        return self._set(replace(self.state, nat=replace(self.state.nat, results=results, orders=orders)))

    def set_former(self, former: bool) -> bool:
        """Set whether this node has sessions of the former pool; return whether the state is another one."""
        self._former = former
        if self.state is None or self.state.nat is None:
            return False
        return self._set(replace(self.state, nat=replace(self.state.nat, former=former)))

    def _set(self, state: NodeState) -> bool:
        if self.state is not None:
            state = replace(state, version=self.state.version)
            if state == self.state:
                return False
            state = replace(state, version=state.version + 1)
        self.state = state
        return True

    def echo_answer(self) -> EchoMessage:
        """Return what an echo is answered with, where there is no data path."""
        flags = EchoFlag.READY if self.state and self.state.ready else EchoFlag(0)
        return EchoMessage(EchoKind.ANSWER, 0, 0, flags, 0, self.boot, self._node.epochs[:2])
