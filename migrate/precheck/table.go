package precheck

import (
	"context"
	"slices"
)

// Check describes one item for people: docs/checks.md is made of these.
type Check struct {
	// ID is stable: scripts may depend on it.
	ID    string
	Title string
	// Looks says what is looked at, Fails and Warns when the item fails or warns (empty: never), Fix what changes it.
	Looks, Fails, Warns, Fix string
	// Side is where the fix is usually applied.
	Side Side
	// Types are the types of migration that the check is done for; nil means all.
	Types []Type
}

// check is one row of the table of checks. Exactly one of server, database and total is set: about the two servers,
// about each database, or about all databases after they were looked at.
type check struct {
	Check
	// needs are the IDs of items without which this one can say nothing.
	needs    []string
	when     func(*runner) bool
	server   func(*runner, context.Context, *finding) error
	database func(*database, context.Context, *finding) error
	total    func(*runner, context.Context, *finding) error
}

func (c check) applies(r *runner) bool {
	return (len(c.Types) == 0 || slices.Contains(c.Types, r.Type)) && (c.when == nil || c.when(r))
}

func (c check) run(ctx context.Context, r *runner, d *database, f *finding) error {
	switch {
	case c.server != nil:
		return c.server(r, ctx, f)
	case c.total != nil:
		return c.total(r, ctx, f)
	default:
		return c.database(d, ctx, f)
	}
}

// Checks lists every item in the order in which they are done.
func Checks() []Check {
	list := make([]Check, len(checks))
	for i, c := range checks {
		list[i] = c.Check
	}
	return list
}

var (
	following = []Type{FullIncremental}
	copying   = []Type{Full, FullIncremental}
)

var (
	needSource  = []string{"source-connection"}
	needTarget  = []string{"target-connection"}
	needBoth    = []string{"source-connection", "target-connection"}
	needCatalog = []string{"source-connection", "source-database", "selection"}
	needOpen    = []string{"source-connection", "target-connection", "source-database", "target-database"}
	needAll     = append([]string{"selection"}, needOpen...)
)

var checks = slices.Concat(serverChecks, databaseChecks, totalChecks)

