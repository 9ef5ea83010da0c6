//! The CUDA runtime: memory, launches, products, graphs and time of one NVIDIA GPU.
//!
//! One stream carries all work, so order is the order of the calls. Kernels are compiled at their first use for the card's
//! own architecture (`nvrtc.rs`), products go to cuBLASLt (`products.rs`); both libraries and the driver are found at run
//! time (`libraries.rs`), so the same binary starts on a computer without any of them.

mod libraries;
pub mod nvrtc;
mod products;
mod staging;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{DriverError, result, sys};

use crate::device::places::Places;
use crate::device::{Amendment, Arg, Device, Facts, Grid, Kernel, Mark, MatIn, MatOut, Memory, Plus, Replay, Runtime};
use crate::error::{Code, Error, Result};
use products::{Products, WORKSPACE_BYTES};
use staging::Staging;

/// What this computer has of CUDA, part by part: a description, or what is missing.
pub fn survey(places: &Places) -> Vec<(&'static str, Result<String>)> {
    let dotted = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
    let place = |found: &libraries::Found| match &found.path {
        Some(path) => path.display().to_string(),
        None => "found by the loader".to_string(),
    };
    let driver = libraries::start_driver();
    let newest = driver.as_ref().ok().map(|(version, _)| *version as u32 / 1000);
    let nvrtc = nvrtc::Nvrtc::load(places, newest).map(|n| format!("{}.{}, {}", n.version.0, n.version.1, place(&n.found)));
    let cublaslt = libraries::load_cublaslt(places, newest.unwrap_or(13)).map(|found| place(&found));
    let driver = driver.map(|(version, count)| format!("CUDA {}, {count} device(s)", dotted(version)));
    vec![("driver", driver), ("nvrtc", nvrtc), ("cublaslt", cublaslt)]
}

/// Opens GPU `ordinal`.
pub fn open(ordinal: u32, places: &Places) -> Result<Device> {
    Cuda::open(ordinal, places).map(|cuda| Device::Machine(Arc::new(cuda)))
}

struct Cuda {
    facts: Facts,
    driver: Arc<Driver>,
    compiler: nvrtc::Nvrtc,
    cache: Option<std::path::PathBuf>,
    functions: Mutex<HashMap<Kernel, Function>>,
    /// Handles of loaded files, by file and defines: one image holds all entries of a file.
    modules: Mutex<HashMap<Kernel, Module>>,
    products: Mutex<Products>,
    workspace: Memory,
    /// None where no memory can be pinned: copies then wait for the stream.
    staging: Mutex<Option<Staging>>,
    /// The last node of every call of the recording under way.
    nodes: Mutex<Vec<Node>>,
}

/// A node of a graph that is recorded, or was.
struct Node {
    handle: sys::CUgraphNode,
    /// Those of a mark: the one recorded with it and the one it sets now. The driver does not promise to keep them.
    _events: [Option<Arc<Event>>; 2],
}
// SAFETY: as for `Driver`.
unsafe impl Send for Node {}
unsafe impl Sync for Node {}

/// The stream and its context; lives as long as any piece of memory does.
struct Driver {
    context: sys::CUcontext,
    stream: sys::CUstream,
    capturing: std::sync::atomic::AtomicBool,
}

// SAFETY: contexts, streams, modules and functions are process-wide handles that any thread may use once the context is
// current there, which every call makes sure of.
unsafe impl Send for Driver {}
unsafe impl Sync for Driver {}

#[derive(Clone, Copy)]
struct Module(sys::CUmodule);
// SAFETY: as for `Driver`.
unsafe impl Send for Module {}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory it has been allowed so far.
    shared_bytes: u32,
}
// SAFETY: as for `Driver`.
unsafe impl Send for Function {}

/// A driver error with what was being done.
fn failed(doing: &str, error: DriverError) -> Error {
    let out_of_memory = error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    let text = format!("{doing}: {}", libraries::describe(error));
    if out_of_memory {
        return Error::new(Code::G0601, text).help("lower train.batch_size, sampler.negatives, model.max_len or model.dim");
    }
    let failure = Error::new(Code::G0505, text);
    match ends_the_context(error.0) {
        true => failure
            .note("the GPU answers nothing more in this process; what was written before is intact")
            .help("run the same command again; a training continues from its last checkpoint"),
        false => failure.help("use `--device host` meanwhile; a newer driver may do"),
    }
}

