//! Times as logs write them, to microseconds since 1970 UTC: whole or fractional numbers in one of five units, and dates.
//!
//! The unit is guessed from a sample: units differ by a factor of 60 or 1000, while the years 1990 to 2100 span a factor
//! of 6.5 only, so a number lies in that window under at most one unit. A log whose numbers lie in no window counts from
//! an origin of its own (`dated` is false), and then nothing but sign and size can be checked. Written dates, and numbers whose
//! schema says that they are dates, need no window: they are believed from 1900 on.

use serde::{Deserialize, Serialize};

use super::rows::Class;

/// 1990-01-01 and 2100-01-01, in seconds: the window in which a number is believed to be a date.
const FIRST: i64 = 631_152_000;
const LAST: i64 = 4_102_444_800;
/// 1900-01-01, in seconds: what is written as an earlier date is a placeholder or a slip.
const EARLIEST: i64 = -2_208_988_800;

/// How a time field is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    S,
    Ms,
    Us,
    Ns,
    Minutes,
    Days,
    Iso,
}

impl Unit {
    /// The numeric units that can be told apart by size.
    const BY_SIZE: [Unit; 4] = [Unit::S, Unit::Ms, Unit::Us, Unit::Ns];

    /// The unit a configuration names; `auto` and `none` are the caller's.
    pub fn named(name: &str) -> Option<Unit> {
        Some(match name {
            "s" => Unit::S,
            "ms" => Unit::Ms,
            "us" => Unit::Us,
            "ns" => Unit::Ns,
            "minutes" => Unit::Minutes,
            "days" => Unit::Days,
            "iso" => Unit::Iso,
            _ => return None,
        })
    }
    pub fn name(self) -> &'static str {
        match self {
            Unit::S => "s",
            Unit::Ms => "ms",
            Unit::Us => "us",
            Unit::Ns => "ns",
            Unit::Minutes => "minutes",
            Unit::Days => "days",
            Unit::Iso => "iso",
        }
    }
    /// Microseconds per unit as a fraction (numerator, denominator).
    fn ratio(self) -> (i64, i64) {
        match self {
            Unit::S | Unit::Iso => (1_000_000, 1),
            Unit::Ms => (1_000, 1),
            Unit::Us => (1, 1),
            Unit::Ns => (1, 1_000),
            Unit::Minutes => (60_000_000, 1),
            Unit::Days => (86_400_000_000, 1),
        }
    }
}

/// What is known about the times of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRule {
    pub unit: Unit,
    /// The times are dates: then another unit's number is recognised.
    pub dated: bool,
    /// The schema says that they are, so a number is believed as a written date is.
    #[serde(default)]
    pub typed: bool,
    /// 0, which is the first moment of 1970, stands for a missing time.
    #[serde(default)]
    pub zero_missing: bool,
}

impl TimeRule {
    /// Of times of which no more is known than their unit.
    pub fn undated(unit: Unit) -> TimeRule {
        TimeRule { unit, dated: false, typed: false, zero_missing: false }
    }
    /// Microseconds of a field, or the class of its problem.
    pub fn micros(&self, field: &[u8]) -> Result<i64, Class> {
        if missing(field) {
            return Err(Class::MissingTime);
        }
        let micros = if self.unit == Unit::Iso {
            let micros = date(field).ok_or(Class::BadTime)?;
            self.checked(micros, micros)?
        } else {
            match number(field) {
                Number::Whole(value) => self.scaled(value)?,
                Number::Fraction(value) => {
                    let (up, down) = self.unit.ratio();
                    let micros = value * up as f64 / down as f64;
                    if micros.abs() >= 9.0e18 {
                        return Err(Class::FarFutureTime);
                    }
                    return self.checked(micros.round() as i64, value as i64);
                }
                Number::Overflow => return Err(Class::FarFutureTime),
                Number::No => return Err(Class::BadTime),
            }
        };
        Ok(micros)
    }
    /// Microseconds of a whole number in this rule's unit.
    pub fn scaled(&self, value: i64) -> Result<i64, Class> {
        let (up, down) = self.unit.ratio();
        match value.checked_mul(up) {
            Some(product) => self.checked(product / down, value),
            None if value < 0 => Err(Class::NegativeTime),
            None => self.checked(i64::MAX, value),
        }
    }
    fn checked(&self, micros: i64, value: i64) -> Result<i64, Class> {
        let seconds = micros.div_euclid(1_000_000);
        let believed = self.typed || self.unit == Unit::Iso;
        if seconds < if believed { EARLIEST } else { 0 } {
            return Err(Class::NegativeTime);
        }
        if value == 0 && self.zero_missing {
            return Err(Class::ZeroTime);
        }
        // What is believed has no unit to be mistaken.
        let another = || !(FIRST..LAST).contains(&seconds) && by_size(value).is_some_and(|unit| unit != self.unit);
        if self.dated && !believed && another() {
            return Err(Class::MixedTimeUnit);
        }
        if seconds >= LAST { Err(Class::FarFutureTime) } else { Ok(micros) }
    }
}

