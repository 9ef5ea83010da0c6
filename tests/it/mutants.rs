//! Whether the kernels' cases would notice a broken kernel: every barrier, fence and wait is taken out, parities are turned,
//! bounds are moved by one, atomics become plain additions, and shared arrays lose a row, one at a time; a case that launches
//! the kernel must then fail on the emulator with every access checked.
//!
//! A sample is tried by every `cargo test`. All of them take the better part of an hour, so they run when asked:
//! `cargo test --test it broken_kernels -- --ignored --nocapture`, with stems of files in `MUTANTS` (`group,rank`) to try
//! those alone. A survivor is printed with its line; one that a reader has found to change nothing goes into
//! [`EQUIVALENT`], with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use hardneg::device::emulator::traffic::Metered;
use hardneg::device::emulator::{Emulator, Options};
use hardneg::device::places::Rounding;
use hardneg::device::{Device, sources};
use hardneg::ops::case::{Case, Expected};
use hardneg::rng::{Draws, Stream};
use hardneg::{loss, ops, optim, sampling};

/// Mutants that change no result a case could see: stem of the file, how the changed line begins then (with the lines after
/// it, each after ` | `, as far as needed), how many mutants that names, and why.
const EQUIVALENT: &[(&str, &str, usize, &str)] = &[
    ("attention", "for (int j = 0; j <= JK; ++j) { | if (j / 2 >= groups) continue;", 3, "groups is at most JK / 2: skipped"),
    ("attention", "for (int c = 0; c <= CPL; ++c) | if (column(c, at.i) < E) out[", 1, "columns from EP on are outside of E"),
    (
        "attention",
        "for (int c = 0; c <= CPL; ++c) { | if (column(c, at.i) >= E) continue;",
        2,
        "columns from EP on are outside of E",
    ),
    ("attention", "if (key0 <= at.length) {", 1, "a warp whose keys begin at the end writes none of its sums"),
    ("attention_mma", "return pack_bf16(c <= E ?", 1, "c is even, and E is odd here"),
    (
        "attention_mma",
        "for (int n = 0; n <= 2 * KS; ++n) | #pragma unroll | for (int i = 0; i < 2; ++i) {",
        1,
        "columns from 16 KS on are outside of E",
    ),
    ("attention_mma", "for (int j = 0; j <= 8; ++j) keep |=", 1, "a ninth bit is cut off"),
    (
        "attention_mma",
        "for (int n = 0; n <= TILE / 16; ++n) { | if (n >= groups) continue;",
        2,
        "groups is at most TILE / 16: skipped",
    ),
    ("attention_mma", "bool visible = row <= at.length", 2, "a row past the end is written nowhere, or is zero as a key's query"),
    (
        "attention_mma",
        "bool visible = row < at.length && key <= at.length && (!CAUSAL || key <= row); | float p = visible ? exp2_fast(s.part[i / 4][i % 4] * c2 - s_lse",
        1,
        "the sums of a key past the end are written nowhere",
    ),
    (
        "attention_mma",
        "int from = CAUSAL && key0 > q0 ? (int)((key0 - q0) / 16) : 0, to = key0 <= at.length",
        1,
        "a warp whose keys begin at the end writes none of its sums",
    ),
    ("attention_mma", "SHARED(u16, s_k, [(TILE * SE) - 1]);", 1, "the last number is the padding of a row"),
    ("attention_mma", "SHARED(u16, s_v, [(TILE * SE) - 1]);", 1, "the last number is the padding of a row"),
    ("attention_mma", "SHARED(u16, s_a, [(TILE * SE) - 1]);", 1, "the last number is the padding of a row"),
    ("attention_mma", "SHARED(u16, s_b, [(TILE * SE) - 1]);", 1, "the last number is the padding of a row"),
    (
        "full_softmax",
        "for (int c = 0; c <= COLUMNS; ++c) { | int column = tx + 16 * c;",
        2,
        "columns from 16 COLUMNS on are past the row",
    ),
    ("full_softmax_mma", "return make_float2(c <= D ?", 1, "c is even, and D is odd here"),
    ("full_softmax_mma", "if (c <= D) row[c] = x;", 1, "c is even, and D is odd here"),
    ("full_softmax_mma", "SHARED(u16, s_tile, [(STREAM * STRIDE) - 1]);", 2, "the last number is the padding of a row"),
    ("group", "bool counts_here = first + k * 32 <= n;", 1, "the place n is behind all keys, and only later places would shift"),
    ("group", "for (int bit = 0; bit <= 8; ++bit) {", 1, "a digit has no ninth bit, so all lanes agree on it"),
    (
        "propose",
        "return (u32)(coin <= (held & (((u64)1 << bits) - 1)) ? column : held >> bits);",
        1,
        "another item for one coin in 2^(63 - bits of a column)",
    ),
    ("rank", "bool exists = row <= OWN && first + row < R;", 1, "scores a row more, which no thread looks at"),
    (
        "rank",
        "for (int j = 0; j <= STREAMED; ++j) | if (ty + 8 * i == tx + 16 * j) s_own",
        1,
        "OWN is at most STREAM: never equal",
    ),
    (
        "sampled_loss",
        "for (int step = LANES; step <= 32; step *= 2) most = fmaxf(",
        1,
        "no lane is 32 lanes away: its own value comes back",
    ),
    (
        "sampled_loss",
        "float free = hidden <= 1.0f ?",
        1,
        "where it is one the logarithm is of zero, which is minus infinity as well",
    ),
    (
        "sampled_loss",
        "ds = -cold * sigmoid(excess) / (free <= least ?",
        1,
        "where both bounds are the same number either slope is one of the loss",
    ),
    ("sampled_loss", "factor = free <= least ?", 1, "as the line before it"),
    (
        "sampled_loss",
        "for (int turn = WHOLE ? 0 : 1; turn <= 2; ++turn) {",
        1,
        "a turn that adds nothing keeps the same scores once more",
    ),
    (
        "score_topk_wgmma",
        "for (u32 step = 1; step <= 32; step *= 2) { | u32 other = __shfl_up_sync(~0u, through",
        1,
        "no lane is 32 lanes away: nothing is added",
    ),
    (
        "softmax_draw",
        "if (!(total > 0.0 && total <= (double)INF)) return ~0u;",
        1,
        "weights are relative to the largest, so their sum is finite",
    ),
    ("softmax_draw", "if (below <= n) return below;", 1, "the mark passes the last sum by rounding only, once in 2^50 draws"),
    ("softmax_draw", "if (query.lane == 0 && x <= count) s_weight[x] =", 1, "the weight behind the last is 0 and not summed"),
    ("softmax_draw", "if (ids[out + x] - first <= count) s_weight", 1, "the weight behind the last is not summed"),
    ("touched", "for (int k = 0; k <= 4; ++k) {", 1, "the next block's first ids once more: a bit set twice is set"),
];

