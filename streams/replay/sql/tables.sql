-- What is read from the topics, one row for each record, numbered in the order of reading. No text of content is stored.
SET TimeZone = 'UTC';

CREATE TABLE escalations (
    seq BIGINT,
    content_id VARCHAR,
    content_sha256 VARCHAR,
    version VARCHAR,
    language VARCHAR,
    surface VARCHAR,
    origin VARCHAR,
    passed_on_at DOUBLE
);

-- The replay's verdicts, of both versions.
CREATE TABLE replayed (
    seq BIGINT,
    verdict_id VARCHAR,
    content_id VARCHAR,
    content_sha256 VARCHAR,
    policy_id VARCHAR,
    version VARCHAR,
    decision VARCHAR,
    rules VARCHAR[],
    reason VARCHAR,
    score DOUBLE,
    decided_at TIMESTAMPTZ,
    passed_on_at DOUBLE,
    gate VARCHAR,
    live BOOLEAN,
    erased BOOLEAN,
    replay_id VARCHAR,
    prompt_tokens BIGINT,
    cached_tokens BIGINT,
    completion_tokens BIGINT,
    seconds DOUBLE,
    origin VARCHAR
);

-- The verdicts on moderation.verdicts and moderation.cleared, whatever their policy, and those that are being loaded.
CREATE TABLE judged AS FROM replayed;
CREATE TEMP TABLE loading AS FROM replayed;

-- What becomes of each item, as `pairs.Pair` decides. seq: of the verdicts on its newest text.
CREATE TABLE outcomes (
    content_id VARCHAR,
    content_sha256 VARCHAR,
    outcome VARCHAR,
    before_seq BIGINT,
    after_seq BIGINT
);
