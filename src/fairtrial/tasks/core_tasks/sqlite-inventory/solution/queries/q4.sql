WITH first_shipment AS (
  SELECT order_id, MIN(shipped_on) AS day FROM shipments GROUP BY order_id
)
SELECT strftime('%Y-%m', f.day) AS month, COALESCE(p.category, 'other') AS category, SUM(l.quantity * l.cents) AS revenue
FROM orders AS o
JOIN first_shipment AS f ON f.order_id = o.id
JOIN order_lines AS l ON l.order_id = o.id
LEFT JOIN products AS p ON p.id = l.product_id
WHERE o.status <> 'cancelled'
GROUP BY 1, 2
ORDER BY 1, 2;
