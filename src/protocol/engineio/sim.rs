//! The connection machine on a simulated clock: its rules one by one, then clients, networks and servers that interleave at random.

use std::collections::VecDeque;

use super::connection::{Connection, End, Input, Output, PollAnswer, PostAnswer, RequestId, fill};
use super::packet::{Data, Kind, Packet};
use super::payload::{Body, Encoding, Format};
use super::request::{BadRequest, Transport};
use crate::seeded::Seeded;

const SECOND: u64 = 1_000_000;
const QUEUE: PollAnswer = PollAnswer::Queue { pong: false, close: false };
const PONG: PollAnswer = PollAnswer::Queue { pong: true, close: false };
const LAST: PollAnswer = PollAnswer::Queue { pong: false, close: true };

/// A session under test and its clock.
struct Session {
    machine: Connection,
    now: u64,
}

fn id(number: u64) -> RequestId {
    RequestId(number)
}

fn poll(number: u64, answer: PollAnswer) -> Output {
    Output::AnswerPoll(id(number), answer)
}

fn post_ok(number: u64) -> Output {
    Output::AnswerPost(id(number), PostAnswer::Ok)
}

impl Session {
    fn on_polling() -> Session {
        Session { machine: Connection::on_polling(0), now: 0 }
    }

    fn on_websocket(ws: u64) -> Session {
        Session { machine: Connection::on_websocket(id(ws), 0), now: 0 }
    }

    /// One whose upgrade is through: WebSocket 100, no poll.
    fn upgraded() -> Session {
        let mut session = Session::on_polling();
        session.gives(Input::WebsocketArrived(id(100)), &[]);
        session.packet(100, "2probe", &[Output::SendWebsocket(id(100), b"3probe")]);
        session.packet(100, "5", &[Output::Upgraded(id(100))]);
        session
    }

    #[track_caller]
    fn gives(&mut self, input: Input<'_>, expected: &[Output]) {
        let mut out = Vec::new();
        self.machine.handle(input, self.now, &mut out);
        assert_eq!(out, expected, "{input:?}");
    }

    #[track_caller]
    fn packet(&mut self, by: u64, text: &str, expected: &[Output]) {
        self.gives(Input::Packet(id(by), &Packet::from_text(text).unwrap()), expected);
    }

    #[track_caller]
    fn answered(&mut self, number: u64, left: bool, expected: &[Output]) {
        self.gives(Input::PollAnswered { id: id(number), left, closed: false }, expected);
    }

    /// Lets the clock run to the deadline, which is `seconds` after the start, and says so.
    #[track_caller]
    fn waits_until(&mut self, seconds: u64, expected: &[Output]) {
        assert_eq!(self.machine.deadline(), Some(seconds * SECOND));
        self.now = seconds * SECOND - 1;
        self.gives(Input::Tick, &[]);
        self.now += 1;
        self.gives(Input::Tick, expected);
    }
}

#[test]
fn a_poll_waits_until_there_is_something_to_send() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::Queued, &[poll(1, QUEUE)]);
    session.gives(Input::Queued, &[]);
    session.answered(1, true, &[]);
    session.gives(Input::PollArrived(id(2)), &[poll(2, QUEUE)]);
    session.answered(2, false, &[]);
    session.gives(Input::PollArrived(id(3)), &[]);
}

#[test]
fn the_next_poll_may_come_before_the_end_of_the_last_answer_is_known() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::Queued, &[poll(1, QUEUE)]);
    session.gives(Input::PollArrived(id(2)), &[]);
    session.answered(1, true, &[poll(2, QUEUE)]);
    session.gives(Input::PollArrived(id(3)), &[]);
    let ends = [poll(4, PollAnswer::Failed), poll(3, PollAnswer::Close), Output::Ended(End::PollTwice)];
    session.gives(Input::PollArrived(id(4)), &ends);
}

#[test]
fn two_polls_at_once_end_the_session() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    let ends = [poll(2, PollAnswer::Failed), poll(1, PollAnswer::Close), Output::Ended(End::PollTwice)];
    session.gives(Input::PollArrived(id(2)), &ends);
    assert!(session.machine.has_ended() && session.machine.deadline().is_none());
}

