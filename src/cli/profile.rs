//! `hardneg profile`: what negative samplers cost on this machine, against the uniform one, at any catalogue size.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::arguments::{Machine, SettingFlags, count};
use crate::cli::plan::reaches;
use crate::cli::settings::{self, Source};
use crate::cli::{doctor, intake, kernels, plan, terminal};
use crate::config::Config;
use crate::data::clusters::Method;
use crate::data::prepare;
use crate::data::raw::Sides;
use crate::data::training::TrainingSet;
use crate::device::Device;
use crate::error::{Code, Error, Result};
use crate::loss;
use crate::report;
use crate::report::chart::{self, Labels, Series};
use crate::sampling::{Need, Plan};
use crate::train;
use crate::train::ceilings::Ceilings;
use crate::train::cost::StepCost;
use crate::train::fit::Stages;
use crate::train::profile::{self, Line, Median, Rounds, Span};

/// Version of the JSON output; a new one when a name or a unit changes. 2: with `ceilings`, and `work` of every line. 3: what `work` is
/// predicted to take. 4: on every device.
const SCHEMA: u32 = 4;
/// Slower than a base by more than this share, with intervals apart, is a regression.
const TOLERANCE: f64 = 0.03;
/// Profiled where no sampler is named.
const SAMPLERS: [&str; 5] = ["uniform", "popularity", "dns", "genni", "cans"];

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  hardneg profile --samplers uniform,dns,genni\n  hardneg profile --samplers popularity,cans --items 1e4,1e6 --negatives 64 --json > base.json\n  hardneg profile --samplers popularity,cans --items 1e4,1e6 --negatives 64 --compare base.json --page profile.html\n  hardneg profile --kernels --samplers dns --items 1e6 --device cuda"
)]
pub struct Args {
    /// Presets, separated by commas; see `hardneg samplers list` [default: uniform,popularity,dns,genni,cans]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    samplers: Vec<String>,
    /// Negatives per group, separated by commas; each preset's own by default
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    negatives: Vec<u32>,
    /// Catalogue sizes, separated by commas (1e6 is understood)
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", default_value = "1e4")]
    items: Vec<String>,
    /// Measured rounds of four steps each
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Rounds before measuring
    #[arg(long, default_value_t = 2)]
    warmup: u32,
    /// Write the stages of every measured step for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the figures as one page of charts and tables that needs no network
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Time every call of a step on a GPU or the emulator instead: which kernel takes how long, and how near that is to its floor
    #[arg(long, conflicts_with_all = ["trace", "page", "compare"])]
    kernels: bool,
    /// Exit with 1 where a sampler has become slower than in this earlier `--json` output
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let config = configuration(args)?;
    let sizes = args.items.iter().map(|text| Ok(count("--items", text, 2)? as u32)).collect::<Result<Vec<u32>>>()?;
    let base = args.compare.as_ref().map(read_base).transpose()?;
    if args.rounds == 0 {
        return Err(Error::new(Code::C0202, "nothing to measure").help("ask for at least one round"));
    }
    // All names are checked before the first measurement.
    let plans = plans(args, &config)?;
    let (device, why) = args.machine.open_for(&config.train)?;
    let machine = match (args.kernels, &device) {
        (true, Device::Host(_)) => {
            return Err(Error::new(Code::C0205, "the plain path has no kernels to time")
                .note(why.unwrap_or_default())
                .help("use `--device cuda` where there is a GPU, or `--device emulator` for the calls and their bytes"));
        }
        (true, Device::Machine(runtime)) => Some(runtime),
        (false, _) => None,
    };
    why.iter().for_each(|why| terminal::say(&format!("profiling the host: {why}")));
    let rounds = Rounds { warmup: args.warmup, measured: args.rounds };
    let ceilings = Ceilings::measure(&device)?;
    let (mut lines, mut spans): (Vec<Line>, Vec<Span>) = (vec![], vec![]);
    let mut steps = vec![];
    each(args, &config, &sizes, &plans, &mut |name, config, set, items| {
        plan::refuse_too_large_to_step(config, set, &device)?;
        if let Some(runtime) = machine {
            let step = train::kernels::measure(config, set, runtime, rounds, &ceilings)?;
            steps.push(kernels::Line { sampler: step.negatives.map(|_| name.to_string()), items, step });
            return Ok(());
        }
        let (mut sampled, mut uniform) = profile::pair(config, set, &device)?;
        let line =
            profile::measure(name, &mut sampled, &mut uniform, items, rounds, &ceilings, &device, lines.len(), &mut spans)?;
        if !json {
            terminal::say(&format!("{name}, {} negatives, {items} items: measured", line.negatives));
        }
        lines.push(line);
        Ok(())
    })?;
    if machine.is_some() {
        let settings = json!({ "rounds": args.rounds, "loss": config.loss.kind, "model": config.model,
            "batch_size": config.train.batch_size, "rounding": config.train.rounding });
        return kernels::print(&steps, &ceilings, &device, settings, json);
    }
    if let Some(path) = &args.trace {
        std::fs::write(path, trace(&lines, &spans).to_string()).map_err(|e| Error::io("writing", path, &e))?;
    }
    if let Some(path) = &args.page {
        std::fs::write(path, page(&lines, &ceilings)).map_err(|e| Error::io("writing", path, &e))?;
    }
    if json {
        let machine =
            json!({ "device": doctor::name(&device), "threads": rayon::current_num_threads(), "host": doctor::facts() });
        let what = json!({
            "schema": SCHEMA, "version": concat!(env!("CARGO_PKG_VERSION"), " (", env!("HARDNEG_COMMIT"), ")"), "machine": machine,
            "rounds": args.rounds, "loss": config.loss.kind, "model": config.model, "batch_size": config.train.batch_size,
            "ceilings": ceilings, "lines": lines,
        });
        terminal::out(&what.to_string())?;
    } else {
        terminal::out(terminal::table(&table(&lines)).trim_end())?;
        terminal::out(&legend().join("\n"))?;
        terminal::out(&format!("\n{}", terminal::table(&work(&lines)).trim_end()))?;
        terminal::out(&work_legend(&lines, &ceilings).join("\n"))?;
    }
    base.map_or(Ok(()), |base| gate(&base, &lines))
}

