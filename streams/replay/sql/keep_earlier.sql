-- Keeps the loaded verdicts on texts that the replay escalated, and drops the others.
INSERT INTO earlier
FROM loading
SEMI JOIN escalations USING (content_id, content_sha256);

DELETE FROM loading;
