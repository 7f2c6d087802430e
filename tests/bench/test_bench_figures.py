# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of `make bench`, on figures that can be checked by hand."""

from typing import Any

import pytest
from bench import figures, report, target
from bench.figures import Load, ProcessCpu

STAT = "cpu  1000 200 300 9000 50 40 60 700 11 12\ncpu0 1 1 1 1 1 1 1 1 0 0\n"


def test_a_process_is_read_whatever_its_name() -> None:
    stat = "7 (a) S 1 (b) S 42 1 1 0 -1 0 0 0 0 0 100 50 7 3 20 0 1 0 100 0"
    assert ProcessCpu.read(stat) == ProcessCpu(parent=42, own_s=1.5, children_s=0.1)


def processes(**more: ProcessCpu) -> dict[int, ProcessCpu]:
    """Init, the kernel's threads, our tree (10) and a foreign one (20)."""
    known = {
        1: ProcessCpu(0, 1.0, 5.0),
        2: ProcessCpu(0, 0.0, 0.0),
        3: ProcessCpu(2, 9.0, 0.0),
        10: ProcessCpu(1, 2.0, 0.0),
        11: ProcessCpu(10, 4.0, 0.0),
        20: ProcessCpu(1, 0.5, 1.0),
        21: ProcessCpu(20, 30.0, 2.0),
    }
    return known | {int(name[1:]): process for name, process in more.items()}


def test_foreign_work_is_all_but_our_trees_and_the_kernels() -> None:
    later = processes(
        p1=ProcessCpu(0, 1.25, 5.0), p3=ProcessCpu(2, 99.0, 0.0), p11=ProcessCpu(10, 99.0, 9.0),
        p21=ProcessCpu(20, 31.0, 2.0), p22=ProcessCpu(21, 0.5, 0.25),
    )  # fmt: skip
    assert figures.foreign_s(processes(), later, {10}) == 0.25 + 1.0 + 0.75


def test_what_an_ended_process_had_used_before_does_not_count_again() -> None:
    """It used 3 s more before it ended, and its parent waited for it: 32 s were before."""
    later = processes(p20=ProcessCpu(1, 0.5, 1.0 + 35.0))
    del later[21]
    assert figures.foreign_s(processes(), later, {10}) == 3.0


def test_the_earlier_use_of_an_ended_tree_is_subtracted_once() -> None:
    later = processes(p1=ProcessCpu(0, 1.0, 5.0 + 1.5 + 32.0 + 2.0))
    del later[20], later[21]
    assert figures.foreign_s(processes(), later, {10}) == 2.0


def test_an_ended_process_without_a_waiting_parent_subtracts_nothing() -> None:
    later = processes()
    del later[21]
    assert figures.foreign_s(processes(), later, {10}) == 0.0


def test_foreign_work_of_an_orphan_is_foreign() -> None:
    assert figures.foreign_s({}, {30: ProcessCpu(29, 1.0, 0.0)}, {10}) == 1.0


def windows() -> dict[tuple[str, int], list[float]]:
    return {
        (figures.EMPTY, 1): [20.0, 21.0, 30.0],
        ("bare", 1): [24.0, 25.0, 33.0],
        (figures.FLOOR, 1): [34.0, 35.0, 90.0],
        ("l2", 1): [54.0, 57.0, 58.0],
        ("l2", 1000): [64.0, 65.0, 400.0],
    }


def rows() -> dict[tuple[str, int], dict[str, object]]:
    wrappers = {name: {"bare": 1.0} for name in (figures.FLOOR, "l2")}
    return {(row["case"], row["flows"]): row for row in figures.xdp_rows(windows(), wrappers)}


def test_the_wrappers_own_cost_is_subtracted_and_the_loops_is_not() -> None:
    assert rows()["l2", 1] == {
        "case": "l2", "flows": 1, "ns_min": 50.0, "ns_median": 53.0, "ratio_floor": 1.67, "ratio_floor_median": 1.71,
        "ns_net": 30.0, "ratio_floor_net": 3.0,
    }  # fmt: skip


