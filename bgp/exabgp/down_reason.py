# SPDX-License-Identifier: Apache-2.0
"""Why a session is down: ExaBGP's reason in the words of the RFCs, and how soon it tries again. Pure.

Owns the names of NOTIFICATION codes and subcodes. connect.py writes the reasons of failed connections and the pause.
What has another form is shown as it is, escaped and cut. Standard library only: the relay archive carries this file.

    notification received (6,2): Cease / Administrative Shutdown / Shutdown Communication: "..."; next try within 1 s
    notification sent (4,0): Hold timer expired / ...; next try within 1 s
    closing connection: connection refused; next try within 1 s
"""

from __future__ import annotations

import re

from bgp.printable import printable

CODES = {
    1: "Message Header Error",
    2: "OPEN Message Error",
    3: "UPDATE Message Error",
    4: "Hold Timer Expired",
    5: "Finite State Machine Error",
    6: "Cease",
    7: "ROUTE-REFRESH Message Error",
}
"""RFC 4271 section 4.5, RFC 7313 section 5."""

SUBCODES = {
    (1, 1): "Connection Not Synchronized",
    (1, 2): "Bad Message Length",
    (1, 3): "Bad Message Type",
    (2, 1): "Unsupported Version Number",
    (2, 2): "Bad Peer AS",
    (2, 3): "Bad BGP Identifier",
    (2, 4): "Unsupported Optional Parameter",
    (2, 6): "Unacceptable Hold Time",
    (2, 7): "Unsupported Capability",
    (2, 11): "Role Mismatch",
    (3, 1): "Malformed Attribute List",
    (3, 2): "Unrecognized Well-known Attribute",
    (3, 3): "Missing Well-known Attribute",
    (3, 4): "Attribute Flags Error",
    (3, 5): "Attribute Length Error",
    (3, 6): "Invalid ORIGIN Attribute",
    (3, 8): "Invalid NEXT_HOP Attribute",
    (3, 9): "Optional Attribute Error",
    (3, 10): "Invalid Network Field",
    (3, 11): "Malformed AS_PATH",
    (5, 1): "Receive Unexpected Message in OpenSent State",
    (5, 2): "Receive Unexpected Message in OpenConfirm State",
    (5, 3): "Receive Unexpected Message in Established State",
    (6, 1): "Maximum Number of Prefixes Reached",
    (6, 2): "Administrative Shutdown",
    (6, 3): "Peer De-configured",
    (6, 4): "Administrative Reset",
    (6, 5): "Connection Rejected",
    (6, 6): "Other Configuration Change",
    (6, 7): "Connection Collision Resolution",
    (6, 8): "Out of Resources",
    (6, 9): "Hard Reset",
    (6, 10): "BFD Down",
    (7, 1): "Invalid Message Length",
}
"""RFC 4271 section 6, RFC 4486 (Cease), RFC 5492, RFC 6608, RFC 7313, RFC 8538, RFC 9234, RFC 9384."""

_MEANINGS = {
    ("sent", 4, 0): "the hold timer expired: nothing came from the router",
    ("received", 4, 0): "the router's hold timer expired: nothing came from this node",
    ("sent", 2, 2): "wrong AS: the router's is not the configured one",
    ("received", 2, 2): "wrong AS: the router expects another AS of this node",
    ("sent", 6, 10): "BFD: the router does not answer",
    ("received", 6, 10): "BFD: the router receives nothing from this node",
    ("received", 6, 2): "shut down at the router",
    ("received", 6, 4): "reset at the router",
}
CLOSED = "the router closed the connection"
_LOST = re.compile("closed by the remote end|lost the TCP connection|Broken TCP connection|ECONNRESET|EPIPE")
_NOTIFICATION = re.compile(r"notification (received|sent) \((\d{1,3}),(\d{1,3})\)(?:: (.*))?", re.DOTALL)
_NEXT_TRY = re.compile(r"; next try within (\d{1,4}) s$")
_COMMUNICATION = re.compile(r'Shutdown Communication: "(.*)"', re.DOTALL)
_LONG_COMMUNICATION = re.compile(
    r"invalid Shutdown Communication \(too large\) length : \d{1,3} \[(?:0x)?((?:[0-9A-Fa-f]{2})+)"
)


def parse(text: str) -> tuple[str, int | None]:
    """Return the reason for people, and the seconds within which ExaBGP tries again: None if it does not."""
    retry_s = None
    if found := _NEXT_TRY.search(text):
        text, retry_s = text[: found.start()], int(found[1])
    if found := _NOTIFICATION.fullmatch(text):
        reason = _notification(found[1], int(found[2]), int(found[3]), found[4] or "")
    else:
        reason = text.removeprefix("closing connection: ")
        reason = CLOSED if _LOST.search(reason) else reason
    return printable(reason), retry_s


def _notification(direction: str, code: int, subcode: int, detail: str) -> str:
    name = ", ".join(filter(None, (CODES.get(code, "unknown"), SUBCODES.get((code, subcode), ""))))
    meaning = _MEANINGS.get((direction, code, subcode))
    text = f"NOTIFICATION {code}/{subcode} {direction} ({name})"
    more = _detail(code, subcode, detail)
    return ": ".join(filter(None, (f"{meaning}; {text}" if meaning else text, more)))


def _detail(code: int, subcode: int, detail: str) -> str:
    """Return what ExaBGP adds after the names of code and subcode: the data of the message, if it is text."""
    data = detail.split(" / ", 2)[2] if detail.count(" / ") >= 2 else ""
    if found := _LONG_COMMUNICATION.search(data):
        # RFC 9003 section 2 allows 255 bytes; ExaBGP reads the 128 of RFC 8203.
        return f'"{bytes.fromhex(found[1]).decode(errors="replace")}"'
    if found := _COMMUNICATION.search(data):
        return f'"{found[1]}"'
    known = SUBCODES.get((code, subcode), "").lower()
    return "" if data.lower() == known or re.fullmatch("(0x)?[0-9A-Fa-f]*", data) else data
