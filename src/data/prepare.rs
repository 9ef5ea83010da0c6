//! From a raw log to prepared interactions: threshold, duplicates, filters, order, new numbers, file.
//!
//! Order of events: by time, equal times in the order of the input (stable). Users keep the order of their first
//! appearance; items are renumbered by descending frequency, ties by first appearance, so that item 0 is the most popular.
//!
//! Rows below `data.min_weight` are no events; those of users and items that stay are kept as explicit negatives.
//!
//! Memory beyond the log: 4 bytes a row for the order; while the k-core is peeled 5 more. Columns are written through a
//! bounded buffer and read back by memory map.

use std::io::{Cursor, Seek, Write};
use std::path::Path;

use super::clean::Rows;
use super::graph::RawGraph;
use super::interactions::{ColumnNote, Filter, Interactions, Meta, Statistics, kind, needs_times};
use super::raw::{Ids, RawAttributes, RawLog, RawValues, Sides};
use super::sections::{DESCRIPTION, SectionWriter, write_durably};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::ids::{LIMIT, NONE};

/// Cleans and orders `raw` as `config` says, writes the prepared file `out` and opens it.
pub fn prepare(raw: RawLog, config: &config::Data, sides: Sides, out: &Path) -> Result<Interactions> {
    let plan = Plan::new(&raw, config)?;
    check_sides(&raw, &sides)?;
    write_durably(out, |to| plan.write(to, &raw, &sides))?;
    drop((raw, sides, plan));
    Interactions::open(out)
}

/// As [`prepare`], without a file.
pub fn in_memory(raw: RawLog, config: &config::Data, sides: Sides) -> Result<Interactions> {
    let plan = Plan::new(&raw, config)?;
    check_sides(&raw, &sides)?;
    let written = SectionWriter::new(Cursor::new(vec![])).and_then(|mut to| {
        plan.write(&mut to, &raw, &sides)?;
        to.finish()
    });
    let bytes = written.map_err(|e| Error::internal(format!("writing to memory: {e}")))?.into_inner();
    Interactions::from_bytes(&bytes)
}

