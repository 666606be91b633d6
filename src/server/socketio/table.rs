//! All sessions by their names, and the sweep that finds what has waited too long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::protocol::engineio::request::{Sid, Transport};
use crate::runtime::handle::SocketIoLink;
use crate::runtime::shutdown::ShutdownSignal;
use crate::server::socketio::session::Session;

/// How often deadlines are looked at: the shortest is 10 s.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The sessions that are not over.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Sid, Arc<Session>>>);

impl Sessions {
    fn map(&self) -> MutexGuard<'_, HashMap<Sid, Arc<Session>>> {
        // An entry is put in or taken out as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session under a name that nobody can guess.
    pub(super) fn add(self: &Arc<Self>, link: SocketIoLink, base64: bool, transport: Transport) -> Arc<Session> {
        let mut random = [0; Sid::RANDOM_BYTES];
        // Fails only where the system has no random numbers at all, and then the process has no key either.
        getrandom::fill(&mut random).expect("the system gives random numbers");
        let sid = Sid::new(random);
        let session = Arc::new(Session::new(sid, link, base64, transport, Arc::downgrade(self)));
        self.map().insert(sid, Arc::clone(&session));
        session
    }

    /// The session of that name.
    pub(super) fn find(&self, sid: &Sid) -> Option<Arc<Session>> {
        self.map().get(sid).cloned()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.map().len()
    }

    /// The session is over: its name means nothing any more.
    pub(super) fn remove(&self, sid: &Sid) {
        let session = self.map().remove(sid);
        // Its end may call back: not under the lock.
        drop(session);
    }

    fn all(&self) -> Vec<Arc<Session>> {
        self.map().values().cloned().collect()
    }
}

/// Looks after the deadlines of all sessions until the shutdown.
pub(super) async fn sweep(sessions: Arc<Sessions>, shutdown: ShutdownSignal) {
    while !shutdown.has_begun() {
        async_std::task::sleep(SWEEP_EVERY).await;
        for (number, session) in sessions.all().into_iter().enumerate() {
            session.look_at_deadlines();
            if number % SESSIONS_PER_TURN == SESSIONS_PER_TURN - 1 {
                async_std::task::yield_now().await;
            }
        }
    }
}

/// Sessions looked at before others have their turn.
const SESSIONS_PER_TURN: usize = 1_024;
