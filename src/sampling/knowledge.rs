//! What a sampler knows: facts about the training events, and nothing else.
//!
//! Validation and test events sit in the same CSR arrays; only positions inside `offsets[u] .. train_end[u]` (and those
//! listed by the clusters) are ever read. Items without a training event are outside the *training catalogue*: no sampler
//! draws one, because pushing down an item that exists only in the test part would be learning from it.

use crate::data::clusters::{ClusterCounts, ClusterEvents};
use crate::ops::exclusion::Bits;

/// Facts about the training part of a split.
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
