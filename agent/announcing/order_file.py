# SPDX-License-Identifier: Apache-2.0
"""The file of the operator's orders for VIPs.

It lies below /var/lib and outlives a reboot: what was taken back for an hour's repair must not be announced by the
reboot in the middle of it. Hence its times are of the wall clock.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.announcing.decide import Order, OrderKind
from agent.model import Method

log = logging.getLogger("anylb")


def save(path: Path, orders: Iterable[Order]) -> None:
    """Keep the operator's orders, on the disk when this returns. Raises OSError."""
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
    """The operator's orders; none where there is no file. One that cannot be read is logged, and counts as none."""
    try:
        return frozenset(_order(entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("%s: cannot be read (%s); no VIP is held back by an order now: give the orders again", path, error)
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
