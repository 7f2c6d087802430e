# SPDX-License-Identifier: Apache-2.0
"""lbctl as a process: one clear line and an exit code for every failure, never a traceback."""

import ast
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from agent.cli.main import COMMANDS, main
from agent.errors import AgentError
from agent.paths import Paths

ROOT = Path(__file__).parents[3]
LBCTL = Path(sys.executable).with_name("lbctl")
LAB_CONFIG = str(ROOT / "topology/lb.yml")
Run = Callable[..., tuple[str, str]]


def lbctl(*arguments: str, code: int = 0) -> tuple[str, str]:
    """Run the installed program; one start takes half a second."""
    result = subprocess.run([LBCTL, *arguments], capture_output=True, text=True, check=False, timeout=60, cwd="/")
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


@pytest.mark.parametrize(
    "verb",
    [
        ["status"],
        ["drain"],
        ["undrain"],
        ["leave"],
        ["announce", "up", "--wait"],
        ["announce", "status"],
        ["announce", "watch"],
        ["announce", "check"],
        ["announce", "drain", "--method", "gshut", "--for", "1h30m", "--reason", "a new kernel"],
        ["announce", "undrain", "--vip", "2001:db8::1", "--wait", "--timeout", "5s"],
        ["announce", "down", "--vip", "10.99.0.1"],
        ["explain", "tcp,10.1.0.2:4000,10.99.0.1:7000"],
        ["explain", "tcp,10.1.0.2:4000,10.99.0.1:7000", "--live", "--at", "10.0.0.12"],
        ["connections"],
        ["connections", "--service", "web"],
        ["drain", "--wait", "--until-below", "10", "--timeout", "5s"],
        ["agent", "reload"],
        ["backend", "list"],
        ["backend", "drain"],
        ["backend", "undrain", "--service", "web"],
        ["backend", "weight", "50%"],
        ["backend", "drain", "web", "10.9.0.11:8443"],
        ["deny", "list"],
        ["deny", "add", "192.0.2.0/24"],
        ["deny", "add", "::/0", "--force"],
        ["deny", "del", "2001:db8::/32"],
        ["instance", "list"],
        ["instance", "switch", "web@1.service"],
        ["instance", "drain", "blue", "--service", "web"],
        ["instance", "undrain", "blue"],
        ["instance", "weight", "blue", "50"],
        ["instance", "add", "--pid", "7", "--name", "blue"],
        ["instance", "remove", "blue"],
    ],
)
@pytest.mark.parametrize("output", ["text", "json"])
def test_a_dead_agent_is_one_line_and_exit_code_3(run: Run, tmp_path: Path, verb: list[str], output: str) -> None:
    path = tmp_path / "agent.sock"
    out, err = run(*verb, "-s", str(path), "-o", output, code=3)
    assert out == ""
    assert err == f"lbctl: {path}: no agent answers; start it with `lbctl agent run` (lb-agent.service)\n"


