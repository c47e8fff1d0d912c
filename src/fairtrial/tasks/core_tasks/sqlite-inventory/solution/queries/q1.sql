WITH counting AS (
  SELECT m.product_id, m.warehouse_id, date(m.at) AS day, CASE m.kind WHEN 'out' THEN -m.quantity ELSE m.quantity END AS delta
  FROM movements AS m
  WHERE m.quantity IS NOT NULL AND m.cancels IS NULL
    AND NOT EXISTS (SELECT 1 FROM movements AS c WHERE c.cancels = m.id)
), stock AS (
  SELECT p.id, p.sku, p.reorder_point, p.discontinued_on, COALESCE(SUM(c.delta), 0) AS on_hand
  FROM products AS p LEFT JOIN counting AS c ON c.product_id = p.id
  GROUP BY p.id
)
SELECT sku, on_hand FROM stock ORDER BY sku;
