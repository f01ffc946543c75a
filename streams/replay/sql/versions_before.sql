SELECT version_before AS version, count(*) AS items
FROM pairs
WHERE version_before IS NOT NULL
GROUP BY version
ORDER BY items DESC;
