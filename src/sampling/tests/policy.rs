//! KGPolicy's walks: what they draw, what they learn, and that it survives a checkpoint.

use super::select::{DEVICES, KINDS, Model, gappy, goes_on_after_a_checkpoint};
use super::*;
use crate::device::Buffer;
use crate::ops::score::ScoreKind;
use crate::rng::{Draws, Stream, normal2};

const ITEMS: usize = 40;
/// Joined to 0, 5 and 64; the first to 4, 12, 16, 20, 32 and 36 too, the second to 6, 9, 10 and 11, the third to 9.
const TARGET: u32 = 8;

fn setting(scope: &str, n: u32, propose: &[&str], log_q: bool, params: &[(&str, Value)]) -> config::Sampler {
    let propose = propose.iter().map(|name| kind(name, &[])).collect();
    config::Sampler { select: Some(kind("policy", params)), ..config(scope, n, "history", propose, log_q) }
}

fn sampler(world: &World, config: &config::Sampler) -> Sampler {
    Sampler::new(config, &world.knowledge(), 5).unwrap()
}

fn moment(epoch: u64) -> Moment {
    Moment { epoch: epoch as f64, epoch_index: epoch, batch_index: 0 }
}

/// Gives the policy its vectors of entities, as a checkpoint would.
fn teach(sampler: &Sampler, v: &[f32], entities: usize) {
    let (squares, baseline) = (vec![0.0f32; entities], [0.5f32]);
    let find = |name: &str| -> Option<&[f32]> {
        match name {
            "policy.table" => Some(v),
            "policy.squares" => Some(&squares),
            "policy.baseline" => Some(&baseline),
            _ => None,
        }
    };
    sampler.restore(&find).unwrap();
}

fn table(sampler: &Sampler) -> Vec<f32> {
    sampler.state()[0].values.clone()
}

fn entities(world: &World) -> usize {
    world.graph_entities.iter().max().map_or(0, |&most| most as usize + 1)
}

/// A row: its query, the vectors of all items, what may be drawn, each once, and the score of each item.
struct Row<'a> {
    h: &'a [f64],
    e: &'a [f64],
    candidates: &'a [u32],
    score: &'a dyn Fn(u32) -> f64,
}

/// The law by going through every walk, and every set of walks by its first; with a fault if asked for.
fn enumerated(world: &World, v: &[f32], row: &Row, walks: i32, fault: &str) -> Vec<f64> {
    let (dim, graph) = (row.h.len(), world.knowledge().graph.unwrap());
    let logit = |item: u32, k: u32| -> f64 {
        let leak = if fault == "no leak" { 0.0 } else { 0.01 };
        let scale = if fault == "not scaled" { 1.0 } else { (dim as f64).sqrt() };
        let leaky = |x: f64| if x < 0.0 { leak * x } else { x };
        let of_dim = |d: usize| {
            let query = if fault == "blind to the query" { 1.0 } else { row.h[d] };
            query * leaky(row.e[item as usize * dim + d] * f64::from(v[k as usize * dim + d])) / scale
        };
        (0..dim).map(of_dim).sum()
    };
    let joined = |item: u32, k: u32| graph.of(item).contains(&k);
    let around = |k: u32| -> Vec<u32> { row.candidates.iter().copied().filter(|&i| joined(i, k)).collect() };
    let of_target: Vec<u32> = graph.of(TARGET).iter().copied().filter(|&k| !around(k).is_empty()).collect();
    let others = row.candidates.iter().copied().filter(|&i| !of_target.iter().any(|&k| joined(i, k)));
    let others: Vec<u32> = if fault == "no random items" { vec![] } else { others.collect() };
    let softmax = |logits: Vec<f64>| {
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        logits.into_iter().map(move |x| x.exp() / total).collect::<Vec<f64>>()
    };
    let flat = |logit: f64, uniform: &str| if fault == uniform { 0.0 } else { logit };
    let mut law = vec![0.0; ITEMS];
    let first = softmax(of_target.iter().map(|&k| flat(logit(TARGET, k), "first hop uniform")).collect());
    for (&k, p) in of_target.iter().zip(first) {
        let ends: Vec<u32> = around(k).into_iter().chain(others.clone()).collect();
        let second = softmax(ends.iter().map(|&j| flat(logit(j, k), "second hop uniform")).collect());
        ends.iter().zip(second).for_each(|(&j, q)| law[j as usize] += p * q);
    }
    if of_target.is_empty() {
        row.candidates.iter().for_each(|&j| law[j as usize] = 1.0 / row.candidates.len() as f64);
    }
    let before = |i: u32, j: u32| {
        let (a, b) = ((row.score)(i), (row.score)(j));
        if fault == "the easiest kept" { a < b } else { a > b }
    };
    let walks = if fault == "not pruned" { 1 } else { walks };
    let first = |j: u32| {
        let beaten: f64 = (0..ITEMS as u32).filter(|&i| before(j, i)).map(|i| law[i as usize]).sum();
        (beaten + law[j as usize]).powi(walks) - beaten.powi(walks)
    };
    (0..ITEMS as u32).map(first).collect()
}

