SELECT p.sku
FROM products AS p
WHERE NOT EXISTS (
  SELECT 1 FROM order_lines AS l JOIN orders AS o ON o.id = l.order_id
  WHERE l.product_id = p.id AND o.status <> 'cancelled'
)
ORDER BY p.sku;
