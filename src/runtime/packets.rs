//! What the hub says, as Engine.IO messages that carry Socket.IO packets (Protocol §8): the driver's way to say it to phones.

use crate::protocol::events::{self, Event};
use crate::protocol::frame::Reply;
use crate::protocol::refusal::Language;
use crate::protocol::{encode, socketio};

/// Engine.IO's type of a message.
const MESSAGE: u8 = b'4';

/// Appends an event; `argument` appends the JSON of its argument.
pub(super) fn event(name: &str, argument: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    out.push(MESSAGE);
    socketio::event(name, argument, out);
}

/// Appends the packet that lets a client in.
pub(super) fn connect(out: &mut Vec<u8>) {
    out.push(MESSAGE);
    out.extend_from_slice(socketio::CONNECT);
}

/// Appends the packet after which a client does not come back by itself.
pub(super) fn disconnect(out: &mut Vec<u8>) {
    out.push(MESSAGE);
    out.extend_from_slice(socketio::DISCONNECT);
}

/// Says a reply: by its event, and by the acknowledgement that was asked for. `say` is called for each packet with what writes it.
pub(super) fn reply(reply: &Reply, language: Language, mut say: impl FnMut(&dyn Fn(&mut Vec<u8>))) {
    let frame = |out: &mut Vec<u8>| encode::reply(reply, language, out);
    let asked = reply.num().and_then(Event::asked);
    let (name, has_argument) = match (events::of_reply(reply), reply, asked) {
        (Some((name, has_argument)), ..) => (Some(name), has_argument),
        (None, Reply::Error { .. }, Some(event)) => (Some(event.error_name()), true),
        // A refusal that answers no event is of the session as a whole.
        (None, Reply::Error { .. }, None) => {
            return say(&|out| {
                out.push(MESSAGE);
                socketio::error(frame, out);
            });
        }
        (None, ..) => (None, false),
    };
    let argument = |out: &mut Vec<u8>| {
        if has_argument {
            frame(out);
        }
    };
    if let Some(name) = name {
        say(&|out| event(name, argument, out));
    }
    if let Some(ack) = reply.num().and_then(|num| num.call.as_ref()).and_then(|call| call.ack.as_deref()) {
        say(&|out| {
            out.push(MESSAGE);
            socketio::ack(*ack, argument, out);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Alias, Mid};
    use crate::protocol::frame::{BindKind, Num, Published};
    use crate::protocol::refusal::{Code, Refusal};

    fn said(event: Event, ack: Option<u64>, num: &str, make: impl FnOnce(Option<Num>) -> Reply) -> Vec<String> {
        let asked = event.read(Some(&format!("{{\"num\":{num}}}")), false, ack).num;
        let mut packets = Vec::new();
        reply(&make(asked), Language::En, |write| {
            let mut out = Vec::new();
            write(&mut out);
            packets.push(String::from_utf8(out).unwrap());
        });
        packets
    }

    #[test]
    fn a_reply_goes_by_its_event_and_by_the_acknowledgement_that_was_asked_for() {
        let alias = Alias::new("m_2").unwrap();
        let published = Published { mid: Mid::new(9), online: 1, stored: 0 };
        assert_eq!(
            said(Event::DoPush, None, "5", |num| Reply::Published(published, num)),
            [r#"42["do_push_c",{"t":-6,"num":5,"mid":"9","online":1,"stored":0}]"#]
        );
        assert_eq!(
            said(Event::DoPush, Some(17), "\"x\"", |num| Reply::Published(published, num)),
            [
                r#"42["do_push_c",{"t":-6,"num":"x","mid":"9","online":1,"stored":0}]"#,
                r#"4317[{"t":-6,"num":"x","mid":"9","online":1,"stored":0}]"#
            ]
        );
        let bound = |kind| move |num| Reply::Bound { kind, alias: alias.clone(), ts: None, num };
        assert_eq!(said(Event::Connect, Some(0), "5", bound(BindKind::Connect11)), [r#"42["connect_c"]"#, "430[]"]);
        assert_eq!(said(Event::PushC, Some(3), "5", |num| Reply::Done { num }), ["433[]"]);
        assert_eq!(said(Event::PushC, None, "5", |num| Reply::Done { num }), [""; 0]);
    }

    #[test]
    fn a_refusal_goes_by_the_event_that_it_answers() {
        let refused = |num| Reply::Error { refusal: Refusal::new(Code::NoAlias, "alias"), num };
        let frame = r#"{"t":0,"error":"no alias is bound: send a heartbeat or a connect with an alias first","code":"no_alias","num":5}"#;
        for (event, name) in [(Event::PushC, "push_c_error"), (Event::Register, "register_c"), (Event::Phone, "phone_c")] {
            let packets = said(event, Some(8), "5", refused);
            assert_eq!(packets.len(), 2);
            assert!(packets[0].starts_with(&format!("42[\"{name}\",{{\"t\":0,")), "{packets:?} {frame}");
            assert!(packets[1].starts_with("438[{\"t\":0,") && packets[1].contains("\"code\":\"no_alias\""), "{packets:?}");
        }
        let mut packets = Vec::new();
        reply(&Reply::Error { refusal: Refusal::new(Code::BadToken, "token"), num: None }, Language::En, |write| write(&mut packets));
        assert!(packets.starts_with(b"44{\"t\":0,"));
    }

    #[test]
    fn every_event_is_known_by_what_its_question_carries() {
        for event in Event::ALL {
            assert_eq!(event.read(None, false, None).num.as_ref().and_then(Event::asked), Some(event));
            assert_eq!(event.too_large(None).num.as_ref().and_then(Event::asked), Some(event));
        }
        assert_eq!(Event::asked(&Num::new("5")), None);
    }
}
