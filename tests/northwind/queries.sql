-- Queries over the Northwind data whose results must be PostgreSQL's, to the
-- letter: labels, types, digits, order. Each ends in a semicolon at a line's end.

-- The whole of a table.
SELECT * FROM shippers ORDER BY shipper_id;

SELECT category_id, category_name, description FROM categories ORDER BY 1;

SELECT count(*) FROM orders;

SELECT count(*), count(shipped_date), count(DISTINCT customer_id) FROM orders;

-- Conditions.
SELECT product_name, unit_price FROM products WHERE unit_price > 50 ORDER BY unit_price DESC, product_name;

SELECT order_id, order_date, shipped_date - order_date AS days FROM orders WHERE shipped_date IS NOT NULL AND order_date BETWEEN '1997-01-01' AND '1997-01-31' ORDER BY order_id;

SELECT company_name, country FROM customers WHERE country IN ('Germany', 'France', 'Spain') AND region IS NULL ORDER BY country, company_name;

SELECT company_name FROM customers WHERE company_name LIKE 'B%' OR company_name ILIKE '%market%' ORDER BY company_name;

SELECT contact_name FROM customers WHERE contact_name ~ '^(Ana|Maria)\M' ORDER BY contact_name;

SELECT product_name FROM products WHERE product_name SIMILAR TO '%(Chef|Sir)%' ORDER BY 1;

SELECT first_name || ' ' || last_name AS name, title FROM employees WHERE reports_to IS NULL OR title LIKE '%Manager%' ORDER BY employee_id;

SELECT product_name FROM products WHERE NOT (discontinued = 1) AND units_in_stock <= reorder_level ORDER BY product_id;

-- Aggregates and their types.
SELECT sum(quantity), avg(quantity), min(quantity), max(quantity) FROM order_details;

SELECT round(sum(unit_price * quantity * (1 - discount))::numeric, 2) AS revenue FROM order_details;

SELECT avg(unit_price), max(unit_price), min(unit_price) FROM products;

SELECT category_id, count(*), round(avg(unit_price)::numeric, 2) AS average FROM products GROUP BY category_id ORDER BY category_id;

SELECT country, count(*) AS n FROM customers GROUP BY country HAVING count(*) > 5 ORDER BY n DESC, country;

SELECT sum(freight)::numeric(12,2), count(*) FROM orders WHERE ship_country = 'Brazil';

SELECT ship_via, avg(employee_id) FROM orders GROUP BY 1 ORDER BY 1;

SELECT bool_and(discontinued = 0), bool_or(discontinued = 1) FROM products;

SELECT string_agg(category_name, ', ' ORDER BY category_name) FROM categories;

SELECT array_agg(shipper_id ORDER BY shipper_id DESC) FROM shippers;

SELECT supplier_id, string_agg(product_name, '; ' ORDER BY product_name DESC) AS products FROM products WHERE supplier_id < 5 GROUP BY supplier_id ORDER BY supplier_id;

SELECT count(*) FILTER (WHERE shipped_date > required_date) AS late, count(*) FILTER (WHERE shipped_date IS NULL) AS open FROM orders;

SELECT stddev(units_in_stock), variance(units_in_stock) FROM products;

SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY quantity), percentile_disc(0.9) WITHIN GROUP (ORDER BY quantity), mode() WITHIN GROUP (ORDER BY quantity) FROM order_details;

-- Joins.
SELECT p.product_name, c.category_name, s.company_name FROM products p JOIN categories c USING (category_id) JOIN suppliers s ON s.supplier_id = p.supplier_id WHERE s.country = 'Japan' ORDER BY p.product_name;

SELECT c.company_name, count(o.order_id) AS orders FROM customers c LEFT JOIN orders o ON o.customer_id = c.customer_id GROUP BY c.customer_id ORDER BY orders, c.company_name LIMIT 10;

SELECT e.last_name, m.last_name AS manager FROM employees e LEFT JOIN employees m ON e.reports_to = m.employee_id ORDER BY e.employee_id;

SELECT c.customer_id FROM customers c LEFT JOIN orders o USING (customer_id) WHERE o.order_id IS NULL ORDER BY 1;

SELECT DISTINCT t.territory_description, r.region_description FROM employee_territories et NATURAL JOIN territories t JOIN region r USING (region_id) WHERE et.employee_id = 5 ORDER BY 1;

