# SPDX-License-Identifier: Apache-2.0
"""The agent's errors. Each is one line (for a configuration one per fault): what is wrong, and what to do."""


class AgentError(Exception):
    """An error that the operator can correct. The CLI prints it and exits with 1."""


class ConfigError(AgentError):
    """A fault in lb.yml, with its place."""


class NotRunningError(AgentError):
    """No agent answers on the control socket. The CLI exits with 3, so scripts can distinguish it from a refusal."""


class LastAnnouncerError(AgentError):
    """The request would leave a VIP without any node that announces it."""
