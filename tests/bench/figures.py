# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the figures: minima, medians, ratios, CPU time without the host's steal. Pure.

Machines that measure this are shared and noisy: subjects of a comparison are measured in turn in one run, and quoted as
minimum, median and ratio, never as one run's rate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

TICKS_PER_S: Final = 100
"""USER_HZ, the unit of /proc/stat and /proc/PID/stat on every Linux."""

QUIET: Final = 0.1
"""Rounds in which foreign work took at most this part of the machine's time are quiet."""

EMPTY: Final = "empty program"
FLOOR: Final = "floor"
LOADS: Final = "floor with the loads of a forward"
DIRECT: Final = "direct"


@dataclass(frozen=True)
class Cpu:
    """Seconds of all CPUs together since boot: busy, and taken by the host while there was work (steal)."""

    busy_s: float
    stolen_s: float

    @classmethod
    def read(cls, stat: str) -> "Cpu":
        """Parse the text of /proc/stat (proc(5)). Waiting for a disk counts as idle."""
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
        return cls((user + nice + system + irq + softirq) / TICKS_PER_S, steal / TICKS_PER_S)

    def since(self, earlier: "Cpu") -> "Cpu":
        """Return the difference of the two."""
        return Cpu(self.busy_s - earlier.busy_s, self.stolen_s - earlier.stolen_s)


@dataclass(frozen=True)
class ProcessCpu:
    """CPU seconds of a process, from /proc/PID/stat: its own, and those of its ended children; and its parent."""

    parent: int
    own_s: float
    children_s: float

    @classmethod
    def read(cls, stat: str) -> "ProcessCpu":
        """Parse the text of /proc/PID/stat (proc(5)); the name may contain anything."""
        fields = stat.rpartition(")")[2].split()
        user, system, children_user, children_system = map(int, fields[11:15])
        return cls(int(fields[1]), (user + system) / TICKS_PER_S, (children_user + children_system) / TICKS_PER_S)

    @property
    def all_s(self) -> float:
        """Its own and those of its ended children."""
        return self.own_s + self.children_s


Processes = Mapping[int, ProcessCpu]


def foreign_s(before: Processes, after: Processes, roots: Iterable[int]) -> float:
    """Return the CPU seconds between two snapshots of all processes that do not descend from `roots`.

    The kernel adds the use of an ended process to its parent if that waited for it, and to no process if it did not.
    So the use of ended descendants before the first snapshot is subtracted from what their parent inherited, but never
    more than that. Kernel threads (children of 2) count as ours: their work here is mostly the network's.
    """
    ours = {*roots, 2}
    inherited_before: dict[int, float] = {}
    for pid, process in before.items():
        if pid not in after:
            heir = _survivor(process.parent, before, after)
            inherited_before[heir] = inherited_before.get(heir, 0.0) + process.all_s
    total = 0.0
    for pid, process in after.items():
        if _descends(pid, after, ours):
            continue
        earlier = before.get(pid, ProcessCpu(process.parent, 0.0, 0.0))
        inherited = process.children_s - earlier.children_s - inherited_before.get(pid, 0.0)
        total += process.own_s - earlier.own_s + max(0.0, inherited)
    return total


def _survivor(pid: int, before: Processes, after: Processes) -> int:
    while pid not in after and pid in before:
        pid = before[pid].parent
    return pid


def _descends(pid: int, processes: Processes, ours: set[int]) -> bool:
    while pid in processes and pid not in ours:
        pid = processes[pid].parent
    return pid in ours


@dataclass(frozen=True)
class Load:
    """Load on one path: how much was done, in how long, for how much CPU time (without foreign work).

    `disturbed`: the part of the machine's time that foreign work or the host took. `programs`: CPU seconds charged to
    each. `forwards`: packets that servers forwarded to each other.
    """

    done: int
    wall_s: float
    cpu_s: float
    latency_us: Mapping[str, float]
    disturbed: float = 0.0
    programs: Mapping[str, float] = field(default_factory=dict)
    forwards: int = 0

    @property
    def per_s(self) -> float:
        """How many per second of wall-clock time."""
        return self.done / self.wall_s

    @property
    def per_cpu_s(self) -> float:
        """How many per second of CPU time that this machine had: comparable over noisy runs."""
        return self.done / self.cpu_s


@dataclass(frozen=True)
class Round:
    """All paths, one after the other, under the same kind of load."""

    loads: Mapping[str, Load]

    @property
    def disturbed(self) -> float:
        """The value of its most disturbed load."""
        return max(load.disturbed for load in self.loads.values())

    def summary(self) -> str:
        """Describe it in a line."""
        paths = (f"{name} {load.per_s:,.0f}/s {load.per_cpu_s:,.0f}/CPU s" for name, load in self.loads.items())
        return f"{', '.join(paths)}; disturbed {self.disturbed:.0%}"


def quiet(rounds: Iterable[Round]) -> list[Round]:
    """Return the rounds with little foreign work."""
    return [one for one in rounds if one.disturbed <= QUIET]


def least_disturbed(rounds: Iterable[Round], count: int) -> list[Round]:
    """Return so many rounds, chosen by their disturbance alone, not by their figures."""
    return sorted(rounds, key=lambda one: one.disturbed)[:count]


def ratio(value: float, base: float, digits: int = 2) -> float:
    """Divide and round."""
    return round(value / base, digits)


Windows = Mapping[tuple[str, int], Sequence[float]]
"""ns per packet of each (case, flows), one figure for each window of packets."""


