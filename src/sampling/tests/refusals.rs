//! What cannot be drawn or understood ends in an error that says what is missing and what supplies it.

use super::*;

#[test]
fn a_user_who_has_seen_everything_is_an_error_and_never_a_loop() {
    let world = World::new(3, &[vec![0, 1, 2]], 1, |_, _| 0);
    for proposal in ["uniform", "popularity", "cluster"] {
        let sampler = |exclude| {
            Sampler::new(&config("position", 2, exclude, vec![kind(proposal, &[])], true), &world.knowledge(), 1).unwrap()
        };
        let batch = batch(1, 1, 1, 0, &[0, 1, 2]);
        let error = sampler("history").draw(&Device::HOST, &batch, None, START).err().unwrap();
        assert_eq!(error.code(), Code::D0302);
        assert!(drawn(&sampler("target"), &batch).ids.iter().all(|&i| i == 0 || i == 2));
    }
}

#[test]
fn wrong_options_are_refused_with_the_right_code() {
    let world = steep();
    let refused = |config: config::Sampler, code: Code, words: &str| {
        let error = Sampler::new(&config, &world.knowledge(), 1).err().unwrap_or_else(|| panic!("accepted: {config:?}"));
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "`{error}` lacks `{words}`");
    };
    let single = |k| config("position", 4, "history", vec![k], false);
    refused(single(kind("unifrom", &[])), Code::C0202, "did you mean `uniform`?");
    refused(single(kind("uniform", &[("alpha", number(1.0))])), Code::C0203, "use `kind = \"popularity\"`");
    refused(single(kind("popularity", &[("alhpa", number(1.0))])), Code::C0201, "did you mean `alpha`?");
    refused(single(kind("popularity", &[("alpha", number(9.0))])), Code::C0202, "0 .. 4");
    refused(single(kind("popularity", &[("alpha", word("much"))])), Code::C0202, "0 .. 4");
    refused(single(kind("popularity", &[("form", word("log")), ("alpha", number(0.5))])), Code::C0203, "no effect");
    refused(single(kind("uniform", &[("share", number(0.5))])), Code::C0203, "single proposal");
    refused(config("position", 4, "none", vec![kind("in_batch", &[])], false), Code::C0205, "own target");
    refused(config("sequence", 4, "target", vec![kind("cluster", &[])], false), Code::C0205, "scope = \"position\"");
    refused(config("sequence", 4, "target", vec![kind("same_attribute", &[])], false), Code::C0205, "scope = \"position\"");
    refused(config("batch", 4, "target", vec![kind("graph_walk", &[])], false), Code::C0205, "scope = \"position\"");
    refused(config("batch", 4, "target", vec![kind("user_walk", &[])], false), Code::C0205, "users cannot share");
    refused(config("positoin", 4, "target", vec![kind("uniform", &[])], false), Code::C0202, "did you mean `position`?");
    refused(config("position", 0, "target", vec![kind("uniform", &[])], false), Code::C0202, "range");
    refused(config("position", 4, "target", vec![], false), Code::C0205, "empty list");
    refused(config("position", 4, "target", vec![kind("catalogue", &[])], false), Code::C0205, "select");
    let few = config::Sampler { select: Some(kind("top_k", &[("candidates", number(8.0))])), ..single(kind("uniform", &[])) };
    refused(config::Sampler { negatives: Some(9.into()), ..few }, Code::C0205, "more by `sampler.select.candidates`");
    refused(config::Sampler { preset: "unifrm".into(), ..Default::default() }, Code::C0202, "did you mean `uniform`?");
    let distinct = kind("uniform", &[("distinct", Value::Flag(true))]);
    refused(config("position", 4, "target", vec![distinct, kind("popularity", &[])], false), Code::C0205, "agree");
    let no_clusters = Knowledge { clusters: None, ..world.knowledge() };
    let error = Sampler::new(&single(kind("cluster", &[])), &no_clusters, 1).err().unwrap();
    assert_eq!(error.code(), Code::D0303);
    let no_attributes = Knowledge { attributes: None, ..world.knowledge() };
    for name in ["same_attribute", "attribute_neighbours"] {
        let error = Sampler::new(&single(kind(name, &[])), &no_attributes, 1).err().unwrap();
        assert_eq!(error.code(), Code::D0303);
        assert!(error.to_string().contains("`data.items_path`"), "{error}");
    }
    let nowhere = Attributes { offsets: &vec![0; world.counts.len() + 1], codes: &[] };
    for graph in [None, Some(nowhere)] {
        let no_graph = Knowledge { graph, ..world.knowledge() };
        let error = Sampler::new(&single(kind("graph_walk", &[])), &no_graph, 1).err().unwrap();
        assert_eq!(error.code(), Code::D0303);
        assert!(error.to_string().contains("`data.graph_path`"), "{error}");
    }
    let empty = Knowledge { train_counts: &[0, 0], ..world.knowledge() };
    assert_eq!(Sampler::new(&single(kind("uniform", &[])), &empty, 1).err().unwrap().code(), Code::D0302);
}

