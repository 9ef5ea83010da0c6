//! The vectors of PURE's generator as a mix stage: how they look, that they learn, and that they survive a checkpoint.

use super::select::{DEVICES, Model, gappy, goes_on_after_a_checkpoint};
use super::*;
use crate::device::Buffer;
use crate::ops::score::ScoreKind;

const ITEMS: usize = 9;
const DIM: usize = 6;

fn sampler(world: &World, params: &[(&str, Value)]) -> Sampler {
    let mix = Some(kind("generated", params));
    let config = config::Sampler { mix, ..config("position", 2, "target", vec![kind("uniform", &[])], false) };
    Sampler::new(&config, &world.knowledge(), 5).unwrap()
}

fn moment(epoch: u64) -> Moment {
    Moment { epoch: epoch as f64, epoch_index: epoch, batch_index: 0 }
}

fn noise(lane: u8, n: usize) -> Vec<f64> {
    let draws = crate::rng::Draws::new(9, crate::rng::Stream::Test, lane, 0);
    (0..n as u64).map(|i| crate::rng::normal2(draws.words64(i))[0]).collect()
}

/// A model of `query (R,D)` and `table (V,D)` that stays as it is.
fn draw(sampler: &Sampler, batch: &Batch, query: &[f64], table: &[f64], epoch: u64) -> Negatives {
    let device = Device::HOST;
    let (query, table): (Buffer, Buffer) = (device.reals(query).unwrap(), device.reals(table).unwrap());
    let scoring = Scoring { kind: ScoreKind::Dot, dim: DIM, items: ITEMS, query: &query, context: None, table: &table };
    sampler.draw(&device, batch, Some(&scoring), moment(epoch)).unwrap()
}

#[test]
fn vectors_are_as_long_as_the_target_and_learn_to_be_taken_for_it() {
    let world = World::new(ITEMS, &[(0..ITEMS as u32).collect()], 1, |_, _| 0);
    let batch = batch(20, 5, 1, 0, &[]);
    let (query, table) = (noise(0, batch.rows() * DIM), noise(1, ITEMS * DIM));
    let sampler = sampler(&world, &[("count", number(3.0)), ("rate", number(0.01))]);
    assert_eq!(sampler.per_row(0.0), 5);
    let length = table[DIM..2 * DIM].iter().map(|x| x * x).sum::<f64>().sqrt();
    let mean_score = |negatives: &Negatives| {
        let scores = negatives.generated.chunks_exact(DIM).enumerate().map(|(n, v)| -> f64 {
            let h = &query[n / 3 * DIM..(n / 3 + 1) * DIM];
            v.iter().zip(h).map(|(v, h)| f64::from(*v) * h).sum()
        });
        scores.sum::<f64>() / (batch.rows() * 3) as f64
    };
    let first = draw(&sampler, &batch, &query, &table, 0);
    assert_eq!((first.ids.len(), first.generated.len()), (200, 100 * 3 * DIM));
    for v in first.generated.chunks_exact(DIM) {
        let own = v.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        assert!((own - length).abs() < 1e-5, "{own} for {length}");
    }
    // Numbers of a row differ by their noise.
    assert_ne!(first.generated[..DIM], first.generated[DIM..2 * DIM]);
    (1..200).for_each(|epoch| drop(draw(&sampler, &batch, &query, &table, epoch)));
    let last = draw(&sampler, &batch, &query, &table, 200);
    // The best any direction can do: the target's length times the query's, here about sqrt(6) of it.
    let best = query.chunks_exact(DIM).map(|h| length * h.iter().map(|x| x * x).sum::<f64>().sqrt()).sum::<f64>() / 100.0;
    let (before, after) = (mean_score(&first), mean_score(&last));
    assert!(before < 0.5 * best && after > 0.8 * best, "{before}, then {after}, at best {best}");
}

#[test]
fn what_is_restored_goes_on_for_any_number_of_threads() {
    let world = gappy(40);
    let batch = batch(30, 3, 1, 0, &[0, 1, 5]);
    let model = Model::new(ScoreKind::Dot, batch.rows(), 40, false, false);
    for device in DEVICES {
        let make = || sampler(&world, &[("count", number(2.0)), ("noise", number(5.0)), ("rate", number(0.1))]);
        assert!(make().state().is_empty());
        let (state, a, new) = goes_on_after_a_checkpoint(&model, &device, &batch, &make, &[0, 1, 2, 3, 4].map(moment));
        assert_eq!(state.len(), 13);
        let find = |name: &str| state.iter().find(|s| s.name == name).map(|s| &s.values[..]);
        assert_ne!(new.generated, a.generated, "what was learned matters");
        let incomplete = |name: &str| find(name).filter(|_| !name.ends_with("w2.first"));
        assert_eq!(make().restore(&incomplete).unwrap_err().code(), Code::M0402);
    }
}

#[test]
fn a_network_of_another_model_is_refused() {
    let world = World::new(ITEMS, &[(0..ITEMS as u32).collect()], 1, |_, _| 0);
    let (batch, table) = (batch(2, 2, 1, 0, &[]), noise(1, ITEMS * DIM));
    let query = noise(0, batch.rows() * DIM);
    let (narrow, wide) = (sampler(&world, &[("noise", number(2.0))]), sampler(&world, &[("noise", number(4.0))]));
    draw(&narrow, &batch, &query, &table, 0);
    let state = narrow.state();
    wide.restore(&|name| state.iter().find(|s| s.name == name).map(|s| &s.values[..])).unwrap();
    let device = Device::HOST;
    let (query, table) = (device.reals(&query).unwrap(), device.reals(&table).unwrap());
    let scoring = Scoring { kind: ScoreKind::Dot, dim: DIM, items: ITEMS, query: &query, context: None, table: &table };
    assert_eq!(wide.draw(&device, &batch, Some(&scoring), moment(1)).err().unwrap().code(), Code::M0402);
}
