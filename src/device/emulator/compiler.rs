//! From kernel sources to loaded libraries, by the system's C++ compiler.
//!
//! The machine becomes one library, each kernel file with its defines another. Both are kept on disk under a hash of all
//! that shapes them (sources, flags, compiler), written under a name of their own and then renamed, so that processes
//! and tests may share the folder. Loaded libraries stay loaded: a process has each of them once.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::device::emulator::Arithmetic;
use crate::device::emulator::face::{Entry, Functions, KernelTable};
use crate::device::emulator::locked;
use crate::device::places::loader_says;
use crate::device::{Kernel, sources};
use crate::error::{Code, Error, Result};

const PROGRAMS: [&str; 3] = ["c++", "g++", "clang++"];
const COMMON: &[&str] = &[
    "-std=c++20",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-w",
];
/// No contraction to fused multiply-adds: the same bits on every processor.
const PLAIN: &[&str] = &["-ffp-contract=off"];
/// Contraction wherever NVRTC, too, may fuse a product with a sum, if the processor can; and strays in `kernels/emulator/device.h`.
const LIKE_A_GPU: &[&str] = &["-ffp-contract=fast", "-DGPU_ARITHMETIC"];
const FUSED: &[&str] = if cfg!(target_arch = "x86_64") { &["-mfma"] } else { &[] };
const MACHINE: &[&str] = &["-O3"];
/// The sanitizers' checks, answered by the machine; see `kernels/emulator/check.cpp`.
const KERNELS: &[&str] = &["-O2", "-fsanitize=bounds,alignment,null", "-fno-sanitize-recover=bounds,alignment,null"];
const CHECKED: &[&str] = &["-fsanitize=thread"];
/// Clang leaves the read of `x += y` out unless it is told.
const CHECKED_CLANG: &[&str] = &["-mllvm", "-tsan-instrument-read-before-write=1"];
#[cfg(target_os = "macos")]
const LINK: &[&str] = &["-shared", "-undefined", "dynamic_lookup"];
#[cfg(not(target_os = "macos"))]
const LINK: &[&str] = &["-shared"];

pub struct Compiler {
    program: &'static str,
    version: String,
    cache: PathBuf,
    checked: bool,
    /// How kernels round.
    arithmetic: Vec<&'static str>,
    /// Everything kernels may include, on disk.
    sources: PathBuf,
    extra: Vec<(String, String)>,
    /// Hash of what the machine's library is made of, and of what every kernel's library has a part in.
    key: blake3::Hash,
    kernels_key: blake3::Hash,
}

/// A loaded kernel file.
pub struct Library {
    table: *const KernelTable,
    functions: Functions,
}
// SAFETY: the table is constant data of a library that is never unloaded.
unsafe impl Send for Library {}
unsafe impl Sync for Library {}

impl Library {
    pub fn entry(&self, name: &str) -> Option<Entry> {
        let name = CString::new(name).ok()?;
        // SAFETY: both pointers are alive, and the table ends with an empty row.
        let table = unsafe { (self.functions.find)(self.table, name.as_ptr()) };
        (!table.is_null()).then_some(Entry { table })
    }
}

/// A library once it is loaded; whoever builds it holds the lock, so that several emulators do not build the same one.
type Slot = Arc<Mutex<Option<Arc<libloading::os::unix::Library>>>>;

/// By file name, which holds the hash. Kept for the life of the process: kernels' libraries find the machine's functions
/// among the loaded ones, and two copies of a machine would take each other's threads for their own.
static LOADED: Mutex<BTreeMap<String, Slot>> = Mutex::new(BTreeMap::new());

