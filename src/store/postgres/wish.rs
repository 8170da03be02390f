//! What operators want of jobs.

use sqlx::{Row, query};

use super::rows::{origin, state, text};
use super::session::Session;
use crate::job::{JobId, Want};
use crate::ports::Wished;

impl Session {
    /// Notes a wish; `None` when the job was changing its place meanwhile, and is to be looked for again.
    pub(super) async fn wish(
        &mut self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Option<Wished>, sqlx::Error> {
        let row = query(WISH).bind(id.uuid()).bind(text(&want.to_text()).into_owned());
        let row = row.bind(generation.map(i64::from)).fetch_one(self.on()).await?;
        let there: Option<i64> = row.try_get("generation")?;
        let there = there.and_then(|generation| u32::try_from(generation).ok());
        Ok(match there {
            _ if row.try_get("noted")? => Some(Wished::Noted),
            None => Some(Wished::Unknown),
            Some(there) if generation.is_some_and(|wanted| wanted != there) => {
                Some(Wished::Generation(there))
            }
            Some(_) => None,
        })
    }
}

/// Notes a wish, and answers whether it did, and the job's generation as it was before. $1 is the job, $2 the wish, $3
/// the generation, or null for any. In whichever of the two tables the job is; from that of what is done it comes back
/// among the live ones, for anybody to adopt.
const WISH: &str = concat!(
    "WITH live AS ( \
       UPDATE job SET want = $2 WHERE id = $1 AND ($3::bigint IS NULL OR generation = $3) RETURNING id \
     ), done AS ( \
       DELETE FROM job_history WHERE id = $1 AND ($3::bigint IS NULL OR generation = $3) RETURNING * \
     ), back AS ( \
       INSERT INTO job (",
    origin!(""),
    ", ",
    state!(""),
    ", want) SELECT ",
    origin!(""),
    ", ",
    state!(""),
    ", $2 FROM done \
     ) SELECT EXISTS (SELECT FROM live) OR EXISTS (SELECT FROM done) AS noted, \
       (SELECT generation FROM job WHERE id = $1 UNION ALL SELECT generation FROM job_history WHERE id = $1) \
         AS generation"
);
