//! What a batch endpoint is asked, and by what a run is known to be ours.
//!
//! The service names a run in the answer to the call that starts it. That answer may be lost, so the run has a name of
//! ours before: the intent. It tells two things. Its UUID goes with the call and is the same however often that is made,
//! for a service that knows a repetition by it. And it holds a digest of the place that the run is to write to, which no
//! other run shares: a list of runs that tells where they write can be searched by it, with nothing else at hand.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::fault::{Fault, Origin};
use crate::job::RemoteId;
use crate::ports::Submission;
use crate::wire::BlobReference;

/// What the service gets as input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputType {
    /// The file (`UriFile`).
    File,
    /// The folder that it is in, which holds nothing else (`UriFolder`).
    Folder,
}

/// A run that is to be, or may be already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Intent {
    /// The same however often the run is asked for.
    pub(super) id: Uuid,
    /// Of the place that the run writes to.
    output: String,
}

impl Intent {
    /// Of a submission, whose key tells its run from all others.
    pub(super) fn of(submission: &Submission, datastore: &str) -> Result<Self, Fault> {
        let (output, blob) = submission
            .outputs
            .first()
            .ok_or_else(|| unusable(&format!("{} has no output to write to", submission.key)))?;
        let place = format!("{datastore}/paths/{}", blob_of(blob, output)?);
        let bytes: [u8; 32] = Sha256::digest(&submission.key).into();
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        Ok(Self { id: Builder::from_random_bytes(id).into_uuid(), output: digest(&place) })
    }

    /// From a remote id; `None` when that is the service's own.
    pub(super) fn parse(id: &RemoteId) -> Option<Self> {
        let (uuid, output) = id.as_intent()?.split_once('.')?;
        Some(Self { id: Uuid::parse_str(uuid).ok()?, output: output.to_owned() })
    }

    pub(super) fn remote_id(&self) -> RemoteId {
        RemoteId::intent(self)
    }

    /// Whether a run that the service lists is this one: it writes to our place, in whichever member and form the list
    /// tells that (`azureml://datastores/…`, with or without the workspace before it), or it carries our id.
    pub(super) fn is_of(&self, listed: &Value) -> bool {
        match listed {
            Value::String(text) => {
                let place = text.split_once("datastores/").map(|(_, place)| place);
                let same = |place: &str| digest(place) == self.output;
                text.eq_ignore_ascii_case(&self.id.to_string())
                    || place.is_some_and(|place| {
                        same(place) || same(&percent_decode_str(place).decode_utf8_lossy())
                    })
            }
            Value::Array(items) => items.iter().any(|item| self.is_of(item)),
            Value::Object(members) => members.values().any(|member| self.is_of(member)),
            _ => false,
        }
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.output)
    }
}

/// The body of the call. Members are spelled as Microsoft's guides show them; the service takes them in any case.
///
/// Parameters are literals, as text: so the SDK sends them, and the service reads them by the type that the deployment
/// declares. A deployment of a model takes none, so without any nothing is sent.
pub(super) fn body(
    submission: &Submission,
    datastore: &str,
    input_type: InputType,
) -> Result<Value, Fault> {
    let uri = |blob: &str| format!("azureml://datastores/{datastore}/paths/{blob}");
    let mut inputs = Map::new();
    for (name, value) in &submission.parameters {
        inputs.insert(name.clone(), json!({ "JobInputType": "Literal", "Value": value }));
    }
    // A deployment of a model has one input and doesn't look at its name.
    let name = submission.input.as_deref().unwrap_or("input");
    let blob = blob_of(&submission.blob, name)?;
    let input = match input_type {
        InputType::File => json!({ "JobInputType": "UriFile", "Uri": uri(&blob) }),
        InputType::Folder => {
            let folder = blob.rsplit_once('/').map_or("", |(folder, _)| folder);
            json!({ "JobInputType": "UriFolder", "Uri": uri(folder) })
        }
    };
    inputs.insert(name.to_owned(), input);
    let mut outputs = Map::new();
    for (name, blob) in &submission.outputs {
        // What the guides call a folder must be a file for deployments of models: "Job output type must be 'uri_file'".
        let output = json!({ "JobOutputType": "UriFile", "Uri": uri(&blob_of(blob, name)?) });
        outputs.insert(name.clone(), output);
    }
    Ok(json!({ "properties": { "InputData": inputs, "OutputData": outputs } }))
}

