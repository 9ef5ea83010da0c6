//! How a query scores items: dot product or cosine, under the context of the event to be predicted.
//!
//! With `p (R,D)` the query, `a (V,D)` the item table and `g (R,D)` the row's context vector (zero without context):
//!
//! ```text
//! dot:     s[r,i] = p[r] . (a[i] + g[r])
//! cosine:  s[r,i] = p[r] . (a[i] + g[r]) / (|p[r]| |a[i] + g[r]| temperature)
//! ```
//!
//! Because the item-in-context encoder is affine, `e(i,c) = a[i] + g(c)`, no encoder runs per (query, item) pair.
//! Source: CaNS (Seol and Choi, IEEE Access 2025, doi 10.1109/ACCESS.2025.3576124), encoder and cosine scoring.

use crate::device::Buffer;

/// The form of the score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScoreKind {
    Dot,
    Cosine { temperature: f64 },
}

/// Everything needed to score any item for any row.
#[derive(Clone, Copy)]
pub struct Scoring<'a> {
    pub kind: ScoreKind,
    /// D
    pub dim: usize,
    /// V
    pub items: usize,
    /// p (R,D)
    pub query: &'a Buffer,
    /// g (R,D), the context vector of the event to be predicted.
    pub context: Option<&'a Buffer>,
    /// a (V,D)
    pub table: &'a Buffer,
}
