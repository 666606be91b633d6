//! The settings: their mistakes, and those that are allowed but let strangers in or keep everybody out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{Findings, Mend, quoted_text};
use crate::config::{Config, Effective, Source, flag};
use crate::server::gate::DeviceAuth;
use crate::server::network::Network;

/// Files that the usual makers of containers leave in them.
const CONTAINER_MARKS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// The mistakes, one a line, for which the settings can't be used. All else is looked at when they are gone.
pub(super) fn mistakes(mistakes: &str, findings: &mut Findings) {
    for mistake in mistakes.lines() {
        findings.wrong("settings", mistake, Mend::Do("correct it there, and check again: nothing else was looked at".to_owned()));
    }
}

pub(super) fn look(settings: &Effective, findings: &mut Findings) {
    for warning in &settings.warnings {
        let name = warning.split("variable ").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default();
        findings.warning("settings", warning.as_str(), Mend::Run(format!("unset {name}")));
    }
    let file = settings.file.as_deref().map_or("no file of settings; all are defaults, variables and flags".to_owned(), ToOwned::to_owned);
    findings.ok("settings", file);
    bind(settings, findings);
    proxies(settings, findings);
    devices(settings, is_container(), findings);
}

fn bind(settings: &Effective, findings: &mut Findings) {
    let config = &settings.config;
    if !config.bind.is_loopback() {
        findings.ok("bind", config.bind.to_string());
    } else if config.trusted_proxies.is_empty() {
        let text = format!("{}: nobody but this machine reaches the ports; right only for trying things out", config.bind);
        findings.warning("bind", text, set(settings, "bind", "\"0.0.0.0\""));
    } else {
        findings.ok("bind", format!("{}: only what stands behind the proxies on this machine", config.bind));
    }
}

fn proxies(settings: &Effective, findings: &mut Findings) {
    let config = &settings.config;
    if config.trusted_proxies.iter().any(is_everybody) {
        let text = "auth.trusted_proxies holds every address: whoever sends X-Forwarded-For is who he says he is";
        findings.wrong("proxy", text, set(settings, "auth.trusted_proxies", "[\"127.0.0.1\"]"));
    } else if config.trusted_proxies.is_empty() && seems_proxied(config) {
        let text = "bind, advertise_host and origins look as if a proxy stood in front, but auth.trusted_proxies is empty: all REST \
                    requests count as the proxy's own, its bad tokens too";
        findings.warning("proxy", text, set(settings, "auth.trusted_proxies", "[\"127.0.0.1\"]"));
    } else if config.trusted_proxies.is_empty() {
        findings.ok("proxy", "none is named, and nothing looks as if there were one");
    } else {
        let named: Vec<String> = config.trusted_proxies.iter().map(ToString::to_string).collect();
        findings.ok("proxy", named.join(", "));
    }
}

fn devices(settings: &Effective, in_container: bool, findings: &mut Findings) {
    let config = &settings.config;
    let token = || set(settings, "auth.devices", "\"token\"");
    match config.auth_devices {
        DeviceAuth::Open => findings.warning("devices", "auth.devices is \"open\": whoever reaches the ports may open doors", token()),
        DeviceAuth::Private if in_container => {
            let text = "auth.devices is \"private\" in a container, where every peer seems near: nobody needs a token";
            findings.warning("devices", text, token());
        }
        DeviceAuth::Private if seems_proxied(config) => {
            let text = "auth.devices is \"private\", but behind a TCP proxy on this machine every peer seems near: nobody needs a token";
            findings.warning("devices", text, token());
        }
        DeviceAuth::Private => findings.ok("devices", "a token is asked of those that don't come from a private address"),
        DeviceAuth::Token => findings.ok("devices", "a token is asked of all"),
    }
    if in_container && config.advertise_host.is_none() {
        let text = "advertise_host is empty in a container: clients are told an address that only the container has";
        findings.warning("advertise", text, Mend::Do("set advertise_host to this machine's name or address".to_owned()));
    }
}

/// Only this machine gets in, and yet others are expected.
fn seems_proxied(config: &Config) -> bool {
    config.bind.is_loopback() && (config.advertise_host.is_some() || config.origins.iter().any(|origin| origin.starts_with("https://")))
}

fn is_everybody(network: &Network) -> bool {
    let v4 = [Ipv4Addr::new(1, 0, 0, 1), Ipv4Addr::new(203, 0, 113, 1)].map(IpAddr::from);
    let v6 = [Ipv6Addr::LOCALHOST, Ipv6Addr::from_bits(u128::MAX)].map(IpAddr::from);
    [v4, v6].iter().any(|ends| ends.iter().all(|end| network.contains(*end)))
}