/// Whether an error is answered to every later call, too: CUDA's own list of those that leave a process in an inconsistent state, and
/// hardware that is beyond repair.
fn ends_the_context(error: sys::CUresult) -> bool {
    matches!(error as u32, 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context was retained by `Cuda::open` and lives until the process ends.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("entering the GPU's context", e))
    }
    /// Refuses what a replay could not do again.
    fn is_not_recording(&self, what: &str) -> Result<()> {
        match self.capturing.load(Relaxed) {
            true => Err(Error::internal(format!("{what} while a graph was recorded"))),
            false => Ok(()),
        }
    }
    fn synchronize(&self, doing: &str) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed(doing, e))
    }
}

/// Frees device memory on drop.
struct Owner {
    address: u64,
    driver: Arc<Driver>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // A dead context frees nothing and must not stop an unwinding program.
        if self.driver.enter().is_ok() {
            // SAFETY: allocated by `alloc` on this stream and freed once, after everything enqueued before.
            let _ = unsafe { result::free_async(self.address, self.driver.stream) };
        }
    }
}

impl Cuda {
    fn open(ordinal: u32, places: &Places) -> Result<Cuda> {
        let (version, count) = libraries::start_driver()?;
        let unusable = |what: String| Error::new(Code::G0501, what).help("use `--device host`, or another `cuda:N`");
        if ordinal as i32 >= count {
            return Err(unusable(format!("GPU {ordinal} was asked for, and there are {count}")));
        }
        let doing = "opening the GPU";
        let check = |e| failed(doing, e);
        let device = result::device::get(ordinal as i32).map_err(check)?;
        use sys::CUdevice_attribute as Attribute;
        // SAFETY: `device` came from the driver.
        let attribute = |which| unsafe { result::device::get_attribute(device, which) }.map_err(check);
        let capability = [
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ];
        if capability[0] < 8 {
            let [major, minor] = capability;
            return Err(unusable(format!("the GPU is of compute capability {major}.{minor}; 8.0 (Ampere) or newer is needed")));
        }
        let newest = version as u32 / 1000;
        let compiler = nvrtc::Nvrtc::load(places, Some(newest))?;
        let mut facts = Facts {
            name: result::device::get_name(device).map_err(check)?,
            arch: compiler.architecture(capability)?,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            memory_bytes: 0,
            rounding: places.rounding,
        };
        libraries::load_cublaslt(places, newest)?;
        // SAFETY: the device exists; the context is never released, the stream never destroyed, so no handle dangles.
        let driver = unsafe {
            let context = result::primary_ctx::retain(device).map_err(check)?;
            result::ctx::set_current(context).map_err(check)?;
            // Freed memory stays with us instead of going back at every synchronisation.
            let pool = result::device::get_default_mem_pool(device).map_err(check)?;
            let mut keep = u64::MAX;
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast()).result().map_err(check)?;
            // What an earlier device of this process has let go of is free, and is to count as such.
            result::mem_pool::trim_to(pool, 0).map_err(check)?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(check)?;
            Arc::new(Driver { context, stream, capturing: false.into() })
        };
        facts.memory_bytes = result::mem_get_info().map_err(check)?.0 as u64;
        let workspace = alloc(&driver, WORKSPACE_BYTES)?;
        let cuda = Cuda {
            facts,
            compiler,
            cache: places.cache.clone(),
            functions: Mutex::default(),
            modules: Mutex::default(),
            products: Mutex::new(Products::new(places.rounding)?),
            workspace,
            staging: Mutex::new(Staging::new(&driver).ok()),
            nodes: Mutex::default(),
            driver,
        };
        // Whether the driver takes what the compiler makes is known before anybody relies on it.
        cuda.load(&Kernel::filling(1).0).map_err(|e| {
            if e.code() != Code::G0505 {
                return e;
            }
            let (major, minor) = cuda.compiler.version;
            let what = format!("what NVRTC {major}.{minor} compiles for {} cannot be used: {}", cuda.facts.arch, e.what());
            Error::new(Code::G0503, what).help("try another version (`pip install nvidia-cuda-nvrtc`), or a newer driver")
        })?;
        Ok(cuda)
    }

    /// The loaded entry point, allowed at least `shared_bytes` of dynamic shared memory.
    fn function(&self, kernel: &Kernel, shared_bytes: u32) -> Result<sys::CUfunction> {
        let mut functions = locked(&self.functions);
        let function = match functions.get_mut(kernel) {
            Some(function) => function,
            None => {
                let handle = self.load(kernel)?;
                functions.entry(kernel.clone()).or_insert(Function { handle, shared_bytes: 0 })
            }
        };
        // Without asking there are 48 KiB less what the kernel declares, which only the driver knows.
        if shared_bytes > function.shared_bytes {
            let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            unsafe { result::function::set_function_attribute(function.handle, limit, shared_bytes as i32) }
                .map_err(|e| failed(&format!("asking for {shared_bytes} bytes of shared memory for {}", kernel.entry), e))?;
            function.shared_bytes = shared_bytes;
        }
        Ok(function.handle)
    }

    /// Notes down what a call under recording ended with: the node the next one will depend on, and the event it sets.
    fn note(&self, event: Option<&Arc<Event>>) -> Result<()> {
        if !self.driver.capturing.load(Relaxed) {
            return Ok(());
        }
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut id, mut graph, mut last, mut edges, mut count) =
            (0, std::ptr::null_mut(), std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the stream is being recorded; every pointer is to a value of its type. The nodes listed are read at once.
        let node = unsafe {
            sys::cuStreamGetCaptureInfo_v3(
                self.driver.stream,
                &mut status,
                &mut id,
                &mut graph,
                &mut last,
                &mut edges,
                &mut count,
            )
            .result()
            .map_err(|e| failed("recording a graph", e))?;
            (count == 1 && !last.is_null()).then(|| *last)
        };
        let node = node.ok_or_else(|| Error::internal("a recorded call ended in more than one node, or none"))?;
        locked(&self.nodes).push(Node { handle: node, _events: [event.cloned(), None] });
        Ok(())
    }

    /// Gives `work` the function of a launch and its arguments as the driver wants them.
    fn prepared<R>(
        &self,
        kernel: &Kernel,
        grid: Grid,
        args: &[Arg<'_>],
        work: impl FnOnce(sys::CUfunction, &mut [*mut c_void]) -> Result<R>,
    ) -> Result<R> {
        let function = self.function(kernel, grid.shared_bytes)?;
        // Every argument as 8 bytes of little endian; the driver reads as many as the parameter has.
        let mut values: Vec<u64> = Vec::with_capacity(args.len());
        for arg in args.iter() {
            values.push(match arg {
                Arg::In(buffer) => buffer.memory()?.address,
                Arg::Out(buffer) => buffer.memory()?.address,
                Arg::InFrom(buffer, bytes) => buffer.memory()?.address + *bytes as u64,
                Arg::OutFrom(buffer, bytes) => buffer.memory()?.address + *bytes as u64,
                Arg::None => 0,
                Arg::U32(x) => u64::from(*x),
                Arg::U64(x) => *x,
                Arg::F32(x) => u64::from(x.to_bits()),
            });
        }
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| (&raw mut *v).cast()).collect();
        work(function, &mut pointers)
    }

    fn enqueue(&self, kernel: &Kernel, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
        self.driver.enter()?;
        let ([x, y, z], threads) = (grid.blocks, (grid.threads, 1, 1));
        self.prepared(kernel, grid, args, |function, pointers| {
            // SAFETY: kinds and sizes of the arguments are checked against the kernel by the emulator's launches of the same
            // launcher; the buffers outlive the work, because freeing is enqueued on the same stream.
            unsafe { result::launch_kernel(function, (x, y, z), threads, grid.shared_bytes, self.driver.stream, pointers) }
                .map_err(|e| failed(&format!("launching {} on {:?} blocks of {}", kernel.entry, grid.blocks, grid.threads), e))
        })
    }

    fn load(&self, kernel: &Kernel) -> Result<sys::CUfunction> {
        let mut modules = locked(&self.modules);
        let file = Kernel { entry: "", ..kernel.clone() };
        let module = match modules.get(&file) {
            Some(module) => *module,
            None => {
                let compiled = self.compiler.compile(kernel, &self.facts.arch, self.cache.as_deref())?;
                // SAFETY: the image is a whole cubin; the driver copies it.
                let loaded = unsafe { result::module::load_data(compiled.image.as_ptr().cast()) };
                let loaded = loaded.map_err(|e| failed(&format!("loading {}.cu", kernel.file), e))?;
                *modules.entry(file).or_insert(Module(loaded))
            }
        };
        let name = CString::new(kernel.entry).map_err(|_| Error::internal("a kernel name holds a zero byte"))?;
        // SAFETY: modules are never unloaded.
        unsafe { result::module::get_function(module.0, name) }
            .map_err(|e| failed(&format!("finding {} in {}.cu", kernel.entry, kernel.file), e))
    }
}

