//! Settings from six layers, each key with where it came from:
//! defaults < user file < `--config FILE` < environment `HARDNEG_SECTION__KEY` < `--set key=value` < flags.
//!
//! Nothing is ignored: an unknown key, a wrong type and an option without effect are errors that name the place and the
//! cure. Naming another kind (of loss, of sampler stage) or another preset drops the parameters a lower layer gave the
//! former one.

mod keys;
mod rules;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use toml::{Spanned, Table, Value};

use crate::config::Config;
use crate::error::{Code, Error, Result};

/// Variables of this program, its build, its tests and its benchmarks that are no settings.
const NO_SETTINGS: &[&str] = &["HARDNEG_NVRTC_DIR", "HARDNEG_COMMIT", "HARDNEG_DATA", "HARDNEG_BLESS", "HARDNEG_REQUIRE_NVRTC"];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Default,
    File {
        path: PathBuf,
        line: usize,
        column: usize,
    },
    Environment(String),
    Set(String),
    Flag(String),
    /// Chosen because of another setting; the text says which.
    Derived(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Source::Environment(name) => write!(f, "environment variable {name}"),
            Source::Set(text) => write!(f, "--set {text}"),
            Source::Flag(flag) => write!(f, "{flag}"),
            Source::Derived(why) => write!(f, "{why}"),
        }
    }
}

/// What the layers are read from.
#[derive(Default)]
pub struct Inputs {
    pub user_file: Option<PathBuf>,
    pub config_file: Option<PathBuf>,
    /// The configuration of a run, in the place of `config_file`. It was judged when the run began, perhaps by a version with fewer rules,
    /// so what has no effect in it is not refused.
    pub run_file: Option<PathBuf>,
    /// Variables of the process; those named `HARDNEG_SECTION__KEY` count, and others that begin like these are refused if they name a key
    /// in another way.
    pub environment: Vec<(String, String)>,
    /// `key=value` each.
    pub sets: Vec<String>,
    /// (flag as typed, key, value)
    pub flags: Vec<(String, &'static str, Value)>,
}

/// A whole configuration and the origin of each key.
#[derive(Debug)]
pub struct Settings {
    pub config: Config,
    /// (key, value, source) in the order of the configuration.
    pub origins: Vec<(String, Value, Source)>,
    /// Things the user should know: names read as other names, choices made for them.
    pub notes: Vec<String>,
}

impl Settings {
    /// What somebody set to something other than the default.
    pub fn chosen(&self) -> impl Iterator<Item = &(String, Value, Source)> {
        let defaults = flat(&Config::default()).unwrap_or_default();
        self.origins.iter().filter(move |(key, value, source)| {
            *source != Source::Default && !defaults.iter().any(|(k, v)| k == key && v == value)
        })
    }
    /// Every key with its value and where it came from, as TOML with comments.
    pub fn print(&self) -> String {
        let lines: Vec<(String, &Source)> =
            self.origins.iter().map(|(key, value, source)| (format!("{key} = {value}"), source)).collect();
        let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(60);
        lines.iter().map(|(line, source)| format!("{line:width$}  # {source}\n")).collect()
    }
}

/// Every key of a configuration and its value, in its order.
pub fn flat(config: &Config) -> Result<Vec<(String, Value)>> {
    Table::try_from(config).map(|table| keys::flatten(&table)).map_err(|e| Error::internal(e.to_string()))
}

#[derive(Clone)]
struct Entry {
    value: Value,
    source: Source,
    layer: usize,
}

struct Layers {
    schema: Vec<(String, Value)>,
    defaults: Vec<(String, Value)>,
    entries: BTreeMap<String, Entry>,
    notes: Vec<String>,
    run_file: Option<PathBuf>,
}

impl Layers {
    /// Puts one key of a layer, checked; `typed` may be another name for the key.
    fn put(&mut self, typed: &str, value: Value, source: Source, layer: usize) -> Result<()> {
        let place = source.to_string();
        let (key, note) = keys::resolve(typed, &self.schema)
            .map_err(|hint| Error::new(Code::C0201, format!("unknown key `{typed}`")).at(place.clone()).help(hint))?;
        self.notes.extend(note);
        let value = keys::check(&key, value, &self.schema).map_err(|e| e.at(place))?;
        let shadowed = |other: &str, of: &Entry| {
            let stage = |name: &str| other == name || other.starts_with(&format!("{name}."));
            let kind_changed = key.strip_suffix(".kind").is_some_and(|table| keys::OPEN.contains(&table) && stage(table));
            let preset_changed = key == "sampler.preset"
                && ["sampler.propose", "sampler.select", "sampler.mix", "sampler.weight"].into_iter().any(stage);
            // The command line is one layer here: what is said on it together is meant together.
            of.layer < layer.min(4) && (kind_changed || preset_changed)
        };
        self.entries.retain(|other, of| !shadowed(other, of));
        self.entries.insert(key, Entry { value, source, layer });
        Ok(())
    }