fn is_container() -> bool {
    CONTAINER_MARKS.iter().any(|mark| Path::new(mark).exists())
}

/// How to give a setting another value where it stands. `value`: as TOML.
pub(super) fn set(settings: &Effective, key: &'static str, value: &str) -> Mend {
    let word = || quoted_text(value.trim_matches(['"', '[', ']']).replace('"', "").as_str());
    match settings.source(key) {
        Source::Flag(_) => Mend::Do(format!("start with {} {}", flag(key), word())),
        Source::Variable(name) => Mend::Run(format!("export {name}={}", word())),
        Source::File { path, line } => replaced(path, *line, key, value),
        Source::Default => added(settings.file.as_deref(), key, value),
    }
}

/// In place of the line that has it.
fn replaced(path: &str, line: usize, key: &str, value: &str) -> Mend {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let old = line.checked_sub(1).and_then(|at| text.lines().nth(at)).unwrap_or_default();
    let name = old.split_once('=').map(|(name, _)| name.trim()).unwrap_or_default();
    // A list over several lines, or an inline table, is for an editor.
    if !key.ends_with(name) || name.is_empty() || old.matches('[').count() != old.matches(']').count() {
        return Mend::Do(format!("in line {line} of {path} make {key} = {value}"));
    }
    Mend::Run(format!("sed -i '{line}s/.*/{name} = {value}/' {}", quoted_text(path)))
}

/// At the top of the file, or of its section where it has one: so it is right whatever follows.
fn added(file: Option<&str>, key: &str, value: &str) -> Mend {
    let path = file.unwrap_or("porter.toml");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if let Some((section, leaf)) = key.split_once('.')
        && text.lines().any(|line| line.trim_end() == format!("[{section}]"))
    {
        return Mend::Run(format!(r"sed -i '/^\[{section}\]/a {leaf} = {value}' {}", quoted_text(path)));
    }
    if text.is_empty() {
        return Mend::Run(format!("echo '{key} = {value}' >> {}", quoted_text(path)));
    }
    Mend::Run(format!("sed -i '1i {key} = {value}' {}", quoted_text(path)))
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::config::Layers;

    fn effective(text: &str) -> Effective {
        Effective::new(&Layers { file: Some(("porter.toml".to_owned(), text.to_owned())), ..Layers::default() }).unwrap()
    }

    #[test]
    fn settings_that_let_strangers_in_or_keep_everybody_out_are_found() {
        use Grade::{Ok, Warning, Wrong};
        for (text, in_container, expected) in [
            ("bind = '0.0.0.0'", false, [Ok, Ok, Ok]),
            ("bind = '::'\nauth.devices = 'token'", false, [Ok, Ok, Ok]),
            ("", false, [Warning, Ok, Ok]),
            ("bind = '0.0.0.0'\nauth.trusted_proxies = ['0.0.0.0/0']", false, [Ok, Wrong, Ok]),
            ("bind = '0.0.0.0'\nauth.trusted_proxies = ['10.0.0.1', '::/0']", false, [Ok, Wrong, Ok]),
            ("bind = '0.0.0.0'\nauth.trusted_proxies = ['10.0.0.0/8', '128.0.0.0/1']", false, [Ok, Ok, Ok]),
            ("advertise_host = 'doors.example.org'", false, [Warning, Warning, Warning]),
            ("origins = ['https://a.example.org']\nauth.devices = 'token'", false, [Warning, Warning, Ok]),
            ("advertise_host = 'a'\nauth.trusted_proxies = ['127.0.0.1']\nauth.devices = 'token'", false, [Ok, Ok, Ok]),
            ("advertise_host = 'a'\nauth.trusted_proxies = ['127.0.0.1']", false, [Ok, Ok, Warning]),
            ("bind = '0.0.0.0'\nauth.devices = 'open'", false, [Ok, Ok, Warning]),
            ("bind = '0.0.0.0'\nadvertise_host = 'a'", true, [Ok, Ok, Warning]),
            ("bind = '0.0.0.0'\nadvertise_host = 'a'\nauth.devices = 'token'", true, [Ok, Ok, Ok]),
        ] {
            let (settings, mut findings) = (effective(text), Findings::default());
            bind(&settings, &mut findings);
            proxies(&settings, &mut findings);
            devices(&settings, in_container, &mut findings);
            assert_eq!(findings.0.iter().map(|finding| finding.grade).collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn a_container_without_a_name_for_others_is_found() {
        let mut findings = Findings::default();
        devices(&effective("auth.devices = 'token'"), true, &mut findings);
        assert_eq!(findings.0.last().unwrap().what, "advertise");
    }
}
