//! A remote side that is fast: the batch service and the blob storage in one process, in memory, checking no signature and
//! forgetting nothing. What clients look at is answered as the services answer it; the sandbox of the program, which
//! judges everything that it is sent, would be the slower side of what is measured here.
//!
//! A run takes a set time from its start, and its outputs are its input. Nothing waits for that: that a run has ended is
//! seen when somebody looks. `GET /stats` tells what was asked for, and what of it breaks the protocol.
//!
//! The HTTP is its own, a head and a body of known length: as much as a library would do for clients that are known, at a
//! fraction of the processor's time.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use percent_encoding::percent_decode_str;
use scoreline::ports::Clock as _;
use scoreline::wire::{BlobReference, StatusCode, SubmitRequest};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

use crate::CLOCK;
use crate::blobs::this_program;

/// The remote side, as a process. It ends with this.
pub(crate) struct Double {
    address: String,
    process: Child,
}

/// What it was asked for, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) submits: u64,
    /// Each run's first.
    pub(crate) starts: u64,
    /// Of runs that were started before: what the service refuses, and clients that keep count never send.
    pub(crate) second_starts: u64,
    pub(crate) polls: u64,
    /// Runs that go on for good and were looked at, since [`Double::forget_polled`].
    pub(crate) polled: u64,
    /// Of runs, stopped or forgotten.
    pub(crate) deletes: u64,
    /// Whole blobs, and lists that make blobs of blocks.
    pub(crate) puts: u64,
    pub(crate) blocks: u64,
    pub(crate) gets: u64,
    pub(crate) heads: u64,
    pub(crate) deleted_blobs: u64,
    /// In bodies, both ways.
    pub(crate) bytes: u64,
    pub(crate) connections: u64,
    /// Requests that make no sense: unknown runs, blobs that are not there, bodies that can't be read, unknown paths.
    pub(crate) violations: u64,
}

impl Counts {
    /// All requests.
    pub(crate) fn requests(&self) -> u64 {
        let Self { submits, starts, second_starts, polls, deletes, puts, blocks, .. } = self;
        let runs = submits + starts + second_starts + polls + deletes;
        runs + puts + blocks + self.gets + self.heads + self.deleted_blobs
    }
}

impl Double {
    /// One whose runs take so long from their start.
    pub(crate) async fn start(run: Duration) -> anyhow::Result<Self> {
        let mut process = this_program(ROLE)?
            .arg(run.as_micros().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .context("this program can't be started again")?;
        let mut lines = BufReader::new(process.stdout.take().context("stdout is piped")?).lines();
        let address = lines.next_line().await?.context("the remote side says where it listens")?;
        Ok(Self { address, process })
    }

    /// The tables of a config, `[storage.remote]` and `[endpoints.remote]`, to whose end keys of an endpoint may be added.
    pub(crate) fn config(&self) -> String {
        format!(
            "[storage.remote]\nconnection_string = \"{}\"\ncontainer = \"bench\"\n\
             [endpoints.remote]\nkind = \"bes\"\nurl = \"{}\"\napi_key = \"{API_KEY}\"\n",
            self.connection_string(),
            self.url()
        )
    }

    pub(crate) fn connection_string(&self) -> String {
        format!("AccountName={ACCOUNT};AccountKey=QUJD;BlobEndpoint={}", self.blob_endpoint())
    }

    pub(crate) fn blob_endpoint(&self) -> String {
        format!("http://{}/{ACCOUNT}", self.address)
    }

    /// Of the batch service.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/{SERVICE}", self.address)
    }

    /// The process's, as long as it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    pub(crate) async fn counts(&self) -> anyhow::Result<Counts> {
        let answer = reqwest::get(format!("http://{}/stats", self.address)).await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }

    /// Counts `polled` anew.
    pub(crate) async fn forget_polled(&self) -> anyhow::Result<()> {
        reqwest::get(format!("http://{}/stats/forget", self.address)).await?.error_for_status()?;
        Ok(())
    }
}

