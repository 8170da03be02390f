//! scoreline carries files through a remote batch-scoring service. This is the map of its code.
//!
//! ```text
//! folder ─► job ─► upload blob ─► submit ─► (commit remote id) ─► start ─► poll ─► download ─► output file
//! ```
//!
//! # The promise
//!
//! *A file that was accepted is never lost, its remote run is started at most once per generation, and an output
//! appears only when it is complete.* Five rules keep it, each in one place:
//!
//! 1. **Submit, commit, start.** The service only registers what is submitted; nothing runs before a start. So the
//!    remote id is committed before the start is sent, and a start whose answer was lost is repeated on the same id,
//!    which the service refuses the second time. A lost answer to submit leaves an orphan that never runs. ([`job`])
//! 2. **No step on uncommitted ground.** A job acts only on a state that the store confirmed; a write names the revision
//!    it follows on, and after a lost answer the row is read before anything else happens. ([`engine`])
//! 3. **The row before the file.** An arrival is committed before its file is moved; every name that something gets is
//!    reserved before it is used. So a crash on either side resumes. ([`intake`], [`engine`])
//! 4. **Acting is for who has the lease.** A job is one node's at a time, and each write names the node; a node that was
//!    silent for too long stops before others begin, and whatever it can't take back asks for the lease right before.
//!    ([`membership`], [`engine::lease`])
//! 5. **Whole or not at all.** An output is downloaded under a hidden name, checked, synced, and only then renamed.
//!    ([`outbox`])
//!
//! # Floors
//!
//! Imports point down only, and files on one floor do not know each other; a test keeps both rules.
//!
//! | floor | modules | |
//! |---|---|---|
//! | 5 roof | `main`, [`daemon`], [`demo`], [`dry_run`], [`store_commands`], [`fuzz`] | builds the adapters, starts the services, waits, drains |
//! | 4 edges | [`cli`], [`http`], [`config`] | what users type, ask and write |
//! | 3 engine | [`engine`], [`intake`], [`membership`], [`upkeep`], [`audit`] | claim, act, apply, commit; check |
//! | 2 adapters | [`store`], [`scoring`], [`blobs`], [`inbox`], [`outbox`], [`clock`], [`identity`], [`traces`], [`sandbox`] | one technology each |
//! | 1 ports | [`ports`], [`metrics`], [`log`], `folder` | what the engine asks of the world |
//! | 0 ground | [`job`], [`feed`], [`schedule`], [`fault`], [`fire`], [`retry`], [`name`], [`table`], [`wire`] | pure |
//!
//! What is true everywhere:
//! * Ground never waits, reads no clock and draws no randomness.
//! * Faults are sorted once, in the adapter that saw them; above it nobody looks at status codes. Retry lives in the
//!   engine alone.
//! * A technology is named in one module: cron and time zones in `schedule`, SQL in `store`, `notify` in `inbox`, Azure's storage in `blobs`, its directory in `identity`, `csv` in `table`, `clap` in `cli`, OpenTelemetry in `traces`.
//! * Only `daemon` spawns tasks that live as long as the program.
//! * Secrets are a type whose `Debug` is masked; none is stored, logged or told in an error.
//!
//! # Reading order
//!
//! `README.md` → this page → [`job`] (the phases) → [`engine`] (the loop) → [`ports`] (the world) → `tests/simulation/simulation.rs`
//! (the promise, held against every way of failing) → `tests/it/boundaries.rs` (a real process killed at every point).

pub mod audit;
pub mod blobs;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod dry_run;
pub mod engine;
pub mod fault;
pub mod feed;
pub mod fire;
mod folder;
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod identity;
pub mod inbox;
pub mod intake;
pub mod job;
pub mod log;
pub mod membership;
pub mod metrics;
pub mod name;
pub mod outbox;
pub mod ports;
pub mod retry;
pub mod sandbox;
pub mod schedule;
pub mod scoring;
pub mod store;
pub mod store_commands;
pub mod table;
pub mod traces;
pub mod upkeep;
pub mod wire;
