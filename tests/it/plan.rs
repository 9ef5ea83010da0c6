//! `hardneg plan`: what it says a run needs, held to what the program's allocator counts.

use serde_json::Value;

use crate::program::{Folder, finish};

/// A log whose batches fill, so that what is planned outweighs what every program holds.
const LOG: &[&str] = &[
    "plan",
    "--device",
    "host",
    "--threads",
    "2",
    "--json",
    "--set",
    "synthetic.users=1500",
    "--set",
    "synthetic.events_per_user=90",
];
const SHAPE: &[&str] = &["--set", "max_len=150", "--set", "batch_size=128"];

fn plan(args: &[&str]) -> Value {
    let out = Folder::new().run(args).ok();
    serde_json::from_str(out.trim()).unwrap()
}

/// Ratings of 1 to 5 by 1500 users, so that a bound leaves some out that users do not want.
fn rated(folder: &Folder) -> String {
    let mut text = String::from("user,item,rating,time\n");
    for user in 0..1500u64 {
        for k in 0..90 {
            let word = (user * 90 + k).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            // Low numbers more often.
            let (item, rating) = (word % 1000 * (word / 1000 % 1000) / 1000, word / 1_000_000 % 5 + 1);
            text.push_str(&format!("u{user},i{item},{rating},{}\n", 1_600_000_000 + 1000 * k + user));
        }
    }
    let path = folder.path("rated.csv");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Every measured part of `plan`, within 2 %.
fn agrees(settings: &[&str], plan: &Value) {
    assert_eq!(plan["uncounted"].as_array().map(Vec::len), Some(0), "{settings:?}: {}", plan["uncounted"]);
    let parts = plan["measured"].as_object().unwrap();
    assert_eq!(parts.keys().collect::<Vec<_>>(), ["step", "checkpoint", "evaluation", "baselines"]);
    for (part, both) in parts {
        let (planned, measured) = (both["planned"].as_f64().unwrap(), both["measured"].as_f64().unwrap());
        let off = planned / measured - 1.0;
        println!("{settings:?} {part}: planned {planned}, measured {measured}, {:+.2} %", 100.0 * off);
        assert!(off.abs() < 0.02, "{settings:?} {part}: planned {planned}, measured {measured}, {:+.2} %", 100.0 * off);
    }
}

/// What tables hold that only a log says the size of: of attributes, of a knowledge graph, of what is beside what, of dislikes. The
/// model is small here, so that they are no small part of what lasts, and its products keep no memory.
#[test]
fn tables_that_depend_on_the_log_are_planned_to_two_percent() {
    let lasting = |preset: &str, plan: &Value| {
        let of = |part: &str| {
            let mut lines = plan["lines"].as_array().unwrap().iter();
            lines.find(|line| line["part"] == part).unwrap()["bytes"].as_f64().unwrap()
        };
        let both = &plan["measured"]["checkpoint"];
        let planned = both["planned"].as_f64().unwrap() - of("kept by matrix products");
        let (measured, tables) = (both["measured"].as_f64().unwrap(), of("tables of the sampler"));
        let off = planned / measured - 1.0;
        println!("{preset}: planned {planned}, of which {tables} in tables, measured {measured}, {:+.2} %", 100.0 * off);
        assert!(off.abs() < 0.02, "{preset}: planned {planned}, measured {measured}, {:+.2} %", 100.0 * off);
        assert_eq!(plan["uncounted"].as_array().map(Vec::len), Some(0), "{preset}: {}", plan["uncounted"]);
    };
    let small = ["--set", "synthetic.items=4000", "--set", "synthetic.users=3000", "--set", "dim=8", "--set", "layers=1"];
    let few = ["--set", "heads=1", "--set", "max_len=20", "--set", "batch_size=16", "--set", "loss=bce", "--measure"];
    // Of a mixture, every proposal has lists of its own.
    const MIXTURE: &str =
        "sampler.propose=[{kind='transition_neighbours',neighbours=20},{kind='attribute_neighbours',neighbours=7}]";
    for (preset, more) in [
        ("same-attribute", &[][..]),
        ("knn-attribute", &[]),
        ("knn-attribute", &["--set", "sampler.propose=[{kind='attribute_neighbours',weighting='idf'}]"]),
        ("gnno", &["--set", MIXTURE]),
        ("gnno", &[]),
        ("user-walk", &[]),
        ("kg-walk", &[]),
        ("kgpolicy", &[]),
        ("fairneg", &[]),
        ("category-balance", &["--set", "sampler.weight.b={from=0.9,to=0.99,over=10}"]),
    ] {
        let set = format!("sampler.preset={preset}");
        let settings = [LOG, &small, &few, &["--set", &set], more].concat();
        lasting(preset, &plan(&settings));
    }
    let folder = Folder::new();
    let log = rated(&folder);
    let settings = [&["plan", &log, "--device", "host", "--threads", "2", "--json"], &few[..], &["--set", "dim=8"]].concat();
    let settings = [&settings[..], &["--set", "data.min_weight=3", "--set", "sampler.preset=predefined"]].concat();
    lasting("predefined", &serde_json::from_str(folder.run(&settings).ok().trim()).unwrap());
}

#[test]
fn planned_is_measured_to_two_percent() {
    for settings in [
        &["--set", "loss=bce"][..],
        &["--set", "loss=bce", "--set", "optim.tables=adagrad"],
        &["--set", "loss=softmax"],
        &["--set", "loss=sampled_softmax", "--set", "sampler.preset=cans", "--set", "model.kind=cans"],
        &["--set", "loss=bce", "--set", "sampler.preset=genni"],
        &["--set", "loss=bce", "--set", "sampler.preset=srns"],
        &["--set", "loss=bce", "--set", "sampler.preset=ahns"],
        &["--set", "loss=bce", "--set", "sampler.preset=ubpr"],
        &["--set", "loss=sampled_softmax", "--set", "sampler.preset=mixgcf"],
        &["--set", "loss=bpr", "--set", "sampler.preset=adasir"],
        &["--set", "loss=bpr", "--set", "sampler.preset=dens"],
        &["--set", "loss=bpr", "--set", "sampler.preset=kbgan"],
        &["--set", "loss=bce", "--set", "sampler.preset=irgan"],
        &["--set", "loss=pu", "--set", "sampler.preset=pure", "--set", "sampler.mix.count=4"],
        &["--set", "loss=sampled_softmax", "--set", "sampler.preset=sce"],
        &["--set", "loss=bpr", "--set", "sampler.preset=kgpolicy"],
        &["--set", "loss=bpr", "--set", "sampler.preset=fairneg"],
        &["--set", "loss=bce", "--set", "sampler.preset=geosan"],
        &["--set", "loss=bce", "--set", "sampler.preset=gnno"],
        &["--set", "loss=contrastive", "--set", "sampler.preset=dcl"],
        &["--set", "loss=bce", "--set", "sampler.preset=dross"],
        &["--set", "loss=bce", "--set", "sampler.preset=tron"],
        &["--set", "loss=bce", "--set", "train.targets=last", "--set", "norm=post", "--set", "tied=false"],
    ] {
        agrees(settings, &plan(&[LOG, SHAPE, &["--measure"], settings].concat()));
    }
}

/// What losses and choices take of a machine's memory for a moment is what most of it goes to.
#[test]
fn planned_is_measured_on_a_machine() {
    let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine");
    const SMALL: &[&str] = &["plan", "--device", "emulator", "--json", "--set", "synthetic.users=300", "--set", "max_len=60"];
    for settings in [
        &["--set", "loss=bce"][..],
        &["--set", "loss=softmax"],
        &["--set", "loss=sampled_softmax", "--set", "sampler.negatives=64"],
        // Rows are gathered in half the bytes, from copies.
        &["--set", "loss=sampled_softmax", "--set", "sampler.negatives=64", "--set", "train.rounding=bf16"],
        &["--set", "loss=sampled_softmax", "--set", "sampler.preset=popularity", "--set", "sampler.scope=sequence"],
        // A large catalogue: the law of all items, and the list of those that a step touches.
        &["--set", "loss=bce", "--set", "sampler.preset=popularity", "--set", "synthetic.items=30000", "--set", "dim=8"],
        &["--set", "loss=sampled_softmax", "--set", "sampler.preset=cans", "--set", "model.kind=cans"],
        &["--set", "loss=bce", "--set", "sampler.preset=dns"],
        &["--set", "loss=bce", "--set", "sampler.preset=genni", "--set", "sampler.select.candidates=500"],
        &["--set", "loss=bce", "--set", "eval.candidates=random:50", "--set", "synthetic.items=3000"],
        &["--set", "loss=bce", "--set", "sampler.preset=genni-full", "--set", "synthetic.items=1500"],
    ] {
        let folder = Folder::new();
        let mut command = folder.command();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("XDG_CACHE_HOME", &cache);
        let args = [SMALL, &["--measure"], settings].concat();
        let finished = finish(command.args(&args).output().unwrap(), &args);
        if finished.err.contains("G0507") {
            println!("SKIPPED: no C++ compiler, so no kernel was run");
            return;
        }
        let plan: Value = serde_json::from_str(finished.ok().trim()).unwrap();
        let of = |part: &str, what: &str| plan["measured"][part][what].as_f64().unwrap();
        let off = |part: &str| of(part, "planned") / of(part, "measured") - 1.0;
        println!("{settings:?}: step {:+.2} %, evaluation {:+.2} %", 100.0 * off("step"), 100.0 * off("evaluation"));
        assert!(off("step").abs() < 0.02 && off("evaluation").abs() < 0.02, "{settings:?}: {:?}", plan["measured"]);
        // What its times are means nothing, but every part that does anything is predicted, and held to steps made there.
        let parts = plan["time"]["parts"].as_array().unwrap();
        for part in parts.iter().filter(|part| part["floor"].as_f64() > Some(0.0)) {
            assert!(["predicted", "fastest"].iter().all(|what| part[what].as_f64() > Some(0.0)), "{settings:?}: {part}");
        }
        assert!(plan["time"]["step_predicted"].as_f64() > Some(0.0), "{settings:?}: {}", plan["time"]);
    }
}

#[test]
fn fifty_million_items_need_no_log() {
    let folder = Folder::new();
    let big = ["plan", "--items", "5e7", "--users", "1e6", "--events", "1e8", "--device", "host", "--set", "loss=bce"];
    let out = folder.run(&[&big[..], &["--memory", "500G"]].concat()).ok();
    assert!(out.contains("copy for a checkpoint") && out.contains("fits: "), "{out}");
    let refused = folder.run(&[&big[..], &["--memory", "80G"]].concat()).fails(6, "G0601");
    // The cure it names is one.
    let cure = refused.err.split("`--set ").nth(1).and_then(|rest| rest.split('`').next()).expect("a cure");
    folder.run(&[&big[..], &["--memory", "80G", "--set", cure]].concat()).ok();
    assert!(std::fs::read_dir(folder.path("")).unwrap().next().is_none(), "a plan leaves nothing behind");
}

#[test]
fn json_has_every_line_and_the_largest_moment_is_what_is_needed() {
    let plan = plan(&[LOG, SHAPE, &["--memory", "64G"]].concat());
    assert_eq!((plan["v"].as_u64(), plan["fits"].as_bool(), plan["measured"].is_null()), (Some(1), Some(true), true));
    let lines = plan["lines"].as_array().unwrap();
    assert!(lines.iter().all(|l| l["part"].is_string() && l["bytes"].as_u64() > Some(0) && l["on_gpu"].is_boolean()));
    let moments = plan["moments"].as_object().unwrap();
    assert_eq!(moments.len(), 6);
    for (name, bytes) in moments {
        let held = lines.iter().filter(|l| l["during"].as_array().unwrap().iter().any(|m| m == name));
        assert_eq!(bytes.as_u64().unwrap(), held.map(|l| l["bytes"].as_u64().unwrap()).sum::<u64>(), "{name}");
    }
    assert_eq!(plan["needed"].as_u64(), moments.values().filter_map(Value::as_u64).max());
    assert_eq!(plan["needed"], moments[plan["largest"].as_str().unwrap()]);
    // Without room the plan is printed all the same, and names changes that were planned anew.
    let small = Folder::new().run(&[LOG, SHAPE, &["--memory", "40M"]].concat());
    assert!(small.code == Some(6) && small.err.contains("\"G0601\""), "{}", small.err);
    let plan: Value = serde_json::from_str(small.out.trim()).unwrap();
    assert_eq!(plan["fits"].as_bool(), Some(false));
    assert!(plan["changes"].as_array().unwrap().iter().all(|c| c["bytes"].as_u64().unwrap() <= 40 << 20));
}

#[test]
fn the_least_time_of_a_step_is_that_of_its_parts() {
    let sizes = ["plan", "--items", "5000", "--users", "1000", "--events", "23000", "--device", "host", "--json"];
    let plan = plan(&[&sizes[..], &["--set", "dim=32", "--set", "batch_size=128"]].concat());
    let time = &plan["time"];
    assert_eq!(time["steps_per_epoch"].as_u64(), Some(8));
    // 125 users of 20 rows: a score of every item and two gradients.
    let parts = time["parts"].as_array().unwrap();
    let loss = parts.iter().find(|part| part["part"] == "loss").unwrap();
    assert_eq!(loss["flops"].as_u64(), Some(6 * 125 * 20 * 5000 * 32));
    let step: f64 = parts.iter().map(|part| part["floor"].as_f64().unwrap()).sum();
    assert!((time["step_floor"].as_f64().unwrap() - step).abs() <= 1e-12 * step);
    // A prediction of the same parts, each above nothing; none of them is left out.
    let predicted: Vec<f64> = parts.iter().map(|part| part["predicted"].as_f64().unwrap()).collect();
    assert!(
        parts.iter().zip(&predicted).all(|(part, &seconds)| (part["floor"].as_f64() > Some(0.0)) == (seconds > 0.0)),
        "{parts:?}"
    );
    let step_predicted: f64 = predicted.iter().sum();
    assert!((time["step_predicted"].as_f64().unwrap() - step_predicted).abs() <= 1e-12 * step_predicted);
    assert!((time["epoch_predicted"].as_f64().unwrap() - 8.0 * step_predicted).abs() <= 1e-11 * step_predicted);
    assert_eq!(time["unpredicted"].as_array().map(Vec::len), Some(0));
    assert!((time["epoch_floor"].as_f64().unwrap() - 8.0 * step).abs() <= 1e-11 * step);
}

/// A table of activations larger than any machine's memory: refused before any of it is taken.
#[test]
fn training_begins_with_a_plan() {
    let huge = ["dim=4096", "layers=64", "ffn_mult=16", "batch_size=100000"];
    let sets = huge.iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> = ["train", "--device", "host", "--out", "run"].into_iter().chain(sets).collect();
    let refused = Folder::new().run(&args).fails(6, "G0601");
    assert!(refused.err.contains("activations"), "{}", refused.err);
}

#[test]
fn bad_numbers_are_misuse() {
    let folder = Folder::new();
    for args in [
        &["--memory", "lots"][..],
        &["--memory=-1G"],
        &["--items", "many"],
        &["--items", "0"],
        &["--items", "10", "--users", "5", "--events", "4"],
        &["--items", "10", "--set", "dim=0"],
        &["--items", "10", "--set", "loss=hinged"],
    ] {
        folder.run(&[&["plan", "--device", "host"], args].concat()).fails(2, "C0202");
    }
    for args in [&["ratings.csv", "--items", "10"][..], &["--users", "10"], &["--items", "10", "--measure"]] {
        assert_eq!(folder.run(&[&["plan"], args].concat()).code, Some(2), "{args:?}");
    }
    folder.run(&["plan", "absent.csv"]).fails(3, "D0101");
}
