WITH counting AS (
  SELECT m.product_id, m.warehouse_id, date(m.at) AS day, CASE m.kind WHEN 'out' THEN -m.quantity ELSE m.quantity END AS delta
  FROM movements AS m
  WHERE m.quantity IS NOT NULL AND m.cancels IS NULL
    AND NOT EXISTS (SELECT 1 FROM movements AS c WHERE c.cancels = m.id)
), daily AS (
  SELECT warehouse_id, day, SUM(delta) AS delta FROM counting GROUP BY warehouse_id, day
), level AS (
  SELECT warehouse_id, day, SUM(delta) OVER (PARTITION BY warehouse_id ORDER BY day) AS stock FROM daily
), ranked AS (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY warehouse_id ORDER BY stock DESC, day) AS place FROM level
)
SELECT w.name AS warehouse, r.day, r.stock
FROM ranked AS r JOIN warehouses AS w ON w.id = r.warehouse_id
WHERE r.place = 1
ORDER BY w.name;
