-- Joins the verdicts on each compared item, and on those whose earlier decision is unknown. Variable: old_version, ''
-- where there is none.
CREATE TABLE pairs AS
SELECT
    outcomes.content_id,
    outcomes.content_sha256,
    new.origin,
    coalesce(escalated.language, '') AS language,
    coalesce(escalated.surface, '') AS surface,
    coalesce(old.decision, CASE WHEN new.live THEN 'unknown' ELSE 'cleared' END) AS before,
    CASE WHEN new.gate = 'live' THEN 'cleared' ELSE new.decision END AS after,
    new.decision AS text_after,
    old.version AS version_before,
    coalesce(old.rules, []) AS rules_before,
    new.rules AS rules_after,
    old.reason AS reason_before,
    new.reason AS reason_after,
    new.score AS score_after,
    old.verdict_id AS verdict_before,
    new.verdict_id AS verdict_after,
    outcome,
    CASE WHEN outcome IN ('to_violates', 'to_safe') THEN outcome END AS flip
FROM outcomes
JOIN replayed AS new ON new.seq = outcomes.after_seq
LEFT JOIN judged AS old ON old.seq = outcomes.before_seq
LEFT JOIN (
    SELECT content_id, content_sha256, version, any_value(language) AS language, any_value(surface) AS surface
    FROM escalations
    GROUP BY ALL
) AS escalated
    ON
        escalated.content_id = new.content_id
        AND escalated.content_sha256 = new.content_sha256
        AND escalated.version = new.version
WHERE outcome IN ('unknown', 'undetermined', 'same', 'to_violates', 'to_safe');

-- Compared items that both gates escalate and the old version judged twice. Undetermined is no decision.
CREATE TABLE judged_twice AS
SELECT pairs.before AS first_decision, again.decision AS second_decision
FROM pairs
JOIN (
    FROM replayed
    WHERE version = getvariable('old_version')
    QUALIFY row_number() OVER (PARTITION BY content_id, content_sha256 ORDER BY seq DESC) = 1
) AS again USING (content_id, content_sha256)
WHERE
    pairs.version_before = getvariable('old_version')
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
