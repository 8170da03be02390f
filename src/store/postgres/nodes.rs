//! Who lives, and what is whose.
//!
//! A call that gives a node something holds a weak lock on the node's row (`FOR KEY SHARE`), which a beat does not mind
//! and a fence waits for: once a node is fenced off, nothing that it was given is still on its way. The statement that
//! fences takes and gives its lock back at once, so that whoever stops in the middle keeps nobody from beating.

use sqlx::{query, query_scalar};

use super::Failure;
use super::rows::{columns, text};
use super::session::Session;
use crate::feed::Name;
use crate::ports::{FolderId, Node, NodeId, StoreError};
use crate::store::forgotten;
use crate::store::row::holds_run;

impl Session {
    /// Refuses a node that is fenced off or forgotten.
    pub(super) async fn require(
        &mut self,
        node: &Node,
        attempted: &'static str,
    ) -> Result<(), Failure> {
        let known = query("SELECT 1 FROM node WHERE id = $1 AND NOT fenced").bind(node.id.0);
        if known.fetch_optional(self.on()).await?.is_some() {
            return Ok(());
        }
        let cause = forgotten(node.id);
        Err(StoreError::Unavailable { attempted, cause }.into())
    }

    /// Fences a node off, by statements that stand each for itself; answers whether it is so, or gone.
    pub(super) async fn fence(
        &mut self,
        node: NodeId,
        beats: Option<u64>,
    ) -> Result<bool, sqlx::Error> {
        // A beat that comes between is waited for, and the condition looked at again.
        let sql = "WITH it AS (SELECT id FROM node WHERE id = $1 FOR UPDATE) \
                   UPDATE node SET fenced = true FROM it \
                   WHERE node.id = it.id AND NOT node.fenced AND ($2::bigint IS NULL OR node.beats = $2)";
        query(sql).bind(node.0).bind(beats.map(u64::cast_signed)).execute(self.on()).await?;
        self.forget_the_dead().await?;
        let sql = "SELECT NOT EXISTS (SELECT FROM node WHERE id = $1 AND NOT fenced)";
        query_scalar(sql).bind(node.0).fetch_one(self.on()).await
    }

    /// Takes from those that are fenced off what they have beside jobs, and forgets those that have no job either.
    /// Waits for nobody; what it leaves is done the next time.
    pub(super) async fn forget_the_dead(&mut self) -> Result<(), sqlx::Error> {
        let sql = "WITH dead AS ( \
                     SELECT id FROM node WHERE fenced AND NOT EXISTS (SELECT FROM job WHERE job.node = node.id) \
                     FOR UPDATE SKIP LOCKED \
                   ), scans AS ( \
                     DELETE FROM scanner USING node WHERE node.id = scanner.node AND node.fenced \
                   ) DELETE FROM node USING dead WHERE node.id = dead.id";
        query(sql).execute(self.on()).await.map(drop)
    }

    /// Which folder a feed has in a site.
    pub(super) async fn folder(
        &mut self,
        site: &str,
        feed: &Name,
    ) -> Result<Option<FolderId>, sqlx::Error> {
        let sql = "SELECT id FROM folder WHERE site = $1 AND feed = $2";
        let id = query_scalar(sql).bind(text(site)).bind(feed.as_str());
        Ok(id.fetch_optional(self.on()).await?.map(FolderId::new))
    }

    /// Gives jobs of the node back, the oldest first, up to a limit if there is one, without the runs that they were
    /// admitted for and have not begun; answers how many.
    pub(super) async fn give_back(
        &mut self,
        node: &Node,
        knows: &[uuid::Uuid],
        limit: Option<i64>,
    ) -> Result<u64, sqlx::Error> {
        let sql = concat!(
            "WITH found AS ( \
               SELECT id, phase, held_code FROM job WHERE node = $1 \
                 AND (phase <> 'submitted' OR id = ANY($3)) ORDER BY id LIMIT $2 FOR UPDATE \
             ), freed AS ( \
               DELETE FROM remote_run WHERE job_id = ANY(ARRAY(SELECT id FROM found WHERE NOT ",
            holds_run!(),
            "))) UPDATE job SET node = NULL FROM found WHERE job.id = found.id",
        );
        let given_back = query(sql).bind(node.id.0).bind(limit).bind(knows);
        let given_back = given_back.execute(self.on()).await?;
        Ok(given_back.rows_affected())
    }

    /// Gives the node's last jobs back and forgets it, or fences it off if any stay, in the transaction that is begun; answers how many they were.
    pub(super) async fn forget(
        &mut self,
        node: &Node,
        knows: &[uuid::Uuid],
    ) -> Result<u64, sqlx::Error> {
        // Nobody accepts or adopts for it any more, once this is ours.
        let sql = "SELECT 1 FROM node WHERE id = $1 FOR UPDATE";
        query(sql).bind(node.id.0).execute(self.on()).await?;
        let given_back = self.give_back(node, knows, None).await?;
        for sql in [
            "DELETE FROM node WHERE id = $1 AND NOT EXISTS (SELECT FROM job WHERE node = $1)",
            "DELETE FROM scanner WHERE node = $1",
            "DELETE FROM waiting WHERE node = $1",
            "UPDATE node SET fenced = true WHERE id = $1",
        ] {
            query(sql).bind(node.id.0).execute(self.on()).await?;
        }
        Ok(given_back)
    }
}

