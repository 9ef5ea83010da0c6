//! How many different items stand near an item in histories: what a table of followers or neighbours will hold, before it is made.
//!
//! ```text
//! n(i) = |{ items within `back` events before or `ahead` events after an occurrence of i in a history }|
//! asked for: sum over items of min(n(i), most)
//! ```
//!
//! Counted exactly where a log is small; of a large one some items are looked at, evenly over the catalogue, and stand for the rest.

use std::ops::Range;

use rayon::prelude::*;

/// Occurrences that are looked at: all of a small log.
const LOOKED_AT: usize = 5_000_000;

/// What counts as near.
#[derive(Clone, Copy)]
pub struct Near {
    /// Events before and after.
    pub back: usize,
    pub ahead: usize,
    /// Whether an item may be near itself.
    pub itself: bool,
    /// Counted of an item at most.
    pub most: usize,
}

/// The sum above over `catalogue` items V, for the histories `items[range]`.
pub fn count(items: &[u32], histories: impl Iterator<Item = Range<usize>> + Clone, catalogue: usize, near: Near) -> usize {
    let events: usize = histories.clone().map(|history| history.len()).sum();
    let step = events.div_ceil(LOOKED_AT).max(1);
    let looked_at = |item: u32| (item as usize).is_multiple_of(step);
    // Per item looked at, its surroundings.
    let chosen = catalogue.div_ceil(step);
    let mut begin = vec![0usize; chosen + 1];
    for &item in histories.clone().flat_map(|history| &items[history]).filter(|item| looked_at(**item)) {
        begin[item as usize / step + 1] += 1;
    }
    (0..chosen).for_each(|i| begin[i + 1] += begin[i]);
    let (mut next, mut around) = (begin.clone(), vec![(0, 0, 0); begin[chosen]]);
    for history in histories {
        for at in history.clone().filter(|&at| looked_at(items[at])) {
            let slot = &mut next[items[at] as usize / step];
            let from = at.saturating_sub(near.back).max(history.start);
            around[*slot] = (from, at, history.end.min(at + 1 + near.ahead));
            *slot += 1;
        }
    }
    let of_item = |met: &mut Vec<u32>, i: usize| {
        let (own, mark) = ((i * step) as u32, i as u32 + 1);
        let mut n = 0;
        for &(from, at, to) in &around[begin[i]..begin[i + 1]] {
            for &other in items[from..at].iter().chain(&items[at + 1..to]).filter(|other| near.itself || **other != own) {
                n += usize::from(std::mem::replace(&mut met[other as usize], mark) != mark);
            }
            if n >= near.most {
                return near.most;
            }
        }
        n
    };
    let counted: usize = (0..chosen).into_par_iter().map_init(|| vec![0; catalogue], of_item).sum();
    (counted as u128 * catalogue as u128 / chosen.max(1) as u128) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Histories 0 1 2 0 and 1 1 3, with an event between them that belongs to none.
    #[test]
    fn worked_by_hand() {
        let items = [0, 1, 2, 0, 4, 1, 1, 3];
        let of = |near: Near| count(&items, [0..4, 5..8].into_iter(), 5, near);
        let ahead = Near { back: 0, ahead: 2, itself: true, most: 9 };
        // 0: 1 2;  1: 2 0 and 1 3;  2: 0
        assert_eq!(of(ahead), 2 + 4 + 1);
        assert_eq!(of(Near { itself: false, ..ahead }), 2 + 3 + 1);
        assert_eq!(of(Near { most: 2, ..ahead }), 2 + 2 + 1);
        // 0: 1 2;  1: 0 2 3;  2: 0 1;  3: 1
        assert_eq!(of(Near { back: 1, ahead: 1, itself: false, most: 9 }), 2 + 3 + 2 + 1);
    }

    /// Every item is followed by the same three others, so any part of the catalogue stands for the rest.
    #[test]
    fn a_large_log_is_looked_at_in_part() {
        let (catalogue, length) = (1000usize, 6_000_000);
        let items: Vec<u32> = (0..length).map(|at| (at % catalogue) as u32).collect();
        let near = Near { back: 0, ahead: 3, itself: true, most: 9 };
        assert_eq!(count(&items, std::iter::once(0..length), catalogue, near), 3 * catalogue);
    }
}
