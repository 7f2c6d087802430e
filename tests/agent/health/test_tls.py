# SPDX-License-Identifier: Apache-2.0
"""HTTPS probes: names, certificates, and servers that do not speak TLS as they should."""

import asyncio
import os
import ssl
import subprocess
from pathlib import Path

import pytest
from support.service import half_closes, hangs, probe_server, repeats, resets, sends

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CA = """
[ca]
default_ca = own
[own]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = names
[any]
[names]
subjectAltName = DNS:web.example
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good.pem for web.example and 127.0.0.1, and expired.pem, both of key.pem and signed by themselves."""
    path = tmp_path_factory.mktemp("tls")
    (path / "ca.cnf").write_text(CA)
    (path / "index").touch()
    for command in (
        "ecparam -genkey -name prime256v1 -noout -out key.pem",
        "req -x509 -key key.pem -out good.pem -days 30 -subj /CN=x -addext subjectAltName=DNS:web.example,IP:127.0.0.1",
        "req -new -key key.pem -subj /CN=x -out request.pem",
        "ca -batch -selfsign -config ca.cnf -keyfile key.pem -in request.pem -out expired.pem -notext"
        " -startdate 20200101000000Z -enddate 20200102000000Z",
    ):
        subprocess.run(["openssl", *command.split()], cwd=path, check=True, capture_output=True, timeout=30)
    return path


def server(folder: Path, certificate: str = "good.pem") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / certificate, folder / "key.pem")
    return context


def test_verified_by_name_and_by_address(folder: Path) -> None:
    ca_file = str(folder / "good.pem")
    for name in ({"server_name": "web.example"}, {"host": "web.example:8443"}, {"server_name": "127.0.0.1"}):
        answer = probe_server(
            sends(RESPONSE), server(folder), type="https", ca_file=ca_file, expect={"body": "ok"}, **name
        )
        assert answer == (True, "HTTP 200")


def test_sni_and_host_header(folder: Path) -> None:
    names: list[str | None] = []
    heads: list[bytes] = []
    context = server(folder)
    context.sni_callback = lambda _, name, __: names.append(name)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(RESPONSE)
        writer.close()

    for settings in ({"server_name": "a.example"}, {"server_name": "a.example", "host": "b.example"}, {}):
        assert probe_server(handler, context, type="https", verify=False, **settings)[0]
    assert names == ["a.example", "a.example", None]
    assert [b"Host: a.example\r\n" in heads[0], b"Host: b.example\r\n" in heads[1]] == [True, True]


@pytest.mark.parametrize(
    ("certificate", "trusted", "name", "why"),
    [
        ("good.pem", "good.pem", "other.example",
         "certificate verify failed: Hostname mismatch, certificate is not valid for 'other.example'"),
        ("expired.pem", "expired.pem", "web.example", "certificate verify failed: certificate has expired"),
        ("good.pem", None, "web.example", "certificate verify failed: self-signed certificate"),
    ],
)  # fmt: skip
def test_wrong_certificates(folder: Path, certificate: str, trusted: str | None, name: str, why: str) -> None:
    settings = {"server_name": name} | ({"ca_file": str(folder / trusted)} if trusted else {})
    context = server(folder, certificate)
    assert probe_server(sends(RESPONSE), context, type="https", **settings) == (False, why)
    assert probe_server(sends(RESPONSE), context, type="https", verify=False)[0]


def test_ca_files(folder: Path, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"

    def reason() -> str:
        settings = {"server_name": "web.example", "ca_file": str(ca_file)}
        return probe_server(sends(RESPONSE), server(folder), type="https", **settings)[1]

    assert reason() == f"{ca_file}: No such file or directory"
    os.mkfifo(ca_file)
    assert reason() == f"{ca_file} is not a file"
    ca_file.unlink()
    ca_file.write_text("no certificate")
    assert reason() == f"{ca_file} contains no certificate in PEM"
    ca_file.write_bytes((folder / "good.pem").read_bytes())
    assert reason() == "HTTP 200"


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "TLS: wrong version number"),
        (sends(b""), "TLS: the connection was closed"),
        (half_closes, "TLS: the connection was closed"),
        (repeats(b"", b"\x16\x03\x03\x40\x00" + b"\0" * 16_384), "sent 64 KiB"),  # hello requests, ignored
        (repeats(b"", b"\x15\x03\x03\x00\x02\x01\x00"), "TLS: "),
        (hangs, "no answer on 127.0.0.1:"),
        (resets, "127.0.0.1:"),
    ],
)
def test_servers_without_tls(handler: object, why: str) -> None:
    good, reason = probe_server(handler, type="https", verify=False, timeout_s=0.2 if handler is hangs else 60)
    assert (good, reason[: len(why)]) == (False, why)


def test_an_endless_response_ends(folder: Path) -> None:
    handler = repeats(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000)
    answer = probe_server(handler, server(folder), type="https", verify=False, expect={"body": "ok"})
    assert answer == (False, "sent 64 KiB without what is expected")
