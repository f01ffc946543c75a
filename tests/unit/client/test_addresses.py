"""The applications' clients refuse what is no broker's address, in words that say what to write."""

import pytest

from safeguard_streams import ConfigurationError, Publisher, Verdicts


def publisher(brokers):
    return Publisher(brokers)


def verdicts(brokers):
    return Verdicts(brokers, "group")


@pytest.mark.parametrize("client", [publisher, verdicts])
@pytest.mark.parametrize(
    "brokers", ["", "kafka", "kafka:http", "kafka:", ":9092", "[::1", "kafka:99999", "kafka:1,", "http://kafka:1", None]
)
def test_no_address_is_refused_with_what_to_write(client, brokers):
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        client(brokers)


@pytest.mark.parametrize("client", [publisher, verdicts])
@pytest.mark.parametrize("brokers", ["127.0.0.1:9092", "kafka-0.kafka:9092, kafka-1.kafka:9092", "[::1]:9092"])
def test_addresses_are_taken(client, brokers):
    client(brokers)
