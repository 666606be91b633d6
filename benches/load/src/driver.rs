//! The seam between the load and a protocol: bytes in, bytes out, and what they mean for a measurement. No sockets, no clock.

/// Bytes of the string in every message, the same for all protocols.
pub const BODY_BYTES: usize = 100;

/// Who is at our end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Sends requests and gets their answers.
    Publisher(u32),
    /// Is there under a name, and no more.
    Present(u32),
    /// Gets what is sent to its own name, and acknowledges it.
    Receiver(u32),
    /// As a receiver, and also subscribed to the topic.
    Subscriber(u32),
    /// As a subscriber, but acknowledges nothing.
    Listener(u32),
    /// As a receiver; what comes while it is away waits for it.
    Lasting(u32),
    /// As a subscriber; what comes while it is away waits for it.
    LastingSubscriber(u32),
    /// Shows pictures to all viewers.
    Camera,
    /// Sees pictures; counts them.
    Viewer(u32),
    /// A viewer that reads nothing.
    Stalled(u32),
    /// Talks to the callee of its number, and to nobody else.
    Caller(u32),
    /// Says to its caller what it has heard from it.
    Callee(u32),
    /// Opens the door.
    Opener,
    /// The door, which hears of each opening.
    Door,
}

impl Who {
    /// Whether it sends requests.
    pub const fn asks(self) -> bool {
        matches!(self, Who::Publisher(_) | Who::Present(_) | Who::Camera | Who::Caller(_) | Who::Opener)
    }

    /// The number in its name; 0 where there is but one.
    pub const fn number(self) -> u32 {
        match self {
            Who::Publisher(n) | Who::Present(n) | Who::Receiver(n) | Who::Subscriber(n) => n,
            Who::Listener(n) | Who::Lasting(n) | Who::LastingSubscriber(n) => n,
            Who::Viewer(n) | Who::Stalled(n) | Who::Caller(n) | Who::Callee(n) => n,
            Who::Camera | Who::Opener | Who::Door => 0,
        }
    }

    pub const fn subscribes(self) -> bool {
        matches!(self, Who::Subscriber(_) | Who::Listener(_) | Who::LastingSubscriber(_))
    }

    pub const fn lasts(self) -> bool {
        matches!(self, Who::Lasting(_) | Who::LastingSubscriber(_))
    }
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A message to the receiver with that number.
    ToOne(u32),
    /// A message to all subscribers.
    ToTopic,
    /// A message to all subscribers that are there; nobody acknowledges it.
    Announcement,
    /// A sign of life.
    Ping,
    /// The picture, message or opening of that number, to whoever else is in the room: so a protocol that has nothing but topics
    /// takes it for one to all subscribers.
    ToRoom(u32),
}

/// What an item from the server was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// One of the answers to the opening words.
    Ready,
    /// The answer to the request of that slot.
    Answered(u32),
    /// A message came; its acknowledgement is in `out` already.
    Delivered,
    /// What was sent to the room under that number is here, whole.
    Seen(u32),
    /// A part of an item that is too large to be kept until it is whole.
    Part,
    /// Something of the protocol's own.
    Nothing,
}

/// One connection's side of a protocol.
pub trait Driver {
    /// Puts the opening words into `out`. Returns how many [`Event::Ready`] will answer them.
    fn open(&mut self, out: &mut Vec<u8>) -> usize;

    /// Puts a request into `out`. At most one is under way in each slot.
    fn request(&mut self, slot: u32, request: Request, out: &mut Vec<u8>);

    /// Takes one item, or a part of one, from the front of `input`: how many bytes, and what it was. `None`: it is not whole yet.
    fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String>;
}

/// Slots of a protocol whose answers keep the order of the requests.
#[derive(Debug, Default)]
pub struct InOrder {
    slots: std::collections::VecDeque<u32>,
}

impl InOrder {
    pub fn asked(&mut self, slot: u32) {
        self.slots.push_back(slot);
    }

    pub fn answered(&mut self) -> Result<Event, String> {
        self.slots.pop_front().map(Event::Answered).ok_or_else(|| "an answer to nothing".to_owned())
    }
}

/// Appends a decimal number.
pub fn put_number(mut n: u32, out: &mut Vec<u8>) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Reads the decimal number at the front.
pub fn leading_number(bytes: &[u8]) -> Option<u32> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()
}

/// The string in every message.
pub const BODY: [u8; BODY_BYTES] = [b'x'; BODY_BYTES];

/// An item that no job expects.
pub fn unexpected(item: &[u8]) -> String {
    format!("unexpected: {}", String::from_utf8_lossy(&item[..item.len().min(300)]))
}

#[cfg(test)]
pub mod tests {
    use super::{Driver, Event};

    /// Feeds `input` whole and byte by byte; both must give `events`, whatever parts there are, and answer with `out`.
    pub fn check(make: &dyn Fn() -> Box<dyn Driver>, input: &[u8], events: &[Event], out: &[u8]) {
        for step in [input.len(), 1] {
            let mut driver = make();
            let (mut got, mut said, mut seen, mut end) = (Vec::new(), Vec::new(), 0, 0);
            while end < input.len() {
                end = (end + step).min(input.len());
                while let Some((taken, event)) = driver.next(&input[seen..end], &mut said).unwrap() {
                    seen += taken;
                    if event != Event::Part {
                        got.push(event);
                    }
                }
            }
            assert_eq!((seen, got.as_slice(), said.as_slice()), (input.len(), events, out), "in steps of {step}");
        }
    }

    #[test]
    fn numbers_go_both_ways() {
        for n in [0, 9, 10, 1_234_567_890, u32::MAX] {
            let mut text = Vec::new();
            super::put_number(n, &mut text);
            text.push(b'}');
            assert_eq!(super::leading_number(&text), Some(n));
        }
        assert_eq!(super::leading_number(b"x"), None);
    }
}
