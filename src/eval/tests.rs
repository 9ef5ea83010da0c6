//! Evaluation as a whole: hand-made rankers over hand-made requests.

use super::*;
use crate::eval::lists::ListWriter;
use crate::ids::NONE;

/// Scores by a function of (user, item).
struct By<F: FnMut(u32, u32) -> f32>(usize, F);

impl<F: FnMut(u32, u32) -> f32> Ranker for By<F> {
    fn items(&self) -> usize {
        self.0
    }
    fn score(&mut self, requests: &Batch, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        for &user in &requests.users {
            out.extend((0..self.0 as u32).map(|i| (self.1)(user, i)));
        }
        Ok(())
    }
    fn name(&self) -> &str {
        "by hand"
    }
}

const ITEMS: usize = 103;
const USERS: u32 = 61;

/// User u has seen a few items from `first` on, and its target follows them.
fn seen(user: u32) -> Vec<u32> {
    let first = user * 7 % 90;
    (first..first + 1 + user % 9).collect()
}

fn wanted(user: u32) -> u32 {
    (seen(user)[0] + user % 9 + 1 + user % 4) % ITEMS as u32
}

fn gather(targets: &[Target]) -> Result<Batch> {
    let users = || targets.iter().map(|target| target.user);
    let histories: Vec<Vec<u32>> = users().map(seen).collect();
    let mut offsets = vec![0];
    histories.iter().for_each(|history| offsets.push(offsets[offsets.len() - 1] + history.len() as u32));
    let following = |(history, user): (&Vec<u32>, u32)| [&history[1..], &[wanted(user)]].concat();
    let targets = histories.iter().zip(users()).flat_map(following).collect();
    let items = histories.concat().into();
    Ok(Batch { users: users().collect(), offsets: offsets.into(), items, targets, ..Batch::default() }.with_seen(&histories))
}

fn targets() -> Vec<Target> {
    (0..USERS).map(|user| Target { user, history_end: 0, at: 10 * u64::from(user) }).collect()
}

fn counts() -> Vec<u32> {
    (0..ITEMS as u32).map(|i| 200 / (i + 1)).collect()
}

/// Two attributes per item, of ten and of three.
fn attributes() -> (Vec<u64>, Vec<u32>) {
    ((0..=ITEMS as u64).map(|i| 2 * i).collect(), (0..ITEMS as u32).flat_map(|i| [i % 10, 10 + i % 3]).collect())
}

/// Every user's history and target.
fn log() -> (Vec<u64>, Vec<u32>) {
    let (mut offsets, mut items) = (vec![0], vec![]);
    for user in 0..USERS {
        items.extend(seen(user));
        items.push(wanted(user));
        offsets.push(items.len() as u64);
    }
    (offsets, items)
}

fn facts<'a>(train_counts: &'a [u32], offsets: &'a [u64], event_items: &'a [u32]) -> Facts<'a> {
    let (split, data_hash) = ("loo test".into(), "00ff".into());
    Facts { train_counts, attributes: None, offsets, event_items, split, data_hash, left_out: vec![] }
}

fn run(ranker: &mut dyn Ranker, targets: &[Target], config: &config::Eval, rows: usize) -> Result<Evaluation> {
    let (counts, (offsets, codes)) = (counts(), attributes());
    let (log_offsets, log) = log();
    let mut facts = facts(&counts, &log_offsets, &log);
    facts.attributes = Some(Attributes { offsets: &offsets, codes: &codes });
    facts.left_out = vec![("with fewer than 3 events".into(), 2)];
    evaluate_in_tiles(ranker, &mut gather, targets, &facts, config, rows, &mut |_, _| {})
}

/// Scores with many ties.
fn uneven(user: u32, item: u32) -> f32 {
    (Draws::new(1, Stream::Test, 0, 0).words(u64::from(user) << 32 | u64::from(item))[0] % 24) as f32
}

/// Distinct scores: a permutation of the items that depends on the user.
fn distinct(user: u32, item: u32) -> f32 {
    ((item * 37 + user * 11) % ITEMS as u32) as f32
}

