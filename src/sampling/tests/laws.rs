//! Laws that know the data: each against its definition, computed the slow and obvious way from the same small world.

use super::*;
use crate::rng::{Draws, Stream, below};
use crate::sampling::propose::Place;

const ITEMS: usize = 40;
const USERS: usize = 25;
/// Items from here on occur in no training event.
const UNTRAINED: u32 = 37;

fn histories() -> Vec<Vec<u32>> {
    let draws = Draws::new(4, Stream::Test, 0, 0);
    (0..USERS as u64)
        .map(|user| {
            let length = 1 + below(draws.words64(user << 20)[0], 9);
            let word = |at: u64| draws.words64(user << 20 | (at + 1));
            // The smaller of two: some items are popular, some items repeat.
            (0..length).map(|at| word(at).map(|w| below(w, u64::from(UNTRAINED)) as u32)).map(|[a, b]| a.min(b)).collect()
        })
        .collect()
}

fn crowd() -> World {
    World::new(ITEMS, &histories(), 1, |_, _| 0)
}

fn trained(world: &World) -> Vec<u32> {
    (0..ITEMS as u32).filter(|&i| world.counts[i as usize] > 0).collect()
}

fn uniform(world: &World) -> Vec<f64> {
    law(&popularity_weights(world, |_| 1.0), &[])
}

fn codes(world: &World, item: u32) -> Vec<u32> {
    world.knowledge().attributes.unwrap().of(item).to_vec()
}

fn same_attribute(world: &World, target: u32, popular: bool) -> Vec<f64> {
    let f = |i: u32| if popular { f64::from(world.counts[i as usize]) } else { 1.0 };
    let mut ways = Vec::new();
    for code in codes(world, target) {
        let group: Vec<u32> = trained(world).into_iter().filter(|&i| i != target && codes(world, i).contains(&code)).collect();
        if !group.is_empty() {
            let weights: Vec<f64> = (0..ITEMS as u32).map(|i| if group.contains(&i) { f(i) } else { 0.0 }).collect();
            ways.push(law(&weights, &[]));
        }
    }
    match ways.len() {
        0 => uniform(world),
        n => (0..ITEMS).map(|i| ways.iter().map(|way| way[i]).sum::<f64>() / n as f64).collect(),
    }
}

/// Two hops in a matrix of items and entities, hop by hop.
fn graph_walk(world: &World, target: u32) -> Vec<f64> {
    let graph = world.knowledge().graph.unwrap();
    let around = |entity: u32| -> Vec<u32> {
        trained(world).into_iter().filter(|&i| i != target && graph.of(i).contains(&entity)).collect()
    };
    let entities: Vec<u32> = graph.of(target).iter().copied().filter(|&e| !around(e).is_empty()).collect();
    if entities.is_empty() {
        return uniform(world);
    }
    let mut probs = vec![0.0; ITEMS];
    for &entity in &entities {
        let items = around(entity);
        items.iter().for_each(|&i| probs[i as usize] += 1.0 / entities.len() as f64 / items.len() as f64);
    }
    probs
}