/// Makes this process the remote side.
pub(crate) async fn play() -> anyhow::Result<()> {
    let micros = std::env::args().nth(1).context("how long a run takes")?.parse()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    scoreline::cli::tell(&format!("{address}\n"))?;
    let state = State { run: Duration::from_micros(micros), ..State::default() };
    let state = Arc::new(State { base: format!("http://{address}/{ACCOUNT}/"), ..state });
    loop {
        let (stream, _) = listener.accept().await?;
        let state = state.clone();
        // A client that goes away ends its own connection.
        tokio::spawn(async move { state.serve(stream).await.ok() });
    }
}

#[derive(Default)]
struct State {
    run: Duration,
    /// What all blobs' addresses begin with.
    base: String,
    runs: Mutex<HashMap<String, Run>>,
    /// Those that go on for good, as far as they were looked at.
    polled: Mutex<HashSet<String>>,
    blobs: Mutex<Storage>,
    tally: Tally,
}

struct Run {
    input: String,
    outputs: Vec<(String, String)>,
    /// When it will have ended.
    ends: Option<Duration>,
    cancelled: bool,
}

#[derive(Default)]
struct Storage {
    blobs: HashMap<String, Blob>,
    blocks: HashMap<String, HashMap<String, Bytes>>,
    /// The runs that will write them.
    outputs: HashMap<String, String>,
    containers: HashSet<String>,
}

#[derive(Clone)]
struct Blob {
    bytes: Bytes,
    /// The headers that came with it and go with it: its sum and its metadata.
    headers: String,
}

#[derive(Default)]
struct Tally {
    submits: AtomicU64,
    starts: AtomicU64,
    second_starts: AtomicU64,
    polls: AtomicU64,
    deletes: AtomicU64,
    puts: AtomicU64,
    blocks: AtomicU64,
    gets: AtomicU64,
    heads: AtomicU64,
    deleted_blobs: AtomicU64,
    bytes: AtomicU64,
    connections: AtomicU64,
    violations: AtomicU64,
    ids: AtomicU64,
}

impl Tally {
    fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            submits: read(&self.submits),
            starts: read(&self.starts),
            second_starts: read(&self.second_starts),
            polls: read(&self.polls),
            polled: 0,
            deletes: read(&self.deletes),
            puts: read(&self.puts),
            blocks: read(&self.blocks),
            gets: read(&self.gets),
            heads: read(&self.heads),
            deleted_blobs: read(&self.deleted_blobs),
            bytes: read(&self.bytes),
            connections: read(&self.connections),
            violations: read(&self.violations),
        }
    }
}

/// A request's head.
struct Head<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    lines: &'a str,
}

impl<'a> Head<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (request, lines) = text.split_once("\r\n")?;
        let (method, rest) = request.split_once(' ')?;
        let target = rest.split(' ').next()?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Some(Self { method, path, query, lines })
    }

    fn header(&self, name: &str) -> Option<&'a str> {
        self.lines.split("\r\n").find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.into_iter().find_map(|(key, value)| (key == name).then_some(value))?;
        Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
    }
}

struct Answer {
    status: &'static str,
    headers: String,
    body: Bytes,
    /// What is said of the body's length, where there is no body.
    length: Option<usize>,
}

impl Answer {
    fn new(status: &'static str) -> Self {
        Self { status, headers: String::new(), body: Bytes::new(), length: None }
    }

    fn json(status: &'static str, body: String) -> Self {
        let headers = "Content-Type: application/json\r\n".to_owned();
        Self { headers, body: body.into(), ..Self::new(status) }
    }

    /// A refusal of the batch service's.
    fn error(status: &'static str, class: &str, code: &str, message: &str) -> Self {
        let details = json!([{ "code": code, "message": message }]);
        let error = json!({ "error": { "code": class, "message": message, "details": details } });
        Self::json(status, error.to_string())
    }

