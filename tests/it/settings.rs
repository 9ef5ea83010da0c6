//! Layers, provenance, other names, and the refusal of everything that would be ignored.

use std::fs;

use hardneg::cli::settings::{Inputs, Settings, Source, resolve};
use hardneg::config::{self, Config, Value};
use hardneg::error::{Code, Error};

fn sets(sets: &[&str]) -> Result<Settings, Error> {
    resolve(&Inputs { sets: sets.iter().map(|s| s.to_string()).collect(), ..Inputs::default() })
}

fn file(text: &str) -> (tempfile::TempDir, Result<Settings, Error>) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("train.toml");
    fs::write(&path, text).unwrap();
    let settings = resolve(&Inputs { config_file: Some(path), ..Inputs::default() });
    (root, settings)
}

#[test]
fn no_layers_give_the_defaults() {
    let settings = sets(&["data.path=log.csv"]).unwrap();
    let mut expected = Config::default();
    expected.data.path = "log.csv".into();
    assert_eq!(settings.config, expected);
    assert!(settings.origins.iter().all(|(key, _, source)| *source == Source::Default || key == "data.path"));
    let generated = sets(&["model.layers=3"]).unwrap();
    assert_eq!((generated.config.model.layers, generated.config.train.epochs), (3, 12), "small settings unless somebody chose");
}

#[test]
fn each_layer_overrides_the_one_below_and_says_where_a_value_came_from() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, dim: u32, rest: &str| {
        let path = root.path().join(name);
        fs::write(&path, format!("[model]\ndim = {dim}\n{rest}")).unwrap();
        Some(path)
    };
    let mut inputs = Inputs::default();
    let expect = |inputs: &Inputs, dim: u32, origin: &str| {
        let settings = resolve(inputs).unwrap();
        assert_eq!(settings.config.model.dim, dim);
        let (_, _, source) = settings.origins.iter().find(|(key, _, _)| key == "model.dim").unwrap();
        assert!(source.to_string().contains(origin), "{source} should name {origin}");
        assert!(settings.print().lines().any(|l| l.starts_with(&format!("model.dim = {dim} ")) && l.contains(origin)));
    };
    expect(&inputs, 64, "default");
    inputs.user_file = write("user.toml", 1, "layers = 5\n");
    expect(&inputs, 1, "user.toml:2:1");
    inputs.config_file = write("train.toml", 2, "");
    expect(&inputs, 2, "train.toml:2:1");
    inputs.environment = vec![
        ("HARDNEG_MODEL__DIM".into(), "3".into()),
        ("HARDNEG_DATA".into(), "/somewhere".into()),
        ("PATH".into(), "x".into()),
    ];
    expect(&inputs, 3, "HARDNEG_MODEL__DIM");
    inputs.sets = vec!["model.dim=4".into()];
    expect(&inputs, 4, "--set model.dim=4");
    inputs.flags = vec![("--dim".into(), "model.dim", toml::Value::Integer(5))];
    expect(&inputs, 5, "--dim");
    assert_eq!(resolve(&inputs).unwrap().config.model.layers, 5, "the user file still counts where nothing overrides it");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_name_and_its_place() {
    for (typed, meant) in [
        ("model.dmi", "model.dim"),
        ("sampler.negative", "sampler.negatives"),
        ("optim.learning_rat", "optim.lr"),
        ("trian.epochs", "train.epochs"),
        ("train.epoch", "train.epochs"),
        ("maxlenn", "model.max_len"),
        ("eval.exclude_sen", "eval.exclude_seen"),
    ] {
        let error = sets(&[&format!("{typed}=1")]).unwrap_err();
        assert_eq!(error.code(), Code::C0201, "{typed}");
        assert!(error.to_string().contains(&format!("did you mean `{meant}`?")), "{typed}: {error}");
    }
    let (_root, settings) = file("config_version = 1\n\n[sampler]\n  negative = 256\n");
    let error = settings.unwrap_err().to_string();
    assert!(error.contains("train.toml:4:3") && error.contains("4 |   negative = 256"), "{error}");
    let environment = vec![("HARDNEG_MODEL__DMI".to_string(), "3".to_string())];
    let error = resolve(&Inputs { environment, ..Inputs::default() }).unwrap_err();
    assert!(error.code() == Code::C0201 && error.to_string().contains("HARDNEG_MODEL__DMI"), "{error}");
    assert!(sets(&["xylophone=1"]).unwrap_err().to_string().contains("--print-config"));
}

