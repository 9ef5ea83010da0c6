//! Baselines on real logs against published figures, and the figures recomputed from recommendation files outside.

use std::path::{Path, PathBuf};
use std::process::Command;

use hardneg::config::{self, Config};
use hardneg::data::interactions::Interactions;
use hardneg::data::prepare;
use hardneg::data::raw::Sides;
use hardneg::data::read;
use hardneg::data::split::Split;
use hardneg::data::training::TrainingSet;
use hardneg::eval::{
    Evaluation, Facts, Format, ItemToItem, Limits, Part, Popularity, Ranker, evaluate, lists, per_user, recommend,
};
use std::sync::Arc;

/// A file of the data folder, if it is there.
fn found(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folders = [std::env::var_os("HARDNEG_DATA").map(PathBuf::from), Some(beside)];
    let path = folders.into_iter().flatten().map(|folder| folder.join(name)).find(|path| path.is_file());
    if path.is_none() {
        println!("skipped: {name} is in neither $HARDNEG_DATA nor ../shared/data");
    }
    path
}

/// A log with its split, ready for requests.
struct Prepared {
    data: Arc<Interactions>,
    split: Arc<Split>,
    set: TrainingSet,
}

fn prepared(path: &Path) -> Prepared {
    let mut config = Config::default();
    config.data.path = path.to_string_lossy().into_owned();
    let raw = read::read(&config.data, None, &mut |_| {}).unwrap();
    let data = Arc::new(prepare::in_memory(raw, &config.data, Sides::default()).unwrap());
    let split = Arc::new(Split::new(&data, &config.data, config.train.seed).unwrap());
    let set = TrainingSet::new(data.clone(), split.clone(), &config, None, None).unwrap();
    Prepared { data, split, set }
}

fn item_to_item(p: &Prepared) -> ItemToItem {
    let users = p.data.users();
    ItemToItem::fit(p.data.event_items(), &p.data.offsets()[..users], &p.split.train_end, &p.split.train_items).unwrap()
}

fn test_figures(p: &Prepared, ranker: &mut dyn Ranker, eval: &config::Eval) -> Evaluation {
    let facts = Facts::new(&p.data, &p.split, Part::Test);
    evaluate(ranker, &mut |t| Ok(p.set.requests(t)), &p.split.test, &facts, eval, &mut |_, _| {}).unwrap()
}

/// The published figure of the most popular items on this file is HR@10 .0369, NDCG@10 .0180, printed to four digits; the
/// half unit of the last digit and one user more or less (ties of counts) are the tolerance.
#[test]
fn popularity_reaches_its_published_figures_on_movielens_1m() {
    let Some(path) = found("ml-1m/ml-1m_sas.txt.gz") else { return };
    let p = prepared(&path);
    let got = test_figures(&p, &mut Popularity::new(&p.split.train_items), &config::Eval::default());
    assert_eq!((got.protocol.requests, got.protocol.items_ranked), (6040, 3416));
    let tolerance = 0.5e-4 + 1.0 / 6040.0;
    let (hr, gain) = (got.get("hr@10").unwrap(), got.get("ndcg@10").unwrap());
    assert!((hr - 0.0369).abs() < tolerance && (gain - 0.0180).abs() < tolerance, "hr@10 {hr}, ndcg@10 {gain}");
    // The linear model must beat it by far: published trained models reach .25 to .32 here.
    let linear = test_figures(&p, &mut item_to_item(&p), &config::Eval::default());
    println!("{}", hardneg::eval::table(&[&linear, &got]));
    assert!(linear.get("hr@10").unwrap() > 4.0 * hr);
}

/// An invented log in which ties of popularity are common.
fn invented(folder: &Path) -> PathBuf {
    let mut text = String::new();
    for user in 0..97u32 {
        for step in 0..5 + user % 7 {
            let item = (user * user * 31 + step * (7 + user % 3)) % 61;
            text += &format!("u{user},\"i,{item}\",{}\n", 1000 + step * 60);
        }
    }
    let path = folder.join("log.csv");
    std::fs::write(&path, format!("user_id,item_id,timestamp\n{text}")).unwrap();
    path
}

#[test]
fn figures_recomputed_outside_agree_with_the_report() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: python3 is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for path in [Some(invented(folder.path())), found("amazon-beauty/beauty.tsv.gz")].into_iter().flatten() {
        let p = prepared(&path);
        let eval = config::Eval { ties: "listed".into(), ..config::Eval::default() };
        let mut model = item_to_item(&p);
        let report = test_figures(&p, &mut model, &eval);
        // Where a target is in its own history the lists cannot show it: such logs are not compared.
        let repeated = report.protocol.targets_in_history;
        let eval = if repeated > 0 { config::Eval { exclude_seen: false, ..eval } } else { eval };
        let report = if repeated > 0 { test_figures(&p, &mut model, &eval) } else { report };
        let (user, item) = (|u: u32| p.data.user_name(u), |i: u32| p.data.item_name(i));
        let file = |name: &str| folder.path().join(name);
        let limits = Limits::new(p.data.items(), 20, eval.exclude_seen, None, &[]).unwrap();
        let mut out = std::io::BufWriter::new(std::fs::File::create(file("lists.csv")).unwrap());
        let mut writer = lists::writer(Format::Csv, Box::new(&mut out), &file("lists.csv"), true).unwrap();
        let mut batches = p.split.test.chunks(100).map(|t| Ok(p.set.requests(t)));
        recommend(&mut model, &mut batches, &limits, &|_, u| user(u), &item, writer.as_mut()).unwrap();
        writer.finish().unwrap();
        drop(writer);
        drop(out);
        let item_at = |at: u64| p.data.event_items()[at as usize];
        let mut targets = std::fs::File::create(file("targets.csv")).unwrap();
        per_user::write_targets(&mut targets, &file("targets.csv"), &p.split.test, &item_at, &user, &item).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/recompute_metrics.py");
        let run = Command::new("python3").arg(script).args([file("lists.csv"), file("targets.csv")]).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let outside: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(outside["users"], report.protocol.users);
        for k in [5, 10, 20] {
            for metric in ["hr", "ndcg", "mrr"] {
                let name = format!("{metric}@{k}");
                let (inside, outside) = (report.get(&name).unwrap(), outside[&name].as_f64().unwrap());
                assert!(inside > 0.0 && (inside - outside).abs() < 1e-6, "{name}: {inside} against {outside}");
            }
        }
    }
}
