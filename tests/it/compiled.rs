//! Every kernel, as every case launches it, compiled by NVRTC to machine code for every supported architecture: no GPU is
//! needed to know that it assembles, that nothing spills, and how many registers it takes.
//!
//! NVRTC is found as `doctor` finds it, or in HARDNEG_NVRTC_DIR. Without it the test is skipped, saying so; with
//! HARDNEG_REQUIRE_NVRTC set (continuous integration) its absence is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use hardneg::device::cuda::nvrtc::{Nvrtc, Usage, usage};
use hardneg::device::places::{Places, Rounding};
use hardneg::device::{
    self, Amendment, Arg, Device, Facts, Grid, Kernel, Mark, MatIn, MatOut, Memory, Plus, Replay, Request, Runtime,
};
use hardneg::error::Result;
use rayon::prelude::*;

const ARCHITECTURES: [&str; 7] = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120"];

/// The one that has all words a kernel may use.
const HOPPER: &str = "sm_90a";

/// What every entry may take; regenerate with HARDNEG_BLESS=1.
const BUDGET: &str = include_str!("../kernels.budget");

/// The emulator, remembering which kernels ran; launchers take it for a machine of these facts.
struct Recording {
    machine: Arc<dyn Runtime>,
    facts: Facts,
    kernels: Mutex<BTreeSet<(String, String, Vec<(String, i64)>)>>,
    launched: Mutex<Vec<Kernel>>,
}

