//! What is no usual frame: frames that come in pieces, fragments, control frames, and all that breaks a rule. Tungstenite reads them.
//!
//! It is given one frame at a time, never a byte behind it. So it is known when it has nothing left and can go.

use std::io::{self, Read, Write};

use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::error::{CapacityError, Error};
use async_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use super::{Broken, Input, Item, Options, Payload};

/// Bytes of the longest header of a frame from a client.
const HEADER_BYTES_MAX: usize = 14;

/// Reads from the beginning of a frame on.
#[derive(Debug)]
pub(super) struct LongWay {
    socket: WebSocket<Pipe>,
    /// A message of several frames has begun.
    in_message: bool,
    /// The peer has closed or broken the protocol: nothing is read any more.
    is_over: bool,
}

/// What tungstenite takes for its socket: bytes that were lent, and bytes that it wants to send.
#[derive(Debug, Default)]
struct Pipe {
    input: Input,
    frame: Frame,
    output: Vec<u8>,
}

impl LongWay {
    pub(super) fn new(options: Options) -> LongWay {
        let config = WebSocketConfig::default()
            .read_buffer_size(options.buffer)
            .write_buffer_size(0)
            .max_message_size(Some(options.message_max))
            .max_frame_size(Some(options.message_max));
        LongWay { socket: WebSocket::from_raw_socket(Pipe::default(), Role::Server, Some(config)), in_message: false, is_over: false }
    }

    /// The next message. `None`: there is none before it is at rest, or more bytes are needed. Answers are appended to `control`.
    pub(super) fn next_item(&mut self, input: &mut Input, control: &mut Vec<u8>) -> Result<Option<Item<'static>>, Broken> {
        while !self.is_over && !input.is_empty() {
            let item = self.read_frame(input, control).inspect_err(|_| self.is_over = true)?;
            if item.is_some() || self.is_at_rest() {
                return Ok(item);
            }
        }
        Ok(None)
    }

    /// Whether it has said all that was in what it was given, and needs nothing of it for what follows.
    pub(super) fn is_at_rest(&self) -> bool {
        !self.in_message && !self.is_over && self.socket.get_ref().frame.is_over()
    }

    /// Reads no further than to the end of a frame. `None`: it is no message, or more bytes are needed.
    fn read_frame(&mut self, input: &mut Input, control: &mut Vec<u8>) -> Result<Option<Item<'static>>, Broken> {
        let pipe = self.socket.get_mut();
        if pipe.frame.is_over() {
            pipe.frame = Frame::default();
        }
        std::mem::swap(&mut pipe.input, input);
        let read = self.socket.read();
        if read.is_ok() {
            // Fails where the peer has closed: it writes its answer all the same.
            let _ = self.socket.flush();
        }
        let pipe = self.socket.get_mut();
        std::mem::swap(&mut pipe.input, input);
        control.append(&mut pipe.output);
        if pipe.frame.is_over() {
            self.in_message = pipe.frame.has_others_behind().unwrap_or(self.in_message);
        }
        match read {
            Ok(Message::Text(text)) => Ok(Some(Item::Text(Payload::Own(text)))),
            Ok(Message::Binary(bytes)) => Ok(Some(Item::Binary(Payload::Own(bytes)))),
            Ok(Message::Pong(_)) => Ok(Some(Item::Pong)),
            Ok(Message::Close(frame)) => {
                self.is_over = true;
                Ok(Some(Item::Close(frame.map(|frame| frame.code.into()))))
            }
            // The pipe is empty, or it was a ping.
            Ok(Message::Ping(_) | Message::Frame(_)) | Err(Error::Io(_)) => Ok(None),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => Err(Broken::TooLarge),
            Err(Error::Utf8(_)) => Err(Broken::Utf8),
            Err(_) => Err(Broken::Protocol),
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let rest = self.input.rest();
            let bytes = self.frame.wants().min(rest.len()).min(buffer.len() - filled);
            if bytes == 0 {
                break;
            }
            buffer[filled..filled + bytes].copy_from_slice(&rest[..bytes]);
            self.frame.took(&buffer[filled..filled + bytes]);
            self.input.taken += bytes;
            filled += bytes;
        }
        if filled == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(filled) }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a frame ends.
#[derive(Debug, Default)]
struct Frame {
    head: [u8; HEADER_BYTES_MAX],
    /// Bytes of `head` that have come.
    has: usize,
    /// Bytes of its payload that have come.
    came: usize,
}

impl Frame {
    /// Bytes of the header, as far as is known.
    fn head_length(&self) -> usize {
        if self.has < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & 0x80 == 0 { 0 } else { 4 }
    }

    /// Bytes of the payload.
    fn length(&self) -> usize {
        let [_, second, length @ .., _, _, _, _] = self.head;
        match second & 0x7f {
            126 => usize::from(u16::from_be_bytes([length[0], length[1]])),
            // What is longer is refused.
            127 => usize::try_from(u64::from_be_bytes(length)).unwrap_or(usize::MAX),
            short => usize::from(short),
        }
    }

    /// How many of the bytes that come next are surely its own.
    fn wants(&self) -> usize {
        match self.head_length() - self.has {
            0 => self.length() - self.came,
            head => head,
        }
    }

    /// Counts bytes that have come: no more than it wants.
    fn took(&mut self, bytes: &[u8]) {
        if self.has < self.head_length() {
            self.head[self.has..self.has + bytes.len()].copy_from_slice(bytes);
            self.has += bytes.len();
        } else {
            self.came += bytes.len();
        }
    }

    fn is_over(&self) -> bool {
        self.wants() == 0
    }

    /// Whether its message has further frames; `None` for a control frame, which says nothing of that.
    fn has_others_behind(&self) -> Option<bool> {
        (self.head[0] & 0x08 == 0).then_some(self.head[0] & 0x80 == 0)
    }
}