const FAULTS: [&str; 8] = [
    "no leak",
    "not scaled",
    "blind to the query",
    "no random items",
    "first hop uniform",
    "second hop uniform",
    "the easiest kept",
    "not pruned",
];

/// With one list and one query for all rows: an unlearned policy and a taught one draw what going through all walks says and
/// report it, and a law with a fault is not what they draw.
#[test]
fn draws_follow_the_law_of_all_walks_and_faults_are_seen() {
    let (world, batch) = (gappy(ITEMS), batch(4, 2500, TARGET, 0, &[1, 2, 30]));
    let noise = Draws::new(9, Stream::Test, 0, 0);
    let mut faults_left = FAULTS.to_vec();
    for (score, device) in KINDS.into_iter().zip(DEVICES) {
        let model = Model::new(score, batch.rows(), ITEMS, score == KINDS[1], true);
        let dim = model.table.len() / ITEMS;
        let lists = config("batch", 24, "history", vec![kind("uniform", &[])], false);
        let mut candidates = drawn(&sampler(&world, &lists), &batch).ids;
        candidates.retain(|i| ![TARGET, 1, 2, 30].contains(i));
        candidates.sort_unstable();
        candidates.dedup();
        let row =
            Row { h: &model.query[..dim], e: &model.table, candidates: &candidates, score: &|i| model.score(0, i as usize) };
        let taught: Vec<f32> = (0..entities(&world) * dim).map(|i| 2.0 * normal2(noise.words64(i as u64))[0] as f32).collect();
        for (v, walks) in [(&vec![0.0; taught.len()], 1), (&taught, 1), (&taught, 3)] {
            let params = [("walks", number(f64::from(walks))), ("rate", number(0.0)), ("candidates", number(24.0))];
            let sampler = sampler(&world, &setting("batch", 2, &["uniform"], true, &params));
            teach(&sampler, v, entities(&world));
            let got = model.draw(&device, &sampler, &batch, START);
            let law = |fault: &str| enumerated(&world, v, &row, walks, fault);
            faults(&got, &law("")).unwrap_or_else(|fault| panic!("{score:?}, {walks} walks: {fault}"));
            assert_eq!(&table(&sampler), v, "a rate of zero");
            let counts = count(ITEMS, got.ids.iter().copied());
            // A hundredth of a negative number is too little for these draws; what they report shows it.
            let unseen = |fault: &str| match fault {
                "no leak" => faults(&got, &law(fault)).is_ok(),
                fault => verdict(&counts, &law(fault)).is_ok(),
            };
            faults_left.retain(|fault| unseen(fault));
        }
    }
    assert!(faults_left.is_empty(), "not caught: {faults_left:?}");
}

/// Every row with a list, a query and a target's history of its own reports its own law.
#[test]
fn every_row_reports_the_law_of_its_own_list() {
    let (world, batch) = (gappy(ITEMS), batch(3, 30, TARGET, 0, &[4, 12, 30]));
    let noise = Draws::new(10, Stream::Test, 0, 0);
    let model = Model::new(KINDS[0], batch.rows(), ITEMS, false, false);
    let dim = model.table.len() / ITEMS;
    let taught: Vec<f32> = (0..entities(&world) * dim).map(|i| normal2(noise.words64(i as u64))[0] as f32).collect();
    for propose in [&["graph_walk", "uniform"][..], &["graph_walk"]] {
        let all = config("position", 9, "history", propose.iter().map(|name| kind(name, &[])).collect(), false);
        let lists = drawn(&sampler(&world, &all), &batch);
        let params = [("walks", number(4.0)), ("rate", number(0.0)), ("candidates", number(9.0))];
        let sampler = sampler(&world, &setting("position", 3, propose, true, &params));
        teach(&sampler, &taught, entities(&world));
        let got = model.draw(&Device::HOST, &sampler, &batch, START);
        for r in 0..batch.rows() {
            let mut candidates = lists.ids_of(r).to_vec();
            candidates.sort_unstable();
            candidates.dedup();
            let h = &model.query[r * dim..(r + 1) * dim];
            let row = Row { h, e: &model.table, candidates: &candidates, score: &|i| model.score(r, i as usize) };
            let law = enumerated(&world, &taught, &row, 4, "");
            for (&id, &log_q) in got.ids_of(r).iter().zip(&got.log_q[r * 3..]) {
                let truth = law[id as usize].ln();
                assert!((f64::from(log_q) - truth).abs() < 1e-4 * (1.0 + truth.abs()), "row {r}, item {id}: {log_q} for {truth}");
            }
        }
    }
}

