//! Which column is the user, the item, the time, the weight: by declaration, by name, or by content, in this order.

use std::collections::HashSet;
use std::path::Path;

use crate::config::Data;
use crate::error::{Code, Error, Result};

use super::bad_value;
use super::delimited::float;
use super::layout::{ContextColumn, ContextKind, Evidence, examples};
use super::time::{self, Guess, TimeRule, Unit};

/// Names a role goes by in public logs, likeliest first; compared without case and punctuation.
const USER: &[&str] = &[
    "user",
    "userid",
    "uid",
    "users",
    "useridx",
    "userindex",
    "username",
    "reviewerid",
    "customerid",
    "customer",
    "visitorid",
    "visitor",
    "memberid",
    "member",
    "accountid",
    "account",
    "authorid",
    "author",
    "personid",
    "playerid",
    "profileid",
    "u",
    "sessionid",
    "session",
    "sessid",
    "sid",
];
pub const ITEM: &[&str] = &[
    "item",
    "itemid",
    "iid",
    "items",
    "itemidx",
    "itemindex",
    "movieid",
    "movie",
    "mid",
    "productid",
    "product",
    "parentasin",
    "asin",
    "sku",
    "articleid",
    "article",
    "isbn",
    "bookid",
    "book",
    "songid",
    "song",
    "trackid",
    "track",
    "artistid",
    "artist",
    "businessid",
    "business",
    "poi",
    "poiid",
    "venueid",
    "venue",
    "placeid",
    "place",
    "locationid",
    "location",
    "gameid",
    "game",
    "appid",
    "videoid",
    "video",
    "newsid",
    "recipeid",
    "animeid",
    "gmapid",
    "adid",
    "i",
];
const TIME: &[&str] = &[
    "timestamp",
    "timestampms",
    "timestamps",
    "time",
    "timems",
    "datetime",
    "ts",
    "unixreviewtime",
    "unixtime",
    "unixtimestamp",
    "epoch",
    "eventtime",
    "eventtimestamp",
    "createdat",
    "date",
    "eventdate",
    "reviewdate",
    "reviewtime",
    "checkintime",
    "utctime",
    "minute",
    "minutes",
    "t",
];
const WEIGHT: &[&str] =
    &["rating", "ratings", "weight", "score", "stars", "star", "overall", "playcount", "plays", "count", "watchratio"];

/// A column of a sample: its name (or number from 1) and its fields.
pub struct Column {
    pub name: String,
    pub values: Vec<Vec<u8>>,
    /// What a schema says of it, where it holds times.
    pub unit: Option<Unit>,
}

pub struct Roles {
    pub user: usize,
    pub item: usize,
    pub time: Option<usize>,
    pub weight: Option<usize>,
    pub time_rule: Option<TimeRule>,
    pub context: Vec<ContextColumn>,
    pub evidence: Vec<Evidence>,
    pub examples: Vec<Vec<String>>,
}

/// Lower case letters and digits of a name.
pub fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A name that is usual for a user, item, time or weight.
pub fn known_name(name: &str) -> bool {
    let name = plain(name);
    // One letter says too little to call a line a header.
    name.len() > 1 && [USER, ITEM, TIME, WEIGHT].iter().any(|names| names.contains(&name.as_str()))
}

/// The column a user names by name or by number from 1.
pub fn find(path: &Path, columns: &[Column], wanted: &str, key: &str) -> Result<usize> {
    let exact = columns.iter().position(|c| c.name == wanted);
    let close = || columns.iter().position(|c| plain(&c.name) == plain(wanted) && !plain(wanted).is_empty());
    let numbered = || wanted.parse::<usize>().ok().filter(|n| (1..=columns.len()).contains(n)).map(|n| n - 1);
    exact.or_else(close).or_else(numbered).ok_or_else(|| {
        Error::new(Code::D0104, format!("{} has no column `{wanted}`", path.display()))
            .note(format!("`{key}` asks for it; found: {}", listed(columns)))
            .help("give a name from this list, or a number counted from 1")
    })
}

pub fn listed(columns: &[Column]) -> String {
    let mut names: Vec<String> = columns
        .iter()
        .take(24)
        .enumerate()
        .map(|(i, c)| format!("{} `{}`", i + 1, super::rows::shown(c.name.as_bytes())))
        .collect();
    if columns.len() > 24 {
        names.push(format!("and {} more", columns.len() - 24));
    }
    names.join(", ")
}

