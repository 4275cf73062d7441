"""Ray's exceptions translated into causes of death for the dispatcher."""

from __future__ import annotations

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)

from vace_batch.cluster.ray_cluster import cause_of_death, detail_of_death, is_death

EXIT = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
ADVICE = " Some common causes include: (1) the process was killed by the OOM killer"


def _message(text: str) -> RayActorError:
    return RayActorError(error_msg=f"The actor died unexpectedly before finishing this task.\n\tpid: 7\n{text}")


@pytest.mark.parametrize(
    ("error", "cause", "detail"),
    [
        (
            _message(f"{EXIT}Worker unexpectedly exits with a connection error code 2. End of file.{ADVICE}"),
            "process",
            "the process was killed, or crashed without a message",
        ),
        (_message(f"{EXIT}exit code 1.{ADVICE}"), "process", "exit code 1."),
        (
            _message("The actor died because its node has died. Node Id: 23\n\tthe node was terminated: SIGTERM"),
            "machine",
            "the node was terminated: SIGTERM",
        ),
        (RayActorError(error_msg="gone", preempted=True), "machine", "gone"),
        (OutOfMemoryError("5 GB used of 5 GB\nRefer to the manual"), "memory", "5 GB used of 5 GB"),
        (ActorUnavailableError("socket closed", None), "unknown", None),
    ],
    ids=["crash", "exit", "node", "preempted", "memory", "unavailable"],
)
def test_deaths(error: BaseException, cause: str, detail: str | None) -> None:
    assert is_death(error)
    assert cause_of_death(error) == cause
    assert detail is None or detail_of_death(error) == detail


@pytest.mark.parametrize("cause", [ActorDiedError(), ObjectLostError("0" * 56, None, "")])
def test_a_dead_input_is_not_the_death_of_its_consumer(cause: Exception) -> None:
    error = RayTaskError("work", "traceback", cause).as_instanceof_cause()
    assert isinstance(error, type(cause)), "Ray raises something that is both"
    assert not is_death(error)
