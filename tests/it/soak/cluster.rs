//! The database server under the soak: one that is restarted, or a cluster that fails over.

use std::path::Path;
use std::time::Duration;

use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::watch;

use super::patroni::Patroni;
use super::proxy::Upstream;
use crate::postgres::{Database, Server, Shutdown};

/// A server, or a cluster of three.
pub(crate) enum Cluster {
    /// The database goes before its server does.
    Single {
        database: Database,
        server: Server,
        place: watch::Sender<Upstream>,
    },
    Patroni(Patroni),
}

/// The way to the database that leads past the wires that break. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) place: watch::Receiver<Upstream>,
    database: String,
}

impl Cluster {
    pub(crate) fn single() -> Self {
        let server = Server::start();
        let database = Database::on(&server);
        let place = watch::Sender::new(Upstream::Socket(server.socket()));
        Self::Single { database, server, place }
    }

    pub(crate) fn access(&self) -> Access {
        match self {
            Self::Single { database, place, .. } => {
                Access { place: place.subscribe(), database: database.name().to_owned() }
            }
            Self::Patroni(patroni) => {
                Access { place: patroni.leader(), database: "postgres".to_owned() }
            }
        }
    }

    /// Stops the server, and starts it again after a time. Of a cluster it is the primary that is killed.
    pub(crate) async fn restart(&mut self, shutdown: Shutdown, down: Duration) {
        match self {
            Self::Single { server, .. } => {
                tokio::task::block_in_place(|| server.shut_down(shutdown));
                SystemClock.sleep(down).await;
                tokio::task::block_in_place(|| server.start_again());
            }
            Self::Patroni(patroni) => patroni.kill_the_primary(down).await,
        }
    }

    /// How often another server became the primary.
    pub(crate) fn failovers(&self) -> usize {
        match self {
            Self::Single { .. } => 0,
            Self::Patroni(patroni) => patroni.failovers(),
        }
    }
}

impl Access {
    /// `None` while there is nobody there.
    pub(crate) async fn connect(&self) -> Option<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .username("scoreline")
            .database(&self.database)
            .options([("search_path", "scoreline"), ("statement_timeout", "30s")])
            .disable_statement_logging();
        let options = match &*self.place.borrow() {
            Upstream::Nowhere => return None,
            Upstream::Tcp(address) => options.host(&address.ip().to_string()).port(address.port()),
            Upstream::Socket(socket) => options.socket(socket.parent().unwrap_or(Path::new("/"))),
        };
        SystemClock.timeout(Duration::from_secs(5), options.connect()).await?.ok()
    }

    /// What a daemon needs to know, when it comes by this address.
    pub(crate) fn url(&self, proxy: std::net::SocketAddr) -> String {
        format!("postgres://scoreline@{proxy}/{}?sslmode=disable", self.database)
    }

    /// Keeps the rows for whoever looks into a failure: the database is gone by then.
    pub(crate) async fn write_down(&self, home: &Path) {
        let Some(mut connection) = self.connect().await else { return };
        for table in ["node", "job", "job_history", "job_event", "arrival", "reservation"] {
            let sql = format!("SELECT to_json(t)::text FROM {table} AS t");
            let rows = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql));
            let rows = rows.fetch_all(&mut connection).await.unwrap_or_default();
            std::fs::write(home.join(format!("{table}.jsonl")), rows.join("\n")).unwrap();
        }
    }

    /// Ends every session of the daemons.
    pub(crate) async fn terminate_backends(&self) {
        const SQL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' \
                             AND application_name = 'scoreline'";
        if let Some(mut connection) = self.connect().await {
            // The server may be stopped at this very moment.
            let _ = sqlx::query(SQL).execute(&mut connection).await;
            let _ = connection.close().await;
        }
    }
}
