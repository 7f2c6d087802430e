# SPDX-License-Identifier: Apache-2.0
"""Every fixture through both builds of the program and through the oracle: all must agree with the fixture's author.

Then hostile variants of every fixture, for which the oracle gives the expected result.
"""

import random
from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.oracle.packets import judge
from support.proof.fixtures import Entry, Fixture, entries
from support.proof.stage import Stage, difference
from support.proof.stage_sockets import Sockets

ENTRIES = sorted(entries(), key=lambda entry: entry.fields["verdict"] != "redirect")
MUTATIONS = 40
"""Of each fixture, in addition to its truncations."""
PARTS = 14
"""Every 14th fixture is a part, which holds some of all files."""


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_fixture(entry: Entry, stage: Stage, sockets: Sockets) -> None:
    fixture = entry.build()
    world = replace(fixture.world, sockets=sockets.flows)
    stage.install(world)
    before = stage.counted()
    for build in stage.BUILDS:
        stage.refill()
        stage.forget_fragments()
        verdict, frame = stage.send(fixture.frame, build)
        after = stage.counted()
        counted, before = after - before, after

        assert verdict == fixture.verdict
        assert verdict == "drop" or frame == fixture.out
        assert counted == Tally(fixture.counted)
        assert_never(fixture, verdict, frame, {name for _, name in counted})

    judgement = judge(world, fixture.frame)
    assert judgement.verdict == fixture.verdict
    assert fixture.verdict == "drop" or judgement.frame == fixture.out
    assert Tally(judgement.counted) == Tally(fixture.counted)


def assert_never(fixture: Fixture, verdict: str, frame: bytes, counters: set[str]) -> None:
    for what in fixture.never:
        if what.startswith("to "):
            mac = fixture.world.nodes[int(what[3:])].mac
            assert not mac or verdict not in ("tx", "redirect") or frame[:6] != bytes.fromhex(mac.replace(":", "")), (
                what
            )
        elif what in ("pass", "drop", "tx", "redirect"):
            assert verdict != what
        else:
            assert what not in counters


def test_fixtures_are_many_and_each_lists_what_must_not_happen() -> None:
    assert len(ENTRIES) >= 120
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry.fields["never"] for entry in ENTRIES)


def hostile(frame: bytes, choose: random.Random) -> Iterator[bytes]:
    """Yield the frame cut at every byte, then with bytes changed, inserted, removed, and parts repeated."""
    yield from (frame[:size] for size in range(14, min(len(frame), 160)))
    for _ in range(MUTATIONS):
        mutated = bytearray(frame)
        for _ in range(choose.choice((1, 1, 2, 4))):
            # Most decisions depend on the first 80 bytes, above all on those after the MACs.
            at = choose.randrange(12, min(len(mutated), choose.choice((40, 80, 2000))))
            match choose.randrange(5):
                case 0:
                    mutated[at] ^= 1 << choose.randrange(8)
                case 1:
                    mutated[at] = choose.choice((0, 1, 4, 6, 17, 0x40, 0x45, 0x46, 0x4F, 0x60, 0x80, 0xFF))
                case 2:
                    mutated[at:at] = choose.randbytes(choose.choice((1, 4, 20)))
                case 3:
                    del mutated[max(14, at) : at + choose.choice((1, 4, 20))]
                case 4:
                    mutated[at:at] = mutated[14 : 14 + choose.choice((4, 20, 28, 40))]
        yield bytes(mutated)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_hostile_variants(part: int, stage: Stage, sockets: Sockets) -> None:
    """The program does with each exactly what the oracle expects, to the byte."""
    choose = random.Random(part)
    expected: Tally[str] = Tally()
    part_of_all = [entry.build() for entry in ENTRIES[part::PARTS]]
    for fixture in part_of_all:
        world = replace(fixture.world, sockets=sockets.flows)
        stage.install(world)
        for frame in hostile(fixture.frame, choose):
            judgement = judge(world, frame)
            assert stage.agrees(judgement, frame), difference(world, stage, frame, fixture.name)
            expected[judgement.verdict] += 1
    assert expected.keys() == {"pass", "drop", "tx"} | {fixture.verdict for fixture in part_of_all}
    assert part or expected["redirect"]
