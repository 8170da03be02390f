//! The rules of a feed: which files it takes, what its blobs and outputs are called, what becomes of a source.
//!
//! Everything here answers a question from its arguments alone. Names are bytes, as the file system has them: a name
//! that is no UTF-8 is a name like any other, and only what must be text (a blob's name, a screen) is made so.

use std::ffi::OsStr;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::job::{FileIdentity, Job, JobId, Phase, Sha256};
pub use crate::name::{Name, SourcePath};
use crate::retry::Policy;
use crate::schedule::Schedule;

mod fixed;
mod template;
mod watch;

pub use fixed::{Again, Fixed, FixedPlace, blob_identity};
pub use template::{Template, candidate};
pub use watch::{DoneMarker, Order, OrderBy, Ready, Watch, Zero};

/// A configured route: where inputs come from, which endpoint scores them, where outputs go.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Its name, a label in metrics.
    pub name: Name,
    /// The endpoint that scores.
    pub endpoint: Name,
    /// The storage that blobs go to.
    pub storage: Name,
    /// Remote runs at once over all nodes of the site; `None`: as many as the endpoint's own limit leaves.
    pub max_in_flight: Option<usize>,
    /// How fast this node may transfer for it.
    pub rates: Rates,
    /// The service's input; `None` for the single-input form.
    pub input: Option<String>,
    /// Parameters of the web service, in order of their names.
    pub parameters: Vec<(String, String)>,
    /// The service's outputs that are directed into our storage, each with its file name in the delivery folder.
    pub outputs: Vec<(String, Template)>,
    /// What small inputs take instead.
    pub fast_lane: Option<FastLane>,
    /// The drop folder.
    pub watch: Option<Watch>,
    /// What each fire takes where there is no drop folder.
    pub fixed: Option<Fixed>,
    /// When inputs are taken; `None`: as soon as they are ready.
    pub schedule: Option<Schedule>,
    /// Where outputs go.
    pub deliver: Delivery,
    /// What becomes of a source.
    pub source: SourceRules,
    /// What is not scored twice.
    pub duplicates: Duplicates,
    /// How long its jobs' blobs are kept.
    pub keep_blobs: KeepBlobs,
    /// When to try again.
    pub policy: Policy,
}

/// How long blobs are kept, from the end of their job on; `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepBlobs {
    /// Of a job that succeeded, or was none to score.
    pub succeeded: Option<Duration>,
    /// Of a job that failed or was cancelled: a retry may need them.
    pub failed: Option<Duration>,
}

impl Default for KeepBlobs {
    fn default() -> Self {
        let month = Some(Duration::from_hours(30 * 24));
        Self { succeeded: month, failed: month }
    }
}

/// A shorter way for small inputs: another endpoint, which scores them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastLane {
    /// The endpoint.
    pub endpoint: Name,
    /// The most rows of an input, its header not counted.
    pub max_rows: usize,
    /// The most bytes of one; a larger one is not looked into.
    pub max_bytes: u64,
}

/// How fast bytes may pass, in bytes a second; `None`: as fast as they can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// To the storage.
    pub upload: Option<NonZeroU64>,
    /// From the storage.
    pub download: Option<NonZeroU64>,
}

/// Where and how outputs are delivered.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The folder.
    pub folder: PathBuf,
    /// What happens when the name is taken.
    pub on_conflict: OnConflict,
    /// Write `NAME.done` once all outputs of a job are in place.
    pub marker: bool,
}

/// What happens when an output's name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// `name-1.csv`, `name-2.csv`, …
    Suffix,
    /// The newer output takes the name.
    Replace,
    /// The job fails, and its output stays in blob storage.
    Fail,
}

/// What becomes of sources.
#[derive(Clone, Debug)]
pub struct SourceRules {
    /// After success.
    pub on_success: SourceEnd,
    /// After failure or cancellation.
    pub on_failure: SourceEnd,
    /// What a source is called in the folder of `on_success`.
    pub archive_name: Template,
    /// What a source is called in the folder of `on_failure`.
    pub failed_name: Template,
    /// How long a source is kept, from the end of its job on, before it is deleted.
    pub delete_grace: Duration,
}

impl SourceRules {
    /// Sources that keep their paths where they are moved to, and are deleted at once where they are deleted.
    pub fn new(on_success: SourceEnd, on_failure: SourceEnd) -> Self {
        let (archive_name, failed_name) = (Template::same_path(), Template::same_path());
        Self { on_success, on_failure, archive_name, failed_name, delete_grace: Duration::ZERO }
    }