/// The unit under which a number is a date between 1990 and 2100.
fn by_size(value: i64) -> Option<Unit> {
    Unit::BY_SIZE.into_iter().find(|unit| {
        let (up, down) = unit.ratio();
        value.checked_mul(up).is_some_and(|v| (FIRST..LAST).contains(&(v / down / 1_000_000)))
    })
}

/// A field that stands for "nothing here".
pub fn missing(field: &[u8]) -> bool {
    field.is_empty()
        || (field.len() <= 4
            && [&b"\\N"[..], b"nan", b"null", b"none", b"na", b"nat", b"-"].iter().any(|m| field.eq_ignore_ascii_case(m)))
}

enum Number {
    Whole(i64),
    Fraction(f64),
    Overflow,
    No,
}

fn number(field: &[u8]) -> Number {
    let (negative, digits) = match field {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, field),
    };
    if digits.is_empty() {
        return Number::No;
    }
    let mut value: i64 = 0;
    for (i, &byte) in digits.iter().enumerate() {
        if !byte.is_ascii_digit() {
            // `12.0` stays exact; anything else goes through the general parser.
            if byte == b'.' && i > 0 && digits[i + 1..].iter().all(|&b| b == b'0') {
                break;
            }
            let parsed = std::str::from_utf8(field).ok().and_then(|text| text.parse::<f64>().ok());
            return match parsed {
                Some(x) if x.is_finite() => Number::Fraction(x),
                _ => Number::No,
            };
        }
        match value.checked_mul(10).and_then(|v| v.checked_add((byte - b'0') as i64)) {
            Some(v) => value = v,
            // All digits: a number too large; else the general parser judges.
            None if digits.iter().all(u8::is_ascii_digit) => return Number::Overflow,
            None => {
                return match std::str::from_utf8(field).ok().and_then(|text| text.parse::<f64>().ok()) {
                    Some(x) if x.is_finite() => Number::Overflow,
                    _ => Number::No,
                };
            }
        }
    }
    Number::Whole(if negative { -value } else { value })
}

/// Microseconds of a date in one of the forms logs use, UTC unless it carries an offset: `2019-12-31`, `2019/12/31`,
/// `20191231`, each followed by `T` or a space and `hh:mm[:ss[.fraction]][Z|+hh[:]mm][ UTC| GMT]`; or the form of Twitter and
/// Foursquare, `Tue Apr 03 18:00:09 +0000 2012`. Where separators show what is what, zeros in front may be left out.
pub fn date(field: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(field).ok()?.trim();
    if !text.is_ascii() || text.len() < 8 {
        return None;
    }
    if text.as_bytes()[0].is_ascii_alphabetic() {
        return long_date(text);
    }
    let text = text.strip_suffix(" UTC").or_else(|| text.strip_suffix(" GMT")).unwrap_or(text).trim_end();
    if text.len() < 8 {
        return None;
    }
    let bytes = text.as_bytes();
    let (year, month, day, rest) = if bytes[4].is_ascii_digit() {
        (text.get(0..4)?, text.get(4..6)?, text.get(6..8)?, text.get(8..)?)
    } else {
        if !matches!(bytes[4], b'-' | b'/') {
            return None;
        }
        let (month, rest) = text.get(5..)?.split_once(char::from(bytes[4]))?;
        let (day, rest) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        if month.len() > 2 || day.len() > 2 {
            return None;
        }
        (text.get(0..4)?, month, day, rest)
    };
    let days = days_from_civil(whole(year)?, whole(month)?, whole(day)?)?;
    let midnight = days * 86_400_000_000;
    if rest.is_empty() {
        return Some(midnight);
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, offset) = match rest.find(['Z', 'z', '+', '-']) {
        Some(at) => (rest[..at].trim_end(), zone(&rest[at..])?),
        None => (rest, 0),
    };
    Some(midnight + clock_micros(clock)? - offset)
}

