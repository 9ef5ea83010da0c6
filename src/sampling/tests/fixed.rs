//! Laws that a table fixes, alone and mixed: what is drawn is the law, and the law is what is reported.

use super::*;
use crate::sampling::propose::{Frequencies, Place};

/// Whether what `proposal` says of every item, and of what is left without some, is `law` to a millionth.
fn implies(what: &str, proposal: &dyn Propose, place: &Place, law: &[f64]) {
    let near = |got: f64, want: f64| if want == 0.0 { got == 0.0 } else { (got / want - 1.0).abs() < 1e-6 };
    let items: Vec<u32> = (0..law.len() as u32).collect();
    let mut probs = vec![0.0; law.len()];
    proposal.prob_many(place, &items, &mut probs);
    for (&i, &prob) in items.iter().zip(&probs) {
        let (one, want) = (proposal.prob(place, i), law[i as usize]);
        assert!(near(prob, want) && near(one, want), "{what}: item {i} has {prob} and {one} for {want}");
    }
    for gone in [vec![], vec![1], vec![7, 20, 33], (0..30).collect(), (0..law.len() as u32 - 1).collect::<Vec<u32>>()] {
        let left: f64 = items.iter().filter(|i| !gone.contains(i)).map(|&i| law[i as usize]).sum();
        let found = proposal.remaining(place, &gone);
        assert!(near(found, left), "{what}: {found} is left for {left} without {} items", gone.len());
    }
}

#[test]
fn what_a_law_says_is_its_f64_law_to_a_millionth() {
    let world = steep();
    let targets: Vec<u32> = (0..97).map(|r| r * r % 13).chain([60]).collect();
    let frequencies = Frequencies::new(&targets);
    let mut of_batch = vec![0.0; 61];
    targets.iter().for_each(|&t| of_batch[t as usize] += 1.0);
    let word = |form: &str| kind("popularity", &[("form", super::word(form))]);
    let laws: Vec<(Kind, u32, Vec<f64>)> = vec![
        (kind("uniform", &[]), 0, popularity_weights(&world, |_| 1.0)),
        (kind("popularity", &[]), 0, popularity_weights(&world, |f| f.powf(0.75))),
        (kind("popularity", &[("alpha", number(2.5))]), 0, popularity_weights(&world, |f| f.powf(2.5))),
        (word("log"), 0, popularity_weights(&world, |f| (1.0 + f).ln())),
        (word("log1p"), 0, popularity_weights(&world, |f| 1.0 + (1.0 + f).ln())),
        (kind("cluster", &[]), 0, cluster_weights(&world, 0)),
        (kind("cluster", &[]), 2, cluster_weights(&world, 2)),
        (kind("in_batch", &[]), 0, of_batch),
    ];
    let place = |cluster| Place { cluster, batch: Some(&frequencies), target: 1, user: 0, event: 0, epoch: 0, visited: None };
    for (kind, cluster, weights) in &laws {
        let sampler = Sampler::new(&config("position", 1, "target", vec![kind.clone()], true), &world.knowledge(), 1).unwrap();
        implies(&format!("{kind:?}"), sampler.proposals[0].at(0).unwrap().as_ref(), &place(*cluster), &law(weights, &[]));
    }
    // All of them at once, with shares that are no fractions of two, one of them nothing.
    let shares = [0.3, 1.0, 0.0, 0.7, 2.0, 0.1, 0.1, 0.9];
    let kinds: Vec<Kind> = laws.iter().map(|law| law.0.clone()).collect();
    let sampler = Sampler::new(&config("position", 1, "target", kinds, true), &world.knowledge(), 1).unwrap();
    let parts: Vec<_> = sampler.proposals.iter().map(|proposal| proposal.at(0).unwrap()).collect();
    let mixture = Mixture::new(parts.iter().map(AsRef::as_ref).collect(), &shares);
    for cluster in 0..3 {
        let mut mixed = vec![0.0; 61];
        for ((kind, _, weights), share) in laws.iter().zip(shares) {
            let weights = if kind.kind == "cluster" { cluster_weights(&world, cluster) } else { weights.clone() };
            mixed.iter_mut().zip(law(&weights, &[])).for_each(|(sum, p)| *sum += share * p);
        }
        implies("mixture", &mixture, &place(cluster as u32), &law(&mixed, &[]));
    }
}

