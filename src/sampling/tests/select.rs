//! Selections that score: laws, limits and the arg-max, against scores computed the slow way in f64.

use super::*;
use crate::config::{Curve, CurveShape};
use crate::device::Buffer;
use crate::ops::score::ScoreKind;
use crate::rng::{Draws, Stream, normal2};

const DIM: usize = 5;

/// Queries, contexts and a table of normal numbers; every row has the same query and context when `same`.
pub(super) struct Model {
    pub(super) kind: ScoreKind,
    pub(super) query: Vec<f64>,
    context: Option<Vec<f64>>,
    pub(super) table: Vec<f64>,
}

impl Model {
    pub(super) fn new(kind: ScoreKind, rows: usize, items: usize, context: bool, same: bool) -> Model {
        let noise = |lane: u8, n: usize, period: usize| -> Vec<f64> {
            let draws = Draws::new(17, Stream::Test, lane, 0);
            (0..n).map(|i| 0.7 * normal2(draws.words64((i % period) as u64))[0]).collect()
        };
        let period = if same { DIM } else { usize::MAX };
        Model {
            kind,
            query: noise(1, rows * DIM, period),
            context: context.then(|| noise(2, rows * DIM, period)),
            table: noise(3, items * DIM, usize::MAX),
        }
    }
    pub(super) fn score(&self, r: usize, i: usize) -> f64 {
        let p = &self.query[r * DIM..(r + 1) * DIM];
        let e: Vec<f64> =
            (0..DIM).map(|d| self.table[i * DIM + d] + self.context.as_ref().map_or(0.0, |g| g[r * DIM + d])).collect();
        let dot: f64 = p.iter().zip(&e).map(|(a, b)| a * b).sum();
        let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        match self.kind {
            ScoreKind::Dot => dot,
            ScoreKind::Cosine { temperature } => dot / norm(p) / norm(&e) / temperature,
        }
    }
    pub(super) fn draw(&self, device: &Device, sampler: &Sampler, batch: &Batch, moment: Moment) -> Negatives {
        self.try_draw(device, sampler, batch, moment).unwrap()
    }
    pub(super) fn try_draw(&self, device: &Device, sampler: &Sampler, batch: &Batch, moment: Moment) -> Result<Negatives> {
        let buffer = |x: &Vec<f64>| device.reals(x).unwrap();
        let (query, table) = (buffer(&self.query), buffer(&self.table));
        let context: Option<Buffer> = self.context.as_ref().map(buffer);
        let items = self.table.len() / DIM;
        let scoring = Scoring { kind: self.kind, dim: DIM, items, query: &query, context: context.as_ref(), table: &table };
        sampler.draw(device, batch, Some(&scoring), moment)
    }
}

pub(super) const KINDS: [ScoreKind; 2] = [ScoreKind::Dot, ScoreKind::Cosine { temperature: 0.5 }];
pub(super) const DEVICES: [Device; 2] = [Device::HOST, Device::ORACLE];

/// Draws at all `moments` but the last with one to three threads, restores what is then remembered into a second sampler, and
/// holds the last draw of both to the same bits. Returns what was remembered, the last draw, and that of one that remembers nothing.
pub(super) fn goes_on_after_a_checkpoint(
    model: &Model,
    device: &Device,
    batch: &Batch,
    make: &dyn Fn() -> Sampler,
    moments: &[Moment],
) -> (Vec<State>, Negatives, Negatives) {
    let with_threads = |n: usize, sampler: &Sampler, moment: Moment| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| model.draw(device, sampler, batch, moment))
    };
    let (whole, continued) = (make(), make());
    let (last, first) = moments.split_last().unwrap();
    for (step, &moment) in first.iter().enumerate() {
        with_threads(1 + step % 3, &whole, moment);
    }
    let state = whole.state();
    continued.restore(&|name| state.iter().find(|s| s.name == name).map(|s| &s.values[..])).unwrap();
    assert_eq!(continued.state(), state);
    let (a, b) = (with_threads(1, &whole, *last), with_threads(3, &continued, *last));
    assert!(a.ids == b.ids && a.log_q == b.log_q && a.generated == b.generated && whole.state() == continued.state());
    // Nothing of what came since is left where an earlier state is taken back.
    whole.restore(&|name| state.iter().find(|s| s.name == name).map(|s| &s.values[..])).unwrap();
    assert_eq!(whole.state(), state);
    (state, a, with_threads(2, &make(), *last))
}

