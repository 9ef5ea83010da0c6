//! Operations against what bounds them, on this machine's plain path: `cargo bench --bench ops`.
//!
//! Each line compares two things in one alternating run (this, that, this, that ...) and prints the median of each and their
//! ratio, so that a machine that is busy or slows down disturbs both alike.

use std::hint::black_box;
use std::time::Instant;

use hardneg::config;
use hardneg::device::{Buffer, Device};
use hardneg::eval;
use hardneg::loss::{self, Loss};
use hardneg::ops::matmul::{self, Mat};
use hardneg::ops::negatives::Negatives;
use hardneg::ops::param::{Param, Role};
use hardneg::ops::rank::{self, Excluded, Mask};
use hardneg::ops::sampled_loss::{Gradients, forward_backward};
use hardneg::ops::score::{ScoreKind, Scoring};
use hardneg::ops::{full_softmax, vector, whole_data};
use hardneg::optim::Optimizer;
use hardneg::rng::{Draws, Stream, below, normal2};

/// Rows, width, items: the size of MovieLens-1M with 80 sequences of 200 events.
const R: usize = 16_000;
const D: usize = 64;
const V: usize = 3_416;
const ROUNDS: usize = 7;

fn noise(lane: u8, n: usize) -> Vec<f32> {
    let draws = Draws::new(1, Stream::Test, lane, 0);
    (0..n as u64).map(|i| normal2(draws.words64(i))[0] as f32 * 0.1).collect()
}

fn seconds(work: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Medians of `this` and `that`, run in turns after one warm-up each.
fn alternate(this: &mut dyn FnMut(), that: &mut dyn FnMut()) -> (f64, f64) {
    this();
    that();
    let pairs: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (seconds(this), seconds(that))).collect();
    (median(pairs.iter().map(|p| p.0).collect()), median(pairs.iter().map(|p| p.1).collect()))
}

fn report(this: &str, that: &str, (a, b): (f64, f64), flops: f64) {
    let rate = |t: f64| if flops > 0.0 { format!(" ({:6.1} GFLOP/s)", flops / t * 1e-9) } else { String::new() };
    println!("{this:44} {:9.3} ms{}   {that:36} {:9.3} ms{}   ratio {:.2}", a * 1e3, rate(a), b * 1e3, rate(b), b / a);
}

struct Problem {
    query: Buffer,
    context: Buffer,
    table: Buffer,
    targets: Vec<u32>,
    dp: Buffer,
    dg: Buffer,
    da: Buffer,
}

impl Problem {
    fn new() -> Problem {
        let draws = Draws::new(1, Stream::Test, 9, 0);
        Problem {
            query: Buffer::F32(noise(0, R * D)),
            context: Buffer::F32(noise(1, R * D)),
            table: Buffer::F32(noise(2, V * D)),
            targets: (0..R as u64).map(|i| below(draws.words64(i)[0], V as u64) as u32).collect(),
            dp: Buffer::F32(vec![0.0; R * D]),
            dg: Buffer::F32(vec![0.0; R * D]),
            da: Buffer::F32(vec![0.0; V * D]),
        }
    }
    fn run(&mut self, kind: ScoreKind, context: bool, loss: &Loss, negatives: &Negatives) {
        let scoring =
            Scoring { kind, dim: D, items: V, query: &self.query, context: context.then_some(&self.context), table: &self.table };
        let grads = Gradients { query: &mut self.dp, context: context.then_some(&mut self.dg), wrong: None, table: &mut self.da };
        let scale = 1.0 / R as f64;
        let value = match loss {
            Loss::Full => full_softmax::forward_backward(&Device::HOST, grads, &scoring, &self.targets, scale),
            Loss::WholeData { unseen } => {
                whole_data::forward_backward(&Device::HOST, grads, &scoring, &self.targets, *unseen, scale)
            }
            Loss::Sampled(loss) => {
                forward_backward(&Device::HOST, grads, &scoring, &self.targets, negatives, None, loss.as_ref(), scale)
            }
        };
        black_box(value.expect("a consistent problem").is_known());
    }
}

fn build(kind: &str, negatives: usize) -> Loss {
    let kind = config::Kind { kind: kind.into(), params: Default::default() };
    loss::build(&kind, V, negatives, ScoreKind::Dot).expect("a known loss")
}

fn negatives(n: usize, rows_per_group: usize) -> Negatives {
    let draws = Draws::new(1, Stream::Test, 10, 0);
    let groups = R / rows_per_group;
    Negatives {
        n,
        group_offsets: (0..=groups).map(|g| (g * rows_per_group) as u32).collect(),
        ids: (0..(groups * n) as u64).map(|i| below(draws.words64(i)[0], V as u64) as u32).collect(),
        ..Negatives::default()
    }
}

/// The three products of a softmax step over all items and nothing else, in tiles of 307 rows.
fn bare_products(p: &[f32], a: &[f32], s: &mut [f32], dp: &mut [f32], da: &mut [f32]) {
    for (p, dp) in p.chunks(307 * D).zip(dp.chunks_mut(307 * D)) {
        let m = p.len() / D;
        matmul::rows(s, Mat::new(p, D), Mat::new(a, D).t(), [m, V, D], false);
        matmul::rows(dp, Mat::new(s, V), Mat::new(a, D), [m, D, V], false);
        matmul::rows(da, Mat::new(s, V).t(), Mat::new(p, D), [V, D, m], true);
    }
}

