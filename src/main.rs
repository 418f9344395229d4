//! The program: parse the command line, run it, say what went wrong.
#![expect(
    clippy::print_stderr,
    reason = "the one place that prints an error and sets the exit code"
)]

use std::process::ExitCode;

use clap::error::ErrorKind;
use reranker::cli::{self, Cli};

/// The command line could not be understood (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => {
            // Also how clap prints help and the version.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