#[test]
fn a_post_during_a_post_ends_the_session() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::PostArrived(id(2)), &[]);
    let ends =
        [Output::CutPost(id(2)), Output::AnswerPost(id(3), PostAnswer::Failed), poll(1, PollAnswer::Close), Output::Ended(End::PostTwice)];
    session.gives(Input::PostArrived(id(3)), &ends);
    session.packet(2, "42[\"late\"]", &[]);
}

#[test]
fn posts_one_after_the_other_deliver_in_order() {
    let mut session = Session::on_polling();
    for number in 1..4 {
        session.gives(Input::PostArrived(id(number)), &[]);
        session.packet(number, "42[\"a\"]", &[Output::Deliver]);
        session.packet(number, "42[\"b\"]", &[Output::Deliver]);
        session.packet(number, "b4AQID", &[Output::Deliver]);
        session.packet(number, "6", &[]);
        session.packet(number, "0", &[]);
        session.packet(number, "5", &[]);
        session.packet(number, "3", &[]);
        session.gives(Input::PostRead(id(number)), &[post_ok(number)]);
        session.gives(Input::PostRead(id(number)), &[]);
        session.packet(number, "42[\"late\"]", &[]);
    }
}

#[test]
fn a_get_that_breaks_ends_the_session_whether_it_waits_or_is_answered() {
    let ended = Output::Ended(End::PollBroken);
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::PollGone(id(7)), &[]);
    session.gives(Input::PollGone(id(1)), &[ended]);

    let mut session = Session::on_polling();
    session.gives(Input::Queued, &[]);
    session.gives(Input::PollArrived(id(1)), &[poll(1, QUEUE)]);
    session.gives(Input::PollGone(id(1)), &[ended]);

    let mut session = Session::on_polling();
    session.gives(Input::Queued, &[]);
    session.gives(Input::PollArrived(id(1)), &[poll(1, QUEUE)]);
    session.gives(Input::PollArrived(id(2)), &[]);
    session.gives(Input::PollGone(id(1)), &[poll(2, PollAnswer::Close), ended]);

    let mut session = Session::on_polling();
    session.gives(Input::PostArrived(id(1)), &[]);
    session.gives(Input::PostGone(id(2)), &[]);
    session.gives(Input::PostGone(id(1)), &[Output::Ended(End::PostBroken)]);
}

#[test]
fn pings_are_answered_where_the_session_lives_and_many_by_one_pong() {
    let mut session = Session::on_polling();
    session.gives(Input::PostArrived(id(1)), &[]);
    for ping in ["2", "2hello", "2probe"] {
        session.packet(1, ping, &[]);
    }
    session.gives(Input::PostRead(id(1)), &[post_ok(1)]);
    session.gives(Input::PollArrived(id(2)), &[poll(2, PONG)]);
    session.answered(2, false, &[]);
    session.gives(Input::PollArrived(id(3)), &[]);
    session.gives(Input::PostArrived(id(4)), &[]);
    session.packet(4, "2", &[poll(3, PONG)]);

    let mut session = Session::on_websocket(9);
    session.packet(9, "2", &[Output::SendWebsocket(id(9), b"3")]);
    session.packet(9, "2probe", &[Output::SendWebsocket(id(9), b"3")]);
}

#[test]
fn a_million_pings_in_a_post_are_one_pong() {
    let mut session = Session::on_polling();
    session.gives(Input::PostArrived(id(1)), &[]);
    let mut out = Vec::new();
    for _ in 0..1_000_000 {
        session.machine.handle(Input::Packet(id(1), &Packet::from_text("2").unwrap()), 0, &mut out);
    }
    assert_eq!(out, []);
    session.gives(Input::PollArrived(id(2)), &[poll(2, PONG)]);
}

