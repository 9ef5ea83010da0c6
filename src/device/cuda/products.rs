//! Matrix products by cuBLASLt: the one place where a library does our arithmetic.
//!
//! cuBLASLt knows column-major matrices; a row-major C = A B is its C^T = B^T A^T, so the operands change places and nothing
//! moves. The algorithm of a shape is chosen once by the library's heuristic and kept, among those that add partial sums in
//! a fixed order: the same product has the same bits every time.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;

use crate::device::places::Rounding;
use crate::device::{MatIn, MatOut, Plus};
use crate::error::{Code, Error, Result};

/// Scratch memory an algorithm may ask for; NVIDIA's recommendation for Hopper.
pub const WORKSPACE_BYTES: usize = 32 << 20;

/// Everything that decides the algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Form {
    shape: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    /// Bytes every pointer is a multiple of, at most 256.
    alignment: [u32; 3],
    /// The same of a row that is to be added.
    row: Option<u32>,
}

struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    /// Of the library's A and B, which are our B and A, and of C.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Whether a row is added, by the epilogue.
    row: bool,
}

/// A handle with the plans of all shapes met so far. Plans live until the process ends: a model has a few dozen shapes.
pub struct Products {
    handle: sys::cublasLtHandle_t,
    rounding: Rounding,
    plans: HashMap<Form, Plan>,
}

// SAFETY: cuBLASLt handles and descriptors may be used from any thread, one at a time; `&mut self` guards that.
unsafe impl Send for Products {}

fn failed(what: &str, error: CublasError) -> Error {
    Error::new(Code::G0505, format!("cuBLASLt: {what}: {error}"))
        .help("another version of cuBLASLt may do (`pip install nvidia-cublas`); use `--device host` meanwhile")
}

impl Products {
    /// After `libraries::load_cublaslt`.
    pub fn new(rounding: Rounding) -> Result<Products> {
        let handle = result::create_handle().map_err(|e| failed("no handle", e))?;
        Ok(Products { handle, rounding, plans: HashMap::new() })
    }

    /// See [`crate::device::Runtime::matmul`]; enqueued on `stream`, with `workspace` of [`WORKSPACE_BYTES`]. False: this library has
    /// no algorithm that adds a row to such a product, and the row is still to be added.
    pub fn multiply(
        &mut self,
        c: &MatOut,
        a: &MatIn,
        b: &MatIn,
        shape: [usize; 3],
        scale: f32,
        plus: Plus,
        workspace: u64,
        stream: *mut c_void,
    ) -> Result<bool> {
        let address = |data: &crate::device::Buffer, first: usize| Ok(data.memory()?.address + 4 * first as u64);
        let pointers = [address(c.data, c.first)?, address(a.data, a.first)?, address(b.data, b.first)?];
        let aligned = |p: u64| 1u32 << p.trailing_zeros().min(8);
        let row = if let Plus::Row(row) = plus { Some(address(row, 0)?) } else { None };
        let form = Form {
            shape,
            strides: [c.stride, a.stride, b.stride],
            transposed: [a.transposed, b.transposed],
            alignment: pointers.map(aligned),
            row: row.map(aligned),
        };
        if !self.plans.contains_key(&form) {
            let plan = self.plan(&form, row).or_else(|e| if row.is_some() { self.plan(&form, None) } else { Err(e) });
            let plan = plan.map_err(|e| failed(&format!("no algorithm for the product {shape:?}"), e))?;
            self.plans.insert(form, plan);
        }
        let plan = &self.plans[&form];
        let beta = if plus.accumulates() { 1.0f32 } else { 0.0 };
        if let (true, Some(row)) = (plan.row, row) {
            let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            // SAFETY: the descriptor is ours and in no other call; a device pointer has 8 bytes.
            unsafe { result::set_matmul_desc_attribute(plan.operation, which, (&raw const row).cast(), 8) }
                .map_err(|e| failed("no row for the epilogue", e))?;
        }
        let [c, a, b] = pointers.map(|p| p as *mut c_void);
        // SAFETY: the descriptors belong to `handle` and are never destroyed; the pointers are device memory that the
        // caller's buffers keep alive, large enough by the caller's check; scalars are read during the call.
        unsafe {
            result::matmul(
                self.handle,
                plan.operation,
                (&raw const scale).cast(),
                (&raw const beta).cast(),
                b,
                plan.layouts[0],
                a,
                plan.layouts[1],
                c,
                plan.layouts[2],
                c,
                plan.layouts[2],
                &plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
        }
        .map_err(|e| failed(&format!("the product {shape:?} failed"), e))?;
        Ok(plan.row || row.is_none())
    }

    /// `row`: the address of one that is added by the product itself; the library chooses with it in view.
    fn plan(&self, form: &Form, row: Option<u64>) -> std::result::Result<Plan, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Desc;
        use sys::cublasLtMatmulPreferenceAttributes_t as Prefer;
        let real = sys::cudaDataType_t::CUDA_R_32F;
        let compute = match self.rounding {
            Rounding::F32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            Rounding::Tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            Rounding::Bf16 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_16BF,
        };
        let [m, n, k] = form.shape;
        let operation = result::create_matmul_desc(compute, real)?;
        let preference = result::create_matmul_pref()?;
        // Our operand (rows, columns) as the library's column-major (columns, rows); transposed, it is stored the other way.
        let layout = |rows: usize, columns: usize, transposed: bool, stride: usize| {
            let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
            result::create_matrix_layout(real, columns as u64, rows as u64, stride as i64)
        };
        let layouts = [
            layout(k, n, form.transposed[1], form.strides[2])?,
            layout(m, k, form.transposed[0], form.strides[1])?,
            layout(m, n, false, form.strides[0])?,
        ];
        // CUBLAS_OP_N is 0 and CUBLAS_OP_T is 1 (cublas_api.h).
        let turns = [form.transposed[1], form.transposed[0]].map(i32::from);
        // Sums of split products through the workspace or not at all; in place they would depend on the order of blocks.
        let in_order = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
            | sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        let workspace = WORKSPACE_BYTES as u64;
        let [align_c, align_a, align_b] = form.alignment;
        let numbers = [
            (Prefer::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, in_order),
            (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_b),
            (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_a),
            (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_c),
            (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_c),
        ];
        // SAFETY: all descriptors were just created; every value is as large as its attribute.
        unsafe {
            for (which, turn) in [Desc::CUBLASLT_MATMUL_DESC_TRANSA, Desc::CUBLASLT_MATMUL_DESC_TRANSB].into_iter().zip(&turns) {
                result::set_matmul_desc_attribute(operation, which, (&raw const *turn).cast(), 4)?;
            }
            if let Some(row) = row {
                // Of the library's columns, which are our rows.
                let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
                let (which, place) = (Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER);
                result::set_matmul_desc_attribute(operation, which, (&raw const epilogue).cast(), 4)?;
                result::set_matmul_desc_attribute(operation, place, (&raw const row).cast(), 8)?;
            }
            let bytes = Prefer::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, bytes, (&raw const workspace).cast(), 8)?;
            for (which, number) in &numbers {
                result::set_matmul_pref_attribute(preference, *which, (&raw const *number).cast(), 4)?;
            }
            let [b, a, c] = layouts;
            let chosen = result::get_matmul_algo_heuristic(self.handle, operation, b, a, c, c, preference);
            let _ = result::destroy_matmul_pref(preference);
            Ok(Plan { operation, layouts, algorithm: chosen?.algo, row: row.is_some() })
        }
    }
}
