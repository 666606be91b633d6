//! Whose fault an error of SQLite is: the one place that reads its codes.

use rusqlite::ErrorCode;

/// `SQLITE_IOERR_SHMSIZE`: the index of the log can't grow, which is what a full disk looks like there.
const IO_ERROR_SHARED_MEMORY_SIZE: i32 = 10 | (19 << 8);

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The value's own: another value in its place can be written or read.
    Value,
    /// No space is left.
    Full,
    /// The file is no database or contradicts itself.
    Damaged,
    /// The disk, the memory or another program.
    Disk,
}

/// Sorts an error by blame.
pub(super) fn cause(error: &rusqlite::Error) -> Cause {
    use rusqlite::Error as E;
    let code = match error {
        E::SqliteFailure(code, _) => code,
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::Utf8Error(..)
        | E::InvalidColumnType(..)
        | E::ToSqlConversionFailure(_) => return Cause::Value,
        E::SqlInputError { .. } => return Cause::Damaged,
        _ => return Cause::Disk,
    };
    match code.code {
        ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => Cause::Value,
        ErrorCode::DiskFull => Cause::Full,
        ErrorCode::SystemIoFailure if code.extended_code == IO_ERROR_SHARED_MEMORY_SIZE => Cause::Full,
        // `Unknown` is SQLITE_ERROR: our own statements do not fit the tables, so these are not as they were made.
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown => Cause::Damaged,
        _ => Cause::Disk,
    }
}
