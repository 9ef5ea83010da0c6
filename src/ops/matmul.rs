//! Matrix products of the plain path: every one in the crate comes through here.
//!
//! ```text
//! serial, rows:   C (m,n)  = scale A (m,k) B (k,n)      or += with `accumulate`
//! reduce:         C (m,n) += scale A (m,k) B (k,n)      for k much larger than m and n: weight gradients x^T dy
//! ```
//!
//! Work is split by sizes alone (row blocks of the output, or chunks of k whose partial products are added in order), so
//! the result is the same for any number of threads. `rows` and `reduce` may be called inside a parallel loop; `serial`
//! is cheaper there.
//!
//! The library sums in another order where C is a vector or small. A row of `rows_alike` has the same bits however many rows are asked
//! for with it, as figures and lists need; a row of `rows` has them unless B is a transpose.

use rayon::prelude::*;

pub use crate::device::Mat;
use crate::device::{Real, gemm};

/// Rows of one block of [`rows`]: about a million multiply-adds, enough to hide the price of a task (below 1 us).
fn block_rows(n: usize, k: usize) -> usize {
    ((1 << 20) / (n * k).max(1)).clamp(96, 512).next_multiple_of(16)
}

/// Bytes the blocks of [`rows`] in work take for a moment by packing their operands; depths and widths beyond the cache are cut.
pub fn bytes(n: usize, k: usize) -> u64 {
    (4 * k.min(1024) * (n.min(4096) + block_rows(n, k)) * rayon::current_num_threads()) as u64
}

/// `C = scale A B` or `C += scale A B` on this thread; rows of C are `stride` apart. `shape` is `[m, n, k]`.
pub fn serial<T: Real>(c: &mut [T], stride: usize, a: Mat<T>, b: Mat<T>, shape: [usize; 3], scale: T, accumulate: bool) {
    gemm(c, stride, a, b, shape, scale, accumulate);
}

/// `C = A B` or `C += A B`, blocks of rows in parallel; C (m,n) without gaps. `shape` is `[m, n, k]`.
pub fn rows<T: Real>(c: &mut [T], a: Mat<T>, b: Mat<T>, shape: [usize; 3], accumulate: bool) {
    rows_of(c, [0, shape[1]], a, b, shape, accumulate);
}

/// The same where C is the columns from `first` on of a matrix whose rows are `stride` long; `of` is `[first, stride]`.
pub fn rows_of<T: Real>(c: &mut [T], of: [usize; 2], a: Mat<T>, b: Mat<T>, shape: [usize; 3], accumulate: bool) {
    let [_, n, k] = shape;
    in_blocks(c, of, a, b, shape, accumulate, fewest_of(n, k));
}

/// As [`rows`], and the bits of a row do not depend on how many others there are.
pub fn rows_alike<T: Real>(c: &mut [T], a: Mat<T>, b: Mat<T>, shape: [usize; 3], accumulate: bool) {
    let [_, n, k] = shape;
    // Where B is a transpose, at most 256 elements of C are dot products, whose sums are cut into lanes.
    let fewest = 256 / n.max(1) + 1;
    in_blocks(c, [0, n], a, b, shape, accumulate, fewest.max(fewest_of(n, k)));
}

/// Fewest rows that are multiplied as more would be where B is no transpose: one row is a vector, and the library cuts long sums
/// elsewhere if C has at most 64 rows and columns.
fn fewest_of(n: usize, k: usize) -> usize {
    if k > 512 && n <= 64 { 65 } else { 2 }
}