/// The item column of a side file: declared for the log under a name this file has too, by name, or the first.
pub fn item_column(path: &Path, columns: &[Column], named: bool, config: &Data) -> Result<usize> {
    if !named {
        return Ok(0);
    }
    let declared = columns.iter().position(|c| !config.item_col.is_empty() && c.name == config.item_col);
    let usual = || ITEM.iter().find_map(|name| columns.iter().position(|c| plain(&c.name) == *name));
    declared.or_else(usual).ok_or_else(|| {
        Error::new(Code::D0104, format!("{}: no column is recognised as the item", path.display()))
            .note(format!("found: {}", listed(columns)))
            .help("give the item column the name it has in the log (`data.item_col`), or `item_id`")
    })
}

/// Facts of a column that tell ids, ratings and coordinates apart.
struct Facts {
    numeric: bool,
    /// Numbers with a fractional part.
    fractions: bool,
    distinct: usize,
    guess: Option<Guess>,
}

impl Column {
    fn fields(&self) -> Vec<&[u8]> {
        self.values.iter().map(Vec::as_slice).collect()
    }
}

fn facts(column: &Column) -> Facts {
    let fields = column.fields();
    let filled: Vec<&[u8]> = fields.iter().copied().filter(|v| !time::missing(v)).collect();
    let numbers: Vec<f32> = filled.iter().filter_map(|v| float(v)).collect();
    Facts {
        numeric: !filled.is_empty() && numbers.len() * 10 >= filled.len() * 8,
        fractions: numbers.iter().any(|x| x.fract() != 0.0),
        distinct: filled.iter().collect::<HashSet<_>>().len(),
        guess: time::guess(&fields, &column.name),
    }
}

/// Gives every column its role. `named`: the names come from a header.
pub fn assign(path: &Path, columns: Vec<Column>, named: bool, config: &Data) -> Result<Roles> {
    let facts: Vec<Facts> = columns.iter().map(facts).collect();
    let mut evidence = vec![];
    let declared = |key: &str, wanted: &str| -> Result<Option<usize>> {
        if wanted.is_empty() || wanted == "none" { Ok(None) } else { find(path, &columns, wanted, key).map(Some) }
    };
    let unit = match config.time_unit.as_str() {
        "auto" | "none" => None,
        name => Some(Unit::named(name).ok_or_else(|| {
            bad_value("data.time_unit", name, "`auto`, `s`, `ms`, `us`, `ns`, `minutes`, `days`, `iso` or `none`")
        })?),
    };
    let mut user = declared("data.user_col", &config.user_col)?;
    let mut item = declared("data.item_col", &config.item_col)?;
    let mut time = declared("data.time_col", &config.time_col)?;
    let mut weight = declared("data.weight_col", &config.weight_col)?;
    let no_time = config.time_col == "none" || config.time_unit == "none";
    let no_weight = config.weight_col == "none";
    for (what, column) in [("user", user), ("item", item), ("time", time), ("weight", weight)] {
        if let Some(column) = column {
            evidence.push(Evidence::new(what, columns[column].name.clone(), "declared", 1.0));
        }
    }
    let timely = |i: usize| {
        unit.is_some()
            || columns[i].unit.is_some()
            || facts[i].guess.as_ref().is_some_and(|g| g.share >= 0.5)
            || columns[i].values.is_empty()
    };
    if named {
        // The first name of the list that a free column bears; two columns of one name leave the choice to the user.
        let by_name = |names: &[&str], taken: &[Option<usize>], fits: &dyn Fn(usize) -> bool| -> Option<(usize, bool)> {
            names.iter().find_map(|wanted| {
                let mut hits =
                    (0..columns.len()).filter(|&i| plain(&columns[i].name) == *wanted && !taken.contains(&Some(i)) && fits(i));
                hits.next().map(|first| (first, hits.next().is_some()))
            })
        };
        let mut role = |what: &str,
                        slot: &mut Option<usize>,
                        names: &[&str],
                        taken: &[Option<usize>],
                        fits: &dyn Fn(usize) -> bool| {
            if slot.is_none()
                && let Some((column, twice)) = by_name(names, taken, fits)
            {
                if twice {
                    return Err(Error::new(
                        Code::D0104,
                        format!("{} has two columns named `{}`, which may be the {what}", path.display(), columns[column].name),
                    )
                    .note(format!("found: {}", listed(&columns)))
                    .help(format!("choose one by its number: `data.{what}_col = \"{}\"`", column + 1)));
                }
                *slot = Some(column);
                evidence.push(Evidence::new(
                    what,
                    columns[column].name.clone(),
                    format!("its name is usual for the {what}"),
                    0.98,
                ));
            }
            Ok(())
        };
        role("user", &mut user, USER, &[item, time, weight], &|_| true)?;
        role("item", &mut item, ITEM, &[user, time, weight], &|_| true)?;
        if !no_time {
            role("time", &mut time, TIME, &[user, item, weight], &timely)?;
            if time.is_none() {
                refuse_unreadable_times(path, &columns, &[user, item, weight], config)?;
            }
        }
        if !no_weight {
            let fits = |i: usize| facts[i].numeric || columns[i].values.is_empty();
            role("weight", &mut weight, WEIGHT, &[user, item, time], &fits)?;
        }
    } else {
        by_content(&columns, &facts, (no_time, no_weight), (&mut user, &mut item, &mut time, &mut weight), &mut evidence);
    }
    let missing = |what: &str| {
        Error::new(Code::D0104, format!("{}: no column is recognised as the {what}", path.display()))
            .note(format!("found: {}", listed(&columns)))
            .help(format!("name it with `data.{what}_col`, by name or by number"))
    };
    let user = user.ok_or_else(|| missing("user"))?;
    let item = item.ok_or_else(|| missing("item"))?;
    if user == item {
        let what = format!("{}: user and item are the same column `{}`", path.display(), columns[user].name);
        return Err(Error::new(Code::D0104, what).help("set `data.user_col` and `data.item_col` to different columns"));
    }
    if config.min_weight.is_some() && weight.is_none() {
        let what = format!("`data.min_weight` is set, but {} has no weight column", path.display());
        return Err(Error::new(Code::D0104, what)
            .note(format!("found: {}", listed(&columns)))
            .help("name the column with `data.weight_col`, or unset `data.min_weight`"));
    }
    let time_rule = time.map(|column| match columns[column].unit {
        Some(unit) => {
            evidence.push(Evidence::new("time unit", unit.name(), "the schema says so", 1.0));
            time::of_schema(unit, &columns[column].fields())
        }
        None => rule(&facts[column], unit, &mut evidence),
    });
    if time.is_none() {
        let because = if no_time { "declared" } else { "no column looks like one; the order of the file is the order of events" };
        evidence.push(Evidence::new("time", "none", because, if no_time { 1.0 } else { 0.9 }));
    }
    let context = context(path, &columns, &facts, named, config, &[Some(user), Some(item), time, weight])?;
    let examples = columns.iter().map(|c| examples(c.values.iter().map(Vec::as_slice))).collect();
    Ok(Roles { user, item, time, weight, time_rule, context, evidence, examples })
}