/// `Tue Apr 03 18:00:09 +0000 2012`.
fn long_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_ascii_whitespace().skip(1);
    let month = words.next()?;
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month))? as i64 + 1;
    let day = whole(words.next()?)?;
    let clock = clock_micros(words.next()?)?;
    let offset = zone(words.next()?)?;
    let year = whole(words.next()?)?;
    let days = days_from_civil(year, month, day)?;
    if words.next().is_some() { None } else { Some(days * 86_400_000_000 + clock - offset) }
}

/// `hh:mm[:ss[.fraction]]`; a leap second counts as the second before it.
fn clock_micros(clock: &str) -> Option<i64> {
    let mut parts = clock.split(':');
    let hour = whole(parts.next()?)?;
    let minute = whole(parts.next()?)?;
    let (second, fraction) = match parts.next() {
        None => (0, 0),
        Some(part) => match part.split_once(['.', ',']) {
            None => (whole(part)?, 0),
            Some((second, digits)) => {
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                let micros = digits.bytes().chain(std::iter::repeat(b'0')).take(6).fold(0, |v, b| v * 10 + (b - b'0') as i64);
                (whole(second)?, micros)
            }
        },
    };
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(((hour * 60 + minute) * 60 + second.min(59)) * 1_000_000 + fraction)
}

/// Microseconds east of UTC of `Z`, `+hh`, `+hhmm` or `+hh:mm`.
fn zone(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits: String = text[1..].chars().filter(|&c| c != ':').collect();
    let (hours, minutes) = match digits.len() {
        2 => (whole(&digits)?, 0),
        4 => (whole(&digits[..2])?, whole(&digits[2..])?),
        _ => return None,
    };
    if hours > 18 || minutes > 59 { None } else { Some(sign * (hours * 60 + minutes) * 60_000_000) }
}

