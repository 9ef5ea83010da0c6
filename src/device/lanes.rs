//! Reductions and row updates in explicit vector registers: what a compiler does not vectorise well by itself.
//!
//! The compiler may not reorder floating-point additions, so a plain loop over a dot product stays scalar, and hand-written
//! arrays of partial sums come out many times slower than registers (measured 5 to 8 times at length 64). Everything here
//! keeps partial sums in registers of 256 bits: AVX2 where the processor has it, arrays of the same width elsewhere. The
//! order of additions is the same in both and no product is fused, so the bits are the same on every machine.
//!
//! Called through `ops/vector.rs`, inside its `fast`.

use pulp::{Scalar256b, Simd};

/// Loops over slices of a number type, four registers (or eight) at a time.
pub trait Lanes: Copy {
    /// sum of x[i]
    fn sum_of(x: &[Self]) -> Self;
    /// The largest x[i], minus infinity of nothing; NaN is skipped.
    fn largest_of(x: &[Self]) -> Self;
    /// sum of a[i] b[i]; the slices are as long as the shorter.
    fn dot_of(a: &[Self], b: &[Self]) -> Self;
    /// sum of a[i] b[i] c[i]
    fn dot3_of(a: &[Self], b: &[Self], c: &[Self]) -> Self;
    /// (sum of p[i] (a[i] + g[i]), sum of (a[i] + g[i])^2)
    fn encoded_of(p: &[Self], g: &[Self], a: &[Self]) -> (Self, Self);
    /// y += alpha x
    fn add_scaled(y: &mut [Self], alpha: Self, x: &[Self]);
    /// y += alpha x + beta z
    fn add_scaled2(y: &mut [Self], alpha: Self, x: &[Self], beta: Self, z: &[Self]);
    /// y (n) += sum over k of c[k] table[rows[k]], table (.., n)
    fn add_rows(y: &mut [Self], c: &[Self], table: &[Self], rows: &[u32]);
}

/// Runs the body with the widest registers of at most 256 bits.
macro_rules! widest {
    ($simd:ident => $body:expr) => {{
        #[cfg(target_arch = "x86_64")]
        if let Some($simd) = pulp::x86::V3::try_new() {
            return $body;
        }
        let $simd = Scalar256b;
        $body
    }};
}

