SELECT
    count(*) FILTER (flip = 'to_violates') AS to_violates,
    count(*) FILTER (flip = 'to_safe') AS to_safe,
    count(*) FILTER (flip = 'to_safe' AND after = 'cleared') AS to_safe_by_gate,
    count(*) FILTER (flip = 'to_violates' AND after = 'cleared') AS to_violates_past_gate,
    count(*) FILTER (before = 'violates' AND text_after = 'violates' AND after = 'cleared') AS violating_past_gate,
    count(*) FILTER (before = 'violates') AS violating_before,
    count(*) FILTER (after = 'violates' AND before <> 'unknown') AS violating_after,
    -- Items whose two decisions are the model's, and may differ by its noise.
    count(*) FILTER (before IN ('violates', 'safe') AND after IN ('violates', 'safe')) AS noisy,
    (SELECT count(*) FROM judged_twice) AS judged_twice,
    (SELECT count(*) FROM judged_twice WHERE first_decision <> second_decision) AS disagreeing,
    (SELECT coalesce(sum(prompt_tokens), 0) FROM replayed) AS prompt_tokens,
    (SELECT coalesce(sum(cached_tokens), 0) FROM replayed) AS cached_tokens,
    (SELECT coalesce(sum(completion_tokens), 0) FROM replayed) AS completion_tokens,
    (SELECT coalesce(sum(seconds), 0.0) FROM replayed) AS seconds
FROM pairs;
