//! From a path to data that can be trained on: read a log or open a prepared file, prepare, split, encode context.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::display::Display;
use crate::cli::inspect::is_prepared;
use crate::cli::settings::Settings;
use crate::cli::terminal::grouped;
use crate::config::{self, Config};
use crate::data::clusters::{Method, TimeClusters};
use crate::data::context::ContextEncoder;
use crate::data::interactions::Interactions;
use crate::data::raw::Sides;
use crate::data::split::{self, Split};
use crate::data::training::TrainingSet;
use crate::data::{prepare, read, synthetic};
use crate::error::{Code, Error, Result};
use crate::loss;
use crate::sampling::{Need, Plan};

/// Opens the prepared file `data.path` names, or reads the log it names (or generates one) and prepares it into `out`.
/// Gives the data and the file they lie in.
pub fn interactions(settings: &Settings, out: &Path, display: &mut Display) -> Result<(Arc<Interactions>, PathBuf)> {
    let config = &settings.config.data;
    let path = Path::new(&config.path);
    if !config.path.is_empty() && is_prepared(path)? {
        refuse_reading_settings(settings)?;
        let data = Interactions::open(path)?;
        describe(&data, display);
        return Ok((Arc::new(data), path.canonicalize().map_err(|e| Error::io("reading", path, &e))?));
    }
    let data = prepare_log(config, out, display)?;
    describe(&data, display);
    Ok((Arc::new(data), out.to_path_buf()))
}

/// Reads or generates the log and prepares it into the file `out`.
pub fn prepare_log(config: &config::Data, out: &Path, display: &mut Display) -> Result<Interactions> {
    let (log, sides) = if config.path.is_empty() {
        synthetic::generate(&config.synthetic)?
    } else {
        let path = Path::new(&config.path);
        display.start("reading", std::fs::metadata(path).map_or(0, |m| m.len()));
        let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let log = read::read(config, Some(folder), &mut |p| display.at(p.bytes, || format!("{} rows", grouped(p.rows))));
        display.stop();
        (log?, sides(config)?)
    };
    if log.rejected.total() > 0 {
        let kept = log.rejected.quarantine.as_ref().map_or(String::new(), |to| format!(", kept in {to}"));
        display.line(&format!("{} bad rows left out{kept}; `hardneg inspect` shows why", grouped(log.rejected.total())));
    }
    if let Some(warning) = log.spanning.warning(log.users.len() as u64) {
        display.line(&warning);
    }
    if let Some(bad) = sides.graph.as_ref().map(|graph| graph.bad).filter(|&bad| bad > 0) {
        display.line(&format!("{} bad rows of the knowledge graph left out", grouped(bad)));
    }
    let data = prepare::prepare(log, config, sides, out)?;
    let items = grouped(data.items() as u64);
    if let Some(attributes) = data.attributes().filter(|_| !config.items_path.is_empty()) {
        let (described, different) = (grouped(attributes.described()), grouped(attributes.width() as u64));
        display.line(&format!("attributes: {described} of {items} items have some of {different} attributes"));
    }
    if let Some(graph) = data.graph().filter(|_| !config.graph_path.is_empty()) {
        let (joined, entities) = (grouped(graph.described()), grouped(graph.width() as u64));
        display.line(&format!("graph: {joined} of {items} items are joined to {entities} entities"));
    }
    if let Some(explicit) = data.explicit() {
        let of = explicit.offsets.windows(2).filter(|w| w[0] < w[1]).count() as u64;
        let (rows, of) = (grouped(explicit.items.len() as u64), grouped(of));
        display
            .line(&format!("{rows} rows below `data.min_weight` are explicit negatives of {of} users (`--sampler predefined`)"));
    }
    Ok(data)
}

/// Reads the files beside the log that the configuration names.
fn sides(config: &config::Data) -> Result<Sides> {
    let attributes = named(&config.items_path).map(|path| read::read_attributes(path, config)).transpose()?;
    let graph = named(&config.graph_path).map(|path| read::read_graph(path, named(&config.link_path), config)).transpose()?;
    Ok(Sides { attributes, graph })
}

/// The path a key holds, if it holds one.
fn named(path: &str) -> Option<&Path> {
    (!path.is_empty()).then(|| Path::new(path))
}

fn describe(data: &Interactions, display: &mut Display) {
    let s = &data.meta().statistics;
    display.line(&format!(
        "data: {} events of {} users on {} items, median history {}",
        grouped(s.events),
        grouped(s.users),
        grouped(s.items),
        grouped(s.median_length)
    ));
}

/// Settings of reading and cleaning do nothing where both are done.
fn refuse_reading_settings(settings: &Settings) -> Result<()> {
    let after = ["data.path", "data.split", "data.gts_quantile", "data.gts_target", "data.temporal", "data.clusters"];
    let early = |key: &str| key.starts_with("data.") && !after.contains(&key);
    match settings.chosen().find(|(key, ..)| early(key)) {
        None => Ok(()),
        Some((key, value, source)) => {
            let what = format!("`{key} = {value}` has no effect: {} is prepared already", settings.config.data.path);
            Err(Error::new(Code::C0203, what)
                .at(source.to_string())
                .help("give it to `hardneg prepare`, or train on the log itself"))
        }
    }
}

/// Splits and encodes.
pub fn training_set(config: &Config, data: Arc<Interactions>, clusters: Option<Method>) -> Result<Arc<TrainingSet>> {
    let split = Arc::new(Split::new(&data, &config.data, split::SEED)?);
    let context = ContextEncoder::fit(&data, &split, config)?;
    let clusters = clusters.map(|method| TimeClusters::fit(&data, &split, config.data.clusters, method)).transpose()?;
    Ok(Arc::new(TrainingSet::new(data, split, config, context, clusters)?))
}

/// Names the data in manifests and reports.
pub fn fingerprint(data: &Interactions) -> String {
    blake3::Hash::from(data.content_hash()).to_hex().to_string()
}

/// How times are clustered, if the sampler of the configuration draws by time.
pub fn cluster_method(config: &Config) -> Result<Option<Method>> {
    let sampled = loss::find(&config.loss.kind)?.sampled;
    let needs = |plan: Plan| plan.declared().iter().any(|kind| kind.needs.contains(&Need::Clusters));
    Ok((sampled && needs(Plan::new(&config.sampler)?)).then_some(Method::Bisecting))
}
