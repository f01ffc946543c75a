-- All that is known of each item, one row after the other: the replay's escalations, its verdicts, then all others.
-- Parameter: version, the new one.
SELECT content_id, 0 AS step, seq, content_sha256, origin, passed_on_at, NULL, NULL, NULL, NULL, NULL, false, false
FROM escalations
WHERE version = $version
UNION ALL
SELECT
    content_id, 1 AS step, seq, content_sha256, origin, passed_on_at,
    verdict_id, policy_id, decision, epoch_us(decided_at), replay_id, live, erased
FROM replayed
WHERE version = $version
UNION ALL
SELECT
    content_id, 2 AS step, seq, content_sha256, origin, passed_on_at,
    verdict_id, policy_id, decision, epoch_us(decided_at), replay_id, live, erased
FROM judged
ORDER BY content_id, step, seq;