    /// What becomes of a job's source.
    pub fn end(&self, job: &Job) -> &SourceEnd {
        if has_failed(job) { &self.on_failure } else { &self.on_success }
    }

    /// What a job's source is called in the folder that it moves to; `ended_at` is when the job's fate was decided.
    pub fn name(&self, job: &Job, ended_at: DateTime<Utc>) -> PathBuf {
        // Beside one that failed lie a report, and a wish to try again.
        let (template, beside) = if has_failed(job) {
            (&self.failed_name, REPORT_BYTES)
        } else {
            (&self.archive_name, 0)
        };
        template.source(job, ended_at, beside)
    }

    /// Whether the name of a job's source depends on the time.
    pub fn is_dated(&self, job: &Job) -> bool {
        let template = if has_failed(job) { &self.failed_name } else { &self.archive_name };
        template.is_dated()
    }
}

/// Whether a job has come to the end that `on_failure` is for.
fn has_failed(job: &Job) -> bool {
    matches!(job.phase(), Phase::Failed | Phase::Cancelled)
}

/// What becomes of a source at the end of its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEnd {
    /// It moves to this folder.
    Move(PathBuf),
    /// It is deleted.
    Delete,
    /// It stays, or returns to, where it was.
    Leave,
}

/// What is not scored twice unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicates {
    /// What makes two inputs the same.
    pub by: Sameness,
    /// What becomes of the later one.
    pub then: OnDuplicate,
    /// How long an input is remembered, from when its job first asked for a run.
    pub within: Duration,
}

impl Default for Duplicates {
    fn default() -> Self {
        let within = Duration::from_hours(365 * 24);
        Self { by: Sameness::PathAndContent, then: OnDuplicate::Skip, within }
    }
}

/// What makes two inputs of a feed the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    /// The same content under the same path.
    PathAndContent,
    /// The same content.
    Content,
    /// The same path, whatever is in it.
    Path,
    /// Nothing.
    Nothing,
}

/// What becomes of an input that was scored before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDuplicate {
    /// Its job is skipped, and tells of the earlier one.
    Skip,
    /// It is scored again.
    Rerun,
    /// Its job fails.
    Fail,
}

impl Feed {
    /// What a job's input is held against what was scored before by, if it is. Whole contents count, by length and
    /// hash: a shared header or a file's number make no two inputs the same. A run that somebody asked for is none that
    /// comes by itself.
    pub fn sameness(&self, job: &Job) -> Option<Sha256> {
        let asked_for = job.generation() > 1 || job.sent().is_some_and(|sent| sent.again);
        if asked_for || self.duplicates.then == OnDuplicate::Rerun {
            return None;
        }
        let (by_path, by_content) = match self.duplicates.by {
            Sameness::PathAndContent => (true, true),
            Sameness::Content => (false, true),
            Sameness::Path => (true, false),
            Sameness::Nothing => return None,
        };
        let mut digest = sha2::Sha256::new_with_prefix(self.name.as_str());
        if by_content {
            let input = job.uploaded()?;
            digest.update([0, 1]);
            digest.update(input.size_bytes().to_be_bytes());
            digest.update(input.sha256()?.0);
        }
        if by_path {
            digest.update([0, 2]);
            digest.update(job.path().as_bytes());
        }
        Some(Sha256(digest.finalize().into()))
    }

    /// The file that its fires take, if they take one file.
    pub fn fixed_file(&self) -> Option<&PathBuf> {
        match self.fixed.as_ref().map(|fixed| &fixed.place) {
            Some(FixedPlace::File(path)) => Some(path),
            _ => None,
        }
    }

    /// Where its inputs come from, for people.
    pub fn takes_from(&self) -> String {
        match (&self.watch, self.fixed.as_ref().map(|fixed| &fixed.place)) {
            (Some(watch), _) => watch.folder.display().to_string(),
            (None, Some(FixedPlace::File(path))) => path.display().to_string(),
            (None, Some(FixedPlace::Blobs(prefix))) => format!("blobs under {prefix}"),
            (None, None) => "what is sent to it".to_owned(),
        }
    }

    /// Whether the source is moved out of sight while its job runs. One that stays where it is in any case is read
    /// where it is: that is also the way for folders that may not be written.
    pub fn moves_sources(&self) -> bool {
        self.source.on_success != SourceEnd::Leave || self.source.on_failure != SourceEnd::Leave
    }