/// A world of `items` in which every seventh item is untrained.
pub(super) fn gappy(items: usize) -> World {
    let history: Vec<u32> = (0..items as u32).filter(|i| i % 7 != 3).flat_map(|i| vec![i; 1 + i as usize % 4]).collect();
    World::new(items, &[history], 1, |_, _| 0)
}

fn choosing(scope: &str, n: u32, exclude: &str, propose: Kind, select: Kind, log_q: bool) -> config::Sampler {
    config::Sampler { select: Some(select), ..config(scope, n, exclude, vec![propose], log_q) }
}

/// exp(beta s) of a row over the training catalogue.
fn preference(model: &Model, world: &World, beta: f64) -> Vec<f64> {
    (0..world.counts.len()).map(|i| if world.counts[i] == 0 { 0.0 } else { (beta * model.score(0, i)).exp() }).collect()
}

#[test]
fn the_catalogue_is_drawn_from_exactly_in_two_steps() {
    // More than two tiles, the last one short.
    let world = gappy(4099);
    let seen: Vec<u32> = (100..3000).filter(|i| i % 7 != 3).collect();
    for (kind, context) in [(KINDS[0], false), (KINDS[0], true), (KINDS[1], true)] {
        for beta in [0.0, 1.5] {
            let model = Model::new(kind, 390, 4099, context, true);
            let select = super::kind("softmax_draw", &[("beta", number(beta))]);
            let sampler = Sampler::new(
                &choosing("position", 80, "history", super::kind("catalogue", &[]), select, true),
                &world.knowledge(),
                3,
            )
            .unwrap();
            let batch = batch(3, 130, 8, 0, &seen);
            let excluded: Vec<u32> = seen.iter().copied().chain([8]).collect();
            let expected = law(&preference(&model, &world, beta), &excluded);
            for device in &DEVICES[..if beta == 0.0 { 1 } else { 2 }] {
                let negatives = model.draw(device, &sampler, &batch, START);
                faults(&negatives, &expected).unwrap_or_else(|fault| panic!("{kind:?} beta {beta}: {fault}"));
            }
        }
    }
}

#[test]
fn a_list_is_drawn_from_exactly_and_stands_for_the_catalogue() {
    let world = gappy(40);
    for (kind, proposal) in
        [(KINDS[0], super::kind("uniform", &[])), (KINDS[1], super::kind("popularity", &[("alpha", number(1.0))]))]
    {
        let model = Model::new(kind, 2000, 40, true, true);
        let select = super::kind("softmax_draw", &[("beta", number(2.0)), ("candidates", number(23.0))]);
        let sampler =
            Sampler::new(&choosing("batch", 30, "history", proposal.clone(), select, true), &world.knowledge(), 3).unwrap();
        let batch = batch(2, 1000, 8, 0, &[1, 2, 30]);
        // The list itself, drawn by the same law with nothing chosen from it.
        let list = Sampler::new(&config("batch", 23, "history", vec![proposal], true), &world.knowledge(), 3).unwrap();
        let list = drawn(&list, &batch);
        let mut weights = vec![0.0; 40];
        for (&id, &log_q) in list.ids.iter().zip(&list.log_q) {
            weights[id as usize] += (2.0 * model.score(0, id as usize) - f64::from(log_q)).exp();
        }
        let negatives = model.draw(&Device::HOST, &sampler, &batch, START);
        faults(&negatives, &law(&weights, &[1, 2, 8, 30])).unwrap_or_else(|fault| panic!("{kind:?}: {fault}"));
    }
}

/// What a row reports comes from its own list: candidates drawn by popularity, each divided by its own probability.
#[test]
fn every_row_corrects_for_the_probabilities_of_its_own_list() {
    let world = gappy(40);
    let popular = || super::kind("popularity", &[("alpha", number(1.0))]);
    for scope in ["position", "sequence", "batch"] {
        let model = Model::new(KINDS[0], 60, 40, true, false);
        let select = super::kind("softmax_draw", &[("beta", number(2.0)), ("candidates", number(9.0))]);
        let chosen = choosing(scope, 5, "history", popular(), select, true);
        let [chosen, lists] = [chosen, config(scope, 9, "history", vec![popular()], true)]
            .map(|config| Sampler::new(&config, &world.knowledge(), 3).unwrap());
        let batch = batch(4, 15, 8, 0, &[1, 2, 30]);
        let (negatives, lists) = (model.draw(&Device::HOST, &chosen, &batch, START), drawn(&lists, &batch));
        for (r, g) in lists.groups_of_rows().into_iter().enumerate() {
            let g = g as usize;
            let mut weights = vec![0.0; 40];
            for (slot, (&id, &log_q)) in lists.ids_of(g).iter().zip(&lists.log_q[g * 9..]).enumerate() {
                if !lists.drop.get(r * 9 + slot).copied().unwrap_or(false) {
                    weights[id as usize] += (2.0 * model.score(r, id as usize) - f64::from(log_q)).exp();
                }
            }
            let law = law(&weights, &[]);
            for (&id, &log_q) in negatives.ids_of(r).iter().zip(&negatives.log_q[r * 5..]) {
                assert!((f64::from(log_q) - law[id as usize].ln()).abs() < 1e-4, "{scope}, row {r}, item {id}");
            }
        }
    }
}

