# SPDX-License-Identifier: Apache-2.0
"""The file of the operator's orders for VIPs.

It lies below /var/lib and outlives a reboot: a VIP that is withdrawn for an hour's repair must not be announced by a
reboot in the middle of it. So its times are wall-clock time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent import json_value, private_file
from agent.announcing.order import Order, OrderKind
from agent.json_value import WALL_S, real
from agent.model import Method

log = logging.getLogger("anylb")

MAX_BYTES = 1 << 20


def save(path: Path, orders: Iterable[Order]) -> None:
    """Write the orders and fsync them. Raises OSError."""
    private_file.make_folder(path.parent)
    listed = [
        {
            "vip": str(order.vip),
            "kind": order.kind,
            "method": order.method,
            "reason": order.reason,
            "since": order.since,
            "until": order.until,
        }
        for order in sorted(orders, key=lambda order: (str(order.vip), order.kind))
    ]
    private_file.write(path, json.dumps(listed, indent=2) + "\n", sync=True)


def load(path: Path) -> frozenset[Order]:
    """Return the orders; none if there is no file, or (logged) if it cannot be read."""
    try:
        return frozenset(_order(entry) for entry in json_value.decode(private_file.read_own(path, MAX_BYTES)))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        log.error("%s: cannot be read (%s); no order is in force now: give the orders again", path, why)
        return frozenset()


def _order(entry: dict[str, Any]) -> Order:
    until = entry["until"]
    return Order(
        ip_address(str(entry["vip"])),
        OrderKind(entry["kind"]),
        Method(entry["method"]),
        str(entry["reason"]),
        real(entry["since"], WALL_S),
        None if until is None else real(until, WALL_S),
    )
