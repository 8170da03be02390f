//! How the batch endpoint is set up, and how it behaves where the documentation is silent.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;

/// The batch endpoint, its workspace, and who may call it.
#[derive(Clone, Debug)]
pub struct BatchService {
    /// The endpoint's name.
    pub endpoint: String,
    /// Its deployments, by which a header may choose.
    pub deployments: Vec<String>,
    /// Whether one of them is the default.
    pub has_default_deployment: bool,
    /// Whether its deployments take literals, as those of pipeline components do; those of models don't.
    pub takes_literals: bool,
    /// The workspace's resource id.
    pub workspace: String,
    /// The workspace's datastores, each with the container that it stands for.
    pub datastores: BTreeMap<String, String>,
    /// The tenant that tokens are given in.
    pub tenant: String,
    /// The application that may have tokens.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretString,
    /// How long a token is good.
    pub token_life: Duration,
    /// The status of the answer that makes a run: 200, 201 or 202.
    pub invoke_answers: u16,
    /// The call that makes a run makes it, and answers 500.
    pub breaks_after_begin: bool,
    /// A call that repeats another's `repeatability_request-id` gets that one's run.
    pub honours_repeatability: bool,
    /// How the endpoint's own list of runs looks.
    pub list: RunList,
    /// Runs on one page.
    pub list_page: usize,
    /// How long a run goes on before the lists show it.
    pub list_lag: Duration,
}

/// How the endpoint's own list of runs looks, which nobody has documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunList {
    /// There is none.
    None,
    /// `{"value": […], "nextLink": …}`
    Value,
    /// `[…]`
    Bare,
    /// As [`Value`](Self::Value), and nothing tells where a run writes.
    NamesOnly,
}

impl Default for BatchService {
    fn default() -> Self {
        Self {
            endpoint: "churn".into(),
            deployments: vec!["blue".into()],
            has_default_deployment: true,
            takes_literals: true,
            workspace: "/subscriptions/5b1c3d7e-9f0a-4c2b-8d6e-1f3a5c7b9d0e/resourceGroups/sandbox/providers/\
                        Microsoft.MachineLearningServices/workspaces/sandbox"
                .into(),
            datastores: BTreeMap::from([("scoring".into(), "scoring".into())]),
            tenant: "9d0e0f2a-7c1d-4e84-8b0c-9d3e5a6b7c8d".into(),
            client_id: "e1f3a5c7-b9d0-4e5b-9c3d-7e9f0a4c2b8d".into(),
            client_secret: "sandbox-client-secret".into(),
            token_life: Duration::from_hours(1),
            invoke_answers: 200,
            breaks_after_begin: false,
            honours_repeatability: true,
            list: RunList::Value,
            list_page: 30,
            list_lag: Duration::ZERO,
        }
    }
}