/// How many mutants every `cargo test` tries.
const SAMPLE: usize = 24;
/// A case that takes longer than this does not end; the slowest takes seconds, its compilation with it.
const LIMIT: Duration = Duration::from_secs(180);

struct Mutant {
    file: String,
    /// The kernel it changes; none for a function that several of them may use.
    entry: Option<String>,
    line: usize,
    change: String,
    /// The changed line and the two after it, as [`EQUIVALENT`] names them.
    place: String,
    text: String,
}

impl Mutant {
    fn is_equivalent(&self) -> bool {
        EQUIVALENT.iter().any(|entry| self.is_named_by(entry))
    }
    fn is_named_by(&self, (file, place, ..): &(&str, &str, usize, &str)) -> bool {
        self.file == *file && self.place.starts_with(place)
    }
}

/// The text with comments blanked out, so that places stay where they are.
fn code(text: &str) -> String {
    let mut blank = String::new();
    for line in text.split_inclusive('\n') {
        let keep = line.find("//").unwrap_or(line.len());
        blank += &line[..keep];
        blank.extend(line[keep..].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
    }
    // Characters of comments may be longer than a blank.
    if blank.len() == text.len() { blank } else { text.to_string() }
}

/// The end of the bracket that opens right before `from`.
fn closing(code: &str, from: usize) -> Option<usize> {
    let mut depth = 1;
    let at = code[from..].find(|c| {
        depth += i32::from(matches!(c, '(' | '[')) - i32::from(matches!(c, ')' | ']'));
        depth == 0
    });
    at.map(|at| from + at)
}

/// The kernel whose body holds `at`.
fn entry(code: &str, at: usize) -> Option<&str> {
    let head = code[..at].rfind("KERNEL(").filter(|head| !code[*head..at].contains("\n}"))?;
    let end = closing(code, head + "KERNEL(".len())?;
    code[head..end].rsplit(',').next().map(str::trim)
}

fn mutants(file: &str, text: &str) -> Vec<Mutant> {
    let code = code(text);
    let mut all = vec![];
    let mut replace = |from: usize, to: usize, with: &str| {
        let line = code[..from].matches('\n').count() + 1;
        let change = format!("`{}` becomes `{with}`", &code[from..to]);
        let start = code[..from].rfind('\n').map_or(0, |at| at + 1);
        let after = format!("{}{with}{}", &code[start..from], &code[to..]);
        let place: Vec<&str> = after.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
        all.push(Mutant {
            file: file.into(),
            entry: entry(&code, from).map(str::to_string),
            line,
            change,
            place: place.join(" | "),
            text: format!("{}{with}{}", &text[..from], &text[to..]),
        });
    };
    for barrier in ["__syncthreads();", "__syncwarp();"] {
        code.match_indices(barrier).for_each(|(at, _)| replace(at, at + barrier.len(), ";"));
    }
    for (at, head) in code.match_indices("cp_async_wait<") {
        let Some(end) = code[at..].find(';').map(|end| at + end + 1) else { continue };
        replace(at, end, ";");
        let groups = &code[at + head.len()..][..1];
        if let Ok(groups) = groups.parse::<u32>() {
            replace(at, end, &format!("cp_async_wait<{}>();", groups + 1));
        }
    }
    for word in ["mbarrier_init_fence(", "mbarrier_arrive(", "mbarrier_wait(", "wgmma_fence(", "wgmma_commit(", "wgmma_wait<"] {
        for (at, _) in code.match_indices(word) {
            let Some(end) = code[at..].find(';').map(|end| at + end + 1) else { continue };
            replace(at, end, ";");
            if word == "mbarrier_wait(" {
                replace(end - 2, end, " ^ 1);");
            }
        }
    }
    for (at, head) in code.match_indices("atomicAdd(") {
        let statement = code[..at].trim_end().ends_with([';', '{', '}', ')']);
        let Some(end) = closing(&code, at + head.len()).filter(|_| statement) else { continue };
        let inside = &code[at + head.len()..end];
        if let Some((target, value)) = inside.split_once(", ") {
            replace(at, end + 1, &format!("*({target}) += ({value})"));
        }
    }
    // Bounds: a loop in steps ends one step early, any other comparison lets one more through.
    for (at, _) in code.match_indices(" < ") {
        let line = code[..at].rsplit('\n').next().unwrap_or_default().trim_start();
        let after = code[at..].find(';').map(|semicolon| at + semicolon + 1).filter(|_| line.starts_with("for ("));
        let step = after.and_then(|after| code[after..closing(&code, after)?].split_once(" += "));
        match step {
            Some((_, step)) => replace(at, at, &format!(" + ({step})")),
            None if line.starts_with('#') => {}
            None => replace(at, at + 3, " <= "),
        }
    }
    // The one thread of `lane == 0` becomes two.
    for word in ["lane == 0)", "threadIdx.x == 0)", "warp == 0)"] {
        code.match_indices(word).for_each(|(at, _)| replace(at + word.len() - 5, at + word.len(), "<= 1)"));
    }
    for (at, head) in code.match_indices("SHARED(") {
        let Some(end) = closing(&code, at + head.len()) else { continue };
        if let Some(bracket) = code[at..end].find('[').map(|b| at + b + 1).filter(|_| !code[..at].ends_with("#define ")) {
            let to = closing(&code, bracket).unwrap_or(bracket);
            replace(bracket, to, &format!("({}) - 1", &code[bracket..to]));
        }
    }
    all
}

/// A case, what it has to give, and the kernels it launches.
struct Subject {
    case: Case,
    expected: Expected,
    kernels: BTreeSet<(&'static str, &'static str)>,
    seconds: f64,
}

impl Subject {
    fn launches(&self, file: &str, entry: Option<&str>) -> bool {
        self.kernels.iter().any(|(f, e)| *f == file && entry.is_none_or(|entry| entry == *e))
    }

    /// Why it fails, or None.
    fn failure(&self, emulator: &Arc<Emulator>) -> Option<String> {
        let machine = Device::Machine(Arc::new(Metered(emulator.clone())));
        // A nonsensical result may also trip the host's own arithmetic.
        let run =
            catch_unwind(AssertUnwindSafe(|| (self.case.run)(&machine).and_then(|outputs| self.expected.findings(&outputs))));
        let stray = |f: &ops::case::Finding| format!("{} strays by {:.1e}", f.output, f.error);
        match run {
            Err(_) => Some("the host panics".into()),
            Ok(Err(error)) => Some(format!("[{}] {}", error.code().name(), error.what())),
            Ok(Ok(findings)) => findings.iter().find(|f| !f.passes()).map(stray),
        }
    }
}

/// Where kernels that are as they should be lie compiled, and the sample's: the ordinary tests' own.
fn kept() -> &'static Path {
    const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels");
    Path::new(FOLDER)
}

