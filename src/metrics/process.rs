//! What the kernel knows of this process, under the names that Prometheus' own clients give it. It is read when somebody
//! asks, and is zero where there is no `/proc`.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

#[derive(Clone, Debug)]
pub(super) struct Process {
    resident_memory_bytes: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    cpu_seconds_total: Counter,
    start_time_seconds: Gauge,
}

impl Process {
    /// As things are now.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.look();
        let counts = [&self.resident_memory_bytes, &self.open_fds, &self.max_fds];
        let counts = counts.into_iter().flat_map(Collector::collect);
        let times = self.cpu_seconds_total.collect().into_iter();
        counts.chain(times).chain(self.start_time_seconds.collect()).collect()
    }

    fn look(&self) {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // One of them is ours, to read the folder.
            self.open_fds.set(signed(open.count().saturating_sub(1) as u64));
        }
        self.max_fds.set(getrlimit(Resource::Nofile).current.map_or(i64::MAX, signed));
        let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
        // proc_pid_stat(5): the second field is the program's name in brackets, and may hold anything.
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<u64> =
            fields.split(' ').map(|field| field.trim().parse().unwrap_or_default()).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
        let seconds = |ticks: u64| precise(ticks) / precise(clock_ticks_per_second());
        self.resident_memory_bytes.set(signed(field(24).saturating_mul(page_size() as u64)));
        let spent = seconds(field(14) + field(15)) - self.cpu_seconds_total.get();
        self.cpu_seconds_total.inc_by(spent.max(0.0));
        let booted = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted = booted.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok());
        self.start_time_seconds.set(precise(booted.unwrap_or_default()) + seconds(field(22)));
    }
}

impl Default for Process {
    fn default() -> Self {
        let gauge = |name, help| IntGauge::new(name, help).expect("a legal literal");
        Self {
            resident_memory_bytes: gauge("process_resident_memory_bytes", "Memory in use."),
            open_fds: gauge("process_open_fds", "Open file descriptors."),
            max_fds: gauge("process_max_fds", "How many file descriptors may be open."),
            cpu_seconds_total: Counter::new(
                "process_cpu_seconds_total",
                "CPU time spent, of the user's and the system's.",
            )
            .expect("a legal literal"),
            start_time_seconds: Gauge::new(
                "process_start_time_seconds",
                "When the process began, in seconds since 1970.",
            )
            .expect("a legal literal"),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "ticks and seconds are far below 2^53")]
fn precise(count: u64) -> f64 {
    count as f64
}