#[test]
fn a_value_of_the_wrong_type_or_out_of_range_is_refused() {
    for bad in [
        "model.dim=wide",
        "model.dim=0",
        "model.dim=1.5",
        "model.dim=-3",
        "model.dim=1e308",
        "model.dim=99999999999999999999",
        "model.dropout=1.0",
        "model.dropout=nan",
        "optim.lr=inf",
        "optim.lr=-1",
        "train.seed=-1",
        "model.causal=1",
        "data.split=leave_one_out",
        "eval.at=[]x",
        "eval.at=[1,\"a\"]",
        "eval.at=0",
        "data.path=[1]=",
        "sampler.propose=[{alpha=1}]",
        "model.dim",
    ] {
        let result = sets(&[bad]);
        if bad == "data.path=[1]=" {
            assert_eq!(result.unwrap().config.data.path, "[1]=", "a word key takes the text as it is");
            continue;
        }
        assert_eq!(result.map(|s| s.config).unwrap_err().code(), Code::C0202, "{bad}");
    }
    let (_root, settings) = file("[model]\ndim = \"64\"\n");
    let error = settings.unwrap_err();
    assert!(error.code() == Code::C0202 && error.to_string().contains("train.toml:2:1"), "{error}");
    assert!(sets(&["data.split=lo"]).unwrap_err().to_string().contains("did you mean `loo`?"));
}

#[test]
fn broken_files_are_refused_with_line_and_column() {
    for (text, place) in [("[model\n", "1:"), ("[model]\ndim = \n", "2:"), ("a = 1\na = 2\n", "2:"), ("x = \"\u{1}\"", "1:")] {
        let (_root, settings) = file(text);
        let error = settings.unwrap_err();
        assert_eq!(error.code(), Code::C0204, "{text:?}: {error}");
        assert!(error.to_string().contains(&format!("train.toml:{place}")), "{text:?}: {error}");
    }
    let (_root, deep) = file(&format!("x = {}1{}", "[".repeat(5000), "]".repeat(5000)));
    assert_eq!(deep.unwrap_err().code(), Code::C0204);
    let (_root, version) = file("config_version = 2\n");
    assert_eq!(version.unwrap_err().code(), Code::C0202);
    let absent = resolve(&Inputs { config_file: Some("absent.toml".into()), ..Inputs::default() });
    assert_eq!(absent.unwrap_err().code(), Code::C0204);
}

#[test]
fn names_of_other_libraries_are_understood_and_noted() {
    let settings = sets(&[
        "maxlen=50",
        "hidden_size=32",
        "n_blocks=3",
        "n_heads=2",
        "train_batch_size=7",
        "stopping_step=4",
        "topk=10,50",
        "valid_metric=NDCG@10",
        "filter_viewed=false",
        "learning_rate=1e-4",
        "MAX_ITEM_LIST_LENGTH=50",
    ])
    .unwrap();
    let c = &settings.config;
    assert_eq!((c.model.max_len, c.model.dim, c.model.layers, c.model.heads), (50, 32, 3, 2));
    assert_eq!((c.train.batch_size, c.train.patience, &c.train.metric[..], c.optim.lr), (7, 4, "ndcg@10", 1e-4));
    assert_eq!((&c.eval.at[..], c.eval.exclude_seen), (&[10, 50][..], false));
    assert!(settings.notes.iter().any(|n| n == "`maxlen` is read as `model.max_len`"), "{:?}", settings.notes);
    let (_root, recbole) =
        file("loss_type = \"bce\"\nhidden_size = 48\n[train_neg_sample_args]\ndistribution = \"uniform\"\nsample_num = 3\n");
    let recbole = recbole.unwrap().config;
    assert_eq!((recbole.model.dim, recbole.sampler.negatives, &recbole.loss.kind[..]), (48, Some(3.into()), "bce"));
}