/// The name of a sampler, and whether it needs time clusters and a model that sees context.
type Named<'a> = (&'a str, bool, bool);

/// The samplers that are asked for; any one where the loss takes none.
fn plans<'a>(args: &'a Args, config: &Config) -> Result<Vec<Named<'a>>> {
    let names: Vec<&str> = match loss::find(&config.loss.kind)?.sampled {
        false => vec!["uniform"],
        true if args.samplers.is_empty() => SAMPLERS.to_vec(),
        true => args.samplers.iter().map(String::as_str).collect(),
    };
    let plan = |name: &'a str| {
        let kinds = Plan::new(&profile::with_sampler(config, name, None, false).sampler)?.declared();
        let needs = |need: Need| kinds.iter().any(|kind| kind.needs.contains(&need));
        Ok((name, needs(Need::Clusters), needs(Need::Context)))
    };
    names.into_iter().map(plan).collect()
}

/// Calls `measure` with the name of a sampler, the configuration with it, a log and its number of items: for all of them.
fn each(
    args: &Args,
    config: &Config,
    sizes: &[u32],
    plans: &[Named],
    measure: &mut dyn FnMut(&str, &Config, &Arc<TrainingSet>, u32) -> Result<()>,
) -> Result<()> {
    let negatives: Vec<Option<u32>> = match args.negatives.is_empty() {
        true => vec![None],
        false => args.negatives.iter().copied().map(Some).collect(),
    };
    for &items in sizes {
        let log = profile::log(items, config.train.batch_size, config.model.max_len + 3, config.train.seed)?;
        let data = Arc::new(prepare::in_memory(log, &config.data, Sides::default())?);
        for &(name, clusters, context) in plans {
            for &n in &negatives {
                let config = profile::with_sampler(config, name, n, context);
                let set = intake::training_set(&config, data.clone(), clusters.then_some(Method::Bisecting))?;
                measure(name, &config, &set, items)?;
            }
        }
    }
    Ok(())
}

/// The settings, with small defaults of its own and a loss that has a sampler, or any loss where calls are timed.
fn configuration(args: &Args) -> Result<Config> {
    let settings = settings::resolve(&args.settings.inputs())?;
    let chosen: Vec<String> = settings.chosen().map(|(key, ..)| key.to_string()).collect();
    if let Some(key) = chosen.iter().find(|key| key.starts_with("data.") || key.starts_with("sampler.")) {
        let what = format!("`{key}` has no effect: a profile makes its own log and takes its samplers from `--samplers`");
        return Err(Error::new(Code::C0203, what));
    }
    // The default of a training is a loss without a sampler: who wants its calls timed says so.
    let says_loss = settings.origins.iter().any(|(key, _, source)| key.starts_with("loss") && *source != Source::Default);
    let mut config = settings.config;
    if !chosen.iter().any(|key| key == "model.max_len") {
        config.model.max_len = 50;
    }
    if !says_loss {
        config.loss = crate::config::Kind { kind: "bce".into(), params: Default::default() };
    }
    if args.kernels && config.train.graph == "yes" {
        return Err(Error::new(Code::C0203, "`train.graph` has no effect where every call is timed, which a graph's are not"));
    }
    if !loss::find(&config.loss.kind)?.sampled && (!args.kernels || !args.samplers.is_empty() || !args.negatives.is_empty()) {
        let what = format!("the loss `{}` sees the whole catalogue, so there is no sampler to profile", config.loss.kind);
        return Err(Error::new(Code::C0205, what).help("use `--set loss=bce`, or another sampled loss"));
    }
    Ok(config)
}

