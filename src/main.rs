//! The program; see `hardneg::cli`.

fn main() -> std::process::ExitCode {
    hardneg::cli::main(std::env::args_os())
}
