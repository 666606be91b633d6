//! The real nginx, with nothing set that is not needed to run it unprivileged in a folder of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::porter::{DEADLINE, Folder};

/// A running nginx, ended with its owner.
pub struct Nginx(Child);

impl Nginx {
    /// Starts it with the `server` block that `site` gives for the address it is to listen on.
    pub fn start(folder: &Folder, site: impl FnOnce(SocketAddr) -> String) -> (Nginx, SocketAddr) {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let at = folder.path().display();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {at}/{kind};")).concat();
        let config = format!(
            "daemon off; error_log {at}/nginx.log; pid {at}/nginx.pid; events {{}}\n\
             http {{ access_log {at}/access.log; {paths}\n{} }}\n",
            site(address)
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("nginx").arg("-c").arg(&file).arg("-p").arg(folder.path()).stdin(Stdio::null()).spawn().unwrap();
        let nginx = Nginx(child);
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < end, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        (nginx, address)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}
