//! The scoring service of the simulated world: what it registers, runs and forgets.

use scoreline::fault::{Fault, Origin};
use scoreline::job::{JobId, RemoteId, ResultPlace, RunResult};
use scoreline::ports::{
    Invoked, RemoteStatus, Run as Asked, Scorer, StartAnswer, Submission, SubmitAnswer, Way,
};
use scoreline::wire::BlobReference;

use super::node::Life;
use super::world::{ENDPOINT, End, Mistake, Run, State, scores_of};

impl Scorer for Life {
    fn kind(&self) -> &'static str {
        "simulated"
    }
    fn url(&self) -> String {
        "simulated".into()
    }
    fn way(&self) -> Way {
        if self.land.one_call { Way::OneCall } else { Way::TwoSteps }
    }
    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        if self.land.one_call {
            return Ok(SubmitAnswer::Known(RemoteId::intent(&submission.key)));
        }
        let place = |blob: &BlobReference| blob.relative_location.clone().unwrap();
        let input = place(&submission.blob);
        let outputs: Vec<_> =
            submission.outputs.iter().map(|(name, blob)| (name.clone(), place(blob))).collect();
        let job = JobId::parse(input.split('/').nth(1).unwrap()).unwrap();
        let generation = self.land.row(job).map_or(0, |row| row.generation());
        let started = u32::from(self.made(Mistake::StartBeforeCommit));
        self.call("submit", move |state| {
            if !state.blobs.contains_key(&input) {
                let fault = Fault::transient(Origin::Endpoint, "BlobNotFound", &input);
                return Ok(SubmitAnswer::InputMissing(fault));
            }
            if outputs.iter().any(|(_, blob)| state.blobs.contains_key(blob)) {
                state.broken.push(format!("{job} is to write where another run wrote"));
            }
            let end = an_end(state);
            let run = Run {
                job,
                generation,
                input,
                outputs,
                starts: started,
                looks: state.rng.below(4),
                end,
                ended: false,
                forgotten: false,
                intent: None,
            };
            let id = format!("run-{}", state.runs.len());
            state.runs.insert(id.clone(), run);
            Ok(SubmitAnswer::Known(RemoteId(id)))
        })
        .await
    }
    async fn start(&self, asked: Asked<'_>) -> Result<StartAnswer, Fault> {
        let (id, in_flight) = (asked.id.0.clone(), self.land.in_flight);
        let refusals_pass = self.made(Mistake::RefusalsPassForUnknown);
        self.call("start", move |state| {
            if !state.committed.contains(&id) {
                state.broken.push(format!("{id} was started before its id was committed"));
            }
            let forgotten = state.unruly && state.rng.below(50) == 0;
            let run = state.runs.get_mut(&id).unwrap();
            run.forgotten |= forgotten;
            if run.forgotten || (refusals_pass && run.starts > 0) {
                return Ok(StartAnswer::Unknown);
            }
            // A second start is refused, and the adapter takes the refusal for what it says.
            run.starts = 1;
            let going = state.runs.values().filter(|run| run.starts > 0 && !run.ended).count();
            if going > in_flight && !state.unruly && !state.operated {
                state.broken.push(format!("{going} runs at once, and {in_flight} are allowed"));
            }
            Ok(StartAnswer::Started)
        })
        .await
    }
    /// Whoever is told of trouble that a service speaks of knows that nothing was started; whoever is told nothing
    /// doesn't.
    async fn invoke(&self, asked: Asked<'_>, submission: &Submission) -> Invoked {
        let place = |blob: &BlobReference| blob.relative_location.clone().unwrap();
        let input = place(&submission.blob);
        let outputs: Vec<_> =
            submission.outputs.iter().map(|(name, blob)| (name.clone(), place(blob))).collect();
        let job = JobId::parse(input.split('/').nth(1).unwrap()).unwrap();
        let intent = asked.id.0.clone();
        let generation = submission.key.rsplit('-').next().unwrap().parse().unwrap();
        let called = self.call("invoke", move |state| {
            if !state.committed.contains(&intent) {
                state.broken.push(format!("{intent} was called before it was committed"));
            }
            if outputs.iter().any(|(_, blob)| state.blobs.contains_key(blob)) {
                state.broken.push(format!("{job} is to write where another run wrote"));
            }
            let end = an_end(state);
            let looks = state.rng.below(4);
            let id = format!("run-{}", state.runs.len());
            let (ended, forgotten) = (false, false);
            let intent = Some(intent);
            let run = Run {
                job,
                generation,
                input,
                outputs,
                starts: 1,
                looks,
                end,
                ended,
                forgotten,
                intent,
            };
            state.runs.insert(id.clone(), run);
            Ok(RemoteId(id))
        });
        match called.await {
            Ok(id) => Invoked::Started(id),
            Err(fault) => {
                let spoken = ["Throttle", "Transient", "Fatal", "Permanent", "429", "503"];
                let known = spoken.contains(&fault.code.as_str());
                if known || self.made(Mistake::UnclearPassesForRefused) {
                    Invoked::NotStarted(fault)
                } else {
                    Invoked::Unclear(fault)
                }
            }
        }
    }
    async fn status(&self, asked: Asked<'_>) -> Result<RemoteStatus, Fault> {
        let _place = self.land.a_place(&self.host.clock, "status").await?;
        let impatient = self.made(Mistake::LooksAreImpatient);
        self.effect(ENDPOINT, |state| {
            let State { runs, blobs, rng, unruly, .. } = state;
            if asked.id.as_intent().is_some() {
                let ours = |run: &Run| run.intent.as_ref() == Some(&asked.id.0) && !run.forgotten;
                let found = runs.iter().find(|(_, run)| ours(run));
                return Ok(found.map_or(RemoteStatus::NotListed, |(id, _)| {
                    RemoteStatus::Found(RemoteId(id.clone()))
                }));
            }
            let run = runs.get_mut(&asked.id.0).unwrap();
            run.forgotten |= *unruly && rng.below(50) == 0;
            if run.forgotten {
                return Ok(RemoteStatus::Unknown);
            }
            if run.looks > 0 || run.starts == 0 {
                run.looks = run.looks.saturating_sub(1);
                return Ok(if impatient {
                    RemoteStatus::Finished(Vec::new())
                } else {
                    RemoteStatus::Pending
                });
            }
            run.ended = run.end != End::Never;
            Ok(match run.end {
                End::Never => RemoteStatus::Pending,
                End::Failed => RemoteStatus::Failed("poison".into()),
                End::Cancelled => RemoteStatus::Cancelled,
                End::Finished => {
                    let input = blobs[&run.input].clone();
                    for (output, blob) in &run.outputs {
                        blobs.insert(blob.clone(), scores_of(output, &input));
                    }
                    let mut results = Vec::new();
                    if self.land.elsewhere {
                        let blob = format!("elsewhere/{}/extra.csv", asked.id.0);
                        blobs.insert(blob.clone(), scores_of("extra", &input));
                        let place = ResultPlace::Elsewhere(blob);
                        results.push(RunResult { output: "extra".into(), place });
                    }
                    RemoteStatus::Finished(results)
                }
            })
        })
        .await
    }
    async fn cancel(&self, asked: Asked<'_>) -> Result<(), Fault> {
        if asked.id.as_intent().is_some() {
            return Ok(());
        }
        let id = asked.id.0.clone();
        self.call("cancel", move |state| {
            let run = state.runs.get_mut(&id).unwrap();
            if run.forgotten {
                return Err(Fault::permanent(Origin::Endpoint, "NotFound", "no such job"));
            }
            if run.looks > 0 || run.starts == 0 || run.end == End::Never {
                (run.looks, run.starts, run.end) = (0, 1, End::Cancelled);
                return Ok(());
            }
            Err(Fault::permanent(Origin::Endpoint, "InvalidOperation", "it has ended"))
        })
        .await
    }
    async fn links(&self, asked: Asked<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        let _place = self.land.a_place(&self.host.clock, "links").await?;
        let link = Some(format!("elsewhere/{}/extra.csv", asked.id.0));
        let link = BlobReference { relative_location: link, ..BlobReference::default() };
        self.effect(ENDPOINT, |_| Ok(vec![("extra".to_owned(), link)])).await
    }
    async fn probe(&self) -> Result<(), Fault> {
        self.land.state().service.probes += 1;
        self.hang("probe").await;
        let _place = self.land.a_place(&self.host.clock, "probe").await?;
        self.effect(ENDPOINT, |_| Ok(())).await
    }
}

fn an_end(state: &mut State) -> End {
    match state.rng.below(10) {
        0 if state.unruly => End::Cancelled,
        1 | 2 if state.unruly => End::Failed,
        3 if state.unruly => End::Never,
        _ => End::Finished,
    }
}
