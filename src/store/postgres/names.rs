//! File names that live jobs are going to use.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use sqlx::{Row, query, query_scalar};
use uuid::Uuid;

use super::Failure;
use super::rows::text;
use super::session::Session;
use crate::job::JobId;
use crate::ports::{Node, Reservation, Reserved};
use crate::store::names::Names;
use crate::store::row::is_done;

impl Session {
    /// Reserves, in the transaction that is begun; `None` when somebody else was quicker.
    pub(super) async fn reserve(
        &mut self,
        node: &Node,
        wishes: &[Reservation],
    ) -> Result<Option<Vec<Reserved>>, Failure> {
        let jobs: Vec<_> = wishes.iter().map(|wish| wish.job.uuid()).collect();
        let paths: Vec<_> = wishes.iter().map(|wish| wish.path.as_os_str().as_bytes()).collect();
        let slots: Vec<_> = wishes.iter().map(|wish| text(&wish.slot)).collect();
        // Locked, so that none of them ends, or becomes another node's, before its reservation is there.
        let sql = concat!(
            "SELECT id FROM job WHERE id = ANY($1) AND node = $2 AND NOT ",
            is_done!(),
            " ORDER BY id FOR SHARE",
        );
        let ours = query_scalar(sql).bind(&jobs).bind(node.id.0);
        let ours: Vec<Uuid> = ours.fetch_all(self.on()).await?;
        let sql = "SELECT path, job_id, slot FROM reservation WHERE path = ANY($1) UNION \
                   SELECT r.path, r.job_id, r.slot FROM reservation r \
                   JOIN unnest($2::uuid[], $3::text[]) AS wish (job_id, slot) USING (job_id, slot)";
        let rows = query(sql).bind(&paths).bind(&jobs).bind(&slots).fetch_all(self.on()).await?;
        let mut names = Names::default();
        for row in &rows {
            let (path, slot): (Vec<u8>, String) = (row.try_get("path")?, row.try_get("slot")?);
            names.give(JobId::new(row.try_get("job_id")?), slot, OsString::from_vec(path).into());
        }
        let ours: HashSet<_> = ours.into_iter().map(JobId::new).collect();
        let (answers, mut new) = names.allot(wishes, &ours, |wish| text(&wish.slot).into_owned());
        new.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let jobs: Vec<_> = new.iter().map(|wish| wish.job.uuid()).collect();
        let paths: Vec<_> = new.iter().map(|wish| wish.path.as_os_str().as_bytes()).collect();
        let slots: Vec<_> = new.iter().map(|wish| text(&wish.slot)).collect();
        let sql = "INSERT INTO reservation (path, job_id, slot) \
                   SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::text[]) ON CONFLICT DO NOTHING";
        let kept = query(sql).bind(paths).bind(jobs).bind(slots).execute(self.on()).await?;
        Ok((kept.rows_affected() == new.len() as u64).then_some(answers))
    }
}
