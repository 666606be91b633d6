//! What `porter --help` and `porter help COMMAND` say: a screen each, with examples.

use super::arguments::{COMMANDS, Command};
use crate::config;

/// The help of the command at that place of [`COMMANDS`], or of all.
pub(super) fn text(of: Option<usize>) -> String {
    let Some(spec) = of.and_then(|at| COMMANDS.get(at)) else { return OVERVIEW.to_owned() };
    match spec.command {
        Command::Serve => format!("{SERVE}\nSettings as flags (*: a change needs a restart):\n{}", columns(config::flags())),
        Command::Check => CHECK.to_owned(),
        Command::Backup => BACKUP.to_owned(),
        Command::Restore => RESTORE.to_owned(),
        Command::Config => CONFIG.to_owned(),
        Command::TokenNew => TOKEN_NEW.to_owned(),
        Command::TokenImport => TOKEN_IMPORT.to_owned(),
        Command::TokenInspect => TOKEN_INSPECT.to_owned(),
        Command::TokenRevoke => TOKEN_REVOKE.to_owned(),
        Command::TokenRevoked => TOKEN_REVOKED.to_owned(),
        Command::Publish => PUBLISH.to_owned(),
        Command::Subscribe => SUBSCRIBE.to_owned(),
        Command::Help(_) | Command::Version => OVERVIEW.to_owned(),
    }
}

/// Entries in two columns, the rare long one on a line of its own.
fn columns(entries: impl Iterator<Item = String>) -> String {
    const WIDTH: usize = 40;
    let (mut text, mut open) = (String::new(), false);
    for entry in entries {
        let wide = entry.chars().count() >= WIDTH;
        if open && !wide {
            text += &format!("{entry}\n");
            open = false;
        } else {
            if open {
                text = text.trim_end().to_owned() + "\n";
            }
            open = !wide;
            text += &if wide { format!("  {entry}\n") } else { format!("  {entry:<WIDTH$}") };
        }
    }
    text.trim_end().to_owned() + "\n"
}

const OVERVIEW: &str = "\
Porter: push and relay for the doors of residential communities.

Usage: porter COMMAND [OPTION]…

  serve           run the server
  check           look for what is wrong on this box, and say what mends it
  backup          copy the database, also of a running server
  restore         put a backup in the database's place
  config          show the settings in force, and where each comes from
  token new       make a token for a device or an administrator
  token import    admit a fixed string of an older installation as a token
  token inspect   show what a token says and whether it is valid
  token revoke    revoke all tokens of a label, for good
  token revoked   list the revoked labels
  pub             publish one message
  sub             receive messages and print them

  porter help COMMAND   more on one of them      porter --version   the version

Try it:
  porter serve                                   in one terminal
  porter sub --alias door-3-1                    in a second
  porter pub --alias door-3-1 'hello, door'      in a third
";

const SERVE: &str = "\
Usage: porter serve [--config FILE] [SETTING]…

Runs the server until SIGTERM or SIGINT. Its log goes to the standard error. At the first start
it makes the data folder and the master key that all tokens hang on. At SIGHUP it reads the file
again; the log names what has changed, or the mistake for which nothing has.

A setting is a flag (--rest-port 9901), a variable (PORTER_REST_PORT=9901) or a line of a file
(--config FILE, PORTER_CONFIG=FILE, else porter.toml here); the first of these wins. What each one
means, its unit and its default: porter config.

Examples:
  porter serve
  porter serve --data-dir /var/lib/porter --auth-devices token
  PORTER_LOG_LEVEL=debug porter serve --config /etc/porter.toml
";

const CHECK: &str = "\
Usage: porter check [--config FILE] [SETTING]…

Looks at everything that 'porter serve' with the same flags, variables and file would rest on:
settings, data folder and its files, key, database, ports, clock, disk, limits. It changes nothing.
Run it as the account that the server runs under, before the first start or beside a running server.

Each line is one finding: ok, warning or wrong. Under the last two stands what mends it: behind 'run'
a command as it is to be typed, behind 'do' what no command can. The exit code is 0 if nothing is
wrong, warnings or not, and 1 otherwise.

The disk is measured for up to two seconds, the database read for up to a minute.

Examples:
  porter check
  sudo -u porter porter check --config /etc/porter.toml --data-dir /var/lib/porter
";

const BACKUP: &str = "\
Usage: porter backup FILE [--overwrite] [--config FILE] [--data-dir DIR]

Copies the database to FILE, all of it as it is at one moment, and reads the copy back. A running
server goes on meanwhile. Exit code 0: FILE is good. Otherwise there is no FILE, or the old one; a
copy that is not finished is called FILE.unfinished, and the next backup to FILE replaces it.

A backup holds aliases, subscriptions, waiting messages, reports and the door log. It does not hold
master.key, revoked and imported: copy those once, and keep them where nobody else reads them.

  --overwrite      replace FILE once the new copy is good
  --data-dir DIR   where the database is

Examples:
  porter backup /mnt/usb/porter.db --overwrite
  sudo -u porter porter backup /mnt/usb/porter-$(date +%F).db --data-dir /var/lib/porter
";

const RESTORE: &str = "\
Usage: porter restore FILE [--config FILE] [--data-dir DIR]

Puts a copy of the backup FILE in place of the database. No server may run on the data folder. A
backup that is damaged, or of a newer porter, is refused and changes nothing; one of an older porter
is brought up to date. The database that was there stays beside it, as porter.db.before-TIME.

