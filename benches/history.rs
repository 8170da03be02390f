//! Live work with many finished jobs in the store, beside the same work with none.

use std::path::Path;

use anyhow::ensure;
use scoreline::ports::{Clock as _, JobQuery, Node, Store};
use scoreline::store::{Migrate, SqliteStore};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::figure::{Figure, Section, per_second, since};
use crate::jobs::{Repeated, STEPS, accept, commit, commits, repeat_in_postgres, repeat_in_sqlite};
use crate::server::{Database, Server};
use crate::transitions::{connect, settle};
use crate::{CLOCK, Extent};

pub(crate) async fn section(extent: &Extent, server: &Server) -> anyhow::Result<Section> {
    let finished = extent.of(1_000_000);
    let mut figures = in_sqlite(extent, finished).await?;
    figures.extend(in_postgres(extent, server, finished).await?);
    let title = format!("Live work with {finished} finished jobs");
    let conditions = vec![
        "with their 7 events each, and their arrivals; 100 jobs a call; a page is the first 50 of the list".to_owned(),
    ];
    Ok(Section { title, conditions, figures, spreads: Vec::new(), counts: Vec::new() })
}

async fn in_sqlite(extent: &Extent, finished: usize) -> anyhow::Result<Vec<Figure>> {
    let (empty, full) = (tempfile::tempdir()?, tempfile::tempdir()?);
    // One job more, with which everything begins: on both sides.
    for folder in [&empty, &full] {
        let store = SqliteStore::open(folder.path(), Migrate::Yes, CLOCK).await?;
        begin(&store).await?;
        store.close().await;
    }
    fill_sqlite(full.path(), finished).await?;
    let empty = SqliteStore::open(empty.path(), Migrate::Yes, CLOCK).await?;
    let full = SqliteStore::open(full.path(), Migrate::Yes, CLOCK).await?;
    compare("SQLite", extent, &full, &empty).await
}

async fn in_postgres(
    extent: &Extent,
    server: &Server,
    finished: usize,
) -> anyhow::Result<Vec<Figure>> {
    let (empty, full) = (Database::on(server), Database::on(server));
    for database in [&empty, &full] {
        let store = connect(database).await?;
        begin(&store).await?;
        store.close().await;
    }
    let mut connection = full.connection().await;
    // Of lengths that differ, as they do in life. If all rows were alike, so would be what they leave of each page: room
    // for one event of an acceptance, which each would then look for on another old page. SQLite appends by key.
    let path = ("path", "convert_to('n/' || lpad(n::text, 9, '0') || repeat('x', n % 61), 'UTF8')");
    let detail = ("detail", "concat(t.detail, repeat('x', n % 61))");
    for (repeated, id, padded) in
        [("arrival", "job_id", path), ("job_history", "id", path), ("job_event", "job_id", detail)]
    {
        let id = (id, "('01800000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid");
        repeat_in_postgres(&mut connection, (repeated, &[id, padded]), finished).await?;
    }
    connection.close().await?;
    for database in [&empty, &full] {
        settle(database).await;
    }
    let (empty, full) = (connect(&empty).await?, connect(&full).await?);
    let figures = compare("PostgreSQL", extent, &full, &empty).await?;
    empty.close().await;
    full.close().await;
    Ok(figures)
}

async fn begin(store: &impl Store) -> anyhow::Result<()> {
    let node = store.register("bench", "site", scoreline::engine::lease::TERM).await?;
    let (jobs, _) = accept(store, &node, "first", 1).await?;
    commit(store, &node, &commits(&jobs, 1)?).await?;
    Ok(())
}

async fn fill_sqlite(folder: &Path, finished: usize) -> anyhow::Result<()> {
    let file = folder.join("scoreline.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await?;
    // Nothing is lost if this breaks off.
    sqlx::raw_sql("PRAGMA synchronous = OFF").execute(&mut connection).await?;
    let id = "printf('01800000-0000-7000-8000-%012x', n)";
    let path = ("path", "CAST(printf('n/%09d', n) AS BLOB)");
    let tables: [Repeated<'_>; 3] = [
        ("arrival", &[("job_id", id), path]),
        ("job_history", &[("id", id), path]),
        ("job_event", &[("job_id", id)]),
    ];
    for repeated in tables {
        repeat_in_sqlite(&mut connection, repeated, finished).await?;
    }
    sqlx::raw_sql(AssertSqlSafe("PRAGMA wal_checkpoint(TRUNCATE)"))
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    std::fs::File::open(file)?.sync_all()?;
    Ok(())
}

async fn compare(
    name: &str,
    extent: &Extent,
    full: &impl Store,
    empty: &impl Store,
) -> anyhow::Result<Vec<Figure>> {
    let figure = |what| Figure::new(format!("{name}: {what}"), "with none").at_least(0.9);
    let mut figures = [figure("jobs accepted"), figure("transitions"), figure("pages of the list")];
    let full_node = full.register("bench", "site", scoreline::engine::lease::TERM).await?;
    let empty_node = empty.register("bench", "site", scoreline::engine::lease::TERM).await?;
    // What is touched for the first time since it was made is no part of any turn.
    rates(extent, full, &full_node, "before").await?;
    rates(extent, empty, &empty_node, "before").await?;
    for turn in 0..extent.turns {
        let (with, without);
        if turn % 2 == 0 {
            with = rates(extent, full, &full_node, &turn.to_string()).await?;
            without = rates(extent, empty, &empty_node, &turn.to_string()).await?;
        } else {
            without = rates(extent, empty, &empty_node, &turn.to_string()).await?;
            with = rates(extent, full, &full_node, &turn.to_string()).await?;
        }
        for ((figure, with), without) in figures.iter_mut().zip(with).zip(without) {
            figure.add(with, without);
        }
    }
    Ok(figures.into())
}

/// Accepts, drives, lists: per second.
async fn rates(
    extent: &Extent,
    store: &impl Store,
    node: &Node,
    turn: &str,
) -> anyhow::Result<[f64; 3]> {
    let (count, pages) = (extent.of(6000), extent.of(500));
    let (jobs, accepted) = accept(store, node, turn, count).await?;
    let driven = commit(store, node, &commits(&jobs, 100)?).await?;
    let began = CLOCK.boot();
    for _ in 0..pages {
        let page = store.list(&JobQuery { limit: 50, ..Default::default() }).await?;
        ensure!(page.jobs.len() == 50 && page.next.is_some(), "a page is not full");
    }
    let listed = since(began);
    Ok([per_second(count, accepted), per_second(count * STEPS, driven), per_second(pages, listed)])
}