impl Compiler {
    /// The first compiler that answers.
    pub fn find(cache: &Path, extra: &[(String, String)], checked: bool, arithmetic: Arithmetic) -> Result<Compiler> {
        let answer = |program: &&str| {
            let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let first = text.lines().next().filter(|_| output.status.success())?;
            Some(first.trim().to_string())
        };
        let found = PROGRAMS.iter().find_map(|program| Some((*program, answer(program)?)));
        let (program, version) = found.ok_or_else(|| {
            Error::new(Code::G0507, format!("the emulator needs a C++ compiler; none of {} answers", PROGRAMS.join(", ")))
                .help("install one (Debian: `apt install g++`, macOS: `xcode-select --install`), or use `--device host`")
        })?;
        let cache = cache.join("emulator");
        // Kernels' libraries depend on the machine's headers alone: a change inside it leaves them as they are.
        let hash = |wanted: &dyn Fn(&str) -> bool| {
            let mut hash = blake3::Hasher::new();
            let flags = [COMMON, MACHINE, KERNELS, CHECKED, CHECKED_CLANG].into_iter().flatten().copied();
            let general = [env!("CARGO_PKG_VERSION"), program, &version].into_iter().chain(flags);
            let files = sources::ALL.iter().filter(|(name, _)| wanted(name)).flat_map(|(name, text)| [*name, *text]);
            for part in general.chain(files) {
                hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
            hash.finalize()
        };
        let seen_by_kernels = |name: &str| name.ends_with(".cuh") || ["emulator/machine.h", "emulator/device.h"].contains(&name);
        let (key, kernels_key) = (hash(&is_header_or_machine), hash(&seen_by_kernels));
        let sources = cache.join(format!("sources-{}", short(&key)));
        forget_builds(&cache);
        let mut compiler = Compiler {
            program,
            version,
            cache,
            checked,
            arithmetic: flags(arithmetic),
            sources,
            extra: extra.to_vec(),
            key,
            kernels_key,
        };
        compiler.sources = compiler.lay_out_sources()?;
        Ok(compiler)
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// Writes headers and machine once, as files that the compiler and its messages can name.
    fn lay_out_sources(&self) -> Result<PathBuf> {
        let wanted = || sources::ALL.iter().filter(|(name, _)| is_header_or_machine(name));
        // All of them: who clears a cache may leave the folder and some of its files.
        if !wanted().all(|(name, _)| self.sources.join(name).is_file()) {
            let temporary = self.temporary()?;
            for (name, text) in wanted() {
                let place = temporary.join(name);
                let write = || -> std::io::Result<()> {
                    fs::create_dir_all(place.parent().unwrap_or(&temporary))?;
                    fs::write(&place, text)
                };
                write().map_err(|e| Error::io("writing", &place, &e))?;
            }
            // Another process may have been faster, or the folder is there with some of the files, which are the same.
            if fs::rename(&temporary, &self.sources).is_err() {
                for (name, _) in wanted() {
                    let place = self.sources.join(name);
                    let moved = fs::create_dir_all(place.parent().unwrap_or(&self.sources));
                    let moved = moved.and_then(|()| fs::rename(temporary.join(name), &place));
                    moved.map_err(|e| Error::io("writing", &place, &e))?;
                }
                let _ = fs::remove_dir_all(&temporary);
            }
        }
        Ok(self.sources.clone())
    }

    /// An empty folder of this process's own, below the cache.
    fn temporary(&self) -> Result<PathBuf> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = self.cache.join(format!("build-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|e| Error::io("creating", &folder, &e))?;
        Ok(folder)
    }

    /// Compiles the machine and loads its functions.
    pub fn machine(&self) -> Result<Functions> {
        let library = self.loaded(&format!("machine-{}.so", short(&self.key)), |output| {
            let files = sources::ALL.iter().filter(|(name, _)| name.starts_with("emulator/") && name.ends_with(".cpp"));
            let mut command = Command::new(self.program);
            command.args(COMMON).args(PLAIN).args(MACHINE).args(LINK).arg("-o").arg(output);
            command.args(files.map(|(name, _)| self.sources.join(name)));
            self.run(command, "the emulator")
        })?;
        Functions::of(&library).map_err(|e| Error::internal(format!("the emulator's library: {e}")))
    }

    /// Compiles `kernel`'s file with its defines and loads its table.
    pub fn kernels(&self, kernel: &Kernel) -> Result<Arc<Library>> {
        let functions = self.machine()?;
        let name = format!("{}.cu", kernel.file);
        let extra = self.extra.iter().find(|(stem, _)| stem == kernel.file).map(|(_, text)| text.as_str());
        let text = extra.or_else(|| sources::text(&name)).ok_or_else(|| Error::internal(format!("no source kernels/{name}")))?;
        let defines: Vec<String> = kernel.defines.iter().map(|(name, value)| format!("-D{name}={value}")).collect();
        let mut hash = blake3::Hasher::new();
        hash.update(self.kernels_key.as_bytes()).update(&[u8::from(self.checked)]);
        let own = self.arithmetic.iter().copied().chain(defines.iter().map(String::as_str));
        for part in [kernel.file, text].into_iter().chain(own) {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let library = self.loaded(&format!("{}-{}.so", kernel.file, short(&hash.finalize())), |output| {
            let folder = self.temporary()?;
            let write = |name: &str, text: &str| {
                let place = folder.join(name);
                fs::write(&place, text).map_err(|e| Error::io("writing", &place, &e))
            };
            let compile = || {
                write(&name, text)?;
                write("wrapper.cpp", &wrapper(&name, text))?;
                let object = folder.join("kernels.o");
                let mut command = Command::new(self.program);
                command.args(COMMON).args(&self.arithmetic).args(KERNELS).args(&defines);
                if self.checked {
                    command.args(CHECKED).args(if self.version.contains("clang") { CHECKED_CLANG } else { &[] });
                }
                command.arg("-c").arg("-I").arg(&self.sources).arg("-o").arg(&object).arg(folder.join("wrapper.cpp"));
                let what = format!("{name} {}", defines.join(" "));
                self.run(command, what.trim_end())?;
                // Linked by itself: with its -fsanitize flags the compiler would add the sanitizers' own libraries.
                let mut link = Command::new(self.program);
                link.args(LINK).arg("-o").arg(output).arg(&object);
                self.run(link, &name)
            };
            let done = compile();
            let _ = fs::remove_dir_all(&folder);
            done
        })?;
        // SAFETY: the wrapper defines this function; its table is constant data of a library that stays loaded.
        let table = unsafe {
            let get = library.get::<unsafe extern "C" fn() -> *const KernelTable>(b"hardneg_kernels\0");
            get.map_err(|e| Error::internal(format!("{name}: {e}")))?()
        };
        Ok(Arc::new(Library { table, functions }))
    }

    /// The library `name` of the cache, built if need be, and loaded once per process.
    fn loaded(&self, name: &str, build: impl Fn(&Path) -> Result<()>) -> Result<Arc<libloading::os::unix::Library>> {
        let slot = locked(&LOADED).entry(name.to_string()).or_default().clone();
        let mut slot = locked(&slot);
        if let Some(library) = &*slot {
            return Ok(library.clone());
        }
        let place = self.cache.join(name);
        let make = || {
            let folder = self.temporary()?;
            let done = build(&folder.join(name))
                .and_then(|()| fs::rename(folder.join(name), &place).map_err(|e| Error::io("writing", &place, &e)));
            let _ = fs::remove_dir_all(&folder);
            done
        };
        // The loader would map what a full disk or a killed machine has cut short, and die of it.
        if !fs::read(&place).is_ok_and(|file| is_whole(&file)) {
            make()?;
        }
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
        let scope = if name.starts_with("machine-") { RTLD_GLOBAL } else { RTLD_LOCAL };
        // SAFETY: the file is ours, made from our own sources; its only constructors are the sanitizers' empty ones.
        let load = || unsafe { Library::open(Some(&place), RTLD_NOW | scope) };
        let library = load().or_else(|_| {
            make()?;
            load().map_err(|e| {
                Error::new(Code::G0507, format!("the emulator's library does not load: {}", loader_says(&e)))
                    .help("if its folder lies where nothing may be run, set XDG_CACHE_HOME to another one")
            })
        })?;
        let library = Arc::new(library);
        *slot = Some(library.clone());
        Ok(library)
    }

    fn run(&self, mut command: Command, what: &str) -> Result<()> {
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Error::new(Code::G0507, format!("{} could not be started: {e}", self.program)))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // What compilers from before 2020 say of `-std=c++20`.
        if said.contains("c++20") && (said.contains("unrecognized") || said.contains("invalid value")) {
            return Err(Error::new(Code::G0507, format!("the emulator needs C++20, which {} does not know", self.version))
                .help("install GCC 10, Clang 10 or a later one, or use `--device host`"));
        }
        Err(Error::new(Code::G0504, format!("{what} does not compile with {}", self.version))
            .note(said.trim().to_string())
            .help("this is a fault of hardneg or of a compiler it does not know; use `--device host` meanwhile and report it"))
    }
}

/// Removes what killed processes were building a day ago or earlier; whatever goes wrong here does no harm.
fn forget_builds(cache: &Path) {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let old =
            || entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > DAY);
        if entry.file_name().to_string_lossy().starts_with("build-") && old() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a library has its end, which in the form of Linux is the table of its sections.
fn is_whole(file: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        let part = file.get(at..at + bytes)?;
        Some(part.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte)))
    };
    match (file.starts_with(b"\x7fELF\x02\x01"), number(0x28, 8), number(0x3a, 2), number(0x3c, 2)) {
        (true, Some(table), Some(size), Some(count)) => table.saturating_add(size * count) <= file.len() as u64,
        (true, ..) => false,
        (false, ..) => !cfg!(target_os = "linux") && !file.is_empty(),
    }
}

