//! Charts as inline SVG: curves, bars side by side or stacked, and a plane of trade-offs. No script, no style of their own:
//! colours are the page's classes `s0` .. `s7`.
//!
//! Two series never differ by colour alone: curves also by dash and marker, bars by hatching. Colours repeat after 8 and the
//! other signs after 5, so 40 series are distinct. Long curves keep the least and largest point of each stretch, which is
//! what the eye would see of them anyway.

use std::fmt::Write;

use crate::report::escape;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;

/// Points drawn in all curves of a chart together, and the fewest of one.
const POINTS: usize = 6000;
const FEWEST: usize = 40;
/// Bars of a chart beyond which neighbours are averaged.
pub const BARS: usize = 60;

const DASHES: [&str; 5] = ["", "7 3", "2 3", "9 3 2 3", "4 2"];

/// A curve, or the heights of one kind of bar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points }
    }
}

/// What stands around a chart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Labels<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    /// How to read it, in a sentence.
    pub note: &'a str,
}

/// A stretch of numbers and its marks.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// The numbers between marks of 1, 2 or 5 times a power of ten, widened to whole marks if `whole`.
    fn new(values: impl Iterator<Item = f64>, integer: bool, whole: bool) -> Axis {
        // Nothing measured is near the bounds; they keep differences finite.
        let values = values.filter(|v| v.is_finite()).map(|v| v.clamp(-1e300, 1e300));
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= 1e-9 * low.abs().max(high.abs()) {
            let by = if integer { 1.0 } else { (0.1 * high.abs()).max(1e-9) };
            (low, high) = (low - by, high + by);
        }
        let raw = (high - low) / 5.0;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999).unwrap_or(raw);
        let step = if integer { step.max(1.0).round() } else { step };
        if whole {
            (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        }
        Axis { low, high, step }
    }
    fn at(&self, value: f64, from: f64, to: f64) -> f64 {
        from + (value.clamp(self.low, self.high) - self.low) / (self.high - self.low) * (to - from)
    }
    fn x(&self, value: f64) -> f64 {
        self.at(value, LEFT, WIDTH - RIGHT)
    }
    fn y(&self, value: f64) -> f64 {
        self.at(value, HEIGHT - BOTTOM, TOP)
    }
    fn marks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil();
        (0..20).map(|i| (first + f64::from(i)) * self.step).take_while(|m| *m <= self.high + 1e-9 * self.step).collect()
    }
    fn text(&self, mark: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        if !(1e-4..1e6).contains(&largest) && largest > 0.0 {
            return format!("{mark:.1e}");
        }
        let decimals = (-self.step.log10().floor()).clamp(0.0, 8.0) as usize;
        // Not "-0".
        format!("{:.decimals$}", if mark.abs() < self.step * 1e-6 { 0.0 } else { mark })
    }
}

/// A number for people: four digits that count.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.2e}");
    }
    let decimals = if size >= 1000.0 { 0 } else { 3 - (size.max(1e-3).log10().floor() as i32).clamp(-1, 3) };
    format!("{value:.*}", decimals as usize)
}

fn begin(labels: &Labels<'_>) -> String {
    let title = escape(labels.title);
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>")
}

