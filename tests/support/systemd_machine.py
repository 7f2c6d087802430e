# SPDX-License-Identifier: Apache-2.0
"""A real systemd as process 1 beside a lab's node: in the node's network namespace, with our units enabled.

    host's root, read-only ── overlay ── systemd-nspawn ── systemd ──┬── lb-bgp.service
    this tree, read-only, at /opt/anylb                              └── lb-agent.service

With a folder of packages, the tree and the units are not there, and the folder is at /mnt: the test installs them.

A machine of its own, because a node's init is another process 1. Its mounts are private to it, and it ends with this
process, even after `kill -9`.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from support.waiting import wait_for

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "agent" / "systemd"
LBCTL = f"""\
#!/bin/sh
export PYTHONPATH=/opt/anylb PYTHONDONTWRITEBYTECODE=1
exec /opt/anylb/{Path(sys.executable).relative_to(ROOT)} /opt/anylb/.venv/bin/lbctl "$@"
"""
TARGET = """\
[Unit]
Requires=basic.target
After=basic.target
Wants=systemd-journald.service lb-bgp.service lb-agent.service
"""
MOUNTS = """\
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/tree" "$1/bpf"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/tree"
rm -rf "$1/tree/etc/systemd/system"
: >>"$1/tree/etc/machine-id"  # without it systemd enables all units of the host's packages, as at a first boot
cp -a "$2/." "$1/tree/"
exec sleep infinity
"""
# /proc/sys/net belongs to the network namespace: the agent writes to it, and Debian 13's nspawn has it read-only.
BOOT = """\
set -e
mount -t bpf bpf "$1/bpf"
export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
exec systemd-nspawn --quiet --directory="$1/tree" --boot --register=no --keep-unit --link-journal=no --capability=all \
  --system-call-filter="bpf pidfd_getfd" --network-namespace-path="/proc/$2/ns/net" --bind="$1/bpf:/sys/fs/bpf" \
  --bind-ro="$3:$4" -- --unit=anylb.target
"""
FORGET = """\
set -e
umount "$1/bpf"
sysctl --quiet --write net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0
for link in $(ls /proc/sys/net/ipv4/conf | grep eth); do
  sysctl --quiet --write "net.ipv4.conf.$link.arp_ignore=0" "net.ipv4.conf.$link.arp_announce=0"
  ip link set "$link" xdp off
  tc qdisc delete dev "$link" clsact 2>/dev/null || :
done
ip address flush dev lo scope global
"""
"""What a kernel that starts again has lost, although the node's network namespace lives on."""
COMMANDS = "/usr/local/bin:/usr/sbin:/usr/bin"
"""Where a machine has its commands, lbctl first; who runs the tests may have another PATH."""
REBOOTS = 133
"""How systemd-nspawn ends when its machine has shut down to boot again (its source, run_container)."""


class SystemdMachine:
    """A machine that runs; `pid` is its systemd's on the host."""

    def __init__(self, boot: Callable[[], subprocess.Popen[bytes]], forget: Callable[[], None], console: Path) -> None:
        self._boot, self._forget, self._console = boot, forget, console
        self._start()

    def _start(self) -> None:
        self.nspawn = self._boot()
        self.pid = _booted(self.nspawn, self._console)

    def shut_down_to_reboot(self) -> None:
        """Have it stop all units, as for a reboot."""
        self.run("systemctl", "--no-block", "reboot")
        assert self.nspawn.wait(120) == REBOOTS, self._console.read_text(errors="replace")

    def boot_again(self) -> None:
        """Boot with the same files, but without what the kernel had."""
        self._forget()
        self._start()

    def end(self) -> None:
        """Shut the machine down."""
        self.nspawn.terminate()
        self.nspawn.wait()

    def run(self, *command: str, code: int | None = 0) -> str:
        """Run a command in the machine, outside the units, and check its exit code (None: any); return its output."""
        argv = ["nsenter", f"--target={self.pid}", "--all", "env", f"PATH={COMMANDS}", *command]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=180)
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout

    def journal(self) -> str:
        """Return what the units have logged."""
        return self.run("journalctl", "--no-pager", "--unit=lb-agent", "--unit=lb-bgp")


@contextlib.contextmanager
def systemd_machine(net_pid: int, files: Mapping[str, str], packages: Path | None = None) -> Iterator[SystemdMachine]:
    """Boot a machine in the network namespace of a process. `files`: what else is in its file system, by path."""
    with tempfile.TemporaryDirectory(prefix="anylb-machine-") as made, contextlib.ExitStack() as ending:
        root, added = Path(made, "root"), Path(made, "added")
        root.mkdir()
        system = "etc/systemd/system"
        ours = {f"{system}/anylb.target": TARGET}
        if packages is None:
            ours |= {f"{system}/{unit.name}": unit.read_text() for unit in UNITS.glob("*.service")}
            ours["usr/local/bin/lbctl"] = LBCTL
        for name, content in (ours | dict(files)).items():
            path = added / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(0o755 if path.name == "lbctl" else 0o644)
        # The mount namespace, and with it all mounts, ends with this process; nspawn with this thread.
        bound = (str(ROOT), "/opt/anylb") if packages is None else (str(packages), "/mnt")
        own = ["setpriv", "--pdeathsig=KILL"]
        console = ending.enter_context(Path(made, "console").open("wb"))
        argv = [*own, "unshare", "--mount", "--propagation=private", "sh", "-c", MOUNTS, "sh", str(root), str(added)]
        mounts = ending.enter_context(subprocess.Popen(argv, stdout=console, stderr=console))
        ending.callback(mounts.kill)
        here = [*own, "nsenter", f"--target={mounts.pid}", "--mount"]

        def boot() -> subprocess.Popen[bytes]:
            argv = [*here, "sh", "-c", BOOT, "sh", str(root), str(net_pid), *bound]
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console)

        def forget() -> None:
            argv = [*here, f"--net=/proc/{net_pid}/ns/net", "sh", "-c", FORGET, "sh", str(root)]
            subprocess.run(argv, check=True, stdout=console, stderr=console)

        wait_for(lambda: Path(f"/proc/{mounts.pid}/comm").read_text() == "sleep\n", "the machine's files")
        machine = SystemdMachine(boot, forget, Path(made, "console"))
        ending.callback(machine.end)
        yield machine


def _booted(nspawn: subprocess.Popen[bytes], console: Path) -> int:
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    found: list[int] = []

    def booted() -> bool:
        assert nspawn.poll() is None, console.read_text(errors="replace")
        with contextlib.suppress(OSError):  # a process that has just ended
            for pid in map(int, children.read_text().split()):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    check = ["nsenter", f"--target={pid}", "--all", "systemctl", "is-system-running"]
                    state = subprocess.run(check, capture_output=True, text=True, check=False).stdout.strip()
                    if state in ("running", "starting", "degraded"):
                        found.append(pid)
        return bool(found)

    wait_for(booted, "systemd to boot")
    return found[0]
