//! Compiling a kernel file for a card's own architecture, without its toolkit and without any header on disk.
//!
//! The result is a cubin, never PTX: nothing is left for the driver to compile, and registers and spills are known. Cubins
//! are kept on disk under a hash of everything that shapes them: source, headers, options, compiler version. The cache is a
//! convenience: whatever goes wrong with it costs a compilation and no more.

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::path::Path;
use std::time::Instant;

use cudarc::nvrtc::sys;

use crate::device::places::Places;
use crate::device::{Kernel, cuda::libraries, sources};
use crate::error::{Code, Error, Result};

/// The machine code of one kernel file.
pub struct Compiled {
    pub image: Vec<u8>,
    pub log: String,
    /// Seconds of compilation; None from the cache.
    pub seconds: Option<f64>,
}

/// What one entry point takes of a multiprocessor, as the assembler reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub entry: String,
    pub registers: u32,
    pub spill_bytes: u32,
    pub shared_bytes: u32,
}

/// The compiler, ready for use.
pub struct Nvrtc {
    pub version: (i32, i32),
    pub found: libraries::Found,
    functions: &'static libraries::Nvrtc,
}

impl Nvrtc {
    /// `newest`: the driver's CUDA major version, or None to compile without a driver.
    pub fn load(places: &Places, newest: Option<u32>) -> Result<Nvrtc> {
        let (found, functions) = libraries::load_nvrtc(places, newest)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid.
        unsafe { (functions.nvrtcVersion)(&mut major, &mut minor) };
        if newest.is_some_and(|newest| major as u32 > newest) {
            let place = found.path.as_ref().map_or_else(String::new, |path| format!(" ({})", path.display()));
            return Err(Error::new(
                Code::G0503,
                format!("NVRTC is of CUDA {major}.{minor}{place}, which the driver is too old for"),
            )
            .help("install one that is no newer than the driver: `pip install 'nvidia-cuda-nvrtc<13'`"));
        }
        Ok(Nvrtc { version: (major, minor), found, functions })
    }

    /// The name it has for what a card of this compute capability runs best, on Hopper with the instructions only it has: its own
    /// architecture, or for one the compiler is too old to know an earlier one of the same major version. G0503: it knows none.
    pub fn architecture(&self, [major, minor]: [i32; 2]) -> Result<String> {
        let mut count = 0;
        // SAFETY: the pointer is valid.
        let counted = unsafe { (self.functions.nvrtcGetNumSupportedArchs)(&mut count) }.result();
        let mut known = vec![0; count.max(0) as usize];
        // SAFETY: the list is as long as the compiler says it is.
        let listed = counted.and_then(|()| unsafe { (self.functions.nvrtcGetSupportedArchs)(known.as_mut_ptr()) }.result());
        // One that does not say is asked for the card's own, and says what it thinks of it at the first kernel.
        if listed.is_err() {
            known = vec![10 * major + minor];
        }
        best_of(&known, [major, minor]).ok_or_else(|| {
            let (version, place) =
                (self.version, self.found.path.as_ref().map_or_else(String::new, |p| format!(" ({})", p.display())));
            let what = format!("NVRTC {}.{}{place} does not know compute capability {major}.{minor}", version.0, version.1);
            Error::new(Code::G0503, what).help("install a newer one: `pip install --upgrade nvidia-cuda-nvrtc`")
        })
    }