fn table(lines: &[Line]) -> Vec<Vec<String>> {
    let head = ["sampler", "negatives", "items", "step", "gather", "forward", "sample", "loss", "backward", "update"];
    let mut rows = vec![head.iter().chain(&["ns/negative", "cost", "extra"]).map(|s| s.to_string()).collect::<Vec<_>>()];
    let ms = |m: &Median| format!("{:.2} [{:.2}, {:.2}]", m.median * 1e3, m.low * 1e3, m.high * 1e3);
    for line in lines {
        let mut row =
            vec![line.sampler.clone(), format!("{}/{}", line.negatives, line.scope), line.items.to_string(), ms(&line.step)];
        row.extend(Stages::NAMES.iter().map(|name| format!("{:.0}%", 100.0 * line.stages[*name] / line.step.median)));
        row.extend([format!("{:.1}", line.ns_per_negative.median), ms(&line.cost)]);
        row.push(line.extra.as_ref().map_or("-".into(), ms));
        rows.push(row);
    }
    rows
}

/// How to read [`table`].
fn legend() -> [String; 2] {
    [
        "step, cost and extra in milliseconds, median [95 % interval]; cost: the step less an earlier one on kept negatives;"
            .into(),
        "extra: that cost less the cost of as many uniform negatives, measured in turns".into(),
    ]
}

/// How to read [`work`].
fn work_legend(lines: &[Line], ceilings: &Ceilings) -> Vec<String> {
    let more = lines.iter().filter(|line| !line.uncounted.is_empty());
    let more = more.map(|line| format!("{}: more than is counted in {}", line.sampler, line.uncounted.join(", ")));
    let floor = format!("floor: the longer of its products and of its bytes where the machine {};", reaches(ceilings));
    let predicted = "predicted: units of each operation at prices measured among the rounds, beside the fastest round; above 1 that was faster";
    let left = lines.iter().filter(|line| !line.unpredicted.is_empty());
    let left = left.map(|line| format!("{}: not predicted is {}", line.sampler, line.unpredicted.join(", ")));
    [floor, "above 100 %: its arrays stay in a cache".into(), predicted.into()].into_iter().chain(more).chain(left).collect()
}

/// The same and more as a page: where the time of a step goes, and what a sampler adds to the uniform one.
fn page(lines: &[Line], ceilings: &Ceilings) -> String {
    let groups: Vec<String> =
        lines.iter().map(|line| format!("{} {}", line.sampler, chart::number(f64::from(line.items)))).collect();
    let heights = |of: &dyn Fn(&Line) -> f64| lines.iter().enumerate().map(|(g, line)| (g as f64, of(line))).collect();
    let stages = Stages::NAMES.map(|name| Series::new(name, heights(&|line| line.stages[name] * 1e3)));
    let extra = Series::new("extra", heights(&|line| line.extra.as_ref().map_or(0.0, |extra| extra.median * 1e3)));
    let each = Series::new("ns per negative", heights(&|line| line.ns_per_negative.median));
    let labels = |title, y, note| Labels { title, x: "sampler and items", y, note };
    let charts = [
        chart::bars(
            &labels("Time of a step by stage", "ms", "Medians of the stages, which need not add up to the median step."),
            &groups,
            &stages,
            true,
        ),
        chart::bars(
            &labels("What the sampler adds to the uniform one", "ms a step", "Nothing is drawn where it costs no more."),
            &groups,
            &[extra],
            false,
        ),
        chart::bars(&labels("Time of the sampling stage per negative", "ns", ""), &groups, &[each], false),
    ];
    let notes = (legend(), work_legend(lines, ceilings));
    let tables = [("Samplers", table(lines), &notes.0[..]), ("Parts of a step and their floors", work(lines), &notes.1[..])];
    report::page::profile(&charts, &tables)
}

