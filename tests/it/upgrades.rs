//! What keeps one version working beside another: a migration only adds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use scoreline::job::Phase;
use secrecy::ExposeSecret as _;
use sqlx::migrate::{MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, SqlSafeStr as _,
    SqliteConnection, query_as, raw_sql,
};

use crate::audit::{audited, found};
use crate::hashing::input_of;
use crate::postgres::Database;
use crate::rig::{Rig, Running};

/// A file of `migrations/`.
pub(crate) struct Migration {
    version: i64,
    name: String,
    sql: String,
}

impl Migration {
    /// As people are told that it ran.
    pub(crate) fn title(&self) -> String {
        format!("{:04} {}", self.version, self.name)
    }
}

/// Those for one kind of database, the first ones first.
pub(crate) fn migrations(dialect: &str) -> Vec<Migration> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(dialect);
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let (version, name) = stem.split_once('_').unwrap();
        let sql = std::fs::read_to_string(&path).unwrap();
        Migration { version: version.parse().unwrap(), name: name.to_owned(), sql }
    };
    let mut migrations: Vec<_> = std::fs::read_dir(folder).unwrap().map(read).collect();
    migrations.sort_by_key(|migration| migration.version);
    migrations
}

/// Makes a schema as a program had it that knew so many of them.
pub(crate) fn migrator(dialect: &str, count: usize) -> Migrator {
    let migrations =
        migrations(dialect).into_iter().take(count).map(|Migration { version, name, sql }| {
            let sql = AssertSqlSafe(sql).into_sql_str();
            sqlx::migrate::Migration::new(version, name.into(), MigrationType::Simple, sql, false)
        });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.set_locking(false);
    migrator
}

