# SPDX-License-Identifier: Apache-2.0
"""lbctl doctor on traffic: paths that lose large packets, and connections that this machine resets."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.doctor.facts import TcpCount
from agent.doctor.findings import State
from agent.doctor.path_mtu import largest_answered
from agent.doctor.tcp_count import read_tcp_count
from agent.doctor.traffic_findings import path_findings, reset_finding

B1, B2, B3 = (ip_address(f"10.0.0.{number}") for number in (11, 12, 13))


def test_paths_are_narrow_silent_or_well() -> None:
    narrow, silent, well = path_findings({B1: 1500, B2: 1400, B3: None}, 1500)
    assert (narrow.subject, narrow.state) == ("path to 10.0.0.12", State.FAILED)
    assert "a packet of 1500 bytes is lost, one of 1400 arrives" in narrow.text
    assert (silent.state, silent.text) == (State.SKIPPED, "10.0.0.13: no answer to a ping")
    assert (well.state, well.text) == (State.OK, "1 nodes and routers answer packets of 1500 bytes")
    assert [one.state for one in path_findings({B1: 1500}, 1500)] == [State.OK]


@pytest.mark.parametrize(
    ("after", "state"),
    [
        (TcpCount(110, 21), State.OK),  # 1 of 10
        (TcpCount(120, 25), State.WARNING),
        (TcpCount(180, 25), State.OK),  # too few of 80
        (TcpCount(100, 30), State.WARNING),  # none accepted: to a port where no server listens
    ],
)
def test_resets_count_by_number_and_share(after: TcpCount, state: State) -> None:
    assert reset_finding(TcpCount(100, 20), after, 1.0).state is state


def test_counts_that_are_not_there_are_no_good_finding() -> None:
    assert reset_finding(None, TcpCount(1, 1), 1.0).state is State.SKIPPED


def test_the_kernels_counts(tmp_path: Path) -> None:
    assert read_tcp_count() is not None
    file = tmp_path / "snmp"
    file.write_text("Tcp: PassiveOpens OutRsts\nTcp: 7 3\n")
    assert read_tcp_count(file) == TcpCount(7, 3)
    file.write_text("Tcp: PassiveOpens\n")
    assert read_tcp_count(file) is None


def test_this_machine_answers_itself() -> None:
    """Over IPv4 and IPv6, in packets of any size up to the MTU asked for."""
    here = ip_address("127.0.0.1"), ip_address("::1")
    try:
        assert largest_answered(here, 1500) == dict.fromkeys(here, 1500)
    except PermissionError:
        pytest.skip("pings take root")
