//! What comes from outside, made ever more wrong: each target of `scoreline::fuzz` keeps its promise on every input that was
//! kept under `corpus`, and `make fuzz` looks for more.
//!
//! The search is a plain one, so that it needs no other compiler: inputs are changed at random, and whichever leads to an
//! outcome that none led to before is changed further. A seed repeats it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use scoreline::clock::SystemClock;
use scoreline::fuzz::{Property, TARGETS};
use scoreline::ports::Clock as _;

#[test]
fn every_kept_input_is_survived_and_shows_nothing() {
    crate::rig::with_tls();
    for (target, property) in TARGETS {
        let kept = kept(target);
        assert!(kept.len() >= 5, "{target} has hardly any inputs");
        for (name, data) in kept {
            if let Err(broken) = outcome(property, &data) {
                panic!("{target}/{name}: {broken}");
            }
        }
    }
}

#[test]
fn what_nests_without_end_is_survived_by_everything() {
    for open in ["[", "{\"a\":", "<a>", "a.", "[[", "\"", "{error:", "x = [", "%"] {
        for (target, property) in TARGETS {
            for around in ["", "{\"StatusCode\":4,\"Results\":", "400\n\n", "[endpoints.e]\nurl = "]
            {
                let data = format!("{around}{}", open.repeat(100_000));
                if let Err(broken) = outcome(property, data.as_bytes()) {
                    panic!("{target}, {open:?} after {around:?}: {broken}");
                }
            }
        }
    }
}

#[test]
#[ignore = "a search without end: make fuzz"]
fn make_fuzz() {
    let number =
        |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seconds, seed) = (number("FUZZ_SECONDS", 30), number("FUZZ_SEED", 1));
    let only = std::env::var("FUZZ_TARGET").unwrap_or_default();
    crate::rig::with_tls();
    let mut broken = Vec::new();
    for (target, property) in TARGETS.iter().filter(|(name, _)| only.is_empty() || only == *name) {
        let mut search = Search::new(target, *property, seed);
        let until = SystemClock.boot() + Duration::from_secs(seconds);
        while SystemClock.boot() < until && search.broken.len() < 3 {
            (0..200).for_each(|_| search.step());
        }
        let Search { tries, seen, .. } = &search;
        eprintln!("{target}: {tries} inputs, {} outcomes, seed {seed}", seen.len());
        broken.extend(search.told());
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// A search for one target.
struct Search {
    target: &'static str,
    property: Property,
    dice: Dice,
    /// An input for each outcome, and those that it began with.
    inputs: Vec<Vec<u8>>,
    seen: BTreeMap<String, usize>,
    broken: BTreeMap<String, Vec<u8>>,
    tries: u64,
    began_with: usize,
}

impl Search {
    fn new(target: &'static str, property: Property, seed: u64) -> Self {
        let inputs: Vec<_> = kept(target).into_values().collect();
        let mut search = Self {
            target,
            property,
            dice: Dice(seed),
            began_with: inputs.len(),
            inputs: Vec::new(),
            seen: BTreeMap::new(),
            broken: BTreeMap::new(),
            tries: 0,
        };
        for input in inputs {
            search.look(input, true);
        }
        search
    }

    fn step(&mut self) {
        let mut input = self.inputs[self.dice.below(self.inputs.len())].clone();
        for _ in 0..=self.dice.below(4) {
            self.change(&mut input);
        }
        input.truncate(MAX_BYTES);
        self.look(input, false);
    }

    fn look(&mut self, input: Vec<u8>, keep: bool) {
        self.tries += 1;
        match outcome(self.property, &input) {
            Ok(outcome) => {
                let new = !self.seen.contains_key(&outcome);
                *self.seen.entry(outcome).or_default() += 1;
                if keep || new && self.inputs.len() < MAX_INPUTS {
                    self.inputs.push(input);
                }
            }
            Err(told) => {
                let kind: String =
                    told.chars().filter(char::is_ascii_alphabetic).take(12).collect();
                let best = self.broken.entry(kind).or_insert_with(|| input.clone());
                if input.len() < best.len() {
                    *best = input;
                }
            }
        }
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.dice.below(input.len() + 1);
        let length = self.dice.below(8) + 1;
        let to = (at + length).min(input.len());
        match self.dice.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.dice.below(8),
            1 if at < input.len() => {
                input[at] = PIECES[self.dice.below(PIECES.len())].as_bytes()[0];
            }
            2 => drop(input.drain(at..to)),
            3 => {
                let piece = input[at..to].repeat(self.dice.below(3) + 1);
                input.splice(at..at, piece);
            }
            4 => {
                let other = &self.inputs[self.dice.below(self.inputs.len())];
                let from = self.dice.below(other.len() + 1);
                let until = from + self.dice.below(other.len() - from + 1).min(64);
                input.splice(at..to, other[from..until].to_vec());
            }
            5 => input.truncate(at),
            _ => {
                let piece = PIECES[self.dice.below(PIECES.len())].bytes();
                input.splice(at..if self.dice.below(2) == 0 { at } else { to }, piece);
            }
        }
    }

    /// Writes what is worth keeping, each as small as it gets, and tells what was broken.
    fn told(self) -> Vec<String> {
        if std::env::var_os("FUZZ_KEEP").is_some() {
            for input in self.inputs.iter().skip(self.began_with).take(KEPT_A_SEARCH) {
                let same = outcome(self.property, input);
                self.keep("seen", &smaller(input, |less| outcome(self.property, less) == same));
            }
        }
        let told = |(_, input): (&String, &Vec<u8>)| {
            let least = smaller(input, |less| outcome(self.property, less).is_err());
            let file = self.keep("broken", &least);
            let broken = outcome(self.property, &least).unwrap_err();
            format!("{}: {broken}", file.display())
        };
        self.broken.iter().map(told).collect()
    }

    fn keep(&self, kind: &str, input: &[u8]) -> PathBuf {
        let mut hash = Dice(0);
        for byte in input {
            hash.0 ^= u64::from(*byte);
            hash.next();
        }
        let file = folder(self.target).join(format!("{kind}-{:08x}", hash.next() >> 32));
        std::fs::write(&file, input).unwrap();
        file
    }
}

