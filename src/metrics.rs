//! Everything that is counted, under the names that users script against (prefix `scoreline_`).
//!
//! Labels come from the config or from a closed set, never from a job, and every series is there from the start: an
//! alert on a rate must not wait for the first event.

mod process;

use chrono::{DateTime, Utc};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::fault::Class;
use crate::feed::Name;
use crate::fire::Reason;
use crate::job::{Action, Phase};

use self::process::Process;

/// The daemon's metrics.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each has its help text below, which users see too")]
pub struct Metrics {
    registry: Registry,
    process: Process,
    pub node_info: IntGaugeVec,
    pub jobs: IntGaugeVec,
    pub jobs_held: IntGaugeVec,
    pub remote_runs_in_flight: IntGaugeVec,
    pub endpoint_suspended: IntGaugeVec,
    pub endpoint_concurrency: IntGaugeVec,
    pub budget_remaining_calls: IntGaugeVec,
    pub storage_suspended: IntGaugeVec,
    pub poll_lateness_seconds: Gauge,
    pub due_lag_seconds: Gauge,
    pub inbox_files: IntGaugeVec,
    pub inbox_oldest_file_age_seconds: GaugeVec,
    pub last_success_timestamp_seconds: GaugeVec,
    pub schedule_next_fire_timestamp_seconds: GaugeVec,
    pub schedule_fires_total: IntCounterVec,
    pub expected_file_missing: IntGaugeVec,
    pub feed_paused: IntGaugeVec,
    pub orphan_blobs: IntGaugeVec,
    pub state_dir_free_bytes: IntGauge,
    pub jobs_unowned: IntGauge,
    pub node_lease_margin_seconds: Gauge,
    pub job_transitions_total: IntCounterVec,
    pub step_faults_total: IntCounterVec,
    pub remote_requests_total: IntCounterVec,
    pub remote_runs_started_total: IntCounterVec,
    pub uploaded_bytes_total: IntCounterVec,
    pub downloaded_bytes_total: IntCounterVec,
    pub blobs_deleted_total: IntCounterVec,
    pub stale_writes_total: IntCounter,
    pub jobs_adopted_total: IntCounterVec,
    pub job_duration_seconds: HistogramVec,
    pub phase_duration_seconds: HistogramVec,
    pub remote_request_duration_seconds: HistogramVec,
    pub inbox_scan_duration_seconds: HistogramVec,
    pub store_commit_duration_seconds: Histogram,
    pub store_commit_rows: Histogram,
    pub store_bytes: IntGauge,
    pub store_rows: IntGaugeVec,
    pub retention_deleted_rows_total: IntCounterVec,
    pub config_last_reload_successful: IntGauge,
    pub config_last_reload_success_timestamp_seconds: Gauge,
}

