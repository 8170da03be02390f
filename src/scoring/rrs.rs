//! Azure ML's classic request/response service: a file goes in with one call and comes back scored with its answer.
//!
//! Such a call has no name at the service, so nothing can be asked about it afterwards, and one whose answer is lost is
//! repeated as a whole: the same rows may be scored, and billed, more than once. What is promised is that each repetition
//! is counted, and that outputs are delivered once.
//!
//! Sources: *Consume an Azure Machine Learning web service* and the generated samples of both forms. API Management answers
//! 404 to a call without `details`, which its template of the operation names: it is always sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::json;

use super::answer::{self, Operation};
use super::results::{self, NoResults};
use super::service::{Body, Service, Settings};
use crate::fault::{Fault, Origin};
use crate::job::RemoteId;
use crate::metrics::Metrics;
use crate::ports::{
    Clock, Executed, Execution, Paper, RemoteStatus, Reply, Run, Scorer, StartAnswer, Submission,
    SubmitAnswer, Way,
};
use crate::table::{Delimiter, NoTable, Table};
use crate::wire::BlobReference;

/// A classic request/response service, as the engine sees it.
pub struct Rrs<C> {
    service: Service<C>,
    form: Form,
}

/// In which form rows go in and come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// `ColumnNames` and `Values`: every service takes it.
    #[default]
    Table,
    /// An array of objects, asked for by `format=swagger`: what newer services show in their samples.
    Swagger,
}

/// How long a call may take by default; the service itself gives up a little earlier.
pub const CALL_LIMIT: Duration = Duration::from_secs(100);

impl<C: Clock> Rrs<C> {
    /// Fails when a key can't be sent as a header, or this machine has no usable TLS.
    pub fn new(settings: Settings, form: Form, clock: C, metrics: Metrics) -> Result<Self, String> {
        Ok(Self { service: Service::new(settings, clock, metrics)?, form })
    }

    /// The same, sending nothing.
    #[must_use]
    pub fn on_paper(self, paper: Arc<dyn Paper>) -> Self {
        Self { service: self.service.on_paper(paper), ..self }
    }

    /// Has a file scored, once.
    pub async fn ask(&self, execution: &Execution) -> Result<Reply, Fault> {
        let operation = Operation::Execute;
        let body = request(execution, self.form).map_err(|wrong| {
            let message = format!("{} can't be scored at once: {wrong}", execution.name);
            Fault::permanent(Origin::Inbox, "unreadable_input", message)
        })?;
        let url = self.service.url().execute(self.form == Form::Swagger);
        let answer =
            self.service.exchange(operation, Method::POST, url, &Body::Json(body.into())).await?;
        let call = self.service.asked(operation);
        let outputs = results::read(answer::executed(&answer, &call)?).map_err(|no| match no {
            NoResults::Unreadable => answer::no_results(&answer, &call),
            NoResults::NoTable(what) => answer::no_table(&call, &what),
        })?;
        let missing = execution
            .outputs
            .iter()
            .find(|(wanted, _)| outputs.iter().all(|(output, _)| output != wanted));
        if let Some((missing, _)) = missing {
            let there: Vec<_> = outputs.iter().map(|(name, _)| name.as_str()).collect();
            return Err(answer::no_output(&call, missing, &there));
        }
        let file = |(output, table): (String, Table)| {
            let wanted = execution.outputs.iter().find(|(name, _)| *name == output);
            let delimiter = wanted.map_or(Delimiter::Comma, |(_, file)| Delimiter::of(file));
            Executed { output, table: table.write(delimiter).into() }
        };
        Ok(Reply { answer: answer.body, outputs: outputs.into_iter().map(file).collect() })
    }
}

