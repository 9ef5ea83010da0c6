//! The C face of the machine: the structures of `kernels/emulator/inside.h` and the functions of `face.cpp`.

use std::ffi::{CStr, c_char};

use crate::error::{Code, Error, Result};

/// What a launch argument is; numbers as in `inside.h`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Use {
    Integer = 0,
    Real = 1,
    In = 2,
    Out = 3,
    None = 4,
}

/// A scalar's bits, or an address and the bytes in use behind it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Argument {
    pub bits: u64,
    pub bytes: u64,
    pub usage: Use,
}

#[repr(C)]
pub struct Launch {
    pub kernel: *const KernelTable,
    pub blocks: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
    pub order: u32,
    pub seed: u64,
    pub arguments: *const Argument,
    pub count: u64,
}

/// Since the machine was made; the bytes only where every access is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    pub launches: u64,
    pub blocks: u64,
    pub switches: u64,
    /// Global memory of the latest launch: bytes touched at least once ...
    pub distinct_read: u64,
    pub distinct_written: u64,
    /// ... and bytes asked for altogether.
    pub issued_read: u64,
    pub issued_written: u64,
}

/// One row of a kernel library's table; only the machine looks inside.
#[repr(C)]
pub struct KernelTable([u8; 0]);

/// A loaded kernel. Libraries are never unloaded, so the pointer stays valid.
#[derive(Clone, Copy)]
pub struct Entry {
    pub table: *const KernelTable,
}
// SAFETY: the table is constant data of a loaded library.
unsafe impl Send for Entry {}
unsafe impl Sync for Entry {}

#[repr(C)]
struct RawMachine([u8; 0]);

/// Functions of the machine's library.
#[derive(Clone, Copy)]
pub struct Functions {
    make: unsafe extern "C" fn(u64, bool) -> *mut RawMachine,
    free: unsafe extern "C" fn(*mut RawMachine),
    allocate: unsafe extern "C" fn(*mut RawMachine, u64) -> u64,
    release: unsafe extern "C" fn(*mut RawMachine, u64) -> bool,
    serial: unsafe extern "C" fn(*mut RawMachine, u64) -> u64,
    written: unsafe extern "C" fn(*mut RawMachine, u64, u64),
    first_unwritten: unsafe extern "C" fn(*mut RawMachine, u64, u64) -> u64,
    launch: unsafe extern "C" fn(*mut RawMachine, *const Launch) -> bool,
    error: unsafe extern "C" fn(*mut RawMachine) -> *const c_char,
    counters: unsafe extern "C" fn(*mut RawMachine, *mut Counters),
    pub find: unsafe extern "C" fn(*const KernelTable, *const c_char) -> *const KernelTable,
}

impl Functions {
    pub fn of(library: &libloading::os::unix::Library) -> std::result::Result<Functions, libloading::Error> {
        // SAFETY: the library was compiled from `face.cpp`, whose functions have these types.
        unsafe {
            Ok(Functions {
                make: *library.get(b"machine_make\0")?,
                free: *library.get(b"machine_free\0")?,
                allocate: *library.get(b"machine_allocate\0")?,
                release: *library.get(b"machine_release\0")?,
                serial: *library.get(b"machine_serial\0")?,
                written: *library.get(b"machine_written\0")?,
                first_unwritten: *library.get(b"machine_first_unwritten\0")?,
                launch: *library.get(b"machine_launch\0")?,
                error: *library.get(b"machine_error\0")?,
                counters: *library.get(b"machine_counters\0")?,
                find: *library.get(b"machine_find\0")?,
            })
        }
    }
}

/// One machine: its memory and the threads of the block that runs.
pub struct Machine {
    functions: Functions,
    raw: *mut RawMachine,
}

// SAFETY: the machine keeps no tie to the thread that made it, and `&mut self` keeps callers apart.
unsafe impl Send for Machine {}

impl Machine {
    pub fn new(functions: Functions, memory_bytes: u64, checked: bool) -> Result<Machine> {
        // SAFETY: no precondition; null means that the system refused.
        let raw = unsafe { (functions.make)(memory_bytes, checked) };
        if raw.is_null() {
            return Err(Error::new(Code::G0601, "the system refuses the emulator its address space")
                .help("raise the limit of virtual memory (`ulimit -v unlimited`)"));
        }
        Ok(Machine { functions, raw })
    }
    pub fn allocate(&mut self, bytes: usize) -> Option<u64> {
        // SAFETY: here and below `raw` is the live machine of these functions.
        let address = unsafe { (self.functions.allocate)(self.raw, bytes as u64) };
        (address != 0).then_some(address)
    }
    pub fn release(&mut self, address: u64) -> bool {
        // SAFETY: see `allocate`.
        unsafe { (self.functions.release)(self.raw, address) }
    }
    /// A number no other allocation had; 0 where none starts.
    pub fn serial(&mut self, address: u64) -> u64 {
        // SAFETY: see `allocate`.
        unsafe { (self.functions.serial)(self.raw, address) }
    }
    /// The host wrote a range.
    pub fn written(&mut self, address: u64, bytes: usize) {
        // SAFETY: see `allocate`.
        unsafe { (self.functions.written)(self.raw, address, bytes as u64) }
    }
    /// Offset of the first byte of a range that nobody wrote, or `bytes`.
    pub fn first_unwritten(&mut self, address: u64, bytes: usize) -> usize {
        // SAFETY: see `allocate`.
        unsafe { (self.functions.first_unwritten)(self.raw, address, bytes as u64) as usize }
    }
    /// The content of a live allocation from its start; the caller has its `Memory` or its serial number.
    pub fn bytes(&self, address: u64, bytes: usize) -> &[u8] {
        if bytes == 0 {
            return &[];
        }
        // SAFETY: device memory is host memory that was filled on allocation; its owner keeps it alive and holds `bytes`
        // or more; the borrow of the machine keeps launches away.
        unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }
    }
    /// As [`Self::bytes`], for writing.
    pub fn bytes_mut(&mut self, address: u64, bytes: usize) -> &mut [u8] {
        // SAFETY: the machine is borrowed mutably.
        unsafe { self.bytes_mut_beside(address, bytes) }
    }
    /// As [`Self::bytes_mut`], beside slices of other allocations.
    ///
    /// # Safety
    /// No other slice of the same allocation is alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn bytes_mut_beside(&self, address: u64, bytes: usize) -> &mut [u8] {
        if bytes == 0 {
            return &mut [];
        }
        // SAFETY: as for `bytes`, and by this function's own condition.
        unsafe { std::slice::from_raw_parts_mut(address as *mut u8, bytes) }
    }
    /// Runs a launch to its end; an error is the machine's text.
    pub fn launch(&mut self, launch: &Launch) -> std::result::Result<(), String> {
        // SAFETY: the launch's pointers outlive the call; the machine verifies the arguments against the kernel's table
        // and its own memory before it runs anything.
        unsafe {
            if (self.functions.launch)(self.raw, launch) {
                return Ok(());
            }
            Err(CStr::from_ptr((self.functions.error)(self.raw)).to_string_lossy().into_owned())
        }
    }
    pub fn counters(&mut self) -> Counters {
        let mut counters = Counters::default();
        // SAFETY: see `allocate`.
        unsafe { (self.functions.counters)(self.raw, &mut counters) };
        counters
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: freed once; every piece of memory holds a reference to this machine, so none outlives it.
        unsafe { (self.functions.free)(self.raw) }
    }
}
