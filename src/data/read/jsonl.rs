//! JSON lines: one flat object per line; ids may be strings or numbers (kept digit by digit, however large).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::config::Data;
use crate::error::{Code, Error, Result};

use super::blocks::{Block, Records, each_record, run};
use super::delimited::float;
use super::layout::{ContextKind, Evidence, Found, Layout};
use super::roles::{self, Column};
use super::rows::{Cells, Class, Parsed, Rows, Span};
use super::sniff::{Form, Sample, found};
use super::time::missing;
use super::{Job, Progress};

type Object<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

pub fn read(job: &Job, rows: &mut Rows, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    run(job, parse, rows, progress)
}

/// A scalar as the bytes it stands for; `None` for null, lists and objects.
fn scalar(value: &RawValue) -> Option<Cow<'_, [u8]>> {
    let text = value.get();
    match text.as_bytes().first()? {
        b'"' => match serde_json::from_str::<Cow<str>>(text) {
            Ok(_) if !text.contains('\\') => Some(Cow::Borrowed(&text.as_bytes()[1..text.len() - 1])),
            Ok(unescaped) => Some(Cow::Owned(unescaped.into_owned().into_bytes())),
            Err(_) => None,
        },
        b'[' | b'{' | b'n' => None,
        _ => Some(Cow::Borrowed(text.as_bytes())),
    }
}

fn parse(layout: &Layout, block: &Block, parsed: &mut Parsed) {
    let bytes = &block.bytes[..];
    each_record(Records { quoted: None }, block, parsed, |parsed, line, row| {
        let nothing = Span::default();
        let Ok(object) = serde_json::from_slice::<Object>(&bytes[row.start as usize..row.end as usize]) else {
            return parsed.reject(Class::BadJson, line, row, nothing);
        };
        let field = |column: usize| object.get(layout.column_name(column)).and_then(|v| scalar(v));
        let (Some(user), Some(item)) = (field(layout.user), field(layout.item)) else {
            return parsed.reject(Class::MissingField, line, row, nothing);
        };
        if user.is_empty() || item.is_empty() {
            return parsed.reject(Class::EmptyId, line, row, nothing);
        }
        let mut time = 0;
        if let (Some(column), Some(rule)) = (layout.time, layout.time_rule) {
            let text = field(column).unwrap_or_default();
            match rule.micros(&text) {
                Ok(micros) => time = micros,
                Err(class) => {
                    let place = parsed.keep(bytes.len(), &text);
                    return parsed.reject(class, line, row, place);
                }
            }
        }
        let mut weight = 0.0;
        if let Some(column) = layout.weight {
            match layout.weight_of(&field(column).unwrap_or_default()) {
                Some(value) => weight = value,
                None => return parsed.reject(Class::BadWeight, line, row, nothing),
            }
        }
        let context: Vec<Cow<[u8]>> = layout.context.iter().map(|c| field(c.column).unwrap_or_default()).collect();
        for (declared, text) in layout.context.iter().zip(&context) {
            if declared.kind == ContextKind::Num && !missing(text) && float(text).is_none() {
                return parsed.reject(Class::BadContext, line, row, nothing);
            }
        }
        let span = parsed.keep(bytes.len(), &user);
        parsed.users.push(span);
        let span = parsed.keep(bytes.len(), &item);
        parsed.items.push(span);
        if layout.time.is_some() {
            parsed.times.push(time);
        }
        if layout.weight.is_some() {
            parsed.weights.push(weight);
        }
        for (i, text) in context.iter().enumerate() {
            let span = parsed.keep(bytes.len(), text);
            match &mut parsed.context[i] {
                Cells::Categories(spans) => spans.push(span),
                Cells::Numbers(values) => values.push(float(text).unwrap_or(f32::NAN)),
            }
        }
    });
}

pub fn sniff(sample: &Sample, config: &Data) -> Result<Option<Found>> {
    let mut lines = sample.lines();
    let first = lines.next().map(|line| line.trim_ascii_start()).unwrap_or_default();
    if first.starts_with(b"[{") || first == b"[" || (first == b"{" && config.format == "auto") {
        let what = format!("{} is one JSON document", sample.path.display());
        return Err(Error::new(Code::D0103, what).help("write one object per line (JSON lines), e.g. `jq -c '.[]' FILE`"));
    }
    let (mut seen, mut objects) = (0usize, vec![]);
    let mut names: Vec<String> = vec![];
    for line in sample.lines() {
        seen += 1;
        if let Ok(object) = serde_json::from_slice::<Object>(line) {
            for name in object.keys() {
                if names.len() < 1000 && !names.iter().any(|n| n == name) {
                    names.push(name.to_string());
                }
            }
            objects.push(object);
        }
    }
    if objects.is_empty() || (objects.len() * 2 < seen && config.format == "auto") {
        return Ok(None);
    }
    let columns: Vec<Column> = names
        .iter()
        .map(|name| Column {
            name: name.clone(),
            values: objects
                .iter()
                .map(|o| o.get(name.as_str()).and_then(|v| scalar(v)).unwrap_or_default().into_owned())
                .collect(),
            unit: None,
        })
        .collect();
    let roles = roles::assign(&sample.path, columns, true, config)?;
    let because = format!("{} of {seen} sampled lines are JSON objects", objects.len());
    let evidence = vec![Evidence::new("records", "JSON objects", because, objects.len() as f64 / seen as f64)];
    Ok(Some(found("jsonl", sample, Form { delimiter: String::new(), quoted: false, header: false }, names, roles, evidence)))
}
