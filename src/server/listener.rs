//! From a port to accepted connections: socket options, the accept loop, and who may have how many connections (G12).
//!
//! All ports share one [`Permits`], since descriptors are one supply. This file knows no protocol: what a connection is for is told
//! by the closure that it spawns.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_io::Async;
use async_std::task;
use futures::future::{self, Either};
use futures::task::AtomicWaker;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{
    ACCEPT_PAUSE, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, LISTEN_BACKLOG, RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES,
    TCP_USER_TIMEOUT,
};
use crate::runtime::clock;
use crate::runtime::reactor::Reactor;
use crate::runtime::shutdown::ShutdownSignal;
use crate::server::arrival::Arrival;
use crate::server::inlet::Inlet;

/// One port that is bound and listens.
#[derive(Debug)]
pub struct Listener {
    socket: Async<TcpListener>,
    local: SocketAddr,
}

/// A connection that was accepted, with the right to exist.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket, to read from; TCP_NODELAY, keep-alive, user timeout and both buffers are set. There may have been something to read
    /// before it was accepted: a connection waits for that while descriptors lack.
    pub inlet: Inlet,
    /// The other end; an IPv4 address is never in its mapped form.
    pub peer: SocketAddr,
    /// To be held as long as the socket is open. An `async` block that names only the inlet does not hold it.
    pub permit: Permit,
}

impl Listener {
    /// Binds; port 0 takes a free one. `::` takes IPv4 as well, unless the system says otherwise.
    ///
    /// # Errors
    /// Those of binding: address in use, not this machine's, not permitted.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = open(address)?;
        let local = socket.local_addr()?;
        Ok(Listener { socket: Async::new(socket)?, local })
    }

    /// The address that was bound, with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Accepts until the shutdown begins, then closes the port. Each connection gets a task of its own, which runs what `connection`
    /// makes of it; one that gets no permit, or can't be watched, is closed at once.
    pub async fn run<F>(self, reactor: Arc<Reactor>, permits: Arc<Permits>, shutdown: ShutdownSignal, connection: impl Fn(Accepted) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut begun = shutdown.begun();
        let mut turn = 0_u32;
        let mut logged: Option<Instant> = None;
        let mut arrival = Arrival::since(clock::mono_us());
        loop {
            turn = turn.wrapping_add(1);
            let mut accept = pin!(self.socket.accept());
            let mut came = 0;
            let accept = future::poll_fn(|context| {
                let attempt = accept.as_mut().poll(context);
                came = arrival.date(&attempt, |_| false);
                attempt
            });
            let accepted = match future::select(&mut begun, accept).await {
                Either::Left(_) => return,
                Either::Right((accepted, _)) => accepted,
            };
            match accepted.and_then(|(stream, peer)| take_in(&reactor, &permits, stream, peer, came)) {
                Ok(Some(accepted)) => drop(task::spawn(connection(accepted))),
                Ok(None) => {}
                Err(error) => {
                    permits.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
                    if is_exhaustion(&error) {
                        // Once in a while, not ten times a second as long as it lasts.
                        if logged.is_none_or(|at| at.elapsed() >= EXHAUSTION_LOGGED_EVERY) {
                            logged = Some(clock::mono());
                            log::warn!("accept_failed address={} reason=\"{error}\" action=retry", self.local);
                        }
                        future::select(&mut begun, pin!(task::sleep(ACCEPT_PAUSE))).await;
                    }
                }
            }
            // A storm of reconnects must not keep those who are already in from being served.
            if turn.is_multiple_of(ACCEPTS_PER_TURN) {
                task::yield_now().await;
            }
        }
    }
}

/// What a socket that was accepted comes to; nothing if it gets no permit. `came`: monotonic, µs.
fn take_in(
    reactor: &Arc<Reactor>,
    permits: &Arc<Permits>,
    stream: Async<TcpStream>,
    peer: SocketAddr,
    came: u64,
) -> io::Result<Option<Accepted>> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let Some(permit) = permits.take(peer.ip()) else { return Ok(None) };
    Ok(Some(Accepted { inlet: Inlet::new(reactor, &Arc::new(stream), came)?, peer, permit }))
}

/// Binds and sets what accepted sockets inherit.
fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES)?;
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)?;
    // std has listened already, with its own backlog of 128; listening again only changes that.
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether the system lacks what a connection needs: then the next accept would fail at once too.
fn is_exhaustion(error: &io::Error) -> bool {
    // The last: no more sockets may be watched.
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC];
    error.raw_os_error().is_some_and(|code| exhausted.iter().any(|errno| errno.raw_os_error() == code))
}

