//! The schema's version: which migrations there are, and which the database has seen.

use sqlx::migrate::MigrateError;
use sqlx::{SqliteConnection, query, query_as};

use super::failed;
use crate::ports::StoreError;
use crate::store::Migrate;
use crate::store::versions::{self, Applied, Known};

/// Returns what ran.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let before = applied(connection).await.map_err(|error| failed("read its version", &error))?;
    versions::refuse_broken(MIGRATIONS, &before)?;
    let migrator = versions::migrator(MIGRATIONS);
    migrator.run(&mut *connection).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            failed("be migrated", &error)
        }
        error => versions::refused(&error),
    })?;
    versions::tell_newer(MIGRATIONS, &before);
    Ok(versions::names_of_new(MIGRATIONS, &before))
}

/// Refuses a schema that this program can't work with; one that is older or missing only if nobody is going to migrate
/// it.
pub(super) async fn check(
    connection: &mut SqliteConnection,
    migrate: Migrate,
) -> Result<(), StoreError> {
    let there = applied(connection).await.map_err(|error| failed("read its version", &error))?;
    match migrate {
        Migrate::Yes => versions::refuse_broken(MIGRATIONS, &there),
        Migrate::Check => versions::check(MIGRATIONS, &there),
    }
}

/// As [`check`], for somebody who is going to work with it.
pub(super) async fn check_and_tell(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    check(connection, Migrate::Check).await?;
    let there = applied(connection).await.map_err(|error| failed("read its version", &error))?;
    versions::tell_newer(MIGRATIONS, &there);
    Ok(())
}

/// The migrations that the database has seen.
async fn applied(connection: &mut SqliteConnection) -> Result<Vec<Applied>, sqlx::Error> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    if query(sql).fetch_optional(&mut *connection).await?.is_none() {
        return Ok(Vec::new());
    }
    query_as("SELECT version, description FROM _sqlx_migrations").fetch_all(connection).await
}

const MIGRATIONS: &Known = &[
    (1, "jobs", include_str!("../../../migrations/sqlite/0001_jobs.sql")),
    (2, "nodes", include_str!("../../../migrations/sqlite/0002_nodes.sql")),
    (3, "folders", include_str!("../../../migrations/sqlite/0003_folders.sql")),
    (4, "pauses", include_str!("../../../migrations/sqlite/0004_pauses.sql")),
    (5, "schedules", include_str!("../../../migrations/sqlite/0005_schedules.sql")),
    (6, "content", include_str!("../../../migrations/sqlite/0006_content.sql")),
    (7, "services", include_str!("../../../migrations/sqlite/0007_services.sql")),
    (8, "budgets", include_str!("../../../migrations/sqlite/0008_budgets.sql")),
    (9, "retention", include_str!("../../../migrations/sqlite/0009_retention.sql")),
    (10, "sent", include_str!("../../../migrations/sqlite/0010_sent.sql")),
    (11, "overview", include_str!("../../../migrations/sqlite/0011_overview.sql")),
];