/// Which row goes where.
struct Plan {
    rows: Rows,
    /// Rows of explicit negatives, of the users and items that stay; absent without a threshold, or where there are none.
    explicit: Option<Rows>,
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
        let explicit = config.min_weight.map(|least| Rows::lighter(raw, least, &rows)).filter(|rows| rows.len() > 0);
        let statistics = rows.statistics(raw);
        debug_assert_eq!(statistics.items, items.len() as u64);
        let meta = Meta {
            source: if config.path.is_empty() { "synthetic".into() } else { config.path.clone() },
            layout: raw.layout.clone(),
            rejected: raw.rejected.clone(),
            filters,
            statistics: Statistics { density: density(&statistics), ..statistics },
        };
        Ok(Plan { rows, explicit, users, offsets, items, new_items, meta })
    }

    fn write<W: Write + Seek>(&self, to: &mut SectionWriter<W>, raw: &RawLog, sides: &Sides) -> std::io::Result<()> {
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
        if let Some(attributes) = &sides.attributes {
            self.write_attributes(to, raw, attributes)?;
        }
        if let Some(graph) = &sides.graph {
            self.write_graph(to, raw, graph)?;
        }
        if let Some(rows) = &self.explicit {
            let order = rows.order();
            let offsets: Vec<u64> = std::iter::once(0).chain(self.users.iter().map(|&u| rows.end(u))).collect();
            to.gather(kind::EXPLICIT_OFFSETS, offsets.len(), |i| offsets[i])?;
            to.gather(kind::EXPLICIT_ITEMS, order.len(), |i| self.new_items[raw.items[order[i] as usize] as usize])?;
            if let Some(times) = &raw.times {
                to.gather(kind::EXPLICIT_TIMES, order.len(), |i| times[order[i] as usize])?;
            }
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

    /// Entities of the items that are left, and the names of those entities.
    fn write_graph<W: Write + Seek>(&self, to: &mut SectionWriter<W>, raw: &RawLog, graph: &RawGraph) -> std::io::Result<()> {
        let around = graph.around(self.items.iter().map(|&item| raw.item_ids.get(item)));
        to.gather(kind::GRAPH_OFFSETS, around.offsets.len(), |i| around.offsets[i])?;
        to.gather(kind::GRAPH_ENTITIES, around.entities.len(), |i| around.entities[i])?;
        write_names(to, kind::ENTITIES, kind::ENTITY_ENDS, &graph.nodes, &around.nodes)
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
    (s.events - s.repeated) as f64 / (s.users as f64 * s.items as f64)
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

/// Attributes or a graph that have none of the items are of something else, or write ids in another way; a graph may lack its
/// links.
fn check_sides(raw: &RawLog, sides: &Sides) -> Result<()> {
    let none = |has: &dyn Fn(&[u8]) -> bool| !(0..raw.item_ids.len() as u32).any(|item| has(raw.item_ids.get(item)));
    let first = |ids: &Ids| String::from_utf8_lossy(if ids.is_empty() { b"" } else { ids.get(0) }).into_owned();
    if let Some(attributes) = &sides.attributes
        && none(&|item| attributes.items.find(item).is_some())
    {
        let (there, here) = (first(&attributes.items), first(&raw.item_ids));
        return Err(Error::new(Code::D0404, "no item of the log is in the file of items")
            .note(format!("an item is \"{here}\" in the log and \"{there}\" in that file"))
            .help("check that `data.items_path` and the log are of the same data and write ids alike, or unset it"));
    }
    let Some(graph) = sides.graph.as_ref().filter(|graph| none(&|item| graph.has(item))) else { return Ok(()) };
    let error = Error::new(Code::D0404, "no item of the log is in the knowledge graph");
    Err(match &graph.links {
        None => error
            .note("without a link file an item is the node of its name")
            .help("name the file that says which node an item is (`data.link_path`), or unset `data.graph_path`"),
        Some((items, _)) => error
            .note(format!("the link file has {} items and the graph {} nodes", items.len(), graph.nodes.len()))
            .help("check that `data.graph_path`, `data.link_path` and the log are of the same data, or unset both"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::interactions::{Attributes, Values};
    use super::super::raw::{RawColumn, Rejected};
    use super::super::synthetic;
    use super::*;

    /// (user, item, time, weight) rows; context columns number the rows and name their item again.
    fn log(rows: &[(&str, &str, i64, f32)]) -> RawLog {
        let mut raw = RawLog::default();
        let (mut numbers, mut codes, mut ids) = (vec![], vec![], Ids::new());
        for (n, (user, item, ..)) in rows.iter().enumerate() {
            raw.users.push(raw.user_ids.intern(user.as_bytes()));
            raw.items.push(raw.item_ids.intern(item.as_bytes()));
            numbers.push(n as f32);
            codes.push(ids.intern(item.to_uppercase().as_bytes()));
        }
        raw.times = Some(rows.iter().map(|r| r.2).collect());
        raw.weights = Some(rows.iter().map(|r| r.3).collect());
        raw.context = vec![
            RawColumn { name: "row".into(), values: RawValues::Numeric(numbers) },
            RawColumn { name: "upper".into(), values: RawValues::Categorical { codes, ids } },
        ];
        raw
    }

    const ROWS: [(&str, &str, i64, f32); 9] = [
        ("w", "x", 9, 1.0),
        ("v", "y", 5, 5.0),
        ("u", "z", 7, 4.0),
        ("v", "x", 5, 5.0),
        ("u", "y", 7, 5.0),
        ("u", "z", 1, 4.5),
        ("v", "t", 3, 4.0),
        ("u", "s", 2, 2.0),
        ("v", "z", 8, 4.0),
    ];

    fn rows_of(data: &Interactions) -> Vec<(String, String, i64)> {
        let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
        let mut rows = vec![];
        for user in 0..data.users() as u32 {
            for at in data.range(user) {
                let item = data.event_items()[at];
                rows.push((text(data.user_name(user)), text(data.item_name(item)), data.times().unwrap()[at]));
            }
        }
        rows
    }

    fn attributes() -> RawAttributes {
        let mut a = RawAttributes { offsets: vec![0], ..RawAttributes::default() };
        for (item, names) in [("elsewhere", vec!["red"]), ("z", vec!["round", "red", "round"]), ("y", vec![])] {
            a.items.intern(item.as_bytes());
            for name in names {
                a.codes.push(a.names.intern(name.as_bytes()));
            }
            a.offsets.push(a.codes.len() as u64);
        }
        a
    }

    /// Entities of z and y; x and t are no nodes.
    fn graph() -> RawGraph {
        let mut graph = RawGraph::default();
        for (head, tail) in [("z", "round"), ("round", "red"), ("y", "round"), ("z", "gone"), ("z", "round")] {
            let triple = [head, tail].map(|node| graph.nodes.intern(node.as_bytes()));
            graph.triples.push(triple);
        }
        graph
    }

    fn sides() -> Sides {
        Sides { attributes: Some(attributes()), graph: Some(graph()) }
    }

    #[test]
    fn a_log_is_ordered_renumbered_and_described() {
        let config = config::Data { min_weight: Some(3.0), path: "some/log.tsv".into(), ..config::Data::default() };
        let data = in_memory(log(&ROWS), &config, sides()).unwrap();
        // w's only row is too light; v appeared before u. Frequencies: z 3, y 2, x 1, t 1 (x appeared first).
        let expected = [("v", "t", 3), ("v", "y", 5), ("v", "x", 5), ("v", "z", 8), ("u", "z", 1), ("u", "z", 7), ("u", "y", 7)];
        assert_eq!(rows_of(&data), expected.map(|(u, i, t)| (u.to_string(), i.to_string(), t)));
        assert_eq!((data.users(), data.items(), data.events()), (2, 4, 7));
        assert_eq!(["z", "y", "x", "t"].map(|i| data.find_item(i.as_bytes())), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!((data.find_item(b"s"), data.find_user(b"u"), data.find_user(b"w")), (None, Some(1), None));
        assert_eq!(data.weights().unwrap(), [4.0, 5.0, 5.0, 4.0, 4.5, 4.0, 5.0]);
        let columns = data.columns();
        let (Values::Numeric(row), Values::Categorical { codes, names }) = (columns[0].values, columns[1].values) else {
            panic!("columns changed their kinds");
        };
        assert_eq!((columns[0].name, columns[1].name), ("row", "upper"));
        assert_eq!(row, [6.0, 1.0, 3.0, 8.0, 5.0, 2.0, 4.0]);
        assert_eq!(codes.iter().map(|&c| names.get(c)[0]).collect::<Vec<_>>(), b"TYXZZZY");
        let attributes = data.attributes().unwrap();
        assert_eq!(attributes.width(), 2);
        assert_eq!(attributes.of(0), [0, 1], "ascending and without repeats");
        assert!((1..4).all(|item| attributes.of(item).is_empty()));
        let graph = data.graph().unwrap();
        let entities = |item| graph.of(item).iter().map(|&e| graph.names.get(e)).collect::<Vec<_>>();
        assert_eq!((entities(0), entities(1)), (vec![&b"round"[..], b"gone"], vec![&b"round"[..]]));
        assert!(graph.width() == 2 && graph.of(2).is_empty() && graph.of(3).is_empty());
        let meta = data.meta();
        assert_eq!((meta.source.as_str(), meta.filters.len()), ("some/log.tsv", 1));
        assert_eq!((meta.filters[0].before.events, meta.filters[0].after.events, meta.filters[0].after.users), (9, 7, 2));
        assert_eq!((meta.statistics.repeated, meta.statistics.ties, meta.statistics.density), (1, 2, 6.0 / 8.0));
    }

    #[test]
    fn a_file_holds_the_same_as_memory_and_its_hash_names_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let config = config::Data::default();
        let elsewhere = config::Data { path: "another/path".into(), ..config.clone() };
        let memory = in_memory(log(&ROWS), &config, sides()).unwrap();
        let file = prepare(log(&ROWS), &elsewhere, sides(), &folder.path().join("log.hn")).unwrap();
        assert_eq!(rows_of(&file), rows_of(&memory));
        assert_eq!(file.content_hash(), memory.content_hash());
        file.verify().unwrap();
        let mut other = log(&ROWS);
        other.times.as_mut().unwrap()[0] += 1;
        assert_ne!(in_memory(other, &config, sides()).unwrap().content_hash(), memory.content_hash());
    }

    fn bytes(raw: RawLog) -> Vec<u8> {
        let plan = Plan::new(&raw, &config::Data { min_weight: Some(4.5), ..config::Data::default() }).unwrap();
        let mut to = SectionWriter::new(Cursor::new(vec![])).unwrap();
        plan.write(&mut to, &raw, &sides()).unwrap();
        to.finish().unwrap().into_inner()
    }

    /// What is too light is no event, and is known not to be wanted by who stays of what stays, in the order of time.
    #[test]
    fn rows_below_the_threshold_are_explicit_negatives() {
        let config = config::Data { min_weight: Some(4.5), ..config::Data::default() };
        let named = |raw: RawLog| {
            let data = in_memory(raw, &config, Sides::default()).unwrap();
            let explicit = data.explicit().unwrap();
            let of = |user: u32| {
                let own = explicit.offsets[user as usize] as usize..explicit.offsets[user as usize + 1] as usize;
                own.map(|at| (data.item_name(explicit.items[at]).to_vec(), explicit.times.map(|t| t[at]))).collect::<Vec<_>>()
            };
            ["u", "v"].map(|user| of(data.find_user(user.as_bytes()).unwrap()))
        };
        let at = |item: &str, time: i64| (item.as_bytes().to_vec(), Some(time));
        // Kept: v y, v x, u y, u z. So w is gone, and s and t are no items any more.
        assert_eq!(named(log(&ROWS)), [vec![at("z", 7)], vec![at("z", 8)]]);
        let mut more = ROWS.to_vec();
        more.extend([("u", "x", 3, 0.0), ("u", "x", 9, f32::NAN), ("u", "y", 1, -1.0)]);
        assert_eq!(named(log(&more)), [vec![at("y", 1), at("x", 3), at("z", 7)], vec![at("z", 8)]]);
        let mut timeless = log(&ROWS);
        timeless.times = None;
        assert_eq!(named(timeless)[0], [(b"z".to_vec(), None)]);
        let whole = in_memory(log(&ROWS), &config::Data::default(), Sides::default()).unwrap();
        assert!(whole.explicit().is_none(), "without a threshold nothing is explicit");
        let none = config::Data { min_weight: Some(1.0), ..config::Data::default() };
        assert!(in_memory(log(&ROWS), &none, Sides::default()).unwrap().explicit().is_none());
    }

    /// Everything an open log shows.
    fn visible(data: &Interactions) -> String {
        let columns: Vec<String> = data
            .columns()
            .iter()
            .map(|c| match c.values {
                Values::Numeric(x) => format!("{} {x:?}", c.name),
                Values::Categorical { codes, names } => {
                    format!("{} {:?}", c.name, codes.iter().map(|&c| names.get(c)).collect::<Vec<_>>())
                }
            })
            .collect();
        let codes = |a: &Attributes, i| a.of(i).iter().map(|&c| a.names.get(c).to_vec()).collect::<Vec<_>>();
        let of_items = |a: &Attributes| -> Vec<_> { (0..data.items() as u32).map(|i| codes(a, i)).collect() };
        let attributes = [data.attributes(), data.graph()].map(|a| a.map(|a| of_items(&a)));
        let explicit = data.explicit().map(|e| (e.offsets, e.items, e.times));
        let (rows, meta) = (rows_of(data), data.meta());
        format!("{rows:?} {:?} {columns:?} {attributes:?} {explicit:?} {meta:?} {:?}", data.weights(), data.content_hash())
    }

    #[test]
    fn every_flipped_byte_is_refused_or_harmless_and_every_truncation_refused() {
        let good = bytes(log(&ROWS));
        let expected = visible(&Interactions::from_bytes(&good).unwrap());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            if let Ok(data) = Interactions::from_bytes(&bad)
                && data.verify().is_ok()
            {
                assert_eq!(visible(&data), expected, "flip at {at}");
            }
        }
        for length in 0..good.len() {
            assert!(Interactions::from_bytes(&good[..length]).is_err(), "cut at {length}");
        }
    }

    /// A file whose checksums are right and whose contents lie: each lie must be found on opening.
    #[test]
    fn contents_that_do_not_fit_together_are_refused() {
        type Change = fn(&mut Lie);
        struct Lie {
            offsets: Vec<u64>,
            items: Vec<u32>,
            times: Vec<i64>,
            ends: Vec<u64>,
            meta: Vec<u8>,
        }
        let build = |change: Change| {
            let meta = serde_json::to_vec(&Meta::default()).unwrap();
            let mut lie = Lie { offsets: vec![0, 2, 3], items: vec![0, 1, 1], times: vec![1, 2, 0], ends: vec![0, 1, 2], meta };
            change(&mut lie);
            let mut to = SectionWriter::new(Cursor::new(vec![])).unwrap();
            to.gather(kind::OFFSETS, lie.offsets.len(), |i| lie.offsets[i]).unwrap();
            to.gather(kind::ITEMS, lie.items.len(), |i| lie.items[i]).unwrap();
            to.gather(kind::TIMES, lie.times.len(), |i| lie.times[i]).unwrap();
            to.bytes(kind::USERS, b"uv").unwrap();
            to.gather(kind::USER_ENDS, 3, |i| i as u64).unwrap();
            to.bytes(kind::ITEM_NAMES, b"xy").unwrap();
            to.gather(kind::ITEM_ENDS, lie.ends.len(), |i| lie.ends[i]).unwrap();
            to.bytes(DESCRIPTION, &lie.meta).unwrap();
            Interactions::from_bytes(&to.finish().unwrap().into_inner()).map(|data| rows_of(&data).len()).map_err(|e| e.code())
        };
        assert_eq!(build(|_| {}), Ok(3));
        let lies: [Change; 11] = [
            |l| l.items[2] = 2,
            |l| l.items.truncate(2),
            |l| l.offsets[1] = 4,
            |l| l.offsets[2] = u64::MAX,
            |l| l.offsets[0] = 1,
            |l| l.offsets.clear(),
            |l| l.times.swap(0, 1),
            |l| l.times.truncate(2),
            |l| l.ends[1] = 3,
            |l| l.ends.truncate(2),
            |l| l.meta = b"{\"source\": 7}".to_vec(),
        ];
        for (n, lie) in lies.into_iter().enumerate() {
            assert_eq!(build(lie), Err(Code::D0401), "lie {n}");
        }
    }

    #[test]
    fn what_the_settings_cannot_do_is_refused() {
        let code = |change: fn(&mut RawLog, &mut config::Data)| {
            let (mut raw, mut config) = (log(&ROWS), config::Data::default());
            change(&mut raw, &mut config);
            in_memory(raw, &config, Sides::default()).err().map(|e| e.code())
        };
        assert_eq!(code(|raw, _| *raw = RawLog::default()), Some(Code::D0102));
        assert_eq!(code(|_, c| c.filter = "some".into()), Some(Code::C0202));
        assert_eq!(code(|_, c| c.dedup = "some".into()), Some(Code::C0202));
        assert_eq!(code(|_, c| c.min_user = 50), Some(Code::D0403));
        assert_eq!(code(|_, c| c.min_weight = Some(9.0)), Some(Code::D0403));
        assert_eq!(code(|raw, c| (raw.weights, c.min_weight) = (None, Some(1.0))), Some(Code::D0404));
        assert_eq!(code(|raw, c| (raw.times, c.dedup) = (None, "exact".into())), Some(Code::D0404));
        assert_eq!(code(|raw, _| raw.users[0] = 99), Some(Code::I7001));
    }

    #[test]
    fn sides_that_share_no_item_with_the_log_are_refused() {
        let mut attributes = attributes();
        attributes.items = Ids::new();
        for item in ["z.0", "y.0", "x.0"] {
            attributes.items.intern(item.as_bytes());
        }
        let refused = |sides: Sides| in_memory(log(&ROWS), &config::Data::default(), sides).err().unwrap();
        let error = refused(Sides { attributes: Some(attributes), graph: None });
        assert_eq!(error.code(), Code::D0404);
        assert!(error.to_string().contains("\"x\" in the log and \"z.0\" in that file"), "{error}");
        assert_eq!(refused(Sides { attributes: None, graph: Some(RawGraph::default()) }).code(), Code::D0404);
    }

    #[test]
    fn a_log_without_times_keeps_its_order() {
        let mut raw = log(&ROWS);
        raw.times = None;
        raw.rejected = Rejected::default();
        raw.rejected.count("bad_time", 3);
        let data = in_memory(raw, &config::Data::default(), Sides::default()).unwrap();
        let items: Vec<&[u8]> = data.history(1).iter().map(|&i| data.item_name(i)).collect();
        assert_eq!((data.user_name(1), items), (&b"v"[..], vec![&b"y"[..], b"x", b"t", b"z"]));
        assert!(data.times().is_none() && data.attributes().is_none() && data.graph().is_none());
        assert_eq!((data.meta().statistics.first_time, data.meta().rejected.total()), (None, 1));
    }

    #[test]
    fn the_result_does_not_depend_on_threads() {
        let synthetic = config::Synthetic { users: 3000, items: 300, ..Default::default() };
        let config = config::Data { min_user: 8, min_item: 60, dedup: "last".into(), ..Default::default() };
        let hash = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let (raw, sides) = synthetic::generate(&synthetic).unwrap();
                let data = in_memory(raw, &config, sides).unwrap();
                assert!(data.users() < 3000 && data.users() > 500, "the filter should bite: {}", data.users());
                (data.content_hash(), data.meta().statistics.clone())
            })
        };
        assert_eq!(hash(1), hash(3));
    }
}
