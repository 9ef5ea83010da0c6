//! Where an operation runs: the plain path, or a machine that runs our kernels.
//!
//! A machine ([`Runtime`]) knows memory, launches and time, and no operation; an operation (`ops/`) knows its formula, its
//! launch arithmetic and its plain reference. The plain path is not a third machine: it is the definition of every
//! operation (`Host(F64)` the oracle, `Host(F32)` the product where there is no GPU). `dyn`, not a type parameter: a
//! virtual call costs nanoseconds, and a parameter would spread to every struct.

mod arena;
mod buffer;
#[cfg(feature = "cuda")]
pub mod cuda;
mod elementary;
#[cfg(feature = "emulator")]
pub mod emulator;
mod gemm;
pub mod heap;
mod lanes;
pub mod numbers;
pub mod places;
pub mod recorded;
mod scalar;
pub mod sources;
pub mod traffic;
pub mod watched;

use std::sync::Arc;

pub use arena::{TABLE, round};
pub use buffer::{Buffer, Memory, Real};
pub use elementary::exp_f64;
#[cfg(test)]
pub use gemm::made_by;
pub use gemm::{Mat, gemm, kept_per_thread};
pub use numbers::Numbers;
pub use scalar::Scalar;

use crate::error::{Code, Error, Result};
use places::{Places, Rounding};

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
    /// The same machine, whose steps are recorded from now on; the plain path as it is.
    pub fn recording(self, graphs: recorded::Graphs) -> Result<Device> {
        Ok(match self {
            Device::Machine(runtime) => Device::Machine(Arc::new(recorded::Recorded::new(runtime, graphs)?)),
            host => host,
        })
    }
    pub fn is_machine(&self) -> bool {
        matches!(self, Device::Machine(_))
    }
    /// The GPU-less product.
    pub const HOST: Device = Device::Host(Precision::F32);
    /// The oracle of every numerical test.
    pub const ORACLE: Device = Device::Host(Precision::F64);

    /// A zeroed buffer of `n` reals in this device's working precision.
    pub fn zeros(&self, n: usize) -> Result<Buffer> {
        match self {
            Device::Host(Precision::F32) => Ok(Buffer::F32(vec![0.0; n])),
            Device::Host(Precision::F64) => Ok(Buffer::F64(vec![0.0; n])),
            Device::Machine(runtime) => {
                let mut memory = runtime.alloc(n * 4)?;
                runtime.fill(&mut memory, 0)?;
                Ok(Buffer::machine(memory, n))
            }
        }
    }
    /// A buffer holding `values`, rounded to this device's working precision.
    pub fn reals(&self, values: &[f64]) -> Result<Buffer> {
        match self {
            Device::Host(Precision::F32) => Ok(Buffer::F32(values.iter().map(|&v| v as f32).collect())),
            Device::Host(Precision::F64) => Ok(Buffer::F64(values.to_vec())),
            Device::Machine(runtime) => {
                let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
                upload(&**runtime, &values)
            }
        }
    }
}

/// A copy of `values` in a machine's memory, for as long as a run: in memory of its own size, where [`upload`] is for what a step brings.
pub fn place<T: bytemuck::Pod>(runtime: &dyn Runtime, values: &[T]) -> Result<Buffer> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let mut memory = runtime.alloc(bytes.len())?;
    runtime.write(&mut memory, bytes)?;
    Ok(Buffer::machine(memory, bytes.len() / 4))
}

/// A copy of `values` in a machine's memory, for a step; numbers of 4 or 8 bytes.
pub fn upload<T: bytemuck::Pod>(runtime: &dyn Runtime, values: &[T]) -> Result<Buffer> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    Ok(Buffer::machine(runtime.upload(bytes)?, bytes.len() / 4))
}

/// `count` numbers from the start of a machine's buffer; waits for the work before it.
pub fn download<T: bytemuck::Pod>(runtime: &dyn Runtime, buffer: &Buffer, count: usize) -> Result<Vec<T>> {
    let mut host = vec![T::zeroed(); count];
    runtime.read(buffer.memory()?, bytemuck::cast_slice_mut(&mut host))?;
    Ok(host)
}

