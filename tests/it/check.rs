//! `porter check`: each planted fault is found, and the command that it prints mends it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::backup::{SmallDisk, backup};
use crate::clients::Client;
use crate::porter::{Folder, Porter, command, run};

/// What the place that the tests run in may have wrong with it: not their business, but for the test of each.
const OF_THE_MACHINE: [&str; 7] = ["file system", "space", "sync", "disk", "open files", "devices", "advertise"];
/// An account that owns nothing.
const NOBODY: u32 = 65_534;

/// One line of the report, with the line that mends it.
#[derive(Debug, Clone)]
struct Finding {
    grade: String,
    what: String,
    text: String,
    run: Option<String>,
    advice: Option<String>,
}

/// What a check printed, and its exit code.
struct Report {
    findings: Vec<Finding>,
    text: String,
    code: Option<i32>,
}

/// A data folder that a server has used, and how `porter check` is run on it.
struct Site {
    folder: Folder,
    flags: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl Site {
    fn new() -> Site {
        let folder = Folder::new();
        let porter = Porter::start(&folder);
        Client::connect(porter.tcp).publish("away", "1", 1);
        assert!(run(&folder, &["token", "revoke"], &["somebody"]).status.success());
        backup(&folder, "BACKUP");
        assert_eq!(porter.terminate().0, Some(0));
        Site { folder, flags: free_ports(), variables: Vec::new() }
    }

    /// The same once more, but for the reserve, which takes long to write.
    fn copy(&self) -> Site {
        let folder = Folder::new();
        let from = self.folder.path().display();
        let site = Site { folder, flags: self.flags.clone(), variables: Vec::new() };
        site.shell(&format!("cp {from}/BACKUP . && mkdir -m 700 data && cd data && cp -rp {from}/data/[!r]* {from}/data/revoked ."));
        site
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.data().join(name)
    }

    fn command(&self) -> Command {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let mut command = command(&self.folder, &["check"], &flags);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn check(&self) -> Report {
        report(self.command())
    }

    fn shell(&self, script: &str) {
        let program = Path::new(env!("CARGO_BIN_EXE_porter")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        // The tests run as root and need nobody's leave.
        let script = script.replace("sudo ", "");
        let output = Command::new("sh").args(["-c", &script]).env("PATH", path).current_dir(self.folder.path()).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn sql(&self, sql: &str) {
        self.shell(&format!("sqlite3 data/porter.db \"{sql}\""));
    }
}

/// Ports below those that the system gives to whoever asks for any: no other test takes one before its use.
fn free_ports() -> Vec<String> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let any = || FIRST + (std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
    let free = std::iter::repeat_with(any).filter(|port| TcpListener::bind(format!("127.0.0.1:{port}")).is_ok());
    let flags = ["--tcp-port", "--rest-port", "--socketio-port", "--websocket-port"];
    flags.iter().zip(free).flat_map(|(flag, port)| [(*flag).to_owned(), port.to_string()]).collect()
}

fn report(mut command: Command) -> Report {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut findings: Vec<Finding> = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let (last, lines) = lines.split_last().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert!(last.contains(" wrong, "), "{text}");
    for line in lines {
        let (grade, what, text) = (line[..8].trim(), line[9..21].trim(), &line[22..]);
        match (grade, what) {
            ("", "run") => findings.last_mut().unwrap().run = Some(text.to_owned()),
            ("", "do") => findings.last_mut().unwrap().advice = Some(text.to_owned()),
            _ => findings.push(Finding { grade: grade.to_owned(), what: what.to_owned(), text: text.to_owned(), run: None, advice: None }),
        }
    }
    for finding in &findings {
        let mends = usize::from(finding.run.is_some()) + usize::from(finding.advice.is_some());
        assert_eq!(mends, usize::from(finding.grade != "ok"), "{finding:?}");
    }
    let report = Report { findings, text, code: output.status.code() };
    let is_wrong = report.findings.iter().any(|finding| finding.grade == "wrong");
    assert_eq!(report.code, Some(i32::from(is_wrong)), "{}", report.text);
    report
}

impl Report {
    fn find(&self, grade: &str, what: &str, text: &str) -> Option<Finding> {
        let fits = |finding: &&Finding| finding.grade == grade && finding.what == what && finding.text.contains(text);
        self.findings.iter().find(fits).cloned()
    }

    #[track_caller]
    fn expect(&self, grade: &str, what: &str, text: &str) -> Finding {
        self.find(grade, what, text).unwrap_or_else(|| panic!("no {grade} {what} with {text:?} in\n{}", self.text))
    }

    /// What is not as it should be, but for the machine's own faults and `bind`, which is loopback in tests.
    fn faults(&self) -> Vec<&Finding> {
        let counts =
            |finding: &&Finding| finding.grade != "ok" && finding.what != "bind" && !OF_THE_MACHINE.contains(&finding.what.as_str());
        self.findings.iter().filter(counts).collect()
    }
}

/// A fault: how it is planted, how it is found, and whether the command beside it mends it here.
struct Fault {
    plant: fn(&mut Site),
    grade: &'static str,
    what: &'static str,
    text: &'static str,
    mends: bool,
}

const FAULTS: &[Fault] = &[
    Fault {
        plant: |s| s.shell("chmod 755 data"),
        grade: "wrong",
        what: "folder",
        text: "other accounts may look into it (mode 755)",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("chmod 640 data/master.key data/porter.db"),
        grade: "wrong",
        what: "files",
        text: "must be for the owner alone to read and write",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("chmod 400 data/mids"),
        grade: "wrong",
        what: "files",
        text: "mids must be for the owner alone",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("chown 12345 data/porter.db"),
        grade: "wrong",
        what: "files",
        text: "porter.db belong to another",
        mends: true,
    },
    Fault { plant: |s| s.shell("rm -r data; touch data"), grade: "wrong", what: "folder", text: "is no folder", mends: true },
    Fault { plant: |s| s.shell("rm data/master.key"), grade: "wrong", what: "key", text: "master.key is gone", mends: true },
    Fault {
        plant: |s| s.shell("echo x > data/master.key"),
        grade: "wrong",
        what: "key",
        text: "not 32 lower-case hexadecimal",
        mends: false,
    },
    Fault { plant: |s| s.shell("echo x >> data/revoked"), grade: "wrong", what: "key", text: "data/revoked: ", mends: false },
    Fault { plant: |s| s.shell("echo x > data/imported"), grade: "wrong", what: "key", text: "data/imported: ", mends: false },
    Fault { plant: |s| s.shell("echo x > data/mids"), grade: "wrong", what: "mids", text: "holds no block number", mends: false },
    Fault { plant: |s| s.shell("rm data/mids"), grade: "warning", what: "mids", text: "Never delete it", mends: false },
    Fault { plant: |s| s.shell("echo 9 > data/mids"), grade: "wrong", what: "mids", text: "older than the last run", mends: false },
    Fault {
        plant: |s| {
            let mut bytes = fs::read(s.file("porter.db")).unwrap();
            let half = bytes.len() / 2 / 4_096 * 4_096;
            bytes[4_096..half].fill(0xa5);
            fs::write(s.file("porter.db"), bytes).unwrap();
        },
        grade: "wrong",
        what: "database",
        text: "porter.db",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("head -c 40960 /dev/urandom > data/porter.db"),
        grade: "wrong",
        what: "database",
        text: "damaged",
        mends: true,
    },
    Fault {
        plant: |s| s.sql("UPDATE segment SET bodies = replace(bodies, '1', '2')"),
        grade: "wrong",
        what: "database",
        text: "1 rows of porter.db are not as they were written",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("touch data/porter.db.corrupt-20261125T210900Z; chmod 600 data/porter.db.corrupt-*"),
        grade: "warning",
        what: "copies",
        text: "set aside: porter.db.corrupt-20261125T210900Z",
        mends: false,
    },
    Fault { plant: |s| s.shell("rm data/porter.db"), grade: "wrong", what: "database", text: "gone or empty", mends: true },
    Fault { plant: |s| s.shell(": > data/porter.db"), grade: "wrong", what: "database", text: "gone or empty", mends: true },
    Fault {
        plant: |s| s.sql("PRAGMA user_version = 99; PRAGMA application_id = 1349451875"),
        grade: "wrong",
        what: "database",
        text: "has version 99",
        mends: false,
    },
    Fault { plant: |s| s.sql("DROP TABLE segment"), grade: "wrong", what: "database", text: "tables of a porter database", mends: true },
    Fault {
        plant: |s| s.sql("UPDATE meta SET newest_wall = 4000000000000, crc = NULL"),
        grade: "wrong",
        what: "clock",
        text: "has seen 2096-",
        mends: true,
    },
    Fault { plant: |s| at(s, "1970-01-01 00:05:00"), grade: "wrong", what: "clock", text: "stands at 1970-", mends: false },
    Fault { plant: |s| at(s, "2150-01-01 00:00:00"), grade: "wrong", what: "clock", text: "stands at 21", mends: false },
    Fault {
        plant: |s| {
            s.shell("mkdir bin; printf '#!/bin/sh\\necho no\\n' > bin/timedatectl; chmod 755 bin/timedatectl");
            s.variables.push(("PATH", format!("{}/bin:{}", s.folder.path().display(), std::env::var("PATH").unwrap())));
        },
        grade: "warning",
        what: "clock",
        text: "not set by the network",
        mends: false,
    },
    Fault {
        plant: |s| s.shell("echo 'auth.trusted_proxies = [\"10.0.0.1\", \"0.0.0.0/0\"]' > porter.toml"),
        grade: "wrong",
        what: "proxy",
        text: "holds every address",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("printf '# doors\\nadvertise_host = \"doors.example.org\"\\n[auth]\\n' > porter.toml"),
        grade: "warning",
        what: "proxy",
        text: "look as if a proxy stood in front",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("printf 'language = \"en\"\\n[auth]\\ndevices = \"open\"\\n' > porter.toml"),
        grade: "warning",
        what: "devices",
        text: "whoever reaches the ports may open doors",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("printf 'advertise_host = \"a\"\\nauth.devices = \"private\"\\n' > porter.toml"),
        grade: "warning",
        what: "devices",
        text: "every peer seems near",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("echo 'language = \"en\"' > porter.toml"),
        grade: "warning",
        what: "bind",
        text: "nobody but this machine",
        mends: true,
    },
    Fault { plant: |_| {}, grade: "warning", what: "bind", text: "nobody but this machine", mends: true },
    Fault {
        plant: |s| s.shell("echo 'bind = \"192.0.2.1\"' > porter.toml"),
        grade: "wrong",
        what: "port",
        text: "no address of this machine",
        mends: true,
    },
    Fault {
        plant: |s| s.shell("echo 'limits.outbox_total = 1000000000000' > porter.toml"),
        grade: "warning",
        what: "memory",
        text: "at its limits Porter would be ended",
        mends: true,
    },
    Fault {
        plant: |s| s.variables.push(("PORTER_REST_PROT", "1".to_owned())),
        grade: "warning",
        what: "settings",
        text: "did you mean PORTER_REST_PORT?",
        mends: false,
    },
    Fault {
        plant: |s| s.shell("printf 'rest.prt = 1\\nlimits.frame = \"big\"\\n' > porter.toml"),
        grade: "wrong",
        what: "settings",
        text: "porter.toml:2: limits.frame is \"big\"",
        mends: false,
    },
    Fault {
        plant: |s| s.shell("printf 'rest.prt = 1\\nlimits.frame = \"big\"\\n' > porter.toml"),
        grade: "wrong",
        what: "settings",
        text: "porter.toml:1: there is no setting 'rest.prt'",
        mends: false,
    },
];

/// The wall clock stands there.
fn at(site: &mut Site, time: &str) {
    site.variables.push(("LD_PRELOAD", crate::clock::library().to_str().unwrap().to_owned()));
    site.variables.push(("FAKETIME", format!("@{time}")));
    site.variables.push(("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()));
}

#[test]
fn each_planted_fault_is_found_and_mended_by_the_command_beside_it() {
    let whole = Site::new();
    for fault in FAULTS {
        let mut site = whole.copy();
        (fault.plant)(&mut site);
        let found = site.check().expect(fault.grade, fault.what, fault.text);
        if !fault.mends {
            continue;
        }
        site.shell(found.run.as_deref().unwrap_or_else(|| panic!("no command: {found:?}")));
        let report = site.check();
        assert!(report.find(fault.grade, fault.what, fault.text).is_none(), "{found:?} did not mend it:\n{}", report.text);
    }
}

#[test]
fn nothing_is_wrong_with_a_site_before_its_first_start_beside_a_server_and_after_it() {
    let mut site = Site { folder: Folder::new(), flags: free_ports(), variables: Vec::new() };
    let fresh = site.check();
    assert!(fresh.faults().is_empty(), "{}", fresh.text);
    fresh.expect("ok", "folder", "the first start makes it");
    assert!(!site.folder.data().exists(), "a check made the folder");

    let flags: Vec<&str> = site.flags.iter().map(String::as_str).collect();
    let porter = Porter::start_with(&site.folder, &flags);
    let running = site.check();
    assert!(running.faults().is_empty(), "{}", running.text);
    running.expect("ok", "server", &format!("runs, process {}", porter.pid()));
    running.expect("ok", "port", &format!("tcp.port {}: the running server listens", porter.tcp.port()));
    running.expect("ok", "port", &format!("rest.port {}: the running server listens", porter.rest.port()));
    Client::bound(porter.tcp, "a").expect_nothing();
    // Killed, so that its log is left.
    porter.kill();
    let after = site.check();
    assert!(after.faults().is_empty(), "{}", after.text);
    after.expect("ok", "server", "none runs");
    let names = || fs::read_dir(site.folder.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert!(!site.file("check.tmp").exists());
    assert_eq!(Porter::start(&site.folder).terminate().0, Some(0));
    let before = names();
    site.check();
    assert_eq!(names(), before, "a check leaves no trace");
    site.flags = vec!["--tcp-port".to_owned(), "0".to_owned()];
    Porter::start(&site.folder);
}

#[test]
fn another_program_on_a_port_is_told_from_the_server_and_can_be_ended() {
    let site = Site::new();
    let port = site.flags[1].clone();
    let script = format!("import socket,time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)");
    let mut other = Command::new("python3").args(["-c", &script]).spawn().unwrap();
    while std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
        assert!(other.try_wait().unwrap().is_none(), "it does not listen");
        std::thread::yield_now();
    }
    let found =
        site.check().expect("wrong", "port", &format!("tcp.port {port} is in use by another program: python3, process {}", other.id()));
    site.shell(&found.run.unwrap());
    other.wait().unwrap();
    site.check().expect("ok", "port", &format!("tcp.port {port} is free"));

    // A server on another data folder is another program too.
    let (elsewhere, flags) = (Folder::new(), ["--tcp-port", &port]);
    let porter = Porter::start_with(&elsewhere, &flags);
    site.check().expect("wrong", "port", &format!("porter, process {}", porter.pid()));
}

#[test]
fn an_account_that_may_not_look_is_told_which_one_may() {
    let site = Site::new();
    let mut command = site.command();
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    let found = report(command).expect("wrong", "folder", "belongs to root");
    let again = found.run.unwrap();
    assert!(again.starts_with("sudo -u root ") && again.contains(" check --data-dir "), "{again}");

    let mut command = site.command();
    command.arg("--data-dir").arg("/var/porter-that-is-not-there").uid(NOBODY).gid(NOBODY).current_dir("/");
    let found = report(command).expect("wrong", "folder", "can't make it in /var");
    assert!(found.run.unwrap().contains("install -d -m 700 -o"), "no command makes it");
}

#[test]
fn memory_is_no_disk_and_a_full_one_is_found() {
    let folder = Folder::new();
    let disk = SmallDisk::mount(folder.data(), 112 << 20);
    let site = Site { folder, flags: free_ports(), variables: Vec::new() };
    fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o700)).unwrap();
    site.check().expect("wrong", "file system", "tmpfs: it is memory");
    let porter = Porter::start(&site.folder);
    site.check().expect("wrong", "space", "soon nothing can be stored");
    porter.kill();
    fs::remove_file(site.file("reserve")).unwrap();
    site.check().expect("wrong", "space", "the reserve of 64 MB is given up");
}

#[test]
fn a_limit_of_open_files_below_the_connections_is_found_and_mended() {
    let site = Site::new();
    let limited = |site: &Site| {
        let check = site.command();
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 200; exec \"$0\" \"$@\""]).arg(check.get_program()).args(check.get_args());
        shell.current_dir(site.folder.path()).stdin(Stdio::null());
        report(shell)
    };
    let found = limited(&site).expect("warning", "open files", "200 may be open, but limits.connections needs");
    site.shell(&found.run.unwrap());
    limited(&site).expect("ok", "open files", "limits.connections 136 fits");
}