fn config(change: impl Fn(&mut config::Eval)) -> config::Eval {
    let mut eval = config::Eval { at: vec![1, 5, 10], ..config::Eval::default() };
    change(&mut eval);
    eval
}

#[test]
fn figures_follow_from_first_principles() {
    for exclude_seen in [true, false] {
        let got = run(&mut By(ITEMS, distinct), &targets(), &config(|e| e.exclude_seen = exclude_seen), 7).unwrap();
        let (mut hr, mut gain, mut rr) = (0.0, 0.0, 0.0);
        let mut shown = vec![0u64; ITEMS];
        for user in 0..USERS {
            let own = distinct(user, wanted(user));
            let mut open: Vec<u32> = (0..ITEMS as u32).collect();
            open.retain(|i| *i == wanted(user) || !exclude_seen || !seen(user).contains(i));
            open.sort_by(|&a, &b| distinct(user, b).total_cmp(&distinct(user, a)));
            let rank = 1 + open.iter().filter(|&&i| distinct(user, i) > own).count();
            assert_eq!(got.outcomes[user as usize].rank, rank as f64);
            if rank <= 10 {
                hr += 1.0 / f64::from(USERS);
                gain += 1.0 / (rank as f64 + 1.0).log2() / f64::from(USERS);
                rr += 1.0 / rank as f64 / f64::from(USERS);
            }
            open[..10].iter().for_each(|&i| shown[i as usize] += 1);
        }
        let close = |name: &str, value: f64| {
            let found = got.get(name).unwrap();
            assert!((found - value).abs() < 1e-12, "{name}: {found} against {value}");
        };
        assert!(hr > 0.0 && hr < 1.0);
        for (name, value) in [("hr@10", hr), ("recall@10", hr), ("NDCG@10", gain), ("mrr@10", rr), ("map@10", rr)] {
            close(name, value);
        }
        close("coverage@10", shown.iter().filter(|&&x| x > 0).count() as f64 / ITEMS as f64);
        close("gini@10", beyond::gini(&shown));
        close("hr@10_se", (hr * (1.0 - hr) / f64::from(USERS - 1)).sqrt());
        let n = |part: &str| got.protocol.targets.iter().find(|(p, _)| p == part).unwrap().1 as f64;
        let parts: f64 = ["head", "mid", "tail"].iter().filter_map(|p| Some(n(p) * got.get(&format!("hr_{p}@10"))?)).sum();
        close("hr@10", parts / f64::from(USERS));
        assert!(got.get("ild@5").is_some_and(|d| d > 0.0 && d < 1.0));
        assert_eq!((got.protocol.tied_targets, got.protocol.targets_in_history), (0, 0));
    }
}

#[test]
fn a_constant_scorer_earns_nothing_or_chance_and_never_more() {
    let figure = |ties: &str| {
        let mut ranker = By(ITEMS, |_, _| 0.25);
        let got = run(&mut ranker, &targets(), &config(|e| e.ties = ties.into()), 16).unwrap();
        assert_eq!(got.protocol.tied_targets, u64::from(USERS));
        got
    };
    // Ties are the model's doing and no difference of protocols; the rule for them is one.
    let without_ties = run(&mut By(ITEMS, |_, i| i as f32), &targets(), &config(|e| e.ties = "pessimistic".into()), 16).unwrap();
    assert!(without_ties.protocol.tied_targets == 0 && without_ties.protocol.agrees(&figure("pessimistic").protocol));
    assert!(!without_ties.protocol.agrees(&figure("average").protocol));
    assert_eq!(figure("pessimistic").get("hr@10"), Some(0.0));
    assert_eq!(figure("average").get("hr@10"), Some(0.0));
    // Chance is about .1 here; eight standard errors keep 61 requests away from 1.
    assert!((figure("random").get("hr@10").unwrap() - 0.1).abs() < 0.3);
    // Negative infinity everywhere is a constant too.
    let mut ranker = By(ITEMS, |_, _| f32::NEG_INFINITY);
    assert_eq!(run(&mut ranker, &targets(), &config(|_| ()), 16).unwrap().get("hr@10"), Some(0.0));
}