/// Draws with these vectors of two numbers, and the query (1, 1).
fn draw(sampler: &Sampler, batch: &Batch, vectors: &[[f64; 2]], epoch: u64) -> Negatives {
    let device = Device::HOST;
    let buffer = |x: &[f64]| -> Buffer { device.reals(x).unwrap() };
    let (query, table) = (buffer(&vec![1.0; 2 * batch.rows()]), buffer(vectors.as_flattened()));
    let scoring = Scoring { kind: ScoreKind::Dot, dim: 2, items: ITEMS, query: &query, context: None, table: &table };
    sampler.draw(&device, batch, Some(&scoring), moment(epoch)).unwrap()
}

/// P(k) of the target's entities 0, 5 and 64, by the formula for the query (1, 1).
fn first_hop(v: &[f32], target: [f64; 2]) -> [f64; 3] {
    let logit = |k: usize| {
        let leaky = |x: f64| x.max(x / 100.0);
        (leaky(target[0] * f64::from(v[2 * k])) + leaky(target[1] * f64::from(v[2 * k + 1]))) / 2f64.sqrt()
    };
    let weights = [0, 5, 64].map(|k| logit(k).exp());
    weights.map(|w| w / weights.iter().sum::<f64>())
}

/// The policy learns to go by the entity around which the reward is: where the model's scores are high, and where items are like
/// the positive although all score the same.
#[test]
fn it_learns_to_go_where_the_reward_is() {
    let world = World::new(ITEMS, &[(0..ITEMS as u32).collect()], 1, |_, _| 0);
    let batch = batch(20, 5, TARGET, 0, &[]);
    // Three of the four items around entity 5, none around the others.
    let favoured = |i: usize| [6, 10, 11].contains(&i);
    let learned = |vectors: &[[f64; 2]], similarity: f64| {
        let params =
            [("similarity", number(similarity)), ("candidates", number(20.0)), ("walks", number(2.0)), ("rate", number(0.2))];
        let sampler = sampler(&world, &setting("position", 1, &["graph_walk", "uniform"], false, &params));
        let share = |negatives: &Negatives| {
            negatives.ids.iter().filter(|&&i| favoured(i as usize)).count() as f64 / negatives.ids.len() as f64
        };
        let before = share(&draw(&sampler, &batch, vectors, 0));
        (1..150).for_each(|step| drop(draw(&sampler, &batch, vectors, step)));
        let after = share(&draw(&sampler, &batch, vectors, 150));
        (first_hop(&table(&sampler), vectors[TARGET as usize])[1], before, after)
    };
    let harder: Vec<[f64; 2]> =
        (0..ITEMS).map(|i| if i == TARGET as usize || favoured(i) { [1.0, 0.5] } else { [-0.5, 0.3] }).collect();
    let (p, before, after) = learned(&harder, 0.0);
    assert!(p > 0.6, "by the scores: {p}");
    assert!(after > before + 0.1, "by the scores: {before} to {after}");
    let alike: Vec<[f64; 2]> =
        (0..ITEMS).map(|i| if i == TARGET as usize || favoured(i) { [1.0, -0.5] } else { [-0.5, 1.0] }).collect();
    let (p, before, after) = learned(&alike, 1.0);
    assert!(p > 0.6 && after > before + 0.1, "by the likeness: {p}, {before} to {after}");
    // All score the same, so without the likeness nothing is learned.
    let (p, ..) = learned(&alike, 0.0);
    assert!((p - 1.0 / 3.0).abs() < 1e-3, "a constant reward: {p}");
}

