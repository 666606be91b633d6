//! The part of Porter's work that the Socket.IO jobs ask for, in socketioxide: `register` joins the room, `do_push` emits `push` to it
//! and is answered when every client has acknowledged by `push_c` (at once if the message has no time to live), `heartbeat` is
//! answered. Nothing is stored.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use socketioxide::SocketIo;
use socketioxide::extract::{Data, SocketRef};

const ROOM: &str = "load";

#[derive(Deserialize)]
struct Publish {
    msg: String,
    num: u32,
    #[serde(default)]
    opts: Options,
}

#[derive(Default, Deserialize)]
struct Options {
    time_to_live: Option<u32>,
}

#[derive(Serialize)]
struct Push<'a> {
    t: i32,
    mid: String,
    topic: &'a str,
    msg: &'a str,
}

#[derive(Deserialize)]
struct Acknowledgement {
    mid: String,
}

#[derive(Serialize)]
struct Reply {
    t: i32,
    num: u32,
}

/// A push that some clients have not acknowledged.
struct Waiting {
    left: usize,
    publisher: SocketRef,
    num: u32,
}

#[derive(Default)]
struct State {
    members: usize,
    last_mid: u64,
    waiting: HashMap<u64, Waiting>,
}

type Shared = Arc<Mutex<State>>;

fn answer(publisher: &SocketRef, num: u32) {
    // Fails only for one that is gone.
    let _ = publisher.emit("do_push_c", &Reply { t: -6, num });
}

async fn publish(io: SocketIo, publisher: SocketRef, publish: Publish, state: Shared) {
    let lives = publish.opts.time_to_live != Some(0);
    let mid = {
        let mut state = state.lock().unwrap();
        state.last_mid += 1;
        let (mid, left) = (state.last_mid, state.members);
        if lives {
            state.waiting.insert(mid, Waiting { left, publisher: publisher.clone(), num: publish.num });
        }
        mid
    };
    let _ = io.to(ROOM).emit("push", &Push { t: 5, mid: mid.to_string(), topic: ROOM, msg: &publish.msg }).await;
    if !lives {
        answer(&publisher, publish.num);
    }
}

fn acknowledge(acknowledgement: &Acknowledgement, state: &Shared) {
    let Ok(mid) = acknowledgement.mid.parse() else { return };
    let mut state = state.lock().unwrap();
    let Some(waiting) = state.waiting.get_mut(&mid) else { return };
    waiting.left -= 1;
    if waiting.left == 0
        && let Some(done) = state.waiting.remove(&mid)
    {
        answer(&done.publisher, done.num);
    }
}

fn serve(socket: &SocketRef, state: &Shared) {
    let shared = Arc::clone(state);
    socket.on("register", async move |socket: SocketRef| {
        socket.join(ROOM);
        shared.lock().unwrap().members += 1;
        let _ = socket.emit("register_c", &Reply { t: -2, num: 0 });
    });
    let shared = Arc::clone(state);
    socket.on("do_push", move |io: SocketIo, socket: SocketRef, Data::<Publish>(data)| publish(io, socket, data, Arc::clone(&shared)));
    let shared = Arc::clone(state);
    socket.on("push_c", async move |Data::<Acknowledgement>(data)| acknowledge(&data, &shared));
    socket.on("heartbeat", async |socket: SocketRef| {
        let _ = socket.emit("heartbeat_c", &Reply { t: -1, num: 0 });
    });
}

/// One thread, as Porter has by default; prints where it listens.
fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (layer, io) = SocketIo::new_layer();
        let state = Shared::default();
        io.ns("/", async move |socket: SocketRef| serve(&socket, &state));
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        println!("phones http://{}/socket.io/", listener.local_addr()?);
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            // Fails only on a socket that is gone.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, axum::Router::new().layer(layer)).await
    })
}
