//! The last fire of a feed, noted beside its outputs: a store that was restored from a backup knows less than they do.
//!
//! What a fire of that time made lies in the delivery folder, and its time came and passed; the restored store would
//! make up for it. So a fire that ran is noted in the folder, after the store has it, and a store that knows no fire as
//! late as the note says is an older one: then a person decides.

use std::path::PathBuf;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::feed::{Feed, OWN_FOLDER};
use crate::fire::{FeedPause, FireId, Timetable};
use crate::ports::{Outbox, Permit, World};

/// The note of one feed in one site.
#[derive(Debug, Default)]
pub(super) struct LastFire {
    noted: Option<DateTime<Utc>>,
    compared: bool,
}

impl LastFire {
    /// Notes that the fire of this nominal time ran. Without a note nothing is lost but the warning.
    pub(super) async fn note<W: World, P: Permit>(
        &mut self,
        world: &W,
        site: &str,
        feed: &Feed,
        nominal: DateTime<Utc>,
        permit: &P,
    ) {
        if self.noted.is_some_and(|noted| noted >= nominal) {
            return;
        }
        let text = format!("{} {}\n", text_of(nominal), feed.name);
        match world.outbox().write(&place(site, feed), &text, permit).await {
            Ok(()) => self.noted = Some(nominal),
            Err(fault) => {
                tracing::debug!(feed = %feed.name, error = %fault, "the last fire could not be noted beside the outputs");
            }
        }
    }

    /// The pause that a feed is to have since its store is older than its outputs. Looked for once.
    pub(super) async fn doubt<W: World>(
        &mut self,
        world: &W,
        site: &str,
        feed: &Feed,
        table: &Timetable,
    ) -> Option<FeedPause> {
        if self.compared {
            return None;
        }
        let place = place(site, feed);
        let text = match world.outbox().read(&place).await {
            Ok(text) => text,
            // A folder that is away keeps no fire from its time.
            Err(fault) => {
                tracing::debug!(feed = %feed.name, error = %fault, "the note of the last fire could not be read");
                return None;
            }
        };
        self.compared = true;
        let noted = text.as_deref().and_then(time_in);
        self.noted = noted;
        let (noted, last) = (noted?, table.last?);
        if noted <= last.max(table.since) {
            return None;
        }
        let why = format!(
            "the store knows no fire after {}, but the one of {} ran ({}): it was restored from a backup. What fell due \
             since is skipped; `scoreline feeds run {name}` scores what is there, and `scoreline feeds resume {name}` goes on",
            text_of(last),
            text_of(noted),
            place.display(),
            name = feed.name
        );
        Some(FeedPause {
            by: "scoreline".to_owned(),
            why,
            since: table.now,
            until: None,
            ended: false,
        })
    }
}

/// One for each feed of each site, whoever else delivers there.
fn place(site: &str, feed: &Feed) -> PathBuf {
    let id = FireId::of(site, &feed.name, DateTime::UNIX_EPOCH);
    feed.deliver.folder.join(OWN_FOLDER).join("fires").join(id.to_string())
}

fn text_of(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn time_in(text: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text.split_whitespace().next()?).ok()?;
    Some(time.with_timezone(&Utc))
}
