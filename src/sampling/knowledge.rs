//! What a sampler knows: facts about the training events, and nothing else.
//!
//! Validation and test events sit in the same CSR arrays; only positions inside `offsets[u] .. train_end[u]` (and those
//! listed by the clusters) are ever read. Items without a training event are outside the *training catalogue*: no sampler
//! draws one, because pushing down an item that exists only in the test part would be learning from it. Attributes and a
//! knowledge graph are the exception: they describe items and not events, and are known of every item.

use crate::data::clusters::{ClusterCounts, ClusterEvents};
use crate::error::{Code, Error, Result};
use crate::ops::exclusion::Bits;

/// Facts about the training part of a split.
#[derive(Default)]
pub struct Knowledge<'a> {
    /// (V) training events of each item.
    pub train_counts: &'a [u32],
    /// (E) item of each event of the CSR.
    pub event_items: &'a [u32],
    /// (U+1) first event of each user.
    pub offsets: &'a [u64],
    /// (U) end of each user's training events.
    pub train_end: &'a [u64],
    /// Training events grouped by time; absent when the log has no times or clusters were not asked for.
    pub clusters: Option<Clusters<'a>>,
    /// Attributes of the items; absent when none were read.
    pub attributes: Option<Attributes<'a>>,
    /// Entities around the items in a knowledge graph; absent when none was read.
    pub graph: Option<Attributes<'a>>,
    /// What users are known not to want; absent when the log does not say.
    pub explicit: Option<Explicit<'a>>,
}

impl<'a> Knowledge<'a> {
    /// The items of `user`'s training events, in order; none for a user the log does not have.
    pub fn history(&self, user: u32) -> &'a [u32] {
        match (self.offsets.get(user as usize), self.train_end.get(user as usize)) {
            (Some(&from), Some(&to)) => self.event_items.get(from as usize..to as usize).unwrap_or(&[]),
            _ => &[],
        }
    }
    /// The training events of every user, as places among `event_items`.
    pub fn histories(&self) -> impl Iterator<Item = std::ops::Range<usize>> + Clone + use<'a> {
        self.offsets.iter().zip(self.train_end).map(|(&from, &to)| from as usize..to as usize)
    }
    /// Popularity alone.
    #[cfg(test)]
    pub fn of_counts(train_counts: &'a [u32]) -> Knowledge<'a> {
        Knowledge { train_counts, ..Knowledge::default() }
    }
    /// U
    pub fn users(&self) -> usize {
        self.train_end.len()
    }
}

/// Items that users are known not to want, each user's in the order of time.
#[derive(Clone, Copy)]
pub struct Explicit<'a> {
    /// (U+1)
    pub offsets: &'a [u64],
    pub items: &'a [u32],
    /// (E) times of the events, and times of `items`; absent when the log has none.
    pub times: Option<(&'a [i64], &'a [i64])>,
}

/// Codes of each item: its attributes, or the entities around it.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// (V+1)
    pub offsets: &'a [u64],
    pub codes: &'a [u32],
}

impl<'a> Attributes<'a> {
    pub fn of(&self, item: u32) -> &'a [u32] {
        &self.codes[self.offsets[item as usize] as usize..self.offsets[item as usize + 1] as usize]
    }
}

/// Codes both ways, attributes or entities: the distinct ones of an item, and the trained items of one.
#[derive(Default)]
pub struct Groups {
    /// (V) ascending and distinct.
    codes: Vec<Vec<u32>>,
    /// (codes) trained items, ascending.
    members: Vec<Vec<u32>>,
}

impl Groups {
    /// Groups the trained items by attribute for `what`, such as a stage and its kind; D0303 where there are no attributes.
    pub fn by_attribute(knowledge: &Knowledge, catalogue: &Catalogue, what: &str) -> Result<Groups> {
        let lack = || {
            Error::new(Code::D0303, format!("{what} needs attributes of items, and this log has none"))
                .help("name a file of items (`data.items_path`), or choose another sampler")
        };
        Groups::new(knowledge.attributes, catalogue).ok_or_else(lack)
    }
    /// Groups the trained items by entity of the knowledge graph; D0303 where there is no graph.
    pub fn by_entity(knowledge: &Knowledge, catalogue: &Catalogue, what: &str) -> Result<Groups> {
        let lack = || {
            Error::new(Code::D0303, format!("{what} needs a knowledge graph around the items, and this log has none"))
                .help("name a file of triples (`data.graph_path`; `data.link_path` says which node an item is)")
                .help("or choose another sampler")
        };
        Groups::new(knowledge.graph, catalogue).ok_or_else(lack)
    }
    fn new(codes: Option<Attributes>, catalogue: &Catalogue) -> Option<Groups> {
        let given = codes.filter(|a| !a.codes.is_empty())?;
        let codes: Vec<Vec<u32>> = (0..catalogue.items() as u32)
            .map(|item| {
                let mut codes = given.of(item).to_vec();
                codes.sort_unstable();
                codes.dedup();
                codes
            })
            .collect();
        let mut carriers = vec![0; given.codes.iter().max().map_or(0, |&most| most as usize + 1)];
        for item in catalogue.iter() {
            codes[item as usize].iter().for_each(|&code| carriers[code as usize] += 1);
        }
        let mut members: Vec<Vec<u32>> = carriers.into_iter().map(Vec::with_capacity).collect();
        for item in catalogue.iter() {
            codes[item as usize].iter().for_each(|&code| members[code as usize].push(item));
        }
        Some(Groups { codes, members })
    }
    /// The distinct codes of `item`, ascending.
    pub fn of_item(&self, item: u32) -> &[u32] {
        self.codes.get(item as usize).map_or(&[], Vec::as_slice)
    }
    /// The trained items that carry `code`, ascending.
    pub fn of_code(&self, code: u32) -> &[u32] {
        &self.members[code as usize]
    }
    /// Codes are below this.
    pub fn width(&self) -> usize {
        self.members.len()
    }
    /// Bytes of the groups of `items` V.
    pub fn bytes(items: usize, of: &Codes) -> usize {
        size_of::<Vec<u32>>() * (items + of.codes) + 4 * (of.pairs + of.members)
    }
}