/// Blocks of rows in parallel, those of fewer rows than `fewest` in the company of zeros.
fn in_blocks<T: Real>(c: &mut [T], of: [usize; 2], a: Mat<T>, b: Mat<T>, shape: [usize; 3], accumulate: bool, fewest: usize) {
    let ([first, stride], [m, n, k]) = (of, shape);
    if m == 0 || n == 0 {
        return;
    }
    let block = block_rows(n, k);
    c[..m * stride].par_chunks_mut(block * stride).enumerate().for_each(|(i, c)| {
        let (rows, c, a) = (c.len() / stride, &mut c[first..], a.from_row(i * block));
        if rows >= fewest {
            return gemm(c, stride, a, b, [rows, n, k], T::ONE, accumulate);
        }
        let (mut own, mut product) = (vec![T::ZERO; fewest * k], vec![T::ZERO; fewest * n]);
        for row in 0..rows {
            own[row * k..(row + 1) * k].iter_mut().enumerate().for_each(|(l, x)| *x = a.data[row * a.row + l * a.col]);
            product[row * n..(row + 1) * n].copy_from_slice(&c[row * stride..row * stride + n]);
        }
        gemm(&mut product, n, Mat::new(&own, k), b, [fewest, n, k], T::ONE, accumulate);
        for row in 0..rows {
            c[row * stride..row * stride + n].copy_from_slice(&product[row * n..(row + 1) * n]);
        }
    });
}

/// `C += A B` where k is long: up to 16 chunks of k in parallel, their products added in order. `shape` is `[m, n, k]`.
pub fn reduce<T: Real>(c: &mut [T], a: Mat<T>, b: Mat<T>, shape: [usize; 3]) {
    reduce_of(c, [0, shape[1]], a, b, shape);
}

/// The same for the columns from `first` on of a matrix whose rows are `stride` long; `of` is `[first, stride]`.
pub fn reduce_of<T: Real>(c: &mut [T], of: [usize; 2], a: Mat<T>, b: Mat<T>, shape: [usize; 3]) {
    let ([first, stride], [m, n, k]) = (of, shape);
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let c = &mut c[..m * stride];
    let chunks = chunks(k);
    if chunks == 1 {
        return gemm(&mut c[first..], stride, a, b, shape, T::ONE, true);
    }
    let mut partial = vec![T::ZERO; chunks * m * n];
    partial.par_chunks_mut(m * n).enumerate().for_each(|(i, p)| {
        let (from, to) = (i * k / chunks, (i + 1) * k / chunks);
        gemm(p, n, a.from_column(from), b.from_row(from), [m, n, to - from], T::ONE, false);
    });
    if stride == n {
        return add_in_order(c, &partial);
    }
    let mut sum = vec![T::ZERO; m * n];
    add_in_order(&mut sum, &partial);
    for (c, sum) in c.chunks_exact_mut(stride).zip(sum.chunks_exact(n)) {
        c[first..first + n].iter_mut().zip(sum).for_each(|(c, &x)| *c += x);
    }
}

fn chunks(k: usize) -> usize {
    (k / 512).clamp(1, 16)
}

/// Numbers that [`reduce`] takes for a moment.
pub fn reduced(m: usize, n: usize, k: usize) -> usize {
    if chunks(k) > 1 { chunks(k) * m * n } else { 0 }
}

