# SPDX-License-Identifier: Apache-2.0
"""Changes of the configuration: which one runs, until when without a confirmation, and what is in the way of lb.yml.

lb.yml is the truth: it starts at the next boot, and ExaBGP reads it when it starts. So a change that is taken back,
by an operator or because it was not confirmed in time, is taken out of lb.yml too (change/history_file.py). What is
wrong with lb.yml, or with ExaBGP's part of it, is a problem of the node until it is mended.

Owns the order and the I/O. The decisions are agent/change's; the hand-over to the next agent is lifecycle.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from agent.change import file_state, history_file
from agent.change.difference import Change, differences
from agent.change.file_state import Found, Refusal
from agent.change.history import History, awaiting, confirmed, gone_back, started
from agent.config.file import Loaded, read_text
from agent.daemon.lifecycle import Lifecycle
from agent.daemon.speaker import Speaker, password_digests
from agent.errors import AgentError, HalfDoneError
from agent.node.agent import Agent
from agent.problem import Problem, ProblemLine
from agent.tick import sleep_until_next

log = logging.getLogger("anylb")

WATCH_S = 0.5
DEADLINE_S = 0.25
RETRY_S = 10.0

UNCONFIRMED = Problem(
    "a change waits for its confirmation: at {at} the previous configuration returns",
    "`lbctl config confirm` if all is well, else `lbctl config undo`",
    "`lbctl config apply --timeout` was used on this node ([changing](changing.md)).",
)
UNSAVED = Problem(
    "{error}: a restart would not know which change waits, nor what to go back to",
    "make room",
    "The history of configurations cannot be written; the agent tries again.",
)
NOT_TAKEN_BACK = Problem(
    "the change was not confirmed, and cannot be taken back: {error}",
    "correct what it names; the agent tries again, or `lbctl config undo`",
    "The new configuration still runs, though its time is over.",
)


class Changes:
    """The configuration in force, and the operator's requests to change it."""

    def __init__(self, lifecycle: Lifecycle, load: Callable[[str | None], Loaded], path: Path) -> None:
        """`load` checks a text of lb.yml, or reads the file. `path`: where the history is."""
        self._lifecycle, self._load, self._path = lifecycle, load, path
        self._history = history_file.load(path)
        self._deadline = self._deadline_of(self._history)
        self._refusal: Refusal | None = None
        self._file_line: ProblemLine | None = None
        self._back_problem: ProblemLine | None = None
        self._unsaved: ProblemLine | None = None
        self._changing = asyncio.Lock()
        self._speaker = Speaker()
        self._following: asyncio.Task[None] | None = None
        self.agent: Agent | None = None
        """The current one."""

    @staticmethod
    def _deadline_of(history: History) -> float | None:
        """Return when the change ends, by the monotonic clock, which does not jump."""
        return time.monotonic() + history.pending.remaining_s(time.time()) if history.pending else None

    # What the lifecycle reports

    def started(self, agent: Agent) -> None:
        """Take note that an agent runs the lifecycle's configuration; have ExaBGP run it too."""
        last, loaded = self.agent, self._lifecycle.current
        self.agent = agent
        agent.generation = self._lifecycle.generation
        same = last is not None and not differences(last.config, loaded.config)
        if (new := started(self._history, loaded.text, same=same)) != self._history:
            self._keep(new)
        if self._following is not None:
            self._following.cancel()
        self._following = asyncio.get_running_loop().create_task(self._speaker.follow(loaded))

    def cannot_run(self, loaded: Loaded, why: str) -> None:
        """Take note that the agent of a new configuration could not start: the previous one runs on."""
        self._refusal = Refusal(loaded.text, why)
        if self._history.pending is not None:
            self._deadline = None
            self._keep(confirmed(self._history))

    @property
    def refused(self) -> str | None:
        """Why the last change was refused; None once it is mended."""
        return self._refusal.why if self._refusal else None

    @property
    def settled(self) -> bool:
        """Whether ExaBGP has its part, or does not run."""
        return self._speaker.done

    @property
    def speaker_problem(self) -> ProblemLine | None:
        """Why ExaBGP does not have its part; None if it has."""
        return self._speaker.problem

    def problems(self) -> tuple[ProblemLine, ...]:
        """Return what is in the way of lb.yml, one line each."""
        lines = [self._file_line, self._back_problem, self._unsaved, self._speaker.problem]
        if self._history.pending is not None and self._back_problem is None:
            at = time.strftime("%H:%M:%S", time.localtime(self._history.pending.until))
            lines.insert(0, UNCONFIRMED.line(at=at))
        return tuple(line for line in lines if line)

    # Requests

    async def read(self) -> tuple[Loaded, tuple[Change, ...]]:
        """Read lb.yml; return it, and what it would change. Raises AgentError for a fault in it."""
        loaded = await asyncio.to_thread(self._load, None)
        return loaded, await self._differences(loaded)

    async def apply(self, timeout_s: float | None, force: bool = False) -> int:
        """Apply lb.yml, with `timeout_s` until then unless it is confirmed; return the generation.

        AgentError: it is refused, nothing changes. With `force` it is not refused for connections that are lost.
        """
        async with self._changing:
            self._require_none_pending()
            before = self._history
            text: str | None = None
            loaded: Loaded | None = None
            try:
                text = await asyncio.to_thread(read_text, self._lifecycle.current.path)
                loaded = await asyncio.to_thread(self._load, text)
                if timeout_s is not None:
                    self._await_confirmation(timeout_s)
                generation = await self._replace(loaded, force)
            except AgentError as error:
                self._refusal = Refusal(text, str(error), in_file=loaded is None)
                if self._history.pending is not before.pending:
                    self._deadline = None
                    self._keep(before)
                await self._look()
                raise
            self._refusal = None
            return generation

    def _await_confirmation(self, timeout_s: float) -> None:
        history_file.require_writable(self._lifecycle.current.path)
        new = awaiting(self._history, self._lifecycle.current.text, time.time(), timeout_s)
        history_file.save(self._path, new)
        self._history, self._deadline = new, self._deadline_of(new)

    def confirm(self) -> None:
        """Let the change stay. AgentError: none waits, or that cannot be saved, so it still returns."""
        if self._history.pending is None:
            raise AgentError("no change waits for a confirmation")
        history_file.save(self._path, confirmed(self._history))
        self._history, self._deadline = confirmed(self._history), None

    async def undo(self, force: bool = False) -> int:
        """Have the configuration before the last change run, and lb.yml contain it. AgentError: nothing changes."""
        async with self._changing:
            if self._history.pending is not None:
                return await self._go_back(self._history.pending.previous, force)
            if not self._history.previous:
                raise AgentError("no earlier configuration is known: nothing to go back to")
            return await self._go_back(self._history.previous[0], force)

    async def reload_by_signal(self) -> None:
        """Reload, and log why it was refused: a signal has no answer."""
        try:
            await self.apply(None)
        except AgentError as error:
            for line in str(error).splitlines():
                log.error("not reloaded: %s", line)

    def _require_none_pending(self) -> None:
        if self._history.pending is not None:
            left = self._history.pending.remaining_s(time.time())
            steps = "`lbctl config confirm` or `lbctl config undo` first"
            raise AgentError(f"an earlier change waits for a confirmation, {left:.0f} s more; {steps}")

    async def _go_back(self, text: str, force: bool) -> int:
        generation = self._lifecycle.generation
        path = self._lifecycle.current.path
        if self._lifecycle.current.text != text:  # else it runs again already, and only the file is missing
            generation = await self._replace(await asyncio.to_thread(self._load, text), force)
        # No await until the end: the next agent must find it done.
        try:
            history_file.restore(path, text)
        except AgentError as error:
            raise HalfDoneError(f"the previous configuration runs again, but is not in lb.yml: {error}") from None
        self._refusal = self._back_problem = self._deadline = None
        self._keep(gone_back(self._history, text))
        return generation

    async def _replace(self, loaded: Loaded, force: bool) -> int:
        if not force and self.agent is not None:
            why = await asyncio.to_thread(self.agent.nat.refusal, loaded.config)
            if why is not None:
                raise AgentError(why)
        await self._speaker.check(loaded)
        return await self._lifecycle.replace(loaded)

    def _keep(self, new: History) -> None:
        """Save what is so already; while that fails it is a problem."""
        self._history = new
        try:
            history_file.save(self._path, new)
            self._unsaved = None
        except AgentError as error:
            self._unsaved = UNSAVED.line(error=error)

    # Tasks

    def stop(self) -> None:
        """End what runs for the last agent."""
        if self._following is not None:
            self._following.cancel()

    def tasks(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return what must run as long as the process, whichever agent does."""
        return self._watch_deadline(), self._watch_file()

    async def _watch_deadline(self) -> None:
        """Go back at the deadline; try again while that is refused."""
        while True:
            await sleep_until_next(DEADLINE_S)
            if self._deadline is None or time.monotonic() < self._deadline or self.agent is None:
                continue
            async with self._changing:
                if (pending := self._history.pending) is None:
                    continue
                log.warning("the change was not confirmed in time: returning to the previous configuration")
                try:
                    await self._go_back(pending.previous, force=True)
                except AgentError as error:
                    self._back_problem = NOT_TAKEN_BACK.line(error=error)
                    log.error("%s", self._back_problem)
                    self._deadline = time.monotonic() + RETRY_S

    async def _watch_file(self) -> None:
        """Compare lb.yml, and the files that it names, with what runs whenever one changes, or is not right yet."""
        seen: object = None
        while True:
            if self._unsaved:
                self._keep(self._history)
            current = self._lifecycle.current
            stamp = (current, *(_stamp(path) for path in _files(current)))
            if stamp != seen or self._file_line is not None:
                seen = stamp
                await self._look()
            await sleep_until_next(WATCH_S)

    async def _look(self) -> None:
        """Bring the line about lb.yml up to date."""
        path = self._lifecycle.current.path
        text: str | None = None
        try:
            text = await asyncio.to_thread(read_text, path)
            loaded = await asyncio.to_thread(self._load, text)
            found = Found(text, changes=await self._differences(loaded))
        except AgentError as error:
            found = Found(text, str(error))
        if self._refusal is not None and file_state.is_mended(self._refusal, found):
            self._refusal = None
        self._file_line = file_state.line(str(path), found, self._refusal)

    async def _differences(self, loaded: Loaded) -> tuple[Change, ...]:
        now = await password_digests(loaded)
        return differences(self._lifecycle.current.config, loaded.config, self._speaker.password_digests, now)


def _files(loaded: Loaded) -> list[Path]:
    """Return lb.yml and the key and password files that the configuration in force names."""
    config, folder = loaded.config, loaded.path.parent
    previous = config.table.previous.key_file if config.table.previous else None
    named = [config.members.key_file, config.table.key_file, previous, *(p.password_file for p in config.bgp.peers)]
    return [loaded.path, *(folder / file for file in named if file is not None)]


def _stamp(path: Path) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode, status.st_uid
    return None