fn main() {
    println!("{} threads; R = {R}, D = {D}, V = {V}", rayon::current_num_threads());
    let mut problem = Problem::new();
    let (p, a) = (noise(0, R * D), noise(2, V * D));
    let (mut s, mut dp, mut da) = (vec![0f32; 307 * V], vec![0f32; R * D], vec![0f32; V * D]);
    let flops = 6.0 * (R * V * D) as f64;
    let none = Negatives::default();

    let mut bare = || bare_products(&p, &a, &mut s, &mut dp, &mut da);
    let times = alternate(&mut || problem.run(ScoreKind::Dot, false, &Loss::Full, &none), &mut bare);
    report("full softmax, dot", "its three products alone", times, flops);
    let squared = Loss::WholeData { unseen: 0.1 };
    let times = alternate(&mut || problem.run(ScoreKind::Dot, false, &squared, &none), &mut bare);
    report("whole data, dot", "the three products of a full softmax", times, 4.0 * ((R + V) * D * D) as f64);
    let cosine = ScoreKind::Cosine { temperature: 0.1 };
    let times = alternate(&mut || problem.run(cosine, true, &Loss::Full, &none), &mut bare);
    report("full softmax, cosine under a context", "three of its six products", times, 0.0);

    for (name, rows, what) in [("own", 1, "256 negatives per row"), ("shared", 200, "256 negatives per 200 rows")] {
        let negatives = negatives(256, rows);
        for loss in ["bce", "sampled_softmax"] {
            let built = build(loss, 256);
            let times = alternate(&mut || problem.run(ScoreKind::Dot, false, &built, &negatives), &mut bare);
            report(&format!("{loss}, {what}"), "products of the full softmax", times, 0.0);
        }
        if name == "own" {
            let built = build("sampled_softmax", 256);
            let times = alternate(&mut || problem.run(cosine, true, &built, &negatives), &mut bare);
            report("the same, cosine under a context", "products of the full softmax", times, 0.0);
        }
    }
    let (single, built) = (negatives(1, 1), build("bce", 1));
    let times = alternate(&mut || problem.run(ScoreKind::Dot, false, &built, &single), &mut bare);
    report("bce, 1 negative per row", "products of the full softmax", times, 0.0);

    let x = noise(5, 1 << 20);
    let (mut y, mut z) = (x.clone(), x.clone());
    let times = alternate(
        &mut || {
            y.copy_from_slice(&x);
            vector::fast(
                #[inline(always)]
                || vector::exp_in_place(&mut y),
            )
        },
        &mut || z.copy_from_slice(black_box(&x)),
    );
    report("exp of 2^20 numbers, one thread", "copying them", times, 0.0);

    let n = 1_000_000;
    let param = Param {
        name: "x".into(),
        shape: vec![n],
        role: Role::Matrix,
        value: Buffer::F32(noise(6, n)),
        grad: Buffer::F32(noise(7, n)),
    };
    let mut params = vec![param];
    let mut optimizer = Optimizer::new(&Device::HOST, &config::Optim::default(), &params).expect("default settings");
    let (from, mut to) = (noise(8, 4 * n), vec![0f32; 4 * n]);
    let mut step = 0;
    let times = alternate(
        &mut || {
            step += 1;
            black_box(optimizer.step(&Device::HOST, &mut params, &[], step, 1e-3).expect("finite gradients").is_known());
        },
        &mut || to.copy_from_slice(black_box(&from)),
    );
    report("AdamW, 10^6 parameters", "copying 4 numbers for each", times, 0.0);

    for items in [V, 100_003] {
        let rows = eval::tile_rows(items);
        let (p, a) = (noise(11, rows * D), noise(12, items * D));
        let (mut tile, mut scores) = (vec![0f32; rows * items], vec![0f32; rows * items]);
        let mut other = scores.clone();
        let product = |tile: &mut [f32]| matmul::rows(tile, Mat::new(&p, D), Mat::new(&a, D).t(), [rows, items, D], false);
        product(&mut scores);
        let targets: Vec<u32> = (0..rows as u32).map(|b| b * 13 % items as u32).collect();
        let seen: Vec<u32> = (0..rows).flat_map(|_| (0..100).map(|n| n * (items as u32 / 100))).collect();
        let extents: Vec<[u64; 2]> = (0..rows as u64).map(|b| [100 * b, 100 * b + 100]).collect();
        let excluded = Excluded::new(items, |_| false);
        let mask = Mask { excluded: &excluded, seen: Some((&extents, &seen)) };
        let (mut standings, mut lists) = (vec![], vec![]);
        let times = alternate(
            &mut || {
                // Ranking uses its tile up, so the copy is timed with it.
                tile.copy_from_slice(&scores);
                rank::forward(&mut standings, &mut lists, &mut tile, &mask, Some(&targets), 20).expect("finite scores");
            },
            &mut || product(&mut other),
        );
        report(&format!("rank and best 20 of {items}, {rows} rows"), "the product that scored them", times, 0.0);
    }
}
