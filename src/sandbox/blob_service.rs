//! The blob service over HTTP, path-style as the emulators have it: `/{account}/{container}/{blob}`.
//!
//! What is not implemented is refused with a 400 that names it: a header or parameter passed over in silence (a
//! checksum, a lease, a condition) would let a client's test pass that fails in Azure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::stream;
use md5::{Digest, Md5};
use percent_encoding::percent_decode_str;

use super::Shared;
use super::blob_access::{Call, Denied, Grant, Query, http_date};
use super::blob_store::{Blob, BlockSource, Conditions, Properties, StoreError};
use super::fault::Operation;

/// Which kind of call a method is, for faults.
pub(super) fn operation(method: &Method) -> Operation {
    if matches!(*method, Method::GET | Method::HEAD) { Operation::Get } else { Operation::Put }
}

/// The answer of a service that fails with this status before it acts.
pub(super) fn fault_answer(status: u16, id: &str) -> Response {
    let code = match status {
        403 => "AuthorizationFailure",
        429 => "TooManyRequests",
        502 => "BadGateway",
        503 => "ServerBusy",
        504 => "GatewayTimeout",
        _ => "InternalError",
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Failure { status, code, detail: "a fault was ordered".into() }.answer(id, false)
}

/// Authorizes a call and carries it out.
pub(super) fn answer(shared: &Shared, parts: &Parts, body: &Bytes, id: &str) -> Response {
    let head = parts.method == Method::HEAD;
    let version = parts.headers.get("x-ms-version").cloned();
    let client_id = parts.headers.get("x-ms-client-request-id").cloned();
    let mut response = match handle(shared, parts, body) {
        Ok(response) => response,
        Err(failure) => failure.answer(id, head),
    };
    let headers = response.headers_mut();
    headers.insert("x-ms-version", version.unwrap_or(HeaderValue::from_static(DEFAULT_VERSION)));
    if let Some(client_id) = client_id {
        headers.insert("x-ms-client-request-id", client_id);
    }
    headers.insert(header::SERVER, HeaderValue::from_static("Windows-Azure-Blob/1.0"));
    response
}

fn handle(shared: &Shared, parts: &Parts, body: &Bytes) -> Result<Response, Failure> {
    let target = Target::parse(parts.uri.path())?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let Target { container, blob } = &target;
    let call = Call {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: &query,
        headers: &parts.headers,
        container,
        blob: blob.as_deref(),
    };
    let grant = shared.account.authorize(&call, shared.clock.now())?;
    refuse_unsupported(&parts.headers, &query)?;
    let context = Context { shared, parts, query: &query, grant, container };
    let (method, comp, restype) = (&parts.method, query.get("comp"), query.get("restype"));
    match (blob, method.as_str(), comp, restype) {
        (None, "PUT", None, Some("container")) => context.create_container(),
        (None, "GET" | "HEAD", None, Some("container")) => context.container_properties(),
        (None, "DELETE", None, Some("container")) => context.delete_container(),
        (None, "GET", Some("list"), Some("container")) => context.list(),
        (Some(blob), "PUT", None, None) => context.put_blob(blob, body),
        (Some(blob), "PUT", Some("block"), None) => context.put_block(blob, body),
        (Some(blob), "PUT", Some("blocklist"), None) => context.put_block_list(blob, body),
        (Some(blob), "GET", Some("blocklist"), None) => context.block_list(blob),
        (Some(blob), "GET" | "HEAD", None, None) => context.get_blob(blob),
        (Some(blob), "DELETE", None, None) => context.delete_blob(blob),
        (_, "GET" | "HEAD" | "PUT" | "DELETE", ..) => Err(Failure {
            status: StatusCode::BAD_REQUEST,
            code: "InvalidQueryParameterValue",
            detail: format!("{method} with comp={comp:?} and restype={restype:?} is not offered"),
        }),
        _ => Err(Failure {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code: "UnsupportedHttpVerb",
            detail: format!("{method} is not offered"),
        }),
    }
}

struct Target {
    container: String,
    blob: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Result<Self, Failure> {
        let decode = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| Failure::bad("InvalidUri", "the path is not UTF-8"))
        };
        let mut segments = path.trim_start_matches('/').splitn(3, '/').skip(1);
        let container = decode(segments.next().unwrap_or_default())?;
        let blob = match segments.next() {
            None | Some("") => None,
            Some(blob) => Some(decode(blob)?),
        };
        if !is_container_name(&container) {
            return Err(Failure::bad(
                "InvalidResourceName",
                "3 to 63 of a-z, 0-9 and single hyphens",
            ));
        }
        if blob.as_deref().is_some_and(|blob| blob.chars().count() > 1024) {
            return Err(Failure::bad(
                "InvalidResourceName",
                "a blob's name has at most 1024 characters",
            ));
        }
        Ok(Self { container, blob })
    }
}

