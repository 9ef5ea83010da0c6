//! Where an operation runs: the plain path, or a machine that runs our kernels.
//!
//! A machine ([`Runtime`]) knows memory, launches and time, and no operation; an operation (`ops/`) knows its formula, its
//! launch arithmetic and its plain reference. The plain path is not a third machine: it is the definition of every
//! operation (`Host(F64)` the oracle, `Host(F32)` the product where there is no GPU). `dyn`, not a type parameter: a
//! virtual call costs nanoseconds, and a parameter would spread to every struct.

mod buffer;
#[cfg(feature = "cuda")]
mod cuda;
mod elementary;
mod gemm;
mod lanes;

use std::sync::Arc;

pub use buffer::{Buffer, Real};
pub use gemm::{Mat, gemm};

use crate::error::{Code, Error, Result};

/// Precision of the plain path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    F64,
}

/// Where an operation runs.
#[derive(Clone)]
pub enum Device {
    Host(Precision),
    Machine(Arc<dyn Runtime>),
}

impl Device {
    /// The GPU-less product.
    pub const HOST: Device = Device::Host(Precision::F32);
    /// The oracle of every numerical test.
    pub const ORACLE: Device = Device::Host(Precision::F64);

    /// A zeroed buffer of `n` reals in this device's working precision.
    pub fn zeros(&self, n: usize) -> Result<Buffer> {
        match self {
            Device::Host(Precision::F32) => Ok(Buffer::F32(vec![0.0; n])),
            Device::Host(Precision::F64) => Ok(Buffer::F64(vec![0.0; n])),
            Device::Machine(runtime) => runtime.alloc(n * 4),
        }
    }
    /// A buffer holding `values`, rounded to this device's working precision.
    pub fn reals(&self, values: &[f64]) -> Result<Buffer> {
        match self {
            Device::Host(Precision::F32) => Ok(Buffer::F32(values.iter().map(|&v| v as f32).collect())),
            Device::Host(Precision::F64) => Ok(Buffer::F64(values.to_vec())),
            Device::Machine(runtime) => {
                let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
                let mut buffer = runtime.alloc(values.len() * 4)?;
                runtime.write(&mut buffer, bytemuck::cast_slice(&values))?;
                Ok(buffer)
            }
        }
    }
}

/// A machine that can run our kernels. It knows memory, launches and time; it knows no operation.
pub trait Runtime: Send + Sync {
    fn facts(&self) -> &Facts;
    /// `bytes` of device memory, freed on drop of the buffer.
    fn alloc(&self, bytes: usize) -> Result<Buffer>;
    fn write(&self, to: &mut Buffer, from: &[u8]) -> Result<()>;
    fn read(&self, from: &Buffer, to: &mut [u8]) -> Result<()>;
    fn fill(&self, buffer: &mut Buffer, byte: u8) -> Result<()>;
    /// Enqueues one kernel; arguments are tagged by use, so that a machine can fault a kernel that writes an input.
    fn launch(&self, kernel: &Kernel, grid: Grid, args: &mut [Arg<'_>]) -> Result<()>;
    /// Records what `work` enqueues, to be replayed without the host (a CUDA graph).
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Replay>;
    fn replay(&self, recorded: &Replay) -> Result<()>;
    /// A point in the machine's time, and the seconds between two.
    fn mark(&self) -> Result<Mark>;
    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64>;
    fn sync(&self) -> Result<()>;
}

/// What a machine is.
#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    /// The compiler's target, such as `sm_90a`.
    pub arch: String,
    pub multiprocessors: u32,
    pub memory_bytes: u64,
}

/// One entry point of one kernel file, specialised by defines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Stem of the file in `kernels/`.
    pub file: &'static str,
    /// The `extern "C"` name.
    pub entry: &'static str,
    /// Sizes and switches, as `-DNAME=VALUE`. Numbers only: no text of a user ever reaches a compiler.
    pub defines: Vec<(&'static str, i64)>,
}

/// Blocks, threads per block, and bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub threads: [u32; 3],
    pub shared_bytes: u32,
}

/// A kernel argument, tagged by use.
pub enum Arg<'a> {
    In(&'a Buffer),
    Out(&'a mut Buffer),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// A recorded sequence of launches; its meaning belongs to the machine that recorded it.
pub struct Replay(pub Box<dyn std::any::Any + Send + Sync>);

/// A point in a machine's time.
pub struct Mark(pub Box<dyn std::any::Any + Send + Sync>);

/// What the user asks for with `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Auto,
    Host,
    Cuda(u32),
}

impl std::str::FromStr for Request {
    type Err = Error;
    fn from_str(text: &str) -> Result<Request> {
        let ordinal = |n: &str| n.parse().ok().map(Request::Cuda);
        match text {
            "auto" => Some(Request::Auto),
            "host" | "cpu" => Some(Request::Host),
            "cuda" => Some(Request::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(ordinal),
        }
        .ok_or_else(|| {
            Error::new(Code::C0202, format!("`{text}` is not a device")).help("use `auto`, `host`, `cuda` or `cuda:N`")
        })
    }
}

/// Opens the requested device; `auto` falls back to the plain path and says why in the second value.
pub fn open(request: Request) -> Result<(Device, Option<String>)> {
    match request {
        Request::Host => Ok((Device::HOST, None)),
        Request::Auto => match probe_cuda(0) {
            Ok(device) => Ok((device, None)),
            Err(error) => Ok((Device::HOST, Some(error.what().to_string()))),
        },
        Request::Cuda(ordinal) => probe_cuda(ordinal).map(|device| (device, None)),
    }
}

#[cfg(feature = "cuda")]
fn probe_cuda(ordinal: u32) -> Result<Device> {
    cuda::open(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn probe_cuda(_: u32) -> Result<Device> {
    Err(Error::new(Code::G0501, "this build has no CUDA support").help("build with the feature `cuda`"))
}

/// The answer of an operation that has no kernel for a machine yet.
pub fn no_kernel(operation: &str) -> Error {
    Error::new(Code::G0502, format!("`{operation}` has no kernel")).help("use `--device host`")
}