/// The unit of the time column, declared or guessed.
fn rule(facts: &Facts, unit: Option<Unit>, evidence: &mut Vec<Evidence>) -> TimeRule {
    let guess = facts.guess.as_ref();
    match unit {
        Some(unit) => {
            // Declared, so only the plausibility checks depend on what the sample shows.
            evidence.push(Evidence::new("time unit", unit.name(), "declared", 1.0));
            declared_rule(unit, guess)
        }
        None => match guess {
            Some(guess) => {
                let confidence = if guess.rule.dated { guess.share } else { guess.share.min(0.5) };
                evidence.push(Evidence::new("time unit", guess.rule.unit.name(), guess.because.clone(), confidence));
                guess.rule
            }
            None => {
                evidence.push(Evidence::new("time unit", "s", "no sampled field is a time; seconds are assumed", 0.1));
                declared_rule(Unit::S, None)
            }
        },
    }
}

/// The rule of times of a declared unit: what a sample shows of them if it is read in that unit.
pub fn declared_rule(unit: Unit, guess: Option<&Guess>) -> TimeRule {
    guess.map(|g| g.rule).filter(|rule| rule.unit == unit).unwrap_or(TimeRule::undated(unit))
}

/// A column that is named like a time and holds something else, with no other time beside it, is not passed over: the order
/// of the file would silently become the order of events. A single letter says too little for that.
fn refuse_unreadable_times(path: &Path, columns: &[Column], taken: &[Option<usize>], config: &Data) -> Result<()> {
    let context = |name: &str| config.context.iter().any(|c| c.rsplit_once(':').is_some_and(|(declared, _)| declared == name));
    let mut named = TIME.iter().filter(|name| name.len() > 1).flat_map(|name| {
        let free = |&(i, c): &(usize, &Column)| plain(&c.name) == *name && !taken.contains(&Some(i)) && !context(&c.name);
        columns.iter().enumerate().filter(free)
    });
    let found = named.find_map(|(_, column)| time::unreadable(&column.fields()).map(|example| (&column.name, example)));
    let Some((name, example)) = found else { return Ok(()) };
    let what = format!("{}: the column `{name}` cannot be read as times", path.display());
    Err(Error::new(Code::D0106, what)
        .note(format!("it holds \"{}\"", super::rows::shown(example)))
        .note(format!("found: {}", listed(columns)))
        .help("`data.time_col = NAME` if the times are in another column, by name or by number")
        .help("write times as numbers since 1970 or as dates such as `2017-07-26 08:45:56`; `data.time_unit` names the unit of numbers")
        .help("`data.time_col = \"none\"` goes without times: then the order of the file is the order of events"))
}

