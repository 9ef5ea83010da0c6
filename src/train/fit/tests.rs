//! The loop over a toy whose state is a chaotic function of every step taken: any step lost, repeated or misnumbered
//! changes the final hash.

use super::*;
use std::cell::Cell;

const PER_EPOCH: u64 = 7;

struct Toy {
    x: Vec<f32>,
    /// Loss of this step is not a number.
    breaks_at: u64,
    /// Whether reports come only when they are waited for.
    behind: bool,
    pending: Vec<StepReport>,
}

impl Toy {
    fn new() -> Toy {
        Toy { x: vec![0.1, 0.2, 0.3], breaks_at: u64::MAX, behind: false, pending: vec![] }
    }
}

impl Training for Toy {
    fn steps_per_epoch(&self) -> u64 {
        PER_EPOCH
    }
    fn step(&mut self, step: u64) -> Result<()> {
        for x in &mut self.x {
            *x = 3.9 * *x * (1.0 - *x) * (0.9 + 0.01 * (step % 10) as f32);
        }
        let loss = if step == self.breaks_at { f64::NAN } else { f64::from(self.x[0]) };
        self.pending.push(StepReport {
            loss,
            rows: 3 + step % 2,
            sequences: 1,
            grad_norm: 1.0,
            stages: Stages { sample: 0.1, ..Stages::default() },
            seconds: 0.2,
        });
        Ok(())
    }
    fn reports(&mut self, wait: bool) -> Result<Vec<StepReport>> {
        Ok(if wait || !self.behind { std::mem::take(&mut self.pending) } else { vec![] })
    }
    fn tensors(&self) -> Result<Vec<Tensor>> {
        let tensor = |name: &str| Tensor { name: name.into(), shape: vec![3], values: self.x.clone() };
        Ok(vec![tensor("model.x"), tensor("optim.x")])
    }
    fn restore(&mut self, _: u64, tensors: &[Tensor]) -> Result<()> {
        checkpoint::must_fit(tensors, &[("model.x".into(), vec![3]), ("optim.x".into(), vec![3])])?;
        self.x = tensors.iter().find(|t| t.name == "optim.x").unwrap().values.clone();
        Ok(())
    }
}

/// Stops after `left` more steps; scores come from a list, then fall.
struct Company {
    left: Cell<u64>,
    scores: Vec<f64>,
    evaluations: usize,
    said: Vec<String>,
}

impl Company {
    fn patient(left: u64) -> Company {
        Company { left: Cell::new(left), scores: vec![], evaluations: 0, said: vec![] }
    }
}

impl Watcher<Toy> for Company {
    fn evaluate(&mut self, training: &mut Toy) -> Result<Vec<(String, f64)>> {
        self.evaluations += 1;
        let value = self.scores.get(self.evaluations - 1).copied().unwrap_or(f64::from(training.x[1]));
        Ok(vec![("NDCG@10".into(), value)])
    }
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Note(note) => self.said.push(note.into()),
            Event::Resumed { step } => self.said.push(format!("resumed {step}")),
            Event::Step { .. } => self.left.set(self.left.get().saturating_sub(1)),
            _ => {}
        }
    }
    fn stop(&self) -> bool {
        self.left.get() == 0
    }
}

fn settings() -> config::Train {
    config::Train { epochs: 5, patience: 0, eval_every: 2, checkpoint_every: 1e9, ..config::Train::default() }
}

fn run_with(root: &std::path::Path, train: &config::Train, company: &mut Company, toy: &mut Toy) -> Result<Outcome> {
    let run = RunDir::create(root).unwrap();
    fit(toy, &run, train, "same", company)
}

/// Records without clocks.
fn records(root: &std::path::Path) -> Vec<Value> {
    let mut records = RunDir::create(root).unwrap().records().unwrap();
    records.iter_mut().for_each(|r| drop(r.as_object_mut().unwrap().remove("seconds")));
    records
}

fn uninterrupted() -> (String, Vec<Value>, Option<Best>) {
    let root = tempfile::tempdir().unwrap();
    let outcome = run_with(root.path(), &settings(), &mut Company::patient(u64::MAX), &mut Toy::new()).unwrap();
    assert_eq!((outcome.reason, outcome.step), (Reason::Finished, 5 * PER_EPOCH));
    (outcome.state_hash, records(root.path()), outcome.best)
}