    /// Compiles `kernel`'s file with its defines for `arch`, such as `sm_90a`.
    pub fn compile(&self, kernel: &Kernel, arch: &str, cache: Option<&Path>) -> Result<Compiled> {
        let name = format!("{}.cu", kernel.file);
        let source = sources::text(&name).ok_or_else(|| Error::internal(format!("there is no kernel file {name}")))?;
        let mut options = vec![
            format!("--gpu-architecture={arch}"),
            "--std=c++20".to_string(),
            "--ptxas-options=-v".to_string(),
            "--extra-device-vectorization".to_string(),
        ];
        options.extend(kernel.defines.iter().map(|(name, value)| format!("-D{name}={value}")));
        let headers = || sources::ALL.iter().filter(|(name, _)| name.ends_with(".cuh"));
        let mut hash = blake3::Hasher::new();
        let version = format!("{} {:?}", env!("CARGO_PKG_VERSION"), self.version);
        let parts = [version.as_str(), source].into_iter().chain(options.iter().map(String::as_str));
        for part in parts.chain(headers().flat_map(|(name, text)| [*name, *text])) {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let place = cache.map(|c| c.join("cubin").join(hash.finalize().to_hex().as_str()));
        if let Some((image, log)) = place.as_deref().and_then(cached) {
            return Ok(Compiled { image, log, seconds: None });
        }
        let started = Instant::now();
        let (image, log) = self.run(&name, source, headers(), &options).map_err(|log| {
            Error::new(Code::G0504, format!("{name} does not compile for {arch}"))
                .at(format!("{name}, entry {}", kernel.entry))
                .note(format!("options: {}", options.join(" ")))
                .note(log)
                .help("this is a fault of hardneg or of a compiler it does not know; use `--device host` meanwhile and report it")
        })?;
        if let Some(place) = &place {
            keep(place, &image, &log);
        }
        Ok(Compiled { image, log, seconds: Some(started.elapsed().as_secs_f64()) })
    }

    fn run<'a>(
        &self,
        name: &str,
        source: &str,
        headers: impl Iterator<Item = &'a (&'a str, &'a str)>,
        options: &[String],
    ) -> std::result::Result<(Vec<u8>, String), String> {
        let text = |t: &str| CString::new(t).map_err(|_| "a kernel source holds a zero byte".to_string());
        let (name, source) = (text(name)?, text(source)?);
        let (mut names, mut texts) = (vec![], vec![]);
        for (name, body) in headers {
            names.push(text(name)?);
            texts.push(text(body)?);
        }
        let options = options.iter().map(|o| text(o)).collect::<std::result::Result<Vec<_>, _>>()?;
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
        let (name_list, text_list, option_list) = (pointers(&names), pointers(&texts), pointers(&options));
        let (nvrtc, mut program) = (self.functions, std::ptr::null_mut());
        // SAFETY: every pointer is to a C string or array that outlives the program, and counts are the arrays' lengths.
        unsafe {
            let (count, lists) = (names.len() as i32, (text_list.as_ptr(), name_list.as_ptr()));
            (nvrtc.nvrtcCreateProgram)(&mut program, source.as_ptr(), name.as_ptr(), count, lists.0, lists.1)
                .result()
                .map_err(|e| format!("{:?}", e.0))?;
            let compiled = (nvrtc.nvrtcCompileProgram)(program, options.len() as i32, option_list.as_ptr()).result();
            let log = log(nvrtc, program);
            let image = compiled.map_err(|e| format!("{:?}\n{log}", e.0)).and_then(|()| {
                let mut size = 0;
                (nvrtc.nvrtcGetCUBINSize)(program, &mut size).result().map_err(|e| format!("{:?}", e.0))?;
                let mut image = vec![0u8; size];
                (nvrtc.nvrtcGetCUBIN)(program, image.as_mut_ptr().cast()).result().map_err(|e| format!("{:?}", e.0))?;
                Ok(image)
            });
            let _ = (nvrtc.nvrtcDestroyProgram)(&mut program);
            image.map(|image| (image, log))
        }
    }
}

/// Architectures of boards whose code runs on no other card.
const BOARDS: [i32; 4] = [87, 88, 101, 110];

/// The newest of the `known` architectures (90 for 9.0) that runs on a card of this compute capability, as the compiler names it.
fn best_of(known: &[i32], [major, minor]: [i32; 2]) -> Option<String> {
    let own = 10 * major + minor;
    let runs = |arch: &i32| *arch == own || arch / 10 == major && *arch < own && !BOARDS.contains(arch);
    let newest = known.iter().copied().filter(runs).max()?;
    Some(format!("sm_{newest}{}", if newest == 90 { "a" } else { "" }))
}

/// # Safety
/// `program` is alive.
unsafe fn log(functions: &libraries::Nvrtc, program: sys::nvrtcProgram) -> String {
    let mut size = 0;
    // SAFETY: the buffer is as long as the compiler says the log is.
    unsafe {
        if (functions.nvrtcGetProgramLogSize)(program, &mut size).result().is_err() || size == 0 {
            return String::new();
        }
        let mut log = vec![0u8; size];
        let _ = (functions.nvrtcGetProgramLog)(program, log.as_mut_ptr().cast());
        CStr::from_bytes_until_nul(&log).map(|l| l.to_string_lossy().trim().to_string()).unwrap_or_default()
    }
}

