//! Which migrations there are, and whether a database that has seen some of them fits this program.
//!
//! A migration only adds, so that the version before it works on beside it: while nodes are updated one after the other,
//! and when one of them has to go back. So a database that a later program migrated is no reason to refuse it, unless
//! one of the migrations that this program doesn't know says by its name that it breaks what was before. What "only adds"
//! means is in `CONTRIBUTING.md`, and `tests/it/store/upgrades.rs` holds every migration against it.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::ports::StoreError;

/// Version, name, statements. One that was released is never changed again: its checksum is in every database.
pub(super) type Known = [(i64, &'static str, &'static str)];

/// A migration that a database has seen: version and name.
pub(super) type Applied = (i64, String);

/// What runs them.
pub(super) fn migrator(known: &Known) -> Migrator {
    let migrations = known.iter().map(|(version, name, sql)| {
        let alone = runs_alone(sql);
        let sql = sql.into_sql_str();
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql, alone)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.set_ignore_missing(true);
    migrator
}

/// Whether a migration is one statement that no transaction may be around, such as an index that is built beside writers.
pub(super) fn runs_alone(sql: &str) -> bool {
    sql.starts_with("-- no-transaction")
}

/// Those that are not among `before`.
pub(super) fn new<'k>(
    known: &'k Known,
    before: &[Applied],
) -> impl Iterator<Item = &'k (i64, &'static str, &'static str)> {
    known.iter().filter(|(version, ..)| before.iter().all(|(there, _)| there != version))
}

/// The names of those that are not among `before`.
pub(super) fn names_of_new(known: &Known, before: &[Applied]) -> Vec<String> {
    new(known, before).map(|(version, name, _)| title(*version, name)).collect()
}

/// Refuses a schema that this program can't work with.
pub(super) fn check(known: &Known, applied: &[Applied]) -> Result<(), StoreError> {
    refuse_broken(known, applied)?;
    if new(known, applied).next().is_none() {
        return Ok(());
    }
    let text = "its schema is older than this program: run `scoreline migrate`".to_owned();
    Err(StoreError::Unusable(text))
}

/// Refuses a schema that a later program made and that is no longer what this one needs.
pub(super) fn refuse_broken(known: &Known, applied: &[Applied]) -> Result<(), StoreError> {
    let Some((version, name)) = later(known, applied).find(|(_, name)| name.starts_with(BREAKING))
    else {
        return Ok(());
    };
    let known = known.last().map_or(0, |(version, ..)| *version);
    Err(StoreError::Unusable(format!(
        "its schema has {}, with which this program, which knows them up to {known:04}, can't work: run the newer program \
         that made it, or restore a copy from before the upgrade",
        title(*version, name)
    )))
}

/// Says that a later program was here, for whoever wonders which one; to be called when a store is opened.
pub(super) fn tell_newer(known: &Known, applied: &[Applied]) {
    if let Some((version, name)) = later(known, applied).max() {
        let known = known.last().map_or(0, |(version, ..)| *version);
        tracing::warn!(
            "a later version of scoreline brought the store to {}; this one knows {known:04}, and works with it as before",
            title(*version, name)
        );
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

/// Those that came after the last that this program knows.
fn later<'a>(known: &Known, applied: &'a [Applied]) -> impl Iterator<Item = &'a Applied> {
    let last = known.last().map_or(0, |(version, ..)| *version);
    applied.iter().filter(move |(version, _)| *version > last)
}

fn title(version: i64, name: &str) -> String {
    format!("{version:04} {name}")
}

/// How the name of a migration begins that programs from before it can't work with.
const BREAKING: &str = "breaking_";
