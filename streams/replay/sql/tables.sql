-- What is read from the topics, one row for each record, numbered in the order of reading. No text of content is stored.
-- record: the verdict as it was, for a promotion.
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
    prompt_tokens HUGEINT,
    cached_tokens HUGEINT,
    completion_tokens HUGEINT,
    seconds DOUBLE,
    origin VARCHAR,
    partition INTEGER,
    record VARCHAR
);

-- The verdicts on moderation.verdicts and moderation.cleared, whatever their policy.
CREATE TABLE judged AS FROM replayed;

-- What becomes of each item, as `pairs.Pair` decides. seq: of the verdicts on its newest text.
CREATE TABLE outcomes (
    content_id VARCHAR,
    content_sha256 VARCHAR,
    outcome VARCHAR,
    before_seq BIGINT,
    after_seq BIGINT
);
