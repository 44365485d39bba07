-- A shop with every kind of object and type that a migration has to carry. It runs in the database that pgbench has
-- filled already, as superuser; all rows come from expressions, so every run moves the same shop.

-- Roles, schemas, extensions ------------------------------------------------------------------------------------

CREATE ROLE shop_owner;
CREATE ROLE shop_app LOGIN CONNECTION LIMIT 50;
CREATE ROLE shop_reader;
CREATE ROLE "Ann O'Neill, 100%" LOGIN IN ROLE shop_reader;
ALTER ROLE shop_app SET statement_timeout = '30s';
COMMENT ON ROLE shop_app IS 'The application';

CREATE SCHEMA extensions;
CREATE EXTENSION citext WITH SCHEMA extensions;
CREATE EXTENSION hstore WITH SCHEMA extensions;
CREATE EXTENSION pg_trgm WITH SCHEMA extensions;
CREATE EXTENSION btree_gist WITH SCHEMA extensions;
CREATE EXTENSION ltree WITH SCHEMA extensions;
CREATE EXTENSION postgres_fdw WITH SCHEMA extensions;

CREATE SCHEMA shop AUTHORIZATION shop_owner;
CREATE SCHEMA archive;
CREATE SCHEMA "Odd % ""names""";
COMMENT ON SCHEMA shop IS 'Orders, customers, and what they looked at';
GRANT USAGE ON SCHEMA shop TO shop_app, shop_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO shop_reader;
SET search_path = shop, extensions, public;

-- Types ---------------------------------------------------------------------------------------------------------

CREATE TYPE order_state AS ENUM ('new', 'paid', 'sent', 'it''s back', 'gelöscht');
CREATE DOMAIN email AS citext CHECK (VALUE ~ '^[^@]+@[^@]+$');
CREATE DOMAIN positive AS numeric(12,2) DEFAULT 1 NOT NULL CHECK (VALUE > 0);
CREATE TYPE address AS (street text, zip varchar(12), country char(2));
CREATE TYPE price_span AS RANGE (subtype = numeric);
CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

-- Text search ---------------------------------------------------------------------------------------------------

CREATE TEXT SEARCH DICTIONARY shop_words (TEMPLATE = pg_catalog.simple, accept = true);
CREATE TEXT SEARCH CONFIGURATION shop_search (COPY = pg_catalog.english);
ALTER TEXT SEARCH CONFIGURATION shop_search ALTER MAPPING FOR asciihword, hword_asciipart WITH shop_words, pg_catalog.english_stem;

-- Functions, procedures, aggregates, operators, casts ------------------------------------------------------------

CREATE FUNCTION tax(amount numeric, percent numeric DEFAULT 19) RETURNS numeric
	LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN round(amount * percent / 100, 2);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.touched := clock_timestamp();
	RETURN NEW;
END $$;
CREATE PROCEDURE forget(before timestamptz) LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM shop.visit WHERE at < before;
END $$;
CREATE AGGREGATE product_of(numeric) (SFUNC = pg_catalog.numeric_mul, STYPE = numeric, INITCOND = '1');
CREATE FUNCTION about_equal(a numeric, b numeric) RETURNS boolean
	LANGUAGE sql IMMUTABLE RETURN abs(a - b) < 0.01;
CREATE OPERATOR ~=~ (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = about_equal, COMMUTATOR = ~=~);
CREATE FUNCTION as_text(a address) RETURNS text LANGUAGE sql IMMUTABLE RETURN (a).street || ', ' || (a).zip;
CREATE CAST (address AS text) WITH FUNCTION as_text(address) AS ASSIGNMENT;
COMMENT ON FUNCTION tax(numeric, numeric) IS 'VAT; 19 % unless told otherwise';

-- Tables --------------------------------------------------------------------------------------------------------

CREATE SEQUENCE ticket INCREMENT 7 MINVALUE -100 START -100 CACHE 5 CYCLE;

