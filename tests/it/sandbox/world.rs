//! A sandbox, a clock that moves by hand, and a client of it that signs by code of its own.

use std::future::Future;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use scoreline::ports::Clock;
use scoreline::sandbox::{RunningSandbox, Sandbox, Settings};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::watch;

pub(super) const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
pub(super) const SENTENCE: &str = "Col2\r\nThis is a good day\r\n";
pub(super) const GOLDEN_ROW: &str = "1,1,2,2,0,2,0,1";

/// Time that moves when the test says so.
#[derive(Clone)]
pub(super) struct ManualClock(watch::Sender<Duration>);

impl ManualClock {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Duration::ZERO))
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now += by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        let start = DateTime::from_timestamp(1_795_341_600, 0).unwrap();
        start + TimeDelta::from_std(*self.0.borrow()).unwrap()
    }

    fn boot(&self) -> Duration {
        *self.0.borrow()
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        let mut now = self.0.subscribe();
        let end = self.boot() + time;
        async move {
            now.wait_for(|now| *now >= end).await.map(drop).unwrap();
        }
    }
}

pub(super) struct World {
    pub(super) sandbox: RunningSandbox,
    pub(super) clock: ManualClock,
    pub(super) http: Client,
}

impl World {
    pub(super) async fn new(settings: Settings) -> Self {
        Self::at(settings, ManualClock::new()).await
    }

