//! SASRec text: `user item` on every line, in the order of events, without times (the format of kang205/SASRec).

use crate::config::Data;
use crate::error::Result;

use super::delimited;
use super::layout::{Evidence, Found, Layout, examples};
use super::roles::known_name;
use super::sniff::{Form, Sample};

pub fn sniff(sample: &Sample, config: &Data) -> Result<Option<Found>> {
    if !config.delimiter.is_empty() && config.delimiter != "space" && config.delimiter != " " {
        return Ok(None);
    }
    let (mut lines, mut pairs) = (0usize, 0usize);
    for (i, line) in sample.lines().enumerate() {
        let separated =
            line.iter().any(|b| matches!(b, b'\t' | b',' | b';' | b'|')) || memchr::memmem::find(line, b"::").is_some();
        let words = line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
        if i == 0 && words.clone().any(|w| known_name(&String::from_utf8_lossy(w))) {
            return Ok(None);
        }
        lines += 1;
        pairs += (!separated && words.count() == 2) as usize;
    }
    if lines == 0 || pairs * 100 < lines * 80 {
        return Ok(None);
    }
    let because = format!("{pairs} of {lines} sampled lines are two words, and the first is no header");
    let confidence = pairs as f64 / lines as f64;
    let mut evidence = vec![Evidence::new("delimiter", "space", because, confidence)];
    for (what, value, because) in [
        ("user", "1", "the first of two columns"),
        ("item", "2", "the second of two columns"),
        ("time", "none", "the format has none; the order of the file is the order of events"),
    ] {
        evidence.push(Evidence::new(what, value, because, confidence));
    }
    let form = Form { delimiter: " ".into(), quoted: false, header: false };
    let layout = Layout { format: "sasrec".into(), ..Layout::text(sample, &form, vec!["1".into(), "2".into()]) };
    let column = |i: usize| {
        examples(sample.lines().filter_map(|line| line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()).nth(i)))
    };
    Ok(Some(Found { layout, evidence, examples: vec![column(0), column(1)] }))
}

pub use delimited::read;