CREATE TABLE customer (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	email email NOT NULL UNIQUE,
	name text COLLATE ignore_case NOT NULL,
	home address,
	tags text[] NOT NULL DEFAULT '{}',
	settings hstore,
	born date,
	referred_by bigint REFERENCES customer DEFERRABLE INITIALLY DEFERRED,
	initials text GENERATED ALWAYS AS (upper(left(name, 1))) STORED,
	touched timestamptz NOT NULL DEFAULT '2026-01-01'
);
INSERT INTO customer (email, name, home, tags, settings, born, referred_by)
SELECT format('customer%s@Example.org', i), format('Žofie %s "the %s"', i, md5(i::text)), ROW('Main St ' || i, lpad(i::text, 5, '0'), 'CZ')::address,
	ARRAY['tag ' || i % 7, 'a,b "c" \d', NULL], hstore('newsletter', (i % 2 = 0)::text) || hstore('note', NULL),
	date '1950-01-01' + i % 20000, nullif(i / 2, 0)
FROM generate_series(1, 20000) i;

CREATE TABLE product (
	id serial PRIMARY KEY,
	name text NOT NULL,
	description text NOT NULL, -- large for some: out of line
	picture bytea,
	price positive,
	stock integer NOT NULL DEFAULT 1000000,
	category ltree,
	facts jsonb,
	words tsvector GENERATED ALWAYS AS (to_tsvector('shop.shop_search', name)) STORED
);
ALTER TABLE product ALTER description SET STORAGE EXTERNAL, ALTER picture SET STORAGE EXTERNAL;
INSERT INTO product (name, description, picture, price, category, facts)
SELECT format('Well-known product %s', i),
	CASE WHEN i % 8 = 0 THEN (SELECT string_agg(md5((i * 1000 + k)::text), ' ') FROM generate_series(1, 250 + i % 400) k) ELSE 'short' END,
	CASE WHEN i % 16 = 0 THEN (SELECT string_agg(decode(md5((i * 7 + k)::text), 'hex'), '') FROM generate_series(1, 400) k) END,
	1 + i % 900 + 0.99, ('shop.' || CASE WHEN i % 2 = 0 THEN 'books' ELSE 'music' END || '.c' || i % 40)::ltree,
	jsonb_build_object('weight', i / 7.0, 'colours', jsonb_build_array('red', NULL, '"ü"'), 'deep', jsonb_build_object('a', i))
FROM generate_series(1, 3000) i;

CREATE TABLE orders (
	id bigint GENERATED BY DEFAULT AS IDENTITY (START WITH 1000 INCREMENT BY 3) PRIMARY KEY,
	customer bigint NOT NULL REFERENCES customer ON DELETE CASCADE,
	state order_state NOT NULL DEFAULT 'new',
	total numeric(14,2) NOT NULL DEFAULT 0,
	vat numeric GENERATED ALWAYS AS (total * 0.19) STORED,
	at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO orders (customer, state, total, at)
SELECT 1 + i % 20000, (enum_range(NULL::order_state))[1 + i % 5], i % 1000, timestamptz '2026-01-01' + i * interval '7 min'
FROM generate_series(1, 40000) i;

CREATE TABLE order_line (
	order_id bigint REFERENCES orders ON DELETE CASCADE,
	line smallint,
	product integer NOT NULL REFERENCES product DEFERRABLE INITIALLY IMMEDIATE,
	quantity integer NOT NULL CHECK (quantity > 0),
	price positive,
	PRIMARY KEY (order_id, line)
);
INSERT INTO order_line SELECT 1000 + 3 * (i / 3), i % 3, 1 + i % 3000, 1 + i % 9, 1 + i % 400 FROM generate_series(0, 119999) i;

-- Partitions with partitions, by range, list and hash; inheritance.
CREATE TABLE visit (customer bigint NOT NULL, at timestamptz NOT NULL, device text NOT NULL, page text,
	PRIMARY KEY (at, device, customer)) PARTITION BY RANGE (at);
CREATE TABLE visit_2025 PARTITION OF visit FOR VALUES FROM ('2025-01-01Z') TO ('2026-01-01Z');
CREATE TABLE visit_2026 PARTITION OF visit FOR VALUES FROM ('2026-01-01Z') TO ('2027-01-01Z') PARTITION BY LIST (device);
CREATE TABLE visit_2026_phone PARTITION OF visit_2026 FOR VALUES IN ('phone', 'tablet') PARTITION BY HASH (customer);
CREATE TABLE visit_2026_phone_0 PARTITION OF visit_2026_phone FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE visit_2026_phone_1 PARTITION OF visit_2026_phone FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE visit_2026_other PARTITION OF visit_2026 DEFAULT;
CREATE INDEX visit_page ON visit (page);
INSERT INTO visit
SELECT 1 + i % 20000, timestamptz '2025-07-01Z' + i * interval '8 min', (ARRAY['phone', 'tablet', 'desktop', 'télé'])[1 + i % 4], '/p/' || i % 300
FROM generate_series(1, 60000) i;

CREATE TABLE document (id integer PRIMARY KEY, title text, made timestamp DEFAULT '2026-01-01');
CREATE TABLE archive.invoice (number text UNIQUE, amount money, PRIMARY KEY (id)) INHERITS (document);
INSERT INTO document SELECT i, 'Document ' || i FROM generate_series(1, 500) i;
INSERT INTO archive.invoice SELECT i, 'Invoice ' || i, '2026-02-01', 'N' || i, (i * 1.5)::numeric::money FROM generate_series(501, 1500) i;

CREATE TABLE booking (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), room integer NOT NULL, during tstzrange NOT NULL,
	EXCLUDE USING gist (room WITH =, during WITH &&));