#[test]
fn an_upgrade_ends_every_poll_at_once_until_it_is_through() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::WebsocketArrived(id(100)), &[]);
    assert_eq!(session.machine.transport(), Transport::Polling);
    let noop = |number| poll(number, PollAnswer::Noop);
    session.packet(100, "2probe", &[Output::SendWebsocket(id(100), b"3probe"), noop(1)]);
    session.answered(1, false, &[]);
    session.gives(Input::PollArrived(id(2)), &[noop(2)]);
    session.answered(2, false, &[]);
    // Packets may go by a poll, and come by a POST: Swift's client posts a noop here.
    session.gives(Input::Queued, &[]);
    session.gives(Input::PollArrived(id(3)), &[poll(3, QUEUE)]);
    session.answered(3, false, &[]);
    session.gives(Input::PostArrived(id(4)), &[]);
    session.packet(4, "6", &[]);
    session.packet(4, "42[\"a\"]", &[Output::Deliver]);
    session.gives(Input::PostRead(id(4)), &[post_ok(4)]);
    session.packet(100, "2probe", &[Output::SendWebsocket(id(100), b"3probe")]);
    session.gives(Input::Queued, &[]);
    assert_eq!(session.machine.websocket(), None);
    session.packet(100, "5", &[Output::Upgraded(id(100))]);
    assert_eq!((session.machine.transport(), session.machine.websocket()), (Transport::Websocket, Some(id(100))));
    session.packet(100, "42[\"b\"]", &[Output::Deliver]);
    session.gives(Input::PollArrived(id(5)), &[poll(5, PollAnswer::Refuse(BadRequest::Mismatch))]);
    session.gives(Input::PostArrived(id(6)), &[Output::AnswerPost(id(6), PostAnswer::Refuse(BadRequest::Mismatch))]);
    session.gives(Input::PollGone(id(3)), &[]);
}

#[test]
fn the_switch_waits_for_the_answer_that_is_being_written() {
    let begun = || {
        let mut session = Session::on_polling();
        session.gives(Input::Queued, &[]);
        session.gives(Input::PollArrived(id(1)), &[poll(1, QUEUE)]);
        session.gives(Input::WebsocketArrived(id(100)), &[]);
        session.packet(100, "2probe", &[Output::SendWebsocket(id(100), b"3probe")]);
        session.gives(Input::PostArrived(id(2)), &[]);
        session.packet(2, "2", &[]);
        session.gives(Input::PollArrived(id(3)), &[]);
        session.packet(100, "5", &[poll(3, PollAnswer::Noop)]);
        session.packet(100, "42[\"a\"]", &[Output::Deliver]);
        // A POST that was on its way still counts.
        session.packet(2, "42[\"b\"]", &[Output::Deliver]);
        session.gives(Input::PostRead(id(2)), &[post_ok(2)]);
        session.answered(3, true, &[]);
        session.gives(Input::PollArrived(id(4)), &[poll(4, PollAnswer::Refuse(BadRequest::Mismatch))]);
        session
    };
    let through = [Output::Upgraded(id(100)), Output::SendWebsocket(id(100), b"3")];
    begun().answered(1, true, &through);
    begun().gives(Input::PollGone(id(1)), &through);
    let mut session = begun();
    session.gives(Input::Close, &[]);
    session.answered(1, true, &[&through[..], &[Output::CloseWebsocket(id(100)), Output::Ended(End::ServerClosed)]].concat());
    begun().gives(Input::WebsocketGone(id(100)), &[Output::Ended(End::WebsocketGone)]);
}

#[test]
fn a_websocket_that_does_not_probe_is_closed_and_the_session_goes_on() {
    let closes = [Output::CloseWebsocket(id(100))];
    for first in ["5", "2", "2hello", "42[\"a\"]", "1", "6", "b4AQID"] {
        let mut session = Session::on_polling();
        session.gives(Input::PollArrived(id(1)), &[]);
        session.gives(Input::WebsocketArrived(id(100)), &[]);
        session.packet(100, first, &closes);
        session.packet(100, "2probe", &[]);
        session.gives(Input::WebsocketGone(id(100)), &[]);
        session.gives(Input::Queued, &[poll(1, QUEUE)]);
        session.gives(Input::WebsocketArrived(id(101)), &[]);
    }
    let mut session = Session::on_polling();
    session.gives(Input::WebsocketArrived(id(100)), &[]);
    session.gives(Input::Malformed(id(100)), &closes);
    session.gives(Input::WebsocketArrived(id(101)), &[]);
    session.packet(101, "2probe", &[Output::SendWebsocket(id(101), b"3probe")]);
    session.packet(101, "42[\"too early\"]", &[Output::CloseWebsocket(id(101))]);
    assert!(!session.machine.has_ended());
}

