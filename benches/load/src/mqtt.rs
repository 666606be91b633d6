//! MQTT 3.1.1, the few packets that the jobs need; QoS 1 both ways.

use crate::driver::{BODY, Driver, Event, InOrder, Request, Who, put_number, unexpected};

/// One client. The slot of a publish is its packet identifier less one.
pub struct Client {
    who: Who,
    pings: InOrder,
}

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_QOS_1: u8 = 0x32;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;

impl Client {
    pub fn new(who: Who) -> Client {
        Client { who, pings: InOrder::default() }
    }

    fn connect(&self, out: &mut Vec<u8>) {
        let mut name = if let Who::Publisher(_) = self.who { b"p-".to_vec() } else { b"d-".to_vec() };
        put_number(self.who.number(), &mut name);
        let clean = if self.who.lasts() { 0 } else { 2 };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, clean, 0, 0];
        put_text(&name, &mut body);
        put_packet(CONNECT, &body, out);
    }

    fn subscribe(&self, out: &mut Vec<u8>) {
        let mut own = b"d/".to_vec();
        put_number(self.who.number(), &mut own);
        let mut body = vec![0, 1];
        put_text(&own, &mut body);
        body.push(1);
        if self.who.subscribes() {
            put_text(b"load", &mut body);
            body.push(1);
        }
        put_packet(SUBSCRIBE, &body, out);
    }
}

impl Driver for Client {
    fn open(&mut self, out: &mut Vec<u8>) -> usize {
        self.connect(out);
        if self.who.asks() {
            return 1;
        }
        self.subscribe(out);
        2
    }

    fn request(&mut self, slot: u32, request: Request, out: &mut Vec<u8>) {
        let mut topic = Vec::with_capacity(16);
        match request {
            Request::Ping => {
                self.pings.asked(slot);
                return out.extend_from_slice(&[PINGREQ, 0]);
            }
            Request::ToOne(number) => {
                topic.extend_from_slice(b"d/");
                put_number(number, &mut topic);
            }
            Request::ToTopic | Request::Announcement | Request::ToRoom(_) => topic.extend_from_slice(b"load"),
        }
        out.push(PUBLISH_QOS_1);
        put_length(2 + topic.len() + 2 + BODY.len(), out);
        put_text(&topic, out);
        out.extend_from_slice(&(slot as u16 + 1).to_be_bytes());
        out.extend_from_slice(&BODY);
    }

    fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String> {
        let Some((head, length)) = length(input)? else { return Ok(None) };
        let Some(body) = input.get(head..head + length) else { return Ok(None) };
        let event = match (input[0], body) {
            (CONNACK, [_, 0]) => Event::Ready,
            (SUBACK, [_, _, granted @ ..]) if granted.iter().all(|qos| *qos == 1) => Event::Ready,
            (PUBACK, [high, low]) => Event::Answered(u32::from(u16::from_be_bytes([*high, *low])).wrapping_sub(1)),
            (PINGRESP, []) => self.pings.answered()?,
            (PUBLISH_QOS_1, [high, low, rest @ ..]) => {
                let topic = usize::from(u16::from_be_bytes([*high, *low]));
                let id = rest.get(topic..topic + 2).ok_or_else(|| unexpected(body))?;
                out.extend_from_slice(&[PUBACK, 2, id[0], id[1]]);
                Event::Delivered
            }
            _ => return Err(format!("unexpected packet {:#x}", input[0])),
        };
        Ok(Some((head + length, event)))
    }
}

fn put_text(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

fn put_packet(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    put_length(body.len(), out);
    out.extend_from_slice(body);
}

/// Bytes of the fixed header, and of what follows it.
fn length(input: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut length = 0;
    for (index, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((index + 2, length)));
        }
    }
    if input.len() > 4 { Err("a length of more than 4 bytes".to_owned()) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_broker_says() {
        let mut input = vec![CONNACK, 2, 0, 0, SUBACK, 3, 0, 1, 1];
        let mut publish = Vec::new();
        Client::new(Who::Publisher(0)).request(299, Request::ToOne(7), &mut publish);
        input.extend_from_slice(&publish);
        input.extend_from_slice(&[PUBACK, 2, 0, 5]);
        let events = [Event::Ready, Event::Ready, Event::Delivered, Event::Answered(4)];
        crate::driver::tests::check(&|| Box::new(Client::new(Who::Receiver(1))), &input, &events, &[PUBACK, 2, 1, 44]);
    }

    #[test]
    fn a_refused_subscription_is_an_error() {
        assert!(Client::new(Who::Receiver(1)).next(&[SUBACK, 3, 0, 1, 0x80], &mut Vec::new()).is_err());
        assert!(Client::new(Who::Receiver(1)).next(&[CONNACK, 2, 0, 5], &mut Vec::new()).is_err());
    }
}
