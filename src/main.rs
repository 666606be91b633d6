//! The `porter` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    porter::cli::main()
}
