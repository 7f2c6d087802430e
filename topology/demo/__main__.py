# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the scenario in two labs side by side, anylb and plain ECMP, under real traffic.

Owns the run: checks before it, both labs' life, what is printed and written, the exit code. Both labs hang on this
process (`keep=False`), so that nothing outlives it, not even a kill -9.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from topology.demo import display, preflight, report
from topology.demo.cluster import VIP, Cluster
from topology.demo.play import Play
from topology.demo.report import ANYLB, ECMP, Row
from topology.demo.router_watch import RouterWatch
from topology.demo.scenario import SMALL, STEPS, Step
from topology.errors import LabError
from topology.lab import record
from topology.lab.lab import Lab
from topology.traffic.client import TrafficClient

FILES = {"bird": "segment.clab.yml", "frr": "segment-frr.clab.yml"}
#: The same file twice: with and without XDP.
XDP = {ANYLB: "auto", ECMP: "off"}
CONTROL = "run/anylb-traffic.sock"
CONNECTIONS, FRESH_PER_S = 400, 50.0


def in_both(work: Callable[[str], None]) -> None:
    """Call `work` with each lab's kind at the same time; raise what the first one raised, once both are over.

    The threads are daemons and are waited for in short turns, so that a signal ends the demo in between.
    """
    errors: list[Exception] = []

    def run(kind: str) -> None:
        try:
            work(kind)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(kind,), name=kind, daemon=True) for kind in XDP]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.05)
        threads[1].join(0.05)
    if errors:
        raise errors[0]


class Demo:
    """One run. A context: leaving it takes both labs down."""

    def __init__(self, router: str, logs: Path | None) -> None:
        self._router = router
        self._logs = logs
        self._labs: dict[str, Lab] = {}
        self._stack = ExitStack()
        self.plays: dict[str, Play] = {}

    def __enter__(self) -> "Demo":
        return self

    def __exit__(self, *_: object) -> None:
        # A second signal must not stop the clearing up.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if self._logs:
            self._save_logs(self._logs)
        self._stack.close()

    def up(self) -> None:
        """Bring both labs up and start their traffic; return when the service is served in both."""
        record.remove_stale()  # what a killed run left
        for kind, xdp in XDP.items():
            file = Path(__file__).parents[1] / FILES[self._router]
            lab = Lab.up(file, name=f"demo-{kind}-{os.getpid()}", env={"XDP": xdp}, keep=False)
            self._labs[kind] = lab
            self._stack.callback(lab.down)
        for kind, lab in self._labs.items():
            client_log = lab.root("client") / "var/log/traffic.log"
            lab.spawn(
                "client", ["python", "-m", "topology.traffic", "--vip", VIP, "--control", f"/{CONTROL}"], client_log
            )
            client = TrafficClient.connect(lab.root("client") / CONTROL)
            self._stack.callback(client.quit)
            watch = self._stack.enter_context(RouterWatch(lab.nodes["router"].pid, VIP))
            self.plays[kind] = Play(kind, Cluster(lab, self._router), client, watch)
        in_both(lambda kind: self.plays[kind].ready(FRESH_PER_S))

    def play(self, step: Step) -> list[Row]:
        """Play one step in both labs at once."""
        rows: dict[str, Row] = {}

        def one(kind: str) -> None:
            rows[kind] = self.plays[kind].step(step, CONNECTIONS)

        in_both(one)
        return [rows[kind] for kind in XDP]

    def _save_logs(self, directory: Path) -> None:
        for kind, lab in self._labs.items():
            for name, node in lab.nodes.items():
                with suppress(OSError, shutil.Error):  # a crashed node has none
                    shutil.copytree(node.root / "var/log", directory / kind / name, dirs_exist_ok=True)


def run(router: str, steps: Sequence[Step], output: Path, logs: Path | None, console: Console) -> int:
    """Play the scenario, show and write the result. Return 0 if it is as expected, else 1. Raises LabError."""
    begun = time.monotonic()
    rows: list[Row] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Demo(router, logs) as demo:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("two labs come up: anylb and plain ECMP")
            demo.up()
            progress.console.print(f"both labs serve after {time.monotonic() - begun:.1f} s")
            for number, step in enumerate(steps, 1):
                progress.update(task, description=f"step {number} of {len(steps)}: {step.title}")
                new = demo.play(step)
                rows += new
                progress.console.print(display.step_line(new), highlight=False)
        spreads = {kind: play.spread for kind, play in demo.plays.items() if play.spread}
    console.print()
    for kind, spread in spreads.items():
        console.print(display.spread_table(kind, spread))
    console.print(display.result_table(router, steps, rows))
    report.write_json(output, router, rows)
    found = report.faults(rows)
    for kind, spread in spreads.items():
        found += report.spread_faults(kind, spread)
    for line in found:
        console.print(f"NOT AS EXPECTED  {line}", style="red", highlight=False)
    if not found:
        console.print("As expected: anylb broke nothing, plain ECMP did.", style="green")
    console.print(f"{time.monotonic() - begun:.0f} s, figures in {output}", highlight=False)
    return 1 if found else 0


def _interrupted(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code: 0 as expected, 1 not, or not possible here, 128+N after signal N."""
    parser = argparse.ArgumentParser(prog="python -m topology.demo", description="Play anylb's scenario in two labs.")
    parser.add_argument("--router", choices=sorted(FILES), default="bird")
    parser.add_argument("--json", type=Path, default=Path("demo.json"), metavar="FILE", help="where the figures go")
    parser.add_argument("--small", action="store_true", help="fewer steps: a test, not a showing")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the nodes' logs here")
    options = parser.parse_args(argv)
    faults = preflight.faults(options.router, options.json)
    for fault in faults:
        print(f"demo: {fault}", file=sys.stderr)
    if faults:
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    steps = SMALL if options.small else STEPS
    try:
        return run(options.router, steps, options.json, options.logs, Console())
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