SELECT s.company_name, c.company_name FROM suppliers s FULL JOIN customers c ON s.city = c.city WHERE s.country = 'Germany' OR c.country = 'Germany' ORDER BY s.company_name, c.company_name;

SELECT c.category_name, round(sum(od.unit_price * od.quantity * (1 - od.discount))::numeric, 2) AS revenue FROM order_details od JOIN products p USING (product_id) JOIN categories c USING (category_id) GROUP BY c.category_name ORDER BY revenue DESC;

SELECT e.first_name, e.last_name, count(DISTINCT o.customer_id) AS customers, sum(o.freight)::numeric(10,2) AS freight FROM employees e, orders o WHERE o.employee_id = e.employee_id GROUP BY e.employee_id ORDER BY e.employee_id;

SELECT count(*) FROM customers CROSS JOIN shippers;

-- Subqueries.
SELECT product_name, unit_price FROM products WHERE unit_price > (SELECT avg(unit_price) FROM products) ORDER BY unit_price, product_name;

SELECT company_name FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.customer_id AND o.freight > 500) ORDER BY 1;

SELECT company_name FROM customers WHERE customer_id NOT IN (SELECT customer_id FROM orders WHERE customer_id IS NOT NULL) ORDER BY 1;

SELECT c.company_name, (SELECT max(o.order_date) FROM orders o WHERE o.customer_id = c.customer_id) AS latest FROM customers c WHERE c.country = 'Mexico' ORDER BY 1;

SELECT c.company_name, (SELECT o.order_id FROM orders o WHERE o.customer_id = c.customer_id ORDER BY o.order_date DESC, o.order_id LIMIT 1) AS last_order FROM customers c WHERE c.country = 'Argentina' ORDER BY 1;

SELECT product_name FROM products WHERE unit_price >= ALL (SELECT unit_price FROM products WHERE category_id = 1) ORDER BY 1;

SELECT product_name FROM products WHERE category_id = ANY (SELECT category_id FROM categories WHERE category_name LIKE 'C%') ORDER BY 1;

SELECT company_name, EXISTS (SELECT 1 FROM products p WHERE p.supplier_id = s.supplier_id AND p.discontinued = 1) AS discontinues FROM suppliers s ORDER BY supplier_id LIMIT 8;

SELECT o.order_id, o.total FROM (SELECT order_id, sum(quantity) AS total FROM order_details GROUP BY order_id) o WHERE o.total > 250 ORDER BY o.total DESC, o.order_id;

SELECT c.company_name, l.order_id, l.order_date FROM customers c CROSS JOIN LATERAL (SELECT order_id, order_date FROM orders o WHERE o.customer_id = c.customer_id ORDER BY order_date DESC, order_id DESC LIMIT 2) l WHERE c.country = 'Austria' ORDER BY 1, 3, 2;

SELECT array(SELECT shipper_id FROM shippers ORDER BY 1) AS shippers;

-- WITH.
WITH totals AS (SELECT customer_id, count(*) AS n FROM orders GROUP BY customer_id) SELECT n, count(*) FROM totals GROUP BY n ORDER BY n DESC LIMIT 5;

WITH RECURSIVE chain AS (SELECT employee_id, last_name, 0 AS depth FROM employees WHERE reports_to IS NULL UNION ALL SELECT e.employee_id, e.last_name, c.depth + 1 FROM employees e JOIN chain c ON e.reports_to = c.employee_id) SELECT * FROM chain ORDER BY depth, employee_id;

WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT sum(i), max(i) FROM n;

-- Windows.
SELECT order_id, freight, rank() OVER (ORDER BY freight DESC) AS place FROM orders ORDER BY place, order_id LIMIT 10;

SELECT product_name, category_id, unit_price, row_number() OVER (PARTITION BY category_id ORDER BY unit_price DESC, product_id) AS n FROM products ORDER BY category_id, n LIMIT 12;

SELECT order_id, quantity, sum(quantity) OVER (PARTITION BY order_id ORDER BY product_id) AS running, count(*) OVER (PARTITION BY order_id) AS lines FROM order_details WHERE order_id < 10255 ORDER BY order_id, product_id;