#[test]
fn without_replacement_the_first_two_follow_successive_sampling() {
    let world = gappy(13);
    let model = Model::new(ScoreKind::Dot, 6000, 13, false, true);
    let weights: Vec<f64> = law(&preference(&model, &world, 1.0), &[8]);
    type Case = (String, Kind, Vec<(&'static str, Value)>);
    let scattered: Vec<Case> = vec![
        ("position".into(), super::kind("catalogue", &[]), vec![]),
        // All eleven trained items, each once: the list is the catalogue.
        ("batch".into(), super::kind("uniform", &[("distinct", Value::Flag(true))]), vec![("candidates", number(11.0))]),
    ];
    for (scope, proposal, mut params) in scattered {
        params.push(("replace", Value::Flag(false)));
        let config = choosing(&scope, 4, "target", proposal, super::kind("softmax_draw", &params), true);
        let sampler = Sampler::new(&config, &world.knowledge(), 3).unwrap();
        let negatives = model.draw(&Device::HOST, &sampler, &batch(2, 3000, 8, 0, &[]), START);
        let ordered = (0..6000).map(|r| negatives.ids_of(r)[0] * 13 + negatives.ids_of(r)[1]);
        assert_law(&scope, &count(169, ordered), &pairs(&weights));
        for r in 0..6000 {
            for slot in 0..4 {
                let id = negatives.ids_of(r)[slot];
                assert!(!negatives.ids_of(r)[..slot].contains(&id));
                assert!((f64::from(negatives.log_q[r * 4 + slot]) - weights[id as usize].ln()).abs() < 1e-4);
            }
        }
    }
}

/// Without replacement a drawn item's weight leaves its tile too, so the second draw comes from that tile as rarely as it should.
#[test]
fn a_tile_is_lighter_by_what_was_drawn_from_it() {
    let world = gappy(4099);
    let model = Model::new(ScoreKind::Dot, 3000, 4099, false, true);
    let select = super::kind("softmax_draw", &[("beta", number(4.0)), ("replace", Value::Flag(false))]);
    let config = choosing("position", 2, "target", super::kind("catalogue", &[]), select, false);
    let sampler = Sampler::new(&config, &world.knowledge(), 3).unwrap();
    let negatives = model.draw(&Device::HOST, &sampler, &batch(2, 1500, 8, 0, &[]), START);
    let weights = law(&preference(&model, &world, 4.0), &[8]);
    let tile = |item: usize| item / crate::ops::candidates::ITEMS;
    let mut of_tile = [0.0; 3];
    (0..4099).for_each(|i| of_tile[tile(i)] += weights[i]);
    // The tiles of the two draws, and what they would be if a tile kept its weight.
    let (mut expected, mut kept) = (vec![0.0; 9], vec![0.0; 9]);
    for (i, second) in (0..4099).flat_map(|i| (0..3).map(move |second| (i, second))) {
        let own = if tile(i) == second { weights[i] } else { 0.0 };
        expected[3 * tile(i) + second] += weights[i] * (of_tile[second] - own) / (1.0 - weights[i]);
        kept[3 * tile(i) + second] += weights[i] * of_tile[second];
    }
    let tiles = (0..3000).map(|r| negatives.ids_of(r).iter().fold(0, |pair, &i| 3 * pair + tile(i as usize) as u32));
    let met = count(9, tiles);
    assert_law("tiles", &met, &expected);
    assert!(verdict(&met, &kept).is_err(), "{met:?} against {expected:?} and {kept:?}");
}

#[test]
fn the_best_are_kept_and_a_cold_draw_is_the_best() {
    let world = gappy(4099);
    let seen: Vec<u32> = (1000..1900).filter(|i| i % 7 != 3).collect();
    for kind in KINDS {
        for device in &DEVICES {
            let model = Model::new(kind, 70, 4099, true, false);
            let batch = batch(2, 35, 8, 0, &seen);
            let whole = |select| {
                let config = choosing("position", 3, "history", super::kind("catalogue", &[]), select, false);
                model.draw(device, &Sampler::new(&config, &world.knowledge(), 3).unwrap(), &batch, START)
            };
            let best = whole(super::kind("top_k", &[]));
            let coldest = whole(super::kind("softmax_draw", &[("beta", number(1e4)), ("replace", Value::Flag(false))]));
            for r in 0..70 {
                let allowed = |i: &usize| world.counts[*i] > 0 && *i != 8 && !seen.contains(&(*i as u32));
                let mut order: Vec<usize> = (0..4099).filter(allowed).collect();
                order.sort_by(|&a, &b| model.score(r, b).total_cmp(&model.score(r, a)));
                let expected: Vec<u32> = order[..3].iter().map(|&i| i as u32).collect();
                assert_eq!(best.ids_of(r), expected, "{kind:?} row {r}");
                // f32 scores times 10^4 tell items apart that differ by more than a few 1e-4.
                if model.score(r, order[0]) - model.score(r, order[1]) > 5e-3 {
                    assert_eq!(coldest.ids_of(r)[0], expected[0], "{kind:?} row {r}");
                }
            }
        }
    }
}

#[test]
fn the_best_of_lists_are_those_of_each_rows_list() {
    let world = gappy(60);
    for scope in ["position", "sequence", "batch"] {
        for exclude in ["none", "target", "history"] {
            let model = Model::new(ScoreKind::Dot, 21, 60, false, false);
            let batch = batch(3, 7, 8, 0, &[1, 2, 30]);
            let select = super::kind("top_k", &[("candidates", number(80.0))]);
            let sampler =
                Sampler::new(&choosing(scope, 5, exclude, super::kind("uniform", &[]), select, false), &world.knowledge(), 9)
                    .unwrap();
            let lists = drawn(
                &Sampler::new(&config(scope, 80, exclude, vec![super::kind("uniform", &[])], false), &world.knowledge(), 9)
                    .unwrap(),
                &batch,
            );
            let best = model.draw(&Device::ORACLE, &sampler, &batch, START);
            assert_eq!(best.groups(), 21);
            for g in 0..lists.groups() {
                for r in lists.range(g) {
                    let out = |id: u32| exclude != "none" && (id == 8 || exclude == "history" && [1, 2, 30].contains(&id));
                    let mut order: Vec<u32> = lists.ids_of(g).iter().copied().filter(|&i| !out(i)).collect();
                    order.sort_unstable();
                    order.dedup();
                    order.sort_by(|&a, &b| model.score(r, b as usize).total_cmp(&model.score(r, a as usize)));
                    assert_eq!(best.ids_of(r), &order[..5], "{scope} {exclude} row {r}");
                }
            }
        }
    }
}

#[test]
fn ties_go_to_the_lower_item_and_short_rows_end_empty() {
    let world = World::new(6, &[(0..6).collect()], 1, |_, _| 0);
    let flat = Model { kind: ScoreKind::Dot, query: vec![0.0; DIM], context: None, table: vec![1.0; 6 * DIM] };
    for scope in ["position", "batch"] {
        let whole = choosing("position", 5, "history", super::kind("catalogue", &[]), super::kind("top_k", &[]), false);
        let listed = choosing(
            scope,
            5,
            "history",
            super::kind("uniform", &[]),
            super::kind("top_k", &[("candidates", number(200.0))]),
            false,
        );
        for config in [whole, listed] {
            let sampler = Sampler::new(&config, &world.knowledge(), 1).unwrap();
            let best = flat.draw(&Device::HOST, &sampler, &batch(1, 1, 4, 0, &[1, 4]), START);
            assert_eq!(best.ids, [0, 2, 3, 5, NONE]);
        }
    }
    // Nothing at all to draw from: empty slots, not a loop.
    let config = choosing("position", 2, "history", super::kind("catalogue", &[]), super::kind("softmax_draw", &[]), false);
    let sampler = Sampler::new(&config, &world.knowledge(), 1).unwrap();
    assert_eq!(flat.draw(&Device::HOST, &sampler, &batch(1, 1, 4, 0, &[0, 1, 2, 3, 4, 5]), START).ids, [NONE, NONE]);
}

#[test]
fn scores_that_are_not_numbers_are_never_chosen() {
    let world = World::new(6, &[(0..6).collect()], 1, |_, _| 0);
    let mut model = Model { kind: ScoreKind::Dot, query: vec![1.0; DIM], context: None, table: vec![1.0; 6 * DIM] };
    model.table[2 * DIM] = f64::NAN;
    let select = super::kind("top_k", &[("candidates", number(100.0))]);
    let sampler =
        Sampler::new(&choosing("position", 4, "none", super::kind("uniform", &[]), select, false), &world.knowledge(), 1)
            .unwrap();
    assert_eq!(model.draw(&Device::HOST, &sampler, &batch(1, 1, 4, 0, &[]), START).ids, [0, 1, 3, 4]);
}

#[test]
fn difficulty_follows_its_curve_through_fractions_of_epochs() {
    let world = World::new(12, &[(0..12).collect()], 1, |_, _| 0);
    let model = Model::new(ScoreKind::Dot, 3000, 12, false, true);
    let curve = Value::Curve(Curve { from: 0.0, to: 3.0, over: 2.0, shape: CurveShape::Linear });
    let config =
        choosing("position", 10, "none", super::kind("catalogue", &[]), super::kind("softmax_draw", &[("beta", curve)]), true);
    let sampler = Sampler::new(&config, &world.knowledge(), 6).unwrap();
    for (epoch, beta) in [(0.0, 0.0), (0.5, 0.75), (2.0, 3.0), (7.0, 3.0)] {
        let negatives = model.draw(&Device::HOST, &sampler, &batch(1, 3000, 0, 0, &[]), Moment { epoch, ..START });
        faults(&negatives, &law(&preference(&model, &world, beta), &[])).unwrap_or_else(|fault| panic!("epoch {epoch}: {fault}"));
    }
}

#[test]
fn choices_do_not_depend_on_threads() {
    let world = gappy(4099);
    let model = Model::new(KINDS[1], 150, 4099, true, false);
    let batch = batch(3, 50, 8, 0, &[4, 5, 6]);
    for (scope, proposal, select) in [
        ("position", "catalogue", super::kind("top_k", &[])),
        ("position", "catalogue", super::kind("softmax_draw", &[])),
        ("batch", "uniform", super::kind("softmax_draw", &[("candidates", number(300.0))])),
        ("position", "uniform", super::kind("top_k", &[("candidates", number(33.0))])),
    ] {
        let config = choosing(scope, 7, "history", super::kind(proposal, &[]), select, false);
        let sampler = Sampler::new(&config, &world.knowledge(), 3).unwrap();
        let once = model.draw(&Device::HOST, &sampler, &batch, START).ids;
        for threads in [1, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| model.draw(&Device::HOST, &sampler, &batch, START)).ids, once);
        }
    }
}