#[test]
fn fixed_laws_are_drawn_and_reported_under_every_exclusion() {
    let world = steep();
    let laws: Vec<(Kind, Vec<f64>)> = vec![
        (kind("uniform", &[]), popularity_weights(&world, |_| 1.0)),
        (kind("popularity", &[("alpha", number(1.0))]), popularity_weights(&world, |f| f)),
        (kind("popularity", &[]), popularity_weights(&world, |f| f.powf(0.75))),
        (kind("popularity", &[("alpha", number(0.0))]), popularity_weights(&world, |_| 1.0)),
        (kind("popularity", &[("form", word("log"))]), popularity_weights(&world, |f| (1.0 + f).ln())),
        (kind("popularity", &[("form", word("log1p"))]), popularity_weights(&world, |f| 1.0 + (1.0 + f).ln())),
        (kind("cluster", &[]), cluster_weights(&world, 2)),
    ];
    for (proposal, weights) in laws {
        for exclude in ["none", "target", "history"] {
            for seen in seen_lists() {
                let excluded = match exclude {
                    "none" => vec![],
                    "target" => vec![1],
                    _ => seen.iter().copied().chain([1]).collect(),
                };
                let sampler =
                    Sampler::new(&config("position", 37, exclude, vec![proposal.clone()], true), &world.knowledge(), 7).unwrap();
                let what = format!("{proposal:?} excluding {exclude} with {} seen", seen.len());
                check_law(&what, &sampler, &batch(3, 500, 1, 2, &seen), &law(&weights, &excluded));
            }
        }
    }
}

#[test]
fn one_cluster_is_context_free_log_popularity() {
    let world = World::new(20, &[(0..20).flat_map(|i| vec![i; 1 + i as usize * i as usize]).collect()], 1, |_, _| 0);
    let batch = batch(2, 300, 1, 0, &[3]);
    let sampler =
        Sampler::new(&config("position", 33, "history", vec![kind("cluster", &[])], true), &world.knowledge(), 1).unwrap();
    check_law("K = 1", &sampler, &batch, &law(&popularity_weights(&world, |f| 1.0 + (1.0 + f).ln()), &[1, 3]));
}

#[test]
fn mixtures_report_the_mixture_whichever_component_drew() {
    let world = steep();
    let uniform = law(&popularity_weights(&world, |_| 1.0), &[]);
    let popular = law(&popularity_weights(&world, |f| f), &[]);
    let cluster = law(&cluster_weights(&world, 1), &[]);
    let share = |s: f64| ("share", number(s));
    let mixture = vec![
        kind("uniform", &[share(1.0)]),
        kind("popularity", &[share(2.0), ("alpha", number(1.0))]),
        kind("cluster", &[share(5.0)]),
        kind("uniform", &[share(0.0)]),
    ];
    let weights: Vec<f64> = (0..61).map(|i| (uniform[i] + 2.0 * popular[i] + 5.0 * cluster[i]) / 8.0).collect();
    for seen in seen_lists() {
        let sampler = Sampler::new(&config("position", 40, "history", mixture.clone(), true), &world.knowledge(), 3).unwrap();
        let excluded: Vec<u32> = seen.iter().copied().chain([1]).collect();
        check_law("mixture", &sampler, &batch(2, 600, 1, 1, &seen), &law(&weights, &excluded));
    }
}

