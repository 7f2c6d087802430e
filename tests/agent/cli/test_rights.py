# SPDX-License-Identifier: Apache-2.0
"""lbctl for a user who may neither read lb.yml nor ask the agent: each error has that as its next step."""

import errno
from collections.abc import Callable

import pytest

Run = Callable[..., tuple[str, str]]


@pytest.fixture(autouse=True)
def no_rights(monkeypatch: pytest.MonkeyPatch) -> None:

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("agent.private_file.read", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("os.geteuid", lambda: 65534)


def test_who_may_not_read_the_configuration_gets_the_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("config check", "announce config --router bird", "bgp reload"):
        _, err = run(*command.split(), "-c", "/x/lb.yml", code=1)
        assert err == "lbctl: /x/lb.yml: Permission denied; run this as root\n", command
    monkeypatch.setattr("os.geteuid", lambda: 0)  # a unit without CAP_DAC_OVERRIDE
    assert run("bgp", "reload", "-c", "/x/lb.yml", code=1)[1].endswith("Permission denied; chown root /x/lb.yml\n")


def test_doctor_of_who_has_no_rights_names_them_as_the_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.doctor.COUNT_S", 0.01)
    out, _ = run("doctor", "-c", "/x/lb.yml", "-s", "/x/agent.sock", code=1)
    assert "FAIL  configuration: /x/lb.yml: Permission denied\n      next: run this as root\n" in out
    assert "skip  agent: /x/agent.sock: permission denied\n      next: run lbctl as root, or to read as a" in out
