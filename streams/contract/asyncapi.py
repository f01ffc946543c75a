"""The topics as an AsyncAPI 3 document, generated from the catalogue, for code in other languages.

The committed copy is streams/contract/asyncapi.json. A test fails if it is stale; regenerate it with
`safeguard topics asyncapi > streams/contract/asyncapi.json`.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec.inspect import DateTimeType, Field, Metadata, StructType, type_info

from safeguard_streams.contract import topics
from safeguard_streams.contract.topics import Topic

# Topics that others may write. The pipeline alone writes the rest.
_RECEIVED = (topics.EVENTS, topics.REPORTS, topics.APPEALS, topics.ACTIONS)
_ONLY_RECEIVED = (topics.EVENTS, topics.REPORTS, topics.APPEALS)
_REFERENCE = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The whole document, in JSON's types."""
    records = {topic.record.__name__: topic.record for topic in topics.CATALOGUE}
    schemas, components = msgspec.json.schema_components(list(records.values()), ref_template=_REFERENCE)
    for name, schema in components.items():
        schema["description"] = inspect.cleandoc(schema.get("description", name))
    for name, record in records.items():
        for field in _fields(record):
            kind = field.type.type if isinstance(field.type, Metadata) else field.type
            if isinstance(kind, DateTimeType):  # written with an offset, and also read without one
                components[name]["properties"][field.encode_name]["format"] = "date-time"
    messages = {name: _message(record, schema) for (name, record), schema in zip(records.items(), schemas, strict=True)}
    operations = {}
    for topic in topics.CATALOGUE:
        if topic.name in _RECEIVED:
            operations[f"receive {topic.name}"] = _operation("receive", topic)
        if topic.name not in _ONLY_RECEIVED:
            operations[f"send {topic.name}"] = _operation("send", topic)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "safeguard-streams",
            "version": version("safeguard-streams"),
            "description": "Content events in, verdicts out. Read with isolation level read_committed, deduplicate on "
            "verdict_id and ignore unknown fields. Topics may have a prefix, so that tenants can share a cluster.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in topics.CATALOGUE},
        "operations": operations,
        "components": {"messages": messages, "schemas": dict(sorted(components.items()))},
    }


def _fields(record: type[msgspec.Struct]) -> tuple[Field, ...]:
    info = type_info(record)
    assert isinstance(info, StructType)
    return info.fields


def _message(record: type[msgspec.Struct], schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": record.__name__,
        "summary": _summary(record),
        "headers": {
            "type": "object",
            "properties": {
                "schema": {
                    "type": "string",
                    "const": f"{record.__name__}/1",
                    "description": "the record's kind and schema version",
                },
                "traceparent": {"type": "string", "description": "W3C trace context, if the producer sent one"},
            },
        },
        "payload": schema,
    }


def _summary(record: type[msgspec.Struct]) -> str:
    """The first sentence of a record's docstring, without the topics' names."""
    text = " ".join((inspect.getdoc(record) or "").split())
    return text.partition(": ")[2].partition(". ")[0].rstrip(".")


def _channel(topic: Topic) -> dict[str, Any]:
    name = topic.record.__name__
    config: dict[str, Any] = {
        "cleanup.policy": topic.cleanup.split(","),
        "max.message.bytes": topic.largest,
    }
    if "delete" in topic.cleanup:
        config["retention.ms"] = topic.retention
    if "retention.bytes" in topic.config:
        config["retention.bytes"] = int(topic.config["retention.bytes"])
    kafka: dict[str, Any] = {"topicConfiguration": config, "bindingVersion": "0.5.0"}
    if topic.partitions:
        kafka["partitions"] = topic.partitions
    return {
        "address": topic.name,
        "description": f"Key: {topic.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": kafka},
    }


def _operation(action: str, topic: Topic) -> dict[str, Any]:
    escaped = topic.name.replace("~", "~0").replace("/", "~1")
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{escaped}"},
        "messages": [{"$ref": f"#/channels/{escaped}/messages/{topic.record.__name__}"}],
    }