macro_rules! lanes {
    ($t:ident, $inner:ident, $split:ident, $split_mut:ident, $splat:ident, $add:ident, $mul:ident, $max:ident, $sum:ident, $largest:ident) => {
        impl Lanes for $t {
            #[inline(always)]
            fn sum_of(x: &[$t]) -> $t {
                widest!(simd => $inner::sum(simd, x))
            }
            #[inline(always)]
            fn largest_of(x: &[$t]) -> $t {
                widest!(simd => $inner::largest(simd, x))
            }
            #[inline(always)]
            fn dot_of(a: &[$t], b: &[$t]) -> $t {
                let n = a.len().min(b.len());
                let (a, b) = (&a[..n], &b[..n]);
                widest!(simd => $inner::dot(simd, a, b))
            }
            #[inline(always)]
            fn dot3_of(a: &[$t], b: &[$t], c: &[$t]) -> $t {
                let n = a.len().min(b.len()).min(c.len());
                let (a, b, c) = (&a[..n], &b[..n], &c[..n]);
                widest!(simd => $inner::dot3(simd, a, b, c))
            }
            #[inline(always)]
            fn encoded_of(p: &[$t], g: &[$t], a: &[$t]) -> ($t, $t) {
                let n = p.len();
                let (g, a) = (&g[..n], &a[..n]);
                widest!(simd => $inner::encoded(simd, p, g, a))
            }
            #[inline(always)]
            fn add_scaled(y: &mut [$t], alpha: $t, x: &[$t]) {
                let n = y.len().min(x.len());
                let (y, x) = (&mut y[..n], &x[..n]);
                widest!(simd => $inner::add_scaled(simd, y, alpha, x))
            }
            #[inline(always)]
            fn add_scaled2(y: &mut [$t], alpha: $t, x: &[$t], beta: $t, z: &[$t]) {
                let n = y.len().min(x.len()).min(z.len());
                let (y, x, z) = (&mut y[..n], &x[..n], &z[..n]);
                widest!(simd => $inner::add_scaled2(simd, y, alpha, x, beta, z))
            }
            #[inline(always)]
            fn add_rows(y: &mut [$t], c: &[$t], table: &[$t], rows: &[u32]) {
                widest!(simd => $inner::add_rows(simd, y, c, table, rows))
            }
        }

        mod $inner {
            use super::Simd;

            /// Four partial sums, added in pairs, then the tail.
            #[inline(always)]
            fn finish<S: Simd>(simd: S, [a, b, c, d]: [S::$inner; 4], tail: $t) -> $t {
                simd.$sum(simd.$add(simd.$add(a, c), simd.$add(b, d))) + tail
            }

            #[inline(always)]
            pub fn sum<S: Simd>(simd: S, x: &[$t]) -> $t {
                let (x, tail) = S::$split(x);
                let (fours, rest) = x.as_chunks::<4>();
                let mut sums = [simd.$splat(0.0); 4];
                for x in fours {
                    for k in 0..4 {
                        sums[k] = simd.$add(sums[k], x[k]);
                    }
                }
                for (sum, &x) in sums.iter_mut().zip(rest) {
                    *sum = simd.$add(*sum, x);
                }
                finish(simd, sums, tail.iter().sum())
            }

            #[inline(always)]
            pub fn largest<S: Simd>(simd: S, x: &[$t]) -> $t {
                let (x, tail) = S::$split(x);
                let (fours, rest) = x.as_chunks::<4>();
                let mut most = [simd.$splat($t::NEG_INFINITY); 4];
                // In this order the instruction keeps `most` where x is NaN.
                for x in fours {
                    for k in 0..4 {
                        most[k] = simd.$max(x[k], most[k]);
                    }
                }
                for (most, &x) in most.iter_mut().zip(rest) {
                    *most = simd.$max(x, *most);
                }
                let [a, b, c, d] = most;
                let most = simd.$largest(simd.$max(simd.$max(a, c), simd.$max(b, d)));
                tail.iter().fold(most, |most, &x| if x > most { x } else { most })
            }

            #[inline(always)]
            pub fn dot<S: Simd>(simd: S, a: &[$t], b: &[$t]) -> $t {
                let ((a, a1), (b, b1)) = (S::$split(a), S::$split(b));
                let ((a4, a), (b4, b)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
                let mut sums = [simd.$splat(0.0); 4];
                for (a, b) in a4.iter().zip(b4) {
                    for k in 0..4 {
                        sums[k] = simd.$add(sums[k], simd.$mul(a[k], b[k]));
                    }
                }
                for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                    *sum = simd.$add(*sum, simd.$mul(a, b));
                }
                finish(simd, sums, a1.iter().zip(b1).map(|(&a, &b)| a * b).sum())
            }

            #[inline(always)]
            pub fn dot3<S: Simd>(simd: S, a: &[$t], b: &[$t], c: &[$t]) -> $t {
                let ((a, a1), (b, b1), (c, c1)) = (S::$split(a), S::$split(b), S::$split(c));
                let ((a4, a), (b4, b), (c4, c)) = (a.as_chunks::<4>(), b.as_chunks::<4>(), c.as_chunks::<4>());
                let mut sums = [simd.$splat(0.0); 4];
                for ((a, b), c) in a4.iter().zip(b4).zip(c4) {
                    for k in 0..4 {
                        sums[k] = simd.$add(sums[k], simd.$mul(simd.$mul(a[k], b[k]), c[k]));
                    }
                }
                for (sum, ((&a, &b), &c)) in sums.iter_mut().zip(a.iter().zip(b).zip(c)) {
                    *sum = simd.$add(*sum, simd.$mul(simd.$mul(a, b), c));
                }
                finish(simd, sums, a1.iter().zip(b1).zip(c1).map(|((&a, &b), &c)| a * b * c).sum())
            }

            #[inline(always)]
            pub fn encoded<S: Simd>(simd: S, p: &[$t], g: &[$t], a: &[$t]) -> ($t, $t) {
                let ((p, p1), (g, g1), (a, a1)) = (S::$split(p), S::$split(g), S::$split(a));
                let ((p4, p), (g4, g), (a4, a)) = (p.as_chunks::<4>(), g.as_chunks::<4>(), a.as_chunks::<4>());
                let (mut product, mut square) = ([simd.$splat(0.0); 4], [simd.$splat(0.0); 4]);
                for ((p, g), a) in p4.iter().zip(g4).zip(a4) {
                    for k in 0..4 {
                        let e = simd.$add(a[k], g[k]);
                        product[k] = simd.$add(product[k], simd.$mul(p[k], e));
                        square[k] = simd.$add(square[k], simd.$mul(e, e));
                    }
                }
                for (k, ((&p, &g), &a)) in p.iter().zip(g).zip(a).enumerate() {
                    let e = simd.$add(a, g);
                    product[k] = simd.$add(product[k], simd.$mul(p, e));
                    square[k] = simd.$add(square[k], simd.$mul(e, e));
                }
                let mut tail = (0.0, 0.0);
                for ((&p, &g), &a) in p1.iter().zip(g1).zip(a1) {
                    tail = (tail.0 + p * (a + g), tail.1 + (a + g) * (a + g));
                }
                (finish(simd, product, tail.0), finish(simd, square, tail.1))
            }

            #[inline(always)]
            pub fn add_scaled<S: Simd>(simd: S, y: &mut [$t], alpha: $t, x: &[$t]) {
                let ((y, y1), (x, x1)) = (S::$split_mut(y), S::$split(x));
                let c = simd.$splat(alpha);
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = simd.$add(*y, simd.$mul(c, x));
                }
                for (y, &x) in y1.iter_mut().zip(x1) {
                    *y += alpha * x;
                }
            }

            #[inline(always)]
            pub fn add_scaled2<S: Simd>(simd: S, y: &mut [$t], alpha: $t, x: &[$t], beta: $t, z: &[$t]) {
                let ((y, y1), (x, x1), (z, z1)) = (S::$split_mut(y), S::$split(x), S::$split(z));
                let (c, d) = (simd.$splat(alpha), simd.$splat(beta));
                for ((y, &x), &z) in y.iter_mut().zip(x).zip(z) {
                    *y = simd.$add(*y, simd.$add(simd.$mul(c, x), simd.$mul(d, z)));
                }
                for ((y, &x), &z) in y1.iter_mut().zip(x1).zip(z1) {
                    *y += alpha * x + beta * z;
                }
            }

            /// Eight registers of `y` stay while the rows pass by.
            #[inline(always)]
            pub fn add_rows<S: Simd>(simd: S, y: &mut [$t], c: &[$t], table: &[$t], rows: &[u32]) {
                const WIDE: usize = 8;
                let n = y.len();
                let (registers, tail) = S::$split_mut(y);
                let (wide, narrow) = registers.as_chunks_mut::<WIDE>();
                for (block, y) in wide.iter_mut().enumerate() {
                    let mut sums = *y;
                    for (&c, &r) in c.iter().zip(rows) {
                        let x = &S::$split(&table[r as usize * n..(r as usize + 1) * n]).0[block * WIDE..(block + 1) * WIDE];
                        let c = simd.$splat(c);
                        for (sum, &x) in sums.iter_mut().zip(x) {
                            *sum = simd.$add(*sum, simd.$mul(c, x));
                        }
                    }
                    *y = sums;
                }
                if narrow.is_empty() && tail.is_empty() {
                    return;
                }
                let (first, scalars) = (wide.len() * WIDE, n - tail.len());
                for (&c, &r) in c.iter().zip(rows) {
                    let x = &table[r as usize * n..(r as usize + 1) * n];
                    let d = simd.$splat(c);
                    for (y, &x) in narrow.iter_mut().zip(&S::$split(x).0[first..]) {
                        *y = simd.$add(*y, simd.$mul(d, x));
                    }
                    for (y, &x) in tail.iter_mut().zip(&x[scalars..]) {
                        *y += c * x;
                    }
                }
            }
        }
    };
}
lanes!(f32, f32s, as_simd_f32s, as_mut_simd_f32s, splat_f32s, add_f32s, mul_f32s, max_f32s, reduce_sum_f32s, reduce_max_f32s);
lanes!(f64, f64s, as_simd_f64s, as_mut_simd_f64s, splat_f64s, add_f64s, mul_f64s, max_f64s, reduce_sum_f64s, reduce_max_f64s);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draws, Stream, normal2};

    fn noise(lane: u8, n: usize) -> Vec<f32> {
        let draws = Draws::new(6, Stream::Test, lane, 0);
        (0..n as u64).map(|i| normal2(draws.words64(i))[0] as f32).collect()
    }

    const LENGTHS: [usize; 10] = [0, 1, 7, 8, 31, 33, 64, 65, 100, 1003];

    #[test]
    fn registers_and_arrays_give_the_same_bits() {
        for n in LENGTHS {
            let (a, b, c) = (noise(0, n), noise(1, n), noise(2, n));
            assert_eq!(f32::sum_of(&a).to_bits(), f32s::sum(Scalar256b, &a).to_bits());
            assert_eq!(f32::dot_of(&a, &b).to_bits(), f32s::dot(Scalar256b, &a, &b).to_bits());
            assert_eq!(f32::dot3_of(&a, &b, &c).to_bits(), f32s::dot3(Scalar256b, &a, &b, &c).to_bits());
            assert_eq!(f32::encoded_of(&a, &b, &c), f32s::encoded(Scalar256b, &a, &b, &c));
            assert_eq!(f32::largest_of(&a), f32s::largest(Scalar256b, &a));
        }
    }

    #[test]
    fn every_loop_agrees_with_one_number_at_a_time() {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        for n in LENGTHS {
            let (a, b, c) = (wide(&noise(0, n)), wide(&noise(1, n)), wide(&noise(2, n)));
            // Sums of n terms of order one in another order.
            let close = |x: f64, y: f64| assert!((x - y).abs() <= 1e-14 * (n as f64 + 1.0), "{n}: {x} {y}");
            close(f64::sum_of(&a), a.iter().sum());
            close(f64::dot_of(&a, &b), a.iter().zip(&b).map(|(a, b)| a * b).sum());
            close(f64::dot3_of(&a, &b, &c), (0..n).map(|i| a[i] * b[i] * c[i]).sum());
            assert_eq!(f64::largest_of(&a), a.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            let (product, square) = f64::encoded_of(&a, &b, &c);
            close(product, (0..n).map(|i| a[i] * (b[i] + c[i])).sum());
            close(square, (0..n).map(|i| (b[i] + c[i]) * (b[i] + c[i])).sum());
            let (mut y, mut z) = (a.clone(), a.clone());
            f64::add_scaled(&mut y, 0.3, &b);
            f64::add_scaled2(&mut z, 0.3, &b, -0.7, &c);
            for i in 0..n {
                close(y[i], a[i] + 0.3 * b[i]);
                close(z[i], a[i] + 0.3 * b[i] - 0.7 * c[i]);
            }
            let (table, rows, weights) = (wide(&noise(3, 5 * n)), [4, 0, 4, 2], [0.5, -1.0, 2.0, 0.25]);
            let mut y = a.clone();
            f64::add_rows(&mut y, &weights, &table, &rows);
            for i in 0..n {
                close(y[i], a[i] + (0..4).map(|k| weights[k] * table[rows[k] as usize * n + i]).sum::<f64>());
            }
        }
    }

    #[test]
    fn the_largest_skips_not_a_number_wherever_it_stands() {
        for at in 0..40 {
            let mut x = noise(4, 40);
            x[at] = f32::NAN;
            let want = x.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(f32::largest_of(&x), want);
        }
    }
}
