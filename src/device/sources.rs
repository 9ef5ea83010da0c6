//! The kernels' sources, embedded: what NVRTC and the emulator's C++ compiler are given.

include!(concat!(env!("OUT_DIR"), "/kernel_sources.rs"));

/// The text of `kernels/<name>`, such as `layer_norm.cu` or `emulator/machine.cpp`.
pub fn text(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}