/// Grid, marks and names of both axes; `names` in place of numbers for bars.
fn frame(to: &mut String, x: &Axis, y: &Axis, labels: &Labels<'_>, names: Option<&[String]>) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for mark in y.marks() {
        let at = y.y(mark);
        let _ = write!(to, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>");
        let _ = write!(to, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, at + 4.0, y.text(mark));
    }
    match names {
        Some(names) => {
            let every = names.len().div_ceil(12).max(1);
            for (i, name) in names.iter().enumerate().step_by(every) {
                let at = x.x(i as f64);
                let _ = write!(to, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", bottom + 17.0, escape(name));
            }
        }
        None => {
            for mark in x.marks() {
                let at = x.x(mark);
                let _ = write!(to, "<path class=\"grid\" d=\"M{at:.1} {bottom}v4\"/>");
                let _ = write!(to, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", bottom + 17.0, x.text(mark));
            }
        }
    }
    let _ = write!(to, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>");
    let (across, down) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
    let _ = write!(
        to,
        "<text class=\"name\" x=\"{across}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 8.0,
        escape(labels.x)
    );
    let _ = write!(
        to,
        "<text class=\"name\" x=\"14\" y=\"{down}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {down})\">{}</text>",
        escape(labels.y)
    );
}

fn marker(i: usize, x: f64, y: f64) -> String {
    let d = match i % 5 {
        0 => format!("M{:.1} {y:.1}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z", x - 3.5),
        1 => format!("M{:.1} {:.1}h6v6h-6z", x - 3.0, y - 3.0),
        2 => format!("M{x:.1} {:.1}l4 7h-8z", y - 4.0),
        3 => format!("M{x:.1} {:.1}l4.2 4.2l-4.2 4.2l-4.2 -4.2z", y - 4.2),
        _ => format!("M{x:.1} {:.1}l-4 -7h8z", y + 4.0),
    };
    format!("<path class=\"f{}\" d=\"{d}\"/>", i % 8)
}

fn dash(i: usize) -> String {
    match DASHES[i % 5] {
        "" => String::new(),
        dashes => format!(" stroke-dasharray=\"{dashes}\""),
    }
}

/// A chart with its title, note and, for more than one name, a legend.
fn figure(labels: &Labels<'_>, svg: &str, legend: &[(String, String)]) -> String {
    let mut to = format!("<figure><figcaption>{}</figcaption>{svg}</svg>", escape(labels.title));
    if legend.len() > 1 {
        to += "<ul class=\"legend\">";
        for (sign, name) in legend {
            let _ = write!(
                to,
                "<li><svg viewBox=\"0 0 28 12\" class=\"sign\" aria-hidden=\"true\">{sign}</svg>{}</li>",
                escape(name)
            );
        }
        to += "</ul>";
    }
    if !labels.note.is_empty() {
        let _ = write!(to, "<p class=\"note\">{}</p>", escape(labels.note));
    }
    to + "</figure>\n"
}

/// At most about `most` points that keep the ends and the extremes of every stretch.
pub fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let most = most.max(4);
    if points.len() <= most {
        return points.to_vec();
    }
    let last = points.len() - 1;
    let size = (points.len() - 2).div_ceil((most - 2) / 2);
    let mut kept = vec![points[0]];
    for stretch in points[1..last].chunks(size) {
        let by = |a: &usize, b: &usize| stretch[*a].1.total_cmp(&stretch[*b].1);
        let low = (0..stretch.len()).min_by(by).unwrap_or(0);
        let high = (0..stretch.len()).max_by(by).unwrap_or(0);
        kept.push(stretch[low.min(high)]);
        if low != high {
            kept.push(stretch[low.max(high)]);
        }
    }
    kept.push(points[last]);
    kept
}

/// Curves over one axis of whole numbers; nothing if there is no point.
pub fn curves(labels: &Labels<'_>, all: &[Series]) -> String {
    let finite = |s: &Series| s.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect::<Vec<_>>();
    let all: Vec<(&str, Vec<(f64, f64)>)> = all.iter().map(|s| (s.name.as_str(), finite(s))).collect();
    if all.iter().all(|(_, points)| points.is_empty()) {
        return String::new();
    }
    let points = || all.iter().flat_map(|(_, points)| points);
    let x = Axis::new(points().map(|p| p.0), true, false);
    let y = Axis::new(points().map(|p| p.1), false, true);
    let mut to = begin(labels);
    frame(&mut to, &x, &y, labels, None);
    let most = (POINTS / all.len()).clamp(FEWEST, 600);
    let marks = (240 / all.len()).clamp(1, 12);
    let mut legend = vec![];
    for (i, (name, points)) in all.iter().enumerate() {
        let points = thin(points, most);
        let mut path = String::new();
        for (at, (px, py)) in points.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if at == 0 { 'M' } else { 'L' }, x.x(*px), y.y(*py));
        }
        let _ = write!(to, "<path class=\"s{}\"{} d=\"{path}\"/>", i % 8, dash(i));
        for (px, py) in points.iter().step_by(points.len().div_ceil(marks).max(1)) {
            to += &marker(i, x.x(*px), y.y(*py));
        }
        let sign = format!("<path class=\"s{}\"{} d=\"M1 6H27\"/>{}", i % 8, dash(i), marker(i, 14.0, 6.0));
        legend.push((sign, name.to_string()));
    }
    figure(labels, &to, &legend)
}