impl Metrics {
    /// All metrics at zero, with a series for each of the config's names.
    pub fn new(feeds: &[Name], endpoints: &[Name], storages: &[Name]) -> Self {
        let registry = Registry::new_custom(Some("scoreline".into()), None)
            .expect("the prefix is a legal metric name");
        let make = Maker { registry: &registry };
        let metrics = Self {
            node_info: make.gauges(
                "node_info",
                "The node: its name, and its site, whose nodes see the same folders.",
                &["node", "site"],
            ),
            jobs: make.gauges("jobs", "Jobs of this node that are not final, by phase.", &["feed", "phase"]),
            jobs_held: make.gauges("jobs_held", "Jobs that wait for a person.", &["feed"]),
            remote_runs_in_flight: make.gauges(
                "remote_runs_in_flight",
                "Remote runs that may be running.",
                &["endpoint"],
            ),
            endpoint_suspended: make.gauges(
                "endpoint_suspended",
                "1 while nothing is sent to the endpoint because it can't succeed.",
                &["endpoint"],
            ),
            endpoint_concurrency: make.gauges(
                "endpoint_concurrency",
                "Calls that may go on at once; lowered while the endpoint refuses for load.",
                &["endpoint"],
            ),
            budget_remaining_calls: make.gauges(
                "budget_remaining_calls",
                "Calls that a budget has left, in any minute and in the present seven days; every node shows the same.",
                &["budget", "window"],
            ),
            storage_suspended: make.gauges(
                "storage_suspended",
                "1 while nothing is sent to the storage because it can't succeed.",
                &["storage"],
            ),
            poll_lateness_seconds: make.seconds("poll_lateness_seconds", "How late the latest look at a remote run was in the last second, or is by now; 0 when none is due."),
            due_lag_seconds: make.seconds("due_lag_seconds", "How long the oldest job that could be worked on has waited for its turn."),
            inbox_files: make.gauges(
                "inbox_files",
                "Files in the drop folder at the last look, by what holds them back.",
                &["feed", "state"],
            ),
            inbox_oldest_file_age_seconds: make.seconds_by(
                "inbox_oldest_file_age_seconds",
                "How long the oldest file without a job has been there.",
                &["feed"],
            ),
            last_success_timestamp_seconds: make.seconds_by(
                "last_success_timestamp_seconds",
                "When a job of the feed last succeeded, in seconds since 1970; 0 for never since the start.",
                &["feed"],
            ),
            schedule_next_fire_timestamp_seconds: make.seconds_by(
                "schedule_next_fire_timestamp_seconds",
                "When the feed's schedule fires next, in seconds since 1970; 0 without a schedule, and where another node has the feed's folder.",
                &["feed"],
            ),
            schedule_fires_total: make.counters(
                "schedule_fires_total",
                "Fires of the feed, by its schedule or by hand, that this node decided about: ran, or why not.",
                &["feed", "result"],
            ),
            expected_file_missing: make.gauges(
                "expected_file_missing",
                "1 while nothing has come by the time that schedule.expect_by names.",
                &["feed"],
            ),
            feed_paused: make.gauges("feed_paused", "1 while the feed is paused.", &["feed"]),
            orphan_blobs: make.gauges(
                "orphan_blobs",
                "Blobs under the feed's name, at the last look, of jobs that the store doesn't have.",
                &["feed"],
            ),
            state_dir_free_bytes: make.gauge("state_dir_free_bytes", "Free space where the state is kept."),
            jobs_unowned: make.gauge("jobs_unowned", "Jobs of the site that no living node has; every node shows the same."),
            node_lease_margin_seconds: make.seconds(
                "node_lease_margin_seconds",
                "What was left of the node's lease when it last asked for more; at 0 it stops working. All of it, always, with the embedded store.",
            ),
            job_transitions_total: make.counters("job_transitions_total", "Committed moves of jobs into a phase; of new ones into queued.", &["feed", "to"]),
            step_faults_total: make.counters(
                "step_faults_total",
                "Steps of jobs that met a fault, by what can be done about it.",
                &["feed", "step", "class"],
            ),
            remote_requests_total: make.counters(
                "remote_requests_total",
                "Calls to the endpoint by HTTP status, or by what kept an answer away.",
                &["endpoint", "operation", "status"],
            ),
            remote_runs_started_total: make.counters(
                "remote_runs_started_total",
                "Remote runs that the endpoint said were started.",
                &["endpoint"],
            ),
            uploaded_bytes_total: make.counters("uploaded_bytes_total", "Bytes of inputs put into blob storage.", &["feed"]),
            downloaded_bytes_total: make.counters("downloaded_bytes_total", "Bytes of outputs fetched.", &["feed"]),
            blobs_deleted_total: make.counters(
                "blobs_deleted_total",
                "Blobs cleaned away after their jobs' end.",
                &["feed"],
            ),
            stale_writes_total: make.counter("stale_writes_total", "Writes refused because the job had moved on elsewhere."),
            jobs_adopted_total: make.counters("jobs_adopted_total", "Jobs taken over, by reason.", &["reason"]),
            job_duration_seconds: make.histograms(
                "job_duration_seconds",
                "From acceptance to the job's end.",
                &["feed", "result"],
                &JOB_SECONDS,
            ),
            phase_duration_seconds: make.histograms(
                "phase_duration_seconds",
                "Time that jobs spent in a phase, as far as this node had them.",
                &["feed", "phase"],
                &JOB_SECONDS,
            ),
            remote_request_duration_seconds: make.histograms(
                "remote_request_duration_seconds",
                "Calls to the endpoint, until the whole answer was there.",
                &["endpoint", "operation"],
                &CALL_SECONDS,
            ),
            inbox_scan_duration_seconds: make.histograms(
                "inbox_scan_duration_seconds",
                "Looks at the drop folder.",
                &["feed"],
                &CALL_SECONDS,
            ),
            store_commit_duration_seconds: make.histogram("store_commit_duration_seconds", "Commits of the store.", &COMMIT_SECONDS),
            store_commit_rows: make.histogram("store_commit_rows", "Transitions in one commit.", &COMMIT_ROWS),
            store_bytes: make.gauge(
                "store_bytes",
                "Space that the store takes, indexes with it; every node shows the same.",
            ),
            store_rows: make.gauges(
                "store_rows",
                "Rows in the store's tables, about; every node shows the same.",
                &["table"],
            ),
            retention_deleted_rows_total: make.counters(
                "retention_deleted_rows_total",
                "Rows deleted because they had outlived their time.",
                &["table"],
            ),
            config_last_reload_successful: make.gauge(
                "config_last_reload_successful",
                "0 while the config that was asked for last is not in force because it was refused.",
            ),
            config_last_reload_success_timestamp_seconds: make.seconds(
                "config_last_reload_success_timestamp_seconds",
                "When the config in force was read, in seconds since 1970.",
            ),
            process: Process::default(),
            registry: registry.clone(),
        };
        let info = make.gauges("build_info", "The running program.", &["version", "revision"]);
        info.with_label_values(&[
            env!("CARGO_PKG_VERSION"),
            option_env!("SCORELINE_REVISION").unwrap_or("unknown"),
        ])
        .set(1);
        metrics.know(feeds, endpoints, storages);
        metrics
    }

