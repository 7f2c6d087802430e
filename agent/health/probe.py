# SPDX-License-Identifier: Apache-2.0
"""One probe of the local service: a TCP connection or an HTTP request through the VIP. I/O only.

The VIP is the source too: without it on lo the probe would otherwise leave for another server, and that server's
answer would count for this one.
"""

from __future__ import annotations

import asyncio
import contextlib

from agent.address import Address, endpoint
from agent.config.service import HealthConfig
from agent.health.http_get import HttpError, get_status


async def probe(vip: Address, port: int, check: HealthConfig) -> tuple[bool, str]:
    """Return whether the answer was good, and what it was. Nothing that a service does raises an error."""
    target = endpoint(vip, port)
    try:
        async with asyncio.timeout(check.timeout_s):
            if check.type == "http":
                return await _http(vip, port, check.path)
            return await _tcp(vip, port)
    except TimeoutError:
        return False, f"no answer on {target} in {check.timeout_s:g} s"
    except OSError as error:
        return False, f"{target}: {error.strerror or error}"
    except HttpError as error:
        return False, f"{target}: {error}"


async def _tcp(vip: Address, port: int) -> tuple[bool, str]:
    _, writer = await asyncio.open_connection(str(vip), port, local_addr=(str(vip), 0))
    writer.close()
    await writer.wait_closed()
    return True, f"{endpoint(vip, port)} accepts connections"


async def _http(vip: Address, port: int, path: str) -> tuple[bool, str]:
    """Make an HTTP request; 200 to 399 is good. A redirect is not followed: it is the service itself that answered."""
    target = endpoint(vip, port)
    reader, writer = await asyncio.open_connection(str(vip), port, local_addr=(str(vip), 0))
    with contextlib.closing(writer):
        status = await get_status(reader, writer, path, target)
    return status < 400, f"http://{target}{path} answers {status}"
