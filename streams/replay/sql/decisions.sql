SELECT before, after, count(*) AS items
FROM pairs
GROUP BY ALL
ORDER BY ALL;