    /// The config that was read now is in force.
    pub fn config_is_in_force(&self, now: DateTime<Utc>) {
        self.config_last_reload_successful.set(1);
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in an f64")]
        self.config_last_reload_success_timestamp_seconds.set(now.timestamp() as f64);
    }

    /// Shows how things stand with a feed no more: the config names it no longer. What was counted of it stays.
    pub fn forget_feed(&self, feed: &Name) {
        let feed = [feed.as_str()];
        for state in INBOX_STATES {
            let _ = self.inbox_files.remove_label_values(&[feed[0], state]);
        }
        for gauge in [&self.expected_file_missing, &self.feed_paused, &self.orphan_blobs] {
            let _ = gauge.remove_label_values(&feed);
        }
        for gauge in [
            &self.inbox_oldest_file_age_seconds,
            &self.last_success_timestamp_seconds,
            &self.schedule_next_fire_timestamp_seconds,
        ] {
            let _ = gauge.remove_label_values(&feed);
        }
    }

    /// In Prometheus' text format.
    pub fn text(&self) -> String {
        // Fails only for a metric without a series, and such a one is left out of `gather`.
        let families = [self.registry.gather(), self.process.gather()].concat();
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }

    /// Has a series for each of these names from here on.
    pub fn know<'a>(
        &self,
        feeds: impl IntoIterator<Item = &'a Name>,
        endpoints: impl IntoIterator<Item = &'a Name>,
        storages: impl IntoIterator<Item = &'a Name>,
    ) {
        for feed in feeds.into_iter().map(Name::as_str) {
            for phase in Phase::ALL {
                self.job_transitions_total.with_label_values(&[feed, phase.name()]);
                if phase.is_final() {
                    self.job_duration_seconds.with_label_values(&[feed, phase.name()]);
                } else {
                    self.jobs.with_label_values(&[feed, phase.name()]);
                    self.phase_duration_seconds.with_label_values(&[feed, phase.name()]);
                }
            }
            for (action, class) in Action::ALL.iter().flat_map(|a| Class::NAMES.map(|c| (a, c))) {
                self.step_faults_total.with_label_values(&[feed, action.name(), class]);
            }
            for state in INBOX_STATES {
                self.inbox_files.with_label_values(&[feed, state]);
            }
            self.jobs_held.with_label_values(&[feed]);
            self.orphan_blobs.with_label_values(&[feed]);
            self.blobs_deleted_total.with_label_values(&[feed]);
            self.inbox_oldest_file_age_seconds.with_label_values(&[feed]);
            self.last_success_timestamp_seconds.with_label_values(&[feed]);
            self.schedule_next_fire_timestamp_seconds.with_label_values(&[feed]);
            self.expected_file_missing.with_label_values(&[feed]);
            self.feed_paused.with_label_values(&[feed]);
            for result in Reason::ALL.map(Reason::name).into_iter().chain(["ran"]) {
                self.schedule_fires_total.with_label_values(&[feed, result]);
            }
            self.uploaded_bytes_total.with_label_values(&[feed]);
            self.downloaded_bytes_total.with_label_values(&[feed]);
            self.inbox_scan_duration_seconds.with_label_values(&[feed]);
        }
        for endpoint in endpoints.into_iter().map(Name::as_str) {
            self.remote_runs_in_flight.with_label_values(&[endpoint]);
            self.endpoint_suspended.with_label_values(&[endpoint]);
            self.endpoint_concurrency.with_label_values(&[endpoint]);
            self.remote_runs_started_total.with_label_values(&[endpoint]);
            for operation in OPERATIONS {
                self.remote_requests_total.with_label_values(&[endpoint, operation, "200"]);
                self.remote_request_duration_seconds.with_label_values(&[endpoint, operation]);
            }
        }
        for storage in storages.into_iter().map(Name::as_str) {
            self.storage_suspended.with_label_values(&[storage]);
        }
        for table in STORE_TABLES {
            self.store_rows.with_label_values(&[table]);
            self.retention_deleted_rows_total.with_label_values(&[table]);
        }
        for reason in ADOPTION_REASONS {
            self.jobs_adopted_total.with_label_values(&[reason]);
        }
    }
}