/// Raises the soft limit on descriptors to the hard one: the soft one, often 1,024, is a default for programs that use `select`.
/// Returns the limit that then holds; `None`: there is none.
///
/// # Errors
/// Those of `setrlimit`; the old limit holds then.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?;
    Ok(hard)
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// On all ports together.
    pub connections: usize,
    /// From one address, on all ports together, at least 1; loopback is exempt, for proxies stand there.
    pub per_address: usize,
}

/// Who has how many connections. One instance serves all ports.
#[derive(Debug)]
pub struct Permits {
    taken: Mutex<Taken>,
    /// Woken when the last permit is returned.
    emptied: AtomicWaker,
    counters: AcceptCounters,
}

#[derive(Debug)]
struct Taken {
    limits: ConnectionLimits,
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// What the accept loops count, for the status in the log.
#[derive(Debug, Default)]
pub struct AcceptCounters {
    /// Connections that got a permit.
    pub accepted: AtomicU64,
    /// Connections closed at once, since all permits were taken.
    pub refused_total: AtomicU64,
    /// Connections closed at once, since their address had its share.
    pub refused_address: AtomicU64,
    /// Errors of accept.
    pub accept_errors: AtomicU64,
}

/// The right of one connection to exist. Dropping it returns it.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    /// Whose it is. It counts for that address, unless that is loopback.
    address: IpAddr,
}

