# SPDX-License-Identifier: Apache-2.0
"""Servers that hand their listeners over themselves, on a unix socket: for an agent that may not copy them. I/O only.

A server connects (SOCK_STREAM), sends `listen\\n` with its listeners' descriptors in one message (SCM_RIGHTS), and gets
one line: `ok NAME`, its instance's, or `error: WHY`. The agent closes what it got before it answers: a copy that stays
open would keep a dead server's port open. Who a server is, is attested by the kernel (SO_PEERCRED), and `match` decides
whether it is an instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from agent.errors import AgentError
from agent.file_acl import admit_readers
from bgp.peercred import peer_pid

log = logging.getLogger("anylb")

REQUEST: Final = b"listen\n"
MAX_LISTENERS: Final = 64
"""Of one message; a server with more sends several."""
_CLIENTS: Final = 32
_TIMEOUT_S: Final = 5.0
_PAUSE_S: Final = 1.0
"""After a client that could not be accepted, because no descriptor is left."""

Take = Callable[[int, Sequence[socket.socket]], Awaitable[str]]
"""Takes listeners of a process, and returns its instance's name. Raises AgentError."""


@contextlib.asynccontextmanager
async def serve(path: Path, take: Take) -> AsyncIterator[None]:
    """Serve the socket for as long as the context lasts. One that cannot be made is logged."""
    tasks: set[asyncio.Task[None]] = set()
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(_listen(path))
        except OSError as error:
            log.error("%s: cannot listen there: %s; servers cannot hand listeners over", path, error.strerror)
            yield
            return
        stack.callback(path.unlink, missing_ok=True)
        loop = asyncio.get_running_loop()

        pause: asyncio.TimerHandle | None = None

        def listen() -> None:
            loop.add_reader(server, accept)

        def accept() -> None:
            nonlocal pause
            try:
                client, _ = server.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):  # the client still waits: this would come at once again
                    loop.remove_reader(server)
                    pause = loop.call_later(_PAUSE_S, listen)
                return
            if len(tasks) >= _CLIENTS:
                client.close()
                return
            task = loop.create_task(_answer(client, take))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        listen()
        stack.callback(loop.remove_reader, server)
        stack.callback(lambda: pause.cancel() if pause else None)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _listen(path: Path) -> socket.socket:
    """Return a listener that root uses, and the group that may read of the agent."""
    path.unlink(missing_ok=True)  # the agent's lock is held: one that is here has no server any more
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        one.bind(str(path))
        one.listen(_CLIENTS)
    except OSError:
        one.close()
        raise
    finally:
        os.umask(before)
    admit_readers(path)
    return one


async def _answer(client: socket.socket, take: Take) -> None:
    loop = asyncio.get_running_loop()
    with client, contextlib.suppress(OSError, TimeoutError):
        client.setblocking(False)
        async with asyncio.timeout(_TIMEOUT_S):
            await _readable(client)
            try:
                with contextlib.ExitStack() as stack:
                    listeners = [stack.enter_context(one) for one in _receive(client)]
                    text = f"ok {await take(peer_pid(client), listeners)}\n"
            except AgentError as error:
                text = f"error: {error}\n"
            await loop.sock_sendall(client, text.encode())


async def _readable(client: socket.socket) -> None:
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(client, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(client)


def _receive(client: socket.socket) -> list[socket.socket]:
    """Return the sockets of a request. Raises AgentError, OSError; then no descriptor is left open."""
    data, fds, flags, _ = socket.recv_fds(client, len(REQUEST) + 1, MAX_LISTENERS, socket.MSG_CMSG_CLOEXEC)
    found: list[socket.socket] = []
    try:
        for fd in fds:
            found.append(socket.socket(fileno=fd))
        if flags & socket.MSG_CTRUNC:
            raise AgentError(f"more than {MAX_LISTENERS} descriptors; send them in several connections")
        if data != REQUEST:
            raise AgentError(f"the request is not {REQUEST.decode().strip()!r} and a line's end")
        if not found:
            raise AgentError("no descriptor came with the request; send the listeners by SCM_RIGHTS")
    except BaseException as error:
        for one in found:
            one.close()
        for fd in fds[len(found) :]:
            os.close(fd)
        if isinstance(error, OSError):
            raise AgentError("a descriptor is no socket; send listeners only") from None
        raise
    return found
