//! From a raw log to prepared interactions: threshold, duplicates, filters, order, new numbers, file.
//!
//! Order of events: by time, equal times in the order of the input (stable). Users keep the order of their first
//! appearance; items are renumbered by descending frequency, ties by first appearance, so that item 0 is the most popular.
//!
//! Memory beyond the log: 4 bytes a row for the order; while the k-core is peeled 5 more. Columns are written through a
//! bounded buffer and read back by memory map.

use std::io::{Cursor, Seek, Write};
use std::path::Path;

use super::clean::Rows;
use super::interactions::{ColumnNote, Filter, Interactions, Meta, Statistics, kind, needs_times};
use super::raw::{Ids, RawAttributes, RawLog, RawValues};
use super::sections::{DESCRIPTION, SectionWriter, write_durably};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::ids::{LIMIT, NONE};

/// Cleans and orders `raw` as `config` says, writes the prepared file `out` and opens it.
pub fn prepare(raw: RawLog, config: &config::Data, attributes: Option<RawAttributes>, out: &Path) -> Result<Interactions> {
    let plan = Plan::new(&raw, config)?;
    write_durably(out, |to| plan.write(to, &raw, attributes.as_ref()))?;
    drop((raw, attributes, plan));
    Interactions::open(out)
}

/// As [`prepare`], without a file.
pub fn in_memory(raw: RawLog, config: &config::Data, attributes: Option<RawAttributes>) -> Result<Interactions> {
    let plan = Plan::new(&raw, config)?;
    let written = SectionWriter::new(Cursor::new(vec![])).and_then(|mut to| {
        plan.write(&mut to, &raw, attributes.as_ref())?;
        to.finish()
    });
    let bytes = written.map_err(|e| Error::internal(format!("writing to memory: {e}")))?.into_inner();
    Interactions::from_bytes(&bytes)
}

/// Which row goes where.
struct Plan {
    rows: Rows,
    /// New user -> code in the log.
    users: Vec<u32>,
    /// (U+1)
    offsets: Vec<u64>,
    /// New item -> code in the log, and back (NONE: filtered out).
    items: Vec<u32>,
    new_items: Vec<u32>,
    meta: Meta,
}

impl Plan {
    fn new(raw: &RawLog, config: &config::Data) -> Result<Plan> {
        check(raw)?;
        let mut rows = Rows::new(raw, config.min_weight);
        let mut filters = vec![];
        let all = Rows::total(raw);
        let mut note = |name: String, rows: &Rows| {
            let before = filters.last().map_or(all, |f: &Filter| f.after);
            filters.push(Filter { name, before, after: rows.count(raw) });
        };
        if let Some(least) = config.min_weight {
            if raw.weights.is_none() {
                return Err(Error::new(Code::D0404, "`data.min_weight` needs weights, and the log has no weight column")
                    .help("name the column with `data.weight_col`"));
            }
            note(format!("min_weight = {least}"), &rows);
        }
        match config.dedup.as_str() {
            "none" => {}
            kind @ ("first" | "last" | "exact") => {
                if kind == "exact" && raw.times.is_none() {
                    return Err(needs_times("`data.dedup = \"exact\"`"));
                }
                rows.drop_repeats(raw, kind);
                note(format!("dedup = {kind}"), &rows);
            }
            other => return Err(unknown("data.dedup", other, "none, first, last or exact")),
        }
        let (user, item) = (config.min_user, config.min_item);
        match config.filter.as_str() {
            "k_core" | "one_pass" if user < 2 && item < 2 => {}
            "k_core" => {
                rows.k_core(raw, user, item);
                note(format!("k_core: min_user = {user}, min_item = {item}"), &rows);
            }
            "one_pass" => {
                rows.one_pass(raw, user, item);
                note(format!("one_pass: min_item = {item}, then min_user = {user}"), &rows);
            }
            other => return Err(unknown("data.filter", other, "k_core or one_pass")),
        }
        if rows.len() == 0 {
            let mut error = Error::new(Code::D0403, format!("none of the {} rows of the log is left", raw.items.len()));
            for f in &filters {
                error = error.note(format!("{}: {} of {} rows left", f.name, f.after.events, f.before.events));
            }
            return Err(error.help("lower `data.min_user`, `data.min_item` or `data.min_weight`"));
        }
        let frequency = rows.item_counts(raw);
        let mut items: Vec<u32> = (0..raw.item_ids.len() as u32).filter(|&i| frequency[i as usize] > 0).collect();
        items.sort_unstable_by_key(|&i| (std::cmp::Reverse(frequency[i as usize]), i));
        let mut new_items = vec![NONE; raw.item_ids.len()];
        for (new, &old) in items.iter().enumerate() {
            new_items[old as usize] = new as u32;
        }
        let users: Vec<u32> = (0..raw.user_ids.len() as u32).filter(|&u| !rows.of(u).is_empty()).collect();
        let mut offsets = Vec::with_capacity(users.len() + 1);
        offsets.push(0);
        offsets.extend(users.iter().map(|&u| rows.end(u)));
        let statistics = rows.statistics(raw);
        debug_assert_eq!(statistics.items, items.len() as u64);
        let meta = Meta {
            source: if config.path.is_empty() { "synthetic".into() } else { config.path.clone() },
            layout: raw.layout.clone(),
            rejected: raw.rejected.clone(),
            filters,
            statistics: Statistics { density: density(&statistics), ..statistics },
        };
        Ok(Plan { rows, users, offsets, items, new_items, meta })
    }

