-- A sample of the flips that is the same each time. Parameter: max_examples.
SELECT
    content_id,
    content_sha256,
    origin,
    language,
    before,
    text_after AS after,
    coalesce(rules_before, []) AS rules_before,
    coalesce(rules_after, []) AS rules_after,
    reason_before,
    reason_after,
    verdict_before,
    verdict_after
FROM pairs
WHERE flip IS NOT NULL
ORDER BY hash(content_id)
LIMIT $max_examples;
