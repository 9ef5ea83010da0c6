//! Whether the kernels' cases would notice a broken kernel: every barrier and wait is taken out, bounds are moved by one,
//! atomics become plain additions, and shared arrays lose a row, one at a time; the cases that use the file must then
//! fail on the emulator with every access checked.
//!
//! Takes minutes, so it runs when asked: `cargo test --test it mutants -- --ignored --nocapture`, with the stem of a file
//! in `MUTANTS` to try that one alone. A survivor is printed with its line; some mutants change nothing (a barrier that
//! another one makes superfluous, a bound that is never met), and judging them needs a reader.

use std::collections::BTreeMap;

use hardneg::device::emulator::traffic::Metered;
use hardneg::device::emulator::{Emulator, Options};
use hardneg::device::{Device, sources};
use hardneg::ops::{self, case, case::Case};
use hardneg::{optim, sampling};

struct Mutant {
    file: String,
    line: usize,
    change: String,
    text: String,
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

fn mutants(file: &str, text: &str) -> Vec<Mutant> {
    let code = code(text);
    let mut all = vec![];
    let mut replace = |from: usize, to: usize, with: &str| {
        let line = code[..from].matches('\n').count() + 1;
        let change = format!("`{}` becomes `{with}`", &code[from..to]);
        all.push(Mutant { file: file.into(), line, change, text: format!("{}{with}{}", &text[..from], &text[to..]) });
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

fn emulator(extra: &[(String, String)]) -> std::sync::Arc<Emulator> {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants");
    let options = Options { checked: true, extra_sources: extra.to_vec(), ..Options::new(folder) };
    Emulator::open(&options).unwrap_or_else(|error| panic!("{error}"))
}

/// Why a case fails, or None.
fn failure(case: &Case, emulator: &std::sync::Arc<Emulator>) -> Option<String> {
    let machine = std::sync::Arc::new(Metered(emulator.clone()));
    let run = || case::compare(case, &Device::Machine(machine.clone()));
    // A nonsensical result may also trip the host's own arithmetic.
    let Ok(compared) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) else { return Some("the host panics".into()) };
    match compared {
        Err(error) => Some(format!("[{}] {}", error.code().name(), error.what())),
        Ok(findings) => findings.iter().find(|f| !f.passes()).map(|f| format!("{} strays by {:.1e}", f.output, f.error)),
    }
}

#[test]
#[ignore = "takes minutes"]
fn broken_kernels_are_noticed() {
    let only = std::env::var("MUTANTS").unwrap_or_default();
    let cases: Vec<Case> = ops::cases().into_iter().chain(sampling::cases()).chain(optim::cases()).collect();
    let mut users: BTreeMap<String, Vec<&Case>> = BTreeMap::new();
    for case in &cases {
        let emulator = emulator(&[]);
        assert_eq!(failure(case, &emulator), None, "{}, {}: unchanged", case.operation, case.shape);
        emulator.files().into_iter().for_each(|file| users.entry(file).or_default().push(case));
    }
    let (mut caught, mut survivors) = (0, vec![]);
    for (file, cases) in &users {
        let text = sources::text(&format!("{file}.cu")).unwrap_or_default();
        for mutant in mutants(file, text).into_iter().filter(|_| only.is_empty() || only == *file) {
            let emulator = emulator(&[(file.clone(), mutant.text)]);
            let at = format!("{}.cu:{}: {}", mutant.file, mutant.line, mutant.change);
            match cases.iter().find_map(|case| failure(case, &emulator)) {
                // Refused by the compiler: nobody could run it.
                Some(why) if why.starts_with("[G0504]") => println!("refused   {at}"),
                Some(why) => {
                    caught += 1;
                    println!("caught    {at}: {}", why.lines().next().unwrap_or_default());
                }
                None => {
                    println!("SURVIVES  {at}");
                    survivors.push(at);
                }
            }
        }
    }
    println!("{caught} of {} mutants were noticed", caught + survivors.len());
    assert!(caught >= 9 * survivors.len(), "fewer than 9 of 10 were noticed; survivors:\n{}", survivors.join("\n"));
}

#[test]
fn mutants_change_what_they_should() {
    let text = "// a < b\nKERNEL(32, k)(float* y, u32 n) {\n  SHARED(float, s_x, [4][8]);\n  if (lane == 0) __syncwarp();\n  for (u32 i = 0; i < n; ++i) atomicAdd(&y[i], f(i, n));\n  for (u32 c = lane; c < D; c += 32) y[c] = 0;\n  cp_async_wait<0>();\n}\n";
    let changes: Vec<String> = mutants("k", text).into_iter().map(|m| format!("{} {}", m.line, m.change)).collect();
    assert_eq!(
        changes,
        [
            "4 `__syncwarp();` becomes `;`",
            "7 `cp_async_wait<0>();` becomes `;`",
            "7 `cp_async_wait<0>();` becomes `cp_async_wait<1>();`",
            "5 `atomicAdd(&y[i], f(i, n))` becomes `*(&y[i]) += (f(i, n))`",
            "5 ` < ` becomes ` <= `",
            "6 `` becomes ` + (32)`",
            "4 `== 0)` becomes `<= 1)`",
            "3 `4` becomes `(4) - 1`",
        ]
    );
}
