//! A connection that a call works on, and the writing of transitions on it.

use std::collections::HashSet;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{Postgres, Row, query};

use super::Failure;
use super::rows::{self, REPEATED, WRITE};
use super::server::refusal;
use crate::job::JobId;
use crate::ports::{Committed, Node, Transition};

/// A connection that something is under way on. Dropping it before that is done closes the connection.
pub(super) struct Session {
    connection: PoolConnection<Postgres>,
    done: bool,
}

impl Session {
    pub(super) async fn from(pool: &PgPool) -> Result<Self, Failure> {
        // Boxed: connecting with TLS is most of what any call's future could ever need room for.
        let connection = Box::pin(pool.acquire()).await?;
        Ok(Self { connection, done: false })
    }

    pub(super) fn on(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        query("BEGIN").execute(self.on()).await.map(drop)
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        query("COMMIT").execute(self.on()).await?;
        self.done();
        Ok(())
    }

    pub(super) async fn roll_back(mut self) -> Result<(), sqlx::Error> {
        query("ROLLBACK").execute(self.on()).await?;
        self.done();
        Ok(())
    }

    pub(super) fn done(mut self) {
        self.done = true;
    }

    /// Writes a round of transitions; answers the jobs of those that are written, now or before.
    pub(super) async fn write(
        &mut self,
        node: &Node,
        transitions: &[Transition],
        round: &[usize],
    ) -> Result<HashSet<JobId>, sqlx::Error> {
        let mut round: Vec<_> = round.iter().map(|n| &transitions[*n]).collect();
        let written = rows::transitions(query(WRITE), node, &round).fetch_all(self.on()).await?;
        let id = |row: &PgRow| row.try_get("id").map(JobId::new);
        let mut written = written.iter().map(id).collect::<Result<HashSet<_>, _>>()?;
        round.retain(|transition| !written.contains(&transition.job.id()));
        if !round.is_empty() {
            let repeated = rows::events(query(REPEATED), node, &round).fetch_all(self.on()).await?;
            written.extend(repeated.iter().map(id).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(written)
    }

    /// Writes a round that the server has refused something of, and finds out by halves what that is: each part is a
    /// transaction by itself. One row that can't be written must not keep hundreds of others waiting for ever.
    pub(super) async fn write_in_parts(
        &mut self,
        node: &Node,
        transitions: &[Transition],
        round: &[usize],
        answers: &mut [Committed],
    ) -> Result<(), sqlx::Error> {
        let mut parts = vec![round];
        while let Some(part) = parts.pop() {
            // After a refusal it is known where the connection stands: nothing is begun.
            match self.write(node, transitions, part).await {
                Ok(written) => note(&written, transitions, part, answers),
                Err(error) => match (refusal(&error), part) {
                    (None, _) => return Err(error),
                    (Some(why), [n]) => answers[*n] = Committed::Refused(why),
                    (Some(_), _) => {
                        let (first, rest) = part.split_at(part.len() / 2);
                        parts.extend([rest, first]);
                    }
                },
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.done {
            self.connection.close_on_drop();
        }
    }
}

/// Notes which of a round are written.
pub(super) fn note(
    written: &HashSet<JobId>,
    transitions: &[Transition],
    round: &[usize],
    answers: &mut [Committed],
) {
    for n in round {
        if written.contains(&transitions[*n].job.id()) {
            answers[*n] = Committed::Done;
        }
    }
}