What came after the backup is not there: messages that are waiting since then are lost, and what
was acknowledged since then comes again. Message numbers go on above all that were ever given out.
Interrupted at any moment, by a power cut too, it leaves the old database or the new one in force.

  --data-dir DIR   where the database is to be; made if it is missing

Example:
  systemctl stop porter
  sudo -u porter porter restore /mnt/usb/porter.db --data-dir /var/lib/porter
  systemctl start porter
";

const CONFIG: &str = "\
Usage: porter config [--config FILE] [SETTING]…

Prints the settings that 'porter serve' would run with, given the same flags, variables and file,
as a file that would give the same: each with what it means, its unit, when to change it, and
where its value came from. Mistakes are named with their place, and the exit code is 1.

Examples:
  porter config                                     what is in force here
  porter config > porter.toml                       a file to begin with
  porter config --config new.toml >/dev/null        is the file right?
";

const TOKEN_NEW: &str = "\
Usage: porter token new --role ROLE --label LABEL [--alias ALIAS] [--expires LIFE] [--data-dir DIR]

Prints a new token, alone. It is valid at once, also for a server that is running. Nothing is kept
of it: a lost token can't be shown again, only revoked by its label.

  --role ROLE      manage: all of REST, and every alias;  device: what a door or phone does
  --label LABEL    whom it is for, 1 to 128 bytes without '|'; shown in the door log
  --alias ALIAS    the only alias that the device may bind; any without it
  --expires LIFE   such as 365d, 12h or 30m; never without it
  --data-dir DIR   where the master key is; made if it is missing

Examples:
  porter token new --role manage --label 'console, Li' --expires 365d
  porter token new --role device --label 'gate of house 3' --alias door-3-1
";

const TOKEN_IMPORT: &str = "\
Usage: porter token import --role ROLE --label LABEL [--alias ALIAS] [--expires LIFE] [--data-dir DIR]

Admits a fixed string, read from the standard input, as a token: for devices of an older
installation that can't be given new ones. Only a keyed fingerprint of it is kept. A running server
knows it within 500 ms. Take it back with 'porter token revoke LABEL'. The options are those of
'porter token new'.

Example:
  porter token import --role device --label 'old gates' < old-token.txt
";

const TOKEN_INSPECT: &str = "\
Usage: porter token inspect [TOKEN] [--data-dir DIR]

Shows what a token says and whether it is valid now: exit code 0 if it is, else 1. Without TOKEN it
is read from the standard input, which keeps it out of the list of processes.

Examples:
  porter token inspect < token.txt
  porter token new --role device --label x | porter token inspect
";

const TOKEN_REVOKE: &str = "\
Usage: porter token revoke LABEL [--data-dir DIR]

Revokes all tokens with that label, for good; so a new token for the same person needs a new label.
It is on disk when the command returns; a running server ends the links of such tokens within a
second. Labels that no token has may be revoked too.

Example:
  porter token revoke 'console, Li'
";

const TOKEN_REVOKED: &str = "\
Usage: porter token revoked [--data-dir DIR]

Lists the revoked labels, one a line, sorted by their bytes.
";

const PUBLISH: &str = "\
Usage: porter pub --alias ALIAS…|--topic TOPIC… [--ttl SECONDS] [--id KEY] [--json] [MESSAGE]

Publishes one message over TCP, waits for the answer and prints it: exit code 0 if the message is
delivered or safely stored, else 1. Without MESSAGE it is read from the standard input.

  --alias ALIAS    to this alias; may be repeated
  --topic TOPIC    to the subscribers of this topic; may be repeated
  --ttl SECONDS    how long it may wait for its receivers; 0: only those online
  --id KEY         your own key: publishing again with the same key sends nothing twice
  --json           MESSAGE is JSON; otherwise it is text and becomes a JSON string
  --server HOST:PORT   the server's TCP port; without it the one of the settings, on this machine
  --token TOKEN    better in the variable PORTER_TOKEN

Examples:
  porter pub --alias door-3-1 'hello, door'
  porter pub --topic house-3 --json '{\"ring\":true}' --ttl 30
  date | porter pub --topic clocks --id today
";

const SUBSCRIBE: &str = "\
Usage: porter sub --alias ALIAS [--topic TOPIC]… [--count N] [--server HOST:PORT] [--token TOKEN]

Binds ALIAS over TCP, subscribes it to the topics and prints each frame that comes, one a line;
messages are acknowledged when they are printed. What waits for the alias comes first. A lost
connection is made anew, after 1 to 30 seconds. Ctrl-C ends it.

  --topic TOPIC    subscribe to this topic, for good; may be repeated
  --count N        end after N messages
  --server HOST:PORT   the server's TCP port; without it the one of the settings, on this machine
  --token TOKEN    better in the variable PORTER_TOKEN

Examples:
  porter sub --alias me --topic house-3
  porter sub --alias door-3-1 --count 1 --server 192.0.2.7:9800
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_screen_that_begins_with_its_usage() {
        for (at, spec) in COMMANDS.iter().enumerate() {
            let help = text(Some(at));
            assert!(help.starts_with(&format!("Usage: porter {} ", spec.name)), "{help}");
            assert!(OVERVIEW.contains(&format!("\n  {} ", spec.name)), "{}", spec.name);
            assert!(help.lines().count() <= 45, "{}", spec.name);
            assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
        }
    }

    #[test]
    fn every_setting_is_a_flag_in_the_help_of_serve() {
        let help = text(Some(0));
        config::flags().for_each(|flag| assert!(help.contains(&flag), "{flag}"));
    }
}
