# SPDX-License-Identifier: Apache-2.0
"""The loop of a check: services with equal checks share one probe; each keeps its own health."""

import asyncio
import socket
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from support.service import check

from agent.config.service import ServiceConfig
from agent.health.check import checks, node_problems
from agent.health.rise_fall import Health, initial_health


def service(name: str, vip: str = "127.0.0.1", **health: object) -> ServiceConfig:
    health = {"interval_s": 0.01, "rise": 1, "fall": 1, **health}
    return ServiceConfig(
        name=name, vip=IPv4Address("192.0.2.1"), protocol="tcp", port=80, health=check(**health)
    ).model_copy(update={"vip": IPv4Address(vip)})


@pytest.mark.parametrize(
    ("services", "loops"),
    [
        ([service("a"), service("b")], 1),
        ([service("a"), service("b", rise=2)], 2),
        ([service("a"), service("b", vip="127.0.0.2")], 2),
        ([service("a", address="127.0.0.1"), service("b", vip="127.0.0.2", address="127.0.0.1")], 1),
        (
            [service("a", type="http"), service("b", vip="127.0.0.2", type="http", port=81), service("c", type="http")],
            2,
        ),
        ([service(n, f"127.0.0.{i}", type="exec", command=["/x"], user="u") for i, n in enumerate("abc", 1)], 1),
    ],
)
def test_equal_checks_of_one_target_are_one(services: list[ServiceConfig], loops: int) -> None:
    made = checks(services, {}, lambda: None)
    for one in made:
        one.close()
    assert len(made) == loops


async def settle(
    services: list[ServiceConfig], healthy: list[str], expected: bool, uplinks: list[str] | None = None
) -> tuple[dict[str, Health], int]:
    """The services' health once all are as expected, and how many changes were reported on the way."""
    changes: list[None] = []
    health = initial_health([one.name for one in services], healthy, 0.0)
    tasks = [asyncio.create_task(one) for one in checks(services, health, lambda: changes.append(None), uplinks)]
    async with asyncio.timeout(60):
        while any(one.healthy is not expected for one in health.values()):
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return health, len(changes)


def test_one_probe_is_the_answer_for_all_that_share_it() -> None:
    connections = 0

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"hello")
        writer.close()

    async def main() -> int:
        async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            # After the first answer the next is a minute away.
            services = [service(name, port=port, expect="hello", interval_s=60) for name in "abc"]
            return (await settle(services, ["b"], expected=True))[1]

    assert asyncio.run(main()) == 2
    assert connections == 1


def test_a_shared_failure_changes_those_that_were_healthy() -> None:
    services = [service(name, type="udp", send="x", port=1) for name in "abc"]
    health, changes = asyncio.run(settle(services, ["a", "c"], expected=False))
    assert changes == 2
    assert health["a"].why == health["c"].why == "127.0.0.1:1: Connection refused"


def test_a_disable_file_that_cannot_be_seen_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "off"
    file.symlink_to(file)  # as a folder that the agent may not enter, which keeps out no root
    services = [service(name, type="udp", send="x", port=1, disable_file=file) for name in "ab"]
    health, _ = asyncio.run(settle(services, ["a", "b"], expected=False))
    assert health["a"].why == "127.0.0.1:1: Connection refused"
    named = [line for one in caplog.records if "disable_file" in (line := one.getMessage())]
    assert len(named) == 1
    assert named[0].startswith(f"health.disable_file: {file}: Too many levels of symbolic links: it is taken as absent")


def test_the_disable_file_disables_all_that_share_it(tmp_path: Path) -> None:
    file = tmp_path / "off"
    file.touch()
    services = [service(name, disable_file=file) for name in "ab"]
    health, _ = asyncio.run(settle(services, ["a", "b"], expected=False))
    assert {one.why for one in health.values()} == {f"disabled: {file} exists"}


@pytest.mark.parametrize(("bound", "good"), [("127.0.0.1", True), ("0.0.0.0", True), ("127.0.0.2", False)])  # noqa: S104
def test_service_needs_a_listener_of_its_own_where_there_is_a_data_path(bound: str, good: bool) -> None:
    """The check asks another port, so it succeeds."""
    with socket.create_server(("127.0.0.1", 0)) as checked, socket.create_server((bound, 0)) as served:
        port = served.getsockname()[1]
        # A busy machine answers the check within the interval.
        one = service("a", port=checked.getsockname()[1], interval_s=2).model_copy(update={"port": port})
        health, _ = asyncio.run(settle([one], [] if good else ["a"], good, ["lo"]))
        if not good:
            assert health["a"].why == (
                f"nothing in this network namespace listens on TCP 127.0.0.1:{port}: start the service; a container "
                "needs the host's network (--network host), since a published port does not suffice"
            )
            assert node_problems(health) == [f"service a: {health['a'].why}"]
            asyncio.run(settle([one], [], True))  # without a data path none is looked for
        assert good != bool(node_problems(health))


def test_any_port_needs_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as checked:
        one = service("a", port=checked.getsockname()[1]).model_copy(update={"port": "any"})
        asyncio.run(settle([one], [], True, ["lo"]))


def test_failure_of_the_service_itself_is_no_problem_of_the_node() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        one = service("a", port=bound.getsockname()[1])
        health, _ = asyncio.run(settle([one], ["a"], False, ["lo"]))
    assert "Connection refused" in health["a"].why
    assert node_problems(health) == []
