//! What runs bought, told to people and to other tools: one page of HTML, event files of TensorBoard, one CSV table.
//!
//! ```text
//! page.rs    the page: which figures, which tables, in which order
//! chart.rs   SVG by hand: curves, bars, a plane of trade-offs
//! events.rs  TensorBoard's event files
//! table.rs   the records flat, one row each
//! ```
//!
//! Everything here turns values into text; reading a run and writing the files is the face's.

pub mod chart;
pub mod events;
pub mod page;
pub mod table;

use serde_json::Value;

/// A setting of a run beside its default.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    pub key: String,
    pub value: String,
    /// Absent where the default configuration has no such key.
    pub default: Option<String>,
}

impl Setting {
    pub fn is_default(&self) -> bool {
        self.default.as_deref() == Some(self.value.as_str())
    }
}

/// A run as its directory tells it.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub name: String,
    pub settings: Vec<Setting>,
    /// The metric that chose the best model, such as `ndcg@10`.
    pub metric: String,
    /// `manifest.json`, or null.
    pub manifest: Value,
    /// `report.json`; null before the end of training.
    pub report: Value,
    /// The records of `metrics.jsonl` in their order.
    pub records: Vec<Value>,
    /// Lines of `metrics.jsonl` that could not be read, such as a last one cut by a crash.
    pub broken: usize,
}

impl Run {
    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.records.iter().filter(move |record| record["kind"] == kind)
    }

    /// (epoch, the number at `path`) of the records of a kind; what is no number is left out.
    pub fn series(&self, kind: &str, path: &[&str]) -> Vec<(f64, f64)> {
        let at = |record: &Value| path.iter().try_fold(record.clone(), |v, key| v.get(*key).cloned())?.as_f64();
        self.of_kind(kind).filter_map(|record| Some((record["epoch"].as_f64()?, at(record)?))).collect()
    }

    /// A final figure of the model on the test events.
    pub fn result(&self, name: &str) -> Option<f64> {
        self.report["model"][name].as_f64()
    }

    /// Mean seconds of training in an epoch.
    pub fn seconds_per_epoch(&self) -> Option<f64> {
        let seconds = self.series("epoch", &["seconds"]);
        (!seconds.is_empty()).then(|| seconds.iter().map(|p| p.1).sum::<f64>() / seconds.len() as f64)
    }
}

/// Every number and text of a record by its path, joined by `separator`; elements of a list count from 0.
fn leaves<'a>(record: &'a Value, separator: &str) -> Vec<(String, &'a Value)> {
    fn walk<'a>(path: &str, separator: &str, value: &'a Value, into: &mut Vec<(String, &'a Value)>) {
        let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}{separator}{key}") };
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, v)| walk(&join(key), separator, v, into)),
            Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| walk(&join(&i.to_string()), separator, v, into)),
            leaf => into.push((path.to_string(), leaf)),
        }
    }
    let mut all = vec![];
    walk("", separator, record, &mut all);
    all
}

/// Text for HTML, inside and outside of quotes. Control characters and those that turn the direction of writing, which could
/// make a name look like another, are written out.
pub fn escape(text: &str) -> String {
    let mut to = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\'' => to.push_str("&#39;"),
            '\n' | '\t' => to.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => to.extend(c.escape_default()),
            c if c.is_control() => to.extend(c.escape_default()),
            c => to.push(c),
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escape("<script>\"'&\u{1b}\u{202e}"), "&lt;script&gt;&quot;&#39;&amp;\\u{1b}\\u{202e}");
    }

    #[test]
    fn series_leave_out_what_is_no_number() {
        let records = vec![
            json!({ "kind": "epoch", "epoch": 1, "loss": 2.0, "seconds": 1.0 }),
            json!({ "kind": "epoch", "epoch": 2, "loss": null, "seconds": 3.0 }),
            json!({ "kind": "evaluation", "epoch": 2, "metrics": { "ndcg@10": 0.5 } }),
            json!({ "kind": "epoch", "loss": 1.0 }),
        ];
        let run = Run { records, ..Run::default() };
        assert_eq!(run.series("epoch", &["loss"]), [(1.0, 2.0)]);
        assert_eq!(run.series("evaluation", &["metrics", "ndcg@10"]), [(2.0, 0.5)]);
        assert_eq!((run.seconds_per_epoch(), run.result("ndcg@10")), (Some(2.0), None));
    }

    #[test]
    fn leaves_are_named_by_their_path() {
        let record = json!({ "a": { "b": [1, "x"] }, "c": null });
        let names: Vec<String> = leaves(&record, "/").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a/b/0", "a/b/1", "c"]);
    }
}
