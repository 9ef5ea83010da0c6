//! Operations: one per file, each the twin of a kernel of the same name in `kernels/`.
//!
//! A file holds, in this order: the formula with shapes and source; `forward` / `backward`, which match on the device;
//! the plain reference, generic over f32 and f64; the launcher of its kernel; its price (`cost.rs`) and its cases, odd sizes
//! first (`case.rs`).
//! Parameter gradients accumulate (`+=`), activation gradients overwrite (`=`). Parallel loops split by fixed sizes, never
//! by thread count, so results do not depend on the number of threads.

pub mod activation;
pub mod attention;
pub mod attributes;
pub mod batch;
pub mod candidates;
pub mod case;
#[cfg(test)]
pub mod central;
pub mod column_sum;
pub mod contexts;
pub mod cost;
pub mod dropout;
pub mod embedding;
pub mod exclusion;
pub mod full_softmax;
pub mod group;
pub mod layer_norm;
pub mod linear;
pub mod loss_total;
pub mod matmul;
pub mod negatives;
pub mod param;
pub mod propose;
pub mod rank;
pub mod rows;
pub mod sampled_loss;
pub mod scan;
pub mod score;
pub mod score_topk;
pub mod score_topk_wgmma;
pub mod segments;
pub mod softmax_draw;
pub mod table_gradient;
pub mod tile;
pub mod touched;
pub mod vector;
pub mod vocabulary;
pub mod whole_data;

/// The cases of every operation that has a kernel, in the order of a step.
pub fn cases() -> Vec<case::Case> {
    let operations: [fn() -> Vec<case::Case>; 20] = [
        vocabulary::cases,
        batch::cases,
        contexts::cases,
        embedding::cases,
        attributes::cases,
        rows::cases,
        dropout::cases,
        layer_norm::cases,
        linear::cases,
        column_sum::cases,
        attention::cases,
        activation::cases,
        score::cases,
        group::cases,
        touched::cases,
        full_softmax::cases,
        whole_data::cases,
        rank::cases,
        score_topk::cases,
        softmax_draw::cases,
    ];
    operations.into_iter().flat_map(|of| of()).collect()
}

/// The cases of the kernels that round operands to bf16, for a machine that does.
pub fn rounded_cases() -> Vec<case::Case> {
    let operations = [
        rows::rounded_cases,
        attention::rounded_cases,
        full_softmax::rounded_cases,
        rank::rounded_cases,
        score_topk_wgmma::rounded_cases,
    ];
    operations.into_iter().flat_map(|of| of()).collect()
}
