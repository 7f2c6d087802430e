# SPDX-License-Identifier: Apache-2.0
"""What lbctl prints of denied prefixes, instances and a flow; texts of operators and of the network are printed
literally."""

import pytest

from agent.cli.display import print_denied, print_explanation, print_instances


@pytest.mark.parametrize("text", ["see [/var/log]", "[/42]", "swap [disk]", "[fd00::1]:443", "[red]no[/]"])
def test_brackets_are_printed_literally(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_denied({"denied": [{"prefix": text, "configured": True}]})
    assert text in capsys.readouterr().out


def test_no_text_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_denied({"denied": [{"prefix": "\x1b[2J\x9b", "configured": True}]})
    assert r"\x1b[2J\x9b" in capsys.readouterr().out


def test_instances(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    one = {"name": "web@1", "state": "standby", "weight": 0, "listeners": 2, "pid": 7, "added": True}
    one |= {"why": "", "processes": 1}
    sick = one | {"name": "web@2", "state": "unhealthy", "added": False, "why": "no answer"}
    web = {"name": "web", "policy": "standby", "preferred": "web@1", "instances": [one, sick]}
    print_instances({"services": [web, {"name": "db", "policy": "spread", "preferred": None, "instances": []}]})
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == ["service", "policy", "instance", "state", "weight", "listeners", "pid"]
    assert rows[0] == ["web", "standby", "web@1", "standby", "0", "2", "7", "added", "by", "hand,", "preferred"]
    assert rows[1] == ["web", "standby", "web@2", "unhealthy", "0", "2", "7", "no", "answer"]
    assert rows[2] == ["db", "spread", "none", "found"]


def test_no_instances(capsys: pytest.CaptureFixture[str]) -> None:
    print_instances({"services": []})
    assert capsys.readouterr().out == "no service of this node has instances\n"


def test_explanation_of_a_session(capsys: pytest.CaptureFixture[str]) -> None:
    """Its service is known only where the session is; a backend opens none."""
    response = {
        "flow": "[fd00:ff::]:40000", "service": None, "forward": "gue", "denied": None, "tried": ["10.0.0.11"],
        "silent": [], "epochs": [{"epoch": 5, "in_use": True, "row": 452, "chain": ["10.0.0.11"]}], "slot": 7232,
        "session": None, "nodes": [{"node": "10.0.0.11", "held": "here", "not_held": "dropped"}],
    }  # fmt: skip
    print_explanation(response)
    text = capsys.readouterr().out
    assert text.startswith(
        "[fd00:ff::]:40000: service unknown here (gue)\n"
        "epoch 0x00000005 (for new flows): row 452, chain 10.0.0.11\n"
        "no session of it on this node\n"
    )
    assert "SYN" not in text
