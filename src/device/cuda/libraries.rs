//! Loading CUDA's libraries without a panic: each is opened by absolute path where a wheel or a toolkit has it, and every
//! symbol we call is looked up before the first call (cudarc panics on a missing library or symbol).

use std::ffi::{c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use cudarc::driver::{result, sys as driver};
use cudarc::{cublaslt::sys as cublaslt, nvrtc::sys as nvrtc};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::device::places::{Places, loader_says, versioned};
use crate::error::{Code, Error, Result};

/// What the CUDA runtime of this crate calls in the driver.
const DRIVER: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuMemGetInfo_v2",
    "cuDeviceGetAttribute",
    "cuDeviceGetDefaultMemPool",
    "cuMemPoolSetAttribute",
    "cuMemPoolTrimTo",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuStreamGetCaptureInfo_v3",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemsetD8Async",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphExecKernelNodeSetParams_v2",
    "cuGraphExecEventRecordNodeSetEvent",
    "cuGraphDestroy",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventRecordWithFlags",
    "cuEventSynchronize",
    "cuEventElapsedTime_v2",
    "cuEventDestroy_v2",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// Declares a library's functions as fields, each looked up by its name.
macro_rules! functions {
    ($(#[$about:meta])* $name:ident { $($function:ident($($argument:ty),*)),* $(,)? }) => {
        $(#[$about])*
        #[allow(non_snake_case)]
        pub struct $name { $(pub $function: unsafe extern "C" fn($($argument),*) -> nvrtc::nvrtcResult),* }

        impl $name {
            /// The error is the name of the first that is missing.
            fn of(library: &Library) -> std::result::Result<$name, &'static str> {
                // SAFETY: the types are those of NVIDIA's header, which cudarc's own declarations are made from.
                Ok($name { $($function: unsafe {
                    *library.get(stringify!($function).as_bytes()).map_err(|_| stringify!($function))?
                }),* })
            }
        }
    };
}

functions! {
    /// What we call in NVRTC. They are taken from the very file that was found: cudarc asks the loader for an unversioned name first,
    /// which on some systems is another file.
    Nvrtc {
        nvrtcVersion(*mut c_int, *mut c_int),
        nvrtcGetNumSupportedArchs(*mut c_int),
        nvrtcGetSupportedArchs(*mut c_int),
        nvrtcCreateProgram(
            *mut nvrtc::nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
        ),
        nvrtcCompileProgram(nvrtc::nvrtcProgram, c_int, *const *const c_char),
        nvrtcDestroyProgram(*mut nvrtc::nvrtcProgram),
        nvrtcGetCUBIN(nvrtc::nvrtcProgram, *mut c_char),
        nvrtcGetCUBINSize(nvrtc::nvrtcProgram, *mut usize),
        nvrtcGetProgramLog(nvrtc::nvrtcProgram, *mut c_char),
        nvrtcGetProgramLogSize(nvrtc::nvrtcProgram, *mut usize),
    }
}

const CUBLASLT: &[&str] = &[
    "cublasLtCreate",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
];

const LOOKED_IN: &str = "looked in HARDNEG_NVRTC_DIR, the CUDA toolkit, pip's nvidia packages and the loader's own folders; `hardneg doctor` lists them";

fn missing<'a>(library: &libloading::Library, symbols: &[&'a str]) -> Option<&'a str> {
    // SAFETY: symbols are only looked up, not called.
    symbols.iter().copied().find(|s| unsafe { library.get::<unsafe extern "C" fn()>(s.as_bytes()) }.is_err())
}

/// Starts the driver: its CUDA version (13000 for 13.0) and the number of devices.
pub fn start_driver() -> Result<(i32, i32)> {
    let unusable = |what: String| Error::new(Code::G0501, what).help("use `--device host`, or `auto` to fall back by itself");
    // SAFETY: presence is checked before the first use of the library.
    if !unsafe { driver::is_culib_present() } {
        // SAFETY: as `open_global`; the loader has refused it a moment ago.
        let why = unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW) }.err();
        let why = why.map_or_else(|| "libcuda.so.1 is not what it was".into(), |e| loader_says(&e));
        return Err(unusable(format!("no NVIDIA driver that the loader can open: {why}"))
            .note("looked for libcuda.so.1 and libcuda.so in LD_LIBRARY_PATH and the loader's own folders"));
    }
    // SAFETY: as above; `culib` cannot fail any more.
    if let Some(symbol) = missing(unsafe { driver::culib() }, DRIVER) {
        let what = format!("the NVIDIA driver lacks {symbol}: it is a stub or older than CUDA 12.8 (driver 570)");
        return Err(unusable(what).help("install a driver of version 570 or newer"));
    }
    let mut version = 0;
    // SAFETY: both functions exist and take one valid pointer or nothing.
    let started = unsafe { driver::cuDriverGetVersion(&mut version).result() }.and_then(|()| result::init());
    started.map_err(|e| unusable(format!("the NVIDIA driver does not start: {}", describe(e))))?;
    match result::device::get_count() {
        Ok(0) => Err(unusable("the NVIDIA driver knows no device".into())),
        Ok(n) => Ok((version, n)),
        Err(e) => Err(unusable(format!("the NVIDIA driver lists no devices: {}", describe(e)))),
    }
}

