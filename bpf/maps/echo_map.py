# SPDX-License-Identifier: Apache-2.0
"""What the program answers to echo questions."""

from bpf.layout.echo import EchoState
from bpf.maps.pinned_map import PinnedMap


class EchoMap:
    """The agent's part of the answer, an array of one entry."""

    def __init__(self, echo_state: PinnedMap) -> None:
        self._echo_state = echo_state

    def write(self, state: EchoState) -> None:
        """Write it. Its heartbeat ages until the next write: an agent that hangs or is gone shows in the answers."""
        self._echo_state.set_entry(0, state.pack())

    def read(self) -> EchoState:
        """Return what `write` wrote; zeros before that."""
        return EchoState.unpack(self._echo_state.entry(0))
