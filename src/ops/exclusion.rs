//! Which items a row may not be given as a negative: none, its target, or everything its user has seen.
//!
//! A set of item bits holds the answer for one sequence: one bit per item is small enough for the cache (125 kB for a
//! million items) and a test costs about a nanosecond, where a search in the user's list costs ten.

use crate::data::batch::Batch;

/// Whom a draw leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclude {
    None,
    /// The row's own target.
    Target,
    /// The row's target and all training items of its user.
    History,
}

/// A set of items.
pub struct Bits(Vec<u64>);

impl Bits {
    pub fn new(items: usize) -> Bits {
        Bits(vec![0; items.div_ceil(64)])
    }
    #[inline]
    pub fn contains(&self, item: u32) -> bool {
        self.0[item as usize >> 6] >> (item & 63) & 1 != 0
    }
    #[inline]
    pub fn insert(&mut self, item: u32) {
        self.0[item as usize >> 6] |= 1 << (item & 63);
    }
    #[inline]
    pub fn remove(&mut self, item: u32) {
        self.0[item as usize >> 6] &= !(1 << (item & 63));
    }
}

impl Exclude {
    /// The items left out for every row of sequence `b`, ascending and distinct.
    pub fn of_sequence(self, batch: &Batch, b: usize) -> &[u32] {
        match self {
            Exclude::History => batch.seen_of(b),
            Exclude::None | Exclude::Target => &[],
        }
    }
    /// The further item left out for row `r`, given the set of its sequence.
    #[inline]
    pub fn of_row(self, batch: &Batch, r: usize, sequence: &Bits) -> Option<u32> {
        let target = batch.targets[r];
        (self != Exclude::None && !sequence.contains(target)).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        for items in [1usize, 63, 64, 65, 129] {
            let mut bits = Bits::new(items);
            for i in (0..items as u32).step_by(3) {
                bits.insert(i);
            }
            for i in (0..items as u32).step_by(6) {
                bits.remove(i);
            }
            for i in 0..items as u32 {
                assert_eq!(bits.contains(i), i % 6 == 3, "{i} of {items}");
            }
        }
    }

    #[test]
    fn the_target_is_named_once() {
        let batch = Batch {
            users: vec![0],
            offsets: vec![0, 2].into(),
            items: vec![1, 2].into(),
            targets: vec![2, 9].into(),
            seen_extents: vec![[0, 2]],
            seen: vec![1, 2].into(),
            ..Batch::default()
        };
        let mut bits = Bits::new(10);
        Exclude::History.of_sequence(&batch, 0).iter().for_each(|&i| bits.insert(i));
        assert_eq!(Exclude::History.of_row(&batch, 0, &bits), None);
        assert_eq!(Exclude::History.of_row(&batch, 1, &bits), Some(9));
        assert_eq!(Exclude::Target.of_row(&batch, 0, &Bits::new(10)), Some(2));
        assert_eq!(Exclude::None.of_row(&batch, 0, &Bits::new(10)), None);
    }
}