#[test]
fn in_batch_and_mixed_negatives_follow_the_batch() {
    let world = steep();
    let mut batch = batch(1, 900, 1, 0, &[0, 1, 2]);
    let mut frequency = vec![0.0; 61];
    batch.targets = (0..batch.rows()).map(|r| if r % 3 == 0 { 1 } else { (r % 7) as u32 }).collect();
    batch.targets.iter().for_each(|&target| frequency[target as usize] += 1.0 / 900.0);
    let uniform = law(&popularity_weights(&world, |_| 1.0), &[]);
    let mixed: Vec<f64> = (0..61).map(|i| 0.5 * uniform[i] + 0.5 * frequency[i]).collect();
    let halves = vec![kind("in_batch", &[("share", number(0.5))]), kind("uniform", &[("share", number(0.5))])];
    // Alone it reports the law over all batches, which is the log's; a mixture that reaches every item reports what it is.
    let over_batches = popularity_weights(&world, |f| f);
    let alone = vec![kind("in_batch", &[])];
    for (proposals, weights, reported) in [(alone, frequency, over_batches), (halves, mixed.clone(), mixed)] {
        let sampler = Sampler::new(&config("position", 16, "target", proposals, true), &world.knowledge(), 5).unwrap();
        let negatives = drawn(&sampler, &batch);
        // Rows of one target share a law; take the most frequent.
        let rows: Vec<usize> = (0..900).filter(|&r| batch.targets[r] == 1).collect();
        let (expected, reported) = (law(&weights, &[1]), law(&reported, &[1]));
        assert_law("in batch", &count(61, rows.iter().flat_map(|&r| negatives.ids_of(r).iter().copied())), &expected);
        for &r in &rows {
            for (slot, &id) in negatives.ids_of(r).iter().enumerate() {
                assert!((f64::from(negatives.log_q[r * 16 + slot]) - reported[id as usize].ln()).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn a_batch_without_other_targets_leaves_in_batch_slots_empty() {
    let world = steep();
    let batch = batch(2, 3, 1, 0, &[]);
    let sampler =
        Sampler::new(&config("position", 4, "target", vec![kind("in_batch", &[])], false), &world.knowledge(), 5).unwrap();
    assert_eq!(drawn(&sampler, &batch).ids, vec![NONE; 24]);
}

#[test]
fn without_repetition_the_order_and_the_inclusion_follow_the_exponential_race() {
    let world = World::new(9, &[(0..9).flat_map(|i| vec![i; 1 + 40 / (1 + i as usize)]).collect()], 1, |_, _| 0);
    let weights = cluster_weights(&world, 0);
    let distinct = |n| config("position", n, "target", vec![kind("cluster", &[("distinct", Value::Flag(true))])], true);
    let sampler = Sampler::new(&distinct(5), &world.knowledge(), 11).unwrap();
    let batch = batch(4, 5000, 8, 0, &[]);
    let negatives = drawn(&sampler, &batch);
    let expected = pairs(&weights[..8]);
    let ordered = (0..batch.rows()).map(|r| negatives.ids_of(r)[0] * 8 + negatives.ids_of(r)[1]);
    assert_law("first two", &count(64, ordered), &expected);

    // The race itself, over the whole catalogue: keys -ln(u)/w, the five smallest.
    let mut raced = [0u64; 8];
    for row in 0..batch.rows() as u64 {
        let mut keys: Vec<(f64, u32)> = (0..8u32)
            .map(|i| {
                let word = crate::rng::Draws::new(99, crate::rng::Stream::Test, 0, row).words64(u64::from(i))[0];
                (-crate::rng::open01(word).ln() / weights[i as usize], i)
            })
            .collect();
        keys.sort_by(|a, b| a.0.total_cmp(&b.0));
        keys[..5].iter().for_each(|&(_, i)| raced[i as usize] += 1);
    }
    let included = count(8, negatives.ids.iter().copied());
    for i in 0..8 {
        let p = raced[i] as f64 / batch.rows() as f64;
        let spread = (2.0 * p * (1.0 - p) * batch.rows() as f64).sqrt();
        let difference = included[i] as f64 - raced[i] as f64;
        assert!(difference.abs() < 5.0 * spread, "item {i}: included {} times, raced {}", included[i], raced[i]);
    }
    for r in 0..batch.rows() {
        let total: f64 = weights[..8].iter().sum();
        for (slot, &id) in negatives.ids_of(r).iter().enumerate() {
            assert!(!negatives.ids_of(r)[..slot].contains(&id), "a repetition in row {r}");
            let expected = (weights[id as usize] / total).ln();
            assert!((f64::from(negatives.log_q[r * 5 + slot]) - expected).abs() < 1e-5);
        }
    }
    // All there is, and not more than there is.
    let all = Sampler::new(&distinct(9), &world.knowledge(), 11).unwrap();
    let negatives = drawn(&all, &batch);
    for r in 0..50 {
        let mut ids = negatives.ids_of(r).to_vec();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7, NONE]);
    }
    assert_eq!(Sampler::new(&distinct(10), &world.knowledge(), 11).err().unwrap().code(), Code::C0205);
}

/// What a diagnosis counts: an excluded item is hit with its probability, attempt after attempt.
#[test]
fn as_many_draws_are_rejected_as_the_excluded_are_likely() {
    let world = steep();
    let weights = popularity_weights(&world, |f| f);
    let share = |items: &[u32]| items.iter().map(|&i| weights[i as usize]).sum::<f64>() / weights.iter().sum::<f64>();
    let rejected = |exclude: &str, scope: &str, propose: Kind, seen: &[u32]| {
        let sampler = Sampler::new(&config(scope, 64, exclude, vec![propose], true), &world.knowledge(), 7).unwrap();
        sampler.rejected(&batch(30, 40, 1, 0, seen), START).unwrap()
    };
    let popular = || kind("popularity", &[("alpha", number(1.0))]);
    assert_eq!(rejected("none", "position", popular(), &[0, 5]), 0.0);
    assert_eq!(rejected("target", "batch", popular(), &[0, 5]), 0.0, "the rows of a batch drop what they must not count");
    for (exclude, seen, excluded) in [
        ("target", vec![0, 5], vec![1]),
        ("history", vec![0, 5], vec![0, 1, 5]),
        ("history", (0..30).collect(), (0..30).collect()),
    ] {
        let (got, want) = (rejected(exclude, "position", popular(), &seen), share(&excluded));
        // 1,024 rows of 64 slots; the figure is a mean over some more draws than that.
        let spread = (want * (1.0 - want) / 65_536.0).sqrt();
        assert!((got - want).abs() < 5.0 * spread, "{exclude} with {} seen: {got} for {want}", seen.len());
    }
    let distinct = kind("popularity", &[("alpha", number(1.0)), ("distinct", Value::Flag(true))]);
    let all = Sampler::new(&config("sequence", 58, "none", vec![distinct], true), &world.knowledge(), 7).unwrap();
    let again = all.rejected(&batch(30, 40, 1, 0, &[]), START).unwrap();
    assert!((0.5..1.0).contains(&again), "what was drawn before counts as excluded: {again}");
    let whole = config::Sampler {
        select: Some(kind("top_k", &[])),
        ..config("position", 1, "history", vec![kind("catalogue", &[])], false)
    };
    let scanned = Sampler::new(&whole, &world.knowledge(), 7).unwrap();
    assert_eq!(scanned.rejected(&batch(30, 40, 1, 0, &[0, 5]), START).unwrap(), 0.0);
}

#[test]
fn a_law_that_moves_is_that_of_every_epoch() {
    let world = steep();
    let curve = Value::Curve(config::Curve { from: 0.0, to: 2.0, over: 4.0, shape: config::CurveShape::Linear });
    let moving = vec![kind("popularity", &[("alpha", curve)])];
    let sampler = Sampler::new(&config("position", 8, "none", moving, true), &world.knowledge(), 3).unwrap();
    let place = Place { cluster: 0, batch: None, target: 1, user: 0, event: 0, epoch: 0, visited: None };
    // Forward, on, and back.
    for epoch in [0, 1, 2, 3, 9, 2] {
        let alpha = 0.5 * (epoch as f64).min(4.0);
        let law = law(&popularity_weights(&world, |f| f.powf(alpha)), &[]);
        implies(&format!("epoch {epoch}"), sampler.proposals[0].at(epoch).unwrap().as_ref(), &place, &law);
        let moment = Moment { epoch: epoch as f64 + 0.5, epoch_index: epoch, ..START };
        let negatives = sampler.draw(&Device::HOST, &batch(2, 600, 1, 0, &[]), None, moment).unwrap();
        faults(&negatives, &law).unwrap_or_else(|fault| panic!("epoch {epoch}: {fault}"));
    }
}

#[test]
fn shares_follow_their_curves_and_must_not_all_be_zero() {
    let world = steep();
    let curve =
        |from: f64, to: f64| ("share", Value::Curve(config::Curve { from, to, over: 2.0, shape: config::CurveShape::Linear }));
    let mixture = |second: Kind| {
        let kinds = vec![kind("uniform", &[curve(0.0, 3.0)]), second];
        Sampler::new(&config("position", 40, "target", kinds, true), &world.knowledge(), 3).unwrap()
    };
    let sampler = mixture(kind("popularity", &[("alpha", number(1.0)), ("share", number(1.0))]));
    let (uniform, popular) = (law(&popularity_weights(&world, |_| 1.0), &[]), law(&popularity_weights(&world, |f| f), &[]));
    for (epoch, share) in [(0.0, 0.0), (0.5, 0.75), (1.0, 1.5), (9.0, 3.0)] {
        let weights: Vec<f64> = uniform.iter().zip(&popular).map(|(u, p)| share * u + p).collect();
        let negatives = sampler.draw(&Device::HOST, &batch(2, 600, 1, 0, &[]), None, Moment { epoch, ..START }).unwrap();
        faults(&negatives, &law(&weights, &[1])).unwrap_or_else(|fault| panic!("epoch {epoch}: {fault}"));
    }
    let nothing = mixture(kind("popularity", &[curve(0.0, 1.0)]));
    let error = nothing.draw(&Device::HOST, &batch(1, 1, 1, 0, &[]), None, START).err().unwrap();
    assert!(error.code() == Code::C0205 && error.to_string().contains("epoch 0"), "{error}");
}
