# SPDX-License-Identifier: Apache-2.0
"""The options of the whole suite, and which tests run side by side (pytest-xdist).

pytest reads options from the topmost conftest only.
"""

import gc
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.interop_table import write_interop

LONGEST_FIRST = (
    "tests/bpf/program/test_next_hop.py",
    "tests/cluster/membership_cluster/",
    "tests/cluster/nat_cluster/",
    "tests/proof/test_cluster_stories.py",
    "tests/cluster/node_agent/",
    "tests/cluster/test_silence.py",
    "tests/proof/test_claim_stories.py",
    "tests/cluster/test_announce.py",
    "tests/cluster/test_epochs.py",
    "tests/topology/demo/test_demo.py",
    "tests/bpf/compiler/test_build.py",
    "tests/cluster/test_claims.py",
    "tests/cluster/operator_cluster/",
    "tests/cluster/test_units.py",
    "tests/proof/test_generated.py",
    "tests/cluster/test_interop.py",
    "tests/bgp/bfd/test_process.py",
    "tests/proof/test_next_hop_walk.py",
    "tests/cluster/test_forward_change.py",
    "tests/cluster/test_two_routers.py",
    "tests/agent/membership/test_view_agreement.py",
    "tests/cluster/test_routed.py",
    "tests/bgp/exabgp/test_reload_lab.py",
    "tests/bgp/relay/test_routers_lab.py",
    "tests/agent/handover/test_cluster.py",
    "tests/bgp/bfd/test_bfd_lab.py",
    "tests/bgp/exabgp/test_session_down_lab.py",
    "tests/agent/forwarding/test_route_monitor.py",
    "tests/agent/table/test_maglev.py",
    "tests/bpf/attach/test_datapath_replacement.py",
    "tests/cluster/test_uplinks.py",
    "tests/cluster/test_instances.py",
    "tests/agent/table/test_rendezvous.py",
    "tests/proof/test_live_changes.py",
    "tests/agent/instances/test_disturbed.py",
    "tests/agent/channel/test_convergence.py",
    "tests/proof/test_fixtures.py",
    "tests/agent/liveness/test_simulation.py",
    "tests/proof/test_silent_walk.py",
    "tests/proof/test_nat_claims.py",
    "tests/bgp/router/test_filters_lab.py",
    "tests/bpf/attach/test_egress.py",
    "tests/agent/forwarding/test_answer_monitor.py",
    "tests/bgp/exabgp/test_session_mismatch_lab.py",
    "tests/bgp/exabgp/test_session_options_lab.py",
    "tests/topology/traffic/test_tcp.py",
    "tests/bgp/bfd/test_session_kinds_lab.py",
    "tests/bpf/attach/test_datapath.py",
    "tests/topology/lab/test_lab.py",
    "tests/topology/lab/test_record.py",
    "tests/cluster/test_fragments.py",
)
"""A run ends soon after its last test begins: these begin first. One file of tests/bpf/program begins its group.

Labs wait half of the time, and every other one of these computes all the time: side by side they use the CPUs evenly.
"""

settings.register_profile("test", deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""How long an example takes is no matter: others may have the CPUs."""
settings.load_profile("test")
settings.register_profile("check", max_examples=10)
"""`make check`: a tenth of the examples of `make test`, where a test has no number of its own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--generated",
        type=int,
        default=20_000,
        metavar="N",
        help="number of generated packets on which the oracle and the program are compared",
    )
    parser.addoption(
        "--raced-sessions",
        type=int,
        default=50_000,
        metavar="N",
        help="number of SYNs for which two CPUs make NAT sessions while the agent's code ends them",
    )
    parser.addoption(
        "--demo-router",
        choices=("bird", "frr"),
        default="bird",
        help="router of the demo",
    )
    parser.addoption("--whole-demo", action="store_true", help="run all steps of the demo, not those of `make test`")
    parser.addoption(
        "--nat-sessions",
        type=int,
        default=10_000,
        metavar="N",
        help="number of NAT sessions that two CPUs make in the same buckets",
    )
    parser.addoption(
        "--echo-load-s",
        type=int,
        default=10,
        metavar="S",
        help="seconds for which the echo is watched for false alarms under full load (600 for a figure to quote)",
    )
    parser.addoption(
        "--story-seeds",
        type=int,
        default=0,
        metavar="N",
        help="for how many seeds and sizes the cluster's stories are played with lost datagrams",
    )
    parser.addoption(
        "--bfd-rounds",
        type=int,
        default=1,
        metavar="N",
        help="number of silent failures that each router's BFD must detect",
    )
    parser.addoption(
        "--bfd-load-s",
        type=int,
        default=5,
        metavar="S",
        help="seconds for which BFD is watched for false alarms under full load (600 for a figure to quote)",
    )
    parser.addoption(
        "--channel-histories",
        type=int,
        default=100,
        metavar="N",
        help="number of generated histories after which the nodes' channels must agree",
    )
    parser.addoption(
        "--echo-scale",
        type=int,
        default=1,
        metavar="N",
        help="factor of the deaths and the time in simulations of the echo (20 for figures to quote)",
    )

    parser.addoption(
        "--churn-seeds",
        type=int,
        default=0,
        metavar="N",
        help="for how many seeds a cluster in a lab has a minute of churn, with claims and without",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "churn_seed" in metafunc.fixturenames:
        metafunc.parametrize("churn_seed", range(1, 1 + metafunc.config.getoption("--churn-seeds")))


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave modules and items out of later garbage collections: a full one would take 0.1 s, a dozen times."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}

    def rank_of(item: pytest.Item) -> int:
        file = item.nodeid.split("::")[0]
        return rank.get(file, rank.get(file.rpartition("/")[0] + "/", len(rank)))

    items.sort(key=rank_of)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from support.parallel import ByGroup  # a run without workers has no use for the modules that this imports

    config.option.loadscopereorder = False  # it would begin with the files of the most tests
    return ByGroup(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        from support.parallel import report_less

        report_less(session.config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write_interop(terminalreporter)
