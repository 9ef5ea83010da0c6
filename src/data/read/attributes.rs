//! Item side files to multi-hot attributes: RecBole `.item`, MovieLens `movies.dat`, `movies.csv` and `u.item`, or any
//! delimited file with an item column.
//!
//! An attribute is a value of a categorical column (`genres=Comedy`), an entry of a list, or a flag column that is 1.
//! Free text, numbers of many values and columns named like titles are left out unless `data.attributes` asks for them.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use crate::config::Data;
use crate::data::raw::RawAttributes;
use crate::error::{Code, Error, Result};

use super::delimited::float;
use super::roles::{self, Column};
use super::side::{self, Table};
use super::sniff::Sample;

/// How a column's field becomes attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Value,
    /// Entries with this separator.
    List(u8),
    /// Present when 1.
    Flag,
}

struct Plan {
    table: Table,
    id: usize,
    columns: Vec<(usize, Kind)>,
}

/// Genres of `u.item`, in the order of its flag columns (GroupLens' README of MovieLens 100K).
const U_ITEM: [&str; 19] = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
];
/// Words in the names of columns that describe one item only.
const FREE_TEXT: [&str; 9] = ["title", "name", "url", "link", "description", "text", "image", "summary", "imdb"];

/// Reads an item side file. An item that occurs twice keeps its first line. Columns come from `data.attributes`, the
/// item column from `data.item_col` where the file has a column of that name.
///
/// Errors: D0101 to D0110 as for logs; D0104 when no item column or no attribute is found.
pub fn read_attributes(path: &Path, config: &Data) -> Result<RawAttributes> {
    let sample = Sample::take(path, config)?;
    let plan = plan(&sample, config)?;
    let mut out = RawAttributes { offsets: vec![0], ..RawAttributes::default() };
    let (mut name, mut own) = (vec![], vec![]);
    let help = "check that the file is a table of items, or unset `data.items_path`";
    side::each_row(path, &sample, &plan.table, config, help, |field| {
        let id = field(plan.id);
        if id.is_empty() {
            return false;
        }
        if out.items.find(&id).is_some() {
            return true;
        }
        own.clear();
        for &(column, kind) in &plan.columns {
            let value = field(column);
            each_value(&value, kind, |value| {
                name.clear();
                name.extend_from_slice(plan.table.names[column].as_bytes());
                if kind != Kind::Flag {
                    name.push(b'=');
                    name.extend_from_slice(value);
                }
                own.push(out.names.intern(&name));
            });
        }
        own.sort_unstable();
        own.dedup();
        out.items.intern(&id);
        out.codes.extend_from_slice(&own);
        out.offsets.push(out.codes.len() as u64);
        true
    })?;
    Ok(out)
}

fn each_value(field: &[u8], kind: Kind, mut take: impl FnMut(&[u8])) {
    match kind {
        Kind::Value if !field.is_empty() => take(field),
        Kind::Value => {}
        Kind::Flag => {
            if float(field).is_some_and(|x| x != 0.0) {
                take(field);
            }
        }
        Kind::List(separator) => {
            field.split(|&b| b == separator).map(<[u8]>::trim_ascii).filter(|v| !v.is_empty()).for_each(take);
        }
    }
}