/// `c += sum of the lanes`, lane 0 first; `lanes` holds any number of arrays as long as `c`.
pub fn add_in_order<T: Real>(c: &mut [T], lanes: &[T]) {
    if c.is_empty() {
        return;
    }
    const BLOCK: usize = 4096;
    let n = c.len();
    c.par_chunks_mut(BLOCK).enumerate().for_each(|(i, c)| {
        for lane in lanes.chunks_exact(n) {
            for (c, &x) in c.iter_mut().zip(&lane[i * BLOCK..]) {
                *c += x;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draws, Stream, normal2};

    fn noise(lane: u8, n: usize) -> Vec<f64> {
        let draws = Draws::new(3, Stream::Test, lane, 0);
        (0..n as u64).map(|i| normal2(draws.words64(i))[0]).collect()
    }

    fn naive(a: Mat<f64>, b: Mat<f64>, [m, n, k]: [usize; 3]) -> Vec<f64> {
        let mut c = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                c[i * n + j] = (0..k).map(|l| a.data[i * a.row + l * a.col] * b.data[l * b.row + j * b.col]).sum();
            }
        }
        c
    }

    const SHAPES: [[usize; 3]; 7] = [[1, 1, 1], [7, 13, 5], [97, 64, 64], [1, 65, 3], [513, 3, 64], [64, 63, 1601], [33, 1, 0]];

    #[test]
    fn every_form_and_orientation_agrees_with_three_loops() {
        for shape in SHAPES {
            let [m, n, k] = shape;
            let (a, b, c0) = (noise(0, m * k), noise(1, k * n), noise(2, m * n));
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let a = if ta { Mat::new(&a, m).t() } else { Mat::new(&a, k) };
                let b = if tb { Mat::new(&b, k).t() } else { Mat::new(&b, n) };
                let product = naive(a, b, shape);
                // Bound of a reordered sum of k products of unit normals, with room for 6 deviations each.
                let tolerance = 1e-14 * (k as f64 + 1.0);
                let check = |c: &[f64], start: Option<&[f64]>, scale: f64| {
                    for (i, (&c, &p)) in c.iter().zip(&product).enumerate() {
                        let want = start.map_or(0.0, |s| s[i]) + scale * p;
                        assert!((c - want).abs() <= tolerance * 40.0, "{shape:?} {i}: {c} {want}");
                    }
                };
                let mut c = c0.clone();
                rows(&mut c, a, b, shape, false);
                check(&c, None, 1.0);
                rows(&mut c, a, b, shape, true);
                check(&c, None, 2.0);
                c.copy_from_slice(&c0);
                reduce(&mut c, a, b, shape);
                check(&c, Some(&c0), 1.0);
                serial(&mut c, n, a, b, shape, -0.5, true);
                check(&c, Some(&c0), 0.5);
            }
        }
    }

    /// The first rows of products of ever fewer rows: for sizes on both sides of all that the library decides by, in both orientations of
    /// the operands that encoders and scores have.
    #[test]
    fn a_row_is_the_same_in_any_company() {
        let narrow = |v: Vec<f64>| v.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        const ROWS: usize = 130;
        let long = [(40, 600), (64, 1025), (65, 600), (300, 700)];
        for (n, k) in [(2, 2), (2, 64), (40, 16), (40, 64), (257, 64), (1700, 64), (1700, 1)].into_iter().chain(long) {
            let (a, b, c) = (narrow(noise(0, ROWS * k)), narrow(noise(1, k * n)), narrow(noise(2, ROWS * n)));
            let a = Mat::new(&a, k);
            for accumulate in [false, true] {
                type Product = fn(&mut [f32], Mat<f32>, Mat<f32>, [usize; 3], bool);
                for (product, b) in [(rows_alike as Product, Mat::new(&b, k).t()), (rows as Product, Mat::new(&b, n))] {
                    let of = |m: usize| {
                        let mut c = c[..m * n].to_vec();
                        product(&mut c, a, b, [m, n, k], accumulate);
                        c
                    };
                    let all = of(ROWS);
                    for m in [1, 2, 3, 5, 6, 7, 63, 64, 65, 96, 97, 129] {
                        assert!(of(m) == all[..m * n], "{m} rows of {n} and {k}, {accumulate}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_strided_block_touches_only_itself() {
        let (a, b) = (noise(0, 5 * 8), noise(1, 3 * 8));
        let mut c = vec![9.0; 5 * 7];
        // Columns 2..6 of A against B, into columns 1..4 of C.
        serial(&mut c[1..], 7, Mat::new(&a, 8).from_column(2), Mat::new(&b, 8).t(), [5, 3, 4], 1.0, false);
        for i in 0..5 {
            assert!([0, 4, 5, 6].iter().all(|&j| c[i * 7 + j] == 9.0));
            for j in 0..3 {
                let want: f64 = (0..4).map(|l| a[i * 8 + 2 + l] * b[j * 8 + l]).sum();
                assert!((c[i * 7 + 1 + j] - want).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let [m, n, k] = [700, 33, 3000];
        let narrow = |v: Vec<f64>| v.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let (a, b) = (narrow(noise(0, m * k)), narrow(noise(1, k * n)));
        let run = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let (mut c, mut d) = (vec![0f32; m * n], vec![0f32; m * n]);
                rows(&mut c, Mat::new(&a, k), Mat::new(&b, n), [m, n, k], false);
                reduce(&mut d, Mat::new(&a, k), Mat::new(&b, n), [m, n, k]);
                (c, d)
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(5));
    }
}
