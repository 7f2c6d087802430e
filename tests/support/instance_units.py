# SPDX-License-Identifier: Apache-2.0
"""Servers as systemd units behind one VIP of a node: nginx as two units of a template, and a socket unit's service with
a spare one beside it. The agent's configuration has them as instances."""

from typing import Final

VIP: Final = "10.99.0.3"
NGINX_PORT: Final = 18080
SOCKET_PORT: Final = 18081
_SERVICES: Final = f"""\
  - name: web
    vip: {VIP}
    protocol: tcp
    port: {NGINX_PORT}
    instances: {{match: [{{unit: web@a.service}}, {{unit: web@b.service}}]}}
  - name: activated
    vip: {VIP}
    protocol: tcp
    port: {SOCKET_PORT}
    instances: {{match: [{{unit: activated.service}}, {{unit: spare.service}}]}}
"""
_NGINX = """\
pid /run/web-{name}.pid; error_log /run/web-{name}.log; worker_processes 2;
events {{ worker_connections 512; }}
http {{
  access_log off;
  server {{ listen {port} reuseport; location / {{ return 200 "{name}"; }} }}
}}
"""
_WEB = """\
[Service]
Type=forking
PIDFile=/run/web-%i.pid
ExecStart=/usr/sbin/nginx -c /etc/web-%i.conf
KillSignal=SIGQUIT
"""
_SERVER = """\
import socket, sys
if sys.argv[1] == "activated":
    listener = socket.socket(fileno=3)
else:
    listener = socket.create_server(("0.0.0.0", int(sys.argv[2])), reuse_port=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(sys.argv[1].encode())
    connection.close()
"""
_SOCKET = """\
[Socket]
ListenStream=0.0.0.0:{port}
ReusePort=yes
"""
_SERVICE = """\
[Service]
ExecStart=/usr/bin/python3 -S /etc/server.py {name} {port}
"""
_UNITS = "etc/systemd/system"


def files() -> dict[str, str]:
    """Return the units and what they need, by path."""
    return {
        "etc/instance-services.yml": _SERVICES,
        **{f"etc/web-{name}.conf": _NGINX.format(name=name, port=NGINX_PORT) for name in "ab"},
        f"{_UNITS}/web@.service": _WEB,
        "etc/server.py": _SERVER,
        f"{_UNITS}/activated.socket": _SOCKET.format(port=SOCKET_PORT),
        **{f"{_UNITS}/{name}.service": _SERVICE.format(name=name, port=SOCKET_PORT) for name in ("activated", "spare")},
    }
