SELECT outcome, count(*) AS items
FROM outcomes
GROUP BY outcome;
