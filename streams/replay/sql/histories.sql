-- All that is known of each item, one row after the other: the replay's escalations, its verdicts, then all others.
-- Parameter: version, the new one. Items that only the old one judged again are no part of the replay's result.
SELECT content_id, 0 AS step, seq, content_sha256, origin, passed_on_at, NULL, NULL, NULL, NULL, NULL, false, false, 0
FROM escalations
WHERE version = $version
UNION ALL
SELECT
    content_id, 1 AS step, seq, content_sha256, origin, passed_on_at,
    verdict_id, policy_id, decision, epoch_us(decided_at), replay_id, live, erased, partition
FROM replayed
WHERE version = $version
UNION ALL
SELECT
    content_id, 2 AS step, seq, content_sha256, origin, passed_on_at,
    verdict_id, policy_id, decision, epoch_us(decided_at), replay_id, live, erased, partition
FROM judged
WHERE
    content_id IN (
        SELECT content_id FROM escalations WHERE version = $version
        UNION ALL
        SELECT content_id FROM replayed WHERE version = $version
    )
ORDER BY content_id, step, seq;
