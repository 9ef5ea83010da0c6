//! Ids are a function of the row: nothing else in a batch, and no thread, changes them; and what rows share is marked.

use super::*;

#[test]
fn ids_do_not_depend_on_batching_order_or_threads() {
    let world = steep();
    let whole = Batch {
        users: vec![4, 9, 2],
        offsets: vec![0, 5, 6, 13].into(),
        items: vec![0; 13].into(),
        targets: (0..13).map(|r| (r * 3 % 6) as u32).collect(),
        row_keys: (0..13).map(|r| 77 + 13 * r as u64).collect(),
        target_clusters: (0..13).map(|r| r % 3).collect(),
        seen_extents: vec![[0, 4], [4, 6], [6, 36]],
        seen: vec![0, 1, 2, 3, 4, 5].into_iter().chain(0..30).collect(),
        ..Batch::default()
    };
    let pick = |b: usize| {
        let (rows, seen) = (whole.range(b), whole.seen_of(b).to_vec());
        Batch {
            users: vec![whole.users[b]],
            offsets: vec![0, rows.len() as u32].into(),
            items: vec![0; rows.len()].into(),
            targets: whole.targets[rows.clone()].to_vec().into(),
            row_keys: whole.row_keys[rows.clone()].to_vec().into(),
            target_clusters: whole.target_clusters[rows].to_vec().into(),
            seen_extents: vec![[0, seen.len() as u64]],
            seen: seen.into(),
            ..Batch::default()
        }
    };
    for scope in ["position", "sequence"] {
        for proposals in [
            vec![kind("uniform", &[])],
            vec![kind("popularity", &[])],
            vec![kind("uniform", &[("distinct", Value::Flag(true))])],
            vec![kind("uniform", &[]), kind("popularity", &[])],
            vec![kind("cluster", &[])],
        ] {
            if scope == "sequence" && proposals[0].kind == "cluster" {
                continue;
            }
            let sampler = Sampler::new(&config(scope, 29, "history", proposals.clone(), false), &world.knowledge(), 21).unwrap();
            let together = drawn(&sampler, &whole);
            for threads in [1, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert_eq!(pool.install(|| drawn(&sampler, &whole)).ids, together.ids, "{threads} threads");
            }
            let apart: Vec<Vec<u32>> = [2, 0, 1].iter().map(|&b| drawn(&sampler, &pick(b)).ids).collect();
            let joined: Vec<u32> = apart[1].iter().chain(&apart[2]).chain(&apart[0]).copied().collect();
            assert_eq!(joined, together.ids, "{scope} {proposals:?}");
            let later = sampler.draw(&Device::HOST, &whole, None, Moment { epoch_index: 1, ..START }).unwrap();
            assert_ne!(later.ids, together.ids, "another epoch draws anew");
        }
    }
}

#[test]
fn shared_draws_mark_what_a_row_must_not_count() {
    let world = steep();
    for scope in ["sequence", "batch"] {
        for exclude in ["none", "target", "history"] {
            let mut batch = batch(3, 7, 1, 0, &[0, 4, 9]);
            batch.targets = (0..batch.rows()).map(|r| [1, 4, 2, 50][r % 4]).collect();
            let sampler =
                Sampler::new(&config(scope, 200, exclude, vec![kind("popularity", &[])], true), &world.knowledge(), 2).unwrap();
            let negatives = drawn(&sampler, &batch);
            assert_eq!(negatives.groups(), if scope == "batch" { 1 } else { 3 });
            if exclude == "none" {
                assert!(negatives.drop.is_empty());
                continue;
            }
            for g in 0..negatives.groups() {
                for r in negatives.range(g) {
                    for (slot, id) in negatives.ids_of(g).iter().enumerate() {
                        let seen = exclude == "history" && batch.seen_of(0).contains(id);
                        assert!(!(seen && scope == "sequence"), "a sequence draws around what it has seen");
                        assert_eq!(negatives.drop[r * 200 + slot], seen || *id == batch.targets[r]);
                    }
                }
            }
        }
    }
}

/// One thread draws for many sequences, of which each has seen something else: from nothing to all but two items, which are then
/// enumerated. Each is given what it is given alone.
#[test]
fn nothing_of_a_sequence_is_left_for_the_next() {
    let world = steep();
    let trained: Vec<u32> = (0..61).filter(|i| ![7, 20, 33].contains(i)).collect();
    let seen = |user: u32| -> Vec<u32> {
        let kept = |i: &u32| match user % 4 {
            0 => false,
            1 => i % 7 != user % 7,
            2 => ![40 + user % 11, 60].contains(i),
            _ => i % 2 == user / 4 % 2,
        };
        trained.iter().copied().filter(kept).collect()
    };
    let of = |users: std::ops::Range<u32>| {
        let lists: Vec<Vec<u32>> = users.clone().map(seen).collect();
        let rows = || users.clone().flat_map(|user| (0..3).map(move |r| 10 * user + r));
        Batch {
            users: users.clone().collect(),
            offsets: (0..=users.len() as u32).map(|b| 3 * b).collect(),
            items: vec![0; 3 * users.len()].into(),
            targets: rows().map(|key| [1, 4, 60][key as usize % 3]).collect(),
            row_keys: rows().map(u64::from).collect(),
            target_clusters: rows().map(|key| key % 3).collect(),
            ..Batch::default()
        }
        .with_seen(&lists)
    };
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (scope, propose) in [
        ("position", vec![kind("uniform", &[])]),
        ("position", vec![kind("popularity", &[])]),
        ("position", vec![kind("cluster", &[])]),
        ("position", vec![kind("uniform", &[]), kind("popularity", &[("alpha", number(1.0))])]),
        ("sequence", vec![kind("popularity", &[("alpha", number(2.0))])]),
    ] {
        let sampler = Sampler::new(&config(scope, 50, "history", propose.clone(), true), &world.knowledge(), 21).unwrap();
        let together = one_thread.install(|| drawn(&sampler, &of(0..64)));
        let apart: Vec<Negatives> = (0..64).map(|user| drawn(&sampler, &of(user..user + 1))).collect();
        let joined = |of: fn(&Negatives) -> Vec<f32>| apart.iter().flat_map(of).collect::<Vec<f32>>();
        assert_eq!(apart.iter().flat_map(|n| n.ids.clone()).collect::<Vec<u32>>(), together.ids, "{scope} {propose:?}");
        assert_eq!(joined(|n| n.log_q.clone()), together.log_q, "{scope} {propose:?}");
    }
}
