# SPDX-License-Identifier: Apache-2.0
"""`lbctl config check` refuses on a node what agent and ExaBGP would refuse there, and names what it did not check."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.netns import ip, new_netns

Check = Callable[..., str]
LAB_CONFIG = Path(__file__).parents[3] / "topology/lb.yml"
LO = """\
cluster: 7
node: {interface: lo}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers:
    - {address: 10.0.0.1, as: 65000}
members: {allow: [127.0.0.0/24], key_file: cluster.key}
"""
OFFLINE = ["the node's interfaces and addresses", "key and password files", "ExaBGP's own check"]
KEY_NONE = (
    "members.key: is none: whoever can send to UDP port 4742 can speak for a node; unless the nodes' network is "
    "closed, make a key with `lbctl key new`"
)
NOT_CHECKED = [] if os.geteuid() == 0 else ["ExaBGP's own check, which needs root"]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="starts a network namespace, or ExaBGP's check")


@pytest.fixture
def check(run: Callable[..., tuple[str, str]]) -> Check:
    """Return a function that runs `lbctl config check` and returns what it prints."""

    def in_process(path: Path, *options: str, code: int = 0) -> str:
        out, err = run("config", "check", "-c", str(path), *options, code=code)
        return err if code else out

    return in_process


@pytest.fixture
def without_exabgp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out ExaBGP's own check, which starts it."""
    monkeypatch.setattr("bgp.exabgp.speaker.prepare", lambda _: None)


