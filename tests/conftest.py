"""Brokers for tests: the embedded one, and Apache Kafka itself from its jars or at KAFKA_BOOTSTRAP."""

import os
import uuid

import pytest

from infra import brokers
from streams import settings

# In CI a real Kafka must have been there: a suite that skipped it has shown nothing.
REQUIRE_KAFKA = os.environ.get("SAFEGUARD_REQUIRE_KAFKA") == "1"


@pytest.fixture(scope="session")
def embedded_address():
    with brokers.embedded() as address:
        yield address


@pytest.fixture(scope="session")
def kafka_address():
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield given
        return
    try:
        brokers.jars()
    except brokers.BrokerError as error:
        if REQUIRE_KAFKA:
            raise
        pytest.skip(f"not run on Apache Kafka: {error}")
    with brokers.kafka_cluster() as nodes:
        yield brokers.addresses(nodes)


@pytest.fixture(params=["embedded", "kafka"])
def broker_address(request):
    """Each test that asks for it runs on both brokers."""
    return request.getfixturevalue(f"{request.param}_address")


@pytest.fixture
def broker(broker_address):
    """Settings for a broker, with topics of this test's own."""
    return own_topics(broker_address)


@pytest.fixture
def kafka(kafka_address):
    """Settings for Apache Kafka only."""
    return own_topics(kafka_address)


def own_topics(address):
    return settings.load(bootstrap=address, prefix=f"t{uuid.uuid4().hex[:8]}.", partitions=2, session_timeout_ms=6000)