#[test]
fn nan_scores_are_an_error() {
    for full in [true, false] {
        let eval = config(|e| e.candidates = if full { "full".into() } else { "random:50".into() });
        let mut all = By(ITEMS, |_, _| f32::NAN);
        assert_eq!(run(&mut all, &targets(), &eval, 16).unwrap_err().code(), Code::T0702);
    }
    let mut one = By(ITEMS, |user, item| if (user, item) == (40, 102) { f32::NAN } else { 0.0 });
    assert_eq!(run(&mut one, &targets(), &config(|_| ()), 16).unwrap_err().code(), Code::T0702);
}

#[test]
fn neither_tile_size_nor_threads_change_a_bit() {
    for candidates in ["full", "random:20", "popular:20"] {
        for ties in ["pessimistic", "random", "average"] {
            let eval = config(|e| (e.candidates, e.ties) = (candidates.into(), ties.into()));
            let reference = run(&mut By(ITEMS, uneven), &targets(), &eval, 1).unwrap();
            for (rows, threads) in [(1, 3), (2, 1), (13, 2), (61, 4), (1000, 5)] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let got = pool.install(|| {
                    let mut score = uneven;
                    run(&mut By(ITEMS, &mut score), &targets(), &eval, rows).unwrap()
                });
                assert_eq!(got.outcomes, reference.outcomes);
                let bits = |e: &Evaluation| e.values.iter().map(|(n, v)| (n.clone(), v.to_bits())).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(&reference));
                assert_eq!(got.protocol, reference.protocol);
            }
        }
    }
}

/// The encoder itself: alone, in small company, and where a tile or a block of rows ends with one request. The catalogues lie on both
/// sides of what the library of products takes for small; user 0 has one event.
#[test]
fn the_scores_of_a_request_do_not_depend_on_the_others() {
    let many: Vec<Target> = targets().into_iter().cycle().take(257).collect();
    for (items, dim, score, ffn_mult) in
        [(ITEMS, 16, "dot", 1), (ITEMS, 16, "cosine", 1), (1700, 64, "dot", 9), (300, 528, "dot", 1)]
    {
        let config = config::Model { dim, heads: 2, layers: 1, max_len: 20, score: score.into(), ffn_mult, ..Default::default() };
        let sizes = crate::model::Sizes { items, ..Default::default() };
        let mut model = crate::model::Model::new(&config, sizes, &crate::device::Device::HOST, 3).unwrap();
        let mut encoder = Encoder::new(&mut model, &crate::device::Device::HOST, "sasrec").unwrap();
        let mut of = |targets: &[Target]| {
            let mut scores = vec![];
            encoder.score(&gather(targets).unwrap(), &mut scores).unwrap();
            scores.iter().map(|s| s.to_bits()).collect::<Vec<u32>>()
        };
        let all = of(&many);
        for user in [0, 1, 8, 9, 60] {
            let own = &all[user * items..(user + 1) * items];
            assert!(own.iter().any(|&s| s != own[0]));
            assert!(of(&many[user..=user]) == own, "{user} alone among {items} items, {score}");
        }
        for n in [2, 3, 4, 97, 193] {
            assert!(of(&many[..n]) == all[..n * items], "{n} requests, {items} items, {score}");
        }
        assert!(all[256 * items..] == all[256 % USERS as usize * items..][..items], "the last of 257");
    }
}

#[test]
fn the_order_of_requests_and_of_items_means_nothing() {
    let reference = run(&mut By(ITEMS, uneven), &targets(), &config(|_| ()), 16).unwrap();
    let mut turned = targets();
    turned.reverse();
    turned.rotate_left(17);
    let got = run(&mut By(ITEMS, uneven), &turned, &config(|_| ()), 16).unwrap();
    for (name, value) in &reference.values {
        // The same terms in another order: a few roundings.
        assert!((got.get(name).unwrap() - value).abs() < 1e-12, "{name}");
    }
    // Renaming items (here reversing the index order) leaves the standing of every target alone under symmetric tie rules.
    let scores: Vec<f32> = (0..ITEMS as u32).map(|i| uneven(5, i)).collect();
    let reversed: Vec<f32> = scores.iter().rev().copied().collect();
    for t in 0..ITEMS as u32 {
        let a = rank::stand(&scores, 0, Some(t)).unwrap().unwrap();
        let b = rank::stand(&reversed, 0, Some(ITEMS as u32 - 1 - t)).unwrap().unwrap();
        assert_eq!((a.above, a.tied), (b.above, b.tied));
        assert_eq!(a.tied_before + b.tied_before, a.tied);
    }
}

