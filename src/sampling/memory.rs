//! What a sampler takes, from its stages and the sizes of the log: so that a plan can ask before a table is built.
//!
//! Counted are the draws and the tables of every sampler, those that grow with training at their full size. What tables hold that are
//! made of attributes, of a knowledge graph, of what the log says about dislikes or of what stands beside what in it, only reading it
//! says: [`Known`] does, for the kinds in use. Without a log such a kind is handed back by name, so that nobody takes its tables for
//! nothing.

use crate::config;
use crate::error::Result;
use crate::ops::cost::distinct;
use crate::ops::exclusion::Exclude;
use crate::ops::matmul::reduced;
use crate::ops::{score_topk, softmax_draw};
use crate::sampling::knowledge::{Catalogue, Codes, Groups};
use crate::sampling::propose::{attribute_neighbours, explicit, one_of_group::OneOfGroup, transition_neighbours, user_walk};
use crate::sampling::registry::Params;
use crate::sampling::{Knowledge, Need, Plan, Scope, mix, select};

/// What the tables and draws of a sampler depend on besides its settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent<'a> {
    /// V, and those with a training event.
    pub items: usize,
    /// Items with a training event.
    pub trained: usize,
    /// Events that train.
    pub training_events: usize,
    /// (cluster, item) pairs with a training event, and clusters.
    pub cluster_pairs: usize,
    /// Time clusters.
    pub clusters: usize,
    /// U, those with a training event.
    pub users: usize,
    /// All users and events of the log.
    pub all_users: usize,
    pub events: usize,
    /// What reading the log says; none without one.
    pub known: Option<&'a Known>,
    /// Of the batch.
    pub rows: usize,
    /// Of the batch.
    pub sequences: usize,
    /// D
    pub dim: usize,
    /// Threads that draw at once.
    pub threads: usize,
}

/// What only reading the log says of a sampler's tables; nothing of what its kinds do not ask for.
#[derive(Clone, Debug, Default)]
pub struct Known {
    attributes: Option<Codes>,
    graph: Option<Codes>,
    /// Explicit negatives.
    explicit: Option<usize>,
    /// Of each proposal, in their order, the neighbours of all items together.
    neighbours: Vec<Option<usize>>,
}

impl Known {
    /// For the sampler of `config`; errors as those of [`Plan::new`].
    pub fn of(config: &config::Sampler, knowledge: &Knowledge) -> Result<Known> {
        let plan = Plan::new(config)?;
        let needs = |need: Need| plan.declared().iter().any(|kind| kind.needs.contains(&need));
        let codes = |need, given| if needs(need) { Codes::count(given, knowledge.train_counts) } else { None };
        let neighbours = |name: &str, params: &Params| match name {
            "transition_neighbours" => Ok(Some(transition_neighbours::count(params, knowledge))),
            "attribute_neighbours" if knowledge.attributes.is_some_and(|given| !given.codes.is_empty()) => {
                attribute_neighbours::count(params, knowledge, &Catalogue::new(knowledge.train_counts)).map(Some)
            }
            _ => Ok(None),
        };
        Ok(Known {
            attributes: codes(Need::Attributes, knowledge.attributes),
            graph: codes(Need::Graph, knowledge.graph),
            explicit: knowledge.explicit.filter(|_| needs(Need::Explicit)).map(|explicit| explicit.items.len()),
            neighbours: plan
                .propose
                .iter()
                .map(|(entry, params)| neighbours(entry.declared.name, params))
                .collect::<Result<_>>()?,
        })
    }
}

/// A choice from the whole catalogue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scan {
    Best,
    Draw { replace: bool },
}

/// Bytes of a sampler, and what the loss will see of it.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Tables, as long as the sampler lives.
    pub tables: u64,
    /// While it draws, the result included.
    pub drawing: u64,
    /// Its laws in a machine's memory, where it draws from them.
    pub laws_there: u64,
    /// What is chosen from the whole catalogue, which is counted by who knows the scores.
    pub scan: Option<Scan>,
    /// Whether the seen items of all users are needed where negatives are drawn.
    pub excludes_history: bool,
    /// The same in a machine's memory: what is drawn there, and what is chosen from there.
    pub drawing_there: u64,
    /// What it hands to the loss.
    pub negatives: u64,
    /// The same in a machine's memory.
    pub negatives_there: u64,
    /// Negatives per row, N, and wrong contexts, W.
    pub per_row: usize,
    /// W
    pub wrong: usize,
    /// Whether rows share their negatives, and the groups of rows that do.
    pub shared: bool,
    pub groups: usize,
    /// Whether every item is as likely a negative as any other.
    pub even: bool,
    /// Kinds that only a log says the size of, where there is none.
    pub uncounted: Vec<&'static str>,
}