    /// A refusal of the storage's.
    fn refused(status: &'static str, code: &str) -> Self {
        Self { headers: format!("x-ms-error-code: {code}\r\n"), ..Self::new(status) }
    }
}

impl State {
    async fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        count(&self.tally.connections);
        let mut buffer = BytesMut::with_capacity(16 << 10);
        let mut out = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at;
                }
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            };
            let head = buffer.split_to(end + 4).freeze();
            let head = Head::parse(std::str::from_utf8(&head[..end])?).context("a request")?;
            ensure!(head.header("transfer-encoding").is_none(), "a body of unknown length");
            let length = head.header("content-length").map_or(Ok(0), str::parse::<usize>)?;
            buffer.reserve(length.saturating_sub(buffer.len()));
            while buffer.len() < length {
                ensure!(stream.read_buf(&mut buffer).await? > 0, "cut");
            }
            // A copy of its own, or a kilobyte would keep all of the buffer that it came in.
            let body = Bytes::copy_from_slice(&buffer[..length]);
            let _ = buffer.split_to(length);
            if buffer.is_empty() && buffer.capacity() > (1 << 20) {
                buffer = BytesMut::with_capacity(16 << 10);
            }
            let answer = self.answer(&head, body);
            let sent = answer.body.len();
            self.tally.bytes.fetch_add((length + sent) as u64, Ordering::Relaxed);
            out.clear();
            let Answer { status, headers, body, length } = &answer;
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(status.as_bytes());
            out.extend_from_slice(b"\r\nx-ms-request-id: 1\r\n");
            out.extend_from_slice(headers.as_bytes());
            if !status.starts_with("204") {
                let length = length.unwrap_or(sent);
                out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            if sent < (64 << 10) {
                out.extend_from_slice(body);
                stream.write_all(&out).await?;
            } else {
                stream.write_all(&out).await?;
                stream.write_all(body).await?;
            }
            if head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                return Ok(());
            }
        }
    }

    fn answer(&self, head: &Head, body: Bytes) -> Answer {
        if head.path == "/stats" {
            let polled = lock(&self.polled).len() as u64;
            let counts = serde_json::to_string(&Counts { polled, ..self.tally.counts() });
            return counts.map_or(Answer::new(WRONG), |text| Answer::json("200 OK", text));
        }
        if head.path == "/stats/forget" {
            lock(&self.polled).clear();
            return Answer::new("204 No Content");
        }
        let path = head.path.trim_start_matches('/');
        if let Some(rest) = path.strip_prefix(SERVICE) {
            let mut segments = rest.trim_start_matches('/').split('/');
            let (id, operation) = (segments.next().unwrap_or_default(), segments.next());
            return match (head.method, id, operation) {
                ("POST", "", None) => self.submit(&body),
                ("POST", id, Some("start")) => self.start(id),
                ("GET", id, None) if !id.is_empty() => self.status(id),
                ("DELETE", id, None) if !id.is_empty() => self.delete(id),
                _ => self.violation(Answer::new(NO_METHOD)),
            };
        }
        let Some(place) = path.strip_prefix(ACCOUNT).and_then(|rest| rest.strip_prefix('/')) else {
            return self.violation(Answer::new("404 Not Found"));
        };
        let place = percent_decode_str(place).decode_utf8_lossy();
        self.stored(head, &place, body)
    }

    fn violation(&self, answer: Answer) -> Answer {
        count(&self.tally.violations);
        answer
    }

    // ---- the batch service

    fn submit(&self, body: &Bytes) -> Answer {
        count(&self.tally.submits);
        let invalid = || Answer::error(WRONG, "BadArgument", "RequestBodyInvalid", "invalid");
        let Ok(request) = serde_json::from_slice::<SubmitRequest>(body) else {
            return self.violation(invalid());
        };
        let named = request.inputs.and_then(|inputs| inputs.into_values().next());
        let Some(input) = request.input.or(named).as_ref().and_then(place) else {
            return self.violation(invalid());
        };
        let n = self.tally.ids.fetch_add(1, Ordering::Relaxed);
        // Spread, as ids are.
        let id = format!("{:016x}{n:016x}", n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let wanted = request.outputs.unwrap_or_default();
        let outputs: Option<Vec<_>> =
            wanted.into_iter().map(|(name, blob)| Some((name, place(&blob)?))).collect();
        let Some(outputs) = outputs else { return self.violation(invalid()) };
        {
            let mut storage = lock(&self.blobs);
            if !storage.blobs.contains_key(&input) {
                drop(storage);
                let answer = Answer::error(WRONG, "BadArgument", "BlobNotFound", "no such input");
                return self.violation(answer);
            }
            for (_, blob) in &outputs {
                storage.outputs.insert(blob.clone(), id.clone());
            }
        }
        lock(&self.runs).insert(id.clone(), Run { input, outputs, ends: None, cancelled: false });
        Answer::json("200 OK", format!("\"{id}\""))
    }

    fn start(&self, id: &str) -> Answer {
        let now = CLOCK.boot();
        let mut runs = lock(&self.runs);
        let Some(run) = runs.get_mut(id) else { return self.unknown() };
        if run.ends.is_some() || run.cancelled {
            count(&self.tally.second_starts);
            let state = run.state(now).name();
            let message = format!("The job cannot be started because it is in {state} state.");
            return Answer::error(WRONG, "InvalidOperation", "CannotStartJob", &message);
        }
        run.ends = Some(now + self.run);
        count(&self.tally.starts);
        Answer::new("204 No Content")
    }

    fn status(&self, id: &str) -> Answer {
        count(&self.tally.polls);
        if id.starts_with(FOR_GOOD) {
            let mut polled = lock(&self.polled);
            if !polled.contains(id) {
                polled.insert(id.to_owned());
            }
            let body = "{\"StatusCode\":\"Running\",\"Results\":null,\"Details\":null}";
            return Answer::json("200 OK", body.to_owned());
        }
        let runs = lock(&self.runs);
        let Some(run) = runs.get(id) else { return self.unknown() };
        let state = run.state(CLOCK.boot());
        let mut text = format!("{{\"StatusCode\":\"{}\",\"Results\":", state.name());
        if state == StatusCode::Finished {
            for (n, (name, blob)) in run.outputs.iter().enumerate() {
                text.push(if n == 0 { '{' } else { ',' });
                // Names and places of ours hold nothing that JSON would escape. Writing to a String can't fail.
                let _ = write!(
                    text,
                    "\"{name}\":{{\"BaseLocation\":\"{}\",\"RelativeLocation\":\"{blob}\",\"SasBlobToken\":\"?sig=x\"}}",
                    self.base
                );
            }
            text.push('}');
        } else {
            text.push_str("null");
        }
        text.push_str(",\"Details\":null}");
        Answer::json("200 OK", text)
    }

    fn delete(&self, id: &str) -> Answer {
        count(&self.tally.deletes);
        let now = CLOCK.boot();
        let mut runs = lock(&self.runs);
        let Some(run) = runs.get_mut(id) else { return self.unknown() };
        run.cancelled |= run.state(now) != StatusCode::Finished;
        Answer::new("204 No Content")
    }

    fn unknown(&self) -> Answer {
        let answer = Answer::error("404 Not Found", "NotFound", "UnknownError", "no such job");
        self.violation(answer)
    }

    // ---- the storage

    fn stored(&self, head: &Head, place: &str, body: Bytes) -> Answer {
        let of = |name: &str| head.parameter(name);
        if of("restype").as_deref() == Some("container") {
            let mut storage = lock(&self.blobs);
            let known = storage.containers.contains(place);
            return match (head.method, known) {
                ("PUT", false) => {
                    storage.containers.insert(place.to_owned());
                    Answer { headers: TAG.to_owned(), ..Answer::new("201 Created") }
                }
                ("PUT", true) => Answer::refused("409 Conflict", "ContainerAlreadyExists"),
                ("GET" | "HEAD", true) => {
                    Answer { headers: TAG.to_owned(), ..Answer::new("200 OK") }
                }
                ("GET" | "HEAD", false) => Answer::refused("404 Not Found", "ContainerNotFound"),
                _ => self.violation(Answer::new(NO_METHOD)),
            };
        }
        match (head.method, of("comp").as_deref()) {
            ("PUT", None) => {
                count(&self.tally.puts);
                self.put(head, place, |_| Some(body))
            }
            ("PUT", Some("block")) => {
                count(&self.tally.blocks);
                let Some(id) = of("blockid") else {
                    return self.violation(Answer::refused(WRONG, "InvalidQueryParameterValue"));
                };
                let mut storage = lock(&self.blobs);
                storage.blocks.entry(place.to_owned()).or_default().insert(id, body);
                Answer::new("201 Created")
            }
            ("PUT", Some("blocklist")) => {
                count(&self.tally.puts);
                self.put(head, place, |blocks| {
                    let text = String::from_utf8_lossy(&body);
                    let ids = text.split("<Latest>").skip(1).map(|id| id.split('<').next());
                    let mut whole = BytesMut::new();
                    for id in ids {
                        whole.extend_from_slice(blocks?.get(id?)?);
                    }
                    Some(whole.freeze())
                })
            }
            ("GET", Some("blocklist")) => self.block_list(place),
            ("GET", None) => {
                count(&self.tally.gets);
                self.read(head, place)
            }
            ("HEAD", None) => {
                count(&self.tally.heads);
                let Some(blob) = self.blob(place) else {
                    return Answer::refused("404 Not Found", "BlobNotFound");
                };
                let length = Some(blob.bytes.len());
                Answer { headers: TAG.to_owned() + &blob.headers, length, ..Answer::new("200 OK") }
            }
            ("DELETE", None) => {
                count(&self.tally.deleted_blobs);
                let mut storage = lock(&self.blobs);
                let written = storage.outputs.remove(place).is_some();
                if storage.blobs.remove(place).is_none() && !written {
                    return Answer::refused("404 Not Found", "BlobNotFound");
                }
                Answer::new("202 Accepted")
            }
            _ => self.violation(Answer::new(NO_METHOD)),
        }
    }

    fn put(
        &self,
        head: &Head,
        place: &str,
        bytes: impl FnOnce(Option<&HashMap<String, Bytes>>) -> Option<Bytes>,
    ) -> Answer {
        let mut storage = lock(&self.blobs);
        let container = place.split('/').next().unwrap_or_default();
        if !storage.containers.contains(container) {
            return Answer::refused("404 Not Found", "ContainerNotFound");
        }
        if head.header("if-none-match") == Some("*") && storage.blobs.contains_key(place) {
            return Answer::refused("409 Conflict", "BlobAlreadyExists");
        }
        let Some(bytes) = bytes(storage.blocks.get(place)) else {
            return self.violation(Answer::refused(WRONG, "InvalidBlockList"));
        };
        let mut headers = String::new();
        for line in head.lines.split("\r\n") {
            let Some((name, value)) = line.split_once(':') else { continue };
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let starts = |with: &str| {
                name.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
            };
            if is("content-md5") && !headers.contains("Content-MD5") || is("x-ms-blob-content-md5")
            {
                headers = headers + "Content-MD5:" + value + "\r\n";
            } else if starts("x-ms-meta-") {
                headers = headers + line + "\r\n";
            }
        }
        storage.blocks.remove(place);
        storage.blobs.insert(place.to_owned(), Blob { bytes, headers });
        Answer { headers: TAG.to_owned(), ..Answer::new("201 Created") }
    }

    fn block_list(&self, place: &str) -> Answer {
        let storage = lock(&self.blobs);
        let is_blob = storage.blobs.contains_key(place);
        let blocks = storage.blocks.get(place);
        if blocks.is_none() && !is_blob {
            return Answer::refused("404 Not Found", "BlobNotFound");
        }
        let mut text =
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><CommittedBlocks>".to_owned();
        if is_blob {
            text += "<Block><Name>MA==</Name><Size>1</Size></Block>";
        }
        text += "</CommittedBlocks><UncommittedBlocks>";
        for (id, bytes) in blocks.into_iter().flatten() {
            let size = bytes.len();
            let _ = write!(text, "<Block><Name>{id}</Name><Size>{size}</Size></Block>");
        }
        text += "</UncommittedBlocks></BlockList>";
        let headers = "Content-Type: application/xml\r\n".to_owned();
        Answer { headers, body: text.into(), ..Answer::new("200 OK") }
    }

    fn read(&self, head: &Head, place: &str) -> Answer {
        let Some(Blob { bytes, headers }) = self.blob(place) else {
            return self.violation(Answer::refused("404 Not Found", "BlobNotFound"));
        };
        let headers = format!(
            "{TAG}Content-Type: application/octet-stream\r\nx-ms-blob-type: BlockBlob\r\n{headers}"
        );
        let range = head.header("x-ms-range").or_else(|| head.header("range"));
        let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let Some((from, to)) = range else {
            return Answer { headers, body: bytes, ..Answer::new("200 OK") };
        };
        let whole = bytes.len();
        let from = from.parse().unwrap_or(usize::MAX);
        if from >= whole {
            return Answer::refused("416 Range Not Satisfiable", "InvalidRange");
        }
        let end = to.parse::<usize>().map_or(whole, |last| last.saturating_add(1).min(whole));
        let last = end - 1;
        // The sum is the whole blob's, and has another name then.
        let headers = headers.replace("Content-MD5:", "x-ms-blob-content-md5:");
        let headers = format!("{headers}Content-Range: bytes {from}-{last}/{whole}\r\n");
        Answer { headers, body: bytes.slice(from..end), ..Answer::new("206 Partial Content") }
    }

    /// What was put there, or what a run has written there: its input.
    fn blob(&self, place: &str) -> Option<Blob> {
        let id = {
            let storage = lock(&self.blobs);
            match storage.outputs.get(place) {
                Some(id) => id.clone(),
                None => return storage.blobs.get(place).cloned(),
            }
        };
        let input = {
            let runs = lock(&self.runs);
            let run = runs.get(&id)?;
            (run.state(CLOCK.boot()) == StatusCode::Finished).then(|| run.input.clone())?
        };
        lock(&self.blobs).blobs.get(&input).cloned()
    }
}

