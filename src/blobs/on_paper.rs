//! Requests that are noted in the place of being sent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::{AsyncRawResponse, Body, ClientOptions, HttpClient, Request, Transport};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};

use super::AzureBlobs;
use super::download::Opened;
use crate::ports::{Noted, Paper};

impl AzureBlobs {
    /// The same storage, to which nothing is sent: what would be is noted.
    #[must_use]
    pub fn on_paper(self, paper: Arc<dyn Paper>) -> Self {
        let transport = Some(Transport::new(Arc::new(OnPaper(paper.clone()))));
        let reads = ClientOptions { transport: transport.clone(), ..self.reads };
        let writes = ClientOptions { transport, ..self.writes };
        Self { reads, writes, paper: Some(paper), ..self }
    }
}

/// The client's way to a remote side on paper.
#[derive(Debug)]
struct OnPaper(Arc<dyn Paper>);

// What `#[async_trait]` would write, which the trait is made with.
impl HttpClient for OnPaper {
    fn execute_request<'a, 'b, 'f>(
        &'a self,
        request: &'b Request,
    ) -> Pin<Box<dyn Future<Output = azure_core::Result<AsyncRawResponse>> + Send + 'f>>
    where
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        let body = match request.body() {
            Body::Bytes(bytes) => bytes.clone(),
            // Nothing of ours is sent as a stream.
            Body::SeekableStream(_) => Bytes::new(),
        };
        let shown = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.as_str().to_owned(), value.as_str().to_owned())
        };
        let mut headers = with_accept(request.headers().iter().map(shown).collect());
        if !body.is_empty() && headers.iter().all(|(name, _)| name != "content-length") {
            headers.push(("content-length".to_owned(), body.len().to_string()));
        }
        let noted = Noted {
            operation: None,
            method: request.method().as_ref().to_owned(),
            url: request.url().to_string(),
            headers,
            body,
        };
        let answered = self.0.answer(noted);
        let mut headers = Headers::new();
        for (name, value) in answered.headers {
            headers.insert(name, value);
        }
        let status = answered.status.into();
        Box::pin(async move { Ok(AsyncRawResponse::from_bytes(status, headers, answered.body)) })
    }
}

/// A blob behind a link.
pub(super) fn opened(paper: &dyn Paper, request: &reqwest::Request) -> Opened {
    let headers = request.headers().iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let answered = paper.answer(Noted {
        operation: None,
        method: request.method().to_string(),
        url: request.url().to_string(),
        headers: with_accept(headers.collect()),
        body: Bytes::new(),
    });
    Opened {
        part: None,
        length: Some(answered.body.len() as u64),
        ends: true,
        etag: None,
        md5: None,
        sha256: None,
        body: stream::iter([Ok(answered.body)]).boxed(),
    }
}

/// The connection's client says that it takes anything, where nothing else is said.
fn with_accept(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    if headers.iter().all(|(name, _)| name != "accept") {
        headers.push(("accept".to_owned(), "*/*".to_owned()));
    }
    headers
}