fn bar(i: usize, x: f64, y: f64, width: f64, height: f64, title: &str) -> String {
    let place = format!("x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"");
    let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
    let hatch = if i.is_multiple_of(5) { String::new() } else { format!("<rect {place} fill=\"url(#h{})\"/>", i % 5) };
    format!("<g>{title}<rect class=\"f{}\" {place}/>{hatch}</g>", i % 8)
}

/// The patterns of bars; once in a page.
pub fn hatches() -> String {
    let lines = ["M0 6L6 0", "M0 0L6 6", "M0 3H6", "M3 0V6"];
    let mut to = String::from("<svg width=\"0\" height=\"0\" class=\"defs\" aria-hidden=\"true\"><defs>");
    for (i, line) in lines.iter().enumerate() {
        let _ = write!(
            to,
            "<pattern id=\"h{}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\"><path class=\"hatch\" d=\"{line}\"/></pattern>",
            i + 1
        );
    }
    to + "</defs></svg>"
}

/// Bars for each of `groups`, series side by side or on top of each other. `Series::points` are (group, height).
pub fn bars(labels: &Labels<'_>, groups: &[String], all: &[Series], stacked: bool) -> String {
    let height = |s: &Series, g: usize| -> f64 {
        s.points.iter().filter(|p| p.0 == g as f64 && p.1.is_finite()).map(|p| p.1.max(0.0)).sum()
    };
    let heights: Vec<Vec<f64>> = all.iter().map(|s| (0..groups.len()).map(|g| height(s, g)).collect()).collect();
    if groups.is_empty() || heights.iter().flatten().all(|h| *h == 0.0) {
        return String::new();
    }
    let tallest = (0..groups.len()).map(|g| {
        let of = heights.iter().map(|h| h[g]);
        if stacked { of.sum() } else { of.fold(0.0, f64::max) }
    });
    let y = Axis::new(tallest.chain([0.0]), false, true);
    let x = Axis { low: -0.5, high: groups.len() as f64 - 0.5, step: 1.0 };
    let mut to = begin(labels);
    frame(&mut to, &x, &y, labels, Some(groups));
    let room = (WIDTH - LEFT - RIGHT) / groups.len() as f64 * 0.8;
    let width = if stacked { room } else { room / all.len() as f64 };
    for g in 0..groups.len() {
        let mut below = 0.0;
        for (i, series) in all.iter().enumerate() {
            let h = heights[i][g];
            let base = if stacked { below } else { 0.0 };
            let left = x.x(g as f64) - room / 2.0 + if stacked { 0.0 } else { i as f64 * width };
            let title = format!("{}, {}: {}", series.name, groups[g], number(h));
            if h > 0.0 {
                to += &bar(i, left, y.y(base + h), width, y.y(base) - y.y(base + h), &title);
            }
            below += h;
        }
    }
    let signs = all.iter().enumerate().map(|(i, s)| (bar(i, 4.0, 0.0, 20.0, 12.0, ""), s.name.clone()));
    figure(labels, &to, &signs.collect::<Vec<_>>())
}

/// A run in the plane of two things wanted together.
#[derive(Clone, Debug)]
pub struct Dot {
    pub name: String,
    pub x: f64,
    pub y: f64,
    /// Its area; none is drawn as a small hollow mark.
    pub size: Option<f64>,
}

/// Which dots no other beats in both, in order of `x`.
pub fn frontier(dots: &[Dot]) -> Vec<usize> {
    let beats = |a: &Dot, b: &Dot| a.x >= b.x && a.y >= b.y && (a.x > b.x || a.y > b.y);
    let mut kept: Vec<usize> = (0..dots.len()).filter(|&i| !dots.iter().any(|other| beats(other, &dots[i]))).collect();
    kept.sort_by(|&a, &b| dots[a].x.total_cmp(&dots[b].x));
    kept
}

/// Dots with names, and a line through those that no other beats.
pub fn plane(labels: &Labels<'_>, dots: &[Dot]) -> String {
    let dots: Vec<Dot> = dots.iter().filter(|d| d.x.is_finite() && d.y.is_finite()).cloned().collect();
    if dots.is_empty() {
        return String::new();
    }
    // A margin, so that circles stay inside.
    let wide = |values: Vec<f64>| {
        let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
        let by = ((high - low) * 0.12).max(1e-3);
        Axis::new([low - by, high + by].into_iter(), false, true)
    };
    let (x, y) = (wide(dots.iter().map(|d| d.x).collect()), wide(dots.iter().map(|d| d.y).collect()));
    let largest = dots.iter().filter_map(|d| d.size).fold(0.0, f64::max);
    let mut to = begin(labels);
    frame(&mut to, &x, &y, labels, None);
    let mut path = String::new();
    for (at, i) in frontier(&dots).into_iter().enumerate() {
        let _ = write!(path, "{}{:.1} {:.1}", if at == 0 { 'M' } else { 'L' }, x.x(dots[i].x), y.y(dots[i].y));
    }
    let _ = write!(to, "<path class=\"front\" d=\"{path}\"/>");
    for (i, dot) in dots.iter().enumerate() {
        let radius = dot.size.filter(|_| largest > 0.0).map_or(4.0, |size| 16.0 * (size.max(0.0) / largest).sqrt()).max(2.5);
        let class = if dot.size.is_some() { format!("d{}", i % 8) } else { "hollow".into() };
        let size = dot.size.map_or(String::new(), |s| format!(", {} s per epoch", number(s)));
        let title = format!("{}: {} {}, {} {}{size}", dot.name, labels.x, number(dot.x), labels.y, number(dot.y));
        let (cx, cy) = (x.x(dot.x), y.y(dot.y));
        let title = escape(&title);
        let _ = write!(
            to,
            "<circle class=\"{class}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{radius:.1}\"><title>{title}</title></circle>"
        );
    }
    let short = |name: &str| match name.char_indices().nth(28) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_string(),
    };
    let names: Vec<String> = dots.iter().map(|dot| short(&dot.name)).collect();
    let spots: Vec<(f64, f64)> = dots.iter().map(|dot| (x.x(dot.x), y.y(dot.y))).collect();
    for ((name, (left, line)), (cx, cy)) in names.iter().zip(places(&spots, &names)).zip(spots) {
        if (line - cy).abs() > LINE {
            let end = if left > cx { left - 2.0 } else { left + LETTER * name.chars().count() as f64 + 2.0 };
            let _ = write!(to, "<path class=\"lead\" d=\"M{cx:.1} {cy:.1}L{end:.1} {line:.1}\"/>");
        }
        let name = escape(name);
        let _ = write!(to, "<text class=\"dot\" x=\"{left:.1}\" y=\"{:.1}\">{name}</text>", line + 4.0);
    }
    figure(labels, &to, &[])
}

