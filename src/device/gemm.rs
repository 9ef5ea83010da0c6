//! The one call into a host matrix-product library (the `gemm` crate), behind a safe, bounds-checked face.
//!
//! `ops/matmul.rs` splits the work over threads and is what operations call. `gemm` picks AVX-512, AVX2, NEON or scalar
//! kernels at run time, so bits may differ between machines, never between runs or thread counts of one machine.

use crate::device::Real;

/// A matrix inside a slice: element `(i, j)` is `data[i * row + j * col]`, so a transpose or a head's columns cost nothing.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T> {
    pub data: &'a [T],
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub col: usize,
}

impl<'a, T> Mat<'a, T> {
    /// A row-major matrix of `columns` columns, without gaps.
    pub fn new(data: &'a [T], columns: usize) -> Self {
        Mat { data, row: columns, col: 1 }
    }
    /// The transpose, in place.
    pub fn t(self) -> Self {
        Mat { data: self.data, row: self.col, col: self.row }
    }
    /// The same columns from row `first` on.
    pub fn from_row(self, first: usize) -> Self {
        Mat { data: &self.data[(first * self.row).min(self.data.len())..], row: self.row, col: self.col }
    }
    /// The same rows from column `first` on.
    pub fn from_column(self, first: usize) -> Self {
        Mat { data: &self.data[(first * self.col).min(self.data.len())..], row: self.row, col: self.col }
    }
}

/// Bytes a thread keeps for packed operands once it has multiplied: a share of the second cache level, as `gemm` has it.
pub fn kept_per_thread() -> u64 {
    let read = |name: &str| {
        let folder = (0..8).map(|i| format!("/sys/devices/system/cpu/cpu0/cache/index{i}"));
        let mut folder = folder.filter(|f| std::fs::read_to_string(format!("{f}/level")).is_ok_and(|l| l.trim() == "2"));
        std::fs::read_to_string(format!("{}/{name}", folder.next()?)).ok()
    };
    let size = read("size").and_then(|text| {
        let text = text.trim();
        let unit = if text.ends_with('M') { 1 << 20 } else { 1 << 10 };
        text.trim_end_matches(['K', 'M']).parse::<u64>().ok().map(|n| n * unit)
    });
    let range = |text: &str| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        Some(to.parse::<u64>().ok()?.checked_sub(from.parse::<u64>().ok()?)? + 1)
    };
    let sharers = read("shared_cpu_list").and_then(|text| text.trim().split(',').map(range).sum::<Option<u64>>());
    size.unwrap_or(512 << 10) / sharers.unwrap_or(1).max(1)
}

#[cfg(test)]
thread_local! {
    /// Flops of the products this thread has made: an independent count for the test of `ops/cost.rs`.
    static MADE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Flops of the products that `work` makes on this thread.
#[cfg(test)]
pub fn made_by<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = MADE.get();
    let result = work();
    (result, MADE.get() - before)
}

/// One past the last element a `rows` x `columns` view touches.
fn extent(rows: usize, columns: usize, row: usize, col: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row + (columns - 1) * col + 1 }
}

/// `C = scale A B` or, with `accumulate`, `C += scale A B`, on the calling thread alone.
/// C (m,n) has rows `stride` apart; A (m,k); B (k,n); `shape` is `[m, n, k]`.
pub fn gemm<T: Real>(c: &mut [T], stride: usize, a: Mat<T>, b: Mat<T>, shape: [usize; 3], scale: T, accumulate: bool) {
    let [m, n, k] = shape;
    #[cfg(test)]
    MADE.set(MADE.get() + 2 * (m * n * k) as u64);
    if m == 0 || n == 0 {
        return;
    }
    assert!(stride >= n && extent(m, n, stride, 1) <= c.len(), "matrix product: C is too small");
    assert!(extent(m, k, a.row, a.col) <= a.data.len(), "matrix product: A is too small");
    assert!(extent(k, n, b.row, b.col) <= b.data.len(), "matrix product: B is too small");
    if k == 0 {
        if !accumulate {
            (0..m).for_each(|i| c[i * stride..i * stride + n].fill(T::ZERO));
        }
        return;
    }
    // SAFETY: the three extents were checked against their slices above, all strides are non-negative, C is borrowed
    // mutably and so overlaps neither A nor B, and its rows do not overlap each other (stride >= n).
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.col as isize,
            b.row as isize,
            T::ONE,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
