//! `porter token …`: making, admitting, showing and revoking tokens, also beside a running server.

use std::io::Write;
use std::process::ExitCode;

use super::arguments::{Arguments, Command};
use super::{Failure, read_input, tell};
use crate::config::Config;
use crate::names::{Alias, Label};
use crate::runtime::clock;
use crate::runtime::keyring::{Keyring, Missing};
use crate::runtime::logger::Harmless;
use crate::token::imported::FIXED_BYTES_MAX;
use crate::token::{BadToken, Claims, Role, TOKEN_DIGITS_MAX};

/// A fixed string shorter than this is warned of: 16 random characters can't be guessed over a network, fewer perhaps can.
const FIXED_BYTES_GOOD: usize = 16;

/// Runs one of the commands.
pub(super) fn run(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let missing = if arguments.command == Command::TokenNew { Missing::Create } else { Missing::Leave };
    // The claims first: a mistyped option must not leave a new key behind.
    let claims = match arguments.command {
        Command::TokenNew | Command::TokenImport => Some(claims(arguments, clock::wall_ms() / 1_000)?),
        _ => None,
    };
    let keyring = Keyring::open(&config.data_dir, missing).map_err(failed)?;
    match (arguments.command, claims) {
        (Command::TokenImport, Some(claims)) => import(&keyring, &claims),
        (_, Some(claims)) => say(out, &keyring.issue(&claims).map_err(failed)?),
        (Command::TokenInspect, None) => inspect(&keyring, arguments, out),
        (Command::TokenRevoke, None) => revoke(&keyring, arguments, out),
        _ => {
            let revoked = keyring.revoked().map_err(failed)?;
            revoked.labels().try_fold(ExitCode::SUCCESS, |_, label| say(out, &Harmless(label.as_str()).to_string()))
        }
    }
}

/// The claims that the options ask for, at `now_s`: seconds since 1970.
fn claims(arguments: &Arguments, now_s: u64) -> Result<Claims, Failure> {
    let role = arguments.required("role")?;
    let label = arguments.required("label")?;
    let expires = match arguments.option("expires") {
        None | Some("never") => 0,
        Some(life) => seconds(life)
            .and_then(|life| now_s.checked_add(life))
            .ok_or_else(|| arguments.usage(&format!("--expires is '{life}', but must be such as 90d, 12h, 30m or never")))?,
    };
    Ok(Claims {
        role: Role::parse(role).ok_or_else(|| arguments.usage(&format!("--role is '{role}', but must be manage or device")))?,
        label: Label::new(label).map_err(|why| arguments.usage(&format!("--label {why}")))?,
        alias: arguments.option("alias").map(Alias::new).transpose().map_err(|why| arguments.usage(&format!("--alias {why}")))?,
        expires,
    })
}

/// A positive length of time: digits and one of s, m, h, d, w.
fn seconds(life: &str) -> Option<u64> {
    let (digits, unit) = life.split_at_checked(life.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    let number: u64 = Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    number.checked_mul(unit).filter(|life| *life > 0)
}

fn import(keyring: &Keyring, claims: &Claims) -> Result<ExitCode, Failure> {
    let fixed = read_input("string", FIXED_BYTES_MAX)?;
    if fixed.is_empty() || fixed.chars().any(char::is_control) {
        return Err(Failure::Failed("the string on the standard input must not be empty or have control characters".to_owned()));
    }
    if fixed.len() < FIXED_BYTES_GOOD {
        tell(&format!("the string has less than {FIXED_BYTES_GOOD} bytes: it may be guessed"));
    }
    keyring.import(&fixed, claims).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn inspect(keyring: &Keyring, arguments: &Arguments, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let token = match arguments.words.first() {
        Some(token) => token.clone(),
        None => read_input("token", TOKEN_DIGITS_MAX.max(FIXED_BYTES_MAX))?,
    };
    let claims = match keyring.read(&token) {
        Ok(claims) => claims,
        Err(BadToken::NoKey) => return Err(Failure::Failed(keyring.revoked().err().map_or_else(String::new, |fault| fault.to_string()))),
        Err(bad) => {
            say(out, &format!("state    {bad}"))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let judged = keyring.recheck(&claims, clock::wall_ms() / 1_000);
    say(out, &format!("role     {}", claims.role.as_str()))?;
    say(out, &format!("label    {}", Harmless(claims.label.as_str())))?;
    say(out, &format!("alias    {}", claims.alias.as_ref().map_or("(any)".to_owned(), |a| Harmless(a.as_str()).to_string())))?;
    let expires = if claims.expires == 0 { "never".to_owned() } else { clock::utc_text(claims.expires.saturating_mul(1_000)) };
    say(out, &format!("expires  {expires}"))?;
    say(out, &format!("state    {}", judged.map_or_else(BadToken::as_str, |()| "valid")))?;
    Ok(if judged.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn revoke(keyring: &Keyring, arguments: &Arguments, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let word = arguments.words.first().ok_or_else(|| arguments.usage("which label?"))?;
    let label = Label::new(word).map_err(|why| arguments.usage(&format!("the label {why}")))?;
    let new = keyring.revoke(label).map_err(failed)?;
    say(out, &format!("{} {}", Harmless(word), if new { "is revoked" } else { "was revoked before" }))
}

fn say(out: &mut dyn Write, line: &str) -> Result<ExitCode, Failure> {
    writeln!(out, "{line}").map(|()| ExitCode::SUCCESS).map_err(Failure::Output)
}

fn failed(fault: impl ToString) -> Failure {
    Failure::Failed(fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_unit_and_are_positive() {
        for (life, s) in [("1s", 1), ("30m", 1_800), ("12h", 43_200), ("365d", 31_536_000), ("2w", 1_209_600)] {
            assert_eq!(seconds(life), Some(s));
        }
        for bad in ["", "d", "1", "0d", "-1d", "+1d", "1.5d", "1y", "1天", "99999999999999999999d", "18446744073709551615w"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn claims_are_read_from_the_options_and_mistakes_named() {
        let read = |words: &[&str]| {
            let words = ["token", "new"].iter().chain(words).map(std::ffi::OsString::from).collect();
            claims(&Arguments::read(words).unwrap(), 100).map_err(|failure| match failure {
                Failure::Usage(what, "token new") => what,
                other => format!("{other:?}"),
            })
        };
        let full = read(&["--role", "device", "--label", "三号楼", "--alias", "door-3-1", "--expires", "1d"]).unwrap();
        assert_eq!((full.role, full.expires), (Role::Device, 86_500));
        assert_eq!((full.label.as_str(), full.alias.as_ref().map(Alias::as_str)), ("三号楼", Some("door-3-1")));
        assert_eq!(read(&["--role", "manage", "--label", "l"]).unwrap().expires, 0);
        for (words, what) in [
            (&["--label", "l"][..], "--role is missing"),
            (&["--role", "device"], "--label is missing"),
            (&["--role", "root", "--label", "l"], "--role is 'root', but must be manage or device"),
            (&["--role", "device", "--label", "a|b"], "--label must not contain '|'"),
            (&["--role", "device", "--label", "l", "--alias", ""], "--alias must not be empty"),
            (&["--role", "device", "--label", "l", "--expires", "1y"], "--expires is '1y', but must be such as 90d, 12h, 30m or never"),
        ] {
            assert_eq!(read(words), Err(what.to_owned()));
        }
    }
}
