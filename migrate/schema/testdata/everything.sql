-- Every kind of object that pg_dump writes, with the relations between them that decide order. Roles exist already.
CREATE SCHEMA app AUTHORIZATION structure_owner;
CREATE SCHEMA "Odd ""schema"" %s; \! touch /tmp/x";
CREATE SCHEMA empty;
CREATE SCHEMA ext;
CREATE EXTENSION citext WITH SCHEMA ext;
CREATE EXTENSION file_fdw WITH SCHEMA ext;
CREATE EXTENSION btree_gist WITH SCHEMA ext;
COMMENT ON EXTENSION citext IS 'ours';
COMMENT ON SCHEMA public IS 'changed';
COMMENT ON SCHEMA app IS E'line one\n\\! touch /tmp/slipway-pwned\nSELECT 1;';
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO structure_reader;
GRANT USAGE ON SCHEMA app TO structure_reader;

CREATE COLLATION app.german (provider = icu, locale = 'de-u-ks-level2', deterministic = false);
CREATE CONVERSION app.latin FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE TYPE app.mood AS ENUM ('sad', 'it''s ok', '', 'a,b');
CREATE TYPE app.pair AS (a int, b app.mood, c text COLLATE app.german);
COMMENT ON COLUMN app.pair.a IS 'first';
CREATE TYPE app.span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE DOMAIN app.positive AS int DEFAULT 1 NOT NULL CONSTRAINT above_zero CHECK (VALUE > 0);
CREATE FUNCTION app.is_even(n int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT n % 2 = 0';
CREATE DOMAIN app.even AS app.positive CONSTRAINT evenness CHECK (app.is_even(VALUE));
ALTER DOMAIN app.even ADD CONSTRAINT later CHECK (VALUE < 1000) NOT VALID;
COMMENT ON CONSTRAINT evenness ON DOMAIN app.even IS 'even';
CREATE TYPE app.twin;
CREATE FUNCTION app.twin_in(cstring) RETURNS app.twin LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
CREATE FUNCTION app.twin_out(app.twin) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
CREATE TYPE app.twin (INPUT = app.twin_in, OUTPUT = app.twin_out, LIKE = int4);
CREATE CAST (app.twin AS int) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE CAST (app.pair AS text) WITH INOUT;
COMMENT ON CAST (app.twin AS int) IS 'same bits';

CREATE FUNCTION app.add(a int, b int DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
CREATE FUNCTION app.add(a text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT a';
CREATE FUNCTION app."odd (name)"(int, VARIADIC text[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE app.work(INOUT n int) LANGUAGE plpgsql AS 'BEGIN n := n + 1; END';
CREATE FUNCTION app.trusted() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = app, pg_temp AS 'SELECT 1';
SET check_function_bodies = off;
CREATE FUNCTION app.later_table() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM app.customers';
RESET check_function_bodies;
COMMENT ON FUNCTION app.add(int, int) IS 'adds';
COMMENT ON PROCEDURE app.work(int) IS 'works';
REVOKE ALL ON FUNCTION app.trusted() FROM PUBLIC;
CREATE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE AGGREGATE app.nth(float8 ORDER BY anyelement) (SFUNC = ordered_set_transition, STYPE = internal,
    FINALFUNC = percentile_disc_final, FINALFUNC_EXTRA);
CREATE OPERATOR app.@+ (LEFTARG = int, RIGHTARG = int, FUNCTION = app.add);
CREATE OPERATOR app.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq, COMMUTATOR = OPERATOR(app.===), HASHES);
CREATE OPERATOR app.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);
COMMENT ON OPERATOR app.=== (text, text) IS 'equal';
CREATE OPERATOR FAMILY app.reverse USING btree;
CREATE OPERATOR CLASS app.reverse_int FOR TYPE int USING btree FAMILY app.reverse AS
    OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <, FUNCTION 1 app.add(int, int);
CREATE OPERATOR CLASS app.same FOR TYPE int USING hash AS OPERATOR 1 app.===, FUNCTION 1 hashint4(int);
CREATE TEXT SEARCH DICTIONARY app.plain (TEMPLATE = simple, stopwords = english);
CREATE TEXT SEARCH CONFIGURATION app.words (COPY = english);
ALTER TEXT SEARCH CONFIGURATION app.words ALTER MAPPING FOR asciiword WITH app.plain, english_stem;
CREATE TEXT SEARCH PARSER app.parser (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype);
CREATE TEXT SEARCH TEMPLATE app.template (INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler;
CREATE FUNCTION app.call_handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE TRUSTED LANGUAGE plslip HANDLER app.call_handler;
CREATE FUNCTION app.to_internal(internal) RETURNS internal LANGUAGE internal IMMUTABLE STRICT AS 'prsd_lextype';
CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION app.to_internal(internal));

CREATE SEQUENCE app.loose AS smallint INCREMENT BY -2 MINVALUE -100 MAXVALUE 100 START WITH 9 CACHE 3 CYCLE;
CREATE TABLE app.customers (
    id serial PRIMARY KEY,
    name text COLLATE app.german NOT NULL,
    mail ext.citext UNIQUE,
    feeling app.mood DEFAULT 'it''s ok',
    size app.even,
    counted int DEFAULT nextval('app.loose'),
    shout text GENERATED ALWAYS AS (upper(name)) STORED,
    during tstzrange,
    doc jsonb,
    CONSTRAINT customers_name_check CHECK (name <> '' AND app.add(id) > 0),
    EXCLUDE USING gist (id WITH =, during WITH &&) DEFERRABLE INITIALLY DEFERRED
) WITH (fillfactor = 70, autovacuum_enabled = off);
ALTER TABLE app.customers ADD CONSTRAINT not_checked CHECK (counted > -1000) NOT VALID;
ALTER TABLE app.customers ALTER COLUMN name SET STATISTICS 500, ALTER COLUMN name SET STORAGE EXTERNAL,
    ALTER COLUMN doc SET COMPRESSION pglz, ALTER COLUMN counted SET (n_distinct = 5);
COMMENT ON TABLE app.customers IS 'who';
COMMENT ON COLUMN app.customers.name IS E'with\nnewline';
CREATE INDEX customers_expr ON app.customers (lower(name), app.add(id)) INCLUDE (counted) WHERE counted > 0;
CREATE INDEX customers_doc ON app.customers USING gin (doc jsonb_path_ops) WITH (fastupdate = off);
ALTER INDEX app.customers_expr ALTER COLUMN 1 SET STATISTICS 200;
CREATE UNIQUE INDEX customers_ident ON app.customers (id, name);
ALTER TABLE app.customers REPLICA IDENTITY USING INDEX customers_ident;
ALTER TABLE app.customers CLUSTER ON customers_pkey;
COMMENT ON INDEX app.customers_expr IS 'expression';
COMMENT ON CONSTRAINT customers_name_check ON app.customers IS 'named';
CREATE STATISTICS app.dependence (dependencies, mcv) ON name, counted FROM app.customers;
CREATE STATISTICS app.expression ON (id + counted) FROM app.customers;
COMMENT ON STATISTICS app.dependence IS 'why';

CREATE TABLE app.orders (
    id bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME app.order_number START 100 CACHE 5) PRIMARY KEY,
    other int GENERATED BY DEFAULT AS IDENTITY,
    customer int NOT NULL REFERENCES app.customers ON DELETE CASCADE DEFERRABLE,
    previous bigint,
    note text,
    UNIQUE NULLS NOT DISTINCT (note)
);
ALTER TABLE app.orders ADD FOREIGN KEY (previous) REFERENCES app.orders;
ALTER TABLE app.orders ADD CONSTRAINT unproven FOREIGN KEY (other) REFERENCES app.customers NOT VALID;
ALTER TABLE app.orders REPLICA IDENTITY FULL;
ALTER TABLE app.customers ADD COLUMN last_order bigint REFERENCES app.orders;

CREATE TABLE app.events (id int, at date NOT NULL, customer int REFERENCES app.customers, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE app.events_2024 PARTITION OF app.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (id);
CREATE TABLE app.events_2024_one PARTITION OF app.events_2024 FOR VALUES IN (1, 2);
CREATE TABLE app.events_2024_rest PARTITION OF app.events_2024 DEFAULT;
CREATE TABLE public.events_2025 PARTITION OF app.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE INDEX events_at ON app.events (at);
CREATE INDEX only_here ON app.events_2024_one (customer);
ALTER TABLE app.events_2024_one ADD CHECK (id > 0);
CREATE TABLE app.hits (id int) PARTITION BY HASH (id);
CREATE TABLE app.hits_0 PARTITION OF app.hits FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.refers (id int, at date, FOREIGN KEY (id, at) REFERENCES app.events);

CREATE TABLE app.parent (id int NOT NULL, a text DEFAULT 'x');
CREATE TABLE app.child (extra int) INHERITS (app.parent);
ALTER TABLE app.child ALTER COLUMN a SET DEFAULT 'y';
CREATE TABLE app.grandchild () INHERITS (app.child);
CREATE TYPE app.shape AS (x int, y int);
CREATE TABLE app.shaped OF app.shape (PRIMARY KEY (x));
CREATE UNLOGGED TABLE app.cache (k text PRIMARY KEY);
CREATE TABLE app.nothing ();
CREATE TABLE app.too (id int) USING heap_too;
CREATE TABLE app.dropped (a int, b int, c int);
ALTER TABLE app.dropped DROP COLUMN b;
CREATE TABLE "Odd ""schema"" %s; \! touch /tmp/x"."таблица ""1"" a.b" ("select" int PRIMARY KEY, "new
line" text DEFAULT 'a\b''c', "%I" int CHECK ("%I" > 0));
CREATE INDEX "index ""of"" %" ON "Odd ""schema"" %s; \! touch /tmp/x"."таблица ""1"" a.b" ("new
line");
COMMENT ON COLUMN "Odd ""schema"" %s; \! touch /tmp/x"."таблица ""1"" a.b"."new
line" IS E'\\! touch /tmp/slipway-pwned';
CREATE TABLE app.nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn (id int PRIMARY KEY REFERENCES app.orders);

CREATE VIEW app.z_first WITH (security_barrier) AS SELECT id, name FROM app.customers WHERE counted > 0 WITH LOCAL CHECK OPTION;
CREATE VIEW app.a_second AS SELECT * FROM app.z_first;
ALTER VIEW app.z_first ALTER COLUMN name SET DEFAULT 'nobody';
CREATE VIEW app.grouped AS SELECT c.id, c.name, count(*) FROM app.customers c JOIN app.orders o ON o.customer = c.id GROUP BY c.id;
CREATE VIEW app.over_grouped AS SELECT * FROM app.grouped;
CREATE VIEW app.circle_a AS SELECT 1 AS x;
CREATE VIEW app.circle_b AS SELECT x FROM app.circle_a;
CREATE OR REPLACE VIEW app.circle_a AS SELECT 1 AS x WHERE EXISTS (SELECT FROM pg_catalog.pg_class);
CREATE FUNCTION app.view_fn(app.grouped) RETURNS bigint LANGUAGE sql AS 'SELECT $1.count';
CREATE FUNCTION app.atomic(a int) RETURNS bigint LANGUAGE sql
    BEGIN ATOMIC SELECT count(*) FROM (SELECT id, name FROM app.customers GROUP BY id) x; END;
CREATE MATERIALIZED VIEW app.m_third AS SELECT id, name FROM app.customers GROUP BY id;
CREATE MATERIALIZED VIEW app.b_fourth AS SELECT count(*) AS n FROM app.m_third;
CREATE MATERIALIZED VIEW app.empty_one AS SELECT 1 AS x WITH NO DATA;
CREATE UNIQUE INDEX m_third_id ON app.m_third (id);
COMMENT ON MATERIALIZED VIEW app.m_third IS 'third';
COMMENT ON VIEW app.grouped IS 'grouped';

CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER always BEFORE UPDATE OF name ON app.customers FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION app.touch();
CREATE TRIGGER replica AFTER INSERT ON app.customers REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION app.touch('arg', 'o''k');
CREATE TRIGGER "disabled "" one" BEFORE DELETE ON app.customers FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON app.orders FROM app.customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.touch();
ALTER TABLE app.customers ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica, DISABLE TRIGGER "disabled "" one";
CREATE TRIGGER on_view INSTEAD OF INSERT ON app.grouped FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE TRIGGER on_parts AFTER INSERT ON app.events FOR EACH ROW EXECUTE FUNCTION app.touch();
ALTER TABLE app.events_2024_one DISABLE TRIGGER on_parts;
COMMENT ON TRIGGER always ON app.customers IS 'always';
CREATE RULE protect AS ON DELETE TO app.orders DO INSTEAD NOTHING;
CREATE RULE "tell ""them""" AS ON UPDATE TO app.cache DO ALSO NOTIFY changed;
ALTER TABLE app.cache DISABLE RULE "tell ""them""";
COMMENT ON RULE protect ON app.orders IS 'rule';
ALTER TABLE app.customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON app.customers AS RESTRICTIVE FOR SELECT TO structure_reader USING (name = current_user);
CREATE POLICY "write ""it""" ON app.customers FOR INSERT WITH CHECK (app.later_table() < 10);
COMMENT ON POLICY own_rows ON app.customers IS 'policy';

CREATE FOREIGN DATA WRAPPER dummy OPTIONS (debug 'true');
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE app.file (line text) SERVER files OPTIONS (filename '/dev/null');
CREATE SERVER elsewhere FOREIGN DATA WRAPPER dummy OPTIONS (host 'localhost', dbname 'x');
CREATE USER MAPPING FOR structure_owner SERVER elsewhere OPTIONS (user 'u', password 'planted-secret');
CREATE FOREIGN TABLE app.remote (id int OPTIONS (column_name 'ID'), CHECK (id > 0)) SERVER elsewhere OPTIONS (table_name 't');
CREATE FOREIGN TABLE app.remote_part PARTITION OF app.hits FOR VALUES WITH (MODULUS 2, REMAINDER 1) SERVER elsewhere;
COMMENT ON FOREIGN TABLE app.remote IS 'far';
CREATE PUBLICATION chosen FOR TABLE app.customers (id, name) WHERE (id > 0), app.orders WITH (publish = 'insert');
CREATE PUBLICATION whole_schema FOR TABLES IN SCHEMA app;
CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root);
COMMENT ON PUBLICATION chosen IS 'published';
CREATE FUNCTION app.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no DDL'; END $$;
CREATE EVENT TRIGGER no_ddl ON ddl_command_start WHEN TAG IN ('CREATE TABLE', 'COMMENT') EXECUTE FUNCTION app.on_ddl();
ALTER EVENT TRIGGER no_ddl DISABLE;
COMMENT ON EVENT TRIGGER no_ddl IS 'stops';
ALTER EVENT TRIGGER no_ddl ENABLE ALWAYS;

ALTER TABLE app.orders OWNER TO structure_owner;
ALTER TABLE app.events OWNER TO structure_owner;
ALTER VIEW app.grouped OWNER TO structure_owner;
ALTER MATERIALIZED VIEW app.m_third OWNER TO structure_owner;
ALTER TYPE app.mood OWNER TO structure_owner;
ALTER DOMAIN app.even OWNER TO structure_owner;
ALTER FUNCTION app."odd (name)"(int, text[]) OWNER TO structure_owner;
ALTER PROCEDURE app.work(int) OWNER TO structure_owner;
ALTER AGGREGATE app.total(int) OWNER TO structure_owner;
ALTER OPERATOR app.=== (text, text) OWNER TO structure_owner;
ALTER OPERATOR FAMILY app.reverse USING btree OWNER TO structure_owner;
ALTER STATISTICS app.dependence OWNER TO structure_owner;
ALTER TEXT SEARCH CONFIGURATION app.words OWNER TO structure_owner;
ALTER LANGUAGE plslip OWNER TO structure_owner;
ALTER SEQUENCE app.loose OWNER TO structure_owner;
GRANT SELECT ON app.customers TO structure_reader WITH GRANT OPTION;
GRANT SELECT ON app.customers TO structure_owner;
GRANT UPDATE (name) ON app.customers TO structure_reader;
GRANT USAGE ON SEQUENCE app.loose TO structure_reader;
GRANT EXECUTE ON FUNCTION app.trusted() TO structure_reader;
GRANT USAGE ON TYPE app.mood TO structure_reader;
REVOKE USAGE ON LANGUAGE plslip FROM PUBLIC;
GRANT USAGE ON FOREIGN SERVER elsewhere TO structure_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO structure_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE structure_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() FROM pg_monitor;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() TO structure_reader;
