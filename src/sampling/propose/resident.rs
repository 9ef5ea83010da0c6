//! The propose stage where the model is: what `ops/propose.rs` has to know of a batch to draw the ids `draw.rs` would.
//!
//! Stays on the host: laws that walk or look something up (`Propose::twin` is absent), and batches in which a user may have
//! nothing left to be given, which the host can say more about than an empty slot.

use super::draw::Rules;
use super::{Frequencies, Propose};
use crate::data::batch::Batch;
use crate::data::column::Column;
use crate::device::{Device, Numbers};
use crate::error::Result;
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::propose::{self, Laws, Mixed, Request};
use crate::rng::{Draws, Stream};
use crate::sampling::Scope;

/// The column, or nothing.
fn when(wanted: bool, column: &Column<u32>) -> Numbers<'_> {
    if wanted { Numbers::Column(column) } else { Numbers::List(&[]) }
}

/// Draws `n` items for every group of the batch in the memory of `laws`; none where the host has to.
pub fn propose_there(
    device: &Device,
    laws: &Laws,
    law: &dyn Propose,
    mixed: Option<Mixed>,
    rules: &Rules,
    batch: &Batch,
) -> Result<Option<Negatives>> {
    let most_excluded = match rules.exclude {
        Exclude::None => 0,
        Exclude::Target => 1,
        Exclude::History => 1 + batch.seen_extents.iter().map(|[from, to]| to - from).max().unwrap_or(0) as usize,
    };
    let dries = !law.may_run_dry() && most_excluded >= rules.catalogue.len();
    let clusters_fit = law.clusters() == 0 || batch.target_clusters.len() == batch.rows();
    if dries || !clusters_fit {
        return Ok(None);
    }
    let by_row = rules.scope == Scope::Position;
    let (excludes, history) = (rules.exclude != Exclude::None, rules.exclude == Exclude::History);
    let empty = || Numbers::List(&[]);
    let of_groups: Vec<u64> = match rules.scope {
        Scope::Position => Vec::new(),
        Scope::Sequence => batch.users.iter().map(|&user| u64::from(user)).collect(),
        Scope::Batch => vec![rules.batch_index],
    };
    let extents = match rules.scope {
        Scope::Position => when(history, batch.extents_of_rows()),
        Scope::Sequence => when(history, batch.extents()),
        Scope::Batch => empty(),
    };
    let sharers = (!by_row && excludes)
        .then(|| propose::Sharers { targets: (&batch.targets).into(), extents: when(history, batch.extents_of_rows()) });
    let frequencies = law.needs_batch().then(|| Frequencies::new(&batch.targets));
    let (targets, items, counts) = frequencies.as_ref().map_or((&[][..], &[][..], &[][..]), Frequencies::lists);
    let request = Request {
        n: rules.n,
        group_offsets: rules.group_offsets(batch),
        distinct: rules.distinct,
        mixed,
        words: law.words(),
        draws: Draws::new(rules.seed, Stream::Propose, 0, rules.epoch_index),
        keys: if by_row { (&batch.row_keys).into() } else { (&of_groups).into() },
        clusters: when(by_row, &batch.target_clusters),
        extents,
        seen: when(history, &batch.seen),
        barred: when(by_row && excludes, &batch.targets),
        targets: if targets.is_empty() { empty() } else { (&batch.targets).into() },
        items,
        counts,
        log_q: rules.log_q,
        reported: law.reported().is_some(),
        sharers,
    };
    propose::draw(device, laws, request).map(Some)
}
