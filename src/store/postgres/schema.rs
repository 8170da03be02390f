//! The schema's version: which migrations there are, and which the database has seen.
//!
//! Nodes that start together migrate one after the other, under a lock of the server's; all but the first then find
//! nothing to do.

use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnection;
use sqlx::{query, query_scalar};

use super::server::failed;
use crate::ports::StoreError;
use crate::store::Migrate;
use crate::store::versions::{self, Known};

/// Returns what ran.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    if check(connection, Migrate::Check).await.is_ok() {
        return Ok(Vec::new());
    }
    let lost = |error: sqlx::Error| failed("be migrated", &error);
    // Held until it is given back or the connection ends. Nothing else in the database uses this number.
    query("SELECT pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(&mut *connection)
        .await
        .map_err(lost)?;
    let ran = migrate_alone(connection).await;
    query("SELECT pg_advisory_unlock($1)")
        .bind(LOCK)
        .execute(&mut *connection)
        .await
        .map_err(lost)?;
    ran
}

async fn migrate_alone(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let before = applied(connection).await?;
    versions::refuse_newer(MIGRATIONS, &before)?;
    // Asked first: `IF NOT EXISTS` wants the right to make schemas even where somebody made this one for us.
    let sql = "SELECT 1 FROM pg_namespace WHERE nspname = 'scoreline'";
    let lost = |error: sqlx::Error| failed("be migrated", &error);
    if query(sql).fetch_optional(&mut *connection).await.map_err(lost)?.is_none() {
        query("CREATE SCHEMA scoreline").execute(&mut *connection).await.map_err(lost)?;
    }
    let mut migrator = versions::migrator(MIGRATIONS);
    migrator.set_locking(false);
    // What `run` does with its connection; `run` itself makes a future that can't move between threads.
    migrator.run_direct(None, &mut *connection, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => lost(error),
        error => versions::refused(&error),
    })?;
    Ok(versions::names_of_new(MIGRATIONS, &before))
}

/// Refuses a schema that isn't this program's; one that is older or missing only if nobody is going to migrate it.
pub(super) async fn check(
    connection: &mut PgConnection,
    migrate: Migrate,
) -> Result<(), StoreError> {
    let there = applied(connection).await?;
    match migrate {
        Migrate::Yes => versions::refuse_newer(MIGRATIONS, &there),
        Migrate::Check => versions::check(MIGRATIONS, &there),
    }
}

/// The versions of the migrations that the database has seen.
async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>, StoreError> {
    let read = async {
        let sql = "SELECT to_regclass('scoreline._sqlx_migrations') IS NOT NULL";
        if !query_scalar::<_, bool>(sql).fetch_one(&mut *connection).await? {
            return Ok(Vec::new());
        }
        query_scalar("SELECT version FROM scoreline._sqlx_migrations").fetch_all(connection).await
    };
    read.await.map_err(|error| failed("read its version", &error))
}

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
];
