# SPDX-License-Identifier: Apache-2.0
"""ExaBGP 5.0.15's reasons, recorded behind BIRD 2, in the words of the RFCs; and hostile ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.exabgp.down_reason import parse

LONG = "é" * 100
"""200 bytes: RFC 9003 allows 255, and ExaBGP decodes 128."""


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (
            "closing connection: connection refused: no BGP daemon accepts it there; next try within 1 s",
            ("connection refused: no BGP daemon accepts it there", 1),
        ),
        (
            "notification received (2,2): OPEN message error / Bad Peer AS / 0x0000FDE9; next try within 4 s",
            (
                "wrong AS: the router expects another AS of this node; NOTIFICATION 2/2 received (OPEN Message Error, "
                "Bad Peer AS)",
                4,
            ),
        ),
        (
            "notification sent (2,2): OPEN message error / Bad Peer AS / ASN in OPEN (65055) did not match ASN "
            "expected (65000); next try within 2 s",
            (
                "wrong AS: the router's is not the configured one; NOTIFICATION 2/2 sent (OPEN Message Error, Bad Peer "
                "AS): ASN in OPEN (65055) did not match ASN expected (65000)",
                2,
            ),
        ),
        (
            "notification received (6,2): Cease / Administrative Shutdown / Shutdown Communication: "
            '"power work \x1b[31m / x"; next try within 1 s',
            (
                "shut down at the router; NOTIFICATION 6/2 received (Cease, Administrative Shutdown): "
                r'"power work \x1b[31m / x"',
                1,
            ),
        ),
        (
            "notification received (6,2): Cease / Administrative Shutdown / invalid Shutdown Communication (too large) "
            f"length : 200 [0x{LONG.encode().hex().upper()}]; next try within 1 s",
            (
                f'shut down at the router; NOTIFICATION 6/2 received (Cease, Administrative Shutdown): "{LONG}"',
                1,
            ),
        ),
        (
            "notification received (6,4): Cease / Administrative Reset; next try within 1 s",
            ("reset at the router; NOTIFICATION 6/4 received (Cease, Administrative Reset)", 1),
        ),
        (
            "notification sent (4,0): Hold timer expired / Unspecific; next try within 1 s",
            (
                "the hold timer expired: nothing came from the router; NOTIFICATION 4/0 sent (Hold Timer Expired)",
                1,
            ),
        ),
        (
            "closing connection: the TCP connection was closed by the remote end",
            ("the router closed the connection", None),
        ),
        (
            "notification received (6,10): Cease / unknow reason",
            ("BFD: the router receives nothing from this node; NOTIFICATION 6/10 received (Cease, BFD Down)", None),
        ),
        ("notification received (99,7): x / y", ("NOTIFICATION 99/7 received (unknown)", None)),
        ("", ("", None)),
        ("stop, message [removed]", ("stop, message [removed]", None)),
        ("closing connection: a\x1b[2Jb\n", (r"a\x1b[2Jb\n", None)),
    ],
)
def test_reasons(reason: str, shown: tuple[str, int | None]):
    assert parse(reason) == shown


@given(st.text() | st.builds("notification received (6,2): Cease / Administrative Shutdown / {}".format, st.text()))
def test_whatever_the_router_sends_is_printable_and_short(text: str):
    shown, retry_s = parse(text)
    assert shown.isprintable()
    assert len(shown) <= 300
    assert retry_s is None or 0 <= retry_s < 10_000
