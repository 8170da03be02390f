//! File names that live jobs are going to use.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use sqlx::{Row, query, query_scalar};

use super::Failure;
use super::write::Write;
use crate::job::JobId;
use crate::ports::{Node, Reservation, Reserved};
use crate::store::names::Names;
use crate::store::row::{is_done, json};

impl Write<'_> {
    /// As many statements for hundreds of wishes as for one.
    pub(super) async fn reserve(
        &mut self,
        node: &Node,
        wishes: &[Reservation],
    ) -> Result<Vec<Reserved>, Failure> {
        let jobs = json(&wishes.iter().map(|wish| wish.job.to_string()).collect::<Vec<_>>());
        let sql = concat!(
            "SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?1)) AND node = ?2 AND NOT ",
            is_done!(),
        );
        let ours = query_scalar(sql).bind(&jobs).bind(node.id.0);
        let ours: Vec<String> = ours.fetch_all(self.on()).await?;
        let ours: HashSet<_> = ours.iter().filter_map(|id| JobId::parse(id)).collect();
        let paths = json(&wishes.iter().map(hex).collect::<Vec<_>>());
        let sql = "SELECT path, job_id, slot FROM reservation \
                   WHERE path IN (SELECT unhex(value) FROM json_each(?1)) UNION \
                   SELECT path, job_id, slot FROM reservation \
                   WHERE job_id IN (SELECT value FROM json_each(?2))";
        let rows = query(sql).bind(&paths).bind(&jobs).fetch_all(self.on()).await?;
        let mut names = Names::default();
        for row in &rows {
            let (path, slot): (Vec<u8>, String) = (row.try_get("path")?, row.try_get("slot")?);
            // A row that was made by hand may name no job: its path is taken all the same.
            let job = JobId::parse(row.try_get("job_id")?).unwrap_or(JobId::new(uuid::Uuid::nil()));
            names.give(job, slot, OsString::from_vec(path).into());
        }
        let (answers, new) = names.allot(wishes, &ours, |wish| wish.slot.clone());
        if !new.is_empty() {
            let new: Vec<_> =
                new.into_iter().map(|wish| (hex(wish), wish.job.to_string(), &wish.slot)).collect();
            let sql = "INSERT INTO reservation (path, job_id, slot) \
                       SELECT unhex(value ->> 0), value ->> 1, value ->> 2 FROM json_each(?1)";
            query(sql).bind(json(&new)).execute(self.on()).await?;
        }
        Ok(answers)
    }
}

/// A path as JSON can hold it, whatever its bytes.
fn hex(wish: &Reservation) -> String {
    let bytes = wish.path.as_os_str().as_bytes();
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