#[test]
fn contradictions_of_selections_are_refused() {
    let world = gappy(40);
    let refused = |config: config::Sampler, words: &str| {
        let error = Sampler::new(&config, &world.knowledge(), 1).err().unwrap_or_else(|| panic!("accepted: {config:?}"));
        assert!(matches!(error.code(), Code::C0203 | Code::C0205), "{error}");
        assert!(error.to_string().contains(words), "`{error}` lacks `{words}`");
    };
    let top = |m: f64| super::kind("top_k", &[("candidates", number(m))]);
    refused(choosing("position", 8, "none", super::kind("uniform", &[]), top(4.0), false), "8 negatives");
    refused(choosing("position", 2, "none", super::kind("uniform", &[]), top(4.0), true), "log_q");
    refused(choosing("position", 2, "none", super::kind("catalogue", &[]), top(4.0), false), "candidates");
    refused(choosing("batch", 2, "none", super::kind("catalogue", &[]), super::kind("top_k", &[]), false), "scope");
    refused(
        choosing("position", 2, "none", super::kind("uniform", &[]), super::kind("all", &[("beta", number(1.0))]), false),
        "softmax_draw",
    );
}

/// After enough proposals the walk has forgotten its start: its end follows exp(power s), whatever law proposed.
#[test]
fn a_walk_ends_in_the_wanted_law() {
    let world = gappy(40);
    for (score, proposal, power) in [
        (KINDS[0], super::kind("uniform", &[]), 1.0),
        (KINDS[1], super::kind("popularity", &[("alpha", number(1.0))]), 0.5),
        (KINDS[0], super::kind("popularity", &[("alpha", number(1.0))]), 0.0),
    ] {
        let model = Model::new(score, 20_000, 40, true, true);
        let select = super::kind("metropolis", &[("power", number(power)), ("candidates", number(160.0))]);
        let sampler = Sampler::new(&choosing("position", 1, "history", proposal, select, false), &world.knowledge(), 3).unwrap();
        let negatives = model.draw(&Device::HOST, &sampler, &batch(2, 10_000, 8, 0, &[1, 2, 30]), START);
        let expected = law(&preference(&model, &world, power), &[1, 2, 8, 30]);
        assert_law("end of the walk", &count(40, negatives.ids.iter().copied()), &expected);
    }
}
