//! Builds everything from a configuration, starts it, and stops it in order.

use std::process::ExitCode;

use crate::config::Config;

/// Serves until a signal ends it.
#[must_use]
pub fn serve(config: Config) -> ExitCode {
    log::error!("this build has no server to serve {}", config.data_dir.display());
    ExitCode::FAILURE
}