/// Height of a line of names and width of a letter, roughly.
const LINE: f64 = 13.0;
const LETTER: f64 = 6.2;

/// (left, middle) of each name: beside its dot, or the nearest place up or down on either side that covers no name before it.
fn places(spots: &[(f64, f64)], names: &[String]) -> Vec<(f64, f64)> {
    let mut taken: Vec<(f64, f64, f64)> = vec![];
    for (&(cx, cy), name) in spots.iter().zip(names) {
        let width = LETTER * name.chars().count() as f64;
        let sides = [cx + 12.0, cx - 12.0 - width];
        let lines = (0..24).flat_map(|k| [cy + LINE * f64::from(k), cy - LINE * f64::from(k)]);
        let inside = |&(left, line): &(f64, f64)| {
            left >= LEFT && left + width <= WIDTH && (TOP + LINE / 2.0..=HEIGHT - BOTTOM - LINE / 2.0).contains(&line)
        };
        let free = |&(left, line): &(f64, f64)| {
            taken.iter().all(|&(l, w, y)| (line - y).abs() >= LINE || left + width < l || l + w < left)
        };
        let fits = lines.flat_map(|line| sides.map(|left| (left, line))).find(|place| inside(place) && free(place));
        let (left, line) = fits.unwrap_or((sides[0], cy));
        taken.push((left, width, line));
    }
    taken.into_iter().map(|(left, _, line)| (left, line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_cover_the_values() {
        let axis = Axis::new([0.13, 0.87].into_iter(), false, true);
        let texts: Vec<String> = axis.marks().into_iter().map(|m| axis.text(m)).collect();
        assert_eq!(texts, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let epochs = Axis::new([1.0, 3.0].into_iter(), true, false);
        assert_eq!(epochs.marks(), [1.0, 2.0, 3.0]);
        for odd in
            [vec![], vec![5.0], vec![0.0, 0.0], vec![f64::NAN, f64::INFINITY], vec![-f64::MAX, f64::MAX], vec![1e15, 1e15 + 1.0]]
        {
            let axis = Axis::new(odd.iter().copied(), false, true);
            let inside = axis.marks().iter().all(|m| axis.y(*m).is_finite());
            assert!(axis.high > axis.low && inside && axis.marks().len() <= 20, "{odd:?}");
        }
    }

    #[test]
    fn thinned_curves_keep_ends_and_extremes() {
        let points: Vec<(f64, f64)> =
            (0..10_000).map(|i| (f64::from(i), if i == 4321 { 9.0 } else { f64::from(i % 7) })).collect();
        let thin = thin(&points, 100);
        assert!(thin.len() <= 100, "{}", thin.len());
        assert_eq!((thin[0], thin[thin.len() - 1]), (points[0], points[9999]));
        assert!(thin.contains(&(4321.0, 9.0)) && thin.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn long_curves_make_short_charts() {
        let points: Vec<(f64, f64)> = (0..10_000).map(|i| (f64::from(i), f64::from(i * 7919 % 1000))).collect();
        let chart = curves(&Labels { title: "loss", ..Labels::default() }, &[Series::new("a", points)]);
        assert!(chart.len() < 20_000, "{}", chart.len());
    }

    #[test]
    fn no_value_and_no_name_breaks_a_chart() {
        let labels = Labels { title: "<b>\"", x: "<x>", y: "'y'", note: "<i>" };
        let odd =
            [Series::new("<script>", vec![(1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 1.0)]), Series::new("empty", vec![])];
        let dots = [
            Dot { name: "<script>".into(), x: 0.1, y: f64::NAN, size: None },
            Dot { name: "\"<".into(), x: 0.1, y: 0.2, size: Some(0.0) },
        ];
        let groups = ["<group>".to_string()];
        for chart in
            [curves(&labels, &odd), plane(&labels, &dots), bars(&labels, &groups, &[Series::new("<s>", vec![(0.0, 1.0)])], true)]
        {
            assert!(chart.contains("<svg") && !chart.contains("NaN") && !chart.contains("inf"), "{chart}");
            assert!(!["<script", "<b>", "<x>", "<i>", "<group>", "<s>"].iter().any(|bad| chart.contains(bad)), "{chart}");
        }
        assert_eq!(curves(&labels, &odd[1..]) + &plane(&labels, &dots[..1]) + &bars(&labels, &groups, &[], false), "");
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let spots: Vec<(f64, f64)> = (0..12).map(|i| (250.0 + f64::from(i), 120.0)).collect();
        let names: Vec<String> = (0..12).map(|i| format!("run number {i}")).collect();
        let places = places(&spots, &names);
        for (i, a) in places.iter().enumerate() {
            for b in &places[..i] {
                let beside = (a.0 - b.0).abs() >= LETTER * 12.0;
                assert!(beside || (a.1 - b.1).abs() >= LINE, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_frontier_holds_what_no_other_beats() {
        let dot = |x, y| Dot { name: String::new(), x, y, size: None };
        assert_eq!(frontier(&[dot(0.5, 0.5), dot(0.4, 0.4), dot(0.9, 0.1), dot(0.5, 0.2), dot(0.1, 0.9)]), [4, 0, 2]);
    }

    #[test]
    fn numbers_keep_four_digits() {
        assert_eq!(
            [0.0, 0.12345, 1.23456, 12.3456, 123.456, 1234.56, 1e-5, 1e7].map(number).join(" "),
            "0.0000 0.1235 1.235 12.35 123.5 1235 1.00e-5 1.00e7"
        );
    }
}
