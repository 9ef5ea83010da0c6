//! The memory of SRNS: what is taken from it, how it is renewed, and that it survives a checkpoint.

use super::*;
use crate::device::Buffer;
use crate::ops::score::ScoreKind;

const ITEMS: usize = 40;

/// Score of item i is `sign * i / 10` for every row.
fn draw(sampler: &Sampler, batch: &Batch, sign: f64, epoch: u64) -> Negatives {
    let device = Device::HOST;
    let buffer = |x: Vec<f64>| -> Buffer { device.reals(&x).unwrap() };
    let (query, table) = (buffer(vec![sign; batch.rows()]), buffer((0..ITEMS).map(|i| i as f64 / 10.0).collect()));
    let scoring = Scoring { kind: ScoreKind::Dot, dim: 1, items: ITEMS, query: &query, context: None, table: &table };
    let moment = Moment { epoch: epoch as f64, epoch_index: epoch, batch_index: 0 };
    sampler.draw(&device, batch, Some(&scoring), moment).unwrap()
}

fn sampler(params: &[(&str, Value)], n: u32, exclude: &str) -> Sampler {
    let world = World::new(ITEMS, &[(0..ITEMS as u32).collect()], 1, |_, _| 0);
    let select = kind("memory", params);
    let config = config::Sampler { select: Some(select), ..config("sequence", n, exclude, vec![kind("uniform", &[])], false) };
    Sampler::new(&config, &world.knowledge(), 5).unwrap()
}

/// (user, item) of everything remembered, in the order of the checkpoint.
fn remembered(sampler: &Sampler) -> Vec<(u32, u32)> {
    let state = sampler.state();
    let id = |x: &[f32]| (x[0] as u32) << 16 | x[1] as u32;
    state[0].values.chunks_exact(2).zip(state[1].values.chunks_exact(5)).map(|(u, e)| (id(u), id(e))).collect()
}

#[test]
fn without_variance_the_highest_of_the_memory_is_taken() {
    let sampler = sampler(&[("alpha", number(0.0)), ("size", number(4.0)), ("candidates", number(16.0))], 2, "history");
    let batch = batch(3, 5, 7, 0, &[1, 7, 39]);
    draw(&sampler, &batch, 1.0, 0);
    for epoch in 1..6 {
        let before = remembered(&sampler);
        let negatives = draw(&sampler, &batch, 1.0, epoch);
        for r in 0..15 {
            let mut own: Vec<u32> = before.iter().filter(|(u, _)| *u == r / 5).map(|(_, i)| *i).collect();
            own.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(negatives.ids_of(r as usize), &own[..2]);
        }
        assert_eq!(before.len(), 12);
        assert!(before.iter().all(|(_, i)| ![1, 7, 39].contains(i)), "excluded items are not remembered: {before:?}");
    }
}

#[test]
fn a_cold_memory_keeps_the_highest_and_a_hot_one_keeps_anything() {
    let mean = |temperature: f64| {
        let params = [("temperature", number(temperature)), ("size", number(4.0)), ("candidates", number(16.0))];
        let sampler = sampler(&params, 1, "target");
        let batch = batch(50, 1, 7, 0, &[]);
        (0..8).for_each(|epoch| drop(draw(&sampler, &batch, 1.0, epoch)));
        let items = remembered(&sampler);
        items.iter().map(|(_, i)| f64::from(*i)).sum::<f64>() / items.len() as f64
    };
    let (cold, hot) = (mean(1e-3), mean(1e6));
    // Uniform memories have mean 19.8 and standard error 0.8; the four highest have mean 37.5.
    assert!(cold > 36.0 && (16.0..24.0).contains(&hot), "cold {cold}, hot {hot}");
}

#[test]
fn what_varies_is_preferred_and_what_is_restored_goes_on() {
    let params = [("alpha", number(100.0)), ("size", number(6.0)), ("candidates", number(6.0)), ("temperature", number(1e6))];
    let make = || sampler(&params, 1, "target");
    let (whole, batch) = (make(), batch(20, 2, 20, 0, &[]));
    // Scores turn about zero, so items far from item 20 vary most against it.
    for epoch in 0..5 {
        draw(&whole, &batch, if epoch % 2 == 0 { 1.0 } else { -1.0 }, epoch);
    }
    let state = whole.state();
    let variances: BTreeMap<(u32, u32), f32> =
        remembered(&whole).into_iter().zip(state[1].values.chunks_exact(5).map(|e| e[4])).collect();
    let continued = make();
    continued.restore(&|name| state.iter().find(|s| s.name == name).map(|s| &s.values[..])).unwrap();
    assert_eq!(continued.state(), state);
    let (a, b) = (draw(&whole, &batch, 1.0, 5), draw(&continued, &batch, 1.0, 5));
    assert_eq!(a.ids, b.ids);
    assert_eq!(whole.state(), continued.state());
    // Nothing of what came since is left where an earlier state is taken back.
    continued.restore(&|name| state.iter().find(|s| s.name == name).map(|s| &s.values[..])).unwrap();
    assert_eq!(continued.state(), state);
    assert_ne!(draw(&make(), &batch, 1.0, 5).ids, a.ids, "the memory matters");
    for (r, &id) in a.ids.iter().enumerate() {
        let user = r as u32 / 2;
        let best = variances.iter().filter(|((u, _), _)| *u == user).map(|(_, v)| *v).fold(0.0, f32::max);
        let own = variances[&(user, id)];
        // A hundred standard deviations outweigh any sigmoid once they differ by a hundredth.
        assert!(best.sqrt() - own.sqrt() < 0.011, "user {user}: {own} of {best}");
    }
}

#[test]
fn a_memory_that_does_not_fit_is_refused() {
    let sampler = sampler(&[], 1, "target");
    for bad in [&[1.0f32, 2.0, 3.0][..], &[0.5, 0.0], &[70000.0, 0.0], &[f32::NAN, 0.0]] {
        let find = |name: &str| if name == "memory.users" { Some(bad) } else { Some(&[0.0f32; 5][..]) };
        assert_eq!(sampler.restore(&find).unwrap_err().code(), Code::M0402, "{bad:?}");
    }
}

#[test]
fn scores_that_are_no_numbers_choose_something() {
    let sampler = sampler(&[], 3, "target");
    let negatives = draw(&sampler, &batch(2, 2, 7, 0, &[]), f64::NAN, 0);
    assert!(negatives.ids.iter().all(|&i| (i as usize) < ITEMS));
}
