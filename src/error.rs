//! Every failure a user can cause or meet: one code, what happened, where, why, and the cure.
//!
//! This is the only place that lists codes. A code's letter is its family and fixes the exit status of the program
//! (`A` 1, `C` 2, `D` 3, `M` 4, `G` 5 or 6, `T` 7, `F` 8, `I` 70, `S` 75). Grow by one line in `codes!`; tests demand an
//! explanation for each, and `hardneg explain CODE` prints it.

use std::fmt;
use std::path::Path;

pub type Result<T> = std::result::Result<T, Error>;

/// Exit status of the program, as documented in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ran, and the answer is no.
    No = 1,
    Usage = 2,
    Data = 3,
    Model = 4,
    Device = 5,
    Memory = 6,
    Diverged = 7,
    Io = 8,
    Internal = 70,
    Interrupted = 75,
}

macro_rules! codes {
    ($( $code:ident $exit:ident $title:literal $explain:literal; )*) => {
        /// A stable error code; see [`Code::explain`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($code),* }
        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$code),*];
            pub fn name(self) -> &'static str { match self { $(Code::$code => stringify!($code)),* } }
            pub fn exit(self) -> Exit { match self { $(Code::$code => Exit::$exit),* } }
            /// A headline of a few words.
            pub fn title(self) -> &'static str { match self { $(Code::$code => $title),* } }
            /// Cause and cure in full sentences.
            pub fn explain(self) -> &'static str { match self { $(Code::$code => $explain),* } }
        }
    };
}

