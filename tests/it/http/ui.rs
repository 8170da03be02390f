//! The web UI as it is served: whole, in the binary, with its types, tags and policy.

use std::collections::BTreeSet;

use reqwest::header::HeaderMap;
use scoreline::config::Role;

use super::Desk;

struct Served {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Served {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn served(desk: &Desk, path: &str, known: Option<&str>) -> Served {
    let mut request = reqwest::Client::new().get(format!("{}{path}", desk.url));
    if let Some(tag) = known {
        request = request.header("if-none-match", tag);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Served { status, headers, text: answer.text().await.unwrap() }
}

/// What a file names of the others: in tags, imports and addresses of pictures, as paths.
fn named(path: &str, text: &str) -> Vec<String> {
    let folder = &path[..=path.rfind('/').unwrap()];
    let mut found = Vec::new();
    for quoted in text.split('"').skip(1).step_by(2).filter(|_| kind(path) == "html") {
        found.extend(quoted.starts_with("/assets/").then(|| quoted.to_owned()));
    }
    for line in text.lines().filter(|_| ["js", "mjs"].contains(&kind(path))) {
        for (_, rest) in line.match_indices("from").map(|(at, _)| line.split_at(at + 4)) {
            let rest = rest.trim_start();
            let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
                continue;
            };
            let Some(name) = rest[1..].split(quote).next() else { continue };
            if let Some(beside) = name.strip_prefix("./") {
                found.push(format!("{folder}{beside}"));
            } else if let Some(above) = name.strip_prefix("../") {
                let parent = &folder[..=folder.trim_end_matches('/').rfind('/').unwrap()];
                found.push(format!("{parent}{above}"));
            } else {
                assert!(name.contains(' '), "{path} imports {name}, which no browser finds");
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_the_page_and_its_modules_name_is_in_the_binary_with_its_type() {
    let desk = Desk::open(&[(Role::Operate, "t")]).await;
    let mut known = BTreeSet::from(["/assets/index.html".to_owned()]);
    let mut new: Vec<_> = known.iter().cloned().collect();
    while let Some(path) = new.pop() {
        let file = served(&desk, &path, None).await;
        assert_eq!(file.status, 200, "{path}");
        let kind = match path.rsplit_once('.').unwrap().1 {
            "html" => "text/html; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/javascript; charset=utf-8",
        };
        assert_eq!(file.header("content-type"), kind, "{path}");
        assert_eq!(file.header("x-content-type-options"), "nosniff", "{path}");
        for name in named(&path, &file.text) {
            if known.insert(name.clone()) {
                new.push(name);
            }
        }
    }
    for needed in ["app.js", "app.css", "theme.js", "pages/job.js", "vendor/preact.mjs"] {
        assert!(known.contains(&format!("/assets/{needed}")), "{needed} in {known:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_apps_routes_show_its_page_to_anybody_and_no_other_path_does() {
    let desk = Desk::open(&[(Role::Operate, "t")]).await;
    for path in ["/", "/jobs", "/jobs/some-id", "/feeds/churn", "/endpoints", "/endpoints/churn"] {
        let page = served(&desk, path, None).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.text.contains("/assets/app.js"), "{path}");
    }
    for path in ["/assets/", "/assets/none.js", "/assets/../ui.rs", "/assets/vendor.d.ts"] {
        assert_ne!(served(&desk, path, None).await.status, 200, "{path}");
    }
    assert_eq!(served(&desk, "/nowhere", None).await.status, 401);
    assert_eq!(served(&desk, "/api/v1/jobs", None).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_browser_has_already_is_not_sent_again() {
    let desk = Desk::open(&[]).await;
    let first = served(&desk, "/assets/app.js", None).await;
    let tag = first.header("etag").to_owned();
    assert_eq!(first.header("cache-control"), "no-cache");
    for known in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
        let again = served(&desk, "/assets/app.js", Some(&known)).await;
        assert_eq!((again.status, again.text.as_str()), (304, ""), "{known}");
        assert_eq!(again.header("etag"), tag);
    }
    assert_eq!(served(&desk, "/assets/app.js", Some("\"other\"")).await.status, 200);
    assert_ne!(served(&desk, "/assets/app.css", None).await.header("etag"), tag);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_stands_in_the_page_itself_may_run() {
    let desk = Desk::open(&[]).await;
    for path in ["/", "/jobs/some-id", "/assets/app.js", "/assets/index.html"] {
        let answer = served(&desk, path, None).await;
        let policies: Vec<_> = answer.headers.get_all("content-security-policy").iter().collect();
        assert_eq!(policies.len(), 1, "{path}");
        let policy = answer.header("content-security-policy");
        for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'"] {
            assert!(policy.split("; ").any(|one| one == rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
    }
    let page = served(&desk, "/", None).await.text;
    assert_eq!(
        page.matches("<script").count(),
        page.matches("<script src=").count() + page.matches("<script type=\"module\" src=").count()
    );
    assert!(!page.contains("<style") && !page.contains(" style="), "{page}");
}

/// What the name says of a file.
fn kind(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(_, kind)| kind)
}
