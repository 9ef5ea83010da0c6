//! Recommendation lists: the best k items of every request, by score and then by item index.

use crate::data::batch::Batch;
use crate::error::{Code, Error, Result};
use crate::eval::lists::ListWriter;
use crate::eval::{Ranked, Ranker};
use crate::ids::NONE;
use crate::ops::rank::{Excluded, Mask};

/// What may be in a list.
pub struct Limits {
    /// Entries per list.
    pub k: usize,
    /// Leave out the visible history of each request.
    pub exclude_seen: bool,
    excluded: Excluded,
}

impl Limits {
    /// Lists of `k` out of `items` items: only those of `allow` where it is given, none of `deny`.
    ///
    /// # Errors
    /// C0202 for k = 0 or an item outside the catalogue; C0205 if nothing is left.
    pub fn new(items: usize, k: usize, exclude_seen: bool, allow: Option<&[u32]>, deny: &[u32]) -> Result<Limits> {
        if k == 0 {
            return Err(Error::new(Code::C0202, "a list of 0 items was asked for").help("use `-k 10`, for example"));
        }
        if let Some(&i) = allow.unwrap_or(&[]).iter().chain(deny).find(|&&i| i as usize >= items) {
            return Err(Error::internal(format!("item {i} of an allow or deny list is outside the catalogue of {items}")));
        }
        let mut out = vec![allow.is_some(); items];
        allow.unwrap_or(&[]).iter().for_each(|&i| out[i as usize] = false);
        deny.iter().for_each(|&i| out[i as usize] = true);
        let excluded = Excluded::new(items, |i| out[i as usize]);
        if excluded.remaining() == 0 {
            return Err(Error::new(Code::C0205, "the allow and deny lists leave no item to recommend"));
        }
        Ok(Limits { k: k.min(excluded.remaining()), exclude_seen, excluded })
    }
}

/// Writes the list of every request of `batches` and returns how many lists there were. `user_id` (from the
/// number of the list and the user's code) and `item_id` give the names to write; a list is shorter than k where the request has seen all but fewer items.
///
/// # Errors
/// T0702 on a NaN score; whatever `batches` and `writer` meet.
pub fn recommend<'n>(
    ranker: &mut dyn Ranker,
    batches: &mut dyn Iterator<Item = Result<Batch>>,
    limits: &Limits,
    user_id: &dyn Fn(u64, u32) -> &'n [u8],
    item_id: &dyn Fn(u32) -> &'n [u8],
    writer: &mut dyn ListWriter,
) -> Result<u64> {
    let (mut ranked, mut written) = (Ranked::default(), 0u64);
    for batch in batches {
        let batch = batch?;
        let seen = limits.exclude_seen.then_some((&batch.seen_extents[..], &batch.seen[..]));
        let mask = Mask { excluded: &limits.excluded, seen };
        ranker.rank(&batch, &mask, None, limits.k, &mut ranked)?;
        for (&user, list) in batch.users.iter().zip(ranked.lists.chunks_exact(limits.k)) {
            let listed = list.iter().take_while(|e| e.item != NONE);
            for (place, entry) in (1..).zip(listed) {
                writer.entry(user_id(written, user), item_id(entry.item), entry.score, place)?;
            }
            written += 1;
        }
    }
    Ok(written)
}