impl Permit {
    /// The address it was given to; an IPv4 address is never in its mapped form.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl Permits {
    /// All permits are free.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Arc<Permits> {
        let taken = Mutex::new(Taken { limits, total: 0, by_address: HashMap::new() });
        Arc::new(Permits { taken, emptied: AtomicWaker::new(), counters: AcceptCounters::default() })
    }

    /// From now on these limits hold. Connections that are open stay, also when they are too many: newcomers wait for their end.
    pub fn reconfigure(&self, limits: ConnectionLimits) {
        self.taken().limits = limits;
    }

    /// A permit for a connection from `address`, or none, counted.
    #[must_use]
    pub fn take(self: &Arc<Permits>, address: IpAddr) -> Option<Permit> {
        let mut taken = self.taken();
        if taken.total >= taken.limits.connections {
            self.counters.refused_total.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let address = address.to_canonical();
        if !address.is_loopback() {
            if taken.by_address.get(&address).is_some_and(|open| *open >= taken.limits.per_address) {
                self.counters.refused_address.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            *taken.by_address.entry(address).or_default() += 1;
        }
        taken.total += 1;
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        Some(Permit { permits: self.clone(), address })
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.taken().total
    }

    /// Waits until no connection is open. One may wait at a time: whoever shuts down.
    pub async fn all_returned(&self) {
        future::poll_fn(|context| {
            self.emptied.register(context.waker());
            if self.open_connections() == 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// What the accept loops have counted.
    #[must_use]
    pub fn counters(&self) -> &AcceptCounters {
        &self.counters
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // The counts are whole at every point where a panic could leave the lock.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.permits.taken();
        taken.total -= 1;
        if !self.address.is_loopback()
            && let Some(of_address) = taken.by_address.get_mut(&self.address)
        {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
        }
        if taken.total == 0 {
            drop(taken);
            self.permits.emptied.wake();
        }
    }
}

/// Between two lines in the log about one port's want of descriptors or memory.
const EXHAUSTION_LOGGED_EVERY: Duration = Duration::from_secs(60);
/// Connections accepted in a row before others have their turn.
const ACCEPTS_PER_TURN: u32 = 16;
const BACKLOG: i32 = LISTEN_BACKLOG as i32;
const USER_TIMEOUT_MS: u32 = TCP_USER_TIMEOUT.as_millis() as u32;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::Ipv4Addr;

    use futures::FutureExt;

    use super::*;
    use crate::runtime::shutdown::shutdown;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn permits(connections: usize, per_address: usize) -> Arc<Permits> {
        Permits::new(ConnectionLimits { connections, per_address })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn permits_are_counted_in_all() {
        let permits = permits(2, 9);
        let first = permits.take(address("192.0.2.1")).unwrap();
        let second = permits.take(address("127.0.0.1")).unwrap();
        assert!(permits.take(address("192.0.2.2")).is_none());
        assert_eq!(permits.counters().refused_total.load(Ordering::Relaxed), 1);
        drop(first);
        assert_eq!(permits.open_connections(), 1);
        assert!(permits.take(address("192.0.2.2")).is_some());
        drop(second);
        assert_eq!(permits.open_connections(), 0);
        assert_eq!(permits.counters().accepted.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn permits_are_counted_per_address_in_any_spelling() {
        let permits = permits(100, 2);
        let held = [permits.take(address("192.0.2.1")), permits.take(address("::ffff:192.0.2.1"))];
        assert!(held.iter().all(Option::is_some));
        assert!(permits.take(address("192.0.2.1")).is_none());
        assert_eq!(permits.counters().refused_address.load(Ordering::Relaxed), 1);
        assert!(permits.take(address("192.0.2.2")).is_some());
        drop(held);
        assert!(permits.take(address("192.0.2.1")).is_some());
        assert!(permits.taken().by_address.is_empty(), "an address without connections costs nothing");
    }

    #[test]
    fn limits_that_change_hold_for_newcomers_only() {
        let permits = permits(2, 1);
        let first = permits.take(address("192.0.2.1")).unwrap();
        permits.reconfigure(ConnectionLimits { connections: 3, per_address: 2 });
        let second = permits.take(address("192.0.2.1")).unwrap();
        permits.reconfigure(ConnectionLimits { connections: 1, per_address: 9 });
        assert_eq!(permits.open_connections(), 2, "nobody is thrown out");
        drop(second);
        assert!(permits.take(address("192.0.2.1")).is_none());
        drop(first);
        assert!(permits.take(address("192.0.2.1")).is_some());
    }

    #[test]
    fn loopback_is_exempt_from_the_share_of_an_address() {
        let permits = permits(100, 1);
        let held: Vec<_> = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"].map(|text| permits.take(address(text))).into();
        assert!(held.iter().all(Option::is_some));
        assert_eq!(permits.open_connections(), 4);
    }

    #[test]
    fn the_last_permit_returned_is_heard_of() {
        let permits = permits(2, 2);
        permits.all_returned().now_or_never().unwrap();
        let permit = permits.take(address("192.0.2.1")).unwrap();
        assert!(permits.all_returned().now_or_never().is_none());
        let waiting = task::spawn({
            let permits = permits.clone();
            async move { permits.all_returned().await }
        });
        drop(permit);
        task::block_on(async_std::future::timeout(PATIENCE, waiting)).unwrap();
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let listener = open((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(sockopt::tcp_nodelay(&accepted).unwrap());
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), KEEPALIVE_PROBES);
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 30_000);
        // The kernel doubles what it is asked for.
        assert_eq!(sockopt::socket_send_buffer_size(&accepted).unwrap(), 2 * SEND_BUFFER_BYTES);
        assert_eq!(sockopt::socket_recv_buffer_size(&accepted).unwrap(), 2 * RECEIVE_BUFFER_BYTES);
    }

    #[test]
    fn only_a_want_of_resources_calls_for_a_pause() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC] {
            assert!(is_exhaustion(&errno.into()), "{errno}");
        }
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::PERM] {
            assert!(!is_exhaustion(&errno.into()), "{errno}");
        }
        assert!(!is_exhaustion(&io::Error::other("no number")));
    }

    #[test]
    fn the_descriptor_limit_is_raised_to_the_hard_one() {
        let limit = raise_descriptor_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, limit);
        assert_eq!(getrlimit(Resource::Nofile).maximum, limit);
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        assert_eq!(Listener::bind(listener.local_addr()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    /// Two ports with one permit between them: whoever comes second, at either port, is closed at once.
    #[test]
    fn ports_share_their_permits_and_close_whom_they_refuse() {
        let (switch, signal) = shutdown();
        let permits = permits(1, 1);
        let mut ports = Vec::new();
        let mut accepting = Vec::new();
        for _ in 0..2 {
            let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            ports.push(listener.local_addr());
            let reactor = Arc::new(Reactor::new().unwrap());
            accepting.push(task::spawn(listener.run(reactor, permits.clone(), signal.clone(), |accepted| async move {
                let Accepted { inlet, permit: _permit, .. } = accepted;
                let _ = async_std::io::ReadExt::read_to_end(&mut &**inlet.socket(), &mut Vec::new()).await;
            })));
        }
        for _ in 0..3 {
            let first = TcpStream::connect(ports[0]).unwrap();
            let mut second = TcpStream::connect(ports[0]).unwrap();
            second.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(second.read(&mut [0]).unwrap(), 0);
            let mut third = TcpStream::connect(ports[1]).unwrap();
            third.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(third.read(&mut [0]).unwrap(), 0);
            drop(first);
            task::block_on(async_std::future::timeout(PATIENCE, permits.all_returned())).unwrap();
        }
        assert_eq!(permits.counters().accepted.load(Ordering::Relaxed), 3);
        assert_eq!(permits.counters().refused_total.load(Ordering::Relaxed), 6);
        switch.begin();
        for task in accepting {
            task::block_on(async_std::future::timeout(PATIENCE, task)).unwrap();
        }
        assert!(ports.iter().all(|port| TcpStream::connect(port).is_err()));
    }
}