fn flags(arithmetic: Arithmetic) -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let fused = std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let fused = true;
    match arithmetic {
        Arithmetic::Plain => PLAIN.to_vec(),
        Arithmetic::LikeAGpu if fused => [LIKE_A_GPU, FUSED].concat(),
        Arithmetic::LikeAGpu => LIKE_A_GPU.to_vec(),
    }
}

fn is_header_or_machine(name: &str) -> bool {
    name.starts_with("emulator/") || name.ends_with(".cuh")
}

fn short(hash: &blake3::Hash) -> String {
    hash.to_hex()[..24].to_string()
}

/// The file that is really compiled: the kernel file inside a namespace, and the table of its entries. An entry that the
/// preprocessor left out is found in the namespace `absent` instead and gets an empty row.
fn wrapper(name: &str, text: &str) -> String {
    let entries = entries(text);
    let mut all = String::from("#include \"emulator/machine.h\"\nnamespace absent {\n");
    for entry in &entries {
        all += &format!("constexpr ::machine::Absent {entry}{{}}, {entry}_threads{{}};\n");
    }
    all += "}\nnamespace kernels {\nusing namespace absent;\n#include \"device.cuh\"\n";
    all += &format!("#include \"{name}\"\n}}\n");
    all += "extern \"C\" __attribute__((visibility(\"default\"))) const machine::Kernel* hardneg_kernels() {\n";
    all += "  static constexpr machine::Kernel table[] = {\n";
    for entry in &entries {
        all += &format!("    machine::entry<kernels::{entry}>(\"{entry}\", kernels::{entry}_threads),\n");
    }
    all + "    {}};\n  return table;\n}\n"
}

