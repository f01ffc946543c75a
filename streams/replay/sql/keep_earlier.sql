-- Keeps the loaded verdicts on items that the replay escalated, and drops the others.
INSERT INTO earlier
FROM loading
SEMI JOIN escalations USING (content_id);

DELETE FROM loading;
