//! `POST /push/{token}` in axum: parse the frame, reply as Porter does, deliver nothing. What HTTP alone costs.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::Path;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

/// What a push says; all of it is parsed.
#[derive(Deserialize)]
struct Frame {
    t: i32,
    method: String,
    alias: String,
    msg: String,
    num: u64,
}

#[derive(Serialize)]
struct Reply {
    t: i32,
    num: u64,
    mid: String,
    online: u32,
    stored: u32,
}

static MID: AtomicU64 = AtomicU64::new(1);

async fn push(Path(token): Path<String>, Json(frame): Json<Frame>) -> Json<Reply> {
    let parsed = frame.t == 6 && !token.is_empty() && !frame.method.is_empty() && !frame.alias.is_empty() && !frame.msg.is_empty();
    let mid = MID.fetch_add(1, Ordering::Relaxed).to_string();
    Json(Reply { t: -6, num: frame.num, mid, online: u32::from(parsed), stored: 0 })
}

/// One thread, as Porter has by default; prints where it listens.
fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        println!("management http://{}", listener.local_addr()?);
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            // Fails only on a socket that is gone.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, Router::new().route("/push/{token}", post(push))).await
    })
}