/// What every part of a step does, how fast, and how near its floor.
fn work(lines: &[Line]) -> Vec<Vec<String>> {
    let head = [
        "sampler",
        "items",
        "part",
        "ms",
        "GFLOP",
        "MB",
        "GFLOP/s",
        "GB/s",
        "floor ms",
        "of floor",
        "fastest ms",
        "predicted ms",
        "to fastest",
    ];
    let mut rows = vec![head.map(str::to_string).to_vec()];
    for line in lines {
        for name in StepCost::PARTS {
            let Some(work) = line.work.get(name) else { continue };
            let (flops, bytes) = (work.cost.flops as f64, work.cost.bytes as f64);
            let numbers = [
                format!("{:.2}", work.seconds * 1e3),
                format!("{:.3}", flops / 1e9),
                format!("{:.1}", bytes / 1e6),
                format!("{:.1}", work.flops_per_second / 1e9),
                format!("{:.1}", work.bytes_per_second / 1e9),
                format!("{:.2}", work.floor * 1e3),
                format!("{:.0}%", 100.0 * work.floor_share),
                format!("{:.2}", work.fastest * 1e3),
                format!("{:.2}", work.predicted * 1e3),
                format!("{:.2}", work.predicted_share),
            ];
            let what = [line.sampler.clone(), line.items.to_string(), name.to_string()];
            rows.push(what.into_iter().chain(numbers).collect());
        }
    }
    rows
}

/// Chrome's trace format: a thread per line, microseconds.
fn trace(lines: &[Line], spans: &[Span]) -> Value {
    let name = |line: &Line| format!("{} {} of {}", line.sampler, line.negatives, line.items);
    let threads = lines
        .iter()
        .enumerate()
        .map(|(i, line)| json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": i, "args": { "name": name(line) } }));
    let stages = spans
        .iter()
        .map(|s| json!({ "ph": "X", "name": s.name, "pid": 1, "tid": s.line, "ts": s.begin * 1e6, "dur": s.seconds * 1e6 }));
    json!({ "traceEvents": threads.chain(stages).collect::<Vec<_>>() })
}

fn read_base(path: &PathBuf) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, &e))?;
    let wrong = |why: String| {
        Error::new(Code::C0202, format!("{} is not the output of `hardneg profile --json`: {why}", path.display()))
            .help("write one with `hardneg profile --json > base.json`")
    };
    let value: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    if value["schema"] != json!(SCHEMA) {
        return Err(wrong(format!("its schema is {}, this program writes {SCHEMA}", value["schema"])));
    }
    serde_json::from_value(value["lines"].clone()).map_err(|e| wrong(e.to_string()))
}

/// Fails where a sampler is slower than before, beyond tolerance and with intervals that do not meet.
fn gate(base: &[Line], lines: &[Line]) -> Result<()> {
    let mut met = 0;
    let mut slower = vec![];
    for line in lines {
        let same =
            |b: &&Line| (&b.sampler, b.negatives, &b.scope, b.items) == (&line.sampler, line.negatives, &line.scope, line.items);
        let Some(before) = base.iter().find(same) else { continue };
        met += 1;
        let (old, new) = (&before.ns_per_negative, &line.ns_per_negative);
        if new.low > old.high && new.median > old.median * (1.0 + TOLERANCE) {
            slower.push(format!(
                "{}, {} negatives of {} items: {:.1} ns a negative, was {:.1}",
                line.sampler, line.negatives, line.items, new.median, old.median
            ));
        }
    }
    if met == 0 {
        return Err(Error::new(Code::C0205, "the base has no line in common with this profile")
            .help("use the same `--samplers`, `--negatives` and `--items`"));
    }
    if slower.is_empty() {
        return Ok(());
    }
    let error = Error::new(Code::A0101, format!("{} of {met} samplers became slower", slower.len()));
    Err(slower.into_iter().fold(error, |error, line| error.note(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ns: f64) -> Line {
        let around = |x: f64| Median { low: x * 0.99, median: x, high: x * 1.01 };
        Line {
            sampler: "dns".into(),
            negatives: 1,
            scope: "position".into(),
            items: 10,
            rows: 1,
            drawn: 1,
            step: around(1.0),
            stages: Stages::NAMES.iter().map(|name| (name.to_string(), 0.1)).collect(),
            work: Default::default(),
            uncounted: vec![],
            unpredicted: vec![],
            sampling_share: 0.1,
            ns_per_negative: around(ns),
            cost: around(0.1),
            extra: None,
        }
    }

    #[test]
    fn the_gate_closes_on_a_slower_sampler_only() {
        assert!(gate(&[line(100.0)], &[line(100.0)]).is_ok());
        assert!(gate(&[line(100.0)], &[line(80.0)]).is_ok());
        assert!(gate(&[line(100.0)], &[line(102.5)]).is_ok(), "within the tolerance");
        let error = gate(&[line(100.0)], &[line(110.0)]).unwrap_err();
        assert_eq!(error.code().exit() as i32, 1);
        let other = Line { items: 11, ..line(1.0) };
        assert_eq!(gate(&[other], &[line(1.0)]).unwrap_err().code(), Code::C0205);
    }
}
