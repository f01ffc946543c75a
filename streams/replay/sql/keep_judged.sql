-- Keeps the loaded verdicts on items that the replay escalated, and drops the others.
INSERT INTO judged
FROM loading
WHERE content_id IN (SELECT content_id FROM escalations UNION ALL SELECT content_id FROM replayed);

DELETE FROM loading;
