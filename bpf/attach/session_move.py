# SPDX-License-Identifier: Apache-2.0
"""While a program is replaced by one whose maps have room for another number of NAT sessions: these come along."""

import contextlib
import os
from collections.abc import Iterator

from bpf.attach.pin_dir import PinDir
from bpf.kernel.link import link_info
from bpf.kernel.pin import open_pin
from bpf.kernel.program import program_info
from bpf.layout.map_spec import NatShape
from bpf.maps.maps import Maps
from bpf.maps.session_copy import SessionCopy


@contextlib.contextmanager
def sessions_moved(pins: PinDir, maps: Maps) -> Iterator[None]:
    """Copy the sessions of the attached program into these maps, whose program is attached in the body; after the body
    no CPU may run the former one. Nothing is to be done if it has these very sessions, or there is none.

    A process that ends in between leaves one of the two programs attached, with all sessions.
    """
    shape, sessions, nat = maps.nat_shape, maps.sessions, maps.nat
    conf = nat.conf() if nat else None
    attached = _attached(pins)
    others = pins.others_in_sessions(maps.row_count, shape) if shape else []
    former = next((other for other in others if _runs(pins, other, attached)), None)
    if former is None or shape is None or nat is None or sessions is None or conf is None:
        yield
        return
    with contextlib.ExitStack() as after:
        folder = pins.maps(maps.row_count, former)
        replaced = after.enter_context(contextlib.closing(Maps.open(folder, maps.row_count, former)))
        assert replaced.sessions is not None
        copy = SessionCopy(replaced.sessions, sessions, {conf.sessions, conf.former_sessions or conf.sessions})
        after.callback(nat.set_moving, False)
        # Both programs are attached if a process ended between two uplinks: what these maps have is not written over.
        both = _runs(pins, shape, attached)
        if not both:
            copy.follow()
        nat.set_moving(True)
        if not both:
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
