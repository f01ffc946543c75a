"""A group's position is read right, or not at all.

When a group's coordinator cannot answer yet (it loads the group, or another broker is the coordinator now), Kafka says so in one
error for the whole answer, which holds no positions then. aiokafka looks at the errors of single positions only, and takes such an
answer for "nothing was committed": a consumer would begin anew, and what was done since its last look would be done again. Here
that error is raised, and aiokafka asks again, as it does for others of its kind.
"""

from __future__ import annotations

from typing import Any

from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import NotCoordinatorForGroupError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest

_send = GroupCoordinator._send_req


async def _send_and_look(coordinator: Any, request: Any) -> Any:
    response = await _send(coordinator, request)
    code = getattr(response, "error_code", 0) if isinstance(request, OffsetFetchRequest) else 0
    if code:
        error = for_code(code)
        if error is NotCoordinatorForGroupError:
            coordinator.coordinator_dead()
        raise error(f"the coordinator of group {coordinator.group_id} gives no positions now")
    return response


def read_strictly() -> None:
    """Let all consumers of this process read positions so."""
    GroupCoordinator._send_req = _send_and_look