#[test]
fn stopping_after_any_step_and_continuing_ends_as_if_never_stopped() {
    let (hash, whole, best) = uninterrupted();
    for stop in 1..5 * PER_EPOCH {
        let root = tempfile::tempdir().unwrap();
        let outcome = run_with(root.path(), &settings(), &mut Company::patient(stop), &mut Toy::new()).unwrap();
        assert_eq!((outcome.reason, outcome.step), (Reason::Interrupted, stop));
        let mut company = Company::patient(u64::MAX);
        let outcome = run_with(root.path(), &settings(), &mut company, &mut Toy::new()).unwrap();
        assert_eq!((outcome.reason, &outcome.state_hash, outcome.best), (Reason::Finished, &hash, best), "stopped after {stop}");
        assert_eq!(company.said, [format!("resumed {stop}")]);
        let continued = records(root.path());
        assert_eq!(continued.len(), whole.len());
        for (a, b) in continued.iter().zip(&whole) {
            assert_eq!(
                (&a["kind"], &a["step"], &a["loss"], &a["state_hash"], &a["metrics"]),
                (&b["kind"], &b["step"], &b["loss"], &b["state_hash"], &b["metrics"])
            );
            // The seconds are those of all steps of the epoch, as the sequences are.
            let epoch = |r: &Value| ["sequences", "sampling_share", "stage_seconds"].map(|key| r[key].clone());
            assert_eq!(epoch(a), epoch(b), "stopped after {stop}");
        }
    }
}

#[test]
fn checkpoints_from_before_they_held_seconds_are_read() {
    let mut state = serde_json::to_value(Progress { step: 5, seconds: 2.0, ..Progress::default() }).unwrap();
    for key in ["seconds", "stages"] {
        state.as_object_mut().unwrap().remove(key).unwrap();
    }
    let progress: Progress = serde_json::from_value(state).unwrap();
    assert_eq!((progress.step, progress.seconds, progress.stages), (5, 0.0, Stages::default()));
}

#[test]
fn a_machine_that_is_behind_records_and_saves_the_same() {
    let (hash, whole, best) = uninterrupted();
    let behind = || Toy { behind: true, ..Toy::new() };
    for (stop, steps) in [(u64::MAX, 0), (3, 0), (10, 4), (22, 1)] {
        let root = tempfile::tempdir().unwrap();
        let train = config::Train { checkpoint_steps: steps, ..settings() };
        // The request to stop is made when the steps are heard of, which is later than they are done.
        let outcome = run_with(root.path(), &train, &mut Company::patient(stop), &mut behind()).unwrap();
        assert!(outcome.step >= stop.min(5 * PER_EPOCH));
        let outcome = run_with(root.path(), &train, &mut Company::patient(u64::MAX), &mut behind()).unwrap();
        assert_eq!((&outcome.state_hash, outcome.best), (&hash, best));
        let shown = |r: &Value| ["kind", "step", "loss", "grad_norm", "state_hash", "metrics"].map(|key| r[key].clone());
        assert!(records(root.path()).iter().map(shown).eq(whole.iter().map(shown)), "stopped after {stop}");
    }
    // Nothing of a broken step is recorded or saved, however late it is found.
    let root = tempfile::tempdir().unwrap();
    let mut toy = Toy { breaks_at: 9, ..behind() };
    let train = config::Train { checkpoint_steps: 4, ..settings() };
    let error = run_with(root.path(), &train, &mut Company::patient(u64::MAX), &mut toy).unwrap_err();
    assert!(error.code() == Code::T0701 && error.what().contains("at step 9 (epoch 2)"), "{error:?}");
    assert_eq!(checkpoint::steps(&root.path().join("checkpoints")).unwrap().last(), Some(&8));
    assert!(records(root.path()).iter().all(|record| record["step"].as_u64() <= Some(9)));
}

#[test]
fn how_often_checkpoints_are_written_changes_nothing() {
    let (hash, ..) = uninterrupted();
    for (steps, seconds) in [(1, 1e9), (3, 1e9), (0, 0.0)] {
        let root = tempfile::tempdir().unwrap();
        let train = config::Train { checkpoint_steps: steps, checkpoint_every: seconds, ..settings() };
        assert_eq!(run_with(root.path(), &train, &mut Company::patient(u64::MAX), &mut Toy::new()).unwrap().state_hash, hash);
        assert!(checkpoint::steps(&root.path().join("checkpoints")).unwrap().len() == 2, "two are kept");
    }
}

