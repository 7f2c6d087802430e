# SPDX-License-Identifier: Apache-2.0
"""While a program is replaced by one whose maps have room for another number of NAT sessions: these come along."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from bpf.attach.pin_dir import PinDir
from bpf.kernel.link import link_info
from bpf.kernel.pin import open_pin
from bpf.kernel.program import program_info
from bpf.layout.map_spec import NatShape
from bpf.maps.maps import Maps
from bpf.maps.session_copy import SessionCopy


@dataclass(frozen=True, slots=True)
class Move:
    """That the program in use has other maps of sessions. `begun`: one with these maps is attached, too, or alone since
    a process ended before it had merged what both changed. So what these maps have is not written over."""

    former: NatShape
    begun: bool


def pending_move(pins: PinDir, maps: Maps) -> Move | None:
    """Return how the sessions get into these maps; None if they have all of them, or there are none."""
    if (shape := maps.nat_shape) is None or maps.nat is None:
        return None
    attached, others = _attached(pins), pins.others_in_sessions(maps.row_count, shape)
    begun = _runs(pins, shape, attached)
    for other in others:
        if _runs(pins, other, attached):
            return Move(other, begun)
    return Move(others[0], begun) if begun and maps.nat.is_moving and len(others) == 1 else None


def resume_sessions(pins: PinDir, maps: Maps) -> None:
    """Have the program make sessions again, if a process that copied some has ended. Once a move has begun, two
    programs would give out one endpoint: then `sessions_moved` ends it first."""
    if maps.nat is not None and not ((move := pending_move(pins, maps)) and move.begun):
        maps.nat.set_moving(False)


@contextlib.contextmanager
def sessions_moved(pins: PinDir, maps: Maps) -> Iterator[None]:
    """Copy the sessions of the attached program into these maps, whose program is attached in the body; after the body
    no CPU may run the former one.

    A process that ends in between leaves one of the two programs with all sessions, or both: then what these maps have
    is merged. As long as no program uses them, what they have is the copy of a process that has ended: sessions may
    have ended since.
    """
    sessions, nat = maps.sessions, maps.nat
    move, conf = pending_move(pins, maps), nat.conf() if nat else None
    if move is None or nat is None or sessions is None or conf is None:
        yield
        return
    with contextlib.ExitStack() as after:
        folder = pins.maps(maps.row_count, move.former)
        replaced = after.enter_context(contextlib.closing(Maps.open(folder, maps.row_count, move.former)))
        assert replaced.sessions is not None
        copy = SessionCopy(replaced.sessions, sessions, {conf.sessions, conf.former_sessions or conf.sessions})
        after.callback(nat.set_moving, False)
        if not move.begun:
            copy.begin()
        nat.set_moving(True)
        if not move.begun:
            copy.follow()
        yield
        copy.finish()


def _attached(pins: PinDir) -> set[int]:
    """Return the kernel's ids of the attached programs."""
    found = set()
    for path in pins.links():
        if (link := open_pin(path)) is not None:
            found.add(link_info(link).prog_id)
            os.close(link)
    return found


def _runs(pins: PinDir, shape: NatShape, attached: set[int]) -> bool:
    """Return whether a program for so many sessions is among the attached ones."""
    for path in pins.programs(shape):
        if (program := open_pin(path)) is not None:
            number = program_info(program).id
            os.close(program)
            if number in attached:
                return True
    return False
