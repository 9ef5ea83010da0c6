//! The page: one self-contained file of HTML that needs no script, no network and no colour to be read.
//!
//! Everything that comes from a run passes `escape`, and a content policy forbids scripts and requests besides.

use std::fmt::Write;

use serde_json::Value;

use crate::metrics::ranking::ACCURACY;
use crate::report::chart::{self, Dot, Labels, Series};
use crate::report::{Run, escape};

/// Characters of a cell; a setting can be a long list.
const CELL: usize = 300;

pub fn html(runs: &[Run]) -> String {
    let title = match runs {
        [run] => run.name.clone(),
        runs => format!("{} runs", runs.len()),
    };
    let mut to = begin(&title);
    for note in notes(runs) {
        let _ = writeln!(to, "<p class=\"warn\">{}</p>", escape(&note));
    }
    section(&mut to, if runs.len() > 1 { "Runs" } else { "Result" }, &(overview(runs) + &trade_off(runs)));
    section(&mut to, "Training", &charts(&[loss(runs), validation(runs), stages(runs)]));
    section(&mut to, "What the sampler drew", &charts(&sampler(runs)));
    for run in runs {
        let suffix = if runs.len() > 1 { format!(" of {}", run.name) } else { String::new() };
        section(&mut to, &format!("Test metrics{suffix}"), &metrics(run));
    }
    section(&mut to, "Settings", &settings(runs));
    section(&mut to, "Data and environment", &facts(runs));
    to + END
}

const END: &str = "</body></html>\n";

fn begin(title: &str) -> String {
    format!(
        "{3}<title>hardneg: {0}</title><style>\n{1}\n</style></head><body>{2}\n<h1>hardneg: {0}</h1>\n",
        escape(title),
        style(),
        chart::hatches(),
        include_str!("head.html"),
    )
}

/// A page of a profile: charts, and tables with their titles and what explains them.
pub fn profile(all: &[String], tables: &[(&str, Vec<Vec<String>>, &[String])]) -> String {
    let mut to = begin("what samplers cost");
    to += &charts(all);
    for (title, rows, notes) in tables {
        let notes: String = notes.iter().map(|note| format!("<p class=\"note\">{}</p>\n", escape(note))).collect();
        section(&mut to, title, &(table(rows) + &notes));
    }
    to + END
}

/// Accuracy against coverage as an SVG file of its own; nothing for a single run, or where no run has test metrics.
pub fn picture(runs: &[Run]) -> Option<String> {
    let figure = trade_off(runs);
    let (_, rest) = figure.split_once("<svg ")?;
    let (drawing, _) = rest.split_once("</svg>")?;
    let root = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" style=\"background:var(--bg);font-family:sans-serif\"";
    Some(format!("{root} {drawing}<style>{}</style></svg>\n", style()))
}

fn style() -> String {
    let mut style = include_str!("page.css").to_string();
    for i in 0..8 {
        let _ = write!(
            style,
            ".s{i}{{stroke:var(--c{i});fill:none;stroke-width:1.8}}.f{i}{{fill:var(--c{i})}}.d{i}{{fill:var(--c{i});fill-opacity:.5;stroke:var(--c{i})}}"
        );
    }
    style
}

fn section(to: &mut String, title: &str, body: &str) {
    if !body.is_empty() {
        let _ = write!(to, "<h2>{}</h2>\n{body}", escape(title));
    }
}

fn charts(all: &[String]) -> String {
    let all = all.concat();
    if all.is_empty() { all } else { format!("<div class=\"charts\">\n{all}</div>\n") }
}

