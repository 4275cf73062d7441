"""The dispatcher's decisions, one at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vace_batch.cluster.policy import (
    Blame,
    Head,
    History,
    Places,
    Spare,
    Trouble,
    batch_size,
    charge,
    choose,
    inherited,
    retired,
    startable,
    wanted_actors,
)
from vace_batch.cluster.units import Failure, Limits, PoolSpec

LIMITS = Limits(attempts=3, losses=4)
DIED = Trouble(code="worker_died", reason="its worker process died")

troubles = st.builds(
    Trouble,
    code=st.sampled_from(["worker_died", "timeout", "internal_error"]),
    reason=st.just("why"),
    blame=st.sampled_from(Blame),
    retryable=st.booleans(),
)


def test_a_unit_alone_is_charged_until_the_cap() -> None:
    history = History()
    for attempt in (1, 2):
        history, failure = charge("u", history, DIED, batch_size=1, limits=LIMITS)
        assert failure is None
        assert history.attempts == attempt
    history, failure = charge("u", history, DIED, batch_size=1, limits=LIMITS)
    assert failure == Failure(
        unit_id="u", code="worker_died", reason="its worker process died (3 attempts)", retryable=True, attempts=3
    )


def test_a_verdict_that_no_retry_can_change_ends_at_once() -> None:
    trouble = Trouble(code="no_video_track", reason="sound only", retryable=False)
    history, failure = charge("u", History(), trouble, batch_size=1, limits=LIMITS)
    assert failure is not None
    assert (failure.attempts, failure.reason, failure.retryable) == (1, "sound only", False)


def test_a_batch_is_split_before_anybody_is_charged() -> None:
    history = History(batch_limit=5)
    sizes = []
    while history.batch_limit > 1:
        history, failure = charge("u", history, DIED, batch_size=history.batch_limit, limits=LIMITS)
        assert failure is None
        assert history.attempts == 0
        sizes.append(history.batch_limit)
    assert sizes == [3, 2, 1]


def test_machines_are_never_charged_to_a_unit() -> None:
    lost = Trouble(code="machine_lost", reason="its node has died", blame=Blame.NOBODY)
    history = History()
    for _ in range(3):
        history, failure = charge("u", history, lost, batch_size=1, limits=LIMITS)
        assert failure is None
    history, failure = charge("u", history, lost, batch_size=1, limits=LIMITS)
    assert failure is not None
    assert (failure.code, failure.attempts, failure.retryable) == ("machine_lost", 0, True)
    assert failure.reason.startswith("the machine or its data was lost 4 times")


def test_doubt_is_free_once() -> None:
    doubt = Trouble(code="worker_died", reason="its worker process died", blame=Blame.DOUBT)
    history, _ = charge("u", History(), doubt, batch_size=1, limits=LIMITS)
    assert history.attempts == 0
    history, _ = charge("u", history, doubt, batch_size=1, limits=LIMITS)
    assert history.attempts == 1


@given(st.lists(st.tuples(troubles, st.integers(1, 8)), min_size=40, max_size=60))
def test_any_sequence_of_troubles_ends_within_the_caps(sequence: list[tuple[Trouble, int]]) -> None:
    history = History(batch_limit=8)
    for trouble, size in sequence:
        history, failure = charge("u", history, trouble, batch_size=min(size, history.batch_limit), limits=LIMITS)
        if failure is not None:
            assert failure.attempts <= LIMITS.attempts
            assert history.losses <= LIMITS.losses
            return
    raise AssertionError("40 troubles did not end the unit")


def test_a_consumer_inherits_the_first_cause() -> None:
    first = Failure(unit_id="a", code="damaged_video", reason="cut off", retryable=False, attempts=1)
    second = inherited("b", 0, first)
    third = inherited("c", 0, second)
    assert (third.code, third.reason, third.caused_by, third.attempts) == ("damaged_video", "cut off", "a", 0)


@pytest.mark.parametrize(
    ("places", "queued", "mates", "limit", "expected"),
    [
        (Places(ready=1, idle=1), 1, 1, 4, True),
        (Places(ready=2, roomy=2), 1, 1, 1, False),
        (Places(ready=2, roomy=2), 2, 1, 1, True),
        (Places(ready=2, roomy=2), 9, 3, 4, False),
        (Places(ready=2, roomy=2), 9, 4, 4, True),
        (Places(ready=2), 9, 4, 4, False),
    ],
    ids=["idle", "tail is not prefetched", "enough for all", "batch may still fill", "full batch", "no room"],
)
def test_where_a_call_may_stand(places: Places, queued: int, mates: int, limit: int, expected: bool) -> None:
    assert startable(places, queued=queued, mates=mates, batch_limit=limit) is expected


@pytest.mark.parametrize(
    ("idle", "mates", "limit", "expected"), [(1, 10, 4, 4), (5, 10, 4, 2), (5, 3, 4, 1), (0, 10, 4, 4), (2, 3, 4, 2)]
)
def test_mates_are_shared_over_idle_actors_before_they_are_batched(
    idle: int, mates: int, limit: int, expected: int
) -> None:
    assert batch_size(Places(ready=5, idle=idle, roomy=5 - idle), mates=mates, batch_limit=limit) == expected


def _head(rank: int, cost: int, *, depth: int = 0, startable: bool = True, priority: int = 0) -> Head:
    return Head(
        lane=("cpu", depth, cost > 0), rank=(0, -priority, rank), depth=depth, cost_bytes=cost, startable=startable
    )


def _choose(*heads: Head, held: int = 0, moving: bool = True) -> Head | None:
    return choose(heads, held_bytes=held, budget_bytes=100, moving=moving)


def test_the_first_that_fits_goes() -> None:
    assert _choose(_head(2, 10), _head(1, 10)) == _head(1, 10)
    assert _choose(_head(1, 10), _head(2, 10, priority=1)) == _head(2, 10, priority=1)
    assert _choose(_head(1, 10, startable=False), _head(2, 10)) == _head(2, 10)


def test_what_does_not_fit_is_not_overtaken_by_its_like() -> None:
    large, small = _head(1, 60), _head(2, 10)
    assert _choose(large, small, held=50) is None
    assert _choose(large, _head(2, 0), held=50) == _head(2, 0)
    consumer = _head(2, 10, depth=1)
    assert _choose(large, consumer, held=50) == consumer


def test_the_budget_gives_way_only_when_nothing_could_free_it() -> None:
    blocked, deeper = _head(1, 60), _head(2, 60, depth=1)
    assert _choose(blocked, deeper, held=50, moving=True) is None
    assert _choose(blocked, deeper, held=50, moving=False) == deeper
    waiting_consumer = _head(3, 0, depth=1, startable=False)
    assert _choose(blocked, waiting_consumer, held=50, moving=False) is None
    assert _choose(_head(1, 400), moving=False) == _head(1, 400)


@given(
    st.lists(
        st.builds(
            _head,
            st.integers(0, 50),
            st.integers(0, 150),
            depth=st.integers(0, 3),
            startable=st.booleans(),
            priority=st.integers(0, 2),
        ),
        max_size=8,
    ),
    st.integers(0, 100),
)
def test_while_something_moves_the_budget_holds(heads: list[Head], held: int) -> None:
    chosen = choose(heads, held_bytes=held, budget_bytes=100, moving=True)
    if chosen is not None:
        assert chosen.startable
        assert chosen.cost_bytes == 0 or held + chosen.cost_bytes <= 100
    if any(head.startable for head in heads):
        assert choose(heads, held_bytes=0, budget_bytes=10**6, moving=False) is not None


@given(low=st.integers(0, 5), more=st.integers(0, 20), units=st.integers(0, 500), batch=st.integers(1, 8))
def test_a_pool_is_as_large_as_its_work_within_its_bounds(low: int, more: int, units: int, batch: int) -> None:
    pool = PoolSpec(name="gpu", num_actors=max(1, low + more), min_actors=low, max_batch=batch)
    wanted = wanted_actors(pool, units)
    assert low <= wanted <= pool.num_actors
    assert wanted == pool.num_actors or wanted * batch >= units
    assert wanted == low or (wanted - 1) * batch < units
    assert wanted_actors(PoolSpec(name="fixed", num_actors=3), units) == 3


@given(st.lists(st.floats(0, 300), max_size=12), st.integers(0, 15), st.integers(0, 15))
def test_only_the_coldest_go(idle: list[float], busy: int, wanted: int) -> None:
    pool = PoolSpec(name="gpu", num_actors=30, min_actors=0, idle_s=120.0)
    gone = retired(pool, len(idle) + busy, wanted, [Spare(actor_id=n, idle_s=s) for n, s in enumerate(idle)])
    assert len(gone) <= max(0, len(idle) + busy - wanted)
    assert all(idle[number] >= 120 for number in gone)
    kept = [seconds for number, seconds in enumerate(idle) if number not in gone and seconds >= 120]
    assert not gone or not kept or max(kept) <= min(idle[number] for number in gone)
