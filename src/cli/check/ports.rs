//! The ports: free, taken by the server itself, or taken by another program.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use super::server::Server;
use super::settings::set;
use super::{Findings, Mend, quoted};
use crate::config::Effective;

/// State of a listening socket in the kernel's table.
const LISTENING: &str = "0A";

pub(super) fn look(settings: &Effective, server: Option<&Server>, findings: &mut Findings) {
    let config = &settings.config;
    let ports = [
        ("tcp.port", config.tcp_port),
        ("rest.port", config.rest_port),
        ("socketio.port", config.socketio_port),
        ("websocket.port", config.websocket_port),
    ];
    for (key, port) in ports {
        if port == 0 {
            findings.ok("port", format!("{key} 0: any free one"));
            continue;
        }
        let address = SocketAddr::new(config.bind, port);
        match TcpListener::bind(address) {
            Ok(_) => findings.ok("port", format!("{key} {port} is free")),
            Err(error) => refused(settings, key, address, &error, server, findings),
        }
    }
}

fn refused(settings: &Effective, key: &str, address: SocketAddr, error: &std::io::Error, server: Option<&Server>, findings: &mut Findings) {
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => taken(key, port, server, findings),
        ErrorKind::AddrNotAvailable => {
            let text = format!("bind {} is no address of this machine: no port can listen", address.ip());
            findings.wrong("port", text, set(settings, "bind", "\"0.0.0.0\""));
        }
        ErrorKind::PermissionDenied => {
            let program = std::env::current_exe().map_or("porter".to_owned(), |program| quoted(&program));
            let text = format!("{key} {port} is below 1024, which this account may not listen on");
            findings.wrong("port", text, Mend::Run(format!("setcap cap_net_bind_service=+ep {program}")));
        }
        _ => findings.wrong("port", format!("{key} {port}: {error}"), Mend::Do(format!("set another {key}"))),
    }
}

fn taken(key: &str, port: u16, server: Option<&Server>, findings: &mut Findings) {
    let holders = holders(port);
    if server.is_some_and(|server| holders.contains(&Some(server.pid))) {
        return findings.ok("port", format!("{key} {port}: the running server listens"));
    }
    let Some(pid) = holders.into_iter().flatten().next() else {
        let mend = Mend::Do(format!("see which it is with: sudo ss -ltnp 'sport = :{port}'; stop it, or set another port"));
        if server.is_some() {
            let text = format!("{key} {port} is in use, by a program of another account: perhaps the running server itself");
            return findings.warning("port", text, mend);
        }
        return findings.wrong("port", format!("{key} {port} is in use, by a program of another account"), mend);
    };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let text = format!("{key} {port} is in use by another program: {}, process {pid}; stop it, or set another port", name.trim_end());
    findings.wrong("port", text, Mend::Run(format!("kill {pid}")));
}

/// The processes that listen on a port; `None` for one that this account may not see.
fn holders(port: u16) -> Vec<Option<u32>> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().flat_map(|table| listening(table, port)).map(owner).collect()
}

/// The inodes of the sockets that listen on a port, from the kernel's table: address and state are hexadecimal.
fn listening(table: &str, port: u16) -> Vec<u64> {
    let inode = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let (_, found) = local.rsplit_once(':')?;
        (u16::from_str_radix(found, 16) == Ok(port) && *state == LISTENING).then(|| inode.parse().ok())?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// The process that has a socket open.
fn owner(inode: u64) -> Option<u32> {
    let socket = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_it = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target.as_os_str() == socket.as_str())
    };
    pids.into_iter().find(has_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_on_a_port_is_found() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(holders(port), [Some(std::process::id())]);
        drop(socket);
        // Somebody else may have taken it since.
        assert!(!holders(port).contains(&Some(std::process::id())));
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2648 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0\n\
            1: 0100007F:2648 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0\n";
        assert_eq!((listening(table, 9_800), listening(table, 9_801)), (vec![11], vec![]));
    }
}
