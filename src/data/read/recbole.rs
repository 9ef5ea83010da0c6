//! RecBole's atomic files: a first line of `name:type` fields, then a delimited body (recbole.io, "Atomic Files").

use crate::config::Data;
use crate::error::{Code, Error, Result};

use super::delimited::{self, declared};
use super::layout::{Evidence, Found};
use super::roles::{self, Column};
use super::sniff::{Form, Sample, found, show_delimiter};

pub const TYPES: [&str; 4] = ["token", "token_seq", "float", "float_seq"];

/// Names and types of a typed header line, if it is one.
pub fn header(line: &[u8], delimiter: &str) -> Option<Vec<(String, &'static str)>> {
    let line = std::str::from_utf8(line).ok()?;
    let fields: Option<Vec<_>> = line
        .trim_end_matches(['\r', '\n'])
        .split(delimiter)
        .map(|field| {
            let (name, kind) = field.trim().rsplit_once(':')?;
            Some((name.to_string(), *TYPES.iter().find(|t| **t == kind)?))
        })
        .collect();
    fields.filter(|f| f.len() >= 2)
}

pub fn sniff(sample: &Sample, config: &Data) -> Result<Option<Found>> {
    let Some(first) = sample.lines().next() else { return Ok(None) };
    let tried: Vec<&str> = declared(config).map_or(vec!["\t", ",", ";", " "], |d| vec![d]);
    let Some((delimiter, fields)) = tried.iter().find_map(|d| header(first, d).map(|fields| (d.to_string(), fields))) else {
        return Ok(None);
    };
    let records = sample.records(&delimiter, false);
    let columns: Vec<Column> = fields
        .iter()
        .enumerate()
        .map(|(i, (name, _))| Column {
            name: name.clone(),
            values: records.iter().skip(1).filter(|r| r.len() == fields.len()).map(|r| r[i].clone()).collect(),
            unit: None,
        })
        .collect();
    let roles = roles::assign(&sample.path, columns, true, config)?;
    for (what, column) in [("user", roles.user), ("item", roles.item)] {
        if fields[column].1.ends_with("_seq") {
            let what = format!("{}: the {what} column `{}` holds lists", sample.path.display(), fields[column].0);
            return Err(Error::new(Code::D0104, what).help("write one row per interaction"));
        }
    }
    let because = format!("the first line has {} `name:type` fields with it", fields.len());
    let evidence = vec![
        Evidence::new("delimiter", show_delimiter(&delimiter), because, 1.0),
        Evidence::new("header", "yes", "`name:type` fields", 1.0),
    ];
    let names = fields.into_iter().map(|(name, _)| name).collect();
    Ok(Some(found("recbole", sample, Form { delimiter, quoted: false, header: true }, names, roles, evidence)))
}

pub use delimited::read;