#[test]
fn a_damaged_checkpoint_sends_the_run_back_one_further_to_the_same_end() {
    let (hash, ..) = uninterrupted();
    let root = tempfile::tempdir().unwrap();
    let train = config::Train { checkpoint_steps: 4, ..settings() };
    run_with(root.path(), &train, &mut Company::patient(22), &mut Toy::new()).unwrap();
    let newest = root.path().join("checkpoints/step-22/optim.safetensors");
    let mut bytes = std::fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    std::fs::write(&newest, bytes).unwrap();
    let mut company = Company::patient(u64::MAX);
    let outcome = run_with(root.path(), &train, &mut company, &mut Toy::new()).unwrap();
    assert_eq!(outcome.state_hash, hash);
    assert!(company.said[0].contains("step-22") && company.said[1] == "resumed 20", "{:?}", company.said);
}

#[test]
fn patience_counts_evaluations_also_across_an_interruption_and_the_best_model_is_kept() {
    let train = config::Train { patience: 2, eval_every: 1, epochs: 50, ..settings() };
    let scores = vec![0.1, 0.5, 0.4, 0.3, 0.9];
    for stop in [u64::MAX, 2 * PER_EPOCH + 1, 3 * PER_EPOCH] {
        let root = tempfile::tempdir().unwrap();
        let mut company = Company { scores: scores.clone(), ..Company::patient(stop) };
        let mut outcome = run_with(root.path(), &train, &mut company, &mut Toy::new()).unwrap();
        if stop != u64::MAX {
            assert_eq!(outcome.reason, Reason::Interrupted);
            company.left.set(u64::MAX);
            outcome = run_with(root.path(), &train, &mut company, &mut Toy::new()).unwrap();
        }
        assert_eq!((outcome.reason, outcome.step), (Reason::StoppedEarly, 4 * PER_EPOCH));
        assert_eq!(outcome.best, Some(Best { step: 2 * PER_EPOCH, value: 0.5 }));
        let best = checkpoint::load_latest(&root.path().join("best")).unwrap().unwrap();
        assert_eq!((best.step, best.tensors.len(), best.state["value"].as_f64()), (2 * PER_EPOCH, 1, Some(0.5)));
        let again = run_with(root.path(), &train, &mut company, &mut Toy::new()).unwrap();
        assert!(again.already && again.state_hash == outcome.state_hash && again.best == outcome.best);
    }
}

#[test]
fn the_step_limit_ends_within_an_epoch_and_the_time_limit_at_a_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let mut company = Company::patient(u64::MAX);
    let train = config::Train { steps: 10, ..settings() };
    let outcome = run_with(root.path(), &train, &mut company, &mut Toy::new()).unwrap();
    assert_eq!((outcome.reason, outcome.step, company.evaluations), (Reason::Finished, 10, 1));
    let root = tempfile::tempdir().unwrap();
    let train = config::Train { time_limit: 1e-9, ..settings() };
    let (hash, ..) = uninterrupted();
    let mut rounds = 0;
    let outcome = loop {
        let outcome = run_with(root.path(), &train, &mut Company::patient(u64::MAX), &mut Toy::new()).unwrap();
        rounds += 1;
        if outcome.reason != Reason::TimeLimit {
            break outcome;
        }
        assert_eq!(outcome.step, rounds);
    };
    assert_eq!((outcome.state_hash, rounds), (hash, 5 * PER_EPOCH));
}

#[test]
fn a_loss_that_is_not_a_number_stops_with_the_step_and_keeps_the_last_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let train = config::Train { checkpoint_steps: 5, ..settings() };
    let error =
        run_with(root.path(), &train, &mut Company::patient(u64::MAX), &mut Toy { breaks_at: 16, ..Toy::new() }).unwrap_err();
    assert!(error.code() == Code::T0701 && error.what().contains("step 16 (epoch 3)"), "{error}");
    assert!(error.to_string().contains("optim.lr"), "{error}");
    assert_eq!(checkpoint::load_latest(&root.path().join("checkpoints")).unwrap().unwrap().step, 15);
}

#[test]
fn another_identity_or_another_model_is_not_continued() {
    let root = tempfile::tempdir().unwrap();
    run_with(root.path(), &settings(), &mut Company::patient(3), &mut Toy::new()).unwrap();
    let run = RunDir::create(root.path()).unwrap();
    let error = fit(&mut Toy::new(), &run, &settings(), "other", &mut Company::patient(9)).unwrap_err();
    assert_eq!(error.code(), Code::C0206);
    let unknown = config::Train { metric: "ndcg@11".into(), ..settings() };
    drop(run);
    assert_eq!(run_with(root.path(), &unknown, &mut Company::patient(99), &mut Toy::new()).unwrap_err().code(), Code::C0202);
}