/// Digits only, at most nine.
fn whole(text: &str) -> Option<i64> {
    if text.is_empty() || text.len() > 9 || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = [31, 28 + leap as i64, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if !(1..=12).contains(&month) || day < 1 || day > length[month as usize - 1] {
        return None;
    }
    let shifted = year - (month <= 2) as i64;
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// `2000-04-25 23:05:32` (UTC) of microseconds since 1970.
pub fn show(micros: i64) -> String {
    let seconds = micros.div_euclid(1_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + (month <= 2) as i64;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// A guess of how a column's fields are to be read as times.
#[derive(Clone, Debug)]
pub struct Guess {
    pub rule: TimeRule,
    /// Share of the sampled fields that are times under the rule.
    pub share: f64,
    pub because: String,
}

/// The unit of a column from a sample of its fields and its name; `None` when fewer than half of them are times at all.
pub fn guess(fields: &[&[u8]], name: &str) -> Option<Guess> {
    let fields: Vec<&[u8]> = fields.iter().copied().filter(|f| !missing(f)).collect();
    if fields.is_empty() {
        return None;
    }
    let share = |hits: usize| hits as f64 / fields.len() as f64;
    let values: Vec<i64> = fields
        .iter()
        .filter_map(|f| match number(f) {
            Number::Whole(v) => Some(v),
            Number::Fraction(v) if v.abs() < 9.0e18 => Some(v as i64),
            _ => None,
        })
        .collect();
    let dates: Vec<i64> = fields.iter().filter_map(|f| written(f)).collect();
    if share(dates.len()) > 0.5 {
        let because = format!("{} of {} sampled fields are dates", dates.len(), fields.len());
        let rule = TimeRule { unit: Unit::Iso, dated: true, typed: false, zero_missing: zero_stands_out(&dates) };
        return Some(Guess { rule, share: share(dates.len()), because });
    }
    if share(values.len()) <= 0.5 {
        return None;
    }
    let (low, high) = (values.iter().min().copied().unwrap_or(0), values.iter().max().copied().unwrap_or(0));
    for unit in Unit::BY_SIZE {
        let hits = values.iter().filter(|&&v| by_size(v) == Some(unit)).count();
        if share(hits) > 0.5 {
            let because = format!(
                "{hits} of {} sampled numbers are dates between 1990 and 2100 if read as {}, none of the other units fits",
                fields.len(),
                unit.name()
            );
            let rule = TimeRule { unit, dated: true, typed: false, zero_missing: true };
            return Some(Guess { rule, share: share(hits), because });
        }
    }
    let lower = name.to_ascii_lowercase();
    let (unit, named) = if lower.contains("minute") {
        (Unit::Minutes, true)
    } else if lower.ends_with("_ms") || lower.contains("milli") {
        (Unit::Ms, true)
    } else if lower == "day" || lower == "days" {
        (Unit::Days, true)
    } else {
        (Unit::S, false)
    };
    let because = format!(
        "sampled numbers {low} to {high} are no dates, so they count from an origin of their own; {}",
        if named { format!("the column's name says {}", unit.name()) } else { "seconds are assumed".to_string() }
    );
    let rule = TimeRule::undated(unit);
    let inside = values.iter().filter(|&&v| rule.scaled(v).is_ok()).count();
    Some(Guess { rule, share: share(inside), because })
}

/// A field that is hardly anything but a date: it lies between 1990 and 2100, has a clock, or is written out with zeros, as an
/// id such as `1024-3-7` or a number of eight digits is not.
fn written(field: &[u8]) -> Option<i64> {
    let padded = matches!(field, [_, _, _, _, a @ (b'-' | b'/'), _, _, b, _, _, ..] if a == b);
    date(field).filter(|d| (FIRST..LAST).contains(&(d / 1_000_000)) || padded || field.contains(&b':'))
}

/// Whether 1970-01-01 is a placeholder among these dates, in microseconds: all others that are believed lie after 1990, and there
/// are some. In a log that begins in 1970 it is a day like any other.
fn zero_stands_out(dates: &[i64]) -> bool {
    let any = |from, to| dates.iter().any(|&date| date != 0 && (from..to).contains(&date.div_euclid(1_000_000)));
    any(FIRST, LAST) && !any(EARLIEST, FIRST)
}

/// The rule of a column whose schema says that it holds times of this unit; its sampled fields only say what 0 means.
pub fn of_schema(unit: Unit, fields: &[&[u8]]) -> TimeRule {
    let rule = TimeRule { unit, dated: true, typed: true, zero_missing: false };
    let dates: Vec<i64> = fields.iter().filter_map(|field| rule.micros(field).ok()).collect();
    TimeRule { zero_missing: zero_stands_out(&dates), ..rule }
}

/// The first of these fields that is no time in any form, or the first that holds anything.
pub fn unreadable<'a>(fields: &[&'a [u8]]) -> Option<&'a [u8]> {
    let mut filled = fields.iter().copied().filter(|f| !missing(f));
    let first = filled.next();
    let none = |f: &&[u8]| date(f).is_none() && matches!(number(f), Number::No);
    first.filter(none).or_else(|| filled.find(none)).or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_agree_with_known_seconds() {
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2000-04-25T23:05:32Z", 956_703_932),
            ("2000-04-25 23:05:32", 956_703_932),
            ("20030228", 1_046_390_400),
            ("2012/04/03 14:00:09-04:00", 1_333_476_009),
            ("Tue Apr 03 18:00:09 +0000 2012", 1_333_476_009),
            ("2016-02-29T00:00+0100", 1_456_700_400),
            ("1969-12-31T23:59:59", -1),
            ("2017-07-26 08:45:56 UTC", 1_501_058_756),
            ("2017-07-26 08:45:56.5 +0000 GMT", 1_501_058_756),
            ("2017-7-6 8:45", 1_499_330_700),
            ("2017/12/1", 1_512_086_400),
            ("1985-11-17 06:59:16", 501_058_756),
        ] {
            assert_eq!(date(text.as_bytes()).map(|t| t.div_euclid(1_000_000)), Some(seconds), "{text}");
        }
        assert_eq!(date(b"2020-01-01T00:00:00.25Z"), Some(1_577_836_800_250_000));
        for text in [
            "2019-13-01",
            "2019-02-29",
            "2019-001-1",
            "2019-1-/1",
            "2019-1-1-1",
            "20190132",
            "2019-01-01T24:00",
            "yesterday!",
            "2019-01-01x",
            "::::::::",
            "2017 UTC",
            "07/26/2017 08:45:56",
            "26.07.2017 08:45",
            "2017-07-26 08:45 AM",
            "2017-07-26 08:45:56 Europe/Berlin",
            "26/Jul/2017:08:45:56 +0000",
        ] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn shown_dates_read_back() {
        for micros in [0i64, 956_703_932_000_000, 1_709_164_800_000_000, 4_102_444_799_000_000, -86_400_000_000] {
            assert_eq!(date(show(micros).as_bytes()), Some(micros));
        }
    }

    #[test]
    fn every_problem_of_a_number_has_its_class() {
        let rule = TimeRule { unit: Unit::S, dated: true, typed: false, zero_missing: true };
        assert_eq!(rule.micros(b"978300760"), Ok(978_300_760_000_000));
        assert_eq!(rule.micros(b"978300760.0"), Ok(978_300_760_000_000));
        assert_eq!(rule.micros(b"978300760.5"), Ok(978_300_760_500_000));
        assert_eq!(rule.micros(b"9.783e8"), Ok(978_300_000_000_000));
        for (field, class) in [
            (&b""[..], Class::MissingTime),
            (b"NaN", Class::MissingTime),
            (b"\\N", Class::MissingTime),
            (b"soon", Class::BadTime),
            (b"12:30", Class::BadTime),
            (b"-5", Class::NegativeTime),
            (b"-99999999999999999", Class::NegativeTime),
            (b"0", Class::ZeroTime),
            (b"978300760000", Class::MixedTimeUnit),
            (b"978300760000000000", Class::MixedTimeUnit),
            (b"99999999999", Class::FarFutureTime),
            (b"99999999999999999999999", Class::FarFutureTime),
            (b"1e300", Class::FarFutureTime),
            (b"inf", Class::BadTime),
        ] {
            assert_eq!(rule.micros(field), Err(class), "{}", String::from_utf8_lossy(field));
        }
        let relative = TimeRule::undated(Unit::Minutes);
        assert_eq!(relative.micros(b"0"), Ok(0));
        assert_eq!(relative.micros(b"458435"), Ok(458_435 * 60_000_000));
    }

    #[test]
    fn written_dates_are_believed_from_1900_to_2100() {
        let rule = |fields: &[&str]| {
            let fields: Vec<&[u8]> = fields.iter().map(|f| f.as_bytes()).collect();
            guess(&fields, "t").unwrap().rule
        };
        let late = rule(&["2019-05-01", "1970-01-01", "0001-01-01"]);
        assert_eq!((late.unit, late.dated), (Unit::Iso, true));
        assert_eq!(late.micros(b"1970-01-01"), Err(Class::ZeroTime));
        // A single date before 1990 makes 1970 a year like any other, and so does a sample that holds nothing else.
        for sample in [&["2019-05-01", "1985-01-01", "1970-01-01"][..], &["1970-01-01", "1970-01-01"], &["1970-01-02"]] {
            assert_eq!(rule(sample).micros(b"1970-01-01"), Ok(0), "{sample:?}");
        }
        assert_eq!(TimeRule::undated(Unit::Iso).micros(b"1970-01-01"), Ok(0));
        for rule in [late, rule(&["1962-05-01", "1944-05-06"]), TimeRule::undated(Unit::Iso)] {
            for (field, micros) in [
                ("1970-01-01 00:15:00", 900_000_000),
                ("1969-12-31", -86_400_000_000),
                ("1931-02-03", -1_227_916_800_000_000),
                ("1900-01-01", EARLIEST * 1_000_000),
            ] {
                assert_eq!(rule.micros(field.as_bytes()), Ok(micros), "{field}");
            }
            for (field, class) in [
                ("9999-12-31", Class::FarFutureTime),
                ("2262-01-01 00:00", Class::FarFutureTime),
                ("0001-01-01", Class::NegativeTime),
                ("1899-12-31", Class::NegativeTime),
            ] {
                assert_eq!(rule.micros(field.as_bytes()), Err(class), "{field}");
            }
        }
    }

    #[test]
    fn numbers_of_a_schema_are_believed_like_written_dates() {
        let first = of_schema(Unit::Days, &[b"0", b"0", b"1", b"9000"]);
        assert_eq!((first.scaled(0), first.scaled(-2_000)), (Ok(0), Ok(-2_000 * 86_400_000_000)));
        assert_eq!(first.scaled(-30_000), Err(Class::NegativeTime));
        assert_eq!(first.scaled(50_000), Err(Class::FarFutureTime));
        // The 12th of January 1970 in milliseconds is a date of 2001 in seconds.
        let early = of_schema(Unit::Ms, &[b"-5000", b"978300760"]);
        assert_eq!(early.scaled(978_300_760), Ok(978_300_760_000));
        assert_eq!((early.scaled(i64::MIN), early.scaled(i64::MAX)), (Err(Class::NegativeTime), Err(Class::FarFutureTime)));
        let late = of_schema(Unit::Ms, &[b"0", b"978300760000"]);
        assert_eq!((late.scaled(0), late.scaled(-1_000)), (Err(Class::ZeroTime), Ok(-1_000_000)));
    }

    #[test]
    fn units_are_told_apart_by_size_and_by_name() {
        let unit = |fields: &[&str], name: &str| {
            let bytes: Vec<&[u8]> = fields.iter().map(|f| f.as_bytes()).collect();
            guess(&bytes, name).map(|g| (g.rule.unit, g.rule.dated))
        };
        assert_eq!(unit(&["978300760", "956703932"], "t"), Some((Unit::S, true)));
        assert_eq!(unit(&["978300760123", "956703932000", "5"], "t"), Some((Unit::Ms, true)));
        assert_eq!(unit(&["978300760123000"], "t"), Some((Unit::Us, true)));
        assert_eq!(unit(&["978300760123000000"], "t"), Some((Unit::Ns, true)));
        assert_eq!(unit(&["2019-05-01", "x", "2019-05-02"], "t"), Some((Unit::Iso, true)));
        assert_eq!(unit(&["20190501", "20190502"], "t"), Some((Unit::Iso, true)));
        assert_eq!(unit(&["1985-05-01", "1986-1-2 8:45"], "t"), Some((Unit::Iso, true)));
        assert_eq!(unit(&["1024-3-7", "1024-3-8"], "t"), None, "ids");
        assert_eq!(unit(&["19850501", "19860102"], "t"), Some((Unit::S, false)), "eight digits may be anything");
        assert_eq!(unit(&["99366", "5743"], "minute"), Some((Unit::Minutes, false)));
        assert_eq!(unit(&["99366", "5743"], "t"), Some((Unit::S, false)));
        assert_eq!(unit(&["a", "b", "1"], "t"), None);
        assert_eq!(unit(&[], "t"), None);
    }
}
