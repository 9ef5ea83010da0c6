//! `hardneg evaluate RUN`: the trained model beside its baselines, on the test (or validation) events.

use std::io::BufWriter;
use std::path::PathBuf;

use serde_json::json;

use crate::cli::arguments::Machine;
use crate::cli::display::{Display, Style};
use crate::cli::measure::{Ground, Part};
use crate::cli::output::Target;
use crate::cli::terminal;
use crate::cli::trained::Trained;
use crate::error::Result;
use crate::eval::{self, Encoder, per_user};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hardneg evaluate runs/ratings\n  hardneg evaluate runs/ratings --set eval.at=10,100 --json")]
pub struct Args {
    /// A run directory
    run: PathBuf,
    /// Which events to predict
    #[arg(long, value_enum, default_value = "test")]
    split: Part,
    /// Write rank and metrics of every request (CSV, or JSON lines for .jsonl)
    #[arg(long, value_name = "FILE")]
    per_user: Option<PathBuf>,
    /// Set one `eval.*` key; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let Trained { config, set, mut model, device, step } = Trained::open(&args.run, &args.machine, &args.sets)?;
    let ground = Ground::new(&set, args.split);
    let mut display = Display::new(Style::Auto, json, false);
    display.start("ranking", args.split.targets(&set).len() as u64);
    let mut ranker = Encoder::new(&mut model, &device, &config.model.kind)?;
    let evaluation = ground.evaluate(&mut ranker, &config.eval, &mut |done, _| display.at(done as u64, String::new));
    display.stop();
    let evaluation = evaluation?;
    let baselines = if config.eval.baselines { ground.baselines(&config.eval)? } else { vec![] };
    if let Some(path) = &args.per_user {
        let form = if path.extension().is_some_and(|e| e == "jsonl") { per_user::Form::Json } else { per_user::Form::Csv };
        let (data, mut file) = (set.data(), Target::create(path)?);
        per_user::write(&mut BufWriter::new(&mut file), path, form, &evaluation, &|u| data.user_name(u), &|i| data.item_name(i))?;
        file.finish()?;
    }
    if json {
        // One flat object: the model's metrics are the keys a script looks for.
        let mut object = evaluation.json();
        object["v"] = json!(1);
        object["step"] = json!(step);
        object["baselines"] = baselines.iter().map(eval::Evaluation::json).collect();
        return terminal::out(&object.to_string());
    }
    let mut all = vec![&evaluation];
    all.extend(&baselines);
    terminal::out(eval::table(&all).trim_end())
}