impl Runtime for Recording {
    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn alloc(&self, bytes: usize) -> Result<Memory> {
        self.machine.alloc(bytes)
    }
    fn write(&self, to: &mut Memory, from: &[u8]) -> Result<()> {
        self.machine.write(to, from)
    }
    fn read(&self, from: &Memory, to: &mut [u8]) -> Result<()> {
        self.machine.read(from, to)
    }
    fn fill(&self, memory: &mut Memory, byte: u8) -> Result<()> {
        self.machine.fill(memory, byte)
    }
    fn launch(&self, kernel: &Kernel, grid: Grid, args: &mut [Arg<'_>]) -> Result<()> {
        let defines: Vec<_> = kernel.defines.iter().map(|(n, v)| (n.to_string(), *v)).collect();
        if self.kernels.lock().unwrap().insert((kernel.file.into(), kernel.entry.into(), defines)) {
            self.launched.lock().unwrap().push(kernel.clone());
        }
        self.machine.launch(kernel, grid, args)
    }
    fn matmul(&self, c: MatOut, a: MatIn, b: MatIn, shape: [usize; 3], scale: f32, plus: Plus) -> Result<()> {
        self.machine.matmul(c, a, b, shape, scale, plus)
    }
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Replay> {
        self.machine.capture(work)
    }
    fn replay(&self, recorded: &Replay) -> Result<()> {
        self.machine.replay(recorded)
    }
    fn amend(&self, recorded: &mut Replay, at: usize, with: Amendment<'_, '_>) -> Result<Option<Mark>> {
        self.machine.amend(recorded, at, with)
    }
    fn mark(&self) -> Result<Mark> {
        self.machine.mark()
    }
    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64> {
        self.machine.elapsed(from, to)
    }
    fn sync(&self) -> Result<()> {
        self.machine.sync()
    }
}

/// The distinct (file, defines) of all cases, with one entry each.
fn launched() -> Option<Vec<Kernel>> {
    let machine = match device::open(Request::Emulator, &Places::new(|name| std::env::var_os(name))) {
        Ok((Device::Machine(machine), _)) => machine,
        Ok(_) => unreachable!("the emulator is a machine"),
        Err(error) => {
            println!("SKIPPED: the emulator does not start: {error}");
            return None;
        }
    };
    let recording = |rounding| {
        let facts = Facts { rounding, ..machine.facts().clone() };
        Arc::new(Recording { machine: machine.clone(), facts, kernels: Mutex::default(), launched: Mutex::default() })
    };
    let recordings = [Rounding::F32, Rounding::Bf16].map(recording);
    let devices = recordings.clone().map(|recording| Device::Machine(recording));
    for case in hardneg::ops::cases()
        .into_iter()
        .chain(hardneg::ops::rounded_cases())
        .chain(hardneg::sampling::cases())
        .chain(hardneg::loss::cases())
        .chain(hardneg::loss::rounded_cases())
        .chain(hardneg::optim::cases())
    {
        let device = &devices[usize::from(case.rounding() == Rounding::Bf16)];
        (case.run)(device).unwrap_or_else(|e| panic!("{} {}: {e}", case.operation, case.shape));
    }
    let mut files = BTreeMap::new();
    for kernel in recordings.iter().flat_map(|recording| recording.launched.lock().unwrap().clone()) {
        files.entry((kernel.file, kernel.defines.clone())).or_insert(kernel);
    }
    Some(files.into_values().collect())
}

/// The operation codes of an entry's machine code: the low 12 of each instruction's 128 bits, which have not changed since Volta.
fn operations(cubin: &[u8], entry: &str) -> Vec<u16> {
    let number = |at: usize, bytes: usize| cubin[at..at + bytes].iter().rev().fold(0usize, |x, &b| x << 8 | usize::from(b));
    let (table, size, count, of_names) = (number(40, 8), number(58, 2), number(60, 2), number(62, 2));
    let section = |i: usize| table + i * size;
    let names = number(section(of_names) + 24, 8);
    let wanted = format!(".text.{entry}\0");
    let mut found = (0..count).map(section).filter(|&at| cubin[names + number(at, 4)..].starts_with(wanted.as_bytes()));
    let at = found.next().unwrap_or_else(|| panic!("no machine code of {entry}"));
    let (from, bytes) = (number(at + 24, 8), number(at + 32, 8));
    (from..from + bytes).step_by(16).map(|at| number(at, 2) as u16 & 0xfff).collect()
}

/// Products on tensor cores, of a warp and of four, a branch, and the larger of two numbers.
const HMMA: u16 = 0x23c;
const HGMMA: u16 = 0x9f0;
const BRA: u16 = 0x947;
const FMNMX: u16 = 0x209;

/// What is meant for tensor cores runs on them, nothing else does, and of the scores of a tile hardly more is done than one comparison.
fn assert_operations(kernel: &Kernel, cubin: &[u8], entries: &[Usage]) {
    for entry in entries.iter().map(|usage| usage.entry.as_str()) {
        let operations = operations(cubin, entry);
        let has = |code: u16| operations.contains(&code);
        let of_four = ["topk_threshold_wgmma", "product_wgmma"].contains(&entry);
        let of_one = ["attention_mma_fwd", "attention_mma_bwd", "full_softmax_mma_rows", "full_softmax_mma_items"]
            .contains(&entry)
            || ["product_bf16", "product_tf32"].contains(&entry);
        assert_eq!((has(HGMMA), has(HMMA)), (of_four, of_one), "{entry} {:?}", kernel.defines);
        if entry == "topk_threshold_wgmma" {
            let behind = &operations[operations.iter().rposition(|&code| code == HGMMA).unwrap() + 1..];
            let passed_over = behind.iter().position(|&code| code == BRA).unwrap();
            let comparisons = behind[..passed_over].iter().filter(|&&code| code == FMNMX).count();
            println!("{entry}: {passed_over} instructions for 64 scores, {comparisons} of them comparisons");
            assert!(comparisons >= 62 && passed_over <= 80, "{passed_over} instructions, {comparisons} comparisons");
        }
    }
}

#[test]
fn every_kernel_assembles_for_every_architecture_without_spills() {
    let places = Places::new(|name| std::env::var_os(name));
    let nvrtc = match Nvrtc::load(&places, None) {
        Ok(nvrtc) => nvrtc,
        Err(error) if std::env::var_os("HARDNEG_REQUIRE_NVRTC").is_some() => panic!("{error}"),
        Err(error) => return println!("SKIPPED: no kernel was compiled for a GPU: {}", error.what()),
    };
    let Some(kernels) = launched() else {
        let required = std::env::var_os("HARDNEG_REQUIRE_NVRTC").is_some();
        return assert!(!required, "no C++ compiler, so it is not known which kernels are launched how");
    };
    assert!(!kernels.is_empty());
    // Every specialisation for Hopper; for the rest, of every entry the one that takes most registers there.
    let compile = |jobs: &[(&Kernel, &'static str)]| -> Vec<(Kernel, &'static str, Vec<Usage>)> {
        let one = |&(kernel, arch): &(&Kernel, &'static str)| match nvrtc.compile(kernel, arch, None) {
            Ok(compiled) => {
                // "(C75": products by four warps that the assembler makes wait for each other.
                let complains = ["ptxas warning", "(C75"].iter().any(|text| compiled.log.contains(text));
                assert!(!complains, "{} {arch}: {}", kernel.file, compiled.log);
                let entries = usage(&compiled.log);
                if arch == HOPPER {
                    assert!(!entries.is_empty(), "the assembler says nothing of {}", kernel.file);
                    assert_operations(kernel, &compiled.image, &entries);
                }
                (kernel.clone(), arch, entries)
            }
            Err(error) => panic!("{error:?}"),
        };
        jobs.par_iter().map(one).collect()
    };
    let mut compiled = compile(&kernels.iter().map(|kernel| (kernel, HOPPER)).collect::<Vec<_>>());
    let mut heaviest = BTreeMap::<&str, (u32, &Kernel)>::new();
    for (kernel, _, entries) in &compiled {
        for u in entries {
            let most = heaviest.entry(&u.entry).or_insert((u.registers, kernel));
            if u.registers > most.0 {
                *most = (u.registers, kernel);
            }
        }
    }
    let mut named: Vec<&Kernel> = heaviest.values().map(|&(_, kernel)| kernel).collect();
    named.sort_by_key(|kernel| (kernel.file, &kernel.defines));
    named.dedup_by_key(|kernel| (kernel.file, &kernel.defines));
    let others = ARCHITECTURES.into_iter().filter(|&arch| arch != HOPPER);
    let jobs: Vec<_> = others.flat_map(|arch| named.iter().map(move |&kernel| (kernel, arch))).collect();
    let rest = compile(&jobs);
    compiled.extend(rest);

    let mut worst = BTreeMap::<&str, Line>::new();
    for (_, arch, entries) in &compiled {
        let column = ARCHITECTURES.iter().position(|known| known == arch).unwrap();
        for u in entries {
            let line = worst.entry(&u.entry).or_default();
            line.shared = line.shared.max(u.shared_bytes);
            let taken = line.taken[column].get_or_insert((0, 0));
            *taken = (taken.0.max(u.registers), taken.1.max(u.spill_bytes));
        }
    }
    let table: String = worst.iter().map(|(entry, line)| format!("{entry} {line}\n")).collect();
    println!("{}\n{table}{} compilations", head(), compiled.len());
    if std::env::var_os("HARDNEG_BLESS").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels.budget");
        return std::fs::write(file, format!("{}\n{table}", head())).unwrap();
    }
    let budget: BTreeMap<&str, Line> = BUDGET
        .lines()
        .filter_map(|line| {
            line.split_once(' ').filter(|(entry, _)| *entry != "#").map(|(entry, line)| (entry, line.parse().unwrap()))
        })
        .collect();
    for (entry, line) in &worst {
        let Some(allowed) = budget.get(entry) else { panic!("{entry} has no line in tests/kernels.budget") };
        assert!(line.fits(allowed), "{entry} {line} exceeds its budget {allowed}");
    }
}

/// What an entry takes: static shared memory, and registers and spilled bytes for each architecture that has it.
#[derive(Default)]
struct Line {
    shared: u32,
    taken: [Option<(u32, u32)>; ARCHITECTURES.len()],
}

impl Line {
    fn fits(&self, allowed: &Line) -> bool {
        // Compilers of other versions place a few registers differently.
        let within = |(taken, allowed): (&Option<(u32, u32)>, &Option<(u32, u32)>)| match (taken, allowed) {
            (Some(taken), Some(allowed)) => taken.0 <= allowed.0 + 8 && taken.1 <= allowed.1,
            (taken, allowed) => taken.is_none() && allowed.is_none(),
        };
        self.shared <= allowed.shared + 1024 && self.taken.iter().zip(&allowed.taken).all(within)
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}", self.shared)?;
        self.taken.iter().try_for_each(|taken| match taken {
            Some((registers, spills)) => write!(f, " {registers}/{spills}"),
            None => write!(f, " -"),
        })
    }
}

impl std::str::FromStr for Line {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Line, String> {
        let number = |word: &str| word.parse().map_err(|_| format!("`{text}` is no line of a budget"));
        let taken = |word: &str| match word.split_once('/') {
            Some((registers, spills)) => Ok(Some((number(registers)?, number(spills)?))),
            None if word == "-" => Ok(None),
            None => number(word).and(Err(format!("`{text}` is no line of a budget"))),
        };
        let mut words = text.split_whitespace();
        let shared = number(words.next().unwrap_or_default())?;
        let all: Vec<Option<(u32, u32)>> = words.map(taken).collect::<std::result::Result<_, String>>()?;
        let taken = all.try_into().map_err(|_| format!("`{text}` is not of so many architectures"))?;
        Ok(Line { shared, taken })
    }
}

/// What the words of a line of the budget are.
fn head() -> String {
    format!("# entry, static shared bytes, then registers/spilled bytes for {}", ARCHITECTURES.join(" "))
}