#[test]
fn an_upgrade_that_is_lost_or_never_finished_leaves_the_session_on_polling() {
    let mut session = Session::on_polling();
    session.gives(Input::WebsocketArrived(id(100)), &[]);
    session.waits_until(10, &[Output::CloseWebsocket(id(100))]);
    session.gives(Input::WebsocketArrived(id(101)), &[]);
    session.packet(101, "2probe", &[Output::SendWebsocket(id(101), b"3probe")]);
    session.now += SECOND;
    session.packet(101, "2probe", &[Output::SendWebsocket(id(101), b"3probe")]);
    session.waits_until(20, &[Output::CloseWebsocket(id(101))]);
    session.gives(Input::WebsocketArrived(id(102)), &[]);
    session.packet(102, "2probe", &[Output::SendWebsocket(id(102), b"3probe")]);
    session.gives(Input::WebsocketGone(id(102)), &[]);
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::Queued, &[poll(1, QUEUE)]);
}

#[test]
fn a_second_upgrade_is_closed_and_the_first_goes_on() {
    let closes = [Output::CloseWebsocket(id(101))];
    let mut session = Session::on_polling();
    session.gives(Input::WebsocketArrived(id(100)), &[]);
    session.gives(Input::WebsocketArrived(id(101)), &closes);
    session.packet(101, "2probe", &[]);
    session.packet(100, "2probe", &[Output::SendWebsocket(id(100), b"3probe")]);
    session.gives(Input::WebsocketArrived(id(101)), &closes);
    session.packet(100, "5", &[Output::Upgraded(id(100))]);
    session.gives(Input::WebsocketArrived(id(101)), &closes);
    session.gives(Input::WebsocketGone(id(101)), &[]);
    session.packet(101, "42[\"a\"]", &[]);
    session.packet(100, "42[\"a\"]", &[Output::Deliver]);
    Session::on_websocket(100).gives(Input::WebsocketArrived(id(101)), &closes);
}

#[test]
fn a_client_that_sends_no_packet_for_85_s_is_gone() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.waits_until(85, &[poll(1, PollAnswer::Close), Output::Ended(End::PingTimeout)]);

    // Polls are no packets; whatever a POST holds is one.
    let mut session = Session::on_polling();
    session.now = 40 * SECOND;
    session.gives(Input::PostArrived(id(1)), &[]);
    session.packet(1, "6", &[]);
    session.gives(Input::PostRead(id(1)), &[post_ok(1)]);
    session.now = 100 * SECOND;
    session.gives(Input::Queued, &[]);
    session.gives(Input::PollArrived(id(2)), &[poll(2, QUEUE)]);
    session.answered(2, false, &[]);
    session.gives(Input::PostArrived(id(3)), &[]);
    session.waits_until(125, &[Output::AnswerPost(id(3), PostAnswer::Failed), Output::Ended(End::PingTimeout)]);

    let mut session = Session::upgraded();
    session.waits_until(85, &[Output::CloseWebsocket(id(100)), Output::Ended(End::PingTimeout)]);
}

#[test]
fn a_client_that_closes_gets_its_post_and_its_poll_answered() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::PostArrived(id(2)), &[]);
    session.packet(2, "41", &[Output::Deliver]);
    session.packet(2, "1", &[poll(1, PollAnswer::Noop), post_ok(2), Output::Ended(End::ClientClosed)]);
    session.packet(2, "42[\"late\"]", &[]);
    session.gives(Input::PostRead(id(2)), &[]);

    let mut session = Session::upgraded();
    session.packet(100, "1", &[Output::CloseWebsocket(id(100)), Output::Ended(End::ClientClosed)]);
    let mut session = Session::upgraded();
    session.gives(Input::WebsocketGone(id(100)), &[Output::Ended(End::WebsocketGone)]);
}