def xdp_rows(windows: Windows, wrappers: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Turn measured windows into rows.

    `wrappers` names for each case the runs (of one flow) that it contains as the wrapper's part, by weight; their cost
    beyond an empty program is subtracted. So `ns_*` is what TEST_RUN would show if it restored packets itself: it
    contains the loop with the call of the program, and `ratio_floor` is a minimum over the floor's. `ns_net` and
    `ratio_floor_net` are without the loop, less than any packet costs. The loop's cost depends on the CPU, and the
    floor is little beside it; `ratio_loads` (net) is of LOADS, if that was measured, which neither moves.
    `ratio_one_flow` compares with the same case for one flow. A case without wrappers stays as measured.
    """
    loop = min(windows[EMPTY, 1]), median(windows[EMPTY, 1])

    def net(case: str, flows: int) -> tuple[float, float]:
        bare = [
            sum(weight * pick(windows[part, 1]) for part, weight in wrappers[case].items()) for pick in (min, median)
        ]
        return min(windows[case, flows]) - bare[0], median(windows[case, flows]) - bare[1]

    floor = net(FLOOR, 1)
    loads = net(LOADS, 1) if LOADS in wrappers else None
    rows = []
    for case, flows in windows:
        if case not in wrappers:
            rows.append(_ns_row(case, flows, min(windows[case, flows]), median(windows[case, flows])))
            continue
        least, middle = net(case, flows)
        row = _ns_row(case, flows, least + loop[0], middle + loop[1])
        row["ratio_floor"] = ratio(least + loop[0], floor[0] + loop[0])
        row["ratio_floor_median"] = ratio(middle + loop[1], floor[1] + loop[1])
        row["ns_net"] = round(least, 1)
        row["ratio_floor_net"] = ratio(least, floor[0])
        if loads:
            row["ratio_loads"] = ratio(least, loads[0])
        if flows > 1:
            one = net(case, 1)[0]
            row["ratio_one_flow"] = ratio(least + loop[0], one + loop[0])
            row["ratio_one_flow_net"] = ratio(least, one)
        rows.append(row)
    return rows


def nat_rows(windows: Windows, wrappers: Mapping[tuple[str, int], str]) -> list[dict[str, Any]]:
    """Turn the measured windows of NAT into rows, as xdp_rows does. `wrappers` names the wrapper of a (case, flows)."""
    loop = windows[EMPTY, 1]
    rows = []
    for (case, flows), measured in windows.items():
        if case in (EMPTY, *wrappers.values()):
            rows.append(_ns_row(case, flows, min(measured), median(measured)))
            continue
        bare = windows[wrappers[case, flows], flows]
        least, middle = min(measured) - min(bare), median(measured) - median(bare)
        row = _ns_row(case, flows, least + min(loop), middle + median(loop))
        rows.append({**row, "ns_net": round(least, 1), "ns_net_median": round(middle, 1)})
    return rows


def _ns_row(case: str, flows: int, least: float, middle: float) -> dict[str, Any]:
    return {"case": case, "flows": flows, "ns_min": round(least, 1), "ns_median": round(middle, 1)}


def sum_row(name: str, parts: Sequence[Mapping[str, Any]], floor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cost of one packet for the cluster: the sum over the nodes that it visits."""
    least = sum(part["ns_min"] for part in parts)
    row = _ns_row(name, max(part["flows"] for part in parts), least, sum(part["ns_median"] for part in parts))
    row["ratio_floor"] = ratio(least, floor["ns_min"])
    row["ns_net"] = round(sum(part["ns_net"] for part in parts), 1)
    row["ratio_floor_net"] = ratio(row["ns_net"], floor["ns_net"])
    return row


def system_rows(
    requests: Mapping[str, Sequence[Load]], connections: Mapping[str, Sequence[Load]]
) -> list[dict[str, Any]]:
    """Turn rounds of load on each path into rows: medians, and the ratios of each to going direct.

    A ratio is the median of the ratios of rounds, since both were measured in the same minute.
    """
    rows = []
    for path in requests:
        row: dict[str, Any] = {"path": path}
        for name, rounds in (("requests", requests), ("connections", connections)):
            row[f"{name}_per_s"] = round(median(load.per_s for load in rounds[path]))
            row[f"{name}_per_cpu_s"] = round(median(load.per_cpu_s for load in rounds[path]))
            row[f"{name}_per_s_max"] = round(max(load.per_s for load in rounds[path]))
            row[f"{name}_per_cpu_s_max"] = round(max(load.per_cpu_s for load in rounds[path]))
            row[f"cpu_us_per_{name[:-1]}_min"] = round(1e6 / max(load.per_cpu_s for load in rounds[path]), 1)
            row[f"cpu_us_per_{name[:-1]}"] = round(1e6 / median(load.per_cpu_s for load in rounds[path]), 1)
            row[f"{name}_latency_us"] = {
                key: round(median(load.latency_us[key] for load in rounds[path])) for key in rounds[path][0].latency_us
            }
            for other in requests:
                if other != path:
                    pairs = list(zip(rounds[path], rounds[other], strict=True))
                    row.setdefault(f"{name}_per_cpu_s_ratio", {})[other] = round(
                        median(a.per_cpu_s / b.per_cpu_s for a, b in pairs), 2
                    )
                    row.setdefault(f"{name}_per_s_ratio", {})[other] = round(
                        median(a.per_s / b.per_s for a, b in pairs), 2
                    )
        rows.append(row)
    return rows


def min_median(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return minimum and median."""
    return {"min": round(min(values), digits), "median": round(median(values), digits)}
