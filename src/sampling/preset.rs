//! Named compositions: every method of the literature that the stages can express, as a short file in `presets/`.

use serde::Deserialize;

use crate::config;
use crate::error::{Code, Error, Result, did_you_mean};

/// A method by its name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    #[serde(skip)]
    pub name: String,
    /// What it does, in a line or two.
    pub about: String,
    pub source: String,
    /// Where the survey of the field files it (Ma et al., arXiv 2409.07237): `static`, `dynamic`, `adversarial`, `re-weighting`,
    /// `knowledge-enhanced`, or one of its future `directions`; and the kind within.
    pub family: String,
    pub sub_type: String,
    pub sampler: config::Sampler,
    /// The loss it is made for, where the method names one: what training takes unless another is chosen.
    pub loss: Option<config::Kind>,
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("presets/", $name, ".toml")))),*] };
}

const FILES: &[(&str, &str)] = presets![
    "uniform",
    "gsasrec",
    "dross",
    "popularity",
    "log-popularity",
    "predefined",
    "in-batch",
    "mns",
    "dns",
    "dns-mn",
    "ahns",
    "bns",
    "mcns",
    "tron",
    "gru4rec",
    "amns",
    "adasir",
    "mixgcf",
    "genni",
    "genni-full",
    "srns",
    "cans-items",
    "cans",
    "same-attribute",
    "knn-attribute",
    "kg-walk",
    "kgpolicy",
    "gnno",
    "user-walk",
    "geosan",
    "pris",
    "softmax-rho",
    "category-balance",
    "ubpr",
    "logq",
    "logq-2025",
    "dcl",
    "hcl",
    "fairneg",
    "kbgan",
    "irgan",
    "pure",
    "sce",
    "dens",
];

/// All presets, in the order of the list above.
pub fn all() -> Result<Vec<Preset>> {
    FILES.iter().map(|(name, text)| parse(name, text)).collect()
}

/// The preset called `name`.
pub fn find(name: &str) -> Result<Preset> {
    let names: Vec<&str> = FILES.iter().map(|f| f.0).collect();
    let (name, text) = FILES.iter().find(|f| f.0 == name).ok_or_else(|| {
        Error::new(Code::C0202, format!("there is no sampler preset `{name}`"))
            .help(did_you_mean(name, &names))
            .help("`hardneg samplers list` shows all")
    })?;
    parse(name, text)
}

fn parse(name: &str, text: &str) -> Result<Preset> {
    let preset: Preset = toml::from_str(text).map_err(|e| Error::internal(format!("preset {name}: {e}")))?;
    Ok(Preset { name: name.to_string(), ..preset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_says_where_it_belongs_and_whence_it_comes() {
        let families = ["static", "dynamic", "adversarial", "re-weighting", "knowledge-enhanced", "directions"];
        for preset in all().unwrap() {
            assert!(families.contains(&preset.family.as_str()), "{}: {}", preset.name, preset.family);
            assert!(!preset.sub_type.is_empty() && preset.about.len() > 20 && preset.source.len() > 10, "{}", preset.name);
        }
    }
}