fn attribute_neighbours(world: &World, target: u32, most: usize, idf: bool) -> Vec<f64> {
    let trained = trained(world);
    let vector = |item: u32| -> Vec<f64> {
        (0..10)
            .map(|code| {
                let carriers = trained.iter().filter(|&&i| codes(world, i).contains(&code)).count();
                let value = if idf { (trained.len() as f64 / carriers as f64).ln() } else { 1.0 };
                if codes(world, item).contains(&code) { value } else { 0.0 }
            })
            .collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let own = vector(target);
    let mut near: Vec<(f64, u32)> = trained
        .iter()
        .filter(|&&i| i != target)
        .map(|&i| (dot(&own, &vector(i)) / (dot(&own, &own) * dot(&vector(i), &vector(i))).sqrt(), i))
        .filter(|(cosine, _)| *cosine > 0.0)
        .collect();
    // Rounded, so that equal cosines computed by another formula tie here too.
    near.iter_mut().for_each(|n| n.0 = (n.0 * 1e12).round());
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    near.truncate(most);
    if near.is_empty() {
        return uniform(world);
    }
    (0..ITEMS as u32).map(|i| if near.iter().any(|n| n.1 == i) { 1.0 / near.len() as f64 } else { 0.0 }).collect()
}

fn surroundings(item: u32, most: usize) -> Vec<u32> {
    let mut weights = [0.0; ITEMS];
    for history in histories() {
        for (a, &x) in history.iter().enumerate() {
            for (b, &y) in history.iter().enumerate() {
                let gap = a.abs_diff(b);
                if x == item && y != item && (1..=3).contains(&gap) {
                    weights[y as usize] += 1.0 / gap as f64;
                }
            }
        }
    }
    let mut met: Vec<u32> = (0..ITEMS as u32).filter(|&i| weights[i as usize] > 0.0).collect();
    met.sort_by_key(|&i| (-(weights[i as usize] * 6.0).round() as i64, i));
    met.truncate(most);
    met
}

fn transition_neighbours(world: &World, target: u32, most: usize, hardness: f64) -> Vec<f64> {
    let own = surroundings(target, most);
    let mut weights = vec![0.0; ITEMS];
    for &j in &own {
        let theirs = surroundings(j, most);
        let common = own.iter().filter(|i| theirs.contains(i)).count();
        let overlap = common as f64 / (own.len() + theirs.len() - common) as f64;
        if overlap <= hardness {
            weights[j as usize] = overlap.exp();
        }
    }
    if weights.iter().sum::<f64>() == 0.0 { uniform(world) } else { law(&weights, &[]) }
}

fn user_walk(user: usize) -> Vec<f64> {
    let histories = histories();
    let mut probs = vec![0.0; ITEMS];
    for &first in &histories[user] {
        let meetings: Vec<usize> =
            (0..USERS).flat_map(|w| vec![w; histories[w].iter().filter(|&&i| i == first).count()]).collect();
        for &other in &meetings {
            for &last in &histories[other] {
                probs[last as usize] +=
                    1.0 / histories[user].len() as f64 / meetings.len() as f64 / histories[other].len() as f64;
            }
        }
    }
    probs
}

/// A kind with parameters, and its law at (target, user, epoch).
type Defined<'a> = (Kind, Box<dyn Fn(u32, usize, u64) -> Vec<f64> + 'a>);

fn defined(world: &World) -> Vec<Defined<'_>> {
    let mut all: Vec<Defined> = Vec::new();
    for (items, popular) in [("uniform", false), ("popularity", true)] {
        let kind = kind("same_attribute", &[("items", word(items))]);
        all.push((kind, Box::new(move |t, _, _| same_attribute(world, t, popular))));
    }
    all.push((kind("graph_walk", &[]), Box::new(|t, _, _| graph_walk(world, t))));
    for (weighting, idf, most) in [("equal", false, 5), ("idf", true, 5), ("idf", true, 100)] {
        let kind = kind("attribute_neighbours", &[("weighting", word(weighting)), ("neighbours", number(most as f64))]);
        all.push((kind, Box::new(move |t, _, _| attribute_neighbours(world, t, most, idf))));
    }
    for most in [6usize, 100] {
        let rising = Value::Curve(config::Curve { from: 0.0, to: 0.5, over: 10.0, shape: config::CurveShape::Linear });
        let kind = kind("transition_neighbours", &[("hardness", rising), ("neighbours", number(most as f64))]);
        let hardness = |epoch: u64| 0.5 * (epoch as f64 / 10.0).min(1.0);
        all.push((kind, Box::new(move |t, _, epoch| transition_neighbours(world, t, most, hardness(epoch)))));
    }
    all.push((kind("user_walk", &[]), Box::new(|_, user, _| user_walk(user))));
    all
}

fn sampler(world: &World, exclude: &str, propose: Vec<Kind>) -> Sampler {
    Sampler::new(&config("position", 40, exclude, propose, true), &world.knowledge(), 6).unwrap()
}

