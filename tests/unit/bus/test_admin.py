"""Topics are created although brokers come and go meanwhile."""

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    NodeNotReadyError,
    NotControllerError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
)

from safeguard_streams.bus.kafka import admin
from safeguard_streams.errors import BusError, ForbiddenError
from safeguard_streams.runtime import settings


@pytest.fixture
def failing(monkeypatch):
    """Let attempts fail with these errors, one after the other, and count them."""

    def arrange(*errors):
        left, attempts = list(errors), []

        async def attempt(_, created):
            attempts.append(dict(created))
            if left:
                created["content.events"] = True
                raise left.pop(0)

        monkeypatch.setattr(admin, "_create_topics", attempt)
        monkeypatch.setattr(admin, "_RETRY_SECONDS", 0)
        return attempts

    return arrange


def create():
    return asyncio.run(admin.create_topics(settings.load(bootstrap="127.0.0.1:1")))


def test_errors_that_pass_are_waited_for(failing):
    attempts = failing(NodeNotReadyError(), NotControllerError(), KafkaConnectionError())
    assert create() == {"content.events": True}, "what an earlier attempt created counts as created"
    assert len(attempts) == 4


@pytest.mark.parametrize(
    ("error", "kind"),
    [(PolicyViolationError(), BusError), (TopicAuthorizationFailedError(["a"]), ForbiddenError)],
)
def test_other_errors_end_the_first_attempt(failing, error, kind):
    attempts = failing(error)
    with pytest.raises(kind):
        create()
    assert len(attempts) == 1


class Flaky:
    """A client whose requests fail in these ways, one after the other."""

    def __init__(self, *failures):
        self.failures, self.created, self.looks = list(failures), [], 0

    async def start(self):
        pass

    async def close(self):
        pass

    async def describe_cluster(self):
        self._fail("describe")
        return {"brokers": [{}]}

    async def create_topics(self, asked):
        self._fail("create")
        self.created.append(asked[0].name)
        return SimpleNamespace(topic_errors=[(asked[0].name, 0, None)])

    async def list_topics(self):
        self.looks += 1
        return self.created[: -1 if self.looks == 1 else None]  # the last one is listed later

    def _fail(self, request):
        if self.failures and self.failures[0][0] == request:
            raise self.failures.pop(0)[1]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ("describe", KafkaConnectionError()),
        ("create", KafkaConnectionError()),
        ("create", TimeoutError()),
        ("create", AttributeError("'NoneType' object has no attribute 'nodeId'")),
    ],
)
def test_a_broker_that_leaves_after_it_answered_is_waited_for(monkeypatch, request_, error):
    """Before, a connection that closed ended the attempt, and an absent controller raised what the client raises."""
    flaky = Flaky((request_, error))
    monkeypatch.setattr(admin, "AIOKafkaAdminClient", lambda **_: flaky)
    monkeypatch.setattr(admin, "_RETRY_SECONDS", 0)
    monkeypatch.setattr(admin, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(admin, "_bring_up_to_date", lambda *_: asyncio.sleep(0))
    created = create()
    assert len(created) > 10
    assert all(created.values())
    assert not flaky.failures
    assert flaky.looks == 2, "the topics are listed when the command ends"


@pytest.mark.parametrize("error", [TimeoutError(), AttributeError("'NoneType' object has no attribute 'nodeId'")])
def test_a_controller_that_leaves_before_a_topic_is_changed_is_waited_for(monkeypatch, error):
    size = admin._SIZE

    async def refuses(_):
        raise error

    async def small(_, names):
        return {name: {size: "1"} for name in names}

    client = SimpleNamespace(_send_to_controller=refuses)
    monkeypatch.setattr(admin, "_configs", small)
    topic = admin.NewTopic("content.events", 1, 1, topic_configs={size: "2", admin._CLEANUP: "delete"})
    with pytest.raises(NotControllerError) as raised:
        asyncio.run(admin._bring_up_to_date(client, [topic], set()))
    assert raised.value.retriable


def test_the_patience_has_a_bound(failing, monkeypatch):
    monkeypatch.setattr(admin, "PATIENCE", 0)
    failing(NodeNotReadyError("node 1"))
    with pytest.raises(BusError, match="NodeNotReadyError"):
        create()


def test_a_broker_that_never_answered_is_not_waited_for():
    with pytest.raises(BusError, match="no Kafka broker answers"):
        create()