#[test]
fn a_bare_key_is_enough_when_it_is_unique() {
    let settings = sets(&["dim=128", "clip=1", "seed=9", "clusters=6", "sampler=cans-items"]).unwrap();
    assert_eq!(
        (settings.config.model.dim, settings.config.optim.clip, settings.config.train.seed, settings.config.data.clusters),
        (128, 1.0, 9, 6)
    );
    let error = sets(&["kind=x"]).unwrap_err();
    assert!(error.code() == Code::C0201 && error.to_string().contains("`model.kind`, `loss.kind`, `optim.kind`"), "{error}");
}

#[test]
fn an_option_without_effect_is_refused() {
    for (idle, cured) in [
        (&["model.temperature=0.2"][..], &["model.score=cosine"][..]),
        (&["data.gts_quantile=0.8"], &["data.split=gts"]),
        (&["sampler.negatives=5", "loss=softmax"], &["loss=bce"]),
        (&["sampler.negatives=5", "loss=whole_data"], &["loss=bce"]),
        (&["data.synthetic.users=9", "data.path=x.csv"], &["data.path="]),
        (&["data.min_user=5", "data.delimiter=;"], &["data.path=x.csv"]),
        (&["train.random_prefix=true"], &["train.targets=last"]),
        (&["train.patience=3", "train.eval_every=0"], &["train.eval_every=2"]),
        (&["optim.decay_tables=true"], &["optim.weight_decay=0.1"]),
        (&["sampler.select.keep=3", "sampler.preset="], &["sampler.select.kind=top_k"]),
        (&["data.clusters=3"], &["sampler=cans-items"]),
        (&["data.clusters=3", "sampler=dns"], &["sampler=cans"]),
        (&["data.temporal=yes"], &["model.context=yes"]),
        (&["data.temporal=no"], &["model.kind=cans"]),
        (&["model.heads=2", "model.layers=0"], &["model.layers=1"]),
        (&["model.ffn_mult=2", "model.layers=0"], &["model.layers=1"]),
        (&["model.activation=gelu", "model.layers=0"], &["model.layers=1"]),
        (&["model.causal=false", "model.layers=0"], &["model.layers=1"]),
        (&["model.init_weights=glorot", "model.layers=0"], &["model.context=yes"]),
        (&["model.init_weights=attention", "model.layers=0", "model.context=yes"], &["model.layers=1"]),
        (&["eval.exclude_seen=false", "eval.candidates=random:100"], &["eval.candidates=full"]),
        (&["eval.exclude_seen=false", "eval.candidates=popular:100"], &["eval.candidates=full"]),
    ] {
        let error = sets(idle).map(|s| s.config).unwrap_err();
        assert_eq!(error.code(), Code::C0203, "{idle:?}: {error}");
        sets(&[idle, cured].concat()).unwrap_or_else(|e| panic!("{idle:?} with {cured:?}: {e}"));
    }
}

