//! The propose stage where the model is: what `ops/propose.rs` has to know of a batch to draw the ids `draw.rs` would.
//!
//! Stays on the host: laws that walk or look something up (`Propose::twin` is absent), and batches in which a user may have
//! nothing left to be given, which the host can say more about than an empty slot.

use super::draw::{Rules, lefts};
use super::{Frequencies, Propose};
use crate::data::batch::Batch;
use crate::device::Device;
use crate::error::Result;
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::propose::{self, Laws, Mixed, Request};
use crate::rng::{Draws, Stream};
use crate::sampling::Scope;

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
        Exclude::History => 1 + batch.seen_offsets.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0) as usize,
    };
    let dries = !law.may_run_dry() && most_excluded >= rules.catalogue.len();
    let clusters_fit = law.clusters() == 0 || batch.target_clusters.len() == batch.rows();
    if dries || !clusters_fit {
        return Ok(None);
    }
    let by_row = rules.scope == Scope::Position;
    let history = rules.exclude == Exclude::History;
    let extent = |b: usize| [batch.seen_offsets[b], batch.seen_offsets[b + 1]];
    let of_rows = || batch.sequence_of_rows().into_iter().flat_map(|b| extent(b as usize)).collect::<Vec<u32>>();
    let keys: Vec<u64> = match rules.scope {
        Scope::Position => batch.row_keys.clone(),
        Scope::Sequence => batch.users.iter().map(|&user| u64::from(user)).collect(),
        Scope::Batch => vec![rules.batch_index],
    };
    let extents = match rules.scope {
        Scope::Position if history => of_rows(),
        Scope::Sequence if history => (0..batch.sequences()).flat_map(extent).collect(),
        _ => Vec::new(),
    };
    let extents_of_rows = if !by_row && history { of_rows() } else { Vec::new() };
    let excludes = rules.exclude != Exclude::None;
    let sharers = (!by_row && excludes).then(|| propose::Sharers { targets: &batch.targets, extents: &extents_of_rows });
    let frequencies = law.needs_batch().then(|| Frequencies::new(&batch.targets));
    let (targets, items, counts) = frequencies.as_ref().map_or((&[][..], &[][..], &[][..]), Frequencies::lists);
    let log_left: Vec<f64> = match rules.log_q {
        true => lefts(law, rules, batch, frequencies.as_ref())?.iter().map(|left| left.ln()).collect(),
        false => Vec::new(),
    };
    let request = Request {
        n: rules.n,
        group_offsets: rules.group_offsets(batch),
        distinct: rules.distinct,
        mixed,
        words: law.words(),
        draws: Draws::new(rules.seed, Stream::Propose, 0, rules.epoch_index),
        keys: &keys,
        clusters: if by_row { &batch.target_clusters } else { &[] },
        extents: &extents,
        seen: if history { &batch.seen } else { &[] },
        barred: if by_row && excludes { &batch.targets } else { &[] },
        targets,
        items,
        counts,
        log_left: &log_left,
        sharers,
    };
    propose::draw(device, laws, request).map(Some)
}
