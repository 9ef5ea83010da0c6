//! `hardneg explain CODE`: cause and cure of an error in full sentences.

use crate::cli::terminal;
use crate::error::{Code, Error, Result};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hardneg explain C0201\n  hardneg explain all")]
pub struct Args {
    /// An error code such as C0201, or `all`.
    code: String,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let wanted = args.code.to_ascii_uppercase();
    let codes: Vec<Code> = Code::ALL.iter().copied().filter(|c| wanted == "ALL" || c.name() == wanted).collect();
    if codes.is_empty() {
        return Err(
            Error::new(Code::C0202, format!("`{}` is not an error code", args.code)).help("`hardneg explain all` lists them")
        );
    }
    for code in codes {
        terminal::out(&if json {
            serde_json::json!({ "code": code.name(), "exit": code.exit() as i32, "title": code.title(), "explain": code.explain() }).to_string()
        } else {
            format!("{}: {} (exit status {})\n\n{}\n", code.name(), code.title(), code.exit() as i32, code.explain())
        })?;
    }
    Ok(())
}
