//! What a kernel's header says a launch moves.
//!
//! Under `Traffic`, a header has a line for each entry point:
//!
//! ```text
//! //   embedding_fwd: reads at most 4 n + 4 |ids|, writes 4 n
//! ```
//!
//! A formula is a sum of products of numbers, defines, parameters, and `|x|`, the elements of four bytes in the array that a
//! parameter points to (0 for an absent one); `/` divides and rounds up. Each byte counts once, however often it is asked for.
//!
//! The emulator holds its launches to these lines (`emulator/traffic.rs`), so that on a GPU, which counts no bytes, they say what a
//! launch moves (`train/kernels.rs`).

use std::collections::BTreeMap;

use crate::device::{Arg, Kernel, sources};
use crate::error::{Code, Error, Result};

/// Bytes of a launch, as the header of its kernel has them, and what its words stood for.
pub struct Traffic {
    pub reads: Promise,
    pub writes: Promise,
    pub values: BTreeMap<String, u64>,
}

impl Traffic {
    /// G0508: the kernel's header does not say what it moves.
    pub fn of(kernel: &Kernel, args: &[Arg]) -> Result<Traffic> {
        let text = sources::text(&format!("{}.cu", kernel.file)).unwrap_or_default();
        let wrong = |what: String| Error::new(Code::G0508, format!("{}.cu, {}: {what}", kernel.file, kernel.entry));
        let names = parameters(text, kernel.entry).ok_or_else(|| wrong("the parameters cannot be read".into()))?;
        let mut values: BTreeMap<String, u64> = kernel.defines.iter().map(|&(name, x)| (name.into(), x as u64)).collect();
        for (name, arg) in names.iter().zip(args.iter()) {
            match arg {
                Arg::In(buffer) => values.insert(format!("|{name}|"), buffer.len() as u64),
                Arg::Out(buffer) => values.insert(format!("|{name}|"), buffer.len() as u64),
                Arg::InFrom(buffer, from) => values.insert(format!("|{name}|"), (buffer.len() - from / 4) as u64),
                Arg::OutFrom(buffer, from) => values.insert(format!("|{name}|"), (buffer.len() - *from / 4) as u64),
                Arg::None => values.insert(format!("|{name}|"), 0),
                Arg::U32(x) => values.insert(name.to_string(), u64::from(*x)),
                Arg::U64(x) => values.insert(name.to_string(), *x),
                Arg::F32(_) => None,
            };
        }
        let formulas = promised(text, kernel.entry).ok_or_else(|| wrong("its header does not say what it moves".into()))?;
        let value = |word: &str| word.parse().ok().or_else(|| values.get(word).copied());
        let of = |formula: &str| {
            evaluate(formula, &value).ok_or_else(|| wrong(format!("`{formula}` cannot be worked out from {values:?}")))
        };
        Ok(Traffic { reads: of(formulas[0])?, writes: of(formulas[1])?, values })
    }
}

/// Bytes a header promises.
#[derive(Debug)]
pub struct Promise {
    /// Whether fewer bytes are as good.
    pub at_most: bool,
    pub bytes: u64,
}

/// The parameters of `entry` in their order.
fn parameters<'t>(text: &'t str, entry: &str) -> Option<Vec<&'t str>> {
    let head = text.match_indices("KERNEL(").find_map(|(at, _)| {
        let (arguments, rest) = text[at + 7..].split_once(')')?;
        (arguments.rsplit(',').next()?.trim() == entry).then_some(rest)
    })?;
    let mut list = head.trim_start().strip_prefix('(')?.split_once(')')?.0;
    if let Some(at) = text.find(&format!("#define {} ", list.trim())).filter(|_| !list.contains(',')) {
        let end = text[at..].match_indices('\n').find(|(end, _)| !text[at..at + end].ends_with('\\'))?.0;
        list = text[at..at + end].split_once(' ')?.1.split_once(char::is_whitespace)?.1;
    }
    let word = |c: char| c.is_alphanumeric() || c == '_';
    Some(list.split(',').map(|p| p.trim_end_matches(|c| !word(c)).rsplit(|c| !word(c)).next().unwrap_or_default()).collect())
}

/// What the header says of `entry`: the text after `reads` and after `writes`.
fn promised<'t>(text: &'t str, entry: &str) -> Option<[&'t str; 2]> {
    let line =
        text.lines().find_map(|line| line.strip_prefix("//")?.trim_start().strip_prefix(entry)?.strip_prefix(": reads "))?;
    line.split_once(", writes ").map(|(reads, writes)| [reads, writes])
}

fn evaluate(formula: &str, value: &dyn Fn(&str) -> Option<u64>) -> Option<Promise> {
    let (at_most, sum) = formula.trim().strip_prefix("at most ").map_or((false, formula.trim()), |rest| (true, rest));
    let product = |term: &str| {
        let (mut product, mut divide) = (1u64, false);
        for factor in term.replace('/', " / ").split_whitespace() {
            match (factor, divide) {
                ("/", _) => divide = true,
                (factor, true) => (product, divide) = (product.div_ceil(value(factor)?), false),
                (factor, false) => product *= value(factor)?,
            }
        }
        Some(product)
    };
    let bytes = sum.split('+').map(product).sum::<Option<u64>>()?;
    Some(Promise { at_most, bytes })
}

#[test]
fn a_header_is_read_and_worked_out() {
    const TEXT: &str = "// Traffic  prose\n//   twice: reads at most 4 n + 8 |ids|/W, writes 4 n\n#define SIZES u32 n, \\\n  u32 W\nKERNEL(A * B, other)\n(float* y) {}\nKERNEL(32, twice)(u32* __restrict__ y,\n  const u32* ids, SIZES) {}\n";
    assert_eq!(parameters(TEXT, "other").unwrap(), ["y"]);
    assert_eq!(parameters(TEXT, "twice").unwrap()[..2], ["y", "ids"]);
    let values = |word: &str| {
        word.parse().ok().or(match word {
            "n" => Some(10),
            "|ids|" => Some(7),
            "W" => Some(3),
            _ => None,
        })
    };
    let [reads, writes] = promised(TEXT, "twice").unwrap();
    let reads = evaluate(reads, &values).unwrap();
    assert_eq!((reads.at_most, reads.bytes), (true, 40 + 19));
    let writes = evaluate(writes, &values).unwrap();
    assert_eq!((writes.at_most, writes.bytes), (false, 40));
    assert!(evaluate("4 m", &values).is_none() && promised(TEXT, "other").is_none());
}