impl<C: Clock> Scorer for Rrs<C> {
    fn kind(&self) -> &'static str {
        "rrs"
    }

    fn way(&self) -> Way {
        Way::AtOnce
    }

    fn url(&self) -> String {
        self.service.url().to_string()
    }

    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        Ok(SubmitAnswer::Known(RemoteId(format!("rrs-{}", submission.key))))
    }

    async fn start(&self, run: Run<'_>) -> Result<StartAnswer, Fault> {
        let message = format!("run {} has no start of its own: its kind was changed", run.id.0);
        Err(Fault::permanent(Origin::Endpoint, "wrong_kind", message))
    }

    /// At the address in the config, whichever was there when the run got its name: no service knows it.
    async fn execute(&self, _: Run<'_>, execution: &Execution) -> Result<Vec<Executed>, Fault> {
        self.ask(execution).await.map(|reply| reply.outputs)
    }

    async fn tried(&self, execution: &Execution) -> Result<Option<Reply>, Fault> {
        self.ask(execution).await.map(Some)
    }

    /// What ran at all has finished, with its outputs in our storage.
    async fn status(&self, _: Run<'_>) -> Result<RemoteStatus, Fault> {
        Ok(RemoteStatus::Finished(Vec::new()))
    }

    async fn cancel(&self, _: Run<'_>) -> Result<(), Fault> {
        Ok(())
    }

    async fn links(&self, _: Run<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        Ok(Vec::new())
    }

    /// An empty body: the refusal of it (`RequestIsEmpty`) shows that we are let in, and nothing is scored.
    async fn probe(&self) -> Result<(), Fault> {
        let operation = Operation::Probe;
        let url = self.service.url().execute(self.form == Form::Swagger);
        let answer = self.service.exchange(operation, Method::POST, url, &Body::Empty).await?;
        answer::probed(&answer, &self.service.asked(operation))
    }
}

impl<C> fmt::Debug for Rrs<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rrs").field(&self.service).field(&self.form).finish()
    }
}

/// The body of a call. Every cell is a string, as in all of the service's samples, and so is an empty one: `""`. What type
/// a column has is the service's to know.
pub fn request(execution: &Execution, form: Form) -> Result<Vec<u8>, NoTable> {
    let table = Table::read(&execution.table, Delimiter::of(&execution.name))?;
    let input = execution.input.as_deref().unwrap_or(ONLY_INPUT);
    let rows = match form {
        Form::Table => json!({ "ColumnNames": table.columns, "Values": table.rows }).to_string(),
        Form::Swagger => serde_json::to_string(&Objects(&table)).expect("text is always JSON"),
    };
    let parameters: serde_json::Map<_, _> = execution
        .parameters
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    let input = serde_json::Value::from(input);
    let parameters = serde_json::Value::Object(parameters);
    let body = format!("{{\"Inputs\":{{{input}:{rows}}},\"GlobalParameters\":{parameters}}}");
    Ok(body.into_bytes())
}

/// Rows as objects, their members in the order of the columns.
struct Objects<'a>(&'a Table);

impl Serialize for Objects<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.rows.len()))?;
        for row in &self.0.rows {
            list.serialize_element(&Object(&self.0.columns, row))?;
        }
        list.end()
    }
}

struct Object<'a>(&'a [String], &'a [String]);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0.iter().zip(self.1) {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}

/// What the service calls its one input unless its author renamed it.
const ONLY_INPUT: &str = "input1";

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(file: &str, form: Form) -> String {
        let execution = Execution {
            input: None,
            table: file.to_owned().into(),
            name: "a.csv".into(),
            parameters: vec![("Cutoff".into(), "0.35".into())],
            outputs: vec![],
        };
        String::from_utf8(request(&execution, form).unwrap()).unwrap()
    }

    #[test]
    fn a_file_is_sent_as_the_text_that_stands_in_it() {
        let file = "\u{feff}temp,site\r\n021.50,\"A,\"\"é\"\"\"\r\n,\r\n";
        insta::assert_snapshot!(sent(file, Form::Table), @r#"{"Inputs":{"input1":{"ColumnNames":["temp","site"],"Values":[["021.50","A,\"é\""],["",""]]}},"GlobalParameters":{"Cutoff":"0.35"}}"#);
        insta::assert_snapshot!(sent(file, Form::Swagger), @r#"{"Inputs":{"input1":[{"temp":"021.50","site":"A,\"é\""},{"temp":"","site":""}]},"GlobalParameters":{"Cutoff":"0.35"}}"#);
    }
}