#[test]
fn laws_are_their_definitions_and_sum_to_one() {
    let world = crowd();
    assert!(trained(&world).len() < ITEMS && trained(&world).len() > 25);
    for (kind, definition) in defined(&world) {
        let sampler = sampler(&world, "none", vec![kind.clone()]);
        let law = sampler.proposals[0].at(0).unwrap();
        let mut fallbacks = 0;
        for (target, user) in (0..ITEMS as u32).map(|t| (t, t as usize % USERS)) {
            for epoch in [0, 3, 10, 30] {
                let place = Place { cluster: 0, batch: None, target, user: user as u32, event: 0, epoch, visited: None };
                let expected = definition(target, user, epoch);
                let at = format!("{kind:?} at target {target}, user {user}, epoch {epoch}");
                fallbacks += usize::from(expected == uniform(&world));
                let items: Vec<u32> = (0..ITEMS as u32).collect();
                let mut probs = vec![0.0; ITEMS];
                law.prob_many(&place, &items, &mut probs);
                assert!((probs.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{at}");
                for &i in &items {
                    let (prob, expected) = (probs[i as usize], expected[i as usize]);
                    assert!((prob - expected).abs() < 1e-12, "{at}: item {i} has {prob} for {expected}");
                    assert_eq!(prob, law.prob(&place, i), "{at}: one by one");
                    let visits = law.visits(place.user);
                    assert_eq!(prob, law.prob(&Place { visited: visits.as_deref(), ..place }, i), "{at}: visits at hand");
                }
                if let Some(support) = law.support(&place) {
                    let positive: Vec<u32> = items.iter().copied().filter(|&i| expected[i as usize] > 0.0).collect();
                    assert_eq!(support, positive, "{at}");
                }
                for gone in [vec![], vec![1, 5, 9, 2], (0..20).collect(), (1..ITEMS as u32).collect(), items.clone()] {
                    let left: f64 = items.iter().filter(|i| !gone.contains(i)).map(|&i| expected[i as usize]).sum();
                    let found = law.remaining(&place, &gone);
                    assert!((found - left).abs() <= 1e-12 * (left + 1e-3), "{at}: {found} is left for {left}");
                }
            }
        }
        // Items 0, 5, 10 ... carry no attributes, 0, 7, 14 ... are in no graph; a rising bound lets nothing in at first.
        assert_eq!(fallbacks > 0, kind.kind != "user_walk", "{kind:?}");
    }
}

#[test]
fn draws_follow_the_laws_under_every_exclusion() {
    let world = crowd();
    for (kind, definition) in defined(&world) {
        for (target, user) in [(1u32, 3usize), (4, 7), (10, 11)] {
            let weights = definition(target, user, 7);
            let mut heaviest: Vec<u32> = (0..ITEMS as u32).filter(|&i| weights[i as usize] > 0.0 && i != target).collect();
            heaviest.sort_by(|&a, &b| weights[b as usize].total_cmp(&weights[a as usize]).then(a.cmp(&b)));
            // All but the two least likely are seen: rejection gives up and the rest is enumerated.
            let mut most = heaviest[..heaviest.len().saturating_sub(2)].to_vec();
            most.sort_unstable();
            for seen in [vec![], vec![2, 6, 9], most] {
                let excluded: Vec<u32> = seen.iter().copied().chain([target]).collect();
                let batch = Batch { users: vec![user as u32], ..batch(1, 800, target, 0, &seen) };
                let draw = |propose: Vec<Kind>| {
                    let moment = Moment { epoch: 7.4, epoch_index: 7, batch_index: 0 };
                    sampler(&world, "history", propose).draw(&Device::HOST, &batch, None, moment).unwrap()
                };
                let what = format!("{kind:?} of target {target} with {} seen", seen.len());
                let own = law(&weights, &excluded);
                faults(&draw(vec![kind.clone()]), &own).unwrap_or_else(|fault| panic!("{what}: {fault}"));

                let share = |kind: &Kind, share: f64| {
                    let mut kind = kind.clone();
                    kind.params.insert("share".into(), number(share));
                    kind
                };
                let mixed: Vec<f64> = weights.iter().zip(uniform(&world)).map(|(q, u)| 0.75 * q + 0.25 * u).collect();
                let mixture = vec![share(&kind, 3.0), share(&super::kind("uniform", &[]), 1.0)];
                faults(&draw(mixture), &law(&mixed, &excluded)).unwrap_or_else(|fault| panic!("{what}, mixed: {fault}"));
            }
        }
    }
}

#[test]
fn what_one_row_enumerates_is_not_taken_for_another_target() {
    let world = crowd();
    let seen: Vec<u32> = (0..ITEMS as u32).filter(|i| ![4, 13, 19, 28, 31, 34].contains(i)).collect();
    for (kind, definition) in defined(&world).into_iter().filter(|(k, _)| k.kind != "user_walk") {
        let mut batch = batch(1, 1200, 1, 0, &seen);
        batch.targets = (0..batch.rows()).map(|r| [1, 7, 10, 16][r % 4]).collect();
        let moment = Moment { epoch: 10.0, epoch_index: 10, batch_index: 0 };
        let negatives = sampler(&world, "history", vec![kind.clone()]).draw(&Device::HOST, &batch, None, moment).unwrap();
        for target in [1u32, 7, 10, 16] {
            let weights = definition(target, 0, 10);
            let rows: Vec<usize> = (0..1200).filter(|&r| batch.targets[r] == target).collect();
            let ids = || rows.iter().flat_map(|&r| negatives.ids_of(r).iter().copied());
            if (0..ITEMS as u32).all(|i| seen.contains(&i) || weights[i as usize] == 0.0) {
                assert!(ids().all(|i| i == NONE), "{kind:?}: nothing is left to draw for {target}");
                assert!(rows.iter().all(|&r| negatives.log_q[r * 40] == 0.0));
                continue;
            }
            let expected = law(&weights, &seen);
            verdict(&count(ITEMS, ids()), &expected).unwrap_or_else(|fault| panic!("{kind:?} of target {target}: {fault}"));
            for (slot, id) in
                rows.iter().flat_map(|&r| negatives.ids_of(r).iter().enumerate().map(move |(s, &i)| (r * 40 + s, i)))
            {
                assert!((f64::from(negatives.log_q[slot]) - expected[id as usize].ln()).abs() < 1e-5, "{kind:?} of {target}");
            }
        }
    }
}

#[test]
fn ids_are_a_function_of_the_row_whatever_else_is_in_the_batch() {
    let world = crowd();
    let users = [3u32, 0, 17, 8];
    let of = |users: &[u32]| {
        let rows = |user: u32| (0..6u32).map(move |r| (u64::from(1000 + 10 * user + r), (user * 5 + r * 7) % UNTRAINED));
        let seen: Vec<Vec<u32>> = users.iter().map(|&u| (u..u + 9).collect()).collect();
        Batch {
            users: users.to_vec(),
            offsets: (0..=users.len() as u32).map(|b| b * 6).collect(),
            items: vec![0; users.len() * 6].into(),
            row_keys: users.iter().flat_map(|&u| rows(u).map(|r| r.0)).collect(),
            targets: users.iter().flat_map(|&u| rows(u).map(|r| r.1)).collect(),
            target_clusters: vec![0; users.len() * 6].into(),
            seen_extents: (0..users.len() as u64).map(|b| [9 * b, 9 * b + 9]).collect(),
            seen: seen.concat().into(),
            ..Batch::default()
        }
    };
    for (kind, _) in defined(&world) {
        let sampler = sampler(&world, "history", vec![kind.clone()]);
        let together = drawn(&sampler, &of(&users));
        let apart: Vec<Negatives> = users.iter().map(|&u| drawn(&sampler, &of(&[u]))).collect();
        assert_eq!(apart.iter().flat_map(|n| n.ids.clone()).collect::<Vec<_>>(), together.ids, "{kind:?}");
        assert_eq!(apart.iter().flat_map(|n| n.log_q.clone()).collect::<Vec<_>>(), together.log_q, "{kind:?}");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| self::sampler(&world, "history", vec![kind.clone()]));
            assert_eq!(drawn(&again, &of(&users)).ids, together.ids, "{kind:?}: table and draws on {threads} threads");
        }
    }
}

#[test]
fn held_out_events_change_nothing() {
    let world = crowd();
    let mut other = crowd();
    for user in 0..USERS {
        // The held-out event becomes an item that shares much with others.
        other.event_items[world.train_end[user] as usize] = (user % 7) as u32;
    }
    for (kind, _) in defined(&world) {
        let both = [&world, &other].map(|w| sampler(w, "none", vec![kind.clone()]));
        for target in 0..ITEMS as u32 {
            let place =
                Place { cluster: 0, batch: None, target, user: target % USERS as u32, event: 0, epoch: 10, visited: None };
            for item in 0..ITEMS as u32 {
                let [a, b] = [0, 1].map(|w| both[w].proposals[0].at(0).unwrap().prob(&place, item));
                assert_eq!(a, b, "{kind:?}");
                assert!(world.counts[item as usize] > 0 || a == 0.0, "{kind:?}: item {item} has no training event");
            }
        }
    }
}