/// An older version may have trained with what is refused now; its runs can still be used, and asked for no more than means something.
#[test]
fn what_has_no_effect_in_the_file_of_a_run_is_not_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("config.resolved.toml");
    fs::write(&path, "[data]\nclusters = 3\n[model]\nlayers = 0\nheads = 2\n[eval]\nexclude_seen = false\n").unwrap();
    let run = |sets: &[&str]| {
        let sets = sets.iter().map(|s| s.to_string()).collect();
        resolve(&Inputs { run_file: Some(path.clone()), sets, ..Inputs::default() })
    };
    let settings = run(&["eval.candidates=random:20"]).unwrap();
    assert_eq!((settings.config.data.clusters, settings.config.model.heads, settings.config.eval.exclude_seen), (3, 2, false));
    let error = run(&["eval.exclude_seen=false", "eval.candidates=random:20"]).unwrap_err();
    assert_eq!(error.code(), Code::C0203, "{error}");
    let file = resolve(&Inputs { config_file: Some(path.clone()), ..Inputs::default() });
    assert_eq!(file.unwrap_err().code(), Code::C0203);
}

#[test]
fn a_variable_that_names_a_setting_wrongly_is_refused_and_others_are_left_alone() {
    let of = |name: &str| resolve(&Inputs { environment: vec![(name.to_string(), "1".to_string())], ..Inputs::default() });
    for (name, meant) in [
        ("HARDNEG_EPOCHS", "`HARDNEG_TRAIN__EPOCHS`"),
        ("HARDNEG_TRAIN_EPOCHS", "`HARDNEG_TRAIN__EPOCHS`"),
        ("HARDNEG_DATA_SYNTHETIC_USERS", "`HARDNEG_DATA__SYNTHETIC__USERS`"),
        ("HARDNEG_MAXLEN", "`HARDNEG_MODEL__MAX_LEN`"),
        ("HARDNEG_SAMPLER", "`HARDNEG_SAMPLER__PRESET`"),
    ] {
        let error = of(name).unwrap_err();
        assert!(error.code() == Code::C0201 && error.to_string().contains(name), "{error}");
        assert!(error.to_string().contains(meant), "{error}");
    }
    for ours in ["HARDNEG_NVRTC_DIR", "HARDNEG_COMMIT", "HARDNEG_DATA", "HARDNEG_BLESS", "HARDNEG_REQUIRE_NVRTC", "HARDNEG"] {
        of(ours).unwrap_or_else(|e| panic!("{ours}: {e}"));
    }
    // Of a cluster with a service of this name, and of a build server.
    for theirs in [
        "HARDNEG_SERVICE_HOST",
        "HARDNEG_SERVICE_PORT_HTTP",
        "HARDNEG_PORT",
        "HARDNEG_PORT_80_TCP_PROTO",
        "HARDNEG_VERSION",
        "HARDNEG_XYLOPHONE",
    ] {
        assert_eq!(of(theirs).unwrap_or_else(|e| panic!("{theirs}: {e}")).config, sets(&[]).unwrap().config);
    }
    assert_eq!(of("HARDNEG_XYLO__PHONE").unwrap_err().code(), Code::C0201);
    assert_eq!(of("HARDNEG_TRAIN__EPOCHS").unwrap().config.train.epochs, 1);
}

#[test]
fn the_resolved_configuration_resolves_to_itself() {
    let settings =
        sets(&["sampler=dns", "data.path=log.csv", "sampler.negatives=4", "model.dim=16", "data.min_weight=3.5"]).unwrap();
    assert_eq!(settings.config.loss.kind, "sampled_softmax");
    assert!(settings.notes.iter().any(|n| n.contains("sampled_softmax")));
    let (_root, again) = file(&toml::to_string(&settings.config).unwrap());
    assert_eq!(again.unwrap().config, settings.config);
}

#[test]
fn a_parameter_without_its_kind_belongs_to_the_presets_kind() {
    let spelled = |sets_: &[&str]| sets(&[sets_, &["data.path=log.csv"]].concat()).unwrap().config.sampler;
    let wrong = spelled(&["sampler=cans", "sampler.mix.count=3"]).mix.unwrap();
    assert_eq!((&wrong.kind[..], &wrong.params["count"]), ("wrong_context", &Value::Number(3.0)));
    assert_eq!(wrong.params["choice"], Value::Word("hard".into()), "the preset's other parameters stay");
    let flags = vec![("--sampler".to_string(), "sampler.preset", toml::Value::String("dns".into()))];
    let inputs = Inputs { sets: vec!["sampler.select.candidates=3".into()], flags, ..Inputs::default() };
    let select = resolve(&inputs).unwrap().config.sampler.select.unwrap();
    assert_eq!((&select.kind[..], &select.params["candidates"]), ("top_k", &Value::Number(3.0)), "a flag never drops a --set");
}