/// What makes the figures less than they look.
pub fn notes(runs: &[Run]) -> Vec<String> {
    let mut notes = vec![];
    for run in runs {
        if run.broken > 0 {
            notes.push(format!("{}: {} line(s) of metrics.jsonl could not be read and are left out", run.name, run.broken));
        }
        if run.report.is_null() {
            notes.push(format!("{}: has not finished, so there are no test metrics", run.name));
        }
    }
    for (what, key) in [("data", "data_fingerprint"), ("version of hardneg", "version"), ("device", "device")] {
        let differs = runs.iter().filter(|run| run.manifest[key] != runs[0].manifest[key]);
        let names: Vec<&str> = differs.map(|run| run.name.as_str()).collect();
        if !names.is_empty() {
            notes.push(format!("not of the same {what} as {}: {}", runs[0].name, names.join(", ")));
        }
    }
    notes
}

/// Rows of cells as a table; the first is the head. Cells longer than a line may break.
fn table(rows: &[Vec<String>]) -> String {
    let mut to = String::from("<div class=\"wide\"><table>");
    for (i, row) in rows.iter().enumerate() {
        let (open, tag, close) = if i == 0 { ("<thead>", "th", "</thead><tbody>") } else { ("", "td", "") };
        let _ = write!(to, "{open}<tr>");
        for cell in row {
            let mut text: String = cell.chars().take(CELL).collect();
            if text.len() < cell.len() {
                text.push('…');
            }
            let class = if i > 0 && text.chars().count() > 40 { " class=\"long\"" } else { "" };
            let _ = write!(to, "<{tag}{class}>{}</{tag}>", escape(&text));
        }
        let _ = write!(to, "</tr>{close}");
    }
    to + "</tbody></table></div>\n"
}

fn or_dash(value: Option<f64>) -> String {
    value.map_or("-".into(), chart::number)
}

/// Settings whose values are not the same in all runs.
fn differing(runs: &[Run]) -> Vec<&str> {
    let mut keys: Vec<&str> = vec![];
    for setting in runs.iter().flat_map(|run| &run.settings) {
        if !keys.contains(&setting.key.as_str())
            && runs.iter().any(|run| value(run, &setting.key) != value(&runs[0], &setting.key))
        {
            keys.push(&setting.key);
        }
    }
    keys
}

fn value<'a>(run: &'a Run, key: &str) -> &'a str {
    run.settings.iter().find(|s| s.key == key).map_or("-", |s| &s.value)
}

fn overview(runs: &[Run]) -> String {
    let differing = if runs.len() > 1 { differing(runs) } else { vec![] };
    let figures = ["ndcg@10", "hr@10", "mrr@10", "coverage@10"];
    let head = ["run"].into_iter().chain(figures).chain(["best validation", "epochs", "s per epoch", "ended"]);
    let mut rows = vec![head.chain(differing.iter().copied()).map(String::from).collect::<Vec<_>>()];
    for run in runs {
        let mut row = vec![run.name.clone()];
        row.extend(figures.iter().map(|name| or_dash(run.result(name))));
        let best = run.report["best"]["value"].as_f64();
        row.push(best.map_or("-".into(), |b| format!("{} {}", run.metric, chart::number(b))));
        row.push(run.series("epoch", &["epoch"]).last().map_or("-".into(), |p| format!("{}", p.0)));
        row.push(or_dash(run.seconds_per_epoch()));
        row.push(run.manifest["exit"].as_str().unwrap_or("not yet").to_string());
        row.extend(differing.iter().map(|key| value(run, key).to_string()));
        rows.push(row);
    }
    table(&rows)
}

/// Accuracy against variety, where there are several runs.
fn trade_off(runs: &[Run]) -> String {
    if runs.len() < 2 {
        return String::new();
    }
    let of = |name: String, figures: &Value, size| {
        Some(Dot { name, x: figures["coverage@10"].as_f64()?, y: figures["ndcg@10"].as_f64()?, size })
    };
    let dots: Vec<Dot> =
        runs.iter().filter_map(|run| of(run.name.clone(), &run.report["model"], run.seconds_per_epoch())).collect();
    let note = "Area: seconds per epoch. The dashed line joins the runs that no other beats in both.";
    let labels = Labels { title: "Accuracy against coverage", x: "coverage@10", y: "ndcg@10", note };
    charts(&[chart::plane(&labels, &dots)])
}