codes! {
    // ---- A: the answer is no --------------------------------------------------------------------------------------
    A0101 No "slower than the base"
        "`hardneg profile --compare` found samplers whose cost per negative has grown by more than 3 % over the base, with intervals that do not meet. Measure again on a quiet machine before believing it.";
    A0102 No "a condition of the comparison holds"
        "`hardneg compare --fail-if` found a run for which the condition holds, for example a metric below its share of the base's. The message names run, metric and bound.";
    // ---- C: command line and configuration --------------------------------------------------------------------
    C0201 Usage "unknown configuration key"
        "A key in `--set`, the environment or the configuration file is not one hardneg knows. Keys are never ignored, because a misspelt one would silently train something else. The message names the nearest valid key; `hardneg train --print-config` lists all of them.";
    C0202 Usage "value of the wrong type or out of range"
        "A configuration value cannot be read as the type its key needs, or lies outside the range that makes sense. The message shows the value, where it came from and the range.";
    C0203 Usage "option without effect"
        "A key is valid but does nothing in this combination (for example a popularity exponent with the uniform proposal). It is refused because whoever wrote it expected an effect. Remove it or choose the kind it belongs to.";
    C0204 Usage "unreadable configuration file"
        "The configuration file is not valid TOML. The message shows line and column.";
    C0205 Usage "contradicting options"
        "Two options cannot hold together, for example more negatives than the catalogue has items to draw from.";
    C0206 Usage "the configuration differs from the run's"
        "The run directory holds a checkpoint made with another configuration or other data. Continuing would mix two experiments. Use another `--out`, or `--fresh` to start over.";
    // ---- D: data ------------------------------------------------------------------------------------------------
    D0101 Data "input file cannot be read"
        "The file does not exist, is a directory, or may not be read. Check the path and its permissions.";
    D0102 Data "empty input"
        "The file holds no rows (it is empty, or has only a header). There is nothing to learn from.";
    D0103 Data "unrecognised file format"
        "The content matches none of the formats hardneg reads (CSV/TSV, MovieLens `::` and `|`, RecBole `.inter`, SASRec text, S3Rec ragged lines, JSON lines, Parquet, each plain or gzip/zstd). `hardneg inspect FILE` shows what was tried.";
    D0104 Data "a needed column was not found"
        "No column could be recognised as the user or the item, or a column named in the configuration is not in the file. The message lists the columns that were found; name the right one with `data.user_col`, `data.item_col`, `data.time_col` or `data.weight_col`, by name or by number from 1.";
    D0105 Data "damaged compressed file"
        "A gzip or zstd file ends too early or fails its checksum, so part of the log is missing. Nothing of it is used. Copy or download it again.";
    D0106 Data "too many unusable rows"
        "The share of rows that cannot be used exceeds `data.max_bad_share`. Mostly the delimiter, a column or the time unit was guessed wrongly; the message names the commonest problems with their first lines, or a column that is named like a time and holds none, and `hardneg inspect FILE` shows what was guessed and why.";
    D0107 Data "a row cannot be used"
        "A row has a problem and `data.on_bad_row` is `fail`. With `quarantine` such rows are counted and kept in a file beside the output, with `skip` they are counted only.";
    D0108 Data "the file expands beyond reason"
        "A compressed file grows more than 500-fold past the first GiB, as files do that are made to exhaust a machine. If it really is a log, decompress it first.";
    D0109 Data "damaged or unsupported Parquet file"
        "The Parquet file is cut, damaged, or uses a type or compression hardneg does not read (nested columns; codecs other than none, snappy and zstd). Write it again, or export it as CSV.";
    D0110 Data "a kind of file that is never read"
        "The file is a pickle, an array dump, an archive or other binary data. Pickles are refused because loading one runs code. Export the table as CSV, TSV, JSON lines or Parquet.";
    D0111 Data "log and times file do not belong together"
        "A log of ragged lines and its file of times must have the same users on the same lines. Name the right file with `data.times_path`, or read without times (`data.time_unit = \"none\"`).";
    D0112 Data "too many users or items"
        "Users and items are numbered with 32 bits. Drop rare ones first, or map them to shared ids.";
    D0301 Data "nothing to evaluate"
        "The split left no event to predict: every user has too few events, or all of them train. Leave-one-out needs three events per user; another split or a longer log helps.";
    D0302 Data "no item left to draw"
        "A negative had to be drawn for a user whose exclusion leaves no item of the training catalogue: the user has seen everything. Excluding only the target (`sampler.exclude = \"target\"`) always works with three items or more; otherwise leave such users out.";
    D0303 Data "the sampler needs data the log does not have"
        "A stage of the negative sampler works from times, clusters of times, attributes of items, a knowledge graph or training events that this log does not provide. The message names what is missing and the option that supplies it.";
    D0304 Data "sampling weights make no distribution"
        "The weights from which a sampling table is built must be finite, not negative, and not all zero. With popularity weights this means that the training part has no events at all.";
    D0401 Data "damaged prepared file"
        "A prepared file is truncated, has sections that do not fit together, or fails its checksum. Prepare it again from the log with `hardneg prepare`.";
    D0402 Data "not a prepared file of this version"
        "The file does not start like a prepared file, or was written by a version of hardneg with another layout. Prepare it again from the log with `hardneg prepare`.";
    D0403 Data "nothing left after filtering"
        "The weight threshold, the removal of duplicates and the fewest events per user and item together dropped every row. The message lists how many rows each filter left. Lower `data.min_user`, `data.min_item` or `data.min_weight`.";
    D0404 Data "the log lacks what a setting needs"
        "A setting needs something the log does not have, most often a time column (the global temporal split, temporal features, time clusters and the removal of exact duplicates need one). Name the column, for example with `data.time_col`, or choose another setting.";
    D0405 Data "log too large"
        "Users, items and rows are numbered with 32 bits: at most 4,294,967,295 of each. Larger logs have to be cut, for example by time.";
    D0406 Data "request that cannot be served"
        "A request names an item, user or context column the prepared data do not have, or gives a context value that is not a number where one is needed.";
    D0407 Data "nothing to train on"
        "No user has two training events, so there is no pair of an event and the next one to learn from. Prepare a log with longer histories, or one that was not cut.";
    // ---- M: models and checkpoints -------------------------------------------------------------------------------
    M0401 Model "damaged checkpoint"
        "A checkpoint file is truncated, has the wrong size or fails its checksum. The loader falls back to the previous valid checkpoint of the run; if there is none, start over with `--fresh`. The best model has no such predecessor: where it is damaged, the end of a training judges the last model and says so, and all else uses the newest checkpoint once `best` is removed from the run.";
    M0402 Model "checkpoint does not fit the model"
        "Names or shapes of the tensors differ from what the configuration describes, so the file belongs to another model.";
    M0403 Model "not a model file hardneg can read"
        "The file is not a hardneg run or a safetensors file. Pickle files (.pt, .pth, .pkl) are never read, because loading one runs code: convert it to safetensors with the library that wrote it.";
    M0404 Model "non-finite weights"
        "A stored tensor holds NaN or infinity; a model with such weights cannot score.";
    M0405 Model "no checkpoint yet"
        "The run directory holds no checkpoint, so there is no model to use. Train first, or wait until the run has written its first checkpoint.";
    M0406 Model "no records yet"
        "The run directory holds no record of an epoch or an evaluation and no final report, so there is nothing to show. Wait for the end of the first epoch, or continue the run with the command that began it.";
    M0407 Model "a run of another version"
        "The records or the manifest of the run have another version than this hardneg reads, so figures could be taken for what they are not. Use the version that made the run; the message names it.";
    // ---- G: devices and memory -----------------------------------------------------------------------------------
    G0501 Device "no usable GPU"
        "`--device cuda` was requested, but no NVIDIA driver, no device, or a driver that is too old was found. The message says what was looked for. Use `--device host`, or `auto` to fall back by itself.";
    G0502 Device "the operation has no kernel on this device"
        "The requested device cannot run this operation in this version. Use `--device host`.";
    G0503 Device "a CUDA library was not found"
        "A GPU needs NVRTC (the CUDA compiler library) and cuBLASLt beside the driver. They come with a CUDA toolkit or with pip (`pip install nvidia-cuda-nvrtc nvidia-cublas`); `hardneg doctor` says where was looked.";
    G0504 Device "a kernel does not compile"
        "The CUDA compiler, or for the emulator the C++ compiler, refused one of hardneg's kernels. The message holds the file, the options and the compiler's words.";
    G0505 Device "the GPU failed"
        "A call to the CUDA driver or one of its libraries failed. After such an error the GPU answers nothing more in this process. Checkpoints already written are intact: run the same command again to continue.";
    G0506 Device "a kernel strays from the plain path"
        "`hardneg check` found an operation whose result on this device is further from the plain path than rounding explains, or differs between repeats. Do not train on the device; report the table.";
    G0507 Device "the emulator has no C++ compiler"
        "`--device emulator` compiles the kernels with the system's C++ compiler (`c++`, `g++` or `clang++`) and keeps them in a cache folder. One of the two is missing. Use `--device host`, which needs neither.";
    G0508 Device "a kernel broke a rule"
        "The emulator stopped a kernel that would misbehave on a GPU: threads that part at a barrier, a race, memory it was not given or nobody wrote, a wrong argument. The message names the rule and the lines. This is a fault of hardneg.";
    G0601 Memory "not enough memory"
        "The plan needs more memory than is available. The message lists what takes it; a smaller batch, fewer negatives or a smaller dimension helps.";
    // ---- T: training ---------------------------------------------------------------------------------------------
    T0701 Diverged "training diverged"
        "The loss or a gradient became NaN or infinite. Checkpoints already written are intact. A lower learning rate, a longer warm-up or gradient clipping helps.";
    T0702 Diverged "model scores are not numbers"
        "Ranking met a NaN score. A ranking of NaN has no meaning, so no metric is reported. The weights have diverged: train with a lower learning rate, a longer warm-up or gradient clipping.";
    // ---- F: files ------------------------------------------------------------------------------------------------
    F0801 Io "a file cannot be read or written"
        "The operating system refused a read or write (permission, missing folder, a device error). Nothing already written is lost.";
    F0802 Io "no space left"
        "The disk or quota is full. Checkpoints already written are intact; free space and run the same command again to continue.";
    F0803 Io "run directory in use"
        "Another process is training into this run directory. Wait for it or choose another `--out`.";
    // ---- S: stopped ----------------------------------------------------------------------------------------------
    S7501 Interrupted "stopped at a checkpoint"
        "A signal or the time limit ended the run after a checkpoint was written. Run the same command again to continue; the result will be the same as without the interruption.";
    // ---- I: bugs -------------------------------------------------------------------------------------------------
    I7001 Internal "internal error"
        "hardneg broke one of its own rules. This is a bug in hardneg, not in your data; please report it with the command line and the message.";
}