#[test]
fn a_session_that_the_server_closes_ends_with_the_answer_that_says_so() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::Close, &[poll(1, LAST)]);
    session.gives(Input::Close, &[]);
    session.gives(Input::PollAnswered { id: id(1), left: false, closed: true }, &[Output::Ended(End::ServerClosed)]);

    // Between polls, with more queued than one answer holds, after an answer that was on its way.
    let mut session = Session::on_polling();
    session.gives(Input::Queued, &[]);
    session.gives(Input::PollArrived(id(1)), &[poll(1, QUEUE)]);
    session.gives(Input::WebsocketArrived(id(100)), &[]);
    session.gives(Input::Close, &[Output::CloseWebsocket(id(100))]);
    session.answered(1, true, &[]);
    session.gives(Input::WebsocketArrived(id(101)), &[Output::CloseWebsocket(id(101))]);
    session.gives(Input::PollArrived(id(2)), &[poll(2, LAST)]);
    session.answered(2, true, &[]);
    session.gives(Input::PostArrived(id(3)), &[]);
    session.packet(3, "42[\"too late\"]", &[]);
    session.gives(Input::PostRead(id(3)), &[post_ok(3)]);
    session.gives(Input::PollArrived(id(4)), &[poll(4, LAST)]);
    session.gives(Input::PollAnswered { id: id(4), left: false, closed: true }, &[Output::Ended(End::ServerClosed)]);

    let mut session = Session::on_polling();
    session.gives(Input::Close, &[]);
    session.waits_until(30, &[Output::Ended(End::ServerClosed)]);
    Session::upgraded().gives(Input::Close, &[Output::CloseWebsocket(id(100)), Output::Ended(End::ServerClosed)]);
}

#[test]
fn what_can_not_be_read_ends_the_session() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::PostArrived(id(2)), &[]);
    session.packet(2, "42[\"a\"]", &[Output::Deliver]);
    session.gives(Input::Malformed(id(9)), &[]);
    session.gives(Input::Malformed(id(2)), &[poll(1, PollAnswer::Close), post_ok(2), Output::Ended(End::Malformed)]);
    let mut session = Session::upgraded();
    session.gives(Input::Malformed(id(100)), &[Output::CloseWebsocket(id(100)), Output::Ended(End::Malformed)]);
}

#[test]
fn a_dead_session_refuses_all_and_says_nothing() {
    let mut session = Session::on_polling();
    session.gives(Input::PollArrived(id(1)), &[]);
    session.gives(Input::PollGone(id(1)), &[Output::Ended(End::PollBroken)]);
    let unknown = BadRequest::UnknownSid;
    session.gives(Input::PollArrived(id(2)), &[poll(2, PollAnswer::Refuse(unknown))]);
    session.gives(Input::PostArrived(id(3)), &[Output::AnswerPost(id(3), PostAnswer::Refuse(unknown))]);
    session.gives(Input::WebsocketArrived(id(4)), &[Output::CloseWebsocket(id(4))]);
    session.packet(3, "42[\"a\"]", &[]);
    session.now = 1_000 * SECOND;
    for input in [Input::Queued, Input::Close, Input::Tick, Input::PostRead(id(3)), Input::PollGone(id(2)), Input::Malformed(id(4))] {
        session.gives(input, &[]);
    }
}

#[test]
fn answers_hold_what_they_are_asked_for() {
    let body = |answer, queue: &[&str]| {
        let filled = fill(answer, Encoding::Text, queue)?;
        Some((String::from_utf8(filled.body).unwrap(), filled.taken, filled.closed))
    };
    let some = |body: &str, taken, closed| Some((body.to_owned(), taken, closed));
    assert_eq!(body(PONG, &["41", "42[1]"]), some("1:32:415:42[1]", 2, false));
    assert_eq!(body(QUEUE, &[]), some("1:6", 0, false), "what was queued may have grown too old");
    assert_eq!(body(LAST, &["41"]), some("2:411:1", 1, true));
    assert_eq!(body(LAST, &[]), some("1:1", 0, true));
    assert_eq!(body(LAST, &["6"; 15]), some(&("1:6".repeat(15) + "1:1"), 15, true));
    assert_eq!(body(LAST, &["6"; 16]), some(&"1:6".repeat(16), 16, false));
    assert_eq!(body(LAST, &["6"; 17]), some(&"1:6".repeat(16), 16, false));
    assert_eq!(body(PONG, &["6"; 17]), some(&("1:3".to_owned() + &"1:6".repeat(15)), 15, false));
    assert_eq!(body(PollAnswer::Noop, &["41"]), some("1:6", 0, false));
    assert_eq!(body(PollAnswer::Close, &["41"]), some("1:1", 0, true));
    assert_eq!(body(PollAnswer::Failed, &[]), None);
    assert_eq!(body(PollAnswer::Refuse(BadRequest::Mismatch), &[]), None);
}

