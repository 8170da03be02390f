//! The server: how it is reached, what a session on it must be like, and what its errors mean.

use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row, query};

use super::Failure;
use crate::ports::StoreError;

/// Whether a URL can be read, and if not, why: without the URL, which holds the password.
pub fn check_url(url: &SecretString) -> Result<(), String> {
    parse(url).map(drop)
}

fn parse(url: &SecretString) -> Result<PgConnectOptions, String> {
    let unreadable = |what: String| {
        format!(
            "{what}; write postgres://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for an @ in the password"
        )
    };
    let url = url.expose_secret();
    let Some((_, rest)) = url.split_once("://").filter(|(scheme, _)| SCHEMES.contains(scheme))
    else {
        return Err(unreadable("doesn't begin with postgres://".to_owned()));
    };
    let parameters = rest.split_once('?').map_or("", |(_, parameters)| parameters);
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let key = parameter.split('=').next().unwrap_or_default();
        if !PARAMETERS.contains(&key) {
            // The driver would pass over it, and log its value.
            let known = PARAMETERS.join(", ");
            return Err(unreadable(format!("has a parameter that is not one of {known}")));
        }
    }
    PgConnectOptions::from_str(url).map_err(|error| unreadable(format!("can't be read: {error}")))
}

/// What the URL says, and what a session needs in order to be right, with the time limits of what it is for.
pub(super) fn options(url: &SecretString, limits: Limits) -> Result<PgConnectOptions, StoreError> {
    let options =
        parse(url).map_err(|what| StoreError::Unusable(format!("database.url {what}")))?;
    let given = options.get_options().unwrap_or_default().to_owned();
    let name = options.get_application_name().unwrap_or("scoreline").to_owned();
    let mut options = options.application_name(&name).disable_statement_logging();
    for (key, default) in limits {
        if !given.contains(key) {
            options = options.options([(key, default)]);
        }
    }
    // The last word is ours: on what an answered commit means, on whose tables are meant, and on plans: made for
    // the arrays at hand, for one that was made when the tables were empty or the batch small would be kept and walk
    // through them row by row; and never compiled, which would take longer than to run them.
    Ok(options.options([
        ("synchronous_commit", "on"),
        ("search_path", "scoreline,pg_temp"),
        ("jit", "off"),
        ("plan_cache_mode", "force_custom_plan"),
    ]))
}

/// What the writing of transitions asks of a session besides. Its one statement, with which all rows are found by their
/// keys, takes as long to plan as to run when the batch is small: it is planned once, and so that the plan is right
/// however small the tables were then.
pub(super) const WRITING: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// Connects to a server that we can work with.
pub(super) async fn open(options: &PgConnectOptions) -> Result<PgConnection, Failure> {
    let mut connection = options.connect().await?;
    let sql =
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')";
    let row = query(sql).fetch_one(&mut connection).await?;
    let (version, encoding): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    if version < OLDEST_SERVER {
        let text = format!(
            "the server is PostgreSQL {}; scoreline needs {} or later",
            version / 10_000,
            OLDEST_SERVER / 10_000
        );
        return Err(StoreError::Unusable(text).into());
    }
    if encoding != "UTF8" {
        let text = format!(
            "the database's encoding is {encoding}; make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        );
        return Err(StoreError::Unusable(text).into());
    }
    Ok(connection)
}

pub(super) async fn close(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!("a connection was not closed in order: {}", words(&error));
    }
}

/// An error of the server's or of the way to it, sorted by whether trying again may help.
pub(super) fn failed(attempted: &'static str, error: &sqlx::Error) -> StoreError {
    let cause = words(error);
    let unusable =
        |cure: &str| StoreError::Unusable(format!("it could not {attempted}: {cause}; {cure}"));
    let unavailable =
        |cure: &str| StoreError::Unavailable { attempted, cause: format!("{cause}; {cure}") };
    // https://www.postgresql.org/docs/current/errcodes-appendix.html
    let code =
        error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
    match (&*code, error) {
        (_, sqlx::Error::Configuration(_)) => unusable("look at database.url"),
        (_, sqlx::Error::PoolTimedOut) => {
            unavailable("the server can't be reached, or database.max_connections are all at work")
        }
        ("28P01" | "28000", _) => unusable("look at the user and the password in database.url"),
        ("3D000", _) => unusable("make the database, or name another one in database.url"),
        ("42501", _) => unusable(
            "give the user CREATE on the database, or make it the owner of its schema scoreline",
        ),
        ("53100", _) => unavailable("make room on the disk of the database server"),
        ("53300", _) => {
            unavailable("lower database.max_connections or raise the server's max_connections")
        }
        ("57014" | "55P03", _) => {
            unavailable("the server took too long, or something there kept what was needed locked")
        }
        ("25006", _) => unavailable("this server only reads: name the primary in database.url"),
        ("XX001" | "XX002", _) => unusable("the database is damaged, restore a copy of it"),
        ("42P01" | "42703" | "3F000", _) => {
            unusable("its schema isn't this program's: run `scoreline migrate`")
        }
        _ => StoreError::Unavailable { attempted, cause },
    }
}

/// Whether something was not had because somebody else keeps it locked.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.as_deref() == Some("55P03")
}

/// Why the server will never take a row, if this is what it said: its data is none (class 22), or breaks a rule of the
/// schema (class 23).
pub(super) fn refusal(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    (code.starts_with("22") || code.starts_with("23")).then(|| words(error))
}

fn words(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Settings that may be set in the URL.
type Limits = [(&'static str, &'static str); 3];

/// The limits of a call. Each is less than what waits for it, so that the reason is known; the last is for a peer that is
/// stopped in the middle: others need its locks.
pub(super) const CALLS: Limits = [
    ("statement_timeout", "8s"),
    ("lock_timeout", "4s"),
    ("idle_in_transaction_session_timeout", "10s"),
];
/// The limits of what tells who lives, which is given up sooner.
pub(super) const CONTROL: Limits = [
    ("statement_timeout", "4s"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "10s"),
];
const SCHEMES: [&str; 2] = ["postgres", "postgresql"];
/// What may follow the URL's question mark; the driver's names, which are libpq's.
const PARAMETERS: [&str; 13] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];
/// The first with `gen_random_uuid` of its own.
const OLDEST_SERVER: i32 = 130_000;
