//! The schema's version: which migrations there are, which the database has seen, and whether the two fit.

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{SqlSafeStr, SqliteConnection, query, query_scalar};

use super::failed;
use crate::ports::StoreError;

/// Returns what ran.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let migrator = migrator();
    let before = applied(connection).await.map_err(|error| failed("read its version", &error))?;
    refuse_newer(&migrator, &before)?;
    migrator.run(&mut *connection).await.map_err(|error| match error {
        MigrateError::VersionMismatch(version) => StoreError::Unusable(format!(
            "its schema was made by another program: migration {version} is not the one known here"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            failed("be migrated", &error)
        }
        error => StoreError::Unusable(format!("its schema can't be migrated: {error}")),
    })?;
    let new = migrator.iter().filter(|migration| !before.contains(&migration.version));
    Ok(new.map(|migration| format!("{:04} {}", migration.version, migration.description)).collect())
}

/// Refuses a schema that isn't this program's.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let migrator = migrator();
    let there = applied(connection).await.map_err(|error| failed("read its version", &error))?;
    refuse_newer(&migrator, &there)?;
    if migrator.iter().all(|migration| there.contains(&migration.version)) {
        return Ok(());
    }
    let text = "its schema is older than this program: run `scoreline migrate`".to_owned();
    Err(StoreError::Unusable(text))
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        let sql = sql.into_sql_str();
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}

fn refuse_newer(migrator: &Migrator, applied: &[i64]) -> Result<(), StoreError> {
    let known = migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
    match applied.iter().max() {
        Some(there) if *there > known => Err(StoreError::Unusable(format!(
            "its schema is version {there} and this program knows them up to {known}: run the newer program that \
             made it, or restore a copy from before the upgrade"
        ))),
        _ => Ok(()),
    }
}

/// The versions of the migrations that the database has seen.
async fn applied(connection: &mut SqliteConnection) -> Result<Vec<i64>, sqlx::Error> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    if query(sql).fetch_optional(&mut *connection).await?.is_none() {
        return Ok(Vec::new());
    }
    query_scalar("SELECT version FROM _sqlx_migrations").fetch_all(connection).await
}

/// Version, name, statements. One that was released is never changed again: its checksum is in every database.
const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "jobs", include_str!("../../../migrations/sqlite/0001_jobs.sql"))];
