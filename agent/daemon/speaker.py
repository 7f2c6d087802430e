# SPDX-License-Identifier: Apache-2.0
"""Has ExaBGP run the BGP part of the configuration in force: the check before a change, and what follows it.

The relay and ExaBGP live on when the agent does not, so their files are compared at each start of an agent: a change
that a dead agent left half done is finished. ExaBGP itself reads lb.yml when it starts (bgp/exabgp/speaker.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging

from agent.announcing.speaker_config import speaker_config
from agent.config.file import Loaded, read_peer_passwords
from agent.errors import AgentError
from agent.node.own_interface import local_addresses, own_interface
from agent.problem import Problem, ProblemLine
from bgp.errors import BgpError, NotReadError
from bgp.exabgp import reload as exabgp
from bgp.exabgp.config import SpeakerConfig

log = logging.getLogger("anylb")

RETRY_S = 5.0
STEP_S = 2.0
"""How long a thread waits for ExaBGP: the agent cannot end before the thread does."""
LATE_S = 150.0

LATE = Problem(
    "bgp: {error}",
    "",
    "ExaBGP runs, and has not read its new configuration in minutes. Sessions and routes stay as they were.",
)
PREVIOUS = Problem(
    "bgp: ExaBGP goes on with its previous configuration: {error}",
    "correct what it names; the agent tries again",
    "The agent runs lb.yml, and the part for BGP could not follow. Routes that are announced stay.",
)


class Speaker:
    """ExaBGP as the agent sees it: whether it has the configuration in force."""

    def __init__(self) -> None:
        self.problem: ProblemLine | None = None
        self.done = False
        """Whether ExaBGP has the configuration, or does not run."""
        self.password_digests: dict[str, str] = {}
        """Of the passwords in force, by peer."""

    async def check(self, loaded: Loaded) -> None:
        """Raise AgentError if ExaBGP would refuse the configuration, or needs a restart for it. Changes nothing."""
        try:
            await asyncio.to_thread(exabgp.check, await _settings(loaded))
        except BgpError as error:
            raise AgentError(str(error)) from None

    async def follow(self, loaded: Loaded) -> None:
        """Return once ExaBGP has the configuration. Tries again until then, and names what is in the way."""
        self.done, self.problem = False, None
        began = asyncio.get_running_loop().time()
        while True:
            try:
                settings = await _settings(loaded)
                self.password_digests = await password_digests(loaded)
                if await asyncio.to_thread(_follow_once, settings):
                    self.done, self.problem = True, None
                    return
                self.done, self.problem = True, None  # ExaBGP does not run, and will read lb.yml
            except NotReadError as error:
                if asyncio.get_running_loop().time() - began < LATE_S:
                    continue  # routes wait to be sent to a router that does not answer
                self.problem = LATE.line(error=error)
            except (AgentError, BgpError) as error:
                self.problem = PREVIOUS.line(error=error)
                self.done = True
            await asyncio.sleep(RETRY_S)


async def _settings(loaded: Loaded) -> SpeakerConfig:
    """Return ExaBGP's configuration for this node. Raises AgentError."""
    local = await local_addresses(loaded.config, await own_interface(loaded.config))
    passwords = await asyncio.to_thread(read_peer_passwords, loaded.path, loaded.config, loaded.text)
    return speaker_config(loaded.config, local, passwords)


def _follow_once(settings: SpeakerConfig) -> bool:
    """Return whether ExaBGP has these settings now; False if it does not run."""
    if not exabgp.is_running(settings):
        return False
    if not exabgp.is_current(settings):
        pid = exabgp.reload(settings, STEP_S)
        log.info("ExaBGP (pid %d) has read the changed configuration", pid)
    return True


async def password_digests(loaded: Loaded) -> dict[str, str]:
    """Return a digest of each peer's password, by the peer's address. Raises AgentError for one without."""
    passwords = await asyncio.to_thread(read_peer_passwords, loaded.path, loaded.config, loaded.text)
    named = {peer.name: str(peer.address) for peer in loaded.config.bgp.peers}
    return {named[name]: hashlib.sha256(password).hexdigest() for name, password in passwords.items()}