fn alloc(driver: &Arc<Driver>, bytes: usize) -> Result<Memory> {
    driver.is_not_recording("an allocation")?;
    driver.enter()?;
    // SAFETY: the stream is alive; the memory is freed on the same stream.
    let address = unsafe { result::malloc_async(driver.stream, bytes.max(1)) }
        .map_err(|e| failed(&format!("allocating {bytes} bytes on the GPU"), e))?;
    Ok(Memory { address, bytes, owner: Box::new(Owner { address, driver: driver.clone() }) })
}

impl Runtime for Cuda {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        alloc(&self.driver, bytes)
    }

    fn write(&self, to: &mut Memory, from: &[u8]) -> Result<()> {
        fits(to, from.len())?;
        self.driver.is_not_recording("a copy to the GPU")?;
        if from.is_empty() {
            return Ok(());
        }
        self.driver.enter()?;
        if let Some(staging) = locked(&self.staging).as_mut()
            && staging.write(to.address, from)?
        {
            return Ok(());
        }
        // SAFETY: the length fits, and the stream is waited for before `from` can go: where the GPU reads pageable memory by itself,
        // the driver takes no copy of it.
        unsafe { result::memcpy_htod_async(to.address, from, self.driver.stream) }
            .map_err(|e| failed("copying to the GPU", e))?;
        self.driver.synchronize("waiting for a copy to the GPU")
    }

    fn read(&self, from: &Memory, to: &mut [u8]) -> Result<()> {
        fits(from, to.len())?;
        self.driver.is_not_recording("a copy from the GPU")?;
        if to.is_empty() {
            return Ok(());
        }
        self.driver.enter()?;
        // SAFETY: the length fits, and the stream is waited for before `to` is used.
        unsafe { result::memcpy_dtoh_async(to, from.address, self.driver.stream) }
            .map_err(|e| failed("copying from the GPU", e))?;
        self.driver.synchronize("waiting for a copy from the GPU")
    }

    fn fill(&self, memory: &mut Memory, byte: u8) -> Result<()> {
        if memory.bytes == 0 {
            return self.note(None);
        }
        self.driver.enter()?;
        // SAFETY: exactly the piece's own bytes.
        unsafe { result::memset_d8_async(memory.address, byte, memory.bytes, self.driver.stream) }
            .map_err(|e| failed("filling memory of the GPU", e))?;
        self.note(None)
    }

    fn launch(&self, kernel: &Kernel, grid: Grid, args: &mut [Arg<'_>]) -> Result<()> {
        self.enqueue(kernel, grid, args)?;
        self.note(None)
    }

    fn matmul(&self, c: MatOut, a: MatIn, b: MatIn, shape: [usize; 3], scale: f32, plus: Plus) -> Result<()> {
        crate::device::check_product(&c, &a, &b, shape, plus)?;
        let [m, n, k] = shape;
        if m == 0 || n == 0 || k == 0 && plus.accumulates() {
            return self.note(None);
        }
        self.driver.enter()?;
        if k == 0 {
            return Err(Error::internal("a product over nothing"));
        }
        let (workspace, stream) = (self.workspace.address, self.driver.stream.cast());
        let added = locked(&self.products).multiply(&c, &a, &b, shape, scale, plus, workspace, stream)?;
        if let (false, Plus::Row(row)) = (added, plus) {
            if (c.first, c.stride) != (0, n) {
                return Err(Error::internal("a row is added to a part of each row, which no kernel does"));
            }
            let (kernel, grid) = Kernel::adding_a_row(m, n);
            self.enqueue(&kernel, grid, &[Arg::Out(c.data), Arg::In(row), Arg::U64((m * n) as u64)])?;
        }
        self.note(None)
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Replay> {
        self.driver.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let doing = "recording a graph";
        locked(&self.nodes).clear();
        // SAFETY: the stream is ours and not capturing. The capture is ended whatever `work` does, or the stream would
        // stay unusable. The graph is kept beside its executable: changes name its nodes.
        unsafe {
            result::stream::begin_capture(self.driver.stream, mode).map_err(|e| failed(doing, e))?;
            self.driver.capturing.store(true, Relaxed);
            let done = work();
            self.driver.capturing.store(false, Relaxed);
            let graph = result::stream::end_capture(self.driver.stream).map_err(|e| failed(doing, e));
            let nodes = std::mem::take(&mut *locked(&self.nodes));
            // What went wrong first says more than that the recording is invalid.
            let graph = match (done, graph) {
                (Ok(()), graph) => graph?,
                (Err(error), graph) => {
                    let _ = graph.map(|graph| result::graph::destroy(graph));
                    return Err(error);
                }
            };
            match result::graph::instantiate(graph, sys::CUgraphInstantiate_flags_enum(0)) {
                Ok(executable) => Ok(Replay(Box::new(Graph { executable, graph, nodes, driver: self.driver.clone() }))),
                Err(error) => {
                    let _ = result::graph::destroy(graph);
                    Err(failed(doing, error))
                }
            }
        }
    }

    fn replay(&self, recorded: &Replay) -> Result<()> {
        let graph = recorded.0.downcast_ref::<Graph>().ok_or_else(|| Error::internal("a recording of another machine"))?;
        self.driver.enter()?;
        // SAFETY: the executable lives as long as the recording.
        unsafe { result::graph::launch(graph.executable, self.driver.stream) }.map_err(|e| failed("replaying a graph", e))
    }

    fn amend(&self, recorded: &mut Replay, at: usize, with: Amendment<'_, '_>) -> Result<Option<Mark>> {
        let graph = recorded.0.downcast_mut::<Graph>().ok_or_else(|| Error::internal("a recording of another machine"))?;
        let Some(changed) = graph.nodes.get_mut(at) else { return Err(Error::internal("a recording has no such call")) };
        let (executable, node, doing) = (graph.executable, changed.handle, "changing a graph");
        self.driver.enter()?;
        match with {
            Amendment::Launch(kernel, grid, args) => self.prepared(kernel, grid, args, |func, pointers| {
                let [grid_x, grid_y, grid_z] = grid.blocks;
                let given = sys::CUDA_KERNEL_NODE_PARAMS {
                    func,
                    gridDimX: grid_x,
                    gridDimY: grid_y,
                    gridDimZ: grid_z,
                    blockDimX: grid.threads,
                    blockDimY: 1,
                    blockDimZ: 1,
                    sharedMemBytes: grid.shared_bytes,
                    kernelParams: pointers.as_mut_ptr(),
                    extra: std::ptr::null_mut(),
                    kern: std::ptr::null_mut(),
                    ctx: std::ptr::null_mut(),
                };
                // SAFETY: the node belongs to the graph that the executable was made of; as for a launch otherwise. The driver
                // copies the arguments.
                unsafe { sys::cuGraphExecKernelNodeSetParams_v2(executable, node, &given) }.result().map_err(|e| failed(doing, e))
            })?,
            Amendment::Mark => {
                let event = Arc::new(Event::new(&self.driver, doing)?);
                // SAFETY: as above; the recording keeps the event alive, and until then the one before it.
                let done = unsafe { sys::cuGraphExecEventRecordNodeSetEvent(executable, node, event.event) };
                done.result().map_err(|e| failed(doing, e))?;
                changed._events[1] = Some(event.clone());
                return Ok(Some(Mark(Box::new(event))));
            }
        }
        Ok(None)
    }

    fn mark(&self) -> Result<Mark> {
        self.driver.enter()?;
        if !self.driver.capturing.load(Relaxed) {
            return Ok(Mark(Box::new(Arc::new(Event::record(&self.driver, "marking a time")?))));
        }
        let event = Arc::new(Event::new(&self.driver, "recording a mark")?);
        // SAFETY: both handles are alive. Without the flag no node would be recorded, only an order.
        let flag = sys::CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL as u32;
        let done = unsafe { sys::cuEventRecordWithFlags(event.event, self.driver.stream, flag) };
        done.result().map_err(|e| failed("recording a mark", e))?;
        self.note(Some(&event))?;
        Ok(Mark(Box::new(event)))
    }

    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64> {
        let event = |m: &Mark| {
            m.0.downcast_ref::<Arc<Event>>().map(|e| e.event).ok_or_else(|| Error::internal("a mark of another machine"))
        };
        let (from, to) = (event(from)?, event(to)?);
        self.driver.enter()?;
        // SAFETY: both events are recorded on our stream and alive.
        let milliseconds = unsafe { result::event::synchronize(to).and_then(|()| result::event::elapsed(from, to)) };
        Ok(f64::from(milliseconds.map_err(|e| failed("reading a time", e))?) / 1e3)
    }

    fn sync(&self) -> Result<()> {
        self.driver.is_not_recording("a wait for the GPU")?;
        self.driver.enter()?;
        self.driver.synchronize("waiting for the GPU")
    }
}

fn fits(memory: &Memory, bytes: usize) -> Result<()> {
    if bytes <= memory.bytes {
        Ok(())
    } else {
        Err(Error::internal(format!("a copy of {bytes} bytes into or from {} on the GPU", memory.bytes)))
    }
}

/// A recorded step.
struct Graph {
    executable: sys::CUgraphExec,
    graph: sys::CUgraph,
    /// The last node of every call.
    nodes: Vec<Node>,
    driver: Arc<Driver>,
}
// SAFETY: as for `Driver`; replays are enqueued by one thread at a time because the stream orders them.
unsafe impl Send for Graph {}
unsafe impl Sync for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // SAFETY: both made by `capture`, destroyed once; a replay under way is not disturbed.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
            // SAFETY: as above.
            let _ = unsafe { result::graph::destroy(self.graph) };
        }
    }
}

