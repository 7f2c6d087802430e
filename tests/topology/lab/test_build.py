# SPDX-License-Identifier: Apache-2.0
"""A lab that cannot come up: one line names the place and the fault, and nothing stays."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.small_lab import LONE, UP, assert_no_trace, child

from topology.errors import LabError
from topology.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")]
FAULTS = [
    (
        LONE.replace("none}", "none, binds: ['nosuch:/etc/x']}"),
        r":2:\d+: topology.nodes.a.binds\[0\]: bind source .*/nosuch does",
    ),
    (
        LONE.replace("none}", "none, binds: ['.:/nosuch-dir/x']}"),
        r"topology.nodes.a: bind target /nosuch-dir/x does not exist",
    ),
    (LONE.replace("none}", "none, exec: [nosuch -x]}"), r"topology.nodes.a.exec\[0\]: a: nosuch: No such file"),
    (
        LONE.replace("none}", "none, exec: [sh -c 'sleep 99 & exit 4']}"),
        r":2:\d+: topology.nodes.a.exec\[0\]: a: `sh .* exited with 4",
    ),
    (LONE.replace("none}", "none, cmd: nosuch}"), r"topology.nodes.a: cmd: nosuch: No such file"),
    (
        LONE.replace("none}", "none, cmd: sh -c 'echo why; exit 5', exec: [sleep 9]}"),
        r"topology.nodes.a: cmd exited with 5: why",
    ),
    (
        LONE.replace("none}", "none, sysctls: {net.ipv4.nosuch: 1}}"),
        r"nodes.a: sysctl net.ipv4.nosuch = 1: no such key",
    ),
    (
        LONE.replace("none}", "none, sysctls: {net.ipv4.ip_forward: x}}"),
        r"sysctl net.ipv4.ip_forward = x: Invalid argument",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[message[-30:] for _, message in FAULTS])
def test_a_fault_takes_everything_down(name: str, write: Callable[[str], Path], text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(LabError, match=message) as caught:
        Lab.up(path, name)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert_no_trace(name)


def test_a_failed_exec_line_may_be_kept(name: str, write: Callable[[str], Path]) -> None:
    with pytest.raises(LabError, match="exited with 1"):
        Lab.up(write(LONE.replace("none}", "none, exec: ['false', touch /run/next]}")), name, keep_failed=True)
    assert Lab.find(name).nodes["a"].alive


def test_without_permissions_the_error_is_one_line(name: str, write: Callable[[str], Path]) -> None:
    path = write(LONE)
    not_root = child(UP.format(before="os.setuid(65534)", keep=True, after=""), str(path), name)
    assert (
        not_root.communicate(timeout=120)[0]
        == "error: a lab needs root (network namespaces, mounts): run it with sudo\n"
    )
    # PR_CAPBSET_DROP, CAP_SYS_ADMIN: root in a container without permission to create namespaces
    powerless = "ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)"
    output = child(UP.format(before=powerless, keep=True, after=""), str(path), name).communicate(timeout=120)[0]
    assert "no permission to create namespaces (unshare: Operation not permitted)" in output
    assert output.count("\n") == 1
    assert_no_trace(name)