/// A machine that can run our kernels. It knows memory, launches and time; it knows no operation.
///
/// Work runs in the order of the calls; `read` waits for what came before it, everything else may return early.
pub trait Runtime: Send + Sync {
    fn facts(&self) -> &Facts;
    /// `bytes` of uninitialised device memory, aligned to 256, freed on drop. Zero bytes are allowed.
    fn alloc(&self, bytes: usize) -> Result<Memory>;
    /// `bytes` in memory of their own.
    fn upload(&self, bytes: &[u8]) -> Result<Memory> {
        let mut memory = self.alloc(bytes.len())?;
        self.write(&mut memory, bytes)?;
        Ok(memory)
    }
    /// Overwrites the first `from.len()` bytes.
    fn write(&self, to: &mut Memory, from: &[u8]) -> Result<()>;
    /// Copies the first `to.len()` bytes to the host.
    fn read(&self, from: &Memory, to: &mut [u8]) -> Result<()>;
    fn fill(&self, memory: &mut Memory, byte: u8) -> Result<()>;
    /// Enqueues one kernel; arguments are tagged by use, so that a machine can fault a kernel that writes an input.
    fn launch(&self, kernel: &Kernel, grid: Grid, args: &mut [Arg<'_>]) -> Result<()>;
    /// `C = scale A B`, plus what `plus` says; C (m,n), A (m,k), B (k,n), `shape` is `[m, n, k]`. The one call into a library of
    /// matrix products (cuBLASLt; the `gemm` crate on the emulator).
    fn matmul(&self, c: MatOut, a: MatIn, b: MatIn, shape: [usize; 3], scale: f32, plus: Plus) -> Result<()>;
    /// Records what `work` enqueues, to be replayed without the host (a CUDA graph).
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Replay>;
    fn replay(&self, recorded: &Replay) -> Result<()>;
    /// From now on call number `at` of a recording, in the order in which `capture` met them, does this instead; for
    /// [`Amendment::Mark`] the mark that the next replay sets.
    fn amend(&self, recorded: &mut Replay, at: usize, with: Amendment<'_, '_>) -> Result<Option<Mark>>;
    /// What was enqueued since the last call is a step, and the next may be like it: a machine may record it.
    fn step(&self) -> Result<()> {
        Ok(())
    }
    /// What became of the steps, where they are recorded.
    fn steps(&self) -> Option<recorded::Steps> {
        None
    }
    /// A point in the machine's time, and the seconds between two.
    fn mark(&self) -> Result<Mark>;
    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64>;
    fn sync(&self) -> Result<()>;
}

/// A row-major f32 matrix in machine memory: element `(i, j)` is `data[first + i * stride + j]`, or of its transpose.
#[derive(Clone, Copy)]
pub struct MatIn<'a> {
    pub data: &'a Buffer,
    pub first: usize,
    pub stride: usize,
    /// Whether the product uses `data` transposed: a (m,k) operand is then stored as (k,m).
    pub transposed: bool,
}

impl<'a> MatIn<'a> {
    /// A whole buffer of rows `stride` long.
    pub fn new(data: &'a Buffer, stride: usize) -> MatIn<'a> {
        MatIn { data, first: 0, stride, transposed: false }
    }
    pub fn t(self) -> MatIn<'a> {
        MatIn { transposed: !self.transposed, ..self }
    }
}

/// The row-major f32 result of a product in machine memory.
pub struct MatOut<'a> {
    pub data: &'a mut Buffer,
    pub first: usize,
    pub stride: usize,
}

impl<'a> MatOut<'a> {
    /// A whole buffer of rows `stride` long.
    pub fn new(data: &'a mut Buffer, stride: usize) -> MatOut<'a> {
        MatOut { data, first: 0, stride }
    }
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub enum Plus<'a> {
    Nothing,
    /// What C held.
    Before,
    /// A row of n numbers, to every row of C: a layer's bias, without another pass over the product.
    Row(&'a Buffer),
}

impl Plus<'_> {
    pub fn accumulates(self) -> bool {
        matches!(self, Plus::Before)
    }
}

/// What a machine is.
#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    /// The compiler's target, such as `sm_90a`.
    pub arch: String,
    pub multiprocessors: u32,
    /// Free when it was opened.
    pub memory_bytes: u64,
    pub rounding: Rounding,
}

