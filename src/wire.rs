//! What goes over the wire to a classic Azure ML web service, as types: shared by the client that speaks it
//! (`scoring`) and the sandbox that answers it, and by nothing else.
//!
//! The names are the service's own. Sources: *Consume an Azure Machine Learning web service* and the error code table
//! in Microsoft's archived documentation; the generated C# samples for the two ways of naming a blob. Unknown members
//! are ignored, missing ones are `None`: several versions of the service answered with more or with less.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The version that every call carries in its query.
pub const API_VERSION: &str = "2.0";

/// A blob as the service wants it named: by connection string, or by base address and shared access signature.
///
/// Either form holds a secret, so `Debug` shows the place only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlobReference {
    /// `DefaultEndpointsProtocol=…;AccountName=…;AccountKey=…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_string: Option<String>,
    /// `/container/path/blob.csv`; the service takes it with and without the leading slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_location: Option<String>,
    /// `https://account.blob.core.windows.net/`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_location: Option<String>,
    /// `?sv=…&sig=…`, with its question mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sas_blob_token: Option<String>,
}

impl fmt::Debug for BlobReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReference")
            .field("base_location", &self.base_location)
            .field("relative_location", &self.relative_location)
            .finish_non_exhaustive()
    }
}

/// The body of a submit: `POST {base}/jobs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SubmitRequest {
    /// The input of a service that has exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<BlobReference>,
    /// The inputs by name; the service refuses a body that has both forms (`DuplicateInputInBatchCall`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<BTreeMap<String, BlobReference>>,
    /// Where outputs go; one that is left out lands in the workspace's own storage.
    #[serde(default)]
    pub outputs: Option<BTreeMap<String, BlobReference>>,
    /// Parameters of the web service; always text.
    #[serde(default)]
    pub global_parameters: Option<BTreeMap<String, String>>,
}

/// The answer to a status call: `GET {base}/jobs/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StatusAnswer {
    /// A name or a number, see [`StatusCode`].
    #[serde(alias = "Status Code", alias = "statusCode")]
    pub status_code: StatusCode,
    /// Every output of a finished job, by name.
    #[serde(default)]
    pub results: Option<BTreeMap<String, BlobReference>>,
    /// The remote's own words about a failure: free text, long, null, or with signed links in it.
    #[serde(default)]
    pub details: Option<String>,
}

/// The five states of a remote job, in the order of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusCode {
    /// 0: registered, or started and waiting for its turn.
    NotStarted,
    /// 1
    Running,
    /// 2: `Details` tells why.
    Failed,
    /// 3
    Cancelled,
    /// 4: `Results` tells where the outputs are.
    Finished,
}

impl StatusCode {
    /// All five, the index being the number.
    pub const ALL: [Self; 5] =
        [Self::NotStarted, Self::Running, Self::Failed, Self::Cancelled, Self::Finished];

    /// The name as the service writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotStarted => "NotStarted",
            Self::Running => "Running",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Finished => "Finished",
        }
    }

    /// Reads what services of any age have answered: a number, a number as text, a name in any case, with or without
    /// a space (`Not started`).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if let Ok(number) = plain.parse::<usize>() {
            return Self::ALL.get(number).copied();
        }
        Self::ALL.into_iter().find(|code| code.name().eq_ignore_ascii_case(&plain))
    }
}

impl Serialize for StatusCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for StatusCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Number(number) => number.to_string(),
            Form::Text(text) => text,
        };
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "unknown status code {text:?}, expected 0 to 4 or a name"
            ))
        })
    }
}

/// An error of the service: `{"error":{"code","message","details":[{"code","message"}]}}`. Some hosts capitalise the
/// members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEnvelope {
    /// The error itself.
    #[serde(alias = "Error")]
    pub error: ErrorBody,
}

/// The inside of an [`ErrorEnvelope`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The class, tied to the HTTP status: `BadArgument`, `InvalidOperation`, …
    #[serde(default, alias = "Code")]
    pub code: String,
    /// One sentence.
    #[serde(default, alias = "Message")]
    pub message: String,
    /// The specific causes: look here.
    #[serde(default, alias = "Details", skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<ErrorDetail>,
}

/// One cause in an [`ErrorBody`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// `CannotStartJob`, `InvalidOutputOverrideName`, …
    #[serde(default, alias = "Code")]
    pub code: String,
    /// One sentence.
    #[serde(default, alias = "Message")]
    pub message: String,
}

/// An error made by API Management itself, not by the service behind it: `{"statusCode":401,"message":"…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayError {
    /// The HTTP status again.
    #[serde(rename = "statusCode")]
    pub status_code: u16,
    /// One sentence.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_number_digits_and_name() {
        for (number, code) in StatusCode::ALL.into_iter().enumerate() {
            for text in [
                format!("{number}"),
                format!("\"{number}\""),
                format!("\"{}\"", code.name()),
                format!("\"{}\"", code.name().to_lowercase()),
            ] {
                assert_eq!(serde_json::from_str::<StatusCode>(&text).ok(), Some(code), "{text}");
            }
        }
        assert_eq!(StatusCode::parse("Not started"), Some(StatusCode::NotStarted));
        for wrong in ["5", "\"Canceled\"", "null", "\"\""] {
            assert!(serde_json::from_str::<StatusCode>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_status_answer_may_lack_everything_but_its_code() {
        let answer: StatusAnswer =
            serde_json::from_str(r#"{"Status Code": 4, "CreatedAt": "0001-01-01T00:00:00"}"#)
                .unwrap();
        assert_eq!(answer.status_code, StatusCode::Finished);
        assert_eq!((answer.results, answer.details), (None, None));
    }

    #[test]
    fn a_blob_reference_never_shows_its_secret() {
        let reference = BlobReference {
            connection_string: Some("AccountKey=QUJD".into()),
            sas_blob_token: Some("?sig=abc".into()),
            relative_location: Some("c/b.csv".into()),
            base_location: None,
        };
        let shown = format!("{reference:?}");
        assert!(!shown.contains("QUJD") && !shown.contains("sig="), "{shown}");
    }
}