/// A point in the stream.
struct Event {
    event: sys::CUevent,
    driver: Arc<Driver>,
}

impl Event {
    /// Not passed yet; in the driver's context.
    fn new(driver: &Arc<Driver>, doing: &str) -> Result<Event> {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(|e| failed(doing, e))?;
        Ok(Event { event, driver: driver.clone() })
    }
    /// After everything enqueued so far, in the driver's context.
    fn record(driver: &Arc<Driver>, doing: &str) -> Result<Event> {
        let event = Event::new(driver, doing)?;
        // SAFETY: both handles are alive.
        unsafe { result::event::record(event.event, driver.stream) }.map_err(|e| failed(doing, e))?;
        Ok(event)
    }
    /// Until the stream has passed it.
    fn wait(&self, doing: &str) -> Result<()> {
        // SAFETY: recorded by `record`, and alive.
        unsafe { result::event::synchronize(self.event) }.map_err(|e| failed(doing, e))
    }
}
// SAFETY: as for `Driver`.
unsafe impl Send for Event {}
unsafe impl Sync for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // SAFETY: created by `mark`, destroyed once.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computer_without_a_gpu_says_what_was_looked_for() {
        // With a GPU the answer is a device, and the kernels' own tests speak.
        if let Err(error) = open(0, &Places::default()) {
            assert!(matches!(error.code(), Code::G0501 | Code::G0503), "{error:?}");
            assert!(!error.what().is_empty());
        }
    }
}
