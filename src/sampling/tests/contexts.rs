//! Wrong contexts of the target: which events they are taken from.

use super::*;

#[test]
fn hard_wrong_contexts_prefer_clusters_where_the_target_is_rare() {
    // Item 0 occurs 0, 1, 20 and 300 times in four clusters; cluster 4 has no events at all.
    let mut history = vec![0u32; 321];
    history.extend([1, 2, 3, 4].iter().flat_map(|&i| vec![i; 50]));
    let cluster = |event: usize, item: u32| match item {
        0 if event == 0 => 1,
        0 if event <= 20 => 2,
        0 => 3,
        i => i as usize - 1,
    };
    let world = World::new(5, &[history], 5, cluster);
    let setting = |choice: &str| config::Sampler {
        mix: Some(kind("wrong_context", &[("choice", word(choice)), ("count", number(2.0))])),
        ..config("position", 1, "target", vec![kind("uniform", &[])], false)
    };
    let batch = batch(2, 4000, 0, 0, &[]);
    let hard = Sampler::new(&setting("hard"), &world.knowledge(), 4).unwrap();
    let negatives = drawn(&hard, &batch);
    assert_eq!((negatives.wrong_contexts(), hard.wrong_contexts(0.0)), (2, 2));
    let inverse: Vec<f64> = [0.0, 1.0, 20.0, 300.0].iter().map(|n: &f64| 1.0 / (1.0 + n.ln_1p())).collect();
    let of: BTreeMap<u64, u32> =
        (0..4u32).flat_map(|k| world.cluster_events.of(k).iter().map(move |&e| (u64::from(e), k)).collect::<Vec<_>>()).collect();
    assert_law("clusters", &count(4, negatives.wrong_context.iter().map(|e| of[e])), &law(&inverse, &[]));
    let events: Vec<f64> = (0..521u64).map(|e| inverse[of[&e] as usize] / world.cluster_events.of(of[&e]).len() as f64).collect();
    assert_law("events", &count(521, negatives.wrong_context.iter().map(|&e| e as u32)), &law(&events, &[]));

    let random = Sampler::new(&setting("random"), &world.knowledge(), 4).unwrap();
    let drawn = drawn(&random, &batch).wrong_context;
    let others: Vec<f64> = (0..521).map(|e| if world.event_items[e] == 0 { 0.0 } else { 1.0 }).collect();
    assert_law("random", &count(521, drawn.iter().map(|&e| e as u32)), &law(&others, &[]));
}