/// An image and its log from the cache; a file that does not match its own checksum is none.
fn cached(place: &Path) -> Option<(Vec<u8>, String)> {
    let bytes = fs::read(place).ok()?;
    let (sum, rest) = bytes.split_at_checked(32)?;
    if blake3::hash(rest).as_bytes() != sum {
        return None;
    }
    let (length, rest) = rest.split_at_checked(8)?;
    let (log, image) = rest.split_at_checked(u64::from_le_bytes(length.try_into().ok()?) as usize)?;
    Some((image.to_vec(), String::from_utf8(log.to_vec()).ok()?))
}

fn keep(place: &Path, image: &[u8], log: &str) {
    let body: Vec<u8> = [&(log.len() as u64).to_le_bytes()[..], log.as_bytes(), image].concat();
    let write = || -> std::io::Result<()> {
        let folder = place.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Several processes may compile the same kernel: each writes its own file, the last rename wins with equal bytes.
        let temporary = place.with_extension(std::process::id().to_string());
        fs::write(&temporary, [&blake3::hash(&body).as_bytes()[..], &body].concat())?;
        fs::rename(temporary, place)
    };
    let _ = write();
}

/// Registers, spills and static shared memory of every entry point in an assembler's log.
pub fn usage(log: &str) -> Vec<Usage> {
    let mut all: Vec<Usage> = vec![];
    let number_before = |line: &str, word: &str| -> Option<u32> {
        line[..line.find(word)?].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let entry = rest.split('\'').next().unwrap_or_default().to_string();
            all.push(Usage { entry, registers: 0, spill_bytes: 0, shared_bytes: 0 });
        } else if let Some(last) = all.last_mut() {
            if line.contains("spill stores") {
                let spilled = [" bytes spill stores", " bytes spill loads"].map(|w| number_before(line, w).unwrap_or(0));
                last.spill_bytes = spilled[0].max(spilled[1]);
            }
            if line.contains("Used ") && line.contains(" registers") {
                last.registers = number_before(line, " registers").unwrap_or(0);
                last.shared_bytes = number_before(line, " bytes smem").unwrap_or(0);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hopper_is_compiled_for_with_its_own_instructions_and_a_card_too_new_as_an_earlier_one() {
        let known = [75, 80, 86, 89, 90, 100, 120];
        let best = |of| best_of(&known, of);
        assert_eq!(
            [[8, 0], [8, 9], [9, 0], [10, 0], [12, 0]].map(|c| best(c).unwrap()),
            ["sm_80", "sm_89", "sm_90a", "sm_100", "sm_120"]
        );
        assert_eq!([[8, 7], [10, 3], [12, 1]].map(|c| best(c).unwrap()), ["sm_86", "sm_100", "sm_120"]);
        assert_eq!([[11, 0], [13, 3]].map(best), [None, None]);
        let with_boards = [80, 86, 87, 90, 100, 101, 120];
        assert_eq!([[8, 7], [8, 9], [10, 3]].map(|c| best_of(&with_boards, c).unwrap()), ["sm_87", "sm_86", "sm_100"]);
    }

    #[test]
    fn the_assemblers_report_is_read() {
        let log = "ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function 'a_fwd' for 'sm_90'\nptxas info    : Function properties for a_fwd\n    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads\nptxas info    : Used 40 registers, used 1 barriers, 512 bytes smem, 400 bytes cmem[0]\nptxas info    : Compiling entry function 'b' for 'sm_90'\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 8 registers, used 0 barriers";
        let read = usage(log);
        assert_eq!(read[0], Usage { entry: "a_fwd".into(), registers: 40, spill_bytes: 20, shared_bytes: 512 });
        assert_eq!(read[1], Usage { entry: "b".into(), registers: 8, spill_bytes: 0, shared_bytes: 0 });
    }

    #[test]
    fn a_damaged_cache_entry_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("x");
        keep(&place, b"image", "log");
        assert_eq!(cached(&place), Some((b"image".to_vec(), "log".to_string())));
        let mut bytes = fs::read(&place).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&place, &bytes).unwrap();
        assert_eq!(cached(&place), None);
        fs::write(&place, &bytes[..20]).unwrap();
        assert_eq!(cached(&place), None);
    }
}
