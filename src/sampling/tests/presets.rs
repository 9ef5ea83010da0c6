//! Presets are configurations like any other.

use super::*;

#[test]
fn presets_resolve_to_what_resolves_to_itself() {
    let world = World::new(300, &[(0..300).collect()], 2, |event, _| event % 2);
    for preset in presets().unwrap() {
        let config = config::Sampler { preset: preset.name.clone(), ..config::Sampler::default() };
        let resolved = Sampler::new(&config, &world.knowledge(), 1).unwrap().resolved();
        let again = Sampler::new(&resolved, &world.knowledge(), 1).unwrap();
        assert_eq!(again.resolved(), resolved, "{}", preset.name);
        let text = toml::to_string(&resolved).unwrap();
        assert_eq!(toml::from_str::<config::Sampler>(&text).unwrap(), resolved, "{}", preset.name);
        let unnamed = config::Sampler { preset: String::new(), ..resolved.clone() };
        assert_eq!(config::Sampler { preset: preset.name.clone(), ..Plan::new(&unnamed).unwrap().spelled_out() }, resolved);
        assert!(matches!(show(&preset.name).unwrap(), Shown::Preset { .. }));
    }
    for declared in kinds() {
        assert!(declared.help.len() > 10 && declared.source.len() > 10);
        assert!(show(declared.name).is_ok());
    }
    assert!(show("canz").err().unwrap().to_string().contains("did you mean `cans`?"));
}

#[test]
fn the_users_keys_override_the_presets() {
    let own = config::Sampler {
        preset: "cans".into(),
        negatives: Some(5.into()),
        mix: Some(kind("wrong_context", &[("count", number(3.0))])),
        ..Default::default()
    };
    let resolved = Plan::new(&own).unwrap().spelled_out();
    assert_eq!(resolved.negatives, Some(5.into()));
    assert_eq!(resolved.mix, Some(kind("wrong_context", &[("choice", word("hard")), ("count", number(3.0))])));
    assert_eq!(resolved.propose.unwrap()[0].kind, "cluster");
}
