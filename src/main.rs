//! The program: parse the command line, run it, say what went wrong.

use std::process::ExitCode;

use reranker::{
    cli::{self, Cli},
    telemetry,
};

/// The command line could not be understood (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    telemetry::start();
    let code = run();
    telemetry::flush();
    code
}

fn run() -> ExitCode {
    let done = match Cli::read() {
        Ok(cli) => cli::run(cli),
        Err(misuse) if misuse.use_stderr() => {
            // If that fails, there is nowhere left to say so.
            let _ = misuse.print();
            return ExitCode::from(USAGE);
        }
        Err(help_or_version) => cli::written(help_or_version.print()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::report(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