def test_doctor_has_one_next_step_for_a_missing_configuration(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cli.doctor.COUNT_S", 0.01)
    out, _ = run("doctor", "-c", f"{tmp_path}/none.yml", "-s", f"{tmp_path}/agent.sock", code=1)
    assert out.splitlines()[:2] == [
        f"FAIL  configuration: {tmp_path}/none.yml: No such file or directory",
        "      next: write it as README.md shows",
    ]


def test_doctor_has_the_reason_for_a_configuration_that_cannot_be_opened(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cli.doctor.COUNT_S", 0.01)
    out, _ = run("doctor", "-c", "x" * 300, "-s", f"{tmp_path}/agent.sock", code=1)
    assert out.splitlines()[0] == f"FAIL  configuration: {'x' * 300}: File name too long"


@pytest.mark.parametrize("noun", ["table", "config"])
def test_diff_has_exit_code_2_where_the_agent_refuses(run: Run, monkeypatch: pytest.MonkeyPatch, noun: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AgentError("not now\nnor \x1b[31m")

    for call in ("call", "call_within"):
        monkeypatch.setattr(f"agent.cli.client.{call}", refuse)
    assert run(noun, "diff", code=2) == ("", "lbctl: not now\nlbctl: nor \\x1b[31m\n")


@pytest.mark.parametrize("command", ["diff", "apply --dry-run"])
def test_a_large_configuration_may_take_the_agent_a_minute(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    asked: list[tuple[str, float]] = []

    def call_within(_: Path, _method: str, resource: str, timeout_s: float, _query: object = None) -> dict[str, object]:
        asked.append((resource, timeout_s))
        return {"equal": True, "changes": [], "steps": []}

    monkeypatch.setattr("agent.cli.client.call_within", call_within)
    run("config", *command.split())
    assert asked == [("/config/diff", 60.0)]


def test_a_socket_left_by_a_killed_agent_is_a_dead_agent(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert "no agent answers" in lbctl("status", "-s", str(path), code=3)[1]


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that `run` starts in this process leaves this interpreter, and this machine's files, as they are."""
    for name in ("daemon.start.tune", "daemon.runtime.defer_collection"):
        monkeypatch.setattr(f"agent.{name}", lambda: None)
    monkeypatch.setattr("agent.daemon.start.keep_record", lambda _path: None)
    monkeypatch.setattr("agent.cli.agent.Paths", partial(Paths, run=tmp_path / "run"))


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(("command", "code"), [("agent run", 78), ("bgp run", 78), ("config check", 1)])
def test_no_configuration(run: Run, command: str, code: int, tmp_path: Path) -> None:
    _, err = run(*command.split(), "-c", str(tmp_path / "none.yml"), code=code)
    reason = f"lbctl: {tmp_path}/none.yml: No such file or directory; write it as README.md shows\n"
    retry = "lbctl: not started; correct it, then start this service again\n"
    assert err == (reason + retry if code == 78 else reason)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("command", ["agent", "bgp"])
def test_no_such_interface(run: Run, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANYLB_XDP", raising=False)
    path = tmp_path / "lb.yml"
    path.write_text(Path(LAB_CONFIG).read_text().replace("eth1", "nosuch0"))
    _, err = run(command, "run", "-c", str(path), code=1)
    assert err == "lbctl: node.interface: there is no interface nosuch0 here; see `ip link`\n"


def test_wrong_usage_is_exit_code_2(run: Run) -> None:
    assert "No such command" in run("drian", code=2)[1]
    assert "10.99 is not an IP address" in run("announce", "down", "--vip", "10.99", code=2)[1]
    assert "'1x' is not a duration; write 90s, 10m, 1h30m or 2d" in run("announce", "down", "--for", "1x", code=2)[1]
    assert "'0s' is zero; give at least 1s" in run("announce", "up", "--timeout", "0s", code=2)[1]
    assert "is not one of" in run("announce", "drain", "--method", "magic", code=2)[1]
    assert "No such option" in run("announce", "up", "--for", "1h", code=2)[1]
    assert "--at requires --live" in run("explain", "tcp,10.1.0.2:1,10.99.0.1:2", "--at", "10.0.0.12", code=2)[1]
    wrong = run("deny", "add", "192.0.2.1/24", code=2)[1]
    assert "192.0.2.1/24 has bits set after its length; write 192.0.2.0/24, or 192.0.2.1 alone" in wrong
    assert "'192.0.2.0/33' is no prefix; write one as 192.0.2.0/24" in run("deny", "add", "192.0.2.0/33", code=2)[1]
    assert "is not one of" in run("status", "-o", "yaml", code=2)[1]
    assert "'x' is not a valid whole number" in run("instance", "weight", "blue", "x", code=2)[1]


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ("statsu", "No such command 'statsu'. Did you mean 'status'?"),
        ("STATUS", "No such command 'STATUS'. Did you mean 'status'?"),
        ("confirm", "No such command 'confirm'. Did you mean 'config confirm'?"),
        ("del", "No such command 'del'. Did you mean 'deny del'?"),
        ("simulate", "No such command 'simulate'. Did you mean 'table simulate'?"),
        ("show", "No such command 'show'. Did you mean 'table show' or 'session show' or 'config show'?"),
        ("\x1b[31m", "No such command '\\x1b[31m'."),
        ("deny ad", "No such command 'ad'. Did you mean 'add'?"),
        ("config difff", "No such command 'difff'. Did you mean 'diff'?"),
        ("status --brif", "No such option '--brif'. Did you mean '--brief'?"),
        ("--versoin", "No such option '--versoin'. Did you mean '--version'?"),
    ],
)
def test_mistyped_commands_and_options_name_what_they_resemble(run: Run, typed: str, error: str) -> None:
    out, err = run(*typed.split(), code=2)
    assert (out, err.splitlines()[-1]) == ("", f"Error: {error}")


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        (["announce"], ["4 not in time", "2 critical"]),
        (["announce", "check"], ["0 when every VIP", "1 (warning)", "2 (critical)", "3 when no agent answers"]),
        (["announce", "down"], ["exit code 4"]),
        (["drain"], ["exit code 4"]),
    ],
)
def test_help_lists_the_exit_codes(run: Run, command: list[str], codes: list[str]) -> None:
    text = " ".join(run(*command, "--help")[0].split())
    for code in codes:
        assert code in text


def test_keys_of_a_lab_that_have_no_effect_are_warnings(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.clab.yml"
    path.write_text(
        "name: x\nmgmt: {network: m}\ntopology:\n  nodes:\n    a: {kind: linux, cpu: 2, binds: ['./gone:/etc/x']}\n"
    )
    out, err = run("lab", "up", str(path), code=1)
    assert out == ""
    first, second, last = err.splitlines()
    assert first == f"warning: {path}:2:1: mgmt: has no effect here"
    assert second == f"warning: {path}:5:22: topology.nodes.a.cpu: has no effect here"
    assert last.startswith("lbctl: "), "it is not there, or the user is not root"


def test_options_of_a_command_in_a_lab_are_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []

    class Found:
        def attach(self, *command: object) -> int:
            ran.append(command)
            return 7

    monkeypatch.setattr("topology.lab.lab.Lab.find", lambda name: Found() if name == "x" else None)
    run("lab", "exec", "--name", "x", "some.clab.yml", "b1", "ls", "-h", "--name", "y", code=7)
    assert ran == [("b1", ("ls", "-h", "--name", "y"))]


@pytest.mark.parametrize(
    ("options", "which"), [([], "'a lab.clab.yml'"), (["--name", "y"], "--name y 'a lab.clab.yml'")]
)
def test_lab_up_names_the_command_that_finds_the_lab(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], which: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a lab.clab.yml").write_text("name: x\ntopology: {nodes: {a: {kind: linux}}}\n")
    made = SimpleNamespace(name="y", nodes=["a"])
    monkeypatch.setattr("topology.lab.lab.Lab.up", lambda *_, **__: made)
    out, _ = run("lab", "up", "a lab.clab.yml", *options)
    assert out == f"y: a are up; `lbctl lab exec {which} NODE COMMAND` runs in one\n"


def test_a_command_in_a_lab_that_a_signal_ends_has_the_exit_code_of_a_shell(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Found:
        def attach(self, *_: object) -> int:
            return -2  # as Popen has it: SIGINT

    monkeypatch.setattr("topology.lab.lab.Lab.find", lambda _: Found())
    run("lab", "exec", "--name", "x", "some.clab.yml", "b1", "ping", "10.0.0.1", code=130)


def test_help_of_lab_up_says_who_runs_its_commands(run: Run) -> None:
    assert "run as root" in run("lab", "up", "--help")[0]


def test_help_lists_every_command(run: Run) -> None:
    out, _ = run("--help")
    for command in COMMANDS:
        assert f"\n  {command}" in out


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            assert child.name == name
            yield from walk(child, (*path, name))


def test_every_command_has_help() -> None:
    found = dict(walk(main))
    assert ("announce", "config") in found
    assert len(found) > 35
    for path, command in found.items():
        assert command.help, path
        assert not path or not command.get_short_help_str(limit=60).endswith("..."), path
        assert all(option.help for option in command.params if isinstance(option, click.Option)), path


HEAVY = (
    "agent.model", "asyncio", "bcc", "dataclasses", "email", "http.client", "numpy",
    "pydantic", "pyroute2", "rich", "ssl", "subprocess", "yaml",
)  # fmt: skip
"""What would take a part of lbctl's start that is noticed, 5 ms or more."""


def loaded(imports: str) -> list[str]:
    code = f"import sys; import {imports}; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return list(ast.literal_eval(result.stdout))


def test_status_loads_nothing_heavy() -> None:
    """lbctl is run by hand at three in the morning, and by scripts every second."""
    used = ("main", "node", "client", "status_display")
    assert loaded(", ".join(f"agent.cli.{module}" for module in used)) == []
    assert loaded("agent.cli.announce") == ["agent.model", "dataclasses"], (
        "the control: this one needs addresses and orders"
    )


@pytest.mark.slow
def test_the_start_of_exabgp_loads_no_numpy() -> None:
    used = "bgp.exabgp.speaker, agent.announcing.speaker_config, agent.config.file, agent.node.own_interface"
    assert "numpy" not in loaded(used)
    assert "numpy" in loaded("agent.table.algorithm"), "the control"


def test_commands_of_a_running_agent_load_nothing_heavy() -> None:
    found = loaded(", ".join(f"agent.cli.{module}" for module in ("main", "client", *COMMANDS.values())))
    assert not {"pydantic", "rich", "asyncio", "yaml", "numpy", "bcc", "pyroute2", "http.client"}.intersection(found)
