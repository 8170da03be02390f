//! Grafana's part: every query of the dashboards is asked of a real Prometheus that scrapes a busy daemon, written out as
//! Grafana does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use serde_json::Value;
use tempfile::TempDir;

use super::{Busy, tool};
use crate::rig::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboards_finds_something() {
    let busy = Busy::start().await;
    let prometheus = Prometheus::scraping(&busy.daemon.url);
    // What is counted before the first look at it is nothing that was added.
    eventually("the daemon is looked at", || async {
        prometheus.ask("up == 1").await.is_ok_and(|found| !found.is_empty())
    })
    .await;
    busy.work().await;
    let mut shown = String::new();
    for file in ["overview", "feed"] {
        let board = board(file);
        let variables = prometheus.variables(file, &board).await;
        let mut queries = queries(file, &board);
        shown.extend(queries.iter().map(|query| query.expr.as_str()));
        for query in &mut queries {
            query.expr = filled_in(&query.expr, &variables);
            assert!(!query.expr.contains('$'), "{query}: a variable that nobody knows");
        }
        assert!(queries.len() > 20, "{file}: the queries were found");
        prometheus.answers(queries).await;
    }
    // And what is measured is shown somewhere.
    let (_, text) = busy.daemon.get("/metrics").await;
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let forgotten: Vec<_> = names.filter(|name| !shown.contains(name)).collect();
    assert_eq!(forgotten, Vec::<&str>::new(), "no dashboard shows these");
    busy.daemon.stop().await;
}

/// A query, and where it is.
struct Query {
    place: String,
    expr: String,
    /// Labels that the legend names.
    legend: BTreeSet<String>,
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.expr)
    }
}

fn board(file: &str) -> Value {
    let path = format!("{}/deploy/grafana/dashboards/{file}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Those of the panels, and of the annotations.
fn queries(file: &str, board: &Value) -> Vec<Query> {
    let query = |place: String, target: &Value| {
        let legend = target["legendFormat"].as_str().unwrap();
        let labels =
            legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().to_owned());
        let expr = target["expr"].as_str().unwrap().to_owned();
        Query { place: format!("{file}, {place}"), expr, legend: labels.collect() }
    };
    let mut queries = Vec::new();
    for panel in board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        for target in panel["targets"].as_array().unwrap() {
            let place = format!("panel {}, query {}", panel["title"], target["refId"]);
            queries.push(query(place, target));
        }
    }
    for annotation in board["annotations"]["list"].as_array().unwrap() {
        if annotation["builtIn"].is_null() {
            queries
                .push(query(format!("annotation {}", annotation["name"]), &annotation["target"]));
        }
    }
    queries
}

/// With each variable's value in its place, the longest name first.
fn filled_in(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut names: Vec<_> = variables.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.into_iter().fold(text.to_owned(), |text, name| {
        let value = &variables[name];
        text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value)
    })
}

/// A server of our own that ends with it.
struct Prometheus {
    url: String,
    http: reqwest::Client,
    /// Its open stdin is what keeps the server alive.
    _watchdog: Child,
    _data: TempDir,
}

impl Prometheus {
    fn scraping(daemon: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = data.path().join("prometheus.yml");
        let target = daemon.strip_prefix("http://").unwrap();
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 500ms}}\nscrape_configs:\n- job_name: scoreline\n  static_configs: [{{targets: [{target:?}]}}]\n"
            ),
        )
        .unwrap();
        let mut watchdog = Command::new("sh")
            .args(["-c", r#""$@" </dev/null & exec 2>&-; read _; kill -9 $!"#, "prometheus"])
            .arg(tool("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines =
            BufReader::new(watchdog.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut log = String::new();
        let address = lines.by_ref().find_map(|line| {
            log = log.clone() + &line + "\n";
            let (_, address) = line.split_once("msg=\"Listening on\" address=")?;
            Some(address.split(' ').next()?.to_owned())
        });
        let address = address.unwrap_or_else(|| panic!("it ended before it listened: {log}"));
        // A pipe that nobody reads would block it one day.
        std::thread::spawn(move || lines.for_each(drop));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url: format!("http://{address}"), http, _watchdog: watchdog, _data: data }
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let request = self.http.get(format!("{}/api/v1/{path}", self.url)).query(parameters);
        let text = request.send().await.unwrap().text().await.unwrap();
        // Until it is ready it answers in words.
        let body: Value = serde_json::from_str(&text).map_err(|_| text)?;
        if body["status"] == "success" {
            Ok(body["data"].clone())
        } else {
            Err(body["error"].to_string())
        }
    }

    /// The labels of what a query finds now, without what is no number.
    async fn ask(&self, expr: &str) -> Result<Vec<Value>, String> {
        let data = self.get("query", &[("query", expr)]).await?;
        let found = data["result"].as_array().unwrap().iter();
        let is_number = |sample: &&Value| {
            let value: f64 = sample["value"][1].as_str().unwrap().parse().unwrap();
            value.is_finite()
        };
        Ok(found.filter(is_number).map(|sample| sample["metric"].clone()).collect())
    }

    /// What Grafana has for its own variables, and what it has for the board's when all is chosen.
    async fn variables(&self, file: &str, board: &Value) -> BTreeMap<String, String> {
        let own = [
            ("__rate_interval", "1m"),
            ("__interval", "1s"),
            ("__range", "5m"),
            ("__range_s", "300"),
        ];
        let mut variables: BTreeMap<_, _> =
            own.map(|(name, value)| (name.into(), value.into())).into();
        let list = board["templating"]["list"].as_array().unwrap();
        for variable in list.iter().filter(|variable| variable["type"] == "query") {
            let name = variable["name"].as_str().unwrap();
            let query = filled_in(variable["query"]["query"].as_str().unwrap(), &variables);
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) = inner.and_then(|inner| inner.rsplit_once(", ")).unwrap();
            let data = self.get(&format!("label/{label}/values"), &[("match[]", selector)]).await;
            let data =
                data.unwrap_or_else(|error| panic!("{file}, variable {name}, {query}: {error}"));
            let values: Vec<_> =
                data.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
            assert!(!values.is_empty(), "{file}, variable {name} has no values: {query}");
            let value = if variable["multi"] == true {
                // In a regular expression within a string.
                let escaped = values.iter().map(|value| value.replace('.', "\\\\."));
                format!("({})", escaped.collect::<Vec<_>>().join("|"))
            } else {
                values[0].to_owned()
            };
            variables.insert(name.to_owned(), value);
        }
        variables
    }

    /// Waits until each finds something that has the labels which its legend names.
    async fn answers(&self, mut queries: Vec<Query>) {
        for _ in 0..100 {
            let mut silent = Vec::new();
            for query in queries {
                let found =
                    self.ask(&query.expr).await.unwrap_or_else(|error| panic!("{query}: {error}"));
                match found.first() {
                    None => silent.push(query),
                    Some(labels) => {
                        let lacks =
                            query.legend.iter().find(|label| labels[label.as_str()].is_null());
                        assert!(
                            lacks.is_none(),
                            "{query}: its legend names {lacks:?}, which {labels} lacks"
                        );
                    }
                }
            }
            if silent.is_empty() {
                return;
            }
            queries = silent;
            SystemClock.sleep(Duration::from_millis(100)).await;
        }
        let silent: Vec<_> = queries.iter().map(Query::to_string).collect();
        panic!("these find nothing:\n{}", silent.join("\n"));
    }
}
