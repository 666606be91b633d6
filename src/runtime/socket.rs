//! A TCP socket as whoever reads from it and whoever writes to it share it.

use std::net::TcpStream;
use std::sync::Arc;

use async_io::Async;
use rustix::net::sockopt;

use crate::limits::{DOOR_SEND_BUFFER_BYTES, DOOR_USER_TIMEOUT_MS};

/// An accepted connection's socket. It is closed with its last holder. Whether there is something to read, a
/// [`crate::runtime::reactor::Reactor`] tells; whether one may write again, async-io does.
pub type Socket = Arc<Async<TcpStream>>;

/// The two ends of a connection: the server's, and that of a client whose calls wait.
#[cfg(test)]
pub(crate) fn pair() -> (Socket, TcpStream) {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (Arc::new(Async::new(server).unwrap()), client)
}

/// From now on the kernel holds little for this socket, and that dies with the connection when the peer takes none of it for 5 s: what
/// waits behind it can still be dropped when it is too old (Protocol §7).
pub fn hold_little(stream: &Socket) {
    // Refused only if the socket is gone, and then nothing is held for it.
    let _ = sockopt::set_tcp_user_timeout(stream, DOOR_USER_TIMEOUT_MS);
    let _ = sockopt::set_socket_send_buffer_size(stream, DOOR_SEND_BUFFER_BYTES);
}