INSERT INTO booking SELECT md5(i::text)::uuid, i % 20, tstzrange(t, t + interval '1 h')
FROM generate_series(1, 2000) i, LATERAL (SELECT timestamptz '2026-01-01Z' + i * interval '1 h') s(t);

CREATE TABLE every_type (
	c_smallint smallint, c_integer integer, c_bigint bigint, c_numeric numeric, c_real real, c_double double precision,
	c_money money, c_boolean boolean, c_char character(5), c_varchar varchar(50), c_text text, "c_""char""" "char", c_name name,
	c_bytea bytea, c_date date, c_time time(3), c_timetz timetz, c_timestamp timestamp, c_timestamptz timestamptz, c_interval interval,
	c_uuid uuid, c_inet inet, c_cidr cidr, c_macaddr macaddr, c_macaddr8 macaddr8, c_bit bit(5), c_varbit bit varying,
	c_json json, c_jsonb jsonb, c_jsonpath jsonpath, c_xml xml, c_tsvector tsvector, c_tsquery tsquery,
	c_point point, c_line line, c_lseg lseg, c_box box, c_path path, c_polygon polygon, c_circle circle,
	c_int4range int4range, c_numrange numrange, c_tstzrange tstzrange, c_own_range price_span,
	c_int_array integer[], c_text_array text[][], c_enum order_state, c_enum_array order_state[], c_composite address,
	c_domain email, c_hstore hstore, c_ltree ltree, c_citext citext, c_oid oid, c_regclass regclass, c_pg_lsn pg_lsn,
	id integer PRIMARY KEY
);
INSERT INTO every_type
SELECT -i, i, -9223372036854775808 + i, CASE i % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN 1e-30 WHEN 2 THEN 12345678901234567890.0123456789 END,
	CASE i % 3 WHEN 0 THEN 'Infinity'::real WHEN 1 THEN '-0'::real ELSE i / 3.0 END, CASE i % 3 WHEN 0 THEN 'NaN'::float8 ELSE pi() / i END,
	i::numeric::money, i % 2 = 0, 'a b', '', E'tab\t nl\n \\N back\\slash ''quote'' "x" ' || i, 'c', 'name',
	decode('00ff5c', 'hex'), CASE i % 3 WHEN 0 THEN 'infinity'::date WHEN 1 THEN '4713-01-01 BC'::date ELSE '2026-02-28'::date END,
	'24:00:00', '12:00:00.000001+05:30', '-infinity', timestamptz '0044-03-15 BC' + i * interval '1 us', '1 year -2 mons 3 days -04:05:06.7',
	md5(i::text)::uuid, '2001:db8::1/64', '10.1.0.0/16', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', B'10101', B'',
	'{"a" : 1, "a" : 2}', '{"n": 1.10, "u": "\u00e9"}', '$.a[*] ? (@ > 1)', xmlparse(CONTENT '<a b="c">&amp;</a>'),
	$$'it''s':1A b:2,3$$, 'a & !b | c:*', '(1,-2.5)', '{1,2,3}', '[(0,0),(1,1)]', '((0,0),(2,2))', '((0,0),(1,1),(2,0))', '((0,0),(1,1),(2,0))', '<(1,2),3>',
	'[1,10)', 'empty', '(,)', '[1.5,2.5]', ARRAY[i, NULL, -1], '[0:1][2:3]={{a,"NULL"},{NULL,"{,}"}}', 'it''s back', '{new,gelöscht}', ROW('Nörr "str" (1)', NULL, 'DE')::address,
	'Me@x', '"a b"=>"c=>d", e=>NULL', 'a.b.c', 'MiXeD', 4294967295, 'pg_class', '16/B374D848', i
