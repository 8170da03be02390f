//! `[budgets.NAME]`: calls that all endpoints behind one key share.

use std::collections::{BTreeMap, BTreeSet};

use toml::Table;

use super::named;
use super::reader::{Findings, Reader};
use crate::engine::Budget;
use crate::feed::Name;
use crate::ports::CallLimits;

/// All budgets; who shares them is known once the endpoints are read.
pub(super) fn read(document: &mut Reader<'_>) -> BTreeMap<Name, Budget> {
    let mut budgets = BTreeMap::new();
    let mut shown = Table::new();
    for (name, mut budget) in document.tables("budgets") {
        let is_limited = budget.has("calls_per_minute") || budget.has("calls_per_week");
        if !is_limited {
            budget.error(
                "calls_per_minute",
                "is missing, and calls_per_week too: write what the subscription allows",
            );
        }
        let limits = CallLimits {
            per_minute: budget.number_if("calls_per_minute", CALLS_MIN),
            per_week: budget.number_if("calls_per_week", CALLS_MIN),
        };
        shown.insert(name.to_string(), budget.finish().into());
        budgets.insert(name, Budget { limits, endpoints: BTreeSet::new() });
    }
    if !shown.is_empty() {
        document.include("budgets", shown);
    }
    budgets
}

/// An endpoint's `budget`.
pub(super) fn share(endpoint: &mut Reader<'_>, name: &Name, budgets: &mut BTreeMap<Name, Budget>) {
    let budget = endpoint.parsed("budget", |text| named(text, "budgets", budgets));
    if let Some(budget) = budget.and_then(|budget| budgets.get_mut(&budget)) {
        budget.endpoints.insert(name.clone());
    }
}

/// What nobody draws from limits nothing.
pub(super) fn check(findings: &Findings, budgets: &BTreeMap<Name, Budget>) {
    for (name, _) in budgets.iter().filter(|(_, budget)| budget.endpoints.is_empty()) {
        let message =
            format!("limits nothing: write budget = \"{name}\" in the [endpoints] that share it");
        findings.warn(&format!("budgets.{name}"), &message);
    }
}

/// Stopping a run takes two calls at once: with fewer none could ever be stopped.
const CALLS_MIN: u32 = 2;