    /// Where a taken source is while its job runs: on the folder's own file system, in a directory of its own, so
    /// that it keeps its name and no name is too long.
    pub fn work_path(watch: &Watch, job: JobId, path: &SourcePath) -> PathBuf {
        Self::work_folder(watch).join(job.to_string()).join(path.file_name())
    }

    /// The folder that holds taken sources; it is never scanned.
    pub fn work_folder(watch: &Watch) -> PathBuf {
        watch.folder.join(OWN_FOLDER).join("work")
    }

    /// The blob that a source is uploaded to. A try that follows on one that was cut short, by whichever node, has the
    /// same, so that it goes on from there; a file that changed meanwhile has another, and so has a try after one that
    /// counted, as when somebody else's blob has the name. Several writers may have it in common, since a blob is created
    /// once and never replaced.
    pub fn input_blob(&self, job: &Job, source: FileIdentity) -> String {
        let FileIdentity { inode, size_bytes, mtime_ns } = source;
        let digest = sha2::Sha256::digest(format!("{inode} {size_bytes} {mtime_ns}"));
        let source = &Sha256(digest.into()).to_string()[..12];
        let (name, id, generation) = (&self.name, job.id(), job.generation());
        let (attempts, file) = (job.attempts(), legal_blob_name(job.path().file_name()));
        format!("{name}/{id}/{generation}.{attempts}-{source}/{file}")
    }

    /// The blob of an input that is sent: of the job whose id was drawn for it, in a place that no try of a file's has.
    pub fn sent_blob(&self, id: JobId, path: &SourcePath) -> String {
        format!("{}/{id}/0-sent/{}", self.name, legal_blob_name(path.file_name()))
    }

    /// Whether an input may be empty.
    pub fn takes_empty(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.zero == Zero::Accept)
    }

    /// The blob that the service is asked to write an output to. The extension decides the format that the service
    /// writes, and it refuses all but four (`InvalidBlobExtension`): that of the output's file name where it is one of
    /// them, else CSV.
    pub fn output_blob(&self, job: &Job, output: &str, template: Option<&Template>) -> String {
        let wanted = template.and_then(Template::extension).unwrap_or_default();
        let extension =
            OUTPUT_EXTENSIONS.into_iter().find(|known| wanted.eq_ignore_ascii_case(known));
        let extension = extension.unwrap_or("csv");
        let output = legal_blob_name(OsStr::new(output));
        let (name, id) = (&self.name, job.id());
        // The revision changes with every owner and every try, so no two runs are asked to write the same.
        let (generation, revision) = (job.generation(), job.revision());
        format!("{name}/{id}/{generation}-{revision}/out/{output}.{extension}")
    }

    /// What the names of all its jobs' blobs begin with.
    pub fn blob_prefix(&self) -> String {
        format!("{}/", self.name)
    }

    /// The job that a blob is of, by its name.
    pub fn job_of_blob(&self, blob: &str) -> Option<JobId> {
        let (id, rest) = blob.strip_prefix(&self.blob_prefix())?.split_once('/')?;
        let (try_of, _) = rest.split_once('/')?;
        let is_ours = try_of.starts_with(|c: char| c.is_ascii_digit()) && try_of.contains('-');
        JobId::parse(id).filter(|_| is_ours)
    }

    /// The file name of an output, relative to the delivery folder. An output that the config doesn't name gets
    /// `{stem}.{output}` and the extension of its blob.
    pub fn output_path(&self, job: &Job, output: &str, blob: &str) -> PathBuf {
        if let Some((_, template)) = self.outputs.iter().find(|(name, _)| name == output) {
            return template.output(job, output);
        }
        let file = blob.rsplit('/').next().unwrap_or_default();
        let extension = file.rsplit_once('.').map(|(_, extension)| extension);
        let extension = extension.filter(|extension| !extension.is_empty());
        Template::of_unnamed_output(extension).output(job, output)
    }
}

/// Which files of a folder a feed takes.
#[derive(Clone, Debug)]
pub struct Filter {
    // Shared: every clone of a feed has them.
    include: Arc<Globs>,
    exclude: Arc<Globs>,
}

