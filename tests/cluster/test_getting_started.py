# SPDX-License-Identifier: Apache-2.0
"""docs/getting-started.md, done as written: each command in the lab, its output compared with what the page shows.

A block ```console NODE``` has commands, each after a `#`, and what they print; `…` stands for anything in a line, and
alone for any lines. A block ```yaml``` is lb.yml on every server. What a lab does not have (packages, ssh, systemd) is
in ```sh``` blocks, and LAB_DOES has what is done instead: a block that is not there fails.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cluster_lab import ClusterLab, cluster_lab
from support.waiting import wait_for

pytestmark = pytest.mark.lab
PAGE = Path(__file__).parents[2] / "docs/getting-started.md"
LAB = Path(__file__).parent / "getting_started/lab.clab.yml"
SERVERS = ("s1", "s2", "s3")
READ = ("status", "explain", "check", "connections")
BLOCK = re.compile(r"^```(console (?P<node>\w+)|yaml|sh)\n(?P<text>.*?)^```$", re.M | re.S)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("started", LAB) as made:
        yield made


def in_lab(cluster: ClusterLab, node: str, command: str) -> str:
    return cluster.lab.exec(node, ["sh", "-c", command], timeout=240).stdout


def copy(cluster: ClusterLab, source: str, node: str, target: str) -> None:
    """Copy a file of s1 to another node, for root alone, as scp -p would."""
    file = cluster.lab.root(node) / target.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(0o600)
    file.write_bytes((cluster.lab.root("s1") / source.lstrip("/")).read_bytes())


def copy_key(cluster: ClusterLab) -> None:
    for server in SERVERS[1:]:
        copy(cluster, "/etc/anylb/cluster.key", server, "/etc/anylb/cluster.key")


def start_router(cluster: ClusterLab) -> None:
    copy(cluster, "/tmp/bird.conf", "router", "/etc/bird/bird.conf")  # noqa: S108
    in_lab(cluster, "router", "bird -c /etc/bird/bird.conf")


def start_servers(cluster: ClusterLab) -> None:
    for server in SERVERS:
        cluster.start(server, "speaker", "agent")
    for server in SERVERS[1:]:
        cluster.lbctl(server, "status", "--wait", "announced", "--timeout", "3m")


LAB_DOES: dict[str, Callable[[ClusterLab], object]] = {
    "apt install ./anylb_*.deb": lambda _: None,
    "scp -p /etc/anylb/cluster.key": copy_key,
    "scp /tmp/bird.conf": start_router,
    "systemctl enable --now lb-bgp lb-agent": start_servers,
}


def matches(shown: str, printed: str) -> bool:
    """Return whether an output is what the page shows. Blanks at the ends of lines do not count."""
    pattern = ""
    for line in shown.splitlines():
        pattern += r"(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + r"[ ]*\n"
    return re.fullmatch(pattern, printed) is not None


def run(cluster: ClusterLab, node: str, text: str) -> None:
    for part in re.split(r"^# ", text, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        printed: list[str] = []

        def is_shown(command: str = command, shown: str = shown, printed: list[str] = printed) -> bool:
            printed[:] = [in_lab(cluster, node, command)]
            return matches(shown, printed[0])

        # A reader looks again as well: the router's kernel, the other nodes, or a table that is about to change, may
        # take a moment.
        patient = command.startswith(("ip route", "curl", *(f"lbctl {noun}" for noun in READ)))
        if patient:
            wait_for(is_shown, f"`{command}` on {node} to print what the page shows")
        else:
            assert is_shown(), f"{node}: {command} printed\n{printed[0]}, the page shows\n{shown}"


def test_the_page_does_what_it_shows(cluster: ClusterLab) -> None:
    done = []
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        text = block["text"]
        if block["node"]:
            run(cluster, block["node"], text)
        elif block[1] == "yaml":
            for server in SERVERS:
                (cluster.lab.root(server) / "etc/anylb/lb.yml").write_text(text)
        else:
            instead = next(action for start, action in LAB_DOES.items() if text.startswith(start))
            instead(cluster)
        done.append(block[1])
    assert len(done) > 12


@pytest.mark.parametrize(
    ("shown", "printed", "equal"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\n", False),
        ("a…c\n", "abbc\n", True),
        ("a…c\n", "ab\nc\n", False),
        ("a\n…\nb\n", "a\n1\n2\nb\n", True),
        ("a\n…\n", "a\n", True),
        ("a\n", "a\nb\n", False),
    ],
)
def test_output_is_compared_line_by_line(shown: str, printed: str, equal: bool) -> None:
    assert matches(shown, printed) is equal
