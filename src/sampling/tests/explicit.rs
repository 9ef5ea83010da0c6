//! Explicit negatives: which are known when, and that draws follow the list.

use super::*;

const ITEMS: usize = 40;

/// User 0 has events 0..9 (10 is held out), user 1 events 11..16, user 2 one event.
fn world() -> World {
    let histories = [vec![30, 31, 32, 33, 34, 35, 36, 37, 30, 31], vec![0, 3, 5, 8, 13, 18], vec![20]];
    // Item 23 and what else no history has is not trained.
    let rest: Vec<u32> = (0..ITEMS as u32).filter(|&i| i != 23).collect();
    World::new(ITEMS, &[&histories[..], &[rest]].concat(), 1, |_, _| 0)
}

/// What the world's rule says of `user` at its `at`-th event: entry j is known from the j-th event on.
fn known(world: &World, user: usize, at: usize) -> Vec<u32> {
    let of_user = world.explicit_offsets[user] as usize..world.explicit_offsets[user + 1] as usize;
    world.explicit_items[of_user].iter().take(at + 1).copied().filter(|&i| world.counts[i as usize] > 0).collect()
}

fn sampler(world: &World, n: u32, exclude: &str, propose: Vec<Kind>) -> Sampler {
    Sampler::new(&config("position", n, exclude, propose, true), &world.knowledge(), 6).unwrap()
}

/// The row that predicts the `at`-th training event of `user`.
fn row(world: &World, user: usize, at: usize, seen: &[u32]) -> Batch {
    let event = world.offsets[user] + at as u64;
    let target = world.event_items[event as usize];
    Batch { users: vec![user as u32], row_keys: vec![event].into(), ..batch(1, 1, target, 0, seen) }
}

#[test]
fn draws_follow_what_was_known_by_then() {
    let world = world();
    for (user, at) in [(0, 0), (0, 3), (0, 6), (0, 9), (1, 2), (1, 5), (2, 0)] {
        for seen in [vec![], known(&world, user, at)[..1].to_vec(), vec![0, 5, 10, 15]] {
            let batch = row(&world, user, at, &seen);
            let excluded: Vec<u32> = seen.iter().copied().chain([batch.targets[0]]).collect();
            let mut weights = vec![0.0; ITEMS];
            known(&world, user, at).iter().for_each(|&i| weights[i as usize] += 1.0);
            let total: f64 = weights.iter().sum();
            let what = format!("user {user} at {at}, {} seen", seen.len());
            if weights.iter().enumerate().all(|(i, &w)| w == 0.0 || excluded.contains(&(i as u32))) {
                let drawn = drawn(&sampler(&world, 50, "history", vec![kind("explicit", &[])]), &batch);
                assert!(drawn.ids.iter().all(|&i| i == NONE), "{what}: nothing is left");
                continue;
            }
            let drawn_alone = drawn(&sampler(&world, 4000, "history", vec![kind("explicit", &[])]), &batch);
            faults(&drawn_alone, &law(&weights, &excluded)).unwrap_or_else(|fault| panic!("{what}: {fault}"));
            // Three parts of the list and one of everything.
            let trained = world.counts.iter().filter(|&&f| f > 0).count() as f64;
            let uniform = |i: usize| if world.counts[i] > 0 { 1.0 / trained } else { 0.0 };
            let mixed: Vec<f64> = (0..ITEMS).map(|i| 0.75 * weights[i] / total + 0.25 * uniform(i)).collect();
            let of = |name: &str, share: f64| kind(name, &[("share", number(share))]);
            let mixture = vec![of("explicit", 3.0), of("uniform", 1.0)];
            let drawn_mixed = drawn(&sampler(&world, 4000, "history", mixture), &batch);
            faults(&drawn_mixed, &law(&mixed, &excluded)).unwrap_or_else(|fault| panic!("{what}, mixed: {fault}"));
        }
    }
}

#[test]
fn without_a_list_the_law_is_uniform() {
    let mut world = world();
    // User 2 said everything after its only event.
    let of_user = world.explicit_offsets[2] as usize..world.explicit_offsets[3] as usize;
    world.explicit_times[of_user].fill(i64::MAX);
    let batch = row(&world, 2, 0, &[]);
    let weights: Vec<f64> = world.counts.iter().map(|&f| f64::from(u8::from(f > 0))).collect();
    let drawn = drawn(&sampler(&world, 4000, "target", vec![kind("explicit", &[])]), &batch);
    faults(&drawn, &law(&weights, &[20])).unwrap();
}

#[test]
fn without_times_all_of_the_list_is_known() {
    let world = world();
    let mut knowledge = world.knowledge();
    let whole = knowledge.explicit.map(|explicit| Explicit { times: None, ..explicit });
    knowledge.explicit = whole;
    let config = config("position", 4000, "none", vec![kind("explicit", &[])], true);
    let sampler = Sampler::new(&config, &knowledge, 6).unwrap();
    let mut weights = vec![0.0; ITEMS];
    known(&world, 0, 100).iter().for_each(|&i| weights[i as usize] += 1.0);
    faults(&drawn(&sampler, &row(&world, 0, 0, &[])), &law(&weights, &[])).unwrap();
}

#[test]
fn rows_of_one_target_are_not_taken_for_each_other() {
    let world = world();
    // The same target at events 0 and 8 of user 0, all but two items seen: what the first enumerates is not the second's.
    let seen: Vec<u32> = known(&world, 0, 0);
    let (first, second) = (world.offsets[0], world.offsets[0] + 8);
    let batch = Batch {
        row_keys: vec![first, second, first, second].into(),
        targets: vec![30; 4].into(),
        ..Batch { users: vec![0], ..batch(1, 4, 30, 0, &seen) }
    };
    let drawn = drawn(&sampler(&world, 500, "history", vec![kind("explicit", &[])]), &batch);
    for (r, at) in [0, 8, 0, 8].into_iter().enumerate() {
        let mut weights = vec![0.0; ITEMS];
        known(&world, 0, at).iter().filter(|i| !seen.contains(i)).for_each(|&i| weights[i as usize] += 1.0);
        match at {
            0 => assert!(drawn.ids_of(r).iter().all(|&i| i == NONE)),
            _ => {
                let own = law(&weights, &[30]);
                verdict(&count(ITEMS, drawn.ids_of(r).iter().copied()), &own).unwrap();
                for (&id, &log_q) in drawn.ids_of(r).iter().zip(&drawn.log_q[r * 500..]) {
                    assert!((f64::from(log_q) - own[id as usize].ln()).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn a_log_that_does_not_say_is_refused() {
    let world = world();
    let nobody = Explicit { offsets: &[0; 5], items: &[], times: None };
    for explicit in [None, Some(nobody)] {
        let knowledge = Knowledge { explicit, ..world.knowledge() };
        let config = config("position", 4, "none", vec![kind("explicit", &[])], false);
        let error = Sampler::new(&config, &knowledge, 6).err().unwrap();
        assert_eq!(error.code(), Code::D0303);
        assert!(error.to_string().contains("`data.min_weight`"), "{error}");
    }
}
