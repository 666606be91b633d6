//! The real process: started on free ports with a data folder of its own, killed, started again on the same data.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::clients::{HttpAnswer, http};

/// How long anything may take before a test has failed: generous, since machines are shared.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Flags by which a server takes ports that are free.
pub const FREE_PORTS: &[&str] = &["--tcp-port", "0", "--rest-port", "0", "--websocket-port", "0", "--socketio-port", "0"];

/// A folder that goes with its owner.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("porter-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running server.
pub struct Porter {
    child: Child,
    pub tcp: SocketAddr,
    pub rest: SocketAddr,
    pub websocket: SocketAddr,
    pub socketio: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// The command, on loopback and free ports unless `flags` say otherwise, with nothing from this process's environment.
pub fn command(folder: &Folder, verb: &[&str], flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_porter"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PORTER_")) {
        command.env_remove(name);
    }
    command.args(verb).arg("--data-dir").arg(folder.data()).args(flags).current_dir(folder.path()).stdin(Stdio::null());
    command
}

/// Runs a command of `porter` to its end.
pub fn run(folder: &Folder, verb: &[&str], flags: &[&str]) -> Output {
    command(folder, verb, flags).output().unwrap()
}

impl Porter {
    pub fn start(folder: &Folder) -> Porter {
        Porter::start_with(folder, &[])
    }

    /// Starts and waits until all ports listen.
    pub fn start_with(folder: &Folder, flags: &[&str]) -> Porter {
        let mut command = command(folder, &["serve"], FREE_PORTS);
        command.args(flags);
        Porter::start_command(command)
    }

    /// Starts with a command of the caller's and waits until all ports listen.
    pub fn start_command(mut command: Command) -> Porter {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (kept, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |marker: &str| {
            let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains(marker));
            let line = line.unwrap_or_else(|| panic!("the server did not start: {}", log.lock().unwrap()));
            let address = line.rsplit(marker).next().unwrap().trim();
            address.split('/').next().unwrap().parse().unwrap()
        };
        let (tcp, websocket, rest) = (address("tcp://"), address("ws://"), address("management    http://"));
        let socketio = address("phones        http://");
        std::thread::spawn(move || lines.for_each(drop));
        Porter { child, tcp, rest, websocket, socketio, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log has a line with `text`.
    pub fn await_log(&self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.log().contains(text) {
            assert!(Instant::now() < end, "no {text:?} in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, as a power cut would have it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGSTOP; returns when each of its threads stands still, which is a while after the signal was sent.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let begin = Instant::now();
        let tasks = format!("/proc/{}/task", self.pid());
        let stands_still = || {
            let stats = std::fs::read_dir(&tasks).unwrap().map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")));
            // Behind the name, which may have spaces in it, comes the state.
            stats.filter_map(Result::ok).all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        };
        while !stands_still() {
            assert!(begin.elapsed() < DEADLINE, "it goes on after SIGSTOP");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGTERM; the exit code, and how long it took.
    pub fn terminate(mut self) -> (Option<i32>, Duration) {
        let begin = Instant::now();
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        (status.code(), begin.elapsed())
    }

    /// Kilobytes of a field of /proc/PID/status, such as `VmRSS`.
    pub fn memory_kb(&self, field: &str) -> u64 {
        let mut status = String::new();
        std::fs::File::open(format!("/proc/{}/status", self.pid())).unwrap().read_to_string(&mut status).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Descriptors of files that lie in memory alone.
    pub fn files_in_memory(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten();
        // One that is closed meanwhile can't be read.
        open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().contains("memfd:"))).count()
    }
}

impl Drop for Porter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running server, and a management token for it.
pub struct Site {
    pub folder: Folder,
    pub porter: Porter,
    pub token: String,
}

impl Site {
    pub fn start(flags: &[&str]) -> Site {
        let folder = Folder::new();
        let porter = Porter::start_with(&folder, flags);
        let token = manage_token(&folder);
        Site { folder, porter, token }
    }

    pub fn get(&self, path: &str) -> HttpAnswer {
        http(self.porter.rest, "GET", &format!("{path}/{}", self.token), "")
    }

    pub fn push(&self, frame: &str) -> HttpAnswer {
        http(self.porter.rest, "POST", &format!("/push/{}", self.token), frame)
    }
}

/// A management token for a data folder.
pub fn manage_token(folder: &Folder) -> String {
    token(folder, &["--role", "manage", "--label", "test"])
}

/// A token for a data folder.
pub fn token(folder: &Folder, flags: &[&str]) -> String {
    let output = run(folder, &["token", "new"], flags);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
