# SPDX-License-Identifier: Apache-2.0
"""The agent's errors. Each is one line (for a configuration one per fault): what is wrong, and what to do."""


class AgentError(Exception):
    """An error that the operator can correct. The CLI prints it and exits with 1."""


class ConfigError(AgentError):
    """A fault in lb.yml, with its place."""


class SettingError(AgentError):
    """A setting that this machine contradicts: `field` as `bgp.peers[0].source`, and what is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


class NotRunningError(AgentError):
    """No agent answers on the control socket. The CLI exits with 3, so scripts can distinguish it from a refusal."""


class NotPermittedError(AgentError):
    """This user may not open the control socket, so nothing is known of the agent."""


class LastAnnouncerError(AgentError):
    """The request would leave a VIP without any node that announces it."""


class HalfDoneError(AgentError):
    """A request was carried out in part: the text gives what is done, and what is not."""