#[test]
fn negatives_may_follow_a_curve() {
    let set = "sampler.negatives={from=2, to=8, over=3, shape=\"exponential\"}";
    let settings = sets(&[set, "loss=bce", "data.path=log.csv"]).unwrap();
    let curve = config::Curve { from: 2.0, to: 8.0, over: 3.0, shape: config::CurveShape::Exponential };
    let negatives = config::Amount::Moving(curve);
    assert_eq!((negatives.at(0.0), negatives.at(1.5), negatives.at(9.0)), (2, 4, 8));
    assert_eq!((negatives.least(), negatives.most()), (2, 8));
    assert_eq!(settings.config.sampler.negatives, Some(negatives));
    let (_root, again) = file(&toml::to_string(&settings.config).unwrap());
    assert_eq!(again.unwrap().config, settings.config);
    for bad in ["{from=2, to=8}", "{from=2, to=8, over=3, more=1}", "\"many\"", "2.5", "-1"] {
        assert!(sets(&[&format!("sampler.negatives={bad}"), "data.path=log.csv"]).is_err(), "{bad}");
    }
}

#[test]
fn naming_another_kind_drops_the_parameters_of_the_former() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("c.toml");
    fs::write(&path, "loss = { kind = \"gbce\", t = 0.5 }\n[sampler]\nnegatives = 8\nselect = { kind = \"top_k\", keep = 2 }\n")
        .unwrap();
    let with = |sets: &[&str]| {
        let sets = sets.iter().map(|s| s.to_string()).collect();
        resolve(&Inputs { config_file: Some(path.clone()), sets, ..Inputs::default() }).unwrap().config
    };
    assert_eq!(with(&[]).loss.params["t"], Value::Number(0.5));
    assert_eq!(with(&["loss.t=0.75"]).loss.params["t"], Value::Number(0.75));
    assert!(with(&["loss=bce"]).loss.params.is_empty());
    let other = with(&["sampler=genni"]);
    assert_eq!((other.sampler.select, other.sampler.negatives), (None, Some(8.into())));
}

#[test]
fn a_preset_brings_the_loss_it_is_made_for() {
    let loss = |sets_: &[&str]| sets(&[sets_, &["data.path=log.csv"]].concat()).unwrap().config.loss;
    let mns = loss(&["sampler=mns"]);
    assert_eq!((&mns.kind[..], &mns.params["log_q"]), ("sampled_softmax", &Value::Word("classic".into())));
    assert_eq!(loss(&["sampler=gsasrec"]).kind, "gbce");
    // What somebody says stays: another loss, and a parameter of the preset's.
    assert_eq!(loss(&["sampler=gsasrec", "loss=bce"]).kind, "bce");
    let hcl = loss(&["sampler=hcl", "loss.beta=0.25"]);
    assert_eq!((&hcl.kind[..], &hcl.params["beta"]), ("contrastive", &Value::Number(0.25)));
    assert_eq!(hcl.params["tau_plus"], Value::Number(0.1));
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("c.toml");
    fs::write(&path, "[sampler]\npreset = \"gsasrec\"\n[loss]\nkind = \"bpr\"\n").unwrap();
    let inputs = Inputs { config_file: Some(path), ..Inputs::default() };
    assert_eq!(resolve(&inputs).unwrap().config.loss.kind, "bpr");
    let (_root, again) = file(&toml::to_string(&sets(&["sampler=hcl", "data.path=log.csv"]).unwrap().config).unwrap());
    assert_eq!(again.unwrap().config.loss.kind, "contrastive");
}
