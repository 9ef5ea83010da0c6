//! The records as one CSV table (RFC 4180): a row per record, a column per path.
//!
//! Spreadsheets take a cell that begins with `=`, `+`, `-`, `@` or a tab for a formula and may run it (CWE-1236). Texts that
//! begin so get a `'` in front; numbers stay numbers.

use std::collections::HashMap;

use serde_json::Value;

use crate::report::{Run, leaves};

/// All records of the runs; columns in the order in which they first appear, `run` before them.
pub fn csv(runs: &[Run]) -> String {
    let mut columns: Vec<String> = vec!["run".into()];
    let mut place: HashMap<String, usize> = HashMap::new();
    let mut rows = vec![];
    for run in runs {
        for record in &run.records {
            let mut row = vec![(0, text(&run.name))];
            for (path, value) in leaves(record, ".") {
                let at = *place.entry(path).or_insert_with_key(|path| {
                    columns.push(path.clone());
                    columns.len() - 1
                });
                row.push((at, cell(value)));
            }
            row.sort_by_key(|&(at, _)| at);
            rows.push(row);
        }
    }
    let mut to = columns.iter().map(|name| text(name)).collect::<Vec<_>>().join(",") + "\n";
    for row in rows {
        let mut cells = row.into_iter().peekable();
        for at in 0..columns.len() {
            if at > 0 {
                to.push(',');
            }
            if let Some((_, cell)) = cells.next_if(|&(place, _)| place == at) {
                to += &cell;
            }
        }
        to.push('\n');
    }
    to
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(words) => text(words),
        other => other.to_string(),
    }
}

fn text(words: &str) -> String {
    let words = if words.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{words}") } else { words.to_string() };
    match words.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", words.replace('"', "\"\"")),
        false => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn records_of_several_runs_share_columns_and_lack_what_they_lack() {
        let run = |name: &str, records| Run { name: name.into(), records, ..Run::default() };
        let runs = [
            run(
                "a",
                vec![json!({ "kind": "epoch", "loss": -1.5, "n": { "p": [0.1, 0.2] } }), json!({ "kind": "end", "why": "x" })],
            ),
            run("b,c", vec![json!({ "why": "say \"hi\"", "kind": "end" })]),
        ];
        assert_eq!(
            csv(&runs),
            "run,kind,loss,n.p.0,n.p.1,why\na,epoch,-1.5,0.1,0.2,\na,end,,,,x\n\"b,c\",end,,,,\"say \"\"hi\"\"\"\n"
        );
    }

    #[test]
    fn no_text_is_a_formula() {
        for bad in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            let run = Run { name: bad.into(), records: vec![json!({ bad: bad, "x": -1 })], ..Run::default() };
            let csv = csv(&[run]);
            let first = |cell: &str| cell.trim_start_matches('"').starts_with('\'');
            let lines: Vec<Vec<&str>> = csv.split('\n').filter(|l| !l.is_empty()).map(|l| l.split(',').collect()).collect();
            assert!(first(lines[0][1]) && first(lines[1][0]) && first(lines[1][1]), "{csv:?}");
            assert_eq!(lines[1][2], "-1", "a number stays one");
        }
    }
}