impl Facts {
    /// Whether it has the words of `kernels/device.cuh` that are Hopper's own; the emulator has all words.
    pub fn hopper(&self) -> bool {
        ["sm_90a", "emulator"].contains(&self.arch.as_str())
    }
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

impl Kernel {
    pub fn new(file: &'static str, entry: &'static str, defines: &[(&'static str, i64)]) -> Kernel {
        Kernel { file, entry, defines: defines.to_vec() }
    }
    /// What adds a row of `n` numbers to each of `rows`, given those, the row, and how many numbers there are: [`Plus::Row`], where a
    /// library has no such product.
    pub fn adding_a_row(rows: usize, n: usize) -> (Kernel, Grid) {
        (Kernel::new("linear", "linear_bias", &[("WIDTH", n as i64)]), Grid::row((rows * n).div_ceil(1024), 256))
    }
    /// What fills `n` words, given those, how many they are, and the word: [`Runtime::fill`], where a step is recorded.
    pub fn filling(n: usize) -> (Kernel, Grid) {
        (Kernel::new("rows", "rows_fill", &[]), Grid::row(n.div_ceil(1024), 256))
    }
}

/// Blocks, threads per block, and bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
}

impl Grid {
    /// A row of blocks without dynamic shared memory.
    pub fn row(blocks: usize, threads: u32) -> Grid {
        Grid { blocks: [blocks as u32, 1, 1], threads, shared_bytes: 0 }
    }
}

/// A kernel argument, tagged by use.
pub enum Arg<'a> {
    In(&'a Buffer),
    Out(&'a mut Buffer),
    /// The same from so many bytes on, for a kernel that works on some rows.
    InFrom(&'a Buffer, usize),
    OutFrom(&'a mut Buffer, usize),
    /// The null pointer: an optional array that is absent.
    None,
    U32(u32),
    U64(u64),
    F32(f32),
}

/// What a call of a recording is changed to: one of its own kind, and for a launch of the same kernel.
pub enum Amendment<'a, 'b> {
    Launch(&'a Kernel, Grid, &'a mut [Arg<'b>]),
    Mark,
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
    /// The kernels themselves, run by a C++ machine on the processor: for tests, not for speed.
    Emulator,
}

impl std::str::FromStr for Request {
    type Err = Error;
    fn from_str(text: &str) -> Result<Request> {
        let ordinal = |n: &str| n.parse().ok().map(Request::Cuda);
        match text {
            "auto" => Some(Request::Auto),
            "host" | "cpu" => Some(Request::Host),
            "cuda" => Some(Request::Cuda(0)),
            "emulator" => Some(Request::Emulator),
            other => other.strip_prefix("cuda:").and_then(ordinal),
        }
        .ok_or_else(|| {
            Error::new(Code::C0202, format!("`{text}` is not a device"))
                .help("use `auto`, `host`, `cuda`, `cuda:N` or `emulator`")
        })
    }
}

/// Whether the operands of [`Runtime::matmul`] lie inside their buffers.
pub fn check_product(c: &MatOut, a: &MatIn, b: &MatIn, [m, n, k]: [usize; 3], plus: Plus) -> Result<()> {
    let row_fits = if let Plus::Row(row) = plus { row.len() == n } else { true };
    let inside = |len: usize, first: usize, stride: usize, rows: usize, columns: usize| {
        rows == 0 || columns == 0 || stride >= columns && first + (rows - 1) * stride + columns <= len
    };
    let operand = |x: &MatIn, rows: usize, columns: usize| {
        let (rows, columns) = if x.transposed { (columns, rows) } else { (rows, columns) };
        inside(x.data.len(), x.first, x.stride, rows, columns)
    };
    if row_fits && operand(a, m, k) && operand(b, k, n) && inside(c.data.len(), c.first, c.stride, m, n) {
        Ok(())
    } else {
        Err(Error::internal(format!("a product of shape {:?} leaves its buffers", [m, n, k])))
    }
}

/// Opens the requested device; `auto` falls back to the plain path and says why in the second value.
pub fn open(request: Request, places: &Places) -> Result<(Device, Option<String>)> {
    match request {
        Request::Host => Ok((Device::HOST, None)),
        Request::Auto => match probe_cuda(0, places) {
            Ok(device) => Ok((device, None)),
            Err(error) => Ok((Device::HOST, Some(error.what().to_string()))),
        },
        Request::Cuda(ordinal) => probe_cuda(ordinal, places).map(|device| (device, None)),
        Request::Emulator => open_emulator(places).map(|device| (device, None)),
    }
}

/// What this computer has to run kernels with, part by part: a description, or what is missing and how to get it.
pub fn survey(places: &Places) -> Vec<(&'static str, Result<String>)> {
    #[cfg(feature = "cuda")]
    let parts = cuda::survey(places);
    #[cfg(not(feature = "cuda"))]
    let parts = {
        let _ = places;
        vec![("driver", probe_cuda(0, places).map(|_| String::new()))]
    };
    parts
}

#[cfg(feature = "cuda")]
fn probe_cuda(ordinal: u32, places: &Places) -> Result<Device> {
    cuda::open(ordinal, places)
}

#[cfg(not(feature = "cuda"))]
fn probe_cuda(_: u32, _: &Places) -> Result<Device> {
    Err(Error::new(Code::G0501, "this build has no CUDA support").help("build with the feature `cuda`"))
}

#[cfg(feature = "emulator")]
fn open_emulator(places: &Places) -> Result<Device> {
    let cache = places.cache.as_ref().ok_or_else(|| {
        Error::new(Code::G0507, "the emulator has no folder for its compiled kernels").help("set HOME or XDG_CACHE_HOME")
    })?;
    emulator::open(&emulator::Options { rounding: places.rounding, ..emulator::Options::new(cache) })
}

#[cfg(not(feature = "emulator"))]
fn open_emulator(_: &Places) -> Result<Device> {
    Err(Error::new(Code::G0501, "this build has no emulator").help("build with the feature `emulator`, or use `--device host`"))
}
