# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the scenario in two labs at the same time, anylb and its control, under real traffic.

Owns the run: the checks before it, both labs' life, the output, the exit code. Both labs end with this process
(`keep=False`), even after a kill -9.
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
from topology.demo.report import ANYLB, ECMP, StepResult
from topology.demo.router_watch import RouterWatch
from topology.demo.runner import ScenarioRunner
from topology.demo.scenario import Step
from topology.demo.stage import NAT, SERVERS, Stage
from topology.errors import LabError
from topology.lab import record
from topology.lab.lab import Lab

VARIANTS = (ANYLB, ECMP)
CONNECTIONS, FRESH_PER_S = 400, 50.0


def with_both_variants(work: Callable[[str], None]) -> None:
    """Call `work` with each variant at the same time; raise the first error once both have ended.

    The threads are daemons and are joined in short turns, so that a signal ends the demo in between.
    """
    errors: list[Exception] = []

    def run(variant: str) -> None:
        try:
            work(variant)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(variant,), name=variant, daemon=True) for variant in VARIANTS]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.05)
        threads[1].join(0.05)
    if errors:
        raise errors[0]


class Demo:
    """One run. A context: leaving it takes both labs down."""

    def __init__(self, stage: Stage, router: str, logs: Path | None) -> None:
        self._stage = stage
        self._router = router
        self._logs = logs
        self._labs: dict[str, Lab] = {}
        self._stack = ExitStack()
        self.runners: dict[str, ScenarioRunner] = {}

    def __enter__(self) -> "Demo":
        return self

    def __exit__(self, *_: object) -> None:
        # A second signal must not interrupt the cleanup.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if self._logs:
            self._save_logs(self._logs)
        self._stack.close()

    def up(self) -> None:
        """Bring both labs up and start their traffic; return when the service is served in both."""
        record.remove_stale()  # labs of killed runs
        for variant, env in self._stage.environments.items():
            file = Path(__file__).parents[1] / self._stage.files[self._router]
            lab = Lab.up(file, name=f"demo-{variant}-{os.getpid()}", env=env, keep=False)
            self._labs[variant] = lab
            self._stack.callback(lab.down)
        for variant, lab in self._labs.items():
            cluster = Cluster(lab, self._router, nat=self._stage.nat and variant == ANYLB)
            traffic = cluster.start_traffic()
            self._stack.callback(traffic.quit)
            watch = self._stack.enter_context(RouterWatch(lab.nodes["router"].pid, VIP))
            self.runners[variant] = ScenarioRunner(variant, cluster, traffic, watch)
        with_both_variants(lambda variant: self.runners[variant].begin(FRESH_PER_S))

    def run_step(self, step: Step) -> list[StepResult]:
        """Run one step in both labs at once."""
        rows: dict[str, StepResult] = {}

        def one(variant: str) -> None:
            rows[variant] = self.runners[variant].run_step(step, CONNECTIONS)

        with_both_variants(one)
        return [rows[variant] for variant in VARIANTS]

    def _save_logs(self, directory: Path) -> None:
        for variant, lab in self._labs.items():
            for name, node in lab.nodes.items():
                with suppress(OSError, shutil.Error):  # a crashed node has none
                    shutil.copytree(node.root / "var/log", directory / variant / name, dirs_exist_ok=True)


def run(stage: Stage, router: str, steps: Sequence[Step], output: Path, logs: Path | None, console: Console) -> int:
    """Run the scenario, show and write the result. Return 0 if it is as expected, else 1. Raises LabError."""
    began = time.monotonic()
    results: list[StepResult] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Demo(stage, router, logs) as demo:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(f"two labs come up: anylb and {stage.control}")
            demo.up()
            progress.console.print(f"both labs serve after {time.monotonic() - began:.1f} s")
            for number, step in enumerate(steps, 1):
                progress.update(task, description=f"step {number} of {len(steps)}: {step.title}")
                of_step = demo.run_step(step)
                results += of_step
                progress.console.print(display.step_line(of_step, stage.titles), highlight=False)
        spreads = {variant: runner.spread for variant, runner in demo.runners.items() if runner.spread}
    console.print()
    for variant, spread in spreads.items():
        console.print(display.spread_table(stage.titles[variant], spread))
    console.print(display.result_table(router, steps, results, stage.titles))
    report.write_json(output, router, results)
    unexpected = report.deviations(results, stage.control)
    for variant, spread in spreads.items():
        unexpected += report.spread_deviations(variant, spread)
    for line in unexpected:
        console.print(f"NOT AS EXPECTED  {line}", style="red", highlight=False)
    if not unexpected:
        console.print(f"As expected: anylb broke nothing, {stage.control} did.", style="green")
    console.print(f"{time.monotonic() - began:.0f} s, figures in {output}", highlight=False)
    return 1 if unexpected else 0


def _interrupted(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code: 0 as expected, 1 not, or cannot run here, 128+N after signal N."""
    parser = argparse.ArgumentParser(prog="python -m topology.demo", description="Run anylb's scenario in two labs.")
    parser.add_argument("--router", choices=sorted(SERVERS.files), default="bird")
    parser.add_argument("--nat", action="store_true", help="backends without an agent, behind nodes that do NAT")
    parser.add_argument("--json", type=Path, default=Path("demo.json"), metavar="FILE", help="write the figures here")
    parser.add_argument("--small", action="store_true", help="fewer steps, for tests")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the nodes' logs here")
    options = parser.parse_args(argv)
    stage = NAT if options.nat else SERVERS
    if options.router not in stage.files:
        parser.error(f"--nat has no lab with {options.router}; give --router {' or '.join(stage.files)}")
    lines = preflight.missing(options.router, options.json, stage.programs)
    for line in lines:
        print(f"demo: {line}", file=sys.stderr)
    if lines:
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    steps = stage.small if options.small else stage.steps
    try:
        return run(stage, options.router, steps, options.json, options.logs, Console())
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
