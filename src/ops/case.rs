//! Cases: each operation at odd shapes, run on any device and compared with the plain path.
//!
//! A case is a function of the device alone. The oracle (`Host(F64)`) says what is right, the plain path in f32 how far
//! honest rounding strays from it, and a machine may stray twice as far:
//!
//! ```text
//! error(x) = |x - oracle|_2 / |oracle|_2        machine passes if error <= 2 max(error(host), 2^-23), or if ids are equal
//! ```
//!
//! `hardneg check` runs all of them on a machine, the tests on the emulator, and `benches/gpu.sh` on a GPU.

use crate::data::batch::Batch;
use crate::device::Device;
use crate::device::places::Rounding;
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::negatives::Negatives;
use crate::rng::{Draws, Stream, normal2};

/// One operation at one shape.
pub struct Case {
    pub operation: &'static str,
    /// What is special about it, such as `R 33, D 64, dropout`.
    pub shape: String,
    pub run: Box<dyn Fn(&Device) -> Result<Vec<Output>> + Send + Sync>,
    /// Whether it is for a machine that rounds operands to bf16, and how far each output may stray there; as far as elsewhere where that
    /// is not said.
    pub rounds: bool,
    pub budgets: &'static [f64],
    /// Whether it takes words that only Hopper has.
    pub hopper: bool,
}

impl Case {
    pub fn new(
        operation: &'static str,
        shape: impl Into<String>,
        run: impl Fn(&Device) -> Result<Vec<Output>> + Send + Sync + 'static,
    ) -> Case {
        Case { operation, shape: shape.into(), run: Box::new(run), rounds: false, budgets: &[], hopper: false }
    }

    /// The same case, of words that only Hopper has.
    pub fn of_hopper(self) -> Case {
        Case { hopper: true, ..self }
    }

    /// Whether `device` has what it takes.
    pub fn runs_on(&self, device: &Device) -> bool {
        match device {
            Device::Machine(runtime) => !self.hopper || runtime.facts().hopper(),
            Device::Host(_) => true,
        }
    }

    /// A case of the kernels for a machine that rounds operands to bf16. Its inputs are exact in bf16, so that only what the
    /// kernels round strays.
    pub fn rounded(
        operation: &'static str,
        shape: impl Into<String>,
        budgets: &'static [f64],
        run: impl Fn(&Device) -> Result<Vec<Output>> + Send + Sync + 'static,
    ) -> Case {
        Case { rounds: true, budgets, ..Case::new(operation, shape, run) }
    }

    /// How a machine that runs it has to round.
    pub fn rounding(&self) -> Rounding {
        if self.rounds { Rounding::Bf16 } else { Rounding::F32 }
    }
}

/// One result of a case.
pub struct Output {
    pub name: &'static str,
    pub values: Values,
}

pub enum Values {
    /// Compared by their error.
    Reals(Vec<f64>),
    /// Compared exactly.
    Ids(Vec<u32>),
}

impl Output {
    pub fn reals(name: &'static str, device: &Device, buffer: &crate::device::Buffer) -> Result<Output> {
        Ok(Output { name, values: Values::Reals(buffer.to_f64(device)?) })
    }
    pub fn ids(name: &'static str, ids: Vec<u32>) -> Output {
        Output { name, values: Values::Ids(ids) }
    }
}

/// How far a machine strayed on one output.
pub struct Finding {
    pub output: &'static str,
    pub error: f64,
    pub budget: f64,
}

impl Finding {
    /// NaN passes nothing.
    pub fn passes(&self) -> bool {
        self.error <= self.budget
    }
}

/// What the plain path makes of a case.
pub struct Expected {
    oracle: Vec<Output>,
    host: Vec<Output>,
    budgets: &'static [f64],
}

impl Expected {
    pub fn of(case: &Case) -> Result<Expected> {
        Ok(Expected { oracle: (case.run)(&Device::ORACLE)?, host: (case.run)(&Device::HOST)?, budgets: case.budgets })
    }

    /// How far the outputs of a machine stray.
    pub fn findings(&self, machine: &[Output]) -> Result<Vec<Finding>> {
        if machine.len() != self.oracle.len() {
            return Err(Error::internal(format!("{} outputs instead of {}", machine.len(), self.oracle.len())));
        }
        let outputs = machine.iter().zip(self.oracle.iter().zip(&self.host)).enumerate();
        Ok(outputs
            .map(|(i, (machine, (oracle, host)))| {
                let (error, budget) = match (&machine.values, &oracle.values, &host.values) {
                    (Values::Reals(m), Values::Reals(o), Values::Reals(h)) => {
                        let stated = self.budgets.get(i).copied();
                        (distance(m, o), stated.unwrap_or_else(|| 2.0 * distance(h, o).max(f64::from(f32::EPSILON))))
                    }
                    // Scores of the f32 plain path decide between near ties, so ids are compared with it.
                    (Values::Ids(m), _, Values::Ids(h)) => (if m == h { 0.0 } else { f64::INFINITY }, 0.0),
                    _ => (f64::INFINITY, 0.0),
                };
                Finding { output: machine.name, error, budget }
            })
            .collect())
    }
}

