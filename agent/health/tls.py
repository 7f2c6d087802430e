# SPDX-License-Identifier: Apache-2.0
"""TLS over a connection, for one probe. The protocol is OpenSSL's; the certificates to trust are read once."""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agent.health.connection import READ_SIZE, Channel
from agent.health.failure import ProbeFailed

Result = TypeVar("Result")


class TlsConnection:
    """A connection over another, which carries the records."""

    def __init__(self, below: Channel, context: ssl.SSLContext, server_name: str | None) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    async def handshake(self) -> None:
        """Agree on keys and check the certificate. Raises ssl.SSLError, OSError, ProbeFailed."""
        await self._until_done(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError."""
        await self._until_done(lambda: self._tls.write(data))

    async def receive(self) -> bytes:
        """Return the next bytes, none at the end. Raises OSError, ProbeFailed."""
        try:
            return await self._until_done(lambda: self._tls.read(READ_SIZE))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def _until_done(self, step: Callable[[], Result]) -> Result:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._below.receive()
                self._incoming.write(data) if data else self._incoming.write_eof()
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # the alert, so that the service can log why
                    await self._flush()
                raise
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._below.send(self._outgoing.read())


def context_of(verify: bool, ca_file: Path | None) -> ssl.SSLContext:
    """Return what a connection needs to be checked; a changed file is read again. Raises ProbeFailed."""
    if ca_file is None:
        return _context(verify, None, 0)
    try:
        found = os.stat(ca_file)
        if not stat.S_ISREG(found.st_mode):  # a FIFO would stop the agent
            raise ProbeFailed(f"{ca_file} is not a file")
        return _context(verify, ca_file, found.st_mtime_ns)
    except ssl.SSLError:
        raise ProbeFailed(f"{ca_file} contains no certificate in PEM") from None
    except OSError as error:
        raise ProbeFailed(f"{ca_file}: {error.strerror}") from None


@functools.lru_cache(maxsize=150)
def _context(verify: bool, ca_file: Path | None, _changed: int) -> ssl.SSLContext:
    if verify:
        return ssl.create_default_context(cafile=ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def why(error: ssl.SSLError) -> str:
    """Return an error in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "TLS: the connection was closed"
    return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