/// Counts the jobs without an owner that lives, of any feed and of the feeds $2. $1 is the site. It is asked all the
/// time: while nobody is fenced off, the second part, which may go through all live jobs, is not even begun.
pub(super) const UNOWNED: &str = "SELECT count(*), count(*) FILTER (WHERE feed = ANY($2)) FROM ( \
       SELECT feed FROM job WHERE site = $1 AND node IS NULL UNION ALL \
       SELECT feed FROM job WHERE site = $1 AND node = ANY(ARRAY(SELECT id FROM node WHERE fenced)) \
         AND EXISTS (SELECT FROM node WHERE fenced) \
     ) AS free";

/// $1 is the site, $2 the feed. No index has a phase in it, for the sake of the updates: the live rows are read, which
/// are few as long as what is counted here is kept small.
pub(super) const WAITING: &str = "SELECT count(*) FROM job WHERE site = $1 AND feed = $2 \
       AND phase IN ('queued', 'uploaded') AND held_code IS NULL";

/// Adopts and answers what is adopted, each with its last owner if that was fenced off. $1 is the node, $2 its site, $3
/// the feeds, $4 the limit, $5 the time. A row changed by hand may have an event of that revision already; the others
/// must not wait for it. A run that was taken and not begun is free again: its new owner asks for one when the job's
/// turn comes, and it may be long until then. None is overlooked that is just being taken: whoever takes one keeps a
/// fence waiting, so that none is on its way any more once its owner is seen to be fenced off.
pub(super) const ADOPT: &str = concat!(
    "WITH me AS ( \
       SELECT id FROM node WHERE id = $1 AND NOT fenced FOR KEY SHARE \
     ), found AS ( \
       SELECT id, node AS left_by FROM job \
       WHERE (node IS NULL OR node = ANY(ARRAY(SELECT id FROM node WHERE fenced))) AND site = $2 AND feed = ANY($3) \
         AND EXISTS (SELECT FROM me) \
       ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED \
     ), adopted AS ( \
       UPDATE job SET node = $1, revision = revision + 1, updated_at = $5 FROM found \
       WHERE job.id = found.id RETURNING job.*, left_by \
     ), noted AS ( \
       INSERT INTO job_event (job_id, revision, at, node, generation, from_phase, to_phase, outcome) \
       SELECT id, revision, $5, $1, generation, phase, phase, 'adopted' FROM adopted ON CONFLICT DO NOTHING \
     ), freed AS ( \
       DELETE FROM remote_run WHERE job_id = ANY(ARRAY(SELECT id FROM adopted WHERE NOT ",
    holds_run!(),
    "))) SELECT left_by, ",
    columns!(),
    " FROM adopted"
);

/// Claims feeds and answers those that are the node's, and whether it is known. $1 is the node, $2 its site, $3 the
/// feeds. What the node had and doesn't ask for any more is for others. Most of the time nothing is free and nothing is written. The last word is the conflict's: somebody may have
/// been quicker.
pub(super) const CLAIM: &str = "WITH me AS ( \
       SELECT id FROM node WHERE id = $1 AND NOT fenced FOR KEY SHARE \
     ), given_up AS ( \
       DELETE FROM scanner WHERE node = $1 AND feed <> ALL($3) \
     ), free AS ( \
       SELECT feed FROM unnest($3::text[]) AS i (feed) \
       WHERE EXISTS (SELECT FROM me) AND NOT EXISTS (SELECT FROM scanner s JOIN node n ON n.id = s.node \
         WHERE s.site = $2 AND s.feed = i.feed AND NOT n.fenced) \
       ORDER BY feed \
     ), claimed AS ( \
       INSERT INTO scanner (site, feed, node) SELECT $2, feed, $1 FROM free \
       ON CONFLICT (site, feed) DO UPDATE SET node = excluded.node \
         WHERE (SELECT fenced FROM node WHERE id = scanner.node) \
       RETURNING feed \
     ) SELECT EXISTS (SELECT FROM me) AS known, \
       ARRAY(SELECT feed FROM claimed UNION ALL SELECT feed FROM scanner WHERE site = $2 AND node = $1) AS ours";

/// Tells of a pause. $1 is the endpoint, $2 the milliseconds, $3 [`PAUSES`], $4 the node. One at a time: whoever has seen a serial
/// would never look for a smaller one that is committed later.
pub(super) const PAUSE: &str = "WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock($3, 0)) \
     INSERT INTO pause (endpoint, serial, millis, node) SELECT $1, nextval('pause_serial'), $2, $4 FROM turn \
     ON CONFLICT (endpoint) DO UPDATE SET serial = excluded.serial, millis = excluded.millis, node = excluded.node";

/// The lock of those who tell of pauses: "paus" in ASCII.
pub(super) const PAUSES: i32 = 0x7061_7573;