/// Runs `case` on `device` and on the plain path.
pub fn compare(case: &Case, device: &Device) -> Result<Vec<Finding>> {
    let machine = (case.run)(device)?;
    Expected::of(case)?.findings(&machine).map_err(|e| e.at(case.operation))
}

/// |x - y| / |y|, or |x| where y is zero; infinite when lengths differ.
fn distance(x: &[f64], y: &[f64]) -> f64 {
    if x.len() != y.len() {
        return f64::INFINITY;
    }
    // Equal infinities (a masked score) are no distance.
    let difference: f64 = x.iter().zip(y).filter(|(x, y)| x != y).map(|(x, y)| (x - y) * (x - y)).sum();
    let norm: f64 = y.iter().filter(|y| y.is_finite()).map(|y| y * y).sum();
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}

/// `n` standard normal numbers; `lane` tells the inputs of a case apart.
pub fn noise(lane: u8, n: usize) -> Vec<f64> {
    let draws = Draws::new(2, Stream::Test, lane, 0);
    (0..n as u64).map(|i| normal2(draws.words64(i))[0]).collect()
}

/// `n` ids below `below`.
pub fn ids(lane: u8, n: usize, below: usize) -> Vec<u32> {
    let draws = Draws::new(2, Stream::Test, lane, 1);
    (0..n as u64).map(|i| crate::rng::below(draws.words64(i)[0], below as u64) as u32).collect()
}

/// Lists of `m` candidates below `items` for groups of `group` rows, some slots empty.
pub fn lists(rows: usize, m: usize, items: usize, group: usize) -> Negatives {
    let groups = rows.div_ceil(group);
    let mut ids = ids(4, groups * m, items);
    ids.iter_mut().skip(2).step_by(7).for_each(|i| *i = NONE);
    let group_offsets = (0..=groups).map(|g| (g * group).min(rows) as u32).collect();
    Negatives { n: m, group_offsets, ids, ..Negatives::default() }
}

/// `rows` rows over `items` items in sequences of one to five rows, whose users have seen about every third item; the first
/// has seen everything, the second nothing.
pub fn batch(rows: usize, items: usize) -> Batch {
    let (mut offsets, mut seen, mut end) = (vec![0], vec![], 0);
    for b in 0.. {
        if end == rows {
            break;
        }
        end = rows.min(end + 1 + b as usize % 5);
        offsets.push(end as u32);
        seen.push((0..items as u32).filter(|i| b == 0 || b > 1 && (i * 7 + b).is_multiple_of(3)).collect());
    }
    let users = (0..seen.len() as u32).collect();
    let row_keys = (0..rows as u64).map(|r| 1000 + 3 * r).collect();
    let (items, targets) = (vec![0; rows].into(), ids(3, rows, items).into());
    Batch { users, offsets: offsets.into(), items, targets, row_keys, ..Batch::default() }.with_seen(&seen)
}

#[cfg(test)]
#[cfg(feature = "emulator")]
pub mod emulated {
    use super::*;
    use std::sync::Arc;

    use crate::device::emulator::traffic::Metered;
    use crate::device::emulator::{Arithmetic, Emulator, Options, Schedule};