struct Context<'a> {
    shared: &'a Shared,
    parts: &'a Parts,
    query: &'a Query,
    grant: Grant,
    container: &'a str,
}

impl Context<'_> {
    /// A service signature, even for a whole container, gives rights inside it alone.
    fn require_key(&self) -> Result<(), Failure> {
        if self.grant == Grant::All {
            return Ok(());
        }
        Err(Denied {
            code: "AuthorizationFailure",
            detail: "a service signature gives no rights to the container itself".into(),
        }
        .into())
    }

    fn create_container(&self) -> Result<Response, Failure> {
        self.require_key()?;
        let now = self.shared.clock.now();
        let etag = self.shared.blobs.create_container(self.container, now)?;
        Ok((StatusCode::CREATED, [(header::ETAG, etag), (header::LAST_MODIFIED, http_date(now))])
            .into_response())
    }

    fn container_properties(&self) -> Result<Response, Failure> {
        self.require_key()?;
        let (etag, modified) = self.shared.blobs.container(self.container)?;
        Ok([
            (header::ETAG, etag),
            (header::LAST_MODIFIED, http_date(modified)),
            (HeaderName::from_static("x-ms-lease-status"), "unlocked".into()),
            (HeaderName::from_static("x-ms-lease-state"), "available".into()),
        ]
        .into_response())
    }

    fn delete_container(&self) -> Result<Response, Failure> {
        self.require_key()?;
        self.shared.blobs.delete_container(self.container)?;
        Ok(StatusCode::ACCEPTED.into_response())
    }

    fn list(&self) -> Result<Response, Failure> {
        self.grant.require("l")?;
        let parameter = |name: &str| self.query.get(name).unwrap_or_default();
        let limit = match parameter("maxresults") {
            "" => PAGE,
            text => text
                .parse::<usize>()
                .ok()
                .filter(|limit| *limit > 0)
                .map(|limit| limit.min(PAGE))
                .ok_or_else(|| Failure::bad("OutOfRangeQueryParameterValue", "maxresults"))?,
        };
        let metadata = match parameter("include") {
            "" => false,
            "metadata" => true,
            other => {
                return Err(Failure {
                    status: StatusCode::BAD_REQUEST,
                    code: "UnsupportedQueryParameter",
                    detail: format!("include={other} is not offered"),
                });
            }
        };
        let (prefix, marker) = (parameter("prefix"), parameter("marker"));
        let page = self.shared.blobs.list(self.container, prefix, marker, limit)?;
        let mut xml = format!(
            "{XML}<EnumerationResults ServiceEndpoint=\"{}/\" ContainerName=\"{}\"><Prefix>{}</Prefix>\
             <Marker>{}</Marker><MaxResults>{limit}</MaxResults><Blobs>",
            escape(&self.shared.address.blob_endpoint()),
            escape(self.container),
            escape(prefix),
            escape(marker),
        );
        for (name, blob) in &page.blobs {
            let _ = write!(
                xml,
                "<Blob><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified><Etag>{}</Etag>\
                 <Content-Length>{}</Content-Length><Content-Type>{}</Content-Type>",
                escape(name),
                http_date(blob.modified),
                blob.etag.trim_matches('"'),
                blob.length,
                escape(blob.properties.content_type.as_deref().unwrap_or(OCTETS)),
            );
            if let Some(md5) = &blob.properties.content_md5 {
                let _ = write!(xml, "<Content-MD5>{md5}</Content-MD5>");
            }
            xml.push_str(
                "<BlobType>BlockBlob</BlobType><LeaseStatus>unlocked</LeaseStatus>\
                 <LeaseState>available</LeaseState></Properties>",
            );
            if metadata {
                xml.push_str("<Metadata>");
                for (name, value) in &blob.properties.metadata {
                    let _ = write!(xml, "<{name}>{}</{name}>", escape(value));
                }
                xml.push_str("</Metadata>");
            }
            xml.push_str("</Blob>");
        }
        let next = escape(page.next.as_deref().unwrap_or_default());
        let _ = write!(xml, "</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>");
        Ok(xml_answer(xml))
    }

    fn put_blob(&self, blob: &str, body: &Bytes) -> Result<Response, Failure> {
        self.grant.require("cw")?;
        match self.header("x-ms-blob-type") {
            "BlockBlob" => {}
            other => {
                return Err(Failure {
                    status: StatusCode::BAD_REQUEST,
                    code: "InvalidHeaderValue",
                    detail: format!("x-ms-blob-type is {other:?}, and only BlockBlob is offered"),
                });
            }
        }
        let content = self.checked(body)?;
        let mut properties = self.properties()?;
        let computed = BASE64.encode(Md5::digest(&content));
        properties.content_md5.get_or_insert(computed);
        let conditions = self.conditions()?;
        let now = self.shared.clock.now();
        let blob =
            self.shared.blobs.put(self.container, blob, content, properties, &conditions, now)?;
        Ok(created(&blob))
    }

    fn put_block(&self, blob: &str, body: &Bytes) -> Result<Response, Failure> {
        self.grant.require("w")?;
        let id = self.query.get("blockid").unwrap_or_default();
        match BASE64.decode(id) {
            Ok(decoded) if !decoded.is_empty() && decoded.len() <= 64 => {}
            _ => {
                return Err(Failure::bad(
                    "InvalidQueryParameterValue",
                    "blockid is not base64 of 1 to 64 bytes",
                ));
            }
        }
        let content = self.checked(body)?;
        if content.is_empty() {
            return Err(Failure::bad("InvalidHeaderValue", "Content-Length of a block is 0"));
        }
        let md5 = BASE64.encode(Md5::digest(&content));
        self.shared.blobs.stage(self.container, blob, id.into(), content)?;
        Ok((StatusCode::CREATED, [("content-md5", md5)]).into_response())
    }

    fn put_block_list(&self, blob: &str, body: &Bytes) -> Result<Response, Failure> {
        self.grant.require("w")?;
        let body = self.checked(body)?;
        let list = std::str::from_utf8(&body)
            .ok()
            .and_then(parse_block_list)
            .ok_or_else(|| Failure::bad("InvalidXmlDocument", "the body is no block list"))?;
        if list.len() > 50_000 {
            return Err(Failure::bad("BlockListTooLong", "a blob has at most 50,000 blocks"));
        }
        let (conditions, now) = (self.conditions()?, self.shared.clock.now());
        // Content-Type and Content-MD5 are those of the list; the blob's own have names of their own.
        let mut properties = self.properties()?;
        properties.content_type = self.optional("x-ms-blob-content-type");
        let blobs = &self.shared.blobs;
        let blob = blobs.commit(self.container, blob, &list, properties, &conditions, now)?;
        Ok((
            StatusCode::CREATED,
            [
                (header::ETAG, blob.etag.clone()),
                (header::LAST_MODIFIED, http_date(blob.modified)),
                (HeaderName::from_static("content-md5"), BASE64.encode(Md5::digest(&body))),
            ],
        )
            .into_response())
    }

    fn block_list(&self, blob: &str) -> Result<Response, Failure> {
        self.grant.require("r")?;
        let kind = self.query.get("blocklisttype").unwrap_or("committed");
        if !["committed", "uncommitted", "all"].contains(&kind) {
            return Err(Failure::bad("InvalidQueryParameterValue", "blocklisttype"));
        }
        let blocks = self.shared.blobs.blocks(self.container, blob)?;
        let mut xml = format!("{XML}<BlockList>");
        for (name, wanted, list) in [
            ("CommittedBlocks", kind != "uncommitted", blocks.committed),
            ("UncommittedBlocks", kind != "committed", blocks.uncommitted),
        ] {
            if wanted {
                let _ = write!(xml, "<{name}>");
                for (id, size) in list {
                    let _ = write!(xml, "<Block><Name>{id}</Name><Size>{size}</Size></Block>");
                }
                let _ = write!(xml, "</{name}>");
            }
        }
        xml.push_str("</BlockList>");
        let Some(blob) = blocks.blob else { return Ok(xml_answer(xml)) };
        let length = HeaderName::from_static("x-ms-blob-content-length");
        let headers = [
            (header::ETAG, blob.etag.clone()),
            (header::LAST_MODIFIED, http_date(blob.modified)),
            (length, blob.length.to_string()),
        ];
        Ok((headers, xml_answer(xml)).into_response())
    }

    fn get_blob(&self, name: &str) -> Result<Response, Failure> {
        self.grant.require("r")?;
        let blob = self.shared.blobs.read(self.container, name)?;
        let if_match = self.header("if-match");
        if !if_match.is_empty() && if_match != "*" && if_match != blob.etag {
            return Err(StoreError::ConditionNotMet.into());
        }
        let if_none_match = self.header("if-none-match");
        if if_none_match == "*" || if_none_match == blob.etag {
            return Ok(
                (StatusCode::NOT_MODIFIED, [(header::ETAG, blob.etag.clone())]).into_response()
            );
        }
        let range = match self.header("x-ms-range") {
            "" => self.header("range"),
            range => range,
        };
        let head = self.parts.method == Method::HEAD;
        // Get Blob Properties knows no range.
        let range =
            if range.is_empty() || head { None } else { Some(parse_range(range, blob.length)?) };
        let (start, end) = range.unwrap_or((0, blob.length));
        let slices = if head { Vec::new() } else { blob.slices(start, end) };
        let mut response = Response::new(Body::empty());
        let mut set = |name: &'static str, value: &str| {
            // Values were headers once or are made of digits; one that is neither is better left out than a panic.
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        };
        let properties = &blob.properties;
        set("content-length", &(end - start).to_string());
        set("content-type", properties.content_type.as_deref().unwrap_or(OCTETS));
        set("etag", &blob.etag);
        set("last-modified", &http_date(blob.modified));
        set("accept-ranges", "bytes");
        set("x-ms-blob-type", "BlockBlob");
        set("x-ms-lease-status", "unlocked");
        set("x-ms-lease-state", "available");
        if let Some(encoding) = &properties.content_encoding {
            set("content-encoding", encoding);
        }
        if let Some(md5) = &properties.content_md5 {
            set(if range.is_some() { "x-ms-blob-content-md5" } else { "content-md5" }, md5);
        }
        if range.is_some() {
            set("content-range", &format!("bytes {start}-{}/{}", end - 1, blob.length));
            if self.header("x-ms-range-get-content-md5").eq_ignore_ascii_case("true") {
                if end - start > 4 << 20 {
                    return Err(Failure::bad("OutOfRangeInput", "an MD5 is made of at most 4 MiB"));
                }
                let mut hash = Md5::new();
                for slice in &slices {
                    hash.update(slice);
                }
                set("content-md5", &BASE64.encode(hash.finalize()));
            }
        }
        for (name, value) in &properties.metadata {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(format!("x-ms-meta-{name}")), HeaderValue::from_str(value))
            {
                response.headers_mut().insert(name, value);
            }
        }
        if range.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if !head {
            *response.body_mut() = Body::from_stream(stream::iter(
                slices.into_iter().map(Ok::<Bytes, std::convert::Infallible>),
            ));
        }
        Ok(response)
    }

    fn delete_blob(&self, blob: &str) -> Result<Response, Failure> {
        self.grant.require("d")?;
        self.shared.blobs.delete(self.container, blob, &self.conditions()?)?;
        Ok(StatusCode::ACCEPTED.into_response())
    }

    /// The whole body, checked against Content-MD5.
    fn checked(&self, body: &Bytes) -> Result<Bytes, Failure> {
        if !self.parts.headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Failure {
                status: StatusCode::LENGTH_REQUIRED,
                code: "MissingContentLengthHeader",
                detail: "Content-Length is missing".into(),
            });
        }
        let expected = self.header("content-md5");
        if !expected.is_empty() {
            if BASE64.decode(expected).map_or(0, |md5| md5.len()) != 16 {
                return Err(Failure::bad("InvalidMd5", "Content-MD5 is not base64 of 16 bytes"));
            }
            if BASE64.encode(Md5::digest(body)) != expected {
                return Err(Failure::bad("Md5Mismatch", "Content-MD5 is not that of the body"));
            }
        }
        Ok(body.clone())
    }

    fn properties(&self) -> Result<Properties, Failure> {
        let metadata: BTreeMap<_, _> = self
            .parts
            .headers
            .iter()
            .filter_map(|(name, value)| {
                let name = name.as_str().strip_prefix("x-ms-meta-")?;
                Some((name.to_owned(), value.to_str().ok()?.to_owned()))
            })
            .collect();
        if !metadata.keys().all(|name| is_identifier(name)) {
            return Err(Failure::bad("InvalidMetadata", "names are those of C#'s identifiers"));
        }
        Ok(Properties {
            content_type: self
                .optional("x-ms-blob-content-type")
                .or_else(|| self.optional("content-type")),
            content_encoding: self
                .optional("x-ms-blob-content-encoding")
                .or_else(|| self.optional("content-encoding")),
            content_md5: self.optional("x-ms-blob-content-md5"),
            metadata,
        })
    }

    fn conditions(&self) -> Result<Conditions, Failure> {
        let absent = match self.header("if-none-match") {
            "" => false,
            "*" => true,
            _ => {
                return Err(Failure::bad(
                    "UnsupportedHeader",
                    "If-None-Match of a write is * or nothing here",
                ));
            }
        };
        Ok(Conditions {
            absent,
            matches: self.optional("if-match"),
            create_only: !self.grant.allows(match self.parts.method {
                Method::DELETE => "d",
                _ => "w",
            }),
        })
    }

    fn header(&self, name: &str) -> &str {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn optional(&self, name: &str) -> Option<String> {
        Some(self.header(name)).filter(|value| !value.is_empty()).map(str::to_owned)
    }
}