#[test]
fn tie_rules_bracket_each_other() {
    let at = |ties: &str| run(&mut By(ITEMS, uneven), &targets(), &config(|e| e.ties = ties.into()), 16).unwrap();
    let (worst, best) = (at("pessimistic"), at("optimistic"));
    assert!(worst.get("hr@10") < best.get("hr@10"));
    for ties in ["average", "random", "listed"] {
        for (n, between) in at(ties).outcomes.iter().enumerate() {
            assert!((best.outcomes[n].rank..=worst.outcomes[n].rank).contains(&between.rank));
        }
    }
}

#[test]
fn untrained_items_can_be_left_out_and_cold_targets_are_misses() {
    let mut counted = counts();
    counted.iter_mut().skip(50).for_each(|c| *c = 0);
    let (offsets, log) = log();
    let facts = facts(&counted, &offsets, &log);
    let perfect = |user: u32, item: u32| if item == wanted(user) { 1.0 } else { 0.0 };
    let figure = |items: &str| {
        let eval = config(|e| e.items = items.into());
        evaluate(&mut By(ITEMS, perfect), &mut gather, &targets(), &facts, &eval, &mut |_, _| {}).unwrap()
    };
    let cold = (0..USERS).filter(|&u| wanted(u) >= 50).count() as f64;
    assert!(cold > 0.0);
    assert_eq!(figure("all").get("hr@1"), Some(1.0));
    let trained = figure("trained");
    assert!((trained.get("hr@10").unwrap() - (1.0 - cold / f64::from(USERS))).abs() < 1e-12);
    assert_eq!((trained.protocol.cold_targets as f64, trained.protocol.items_ranked), (cold, 50));
    assert!(trained.get("coverage@10").unwrap() <= 1.0);
    assert_eq!(trained.get("ild@10"), None);
}

#[test]
fn a_target_in_its_own_history_is_a_miss_unless_the_history_may_be_ranked_and_is_reported() {
    let mut repeat = |targets: &[Target]| {
        let mut batch = gather(targets)?;
        let mut changed = batch.targets.to_vec();
        for (b, target) in targets.iter().enumerate() {
            changed[batch.range(b).end - 1] = seen(target.user)[0];
        }
        batch.targets = changed.into();
        Ok(batch)
    };
    let (counts, (offsets, log)) = (counts(), log());
    let facts = facts(&counts, &offsets, &log);
    // The first item of the history scores above everything else.
    let mut history = By(ITEMS, |user, item| if item == seen(user)[0] { 9.0 } else { distinct(user, item) / 999.0 });
    let mut with = |seen_out: bool| {
        let eval = config(|e| e.exclude_seen = seen_out);
        evaluate(&mut history, &mut repeat, &targets(), &facts, &eval, &mut |_, _| {}).unwrap()
    };
    assert_eq!(with(false).get("hr@1"), Some(1.0));
    let got = with(true);
    assert_eq!(got.get("hr@10"), Some(0.0));
    assert_eq!(got.protocol.targets_in_history, u64::from(USERS));
    assert!(got.json()["protocol"]["caveats"][0].as_str().unwrap().contains("exclude_seen"));
}

#[test]
fn sampled_protocols_rank_among_their_candidates_and_say_so() {
    let got = run(&mut By(ITEMS, distinct), &targets(), &config(|e| e.candidates = "popular:20".into()), 16).unwrap();
    assert!(got.outcomes.iter().all(|o| o.rank <= 21.0));
    let full = run(&mut By(ITEMS, distinct), &targets(), &config(|_| ()), 16).unwrap();
    assert!(got.get("hr@10") > full.get("hr@10"));
    // At most the 21 to 40 most popular items and the targets are ever listed.
    assert!(got.get("coverage@10") < full.get("coverage@10"));
    let json = got.json();
    assert_eq!(json["protocol"]["candidates"], "popular:20");
    assert!(json["protocol"]["caveats"][0].as_str().unwrap().contains("sampled"));
    assert!(table(&[&got]).contains("caveat: ranked among popular:20"));
}

