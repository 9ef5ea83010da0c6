//! The words of `kernels/device.cuh`, each held to plain arithmetic on every machine.
//!
//! No operation uses this file. Kernels are proven on the emulator, where a word is a C++ function, and run on a GPU, where
//! it is an instruction; the cases here, run on both, are what makes the first proof worth something on the second:
//! fragments of tensor operations, lanes at the ends of a group, rounding, atomics.

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Precision, Runtime, download, upload};
use crate::error::Result;
use crate::ops::case::{Case, Output, Values, ids, noise};
use crate::rng;

const N: usize = 128;

pub fn cases() -> Vec<Case> {
    vec![
        case("numbers", |exact| numbers(&positive(), exact), numbers_machine),
        case("bits", |_| bits(&any_bits()), |m| words_machine(m, "bits", BITS, 0)),
        case("exchange", |_| exchange(&any_bits()), |m| words_machine(m, "exchange", EXCHANGE, 0)),
        case("barriers", |_| barriers(&any_bits()), |m| words_machine(m, "barriers", BARRIERS, 4 * N as u32)),
        case("atomics", |_| atomics(&any_bits()), atomics_machine),
        case("copies", |_| copies(&noise(1, N)), copies_machine),
        case("matrices", |_| matrices(&any_bits()), matrices_machine),
        case("product bf16", |exact| product(16, round_bf16, exact), |m| product_machine(m, "product_bf16", 16)),
        case("product tf32", |exact| product(8, round_tf32, exact), |m| product_machine(m, "product_tf32", 8)),
        case("random", |_| random(), random_machine),
        case("tiles", |_| vec![Output::ids("y", tiles().chunks(2).flat_map(|x| [x[1], x[0]]).collect())], tiles_machine)
            .of_hopper(),
        case("product wgmma", product_wgmma, product_wgmma_machine).of_hopper(),
    ]
}

/// `plain` gets whether to compute exactly (f64) or as the f32 plain path does.
fn case(
    shape: &str,
    plain: impl Fn(bool) -> Vec<Output> + Send + Sync + 'static,
    machine: impl Fn(&dyn Runtime) -> Result<Vec<Output>> + Send + Sync + 'static,
) -> Case {
    Case::new("vocabulary", shape, move |device| match device {
        Device::Host(precision) => Ok(plain(*precision == Precision::F64)),
        Device::Machine(runtime) => machine(&**runtime),
    })
}

/// Launches one block (or `blocks`) of a kernel of the vocabulary.
fn launch(m: &dyn Runtime, entry: &'static str, grid: Grid, args: &mut [Arg]) -> Result<()> {
    m.launch(&Kernel::new("vocabulary", entry, &[]), grid, args)
}

fn empty(m: &dyn Runtime, words: usize) -> Result<Buffer> {
    Ok(Buffer::machine(m.alloc(words * 4)?, words))
}