/// Bytes of an alias table of `n` items: masses, and columns of a power of two.
fn alias(n: usize) -> usize {
    8 * n + 8 * n.next_power_of_two().max(2)
}

/// Bytes of a law in a machine's memory; none if it is drawn from on the host alone. Three words come before an alias table.
/// In a mixture the batch reports what it is, and its table stays on the host.
fn law_there(name: &str, of: &Extent, alone: bool) -> Option<usize> {
    match name {
        "uniform" => Some(0),
        "in_batch" if !alone => Some(0),
        "popularity" | "in_batch" => Some(24 + alias(of.items)),
        // Per cluster where its table begins, the table, and its items as words.
        "cluster" => {
            let per = of.cluster_pairs.div_ceil(of.clusters.max(1));
            Some(of.clusters * (8 + 24 + alias(per + 1) + 8 * per))
        }
        _ => None,
    }
}

/// Bytes of the tables of a kind and its parameters, of a proposal with so many `neighbours`; none where only a log would say.
fn tables(name: &str, params: &Params, of: &Extent, neighbours: Option<usize>) -> Option<usize> {
    let [attributes, graph] = [of.known.and_then(|known| known.attributes), of.known.and_then(|known| known.graph)];
    // While a table that follows a curve is built, the one before it is still there, and the counts it is built from.
    let moves = |names: &[&str]| names.iter().any(|name| params.follows(name));
    Some(match name {
        "uniform" | "catalogue" => 0,
        "all" | "top_k" | "softmax_draw" | "rank_band" | "adaptive" | "posterior" | "metropolis" | "buckets" => 0,
        "item" | "interpolate" | "one" | "log_q" | "attention" | "divergence" => 0,
        // A weight of every item.
        "propensity" => 4 * of.items * if moves(&["eta", "most"]) { 3 } else { 1 },
        "category_balance" if moves(&["b"]) => 12 * of.items + Groups::bytes(of.items, &attributes?),
        "category_balance" => 4 * of.items,
        "same_attribute" => OneOfGroup::bytes(of.items, &attributes?),
        "graph_walk" => OneOfGroup::bytes(of.items, &graph?),
        "attribute_neighbours" => attribute_neighbours::bytes(params, of.items, neighbours?),
        "transition_neighbours" => transition_neighbours::bytes(params, of.items, neighbours?),
        "user_walk" => user_walk::bytes(of.all_users, of.items, of.training_events),
        "explicit" => explicit::bytes(of.all_users, of.events, of.known.and_then(|known| known.explicit)?),
        "fair" => select::fair::bytes(of.items, of.trained, attributes?.codes),
        "policy" => Groups::bytes(of.items, &graph?) + select::learned::bytes(graph?.codes, of.dim),
        "memory" => select::memory::bytes(params, of.users),
        "pool" => select::pool::bytes(params, of.users),
        "gates" => select::gates::bytes(of.dim),
        "generator" => select::learned::bytes(of.items, of.dim),
        "generated" => mix::generated::bytes(params, of.dim),
        "popularity" if moves(&["alpha"]) => 4 * of.items + 2 * alias(of.items),
        "popularity" | "in_batch" => alias(of.items),
        // Per cluster its items and an alias table of them; the pairs are spread evenly.
        "cluster" => {
            let per = of.cluster_pairs.div_ceil(of.clusters.max(1));
            of.clusters * (4 * per + alias(per + 1))
        }
        // The counts and the events of every cluster, copied.
        "wrong_context" => 8 * of.cluster_pairs + 4 * of.training_events,
        _ => return None,
    })
}

/// Groups of rows of a batch that share a proposal.
pub(super) fn groups(scope: Scope, of: &Extent) -> usize {
    match scope {
        Scope::Position => of.rows,
        Scope::Sequence => of.sequences,
        Scope::Batch => 1,
    }
}