    fn write<W: Write + Seek>(
        &self,
        to: &mut SectionWriter<W>,
        raw: &RawLog,
        attributes: Option<&RawAttributes>,
    ) -> std::io::Result<()> {
        let order = self.rows.order();
        to.gather(kind::OFFSETS, self.offsets.len(), |i| self.offsets[i])?;
        to.gather(kind::ITEMS, order.len(), |i| self.new_items[raw.items[order[i] as usize] as usize])?;
        if let Some(times) = &raw.times {
            to.gather(kind::TIMES, order.len(), |i| times[order[i] as usize])?;
        }
        if let Some(weights) = &raw.weights {
            to.gather(kind::WEIGHTS, order.len(), |i| weights[order[i] as usize])?;
        }
        write_names(to, kind::USERS, kind::USER_ENDS, &raw.user_ids, &self.users)?;
        write_names(to, kind::ITEM_NAMES, kind::ITEM_ENDS, &raw.item_ids, &self.items)?;
        if let Some(attributes) = attributes {
            self.write_attributes(to, raw, attributes)?;
        }
        if !raw.context.is_empty() {
            let notes: Vec<ColumnNote> = raw
                .context
                .iter()
                .map(|c| ColumnNote { name: c.name.clone(), categorical: matches!(c.values, RawValues::Categorical { .. }) })
                .collect();
            to.bytes(kind::COLUMNS, &serde_json::to_vec(&notes)?)?;
        }
        for (c, column) in raw.context.iter().enumerate() {
            let c = c as u32;
            match &column.values {
                RawValues::Numeric(values) => to.gather(kind::COLUMN + c, order.len(), |i| values[order[i] as usize])?,
                RawValues::Categorical { codes, ids } => {
                    to.gather(kind::COLUMN + c, order.len(), |i| codes[order[i] as usize])?;
                    let every: Vec<u32> = (0..ids.len() as u32).collect();
                    write_names(to, kind::CATEGORIES + c, kind::CATEGORY_ENDS + c, ids, &every)?;
                }
            }
        }
        to.bytes(DESCRIPTION, &serde_json::to_vec(&self.meta)?)
    }

    /// Attributes of the items that are left, ascending per item and without repeats; all names are kept.
    fn write_attributes<W: Write + Seek>(
        &self,
        to: &mut SectionWriter<W>,
        raw: &RawLog,
        attributes: &RawAttributes,
    ) -> std::io::Result<()> {
        let (mut offsets, mut codes) = (vec![0u64], vec![]);
        for &item in &self.items {
            if let Some(i) = attributes.items.find(raw.item_ids.get(item)) {
                let start = codes.len();
                codes.extend_from_slice(
                    &attributes.codes[attributes.offsets[i as usize] as usize..attributes.offsets[i as usize + 1] as usize],
                );
                codes[start..].sort_unstable();
                let mut kept = start;
                for at in start..codes.len() {
                    if at == start || codes[at] != codes[kept - 1] {
                        codes[kept] = codes[at];
                        kept += 1;
                    }
                }
                codes.truncate(kept);
            }
            offsets.push(codes.len() as u64);
        }
        to.gather(kind::ATTRIBUTE_OFFSETS, offsets.len(), |i| offsets[i])?;
        to.gather(kind::ATTRIBUTE_CODES, codes.len(), |i| codes[i])?;
        let every: Vec<u32> = (0..attributes.names.len() as u32).collect();
        write_names(to, kind::ATTRIBUTES, kind::ATTRIBUTE_ENDS, &attributes.names, &every)
    }
}

fn write_names<W: Write + Seek>(
    to: &mut SectionWriter<W>,
    bytes: u32,
    ends: u32,
    ids: &Ids,
    codes: &[u32],
) -> std::io::Result<()> {
    let mut all = vec![];
    let mut stops = Vec::with_capacity(codes.len() + 1);
    stops.push(0u64);
    for &code in codes {
        all.extend_from_slice(ids.get(code));
        stops.push(all.len() as u64);
    }
    to.bytes(bytes, &all)?;
    to.gather(ends, stops.len(), |i| stops[i])
}

fn density(s: &Statistics) -> f64 {
    s.events as f64 / (s.users as f64 * s.items as f64)
}

fn unknown(key: &str, value: &str, allowed: &str) -> Error {
    Error::new(Code::C0202, format!("`{key}` is {allowed}, not \"{value}\""))
}

/// A reader's columns must agree; everything after this indexes without checks.
fn check(raw: &RawLog) -> Result<()> {
    let events = raw.items.len();
    if events == 0 {
        return Err(Error::new(Code::D0102, "the log has no rows"));
    }
    if events > LIMIT || raw.user_ids.len() > LIMIT || raw.item_ids.len() > LIMIT {
        return Err(Error::new(Code::D0405, format!("the log has {events} rows, the most is {LIMIT}")));
    }
    let below = |codes: &[u32], n: usize| codes.iter().all(|&c| (c as usize) < n);
    let context = raw.context.iter().all(|column| match &column.values {
        RawValues::Numeric(values) => values.len() == events,
        RawValues::Categorical { codes, ids } => codes.len() == events && below(codes, ids.len()),
    });
    let fits = raw.users.len() == events
        && raw.times.as_ref().is_none_or(|t| t.len() == events)
        && raw.weights.as_ref().is_none_or(|w| w.len() == events)
        && raw.context.len() <= kind::MOST_COLUMNS
        && context
        && below(&raw.users, raw.user_ids.len())
        && below(&raw.items, raw.item_ids.len());
    if fits { Ok(()) } else { Err(Error::internal("the reader's columns disagree")) }
}
