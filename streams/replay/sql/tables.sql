-- What is read from the topics, one row for each record. No text of content is stored.
SET TimeZone = 'UTC';

CREATE TABLE escalations (
    content_id VARCHAR,
    content_sha256 VARCHAR,
    version VARCHAR,
    language VARCHAR,
    surface VARCHAR,
    gate VARCHAR,
    live BOOLEAN,
    place BIGINT, -- of the event in its partition of content.events
    escalated_at TIMESTAMPTZ
);

-- The replay's verdicts, of both versions.
CREATE TABLE replayed (
    verdict_id VARCHAR,
    content_id VARCHAR,
    content_sha256 VARCHAR,
    version VARCHAR,
    decision VARCHAR,
    rules VARCHAR[],
    reason VARCHAR,
    score DOUBLE,
    decided_at TIMESTAMPTZ,
    prompt_tokens BIGINT,
    cached_tokens BIGINT,
    completion_tokens BIGINT,
    seconds DOUBLE,
    origin VARCHAR
);

-- The verdicts on moderation.verdicts, whatever their version, and those of them that are being loaded.
CREATE TABLE earlier AS FROM replayed;
CREATE TEMP TABLE loading AS FROM replayed;