/// How far a client has come with its upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Polling,
    /// The probe is sent.
    Probing,
    /// `3probe` has come: no new poll or POST, and `5` goes out when the last ones are over.
    Pausing,
    Websocket,
    /// It has lost the session.
    Lost,
}

/// An answer on its way.
struct Answer {
    id: RequestId,
    body: Vec<u8>,
    taken: usize,
    closed: bool,
    /// The client has it.
    read: bool,
    /// The server knows that it is written.
    written: bool,
}

/// One session, its client and the network between them. Messages both ways are numbers from 0 on.
struct World {
    random: Seeded,
    now: u64,
    machine: Connection,
    queue: VecDeque<String>,
    pushed: u32,
    /// The next number the server has to hear.
    heard: u32,
    sent: u32,
    /// The next number the client has to read.
    read: u32,
    stage: Stage,
    ids: u64,
    /// GETs on their way to the server.
    gets: VecDeque<RequestId>,
    /// The client waits for an answer.
    polls: bool,
    answers: Vec<Answer>,
    /// A POST: its id, and the packets that the server has not taken.
    post: Option<(RequestId, VecDeque<String>)>,
    /// The WebSocket: both ways, in order.
    ws: Option<RequestId>,
    to_server: VecDeque<String>,
    to_client: VecDeque<String>,
    /// `false`: nothing breaks, so nothing may be lost.
    breaks: bool,
    ended: Option<End>,
    upgrades: u32,
}

impl World {
    fn new(seed: u64, breaks: bool) -> World {
        World {
            random: Seeded(seed),
            now: 0,
            machine: Connection::on_polling(0),
            queue: VecDeque::new(),
            pushed: 0,
            heard: 0,
            sent: 0,
            read: 0,
            stage: Stage::Polling,
            ids: 0,
            gets: VecDeque::new(),
            polls: false,
            answers: Vec::new(),
            post: None,
            ws: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            breaks,
            ended: None,
            upgrades: 0,
        }
    }

    fn next_id(&mut self) -> RequestId {
        self.ids += 1;
        RequestId(self.ids)
    }

    fn handle(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.machine.handle(input, self.now, &mut out);
        for output in out {
            assert!(self.ended.is_none(), "{output:?} after the end");
            match output {
                Output::AnswerPoll(id, answer) => {
                    let filled = fill(answer, Encoding::Binary, &self.queue).expect("a client that keeps to the rules");
                    let (body, taken, closed) = (filled.body, filled.taken, filled.closed);
                    self.answers.push(Answer { id, body, taken, closed, read: false, written: false });
                }
                Output::AnswerPost(id, _) => {
                    assert_eq!(self.post.take().map(|(id, _)| id), Some(id));
                }
                Output::Deliver => {
                    let Input::Packet(_, Packet { data: Data::Text(text), .. }) = input else { panic!("{input:?}") };
                    assert_eq!(text.parse(), Ok(self.heard), "the server hears in order");
                    self.heard += 1;
                }
                Output::SendWebsocket(id, packet) => {
                    assert_eq!(self.ws, Some(id));
                    self.to_client.push_back(std::str::from_utf8(packet).unwrap().into());
                }
                Output::CloseWebsocket(id) => {
                    if self.ws == Some(id) {
                        self.to_client.push_back("gone".into());
                        self.to_server.clear();
                    }
                }
                Output::Upgraded(id) => {
                    assert_eq!(self.ws, Some(id));
                    self.upgrades += 1;
                }
                Output::Ended(end) => self.ended = Some(end),
                Output::CutPost(_) => panic!("a client that keeps to the rules"),
            }
        }
        // What the server has to send goes by the WebSocket once that is its way.
        if self.machine.websocket().is_some() && self.ended.is_none() {
            self.to_client.extend(self.queue.drain(..));
        }
    }

    fn client_reads(&mut self, packet: &Packet<'_>) {
        let Data::Text(text) = &packet.data else { panic!("{packet:?}") };
        match packet.kind {
            Kind::Message => {
                assert_eq!(text.parse(), Ok(self.read), "the client reads in order");
                self.read += 1;
            }
            Kind::Pong if text == "probe" && self.stage == Stage::Probing => self.stage = Stage::Pausing,
            Kind::Close => self.stage = Stage::Lost,
            Kind::Pong | Kind::Noop => {}
            _ => panic!("{packet:?}"),
        }
    }