/// Names for the rows of a matrix of words.
fn named(names: &[&'static str], rows: &[u32]) -> Vec<Output> {
    let width = rows.len() / names.len();
    names.iter().zip(rows.chunks(width)).map(|(name, row)| Output::ids(name, row.to_vec())).collect()
}

// ---- Numbers -------------------------------------------------------------------------------------------------------

fn positive() -> Vec<f32> {
    noise(0, N).iter().map(|x| (x.abs() * 3.0 + 0.01) as f32).collect()
}

fn round_bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

/// To 10 bits of mantissa, ties away from zero.
fn round_tf32(x: f32) -> f32 {
    f32::from_bits((x.to_bits() + 0x1000) & 0xffff_e000)
}

/// A word, its meaning and what the f32 plain path gives.
type Function = (&'static str, fn(f64) -> f64, fn(f32) -> f32);

/// In the order of `numbers` in vocabulary.cu.
const FUNCTIONS: &[Function] = &[
    ("fmaf", |x| x * x - 1.0, |x| x.mul_add(x, -1.0)),
    ("fmaxf", |x| x.max(1.0), |x| x.max(1.0)),
    ("fminf", |x| x.min(1.0), |x| x.min(1.0)),
    ("fabsf", |x| x, |x| x),
    ("sqrtf", f64::sqrt, f32::sqrt),
    ("rsqrtf", |x| x.sqrt().recip(), |x| x.sqrt().recip()),
    ("expf", |x| (-x).exp(), |x| (-x).exp()),
    ("exp2f", f64::exp2, f32::exp2),
    ("logf", f64::ln, f32::ln),
    ("log1pf", f64::ln_1p, f32::ln_1p),
    ("tanhf", f64::tanh, f32::tanh),
    ("powf", |x| x.powf(1.5), |x| x.powf(1.5)),
    ("floorf", f64::floor, f32::floor),
    ("ceilf", f64::ceil, f32::ceil),
    ("rintf", f64::round_ties_even, f32::round_ties_even),
    ("exp2_fast", |x| (-x).exp2(), |x| (-x).exp2()),
    ("exp_fast", |x| (-x).exp(), |x| (-x).exp()),
    ("log_fast", f64::ln, f32::ln),
    ("to_bf16", |x| f64::from(round_bf16(x as f32)), round_bf16),
    ("to_tf32", |x| f64::from(round_tf32(x as f32)), round_tf32),
    ("__float_as_uint", |x| x, |x| x),
    ("__float_as_int", |x| x, |x| x),
    ("max", |x| x.max(1.0), |x| x.max(1.0)),
    ("min", |x| x.min(1.0), |x| x.min(1.0)),
];

fn numbers(x: &[f32], exact: bool) -> Vec<Output> {
    let value = |(_, f, s): &Function, x: f32| if exact { f(f64::from(x)) } else { f64::from(s(x)) };
    FUNCTIONS.iter().map(|of| Output { name: of.0, values: Values::Reals(x.iter().map(|&x| value(of, x)).collect()) }).collect()
}

fn numbers_machine(m: &dyn Runtime) -> Result<Vec<Output>> {
    let (x, mut y) = (upload(m, &positive())?, empty(m, FUNCTIONS.len() * N)?);
    launch(m, "numbers", Grid::row(1, 128), &mut [Arg::Out(&mut y), Arg::In(&x)])?;
    let y: Vec<f32> = download(m, &y, FUNCTIONS.len() * N)?;
    let reals = |y: &[f32]| Values::Reals(y.iter().map(|&y| f64::from(y)).collect());
    Ok(FUNCTIONS.iter().zip(y.chunks(N)).map(|(of, y)| Output { name: of.0, values: reals(y) }).collect())
}

// ---- Words ---------------------------------------------------------------------------------------------------------

/// Bits of every kind, among them zero, all ones, infinity, NaN, and ties of rounding to bf16.
fn any_bits() -> Vec<u32> {
    let mut all = ids(3, N, 1 << 32);
    all[..9].copy_from_slice(&[0, u32::MAX, 0x7f80_0000, 0x7fc0_0001, 0x3f80_8000, 0x3f81_8000, 1, 1 << 31, 0x7f7f_ffff]);
    // Equal numbers for the votes.
    all.copy_within(32..40, 40);
    all
}

fn words_machine(m: &dyn Runtime, entry: &'static str, names: &[&'static str], shared_bytes: u32) -> Result<Vec<Output>> {
    let (x, mut y) = (upload(m, &any_bits())?, empty(m, names.len() * N)?);
    launch(m, entry, Grid { shared_bytes, ..Grid::row(1, 128) }, &mut [Arg::Out(&mut y), Arg::In(&x)])?;
    Ok(named(names, &download::<u32>(m, &y, names.len() * N)?))
}

const BITS: &[&str] = &[
    "__popc",
    "__popcll",
    "__clz",
    "__clzll",
    "__ffs",
    "__brev",
    "__umulhi",
    "__umul64hi low",
    "__umul64hi high",
    "min u32",
    "max u32",
    "min int",
    "max int",
    "is_finite",
    "to_bf16",
    "pack_bf16 low",
    "pack_bf16 high",
    "INF is_finite",
    "INF is large",
];

fn bits(x: &[u32]) -> Vec<Output> {
    // NaN has one pattern in bf16, as the hardware rounds it.
    let bf16 = |v: u32| {
        let v = f32::from_bits(v);
        if v.is_nan() { 0x7fff } else { u32::from(half::bf16::from_f32(v).to_bits()) }
    };
    let rows: Vec<[u32; 19]> = (0..N)
        .map(|i| {
            let (v, w) = (x[i], x[(i + 1) % N]);
            let wide = u64::from(v) << 32 | u64::from(w);
            let square = ((u128::from(wide) * u128::from(wide)) >> 64) as u64;
            [
                v.count_ones(),
                wide.count_ones(),
                v.leading_zeros(),
                (wide >> 20).leading_zeros(),
                if v == 0 { 0 } else { v.trailing_zeros() + 1 },
                v.reverse_bits(),
                ((u64::from(v) * u64::from(w)) >> 32) as u32,
                square as u32,
                (square >> 32) as u32,
                v.min(w),
                v.max(w),
                (v as i32).min(w as i32) as u32,
                (v as i32).max(w as i32) as u32,
                u32::from(f32::from_bits(v).is_finite()),
                bf16(v),
                bf16(v) | 0x3f80 << 16,
                0x3f80 | bf16(v) << 16,
                0,
                1,
            ]
        })
        .collect();
    let row = |k: usize| rows.iter().map(|r| r[k]).collect::<Vec<u32>>();
    BITS.iter().enumerate().map(|(k, name)| Output::ids(name, row(k))).collect()
}

const EXCHANGE: &[&str] = &[
    "shfl 5",
    "shfl own",
    "shfl 3 of 8",
    "up 3",
    "up 2 of 16",
    "down 3",
    "down 2 of 16",
    "xor 1",
    "xor 31",
    "xor 8 of 8",
    "xor u64 low",
    "xor u64 high",
    "xor int",
    "xor float",
    "down i64",
    "ballot",
    "any",
    "all",
    "match u32",
    "match u64",
    "reduce add",
    "reduce max",
    "reduce min",
    "reduce max int",
    "reduce min int",
    "half warps",
];

fn exchange(x: &[u32]) -> Vec<Output> {
    let mut rows = vec![vec![]; EXCHANGE.len()];
    for i in 0..N {
        let (warp, lane) = (&x[i / 32 * 32..][..32], i % 32);
        let v = x[i];
        let votes = |of: &dyn Fn(u32) -> bool| (0..32).map(|l| u32::from(of(warp[l])) << l).sum::<u32>();
        let wide = |l: usize| u64::from(warp[l]) << 32 | (i / 32 * 32 + l) as u64;
        let values = [
            warp[5],
            warp[v as usize & 31],
            warp[lane / 8 * 8 + 3],
            if lane >= 3 { warp[lane - 3] } else { v },
            if lane % 16 >= 2 { warp[lane - 2] } else { v },
            if lane + 3 < 32 { warp[lane + 3] } else { v },
            if lane % 16 + 2 < 16 { warp[lane + 2] } else { v },
            warp[lane ^ 1],
            warp[lane ^ 31],
            // Lanes of an earlier group answer, those of a later one do not.
            if lane ^ 8 < lane { warp[lane ^ 8] } else { v },
            (i ^ 2) as u32,
            warp[lane ^ 2],
            warp[lane ^ 4],
            ((i ^ 16) as u32),
            if lane < 31 { i as u32 + 1 } else { i as u32 },
            votes(&|w| w & 1 == 1),
            u32::from(warp.iter().any(|w| w % 64 == 0)),
            u32::from(warp.iter().all(|w| w % 64 != 0)),
            votes(&|w| w % 5 == v % 5),
            (0..32).map(|l| u32::from(wide(l) % 3 == wide(lane) % 3) << l).sum(),
            warp.iter().fold(0, |sum: u32, &w| sum.wrapping_add(w)),
            *warp.iter().max().unwrap_or(&0),
            *warp.iter().min().unwrap_or(&0),
            warp.iter().map(|&w| w as i32).max().unwrap_or(0) as u32,
            warp.iter().map(|&w| w as i32).min().unwrap_or(0) as u32,
            if lane < 16 { warp[lane ^ 8] } else { warp[16..].iter().fold(0, |sum: u32, &w| sum.wrapping_add(w)) },
        ];
        rows.iter_mut().zip(values).for_each(|(row, value)| row.push(value));
    }
    EXCHANGE.iter().zip(rows).map(|(name, row)| Output::ids(name, row)).collect()
}

const BARRIERS: &[&str] = &["shared", "or", "and", "count"];

fn barriers(x: &[u32]) -> Vec<Output> {
    let (any, all) = (x.iter().any(|v| v % 256 == 0), x.iter().all(|v| v % 256 != 0));
    let count = x.iter().filter(|&v| v & 1 == 1).count();
    let shared = (0..N).map(|i| x[N - 1 - (i + 1) % N]).collect();
    let row = |value: u32| vec![value; N];
    [shared, row(any.into()), row(all.into()), row(count as u32)]
        .into_iter()
        .zip(BARRIERS)
        .map(|(row, name)| Output::ids(name, row))
        .collect()
}

// ---- Atomics -------------------------------------------------------------------------------------------------------

const BLOCKS: u32 = 5;
/// What the words hold before: the third is the identity of its own update, and so on.
const BEFORE: [u32; 11] = [0, 0, 0, u32::MAX, 1 << 31, i32::MAX as u32, 0, u32::MAX, 0, 0, 0];
const BEFORE_WIDE: [u64; 4] = [0, 0, u64::MAX, 0];

fn atomics(x: &[u32]) -> Vec<Output> {
    let (mut t, mut w, mut real) = (BEFORE, BEFORE_WIDE, 0.0);
    for v in (0..BLOCKS).flat_map(|block| x.iter().map(move |&v| v ^ block)) {
        let wide = u64::from(v) << 20;
        t[0] = t[0].wrapping_add(v);
        t[1] = t[1].wrapping_add(v);
        t[2] = t[2].max(v);
        t[3] = t[3].min(v);
        t[4] = (t[4] as i32).max(v as i32) as u32;
        t[5] = (t[5] as i32).min(v as i32) as u32;
        t[6] |= v;
        t[7] &= v | 0x10000;
        t[8] += 1;
        t[9] = t[9].wrapping_add(v);
        w = [w[0].wrapping_add(wide), w[1].max(wide), w[2].min(wide), w[3] + (1 << 33)];
        real += f64::from(v % 16);
    }
    atomic_outputs(&t, &w, real)
}

/// The ninth word is what went into the bag, in part still there.
fn atomic_outputs(t: &[u32], wide: &[u64], real: f64) -> Vec<Output> {
    let names = ["add", "add int", "max", "min", "max int", "min int", "or", "and", "cas", "exch"];
    let mut values = t.to_vec();
    values[9] = t[9].wrapping_add(t[10]);
    let wide = wide.iter().flat_map(|&w| [w as u32, (w >> 32) as u32]).collect();
    let words = names.iter().zip(values).map(|(name, value)| Output::ids(name, vec![value]));
    words.chain([Output::ids("u64", wide), Output { name: "add float", values: Values::Reals(vec![real]) }]).collect()
}

fn atomics_machine(m: &dyn Runtime) -> Result<Vec<Output>> {
    let x = upload(m, &any_bits())?;
    let (mut t, mut w, mut real) = (upload(m, &BEFORE)?, upload(m, &BEFORE_WIDE)?, upload(m, &[0f32])?);
    let args = &mut [Arg::Out(&mut t), Arg::Out(&mut w), Arg::Out(&mut real), Arg::In(&x)];
    launch(m, "atomics", Grid::row(BLOCKS as usize, 128), args)?;
    let real = f64::from(download::<f32>(m, &real, 1)?[0]);
    Ok(atomic_outputs(&download::<u32>(m, &t, BEFORE.len())?, &download::<u64>(m, &w, 4)?, real))
}

// ---- Copies and tensor cores ---------------------------------------------------------------------------------------

fn copies(x: &[f64]) -> Vec<Output> {
    let values = (0..N).map(|i| f64::from(x[if i < 96 { i } else { i ^ 1 }] as f32)).collect();
    vec![Output { name: "y", values: Values::Reals(values) }]
}

fn singles(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

fn reals(m: &dyn Runtime, name: &'static str, y: &Buffer) -> Result<Vec<Output>> {
    let y: Vec<f32> = download(m, y, y.len())?;
    Ok(vec![Output { name, values: Values::Reals(y.iter().map(|&y| f64::from(y)).collect()) }])
}

fn copies_machine(m: &dyn Runtime) -> Result<Vec<Output>> {
    let (x, mut y) = (upload(m, &singles(&noise(1, N)))?, empty(m, N)?);
    launch(m, "copies", Grid::row(1, 32), &mut [Arg::Out(&mut y), Arg::In(&x)])?;
    reals(m, "y", &y)
}

const MATRICES: &[&str] = &[
    "x4 0",
    "x4 1",
    "x4 2",
    "x4 3",
    "x4 trans 0",
    "x4 trans 1",
    "x4 trans 2",
    "x4 trans 3",
    "x2 0",
    "x2 1",
    "x2 trans 0",
    "x2 trans 1",
];

/// Rows of 16 numbers of 16 bits; matrix `k` begins at row `k % 2 * 8`, column `k / 2 * 8`.
fn matrices(x: &[u32]) -> Vec<Output> {
    let number = |row: usize, column: usize| x[row * 8 + column / 2] >> (column % 2 * 16) & 0xffff;
    let register = |k: usize, trans: bool, lane: usize| {
        let at = |i: usize| {
            let (row, column) = (lane / 4, lane % 4 * 2 + i);
            let (row, column) = if trans { (column, row) } else { (row, column) };
            number(k % 2 * 8 + row, k / 2 * 8 + column)
        };
        at(0) | at(1) << 16
    };
    let ways = (0..4).map(|k| (k, false)).chain((0..4).map(|k| (k, true)));
    let ways = ways.chain((0..2).map(|k| (k, false))).chain((0..2).map(|k| (k, true)));
    ways.zip(MATRICES).map(|((k, trans), name)| Output::ids(name, (0..32).map(|l| register(k, trans, l)).collect())).collect()
}

fn matrices_machine(m: &dyn Runtime) -> Result<Vec<Output>> {
    let (x, mut y) = (upload(m, &any_bits())?, empty(m, MATRICES.len() * 32)?);
    launch(m, "matrices", Grid::row(1, 32), &mut [Arg::Out(&mut y), Arg::In(&x)])?;
    Ok(named(MATRICES, &download::<u32>(m, &y, MATRICES.len() * 32)?))
}

/// d (16,8) = 1 + a (16,k) b (k,8) of rounded operands. The f32 path adds in another order than a tensor core may.
fn product(k: usize, round: fn(f32) -> f32, exact: bool) -> Vec<Output> {
    let (a, b) = (singles(&noise(4, 16 * k)), singles(&noise(5, k * 8)));
    let mut d = vec![1.0; 16 * 8];
    for (row, column) in (0..16).flat_map(|row| (0..8).map(move |column| (row, column))) {
        let terms = (0..k).map(|i| (round(a[row * k + i]), round(b[i * 8 + column])));
        d[row * 8 + column] = if exact {
            1.0 + terms.map(|(a, b)| f64::from(a) * f64::from(b)).sum::<f64>()
        } else {
            f64::from(terms.fold(1f32, |sum, (a, b)| sum + a * b))
        };
    }
    vec![Output { name: "d", values: Values::Reals(d) }]
}

fn product_machine(m: &dyn Runtime, entry: &'static str, k: usize) -> Result<Vec<Output>> {
    let (a, b) = (upload(m, &singles(&noise(4, 16 * k)))?, upload(m, &singles(&noise(5, k * 8)))?);
    let mut d = empty(m, 16 * 8)?;
    launch(m, entry, Grid::row(1, 32), &mut [Arg::Out(&mut d), Arg::In(&a), Arg::In(&b)])?;
    reals(m, "d", &d)
}

fn tiles() -> Vec<u32> {
    ids(6, 5 * N, 1 << 32)
}

fn tiles_machine(m: &dyn Runtime) -> Result<Vec<Output>> {
    let (x, mut y) = (upload(m, &tiles())?, empty(m, 5 * N)?);
    launch(m, "tiles", Grid::row(1, 64), &mut [Arg::Out(&mut y), Arg::In(&x)])?;
    Ok(named(&["y"], &download::<u32>(m, &y, 5 * N)?))
}

/// a (64,128) and b (128,128) of the product by four warps.
fn wide() -> [Vec<f32>; 2] {
    [singles(&noise(7, 64 * 128)), singles(&noise(8, 128 * 128))]
}

/// 1 + a b^T and a b^T of rounded operands.
fn product_wgmma(exact: bool) -> Vec<Output> {
    let [a, b] = wide();
    let entry = |i: usize, first: f32| {
        let (a, b) = (&a[i / 128 * 128..][..128], &b[i % 128 * 128..][..128]);
        let terms = a.iter().zip(b).map(|(&a, &b)| (round_bf16(a), round_bf16(b)));
        match exact {
            true => terms.fold(f64::from(first), |sum, (a, b)| sum + f64::from(a) * f64::from(b)),
            false => f64::from(terms.fold(first, |sum, (a, b)| sum + a * b)),
        }
    };
    let whole = |name, first| Output { name, values: Values::Reals((0..64 * 128).map(|i| entry(i, first)).collect()) };
    vec![whole("added", 1.0), whole("begun", 0.0)]
}

fn product_wgmma_machine(m: &dyn Runtime) -> Result<Vec<Output>> {
    let [a, b] = wide();
    let (a, b, mut d) = (upload(m, &a)?, upload(m, &b)?, empty(m, 2 * 64 * 128)?);
    let grid = Grid { shared_bytes: (64 + 128) * 256, ..Grid::row(1, 128) };
    launch(m, "product_wgmma", grid, &mut [Arg::Out(&mut d), Arg::In(&a), Arg::In(&b)])?;
    let d: Vec<f32> = download(m, &d, 2 * 64 * 128)?;
    let half = |name, d: &[f32]| Output { name, values: Values::Reals(d.iter().map(|&d| f64::from(d)).collect()) };
    Ok(vec![half("added", &d[..64 * 128]), half("begun", &d[64 * 128..])])
}

// ---- Random words --------------------------------------------------------------------------------------------------

const SEED: u64 = 0x0123_4567_89ab_cdef;
const STEP: u64 = (1 << 40) + 7;
const STRIDE: u64 = 0x1_0000_0001;
const RANDOM: &[&str] = &["word 0", "word 1", "word 2", "word 3", "below 50M", "below 2^44"];

fn random() -> Vec<Output> {
    let draws = rng::Draws::new(SEED, rng::Stream::Test, 3, STEP);
    let mut rows = vec![vec![]; 6];
    for i in 0..N as u64 {
        let (words, word) = (draws.words(i * STRIDE), draws.words64(i * STRIDE)[0]);
        let bounded = [rng::below(word, 50_000_000) as u32, (rng::below(word, 0xfff_ffff_ffff) >> 12) as u32];
        rows.iter_mut().zip(words.into_iter().chain(bounded)).for_each(|(row, value)| row.push(value));
    }
    RANDOM.iter().zip(rows).map(|(name, row)| Output::ids(name, row)).collect()
}

fn random_machine(m: &dyn Runtime) -> Result<Vec<Output>> {
    let mut y = empty(m, 6 * N)?;
    launch(m, "random", Grid::row(1, 128), &mut [Arg::Out(&mut y), Arg::U64(SEED), Arg::U64(STEP), Arg::U64(STRIDE)])?;
    Ok(named(RANDOM, &download::<u32>(m, &y, 6 * N)?))
}