/// The names in `KERNEL(threads, name)`, each once.
fn entries(text: &str) -> Vec<&str> {
    let mut names = vec![];
    for (at, word) in text.match_indices("KERNEL(") {
        let inside = &text[at + word.len()..];
        let mut depth = 1;
        let end = inside.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let name = inside[..end.unwrap_or(0)].rsplit(',').next().unwrap_or_default().trim();
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_name && !name.starts_with(|c: char| c.is_ascii_digit()) && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The machine's text with the lines of code it names by place. `\1library\2offset\3` becomes the line of that code; after
/// the line of an operation, `\4library\2offset\3` adds the kernel's own line if the operation stands in a function that
/// was inlined. The lookup is a program that comes with most compilers; without it the offset stays.
pub fn with_lines(text: &str) -> String {
    let mut all = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\u{1}', '\u{4}']) {
        let (before, place) = rest.split_at(at);
        all += before;
        let Some((place, after)) = place.split_once('\u{3}') else { break };
        let (library, offset) = place[1..].split_once('\u{2}').unwrap_or((&place[1..], "0"));
        let lines = lines_of(library, offset);
        match (place.starts_with('\u{1}'), lines.first(), lines.last()) {
            (true, Some(inner), Some(outer)) if inner != outer => all += &format!("{inner} (from {outer})"),
            (true, Some(inner), _) => all += inner,
            (true, ..) => all += &format!("+0x{offset}"),
            (false, _, Some(outer)) if !all.ends_with(outer) => all += &format!(", from {outer}"),
            (false, ..) => {}
        }
        rest = after;
    }
    all + rest
}

/// Lines of kernels' code at a place, the innermost function's first; those of the vocabulary and the machine are left out.
fn lines_of(library: &str, offset: &str) -> Vec<String> {
    let output = Command::new("addr2line").args(["-i", "-e", library, &format!("0x{offset}")]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let ours = |line: &&str| line.contains(".cu:") || line.contains(".cuh:");
    let name = |line: &str| line.split(" (").next().unwrap_or(line).rsplit('/').next().unwrap_or(line).to_string();
    text.lines().filter(ours).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_cut_short_is_not_whole() {
        let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
        let compiler = match Compiler::find(&cache, &[], false, Arithmetic::Plain) {
            Err(error) => {
                assert_eq!(error.code(), Code::G0507, "{error:?}");
                return println!("SKIPPED: no C++ compiler, so there is no library to cut");
            }
            Ok(compiler) => compiler,
        };
        compiler.machine().unwrap();
        let file = fs::read(compiler.cache.join(format!("machine-{}.so", short(&compiler.key)))).unwrap();
        assert!(is_whole(&file));
        if cfg!(target_os = "linux") {
            for length in [0, 3, 63, 64, 3000, file.len() / 2, file.len() - 1] {
                assert!(!is_whole(&file[..length]), "{length} of {}", file.len());
            }
        }
    }
}
