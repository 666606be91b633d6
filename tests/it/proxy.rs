//! A proxy in front of a port that stops forwarding and goes on, as a network that hangs, or is slow.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::porter::DEADLINE;

/// What the proxy's kernel takes of the server's bytes while it stands still: little, so that they stay with the server.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;
/// Bytes that it forwards at once.
const PIECE_BYTES: usize = 4_096;

/// A proxy. It accepts also while it stands still.
pub struct Proxy {
    pub address: SocketAddr,
    /// Bytes that it still forwards, in both directions together.
    left: Arc<AtomicI64>,
    /// Milliseconds that each piece of [`PIECE_BYTES`] takes.
    pause_ms: Arc<AtomicU64>,
}

impl Proxy {
    pub fn before(server: SocketAddr) -> Proxy {
        Proxy::with_buffer(server, RECEIVE_BUFFER_BYTES)
    }

    /// One whose kernel takes so many bytes of the server's.
    pub fn with_buffer(server: SocketAddr, bytes: usize) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (left, pause_ms) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(AtomicU64::new(0)));
        let proxy = Proxy { address: listener.local_addr().unwrap(), left: Arc::clone(&left), pause_ms: Arc::clone(&pause_ms) };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(server).unwrap();
                set_socket_recv_buffer_size(&server, bytes).unwrap();
                for (from, to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                    let (left, pause_ms) = (Arc::clone(&left), Arc::clone(&pause_ms));
                    std::thread::spawn(move || forward(from, to, &left, &pause_ms));
                }
            }
        });
        proxy
    }

    /// It forwards nothing more.
    pub fn stop(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// It forwards about so many bytes more, and then nothing.
    pub fn stop_after(&self, bytes: i64) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Waits until it stands still.
    #[track_caller]
    pub fn await_stop(&self) {
        let end = Instant::now() + DEADLINE;
        while self.left.load(Ordering::Relaxed) > 0 {
            assert!(Instant::now() < end, "there was not so much to forward");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// From now on each piece of [`PIECE_BYTES`] takes so long.
    pub fn slow_down(&self, pause: Duration) {
        self.pause_ms.store(pause.as_millis() as u64, Ordering::Relaxed);
    }

    /// It forwards everything again, first what it holds.
    pub fn go_on(&self) {
        self.left.store(i64::MAX, Ordering::Relaxed);
    }
}

/// What is not read stays with the kernels; a piece that was being read when the proxy stopped is held.
fn forward(mut from: TcpStream, mut to: TcpStream, left: &AtomicI64, pause_ms: &AtomicU64) {
    let mut buffer = [0; PIECE_BYTES];
    let wait = || {
        while left.load(Ordering::Relaxed) <= 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    loop {
        wait();
        let Ok(read @ 1..) = from.read(&mut buffer) else { break };
        wait();
        left.fetch_sub(read as i64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(pause_ms.load(Ordering::Relaxed)));
    }
    let _ = to.shutdown(Shutdown::Both);
}