    /// One thing happens, if it can.
    fn step(&mut self, what: usize) {
        match what {
            0 => {
                // At times more than one answer holds.
                for _ in 0..*self.random.pick(&[1, 1, 1, 40]) {
                    self.queue.push_back(format!("4{}", self.pushed));
                    self.pushed += 1;
                    self.handle(Input::Queued);
                }
            }
            1 if !self.polls && matches!(self.stage, Stage::Polling | Stage::Probing) => {
                self.polls = true;
                let id = self.next_id();
                self.gets.push_back(id);
            }
            2 => {
                if let Some(id) = self.gets.pop_front() {
                    self.handle(Input::PollArrived(id));
                }
            }
            3 => self.client_gets_an_answer(),
            4 => self.server_knows_that_an_answer_is_written(),
            5 if self.post.is_none() && matches!(self.stage, Stage::Polling | Stage::Probing) => self.client_posts(),
            6 => self.server_reads_of_the_post(),
            7 if self.stage == Stage::Polling && self.ws.is_none() => {
                let id = self.next_id();
                self.ws = Some(id);
                self.stage = Stage::Probing;
                self.to_server.push_back("2probe".into());
                self.handle(Input::WebsocketArrived(id));
            }
            8 => self.server_reads_of_the_websocket(),
            9 => self.client_reads_of_the_websocket(),
            10 if self.stage == Stage::Pausing && !self.polls && self.post.is_none() => {
                self.stage = Stage::Websocket;
                self.to_server.push_back("5".into());
            }
            11 if self.stage == Stage::Websocket => {
                self.to_server.push_back(format!("4{}", self.sent));
                self.sent += 1;
            }
            12 => {
                self.now += self.random.next_u64() % SECOND;
                self.handle(Input::Tick);
            }
            13 if self.breaks && self.random.below(20) == 0 => self.something_breaks(),
            _ => {}
        }
    }

    fn client_gets_an_answer(&mut self) {
        let Some(answer) = self.answers.iter_mut().find(|answer| !answer.read) else { return };
        answer.read = true;
        let body = answer.body.clone();
        self.polls = false;
        for packet in Body::new(Format::Binary, &body).unwrap().packets() {
            self.client_reads(&packet.unwrap());
        }
        self.answers.retain(|answer| !answer.read || !answer.written);
    }

    fn server_knows_that_an_answer_is_written(&mut self) {
        let Some(answer) = self.answers.iter_mut().find(|answer| !answer.written) else { return };
        answer.written = true;
        let (id, taken, closed) = (answer.id, answer.taken, answer.closed);
        self.queue.drain(..taken);
        self.answers.retain(|answer| !answer.read || !answer.written);
        self.handle(Input::PollAnswered { id, left: !self.queue.is_empty(), closed });
    }

    fn client_posts(&mut self) {
        let mut packets = VecDeque::new();
        for _ in 0..1 + self.random.below(3) {
            if self.random.below(4) == 0 {
                packets.push_back("2".into());
            } else {
                packets.push_back(format!("4{}", self.sent));
                self.sent += 1;
            }
        }
        let id = self.next_id();
        self.post = Some((id, packets));
        self.handle(Input::PostArrived(id));
    }

    fn server_reads_of_the_post(&mut self) {
        let Some((id, packets)) = &mut self.post else { return };
        let id = *id;
        match packets.pop_front() {
            Some(text) => self.handle(Input::Packet(id, &Packet::from_text(text).unwrap())),
            None => self.handle(Input::PostRead(id)),
        }
    }

    fn server_reads_of_the_websocket(&mut self) {
        let (Some(ws), Some(text)) = (self.ws, self.to_server.pop_front()) else { return };
        self.handle(Input::Packet(ws, &Packet::from_text(text).unwrap()));
    }

    fn client_reads_of_the_websocket(&mut self) {
        let Some(text) = self.to_client.pop_front() else { return };
        if text == "gone" {
            self.ws = None;
            self.to_client.clear();
            self.stage = match self.stage {
                Stage::Probing | Stage::Pausing => Stage::Polling,
                Stage::Polling => Stage::Polling,
                Stage::Websocket | Stage::Lost => Stage::Lost,
            };
        } else {
            self.client_reads(&Packet::from_text(text).unwrap());
        }
    }