SELECT order_date, n, lag(n) OVER w AS before, lead(n, 1, 0) OVER w AS after, avg(n) OVER (ORDER BY order_date ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS smooth FROM (SELECT order_date, count(*) AS n FROM orders WHERE order_date < '1996-08-01' GROUP BY order_date) d WINDOW w AS (ORDER BY order_date) ORDER BY order_date;

SELECT product_id, unit_price, ntile(4) OVER (ORDER BY unit_price, product_id) AS quarter, first_value(product_id) OVER (ORDER BY unit_price DESC, product_id) AS dearest FROM products WHERE category_id = 2 ORDER BY product_id;

SELECT country, count(*) AS n, round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS percent FROM customers GROUP BY country ORDER BY n DESC, country LIMIT 6;

SELECT * FROM (SELECT category_id, product_name, dense_rank() OVER (PARTITION BY category_id ORDER BY unit_price DESC) AS r FROM products) x WHERE r = 1 ORDER BY category_id, product_name;

-- Dates and times.
SELECT extract(year FROM order_date) AS year, count(*) FROM orders GROUP BY 1 ORDER BY 1;

SELECT date_part('month', order_date) AS month, count(*) FROM orders WHERE date_part('year', order_date) = 1997 GROUP BY month ORDER BY month;

SELECT date_trunc('month', order_date)::date AS month, count(*) AS orders FROM orders GROUP BY 1 ORDER BY 1 LIMIT 6;

SELECT to_char(order_date, 'YYYY-MM') AS month, to_char(min(order_date), 'FMDay, FMDD FMMonth YYYY') AS first FROM orders GROUP BY 1 ORDER BY 1 LIMIT 4;

SELECT last_name, birth_date, age(date '2000-01-01', birth_date) AS age, extract(doy FROM hire_date) AS day FROM employees ORDER BY birth_date;

SELECT order_id, order_date + interval '1 month' AS due, order_date + 30 AS later, required_date - 7 AS reminder FROM orders ORDER BY order_id LIMIT 5;

SELECT avg(shipped_date - order_date) AS days, max(shipped_date - order_date) FROM orders;

SELECT d::date FROM generate_series(date '1997-01-30', date '1997-02-02', interval '1 day') AS d;

-- Text.
SELECT upper(company_name), length(company_name), left(company_name, 5), right(phone, 4), position('a' IN company_name), substring(company_name FROM 2 FOR 3) FROM shippers ORDER BY shipper_id;

SELECT split_part(contact_name, ' ', 2) AS surname, initcap(lower(contact_title)), replace(phone, '-', ' ') FROM customers ORDER BY customer_id LIMIT 5;

SELECT lpad(product_id::text, 5, '0') || ':' || rpad(product_name, 12, '.') AS code FROM products ORDER BY product_id LIMIT 5;

SELECT regexp_replace(phone, '[^0-9]', '', 'g') AS digits, regexp_match(phone, '\((\d+)\)') FROM customers ORDER BY customer_id LIMIT 4;

SELECT concat(first_name, NULL, 7, last_name), concat_ws('-', city, region, country), coalesce(region, 'none') FROM employees ORDER BY employee_id;

SELECT md5(customer_id), reverse(customer_id), ascii(customer_id), translate(customer_id, 'AEIOU', '12345') FROM customers ORDER BY customer_id LIMIT 3;

SELECT trim(both 'x' FROM 'xxhixx'), ltrim('  a'), rtrim('b  '), format('%s is %L, %I', company_name, phone, 'Key') FROM shippers ORDER BY 1, 2, 3, 4;

-- Conditions as values.
SELECT product_name, CASE WHEN unit_price < 10 THEN 'cheap' WHEN unit_price < 50 THEN 'fair' ELSE 'dear' END AS class, nullif(units_on_order, 0) AS ordered, greatest(units_in_stock, reorder_level), least(1, NULL, 2) FROM products ORDER BY product_id LIMIT 8;

SELECT CASE discontinued WHEN 0 THEN 'no' WHEN 1 THEN 'yes' END, count(*) FROM products GROUP BY 1 ORDER BY 1;

SELECT sum(CASE WHEN discontinued = 1 THEN unit_price ELSE 0 END), sum(CASE WHEN discontinued = 1 THEN 1 END) FROM products;

-- Numbers.
SELECT 7 / 2, -7 / 2, 7 % 3, -7 % 3, 7.0 / 2, 2 ^ 10, 1 / 3.0, 10 / 4.0, 5::float8 / 3, 0.1 + 0.2, 1e3, 1.50 * 2;

SELECT round(2.5), round(-2.5), round(2.5::float8), round(1234.567, 1), round(1234.567, -2), trunc(-1.7), ceil(1.2), floor(-1.2), abs(-3.50), sqrt(2), mod(7, 3), power(2, 0.5);

SELECT exp(1.5), ln(unit_price::numeric), log(unit_price::numeric), power(unit_price::numeric, 1.5), power(1.05, 30), log(2.0, quantity) FROM order_details WHERE order_id < 10252;

SELECT avg(x), sum(x), stddev(x), variance(x) FROM (VALUES (1), (2), (4)) t(x);

SELECT 1::smallint + 1::smallint, 2147483647::bigint + 1, 3::numeric / 7, 10::numeric(10,2) / 3, 1.0 / 3 * 3, 100 * 1.1, 12345678.9 / 0.001;

SELECT cast('12.345' AS numeric(5,2)), '42'::int + 1, '1e3'::float8, 3.7::int, -3.5::int, 2.5::int, true::text, 0.000001::float8, 1e20::float8, 123456789.123::real;

-- Sets.
SELECT city FROM customers WHERE country = 'UK' UNION SELECT city FROM suppliers WHERE country = 'UK' ORDER BY city;

SELECT country FROM customers INTERSECT SELECT country FROM suppliers ORDER BY 1;

SELECT country FROM suppliers EXCEPT SELECT country FROM customers ORDER BY 1;

SELECT 'customers' AS what, count(*) FROM customers UNION ALL SELECT 'suppliers', count(*) FROM suppliers ORDER BY what;

SELECT DISTINCT ON (category_id) category_id, product_name, unit_price FROM products ORDER BY category_id, unit_price DESC, product_name;

SELECT country, city, count(*) FROM customers WHERE country IN ('UK', 'Spain') GROUP BY ROLLUP (country, city) ORDER BY country, city;

SELECT country, contact_title, count(*), grouping(country, contact_title) FROM customers WHERE country IN ('UK', 'Italy') GROUP BY GROUPING SETS ((country), (contact_title), ()) ORDER BY 4, 1, 2;

SELECT region, count(*) FROM customers GROUP BY region ORDER BY region DESC LIMIT 4;

SELECT region, city FROM customers WHERE country IN ('USA', 'UK') ORDER BY region NULLS FIRST, city OFFSET 3 FETCH FIRST 5 ROWS ONLY;

SELECT generate_series(1, 3) AS n, unnest(ARRAY['a', 'b', 'c']) AS letter;

SELECT * FROM unnest(ARRAY[10, 20], ARRAY['x', 'y', 'z']) WITH ORDINALITY AS t(a, b, n);

SELECT (ARRAY[1, 2, 3])[2], array_length(ARRAY[1, 2], 1), 2 = ANY (ARRAY[1, 2]), ARRAY[1, 2] || 3, '{1,2}'::int[] @> ARRAY[2], array_to_string(ARRAY['a', NULL, 'c'], ',', '*');

SELECT customer_id, company_name FROM customers WHERE (country, city) = ('Germany', 'Berlin') OR (country, city) IN (('France', 'Paris'), ('UK', 'Cowes')) ORDER BY 1;

SELECT order_id, product_id FROM order_details WHERE (order_id, product_id) > (11077, 60) ORDER BY 1, 2;

SELECT t.*, o.n FROM (VALUES ('ALFKI', 1), ('ANATR', 2)) AS t(id, k) JOIN (SELECT customer_id, count(*) AS n FROM orders GROUP BY 1) o ON o.customer_id = t.id ORDER BY k;

SELECT json_build_object('id', shipper_id, 'name', company_name), to_json(phone) FROM shippers ORDER BY shipper_id;

SELECT '{"a": {"b": [1, 2, {"c": "x"}]}}'::jsonb -> 'a' -> 'b' -> 2 ->> 'c', '{"k": 1.50}'::json ->> 'k', jsonb_array_length('[1, 2]');

SELECT 1 AS a, 'x' AS b, NULL AS c, true AS d, 1.5 AS e, date '2020-02-29' AS f, interval '1 day 02:03:04' AS g, '2020-01-01 10:00:00'::timestamp AS h;