/// A configuration that has a kind in its stage.
fn with(declared: &Declared) -> config::Sampler {
    let kind = || kind(declared.name, &[]);
    let of = |propose: &str| config("position", 1, "history", vec![super::kind(propose, &[])], false);
    match declared.stage {
        Stage::Propose => config("position", 1, "history", vec![kind()], false),
        Stage::Select if declared.needs.contains(&Need::Catalogue) => config::Sampler { select: Some(kind()), ..of("catalogue") },
        Stage::Select => config::Sampler { select: Some(kind()), ..of("uniform") },
        Stage::Mix => config::Sampler { mix: Some(kind()), ..of("uniform") },
        Stage::Weight => config::Sampler { weight: Some(kind()), ..of("uniform") },
    }
}

/// The option that supplies what a kind says it needs of the log.
fn supply(declared: &Declared) -> Option<&'static str> {
    declared.needs.iter().find_map(|need| match need {
        // Wrong contexts are those of other times.
        Need::Clusters | Need::Context => Some("`--time-col`"),
        Need::Attributes => Some("`data.items_path`"),
        Need::Graph => Some("`data.graph_path`"),
        Need::Explicit => Some("`data.min_weight`"),
        _ => None,
    })
}

/// On a log that says nothing but who took what, every kind works or names what it needs; so it does where the files are there and
/// say nothing.
#[test]
fn what_a_log_lacks_is_named_with_the_option_that_supplies_it() {
    let world = steep();
    let bare = Knowledge { clusters: None, attributes: None, graph: None, explicit: None, ..world.knowledge() };
    let (nothing, nobody) = (vec![0; world.counts.len() + 1], vec![0; world.train_end.len() + 1]);
    let no_codes = || Some(Attributes { offsets: &nothing, codes: &[] });
    let silent = Explicit { offsets: &nobody, items: &[], times: None };
    let empty = Knowledge { attributes: no_codes(), graph: no_codes(), explicit: Some(silent), ..bare };
    let mut refusals = 0;
    for declared in kinds().into_iter().filter(|declared| declared.name != "catalogue") {
        for knowledge in [&bare, &empty] {
            match (Sampler::new(&with(declared), knowledge, 1), supply(declared)) {
                (Ok(_), None) => {}
                (Err(error), Some(option)) => {
                    assert_eq!(error.code(), Code::D0303, "{}: {error}", declared.name);
                    assert!(error.to_string().contains(declared.name) && error.to_string().contains(option), "{error}");
                    refusals += 1;
                }
                (Ok(_), Some(option)) => panic!("{} says that it needs {option}, and does without", declared.name),
                (Err(error), None) => panic!("{} needs something it does not declare: {error}", declared.name),
            }
        }
        Sampler::new(&with(declared), &world.knowledge(), 1).unwrap_or_else(|error| panic!("{}: {error}", declared.name));
    }
    assert!(refusals >= 14, "{refusals}");
}

