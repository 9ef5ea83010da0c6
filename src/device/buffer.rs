//! Memory of a device: a flat, typed, row-major array.
//!
//! Shapes live in names and comments (`h (R,D)`), not in types. A buffer keeps its capacity when it shrinks, so a batch of
//! changing length allocates only until it has met its longest.

use std::sync::Arc;

use crate::device::arena::{ALIGNMENT, round};
use crate::device::lanes::Lanes;
use crate::device::{Device, Precision, download, elementary};
use crate::error::{Error, Result};

/// Flat memory on the host or on a machine.
pub enum Buffer {
    F32(Vec<f32>),
    F64(Vec<f64>),
    /// Memory of a machine and the elements in use: 4-byte numbers (f32 or u32).
    Machine {
        memory: Memory,
        len: usize,
    },
}

/// A piece of a machine's memory.
pub struct Memory {
    /// Where the machine finds it; aligned to 256 bytes.
    pub address: u64,
    pub bytes: usize,
    /// Frees it on drop.
    pub owner: Box<dyn std::any::Any + Send + Sync>,
}

/// The owner of a piece that others share: those of [`Buffer::side_by_side`].
struct Shared(Arc<Memory>);

impl Memory {
    /// Whether others lie behind it in the same piece.
    pub fn is_shared(&self) -> bool {
        self.owner.is::<Shared>()
    }
}

/// Exactly `n` elements where the memory has to grow: growing by doubling, as a `Vec` does by itself, would hold up to twice the
/// longest batch, and moving what is overwritten anyway both the old and the new memory.
fn resize<T: Real>(v: &mut Vec<T>, n: usize, zero: T) {
    if v.capacity() >= n {
        v.resize(n, zero);
    } else {
        *v = Vec::new();
        *v = vec![zero; n];
    }
}

