# SPDX-License-Identifier: Apache-2.0
"""While a program is replaced by one whose maps have room for another number of NAT sessions: these come along."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bpf.attach.pin_dir import PinDir
from bpf.kernel.link import link_info
from bpf.kernel.pin import open_pin
from bpf.kernel.program import program_info
from bpf.layout.map_spec import NatShape
from bpf.maps.maps import Maps
from bpf.maps.nat_maps import NatMaps
from bpf.maps.session_copy import SessionCopy
from bpf.maps.session_map import SessionMap


@dataclass(frozen=True, slots=True)
class Move:
    """That attached programs have other maps of sessions. `begun`: one with these maps is attached, too: so what these
    maps have is not written over."""

    formers: Sequence[NatShape]
    begun: bool


def pending_move(pins: PinDir, maps: Maps) -> Move | None:
    """Return how the sessions get into these maps; None if no program has others, or there are none."""
    if (shape := maps.nat_shape) is None or maps.nat is None:
        return None
    attached = _attached(pins)
    formers = [other for other in pins.others_in_sessions(maps.row_count, shape) if _runs(pins, other, attached)]
    return Move(formers, _runs(pins, shape, attached)) if formers else None


def has_all_sessions(pins: PinDir, maps: Maps) -> bool:
    """Return whether these maps have all sessions of this node, so far as any maps have."""
    if maps.nat is None or maps.nat_shape is None or not pins.others_in_sessions(maps.row_count, maps.nat_shape):
        return True
    return not maps.nat.is_moving and pending_move(pins, maps) is None


def resume_sessions(pins: PinDir, maps: Maps) -> None:
    """Have the program make sessions again, if a process that copied some has ended; merge before what both programs
    have. While programs with different maps are attached, they would give out one endpoint: then `sessions_moved` ends
    the move first. For a thread.

    Which of the maps the process copied from is not known, and need not be: those that no program has any more have
    either what a program changed last, or a copy, which is older than what it was copied from.
    """
    nat, shape = maps.nat, maps.nat_shape
    if nat is None or shape is None or not nat.is_moving:
        return
    shapes = [shape, *pins.others_in_sessions(maps.row_count, shape)]
    attached = _attached(pins)
    running = [one for one in shapes if _runs(pins, one, attached)]
    if len(running) > 1:
        return
    with contextlib.ExitStack() as opened:
        for one in running:
            target = _open(pins, maps, one, opened)
            for other in shapes:
                if other != one:
                    SessionCopy(_open(pins, maps, other, opened), target, _numbers(nat)).finish()
    nat.set_moving(False)


@contextlib.contextmanager
def sessions_moved(pins: PinDir, maps: Maps) -> Iterator[None]:
    """Copy the sessions of the attached programs into these maps, whose program is attached in the body; after the body
    no CPU may run a former one.

    A process that ends in between leaves one of the two programs with all sessions, or both: then what these maps have
    is merged. As long as no program uses them, what they have is the copy of a process that has ended: sessions may
    have ended since.
    """
    resume_sessions(pins, maps)
    sessions, nat = maps.sessions, maps.nat
    move = pending_move(pins, maps)
    if move is None or nat is None or sessions is None:
        yield
        return
    with contextlib.ExitStack() as after:
        after.callback(resume_sessions, pins, maps)  # if the body fails, some programs may have been replaced
        numbers = _numbers(nat)
        copies = [SessionCopy(_open(pins, maps, one, after), sessions, numbers) for one in move.formers]
        if not move.begun:
            copies[0].begin()
        nat.set_moving(True)
        if not move.begun:
            copies[0].follow()
        yield
        for copy in copies:
            copy.finish()
        nat.set_moving(False)


def _open(pins: PinDir, maps: Maps, shape: NatShape, until: contextlib.ExitStack) -> SessionMap:
    """Return the sessions of a layout that is pinned beside these maps, or is theirs."""
    if shape == maps.nat_shape:
        opened = maps
    else:
        folder = pins.maps(maps.row_count, shape)
        opened = until.enter_context(contextlib.closing(Maps.open(folder, maps.row_count, shape)))
    assert opened.sessions is not None
    return opened.sessions


def _numbers(nat: NatMaps) -> set[int]:
    """Return the numbers of sessions with which sessions began that go on."""
    conf = nat.conf()
    return {conf.sessions, conf.former_sessions or conf.sessions} if conf is not None else set()


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