/// Whatever is a number, of whatever kind.
#[test]
fn numbers_that_are_none_are_refused_everywhere() {
    let curve = |from: f64, over: f64| Value::Curve(config::Curve { from, to: 1.0, over, shape: config::CurveShape::Linear });
    let mut tried = 0;
    for declared in kinds() {
        let shared: &[Param] = if declared.stage == Stage::Propose { OF_PROPOSALS } else { &[] };
        for param in declared.params.iter().chain(shared).filter(|p| matches!(p.form, Form::Number { .. } | Form::Count { .. })) {
            for bad in [number(f64::NAN), number(f64::INFINITY), number(-1e300), curve(f64::NAN, 1.0), curve(1.0, f64::NAN)] {
                let mut config = with(declared);
                let stages = [&mut config.select, &mut config.mix, &mut config.weight].into_iter().flatten();
                let own = stages.chain(config.propose.iter_mut().flatten()).find(|kind| kind.kind == declared.name);
                own.unwrap().params.insert(param.name.into(), bad.clone());
                let error = Plan::new(&config).err().unwrap_or_else(|| panic!("{} {} = {bad:?}", declared.name, param.name));
                assert!(matches!(error.code(), Code::C0202 | Code::C0203), "{error}");
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried}");
    let rising = config::Curve { from: 0.0, to: 1.0, over: 3.0, shape: config::CurveShape::Exponential };
    let from_zero = kind("softmax_draw", &[("beta", Value::Curve(rising))]);
    let error = Plan::new(&config::Sampler {
        select: Some(from_zero),
        ..config("position", 1, "target", vec![kind("uniform", &[])], false)
    })
    .err()
    .unwrap();
    assert!(error.code() == Code::C0202 && error.to_string().contains("equal factors"), "{error}");
    let line = |from: f64, to: f64, over: f64| config::Curve { from, to, over, shape: config::CurveShape::Linear };
    for bad in
        [line(0.0, 4.0, 1.0), line(4.0, f64::NAN, 1.0), line(1.0, 4.0, -1.0), line(1.0, 1e9, 1.0), line(1.0, 4.0, f64::INFINITY)]
    {
        let config = config::Sampler { negatives: Some(config::Amount::Moving(bad)), ..Default::default() };
        let error = Plan::new(&config).err().unwrap();
        assert!(error.code() == Code::C0202 && error.to_string().contains("sampler.negatives = {"), "{error}");
    }
}

/// No preset loops, panics or gives a user what it has seen where nothing else is left.
#[test]
fn presets_have_nothing_for_a_user_who_has_seen_everything() {
    let world = World::new(3, &[vec![0, 1, 2], vec![2, 1]], 1, |_, _| 0);
    let model = super::select::Model::new(crate::ops::score::ScoreKind::Dot, 4, 3, false, false);
    let batch = Batch { row_keys: vec![0, 1, 2, 3].into(), ..batch(1, 4, 1, 0, &[0, 1, 2]) };
    let (mut refused, mut left_empty) = (0, 0);
    for preset in presets().unwrap() {
        let own = config::Sampler { preset: preset.name.clone(), negatives: Some(1.into()), ..Default::default() };
        let sampler = Sampler::new(&own, &world.knowledge(), 1).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        if sampler.resolved().exclude.as_deref() != Some("history") {
            continue;
        }
        match model.try_draw(&Device::HOST, &sampler, &batch, START) {
            Err(error) => {
                assert!(error.code() == Code::D0302 && error.to_string().contains("sampler.exclude"), "{}: {error}", preset.name);
                refused += 1;
            }
            Ok(negatives) => {
                let dropped = |slot: usize| negatives.drop.get(slot).copied().unwrap_or(false);
                let given = negatives.ids.iter().enumerate().filter(|(slot, id)| **id != NONE && !dropped(*slot)).count();
                assert_eq!(given, 0, "{}: {:?}", preset.name, negatives.ids);
                left_empty += 1;
            }
        }
    }
    assert!(refused > 10 && left_empty > 5, "{refused} refused, {left_empty} left empty");
}

#[test]
fn more_than_there_is_cannot_be_drawn_without_repetition() {
    let world = World::new(5, &[(0..5).collect()], 1, |_, _| 0);
    let distinct = kind("uniform", &[("distinct", Value::Flag(true))]);
    let top = |candidates: f64| Some(kind("top_k", &[("candidates", number(candidates))]));
    let refused = |config: config::Sampler| {
        let error = Sampler::new(&config, &world.knowledge(), 1).err().unwrap();
        assert!(error.code() == Code::C0205 && error.to_string().contains("5 items"), "{error}");
    };
    refused(config("position", 6, "none", vec![distinct.clone()], false));
    refused(config::Sampler { select: top(6.0), ..config("position", 2, "none", vec![distinct], false) });
    for name in ["top_k", "softmax_draw", "buckets", "generator"] {
        let whole = config("position", 6, "none", vec![kind("catalogue", &[])], false);
        refused(config::Sampler { select: Some(kind(name, &[])), ..whole });
    }
}
