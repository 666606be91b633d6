//! A TCP socket as whoever reads from it and whoever writes to it share it.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use async_io::Async;

/// An accepted connection's socket. It is closed with its last holder. async-std's own type does not tell whether there is anything
/// to read without trying, and each try is a call of the system.
pub type Socket = Arc<Async<TcpStream>>;

/// Takes a socket over.
///
/// # Errors
/// Those of making it non-blocking and of waiting for it: no descriptor, no memory.
pub fn take_over(stream: TcpStream) -> io::Result<Socket> {
    Async::new(stream).map(Arc::new)
}
