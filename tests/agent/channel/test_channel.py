# SPDX-License-Identifier: Apache-2.0
"""Two and more nodes' channels on a network in virtual time: how a session begins, what it carries, keys."""

from support.channel_network import CLUSTER, KEY, A, B, C, Network, kinds, pair, sent, state

from agent.channel.counter import Count
from agent.channel.event import SessionBegun, StateReceived
from agent.channel.message import MAX_BYTES, Kind, parse


def test_two_nodes_know_each_other_after_three_exchanges() -> None:
    network = Network()
    a, b = pair(network)
    network.run(0.01)
    assert a.states == {B: state(2)}
    assert b.states == {A: state(1)}
    assert network.events.count((A, SessionBegun(B))) == 1
    assert (A, StateReceived(B, state(2))) in network.events
    assert a.counters[Count.RECEIVED] == a.counters[Count.SENT] == 4  # hello, answer, state, acknowledgment
    assert a.next_at == float("inf")
    assert b.problems(network.now) == ()


def test_a_node_that_is_asked_does_not_ask_itself() -> None:
    network = Network()
    a, b = network.start(0), network.start(1)
    a.follow({B}, network.now)
    network.run(0.0005)
    b.follow({A}, network.now)
    b.receive(network.sent[0].data, A, network.now)
    assert kinds([parse(data) for _, data in b.step(network.now)]) == [Kind.HELLO_ACK]  # type: ignore[misc]


def test_a_node_without_a_state_still_has_sessions() -> None:
    network = Network()
    a, b = network.start(0), network.start(1)
    a.follow({B}, network.now)
    b.follow({A}, network.now)
    network.run(0.1)
    assert a.next_at == b.next_at == float("inf")
    b.publish(state(2), network.now)
    network.run(0.01)
    assert a.states == {B: state(2)}


def test_states_is_the_same_object_while_nothing_changes() -> None:
    network = Network()
    a, b = pair(network)
    network.run(0.01)
    before = a.states
    b.publish(state(2), network.now)
    a.follow([B], network.now)
    network.run(0.01)
    assert a.states is before
    assert before == {B: state(2)}
    b.publish(state(3), network.now)
    network.run(0.01)
    assert a.states is not before
    assert before == {B: state(2)}


def test_150_services_in_parts_of_1200_bytes() -> None:
    network = Network()
    a, _ = pair(network, services=150)
    network.run(0.01)
    assert a.states == {B: state(2, 150)}
    assert max(len(one.data) for one in network.sent) == MAX_BYTES
    assert kinds(sent(network, B)).count(Kind.STATE) == 2


def test_a_restarted_node_is_known_again_at_once_and_its_last_state_until_then() -> None:
    network = Network()
    a, _ = pair(network)
    network.run(1)
    again = network.start(1)
    network.run(1)
    assert a.states == {B: state(2)}
    again.follow({A}, network.now)
    again.publish(state(1, boot=8), network.now)
    network.events.clear()
    network.run(0.01)
    assert a.states == {B: state(1, boot=8)}
    assert again.states == {A: state(1)}
    assert network.events.count((A, SessionBegun(B))) == 1
    network.run(2)
    network.sent.clear()
    network.run(60)
    assert network.sent == []


def test_a_restarted_node_whose_hello_is_lost_is_reminded_by_the_next_state() -> None:
    reachable = [True]
    network = Network(lambda datagram: (0.001,) if reachable[0] else ())
    a, _ = pair(network)
    network.run(1)
    reachable[0] = False
    again = network.start(1)
    again.follow({A}, network.now)
    network.run(20)  # its hellos are now more than ten seconds apart
    reachable[0] = True
    a.publish(state(5), network.now)
    network.run(0.02)
    assert again.states == {A: state(5)}


def test_a_cut_path_heals_without_loss_of_the_session_of_others() -> None:
    cut = [False]
    network = Network(lambda datagram: () if cut[0] and A in (datagram.source, datagram.destination) else (0.001,))
    a, b = pair(network)
    c = network.start(2)
    for channel in (a, b, c):
        channel.follow({A, B, C}, network.now)
    network.run(1)
    cut[0] = True
    a.publish(state(20), network.now)
    b.publish(state(21), network.now)
    network.run(30)
    assert c.states[B] == state(21)
    assert (a.states[B], b.states[A]) == (state(2), state(1))
    cut[0] = False
    a.wake(B, network.now)
    network.run(0.02)
    assert (a.states[B], b.states[A]) == (state(21), state(20))
    network.run(40)
    assert c.states[A] == state(20)


def test_follow_forgets() -> None:
    network = Network()
    a, b = pair(network)
    network.run(1)
    a.follow(set(), network.now)
    assert a.states == {}
    sent(network)
    a.publish(state(5), network.now)
    b.publish(state(6), network.now)
    network.run(1)
    assert sent(network, A) == []
    assert a.counters[Count.UNKNOWN_SENDER] > 1
    a.follow({B}, network.now)
    network.run(2)
    assert (a.states, b.states) == ({B: state(6)}, {A: state(5)})


def test_two_keys_while_the_key_changes() -> None:
    new, network = b"n" * 16, Network()
    a, b = network.start(0, [KEY, new]), network.start(1, [new, KEY])
    a.follow({B}, network.now)
    b.follow({A}, network.now)
    a.publish(state(3), network.now)
    b.publish(state(4), network.now)
    network.run(0.01)
    assert (a.states, b.states) == ({B: state(4)}, {A: state(3)})
    a = network.start(0, [new])
    a.follow({B}, network.now)
    a.publish(state(5), network.now)
    network.run(0.01)
    assert (a.states, b.states) == ({B: state(4)}, {A: state(5)})
    assert a.counters[Count.BAD_MAC] == b.counters[Count.BAD_MAC] == 0


def test_without_a_key_there_is_no_channel() -> None:
    network = Network()
    a = network.start(0, keys=())
    a.publish(state(1), network.now)
    assert a.problems(network.now) == ()
    a.follow({B}, network.now)
    a.notify(Kind.SUSPECTS, b"", network.now)
    assert a.next_at == float("inf")
    assert a.step(network.now) == []
    b = network.start(1)
    b.follow({A}, network.now)
    for _, data in b.step(network.now):
        assert a.receive(data, B, network.now) == []
    assert a.step(network.now) == []
    assert a.problems(network.now) == (
        "this node has no members.key_file, so it accepts no other node: make one with `lbctl key new`, "
        "the same file on all nodes",
    )


def test_the_cluster_number_is_in_every_datagram() -> None:
    network = Network()
    pair(network)
    network.run(1)
    assert {message.cluster for message in sent(network)} == {CLUSTER}