/// What becomes of an input; a panic breaks every promise.
fn outcome(property: Property, data: &[u8]) -> Result<String, String> {
    catch_unwind(AssertUnwindSafe(|| property(data))).unwrap_or_else(|_| Err("panic".into()))
}

/// Leaves out whatever isn't needed.
fn smaller(input: &[u8], still: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut least = input.to_vec();
    let mut length = least.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at < least.len() {
            let mut less = least.clone();
            less.drain(at..(at + length).min(least.len()));
            if still(&less) {
                least = less;
            } else {
                at += length;
            }
        }
        length /= 2;
    }
    least
}

fn kept(target: &str) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder(target)).unwrap();
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let file = file.unwrap();
        (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
    };
    files.map(read).collect()
}

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/corpus").join(target)
}

/// `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

/// What has a meaning to one of the targets.
const PIECES: &[&str] = &[
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ":",
    ";",
    ",",
    "=",
    "&",
    "?",
    "#",
    "@",
    "/",
    "//",
    "\\",
    "%",
    "%2F",
    "%00",
    ".",
    "..",
    "<",
    ">",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    " ",
    "\0",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "ü",
    "\u{1f600}",
    "ſ",
    "İ",
    "K",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "0.0000001",
    "\"\"",
    "{}",
    "[]",
    "sig=hiddenhidden12&",
    "AccountKey=aGlkZGVuaGlkZGVu;",
    "SharedAccessSignature=sig=hiddenhidden12",
    "Bearer hiddenhidden12 ",
    "sharedkey a:b",
    "subscription-key=hiddenhidden12",
    "StatusCode",
    "Results",
    "Details",
    "Finished",
    "Failed",
    "BaseLocation",
    "RelativeLocation",
    "SasBlobToken",
    "error",
    "code",
    "message",
    "details",
    "statusCode",
    "CannotStartJob",
    "BlobNotFound",
    "MissingJobId",
    "Retry-After: ",
    "retry-after: -1\n",
    "Retry-After: 1000000000000\n",
    "Sun, 22 Nov 2026 10:00:30 GMT",
    "x-ms-request-id: ",
    "Content-Type: text/html\n",
    "again in ",
    "00:08:24",
    "2.12 days",
    "replenished in ",
    "quota",
    "subscription key",
    "<title",
    "</title>",
    "<Code>",
    "</Code>",
    "<Message>",
    "</Message>",
    "<Blob>",
    "</Blob>",
    "<Name>",
    "<NextMarker>",
    "&amp;",
    "&#0;",
    "<![CDATA[",
    "<!DOCTYPE a [<!ENTITY b \"c\">]>",
    "https://",
    "http:",
    "file:///",
    "127.0.0.1",
    "[::1]",
    "169.254.169.254",
    ".blob.core.windows.net",
    "/workspaces/",
    "/services/",
    "/subscriptions/",
    "/jobs",
    "AccountName=",
    "BlobEndpoint=",
    "UseDevelopmentStorage=true",
    "EndpointSuffix=",
    "[feeds.f]\n",
    "[endpoints.e]\n",
    "[storage.s]\n",
    "api_key = \"aGlkZGVuaGlkZGVu\"\n",
    "watch.",
    "\"\"\"",
    "inf",
    "1979-05-27",
    "400\n",
    "503\n",
];
const MAX_BYTES: usize = 4096;
const MAX_INPUTS: usize = 2000;
const KEPT_A_SEARCH: usize = 12;
