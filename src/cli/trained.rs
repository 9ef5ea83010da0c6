//! A finished (or still running) run, opened for use: configuration, data, and the model at its best checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::arguments::Machine;
use crate::cli::settings::{self, Inputs, Source};
use crate::cli::{intake, plan, terminal};
use crate::config::Config;
use crate::data::interactions::Interactions;
use crate::data::training::TrainingSet;
use crate::device::Device;
use crate::error::{Code, Error, Result};
use crate::model::Model;
use crate::train::checkpoint;
use crate::train::run_dir::RunDir;
use crate::train::step;

pub struct Trained {
    pub config: Config,
    pub set: Arc<TrainingSet>,
    pub model: Model,
    pub device: Device,
    /// Of the checkpoint that was loaded.
    pub step: u64,
}

impl Trained {
    /// For whoever judges no baselines beside it.
    pub fn alone(path: &Path, machine: &Machine) -> Result<Trained> {
        Trained::open(path, machine, &["eval.baselines=false".to_string()])
    }

    /// `sets` may change how the model is judged (`eval.*`), nothing else.
    pub fn open(path: &Path, machine: &Machine, sets: &[String]) -> Result<Trained> {
        let run = RunDir::open(path)?;
        let (device, why) = machine.open()?;
        why.iter().for_each(|why| terminal::say(&format!("computing on the host: {why}")));
        let inputs = Inputs { run_file: Some(path.join("config.resolved.toml")), sets: sets.to_vec(), ..Inputs::default() };
        let settings = settings::resolve(&inputs)?;
        for (key, _, source) in settings.chosen().filter(|(_, _, source)| matches!(source, Source::Set(_))) {
            if !key.starts_with("eval.") {
                return Err(Error::new(Code::C0203, format!("`{key}` has no effect on a trained model"))
                    .at(source.to_string())
                    .help("only `eval.*` can be changed after training"));
            }
        }
        let mut config = settings.config;
        let data = Arc::new(open_data(&run)?);
        let loaded = match load_best(&run)? {
            Some(best) => Some(best),
            None => checkpoint::load_latest(&run.checkpoints()).map_err(|error| error.help("train again with `--fresh`"))?,
        };
        let Some(loaded) = loaded else {
            return Err(Error::new(Code::M0405, format!("{} holds no checkpoint yet", path.display()))
                .help("train first, or wait for the first checkpoint"));
        };
        loaded.notes.iter().for_each(|note| terminal::say(note));
        checkpoint::settle_context(&mut config, &loaded.tensors);
        let set = intake::training_set(&config, data, None)?;
        plan::refuse_too_large_to_use(&config, &set, &device)?;
        let mut model = Model::new(&config.model, step::sizes(&set), &device, config.train.seed)?;
        checkpoint::restore_params(model.params_mut(), &device, &loaded.tensors)?;
        Ok(Trained { config, set, model, device, step: loaded.step })
    }
}

/// The model at its best evaluation. Another is not taken in its place unasked: figures would change without a word.
fn load_best(run: &RunDir) -> Result<Option<checkpoint::Loaded>> {
    checkpoint::load_latest(&run.best()).map_err(|error| {
        let others = checkpoint::steps(&run.checkpoints()).unwrap_or_default();
        error.help(match others.last() {
            Some(step) => format!("remove {} to use the newest checkpoint, step-{step}, instead", run.best().display()),
            None => "train again with `--fresh`".to_string(),
        })
    })
}

/// The data the run was trained on, and no other.
fn open_data(run: &RunDir) -> Result<Interactions> {
    let missing = || Error::new(Code::M0403, format!("{} has no manifest, so its data are unknown", run.path().display()));
    let manifest = run.read_manifest()?.ok_or_else(missing)?;
    let path: PathBuf = run.path().join(&manifest.data_file);
    let data = Interactions::open(&path)?;
    if intake::fingerprint(&data) != manifest.data_fingerprint {
        return Err(Error::new(Code::C0206, format!("{} holds other data than the run was trained on", path.display()))
            .help("restore the file, or train again"));
    }
    Ok(data)
}