fn emulator(rounding: Rounding, checked: bool, cache: &Path, extra: &[(String, String)]) -> Arc<Emulator> {
    let options = Options { rounding, checked, extra_sources: extra.to_vec(), ..Options::new(cache) };
    Emulator::open(&options).unwrap_or_else(|error| panic!("{error}"))
}

/// `work` of each, on two threads, in the order of `all`.
fn two_at_a_time<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(vec![]));
    let worker = || {
        while let Some((at, one)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, all.get(at)?))) {
            let result = work(one);
            done.lock().unwrap().push((at, result));
        }
    };
    std::thread::scope(|scope| [scope.spawn(worker), scope.spawn(worker)].map(|thread| thread.join().unwrap()));
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// All cases. Unchecked is enough to learn which kernels they launch.
fn subjects() -> &'static [Subject] {
    static ALL: OnceLock<Vec<Subject>> = OnceLock::new();
    ALL.get_or_init(|| {
        let cases: Vec<Mutex<Option<Case>>> =
            [ops::cases(), ops::rounded_cases(), sampling::cases(), loss::cases(), loss::rounded_cases(), optim::cases()]
                .into_iter()
                .flatten()
                .map(|case| Mutex::new(Some(case)))
                .collect();
        two_at_a_time(&cases, |case| {
            let case = case.lock().unwrap().take().unwrap();
            let emulator = emulator(case.rounding(), false, kept(), &[]);
            let start = Instant::now();
            (case.run)(&Device::Machine(emulator.clone())).unwrap_or_else(|e| panic!("{}, {}: {e}", case.operation, case.shape));
            let seconds = start.elapsed().as_secs_f64();
            let expected = Expected::of(&case).unwrap_or_else(|e| panic!("{}, {}: {e}", case.operation, case.shape));
            Subject { expected, kernels: emulator.launched(), seconds, case }
        })
    })
}

