"""The body of an actor, without Ray."""

from __future__ import annotations

import threading

from vace_batch.cluster.worker import UnitCall, Worker


def test_a_call_that_its_thread_runs_before_its_begin_waits_for_it() -> None:
    worker, answers = Worker(), []
    unit_calls = [UnitCall(unit_id="u", payload="fine", inputs=(), attempt=1, last_code=None)]
    thread = threading.Thread(target=lambda: answers.append(worker.work("tests.support.workers:behave", unit_calls)))
    thread.start()
    thread.join(0.2)
    assert answers == [], "the device was not taken for it"
    worker.begin()
    thread.join(30)
    (((reply,), broken), _), *_ = answers
    assert (reply.trouble, reply.meta, broken) == (None, 1, False)
    worker.begin()  # and it has left the device
