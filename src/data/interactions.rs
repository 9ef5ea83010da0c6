//! Prepared interactions: the log as compressed sparse rows, one file, used in place from a memory map.
//!
//! User `u`'s events are `offsets[u] .. offsets[u+1]`, in time order; every other column is indexed by that position.
//! Opening checks each bound once (items below V, offsets ascending, times ascending per user, codes below their number
//! of names), so that everything downstream may index without checks. This reads the file once.

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::raw::Rejected;
use super::sections::{DESCRIPTION, Sections};
use crate::error::{Error, Result};
use crate::ids::LIMIT;

/// Kinds of sections; part of the file format, append only.
pub(super) mod kind {
    pub const OFFSETS: u32 = 2;
    pub const ITEMS: u32 = 3;
    pub const TIMES: u32 = 4;
    pub const WEIGHTS: u32 = 5;
    pub const USERS: u32 = 6;
    pub const USER_ENDS: u32 = 7;
    pub const ITEM_NAMES: u32 = 8;
    pub const ITEM_ENDS: u32 = 9;
    pub const ATTRIBUTE_OFFSETS: u32 = 10;
    pub const ATTRIBUTE_CODES: u32 = 11;
    pub const ATTRIBUTES: u32 = 12;
    pub const ATTRIBUTE_ENDS: u32 = 13;
    /// JSON list of the context columns.
    pub const COLUMNS: u32 = 14;
    pub const GRAPH_OFFSETS: u32 = 15;
    pub const GRAPH_ENTITIES: u32 = 16;
    pub const ENTITIES: u32 = 17;
    pub const ENTITY_ENDS: u32 = 18;
    pub const EXPLICIT_OFFSETS: u32 = 19;
    pub const EXPLICIT_ITEMS: u32 = 20;
    pub const EXPLICIT_TIMES: u32 = 21;
    /// Plus the column's number: its values, its category names and their ends.
    pub const COLUMN: u32 = 0x1000;
    pub const CATEGORIES: u32 = 0x2000;
    pub const CATEGORY_ENDS: u32 = 0x3000;
    pub const MOST_COLUMNS: usize = 1000;
}

/// How the data came to be; stored in the file, not part of the content hash.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// The path as given, or `synthetic`.
    pub source: String,
    /// What the reader understood of the file.
    pub layout: serde_json::Value,
    pub rejected: Rejected,
    /// In the order of application.
    pub filters: Vec<Filter>,
    pub statistics: Statistics,
}

/// One step of cleaning and what it left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// The setting, such as `min_weight = 4`.
    pub name: String,
    pub before: Count,
    pub after: Count,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub events: u64,
    /// With at least one event.
    pub users: u64,
    pub items: u64,
}

/// What the prepared data look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statistics {
    pub events: u64,
    pub users: u64,
    pub items: u64,
    /// Events per user.
    pub mean_length: f64,
    pub median_length: u64,
    pub min_length: u64,
    pub max_length: u64,
    /// Microseconds since 1970 UTC.
    pub first_time: Option<i64>,
    pub last_time: Option<i64>,
    /// Neighbouring events of a user with equal time.
    pub ties: u64,
    /// Events whose user had the item before.
    pub repeated: u64,
    /// Different (user, item) pairs / (users x items).
    pub density: f64,
}

/// A declared context column as stored in [`kind::COLUMNS`].
#[derive(Serialize, Deserialize)]
pub(super) struct ColumnNote {
    pub name: String,
    pub categorical: bool,
}

/// The prepared log; see the module text.
pub struct Interactions {
    file: Sections,
    offsets: Range<usize>,
    items: Range<usize>,
    times: Option<Range<usize>>,
    weights: Option<Range<usize>>,
    users: NameRanges,
    item_names: NameRanges,
    attributes: Option<CodeRanges>,
    graph: Option<CodeRanges>,
    /// offsets, items, times.
    explicit: Option<(Range<usize>, Range<usize>, Option<Range<usize>>)>,
    /// name, values, names of categories.
    columns: Vec<(String, Range<usize>, Option<NameRanges>)>,
    meta: Meta,
    user_order: OnceLock<Vec<u32>>,
    item_order: OnceLock<Vec<u32>>,
}

/// offsets, codes, names.
type CodeRanges = (Range<usize>, Range<usize>, NameRanges);

#[derive(Clone)]
struct NameRanges {
    bytes: Range<usize>,
    ends: Range<usize>,
}

/// Byte-string names by dense code.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    bytes: &'a [u8],
    /// (N+1), starts with 0.
    ends: &'a [u64],
}