var serverChecks = []check{
	{
		Check: Check{
			ID: "source-connection", Title: "Source connection", Side: Source,
			Looks: "a session on the source server",
			Fails: "the server is unreachable, TLS is refused, the login is refused, no connection is free, or (with --all-databases) there is no user database: each is told apart",
			Fix:   "the line for the layer that failed: listen_addresses, TLS, password, pg_hba.conf, connection limits",
		},
		server: (*runner).sourceConnection,
	},
	{
		Check: Check{
			ID: "target-connection", Title: "Target connection", Side: Target,
			Looks: "a session on the target server",
			Fails: "the server is unreachable, TLS is refused, the login is refused, or no connection is free: each is told apart",
			Fix:   "the line for the layer that failed: listen_addresses, TLS, password, pg_hba.conf, connection limits",
		},
		server: (*runner).targetConnection,
	},
	{
		Check: Check{
			ID: "direct-connection", Title: "No pooler between", Side: Both,
			Looks: "the process id of the session's startup against that of its backend",
			Fails: "a connection pooler answers in place of a server",
			Fix:   "the address of the server itself",
		},
		needs: needBoth, server: (*runner).directConnection,
	},
	{
		Check: Check{
			ID: "source-version", Title: "Source version", Side: Source,
			Looks: "the version of the source",
			Fails: "it is older than 9.4",
			Fix:   "another way to move a database of that age",
		},
		needs: needSource, server: (*runner).sourceVersion,
	},
	{
		Check: Check{
			ID: "source-minor", Title: "Minor release of the source", Side: Source, Types: following,
			Looks: "the minor release of the source",
			Warns: "it is known to lose or damage changes in logical decoding that a later minor release mends; each loss is named",
			Fix:   "the upgrade to the release that has all fixes",
		},
		needs: needSource, server: (*runner).sourceMinor,
	},
	{
		Check: Check{
			ID: "source-recovery", Title: "Source is a primary or a fit standby", Side: Source,
			Looks: "whether the source is in recovery",
			Fails: "changes shall be followed from a standby before version 16, or from one whose minor release exports wrong snapshots",
			Warns: "the source is a standby: conflicts with replay cancel long copies or take the slot; before the fixed minor releases a shared snapshot may be wrong",
			Fix:   "the address of the primary, or settings of the standby",
		},
		needs: needSource, server: (*runner).sourceRecovery,
	},
	{
		Check: Check{
			ID: "target-version", Title: "Target version", Side: Target,
			Looks: "the versions of both sides",
			Fails: "the target is older than 10",
			Warns: "the target is older than the source: definitions of the newer version fail there",
			Fix:   "a newer target, or a trial with --type structure",
		},
		needs: needBoth, server: (*runner).targetVersion,
	},
	{
		Check: Check{
			ID: "target-writable", Title: "Target takes writes", Side: Target,
			Looks: "whether the target is in recovery",
			Fails: "the target is a standby",
			Fix:   "the address of the primary",
		},
		needs: needTarget, server: (*runner).targetWritable,
	},
	{
		Check: Check{
			ID: "client-tools", Title: "pg_dump", Side: Both,
			Looks: "pg_dump on this machine",
			Fails: "none of at least the source's major version is found",
			Fix:   "the package that has it",
		},
		needs: needSource, server: (*runner).clientTools,
	},
	{
		Check: Check{
			ID: "connections", Title: "Free connections", Side: Both,
			Looks: "max_connections, reserved connections, sessions in use, and the connection limits of role and databases",
			Fails: "fewer than 3 connections are free on a side",
			Warns: "fewer are free than --jobs needs",
			Fix:   "a smaller --jobs or a higher limit",
		},
		needs: needBoth, server: (*runner).connections,
	},
	{
		Check: Check{
			ID: "wal-level", Title: "WAL level", Side: Source, Types: following,
			Looks: "wal_level of the source",
			Fails: "it is not logical",
			Fix:   "ALTER SYSTEM SET wal_level and a restart",
		},
		needs: needSource, server: (*runner).walLevel,
	},
	{
		Check: Check{
			ID: "replication-slots", Title: "Replication slots", Side: Source, Types: following,
			Looks: "max_replication_slots of the source and the slots in use",
			Fails: "fewer are free than the number of databases and one more, which is used while a table is copied again",
			Fix:   "a higher max_replication_slots, or idle slots to drop",
		},
		needs: needSource, server: (*runner).replicationSlots,
	},
	{
		Check: Check{
			ID: "wal-senders", Title: "Walsenders", Side: Source, Types: following,
			Looks: "max_wal_senders of the source and the senders in use",
			Fails: "fewer are free than the number of databases and one more, which holds the snapshot",
			Fix:   "a higher max_wal_senders",
		},
		needs: needSource, server: (*runner).walSenders,
	},
	{
		Check: Check{
			ID: "output-plugin", Title: "Output plugin", Side: Source, Types: following,
			Looks: "output_plugin_libraries of the source, where the release has it",
			Fails: "pgoutput (test_decoding before version 10) is not in the list",
			Fix:   "ALTER SYSTEM SET output_plugin_libraries with the plugin added",
		},
		needs: needSource, server: (*runner).outputPlugin,
	},
	{
		Check: Check{
			ID: "wal-retention", Title: "Life of the slot", Side: Source, Types: following,
			Looks: "max_slot_wal_keep_size and idle_replication_slot_timeout of the source",
			Warns: "one of them takes the slot away when the migration falls behind or stands still",
			Fix:   "the setting without bound while the migration runs",
		},
		needs: needSource, server: (*runner).walRetention,
	},
	{
		Check: Check{
			ID: "synchronous-standbys", Title: "Synchronous standbys of the source", Side: Source, Types: following,
			Looks: "synchronous_standby_names of the source",
			Warns: "it takes any session (*): commits of the application could wait for the target as if it were a standby",
			Fix:   "the names of the standbys in place of the star",
		},
		needs: needSource, server: (*runner).synchronousStandbys,
	},
	{
		Check: Check{
			ID: "target-workers", Title: "Background workers of the target", Side: Target, Types: following,
			Looks: "max_worker_processes, max_logical_replication_workers and the subscriptions of the target",
			Warns: "the target has subscriptions of its own, and max_worker_processes is not above max_logical_replication_workers; without subscriptions it does not matter, because changes are applied in ordinary sessions",
			Fix:   "a higher max_worker_processes",
		},
		needs: needTarget, server: (*runner).targetWorkers,
	},
	{
		Check: Check{
			ID: "target-replica-role", Title: "session_replication_role", Side: Target, Types: copying,
			Looks: "whether the role may set session_replication_role on the target",
			Warns: "it may not: triggers and foreign keys are created only at completion",
			Fix:   "GRANT SET ON PARAMETER from version 15, a superuser before",
		},
		needs: needTarget, server: (*runner).replicaRole,
	},
	{
		Check: Check{
			ID: "source-role-passwords", Title: "Passwords of roles", Side: Source,
			Looks: "whether pg_authid can be read, with --roles",
			Warns: "it cannot: roles arrive without passwords",
			Fix:   "SELECT on pg_authid, or new passwords on the target",
		},
		needs: needSource, when: (*runner).movesRoles, server: (*runner).sourceRoles,
	},
	{
		Check: Check{
			ID: "long-transactions", Title: "Long transactions", Side: Source, Types: copying,
			Looks: "open transactions of the source older than a minute, and prepared transactions",
			Warns: "a new slot has to wait for them; who, since when and in which state is listed",
			Fix:   "pg_terminate_backend, COMMIT PREPARED or ROLLBACK PREPARED",
		},
		needs: needSource, server: (*runner).longTransactions,
	},
}