    fn something_breaks(&mut self) {
        match self.random.below(3) {
            // A GET: before any of its answer is read or known to be written.
            0 => {
                if let Some(at) = self.answers.iter().position(|answer| !answer.read && !answer.written) {
                    let id = self.answers.remove(at).id;
                    self.stage = Stage::Lost;
                    self.handle(Input::PollGone(id));
                }
            }
            // The WebSocket, while it is not needed yet.
            1 if matches!(self.stage, Stage::Probing | Stage::Pausing) => {
                let Some(ws) = self.ws.take() else { return };
                self.stage = Stage::Polling;
                self.to_server.clear();
                self.to_client.clear();
                self.handle(Input::WebsocketGone(ws));
            }
            2 => self.handle(Input::Close),
            _ => {}
        }
    }

    fn is_settled(&self) -> bool {
        let all_arrived = (self.read, self.heard) == (self.pushed, self.sent);
        all_arrived && self.answers.is_empty() && matches!(self.stage, Stage::Polling | Stage::Websocket)
    }

    fn is_over(&self) -> bool {
        self.ended.is_some() || self.stage == Stage::Lost
    }
}

#[test]
fn nothing_is_lost_doubled_or_reordered_however_things_interleave() {
    let (mut upgrades, mut whole) = (0, 0);
    for seed in 0..3_000 {
        let mut world = World::new(seed, seed % 3 == 0);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..400 {
                if world.is_over() {
                    break;
                }
                let what = world.random.below(14);
                world.step(what);
            }
            // Then the network is given time, and all must arrive. Nothing new begins but polls.
            for round in 0..40_000 {
                if world.is_over() || round % 8 == 0 && world.is_settled() {
                    break;
                }
                world.step([1, 2, 3, 4, 6, 8, 9, 10][round % 8]);
            }
            if !world.is_over() {
                assert_eq!((world.read, world.heard), (world.pushed, world.sent), "all has arrived");
                assert!(world.queue.is_empty() && world.answers.is_empty());
                assert!(matches!(world.stage, Stage::Polling | Stage::Websocket), "no upgrade hangs: {:?}", world.stage);
                whole += 1;
            } else {
                assert!(world.breaks || world.stage == Stage::Lost, "{:?}", world.ended);
            }
        }));
        assert!(result.is_ok(), "seed {seed}");
        upgrades += world.upgrades;
    }
    assert!(upgrades > 1_000 && whole > 1_500, "{upgrades} upgrades, {whole} whole sessions");
}

#[test]
fn any_input_in_any_order_keeps_the_machine_whole() {
    for seed in 0..2_000 {
        let mut random = Seeded(seed);
        let mut machine = if seed % 2 == 0 { Connection::on_polling(0) } else { Connection::on_websocket(id(1), 0) };
        let (mut now, mut ended, mut out) = (0, 0, Vec::new());
        for _ in 0..200 {
            let number = id(random.next_u64() % 6);
            let text = *random.pick(&["2", "2probe", "5", "1", "6", "42[\"a\"]", "0", "3"]);
            let packet = Packet::from_text(text).unwrap();
            let flag = random.below(2) == 0;
            now += random.next_u64() % (4 * SECOND);
            out.clear();
            let input = match random.below(14) {
                0 | 1 => Input::PollArrived(number),
                2 => Input::PollAnswered { id: number, left: flag, closed: !flag && random.below(2) == 0 },
                3 => Input::PollGone(number),
                4 => Input::PostArrived(number),
                5 => Input::PostRead(number),
                6 => Input::PostGone(number),
                7 => Input::WebsocketArrived(number),
                8 => Input::WebsocketGone(number),
                9 | 10 => Input::Packet(number, &packet),
                11 => Input::Queued,
                12 if random.below(10) == 0 => Input::Malformed(number),
                13 if random.below(10) == 0 => Input::Close,
                _ => Input::Tick,
            };
            machine.handle(input, now, &mut out);
            ended += out.iter().filter(|output| matches!(output, Output::Ended(_))).count();
            assert!(out.len() <= 5, "seed {seed}: {out:?}");
            assert_eq!(ended > 0, machine.has_ended(), "seed {seed}");
            assert_eq!(machine.deadline().is_none(), machine.has_ended(), "seed {seed}");
            assert!(ended <= 1, "seed {seed}: it ends once");
        }
    }
}