/// An error with everything a user needs to act: see the module text. Built by chaining: `Error::new(code, what).at(place).help(cure)`.
#[derive(Debug, Clone)]
pub struct Error(Box<Report>);

#[derive(Debug, Clone)]
struct Report {
    code: Code,
    what: String,
    at: Option<String>,
    notes: Vec<String>,
    helps: Vec<String>,
}

impl Error {
    pub fn new(code: Code, what: impl Into<String>) -> Error {
        Error(Box::new(Report { code, what: what.into(), at: None, notes: vec![], helps: vec![] }))
    }
    /// Where: `file:line:column`, a byte offset, a step.
    pub fn at(mut self, place: impl Into<String>) -> Error {
        self.0.at = Some(place.into());
        self
    }
    /// Why, or further evidence; an empty text is none.
    pub fn note(mut self, note: impl Into<String>) -> Error {
        self.0.notes.extend(Some(note.into()).filter(|note: &String| !note.is_empty()));
        self
    }
    /// The cure.
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.0.helps.push(help.into());
        self
    }
    pub fn code(&self) -> Code {
        self.0.code
    }
    pub fn what(&self) -> &str {
        &self.0.what
    }
    /// An operating-system failure while `doing` something with a file (`doing` reads like "reading", "writing").
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Error {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let code = if full { Code::F0802 } else { Code::F0801 };
        Error::new(code, format!("{doing} {}: {error}", path.display()))
    }
    /// Weights that are no numbers any more. Not every run has a checkpoint to go back to, and none would go another way from there.
    pub fn diverged(code: Code, what: impl Into<String>) -> Error {
        Error::new(code, what).help(
            "training with a lower learning rate (`--set optim.lr=3e-4`) or clipping (`--set optim.clip=1`) usually helps; \
             where there is a checkpoint already, the change needs `--fresh`",
        )
    }
    /// A broken rule of our own. Never for anything a user can cause.
    pub fn internal(what: impl Into<String>) -> Error {
        Error::new(Code::I7001, what)
    }
    /// The error as one JSON object, for `--json`.
    pub fn json(&self) -> serde_json::Value {
        let r = &self.0;
        serde_json::json!({ "error": { "code": r.code.name(), "exit": r.code.exit() as i32, "what": r.what, "at": r.at, "notes": r.notes, "help": r.helps } })
    }
}