var databaseChecks = []check{
	{
		Check: Check{
			ID: "source-database", Title: "Source database", Side: Source,
			Looks: "a session in the database of the source",
			Fails: "it does not exist, or the role has no CONNECT privilege",
			Fix:   "the right name, or GRANT CONNECT",
		},
		needs: needSource, database: (*database).openSource,
	},
	{
		Check: Check{
			ID: "target-database", Title: "Target database", Side: Target,
			Looks: "a session in the database of the target",
			Fails: "it does not exist and will not be created, the role has no CONNECT privilege, or it is a template",
			Fix:   "CREATE DATABASE, or GRANT CONNECT",
		},
		needs: needTarget, database: (*database).openTarget,
	},
	{
		Check: Check{
			ID: "distinct-databases", Title: "Two different databases", Side: Both,
			Looks: "system identifiers, start times and database OIDs of both sides",
			Fails: "source and target are the same database of the same server, or the source is a standby of the target",
			Fix:   "another target",
		},
		needs: needOpen, database: (*database).distinct,
	},
	{
		Check: Check{
			ID: "source-replication", Title: "Replication session", Side: Source, Types: following,
			Looks: "a replication session in the database of the source",
			Fails: "the role has no REPLICATION, pg_hba.conf refuses it, or no walsender is free",
			Fix:   "ALTER ROLE … REPLICATION (GRANT rds_replication where a provider has it), a line for pg_hba.conf",
		},
		needs: []string{"source-connection", "source-database", "wal-level"}, database: (*database).replicationConnection,
	},
	{
		Check: Check{
			ID: "selection", Title: "Selection", Side: Source,
			Looks: "the objects that --include and --exclude choose",
			Fails: "nothing is chosen, or data shall move and no table is among the chosen objects",
			Warns: "nothing is chosen in one of several databases",
			Fix:   "another --include",
		},
		needs: []string{"source-connection", "source-version", "source-database"}, database: (*database).load,
	},
	{
		Check: Check{
			ID: "object-dependency", Title: "Object dependency", Side: Source,
			Looks: "what the chosen objects depend on",
			Fails: "a chosen object needs one that is not chosen: a view its table, a foreign key its parent table, a trigger or default its function, a column its type",
			Fix:   "--include for the missing object",
		},
		needs: needCatalog, database: (*database).dependencies,
	},
	{
		Check: Check{
			ID: "source-privileges", Title: "Source privileges", Side: Source,
			Looks: "USAGE on schemas, SELECT on chosen tables, sequences and large objects, row security",
			Fails: "a privilege is missing, or row security hides rows from the role",
			Fix:   "one GRANT for each object; BYPASSRLS",
		},
		needs: needCatalog, database: (*database).readPrivileges,
	},
	{
		Check: Check{
			ID: "source-publication", Title: "Publishing tables", Side: Source, Types: following,
			Looks: "CREATE on the source database and ownership of the chosen tables, from version 10",
			Fails: "the role may not create a publication, or does not have the rights of a table's owner",
			Fix:   "GRANT CREATE ON DATABASE; GRANT of each owner",
		},
		needs: needCatalog, when: (*runner).publishes, database: (*database).publicationPrivileges,
	},
	{
		Check: Check{
			ID: "target-privileges", Title: "Target privileges", Side: Target,
			Looks: "CREATEDB when the database is created, else CREATE on the database and on schemas that are there",
			Fails: "a privilege is missing",
			Fix:   "the GRANT or ALTER ROLE for it",
		},
		needs: needAll, database: (*database).createPrivileges,
	},
	{
		Check: Check{
			ID: "target-owners", Title: "Owners on the target", Side: Target,
			Looks: "the owners of chosen objects, without --no-owner",
			Fails: "an owner does not exist on the target (and --roles is not given), or the role may not give objects to it",
			Warns: "an owner is a predefined role that the older target does not have",
			Fix:   "CREATE ROLE, GRANT of the owner, --roles, --no-owner",
		},
		needs: needAll, when: (*runner).keepsOwners, database: (*database).targetOwners,
	},
	{
		Check: Check{
			ID: "target-grantees", Title: "Grantees on the target", Side: Target,
			Looks: "the roles that privileges and policies of chosen objects name, without --no-privileges",
			Fails: "one does not exist on the target, and --roles is not given",
			Warns: "one is a predefined role that the older target does not have",
			Fix:   "CREATE ROLE, --roles, --no-privileges",
		},
		needs: needAll, when: (*runner).keepsPrivileges, database: (*database).targetGrantees,
	},
	{
		Check: Check{
			ID: "structure-compatibility", Title: "Structure compatibility", Side: Target,
			Looks: "encoding, locale, types, collations, access methods, tablespaces, length of names, and definitions by version",
			Fails: "the target lacks a type, collation, access method, tablespace or kind of definition that a chosen object has, or would cut a name",
			Warns: "encodings or default collations differ, a locale may be missing, or numeric columns may hold infinity for a target before 14",
			Fix:   "the missing thing created, the database created with the right encoding, or another target",
		},
		needs: needAll, database: (*database).compatibility,
	},
	{
		Check: Check{
			ID: "structure-conflict", Title: "Structure conflict", Side: Target,
			Looks: "objects of the target with the name of a chosen one",
			Fails: "a table, view, materialized view, sequence or type has the same name",
			Warns: "a function, trigger or index has the same name",
			Fix:   "DROP on the target, or --exclude",
		},
		needs: needAll, database: (*database).conflicts,
	},
	{
		Check: Check{
			ID: "target-empty", Title: "Empty target database", Side: Target,
			Looks: "relations in the target database, when the whole source database moves",
			Fails: "there are some",
			Fix:   "another name for the target database, or DROP",
		},
		needs: needAll, database: (*database).empty,
	},
	{
		Check: Check{
			ID: "event-triggers", Title: "Event triggers of the target", Side: Target,
			Looks: "enabled event triggers in the target database",
			Warns: "they would run at our DDL",
			Fix:   "ALTER EVENT TRIGGER … DISABLE until completion",
		},
		needs: needAll, database: (*database).eventTriggers,
	},
	{
		Check: Check{
			ID: "parameter-conflict", Title: "Parameter conflict", Side: Target,
			Looks: "TimeZone, lc_monetary, lc_numeric, array_nulls, server_encoding, DateStyle, extra_float_digits, gin_fuzzy_search_limit, xmlbinary, constraint_exclusion",
			Warns: "a value differs; what that does to applications is told for each",
			Fix:   "ALTER DATABASE … SET on the target; server_encoding needs a new database",
		},
		needs: needOpen, database: (*database).parameterConflict,
	},
	{
		Check: Check{
			ID: "extensions", Title: "Extensions", Side: Target,
			Looks: "extensions of the source database: available on the target, version, right to create",
			Fails: "one is not available or not creatable by the role; timescaledb or pipelinedb with full+incremental",
			Warns: "the version differs",
			Fix:   "the package, CREATE EXTENSION by a superuser, ALTER EXTENSION … UPDATE",
		},
		needs: needAll, database: (*database).extensions,
	},
	{
		Check: Check{
			ID: "other-task", Title: "Another migration", Side: Both,
			Looks: "our schema in the target database, our slots and publications on the source",
			Fails: "the target database belongs to another migration, or has a schema named slipway",
			Warns: "a slot or publication of another migration is on the source database",
			Fix:   "slipway migrate abort for the other one, or what it left dropped",
		},
		needs: needOpen, database: (*database).otherTask,
	},
	{
		Check: Check{
			ID: "unlogged-tables", Title: "Unlogged tables", Side: Source, Types: following,
			Looks: "chosen tables that are UNLOGGED",
			Fails: "there are some: their changes are not in the WAL",
			Fix:   "ALTER TABLE … SET LOGGED, or --exclude",
		},
		needs: needCatalog, database: (*database).unloggedTables,
	},
	{
		Check: Check{
			ID: "replica-identity", Title: "Replica identity", Side: Source, Types: following,
			Looks: "replica identity of the chosen tables",
			Fails: "a table has no primary key that is not deferrable, and no other identity, or REPLICA IDENTITY NOTHING",
			Fix:   "ALTER TABLE … REPLICA IDENTITY USING INDEX where a unique index on not-null columns is there, else FULL",
		},
		needs: needCatalog, database: (*database).replicaIdentity,
	},
	{
		Check: Check{
			ID: "replica-identity-full", Title: "Large tables followed by whole rows", Side: Source, Types: following,
			Looks: "indexes of tables of 64 MB and more with REPLICA IDENTITY FULL",
			Warns: "one has no index: every update and delete reads the whole table on the target",
			Fix:   "CREATE INDEX",
		},
		needs: needCatalog, database: (*database).fullIdentity,
	},
	{
		Check: Check{
			ID: "large-objects", Title: "Large objects", Side: Source, Types: following,
			Looks: "the number of large objects",
			Warns: "there are some: their changes are not followed but aligned at completion",
			Fix:   "applications that leave them alone until completion",
		},
		needs: needCatalog, database: (*database).largeObjects,
	},
	{
		Check: Check{
			ID: "reg-columns", Title: "Columns that name objects", Side: Source, Types: copying,
			Looks: "columns of type regclass, regproc and the like in chosen tables",
			Warns: "there are some: the objects they name must exist on the target",
			Fix:   "the query that shows the names",
		},
		needs: needCatalog, database: (*database).regColumns,
	},
	{
		Check: Check{
			ID: "left-behind", Title: "What does not move", Side: Source,
			Looks: "subscriptions, foreign tables, triggers for replicas",
			Warns: "the source database has subscriptions, which do not move",
			Fix:   "the subscription created on the target at completion",
		},
		needs: needCatalog, database: (*database).leftBehind,
	},
}