fn plan(sample: &Sample, config: &Data) -> Result<Plan> {
    let path = &sample.path;
    let Some(mut table) = Table::of(sample, |_| false)? else {
        return Err(Error::new(Code::D0103, format!("{} is not a table of items", path.display()))
            .help("give RecBole's .item, MovieLens' movies.dat or u.item, or a CSV or TSV with an item column"));
    };
    let (form, types) = (&table.form, &table.types);
    if !form.header {
        table.names = usual_names(&form.delimiter, table.names.len());
    }
    let columns = table.columns(sample);
    let id = roles::item_column(path, &columns, form.header, config)?;
    let wanted: Vec<usize> = match config.attributes.is_empty() {
        true => (0..columns.len()).collect(),
        false => {
            config.attributes.iter().map(|name| roles::find(path, &columns, name, "data.attributes")).collect::<Result<_>>()?
        }
    };
    let kinds: BTreeMap<usize, Kind> = wanted
        .into_iter()
        .filter(|&i| i != id)
        .filter_map(|i| {
            let declared = types.as_ref().map(|t| t[i]);
            kind(&columns[i], declared, form.delimiter.as_bytes(), !config.attributes.is_empty()).map(|kind| (i, kind))
        })
        .collect();
    if kinds.is_empty() {
        return Err(Error::new(Code::D0104, format!("{} has no categorical column", path.display()))
            .note(format!("found: {}", roles::listed(&columns)))
            .help("name the columns to use with `data.attributes`"));
    }
    Ok(Plan { table, id, columns: kinds.into_iter().collect() })
}

/// Names of headerless columns: those of MovieLens' files by their shape, else numbers.
fn usual_names(delimiter: &str, width: usize) -> Vec<String> {
    match (delimiter, width) {
        ("::", 3) => ["movie_id", "title", "genres"].map(str::to_string).to_vec(),
        ("|", 24) => ["movie_id", "title", "release_date", "video_release_date", "imdb_url"]
            .into_iter()
            .chain(U_ITEM)
            .map(str::to_string)
            .collect(),
        _ => (1..=width).map(|n| n.to_string()).collect(),
    }
}