enum Verdict {
    Caught(String),
    /// By the compiler: nobody could run it.
    Refused,
    Survives,
}

/// Tries `mutant` on the cases that launch what it changes until one fails. `first` remembers which case that was, for the
/// next mutant of the kernel.
fn verdict(mutant: &Mutant, cache: &Path, first: &Mutex<BTreeMap<(String, Option<String>), usize>>) -> Verdict {
    let entry = mutant.entry.as_deref().filter(|entry| subjects().iter().any(|s| s.launches(&mutant.file, Some(entry))));
    let mut cases: Vec<usize> = (0..subjects().len()).filter(|i| subjects()[*i].launches(&mutant.file, entry)).collect();
    let key = (mutant.file.clone(), mutant.entry.clone());
    let favourite = first.lock().unwrap().get(&key).copied();
    cases.sort_by(|a, b| {
        let rank = |i: usize| (favourite != Some(i), subjects()[i].seconds);
        rank(*a).partial_cmp(&rank(*b)).unwrap()
    });
    let (report, reports) = mpsc::channel();
    let (count, order) = (cases.len(), cases.clone());
    let extra = [(mutant.file.clone(), mutant.text.clone())];
    let emulators = [Rounding::F32, Rounding::Bf16].map(|rounding| (rounding, emulator(rounding, true, cache, &extra)));
    // A thread of its own, which is left behind where a kernel does not end.
    std::thread::spawn(move || {
        cases.iter().map(|i| &subjects()[*i]).try_for_each(|subject| {
            let emulator = emulators.iter().find(|(rounding, _)| *rounding == subject.case.rounding());
            report.send(emulator.and_then(|(_, emulator)| subject.failure(emulator)))
        })
    });
    for case in order.iter().take(count) {
        match reports.recv_timeout(LIMIT) {
            Ok(None) => continue,
            Ok(Some(why)) if why.starts_with("[G0504]") => return Verdict::Refused,
            Ok(Some(why)) => {
                first.lock().unwrap().insert(key, *case);
                return Verdict::Caught(why.lines().next().unwrap_or_default().to_string());
            }
            Err(_) => return Verdict::Caught("does not end".into()),
        }
    }
    Verdict::Survives
}