/// An error answer in the making.
struct Failure {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Failure {
    fn bad(code: &'static str, detail: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, detail: detail.into() }
    }

    fn answer(self, id: &str, head: bool) -> Response {
        let message = match self.code {
            "AuthenticationFailed" => {
                "Server failed to authenticate the request. Make sure the value of Authorization header is formed \
                 correctly including the signature."
            }
            "BlobNotFound" => "The specified blob does not exist.",
            "ContainerNotFound" => "The specified container does not exist.",
            code => code,
        };
        let detail = escape(&self.detail);
        let detail = if self.code == "AuthenticationFailed" {
            format!("<AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail>")
        } else {
            format!("<Detail>{detail}</Detail>")
        };
        let xml = format!(
            "{XML}<Error><Code>{}</Code><Message>{message}\nRequestId:{id}</Message>{detail}</Error>",
            self.code
        );
        let mut response = if head { StatusCode::OK.into_response() } else { xml_answer(xml) };
        *response.status_mut() = self.status;
        response.headers_mut().insert("x-ms-error-code", HeaderValue::from_static(self.code));
        response
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self { status: StatusCode::FORBIDDEN, code: denied.code, detail: denied.detail }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (status, code) = match error {
            StoreError::ContainerAlreadyExists => (StatusCode::CONFLICT, "ContainerAlreadyExists"),
            StoreError::ContainerNotFound => (StatusCode::NOT_FOUND, "ContainerNotFound"),
            StoreError::BlobNotFound => (StatusCode::NOT_FOUND, "BlobNotFound"),
            StoreError::BlobAlreadyExists => (StatusCode::CONFLICT, "BlobAlreadyExists"),
            StoreError::ConditionNotMet => (StatusCode::PRECONDITION_FAILED, "ConditionNotMet"),
            StoreError::InvalidBlockList => (StatusCode::BAD_REQUEST, "InvalidBlockList"),
            StoreError::InvalidBlobOrBlock => (StatusCode::BAD_REQUEST, "InvalidBlobOrBlock"),
            StoreError::MayNotReplace => (StatusCode::FORBIDDEN, "AuthorizationPermissionMismatch"),
        };
        Self { status, code, detail: String::new() }
    }
}

fn refuse_unsupported(headers: &HeaderMap, query: &Query) -> Result<(), Failure> {
    for name in [
        "x-ms-content-crc64",
        "x-ms-structured-body",
        "x-ms-copy-source",
        "x-ms-encryption-key",
        "x-ms-encryption-scope",
        "x-ms-if-tags",
        "x-ms-lease-id",
        "x-ms-tags",
        "if-modified-since",
        "if-unmodified-since",
    ] {
        if headers.contains_key(name) {
            return Err(Failure {
                status: StatusCode::BAD_REQUEST,
                code: "UnsupportedHeader",
                detail: format!("{name} is not offered"),
            });
        }
    }
    for name in ["delimiter", "snapshot", "versionid"] {
        if query.get(name).is_some() {
            return Err(Failure {
                status: StatusCode::BAD_REQUEST,
                code: "UnsupportedQueryParameter",
                detail: format!("{name} is not offered"),
            });
        }
    }
    Ok(())
}

fn created(blob: &Blob) -> Response {
    let md5 = blob.properties.content_md5.clone().unwrap_or_default();
    (
        StatusCode::CREATED,
        [
            (header::ETAG, blob.etag.clone()),
            (header::LAST_MODIFIED, http_date(blob.modified)),
            (HeaderName::from_static("content-md5"), md5),
        ],
    )
        .into_response()
}

fn xml_answer(xml: String) -> Response {
    ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `bytes=first-last` or `bytes=first-`, as start and end (not included).
fn parse_range(text: &str, length: u64) -> Result<(u64, u64), Failure> {
    let wrong =
        || Failure::bad("InvalidHeaderValue", "a range is bytes=first-last or bytes=first-");
    let (first, last) =
        text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(wrong)?;
    let first: u64 = first.parse().map_err(|_| wrong())?;
    let last = match last {
        "" => u64::MAX - 1,
        last => last.parse::<u64>().map_err(|_| wrong())?.min(u64::MAX - 1),
    };
    if last < first {
        return Err(wrong());
    }
    if first >= length {
        return Err(Failure {
            status: StatusCode::RANGE_NOT_SATISFIABLE,
            code: "InvalidRange",
            detail: format!("the blob has {length} bytes"),
        });
    }
    Ok((first, (last + 1).min(length)))
}

/// The body of Put Block List. The ids are base64, so no entity can occur, and nothing but the list may be there.
fn parse_block_list(text: &str) -> Option<Vec<(BlockSource, String)>> {
    let mut rest = text.trim_start_matches('\u{feff}').trim();
    if rest.starts_with("<?xml") {
        rest = rest.split_once("?>")?.1.trim_start();
    }
    if rest == "<BlockList/>" || rest == "<BlockList />" {
        return Some(Vec::new());
    }
    rest = rest.strip_prefix("<BlockList>")?.strip_suffix("</BlockList>")?.trim();
    let mut list = Vec::new();
    while !rest.is_empty() {
        let (tag, after) = rest.strip_prefix('<')?.split_once('>')?;
        let source = match tag {
            "Latest" => BlockSource::Latest,
            "Committed" => BlockSource::Committed,
            "Uncommitted" => BlockSource::Uncommitted,
            _ => return None,
        };
        let (id, after) = after.split_once('<')?;
        rest = after.strip_prefix('/')?.strip_prefix(tag)?.strip_prefix('>')?.trim_start();
        list.push((source, id.trim().to_owned()));
    }
    Some(list)
}

/// A name of metadata, without what only other alphabets have.
fn is_identifier(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

pub(super) fn is_container_name(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

const XML: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";
const OCTETS: &str = "application/octet-stream";
const DEFAULT_VERSION: &str = "2020-10-02";

/// Names in one answer of a listing, as in Azure.
const PAGE: usize = 5000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_list_is_read_strictly() {
        let list = parse_block_list(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<BlockList>\n <Latest>MQ==</Latest>\
             <Committed>Mg==</Committed><Uncommitted>Mw==</Uncommitted></BlockList>\n",
        );
        let expected = [
            (BlockSource::Latest, "MQ=="),
            (BlockSource::Committed, "Mg=="),
            (BlockSource::Uncommitted, "Mw=="),
        ]
        .map(|(source, id)| (source, id.to_owned()));
        assert_eq!(list, Some(expected.to_vec()));
        assert_eq!(parse_block_list("<BlockList/>"), Some(vec![]));
        for wrong in
            ["", "<BlockList>", "<BlockList><Last>x</Last></BlockList>", "<BlockList>x</BlockList>"]
        {
            assert_eq!(parse_block_list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_range_ends_with_the_blob() {
        for (text, expected) in
            [("bytes=0-", (0, 7)), ("bytes=2-3", (2, 4)), ("bytes=5-99", (5, 7))]
        {
            assert_eq!(parse_range(text, 7).ok(), Some(expected), "{text}");
        }
        for text in ["bytes=-3", "bytes=3-2", "items=0-1", "bytes=a-"] {
            assert_eq!(parse_range(text, 7).err().unwrap().code, "InvalidHeaderValue", "{text}");
        }
        assert_eq!(parse_range("bytes=7-", 7).err().unwrap().code, "InvalidRange");
    }

    #[test]
    fn containers_are_named_as_azure_wants() {
        for (name, good) in [
            ("abc", true),
            ("a-1", true),
            ("ab", false),
            ("Abc", false),
            ("a--b", false),
            ("-ab", false),
        ] {
            assert_eq!(is_container_name(name), good, "{name}");
        }
    }
}