    /// Runs `cases` on the emulator: in order, in reverse, in a random order, with numbers as a GPU may make them, and once with every
    /// access verified and every launch held to the traffic its kernel's header states, all at the same time. Fails with a list of all
    /// that stray; prints how close each operation came to its budget.
    pub fn in_every_way(cases: &[Case]) {
        use Arithmetic::{LikeAGpu, Plain};
        let ways = [
            (false, Schedule::Forward, Plain),
            (false, Schedule::Reverse, Plain),
            (false, Schedule::Random(7), Plain),
            (false, Schedule::Forward, LikeAGpu),
            (true, Schedule::Forward, Plain),
        ];
        let findings: Vec<(Result<Finding>, String)> = std::thread::scope(|scope| {
            let threads = ways.map(|way| scope.spawn(move || in_one_way(cases, way)));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let mut closest = std::collections::BTreeMap::<&str, (f64, String)>::new();
        let mut wrong = vec![];
        for (finding, at) in &findings {
            let f = match finding {
                Ok(finding) => finding,
                Err(error) => {
                    wrong.push(format!("{at}: {error:?}"));
                    continue;
                }
            };
            let text = format!("{at}: {} strays {:.2e} of {:.2e}", f.output, f.error, f.budget);
            let share = if f.budget > 0.0 { f.error / f.budget } else { 0.0 };
            let worst = closest.entry(at.split(',').next().unwrap_or_default()).or_default();
            if share >= worst.0 {
                *worst = (share, text.clone());
            }
            if !f.passes() {
                wrong.push(text);
            }
        }
        closest.values().for_each(|(_, text)| println!("{text}"));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// What was found of each output, and which it was.
    fn in_one_way(
        cases: &[Case],
        (checked, schedule, arithmetic): (bool, Schedule, Arithmetic),
    ) -> Vec<(Result<Finding>, String)> {
        let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
        let mut devices = vec![];
        for rounding in [Rounding::F32, Rounding::Bf16] {
            match Emulator::open(&Options { checked, schedule, arithmetic, rounding, ..Options::new(&cache) }) {
                Ok(emulator) if checked => devices.push(Device::Machine(Arc::new(Metered(emulator)))),
                Ok(emulator) => devices.push(Device::Machine(emulator)),
                Err(error) if error.code() == crate::error::Code::G0507 => {
                    println!("SKIPPED: no C++ compiler, so no kernel was run");
                    return vec![];
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        let mut findings = vec![];
        for case in cases {
            let at = format!("{}, {} ({schedule:?}, {arithmetic:?}, checked {checked})", case.operation, case.shape);
            // An exponential may there be a unit in the last place further off than the plain path's.
            let more = if arithmetic == Arithmetic::LikeAGpu { f64::from(f32::EPSILON) } else { 0.0 };
            let allowed =
                |finding: Finding| Finding { budget: finding.budget + if finding.budget > 0.0 { more } else { 0.0 }, ..finding };
            match compare(case, &devices[usize::from(case.rounding() == Rounding::Bf16)]) {
                Err(error) => findings.push((Err(error), at)),
                Ok(found) => findings.extend(found.into_iter().map(|finding| (Ok(allowed(finding)), at.clone()))),
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_relative_and_refuses_what_is_not_a_number() {
        assert_eq!(distance(&[3.0, 4.5], &[3.0, 4.0]), 0.1);
        assert_eq!(distance(&[f64::NEG_INFINITY], &[f64::NEG_INFINITY]), 0.0);
        let nan = Finding { output: "x", error: distance(&[f64::NAN, 1.0], &[1.0, 1.0]), budget: 1.0 };
        assert!(!nan.passes());
        assert_eq!(distance(&[], &[1.0]), f64::INFINITY);
    }

    #[test]
    fn a_case_whose_device_strays_is_found() {
        // "Machine" here is the f32 plain path; its result is wrong by one part in a thousand.
        let case = |off: f64| {
            Case::new("test", "", move |device| {
                let wrong = if matches!(device, Device::Host(crate::device::Precision::F32)) { off } else { 0.0 };
                Ok(vec![Output { name: "y", values: Values::Reals(vec![1.0 + wrong]) }, Output::ids("ids", vec![1])])
            })
        };
        let errors = |off| compare(&case(off), &Device::HOST).unwrap().iter().map(|f| f.error).collect::<Vec<_>>();
        assert_eq!(errors(0.0), [0.0, 0.0]);
        assert!((errors(1e-3)[0] - 1e-3).abs() < 1e-9);
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn kernels_agree_with_the_plain_path() {
        emulated::in_every_way(&crate::ops::cases());
    }

    /// What a real GPU once found: fused with the sum behind it, a product kept the rounding error of a mean.
    #[cfg(feature = "emulator")]
    #[test]
    fn numbers_like_a_gpus_tell_what_fusing_breaks() {
        use crate::device::emulator::{Arithmetic, Options, open};
        let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
        let text = crate::device::sources::text("layer_norm.cu").unwrap();
        let fused = text.replace("__fmul_rn(dy[row * D + c], gain[c])", "(dy[row * D + c] * gain[c])");
        assert_ne!(text, fused);
        let holds = |arithmetic, text: &str| {
            let extra_sources = vec![("layer_norm".to_string(), text.to_string())];
            let device = open(&Options { arithmetic, extra_sources, ..Options::new(&cache) }).unwrap();
            let cases = crate::ops::cases().into_iter().filter(|c| c.operation == "layer_norm");
            cases.flat_map(|case| compare(&case, &device).unwrap()).all(|finding| finding.passes())
        };
        assert!(holds(Arithmetic::Plain, &fused), "without fusing the product is the same");
        // A processor that cannot fuse cannot show it.
        #[cfg(target_arch = "x86_64")]
        if !std::arch::is_x86_feature_detected!("fma") {
            return println!("SKIPPED: this processor fuses no product with a sum");
        }
        assert!(!holds(Arithmetic::LikeAGpu, &fused));
        assert!(holds(Arithmetic::LikeAGpu, text));
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn kernels_that_round_stray_by_their_rounding_alone() {
        emulated::in_every_way(&crate::ops::rounded_cases());
    }
}
