//! Buckets of rows and items in one direction, against the rules written out in f64, and against rules with one fault each.

use super::select::{DEVICES, KINDS, Model, gappy};
use super::*;
use crate::device::Buffer;
use crate::ops::score::ScoreKind;
use crate::rng::{Draws, Stream, normal2, slot_index};

const SEED: u64 = 5;
/// Lane of the words that make the directions.
const DIRECTION: u8 = 250;

fn configured(n: u32, exclude: &str, params: &[(&str, Value)]) -> config::Sampler {
    config::Sampler {
        select: Some(kind("buckets", params)),
        ..config("position", n, exclude, vec![kind("catalogue", &[])], false)
    }
}

/// Four rows and five items on a line. Among 32 directions are both of it, so all there is are two buckets: the rows and items
/// that lie highest, and those that lie lowest.
fn on_a_line(x: [f64; 4], rows: f64, exclude: &str, targets: [u32; 4], seen: &[u32]) -> Negatives {
    let (device, items) = (Device::HOST, [5.0, 4.0, 1.0, -2.0, -6.0]);
    let world = World::new(5, &[(0..5).collect()], 1, |_, _| 0);
    let params = [("buckets", number(16.0)), ("rows", number(rows))];
    let sampler = Sampler::new(&configured(2, exclude, &params), &world.knowledge(), SEED).unwrap();
    let (query, table): (Buffer, Buffer) = (device.reals(&x).unwrap(), device.reals(&items).unwrap());
    let scoring = Scoring { kind: ScoreKind::Dot, dim: 1, items: 5, query: &query, context: None, table: &table };
    let batch = Batch { targets: targets.to_vec().into(), ..batch(1, 4, 0, 0, seen) };
    sampler.draw(&device, &batch, Some(&scoring), START).unwrap()
}

#[test]
fn buckets_on_a_line_by_hand() {
    let x = [3.0, 2.0, -1.0, -4.0];
    let ids = |rows, exclude, targets, seen: &[u32]| on_a_line(x, rows, exclude, targets, seen).ids;
    // One row in each bucket: the other two do not count, and these two count for them.
    let ends = on_a_line(x, 0.5, "target", [2; 4], &[]);
    assert_eq!(ends.ids, [0, 1, NONE, NONE, NONE, NONE, 4, 3]);
    assert_eq!(ends.row_weight, [2.0, 0.0, 0.0, 2.0]);
    // Two rows in each; three in each, and the two in the middle choose: 10 and 8 against -12 and -4, -5 and -4 against 6 and 2.
    for rows in [1.0, 1.5, 1e5] {
        let all = on_a_line(x, rows, "target", [2; 4], &[]);
        assert_eq!(all.ids, [0, 1, 0, 1, 4, 3, 4, 3], "{rows}");
        assert_eq!(all.row_weight, [1.0; 4]);
    }
    // A row's target and what it excludes are not its negatives, and nothing is put in their place.
    assert_eq!(ids(1.0, "target", [0, 1, 2, 3], &[4]), [NONE, 1, 0, NONE, 4, 3, 4, NONE]);
    assert_eq!(ids(1.0, "none", [0, 1, 2, 3], &[4]), [NONE, 1, 0, NONE, 4, 3, 4, NONE]);
    assert_eq!(ids(1.0, "history", [0, 1, 2, 3], &[4]), [NONE, 1, 0, NONE, NONE, 3, NONE, NONE]);
    // The last row has nothing left in its bucket, so it is in none.
    let three = on_a_line(x, 1.0, "history", [0, 1, 2, 3], &[4]).row_weight;
    three.iter().zip([4.0 / 3.0, 4.0 / 3.0, 4.0 / 3.0, 0.0]).for_each(|(got, want)| assert_eq!(*got, want as f32));
    // Without a single number no row lies anywhere, and no loss may pass over it.
    let broken = on_a_line([3.0, f64::NAN, -1.0, -4.0], 1.0, "target", [2; 4], &[]);
    assert!(broken.row_weight.iter().all(|w| w.is_nan()));
}

/// The rules, or one of them broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    Sound,
    /// The bucket of the smallest sum, or the one with the highest single score.
    Easiest,
    Highest,
    /// The sum counts the target.
    TargetCounts,
    /// Items that lie nearest to the other end.
    Opposite,
    /// Items without a training event are in buckets.
    Untrained,
    /// Rows in no bucket count like any.
    AllCount,
    /// Every row has the same random numbers.
    OneKey,
}

const FAULTS: [Rule; 7] =
    [Rule::Easiest, Rule::Highest, Rule::TargetCounts, Rule::Opposite, Rule::Untrained, Rule::AllCount, Rule::OneKey];

struct Setting {
    buckets: f64,
    rows: f64,
    mixed: bool,
    n: usize,
    exclude: &'static str,
    moment: Moment,
}

