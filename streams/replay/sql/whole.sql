-- Verdicts as they were. Parameter: seqs.
SELECT seq, record
FROM (SELECT seq, record FROM replayed UNION ALL SELECT seq, record FROM judged)
WHERE seq IN (SELECT unnest($seqs::BIGINT[]));