type Slots<'a> = (&'a mut Option<usize>, &'a mut Option<usize>, &'a mut Option<usize>, &'a mut Option<usize>);

/// Roles of nameless columns: a column of dates is the time, one of few small numbers the weight, and of what is left
/// (coordinates aside) the first is the user and the next the item.
fn by_content(
    columns: &[Column],
    facts: &[Facts],
    (no_time, no_weight): (bool, bool),
    (user, item, time, weight): Slots,
    evidence: &mut Vec<Evidence>,
) {
    let width = columns.len();
    let taken = |slots: &[&Option<usize>], i: usize| slots.iter().any(|s| **s == Some(i));
    let rows = columns.first().map_or(0, |c| c.values.len());
    if width > 2 && time.is_none() && !no_time {
        let free = |i: &usize| !taken(&[user, item, weight], *i);
        let dated = (0..width).rev().filter(free).find(|&i| facts[i].guess.as_ref().is_some_and(|g| g.rule.dated));
        if let Some(column) = dated {
            *time = Some(column);
            evidence.push(Evidence::new("time", (column + 1).to_string(), "it holds dates", 0.95));
        }
    }
    if width > 2 && weight.is_none() && !no_weight {
        let small = |i: &usize| {
            let value = |v: &Vec<u8>| float(v).is_none_or(|x| (-10.0..=100.0).contains(&x));
            !taken(&[user, item, time], *i)
                && facts[*i].numeric
                && facts[*i].distinct <= 21
                && columns[*i].values.iter().all(value)
        };
        // A handful of rows has few values in every column: then only the third column is believed to be one.
        let candidates = if rows >= 50 { 2..width } else { 2..3 };
        if let Some(column) = candidates.into_iter().find(small) {
            *weight = Some(column);
            let because = format!("it holds {} different small numbers", facts[column].distinct);
            evidence.push(Evidence::new("weight", (column + 1).to_string(), because, 0.8));
        }
    }
    let coordinate = |i: usize| width > 3 && facts[i].numeric && facts[i].fractions && facts[i].distinct > 21;
    let mut ids = (0..width).filter(|&i| !taken(&[user, item, time, weight], i) && !coordinate(i));
    let (first, second) = if user.is_none() && item.is_none() {
        (ids.next(), ids.next())
    } else if user.is_none() {
        (ids.next(), None)
    } else {
        (None, ids.next())
    };
    let third = ids.next();
    if user.is_none() {
        *user = first;
        if let Some(column) = first {
            evidence.push(Evidence::new("user", (column + 1).to_string(), "the first column of ids", 0.8));
        }
    }
    if item.is_none() {
        *item = second;
        if let Some(column) = second {
            evidence.push(Evidence::new("item", (column + 1).to_string(), "the next column of ids", 0.8));
        }
    }
    // Three or four columns whose last holds numbers of an unknown origin, many of them: the usual place of the time.
    if time.is_none()
        && !no_time
        && (3..=4).contains(&width)
        && third == Some(width - 1)
        && facts[width - 1].numeric
        && facts[width - 1].distinct * 10 > rows
        && facts[width - 1].distinct > 21
    {
        *time = Some(width - 1);
        evidence.push(Evidence::new("time", width.to_string(), "the last column holds many different numbers", 0.5));
    }
}

/// Declared context columns, or those with ReChorus' prefix `c_`.
fn context(
    path: &Path,
    columns: &[Column],
    facts: &[Facts],
    named: bool,
    config: &Data,
    taken: &[Option<usize>],
) -> Result<Vec<ContextColumn>> {
    let mut out: Vec<ContextColumn> = vec![];
    for declared in &config.context {
        let (name, kind) = match declared.rsplit_once(':') {
            Some((name, "cat")) => (name, ContextKind::Cat),
            Some((name, "num")) => (name, ContextKind::Num),
            _ => return Err(bad_value("data.context", declared, "`name:cat` or `name:num`")),
        };
        let column = find(path, columns, name, "data.context")?;
        if taken[..2].contains(&Some(column)) || out.iter().any(|c| c.column == column) {
            return Err(bad_value("data.context", declared, "a column that has no other role, named once"));
        }
        out.push(ContextColumn { column, name: columns[column].name.clone(), kind });
    }
    if named && config.context.is_empty() {
        for (column, facts) in facts.iter().enumerate() {
            let name = &columns[column].name;
            if !name.starts_with("c_") || taken.contains(&Some(column)) {
                continue;
            }
            let kind = match name.rsplit('_').next() {
                Some("f") => ContextKind::Num,
                Some("c") => ContextKind::Cat,
                _ if facts.numeric && (facts.fractions || facts.distinct > 64) => ContextKind::Num,
                _ => ContextKind::Cat,
            };
            out.push(ContextColumn { column, name: name.clone(), kind });
        }
    }
    Ok(out)
}