/// What holds a file in a drop folder back: the label `state` of `inbox_files`.
pub const INBOX_STATES: [&str; 4] = ["ready", "settling", "denied", "ignored"];
/// The label `operation` of the metrics of remote calls.
pub const OPERATIONS: [&str; 6] = ["submit", "start", "status", "cancel", "execute", "probe"];
/// The label `table` of the metrics of the store: jobs that are not final, those that are, what happened to them, the files
/// that were accepted, their contents, and the fires of schedules.
pub const STORE_TABLES: [&str; 6] = ["job", "history", "event", "arrival", "content", "fire"];
/// The label `reason` of `jobs_adopted_total`.
pub const ADOPTION_REASONS: [&str; 2] = ["free", "dead_node"];

/// From what is scored at once to a week; finest where most jobs are, between a minute and some hours.
const JOB_SECONDS: [f64; 18] = [
    0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14_400.0,
    28_800.0, 86_400.0, 259_200.0, 604_800.0,
];
/// From a call on loopback to the longest time-out, which is that of a call that scores at once.
const CALL_SECONDS: [f64; 14] =
    [0.001, 0.003, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0];
/// From a commit without a sync to the time-out of the store's adapters.
const COMMIT_SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Up to what the engine writes at once.
const COMMIT_ROWS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];

struct Maker<'a> {
    registry: &'a Registry,
}

/// Names and labels are the literals above, each registered once: making one can't fail, and a mistake shows at the
/// first start of any test.
impl Maker<'_> {
    fn add<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: prometheus::Result<M>,
    ) -> M {
        let metric = metric.expect("names, labels and buckets are legal literals");
        self.registry.register(Box::new(metric.clone())).expect("each name is registered once");
        metric
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn seconds(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    fn seconds_by(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(opts, labels))
    }
}