var totalChecks = []check{
	{
		Check: Check{
			ID: "target-create-roles", Title: "Creating roles", Side: Target,
			Looks: "CREATEROLE of the role on the target, with --roles",
			Fails: "the role may not create roles",
			Warns: "roles have attributes that only a superuser can give",
			Fix:   "ALTER ROLE … CREATEROLE or SUPERUSER",
		},
		needs: needBoth, when: (*runner).movesRoles, total: (*runner).targetRoles,
	},
	{
		Check: Check{
			ID: "account-conflict", Title: "Account conflict", Side: Target,
			Looks: "roles of the source and the target by name, with --roles",
			Fails: "a role of the same name is on the target; that of the migration itself is left as it is",
			Fix:   "the role renamed or dropped on the target, or no --roles",
		},
		needs: needBoth, when: (*runner).movesRoles, total: (*runner).accountConflict,
	},
	{
		Check: Check{
			ID: "patterns", Title: "Patterns", Side: Source,
			Looks: "--include and --exclude over all databases",
			Fails: "a pattern matches no object of any database",
			Fix:   "the query that shows the names",
		},
		needs: needSource, when: (*runner).hasPatterns, total: (*runner).patterns,
	},
	{
		Check: Check{
			ID: "target-space", Title: "Space on the target", Side: Target, Types: copying,
			Looks: "1.2 times the chosen data against the free space of the target's data directory",
			Fails: "less is free; where it cannot be seen from here the item passes and says how much is needed",
			Fix:   "a larger file system",
		},
		needs: needBoth, total: (*runner).targetSpace,
	},
}

func (r *runner) movesRoles() bool      { return r.Config.Roles }
func (r *runner) keepsOwners() bool     { return !r.NoOwner }
func (r *runner) keepsPrivileges() bool { return !r.NoPrivileges }
func (r *runner) hasPatterns() bool     { return !r.Selection.All() }

// publishes asks for the plugin only when the source is known; without it the item is skipped, whatever the answer.
func (r *runner) publishes() bool { return r.source == nil || r.plugin() == "pgoutput" }