/// The blob's name in its container.
fn blob_of(reference: &BlobReference, of: &str) -> Result<String, Fault> {
    let location = reference.relative_location.as_deref().unwrap_or_default();
    let (_, blob) = location.trim_start_matches('/').split_once('/').unwrap_or_default();
    if blob.is_empty() {
        return Err(unusable(&format!("the blob of {of} has no place in a container")));
    }
    Ok(blob.to_owned())
}

fn unusable(why: &str) -> Fault {
    Fault::permanent(Origin::Endpoint, "no_place", format!("asking for a run: {why}"))
}

fn digest(place: &str) -> String {
    format!("{:x}", Sha256::digest(place))[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(location: &str) -> BlobReference {
        BlobReference { relative_location: Some(location.into()), ..BlobReference::default() }
    }

    fn submission() -> Submission {
        Submission {
            key: "019ab5a8-1".into(),
            input: Some("rows".into()),
            blob: at("/scoring/churn/019a/1-2/x y.csv"),
            outputs: vec![("score".into(), at("/scoring/churn/019a/1-2/out/score.csv"))],
            parameters: vec![("mode".into(), "append".into()), ("top".into(), "5".into())],
        }
    }

    #[test]
    fn the_body_names_places_in_the_datastore_and_no_secret() {
        let body = body(&submission(), "inbox", InputType::File).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&body).unwrap(), @r#"
        {
          "properties": {
            "InputData": {
              "mode": {
                "JobInputType": "Literal",
                "Value": "append"
              },
              "rows": {
                "JobInputType": "UriFile",
                "Uri": "azureml://datastores/inbox/paths/churn/019a/1-2/x y.csv"
              },
              "top": {
                "JobInputType": "Literal",
                "Value": "5"
              }
            },
            "OutputData": {
              "score": {
                "JobOutputType": "UriFile",
                "Uri": "azureml://datastores/inbox/paths/churn/019a/1-2/out/score.csv"
              }
            }
          }
        }
        "#);
    }

    #[test]
    fn a_folder_is_the_one_that_the_input_is_alone_in() {
        let percent = at("/scoring/churn/019a/1-2/100%25.csv");
        let plain = Submission { blob: percent, input: None, parameters: vec![], ..submission() };
        let inputs = |kind| body(&plain, "inbox", kind).unwrap()["properties"]["InputData"].clone();
        let uri = "azureml://datastores/inbox/paths/churn/019a/1-2";
        assert_eq!(
            inputs(InputType::Folder),
            json!({ "input": { "JobInputType": "UriFolder", "Uri": uri } })
        );
        let file = format!("{uri}/100%25.csv");
        assert_eq!(inputs(InputType::File)["input"]["Uri"], file, "not decoded: it is a name");
    }

    #[test]
    fn an_intent_is_the_same_however_often_it_is_asked_for() {
        let intent = Intent::of(&submission(), "inbox").unwrap();
        assert_eq!(Intent::of(&submission(), "inbox").unwrap(), intent);
        assert_eq!(Intent::parse(&intent.remote_id()), Some(intent.clone()));
        assert_eq!(RemoteId::parse(&intent.remote_id().0), Some(intent.remote_id()));
        let next = Submission { key: "019ab5a8-2".into(), ..submission() };
        assert_ne!(Intent::of(&next, "inbox").unwrap().id, intent.id);
        for own in ["9f1c2d", "intent-x", "batchjob-1234"] {
            assert_eq!(Intent::parse(&RemoteId(own.into())), None, "{own}");
        }
    }

    #[test]
    fn a_listed_run_is_ours_by_its_place_or_its_id_in_every_form() {
        let intent = Intent::of(&submission(), "inbox").unwrap();
        let place = "datastores/inbox/paths/churn/019a/1-2/out/score.csv";
        for uri in [
            format!("azureml://{place}"),
            format!("azureml://subscriptions/s/resourcegroups/g/workspaces/w/{place}"),
            format!("azureml://{}", place.replace("/out/", "/%6Fut/")),
        ] {
            let run = json!({ "properties": { "outputData": { "x": { "uri": uri } } } });
            assert!(intent.is_of(&run), "{run}");
        }
        assert!(intent.is_of(&json!({ "tags": [intent.id.to_string().to_uppercase()] })));
        for other in ["azureml://datastores/inbox/paths/churn/019a/1-3/out/score.csv", "score", ""]
        {
            assert!(!intent.is_of(&json!({ "uri": other, "n": 1 })), "{other}");
        }
    }
}
