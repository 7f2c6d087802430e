# SPDX-License-Identifier: Apache-2.0
"""Who watches the export status of the VIPs."""

from agent.announcing.export_monitor import MAX_UNREAD, ExportMonitor
from agent.announcing.export_status import ExportStatus

WALL = 1_700_000_000.0  # 2023-11-14 22:13:20Z


def test_watcher_that_does_not_read_is_disconnected() -> None:
    monitor = ExportMonitor(())
    with monitor.watch() as slow, monitor.watch() as quick:
        for number in range(MAX_UNREAD + 2):
            status = ExportStatus("192.0.2.10", "10.0.0.1", "announced", "yes", "up", str(number))
            monitor.observe([status], WALL)
            entry = quick.get_nowait()
            assert entry is not None
            assert entry.status == status
        read = [slow.get_nowait() for _ in range(slow.qsize())]
    assert len(read) == MAX_UNREAD
    assert read[-1] is None
    assert None not in read[:-1]
