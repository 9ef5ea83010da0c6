//! Context of events as numbers: 23 temporal features and declared columns.
//!
//! The temporal features are those of CaNS (Seol & Choi, IEEE Access 2025; definitions from the authors' program), all
//! times UTC: `marker = (t - t0 + 1) / (t1 - t0 + 2)` in seconds with t0, t1 the first and last training time;
//! `year = (y - y0 + 1) / (y1 - y0 + 2)`; and for each of month, day, weekday, day of the year, ISO week, hour and second
//! of the hour a scaled value in (0, 1] and the cosine and sine of its angle on the circle. Marker and year are held within
//! 0..1, so that a request years after training does not extrapolate without bound.
//!
//! Numeric columns are standardised on training events, unknown values become 0 (the mean). A category gets a code from 1
//! if a training event has it; all others share code 0, unknown. Everything is fitted on training events only.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::sync::LazyLock;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::batch::ContextRows;
use super::interactions::{Interactions, Values, needs_times};
use super::split::Split;
use crate::config::Config;
use crate::error::{Code, Error, Result};

/// Width of the temporal features.
pub const TEMPORAL: usize = 23;
/// Rows encoded together, and users whose sums are combined in order; fixed, so results never depend on threads.
const CHUNK: usize = 1024;

/// Turns events and requests into context rows; stored with a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextEncoder {
    temporal: Option<Temporal>,
    numeric: Vec<NumericColumn>,
    categorical: Vec<CategoricalColumn>,
    /// Codes of each categorical column, unknown included.
    sizes: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Temporal {
    /// Microseconds.
    first: i64,
    last: i64,
    first_year: i64,
    last_year: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct NumericColumn {
    name: String,
    mean: f64,
    deviation: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct CategoricalColumn {
    name: String,
    /// Category `c + 1` of ours; names that are not UTF-8 are kept approximately.
    names: Vec<String>,
    /// Code in the prepared file -> ours.
    codes: Vec<u32>,
}

/// The situation in which a recommendation is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// Microseconds since 1970 UTC; without it the temporal features are 0.
    pub time: Option<i64>,
    /// Context column -> value; columns that are left out are unknown.
    pub columns: BTreeMap<String, String>,
}

/// Whether the configured model takes context: it is asked to, or it is left to decide and is the CaNS encoder or the data
/// have context `columns`, however they came by them (declared, named `c_...`, or from a prepared file).
pub fn uses_context(config: &Config, columns: bool) -> bool {
    match config.model.context.as_str() {
        "yes" => true,
        "no" => false,
        _ => config.model.kind == "cans" || columns,
    }
}

impl ContextEncoder {
    /// Fits on the training events; none when the model takes no context, or is left to decide and the log has none.
    pub fn fit(data: &Interactions, split: &Split, config: &Config) -> Result<Option<ContextEncoder>> {
        if !uses_context(config, !data.columns().is_empty()) {
            return Ok(None);
        }
        let temporal = match (config.data.temporal.as_str(), data.times()) {
            ("no", _) | ("auto", None) => None,
            ("yes", None) => return Err(needs_times("`data.temporal = \"yes\"`")),
            ("yes" | "auto", Some(times)) => {
                let training = || (0..data.users() as u32).map(|u| split.training(data, u)).filter(|r| !r.is_empty());
                let first = training().map(|r| times[r.start]).min();
                let last = training().map(|r| times[r.end - 1]).max();
                first.zip(last).map(|(first, last)| Temporal::new(first, last))
            }
            (other, _) => return Err(Error::new(Code::C0202, format!("`data.temporal` is auto, yes or no, not \"{other}\""))),
        };
        let (mut numeric, mut categorical, mut sizes) = (vec![], vec![], vec![]);
        for column in data.columns() {
            match column.values {
                Values::Numeric(values) => numeric.push(standardise(data, split, column.name, values)),
                Values::Categorical { codes, names } => {
                    let mut ours = vec![0u32; names.len()];
                    for user in 0..data.users() as u32 {
                        for &code in &codes[split.training(data, user)] {
                            ours[code as usize] = 1;
                        }
                    }
                    let mut known = vec![];
                    for (code, slot) in ours.iter_mut().enumerate().filter(|(_, slot)| **slot == 1) {
                        known.push(String::from_utf8_lossy(names.get(code as u32)).into_owned());
                        *slot = known.len() as u32;
                    }
                    sizes.push(known.len() as u32 + 1);
                    categorical.push(CategoricalColumn { name: column.name.into(), names: known, codes: ours });
                }
            }
        }
        let encoder = ContextEncoder { temporal, numeric, categorical, sizes };
        if encoder.numeric_width() + encoder.sizes.len() > 0 {
            return Ok(Some(encoder));
        }
        if config.model.context == "yes" {
            let what = "`model.context = \"yes\"` needs times or context columns, and the log has neither";
            return Err(Error::new(Code::D0404, what).help("declare columns with `data.context`, or name the time column"));
        }
        Ok(None)
    }

    /// Reals per row, Cn.
    pub fn numeric_width(&self) -> usize {
        self.temporal.as_ref().map_or(0, |_| TEMPORAL) + self.numeric.len()
    }

    /// (Cc) codes of each categorical column; code 0 is unknown.
    pub fn category_sizes(&self) -> &[u32] {
        &self.sizes
    }

    /// Context of the events at the CSR positions `at` of the data it was fitted on.
    pub fn rows(&self, data: &Interactions, at: &[u64]) -> ContextRows {
        let (width, many) = (self.numeric_width(), self.sizes.len());
        let mut rows = ContextRows { numeric: vec![0.0; at.len() * width], categories: vec![0; at.len() * many] };
        let times = data.times();
        // Columns in the encoder's order, which is the file's.
        let (mut reals, mut codes) = (vec![], vec![]);
        for column in data.columns() {
            match column.values {
                Values::Numeric(values) => reals.push(values),
                Values::Categorical { codes: values, .. } => codes.push(values),
            }
        }
        let tasks = at
            .par_chunks(CHUNK)
            .enumerate()
            .map(|(c, part)| (c * CHUNK, part))
            .zip(chunks_of(&mut rows.numeric, CHUNK * width, at.len().div_ceil(CHUNK)))
            .zip(chunks_of(&mut rows.categories, CHUNK * many, at.len().div_ceil(CHUNK)));
        tasks.for_each(|(((_, part), numeric), categories)| {
            for (row, &event) in part.iter().enumerate() {
                let event = event as usize;
                let own = &mut numeric[row * width..(row + 1) * width];
                self.numbers(own, times.map(|t| t[event]), |c| reals[c][event]);
                for ((slot, column), values) in categories[row * many..].iter_mut().zip(&self.categorical).zip(&codes) {
                    *slot = column.codes.get(values[event] as usize).copied().unwrap_or(0);
                }
            }
        });
        rows
    }

    /// Context of one request, one row. Errors name unknown columns and values that are no numbers.
    pub fn request(&self, request: &Request) -> Result<ContextRows> {
        let mut reals = vec![f32::NAN; self.numeric.len()];
        let mut categories = vec![0; self.categorical.len()];
        for (name, text) in &request.columns {
            if let Some(c) = self.numeric.iter().position(|column| column.name == *name) {
                reals[c] = text.trim().parse().map_err(|_| {
                    Error::new(Code::D0406, format!("context column `{name}` holds numbers, and \"{text}\" is none"))
                })?;
            } else if let Some(c) = self.categorical.iter().position(|column| column.name == *name) {
                let known = self.categorical[c].names.iter().position(|category| category == text);
                categories[c] = known.map_or(0, |code| code as u32 + 1);
            } else {
                let have: Vec<&str> =
                    self.numeric.iter().map(|c| &*c.name).chain(self.categorical.iter().map(|c| &*c.name)).collect();
                return Err(Error::new(Code::D0406, format!("the data have no context column `{name}`"))
                    .note(format!("context columns: {}", if have.is_empty() { "none".into() } else { have.join(", ") })));
            }
        }
        let mut numeric = vec![0.0; self.numeric_width()];
        self.numbers(&mut numeric, request.time, |c| reals[c]);
        Ok(ContextRows { numeric, categories })
    }

    /// The numeric part of a row.
    fn numbers(&self, row: &mut [f32], time: Option<i64>, real: impl Fn(usize) -> f32) {
        let rest = match &self.temporal {
            Some(temporal) => {
                let (features, rest) = row.split_at_mut(TEMPORAL);
                if let Some(time) = time {
                    temporal.features(time, features);
                }
                rest
            }
            None => row,
        };
        for (c, (slot, column)) in rest.iter_mut().zip(&self.numeric).enumerate() {
            let x = f64::from(real(c));
            *slot = if x.is_finite() { ((x - column.mean) / column.deviation) as f32 } else { 0.0 };
        }
    }
}

/// `n` chunks of `size` values, also when there are no values at all (a width of 0).
fn chunks_of<T: Send>(values: &mut [T], size: usize, n: usize) -> impl IndexedParallelIterator<Item = &mut [T]> {
    let mut chunks: Vec<&mut [T]> = values.chunks_mut(size.max(1)).collect();
    chunks.resize_with(n, Default::default);
    chunks.into_par_iter()
}

fn standardise(data: &Interactions, split: &Split, name: &str, values: &[f32]) -> NumericColumn {
    let users: Vec<u32> = (0..data.users() as u32).collect();
    // (count, sum of f) over the finite training values, combined in the order of the chunks.
    let sum = |f: &(dyn Fn(f64) -> f64 + Sync)| {
        let parts: Vec<(u64, f64)> = users
            .par_chunks(CHUNK)
            .map(|part| {
                let mine = part.iter().flat_map(|&u| &values[split.training(data, u)]).filter(|x| x.is_finite());
                mine.fold((0, 0.0), |(n, s), &x| (n + 1, s + f(f64::from(x))))
            })
            .collect();
        parts.into_iter().fold((0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
    };
    let (n, total) = sum(&|x| x);
    let mean = if n > 0 { total / n as f64 } else { 0.0 };
    let (_, squares) = sum(&|x| (x - mean) * (x - mean));
    let deviation = if n > 0 { (squares / n as f64).sqrt() } else { 0.0 };
    NumericColumn { name: name.into(), mean, deviation: if deviation > 0.0 { deviation } else { 1.0 } }
}

impl Temporal {
    fn new(first: i64, last: i64) -> Temporal {
        Temporal { first, last, first_year: Date::of(first).year, last_year: Date::of(last).year }
    }

    fn features(&self, time: i64, to: &mut [f32]) {
        let date = Date::of(time);
        // Saturation could only touch spans of 292,000 years, where the marker is held at an end anyway.
        let seconds = |from: i64, to: i64| to.saturating_sub(from) as f64 / 1e6;
        to[0] = held((seconds(self.first, time) + 1.0) / (seconds(self.first, self.last) + 2.0));
        to[1] = held((date.year - self.first_year + 1) as f64 / (self.last_year - self.first_year + 2) as f64);
        let circles = &*CIRCLES;
        for (slot, (circle, value)) in to[2..].chunks_exact_mut(3).zip(circles.iter().zip(date.fields())) {
            slot.copy_from_slice(&circle[value]);
        }
    }
}

fn held(x: f64) -> f32 {
    x.clamp(0.0, 1.0) as f32
}

/// Values each field can take, and its period. Weeks have a 53rd value on a circle of 52.
const FIELDS: [(usize, f64); 7] = [(12, 12.0), (31, 31.0), (7, 7.0), (366, 366.0), (53, 52.0), (24, 24.0), (3600, 3600.0)];

/// Per field and value from 0: scaled, cosine, sine. 50 KB; a cosine per feature and event would cost more than a step.
static CIRCLES: LazyLock<[Vec<[f32; 3]>; 7]> = LazyLock::new(|| {
    FIELDS.map(|(values, period)| {
        let row = |v: usize| {
            let angle = TAU * v as f64 / period;
            [((v + 1) as f64 / (period + 1.0)) as f32, angle.cos() as f32, angle.sin() as f32]
        };
        (0..values).map(row).collect()
    })
});

/// A moment on the proleptic Gregorian calendar, UTC; every field from 0 but the year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date {
    year: i64,
    month: usize,
    day: usize,
    /// Monday is 0.
    weekday: usize,
    year_day: usize,
    /// ISO 8601 week.
    week: usize,
    hour: usize,
    second_of_hour: usize,
}

impl Date {
    /// Days to a civil date by shifting the year to begin in March, so that the leap day is its last (Hinnant,
    /// "chrono-compatible low-level date algorithms").
    fn of(time: i64) -> Date {
        let seconds = time.div_euclid(1_000_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as usize);
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_march_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_march_year + 2) / 153;
        let day = of_march_year - (153 * month_from_march + 2) / 5;
        let month = (month_from_march + 2) % 12;
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let leap = i64::from(is_leap(year));
        let year_day = if month < 2 { of_march_year - 306 } else { of_march_year + 59 + leap };
        let weekday = (days + 3).rem_euclid(7);
        // The week of a date is that of its Thursday.
        let week = (year_day - weekday + 10) / 7;
        let week = match week {
            0 => weeks(year - 1),
            w if w > weeks(year) => 1,
            w => w,
        };
        Date {
            year,
            month: month as usize,
            day: day as usize,
            weekday: weekday as usize,
            year_day: year_day as usize,
            week: week as usize - 1,
            hour: second / 3600,
            second_of_hour: second % 3600,
        }
    }

    fn fields(&self) -> [usize; 7] {
        [self.month, self.day, self.weekday, self.year_day, self.week, self.hour, self.second_of_hour]
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// ISO weeks of a year: 53 if it begins or ends on a Thursday.
fn weeks(year: i64) -> i64 {
    let last_weekday = |y: i64| (y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)).rem_euclid(7);
    if last_weekday(year) == 4 || last_weekday(year - 1) == 3 { 53 } else { 52 }
}

#[cfg(test)]
mod tests {
    use super::super::prepare::in_memory;
    use super::super::raw::{Ids, RawColumn, RawLog, RawValues, Sides};
    use super::*;

    /// Expected values from the calendar of Python's `datetime` (timetuple, isocalendar).
    #[test]
    fn dates_have_the_fields_of_the_calendar() {
        let cases: [(i64, i64, [usize; 7]); 12] = [
            (0, 1970, [0, 0, 3, 0, 0, 0, 0]),
            (951_868_799, 2000, [1, 28, 1, 59, 8, 23, 3599]),
            (946_643_415, 1999, [11, 30, 4, 364, 51, 12, 1815]),
            (1_609_459_201, 2021, [0, 0, 4, 0, 52, 0, 1]),
            (1_609_394_400, 2020, [11, 30, 3, 365, 52, 6, 0]),
            (1_451_846_700, 2016, [0, 2, 6, 2, 52, 18, 2700]),
            (4_107_542_400, 2100, [2, 0, 0, 59, 8, 0, 0]),
            (-2_203_973_877, 1900, [1, 27, 2, 58, 8, 1, 123]),
            (1_735_553_410, 2024, [11, 29, 0, 364, 0, 10, 610]),
            (-3600, 1969, [11, 30, 2, 364, 0, 23, 0]),
            (1_078_012_800, 2004, [1, 28, 6, 59, 8, 0, 0]),
            (1_451_279_105, 2015, [11, 27, 0, 361, 52, 5, 305]),
        ];
        for (seconds, year, fields) in cases {
            let date = Date::of(seconds * 1_000_000 + 999_999);
            assert_eq!((date.year, date.fields()), (year, fields), "{seconds}");
        }
    }

    #[test]
    fn no_moment_falls_off_its_circle() {
        for time in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX] {
            let fields = Date::of(time).fields();
            assert!(fields.iter().zip(FIELDS).all(|(&v, (values, _))| v < values), "{time}");
        }
        for day in 0..146_097 {
            let date = Date::of(day * 86_400_000_000);
            assert!(date.fields().iter().zip(FIELDS).all(|(&v, (values, _))| v < values), "day {day}");
        }
        let mut row = [0.0; TEMPORAL];
        Temporal::new(i64::MIN, i64::MAX).features(0, &mut row);
        assert!(row.iter().all(|x| x.is_finite()));
    }

    /// Expected values computed with Python's `datetime` and `math` from the definitions.
    #[test]
    fn the_23_features_of_one_moment() {
        let temporal = Temporal::new(956_703_932_000_000, 1_046_454_590_000_000);
        let mut row = [0.0; TEMPORAL];
        temporal.features(1_009_804_029_000_000, &mut row);
        let expected = [
            0.591640195,
            0.4,
            0.923076923,
            0.866025404,
            -0.5,
            0.96875,
            0.979529941,
            -0.20129852,
            0.125,
            1.0,
            0.0,
            0.994550409,
            0.999410634,
            -0.034327601,
            0.018867925,
            1.0,
            0.0,
            0.56,
            -0.965925826,
            -0.258819045,
            0.119411275,
            0.732542899,
            0.680720869,
        ];
        for (c, (x, e)) in row.iter().zip(expected).enumerate() {
            // Half a unit in the last place of f32 near 1, and the nine printed digits.
            assert!((f64::from(*x) - e).abs() < 6.1e-8, "feature {c}: {x} is not {e}");
        }
        // Outside the training range marker and year stay within 0..1.
        temporal.features(4_000_000_000_000_000, &mut row);
        assert_eq!(row[..2], [1.0, 1.0]);
        temporal.features(0, &mut row);
        assert_eq!(row[..2], [0.0, 0.0]);
    }

    /// One user, five events; the last two do not train.
    fn log(times: bool) -> RawLog {
        let mut raw = RawLog::default();
        let (mut codes, mut ids) = (vec![], Ids::new());
        for (item, place) in [("a", "home"), ("b", ""), ("c", "work"), ("a", "moon"), ("b", "home")] {
            raw.users.push(raw.user_ids.intern(b"u"));
            raw.items.push(raw.item_ids.intern(item.as_bytes()));
            codes.push(ids.intern(place.as_bytes()));
        }
        raw.times = times.then(|| vec![0, 1_000_000, 2_000_000, 3_000_000, 4_000_000]);
        let numbers = RawValues::Numeric(vec![1.0, f32::NAN, 5.0, 100.0, f32::INFINITY]);
        raw.context.push(RawColumn { name: "price".into(), values: numbers });
        raw.context.push(RawColumn { name: "place".into(), values: RawValues::Categorical { codes, ids } });
        raw
    }

    fn fitted(times: bool, change: impl Fn(&mut Config)) -> (Interactions, Result<Option<ContextEncoder>>) {
        let mut config = Config::default();
        config.model.context = "yes".into();
        change(&mut config);
        let data = in_memory(log(times), &config.data, Sides::default()).unwrap();
        let split = Split::new(&data, &config.data, 0).unwrap();
        let encoder = ContextEncoder::fit(&data, &split, &config);
        (data, encoder)
    }

    #[test]
    fn columns_are_standardised_and_coded_on_training_events_alone() {
        let (data, encoder) = fitted(false, |_| {});
        let encoder = encoder.unwrap().unwrap();
        assert_eq!(encoder.numeric_width(), 1);
        // Training prices 1 and 5: mean 3, deviation 2; unknown and infinite become the mean.
        let rows = encoder.rows(&data, &[0, 1, 2, 3, 4]);
        assert_eq!(rows.numeric, [-1.0, 0.0, 1.0, 48.5, 0.0]);
        // Trained: home, the empty name, work; the moon is unknown.
        assert_eq!(encoder.category_sizes(), [4]);
        assert_eq!(rows.categories, [1, 2, 3, 0, 1]);
        let stored = serde_json::to_string(&encoder).unwrap();
        assert_eq!(serde_json::from_str::<ContextEncoder>(&stored).unwrap(), encoder);

        let ask = |columns: &[(&str, &str)]| {
            let columns = columns.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            encoder.request(&Request { time: Some(1), columns })
        };
        assert_eq!(ask(&[("price", " 7 "), ("place", "work")]).unwrap(), ContextRows { numeric: vec![2.0], categories: vec![3] });
        assert_eq!(ask(&[("place", "moon")]).unwrap(), ContextRows { numeric: vec![0.0], categories: vec![0] });
        assert_eq!(ask(&[("price", "cheap")]).unwrap_err().code(), Code::D0406);
        assert_eq!(ask(&[("weather", "rain")]).unwrap_err().code(), Code::D0406);
    }

    #[test]
    fn temporal_features_come_first_and_are_fitted_on_training_times() {
        let (data, encoder) = fitted(true, |_| {});
        let encoder = encoder.unwrap().unwrap();
        assert_eq!(encoder.numeric_width(), TEMPORAL + 1);
        let rows = encoder.rows(&data, &[2, 4]);
        // Training times 0, 1, 2 s: marker (2 - 0 + 1) / (2 + 2), and 5/4 held at 1.
        assert_eq!((rows.numeric[0], rows.numeric[24], rows.numeric[23]), (0.75, 1.0, 1.0));
        let asked = encoder.request(&Request { time: Some(2_000_000), ..Request::default() }).unwrap();
        assert_eq!(asked.numeric[..TEMPORAL], rows.numeric[..TEMPORAL]);
        assert!(encoder.request(&Request::default()).unwrap().numeric.iter().all(|&x| x == 0.0));
    }

    #[test]
    fn whether_context_is_used_is_decided_by_the_settings_and_the_columns() {
        assert!(fitted(true, |c| c.model.context = "no".into()).1.unwrap().is_none());
        let auto = fitted(true, |c| c.model.context = "auto".into()).1.unwrap();
        assert_eq!(auto.unwrap().numeric_width(), TEMPORAL + 1, "columns are there to be used, whoever declared them");
        let cans = |c: &mut Config| (c.model.context, c.model.kind) = ("auto".into(), "cans".into());
        assert_eq!(fitted(true, cans).1.unwrap().unwrap().numeric_width(), TEMPORAL + 1);
        assert_eq!(fitted(true, |c| c.data.temporal = "no".into()).1.unwrap().unwrap().numeric_width(), 1);
        assert_eq!(fitted(false, |c| c.data.temporal = "yes".into()).1.unwrap_err().code(), Code::D0404);
        assert_eq!(fitted(true, |c| c.data.temporal = "maybe".into()).1.unwrap_err().code(), Code::C0202);
        let mut bare = log(false);
        bare.context.clear();
        let mut config = Config::default();
        config.model.context = "yes".into();
        let data = in_memory(bare, &config.data, Sides::default()).unwrap();
        let split = Split::new(&data, &config.data, 0).unwrap();
        assert_eq!(ContextEncoder::fit(&data, &split, &config).unwrap_err().code(), Code::D0404);
        config.model.context = "auto".into();
        let mut timed = log(true);
        timed.context.clear();
        let timed = in_memory(timed, &config.data, Sides::default()).unwrap();
        assert!(ContextEncoder::fit(&timed, &split, &config).unwrap().is_none(), "times alone are no reason");
        config.model.kind = "cans".into();
        assert!(ContextEncoder::fit(&data, &split, &config).unwrap().is_none());
    }
}
