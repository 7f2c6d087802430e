# SPDX-License-Identifier: Apache-2.0
"""The events of a node: in files of a bounded size, without what is too old, whatever becomes of the disk."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.daemon.event_log import KEPT_S, EventLog, follow, forget_old, latest, older, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "events.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[logging.Logger]:
    """A logger with a file of 1,000 bytes."""
    logger, handler = logging.getLogger("anylb"), EventLog(path, 1_000)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger
    logger.removeHandler(handler)


def texts(path: Path) -> list[str]:
    return [event["text"] for event in read(path, 0.0)]


def test_what_is_logged_is_an_event(path: Path, log: logging.Logger) -> None:
    began = time.time()
    log.info("%s is up", "b2\n")
    log.debug("not this")
    log.warning("it fails")
    first, second = read(path, 0.0)
    assert (first["level"], first["text"], first["source"]) == ("info", "b2\n is up", "test_event_log")
    assert (second["level"], second["text"]) == ("warning", "it fails")
    assert began - 0.01 <= first["time"] <= time.time() + 0.01
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_files_are_bounded_and_the_newest_events_stay(path: Path, log: logging.Logger) -> None:
    for number in range(100):
        log.info("event %d", number)
    assert path.stat().st_size <= 1_000
    assert older(path).stat().st_size <= 1_000
    found = texts(path)
    assert found == [f"event {number}" for number in range(100 - len(found), 100)]
    assert len(found) > 10


def test_what_is_old_is_not_shown_and_forgotten(path: Path, log: logging.Logger) -> None:
    log.info("now")
    (event,) = read(path, 0.0)
    assert list(read(path, event["time"] + 1)) == []
    forget_old(path, time.time())
    assert texts(path) == ["now"]
    forget_old(path, time.time() + KEPT_S + 1)
    assert not path.exists()


def test_a_line_that_is_cut_off_is_left_out(path: Path, log: logging.Logger) -> None:
    log.info("before")
    with path.open("a") as file:
        file.write('{"time": 1, "lev\n[1]\n{"time": "x"}\n')
    log.info("after")
    assert texts(path) == ["before", "after"]


def test_a_disk_that_is_full_is_named_once(
    path: Path, log: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("agent.private_file.open_file", full)
        log.info("one")
        log.info("two")
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"{path}: No space left on device; `lbctl events` lacks what happens now"]
    log.info("three")
    assert texts(path) == ["three"]


@pytest.mark.slow
def test_follow_goes_on_in_the_next_file(path: Path, log: logging.Logger) -> None:
    log.info("before")
    found: list[str] = []
    ready = threading.Event()

    def reader() -> None:
        events: Iterator[dict[str, Any]] = follow(path)
        ready.set()
        for event in events:
            found.append(event["text"])
            if event["text"] == "event 29":
                return

    thread = threading.Thread(target=reader, daemon=True)
    thread.start()
    ready.wait(10)
    time.sleep(0.5)  # the reader has opened the file by then, and waits
    for number in range(30):
        log.info("event %d", number)
        time.sleep(0.02)
    thread.join(20)
    assert not thread.is_alive()
    assert found == [f"event {number}" for number in range(30)]


def test_the_latest_come_first_also_from_the_file_before_and_from_an_earlier_process(path: Path) -> None:
    for number in range(3):  # each agent has a handler of its own
        logger, handler = logging.getLogger(f"anylb.one{number}"), EventLog(path, 400)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        for count in range(2):
            logger.info("event %d", 2 * number + count)
        logger.removeHandler(handler)
    assert older(path).exists()
    assert [event["text"] for event in latest(path, 4)] == ["event 5", "event 4", "event 3", "event 2"]
    assert len(latest(path, 100)) > 4
    assert latest(path.with_name("missing"), 4) == []


def test_the_latest_of_a_long_file_are_read_from_its_end(path: Path) -> None:
    path.parent.mkdir(parents=True)
    lines = [f'{{"time": {number}, "level": "info", "text": "{"x" * 1000}"}}\n' for number in range(200)]
    path.write_text("".join(lines))
    found = [event["time"] for event in latest(path, 500)]
    assert found == list(range(199, 199 - len(found), -1))
    assert 50 < len(found) < 70