    fn put_file(&mut self, path: &Path, layer: usize) -> Result<()> {
        let size = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?.len();
        if size > 1 << 20 {
            return Err(Error::new(
                Code::C0204,
                format!("{} has {size} bytes; a configuration has at most 1 MiB", path.display()),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
        let place = |at: usize| {
            let before = &text[..at.min(text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Source::File { path: path.to_path_buf(), line, column }
        };
        let bad = |e: toml::de::Error| {
            Error::new(Code::C0204, e.message().to_string()).at(place(e.span().map_or(0, |s| s.start)).to_string())
        };
        let spans = DeTable::parse(&text).map_err(bad)?;
        let values: Table = text.parse().map_err(bad)?;
        let mut places = BTreeMap::new();
        key_places("", &spans, &mut places);
        for (key, value) in keys::flatten(&values) {
            let source = place(places.get(&key).copied().unwrap_or(0));
            if key == "config_version" && value.as_integer() != Some(i64::from(Config::default().config_version)) {
                return Err(Error::new(Code::C0202, format!("config_version {value} is not one this version reads"))
                    .at(source.to_string()));
            }
            let line = match source {
                Source::File { line, .. } => format!("{line} | {}", text.lines().nth(line - 1).unwrap_or_default().trim_end()),
                _ => String::new(),
            };
            self.put(&key, value, source, layer).map_err(|e| e.note(line))?;
        }
        Ok(())
    }

    fn put_text(&mut self, typed: &str, text: &str, source: Source, layer: usize) -> Result<()> {
        let value = self.read_value(typed, text);
        self.put(typed, value, source, layer)
    }

    /// A value typed without quotes: TOML where it is TOML and the key does not hold a word, otherwise the word.
    fn read_value(&self, typed: &str, text: &str) -> Value {
        let parsed = format!("x = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
        let key = keys::resolve(typed, &self.schema).map(|(key, _)| key).unwrap_or_default();
        let example = self.schema.iter().find(|(k, _)| *k == key).map(|(_, v)| v);
        match (example, parsed) {
            (Some(Value::String(_)), Some(Value::String(word))) => Value::String(word),
            (Some(Value::String(_)), _) => Value::String(text.to_string()),
            (Some(Value::Array(of)), None) if of[0].is_integer() => {
                let numbers: Option<Vec<Value>> = text.split(',').map(|w| w.trim().parse().ok().map(Value::Integer)).collect();
                numbers.map_or_else(|| Value::String(text.to_string()), Value::Array)
            }
            (_, Some(value)) => value,
            (_, None) => Value::String(text.to_string()),
        }
    }

    /// Whether a value comes from the configuration of a run.
    fn is_of_run(&self, source: &Source) -> bool {
        matches!(source, Source::File { path, .. } if self.run_file.as_ref() == Some(path))
    }

    fn is_default(&self, key: &str, value: &Value) -> bool {
        self.defaults.iter().any(|(k, v)| k == key && v == value)
    }

    fn config(&self) -> Result<Config> {
        let mut root = Table::new();
        for (key, entry) in &self.entries {
            let mut path: Vec<&str> = key.split('.').collect();
            let leaf = path.pop().unwrap_or_default();
            let mut table = &mut root;
            for step in path {
                let inner = table.entry(step).or_insert_with(|| Value::Table(Table::new()));
                table = inner.as_table_mut().ok_or_else(|| Error::internal(format!("{key} lies inside a value")))?;
            }
            table.insert(leaf.to_string(), entry.value.clone());
        }
        for stage in keys::OPEN {
            let parameter = self.entries.keys().find(|k| k.starts_with(&format!("{stage}.")));
            if let Some(key) = parameter.filter(|_| !self.entries.contains_key(&format!("{stage}.kind"))) {
                return Err(Error::new(Code::C0203, format!("`{key}` has no effect without `{stage}.kind`"))
                    .at(self.entries[key].source.to_string())
                    .help(format!("name the kind it belongs to, such as `--set {stage}.kind=NAME`")));
            }
        }
        Value::Table(root).try_into().map_err(|e: toml::de::Error| Error::new(Code::C0202, e.message().to_string()))
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::C0204, format!("reading {}: {error}", path.display()))
}

/// The error of a variable that names a key without the two underscores behind the section; `typed` is its name in small letters, without
/// the prefix. One that names none is somebody else's: cluster managers and build servers call theirs by the name of a program too.
fn misnamed(name: &str, typed: &str, schema: &[(String, Value)]) -> Option<Error> {
    let flat = schema.iter().map(|(key, _)| key).find(|key| key.replace('.', "_") == typed).cloned();
    let key = flat.or_else(|| keys::resolve(typed, schema).ok().map(|(key, _)| key))?;
    let error = Error::new(Code::C0201, format!("the environment variable {name} names no setting"));
    Some(error.help(format!("did you mean `HARDNEG_{}`?", key.replace('.', "__").to_ascii_uppercase())))
}

/// Byte offset of every key, dotted.
fn key_places(prefix: &str, table: &Spanned<DeTable<'_>>, into: &mut BTreeMap<String, usize>) {
    for (key, value) in table.get_ref() {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        into.insert(path.clone(), key.span().start);
        if let Some(inner) = value.get_ref().as_table() {
            key_places(&path, &Spanned::new(value.span(), inner.clone()), into);
        }
    }
}

/// Reads all layers.
pub fn resolve(inputs: &Inputs) -> Result<Settings> {
    let defaults = Table::try_from(Config::default()).map_err(|e| Error::internal(e.to_string()))?;
    let defaults = keys::flatten(&defaults);
    let (schema, run_file) = (keys::schema(), inputs.run_file.clone());
    let mut layers = Layers { schema, defaults: defaults.clone(), entries: BTreeMap::new(), notes: vec![], run_file };
    for (key, value) in defaults {
        layers.put(&key, value, Source::Default, 0)?;
    }
    for (layer, file) in [(1, &inputs.user_file), (2, &inputs.config_file), (2, &inputs.run_file)] {
        if let Some(path) = file {
            layers.put_file(path, layer)?;
        }
    }
    for (name, text) in &inputs.environment {
        let typed = name.strip_prefix("HARDNEG_").filter(|_| !NO_SETTINGS.contains(&name.as_str()));
        let Some(typed) = typed.map(str::to_ascii_lowercase) else { continue };
        if !typed.contains("__") {
            match misnamed(name, &typed, &layers.schema) {
                Some(error) => return Err(error),
                None => continue,
            }
        }
        layers.put_text(&typed.replace("__", "."), text, Source::Environment(name.clone()), 3)?;
    }
    for set in &inputs.sets {
        let Some((typed, text)) = set.split_once('=') else {
            return Err(Error::new(Code::C0202, format!("`--set {set}` has no `=`")).help("write `--set key=value`"));
        };
        layers.put_text(typed.trim(), text.trim(), Source::Set(set.clone()), 4)?;
    }
    for (flag, key, value) in &inputs.flags {
        layers.put(key, value.clone(), Source::Flag(flag.clone()), 5)?;
    }
    rules::derive(&mut layers)?;
    rules::complete_from_preset(&mut layers)?;
    rules::refuse_without_effect(&layers)?;
    let config = layers.config()?;
    let position = |key: &str| {
        layers
            .schema
            .iter()
            .position(|(k, _)| k == key || Some(k.as_str()) == key.rsplit_once('.').map(|(t, _)| format!("{t}.kind")).as_deref())
    };
    let mut origins: Vec<(String, Value, Source)> =
        layers.entries.iter().map(|(k, e)| (k.clone(), e.value.clone(), e.source.clone())).collect();
    origins.sort_by_key(|(key, _, _)| position(key));
    layers.notes.dedup();
    Ok(Settings { config, origins, notes: layers.notes })
}