/// A choice from lists of `m` items, or from the catalogue, of which every row keeps `n`.
struct Chosen<'a> {
    of: &'a Extent<'a>,
    /// The share of the lists that a walk over the graph proposed, and whether draws come with their probability.
    walked: f64,
    log_q: bool,
    groups: usize,
    m: usize,
    n: usize,
    catalogue: bool,
}

impl Chosen<'_> {
    /// Bytes that a selection which learns or ranks with vectors of its own holds at its largest beside the lists, its result
    /// included; 0 for the others. The sums follow the functions `select` of the kinds, array by array.
    fn learning(&self, name: &str, params: &Params) -> usize {
        let Chosen { of, m, n, .. } = *self;
        let (r, d, given, beside) = (of.rows, of.dim, of.rows * n, of.rows * (m + 1));
        // Different items among targets and candidates: targets prefer some, so no more than these.
        let k = distinct(r + self.groups * m, of.items);
        match (name, of.known) {
            ("fair", Some(Known { attributes: Some(attributes), .. })) => {
                select::fair::drawing(r, n, m, attributes.codes, of.threads)
            }
            ("policy", Some(Known { graph: Some(graph), .. })) => {
                let entities = graph.of_events as f64 / of.training_events.max(1) as f64;
                let (walked, log_q) = (self.walked, self.log_q);
                let drawing = select::policy::Drawing { rows: r, n, m, walked, different: k, dim: d, entities, log_q };
                drawing.bytes(params, graph)
            }
            // What each user may be renewed by, and the scores of all rows' candidates.
            ("pool", _) => (of.sequences * 16 * m.next_power_of_two() + 16 * r * m).max(9 * given),
            ("gates", _) => {
                let (wide, gates) = (2 * d + 1, 2 * d * (2 * d + 1));
                let seen = 8 * beside + 8 * k * d + 8 * r * d + 8 * r;
                let view = 8 * (r * (wide + 2 * d + d + 1) + k * d + gates);
                let gradient = given * (8 * d + 8 + 8 * wide) + 8 * (2 * r * d + r + gates + reduced(d, wide, given));
                (8 * beside + 12 * k * d).max(seen + view + 20 * given + gradient)
            }
            ("generator", _) => {
                let rewards = 4 * r * (2 + d) + 4 * beside * usize::from(!self.catalogue) + 24 * given + 16 * (given + r);
                // Laws and slopes of a block of rows; then its candidates by item.
                let block = match self.catalogue {
                    true => 20 * of.items * r.min((select::generator::BLOCK / of.items.max(1)).max(1)),
                    false => {
                        let rows = r.min((select::generator::BLOCK / m.max(1)).max(1));
                        let c = rows * m;
                        (72 * rows + 24 * c).max(20 * c + 8 * c.next_power_of_two())
                    }
                };
                let met = if self.catalogue { of.items } else { k };
                rewards + block + 4 * met * d + 4 * if self.catalogue { of.items } else { beside }
            }
            ("buckets", _) => {
                let of_rows = |name: &str| (params.most(name) * (r as f64).sqrt()).ceil().max(1.0) as usize;
                let (count, width) = (of_rows("buckets"), of_rows("rows").min(r));
                let visits = count * width;
                let block = visits.min((select::buckets::BLOCK / n.max(1)).max(1));
                let scored = block * (4 * d + 12) + 4 * (block * n).next_power_of_two() + 12 * block * n;
                8 * r * d + 28 * r + 4 * (visits + count * n) + 16 * visits.next_power_of_two() + scored.max(4 * given)
            }
            _ => 0,
        }
    }
    /// The same of vectors that are no items, `count` for each row, beside the negatives.
    fn generating(&self, params: &Params) -> usize {
        let Chosen { of, .. } = *self;
        let (r, d) = (of.rows, of.dim);
        let vectors = r * params.most("count").round() as usize;
        let noise = params.count("noise", 0.0);
        let pass = vectors * (2 + d + noise + 2 * d + d + d);
        let gradient = vectors * (d + 2 * d) + reduced(d + noise, 2 * d, vectors).max(reduced(2 * d, d, vectors));
        4 * (3 * r * d + pass + gradient) + mix::generated::bytes(params, d) / 3
    }
}