def test_a_wrapper_may_be_put_together_from_several_runs() -> None:
    """A run with two moves of the head costs 12 more than the bare one, so a case with one move contains 6 more."""
    measured = {**windows(), ("shift", 1): [36.0, 37.0, 38.0], ("ipip", 1): [90.0, 91.0, 92.0]}
    wrappers = {figures.FLOOR: {"bare": 1.0}, "l2": {"bare": 1.0}, "ipip": {"bare": 0.5, "shift": 0.5}}
    rows = {row["case"]: row for row in figures.xdp_rows(measured, wrappers) if row["flows"] == 1}
    assert (rows["ipip"]["ns_net"], rows["ipip"]["ns_min"]) == (60.0, 80.0)
    assert "ratio_floor" not in rows["shift"]


def test_the_floor_is_one_floor() -> None:
    assert rows()[figures.FLOOR, 1]["ratio_floor"] == rows()[figures.FLOOR, 1]["ratio_floor_net"] == 1.0


def test_the_loads_of_a_forward_are_a_yardstick_without_the_loop() -> None:
    """With a loop of any cost: 30 net of l2 are twice the 15 of the loads."""
    for loop in (0.0, 100.0):
        measured = {case: [ns + loop for ns in found] for case, found in windows().items()}
        measured[figures.LOADS, 1] = [39.0 + loop, 40.0 + loop]
        wrappers = {name: {"bare": 1.0} for name in (figures.FLOOR, figures.LOADS, "l2")}
        found = {(row["case"], row["flows"]): row for row in figures.xdp_rows(measured, wrappers)}
        assert found["l2", 1]["ratio_loads"] == 2.0
    assert "ratio_loads" not in rows()["l2", 1]


def test_many_flows_are_compared_with_one_flow_of_the_same_case() -> None:
    many = rows()["l2", 1000]
    assert (many["ratio_one_flow"], many["ratio_one_flow_net"]) == (1.2, 1.33)
    assert "ratio_one_flow" not in rows()["l2", 1]


def test_the_empty_program_and_the_wrapper_stay_as_measured_without_ratios() -> None:
    assert rows()[figures.EMPTY, 1] == {"case": figures.EMPTY, "flows": 1, "ns_min": 20.0, "ns_median": 21.0}
    assert rows()["bare", 1] == {"case": "bare", "flows": 1, "ns_min": 24.0, "ns_median": 25.0}


def test_a_sum_adds_the_nodes_that_a_packet_visits() -> None:
    parts = [rows()["l2", 1], rows()["l2", 1000]]
    total = figures.sum_row("both", parts, rows()[figures.FLOOR, 1])
    assert total == {
        "case": "both", "flows": 1000, "ns_min": 110.0, "ns_median": 114.0, "ratio_floor": 3.67, "ns_net": 70.0,
        "ratio_floor_net": 7.0,
    }  # fmt: skip


def load(done: int, wall_s: float, cpu_s: float, p50: float = 100.0) -> Load:
    return Load(done, wall_s, cpu_s, {"p50": p50})


def test_rates_by_the_wall_and_by_cpu_time() -> None:
    assert load(600, 2.0, 3.0).per_s == 300.0
    assert load(600, 2.0, 3.0).per_cpu_s == 200.0


def test_system_ratios_pair_the_paths_round_by_round() -> None:
    """The second round ran on a machine half as fast: medians of rates move, those of ratios do not."""
    direct = [load(1000, 1.0, 1.0), load(500, 1.0, 1.0), load(1000, 1.0, 1.0)]
    anylb = [load(900, 1.0, 1.0), load(450, 1.0, 1.0), load(450, 1.0, 1.0)]
    found = figures.system_rows({"direct": direct, "anylb": anylb}, {"direct": direct, "anylb": anylb})
    row = found[1]
    assert row["path"] == "anylb"
    assert (row["requests_per_s"], row["connections_per_cpu_s"]) == (450, 450)
    assert row["requests_per_cpu_s_ratio"] == {"direct": 0.9}
    assert row["requests_latency_us"] == {"p50": 100}
    assert (row["cpu_us_per_request"], row["cpu_us_per_request_min"]) == (2222.2, 1111.1)


def test_rounds_must_pair() -> None:
    one, two = [load(1, 1.0, 1.0)], [load(1, 1.0, 1.0)] * 2
    with pytest.raises(ValueError, match="argument 2 is longer"):
        figures.system_rows({"a": one, "b": two}, {"a": one, "b": two})


def test_the_least_disturbed_rounds_count_and_a_round_is_as_bad_as_its_worst_load() -> None:
    def one(*disturbed: float) -> figures.Round:
        return figures.Round({str(i): Load(1, 1.0, 1.0, {}, disturbed=d) for i, d in enumerate(disturbed)})

    calm, half, busy = one(0.0, 0.05), one(0.0, 0.3), one(0.5, 0.0)
    assert figures.quiet([busy, calm, half]) == [calm]
    assert figures.least_disturbed([busy, calm, half], 2) == [calm, half]