/// The mutants of all files that a case launches.
fn all_mutants() -> Vec<Mutant> {
    let stems = sources::ALL.iter().filter_map(|(name, text)| Some((name.strip_suffix(".cu")?, *text)));
    stems.flat_map(|(stem, text)| mutants(stem, text)).collect()
}

/// Tries `mutants`, prints a line for each and a row for each file; the share that was caught of those that change something,
/// and the others.
fn tried(mutants: &[Mutant], cache: &Path) -> (f64, Vec<String>) {
    let first = Mutex::default();
    let verdicts = two_at_a_time(mutants, |mutant| {
        let verdict = verdict(mutant, cache, &first);
        let at = format!("{}.cu:{}: {}", mutant.file, mutant.line, mutant.change);
        match (&verdict, mutant.is_equivalent()) {
            (Verdict::Refused, _) => println!("refused    {at}"),
            (Verdict::Caught(why), false) => println!("caught     {at}: {why}"),
            (Verdict::Caught(why), true) => println!("CAUGHT, though said to be equivalent: {at}: {why}"),
            (Verdict::Survives, true) => println!("equivalent {at}"),
            (Verdict::Survives, false) => println!("SURVIVES   {at}: {}", mutant.place),
        }
        verdict
    });
    let mut rows: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    let mut survivors = vec![];
    for (mutant, verdict) in mutants.iter().zip(&verdicts) {
        let row = rows.entry(&mutant.file).or_default();
        match verdict {
            Verdict::Caught(_) if mutant.is_equivalent() => {
                survivors.push(format!("not equivalent: {}.cu:{}: {}", mutant.file, mutant.line, mutant.change));
            }
            Verdict::Caught(_) => row[0] += 1,
            Verdict::Survives if mutant.is_equivalent() => row[1] += 1,
            Verdict::Survives => {
                row[2] += 1;
                survivors.push(format!("{}.cu:{}: {}", mutant.file, mutant.line, mutant.change));
            }
            Verdict::Refused => row[3] += 1,
        }
    }
    println!("| file | caught | equivalent | surviving | refused by the compiler |\n|---|---|---|---|---|");
    let line = |name: &str, [c, e, s, r]: [usize; 4]| println!("| {name} | {c} | {e} | {s} | {r} |");
    rows.iter().for_each(|(file, row)| line(file, *row));
    let total = rows.values().fold([0; 4], |sum: [usize; 4], row| std::array::from_fn(|i| sum[i] + row[i]));
    line("all", total);
    let [caught, equivalent, surviving, _] = total;
    let share = |of: usize| caught as f64 / (of.max(1)) as f64;
    println!(
        "caught {:.1} % of the {} that change something, {:.1} % of all {}",
        100.0 * share(caught + surviving),
        caught + surviving,
        100.0 * share(caught + surviving + equivalent),
        caught + surviving + equivalent
    );
    (share(caught + surviving), survivors)
}

