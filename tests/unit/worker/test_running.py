from __future__ import annotations

from typing import Any

import pytest

from trunkline.worker.running import Running


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ([], 0.0),
        ([(True, 1.0), (False, 3.0)], 2.0),
        ([(True, 1.0), (False, 3.0), (True, 4.0), (False, 5.0)], 3.0),
        ([(True, 1.0), (True, 2.0), (False, 3.0), (False, 5.0)], 4.0),
    ],
)
def test_what_a_call_waits_for_its_client_is_counted_once(asked: list[tuple[bool, float]], waited: float):
    class Call:
        deadline_ms = 0

    call: Any = Call()
    task: Any = None
    running = Running(call, task, 0.0)
    for waiting, now in asked:
        running.waits(waiting, now)
    assert running.waited == waited
