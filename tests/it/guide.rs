//! The documents for integrators hold: their examples are played, and nothing that a client can send or meet lacks one.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use porter::protocol::events::{self, Event};
use porter::protocol::http::refusal::status;
use porter::protocol::refusal::Code;
use serde_json::Value;

use crate::clients::http;
use crate::porter::{DEADLINE, Folder, Porter, manage_token};
use crate::scenario::{Document, Player, Process, Step};

const GUIDE: &str = "docs/integrator.md";
const TWIN: &str = "docs/integrator.zh.md";

#[test]
fn every_example_of_the_integrators_page_holds() {
    Player::play(&Document::read(GUIDE));
}

/// The page in Chinese tells the same by the same examples, so playing one plays both.
#[test]
fn both_languages_have_the_same_examples_and_sections() {
    let (guide, twin) = (Document::read(GUIDE), Document::read(TWIN));
    let blocks = |document: &Document| -> Vec<String> {
        let text = |lines: &[(u32, &str)]| lines.iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
        document.blocks().iter().map(|block| format!("{}\n{}", block.kind, text(&block.lines))).collect()
    };
    for (ours, theirs) in blocks(&guide).iter().zip(&blocks(&twin)) {
        assert_eq!(ours, theirs, "the examples of {GUIDE} and {TWIN} differ");
    }
    assert_eq!(blocks(&guide).len(), blocks(&twin).len());
    let headings = |document: &Document| document.text.lines().filter(|line| line.starts_with('#')).count();
    assert_eq!(headings(&guide), headings(&twin), "one of them has a section more");
}

/// What clients send and get in the examples that are played, one line each.
struct Shown {
    sent: Vec<String>,
    got: Vec<String>,
    requests: Vec<(String, String)>,
}

impl Shown {
    fn of(document: &Document) -> Shown {
        let mut shown = Shown { sent: Vec::new(), got: Vec::new(), requests: Vec::new() };
        for block in document.blocks().iter().filter(|block| !block.is_pending()) {
            for (_, step) in block.steps() {
                match step {
                    Step::Say(_, line) => shown.sent.push(line.to_owned()),
                    Step::Hear(_, line) => shown.got.push(line.to_owned()),
                    Step::Run(_, command) => shown.command(command),
                    Step::Note(_) | Step::Join(..) | Step::Connect(..) => {}
                }
            }
        }
        shown
    }

    /// A command line of curl is a request, perhaps with a frame in it.
    fn command(&mut self, command: &str) {
        let frame = command.split("-d '").nth(1).and_then(|rest| rest.split('\'').next());
        self.sent.extend(frame.map(ToOwned::to_owned));
        let Some(rest) = command.split("http://127.0.0.1:9900").nth(1) else { return };
        let method = match command.split("-X ").nth(1) {
            Some(rest) => rest.split(' ').next().unwrap(),
            None if frame.is_some() => "POST",
            None => "GET",
        };
        let path = rest.split([' ', '"', '?']).next().unwrap();
        self.requests.push((method.to_owned(), path.to_owned()));
    }
}

fn has_frame(lines: &[String], t: i32) -> bool {
    lines.iter().any(|line| [",", "}"].iter().any(|end| line.starts_with(&format!("{{\"t\":{t}{end}"))))
}

fn source(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)).unwrap()
}

/// The part of a text between two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let rest = text.split_once(begin).unwrap_or_else(|| panic!("no {begin:?}")).1;
    rest.split_once(end).unwrap_or_else(|| panic!("no {end:?} behind {begin:?}")).0
}

#[test]
fn every_frame_and_member_has_an_example() {
    let shown = Shown::of(&Document::read(GUIDE));
    let decode = source("protocol/decode.rs");
    let read = between(&decode, "Ok(match t {", "_ =>");
    let sent: Vec<i32> = read.lines().filter_map(|line| line.trim().split_once(" => ")?.0.parse().ok()).collect();
    assert!(sent.len() >= 13 && sent.contains(&-8), "what frames are read? {sent:?}");
    for t in sent {
        assert!(has_frame(&shown.sent, t), "{GUIDE} has no example of a client that sends frame {t}");
    }
    for t in [0, -1, -2, -3, -4, 5, -6, -7, -8, 9, 10, 8, -11, -12, 13, -14, 15] {
        assert!(has_frame(&shown.got, t), "{GUIDE} has no example of a client that gets frame {t}");
    }
    let members: Vec<&str> = between(&decode, "\nmembers! {", "}").split('"').skip(1).step_by(2).collect();
    assert!(members.contains(&"time_to_live") && members.contains(&"receipt"), "what members are read? {members:?}");
    for member in members {
        let quoted = format!("\"{member}\":");
        assert!(shown.sent.iter().any(|line| line.contains(&quoted)), "{GUIDE} has no example of {member:?} in a frame");
    }
}

#[test]
fn every_event_has_an_example() {
    let shown = Shown::of(&Document::read(GUIDE));
    let has = |lines: &[String], name: &str| lines.iter().any(|line| line.split(' ').next() == Some(name));
    for event in Event::ALL {
        assert!(has(&shown.sent, event.name()), "{GUIDE} has no example of a phone that sends {}", event.name());
        let answers = !matches!(event, Event::Disconnect | Event::Phone | Event::Door | Event::DoorResult);
        assert!(!answers || has(&shown.got, event.error_name()), "{GUIDE} has no example of {}", event.error_name());
    }
    for name in [events::PUSH, events::DOOR, "push_done", "receipt", "(ack)", "(disconnected)", "error"] {
        assert!(has(&shown.got, name), "{GUIDE} has no example of a phone that gets {name}");
    }
}

