//! A frame of a room as all its receivers share it. A picture for many lies in a file in memory, whose pages the kernel sends as they
//! are: so it is not copied once for each viewer, and what slow viewers have not taken yet is not held once for each of them either.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use crate::protocol::room::RoomFrame;
use crate::protocol::websocket::{self, Header, Opcode};
use crate::runtime::outbox::Bounds;
use crate::runtime::socket::Socket;

/// A frame goes into a file if it is for so many, and of so many bytes: making one costs about as much as three copies of 50 KB.
const FILE_RECEIVERS_MIN: usize = 8;
const FILE_BYTES_MIN: usize = 16 << 10;
/// Frames in files at a time, each of which takes a descriptor; those of more are copied.
const FILES_MAX: usize = 64;

/// One header and one payload, counted once in what all outboxes hold.
pub(super) struct SharedFrame {
    header: Header,
    body: Body,
    length: usize,
    pub(super) is_text: bool,
    bounds: Arc<Bounds>,
}

enum Body {
    Bytes(Bytes),
    /// Header and payload.
    File(File),
}

/// What one call of the system is to write.
pub(super) enum Chunk<'a> {
    /// Pieces, in order.
    Pieces(&'a [IoSlice<'a>]),
    /// The bytes of a file from one position up to another.
    File(&'a File, usize, usize),
}

impl SharedFrame {
    /// A frame that goes to so many.
    pub(super) fn new(frame: &RoomFrame, receivers: usize, bounds: &Arc<Bounds>) -> Arc<SharedFrame> {
        let opcode = if frame.is_text { Opcode::Text } else { Opcode::Binary };
        let (header, length) = (websocket::header(opcode, frame.payload.len()), frame.payload.len());
        bounds.held.fetch_add(length, Ordering::Relaxed);
        let file = if receivers >= FILE_RECEIVERS_MIN && length >= FILE_BYTES_MIN { file(&header, &frame.payload, bounds) } else { None };
        let body = file.map_or_else(|| Body::Bytes(frame.payload.clone()), Body::File);
        Arc::new(SharedFrame { header, body, length, is_text: frame.is_text, bounds: Arc::clone(bounds) })
    }

    /// Bytes of header and payload.
    pub(super) fn len(&self) -> usize {
        self.header.as_bytes().len() + self.length
    }

    /// Where it lies in a file.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.body {
            Body::File(file) => Some(file),
            Body::Bytes(_) => None,
        }
    }

    /// Header and payload from that position on; nothing where it lies in a file.
    pub(super) fn pieces(&self, from: usize) -> [&[u8]; 2] {
        let Body::Bytes(payload) = &self.body else { return [&[], &[]] };
        let header = self.header.as_bytes();
        [&header[from.min(header.len())..], &payload[from.saturating_sub(header.len())..]]
    }
}

impl Drop for SharedFrame {
    fn drop(&mut self) {
        self.bounds.held.fetch_sub(self.length, Ordering::Relaxed);
        if self.file().is_some() {
            self.bounds.files.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A file in memory with the whole frame. `None`: there are too many, or the system has none to give.
fn file(header: &Header, payload: &[u8], bounds: &Bounds) -> Option<File> {
    if bounds.files.load(Ordering::Relaxed) >= FILES_MAX {
        return None;
    }
    let mut file = File::from(memfd_create("frame", MemfdFlags::CLOEXEC).ok()?);
    file.write_all(header.as_bytes()).and_then(|()| file.write_all(payload)).ok()?;
    bounds.files.fetch_add(1, Ordering::Relaxed);
    Some(file)
}

impl Chunk<'_> {
    /// Has the socket take what it takes at once. Returns the bytes taken.
    ///
    /// # Errors
    /// Those of the socket; [`Errno::AGAIN`] if it takes nothing now.
    pub(super) fn send(&self, socket: &Socket) -> Result<usize, Errno> {
        loop {
            let sent = match self {
                Chunk::Pieces(pieces) => {
                    sendmsg(socket, pieces, &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                }
                // No signal comes of a socket that is gone: Rust's runtime ignores SIGPIPE. A file that ends early has lost its pages.
                Chunk::File(file, from, to) => match sendfile(socket, file, Some(&mut (*from as u64)), to - from) {
                    Ok(0) => Err(Errno::IO),
                    sent => sent,
                },
            };
            if sent != Err(Errno::INTR) {
                return sent;
            }
        }
    }
}
