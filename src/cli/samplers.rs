//! `hardneg samplers list | show NAME`: every preset and every stage a sampler can be composed of.

use serde_json::json;

use crate::cli::terminal;
use crate::error::{Error, Result};
use crate::loss;
use crate::sampling::{self, Declared, OF_PROPOSALS, Param, Shown, Stage};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hardneg samplers list\n  hardneg samplers show popularity")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// All presets and all kinds of all stages
    List,
    /// One preset or kind in full
    Show {
        /// Name of a preset or of a kind
        name: String,
    },
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    match &args.what {
        What::List => list(json),
        What::Show { name } => show(name, json),
    }
}

fn list(json: bool) -> Result<()> {
    let (presets, kinds) = (sampling::presets()?, sampling::kinds());
    let losses = || loss::KINDS.iter().filter(|loss| !loss.sampled);
    if json {
        let presets = presets
            .iter()
            .map(|p| {
                let (needs, costs) = demands(&p.name)?;
                Ok(json!({
                    "name": p.name, "family": p.family, "sub_type": p.sub_type, "about": p.about, "source": p.source, "needs": needs, "cost": costs,
                }))
            })
            .collect::<Result<Vec<_>>>()?;
        let kinds: Vec<_> = kinds.iter().map(|k| kind_json(k)).collect();
        let without: Vec<_> = losses().map(|l| json!({ "name": l.name, "help": l.help, "source": l.source })).collect();
        return terminal::out(&json!({ "presets": presets, "kinds": kinds, "losses_without_sampler": without }).to_string());
    }
    let width = presets.iter().map(|p| p.name.len()).chain(kinds.iter().map(|k| k.name.len())).max().unwrap_or(0);
    terminal::out("presets (`--sampler NAME`)")?;
    for preset in &presets {
        let (needs, costs) = demands(&preset.name)?;
        let needs = if needs.is_empty() { String::new() } else { format!("; needs {}", needs.join(", ")) };
        terminal::out(&format!("  {:width$}  {}", preset.name, preset.about))?;
        terminal::out(&format!("  {:width$}    {}, {}: {}", "", preset.family, preset.sub_type, preset.source))?;
        terminal::out(&format!("  {:width$}    cost {}{needs}", "", costs.join("; ")))?;
    }
    terminal::out("\nwithout a sampler, over every item (`--set loss=NAME`)")?;
    for loss in losses() {
        terminal::out(&format!("  {:width$}  {}", loss.name, loss.help))?;
        terminal::out(&format!("  {:width$}    {}", "", loss.source))?;
    }
    for stage in Stage::ALL {
        terminal::out(&format!("\n{} (`[sampler.{0}]`)", stage.name()))?;
        for kind in kinds.iter().filter(|k| k.stage == stage) {
            terminal::out(&format!("  {:width$}  {}", kind.name, kind.help))?;
        }
    }
    Ok(())
}

/// What the stages of a preset need besides the log, and what they cost.
fn demands(preset: &str) -> Result<(Vec<String>, Vec<&'static str>)> {
    let Shown::Preset { kinds, .. } = sampling::show(preset)? else { return Ok((vec![], vec![])) };
    let mut needs: Vec<String> = kinds.iter().flat_map(|k| k.needs).map(|need| format!("{need:?}").to_lowercase()).collect();
    needs.sort();
    needs.dedup();
    Ok((needs, kinds.iter().map(|k| k.cost).filter(|cost| *cost != "none").collect()))
}

fn show(name: &str, json: bool) -> Result<()> {
    match sampling::show(name)? {
        Shown::Preset { preset, resolved, kinds } => {
            if json {
                let kinds: Vec<_> = kinds.iter().map(|k| kind_json(k)).collect();
                return terminal::out(
                    &json!({ "name": preset.name, "family": preset.family, "sub_type": preset.sub_type, "about": preset.about, "source": preset.source, "sampler": resolved, "loss": preset.loss, "kinds": kinds }).to_string(),
                );
            }
            let mut spelled = toml::to_string(&json!({ "sampler": resolved })).map_err(|e| Error::internal(e.to_string()))?;
            if let Some(loss) = &preset.loss {
                let loss = toml::to_string(&json!({ "loss": loss })).map_err(|e| Error::internal(e.to_string()))?;
                spelled = format!("{loss}\n{spelled}");
            }
            terminal::out(&format!(
                "{}: {}\nfamily: {}, {}\nsource: {}\n\n{spelled}",
                preset.name, preset.about, preset.family, preset.sub_type, preset.source
            ))?;
            kinds.iter().try_for_each(|kind| terminal::out(&kind_text(kind)))
        }
        Shown::Kind(kind) if json => terminal::out(&kind_json(kind).to_string()),
        Shown::Kind(kind) => terminal::out(&kind_text(kind)),
    }
}

/// A kind's own parameters and those its stage gives to all.
fn params(kind: &Declared) -> impl Iterator<Item = &'static Param> {
    let shared: &[Param] = if kind.stage == Stage::Propose { OF_PROPOSALS } else { &[] };
    kind.params.iter().chain(shared)
}

fn kind_text(kind: &Declared) -> String {
    let mut text =
        format!("{} ({}): {}\n  source: {}\n  cost: {}\n", kind.name, kind.stage.name(), kind.help, kind.source, kind.cost);
    for need in kind.needs {
        text += &format!("  needs: {need:?}\n").to_lowercase();
    }
    for param in params(kind) {
        let only = param.only_with.map_or(String::new(), |(other, word)| format!(" (only with {other} = {word})"));
        text += &format!(
            "  {} = {}  # {}; {}{only}\n",
            param.name,
            value_text(&param.form.default()),
            param.form.range(),
            param.help
        );
    }
    text
}

fn value_text(value: &crate::config::Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn kind_json(kind: &Declared) -> serde_json::Value {
    let params: Vec<_> = params(kind)
        .map(|p| json!({ "name": p.name, "default": p.form.default(), "range": p.form.range(), "help": p.help }))
        .collect();
    json!({ "stage": kind.stage.name(), "name": kind.name, "help": kind.help, "source": kind.source, "cost": kind.cost, "params": params })
}
