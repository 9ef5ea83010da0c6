//! Ids are a function of the row: nothing else in a batch, and no thread, changes them; and what rows share is marked.

use super::*;

#[test]
fn ids_do_not_depend_on_batching_order_or_threads() {
    let world = steep();
    let whole = Batch {
        users: vec![4, 9, 2],
        offsets: vec![0, 5, 6, 13],
        items: vec![0; 13],
        targets: (0..13).map(|r| (r * 3 % 6) as u32).collect(),
        row_keys: (0..13).map(|r| 77 + 13 * r as u64).collect(),
        target_clusters: (0..13).map(|r| r % 3).collect(),
        seen_offsets: vec![0, 4, 6, 36],
        seen: vec![0, 1, 2, 3, 4, 5].into_iter().chain(0..30).collect(),
        ..Batch::default()
    };
    let pick = |b: usize| {
        let (rows, seen) = (whole.range(b), whole.seen_of(b).to_vec());
        Batch {
            users: vec![whole.users[b]],
            offsets: vec![0, rows.len() as u32],
            items: vec![0; rows.len()],
            targets: whole.targets[rows.clone()].to_vec(),
            row_keys: whole.row_keys[rows.clone()].to_vec(),
            target_clusters: whole.target_clusters[rows].to_vec(),
            seen_offsets: vec![0, seen.len() as u32],
            seen,
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
            for (r, target) in batch.targets.iter_mut().enumerate() {
                *target = [1, 4, 2, 50][r % 4];
            }
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
