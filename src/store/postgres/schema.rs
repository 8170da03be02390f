//! The schema's version: which migrations there are, and which the database has seen.
//!
//! Nodes that start together migrate one after the other, under a lock of the server's; all but the first then find
//! nothing to do.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnection;
use sqlx::{query, query_as, query_scalar};

use super::server::{failed, is_locked};
use crate::ports::{Clock, StoreError};
use crate::store::Migrate;
use crate::store::versions::{self, Applied, Known};

/// Returns what ran.
pub(super) async fn migrate<C: Clock>(
    connection: &mut PgConnection,
    clock: &C,
) -> Result<Vec<String>, StoreError> {
    if check_and_tell(connection).await.is_ok() {
        return Ok(Vec::new());
    }
    let lost = |error: sqlx::Error| failed("be migrated", &error);
    // Held until it is given back or the connection ends. Nothing else in the database uses this number.
    query("SELECT pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(&mut *connection)
        .await
        .map_err(lost)?;
    let ran = migrate_alone(connection, clock).await;
    query("SELECT pg_advisory_unlock($1)")
        .bind(LOCK)
        .execute(&mut *connection)
        .await
        .map_err(lost)?;
    ran
}

async fn migrate_alone<C: Clock>(
    connection: &mut PgConnection,
    clock: &C,
) -> Result<Vec<String>, StoreError> {
    let before = applied(connection).await?;
    versions::refuse_broken(MIGRATIONS, &before)?;
    // Asked first: `IF NOT EXISTS` wants the right to make schemas even where somebody made this one for us.
    let sql = "SELECT 1 FROM pg_namespace WHERE nspname = 'scoreline'";
    let lost = |error: sqlx::Error| failed("be migrated", &error);
    if query(sql).fetch_optional(&mut *connection).await.map_err(lost)?.is_none() {
        query("CREATE SCHEMA scoreline").execute(&mut *connection).await.map_err(lost)?;
    }
    let mut migrator = versions::migrator(MIGRATIONS);
    migrator.set_locking(false);
    for (version, name, sql) in versions::new(MIGRATIONS, &before) {
        // Whoever waits for a table keeps everybody waiting who comes after: behind a backup that reads it for an hour
        // the nodes that work would stand still. So it gives way, and comes again. What runs by itself waits for
        // transactions, and keeps nobody.
        let limit = if versions::runs_alone(sql) { "0" } else { LOCK_LIMIT };
        let sql = "SELECT set_config('lock_timeout', $1, false)";
        query(sql).bind(limit).execute(&mut *connection).await.map_err(lost)?;
        // What `run` does with its connection; `run` itself makes a future that can't move between threads.
        while let Err(error) = migrator.run_direct(Some(*version), &mut *connection, false).await {
            match error {
                MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
                    if is_locked(&error) =>
                {
                    tracing::warn!(
                        "migration {version:04} {name} waits for a table that somebody reads or writes for long, such as a backup"
                    );
                    clock.sleep(LOCKED_RETRY).await;
                }
                MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                    return Err(lost(error));
                }
                error => return Err(versions::refused(&error)),
            }
        }
    }
    Ok(versions::names_of_new(MIGRATIONS, &before))
}

/// Refuses a schema that this program can't work with; one that is older or missing only if nobody is going to migrate
/// it.
pub(super) async fn check(
    connection: &mut PgConnection,
    migrate: Migrate,
) -> Result<(), StoreError> {
    let there = applied(connection).await?;
    match migrate {
        Migrate::Yes => versions::refuse_broken(MIGRATIONS, &there),
        Migrate::Check => versions::check(MIGRATIONS, &there),
    }
}

/// As [`check`], for somebody who is going to work with it.
pub(super) async fn check_and_tell(connection: &mut PgConnection) -> Result<(), StoreError> {
    let there = applied(connection).await?;
    versions::check(MIGRATIONS, &there)?;
    versions::tell_newer(MIGRATIONS, &there);
    Ok(())
}

/// The migrations that the database has seen.
async fn applied(connection: &mut PgConnection) -> Result<Vec<Applied>, StoreError> {
    let read = async {
        let sql = "SELECT to_regclass('scoreline._sqlx_migrations') IS NOT NULL";
        if !query_scalar::<_, bool>(sql).fetch_one(&mut *connection).await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT version, description FROM scoreline._sqlx_migrations";
        query_as(sql).fetch_all(connection).await
    };
    read.await.map_err(|error| failed("read its version", &error))
}

/// How long a migration waits for a lock at once, and until it tries again.
const LOCK_LIMIT: &str = "2s";
const LOCKED_RETRY: Duration = Duration::from_secs(3);

/// "scorelin" in ASCII.
const LOCK: i64 = 0x7363_6f72_656c_696e;

const MIGRATIONS: &Known = &[
    (1, "jobs", include_str!("../../../migrations/postgres/0001_jobs.sql")),
    (2, "nodes", include_str!("../../../migrations/postgres/0002_nodes.sql")),
    (3, "folders", include_str!("../../../migrations/postgres/0003_folders.sql")),
    (4, "pauses", include_str!("../../../migrations/postgres/0004_pauses.sql")),
    (5, "schedules", include_str!("../../../migrations/postgres/0005_schedules.sql")),
    (6, "content", include_str!("../../../migrations/postgres/0006_content.sql")),
    (7, "services", include_str!("../../../migrations/postgres/0007_services.sql")),
    (8, "budgets", include_str!("../../../migrations/postgres/0008_budgets.sql")),
    (9, "retention", include_str!("../../../migrations/postgres/0009_retention.sql")),
    (10, "sent", include_str!("../../../migrations/postgres/0010_sent.sql")),
    (11, "overview", include_str!("../../../migrations/postgres/0011_overview.sql")),
];
