//! Exponential (f32 and f64) and softplus (f32) without branches, so that a loop over them becomes vector code.
//!
//! ```text
//! exp(x)      = 2^n e^r,   n = round(x / ln 2),  r = x - n ln 2 (ln 2 in two parts),  e^r = 1 + r + r^2 q(r)
//! softplus(x) = ln(1 + e^x) = max(x, 0) + ln(1 + u),   u = e^-|x|
//! ln(1 + u)   = 2 atanh(s),   s = u / (2 + u) in [0, 1/3],  atanh(s) = s + s^3 a(s^2)
//! ```
//!
//! `q` and `a` interpolate at Chebyshev nodes: 0.17 and 0.01 half units in the last place of f32. No fused multiply-add is
//! used, which costs little (loops are bound by loads) and gives the same bits on every machine.

/// e^x: within 2 units in the last place; 0 where the result is below the smallest normal number, infinity above the largest.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54; // ln of the smallest normal number, rounded up
    const HIGHEST: f32 = 88.722_83; // ln of the largest number, rounded down
    const TO_INTEGER: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const LN2_HIGH: f32 = 355.0 / 512.0; // nine bits, so that its product with n is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Written so that NaN passes through.
    let y = if x < LOWEST { LOWEST } else { x };
    let y = if y > HIGHEST { HIGHEST } else { y };
    let shifted = y * std::f32::consts::LOG2_E + TO_INTEGER;
    let n = shifted - TO_INTEGER;
    let r = y - n * LN2_HIGH - n * LN2_LOW;
    let q = 1.392_617_6e-3 * r + 8.363_173e-3;
    let q = q * r + 4.166_655_5e-2;
    let q = q * r + 1.666_657_7e-1;
    let q = q * r + 0.5;
    let e = q * (r * r) + r + 1.0;
    // 2^n as two factors, because 2^128 is not a number.
    let n = (shifted.to_bits() as i32).wrapping_sub(TO_INTEGER.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let e = e * power(half) * power(n.wrapping_sub(half));
    let e = if x < LOWEST { 0.0 } else { e };
    if x > HIGHEST { f32::INFINITY } else { e }
}

/// e^x in f64: within 2 units in the last place up to 708; 0 where the result is below the smallest normal number. Larger `x` are
/// taken for 708: the weights it is for are at most 1.
#[inline(always)]
pub fn exp_f64(x: f64) -> f64 {
    const LOWEST: f64 = -708.396_418_532_264_1; // ln of the smallest normal number
    const HIGHEST: f64 = 708.0;
    const TO_INTEGER: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52, as in `exp`
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8; // 32 bits, so that its product with n is exact
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let y = if x < LOWEST { LOWEST } else { x };
    let y = if y > HIGHEST { HIGHEST } else { y };
    let shifted = y * std::f64::consts::LOG2_E + TO_INTEGER;
    let n = shifted - TO_INTEGER;
    let r = y - n * LN2_HIGH - n * LN2_LOW;
    // Taylor's series: |r| is at most ln 2 / 2, so the first term left out is below 2^-57.
    let mut q = 1.0 / 6_227_020_800.0;
    for factorial in [479_001_600.0, 39_916_800.0, 3_628_800.0, 362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0] {
        q = q * r + 1.0 / factorial;
    }
    let e = q * (r * r) + r + 1.0;
    let power = (shifted.to_bits() as i64).wrapping_sub(TO_INTEGER.to_bits() as i64).wrapping_add(1023);
    let e = e * f64::from_bits((power << 52) as u64);
    if x < LOWEST { 0.0 } else { e }
}

/// ln(1 + e^x) without overflow: within 3 units in the last place, 0 far below zero.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let u = exp(-x.abs());
    let s = u / (2.0 + u);
    let z = s * s;
    let a = 1.161_216_5e-1 * z + 1.085_328_8e-1;
    let a = a * z + 1.429_617_9e-1;
    let a = a * z + 1.999_985_3e-1;
    let a = a * z + 3.333_333_4e-1;
    let ln = 2.0 * (s + s * z * a);
    (if x < 0.0 { 0.0 } else { x }) + ln
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Error in units in the last place of the f32 result.
    fn ulps(got: f32, want: f64) -> f64 {
        let ulp = f64::from(f32::from_bits((want.abs() as f32).to_bits() + 1)) - f64::from(want.abs() as f32);
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_units_over_its_range() {
        let (mut worst, mut at) = (0.0f64, 0.0);
        for i in 0..=2_000_000 {
            let x = -87.3365 + 176.059 * (i as f32 / 2_000_000.0);
            let error = ulps(exp(x), f64::from(x).exp());
            if error > worst {
                (worst, at) = (error, x);
            }
        }
        assert!(worst <= 2.0, "{worst} units at {at}");
    }

    #[test]
    fn exp_of_f64_is_within_two_units_and_ends_where_it_says() {
        for i in 0..=1_000_000 {
            let x = -708.39 + 1416.38 * (f64::from(i) / 1e6);
            let (got, want) = (exp_f64(x), x.exp());
            let unit = f64::from_bits(want.to_bits() + 1) - want;
            assert!((got - want).abs() <= 2.0 * unit, "{x}: {got} {want}");
        }
        assert_eq!([0.0, -0.0, f64::NEG_INFINITY, -709.0].map(exp_f64), [1.0, 1.0, 0.0, 0.0]);
        assert!(exp_f64(f64::NAN).is_nan());
    }

    #[test]
    fn softplus_is_within_three_units() {
        for i in -1_000_000..=1_000_000 {
            let x = i as f32 * 8.7e-5;
            let wide = f64::from(x);
            let want = wide.max(0.0) + (-wide.abs()).exp().ln_1p();
            assert!(ulps(softplus(x), want) <= 3.0, "{x}: {} {want}", softplus(x));
        }
    }

    #[test]
    fn the_ends_are_what_ieee_arithmetic_says() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-87.4), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(88.8), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(88.7) < f32::INFINITY && exp(-87.3) >= f32::MIN_POSITIVE);
        assert!(exp(f32::NAN).is_nan() && softplus(f32::NAN).is_nan());
        assert_eq!(softplus(f32::INFINITY), f32::INFINITY);
        assert_eq!(softplus(f32::NEG_INFINITY), 0.0);
        assert_eq!(softplus(1e30), 1e30);
    }
}
