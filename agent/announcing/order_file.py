# SPDX-License-Identifier: Apache-2.0
"""The file of the operator's orders for VIPs.

It lies below /var/lib and outlives a reboot: a VIP that is withdrawn for an hour's repair must not be announced by a
reboot in the middle of it. So its times are wall-clock time.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.announcing.order import Order, OrderKind
from agent.model import Method

log = logging.getLogger("anylb")


def save(path: Path, orders: Iterable[Order]) -> None:
    """Write the orders and fsync them. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
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
    aside = path.with_suffix(".new")
    with aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(listed, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def load(path: Path) -> frozenset[Order]:
    """Return the orders; none if there is no file, or (logged) if it cannot be read."""
    try:
        return frozenset(_order(entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("%s: cannot be read (%s); no order is in force now: give the orders again", path, error)
        return frozenset()


def _order(entry: dict[str, Any]) -> Order:
    until = entry["until"]
    return Order(
        ip_address(entry["vip"]),
        OrderKind(entry["kind"]),
        Method(entry["method"]),
        str(entry["reason"]),
        float(entry["since"]),
        None if until is None else float(until),
    )
