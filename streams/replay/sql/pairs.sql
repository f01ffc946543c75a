-- Joins the replay's verdicts with the earlier ones on the same text. Variables: new_version, old_version ('' where there is none).
CREATE TABLE last_earlier AS
FROM earlier
QUALIFY row_number() OVER (PARTITION BY content_id, content_sha256 ORDER BY decided_at DESC) = 1;

CREATE TABLE last_replayed AS
FROM replayed
WHERE version IN (getvariable('new_version'), getvariable('old_version'))
QUALIFY row_number() OVER (PARTITION BY version, content_id, content_sha256 ORDER BY decided_at DESC) = 1;

-- Content items that either version's gates escalate, each with the newest of its texts.
CREATE TABLE escalated AS
FROM escalations
WHERE version = getvariable('new_version')
QUALIFY row_number() OVER (PARTITION BY content_id ORDER BY place DESC NULLS LAST, escalated_at DESC) = 1;

-- Content items whose newest text the new version judged. The columns about before are null where the old gates cleared the item.
CREATE TABLE pairs AS
SELECT
    content_id,
    content_sha256,
    new.origin,
    coalesce(escalated.language, '') AS language,
    coalesce(escalated.surface, '') AS surface,
    CASE WHEN NOT escalated.live THEN 'cleared' ELSE coalesce(old.decision, 'unknown') END AS before,
    CASE WHEN escalated.gate = 'live' THEN 'cleared' ELSE new.decision END AS after,
    new.decision AS text_after,
    CASE WHEN escalated.live THEN old.version END AS version_before,
    CASE WHEN escalated.live THEN old.rules ELSE [] END AS rules_before,
    new.rules AS rules_after,
    CASE WHEN escalated.live THEN old.reason END AS reason_before,
    new.reason AS reason_after,
    new.score AS score_after,
    CASE WHEN escalated.live THEN old.verdict_id END AS verdict_before,
    new.verdict_id AS verdict_after,
    CASE
        WHEN after = 'violates' AND before IN ('safe', 'cleared', 'undetermined') THEN 'to_violates'
        WHEN before = 'violates' AND after IN ('safe', 'cleared', 'undetermined') THEN 'to_safe'
    END AS flip
FROM escalated
JOIN last_replayed AS new USING (content_id, content_sha256)
LEFT JOIN last_earlier AS old USING (content_id, content_sha256)
WHERE new.version = getvariable('new_version');

-- Compared items that both gates escalate and the old version judged twice. Undetermined is no decision.
CREATE TABLE judged_twice AS
SELECT pairs.before AS first_decision, again.decision AS second_decision
FROM pairs
JOIN last_replayed AS again USING (content_id, content_sha256)
WHERE
    again.version = getvariable('old_version')
    AND pairs.version_before = getvariable('old_version')
    AND pairs.before IN ('violates', 'safe')
    AND pairs.after <> 'cleared'
    AND again.decision IN ('violates', 'safe');

-- The compared items once for their language and once for each rule that either verdict cites.
CREATE VIEW grouped AS
SELECT 'language' AS kind, language AS name, flip
FROM pairs
WHERE before <> 'unknown'
UNION ALL
SELECT 'rule' AS kind, unnest(list_distinct(list_concat(rules_before, rules_after))) AS name, flip
FROM pairs
WHERE before <> 'unknown';