def test_min_median() -> None:
    assert figures.min_median([3.0, 1.0, 2.0, 9.0]) == {"min": 1.0, "median": 2.5}


def measured() -> dict[str, Any]:
    ratios = {"direct": 0.9, "haproxy tcp": 1.4}
    return {
        "xdp": [
            {"case": target.L2, "flows": 1, "ratio_floor": 2.3, "ratio_floor_net": 4.6, "ns_min": 20.0},
            {"case": target.L2_IPV6, "flows": 1, "ratio_floor": 2.9, "ratio_floor_net": 5.0, "ns_min": 25.0},
            {"case": target.L2, "flows": target.MANY, "ratio_floor": 9.0, "ratio_one_flow": 1.2},
            {"case": target.NOT_A_VIP, "flows": 1, "ratio_floor": 1.1},
            {"case": target.NOT_A_VIP, "flows": target.MANY, "ratio_floor": 9.0, "ratio_one_flow": 1.36},
        ],
        "system": [
            {"path": "direct", "requests_per_cpu_s_ratio": {}, "connections_per_cpu_s_ratio": {}},
            {"path": "anylb l2", "requests_per_cpu_s_ratio": ratios, "connections_per_cpu_s_ratio": ratios},
        ],
        "table": [
            {"case": "rendezvous, one added", "members": 1024, "ms_median": 4.0},
            {"case": "rendezvous, one lost", "members": 1024, "ms_median": 5.1},
            {"case": "rendezvous, one lost", "members": 16, "ms_median": 50.0},
            {"case": "maglev, from nothing", "members": 1024, "ms_median": 99.0},
        ],
        "connections": [
            {"kind": "the kernel's", "sockets": 10_000, "cpu_ms": {"min": 1.0, "median": 999.0}},
            {"kind": "the kernel's", "sockets": 100_000, "cpu_ms": {"min": 200.0, "median": 301.0}},
        ],
        "daemon": {"start_to_ready_s": {"compiled": {"min": 0.5, "median": 1.5}}},
        "sessions": {"work": [], "rest_cpu": 0.051},
    }


def test_targets_take_the_worst_case_and_both_directions() -> None:
    judged = [(one.limit, one.value, one.met) for one in target.targets(measured())]
    assert judged == [
        (2.3, 2.3, True), (4.5, 4.6, False), (1.1, 1.1, True), (1.2, 1.25, False), (1.35, 1.36, False),  # XDP, no ipip
        (0.80, 0.9, True), (1.5, 1.4, False), (0.88, 0.9, True), (1.6, 1.4, False),
        (5.0, 5.1, False), (1.5, 1.5, True), (300.0, 301.0, False), (0.05, 0.051, False),
    ]  # fmt: skip


def test_targets_of_parts_that_were_not_measured_are_left_out() -> None:
    assert target.targets({}) == []


def test_a_committed_figure_is_found_by_its_keys_and_may_be_missing() -> None:
    old = [{"case": "a", "flows": 1, "ratio": {"direct": 2.0}}, {"case": "a", "flows": 9, "ratio": {"direct": 3.0}}]
    assert report.committed_figure(old, ("case", "flows"), {"case": "a", "flows": 9}, "ratio", "direct") == 3.0
    assert report.committed_figure(old, ("case", "flows"), {"case": "a", "flows": 9}, "ratio", "haproxy") is None
    assert report.committed_figure(old, ("case", "flows"), {"case": "b", "flows": 9}, "ratio", "direct") is None


def test_nat_rows_are_net_of_the_wrapper_of_as_many_flows() -> None:
    windows = {(figures.EMPTY, 1): [20.0, 22.0], ("wrapper", 1): [30.0, 31.0], ("wrapper", 9): [35.0, 37.0]}
    windows |= {("case", 1): [70.0, 72.0], ("case", 9): [200.0, 210.0]}
    rows = figures.nat_rows(windows, {("case", 1): "wrapper", ("case", 9): "wrapper"})
    assert [row.get("ns_net") for row in rows] == [None, None, None, 40.0, 165.0]
    assert [(row["ns_min"], row.get("ns_net_median")) for row in rows[3:]] == [(60.0, 40.5), (185.0, 169.0)]