/// Fills a database of an earlier version from one of this: with all that it has room for.
pub(crate) async fn sqlite_as_of(version: usize, filled: &Path, earlier: &Path) {
    let mut database = sqlite(earlier).await;
    migrator("sqlite", version).run(&mut database).await.unwrap();
    let path = filled.join("scoreline.db").display().to_string();
    sqlx::query("ATTACH ?1 AS filled").bind(path).execute(&mut database).await.unwrap();
    for (table, columns) in by_table(sqlite_columns(&mut database).await) {
        let sql = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM filled.{table}");
        raw_sql(AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
    }
    database.close().await.unwrap();
}

/// Takes a database back to an earlier version: what that one has no room for is gone.
pub(crate) async fn postgres_as_of(version: usize, database: &Database) {
    database.by_hand("ALTER SCHEMA scoreline RENAME TO filled; CREATE SCHEMA scoreline").await;
    let mut connection = database.connection().await;
    migrator("postgres", version).run_direct(None, &mut connection, false).await.unwrap();
    let mut sql = String::from("SET session_replication_role = replica; DELETE FROM store; ");
    for (table, columns) in by_table(postgres_columns(&mut connection).await) {
        let _ = write!(
            sql,
            "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM filled.{table}; "
        );
    }
    sql += "SELECT setval('node_id_seq', (SELECT last_value FROM filled.node_id_seq)); DROP SCHEMA filled CASCADE";
    raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

pub(crate) async fn sqlite(dir: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(dir.join("scoreline.db"));
    options.create_if_missing(true).foreign_keys(false).connect().await.unwrap()
}

/// Table and column names.
pub(crate) async fn sqlite_columns(database: &mut SqliteConnection) -> Vec<(String, String)> {
    let sql = "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c \
               WHERE t.type = 'table' AND t.name NOT LIKE '%sql%'";
    query_as(sql).fetch_all(database).await.unwrap()
}

/// Table and column names.
pub(crate) async fn postgres_columns(database: &mut PgConnection) -> Vec<(String, String)> {
    let sql = "SELECT table_name::text, column_name::text FROM information_schema.columns \
               WHERE table_schema = 'scoreline' AND table_name NOT LIKE '%sql%'";
    query_as(sql).fetch_all(database).await.unwrap()
}

/// The columns of each table, with commas between.
fn by_table(columns: Vec<(String, String)>) -> BTreeMap<String, String> {
    let mut tables = BTreeMap::<String, String>::new();
    for (table, column) in columns {
        let columns = tables.entry(table).or_default();
        let comma = if columns.is_empty() { "" } else { ", " };
        let _ = write!(columns, "{comma}\"{column}\"");
    }
    tables
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_goes_on_with_what_an_earlier_version_left_in_sqlite() {
    for version in 1..migrations("sqlite").len() {
        let rig = Rig::new().await.endpoint("max_in_flight = 1");
        leave_work(&rig).await;
        let newer = rig.path("newer");
        std::fs::rename(rig.path("state"), &newer).unwrap();
        std::fs::create_dir(rig.path("state")).unwrap();
        sqlite_as_of(version, &newer, &rig.path("state")).await;
        finish_work(&rig, version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_goes_on_with_what_an_earlier_version_left_in_postgres() {
    for version in 1..migrations("postgres").len() {
        let database = Database::fresh();
        let rig = Rig::new().await.endpoint("max_in_flight = 1");
        let rig = rig.database(&format!("url = {:?}", database.url().expose_secret()));
        leave_work(&rig).await;
        postgres_as_of(version, &database).await;
        finish_work(&rig, version).await;
    }
}

/// Jobs that are done, that failed, that run and that wait.
async fn leave_work(rig: &Rig) {
    let daemon = rig.start().await;
    rig.drop_file("done.csv", &input_of(&["good"]));
    rig.drop_file("bad.csv", &input_of(&["POISON"]));
    daemon.until_ended(2).await;
    rig.sandbox.update(|settings| settings.slots = 0);
    rig.drop_file("runs.csv", &input_of(&["it runs"]));
    is_at(&daemon, Phase::Running).await;
    rig.drop_file("waits.csv", &input_of(&["it waits"]));
    is_at(&daemon, Phase::Uploaded).await;
    daemon.stop().await;
}

async fn finish_work(rig: &Rig, version: usize) {
    rig.sandbox.update(|settings| settings.slots = 40);
    let daemon = rig.start().await;
    rig.drop_file("new.csv", &input_of(&["after the upgrade"]));
    let jobs = daemon.until_ended(5).await;
    let good = jobs.iter().filter(|job| job.phase == Phase::Succeeded).count();
    assert_eq!(good, 4, "version {version}: {jobs:#?}");
    rig.started_once_each(5);
    daemon.stop().await;
    let told = found(&audited(rig).await, rig);
    assert!(told.is_empty(), "version {version}: {told:?}");
}

async fn is_at(daemon: &Running, phase: Phase) {
    let there = |jobs: &[scoreline::http::JobBody]| jobs.iter().any(|job| job.phase == phase);
    daemon.until("a job is there", there).await;
}

/// The last one that no release before it has to work beside: until there is a release, there is none such.
const FIRST_RELEASE: i64 = 11;

#[test]
fn both_databases_have_the_same_migrations_without_a_gap() {
    let titles = |dialect| migrations(dialect).iter().map(Migration::title).collect::<Vec<_>>();
    assert_eq!(titles("sqlite"), titles("postgres"));
    let versions: Vec<_> = migrations("sqlite").iter().map(|m| m.version).collect();
    assert!(
        versions.iter().copied().eq(1..=i64::try_from(versions.len()).unwrap()),
        "{versions:?}"
    );
}

#[test]
fn a_migration_only_adds() {
    let mut wrong = Vec::new();
    for dialect in ["sqlite", "postgres"] {
        for migration in migrations(dialect) {
            // What says that it breaks may; programs from before it refuse the store.
            if migration.version == 1 || migration.name.starts_with("breaking_") {
                continue;
            }
            let released = migration.version > FIRST_RELEASE;
            for complaint in complaints(&migration.sql, dialect == "postgres" && released) {
                wrong.push(format!("{dialect} {}: {complaint}", migration.title()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\nCONTRIBUTING.md says what a migration may do", wrong.join("\n"));
}

#[tokio::test]
async fn a_new_column_has_a_name_of_its_own_and_jobs_have_it_in_both_tables() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = Vec::new();
    for migration in migrations("sqlite") {
        let count = usize::try_from(migration.version).unwrap();
        let mut database = sqlite(dir.path()).await;
        migrator("sqlite", count).run(&mut database).await.unwrap();
        let after = sqlite_columns(&mut database).await;
        let of = |wanted: &str| -> Vec<_> {
            after.iter().filter(|(table, _)| table == wanted).map(|(_, column)| column).collect()
        };
        assert_eq!(of("job"), of("job_history"), "{}", migration.title());
        // Where a statement of the version before joins the table, it could be meant by a name that is another's.
        for (table, column) in after.iter().filter(|new| !before.contains(*new)) {
            let is_old = before.iter().any(|(t, _)| t == table);
            let is_taken = before.iter().any(|(_, known)| known == column);
            let released = migration.version > FIRST_RELEASE;
            assert!(!(released && is_old && is_taken), "{}: {table}.{column}", migration.title());
        }
        before = after;
    }
}

#[test]
fn what_would_break_the_version_before_is_found() {
    for sql in [
        "DROP TABLE job",
        "DROP INDEX job_owner",
        "ALTER TABLE job DROP COLUMN want",
        "ALTER TABLE job RENAME COLUMN want TO wish",
        "ALTER TABLE job RENAME TO task",
        "ALTER TABLE job ALTER COLUMN want SET NOT NULL",
        "ALTER TABLE job ALTER COLUMN want TYPE json USING want::json",
        "ALTER TABLE job ADD CONSTRAINT x CHECK (attempts < 9)",
        "ALTER TABLE job ADD COLUMN x text NOT NULL",
        "ALTER TABLE job ADD COLUMN x text UNIQUE",
        "ALTER TABLE job ADD COLUMN x uuid NOT NULL DEFAULT gen_random_uuid()",
        "ALTER TABLE job ADD COLUMN x timestamptz DEFAULT now()",
        "ALTER TABLE job ADD COLUMN x bigint REFERENCES node (id)",
        "ALTER TABLE job ADD COLUMN x bigint GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE job ADD COLUMN x text, DROP COLUMN want",
        "ALTER TABLE job ADD COLUMN x text CHECK (x IS NOT NULL)",
        "ALTER TABLE job ADD COLUMN x text CHECK (want IS NULL)",
        "CREATE UNIQUE INDEX x ON job (path)",
        "CREATE INDEX x ON job_history (finished_at)",
        "UPDATE job SET want = NULL",
        "DELETE FROM arrival",
        "INSERT INTO content SELECT * FROM job",
        "TRUNCATE job_event",
        "CREATE TRIGGER x BEFORE INSERT ON job EXECUTE FUNCTION y()",
        "ALTER TABLE job ALTER COLUMN want SET DEFAULT 'cancel'",
        "CREATE TABLE job_new (LIKE job); DROP TABLE job",
        "CREATE TABLE x (job_id uuid REFERENCES job (id))",
        "-- no-transaction\nCREATE INDEX CONCURRENTLY x ON job (path); SELECT 1",
    ] {
        assert_ne!(complaints(sql, true), Vec::<String>::new(), "{sql}");
    }
    for sql in [
        "CREATE TABLE x (a text NOT NULL); CREATE UNIQUE INDEX y ON x (a); INSERT INTO x VALUES ('a;b')",
        "ALTER TABLE job ADD COLUMN x text; -- DROP TABLE job;\nCOMMENT ON COLUMN job.x IS 'it; DROP TABLE'",
        "ALTER TABLE job ADD COLUMN x bigint NOT NULL DEFAULT -5 CHECK (x < 0)",
        "ALTER TABLE job ADD COLUMN x text DEFAULT 'a'",
        "ALTER TABLE job ADD COLUMN x bigint; ALTER TABLE job ALTER COLUMN x SET DEFAULT (random()::bigint)",
        "CREATE TABLE x (job_id uuid REFERENCES job (id) ON DELETE CASCADE)",
        "-- no-transaction\n-- why\nCREATE INDEX CONCURRENTLY x ON job_history (finished_at)",
    ] {
        assert_eq!(complaints(sql, true), Vec::<String>::new(), "{sql}");
    }
    assert_eq!(complaints("CREATE INDEX x ON job (path)", false), Vec::<String>::new());
}

/// What in a migration goes beyond adding. With `beside_writers` an index must be built so that writers go on.
fn complaints(sql: &str, beside_writers: bool) -> Vec<String> {
    let statements = statements(sql);
    let alone = sql.starts_with("-- no-transaction");
    let mut made = Vec::new();
    let mut new = Vec::new();
    let mut wrong = Vec::new();
    for statement in &statements {
        let words: Vec<_> = statement.split([' ', '(']).filter(|word| !word.is_empty()).collect();
        let said = match &words[..] {
            ["create", "table", name, ..] => {
                made.push(*name);
                let parents = statement.matches("references").count();
                let going = statement.matches("on delete cascade").count();
                // What a row refers to can't be deleted by who doesn't know of that row.
                (parents > going).then_some("refers to rows without ON DELETE CASCADE")
            }
            ["create", "sequence", ..]
            | ["alter", "sequence", _, "owned", "by", ..]
            | ["comment", "on", ..]
            | ["alter", "table", _, "set", "autovacuum_vacuum_scale_factor", ..] => None,
            ["insert", "into", table, ..] if made.contains(table) => None,
            ["create", "unique", "index", _, "on", table, ..]
            | ["create", "index", _, "on", table, ..]
                if made.contains(table) =>
            {
                None
            }
            ["create", "index", "concurrently", _, "on", ..] if alone && statements.len() == 1 => {
                None
            }
            ["create", "index", _, "on", ..] if !beside_writers => None,
            ["create", "index", ..] => Some(
                "builds an index that keeps writers waiting: make it the only statement of a file that begins with \
                 `-- no-transaction`, CONCURRENTLY",
            ),
            ["alter", "table", table, "add", "column", column, _, rest @ ..] => {
                new.push((*table, *column));
                added(column, rest, statement)
            }
            // What a column that is new has from now on: no row is rewritten for it.
            ["alter", "table", table, "alter", "column", column, "set", "default", ..]
                if new.contains(&(*table, *column)) =>
            {
                None
            }
            _ => Some("does more than add"),
        };
        wrong.extend(said.map(|said| format!("{statement:?} {said}")));
    }
    wrong
}

/// What is wrong with a new column: the version before it knows nothing of it when it writes a row.
fn added(column: &str, rest: &[&str], statement: &str) -> Option<&'static str> {
    let has = |word: &str| rest.contains(&word);
    let default = rest.iter().position(|word| *word == "default").map(|n| rest[n + 1]);
    let is_literal = |text: &str| {
        text.starts_with('\'')
            || text.parse::<i64>().is_ok()
            || ["true", "false", "null"].contains(&text)
    };
    let check = statement.split_once("check").map(|(_, check)| check.trim());
    let of_itself = |check: &str| {
        let names = check.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let mut names = names.filter(|name| name.chars().any(char::is_alphabetic));
        names.all(|name| name == column || ["in", "and", "or"].contains(&name))
    };
    if statement.split('(').next().is_some_and(|head| head.contains(',')) {
        Some("does more than add a column")
    } else if ["unique", "references", "primary", "generated", "collate"]
        .iter()
        .any(|word| has(word))
    {
        Some("adds more than a column")
    } else if default.is_some_and(|default| !is_literal(default)) {
        Some("has a default that every row would be written anew for")
    } else if rest.windows(2).any(|pair| pair == ["not", "null"]) && default.is_none() {
        Some("must have a value, and the version before gives it none")
    } else if check.is_some_and(|check| !of_itself(check)) {
        Some("has a check that the version before may fail")
    } else {
        None
    }
}

/// The statements in lower case, without comments, with one space between words. What is quoted stays one word.
fn statements(sql: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let (mut quoted, mut comment, mut space) = (false, false, false);
    let mut characters = sql.chars().peekable();
    while let Some(character) = characters.next() {
        let last = statements.last_mut().unwrap();
        match character {
            '\n' if comment => (comment, space) = (false, true),
            _ if comment => {}
            '-' if !quoted && characters.peek() == Some(&'-') => comment = true,
            ';' if !quoted => statements.push(String::new()),
            ' ' | '\n' if !quoted => space = true,
            ' ' | '\n' => last.push('_'),
            character => {
                quoted ^= character == '\'';
                if std::mem::take(&mut space) && !last.is_empty() {
                    last.push(' ');
                }
                last.extend(character.to_lowercase());
            }
        }
    }
    statements.retain(|statement| !statement.is_empty());
    statements
}