impl<'a> Names<'a> {
    pub fn len(&self) -> usize {
        self.ends.len() - 1
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn get(&self, code: u32) -> &'a [u8] {
        &self.bytes[self.ends[code as usize] as usize..self.ends[code as usize + 1] as usize]
    }
    /// Codes in the order of their names.
    fn sorted(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.par_sort_unstable_by_key(|&code| (self.get(code), code));
        order
    }
    fn search(&self, order: &[u32], name: &[u8]) -> Option<u32> {
        let at = order.partition_point(|&code| self.get(code) < name);
        order.get(at).copied().filter(|&code| self.get(code) == name)
    }
}

/// Attributes (or entities) of items: item `i` has `codes[offsets[i] .. offsets[i+1]]`, ascending.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// (V+1)
    pub offsets: &'a [u64],
    pub codes: &'a [u32],
    pub names: Names<'a>,
}

impl<'a> Attributes<'a> {
    pub fn of(&self, item: u32) -> &'a [u32] {
        &self.codes[self.offsets[item as usize] as usize..self.offsets[item as usize + 1] as usize]
    }
    /// Number of different attributes.
    pub fn width(&self) -> usize {
        self.names.len()
    }
    /// Items that have any.
    pub fn described(&self) -> u64 {
        self.offsets.windows(2).filter(|w| w[0] < w[1]).count() as u64
    }
}

/// Explicit negatives: user `u` does not want `items[offsets[u] .. offsets[u+1]]`, in the order of time.
#[derive(Clone, Copy)]
pub struct Explicit<'a> {
    /// (U+1)
    pub offsets: &'a [u64],
    pub items: &'a [u32],
    /// Microseconds since 1970 UTC; there exactly when events have times.
    pub times: Option<&'a [i64]>,
}

/// A declared context column.
#[derive(Clone, Copy)]
pub struct Column<'a> {
    pub name: &'a str,
    pub values: Values<'a>,
}

#[derive(Clone, Copy)]
pub enum Values<'a> {
    /// (E) numbers; NaN where unknown.
    Numeric(&'a [f32]),
    /// (E) codes of `names`.
    Categorical { codes: &'a [u32], names: Names<'a> },
}

impl Interactions {
    /// Maps and checks a prepared file.
    pub fn open(path: &Path) -> Result<Interactions> {
        Interactions::new(Sections::open(path)?)
    }

