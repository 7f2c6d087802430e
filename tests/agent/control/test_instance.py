# SPDX-License-Identifier: Apache-2.0
"""Numbers in requests about instances: out of range, or no numbers, they are refused as the client's fault."""

import asyncio
import inspect
from types import SimpleNamespace
from typing import cast

import pytest

from agent.control import instance
from agent.control.http_server import Request
from agent.errors import AgentError
from agent.instances.keeper import InstanceKeeper


@pytest.mark.parametrize("text", ["", "-1", "1.5", "٣", "²", "9" * 11, "9" * 5000])
@pytest.mark.parametrize(("path", "field"), [("/instances/weight", "weight"), ("/instances/add", "pid")])
def test_bad_number_is_refused(path: str, field: str, text: str) -> None:
    keeper = SimpleNamespace(requests=SimpleNamespace(weight=None, add=None))
    handler = instance.routes(cast(InstanceKeeper, keeper))[("POST", path)]

    async def ask() -> None:
        answer = handler(Request("POST", path, {"name": "a", field: text}))
        if inspect.isawaitable(answer):
            await answer

    with pytest.raises(AgentError, match=f"{field}: '.*' is not a number of at most 10 digits") as caught:
        asyncio.run(ask())
    assert len(str(caught.value)) < 100
