# SPDX-License-Identifier: Apache-2.0
"""What XDP program an interface has, whoever attached it."""

import ctypes as ct
from dataclasses import dataclass
from typing import Final

from bpf.kernel.libbpf import check, library

_ATTACHED_MODE: Final = {1: "native", 2: "generic", 3: "offload", 4: "several"}  # XDP_ATTACHED_* of linux/if_link.h


class _XdpQueryOpts(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("prog_id", ct.c_uint32),
        ("drv_prog_id", ct.c_uint32),
        ("hw_prog_id", ct.c_uint32),
        ("skb_prog_id", ct.c_uint32),
        ("attach_mode", ct.c_uint8),
    ]


@dataclass(frozen=True)
class XdpState:
    """What is attached to an interface: `mode` is None when nothing is."""

    mode: str | None
    prog_id: int


def xdp_state(ifindex: int) -> XdpState:
    """Return what XDP program an interface of this network namespace has."""
    options = _XdpQueryOpts(sz=ct.sizeof(_XdpQueryOpts))
    check(library().bpf_xdp_query(ifindex, 0, ct.byref(options)), f"cannot query XDP on interface {ifindex}")
    mode = _ATTACHED_MODE.get(options.attach_mode)
    number = options.prog_id or options.drv_prog_id or options.skb_prog_id or options.hw_prog_id
    return XdpState(mode, number)