#[test]
fn every_path_has_an_example() {
    let shown = Shown::of(&Document::read(GUIDE));
    let table = source("server/rest/routes.rs");
    let table = table.split("#[cfg(test)]").next().unwrap();
    let routes: Vec<(String, Vec<&str>)> = table
        .split("route(Method::")
        .filter_map(|rest| {
            let (method, rest) = rest.split_once(", &[")?;
            let segments = rest.split(']').next().unwrap();
            Some((method.to_uppercase(), segments.split('"').skip(1).step_by(2).collect()))
        })
        .collect();
    assert!(routes.len() >= 8, "what paths are there? {routes:?}");
    for (method, pattern) in routes {
        let matches = |path: &str| {
            let path: Vec<&str> = path.split('/').skip(1).collect();
            pattern.len() == path.len()
                && pattern.iter().zip(path).all(|(pattern, segment)| pattern.starts_with(':') || *pattern == segment)
        };
        let found = shown.requests.iter().any(|(asked, path)| *asked == method && matches(path));
        let pattern = pattern.join("/");
        assert!(found, "{GUIDE} has no example of {method} /{pattern} (an example marked `pending` is none: is it built now?)");
    }
}

#[test]
fn every_error_code_is_provoked_and_has_its_row() {
    // What this one stands for is a fault of the server that nobody knows of.
    const NEVER: [Code; 1] = [Code::Internal];
    let documents = [GUIDE, TWIN].map(Document::read);
    let shown = Shown::of(&documents[0]);
    for code in Code::ALL {
        let provoked = shown.got.iter().any(|line| line.contains(&format!("\"code\":\"{}\"", code.as_str())));
        assert!(provoked != NEVER.contains(&code), "{GUIDE}: is {} provoked? {provoked}", code.as_str());
        let row = format!("| `{}` | {} | ", code.as_str(), status(code));
        for document in &documents {
            assert!(document.text.contains(&row), "{} has no row {row:?}", document.name);
        }
    }
}

/// A limit that is a setting stands in the table with the default that it has.
#[test]
fn the_limits_that_are_settings_are_the_defaults() {
    let defaults = source("config.toml");
    let default = |key: &str| {
        let (table, key) = key.split_once('.').unwrap();
        let table = defaults.split(&format!("\n[{table}]\n")).nth(1).unwrap_or_else(|| panic!("no settings {table}"));
        let line = table.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.unwrap_or_else(|| panic!("no setting {key}")).to_owned()
    };
    for document in [GUIDE, TWIN].map(Document::read) {
        let mut known = 0;
        for row in document.text.lines().filter(|line| line.starts_with("| ")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            let Some(setting) = cells.get(2).and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`')) else { continue };
            let figure: String = cells[1].chars().take_while(|c| c.is_ascii_digit() || *c == ',').filter(|c| *c != ',').collect();
            assert_eq!(figure, default(setting), "{}: {row}", document.name);
            known += 1;
        }
        assert!(known > 8, "{} has {known} limits that are settings", document.name);
    }
}

/// The commands of the first steps in a README, each with the lines that it must print.
fn first_steps(readme: &Document) -> Vec<(String, Vec<String>)> {
    let text = readme.text.split("```\n").find(|block| block.contains("porter sub ") && block.contains("curl ")).unwrap();
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(printed) => steps.last_mut().unwrap().1.push(printed.to_owned()),
            None => steps.push((line.split("  #").next().unwrap().replace("target/release/", ""), Vec::new())),
        }
    }
    steps
}

/// What a new user does first: receive, publish, ask; then the power cut.
#[test]
fn the_first_steps_of_the_readmes_show_what_one_then_sees() {
    for readme in ["README.md", "README.zh.md"].map(Document::read) {
        let folder = Folder::new();
        let porter = Porter::start(&folder);
        let ports = [("PORTER_TCP_PORT", porter.tcp.port().to_string())];
        let (rest, token) = (porter.rest, manage_token(&folder));
        let run = |command: &str| Process::run(&command.replace("9900", &rest.port().to_string()), &folder, &token, &ports);
        let await_status = |status: &str| {
            let end = Instant::now() + DEADLINE;
            while http(rest, "GET", &format!("/info/status/door-3-1/{token}"), "").json()["status"] != status {
                assert!(Instant::now() < end, "door-3-1 is not {status}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let steps = first_steps(&readme);
        let subscribe = &steps[0].0;
        let door = run(subscribe);
        await_status("online");
        assert_eq!(steps.len(), 3, "{}", readme.name);
        for (command, printed) in &steps[1..] {
            let process = run(command);
            for line in printed {
                assert_eq!(process.line().as_ref(), Some(line), "{}: {command}", readme.name);
            }
            assert_eq!(process.line(), None, "{}: {command}", readme.name);
        }
        let first: Value = serde_json::from_str(&door.line().unwrap()).unwrap();
        drop(door);
        await_status("offline");
        assert!(run(&steps[1].0).line().unwrap().ends_with(r#""online":0,"stored":1}"#), "{}", readme.name);
        porter.kill();
        let _porter = Porter::start_with(&folder, &["--tcp-port", &ports[0].1]);
        let again: Value = serde_json::from_str(&run(subscribe).line().unwrap()).unwrap();
        assert_eq!(first["msg"], again["msg"], "{}", readme.name);
        assert_ne!(first["mid"], again["mid"], "{}", readme.name);
    }
}
