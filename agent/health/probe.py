# SPDX-License-Identifier: Apache-2.0
"""Asking the local service whether it serves: one TCP connection or HTTP request through the VIP. I/O only.

The VIP is the source too: were it gone from lo, the question would else leave for another server, and its answer pass
for ours.
"""

from __future__ import annotations

import asyncio
import contextlib

from agent.address import Address, endpoint
from agent.config.service import HealthConfig
from agent.health.http_get import HttpError, get_status


async def ask(vip: Address, port: int, check: HealthConfig) -> tuple[bool, str]:
    """(whether the answer was good, what it was). Never raises for what a service may do."""
    asked = endpoint(vip, port)
    try:
        async with asyncio.timeout(check.timeout_s):
            if check.type == "http":
                return await _http(vip, port, check.path)
            return await _tcp(vip, port)
    except TimeoutError:
        return False, f"no answer on {asked} in {check.timeout_s:g} s"
    except OSError as error:
        return False, f"{asked}: {error.strerror or error}"
    except HttpError as error:
        return False, f"{asked}: {error}"


async def _tcp(vip: Address, port: int) -> tuple[bool, str]:
    _, writer = await asyncio.open_connection(str(vip), port, local_addr=(str(vip), 0))
    writer.close()
    await writer.wait_closed()
    return True, f"{endpoint(vip, port)} accepts connections"


async def _http(vip: Address, port: int, path: str) -> tuple[bool, str]:
    """200 to 399 is good, a redirect not followed: it was the service that answered."""
    asked = endpoint(vip, port)
    reader, writer = await asyncio.open_connection(str(vip), port, local_addr=(str(vip), 0))
    with contextlib.closing(writer):
        status = await get_status(reader, writer, path, asked)
    return status < 400, f"http://{asked}{path} answers {status}"