#[test]
#[ignore = "takes the better part of an hour"]
fn broken_kernels_are_noticed() {
    let only = std::env::var("MUTANTS").unwrap_or_default();
    let wanted = |file: &str| only.is_empty() || only.split(',').any(|stem| stem == file);
    let users: Vec<&Subject> = subjects().iter().filter(|s| s.kernels.iter().any(|(file, _)| wanted(file))).collect();
    let start = Instant::now();
    two_at_a_time(&users, |subject| {
        let why = subject.failure(&emulator(subject.case.rounding(), true, kept(), &[]));
        assert_eq!(why, None, "{}, {}: unchanged", subject.case.operation, subject.case.shape);
    });
    println!("{} cases of {} files, {:.0} s unchanged", users.len(), only, start.elapsed().as_secs_f64());
    let cache = tempfile::tempdir().unwrap();
    let mutants: Vec<Mutant> = all_mutants().into_iter().filter(|m| wanted(&m.file)).collect();
    let (share, survivors) = tried(&mutants, cache.path());
    assert!(share >= 0.95, "fewer than 95 % were noticed; survivors:\n{}", survivors.join("\n"));
    assert!(!survivors.iter().any(|s| s.starts_with("not equivalent")), "{}", survivors.join("\n"));
}

/// The same ones each time, whatever other kernels become: drawn by what they change.
#[test]
fn a_sample_of_broken_kernels_is_noticed() {
    let draws = Draws::new(1, Stream::Test, 7, 0);
    let drawn = |mutant: &Mutant| {
        let hash = blake3::hash(format!("{} {}", mutant.file, mutant.place).as_bytes());
        draws.words64(u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()))[0]
    };
    let mut mutants: Vec<Mutant> = all_mutants().into_iter().filter(|m| !m.is_equivalent()).collect();
    mutants.sort_by_key(drawn);
    mutants.truncate(SAMPLE);
    let (share, survivors) = tried(&mutants, kept());
    assert!(share >= 0.95, "fewer than 95 % were noticed; survivors:\n{}", survivors.join("\n"));
}

#[test]
fn what_is_said_to_be_equivalent_is_made() {
    let all = all_mutants();
    for entry in EQUIVALENT {
        let named = all.iter().filter(|mutant| mutant.is_named_by(entry)).count();
        assert_eq!(named, entry.2, "{}.cu, `{}`", entry.0, entry.1);
    }
}

#[test]
fn mutants_change_what_they_should() {
    let text = "// a < b\nKERNEL(32, k)(float* y, u32 n) {\n  SHARED(float, s_x, [4][8]);\n  if (lane == 0) __syncwarp();\n  for (u32 i = 0; i < n; ++i) atomicAdd(&y[i], f(i, n));\n  for (u32 c = lane; c < D; c += 32) y[c] = 0;\n  cp_async_wait<0>();\n  mbarrier_wait(s_x, n % 2);\n}\n";
    let changes: Vec<String> = mutants("k", text).into_iter().map(|m| format!("{} {}", m.line, m.change)).collect();
    assert_eq!(
        changes,
        [
            "4 `__syncwarp();` becomes `;`",
            "7 `cp_async_wait<0>();` becomes `;`",
            "7 `cp_async_wait<0>();` becomes `cp_async_wait<1>();`",
            "8 `mbarrier_wait(s_x, n % 2);` becomes `;`",
            "8 `);` becomes ` ^ 1);`",
            "5 `atomicAdd(&y[i], f(i, n))` becomes `*(&y[i]) += (f(i, n))`",
            "5 ` < ` becomes ` <= `",
            "6 `` becomes ` + (32)`",
            "4 `== 0)` becomes `<= 1)`",
            "3 `4` becomes `(4) - 1`",
        ]
    );
}
