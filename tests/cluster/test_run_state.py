"""The state of a run: refused units, forgotten units, and payloads that are lost and made again."""

from __future__ import annotations

import pytest

from vace_batch.cluster.calls import Ending, Order, Reply
from vace_batch.cluster.policy import Blame, Places, Trouble
from vace_batch.cluster.run_state import RunState
from vace_batch.cluster.units import Limits, PoolSpec, Unit

POOLS = {"cpu": PoolSpec(name="cpu"), "gpu": PoolSpec(name="gpu", max_batch=4)}
IDLE = {"cpu": Places(ready=1, idle=1), "gpu": Places(ready=1, idle=1)}


def _unit(name: str, *inputs: str, leaves: int = 0, pool: str = "cpu", key: str | None = None) -> Unit:
    ids = tuple(f"any/{other}" for other in inputs)
    return Unit(kind="any", key=name, pool=pool, fn="m:f", inputs=ids, leaves_bytes=leaves, batch_key=key)


def _state(losses: int = 10) -> RunState:
    return RunState(POOLS, Limits(payload_bytes=100, losses=losses))


def _start(state: RunState) -> Order:
    order = state.next_call(IDLE)
    assert order is not None
    return order


def _names(order: Order) -> list[str]:
    return [item.unit.key for item in order.items]


def _finish(state: RunState, order: Order, *, settle: bool = True) -> list[Ending]:
    replies = [Reply(has_payload=item.unit.leaves_bytes > 0) for item in order.items]
    handles = [f"payload of {item.unit.key}, call {order.call_id}" for item in order.items]
    endings = state.finish(order.call_id, replies, handles)
    if settle:
        for ending in endings:
            state.settle(ending.unit.unit_id)
    return endings


def test_a_unit_twice_an_unknown_pool_and_an_unknown_input_are_refused() -> None:
    state = _state()
    state.add([_unit("a")])
    with pytest.raises(ValueError, match="unit any/a was added twice"):
        state.add([_unit("a")])
    with pytest.raises(ValueError, match="unknown pool 'tpu'"):
        state.add([_unit("b", pool="tpu")])
    with pytest.raises(ValueError, match=r"inputs \['any/z'\] are unknown"):
        state.add([_unit("c", "z")])


def test_a_payload_lives_until_its_last_consumer_has_ended() -> None:
    state = _state()
    state.add([_unit("a", leaves=40)])
    _finish(state, _start(state), settle=False)
    state.add([_unit("b", "a"), _unit("c", "a")])
    state.settle("any/a")
    first = _start(state)
    assert first.items[0].inputs == ("payload of a, call 1",)
    _finish(state, first)
    assert state.held_bytes == 40
    _finish(state, _start(state))
    assert state.held_bytes == 0
    assert state.open == 0
    with pytest.raises(ValueError, match="no longer kept"):
        state.add([_unit("late", "a")])


def test_a_payload_without_consumers_is_freed_at_once() -> None:
    state = _state()
    state.add([_unit("a", leaves=40)])
    _finish(state, _start(state))
    assert state.held_bytes == 0


def test_a_lost_payload_is_made_again_and_nobody_is_charged() -> None:
    state = _state()
    state.add([_unit("a", leaves=40), _unit("b", "a", leaves=10), _unit("c", "b")])
    assert [ending.unit.key for ending in _finish(state, _start(state))] == ["a"]
    _finish(state, _start(state))
    assert state.held_bytes == 10
    order = _start(state)
    assert _names(order) == ["c"]
    assert state.finish(order.call_id, [Reply(lost_inputs=(0,))], [None]) == []
    again = []
    for _ in range(3):
        order = _start(state)
        again += [(name, order.items[0].attempt) for name in _names(order)]
        endings = _finish(state, order)
    assert again == [("a", 1), ("b", 1), ("c", 1)], "b's own input was gone too"
    assert [ending.unit.key for ending in endings] == ["c"]
    assert (state.done, state.failed, state.held_bytes) == (3, 0, 0)


def test_a_payload_that_is_lost_again_and_again_fails_its_consumer() -> None:
    state = _state(losses=2)
    state.add([_unit("a", leaves=40), _unit("b", "a")])
    _finish(state, _start(state))
    endings: list[Ending] = []
    for _ in range(2):
        order = _start(state)
        assert _names(order) == ["b"]
        endings = state.finish(order.call_id, [Reply(lost_inputs=(0,))], [None])
        if not endings:
            _finish(state, _start(state))
    assert [(e.unit.key, e.failure and e.failure.code, e.failure and e.failure.caused_by) for e in endings] == [
        ("b", "machine_lost", "any/a")
    ]
    assert (state.done, state.failed, state.open) == (1, 1, 0)


def test_consumers_of_a_failed_unit_fail_with_its_reason() -> None:
    state = _state()
    state.add([_unit("a", leaves=40), _unit("b", "a"), _unit("c", "b")])
    order = _start(state)
    trouble = Trouble(code="damaged_video", reason="cut off", retryable=False)
    endings = state.finish(order.call_id, [Reply(trouble=trouble)], [None])
    assert [ending.unit.key for ending in endings] == ["a", "b", "c"]
    assert {ending.failure and ending.failure.reason for ending in endings} == {"cut off"}
    late = state.add([_unit("d", "a")])
    assert [ending.failure and ending.failure.caused_by for ending in late] == ["any/a"]
    assert (state.planned, state.failed, state.held_bytes) == (4, 4, 0)


def test_a_batch_that_dies_comes_back_in_halves_with_suspects_among_themselves() -> None:
    state = _state()
    state.add([_unit(f"u{i}", pool="gpu", key="k") for i in range(4)])
    order = _start(state)
    assert len(order.items) == 4
    state.add([_unit("new", pool="gpu", key="k")])
    state.lose(order.call_id, Trouble(code="worker_died", reason="died"), 1.0)
    halves = [_names(_start(state)) for _ in range(3)]
    assert halves == [["u0", "u1"], ["u2", "u3"], ["new"]]


def test_a_waiting_call_that_is_given_back_costs_nothing() -> None:
    state = _state()
    state.add([_unit("a", leaves=40)])
    order = _start(state)
    assert state.held_bytes == 40
    state.give_back(order.call_id)
    assert state.held_bytes == 0
    again = _start(state)
    assert (again.items[0].attempt, again.items[0].last_code, state.retries) == (1, None, 0)


def test_the_next_attempt_knows_what_went_wrong() -> None:
    state = _state()
    state.add([_unit("a")])
    order = _start(state)
    state.lose(order.call_id, Trouble(code="out_of_memory", reason="no room", blame=Blame.UNIT), 1.0)
    item = _start(state).items[0]
    assert (item.attempt, item.last_code) == (2, "out_of_memory")


def test_different_functions_and_keys_do_not_share_a_call() -> None:
    state = _state()
    other = Unit(kind="any", key="o", pool="gpu", fn="m:g", batch_key="k")
    state.add([_unit("a", pool="gpu", key="k"), other, _unit("b", pool="gpu", key="k"), _unit("c", pool="gpu")])
    assert [_names(_start(state)) for _ in range(3)] == [["a", "b"], ["o"], ["c"]]
