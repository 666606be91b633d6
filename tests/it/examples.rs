//! The files in `examples/` and the installer's page say what is true of this program: they are used here as they stand, but for
//! paths and ports.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::clients::http;
use crate::nginx::Nginx;
use crate::porter::{Folder, Porter, Site, command};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(name)).unwrap()
}

/// Runs a tool to its end, with success.
fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `text` with `from` replaced, which must be in it.
fn with(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from:?} in the example");
    text.replace(from, to)
}

/// Starts nginx with the example, its certificate and ports replaced.
fn start_nginx(folder: &Folder, porter: &Porter) -> (Nginx, SocketAddr) {
    let at = folder.path().display().to_string();
    let (certificate, key) = (format!("{at}/porter.pem"), format!("{at}/porter.key"));
    let subject = ["-subj", "/CN=porter.example.org", "-addext", "subjectAltName=DNS:porter.example.org", "-days", "1"];
    let request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    succeed(Command::new("openssl").args(request).args(subject).args(["-out", &certificate, "-keyout", &key]));
    Nginx::start(folder, |port| {
        let site = with(&read("examples/nginx.conf"), "listen 443 ssl", &format!("listen {port} ssl"));
        let site = with(&site, "/etc/ssl/certs/porter.pem", &certificate);
        let site = with(&site, "/etc/ssl/private/porter.key", &key);
        let site = with(&site, "http://127.0.0.1:9906", &format!("http://{}", porter.socketio));
        with(&site, "http://127.0.0.1:9900", &format!("http://{}", porter.rest))
    })
}

/// A request through the proxy under TLS; the status and the body.
fn curl(folder: &Folder, proxy: SocketAddr, path: &str, flags: &[&str]) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "*", "--write-out", "\n%{http_code}"]);
    curl.arg("--cacert").arg(folder.path().join("porter.pem"));
    curl.args(["--resolve", &format!("porter.example.org:{}:127.0.0.1", proxy.port())]).args(flags);
    let answer = succeed(curl.arg(format!("https://porter.example.org:{}{path}", proxy.port())));
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

#[test]
fn the_nginx_example_serves_rest_under_tls_and_passes_addresses_on() {
    let site = Site::start(&["--auth-trusted-proxies", "127.0.0.1"]);
    let folder = Folder::new();
    let (_nginx, proxy) = start_nginx(&folder, &site.porter);
    let frame = r#"{"t":6,"method":"publish_to_alias","alias":"away","msg":"门","num":7}"#;
    let (status, body) = curl(&folder, proxy, &format!("/push/{}", site.token), &["-d", frame]);
    assert_eq!(status, "200", "{body}");
    assert!(body.starts_with(r#"{"t":-6,"num":7,"#), "{body}");

    // Bad tokens count for the address that the proxy names, not for the proxy: the box itself is not shut out with it.
    for _ in 0..11 {
        curl(&folder, proxy, "/info/00", &["-H", "X-Forwarded-For: 198.51.100.7"]);
    }
    site.porter.await_log("bad_tokens address=198.51.100.7");
    assert_eq!(curl(&folder, proxy, &format!("/info/{}", site.token), &[]).0, "200");
    let access = std::fs::read_to_string(folder.path().join("access.log")).unwrap_or_default();
    assert!(!access.contains(&site.token), "a token is in the proxy's log");
}

#[test]
fn the_nginx_example_serves_phones_by_polling_and_by_websocket() {
    let site = Site::start(&["--auth-trusted-proxies", "127.0.0.1"]);
    let folder = Folder::new();
    let (_nginx, proxy) = start_nginx(&folder, &site.porter);
    let phone = ["-H", "X-Forwarded-For: 10.0.0.7"];
    let (status, body) = curl(&folder, proxy, "/socket.io/?EIO=3&transport=polling&b64=1", &phone);
    assert!(status == "200" && body.ends_with("2:40"), "{status} {body}");
    // From elsewhere it needs a token, also behind the proxy.
    let (_, body) = curl(&folder, proxy, "/socket.io/?EIO=3&transport=polling&b64=1", &["-H", "X-Forwarded-For: 203.0.113.9"]);
    assert!(body.contains(r#""code":"bad_token""#), "{body}");
    let upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="];
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--http1.1", "--include", "--max-time", "3", "--noproxy", "*", "--output", "-"]);
    curl.arg("--cacert").arg(folder.path().join("porter.pem"));
    curl.args(["--resolve", &format!("porter.example.org:{}:127.0.0.1", proxy.port())]);
    upgrade.iter().chain(&phone[1..]).for_each(|header| {
        curl.args(["-H", header]);
    });
    let url = format!("https://porter.example.org:{}/socket.io/?EIO=3&transport=websocket", proxy.port());
    // It stays open until curl gives up.
    let said = String::from_utf8_lossy(&curl.arg(url).stdin(Stdio::null()).output().unwrap().stdout).into_owned();
    assert!(said.starts_with("HTTP/1.1 101 ") && said.contains(r#"0{"sid":""#), "{said}");
}

#[test]
fn the_unit_starts_porter_with_flags_that_it_has() {
    let unit = read("examples/porter.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/porter serve ")).unwrap();
    assert_eq!(line, "--config /etc/porter.toml --data-dir /var/lib/porter");
    let folder = Folder::new();
    let file = folder.path().join("porter.toml");
    // As the page says: the file is what `porter config` prints, and then edited.
    let defaults = succeed(&mut command(&folder, &["config"], &[]));
    std::fs::write(&file, with(&with(&defaults, "port = 9800", "port = 0"), "port = 9900", "port = 0")).unwrap();
    let flags = ["--config", file.to_str().unwrap()];
    let porter = Porter::start_command(command(&folder, &["serve"], &flags));
    assert_eq!(http(porter.rest, "GET", "/info/00", "").status, 401);
    assert_eq!(porter.terminate().0, Some(0), "SIGTERM is how systemd stops it");
}

#[test]
fn the_filter_of_the_page_finds_who_tries_tokens() {
    let page = read("docs/installer.md");
    let pattern = page.lines().find_map(|line| line.strip_prefix("failregex = ")).unwrap();
    let (before, after) = pattern.split_once("<HOST>").unwrap();
    let site = Site::start(&[]);
    for _ in 0..10 {
        assert_eq!(http(site.porter.rest, "GET", "/info/00", "").status, 401);
    }
    site.porter.await_log(&format!("{before}127.0.0.1{after}"));
}