#[test]
fn nothing_to_evaluate_and_impossible_settings_are_errors() {
    let empty = run(&mut By(ITEMS, distinct), &[], &config(|_| ()), 16);
    assert_eq!(empty.unwrap_err().code(), Code::D0301);
    let ties = run(&mut By(ITEMS, distinct), &targets(), &config(|e| e.ties = "best".into()), 16);
    assert_eq!(ties.unwrap_err().code(), Code::C0202);
    assert!(report::check_metric("NDCG@10", &[5, 10]).is_ok());
    for name in ["ndcg@20", "ndcg", "auc@10", "ndcg@x", ""] {
        assert_eq!(report::check_metric(name, &[5, 10]).unwrap_err().code(), Code::C0202);
    }
}

#[test]
fn the_table_puts_rankers_side_by_side() {
    let mut popularity = Popularity::new(&counts());
    let one = run(&mut By(ITEMS, distinct), &targets(), &config(|_| ()), 16).unwrap();
    let two = run(&mut popularity, &targets(), &config(|_| ()), 16).unwrap();
    let text = table(&[&one, &two]);
    let line = text.lines().find(|l| l.starts_with("hr@10 = recall@10")).unwrap();
    for e in [&one, &two] {
        assert!(line.contains(&format!("{:.4} ± {:.4}", e.get("hr@10").unwrap(), e.get("hr@10_se").unwrap())), "{line}");
    }
    assert!(text.starts_with("metric") && text.contains("by hand") && text.contains("popularity"));
    assert!(text.contains("users left out: 2 with fewer than 3 events"));
    assert!(!text.lines().any(|l| l.starts_with("recall@") || l.starts_with("map@")), "the same number is printed once");
}

/// Keeps what is written.
struct Kept(Vec<(Vec<u8>, Vec<u8>, f32, u32)>);