/// How a column is used, if it is. `asked`: a user named it, so it is used whatever it holds.
fn kind(column: &Column, declared: Option<&str>, delimiter: &[u8], asked: bool) -> Option<Kind> {
    let filled: Vec<&[u8]> = column.values.iter().map(Vec::as_slice).filter(|v| !v.is_empty()).collect();
    let kind = match declared {
        Some("token_seq") => Kind::List(b' '),
        Some("float_seq") if !asked => return None,
        _ if !filled.is_empty() && filled.iter().all(|v| matches!(*v, b"0" | b"1")) => Kind::Flag,
        Some("float") if !asked => return None,
        _ => {
            let listed = |separator: u8| filled.iter().filter(|v| v.contains(&separator)).count() * 50 > filled.len();
            match [b'|', b';'].into_iter().find(|s| delimiter != [*s] && listed(*s)) {
                Some(separator) => Kind::List(separator),
                None => Kind::Value,
            }
        }
    };
    if asked || kind == Kind::Flag {
        return Some(kind);
    }
    let name = column.name.to_ascii_lowercase();
    if filled.is_empty() || FREE_TEXT.iter().any(|word| name.contains(word)) {
        return None;
    }
    let numbers = filled.iter().filter_map(|v| float(v)).filter(|x| x.fract() != 0.0).count();
    let (mut tokens, mut distinct) = (0usize, HashSet::new());
    for value in &filled {
        each_value(value, kind, |token| {
            tokens += 1;
            distinct.insert(token.to_vec());
        });
    }
    let shared = distinct.len() <= 64 || tokens >= 4 * distinct.len();
    if shared && numbers == 0 { Some(kind) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(name: &str, text: &[u8], config: Data) -> Result<RawAttributes> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_attributes(&path, &config)
    }
    /// The names of an item's attributes.
    fn of(a: &RawAttributes, item: &str) -> Vec<String> {
        let i = a.items.find(item.as_bytes()).unwrap() as usize;
        let mut names: Vec<String> = a.codes[a.offsets[i] as usize..a.offsets[i + 1] as usize]
            .iter()
            .map(|&code| String::from_utf8_lossy(a.names.get(code)).into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn movielens_movies_give_genres_and_never_titles() {
        let text = b"3::Caf\xE9 of Dust (1931)::Drama|Noir\n1::Second Film (1999)::Comedy\n8::Third (2001)::\n1::Again::Noir\n";
        let a = attributes("movies.dat", text, Data::default()).unwrap();
        assert_eq!(a.items.len(), 3);
        assert_eq!(of(&a, "3"), ["genres=Drama", "genres=Noir"]);
        assert_eq!(of(&a, "1"), ["genres=Comedy"], "the first line of an item counts");
        assert_eq!(of(&a, "8"), [""; 0]);
        assert_eq!(a.offsets, [0, 2, 3, 3]);
    }

    #[test]
    fn movielens_flags_give_genres() {
        let flags = |on: usize| (0..19).map(|i| if i == on { "1" } else { "0" }).collect::<Vec<_>>().join("|");
        let text = format!("1|A Film (1995)|01-Jan-1995||http://x/1|{}\n7|B Film (1996)|||http://x/7|{}\n", flags(1), flags(18));
        let a = attributes(
            "u.item",
            text.as_bytes(),
            Data { attributes: vec!["Action".into(), "Western".into()], ..Data::default() },
        );
        let a = a.unwrap();
        assert_eq!((of(&a, "1"), of(&a, "7")), (vec!["Action".to_string()], vec!["Western".to_string()]));
        let all = attributes("u.item", text.as_bytes(), Data::default()).unwrap();
        assert!(of(&all, "7").contains(&"Western".to_string()));
        assert!(!of(&all, "7").iter().any(|n| n.contains("Film") || n.contains("http")));
    }

    #[test]
    fn recbole_items_and_quoted_csv() {
        let text = b"item_id:token\tclass:token_seq\tprice:float\n5\tred big\t1.5\n6\tbig\t2.5\n";
        let a = attributes("x.item", text, Data::default()).unwrap();
        assert_eq!((of(&a, "5"), of(&a, "6")), (vec!["class=big".into(), "class=red".into()], vec!["class=big".to_string()]));
        let text = b"movieId,title,genres\n1,\"Film, The \"\"Best\"\"\",A|B\n2,Other,B\n";
        let a = attributes("movies.csv", text, Data::default()).unwrap();
        assert_eq!((of(&a, "1"), of(&a, "2")), (vec!["genres=A".into(), "genres=B".into()], vec!["genres=B".to_string()]));
        let asked = Data { attributes: vec!["title".into()], ..Data::default() };
        assert_eq!(of(&attributes("movies.csv", text, asked).unwrap(), "1"), ["title=Film, The \"Best\""]);
    }

    #[test]
    fn what_is_no_table_of_items_is_a_typed_error() {
        let code = |text: &[u8], config: Data| attributes("x", text, config).err().map(|e| e.code());
        assert_eq!(code(b"", Data::default()), Some(Code::D0102));
        assert_eq!(code(b"one\ntwo\nthree\n", Data::default()), Some(Code::D0103));
        let line = r#"{"item_id": "0", "genre": "a"}"#;
        for json in [format!("{line}\n{line}\n"), format!("[\n{line},\n{line}\n]\n"), format!("[{line},\n{line}]\n")] {
            assert_eq!(code(json.as_bytes(), Data::default()), Some(Code::D0103), "{json}");
        }
        let parquet = if cfg!(feature = "parquet") { Code::D0103 } else { Code::D0110 };
        assert_eq!(code(b"PAR1,a\nx,b\ny,c\n", Data::default()), Some(parquet));
        assert!(attributes("x", b"{11-7},red\n{11-8},blue\n", Data::default()).is_ok(), "braces alone are no JSON");
        assert_eq!(code(b"item_id,title\n1,Long\n2,Words\n", Data::default()), Some(Code::D0104));
        assert_eq!(code(b"colour,size\nred,4\nblue,5\n", Data::default()), Some(Code::D0104));
        let absent = Data { attributes: vec!["taste".into()], ..Data::default() };
        assert_eq!(code(b"item_id,genre\n1,a\n2,b\n", absent), Some(Code::D0104));
    }
}
