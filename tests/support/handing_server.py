# SPDX-License-Identifier: Apache-2.0
"""A server that hands its listener to the agent by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.instance_servers import PORT

SERVER = """
import socket, sys
name, path, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
listener = socket.create_server(("0.0.0.0", port), reuse_port=True, backlog=1024)
sys.stdout.write("listens\\n"), sys.stdout.flush()
for line in sys.stdin:
    if line == "serve\\n":
        break
    with socket.socket(socket.AF_UNIX) as agent:
        agent.connect(path)
        socket.send_fds(agent, [b"listen\\n"], [listener.fileno()])
        sys.stdout.write(agent.recv(1000).decode()), sys.stdout.flush()
while True:
    connection, _ = listener.accept()
    connection.sendall(name.encode())
    connection.close()
"""


def accepts(path: Path) -> bool:
    """Return whether a process listens at a Unix socket: its file exists a moment earlier."""
    listens = 1 << 16  # __SO_ACCEPTCON in the fourth column
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(int(line[3], 16) & listens for line in lines if line[-1] == str(path))


class HandingServer:
    """A server that hands its listener over when it is asked to, and then serves."""

    def __init__(self, folder: Path, name: str, pidfile: bool = True) -> None:
        argv = [sys.executable, "-S", "-c", SERVER, name, str(folder / "instances.sock"), str(PORT)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.read()
        if pidfile:
            (folder / f"{name}.pid").write_text(str(self.process.pid))

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def hand_over(self) -> str:
        """Return the agent's answer."""
        assert self.process.stdin is not None
        self.process.stdin.write("hand over\n")
        return self.read()

    def serve(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("serve\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
