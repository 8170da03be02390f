//! Which migrations there are, and whether a database that has seen some of them fits this program.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::ports::StoreError;

/// Version, name, statements. One that was released is never changed again: its checksum is in every database.
pub(super) type Known = [(i64, &'static str, &'static str)];

/// What runs them.
pub(super) fn migrator(known: &Known) -> Migrator {
    let migrations = known.iter().map(|(version, name, sql)| {
        let sql = sql.into_sql_str();
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// The names of those that are not among `before`.
pub(super) fn names_of_new(known: &Known, before: &[i64]) -> Vec<String> {
    let new = known.iter().filter(|(version, ..)| !before.contains(version));
    new.map(|(version, name, _)| format!("{version:04} {name}")).collect()
}

/// Refuses a schema that isn't this program's.
pub(super) fn check(known: &Known, applied: &[i64]) -> Result<(), StoreError> {
    refuse_newer(known, applied)?;
    if known.iter().all(|(version, ..)| applied.contains(version)) {
        return Ok(());
    }
    let text = "its schema is older than this program: run `scoreline migrate`".to_owned();
    Err(StoreError::Unusable(text))
}

/// Refuses a schema that a later program made.
pub(super) fn refuse_newer(known: &Known, applied: &[i64]) -> Result<(), StoreError> {
    let known = known.iter().map(|(version, ..)| *version).max().unwrap_or_default();
    match applied.iter().max() {
        Some(there) if *there > known => Err(StoreError::Unusable(format!(
            "its schema is version {there} and this program knows them up to {known}: run the newer program that \
             made it, or restore a copy from before the upgrade"
        ))),
        _ => Ok(()),
    }
}

/// Why a migration did not run, if it isn't the database's own error.
pub(super) fn refused(error: &sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError::VersionMismatch;
    StoreError::Unusable(match error {
        VersionMismatch(version) => format!(
            "its schema was made by another program: migration {version} is not the one known here"
        ),
        error => format!("its schema can't be migrated: {error}"),
    })
}
