//! runtime

pub mod clock;
pub mod keyring;
pub mod logger;
