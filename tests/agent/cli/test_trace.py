# SPDX-License-Identifier: Apache-2.0
"""lbctl trace: a packet in a line, filters as tcpdump's, and files that others read."""

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapReader

from agent.cli.main import main
from agent.cli.packet_line import packet_line
from agent.cli.pcap import PcapFile, PcapFilter
from agent.cli.trace import line_of
from agent.errors import AgentError

LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
"""With both ends: scapy would ask the network for what is missing."""
SYN = LINK / IP(src="192.0.2.7", dst="10.99.0.1") / TCP(sport=41000, dport=443, flags="S")


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (SYN, "tcp 192.0.2.7:41000 > 10.99.0.1:443 [S] (54 bytes)"),
        (LINK / Dot1Q(vlan=5) / IP(src="192.0.2.7", dst="10.99.0.1") / UDP(sport=1, dport=53),
         "udp 192.0.2.7:1 > 10.99.0.1:53 (46 bytes)"),
        (LINK / IPv6(src="2001:db8::7", dst="2001:db8::1") / TCP(sport=1, dport=2, flags="PA"),
         "tcp [2001:db8::7]:1 > [2001:db8::1]:2 [.P] (74 bytes)"),
        (LINK / IP(src="192.0.2.7", dst="10.99.0.1") / ICMP(), "icmp 192.0.2.7 > 10.99.0.1 (42 bytes)"),
        (LINK / IP(src="192.0.2.7", dst="10.99.0.1", frag=3) / Raw(b"12345678"),
         "protocol 0 192.0.2.7 > 10.99.0.1 fragment (42 bytes)"),
        (LINK / IPv6(src="::1", dst="::2") / IPv6ExtHdrFragment(offset=0, nh=17) / UDP(sport=7, dport=8),
         "udp [::1]:7 > [::2]:8 (70 bytes)"),
    ],
)  # fmt: skip
def test_a_packet_in_a_line(frame: Packet, text: str) -> None:
    data = bytes(frame)
    assert packet_line(data, len(data)) == text


@pytest.mark.parametrize("length", range(60))
def test_what_is_cut_off_is_no_error(length: int) -> None:
    for frame in (SYN, LINK / IPv6(src="::1", dst="::2") / IPv6ExtHdrFragment(nh=6) / TCP()):
        assert packet_line(bytes(frame)[:length], 60).endswith("(60 bytes)")


def test_a_sample_is_a_line() -> None:
    head = bytes(SYN).hex()
    one = {"time_s": 0.25, "interface": "eth1", "length": 54, "service": "web", "event": "drop_grace", "why": "grace",
           "hop": 2, "head": head}  # fmt: skip
    expected = ".250000 eth1 web hop 2 tcp 192.0.2.7:41000 > 10.99.0.1:443 [S] (54 bytes): drop_grace, grace"
    assert line_of(one).endswith(expected)


def test_filters_are_those_of_pcap() -> None:
    data = bytes(SYN)
    for expression, matches in (
        ("tcp port 443", True),
        ("tcp[tcpflags] & tcp-syn != 0 and host 192.0.2.7", True),
        ("udp", False),
        ("net 198.51.100.0/24", False),
        ("greater 60", False),
    ):
        assert PcapFilter(expression).matches(data, len(data)) is matches, expression


def test_a_wrong_filter_is_refused() -> None:
    with pytest.raises(AgentError, match=r"'tcp porrt 1' is no filter: .*; see pcap-filter"):
        PcapFilter("tcp porrt 1")
    with pytest.raises(AgentError, match="is no filter: "):
        PcapFilter("\udcff")  # how Python reads an argument that is not UTF-8


def test_a_file_is_read_by_others() -> None:
    file = io.BytesIO()
    written = PcapFile(file)
    written.write(1_700_000_000.25, bytes(SYN), 1500)
    file.seek(0)
    [frame] = list(PcapReader(file))
    assert bytes(frame) == bytes(SYN)
    assert float(frame.time) == 1_700_000_000.25
    assert frame.wirelen == 1500


def test_a_file_stays_where_no_agent_answers(tmp_path: Path) -> None:
    path = tmp_path / "earlier.pcap"
    path.write_text("mine")
    done = CliRunner().invoke(main, ["trace", "-w", str(path), "-s", str(tmp_path / "agent.sock")])
    assert done.exit_code == 3
    assert path.read_text() == "mine"


def test_a_file_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.trace._samples", lambda *_: iter([{}]))
    done = CliRunner().invoke(main, ["trace", "-w", "/dev/full"])
    assert done.exit_code == 1
    assert done.stderr == "lbctl: /dev/full: No space left on device; name a file where there is room\n"