impl Buffer {
    /// An empty buffer, to be sized by the operation that fills it.
    pub fn empty(device: &Device) -> Buffer {
        match device {
            Device::Host(Precision::F32) => Buffer::F32(Vec::new()),
            Device::Host(Precision::F64) => Buffer::F64(Vec::new()),
            Device::Machine(_) => Buffer::machine(Memory { address: 0, bytes: 0, owner: Box::new(()) }, 0),
        }
    }
    /// `n` elements that nobody has written yet.
    pub fn sized(device: &Device, n: usize) -> Result<Buffer> {
        let mut buffer = Buffer::empty(device);
        buffer.resize(device, n)?;
        Ok(buffer)
    }
    /// `per` elements, which nobody has written yet, for each of `rows`; with room for the round number of rows, so that batches of
    /// about the same length find the same place in recorded steps.
    pub fn of_rows(device: &Device, rows: usize, per: usize) -> Result<Buffer> {
        let mut buffer = Buffer::sized(device, round(rows) * per)?;
        buffer.resize(device, rows * per)?;
        Ok(buffer)
    }
    /// Zeroed buffers of so many elements. In a machine's memory they lie in one piece, in their order and each aligned as if alone,
    /// so that one launch can go through them all ([`Buffer::through`]).
    pub fn side_by_side(device: &Device, sizes: &[usize]) -> Result<Vec<Buffer>> {
        let Device::Machine(runtime) = device else { return sizes.iter().map(|&n| device.zeros(n)).collect() };
        let extent = |n: &usize| (4 * n).next_multiple_of(ALIGNMENT);
        let mut memory = runtime.alloc(sizes.iter().map(extent).sum())?;
        runtime.fill(&mut memory, 0)?;
        let (whole, mut address) = (Arc::new(memory), 0);
        let part = |n: &usize| {
            let owner = Box::new(Shared(whole.clone()));
            let memory = Memory { address: whole.address + address, bytes: extent(n), owner };
            address += extent(n) as u64;
            Buffer::machine(memory, *n)
        };
        Ok(sizes.iter().map(part).collect())
    }
    /// Whether `next` lies directly behind it in one piece of a machine's memory, with nothing but zeros between.
    pub fn goes_on_in(&self, next: &Buffer) -> bool {
        let (Buffer::Machine { memory, .. }, Buffer::Machine { memory: next, .. }) = (self, next) else { return false };
        match (memory.owner.downcast_ref::<Shared>(), next.owner.downcast_ref::<Shared>()) {
            (Some(one), Some(other)) => Arc::ptr_eq(&one.0, &other.0) && memory.address + memory.bytes as u64 == next.address,
            _ => false,
        }
    }
    /// From its start to the end of `last`, which it goes on in; nothing is owned, so both must outlive it.
    pub fn through(&self, last: &Buffer) -> Result<Buffer> {
        let (from, to) = (self.memory()?.address, last.memory()?.address);
        let len = (to - from) as usize / 4 + last.len();
        Ok(Buffer::machine(Memory { address: from, bytes: 4 * len, owner: Box::new(()) }, len))
    }
    /// Overwrites all elements, where they lie, with `values` rounded to its precision.
    pub fn set(&mut self, device: &Device, values: &[f64]) -> Result<()> {
        if values.len() != self.len() {
            return Err(Error::internal(format!("{} values for a buffer of {}", values.len(), self.len())));
        }
        match (self, device) {
            (Buffer::F32(v), _) => v.iter_mut().zip(values).for_each(|(x, &value)| *x = value as f32),
            (Buffer::F64(v), _) => v.copy_from_slice(values),
            (buffer, Device::Machine(runtime)) => {
                let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
                runtime.write(buffer.memory_mut()?, bytemuck::cast_slice(&values))?;
            }
            (Buffer::Machine { .. }, _) => return Err(Error::internal("machine memory without its machine")),
        }
        Ok(())
    }
    /// Elements held.
    pub fn len(&self) -> usize {
        match self {
            Buffer::F32(v) => v.len(),
            Buffer::F64(v) => v.len(),
            Buffer::Machine { len, .. } => *len,
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Memory held, which is that of the most elements so far.
    pub fn bytes(&self) -> u64 {
        match self {
            Buffer::F32(v) => 4 * v.capacity() as u64,
            Buffer::F64(v) => 8 * v.capacity() as u64,
            Buffer::Machine { memory, .. } => memory.bytes as u64,
        }
    }
    /// Sets the length to `n`; the content is unspecified and the caller overwrites it.
    pub fn resize(&mut self, device: &Device, n: usize) -> Result<()> {
        match self {
            Buffer::F32(v) => resize(v, n, 0.0),
            Buffer::F64(v) => resize(v, n, 0.0),
            Buffer::Machine { memory, len } if memory.bytes >= n * 4 => *len = n,
            Buffer::Machine { .. } => {
                if let Device::Machine(runtime) = device {
                    // Given back first: what is overwritten anyway need not be held twice.
                    *self = Buffer::empty(device);
                    *self = Buffer::machine(runtime.alloc(n * 4)?, n);
                }
            }
        }
        Ok(())
    }
    /// The first `len` 4-byte elements of `memory`.
    pub fn machine(memory: Memory, len: usize) -> Buffer {
        Buffer::Machine { memory, len }
    }
    pub fn memory(&self) -> Result<&Memory> {
        match self {
            Buffer::Machine { memory, .. } => Ok(memory),
            _ => Err(Error::internal("a host buffer was given to a machine")),
        }
    }
    pub fn memory_mut(&mut self) -> Result<&mut Memory> {
        match self {
            Buffer::Machine { memory, .. } => Ok(memory),
            _ => Err(Error::internal("a host buffer was given to a machine")),
        }
    }
    /// Sets every element to zero.
    pub fn clear(&mut self, device: &Device) -> Result<()> {
        match (self, device) {
            (Buffer::F32(v), _) => v.fill(0.0),
            (Buffer::F64(v), _) => v.fill(0.0),
            (buffer, Device::Machine(runtime)) => runtime.fill(buffer.memory_mut()?, 0)?,
            (Buffer::Machine { .. }, _) => return Err(Error::internal("machine memory without its machine")),
        }
        Ok(())
    }
    /// A copy on the host, widened to f64.
    pub fn to_f64(&self, device: &Device) -> Result<Vec<f64>> {
        match (self, device) {
            (Buffer::F32(v), _) => Ok(v.iter().map(|&x| f64::from(x)).collect()),
            (Buffer::F64(v), _) => Ok(v.clone()),
            (buffer, Device::Machine(runtime)) => {
                let host: Vec<f32> = download(&**runtime, buffer, buffer.len())?;
                Ok(host.iter().map(|&x| f64::from(x)).collect())
            }
            (Buffer::Machine { .. }, _) => Err(Error::internal("machine memory without its machine")),
        }
    }
    /// The f32 content of a host buffer: the fast path of code that exists only on the plain path.
    pub fn f32s(&self) -> Result<&[f32]> {
        <f32 as Real>::of(self)
    }
    pub fn f32s_mut(&mut self) -> Result<&mut [f32]> {
        <f32 as Real>::of_mut(self)
    }
}

/// The two number types of the plain path.
pub trait Real:
    Lanes
    + Copy
    + Send
    + Sync
    + Default
    + PartialOrd
    + std::fmt::Debug
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
    + std::iter::Sum
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn from_f64(x: f64) -> Self;
    fn f64(self) -> f64;
    /// e^x. In f32 `elementary::exp`, which vectorises and is 0 below the smallest normal number.
    fn exp(self) -> Self;
    /// ln(1 + e^x), without overflow.
    fn softplus(self) -> Self;
    fn ln(self) -> Self;
    fn ln_1p(self) -> Self;
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
    fn abs(self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn powf(self, e: Self) -> Self;
    fn is_finite(self) -> bool;
    fn of(buffer: &Buffer) -> Result<&[Self]>;
    fn of_mut(buffer: &mut Buffer) -> Result<&mut [Self]>;
    fn vec_mut(buffer: &mut Buffer) -> Result<&mut Vec<Self>>;
}

macro_rules! real {
    ($t:ident, $variant:ident, $exp:expr, $softplus:expr) => {
        impl Real for $t {
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;
            const NEG_INFINITY: $t = $t::NEG_INFINITY;
            #[inline(always)]
            fn from_f64(x: f64) -> $t {
                x as $t
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn exp(self) -> $t {
                $exp(self)
            }
            #[inline(always)]
            fn softplus(self) -> $t {
                $softplus(self)
            }
            #[inline(always)]
            fn ln(self) -> $t {
                self.ln()
            }
            #[inline(always)]
            fn ln_1p(self) -> $t {
                self.ln_1p()
            }
            #[inline(always)]
            fn sqrt(self) -> $t {
                self.sqrt()
            }
            #[inline(always)]
            fn tanh(self) -> $t {
                self.tanh()
            }
            #[inline(always)]
            fn abs(self) -> $t {
                self.abs()
            }
            #[inline(always)]
            fn max(self, other: $t) -> $t {
                self.max(other)
            }
            #[inline(always)]
            fn min(self, other: $t) -> $t {
                self.min(other)
            }
            #[inline(always)]
            fn powf(self, e: $t) -> $t {
                self.powf(e)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                self.is_finite()
            }
            fn of(buffer: &Buffer) -> Result<&[$t]> {
                match buffer {
                    Buffer::$variant(v) => Ok(v),
                    _ => Err(Error::internal(concat!("a buffer is not ", stringify!($t), " host memory"))),
                }
            }
            fn of_mut(buffer: &mut Buffer) -> Result<&mut [$t]> {
                <$t as Real>::vec_mut(buffer).map(|v| v.as_mut_slice())
            }
            fn vec_mut(buffer: &mut Buffer) -> Result<&mut Vec<$t>> {
                match buffer {
                    Buffer::$variant(v) => Ok(v),
                    _ => Err(Error::internal(concat!("a buffer is not ", stringify!($t), " host memory"))),
                }
            }
        }
    };
}
real!(f32, F32, elementary::exp, elementary::softplus);
real!(f64, F64, f64::exp, |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p());

/// Runs `$body` with the type alias `$t` bound to the plain path's number type; on a machine, `$machine`.
///
/// ```ignore
/// dispatch!(device, T => reference::<T>(T::of_mut(y)?, T::of(x)?), runtime => launch(runtime, y, x))
/// ```
#[macro_export]
macro_rules! dispatch {
    ($device:expr, $t:ident => $body:expr, $runtime:pat => $machine:expr) => {
        match $device {
            $crate::device::Device::Host($crate::device::Precision::F32) => {
                type $t = f32;
                $body
            }
            $crate::device::Device::Host($crate::device::Precision::F64) => {
                type $t = f64;
                $body
            }
            $crate::device::Device::Machine($runtime) => $machine,
        }
    };
}