#[test]
fn what_is_restored_goes_on_for_any_number_of_threads() {
    let world = gappy(ITEMS);
    let batch = batch(200, 3, TARGET, 0, &[0, 1, 5]);
    for (score, device) in KINDS.into_iter().zip(DEVICES) {
        let model = Model::new(score, batch.rows(), ITEMS, true, false);
        let params = [("rate", number(0.3)), ("candidates", number(11.0)), ("walks", number(3.0))];
        let make = || sampler(&world, &setting("position", 2, &["graph_walk", "uniform"], true, &params));
        let (state, a, new) = goes_on_after_a_checkpoint(&model, &device, &batch, &make, &[0, 1, 2, 3, 4].map(moment));
        assert_eq!(state.iter().map(|s| s.shape.clone()).collect::<Vec<_>>(), [vec![80, 5], vec![80], vec![1]]);
        assert!(a.ids.iter().all(|&i| world.counts[i as usize] > 0 && ![TARGET, 0, 1, 5].contains(&i)));
        assert_ne!(new.ids, a.ids, "what was learned matters");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = gappy(ITEMS);
    let make = || sampler(&world, &setting("position", 1, &["uniform"], false, &[]));
    for (table, squares, baseline) in [
        (vec![0.0; 5], vec![0.0; 2], vec![0.1]),
        (vec![f32::NAN; 4], vec![0.0; 2], vec![0.1]),
        (vec![0.0; 4], vec![-1.0; 2], vec![0.1]),
        (vec![0.0; 4], vec![0.0; 2], vec![]),
    ] {
        let find = |name: &str| match name {
            "policy.table" => Some(&table[..]),
            "policy.squares" => Some(&squares[..]),
            _ => Some(&baseline[..]),
        };
        assert_eq!(make().restore(&find).unwrap_err().code(), Code::M0402);
    }
    // Sound, but of another model, or of another graph.
    let vectors = [[0.1, 0.2]; ITEMS];
    for (numbers, entities) in [(80 * 3, 80), (79 * 2, 79)] {
        let other = make();
        teach(&other, &vec![0.0; numbers], entities);
        let device = Device::HOST;
        let (query, table): (Buffer, Buffer) = (device.reals(&[1.0; 2]).unwrap(), device.reals(vectors.as_flattened()).unwrap());
        let scoring = Scoring { kind: ScoreKind::Dot, dim: 2, items: ITEMS, query: &query, context: None, table: &table };
        let error = other.draw(&device, &batch(1, 1, TARGET, 0, &[]), Some(&scoring), START).err().unwrap();
        assert_eq!(error.code(), Code::M0402);
    }

    let code = |propose: &str, n: u32, params: &[(&str, Value)]| {
        let error = Sampler::new(&setting("position", n, &[propose], false, params), &world.knowledge(), 1).err();
        error.map(|error| error.code())
    };
    assert_eq!(code("uniform", 1, &[]), None);
    assert_eq!(code("uniform", 9, &[("candidates", number(2.0))]), None, "walks may end where others did");
    assert_eq!(code("uniform", 1, &[("walks", number(0.0))]), Some(Code::C0202));
    assert_eq!(code("uniform", 1, &[("walks", number(1.5))]), Some(Code::C0202));
    assert_eq!(code("uniform", 1, &[("similarity", number(-1.0))]), Some(Code::C0202));
    assert_eq!(code("uniform", 1, &[("rate", number(f64::NAN))]), Some(Code::C0202));
    assert_eq!(code("uniform", 1, &[("temperature", number(1.0))]), Some(Code::C0203));
    assert_eq!(code("uniform", 1, &[("walk", number(1.0))]), Some(Code::C0201));
    assert_eq!(code("uniform", 257, &[("walks", number(4096.0))]), Some(Code::C0205), "draws that have no number");
    assert_eq!(code("catalogue", 1, &[]), Some(Code::C0205));
    let no_graph = Knowledge { graph: None, ..world.knowledge() };
    let error = Sampler::new(&setting("position", 1, &["uniform"], false, &[]), &no_graph, 1).err().unwrap();
    assert!(error.code() == Code::D0303 && error.to_string().contains("`data.graph_path`"), "{error}");
}

/// Scores that are no numbers, a target outside the graph, and a list with nothing in it: something is chosen where there is
/// something, and nothing is learned.
#[test]
fn what_says_nothing_teaches_nothing() {
    let world = gappy(ITEMS);
    let vectors: Vec<[f64; 2]> = (0..ITEMS).map(|i| [f64::from(i as u32), -0.3]).collect();
    let make = |propose: &[&str]| sampler(&world, &setting("position", 2, propose, false, &[("candidates", number(9.0))]));
    let known = make(&["uniform"]);
    let drawn = draw(&known, &batch(2, 2, TARGET, 0, &[]), &[[f64::NAN; 2]; ITEMS], 0);
    assert!(drawn.ids.iter().all(|&i| world.counts[i as usize] > 0) && known.state().is_empty());
    draw(&known, &batch(2, 2, TARGET, 0, &[]), &vectors, 1);
    assert!(table(&known).iter().all(|v| v.is_finite()) && table(&known).iter().any(|v| *v != 0.0));

    let outside = make(&["uniform"]);
    let drawn = draw(&outside, &batch(2, 2, 7, 0, &[]), &vectors, 0);
    assert!(drawn.ids.iter().all(|&i| world.counts[i as usize] > 0) && table(&outside).iter().all(|v| *v == 0.0));

    let relatives = [4, 6, 9, 11, 12, 16, 20, 32, 36];
    let dry = make(&["graph_walk"]);
    assert_eq!(draw(&dry, &batch(2, 2, TARGET, 0, &relatives), &vectors, 0).ids, [NONE; 8]);
    assert!(dry.state().is_empty());
}