FROM generate_series(1, 400) i;
INSERT INTO every_type (id) VALUES (0); -- NULL everywhere

CREATE TABLE "Odd % ""names"""."Tábla, with ""all"" of
it" ("a%s" integer, "select" text, "Ünï cödé" text, "x.y" text, PRIMARY KEY ("a%s", "x.y"));
INSERT INTO "Odd % ""names"""."Tábla, with ""all"" of
it" SELECT i, 'v' || i, repeat('ž', i % 40), '%d' FROM generate_series(1, 2000) i;

-- For the writer ------------------------------------------------------------------------------------------------

CREATE TABLE writer (id integer PRIMARY KEY, acted bigint NOT NULL DEFAULT 0);
INSERT INTO writer SELECT generate_series(0, 7);
CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL, note text);
INSERT INTO account SELECT i, 1000, repeat('x', 80) FROM generate_series(1, 400) i;
CREATE TABLE receipt (writer integer REFERENCES writer, number bigint, token text NOT NULL, amount bigint NOT NULL,
	ticket bigint NOT NULL DEFAULT nextval('shop.ticket'), at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (writer, number));
CREATE TABLE coupon (code text PRIMARY KEY, uses integer NOT NULL DEFAULT 0);
INSERT INTO coupon SELECT format('w%s/%s', w, i) FROM generate_series(0, 7) w, generate_series(0, 49) i;
CREATE TABLE todays_hit (id integer PRIMARY KEY, product integer NOT NULL); -- truncated now and then
CREATE TABLE bulk (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, content text NOT NULL); -- one large transaction
CREATE TABLE "event log" ("at" timestamptz, writer integer, line text); -- no key, and equal rows
ALTER TABLE "event log" REPLICA IDENTITY FULL;
INSERT INTO "event log" SELECT '2026-01-01', -1, 'line ' || i / 2 FROM generate_series(1, 5000) i;
CREATE TABLE heartbeat (id integer PRIMARY KEY, beat bigint NOT NULL);
INSERT INTO heartbeat VALUES (1, 0);

SELECT lo_from_bytea(910000 + i, decode(repeat(md5(i::text), 4000), 'hex')) FROM generate_series(1, 20) i;
ALTER LARGE OBJECT 910001 OWNER TO shop_owner;
GRANT SELECT ON LARGE OBJECT 910002 TO shop_reader;
COMMENT ON LARGE OBJECT 910003 IS 'A picture';

SET CONSTRAINTS ALL IMMEDIATE; -- what is checked late has to be checked before the table changes

-- Indexes of every access method, statistics objects ------------------------------------------------------------

CREATE INDEX customer_name_trgm ON customer USING gin ((name COLLATE "C") gin_trgm_ops);
CREATE INDEX customer_tags ON customer USING gin (tags);
CREATE INDEX customer_settings ON customer USING gist (settings);
CREATE INDEX customer_born ON customer USING brin (born);
CREATE INDEX product_words ON product USING gin (words);
CREATE INDEX product_category ON product USING gist (category);
CREATE INDEX product_name ON product USING spgist (name);
CREATE INDEX product_facts ON product USING gin (facts jsonb_path_ops);
CREATE INDEX orders_open ON orders USING hash (customer) WHERE state = 'new';
CREATE INDEX orders_tax ON orders (tax(total), at DESC NULLS LAST) INCLUDE (state);
CREATE STATISTICS orders_customer_state (dependencies, mcv) ON customer, state FROM orders;
ALTER TABLE orders ALTER customer SET STATISTICS 200;
ALTER TABLE orders CLUSTER ON orders_pkey;
CREATE UNIQUE INDEX coupon_lower ON coupon (lower(code));

-- Views, materialized views over materialized views, rules -------------------------------------------------------

