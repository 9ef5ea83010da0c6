//! The program; see `hardneg::cli`.

/// Counted, so that `hardneg plan --measure` can be held to what a step takes.
#[global_allocator]
static HEAP: hardneg::device::heap::Counting = hardneg::device::heap::Counting;

fn main() -> std::process::ExitCode {
    hardneg::cli::main(std::env::args_os())
}