impl Filter {
    /// From globs; one without a slash is held against the file's name, one with a slash against its path in the
    /// folder. No `include` means every file. The error names the pattern.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, String> {
        let globs = |patterns: &[String]| Globs::new(patterns).map(Arc::new);
        Ok(Self { include: globs(include)?, exclude: globs(exclude)? })
    }

    /// Every file that isn't hidden or unfinished.
    pub(crate) fn all() -> Self {
        let none = Globs { names: GlobSet::empty(), paths: GlobSet::empty() };
        let none = Arc::new(none);
        Self { include: none.clone(), exclude: none }
    }

    /// Whether a file is for this feed. Names that begin with a dot, and those that programs give to files they are
    /// still writing, never are: the rename to the final name brings them back.
    pub fn takes(&self, path: &SourcePath) -> bool {
        self.refusal(path).is_none()
    }

    /// Why a file is not for this feed; `None` when it is.
    pub fn refusal(&self, path: &SourcePath) -> Option<Refusal> {
        let hidden = path.as_path().components().any(|part| part.as_os_str().as_bytes()[0] == b'.');
        let name = path.file_name().as_bytes().to_ascii_lowercase();
        let unfinished = name.starts_with(b"~$")
            || name.starts_with(b"~syncthing~")
            || UNFINISHED_ENDS.iter().any(|end| name.ends_with(end.as_bytes()));
        if hidden {
            Some(Refusal::Hidden)
        } else if unfinished {
            Some(Refusal::Unfinished)
        } else if !self.include.empty() && !self.include.match_any(path) {
            Some(Refusal::NotIncluded)
        } else {
            self.exclude.match_any(path).then_some(Refusal::Excluded)
        }
    }
}

/// Why a file is not for a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its name, or a folder's on the way, begins with a dot.
    Hidden,
    /// Its name is one that programs give to files that they are still writing.
    Unfinished,
    /// No glob of `include` is for it.
    NotIncluded,
    /// A glob of `exclude` is for it.
    Excluded,
}

#[derive(Clone, Debug)]
struct Globs {
    names: GlobSet,
    paths: GlobSet,
}

impl Globs {
    fn new(patterns: &[String]) -> Result<Self, String> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern)
                .literal_separator(true)
                .build()
                .map_err(|error| format!("{pattern:?} is not a glob: {}", error.kind()))?;
            if pattern.contains('/') {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        let built = |set: GlobSetBuilder| set.build().map_err(|error| error.to_string());
        Ok(Self { names: built(names)?, paths: built(paths)? })
    }

    fn empty(&self) -> bool {
        self.names.is_empty() && self.paths.is_empty()
    }

    fn match_any(&self, path: &SourcePath) -> bool {
        self.names.is_match(path.file_name()) || self.paths.is_match(path.as_path())
    }
}

/// A file's name as a part of a blob's name: what every service and tool on the way reads alike. The name itself goes
/// along as metadata.
fn legal_blob_name(name: &OsStr) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = name.to_string_lossy().chars().map(legal).collect();
    let (stem, extension) =
        name.rsplit_once('.').map_or((name.as_str(), None), |(s, e)| (s, Some(e)));
    let stem = stem.trim_matches('.');
    let stem: String =
        if stem.is_empty() { "input".into() } else { stem.chars().take(100).collect() };
    match extension.filter(|extension| !extension.is_empty() && extension.len() <= 16) {
        Some(extension) => format!("{stem}.{extension}"),
        None => stem,
    }
}

/// The daemon's own folder inside a watched or a delivery folder.
pub const OWN_FOLDER: &str = ".scoreline";