fn per_run(runs: &[Run], kind: &str, path: &[&str]) -> Vec<Series> {
    runs.iter().map(|run| Series::new(run.name.clone(), run.series(kind, path))).filter(|s| !s.points.is_empty()).collect()
}

fn loss(runs: &[Run]) -> String {
    let labels = Labels { title: "Loss", x: "epoch", y: "mean loss per event", note: "" };
    chart::curves(&labels, &per_run(runs, "epoch", &["loss"]))
}

fn validation(runs: &[Run]) -> String {
    let mut to = String::new();
    let mut metrics: Vec<&str> = vec![];
    for name in runs.iter().map(|run| run.metric.as_str()).chain(["coverage@10"]) {
        if !metrics.contains(&name) {
            metrics.push(name);
        }
    }
    for metric in metrics {
        let title = format!("Validation {metric}");
        let labels = Labels { title: &title, x: "epoch", y: metric, note: "" };
        to += &chart::curves(&labels, &per_run(runs, "evaluation", &["metrics", metric]));
    }
    to
}

/// Seconds by stage: over the epochs of one run, or the mean epoch of each of several.
fn stages(runs: &[Run]) -> String {
    let mut names: Vec<&str> = vec![];
    for record in runs.iter().flat_map(|run| run.of_kind("epoch")) {
        for name in record["stage_seconds"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let of = |run: &Run, name: &str| match name {
        "evaluation" => run.series("evaluation", &["seconds"]),
        name => run.series("epoch", &["stage_seconds", name]),
    };
    names.push("evaluation");
    let (groups, at): (Vec<String>, Box<dyn Fn(&str) -> Vec<(f64, f64)>>) = if let [run] = runs {
        // Neighbouring epochs share a bar where there are many.
        let epochs: Vec<f64> = run.series("epoch", &["epoch"]).iter().map(|p| p.0).collect();
        let size = epochs.len().div_ceil(chart::BARS).max(1);
        let chunks: Vec<Vec<f64>> = epochs.chunks(size).map(<[f64]>::to_vec).collect();
        let groups = chunks.iter().map(|c| format!("{}", c[0])).collect();
        let points = move |name: &str| {
            let seconds = of(run, name);
            let sum = |c: &Vec<f64>| seconds.iter().filter(|p| c[0] <= p.0 && p.0 <= c[c.len() - 1]).map(|p| p.1).sum::<f64>();
            chunks.iter().enumerate().map(|(g, c)| (g as f64, sum(c) / c.len() as f64)).collect()
        };
        (groups, Box::new(points))
    } else {
        let groups = (1..=runs.len()).map(|i| i.to_string()).collect();
        let mean = move |run: &Run, name: &str| {
            let epochs = run.of_kind("epoch").count().max(1) as f64;
            of(run, name).iter().map(|p| p.1).sum::<f64>() / epochs
        };
        let points = move |name: &str| runs.iter().enumerate().map(|(g, run)| (g as f64, mean(run, name))).collect();
        (groups, Box::new(points))
    };
    let all: Vec<Series> = names.iter().map(|name| Series::new(*name, at(name))).collect();
    let (x, note) = if runs.len() == 1 { ("epoch", "") } else { ("run, in the order of the table", "Mean over the epochs.") };
    chart::bars(&Labels { title: "Seconds per epoch by stage", x, y: "seconds", note }, &groups, &all, true)
}

/// The `negatives` of the epochs; see `sampling/diagnosis.rs` for what they mean.
fn sampler(runs: &[Run]) -> Vec<String> {
    let share = |record: &Value| -> Option<Vec<(f64, f64)>> {
        let shares = record["negatives"]["popularity"].as_array()?;
        Some(shares.iter().enumerate().filter_map(|(i, s)| Some((i as f64 + 1.0, s.as_f64()?))).collect())
    };
    let mut popularity = vec![Series::new("catalogue", (1..=10).map(|i| (f64::from(i), 0.1)).collect())];
    for run in runs {
        let drawn: Vec<&Value> = run.of_kind("epoch").filter(|r| share(r).is_some()).collect();
        let pick = if runs.len() == 1 { vec![drawn.first(), drawn.last()] } else { vec![drawn.last()] };
        for record in pick.into_iter().flatten() {
            let name = if runs.len() == 1 { format!("drawn in epoch {}", record["epoch"]) } else { run.name.clone() };
            if popularity.iter().all(|s| s.name != name) {
                popularity.push(Series::new(name, share(record).unwrap_or_default()));
            }
        }
    }
    let labels = Labels {
        title: "Popularity of the draws",
        x: "tenth of the catalogue, least popular first",
        y: "share of the draws",
        note: "Every tenth of the catalogue holds as many items; several runs are shown in their last epoch.",
    };
    let mut all = vec![];
    if (2..=6).contains(&popularity.len()) {
        let groups: Vec<String> = (1..=10).map(|i| i.to_string()).collect();
        let down = |s: &Series| Series::new(s.name.clone(), s.points.iter().map(|p| (p.0 - 1.0, p.1)).collect());
        all.push(chart::bars(&labels, &groups, &popularity.iter().map(down).collect::<Vec<_>>(), false));
    } else if popularity.len() > 1 {
        all.push(chart::curves(&labels, &popularity));
    }
    for (key, title, y, note) in [
        (
            "hardness",
            "Hardness",
            "share of the catalogue",
            "How much of the catalogue scores below a negative: 0.5 is random, 1 the hardest.",
        ),
        ("effective", "Effective weights", "share", "1 when all negatives of a row count alike."),
        ("false_negatives", "False negatives", "share of the draws", "Negatives that the user takes in the held-out part."),
    ] {
        all.push(chart::curves(&Labels { title, x: "epoch", y, note }, &per_run(runs, "epoch", &["negatives", key])));
    }
    all
}

/// `hr_tail@10` as (`hr`, `tail`, `10`).
fn segment(name: &str) -> Option<(&str, &str, &str)> {
    let (left, k) = name.split_once('@')?;
    let (metric, segment) = left.split_once('_')?;
    (ACCURACY.iter().any(|(n, _)| *n == metric) && !k.ends_with("_se")).then_some((metric, segment, k))
}

/// Final figures beside the baselines, and those of the segments.
fn metrics(run: &Run) -> String {
    let Some(model) = run.report["model"].as_object() else { return String::new() };
    let columns: Vec<&Value> =
        std::iter::once(&run.report["model"]).chain(run.report["baselines"].as_array().into_iter().flatten()).collect();
    let name = |column: &Value| column["model"].as_str().unwrap_or("?").to_string();
    let figure = |column: &Value, key: &str| match (column[key].as_f64(), column[format!("{key}_se").as_str()].as_f64()) {
        (Some(value), Some(error)) => format!("{} ± {}", chart::number(value), chart::number(error)),
        (value, _) => or_dash(value),
    };
    let names = model.iter().filter(|(k, v)| v.is_number() && !k.ends_with("_se")).map(|(k, _)| k.as_str());
    let (of_segments, whole): (Vec<&str>, Vec<&str>) = names.partition(|k| segment(k).is_some());
    let rows = |keys: &[&str]| {
        let mut rows = vec![std::iter::once("metric".to_string()).chain(columns.iter().map(|c| name(c))).collect::<Vec<_>>()];
        rows.extend(keys.iter().map(|k| std::iter::once(k.to_string()).chain(columns.iter().map(|c| figure(c, k))).collect()));
        table(&rows)
    };
    let at_ten: Vec<&str> = whole.iter().copied().filter(|k| k.ends_with("@10")).collect();
    let mut to = if at_ten.is_empty() { rows(&whole) } else { rows(&at_ten) };
    let segments: Vec<(&str, &str)> =
        of_segments.iter().filter_map(|k| segment(k).filter(|s| s.0 == "ndcg" && s.2 == "10").map(|s| (*k, s.1))).collect();
    let groups: Vec<String> = segments.iter().map(|s| s.1.to_string()).collect();
    let height =
        |column: &Value| segments.iter().enumerate().filter_map(|(g, s)| Some((g as f64, column[s.0].as_f64()?))).collect();
    let series: Vec<Series> = columns.iter().map(|c| Series::new(name(c), height(c))).collect();
    let note = "Targets by the popularity of the item.";
    to += &charts(&[chart::bars(
        &Labels { title: "Test ndcg@10 by segment", x: "segment", y: "ndcg@10", note },
        &groups,
        &series,
        false,
    )]);
    if !of_segments.is_empty() {
        let _ = write!(to, "<details><summary>Segments</summary>{}</details>", rows(&of_segments));
    }
    if at_ten.len() < whole.len() && !at_ten.is_empty() {
        let _ = write!(to, "<details><summary>All list lengths</summary>{}</details>", rows(&whole));
    }
    for caveat in run.report["model"]["protocol"]["caveats"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = write!(to, "<p class=\"note\">{}</p>", escape(caveat));
    }
    to
}

/// Settings that are not their default in some run.
fn settings(runs: &[Run]) -> String {
    let mut rows =
        vec![["setting", "default"].into_iter().map(String::from).chain(runs.iter().map(|r| r.name.clone())).collect::<Vec<_>>()];
    for setting in runs.iter().flat_map(|run| run.settings.iter().filter(|s| !s.is_default())) {
        if rows.iter().all(|row| row[0] != setting.key) {
            let mut row = vec![setting.key.clone(), setting.default.clone().unwrap_or("-".into())];
            row.extend(runs.iter().map(|run| value(run, &setting.key).to_string()));
            rows.push(row);
        }
    }
    match rows.len() {
        1 => "<p class=\"quiet\">Every setting is its default.</p>\n".into(),
        _ => table(&rows),
    }
}

fn facts(runs: &[Run]) -> String {
    let words = |value: &Value| match value {
        Value::Null => "-".to_string(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(|v| v.as_str().map_or(v.to_string(), String::from)).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => fields.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    let last = |run: &Run, key: &str| run.of_kind("epoch").last().map_or(Value::Null, |r| r[key].clone());
    let mut rows = vec![std::iter::once("fact".to_string()).chain(runs.iter().map(|r| r.name.clone())).collect::<Vec<_>>()];
    let mut add = |name: &str, of: &dyn Fn(&Run) -> Value| {
        let cells: Vec<String> = runs.iter().map(|run| words(&of(run))).collect();
        if cells.iter().any(|cell| cell != "-") {
            rows.push(std::iter::once(name.to_string()).chain(cells).collect());
        }
    };
    add("sequences per epoch", &|run| last(run, "sequences"));
    add("training events per epoch", &|run| last(run, "rows"));
    for (name, key) in [
        ("split", "split"),
        ("test requests", "requests"),
        ("test users", "users"),
        ("items ranked", "items_ranked"),
        ("targets by segment", "targets"),
        ("candidates", "candidates"),
        ("ties", "ties"),
        ("seen items left out", "exclude_seen"),
    ] {
        add(name, &|run| run.report["model"]["protocol"][key].clone());
    }
    for key in ["data_fingerprint", "version", "argv", "device", "threads", "host", "state_hash"] {
        add(&key.replace('_', " ").replace("argv", "command"), &|run| run.manifest[key].clone());
    }
    if rows.len() > 1 { table(&rows) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Setting;
    use serde_json::json;

    const BAD: &str = "<script>alert(\"1\")</script>'\u{1b}[31m";

    fn run(name: &str, epochs: u32) -> Run {
        let mut records = vec![];
        for epoch in 1..=epochs {
            records.push(json!({ "kind": "epoch", "epoch": epoch, "step": epoch, "loss": 1.0 / f64::from(epoch), "seconds": 2.0,
                "stage_seconds": { "forward": 1.0, BAD: 0.5 },
                "negatives": { "popularity": [0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.4], "hardness": 0.9, "effective": 1.0, "false_negatives": 0.01 } }));
            records.push(json!({ "kind": "evaluation", "epoch": epoch, "metrics": { "ndcg@10": 0.1 }, "seconds": 0.1 }));
        }
        let figures = |model: &str| {
            json!({ "model": model, "ndcg@10": 0.2, "ndcg@10_se": 0.01, "coverage@10": 0.5, "ndcg_tail@10": 0.1,
            "protocol": { "split": BAD, "caveats": [BAD] } })
        };
        Run {
            name: name.into(),
            settings: vec![Setting { key: BAD.into(), value: name.into(), default: Some("x".into()) }],
            metric: "ndcg@10".into(),
            manifest: json!({ "argv": ["hardneg", BAD], "host": { BAD: BAD }, "exit": BAD, "device": BAD }),
            report: json!({ "model": figures(BAD), "baselines": [figures("popularity")], "best": { "value": 0.1 } }),
            records,
            broken: 0,
        }
    }

    #[test]
    fn nothing_of_a_run_becomes_markup_and_nothing_is_fetched() {
        for page in [html(&[run(BAD, 3)]), html(&[run(BAD, 3), run("b", 2)])] {
            for bad in ["<script", "\u{1b}", "src=", "href=", "http:", "https:", "onload", "@import", "NaN"] {
                assert!(!page.contains(bad), "{bad}");
            }
            assert!(page.contains("&lt;script&gt;"));
            let count = |what: &str| page.matches(what).count();
            for tag in ["svg", "figure", "table", "tr", "td", "div", "details", "g"] {
                assert_eq!(count(&format!("<{tag}>")) + count(&format!("<{tag} ")), count(&format!("</{tag}>")), "{tag}");
            }
        }
    }

    #[test]
    fn a_page_holds_every_figure_its_run_has_the_records_for() {
        let one = html(&[run("a", 3)]);
        let titles = [
            "Loss",
            "Validation ndcg@10",
            "Seconds per epoch by stage",
            "Popularity of the draws",
            "Hardness",
            "Effective weights",
            "False negatives",
            "Test ndcg@10 by segment",
        ];
        assert!(one.contains("Content-Security-Policy\" content=\"default-src 'none'"));
        for title in titles {
            assert!(one.contains(&format!("<figcaption>{title}</figcaption>")), "{title}");
        }
        assert!(!one.contains("Accuracy against coverage") && one.contains("0.2000 ± 0.0100"));
        assert!(html(&[run("a", 3), run("b", 3)]).contains("Accuracy against coverage"));
        let empty = html(&[Run { name: "e".into(), ..Run::default() }]);
        assert!(!empty.contains("<figure>") && empty.contains("has not finished"));
    }

    #[test]
    fn pages_stay_small() {
        assert!(html(&[run("long", 10_000)]).len() < 300_000);
        let many: Vec<Run> = (0..100).map(|i| run(&format!("run {i}"), 200)).collect();
        let size = html(&many).len();
        assert!(size < 2_000_000, "{size}");
    }

    #[test]
    fn segments_are_told_from_other_names() {
        assert_eq!(segment("hr_tail@10"), Some(("hr", "tail", "10")));
        assert!(["hr@10", "tail_share@10", "hr@10_se", "hr_tail@10_se", "model"].iter().all(|n| segment(n).is_none()));
    }
}
