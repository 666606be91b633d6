//! The part of Porter's work that the jobs of rooms ask for, in tokio-tungstenite with its defaults: whatever a member of a room sends
//! goes to all others in it, as it is. A room's name is the first part of the path.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// Of each room its members: where what they get is put.
type Rooms = Arc<Mutex<HashMap<String, HashMap<u64, UnboundedSender<Message>>>>>;

/// Sends a message to all in the room but its sender.
fn relay(rooms: &Rooms, room: &str, sender: u64, message: &Message) {
    let rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
    for (_, other) in rooms.get(room).into_iter().flatten().filter(|(id, _)| **id != sender) {
        // Fails only for one that is about to leave.
        let _ = other.send(message.clone());
    }
}

async fn serve(stream: TcpStream, id: u64, rooms: Rooms) {
    let mut room = String::new();
    let name = |request: &Request, response: Response| {
        request.uri().path().split('/').nth(1).unwrap_or_default().clone_into(&mut room);
        Ok(response)
    };
    let Ok(member) = tokio_tungstenite::accept_hdr_async(stream, name).await else { return };
    let (mut sink, mut messages) = member.split();
    let (put, mut take) = unbounded_channel();
    rooms.lock().unwrap_or_else(PoisonError::into_inner).entry(room.clone()).or_default().insert(id, put);
    tokio::spawn(async move {
        while let Some(message) = take.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    while let Some(Ok(message)) = messages.next().await {
        if message.is_binary() || message.is_text() {
            relay(&rooms, &room, id, &message);
        }
    }
    let mut rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(members) = rooms.get_mut(&room) {
        members.remove(&id);
        if members.is_empty() {
            rooms.remove(&room);
        }
    }
}

/// One thread, as Porter has by default; prints where it listens.
fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        println!("rooms ws://{}", listener.local_addr()?);
        let rooms = Rooms::default();
        for id in 0.. {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream, id, Arc::clone(&rooms)));
        }
        Ok(())
    })
}