/// The longest name that something beside a failed source gets has so many bytes more than the source's: `.retry.refused`.
const REPORT_BYTES: usize = 14;
/// What the service writes: data in three forms, and trained models.
const OUTPUT_EXTENSIONS: [&str; 4] = ["csv", "tsv", "arff", "ilearner"];
const UNFINISHED_ENDS: [&str; 5] = [".part", ".partial", ".filepart", ".tmp", ".crdownload"];

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::fault::{Fault, Origin};
    use crate::job::tests::queued;
    use crate::job::{Outcome, Turn, apply};

    fn path(text: &str) -> SourcePath {
        SourcePath::new(Path::new(text)).unwrap()
    }

    #[test]
    fn a_filter_takes_what_its_globs_say_and_never_what_is_unfinished() {
        let globs = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let filter = Filter::new(&globs(&["*.csv", "deep/*/x.txt"]), &globs(&["no*"])).unwrap();
        for (name, taken) in [
            ("a.csv", true),
            ("deep/b.csv", true),
            ("deep/down/x.txt", true),
            ("x.txt", false),
            ("a.CSV", false),
            ("no.csv", false),
            (".a.csv", false),
            (".scoreline/work/a.csv", false),
            ("~$a.csv", false),
            ("[x]{y}.csv", true),
        ] {
            assert_eq!(filter.takes(&path(name)), taken, "{name}");
        }
        let all = Filter::new(&[], &[]).unwrap();
        assert!(all.takes(&path("anything")));
        for unfinished in ["a.csv.part", "a.csv.FILEPART", "a.tmp", "a.crdownload"] {
            assert!(!all.takes(&path(unfinished)), "{unfinished}");
        }
        assert!(Filter::new(&globs(&["[a"]), &[]).unwrap_err().contains("\"[a\""));
    }

    #[test]
    fn an_input_goes_on_under_its_name_until_the_file_or_the_count_changes() {
        let (feed, job) = (sample_feed(), queued("a.csv"));
        let file = FileIdentity { inode: 1, size_bytes: 2, mtime_ns: 3 };
        let blob = feed.input_blob(&job, file);
        assert!(blob.contains("/1.0-") && blob.ends_with("/a.csv"), "{blob}");
        let step = |fault| {
            let (turn, policy) =
                (Turn { now: job.updated_at(), tries: 0, outage: false }, Policy::default());
            apply(job.clone(), Outcome::Fault(fault), turn, &policy).unwrap().job
        };
        let cut = step(Fault::unavailable(Origin::Storage, "broken", "cut"));
        assert!(cut.revision() > job.revision());
        assert_eq!(feed.input_blob(&cut, file), blob);
        let taken = step(Fault::transient(Origin::Storage, "blob_taken", "taken"));
        assert!(feed.input_blob(&taken, file).contains("/1.1-"));
        for other in [
            FileIdentity { inode: 9, ..file },
            FileIdentity { size_bytes: 9, ..file },
            FileIdentity { mtime_ns: 9, ..file },
        ] {
            assert_ne!(feed.input_blob(&job, other), blob);
        }
    }

    #[test]
    fn an_output_blob_has_an_extension_that_the_service_writes() {
        let feed = sample_feed();
        let job = queued("a.csv");
        for (template, end) in [
            ("{stem}.tsv", ".tsv"),
            ("{stem}.CSV", ".csv"),
            ("{stem}.txt", ".csv"),
            ("{stem}", ".csv"),
            ("{stem}.model.ilearner", ".ilearner"),
        ] {
            let blob = feed.output_blob(&job, "out", Some(&Template::parse(template).unwrap()));
            assert!(blob.ends_with(&format!("/1-1/out/out{end}")), "{template}: {blob}");
        }
    }

    #[test]
    fn an_output_that_nobody_named_keeps_the_extension_of_its_blob() {
        let (feed, job) = (sample_feed(), queued("a.csv"));
        let path = |blob| feed.output_path(&job, "model/1", blob);
        assert_eq!(path("experimentoutput/x.y/z.ilearner"), PathBuf::from("a.model_1.ilearner"));
        assert_eq!(path("experimentoutput/x.y/z"), PathBuf::from("a.model_1"));
    }

    pub(crate) fn sample_feed() -> Feed {
        let name = |text: &str| Name::try_from(text.to_owned()).unwrap();
        Feed {
            name: name("churn"),
            endpoint: name("e"),
            storage: name("s"),
            max_in_flight: None,
            rates: Rates::default(),
            input: None,
            parameters: Vec::new(),
            outputs: Vec::new(),
            fast_lane: None,
            watch: None,
            fixed: None,
            schedule: None,
            deliver: Delivery {
                folder: "/out".into(),
                on_conflict: OnConflict::Suffix,
                marker: false,
            },
            source: SourceRules::new(SourceEnd::Leave, SourceEnd::Leave),
            duplicates: Duplicates::default(),
            keep_blobs: KeepBlobs::default(),
            policy: Policy::default(),
        }
    }

    #[test]
    fn blob_names_are_plain_whatever_the_file_is_called() {
        for (name, blob) in [
            ("plain.csv", "plain.csv"),
            ("a b%+'\"ü.csv", "a_b_____.csv"),
            ("..csv", "input.csv"),
            ("no extension", "no_extension"),
            ("dot.", "dot"),
        ] {
            assert_eq!(legal_blob_name(OsStr::new(name)), blob, "{name}");
        }
        assert!(legal_blob_name(OsStr::new(&"x".repeat(255))).len() <= 100);
    }
}
