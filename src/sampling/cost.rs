//! What a draw of negatives does, from its stages and the sizes of the log (`ops/cost.rs` says what is counted).
//!
//! Counted are the ids and log-probabilities a proposal writes, not what it reads of its tables, and what the stages behind it score,
//! learn and remember. How far a policy's walks over a graph branch is nothing that settings and sizes say, so that stage is handed
//! back by name.

use crate::config;
use crate::error::Result;
use crate::ops::candidates::{self, Extent};
use crate::ops::cost::{Cost, Operation, distinct};
use crate::ops::exclusion::Exclude;
use crate::ops::{score_topk, softmax_draw};
use crate::sampling::memory::{self, groups};
use crate::sampling::{Plan, Scope, mix, select, weight};

/// The price of a draw, and what the loss will see of it.
#[derive(Clone, Debug, Default)]
pub struct Draw {
    pub propose: Cost,
    /// All stages behind the first.
    pub select: Cost,
    /// Groups of rows that share negatives, negatives of a group, N, and wrong contexts of a row, W.
    pub groups: usize,
    pub negatives: usize,
    pub wrong: usize,
    /// Vectors of a row that are no items.
    pub generated: usize,
    /// Whether rows share their negatives, and the items each row chooses from.
    pub shared: bool,
    pub candidates: usize,
    /// Stages that do more than is counted.
    pub uncounted: Vec<&'static str>,
}

/// A draw of the sampler of `config`, whose scores take so many [`products`](crate::ops::score::products); errors as those of
/// [`Plan::new`].
pub fn draw(config: &config::Sampler, of: &memory::Extent, products: u64) -> Result<Draw> {
    let plan = Plan::new(config)?;
    let chooses = (plan.select.0.build)(&plan.select.1);
    let (rows, n, m) = (of.rows, plan.negatives.at(0.0), chooses.candidates(plan.negatives.at(0.0), 0.0));
    let catalogue = plan.propose.iter().any(|(entry, _)| entry.build.is_none());
    let mut draw = Draw { groups: groups(plan.scope, of), negatives: n, ..Draw::default() };
    draw.candidates = if catalogue { of.items } else { m };
    if !catalogue {
        let log_q = plan.wants_log_q() || chooses.needs_proposal_log_q();
        let ids = draw.groups * m;
        // What a row may not have of a list it shares is marked for each.
        let marks = plan.scope != Scope::Position && plan.exclude != Exclude::None;
        let units = if marks { rows * m } else { ids };
        draw.propose = Cost::moved(ids * if log_q { 2 } else { 1 }).of(Operation::Propose, units as u64);
    }
    let extent = if catalogue { Extent::Catalogue } else { Extent::Listed { groups: draw.groups, m } };
    let scores = |extent| candidates::cost(rows, of.items, of.dim, extent, products);
    let (name, params) = (plan.select.0.declared.name, &plan.select.1);
    // Different items that a row has to choose from, and those of all rows with the targets.
    let own = if catalogue { of.items } else { distinct(m, of.items) };
    let met = if catalogue { of.items } else { distinct(draw.groups * m + rows, of.items) };
    draw.select = match name {
        "all" => Cost::default(),
        "top_k" => score_topk::cost(scores(extent), rows, n),
        "softmax_draw" => softmax_draw::cost(scores(extent), rows, n),
        "gates" => select::gates::cost(rows, own, n, met, of.dim),
        "generator" => select::generator::cost(rows, own, n, met, of.dim, products),
        "buckets" => select::buckets::cost(params, rows, n, of.items, of.dim, products),
        // Of a sequence, its last row.
        "pool" => {
            let scores = candidates::cost(of.sequences, of.items, of.dim, Extent::Listed { groups: of.sequences, m }, products);
            select::pool::cost(params, scores, rows, of.sequences, m, n)
        }
        "memory" => {
            let all = 1 + params.count("size", 0.0) + m;
            scores(Extent::Listed { groups: draw.groups, m: all })
                + Cost::moved(rows * (all + n))
                + select::memory::renewed(params, of.sequences)
        }
        // Ranked on the host: the scores are written, the target's among them.
        _ => scores(Extent::Listed { groups: draw.groups, m: m + 1 }) + Cost::moved(rows * (m + 1 + n)),
    };
    // A walk looks at how likely its candidates were proposed, a fair choice at the groups of targets, and says how likely it was.
    draw.select += match name {
        "metropolis" => Cost::moved(draw.groups * m),
        "fair" => Cost::moved(rows * (n + 1)),
        _ => Cost::default(),
    };
    draw.select += match plan.mix.0.declared.name {
        "interpolate" => Cost::moved(rows),
        "generated" => mix::generated::cost(&plan.mix.1, rows, of.dim),
        _ => Cost::default(),
    };
    draw.select += weight::cost(plan.weight.0.declared.name, &plan.weight.1, rows, n, of.dim, products);
    let behind = [name, plan.mix.0.declared.name, plan.weight.0.declared.name];
    if behind.iter().any(|stage| !["all", "item", "one", "log_q"].contains(stage)) {
        draw.select = draw.select.of(Operation::Select, (rows * draw.candidates) as u64);
    }
    if name != "all" {
        draw.groups = rows;
    }
    draw.shared = name == "all" && plan.scope != Scope::Position;
    draw.wrong = if plan.mix.0.declared.name == "wrong_context" { plan.mix.1.count("count", 0.0) } else { 0 };
    draw.generated = if plan.mix.0.declared.name == "generated" { plan.mix.1.count("count", 0.0) } else { 0 };
    draw.uncounted = [name].into_iter().filter(|name| *name == "policy").collect();
    Ok(draw)
}
