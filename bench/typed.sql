-- Three tables of many types, 3 secondary indexes each, and a foreign key. Nothing is random: every run has the same
-- rows. The setting bench.rows says how many events there are.
CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    actor uuid NOT NULL,
    payload jsonb NOT NULL,
    amount numeric(14,4),
    flag boolean,
    tags text[],
    address inet,
    period tstzrange
);
INSERT INTO events (at, kind, actor, payload, amount, flag, tags, address, period)
SELECT timestamptz '2020-01-01 00:00:00+00' + i * interval '1 minute', 'kind ' || i % 17, md5(i::text)::uuid,
       jsonb_build_object('n', i, 'text', md5((i + 1)::text), 'list', jsonb_build_array(i % 3, i % 5, null)),
       CASE WHEN i % 11 > 0 THEN (i * 7919 % 1000003)::numeric / 10000 END, i % 2 = 0,
       ARRAY['a' || i % 10, 'b' || i % 100], '10.0.0.0'::inet + i % 16777216,
       tstzrange(timestamptz '2020-01-01 00:00:00+00', timestamptz '2020-01-01 00:00:00+00' + i * interval '1 second')
FROM generate_series(1, current_setting('bench.rows')::bigint) i;

CREATE TABLE docs (
    id bigint PRIMARY KEY,
    title varchar(80) NOT NULL,
    body text NOT NULL,
    raw bytea,
    day date NOT NULL,
    language char(2) NOT NULL
);
INSERT INTO docs
SELECT i, 'document ' || md5(i::text), repeat(md5(i::text) || ' ', 10 + (i % 20)::int), decode(md5((i + 2)::text), 'hex'),
       date '2000-01-01' + (i % 9000)::int, (ARRAY['en', 'de', 'zh', 'pt'])[1 + i % 4]
FROM generate_series(1, current_setting('bench.rows')::bigint / 3) i;

CREATE TABLE metrics (
    doc bigint NOT NULL,
    n integer NOT NULL,
    at timestamp NOT NULL,
    value double precision,
    share real,
    label text,
    PRIMARY KEY (doc, n)
);
INSERT INTO metrics
SELECT 1 + i % (current_setting('bench.rows')::bigint / 3), i, timestamp '2020-01-01 00:00:00' + i * interval '1 second',
       sin(i::double precision) * 1e6, (i % 1000) / 1000.0, 'label ' || i % 1000
FROM generate_series(1, current_setting('bench.rows')::bigint * 2) i;

CREATE INDEX ON events (at);
CREATE INDEX ON events (kind, at);
CREATE INDEX ON events (actor);
CREATE INDEX ON docs (title);
CREATE INDEX ON docs (day);
CREATE INDEX ON docs (language, id);
CREATE INDEX ON metrics (at);
CREATE INDEX ON metrics (label);
CREATE INDEX ON metrics (value);
ALTER TABLE metrics ADD FOREIGN KEY (doc) REFERENCES docs;
