//! The floors of `src/lib.rs`, held against the imports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Each module's floor. Files on one floor do not know each other, except where the second list says so.
const FLOORS: [(&str, u32); 38] = [
    ("main", 5),
    ("demo", 5),
    ("fuzz", 5),
    ("dry_run", 5),
    ("store_commands", 5),
    ("daemon", 5),
    ("cli", 4),
    ("http", 4),
    ("config", 4),
    ("engine", 3),
    ("intake", 3),
    ("membership", 3),
    ("upkeep", 3),
    ("audit", 3),
    ("store", 2),
    ("scoring", 2),
    ("blobs", 2),
    ("inbox", 2),
    ("outbox", 2),
    ("clock", 2),
    ("identity", 2),
    ("traces", 2),
    ("sandbox", 2),
    ("ports", 1),
    ("metrics", 1),
    ("log", 1),
    ("folder", 1),
    ("job", 0),
    ("feed", 0),
    ("schedule", 0),
    ("fault", 0),
    ("fire", 0),
    ("retry", 0),
    ("name", 0),
    ("table", 0),
    ("wire", 0),
    ("lib", 9),
    ("bin", 9),
];

/// Neighbours that know each other, each for its reason.
const NEIGHBOURS: [(&str, &str, &str); 26] = [
    ("main", "daemon", "the program starts the daemon"),
    ("main", "demo", "the program starts the demo"),
    ("demo", "daemon", "the demo runs the real daemon"),
    ("main", "dry_run", "the program starts the dry run"),
    ("main", "store_commands", "the program brings the store to its version, and copies it"),
    ("dry_run", "daemon", "it goes by the services that the daemon has"),
    ("cli", "http", "what a daemon answers is shown to people"),
    ("cli", "config", "what a config comes to is told in words, and asked for in questions"),
    ("http", "config", "tokens and roles are the config's"),
    ("intake", "engine", "accepted jobs are handed to the engine"),
    ("membership", "engine", "it keeps the lease, and brings what others wrote"),
    ("upkeep", "engine", "both are stopped the same way"),
    ("ports", "metrics", "the world holds what is counted"),
    ("log", "ports", "a line names the node"),
    ("job", "retry", "what follows from a fault depends on the policy"),
    ("job", "name", "a job is of a feed and a source path"),
    ("feed", "name", "so is what it makes names from"),
    ("job", "fault", "a fault is an outcome"),
    ("job", "fire", "a job keeps which fire made it"),
    ("fire", "name", "a fire is of a feed"),
    ("feed", "job", "names are made from jobs"),
    ("feed", "retry", "a feed has a retry policy"),
    ("feed", "schedule", "and it may have a schedule"),
    ("feed", "fire", "what a fire takes again is another arrival"),
    ("schedule", "fire", "whatever does not run has its reason"),
    (
        "schedule",
        "name",
        "a schedule is a feed's, and a zone that is not there is near to one that is",
    ),
];

/// Which modules may name a crate.
const VENDORS: [(&str, &[&str]); 22] = [
    ("sqlx", &["store"]),
    ("notify", &["inbox"]),
    // The sandbox has a reader of its own, by that name.
    ("csv", &["table", "sandbox"]),
    ("azure_core", &["blobs", "identity"]),
    ("azure_identity", &["identity"]),
    ("azure_storage_blob", &["blobs"]),
    ("axum", &["http", "sandbox"]),
    ("clap", &["cli", "main"]),
    ("clap_complete", &["cli"]),
    ("anstream", &["cli"]),
    ("reqwest", &["blobs", "identity", "scoring", "sandbox", "cli", "traces"]),
    ("opentelemetry_proto", &["traces"]),
    ("prost", &["traces"]),
    ("prometheus", &["metrics"]),
    ("indicatif", &["demo", "cli"]),
    ("croner", &["schedule"]),
    ("rust_embed", &["http"]),
    ("chrono_tz", &["schedule"]),
    // What answers are made of tells the API's document of itself.
    ("utoipa", &["http", "job", "fault", "fire", "name"]),
    ("utoipa_axum", &["http"]),
    ("utoipa_swagger_ui", &["http"]),
    ("sd_notify", &["daemon"]),
];

#[test]
fn imports_point_down_only_and_neighbours_are_strangers() {
    let floors: BTreeMap<_, _> = FLOORS.into_iter().collect();
    let mut wrong = Vec::new();
    for (file, module, text) in sources() {
        let own =
            floors.get(module.as_str()).unwrap_or_else(|| panic!("{module} has no floor yet"));
        for (line, imported) in imports(&file, &text) {
            let Some(floor) = floors.get(imported.as_str()) else { continue };
            let known = NEIGHBOURS.iter().any(|(a, b, _)| *a == module && *b == imported);
            if imported != module && floor >= own && !known {
                wrong.push(format!("{}:{line} imports {imported}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_technology_is_named_in_one_module() {
    let mut wrong = Vec::new();
    for (file, module, text) in sources() {
        for (vendor, allowed) in VENDORS {
            let named = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                let starts =
                    |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                code.match_indices(&format!("{vendor}::")).any(|(at, _)| starts(at))
            });
            if named && !allowed.contains(&module.as_str()) {
                wrong.push(format!("{} names {vendor}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_names_every_module() {
    let map = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let docs: String = map.lines().filter(|line| line.starts_with("//!")).collect();
    for (_, module, _) in sources() {
        assert!(
            docs.contains(&format!("`{module}`")) || module == "lib",
            "{module} is not on the map"
        );
    }
}

#[test]
fn no_file_has_more_than_800_lines() {
    for (file, _, text) in sources() {
        assert!(text.lines().count() <= 800, "{}: what does it hide?", file.display());
    }
}

/// Every source file with the module it belongs to.
fn sources() -> Vec<(PathBuf, String, String)> {
    let src = root().join("src");
    let mut files = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inner = path.strip_prefix(&src).unwrap();
                let module = Path::new(inner.components().next().unwrap().as_os_str());
                let module = module.file_stem().unwrap().to_str().unwrap().to_owned();
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((inner.to_owned(), module, text));
            }
        }
    }
    assert!(files.len() > 20, "the sources were found");
    files
}

/// The modules that a file's code names by `crate::` or `scoreline::`, outside its tests.
fn imports(file: &Path, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    if file.ends_with("tests.rs") {
        return found;
    }
    for (n, line) in text.lines().enumerate() {
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        let code = line.split("//").next().unwrap_or_default();
        for path in code.split("crate::").skip(1).chain(code.split("scoreline::").skip(1)) {
            let names = path.strip_prefix('{').unwrap_or(path);
            let end = names.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(names.len());
            found.push((n + 1, names[..end].to_owned()));
        }
    }
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
