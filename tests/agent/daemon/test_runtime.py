# SPDX-License-Identifier: Apache-2.0
"""The heap that is exempt from garbage collection does not grow with each reload."""

import weakref

from agent.daemon.runtime import freeze_heap


class Agent:
    """An agent, as far as the collector is concerned: an object that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_the_agent_before_a_reload_is_freed() -> None:
    agent = Agent()
    before = weakref.ref(agent)
    freeze_heap()
    agent = Agent()
    freeze_heap()
    assert before() is None
    assert agent.itself