impl ListWriter for Kept {
    fn entry(&mut self, user: &[u8], item: &[u8], score: f32, rank: u32) -> Result<()> {
        self.0.push((user.to_vec(), item.to_vec(), score, rank));
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn the_figures_follow_from_the_recommended_lists() {
    let names: Vec<Vec<u8>> = (0..ITEMS).map(|i| format!("i{i}").into_bytes()).collect();
    let user_names: Vec<Vec<u8>> = (0..USERS).map(|u| format!("u{u}").into_bytes()).collect();
    // Distinct scores under the default rule; tied scores under the rule of the lists.
    type Score = fn(u32, u32) -> f32;
    for (score, ties) in [(distinct as Score, "pessimistic"), (uneven, "listed")] {
        let report = run(&mut By(ITEMS, score), &targets(), &config(|e| e.ties = ties.into()), 16).unwrap();
        let mut kept = Kept(vec![]);
        let limits = Limits::new(ITEMS, 10, true, None, &[]).unwrap();
        let all = targets();
        let mut batches = all.chunks(7).map(gather);
        let (user, item) = (|_: u64, u: u32| &user_names[u as usize][..], |i: u32| &names[i as usize][..]);
        let lists = recommend(&mut By(ITEMS, score), &mut batches, &limits, &user, &item, &mut kept).unwrap();
        assert_eq!((lists, kept.0.len()), (u64::from(USERS), 10 * USERS as usize));
        let mut gain = 0.0;
        for (user, item, _, rank) in &kept.0 {
            let user: u32 = std::str::from_utf8(&user[1..]).unwrap().parse().unwrap();
            if names[wanted(user) as usize] == *item {
                gain += 1.0 / (f64::from(*rank) + 1.0).log2() / f64::from(USERS);
            }
        }
        assert!(gain > 0.0 && (gain - report.get("ndcg@10").unwrap()).abs() < 1e-12, "{ties}: {gain}");
    }
}

#[test]
fn allow_and_deny_lists_hold_and_short_lists_are_short() {
    let allow: Vec<u32> = (0..ITEMS as u32).filter(|i| i % 8 == 0).collect();
    let limits = Limits::new(ITEMS, 50, true, Some(&allow), &[16, 24]).unwrap();
    let names: Vec<[u8; 1]> = (0..=255u8).map(|b| [b]).collect();
    let name = |i: u32| &names[i as usize][..];
    let mut kept = Kept(vec![]);
    recommend(
        &mut By(ITEMS, distinct),
        &mut [gather(&targets())].into_iter(),
        &limits,
        &|list, _| name(list as u32),
        &name,
        &mut kept,
    )
    .unwrap();
    for (user, item, _, rank) in &kept.0 {
        assert!(
            item[0].is_multiple_of(8) && ![16, 24].contains(&item[0]) && !seen(u32::from(user[0])).contains(&u32::from(item[0]))
        );
        assert!(*rank >= 1 && *rank <= 11);
    }
    assert_eq!(kept.0.iter().filter(|(user, ..)| user[0] == 0).count(), 11 - usize::from(seen(0)[0].is_multiple_of(8)));
    assert_eq!(Limits::new(ITEMS, 0, true, None, &[]).err().unwrap().code(), Code::C0202);
    assert_eq!(Limits::new(2, 3, true, Some(&[1]), &[1]).err().unwrap().code(), Code::C0205);
    assert!(Limits::new(2, 3, true, Some(&[2]), &[]).is_err());
    assert!(kept.0.iter().all(|(_, item, ..)| u32::from(item[0]) != NONE));
}

#[test]
fn per_user_rows_and_targets_read_back() {
    let mut report = run(&mut By(ITEMS, distinct), &targets(), &config(|_| ()), 16).unwrap();
    report.outcomes[3].rank = f64::INFINITY;
    let names: Vec<Vec<u8>> = (0..ITEMS).map(|i| format!("\"{i}\", x").into_bytes()).collect();
    let name = |i: u32| &names[i as usize][..];
    let write = |form| {
        let mut text = Vec::new();
        per_user::write(&mut text, "out".as_ref(), form, &report, &name, &name).unwrap();
        String::from_utf8(text).unwrap()
    };
    let csv = write(per_user::Form::Csv);
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("user_id,item_id,rank,hr@1,hr@5,hr@10,ndcg@1,ndcg@5,ndcg@10"));
    let json = write(per_user::Form::Json);
    let (mut hits, mut rows) = (0.0, 0);
    for (n, (line, object)) in lines.zip(json.lines()).enumerate() {
        let object: serde_json::Value = serde_json::from_str(object).unwrap();
        assert_eq!(object["user_id"], format!("\"{n}\", x"));
        assert!(line.starts_with(&format!("\"\"\"{n}\"\", x\",\"\"\"")));
        let hit: f64 = line.rsplit(',').nth(3).unwrap().parse().unwrap();
        assert_eq!(object["hr@10"], hit);
        assert_eq!(object["rank"].is_null(), n == 3);
        hits += if n == 3 { 0.0 } else { hit };
        rows += 1;
    }
    assert_eq!(rows, USERS);
    let of_three = if distinct_rank_hits(3) { 1.0 } else { 0.0 };
    assert!(((hits + of_three) / f64::from(USERS) - report.get("hr@10").unwrap()).abs() < 1e-12);
    let mut text = Vec::new();
    let item_at = |at: u64| wanted(at as u32 / 10);
    let plain: Vec<Vec<u8>> = (0..ITEMS).map(|i| format!("{i}").into_bytes()).collect();
    let plain_name = |i: u32| &plain[i as usize][..];
    per_user::write_targets(&mut text, "out".as_ref(), &targets(), &item_at, &plain_name, &plain_name).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), 1 + USERS as usize);
    assert_eq!(text.lines().nth(8).unwrap(), format!("7,{}", wanted(7)));
}

/// Whether user's target is among its first ten under `distinct`, seen items left out.
fn distinct_rank_hits(user: u32) -> bool {
    let own = distinct(user, wanted(user));
    (0..ITEMS as u32).filter(|i| !seen(user).contains(i) && distinct(user, *i) > own).count() < 10
}