    /// The same over the bytes of such a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Interactions> {
        Interactions::new(Sections::from_bytes(bytes)?)
    }

    fn new(file: Sections) -> Result<Interactions> {
        let offsets = file.require::<u64>(kind::OFFSETS, "offsets")?;
        let items = file.require::<u32>(kind::ITEMS, "items")?;
        let times = file.optional::<i64>(kind::TIMES, "times")?;
        let weights = file.optional::<f32>(kind::WEIGHTS, "weights")?;
        let users = names(&file, kind::USERS, kind::USER_ENDS, "users")?;
        let item_names = names(&file, kind::ITEM_NAMES, kind::ITEM_ENDS, "items")?;
        let meta = file.require::<u8>(DESCRIPTION, "description")?;
        let meta = serde_json::from_slice(file.view::<u8>(&meta)).map_err(|e| file.damaged(&format!("its description: {e}")))?;
        let events = items.len() / 4;
        if events > LIMIT {
            return Err(file.damaged("more events than can be numbered"));
        }
        check_offsets(&file, &offsets, count(&users), events, "users")?;
        check_codes(&file, &items, count(&item_names), "items")?;
        if times.as_ref().is_some_and(|r| r.len() != events * 8) || weights.as_ref().is_some_and(|r| r.len() != events * 4) {
            return Err(file.damaged("its columns have different lengths"));
        }
        if let Some(times) = &times {
            check_order(&file, file.view(&offsets), file.view(times))?;
        }
        let of_items = count(&item_names);
        let attributes = [kind::ATTRIBUTE_OFFSETS, kind::ATTRIBUTE_CODES, kind::ATTRIBUTES, kind::ATTRIBUTE_ENDS];
        let attributes = codes(&file, attributes, of_items, "attributes")?;
        let graph = [kind::GRAPH_OFFSETS, kind::GRAPH_ENTITIES, kind::ENTITIES, kind::ENTITY_ENDS];
        let graph = codes(&file, graph, of_items, "entities")?;
        let explicit = match file.optional::<u64>(kind::EXPLICIT_OFFSETS, "explicit negatives")? {
            None => None,
            Some(starts) => {
                let listed = file.require::<u32>(kind::EXPLICIT_ITEMS, "explicit negatives")?;
                let when = file.optional::<i64>(kind::EXPLICIT_TIMES, "explicit negatives")?;
                check_offsets(&file, &starts, count(&users), listed.len() / 4, "explicit negatives")?;
                check_codes(&file, &listed, of_items, "items")?;
                if when.as_ref().is_some_and(|when| when.len() != listed.len() * 2) || when.is_some() != times.is_some() {
                    return Err(file.damaged("its explicit negatives have too few times or too many"));
                }
                if let Some(when) = &when {
                    check_order(&file, file.view(&starts), file.view(when))?;
                }
                Some((starts, listed, when))
            }
        };
        let columns = columns(&file, events)?;
        Ok(Interactions {
            offsets,
            items,
            times,
            weights,
            users,
            item_names,
            attributes,
            graph,
            explicit,
            columns,
            meta,
            user_order: OnceLock::new(),
            item_order: OnceLock::new(),
            file,
        })
    }

    /// Users U.
    pub fn users(&self) -> usize {
        count(&self.users)
    }
    /// Items V.
    pub fn items(&self) -> usize {
        count(&self.item_names)
    }
    /// Events E.
    pub fn events(&self) -> usize {
        self.items.len() / 4
    }
    /// (U+1)
    pub fn offsets(&self) -> &[u64] {
        self.file.view(&self.offsets)
    }
    /// (E) the item of each event.
    pub fn event_items(&self) -> &[u32] {
        self.file.view(&self.items)
    }
    /// (E) microseconds since 1970 UTC.
    pub fn times(&self) -> Option<&[i64]> {
        self.times.as_ref().map(|r| self.file.view(r))
    }
    /// (E)
    pub fn weights(&self) -> Option<&[f32]> {
        self.weights.as_ref().map(|r| self.file.view(r))
    }
    /// Positions of user `u`'s events.
    pub fn range(&self, user: u32) -> Range<usize> {
        let offsets = self.offsets();
        offsets[user as usize] as usize..offsets[user as usize + 1] as usize
    }
    /// User `u`'s items in time order.
    pub fn history(&self, user: u32) -> &[u32] {
        &self.event_items()[self.range(user)]
    }
    /// The declared context columns.
    pub fn columns(&self) -> Vec<Column<'_>> {
        self.columns
            .iter()
            .map(|(name, values, categories)| Column {
                name,
                values: match categories {
                    Some(ranges) => Values::Categorical { codes: self.file.view(values), names: self.names(ranges) },
                    None => Values::Numeric(self.file.view(values)),
                },
            })
            .collect()
    }
    /// Attributes of the items, if a side file gave any.
    pub fn attributes(&self) -> Option<Attributes<'_>> {
        self.attributes.as_ref().map(|ranges| self.codes(ranges))
    }
    /// The entities of the items in a knowledge graph (`data/graph.rs`), if one was given; in the shape of attributes.
    pub fn graph(&self) -> Option<Attributes<'_>> {
        self.graph.as_ref().map(|ranges| self.codes(ranges))
    }
    /// What users are known not to want, if `data.min_weight` left such rows out.
    pub fn explicit(&self) -> Option<Explicit<'_>> {
        self.explicit.as_ref().map(|(offsets, items, times)| Explicit {
            offsets: self.file.view(offsets),
            items: self.file.view(items),
            times: times.as_ref().map(|times| self.file.view(times)),
        })
    }
    fn codes(&self, (offsets, codes, labels): &CodeRanges) -> Attributes<'_> {
        Attributes { offsets: self.file.view(offsets), codes: self.file.view(codes), names: self.names(labels) }
    }
    /// The user's name in the log.
    pub fn user_name(&self, user: u32) -> &[u8] {
        self.names(&self.users).get(user)
    }
    /// The item's name in the log.
    pub fn item_name(&self, item: u32) -> &[u8] {
        self.names(&self.item_names).get(item)
    }
    /// The user with this name. The first call sorts the names.
    pub fn find_user(&self, name: &[u8]) -> Option<u32> {
        let names = self.names(&self.users);
        names.search(self.user_order.get_or_init(|| names.sorted()), name)
    }
    /// The item with this name. The first call sorts the names.
    pub fn find_item(&self, name: &[u8]) -> Option<u32> {
        let names = self.names(&self.item_names);
        names.search(self.item_order.get_or_init(|| names.sorted()), name)
    }
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
    /// BLAKE3 over all sections but the description: names the data, wherever and whenever they were prepared.
    pub fn content_hash(&self) -> [u8; 32] {
        self.file.content_hash()
    }
    /// Compares every section with its checksum.
    pub fn verify(&self) -> Result<()> {
        self.file.verify()
    }
    fn names(&self, ranges: &NameRanges) -> Names<'_> {
        Names { bytes: self.file.view(&ranges.bytes), ends: self.file.view(&ranges.ends) }
    }
}