/// The help for a misspelt name: the nearest of `names`, or all of them when none is near.
pub fn did_you_mean(written: &str, names: &[&str]) -> String {
    let near = names.iter().map(|name| (edits(written, name), name)).min();
    match near {
        Some((edits, name)) if edits <= 1 + written.chars().count() / 3 => format!("did you mean `{name}`?"),
        _ => format!("one of: {}", names.join(", ")),
    }
}

/// Insertions, deletions and substitutions that turn `a` into `b` (Levenshtein 1966).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.0;
        write!(f, "error[{}]: {}", r.code.name(), r.what)?;
        if let Some(at) = &r.at {
            write!(f, "\n  --> {at}")?;
        }
        for note in &r.notes {
            write!(f, "\n  = note: {note}")?;
        }
        for help in &r.helps {
            write!(f, "\n  = help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_gets_the_nearest_one() {
        assert_eq!(did_you_mean("gbc", &["softmax", "gbce", "bpr"]), "did you mean `gbce`?");
        assert_eq!(did_you_mean("hinge", &["softmax", "bpr"]), "one of: softmax, bpr");
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }

    #[test]
    fn every_code_has_a_title_and_an_explanation_and_its_family_fixes_the_exit() {
        for &code in Code::ALL {
            assert!(code.title().len() > 8, "{code:?} lacks a title");
            assert!(code.explain().len() > 40, "{code:?} lacks an explanation");
            let expected: &[Exit] = match &code.name()[..1] {
                "A" => &[Exit::No],
                "C" => &[Exit::Usage],
                "D" => &[Exit::Data],
                "M" => &[Exit::Model],
                "G" => &[Exit::Device, Exit::Memory],
                "T" => &[Exit::Diverged],
                "F" => &[Exit::Io],
                "S" => &[Exit::Interrupted],
                "I" => &[Exit::Internal],
                family => panic!("{code:?}: family {family} has no exit status"),
            };
            assert!(expected.contains(&code.exit()), "{code:?} leaves with {:?}", code.exit());
        }
    }
}