/// How much there is of codes, for a plan that asks before any group is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codes {
    /// Codes are below this.
    pub codes: usize,
    /// (item, code) pairs as the log has them, and those of different codes and trained items.
    pub pairs: usize,
    pub members: usize,
    /// The same counted once for every training event of the item.
    pub of_events: usize,
}

impl Codes {
    /// Counts the codes of items with `train_counts` (V) training events; none where there are none.
    pub fn count(given: Option<Attributes>, train_counts: &[u32]) -> Option<Codes> {
        let given = given.filter(|a| !a.codes.is_empty())?;
        let codes = given.codes.iter().max().map_or(0, |&most| most as usize + 1);
        let (mut of, mut last) = (Codes { codes, pairs: given.codes.len(), ..Codes::default() }, vec![u32::MAX; codes]);
        for (item, &events) in (0..).zip(train_counts).filter(|(_, events)| **events > 0) {
            for &code in given.of(item) {
                if std::mem::replace(&mut last[code as usize], item) != item {
                    of.members += 1;
                    of.of_events += events as usize;
                }
            }
        }
        Some(of)
    }
}

/// Training events by time cluster.
#[derive(Clone, Copy)]
pub struct Clusters<'a> {
    pub counts: &'a ClusterCounts,
    pub events: &'a ClusterEvents,
}

impl Clusters<'_> {
    /// K
    pub fn len(&self) -> usize {
        self.counts.offsets.len().saturating_sub(1)
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The training catalogue: the `T` items with at least one training event, among `V`.
pub struct Catalogue {
    items: usize,
    /// Absent when every item is trained.
    trained: Option<(Vec<u32>, Bits)>,
    len: usize,
}

impl Catalogue {
    pub fn new(train_counts: &[u32]) -> Catalogue {
        let items = train_counts.len();
        let len = train_counts.iter().filter(|&&f| f > 0).count();
        let trained = (len < items).then(|| {
            let mut bits = Bits::new(items);
            let list: Vec<u32> = (0..items as u32).filter(|&i| train_counts[i as usize] > 0).collect();
            list.iter().for_each(|&i| bits.insert(i));
            (list, bits)
        });
        Catalogue { items, trained, len }
    }
    /// V
    pub fn items(&self) -> usize {
        self.items
    }
    /// T
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The `j`-th trained item.
    #[inline]
    pub fn item(&self, j: u32) -> u32 {
        match &self.trained {
            None => j,
            Some((list, _)) => list[j as usize],
        }
    }
    #[inline]
    pub fn contains(&self, item: u32) -> bool {
        match &self.trained {
            None => (item as usize) < self.items,
            Some((_, bits)) => bits.contains(item),
        }
    }
    /// The items outside it, ascending.
    pub fn untrained(&self) -> Vec<u32> {
        match &self.trained {
            None => Vec::new(),
            Some((_, bits)) => (0..self.items as u32).filter(|&i| !bits.contains(i)).collect(),
        }
    }
    /// The trained items, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len as u32).map(|j| self.item(j))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_training_catalogue_is_the_items_with_training_events() {
        let catalogue = Catalogue::new(&[3, 0, 1, 0, 0, 2]);
        assert_eq!(catalogue.iter().collect::<Vec<_>>(), [0, 2, 5]);
        assert_eq!((catalogue.len(), catalogue.items()), (3, 6));
        assert!(!catalogue.contains(4) && catalogue.contains(5));
        assert_eq!(Catalogue::new(&[1; 4]).iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(Catalogue::new(&[0; 4]).is_empty());
    }
}