/// Number of names.
fn count(names: &NameRanges) -> usize {
    names.ends.len() / 8 - 1
}

fn names(file: &Sections, bytes: u32, ends: u32, what: &str) -> Result<NameRanges> {
    let ranges = NameRanges { bytes: file.require::<u8>(bytes, what)?, ends: file.require::<u64>(ends, what)? };
    let length = ranges.ends.len() / 8;
    if length == 0 || length - 1 > LIMIT {
        return Err(file.damaged(&format!("the names of its {what} are incomplete")));
    }
    check_offsets(file, &ranges.ends, length - 1, ranges.bytes.len(), what)?;
    Ok(ranges)
}

/// Codes per item in the sections `kinds` (offsets, codes, names, their ends), if the file has them.
fn codes(file: &Sections, kinds: [u32; 4], items: usize, what: &str) -> Result<Option<CodeRanges>> {
    let Some(starts) = file.optional::<u64>(kinds[0], what)? else { return Ok(None) };
    let codes = file.require::<u32>(kinds[1], what)?;
    let labels = names(file, kinds[2], kinds[3], what)?;
    check_offsets(file, &starts, items, codes.len() / 4, what)?;
    check_codes(file, &codes, count(&labels), what)?;
    Ok(Some((starts, codes, labels)))
}

/// `rows + 1` ascending numbers from 0 to `total`.
fn check_offsets(file: &Sections, range: &Range<usize>, rows: usize, total: usize, what: &str) -> Result<()> {
    let offsets: &[u64] = file.view(range);
    let ascending = |part: &[u64]| part.windows(2).all(|w| w[0] <= w[1]);
    let fine = offsets.len() == rows + 1
        && offsets[0] == 0
        && offsets[rows] == total as u64
        && offsets.par_chunks(1 << 16).all(ascending)
        && offsets.chunks(1 << 16).zip(offsets.chunks(1 << 16).skip(1)).all(|(a, b)| a[a.len() - 1] <= b[0]);
    if fine { Ok(()) } else { Err(file.damaged(&format!("the offsets of its {what} do not ascend to their number"))) }
}

fn check_codes(file: &Sections, range: &Range<usize>, below: usize, what: &str) -> Result<()> {
    let fine = file.view::<u32>(range).par_chunks(1 << 16).all(|part| part.iter().all(|&code| (code as usize) < below));
    if fine { Ok(()) } else { Err(file.damaged(&format!("it mentions {what} that have no name"))) }
}

/// Splits and time clusters search a user's times by halving.
fn check_order(file: &Sections, offsets: &[u64], times: &[i64]) -> Result<()> {
    let fine = offsets.par_chunks(1 << 12).enumerate().all(|(c, part)| {
        let after = offsets.get((c << 12) + part.len()).copied();
        let bounds = part.iter().copied().chain(after);
        bounds.clone().zip(bounds.skip(1)).all(|(a, b)| times[a as usize..b as usize].is_sorted())
    });
    if fine { Ok(()) } else { Err(file.damaged("the events of a user are not in the order of time")) }
}

/// Name, bytes of the values, and the categories' names of a context column.
type ColumnRanges = (String, Range<usize>, Option<NameRanges>);

fn columns(file: &Sections, events: usize) -> Result<Vec<ColumnRanges>> {
    let Some(notes) = file.find(kind::COLUMNS) else { return Ok(vec![]) };
    let notes: Vec<ColumnNote> =
        serde_json::from_slice(file.view::<u8>(&notes)).map_err(|e| file.damaged(&format!("its list of columns: {e}")))?;
    if notes.len() > kind::MOST_COLUMNS {
        return Err(file.damaged("more context columns than can be"));
    }
    let mut columns = Vec::with_capacity(notes.len());
    for (c, note) in notes.into_iter().enumerate() {
        let c = c as u32;
        let values = file.require::<u32>(kind::COLUMN + c, &note.name)?;
        if values.len() != events * 4 {
            return Err(file.damaged("its columns have different lengths"));
        }
        let categories = if note.categorical {
            let labels = names(file, kind::CATEGORIES + c, kind::CATEGORY_ENDS + c, &note.name)?;
            check_codes(file, &values, count(&labels), &note.name)?;
            Some(labels)
        } else {
            None
        };
        columns.push((note.name, values, categories));
    }
    Ok(columns)
}

/// A setting asked for times in a log that has none.
pub(super) fn needs_times(what: &str) -> Error {
    Error::new(crate::error::Code::D0404, format!("{what} needs times, and the log has no time column"))
        .help("name the column with `data.time_col`, or choose a setting that needs no times")
}
