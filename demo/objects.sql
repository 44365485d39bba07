-- The objects of users by kind, without those of extensions and the system. Kinds are listed in this order.
WITH member AS (SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'),
mine AS (
	SELECT n.oid FROM pg_catalog.pg_namespace n
	WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'slipway')
),
kinds (place, kind, number) AS (
	SELECT 1, 'schemas', count(*) FROM mine
	UNION ALL SELECT 2, 'extensions', count(*) FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'
	UNION ALL SELECT CASE relkind WHEN 'r' THEN 10 WHEN 'p' THEN 11 WHEN 'f' THEN 12 WHEN 'v' THEN 13 WHEN 'm' THEN 14 WHEN 'S' THEN 15 WHEN 'c' THEN 21 ELSE 16 END,
		CASE relkind WHEN 'r' THEN 'tables' WHEN 'p' THEN 'partitioned tables' WHEN 'f' THEN 'foreign tables' WHEN 'v' THEN 'views'
			WHEN 'm' THEN 'materialized views' WHEN 'S' THEN 'sequences' WHEN 'c' THEN 'composite types' ELSE 'indexes' END, count(*)
		FROM pg_catalog.pg_class c
		WHERE relnamespace IN (TABLE mine) AND ('pg_catalog.pg_class'::pg_catalog.regclass, c.oid) NOT IN (TABLE member)
			AND relkind <> 't' GROUP BY 1, 2
	UNION ALL SELECT 20 + (CASE typtype WHEN 'e' THEN 0 WHEN 'd' THEN 2 ELSE 3 END),
		CASE typtype WHEN 'e' THEN 'enums' WHEN 'd' THEN 'domains' ELSE 'range types' END, count(*)
		FROM pg_catalog.pg_type t
		WHERE typnamespace IN (TABLE mine) AND typtype IN ('e', 'd', 'r')
			AND ('pg_catalog.pg_type'::pg_catalog.regclass, t.oid) NOT IN (TABLE member) GROUP BY 1, 2
	UNION ALL SELECT 30 + (CASE contype WHEN 'p' THEN 0 WHEN 'u' THEN 1 WHEN 'f' THEN 2 WHEN 'c' THEN 3 ELSE 4 END),
		CASE contype WHEN 'p' THEN 'primary keys' WHEN 'u' THEN 'unique constraints' WHEN 'f' THEN 'foreign keys'
			WHEN 'c' THEN 'check constraints' ELSE 'exclusion constraints' END, count(*)
		FROM pg_catalog.pg_constraint WHERE connamespace IN (TABLE mine) AND contype IN ('p', 'u', 'f', 'c', 'x')
			AND NOT (contype = 'f' AND conparentid <> 0) GROUP BY 1, 2
	UNION ALL SELECT 40 + (CASE prokind WHEN 'f' THEN 0 WHEN 'p' THEN 1 ELSE 2 END),
		CASE prokind WHEN 'f' THEN 'functions' WHEN 'p' THEN 'procedures' ELSE 'aggregates' END, count(*)
		FROM pg_catalog.pg_proc p WHERE pronamespace IN (TABLE mine)
			AND ('pg_catalog.pg_proc'::pg_catalog.regclass, p.oid) NOT IN (TABLE member) GROUP BY 1, 2
	UNION ALL SELECT 43, 'operators', count(*) FROM pg_catalog.pg_operator o WHERE oprnamespace IN (TABLE mine)
		AND ('pg_catalog.pg_operator'::pg_catalog.regclass, o.oid) NOT IN (TABLE member)
	UNION ALL SELECT 44, 'casts', count(*) FROM pg_catalog.pg_cast c
		WHERE c.oid >= 16384 AND ('pg_catalog.pg_cast'::pg_catalog.regclass, c.oid) NOT IN (TABLE member)
	UNION ALL SELECT 50, 'triggers', count(*) FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
	UNION ALL SELECT 51, 'event triggers', count(*) FROM pg_catalog.pg_event_trigger
	UNION ALL SELECT 52, 'rules', count(*) FROM pg_catalog.pg_rewrite w WHERE rulename <> '_RETURN' AND w.oid >= 16384
	UNION ALL SELECT 53, 'row security policies', count(*) FROM pg_catalog.pg_policy
	UNION ALL SELECT 60, 'publications', count(*) FROM pg_catalog.pg_publication WHERE pubname !~ '^slipway_'
	UNION ALL SELECT 61, 'statistics objects', count(*) FROM pg_catalog.pg_statistic_ext
	UNION ALL SELECT 62, 'text search objects', (SELECT count(*) FROM pg_catalog.pg_ts_config WHERE cfgnamespace IN (TABLE mine))
		+ (SELECT count(*) FROM pg_catalog.pg_ts_dict WHERE dictnamespace IN (TABLE mine))
	UNION ALL SELECT 63, 'collations', count(*) FROM pg_catalog.pg_collation WHERE collnamespace IN (TABLE mine)
	UNION ALL SELECT 64, 'foreign servers', count(*) FROM pg_catalog.pg_foreign_server
	UNION ALL SELECT 65, 'default privileges', count(*) FROM pg_catalog.pg_default_acl
	UNION ALL SELECT 66, 'large objects', count(*) FROM pg_catalog.pg_largeobject_metadata
	UNION ALL SELECT 67, 'comments', count(*) FROM pg_catalog.pg_description WHERE objoid >= 16384
		AND (classoid, objoid) NOT IN (TABLE member) AND classoid <> 'pg_catalog.pg_extension'::pg_catalog.regclass
	UNION ALL SELECT 70, 'roles', count(*) FROM pg_catalog.pg_roles WHERE oid >= 16384
)
SELECT kind, number FROM kinds ORDER BY place, kind;