/// What the sampler of `config` needs; errors as those of [`Plan::new`].
pub fn needs(config: &config::Sampler, of: &Extent) -> Result<Needs> {
    let plan = Plan::new(config)?;
    let choose = (plan.select.0.build)(&plan.select.1);
    let (rows, negatives) = (of.rows, plan.negatives.most());
    let groups = groups(plan.scope, of);
    // Who may not have what they know has popular items less often.
    let uniform = plan.propose.iter().all(|(entry, _)| entry.declared.name == "uniform");
    let even = uniform && plan.select.0.declared.name == "all" && plan.exclude != Exclude::History;
    let excludes_history = plan.exclude == Exclude::History;
    let mut needs = Needs { per_row: negatives, groups, even, excludes_history, ..Needs::default() };
    let stages =
        [(plan.select.0.declared, &plan.select.1), (plan.mix.0.declared, &plan.mix.1), (plan.weight.0.declared, &plan.weight.1)];
    let proposals = plan.propose.iter().map(|(entry, params)| (entry.declared, params));
    for (i, (declared, params)) in proposals.chain(stages).enumerate() {
        let neighbours = of.known.and_then(|known| known.neighbours.get(i).copied().flatten());
        match tables(declared.name, params, of, neighbours) {
            Some(bytes) => needs.tables += bytes as u64,
            None => needs.uncounted.push(declared.name),
        }
    }
    if of.trained < of.items {
        needs.tables += (4 * of.trained + of.items / 8) as u64;
    }
    if choose.takes_resident() {
        let alone = plan.propose.len() == 1;
        let laws: Option<usize> = plan.propose.iter().map(|(entry, _)| law_there(entry.declared.name, of, alone)).sum();
        let catalogue = if of.trained < of.items { 4 * of.trained } else { 0 };
        needs.laws_there = laws.map_or(0, |laws| (laws + catalogue) as u64);
    }
    if choose.needs_priors() {
        needs.tables += 4 * of.items as u64;
    }
    if plan.mix.0.declared.name == "wrong_context" {
        needs.wrong = plan.mix.1.most("count").round() as usize;
    }
    let catalogue = plan.propose.first().is_none_or(|(entry, _)| entry.build.is_none());
    let m = choose.most_candidates(negatives);
    let chooses = plan.select.0.declared.name != "all";
    // Lists: ids, their log-probabilities, where a row shares them what it drops, and the first row of each group.
    let proposed_q = plan.wants_log_q() || choose.needs_proposal_log_q();
    let drops = plan.scope != Scope::Position && plan.exclude != Exclude::None;
    let lists = match catalogue {
        true => 0,
        false => groups * m * if proposed_q { 8 } else { 4 } + 4 * (groups + 1),
    };
    // Training targets are part of a history, so a sequence that excludes it has nothing to drop: the host lets go of its marks.
    let marks = if drops && !catalogue { rows * m } else { 0 };
    let made = lists + marks;
    let kept = if plan.scope == Scope::Sequence && plan.exclude == Exclude::History { lists } else { made };
    let bits = of.items.div_ceil(64) * 8 * of.threads;
    let given = rows * negatives;
    // Beside the ids: shares of the way to the target, vectors that are no items, a weight of each negative.
    let mixed = match plan.mix.0.declared.name {
        "interpolate" => 4 * rows,
        "generated" => 4 * rows * plan.mix.1.most("count").round() as usize * of.dim,
        _ => 0,
    };
    let weighed = if matches!(plan.weight.0.declared.name, "one" | "log_q") { 0 } else { 4 * given };
    let of_rows = mixed + weighed;
    let share = |params: &Params| if plan.propose.len() == 1 { 1.0 } else { params.most("share") };
    let by_graph = |name: &str| name == "graph_walk";
    let shares = plan.propose.iter().map(|(entry, params)| (by_graph(entry.declared.name), share(params)));
    let walked = shares.clone().filter(|(walks, _)| *walks).map(|(_, share)| share).sum::<f64>()
        / shares.map(|(_, share)| share).sum::<f64>().max(f64::MIN_POSITIVE);
    let chosen = Chosen { of, walked, log_q: plan.wants_log_q(), groups, m, n: negatives, catalogue };
    let generating = if plan.mix.0.declared.name == "generated" { chosen.generating(&plan.mix.1) } else { 0 };
    if !chooses {
        needs.shared = plan.scope != Scope::Position;
        let beside = of_rows + 8 * rows * needs.wrong;
        needs.negatives = (kept + beside) as u64;
        needs.negatives_there = (made + beside) as u64;
        needs.drawing = (made + beside + bits).max(kept + beside - of_rows + generating) as u64;
        needs.drawing_there = needs.negatives_there;
        return Ok(needs);
    }
    needs.scan = match plan.select.0.declared.name {
        "top_k" if catalogue => Some(Scan::Best),
        "softmax_draw" if catalogue => Some(Scan::Draw { replace: plan.select.1.flag("replace") }),
        _ => None,
    };
    let q = if plan.log_q() { 4 } else { 0 };
    needs.negatives = (given * (4 + q) + 4 * (rows + 1) + of_rows + 8 * rows * needs.wrong) as u64;
    // A block of rows scored against a list or a tile of the catalogue, by each thread, and a slice of the result per row.
    let listed = m.max(1);
    let block = if catalogue { 64 * 2048 } else { ((1 << 18) / listed).clamp(1, 64) * listed };
    let gathered = if catalogue { 0 } else { (listed * of.dim).next_power_of_two() };
    let weights = if plan.select.0.declared.name == "softmax_draw" { 16 * if catalogue { 2048 } else { listed } } else { 0 };
    // Decided on the host: the target and the candidates of every row, with their scores in f32 and in f64.
    let beside = !matches!(plan.select.0.declared.name, "top_k" | "softmax_draw" | "generator" | "buckets" | "pool");
    let listed_on_host = if beside && !catalogue { 16 * rows * (m + 1) } else { 0 };
    let scratch = of.threads * (4 * (block + gathered) + weights) + listed_on_host;
    // Which of its list a row takes, and unless that has no probability how likely.
    let taken = given * if plan.select.0.declared.name == "top_k" { 4 } else { 8 };
    let ends = taken + 4 * (rows + 1) + 32 * rows + scratch + of_rows + 8 * rows * needs.wrong;
    needs.negatives_there = needs.negatives;
    let choosing = kept + ends.max(chosen.learning(plan.select.0.declared.name, &plan.select.1));
    needs.drawing = (made.max(choosing) as u64).max(needs.negatives + generating as u64);
    let choosing = match plan.select.0.declared.name {
        _ if catalogue => 0,
        "top_k" => score_topk::bytes_there(rows, m, plan.scope != Scope::Position),
        "softmax_draw" => softmax_draw::bytes_there(rows, m, plan.scope != Scope::Position),
        // Decided on the host by scores made there.
        _ => 8 * (rows * (m + 1)) as u64,
    };
    needs.drawing_there = needs.negatives + made as u64 + choosing;
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::alias::Alias;

    #[test]
    fn an_alias_table_is_as_large_as_planned() {
        for n in [1, 2, 3, 64, 65, 1000] {
            assert_eq!(Alias::new(vec![1.0; n]).unwrap().bytes(), alias(n), "{n}");
        }
    }

    #[test]
    fn kinds_that_only_a_log_says_the_size_of_are_named() {
        let of = Extent { items: 100, trained: 100, rows: 10, sequences: 2, dim: 8, threads: 1, ..Extent::default() };
        let preset = |name: &str| needs(&config::Sampler { preset: name.into(), ..config::Sampler::default() }, &of).unwrap();
        let counted =
            ["uniform", "genni", "cans", "popularity", "dns", "in-batch", "srns", "adasir", "dens", "irgan", "bns", "mcns"];
        for name in counted.into_iter().chain(["mixgcf", "hcl", "ahns", "softmax-rho", "dns-mn", "sce", "ubpr"]) {
            assert!(preset(name).uncounted.is_empty(), "{name}: {:?}", preset(name).uncounted);
        }
        assert_eq!(preset("fairneg").uncounted, ["fair"]);
        assert_eq!(preset("kgpolicy").uncounted, ["graph_walk", "policy"]);
        assert_eq!(preset("predefined").uncounted, ["explicit"]);
        assert_eq!(preset("gnno").uncounted, ["transition_neighbours"]);
        assert!(preset("user-walk").uncounted.is_empty(), "training events are known without a log");
        assert_eq!((preset("cans").per_row, preset("cans").wrong, preset("cans").shared), (98, 1, false));
    }
}
