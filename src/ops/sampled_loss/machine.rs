//! A sampled loss on a machine: one pass over the rows, then the table gradient from their records.

use super::{Correction, Gradients, Twin};
use std::sync::Arc;

use crate::device::places::Rounding;
use crate::device::{Arg, Buffer, Device, Grid, Kernel, Numbers, Runtime, Scalar, upload};
use crate::error::Result;
use crate::ops::group::{self, Slots};
use crate::ops::loss_total;
use crate::ops::negatives::Negatives;
use crate::ops::rows::rounded as in_bf16;
use crate::ops::scan;
use crate::ops::score::{ScoreKind, Scoring};
use crate::ops::table_gradient::{self, Records};

pub struct Job<'a> {
    pub scoring: &'a Scoring<'a>,
    pub targets: Numbers<'a>,
    pub negatives: &'a Negatives,
    /// g~ (R,W,D)
    pub wrong: Option<&'a Buffer>,
    pub w: usize,
    pub twin: Twin,
    pub scale: f32,
}

impl Twin {
    /// LOSS, CORRECTION, and the numbers of the kernel: 1 / temperature, then c0, c1, c2.
    fn define(self) -> (i64, i64, [f64; 4]) {
        match self {
            Twin::Bce => (0, 0, [1.0, 1.0, 0.0, 0.0]),
            Twin::Gbce { beta } => (1, 0, [1.0, beta, 0.0, 0.0]),
            Twin::Bpr => (2, 0, [1.0, 0.0, 0.0, 0.0]),
            Twin::SampledSoftmax { temperature, correction } => {
                let correction = match correction {
                    Correction::None => 0,
                    Correction::Classic => 1,
                    Correction::Revised => 2,
                };
                (3, correction, [1.0 / temperature, 0.0, 0.0, 0.0])
            }
            Twin::Contrastive { temperature, tau_plus, beta, floor } => (4, 0, [1.0 / temperature, tau_plus, beta, floor]),
            Twin::BprMax { lambda } => (5, 0, [1.0, lambda, 0.0, 0.0]),
            Twin::Hinge { margin } => (6, 0, [1.0, margin, 0.0, 0.0]),
            Twin::HardBpr { k, b, c } => (7, 0, [1.0, k, b, c]),
            Twin::Pu { prior } => (8, 0, [1.0, prior, 0.0, 0.0]),
        }
    }
}

/// Whether items and queries are gathered as bf16: a machine may round operands, and so many records gain more by it than rounding every
/// vector once costs (2 D bytes less a record on either side, 6 D to round one).
fn halves(rounding: Rounding, items: usize, dim: usize, rows: usize, slots: usize) -> bool {
    rounding == Rounding::Bf16 && dim.is_multiple_of(4) && rows * slots >= 3 * (items + rows)
}

/// Bytes of a machine's memory that R `rows` of N negatives of V `items` and W wrong contexts take for a moment: a record of every
/// score, sorted by item. The lists themselves and what weighs them are not among them.
pub fn bytes(items: usize, dim: usize, rows: usize, n: usize, w: usize, cosine: bool, rounding: Rounding) -> u64 {
    let records = rows * (1 + n + w);
    let [grouping, grouped] = group::numbers(records, items);
    let own = 3 * rows + records * (1 + usize::from(cosine));
    let [table, queries] =
        if halves(rounding, items, dim, rows, 1 + n + w) { [items, rows].map(|x| x * dim / 2) } else { [0, 0] };
    4 * (own + table.max(grouping).max(grouped + queries + table_gradient::parts(records, dim))) as u64
}

impl Job<'_> {
    /// Sum of the row losses times `factor`, and the gradients.
    pub fn run(&self, device: &Device, runtime: &dyn Runtime, mut grads: Gradients, factor: f64) -> Result<Scalar> {
        let (scoring, n) = (self.scoring, self.negatives);
        scoring.check()?;
        let (rows, per_row) = (self.targets.len(), 1 + n.n + self.w);
        let cosine = scoring.kind != ScoreKind::Dot;
        let (mut losses, mut alpha) = (Buffer::sized(device, rows)?, Buffer::sized(device, rows * per_row)?);
        let mut beta = if cosine { Some(Buffer::sized(device, rows * per_row)?) } else { None };
        let optional = |values: &[f32]| (!values.is_empty()).then(|| upload(runtime, values)).transpose();
        let targets = self.targets.on(runtime)?;
        let groups = n.groups_on(runtime)?;
        let lists = n.on(runtime)?;
        let (weight, row_weight, toward) = (optional(&n.weight)?, optional(&n.row_weight)?, optional(&n.toward_positive)?);

        let (loss, correction, numbers) = self.twin.define();
        let half = halves(runtime.facts().rounding, scoring.items, scoring.dim, rows, per_row);
        let rounded = |x: &Buffer| half.then(|| in_bf16(device, runtime, x)).transpose();
        let table = rounded(scoring.table)?;
        let mut defines = scan::gathered(scoring, half)?;
        defines.extend([("LOSS", loss), ("CORRECTION", correction)]);
        let wrong = || self.wrong.filter(|_| self.w > 0).map_or(Arg::None, Arg::In);
        let mut args = vec![
            Arg::Out(&mut *grads.query),
            grads.context.as_deref_mut().map_or(Arg::None, Arg::Out),
            grads.wrong.as_deref_mut().filter(|_| self.w > 0).map_or(Arg::None, Arg::Out),
            Arg::Out(&mut losses),
            Arg::Out(&mut alpha),
            beta.as_mut().map_or(Arg::None, Arg::Out),
        ];
        args.extend([Arg::In(scoring.query), scan::context(scoring)]);
        args.extend([Arg::In(table.as_ref().unwrap_or(scoring.table)), wrong(), Arg::In(&targets)]);
        args.extend([scan::shared(&groups), Arg::In(&lists.ids), scan::maybe(&lists.log_q), scan::maybe(&lists.drop)]);
        args.extend([scan::maybe(&weight), scan::maybe(&row_weight), scan::maybe(&toward)]);
        args.extend([rows, n.n, self.w].map(|size| Arg::U32(size as u32)));
        args.extend([scan::heat(scoring), self.scale].map(Arg::F32));
        args.extend(numbers.map(|x| Arg::F32(x as f32)));
        let kernel = Kernel::new("sampled_loss", "sampled_loss", &defines);
        runtime.launch(&kernel, Grid::row(rows.div_ceil(4), 128), &mut args)?;
        drop(args);
        drop(table);

        let (ids, drop) = (&lists.ids, lists.drop.as_ref());
        let slots = Slots { targets: &targets, groups: groups.as_deref(), ids, drop, rows, n: n.n, w: self.w };
        let grouped =
            group::by_key(device, runtime, Arc::new(group::items(device, runtime, &slots, scoring.items)?), scoring.items)?;
        let (queries, wrong) = (rounded(scoring.query)?, self.wrong.filter(|_| self.w > 0));
        let records = Records { rounded: queries.as_ref(), alpha: &alpha, beta: beta.as_ref(), slots: per_row, wrong, w: self.w };
        table_gradient::of_records(device, runtime, grads.table, scoring, &records, &grouped)?;
        loss_total::of(device, runtime, &losses, rows, factor)
    }
}
