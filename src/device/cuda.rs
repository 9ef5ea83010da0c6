//! Finding an NVIDIA driver without a panic.
//!
//! cudarc panics when a library or a symbol is missing, so presence and the symbols we need are checked first. No kernel
//! is launched yet: the plain path runs every operation, and `open` says so.

use cudarc::driver::{CudaContext, sys};

use crate::device::Device;
use crate::error::{Code, Error, Result};

/// Driver entry points the CUDA runtime of this crate calls; a driver without one is too old.
const NEEDED: &[&str] =
    &["cuInit", "cuDriverGetVersion", "cuMemAllocAsync", "cuGraphInstantiateWithFlags", "cuLaunchKernelEx", "cuModuleLoadDataEx"];

/// Number of CUDA devices, or why there are none.
fn devices() -> std::result::Result<i32, String> {
    // SAFETY: the presence check comes before the first use of the library, and symbols are only looked up, not called.
    unsafe {
        if !sys::is_culib_present() {
            return Err("no NVIDIA driver: libcuda.so.1 was not found by the loader".into());
        }
        let library = sys::culib();
        if let Some(symbol) = NEEDED.iter().find(|s| library.get::<unsafe extern "C" fn()>(s.as_bytes()).is_err()) {
            return Err(format!("the NVIDIA driver is too old: it lacks {symbol}"));
        }
    }
    CudaContext::device_count().map_err(|e| format!("the NVIDIA driver refused to start: {e:?}"))
}

pub fn open(ordinal: u32) -> Result<Device> {
    let cure = "use `--device host`, or `--device auto` to fall back by itself";
    match devices() {
        Err(why) => Err(Error::new(Code::G0501, why).help(cure)),
        Ok(n) if n as u32 <= ordinal => {
            Err(Error::new(Code::G0501, format!("CUDA device {ordinal} was requested, {n} found")).help(cure))
        }
        Ok(_) => {
            Err(Error::new(Code::G0502, "this version trains on the plain path only: its kernels are not built in yet")
                .help(cure))
        }
    }
}