    pub(super) async fn at(settings: Settings, clock: ManualClock) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().no_proxy().build().unwrap();
        let sandbox = Sandbox::start(settings, clock.clone()).await.unwrap();
        Self { sandbox, clock, http }
    }

    /// A world whose container `box` holds the published sentence as `in.csv`.
    pub(super) async fn with_input(settings: Settings) -> Self {
        let world = Self::new(settings).await;
        world.put("box/in.csv", SENTENCE).await;
        world
    }

    pub(super) fn base(&self) -> String {
        let url = self.sandbox.bes_url();
        url.split_once("/jobs?").unwrap().0.to_owned()
    }

    pub(super) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        let settings = self.sandbox.settings();
        let key = secrecy::ExposeSecret::expose_secret(&settings.api_key);
        self.http
            .request(method, format!("{}/{path}?api-version=2.0", self.base()))
            .bearer_auth(key)
    }

    pub(super) async fn submit_raw(&self, body: &Value) -> Response {
        self.call(Method::POST, "jobs").json(body).send().await.unwrap()
    }

    pub(super) async fn submit(&self, body: &Value) -> String {
        let response = self.submit_raw(body).await;
        assert_eq!(response.status(), StatusCode::OK);
        let id: String = response.json().await.unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        id
    }

    pub(super) fn start(&self, id: &str) -> RequestBuilder {
        // An empty body has to be declared: without Content-Length the answer is 411.
        self.call(Method::POST, &format!("jobs/{id}/start")).header("content-length", "0")
    }

    pub(super) async fn status(&self, id: &str) -> Value {
        let response = self.call(Method::GET, &format!("jobs/{id}")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    /// Lets time pass until the job has ended.
    pub(super) async fn ended(&self, id: &str) -> Value {
        for _ in 0..10_000 {
            let status = self.status(id).await;
            if !["NotStarted", "Running"].contains(&status["StatusCode"].as_str().unwrap()) {
                return status;
            }
            self.clock.advance(Duration::from_secs(1));
        }
        panic!("job {id} never ended");
    }

    pub(super) async fn run(&self, body: &Value) -> Value {
        let id = self.submit(body).await;
        assert_eq!(self.start(&id).send().await.unwrap().status(), StatusCode::OK);
        self.ended(&id).await
    }

    /// A call to the blob service, signed with the account key.
    pub(super) fn blob(
        &self,
        method: &Method,
        path: &str,
        query: &[(&str, &str)],
        body: &str,
        headers: &[(&str, &str)],
    ) -> RequestBuilder {
        let date = self.clock.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let header = |wanted: &str| {
            headers.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value)
        };
        let length = if body.is_empty() { String::new() } else { body.len().to_string() };
        let mut own: Vec<(&str, &str)> =
            headers.iter().copied().filter(|(name, _)| name.starts_with("x-ms-")).collect();
        own.extend([("x-ms-date", date.as_str()), ("x-ms-version", "2020-10-02")]);
        own.sort_unstable();
        let canonical: Vec<String> =
            own.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = canonical.concat();
        let mut parameters = query.to_vec();
        parameters.sort_unstable();
        let parameters: Vec<String> =
            parameters.iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
        let parameters = parameters.concat();
        let string = format!(
            "{method}\n\n\n{length}\n{}\n\n\n\n{}\n{}\n\n{}\n{canonical}/{ACCOUNT}/{ACCOUNT}/{path}{parameters}",
            header("content-md5"),
            header("if-match"),
            header("if-none-match"),
            header("range"),
        );
        let mut request = self
            .http
            .request(method.clone(), format!("{}/{ACCOUNT}/{path}", self.sandbox.url()))
            .query(query)
            .header("authorization", format!("SharedKey {ACCOUNT}:{}", hmac(&string)));
        for (name, value) in own
            .iter()
            .copied()
            .chain(headers.iter().copied().filter(|(name, _)| !name.starts_with("x-ms-")))
        {
            request = request.header(name, value);
        }
        if *method == Method::PUT {
            request = request.header("content-length", body.len()).body(body.to_owned());
        }
        request
    }

    pub(super) async fn put(&self, name: &str, content: &str) {
        let container = name.split_once('/').unwrap().0;
        let created = self
            .blob(&Method::PUT, container, &[("restype", "container")], "", &[])
            .send()
            .await
            .unwrap();
        assert!([201, 409].contains(&created.status().as_u16()), "{created:?}");
        let put = self
            .blob(&Method::PUT, name, &[], content, &[("x-ms-blob-type", "BlockBlob")])
            .send()
            .await
            .unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
    }

    pub(super) async fn get(&self, name: &str) -> String {
        let response = self.blob(&Method::GET, name, &[], "", &[]).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        response.text().await.unwrap()
    }

    /// A signature for one blob of container `box`, good for an hour.
    pub(super) fn sas(&self, version: &str, letters: &str, name: &str) -> String {
        let end = (self.clock.now() + TimeDelta::hours(1)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let scope = if version >= "2020-12-06" { "\n" } else { "" };
        let string = format!(
            "{letters}\n\n{end}\n/blob/{ACCOUNT}/{name}\n\n\n\n{version}\nb\n{scope}\n\n\n\n\n"
        );
        let signature = hmac(&string).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let end = end.replace(':', "%3A");
        format!("?sv={version}&sr=b&sp={letters}&se={end}&sig={signature}")
    }

    pub(super) fn sas_reference(&self, letters: &str, name: &str) -> Value {
        json!({
            "BaseLocation": format!("{}/{ACCOUNT}/", self.sandbox.url()),
            "RelativeLocation": name,
            "SasBlobToken": self.sas("2022-11-02", letters, name),
            "ConnectionString": null,
        })
    }

    pub(super) fn key_reference(&self, name: &str) -> Value {
        json!({"ConnectionString": self.sandbox.connection_string(), "RelativeLocation": name})
    }

    /// A job in the single-input form by account key.
    pub(super) fn job(&self) -> Value {
        json!({"Input": self.key_reference("/box/in.csv"),
               "Outputs": {"output1": self.key_reference("box/out.csv")}, "GlobalParameters": {}})
    }

    pub(super) async fn download(&self, result: &Value) -> Response {
        let part = |name: &str| result[name].as_str().unwrap().to_owned();
        let url = part("BaseLocation") + &part("RelativeLocation") + &part("SasBlobToken");
        self.http.get(url).send().await.unwrap()
    }
}

fn hmac(text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&BASE64.decode(KEY).unwrap()).unwrap();
    mac.update(text.as_bytes());
    BASE64.encode(mac.finalize().into_bytes())
}

pub(super) async fn detail(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"]["details"][0]["code"].as_str().unwrap_or_default().to_owned())
}

pub(super) fn code(response: &Response) -> (u16, &str) {
    let code = response.headers().get("x-ms-error-code").map_or("", |code| code.to_str().unwrap());
    (response.status().as_u16(), code)
}