@pytest.fixture
def without_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out warnings about routes, which depend on the machine."""

    async def none(*_: object) -> tuple[()]:
        return ()

    monkeypatch.setattr("agent.forwarding.path_check.path_warnings", none)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "lb.yml").write_text(LO)
    key = tmp_path / "cluster.key"
    key.write_text("00112233445566778899aabbccddeeff\n")
    key.chmod(0o600)
    return tmp_path / "lb.yml"


def test_file_of_another_machine(check: Check) -> None:
    service = "echo 10.99.0.1:7000/tcp"
    warning = f"{LAB_CONFIG}:31:8: {KEY_NONE}"
    assert check(LAB_CONFIG, "--offline").splitlines() == [
        f"warning: {warning}", f"{LAB_CONFIG}: valid ({service})", f"not checked: {', '.join(OFFLINE)}",
    ]  # fmt: skip
    assert json.loads(check(LAB_CONFIG, "--offline", "-o", "json")) == {
        "ok": True, "file": str(LAB_CONFIG), "services": [service], "warnings": [warning], "not_checked": OFFLINE,
    }  # fmt: skip


@pytest.mark.usefixtures("without_exabgp", "without_routes")
@pytest.mark.parametrize("options", [[], ["--offline"]])
def test_key_that_is_missing_or_public(check: Check, path: Path, options: list[str]) -> None:
    path.write_text(LO.replace(", key_file: cluster.key", ""))
    assert check(path, *options).splitlines()[0] == (
        f"warning: {path}:10:10: members.key_file: is missing: this node accepts no other; make a key with "
        "`lbctl key new`, and copy it to all nodes"
    )
    path.write_text(LO.replace("key_file: cluster.key", "key: none"))
    assert check(path, *options).splitlines()[0] == f"warning: {path}:10:39: {KEY_NONE}"
    path.write_text(LO)
    assert "warning" not in check(path, *options)


def test_offline_needs_no_secret_of_the_machine(check: Check, path: Path) -> None:
    path.write_text(LO.replace("cluster.key", "nowhere") + "table: {key_file: absent, previous: {key_file: gone}}\n")
    assert "valid" in check(path, "--offline")
    assert "table.key_file" in check(path, code=1)


def test_every_error_of_the_file(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "lb.yml"
    path.write_text(LAB_CONFIG.read_text().replace("port: 7000", "port: 70000").replace("as: 65000", "as: x"))
    assert check(path, code=1).splitlines() == [
        f"lbctl: {path}:11:11: services[0].port: 70000 is neither in 1-65535 nor 'any'",
        f"lbctl: {path}:26:11: bgp.peers[0].as: 'x' is not a whole number",
    ]


@pytest.mark.usefixtures("without_routes")
def test_file_of_this_machine(check: Check, path: Path) -> None:
    assert json.loads(check(path, "-o", "json")) == {
        "ok": True, "file": str(path), "services": ["web 192.0.2.10:443/tcp"], "warnings": [],
        "not_checked": NOT_CHECKED,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("interface: lo", "interface: nosuch0",
         "2:19: node.interface: there is no interface nosuch0 here; see `ip link`"),
        ("interface: lo", "interfaces: [lo, nosuch0]",
         "2:25: node.interfaces[1]: there is no interface nosuch0 here; see `ip link`"),
        ("interface: lo", 'interface: "\\e[31m"',
         "2:19: node.interface: there is no interface \\x1b[31m here; see `ip link`"),
        ("interface: lo", "interface: lo, address: 10.0.0.9", "2:32: node.address: 10.0.0.9 is not on lo"),
        ("127.0.0.0/24", "10.0.0.0/24",
         "10:18: members.allow: does not hold this node's own address 127.0.0.1; add its prefix"),
        ("{address: 10.0.0.1, as: 65000}", "{address: 10.0.0.1, as: 65000}\n    - {address: fe80::1%nosuch0, as: 1}",
         "10:17: bgp.peers[1].address: there is no interface nosuch0 here; see `ip link`"),
    ],
)  # fmt: skip
def test_what_this_machine_contradicts(check: Check, path: Path, old: str, new: str, message: str) -> None:
    path.write_text(LO.replace(old, new))
    error, hint = check(path, code=1).splitlines()
    assert error.startswith(f"lbctl: {path}:{message}")
    assert hint == "lbctl: if the file is for another machine, check it with --offline"


@root_only
def test_what_exabgp_would_refuse(check: Check, path: Path) -> None:
    path.write_text(LO.replace("local_as: 65001", "local_as: 65001\n  user: no-such-user"))
    assert "user 'no-such-user' does not exist" in check(path, code=1)


@root_only
@pytest.mark.usefixtures("without_exabgp", "without_routes")
def test_vip_in_the_subnet_of_the_node(check: Check, path: Path) -> None:
    path.write_text(
        LO.replace("lo}", "eth1}").replace("192.0.2.10", "10.0.0.100").replace("127.0.0.0/24", "10.0.0.11/32")
    )
    with new_netns():
        ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
        ip("address", "add", "10.0.0.11/24", "dev", "eth1")
        first, second = check(path).splitlines()
    assert first == (
        f"warning: {path}:4:22: services[0].vip: 10.0.0.100 is in 10.0.0.0/24 of eth1: hosts there ask for it by ARP, "
        "and no node answers; choose one outside the subnet"
    )
    assert second == f"{path}: valid (web 10.0.0.100:443/tcp)"


@root_only
@pytest.mark.usefixtures("without_exabgp")
def test_path_to_clients(check: Check, path: Path) -> None:
    path.write_text(LO.replace("lo}", "eth1}").replace("127.0.0.0/24", "10.0.0.11/32"))
    with new_netns():
        ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
        ip("link", "set", "eth1", "up")
        ip("address", "add", "10.0.0.11/24", "dev", "eth1")
        first, second = check(path).splitlines()
        ip("link", "set", "eth2", "up")
        ip("route", "add", "default", "via", "10.0.0.1")
        assert check(path).splitlines() == [second]
    assert first == (
        f"warning: {path}:2:7: node.clients: there is no route to clients in 0.0.0.0/0, so packets of 192.0.2.10 are "
        "lost: add it again (an interface that goes down takes it along), or list where clients are, node.clients"
    )


@pytest.mark.usefixtures("without_exabgp", "without_routes")
def test_what_a_health_check_lacks_here(check: Check, path: Path) -> None:
    health = "health: {type: exec, command: [/nowhere/check], user: no-such}"
    path.write_text(LO.replace("port: 443", f"port: 443, {health}"))
    assert check(path).splitlines()[:-1] == [
        f"warning: {path}:4:114: services[0].health.user: there is no user no-such here; create it or name another",
        f"warning: {path}:4:91: services[0].health.command[0]: /nowhere/check is not a program that can be started",
    ]
    health = "health: {type: https, host: a.example, ca_file: /nowhere/ca.pem}"
    path.write_text(LO.replace("port: 443", f"port: 443, {health}"))
    assert (
        check(path).splitlines()[0].endswith("services[0].health.ca_file: /nowhere/ca.pem: No such file or directory")
    )