CREATE VIEW open_order AS SELECT id, customer, total FROM orders WHERE state = 'new' WITH CASCADED CHECK OPTION;
CREATE VIEW customer_order WITH (security_barrier) AS
	SELECT c.id, c.name, o.total FROM customer c JOIN orders o ON o.customer = c.id;
CREATE RECURSIVE VIEW referral (id, depth) AS
	SELECT id, 0 FROM customer WHERE referred_by IS NULL UNION ALL
	SELECT c.id, r.depth + 1 FROM customer c JOIN referral r ON c.referred_by = r.id;
CREATE MATERIALIZED VIEW revenue AS SELECT state, date_trunc('month', at AT TIME ZONE 'UTC') AS month, sum(total) AS total FROM orders GROUP BY 1, 2;
CREATE MATERIALIZED VIEW revenue_by_state AS SELECT state, sum(total) AS total FROM revenue GROUP BY 1;
CREATE MATERIALIZED VIEW never_filled AS SELECT 1 AS one WITH NO DATA;
CREATE UNIQUE INDEX revenue_key ON revenue (state, month);
CREATE VIEW coupon_entry AS SELECT code FROM coupon;
CREATE RULE coupon_entry_insert AS ON INSERT TO coupon_entry DO INSTEAD INSERT INTO shop.coupon (code) VALUES (NEW.code);
CREATE RULE keep_documents AS ON DELETE TO document DO INSTEAD NOTHING;

-- Triggers --------------------------------------------------------------------------------------------------------

CREATE TRIGGER touch BEFORE UPDATE ON customer FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION touch();
CREATE FUNCTION add_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE shop.orders o SET total = o.total + n.sum
	FROM (SELECT order_id, sum(quantity * price) AS sum FROM added GROUP BY 1) n WHERE n.order_id = o.id;
	RETURN NULL;
END $$;
CREATE TRIGGER add_up AFTER INSERT ON order_line REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_up();
CREATE FUNCTION log_hit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO shop."event log" VALUES (clock_timestamp(), -2, TG_OP || ' ' || TG_TABLE_NAME);
	RETURN NULL;
END $$;
CREATE TRIGGER log_hit AFTER INSERT ON todays_hit FOR EACH ROW EXECUTE FUNCTION log_hit();
ALTER TABLE todays_hit ENABLE ALWAYS TRIGGER log_hit;
CREATE TRIGGER log_truncate AFTER TRUNCATE ON todays_hit FOR EACH STATEMENT EXECUTE FUNCTION log_hit();
CREATE FUNCTION refuse_negative() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.balance < -1000000 THEN RAISE EXCEPTION 'account % is overdrawn', NEW.id; END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse_negative AFTER UPDATE ON account DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION refuse_negative();
CREATE FUNCTION note_new_table() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE LOG 'a table was created by %', session_user;
END $$;
CREATE EVENT TRIGGER note_new_table ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION note_new_table();

-- Row security, privileges, owners, a foreign table, a publication, comments ---------------------------------------

ALTER TABLE document ENABLE ROW LEVEL SECURITY;
ALTER TABLE document FORCE ROW LEVEL SECURITY;
CREATE POLICY old_ones ON document FOR SELECT TO shop_reader USING (id < 1000);
CREATE POLICY titled ON document AS RESTRICTIVE TO PUBLIC USING (title IS NOT NULL) WITH CHECK (title <> '');

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop TO shop_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA shop TO shop_app;
GRANT SELECT (id, name) ON customer TO "Ann O'Neill, 100%" WITH GRANT OPTION;
REVOKE EXECUTE ON FUNCTION tax(numeric, numeric) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tax(numeric, numeric) TO shop_app;
ALTER TABLE booking OWNER TO shop_owner;
ALTER FUNCTION about_equal(numeric, numeric) OWNER TO shop_owner;

CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'elsewhere.example', dbname 'stock');
CREATE FOREIGN TABLE supplier (id integer, name text) SERVER elsewhere OPTIONS (table_name 'supplier');
CREATE PUBLICATION shop_changes FOR TABLE orders, order_line WITH (publish = 'insert, update');
COMMENT ON TABLE orders IS 'One row per order; it''s "the" table, 100 %';
COMMENT ON COLUMN orders.vat IS 'computed';

ANALYZE;