/// Name and meaning of a driver error; valid once the driver's symbols have been checked.
pub fn describe(error: cudarc::driver::DriverError) -> String {
    let text = |t: std::result::Result<&std::ffi::CStr, _>| t.ok().map(|t: &std::ffi::CStr| t.to_string_lossy().into_owned());
    let name = text(error.error_name()).unwrap_or_else(|| format!("{:?}", error.0));
    match text(error.error_string()) {
        Some(meaning) => format!("{name} ({meaning})"),
        None => name,
    }
}

/// A library found: where, or that the loader knows it by itself.
#[derive(Clone, Debug)]
pub struct Found {
    pub path: Option<PathBuf>,
}

/// Loads NVRTC. `newest` is the driver's CUDA major version, which images must not exceed; None without a driver.
pub fn load_nvrtc(places: &Places, newest: Option<u32>) -> Result<(Found, &'static Nvrtc)> {
    static LOADED: OnceLock<(Found, Nvrtc)> = OnceLock::new();
    static LOADING: Mutex<()> = Mutex::new(());
    let _one = LOADING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((found, functions)) = LOADED.get() {
        return Ok((found.clone(), functions));
    }
    let lacking = |what: String| {
        Error::new(Code::G0503, what)
            .note(LOOKED_IN)
            .help("install it with `pip install nvidia-cuda-nvrtc`, or set HARDNEG_NVRTC_DIR to its folder")
    };
    let majors: Vec<u32> = [13, 12].into_iter().filter(|m| newest.is_none_or(|n| *m <= n)).collect();
    let path = places.library("libnvrtc", &majors);
    let library = match &path {
        Some(path) => {
            let library = open_global(path).map_err(|e| lacking(format!("NVRTC does not load: {}", loader_says(&e))))?;
            // NVRTC looks for its builtins by name alone, and no loader path has them.
            let folder = path.parent().unwrap_or(Path::new("/"));
            if let Some(builtins) = majors.iter().find_map(|m| versioned(folder, "libnvrtc-builtins", *m)) {
                open_global(&builtins).map_err(|e| lacking(format!("NVRTC's builtins do not load: {}", loader_says(&e))))?;
            }
            library
        }
        None => {
            let names = majors.iter().map(|major| format!("libnvrtc.so.{major}")).chain(["libnvrtc.so".to_string()]);
            let library = names.into_iter().find_map(|name| open_global(Path::new(&name)).ok());
            library.ok_or_else(|| lacking("the CUDA compiler library (libnvrtc) was not found".into()))?
        }
    };
    let functions =
        Nvrtc::of(library).map_err(|symbol| lacking(format!("the CUDA compiler library lacks {symbol}: it is too old")))?;
    let (found, functions) = LOADED.get_or_init(|| (Found { path }, functions));
    Ok((found.clone(), functions))
}

/// Loads cuBLASLt.
pub fn load_cublaslt(places: &Places, newest: u32) -> Result<Found> {
    let lacking = |what: String| {
        Error::new(Code::G0503, what)
            .note(LOOKED_IN)
            .help("install it with `pip install nvidia-cublas`, or put its folder into HARDNEG_NVRTC_DIR")
    };
    let majors: Vec<u32> = [13, 12].into_iter().filter(|m| *m <= newest).collect();
    let path = places.library("libcublasLt", &majors);
    if let Some(path) = &path {
        open_global(path).map_err(|e| lacking(format!("cuBLASLt does not load: {}", loader_says(&e))))?;
    }
    // SAFETY: presence is checked before the library is used.
    if !unsafe { cublaslt::is_culib_present() } {
        return Err(lacking("the matrix library (libcublasLt) was not found".into()));
    }
    // SAFETY: present, so this cannot fail.
    if let Some(symbol) = missing(unsafe { cublaslt::culib() }, CUBLASLT) {
        return Err(lacking(format!("the matrix library lacks {symbol}: it is too old")));
    }
    // cudarc asks the loader for an unversioned name first, which may be another file than the one that was found.
    // SAFETY: the function exists and takes nothing.
    let version = unsafe { cublaslt::cublasLtGetVersion() };
    let major = (version / if version < 100_000 { 1_000 } else { 10_000 }) as u32;
    if !majors.contains(&major) {
        let found = path.map_or_else(String::new, |path| format!(", although {} was found", path.display()));
        return Err(lacking(format!("the loader gives a matrix library (libcublasLt.so) of version {version}{found}"))
            .help("take its folder out of LD_LIBRARY_PATH"));
    }
    Ok(Found { path })
}

/// Opens a library for the whole process and for good, so that a later look-up by its plain name finds it.
fn open_global(path: &Path) -> std::result::Result<&'static Library, libloading::Error> {
    // SAFETY: NVIDIA's libraries run no code at load that depends on ours; they stay loaded until the process ends.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?;
    Ok(Box::leak(Box::new(library)))
}
