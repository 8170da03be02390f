//! What holds of every answer, for the fuzzing of them.
//!
//! The bounds and the masks are told here once more and not shared with what makes them, so that a mistake there shows.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{
    Answer, Call, Operation, Read, cancelled, links, probed, sort, started, status, submitted,
};
use crate::fault::{Class, Fault, redact};
use crate::job::RemoteId;
use crate::ports::{RemoteStatus, SubmitAnswer};
use crate::scoring::ServiceUrl;
use crate::wire::StatusAnswer;

/// Of a body that comes with 200 when a run is looked at.
pub(crate) fn any_status(body: &str) -> Result<String, String> {
    let answer = answer(200, HeaderMap::new(), body);
    asked(Operation::Status, |call| {
        let seen = match status(&answer, call) {
            Err(fault) => {
                sane(&fault)?;
                fault.code
            }
            Ok(RemoteStatus::Failed(words)) => {
                text(&words)?;
                "failed".to_owned()
            }
            Ok(RemoteStatus::Finished(results)) => {
                let links = links(&answer, call).map_err(|fault| format!("no links: {fault}"))?;
                let names = results.iter().map(|result| result.output.as_str());
                if !names.eq(links.iter().map(|(output, _)| output.as_str())) {
                    return Err(format!("{results:?} and {links:?} differ"));
                }
                format!("{} results", results.len())
            }
            Ok(other) => format!("{other:?}"),
        };
        let Ok(read) = serde_json::from_str::<StatusAnswer>(body) else { return Ok(seen) };
        let written = serde_json::to_string(&read).map_err(|error| error.to_string())?;
        let again = serde_json::from_str::<StatusAnswer>(&written);
        if again.as_ref().ok() == Some(&read) {
            Ok(format!("{seen} too"))
        } else {
            Err(format!("{read:?} is read again as {again:?}"))
        }
    })
}

/// Of a body that comes with 200 when a job is submitted: an id stays one segment of an address.
pub(crate) fn any_submit(body: &str) -> Result<String, String> {
    let answer = answer(200, HeaderMap::new(), body);
    asked(Operation::Submit, |call| match submitted(&answer, call) {
        Err(fault) => sane(&fault).map(|()| fault.code),
        Ok(SubmitAnswer::InputMissing(fault)) => {
            Err(format!("a success that lacks something: {fault}"))
        }
        Ok(SubmitAnswer::Known(RemoteId(id))) => {
            let service = ServiceUrl::parse("https://h/workspaces/w/services/s")?;
            let url = service.start(&RemoteId(id.clone()));
            let segments: Vec<_> = url.path_segments().into_iter().flatten().collect();
            let stays = segments.len() == 7
                && segments[..5] == ["workspaces", "w", "services", "s", "jobs"];
            let again = RemoteId::parse(&id).is_some_and(|again| again.0 == id);
            if stays && segments[6] == "start" && again {
                Ok("known".into())
            } else {
                Err(format!("{id:?} makes {url}"))
            }
        }
    })
}

/// Of an answer with its head, `503` and then lines of headers up to an empty one, to every call there is.
pub(crate) fn any_answer(text: &str) -> Result<String, String> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let code = lines.next().and_then(|line| line.trim().parse().ok()).unwrap_or(400);
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value.trim()).ok()?))
    });
    let answer = answer(code, headers.collect(), body);
    let mut seen = String::new();
    for operation in [
        Operation::Submit,
        Operation::Start,
        Operation::Status,
        Operation::Cancel,
        Operation::Probe,
    ] {
        asked(operation, |call| {
            let faults: [Option<Fault>; 7] = [
                submitted(&answer, call).err(),
                started(&answer, call).err(),
                status(&answer, call).err(),
                links(&answer, call).err(),
                cancelled(&answer, call).err(),
                probed(&answer, call).err(),
                Some(sort(&answer, call)),
            ];
            for fault in faults.iter().flatten() {
                sane(fault)?;
                seen = format!("{seen} {}{}", fault.class.name(), fault.code.len().min(30));
            }
            Ok(())
        })?;
    }
    Ok(seen)
}

fn answer(status: u16, headers: HeaderMap, body: &str) -> Answer {
    Answer { status, headers, body: body.to_owned(), read: Read::Whole }
}

fn asked<T>(
    operation: Operation,
    ask: impl FnOnce(&Call) -> Result<T, String>,
) -> Result<T, String> {
    let endpoint = "churn".to_owned().try_into()?;
    ask(&Call { endpoint: &endpoint, operation, now: DateTime::<Utc>::UNIX_EPOCH })
}

fn sane(fault: &Fault) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if fault.code.len() > 80 || fault.code.is_empty() || !fault.code.bytes().all(plain) {
        return Err(format!("the code {:?}", fault.code));
    }
    if let Class::Throttled(Some(pause)) = fault.class
        && !(Duration::from_secs(1)..=Duration::from_hours(7 * 24)).contains(&pause)
    {
        return Err(format!("a pause of {pause:?}"));
    }
    if fault.message.chars().any(char::is_control) {
        return Err(format!("control characters in {:?}", fault.message));
    }
    text(&fault.message)
}

/// At most so long, and masked: to mask it once more changes nothing, but for a mask that was cut.
fn text(shown: &str) -> Result<(), String> {
    if shown.chars().count() > 2001 {
        return Err(format!("{} characters", shown.chars().count()));
    }
    let tail = ['…', '*'];
    let again = redact(shown);
    if again.trim_end_matches(tail) == shown.trim_end_matches(tail) {
        return Ok(());
    }
    Err(format!("{shown:?} shows what {again:?} hides"))
}
