SELECT
    kind,
    name,
    count(*) FILTER (flip = 'to_violates') AS to_violates,
    count(*) FILTER (flip = 'to_safe') AS to_safe,
    count(*) AS compared
FROM grouped
GROUP BY kind, name
ORDER BY to_violates + to_safe DESC, name;
