# SPDX-License-Identifier: Apache-2.0
"""The agent's errors: each is one clear line (a config's: one a fault) that says what is wrong and what to do."""


class AgentError(Exception):
    """Something that the operator can mend. The CLI prints it and exits with 1."""


class ConfigError(AgentError):
    """A fault in lb.yml, with its place."""


class NotRunningError(AgentError):
    """No agent answers on the control socket. The CLI exits with 3, so that scripts can tell it from a refusal."""


class LastAnnouncerError(AgentError):
    """What was asked for would leave a VIP without any node that announces it."""