impl Run {
    fn state(&self, now: Duration) -> StatusCode {
        match self.ends {
            _ if self.cancelled => StatusCode::Cancelled,
            None => StatusCode::NotStarted,
            Some(ends) if now < ends => StatusCode::Running,
            Some(_) => StatusCode::Finished,
        }
    }
}

/// The container and the name in it.
fn place(blob: &BlobReference) -> Option<String> {
    let relative = blob.relative_location.as_deref()?.trim_start_matches('/');
    // Beside a signature it is a part of an address, and encoded as those are.
    let name = match (&blob.sas_blob_token, &blob.connection_string) {
        (Some(_), _) => percent_decode_str(relative).decode_utf8().ok()?.into_owned(),
        (None, Some(_)) => relative.to_owned(),
        (None, None) => return None,
    };
    name.contains('/').then_some(name)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the names of runs begin with that were begun before this did, and go on for good.
pub(crate) const FOR_GOOD: &str = "f0f0f0f0";
/// What a process is that is the remote side.
pub(crate) const ROLE: &str = "remote";
pub(crate) const API_KEY: &str = "key";
const ACCOUNT: &str = "acct";
const SERVICE: &str =
    "workspaces/0123456789abcdef0123456789abcdef/services/fedcba9876543210fedcba9876543210/jobs";
const WRONG: &str = "400 Bad Request";
const NO_METHOD: &str = "405 Method Not Allowed";
const TAG: &str = "ETag: \"1\"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n";
