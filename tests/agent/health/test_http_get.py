# SPDX-License-Identifier: Apache-2.0
"""HTTP probes against servers that answer in every form, or in none."""

import asyncio
import time

import pytest
from support.service import half_closes, hangs, probe_server, repeats, resets, sends

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.1 301 \n\n", 301),
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", 302),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 OK\r\n\r\n", 204),
    ],
)
def test_good_statuses(head: bytes, status: int) -> None:
    assert probe_server(sends(head), type="http") == (True, f"HTTP {status}")


@pytest.mark.parametrize(
    ("status", "expected", "answer"),
    [
        (503, {}, (False, "HTTP 503, expected 200-399")),
        (404, {"status": [200, "301-302"]}, (False, "HTTP 404, expected 200, 301-302")),
        (404, {"status": 404}, (True, "HTTP 404")),
        (200, {"status": "200-299"}, (True, "HTTP 200")),
        (300, {"status": "200-299"}, (False, "HTTP 300, expected 200-299")),
    ],
)
def test_expected_statuses(status: int, expected: dict[str, object], answer: tuple[bool, str]) -> None:
    head = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status
    assert probe_server(sends(head), type="http", expect=expected) == answer


@pytest.mark.parametrize(
    "body",
    [
        OK + b"Content-Length: 8\r\n\r\nall good",
        OK + b"\r\nall good until the connection ends",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nall\r\n2\r\n g\r\n3\r\nood\r\n0\r\n\r\n",
    ],
)
def test_body(body: bytes) -> None:
    assert probe_server(sends(body), type="http", expect={"body": "all good"}) == (True, "HTTP 200")
    answer = probe_server(sends(body), type="http", expect={"body": "all\nbad"})
    assert answer == (False, "HTTP 200, its body does not contain 'all\\nbad'")


def test_a_body_that_never_ends_is_good_once_it_contains_the_text() -> None:
    assert probe_server(repeats(OK + b"\r\n", b"x ok"), type="http", expect={"body": "ok"})[0]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "the connection was closed before the end of the response"),
        (b"\r\n", "not an HTTP response: no response line received"),
        (OK, "the connection was closed before the end of the response"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "the connection was closed before the end of the response"),
        (b"SSH-2.0-\x1b[2Jx\r\n\r\n", "not an HTTP response: illegal status line: bytearray(b'SSH-2.0-"),
        (b"HTTP/1.1\r\n\r\n", "not an HTTP response"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not an HTTP response"),
        (b"\x16\x03\x01\x00\xff" * 9, "not an HTTP response"),
        (OK + b"Content-Length: 9\r\n\r\nx", "the connection was closed before the end of the response"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "not an HTTP response"),
    ],
)
def test_what_is_not_a_response(sent: bytes, why: str) -> None:
    good, reason = probe_server(sends(sent), type="http", expect={"body": "ok"})
    assert not good
    assert reason.startswith(why)
    assert reason.isprintable()
    assert len(reason) < 140


@pytest.mark.parametrize(
    ("start", "data", "why"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "more than 16 interim responses"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", "not an HTTP response"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x", "not an HTTP response"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 70_000, "sent 64 KiB without what is expected"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", "sent 64 KiB without"),
        (b"", b"\x00", "not an HTTP response"),
    ],
)
def test_an_endless_response_costs_little(start: bytes, data: bytes, why: str) -> None:
    cpu = time.thread_time()
    good, reason = probe_server(
        repeats(start, data * max(1, 2000 // len(data))),
        type="http",
        expect={"body": "ok"},
        interval_s=60,
        timeout_s=60,
    )
    assert (good, reason[: len(why)]) == (False, why)
    assert time.thread_time() - cpu < 5  # with the server's share, on any machine; the time limit is 60 s


def test_a_response_in_single_bytes_is_read_at_a_bounded_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0)

    async def counted(loop: asyncio.AbstractEventLoop, sock: object, size: int) -> bytes:
        nonlocal reads
        reads += 1
        return await receive(loop, sock, size)

    receive = asyncio.SelectorEventLoop.sock_recv
    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_recv", counted)
    assert not probe_server(trickle, type="http", timeout_s=0.2)[0]
    assert 1 <= reads <= 250  # one per millisecond


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (hangs, "no answer on 127.0.0.1:"),
        (half_closes, "the connection was closed before the end of the response"),
        (resets, "127.0.0.1:"),
    ],
)
def test_servers_that_do_not_answer(handler: object, why: str) -> None:
    good, reason = probe_server(handler, type="http", timeout_s=0.2 if handler is hangs else 60)
    assert (good, reason[: len(why)]) == (False, why)
    assert handler is not resets or reason.endswith("Connection reset by peer")


@pytest.mark.parametrize(
    ("settings", "head"),
    [
        ({"path": "/a b\r\nX: y?q=1%20&z"}, b"GET /a%20b%0D%0AX:%20y?q=1%20&z HTTP/1.1\r\nHost: 127.0.0.1:"),
        ({"host": "www.example.org:81"}, b"GET / HTTP/1.1\r\nHost: www.example.org:81\r\n"),
    ],
)
def test_the_request(settings: dict[str, str], head: bytes) -> None:
    received = bytearray()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    assert probe_server(server, type="http", **settings)[0]
    assert received.startswith(head)
