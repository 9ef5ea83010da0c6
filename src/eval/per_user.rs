//! Ranks and figures of every request, one row each, for paired tests and for looking at single users.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value};

use crate::data::split::Target;
use crate::error::{Error, Result};
use crate::eval::lists::push_field;
use crate::eval::report::Evaluation;
use crate::metrics::ranking::{ACCURACY, Accuracy};

/// Form of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Csv,
    Json,
}

/// Writes `user_id, item_id, rank, hr@k.., ndcg@k..` for every request. The rank of a target that could not be ranked is
/// empty (CSV) or null (JSON lines). `path` is for messages.
pub fn write<'n>(
    to: &mut dyn Write,
    path: &Path,
    form: Form,
    evaluation: &Evaluation,
    user_id: &dyn Fn(u32) -> &'n [u8],
    item_id: &dyn Fn(u32) -> &'n [u8],
) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("writing", path, &e);
    // Hit rate and NDCG; the others follow from the rank.
    let metrics: Vec<(Accuracy, u32)> =
        ACCURACY[..2].iter().flat_map(|&metric| evaluation.at.iter().map(move |&k| (metric, k))).collect();
    if form == Form::Csv {
        let names: Vec<String> = metrics.iter().map(|((name, _), k)| format!("{name}@{k}")).collect();
        writeln!(to, "user_id,item_id,rank,{}", names.join(",")).map_err(failed)?;
    }
    for outcome in &evaluation.outcomes {
        let (user, item, rank) = (user_id(outcome.user), item_id(outcome.item), outcome.rank);
        let mut line = Vec::with_capacity(64);
        match form {
            Form::Csv => {
                push_field(&mut line, user);
                line.push(b',');
                push_field(&mut line, item);
                line.push(b',');
                if rank.is_finite() {
                    line.extend_from_slice(rank.to_string().as_bytes());
                }
                for ((_, metric), k) in &metrics {
                    line.extend_from_slice(format!(",{}", metric(rank, *k)).as_bytes());
                }
            }
            Form::Json => {
                let mut object = Map::new();
                object.insert("user_id".into(), String::from_utf8_lossy(user).into());
                object.insert("item_id".into(), String::from_utf8_lossy(item).into());
                object.insert("rank".into(), if rank.is_finite() { rank.into() } else { Value::Null });
                object.extend(metrics.iter().map(|((name, metric), k)| (format!("{name}@{k}"), metric(rank, *k).into())));
                line = Value::Object(object).to_string().into_bytes();
            }
        }
        line.push(b'\n');
        to.write_all(&line).map_err(failed)?;
    }
    to.flush().map_err(failed)
}

/// Writes `user_id, item_id` of every target as CSV: with a recommendation file, all that is needed to recompute the
/// figures elsewhere. `item_at` gives the item of a CSR position.
pub fn write_targets<'n>(
    to: &mut dyn Write,
    path: &Path,
    targets: &[Target],
    item_at: &dyn Fn(u64) -> u32,
    user_id: &dyn Fn(u32) -> &'n [u8],
    item_id: &dyn Fn(u32) -> &'n [u8],
) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("writing", path, &e);
    to.write_all(b"user_id,item_id\n").map_err(failed)?;
    for target in targets {
        let mut line = Vec::with_capacity(32);
        push_field(&mut line, user_id(target.user));
        line.push(b',');
        push_field(&mut line, item_id(item_at(target.at)));
        line.push(b'\n');
        to.write_all(&line).map_err(failed)?;
    }
    to.flush().map_err(failed)
}