/// What is handed over, item by item, and the weights of the rows.
fn expected(model: &Model, world: &World, batch: &Batch, of: &Setting, rule: Rule) -> (Vec<u32>, Vec<f32>) {
    let (rows, items, dim) = (batch.rows(), world.counts.len(), model.table.len() / world.counts.len());
    let root = (rows as f64).sqrt();
    let (count, width) = ((of.buckets * root).ceil() as usize, ((of.rows * root).ceil() as usize).min(rows));
    let draws = Draws::new(SEED, Stream::Select, DIRECTION, of.moment.epoch_index);
    let z = |key: u64, k: usize| normal2(draws.words64(slot_index(key, k / 2)))[k % 2];
    let key = |r: usize| if rule == Rule::OneKey { batch.row_keys[0] } else { batch.row_keys[r] };
    let direction = |k: usize, d: usize| match of.mixed {
        true => (0..rows).map(|r| z(key(r), k) * model.query[r * dim + d]).sum::<f64>(),
        false => z(of.moment.batch_index * dim as u64 + d as u64, k),
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let along = |b: &[f64], e: &[f64]| match model.kind {
        ScoreKind::Dot => dot(b, e),
        ScoreKind::Cosine { .. } => dot(b, e) / dot(e, e).sqrt(),
    };
    let highest = |scores: Vec<f64>, places: Vec<u32>, k: usize| {
        let mut places = places;
        places.sort_by(|&i, &j| scores[j as usize].total_cmp(&scores[i as usize]).then(i.cmp(&j)));
        places.truncate(k);
        places
    };
    let mut chosen: Vec<Option<(f64, Vec<u32>)>> = vec![None; rows];
    for k in 0..count {
        let b: Vec<f64> = (0..dim).map(|d| direction(k, d)).collect();
        let of_rows = (0..rows).map(|r| along(&b, &model.query[r * dim..(r + 1) * dim])).collect();
        let sign = if rule == Rule::Opposite { -1.0 } else { 1.0 };
        let of_items = (0..items).map(|i| sign * along(&b, &model.table[i * dim..(i + 1) * dim])).collect();
        let trained = (0..items as u32).filter(|&i| rule == Rule::Untrained || world.counts[i as usize] > 0).collect();
        let bucket = highest(of_items, trained, of.n);
        for r in highest(of_rows, (0..rows as u32).collect(), width) {
            let r = r as usize;
            let seen = batch.seen_of(batch.sequence_of_rows()[r] as usize);
            let hidden = |i: u32| i == batch.targets[r] || (of.exclude == "history" && seen.contains(&i));
            let given: Vec<u32> = bucket.iter().map(|&i| if hidden(i) { NONE } else { i }).collect();
            let counted = |i: &&u32| **i != NONE;
            let mut scores: Vec<f64> = given.iter().filter(counted).map(|&i| model.score(r, i as usize)).collect();
            if scores.is_empty() {
                continue;
            }
            if rule == Rule::TargetCounts && bucket.contains(&batch.targets[r]) {
                scores.push(model.score(r, batch.targets[r] as usize));
            }
            let key = match rule {
                Rule::Easiest => -scores.iter().map(|s| s.exp()).sum::<f64>(),
                Rule::Highest => scores.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                _ => scores.iter().map(|s| s.exp()).sum::<f64>(),
            };
            if chosen[r].as_ref().is_none_or(|(best, _)| key > *best) {
                chosen[r] = Some((key, given));
            }
        }
    }
    let held = chosen.iter().flatten().count() as f32;
    let outside = if rule == Rule::AllCount { rows as f32 / held } else { 0.0 };
    let weights = chosen.iter().map(|c| if c.is_some() { rows as f32 / held } else { outside }).collect();
    (chosen.into_iter().flat_map(|c| c.map_or(vec![NONE; of.n], |c| c.1)).collect(), weights)
}

#[test]
fn what_is_handed_over_is_what_the_rules_say_and_faults_are_seen() {
    const ITEMS: usize = 90;
    let world = gappy(ITEMS);
    let mut batch = batch(4, 9, 8, 0, &[0, 4, 9, 15, 30, 31, 32]);
    batch.targets = (0..batch.rows()).map(|r| (r * r % 44) as u32).collect();
    let moment = Moment { epoch: 1.5, epoch_index: 1, batch_index: 7 };
    let settings = [
        Setting { buckets: 2.0, rows: 0.6, mixed: true, n: 12, exclude: "target", moment },
        Setting { buckets: 1.1, rows: 1.0, mixed: false, n: 12, exclude: "history", moment },
    ];
    let mut missed = FAULTS.to_vec();
    for (score, context, device) in [(KINDS[0], false, 1), (KINDS[0], true, 1), (KINDS[1], true, 1), (KINDS[0], true, 0)] {
        let model = Model::new(score, batch.rows(), ITEMS, context, false);
        for of in &settings {
            let directions = if of.mixed { "mixed" } else { "gaussian" };
            let params = [("buckets", number(of.buckets)), ("rows", number(of.rows)), ("directions", word(directions))];
            let sampler = Sampler::new(&configured(of.n as u32, of.exclude, &params), &world.knowledge(), SEED).unwrap();
            let got = model.draw(&DEVICES[device], &sampler, &batch, of.moment);
            let got = (got.ids, got.row_weight);
            let sound = expected(&model, &world, &batch, of, Rule::Sound);
            assert!(got == sound, "{score:?} {context} {directions}: {got:?} for {sound:?}");
            let outside = got.1.iter().filter(|w| **w == 0.0).count();
            assert!((1..batch.rows() - 1).contains(&outside), "{directions}: {outside} rows are in no bucket");
            missed.retain(|&fault| expected(&model, &world, &batch, of, fault) == got);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn directions_follow_the_seed_the_epoch_and_for_axes_the_batch() {
    let world = gappy(200);
    let batch = batch(3, 40, 8, 0, &[4, 5, 6]);
    let model = Model::new(KINDS[0], batch.rows(), 200, false, false);
    for (directions, of_batch) in [("mixed", false), ("gaussian", true)] {
        let sampler = |seed| {
            let params = [("directions", word(directions))];
            Sampler::new(&configured(9, "history", &params), &world.knowledge(), seed).unwrap()
        };
        let at = |sampler: &Sampler, epoch_index, batch_index| {
            model.draw(&Device::HOST, sampler, &batch, Moment { epoch: 0.0, epoch_index, batch_index })
        };
        let (one, first) = (sampler(1), at(&sampler(1), 2, 3));
        assert!(one.state().is_empty(), "nothing is remembered");
        at(&one, 0, 0);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| at(&one, 2, 3));
            assert!(again.ids == first.ids && again.row_weight == first.row_weight, "{directions}, {threads} threads");
        }
        assert_ne!(at(&one, 3, 3).ids, first.ids, "{directions}: another epoch");
        assert_ne!(at(&sampler(2), 2, 3).ids, first.ids, "{directions}: another seed");
        assert_eq!(at(&one, 2, 4).ids != first.ids, of_batch, "{directions}: another batch");
    }
}

#[test]
fn a_weight_of_rows_is_put_on_top() {
    let world = gappy(60);
    let batch = batch(4, 9, 8, 0, &[]);
    let model = Model::new(KINDS[0], batch.rows(), 60, false, false);
    let drawn = |weight: Option<Kind>| {
        let config = config::Sampler { weight, ..configured(5, "target", &[("rows", number(0.5))]) };
        model.draw(&Device::HOST, &Sampler::new(&config, &world.knowledge(), 1).unwrap(), &batch, START).row_weight
    };
    let (alone, both) = (drawn(None), drawn(Some(kind("propensity", &[]))));
    let uniform = config::Sampler {
        weight: Some(kind("propensity", &[])),
        ..config("position", 5, "target", vec![kind("uniform", &[])], false)
    };
    let of_target = super::drawn(&Sampler::new(&uniform, &world.knowledge(), 1).unwrap(), &batch).row_weight;
    assert!(alone.contains(&0.0) && of_target.iter().all(|w| *w != 1.0));
    assert_eq!(both, alone.iter().zip(&of_target).map(|(a, b)| a * b).collect::<Vec<_>>());
}

#[test]
fn settings_that_cannot_be_met_are_refused() {
    let world = gappy(40);
    let code = |config: config::Sampler| Sampler::new(&config, &world.knowledge(), 1).err().map(|e| e.code());
    let with = |params: &[(&str, Value)]| code(configured(9, "target", params));
    assert_eq!(with(&[]), None);
    for name in ["buckets", "rows"] {
        for bad in [0.0, -1.0, 1e6, f64::NAN] {
            assert_eq!(with(&[(name, number(bad))]), Some(Code::C0202), "{name} {bad}");
        }
    }
    assert_eq!(with(&[("directions", word("random"))]), Some(Code::C0202));
    assert_eq!(with(&[("candidates", number(9.0))]), Some(Code::C0203), "there are none");
    assert_eq!(code(configured(35, "target", &[])), Some(Code::C0205), "more than the 34 items");
    let nobody = Model::new(KINDS[0], 0, 40, false, false);
    let sampler = Sampler::new(&configured(9, "target", &[]), &world.knowledge(), 1).unwrap();
    assert_eq!(nobody.draw(&Device::HOST, &sampler, &batch(0, 0, 8, 0, &[]), START).groups(), 0);
    let own = configured(9, "target", &[]);
    assert_eq!(code(config::Sampler { scope: Some("batch".into()), ..own.clone() }), Some(Code::C0205));
    assert_eq!(code(config::Sampler { weight: Some(kind("log_q", &[])), ..own.clone() }), Some(Code::C0205));
    let listed = config::Sampler { propose: Some(vec![kind("uniform", &[])]), ..own };
    let error = Sampler::new(&listed, &world.knowledge(), 1).err().unwrap();
    assert_eq!(error.code(), Code::C0205);
    assert!(error.to_string().contains("`sampler.propose.kind = \"catalogue\"`"), "{error}");
}
