"""What is on the wire: records, topics, and the AsyncAPI document that describes them.

Producers and consumers in any language depend on this package's contract. Field names, topics and keys change only with
a new schema version in the `schema` header. Unknown fields are ignored; a record with a missing or mistyped field
becomes a dead letter that names the field.

- `records`: every record as a typed struct, and the one place that reads and writes their JSON.
- `limits`: how large and how deep a record may be, and what happens past that.
- `intake`: reads content events as they were sent, and repairs what is no character.
- `appeals`: reads appeals as platforms send them.
- `topics`: the catalogue, from which topics are created and access lists and documents are generated.
- `asyncapi`: the catalogue as an AsyncAPI 3 document.

## Design decisions

- **What was received is passed on as its own bytes.** An event that was decoded and encoded again could be longer than
  its topic allows, and 1e15 or a long integer would change. The bytes are checked once and copied into each escalation.
- **Half an emoji is repaired, not refused.** Otherwise authors could take content out of moderation by a cut character.
- **orjson reads, msgspec checks and writes.** orjson refuses lone surrogates and invalid UTF-8. msgspec checks types at
  four times the speed of pydantic.
"""
