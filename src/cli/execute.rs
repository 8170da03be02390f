//! `execute`: what is typed, what of the answer is shown, and how it ends.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, feed_name};
use crate::fault::{Blame, Class, Fault};
use crate::feed::Name;
use crate::ports::{Executed, Execution};

/// `execute`
#[derive(Debug, Args)]
#[command(
    after_help = "Works by itself, from the config. Prints outputs as CSV; --json prints the service's answer as it came. Asks once: ends with 75 \
where a later try may succeed, with 69 when the service can't be reached."
)]
pub struct ExecuteArgs {
    /// The endpoint's name in the config, of kind \"rrs\" or \"bes\"
    #[arg(value_parser = feed_name)]
    pub endpoint: Name,
    /// The file, with a header row: CSV, or TSV by its extension
    pub file: PathBuf,
    /// The service's name of its input [default: input1]
    #[arg(long, value_name = "NAME")]
    pub input: Option<String>,
    /// Only this output [default: all of them, each with its name on stderr where there are several]
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// A parameter of the web service (may be given several times)
    #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = parameter)]
    pub parameters: Vec<(String, String)>,
}

impl ExecuteArgs {
    /// What is asked of the service.
    pub fn execution(&self, table: Vec<u8>) -> Execution {
        Execution {
            input: self.input.clone(),
            table: table.into(),
            name: self.file.display().to_string(),
            parameters: self.parameters.clone(),
            outputs: Vec::new(),
        }
    }

    /// The outputs to show. The error tells which ones there are.
    pub fn chosen<'a>(&self, outputs: &'a [Executed]) -> Result<Vec<&'a Executed>, String> {
        let Some(wanted) = &self.output else { return Ok(outputs.iter().collect()) };
        let chosen: Vec<_> = outputs.iter().filter(|output| output.output == *wanted).collect();
        if chosen.is_empty() {
            let there: Vec<_> = outputs.iter().map(|output| output.output.as_str()).collect();
            return Err(format!("there is no output {wanted}: there is {}", there.join(", ")));
        }
        Ok(chosen)
    }
}

/// How a command ends that met a fault.
pub fn exit_of(fault: &Fault) -> Exit {
    match (fault.class, fault.blame) {
        (Class::Permanent, _) => Exit::Failed,
        // The key, the address or the right to it: nothing that time would mend.
        (Class::Fatal, _) => Exit::Config,
        (Class::Throttled(_), _) | (Class::Transient, Blame::Job | Blame::Load) => Exit::Later,
        (Class::Transient, Blame::Service) => Exit::Unreachable,
    }
}

fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, like Cutoff=0.35".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Origin;

    #[test]
    fn each_fault_has_its_exit_code() {
        let at = Origin::Endpoint;
        for (fault, exit) in [
            (Fault::permanent(at, "", ""), Exit::Failed),
            (Fault::fatal(at, "", ""), Exit::Config),
            (Fault::throttled(at, None, "", ""), Exit::Later),
            (Fault::overloaded(at, "", ""), Exit::Later),
            (Fault::transient(at, "", ""), Exit::Later),
            (Fault::unavailable(at, "", ""), Exit::Unreachable),
        ] {
            assert_eq!(exit_of(&fault), exit, "{fault:?}");
        }
    }

    #[test]
    fn a_parameter_is_split_at_its_first_sign() {
        assert_eq!(parameter("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(parameter("A="), Ok(("A".into(), String::new())));
        for wrong in ["", "A", "=b"] {
            assert!(parameter(wrong).is_err(), "{wrong}");
        }
    }
}
