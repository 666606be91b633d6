//! The master key and the files `revoked` and `imported` beside it: read, watched and changed (Protocol §11).
//!
//! What the files say is `token`'s business; here they are opened, locked, replaced and synced. When any of them is
//! unreadable or damaged, or was there and is gone, no token is valid until it is whole again: guessing would let somebody in.
//!
//! Changes come from any process on the machine (`porter token revoke` beside a running server). Writers lock the folder, write
//! a new file and rename it over the old one, so a reader sees the old or the new text and never a part.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use subtle::ConstantTimeEq;

use crate::names::Label;
use crate::token::imported::Imported;
use crate::token::revoked::Revoked;
use crate::token::{self, BadToken, Claims, MasterKey, Role};

/// The name of the master key's file in the data folder.
pub const MASTER_KEY: &str = "master.key";
/// The name of the file of revoked labels.
pub const REVOKED: &str = "revoked";
/// The name of the file of imported strings.
pub const IMPORTED: &str = "imported";
/// Bytes of the largest of these files that is read: about 100,000 labels. A larger one was not written by Porter.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What to do where there is no master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Make one: the first start.
    Create,
    /// Leave it; then no token is valid.
    Leave,
}

/// Why a keyring can't do what it was asked. The text is for the log and the command line; it never holds a key or a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// Judges tokens by the files of one folder. Shared by all threads; its lock is held for moments only.
#[derive(Debug)]
pub struct Keyring {
    folder: PathBuf,
    state: RwLock<State>,
}

impl Keyring {
    /// Reads the files of `folder`. A damaged file is no error here: it is logged, and no token is valid until it is repaired.
    ///
    /// # Errors
    /// With [`Missing::Create`]: the folder or the key can't be written, or the key is gone while files that were sealed with
    /// it are still there.
    pub fn open(folder: &Path, missing: Missing) -> Result<Keyring, Fault> {
        if missing == Missing::Create && fs::symlink_metadata(folder.join(MASTER_KEY)).is_err() {
            create_key(folder)?;
        }
        warn_of_readers(&folder.join(MASTER_KEY));
        let mut state = State::read(folder, &Known::default());
        if missing == Missing::Create && !state.known.revoked {
            match state.ring.as_ref().map(|ring| seal(folder, &ring.key)) {
                Ok(Ok(())) => state = State::read(folder, &Known::default()),
                Ok(Err(error)) => log::warn!("key_not_sealed file=\"{}\" error=\"{error}\"", folder.join(REVOKED).display()),
                Err(_) => {}
            }
        }
        report(&Ok(()), &state.ring);
        Ok(Keyring { folder: folder.to_owned(), state: RwLock::new(state) })
    }

    /// Looks whether a file has changed, and reads them again if so; three calls of `stat` if not. To be called every 500 ms.
    /// True: what tokens are worth may have changed, every link's claims are to be looked at again with [`Keyring::recheck`].
    pub fn reload_if_changed(&self) -> bool {
        let unchanged = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            // While something is wrong it is tried each time: it may pass without a trace, such as a lack of descriptors.
            state.ring.is_ok() && state.stamps == stamps(&self.folder)
        };
        !unchanged && self.reload()
    }

    /// Whether a file can't be read or is damaged: then no token is valid.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.ring().is_err()
    }

    /// The claims of a token or an imported string that is valid at `now_s`: seconds since 1970, and never below the newest
    /// stored wall time, or a clock set back would revive what was over (Protocol §4).
    ///
    /// # Errors
    /// Why it is not valid. A peer hears `bad_token` in every case.
    pub fn check(&self, token: &str, now_s: u64) -> Result<Arc<Claims>, BadToken> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let ring = state.ring.as_ref().map_err(|_| BadToken::NoKey)?;
        let claims = match state.repeated.find(token) {
            Some(claims) => claims,
            None => state.repeated.keep(token, ring.read(token)?),
        };
        ring.judge(&claims, now_s)?;
        Ok(claims)
    }

    /// Whether claims that were good when their link came still are at `now_s`.
    ///
    /// # Errors
    /// Why they are not: the link must end.
    pub fn recheck(&self, claims: &Claims, now_s: u64) -> Result<(), BadToken> {
        self.ring().map_err(|_| BadToken::NoKey)?.judge(claims, now_s)
    }

    /// The revoked labels as they are now.
    ///
    /// # Errors
    /// What is wrong with the files: no token is valid.
    pub fn revoked(&self) -> Result<Arc<Revoked>, Fault> {
        Ok(self.ring()?.revoked.clone())
    }

    /// The claims of a genuine token or an imported string, be it over or revoked; for showing them.
    ///
    /// # Errors
    /// Why it is not genuine.
    pub fn read(&self, token: &str) -> Result<Claims, BadToken> {
        self.ring().map_err(|_| BadToken::NoKey)?.read(token)
    }

    /// The token that carries `claims`.
    ///
    /// # Errors
    /// The label is revoked, or no token is valid.
    pub fn issue(&self, claims: &Claims) -> Result<String, Fault> {
        let ring = self.ring()?;
        ring.may_be_used(&claims.label)?;
        Ok(token::issue(&ring.key, claims))
    }

    /// Revokes a label, synced to disk when it returns; false if it was revoked before. Servers notice within 500 ms.
    ///
    /// # Errors
    /// The files are not whole, or the new one can't be written: the label may or may not be revoked.
    pub fn revoke(&self, label: Label) -> Result<bool, Fault> {
        self.change(REVOKED, |ring| {
            let mut revoked = (*ring.revoked).clone();
            Ok(revoked.add(label).then(|| revoked.to_text(&ring.key)))
        })
    }

    /// Admits a fixed string as a token with these claims, synced to disk when it returns; false if it had the same before.
    ///
    /// # Errors
    /// As [`Keyring::revoke`]; also when the label is revoked.
    pub fn import(&self, fixed: &str, claims: &Claims) -> Result<bool, Fault> {
        self.change(IMPORTED, |ring| {
            ring.may_be_used(&claims.label)?;
            if ring.imported.find(&ring.key, fixed) == Some(claims) {
                return Ok(None);
            }
            let mut imported = ring.imported.clone();
            imported.add(&ring.key, fixed, claims.clone());
            Ok(Some(imported.to_text(&ring.key)))
        })
    }

    /// Replaces the file `name` by the text that `edit` makes of the files as they are under the lock; `None`: all is well already.
    fn change(&self, name: &str, edit: impl FnOnce(&Ring) -> Result<Option<String>, Fault>) -> Result<bool, Fault> {
        let _lock = lock(&self.folder)?;
        self.reload();
        let Some(text) = edit(&*self.ring()?)? else { return Ok(false) };
        replace(&self.folder, name, text.as_bytes()).map_err(|e| Fault(format!("{}: {e}", self.folder.join(name).display())))?;
        self.reload();
        Ok(true)
    }

    fn ring(&self) -> Result<Arc<Ring>, Fault> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).ring.clone()
    }

    /// Reads everything again; true if it says something else than before. A slow disk holds up nobody who asks meanwhile; of two
    /// threads that do this at once the later wins, and should its look be the older one, the next look tells.
    fn reload(&self) -> bool {
        let known = self.state.read().unwrap_or_else(PoisonError::into_inner).known.clone();
        let next = State::read(&self.folder, &known);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *state, next);
        let changed = before.ring != state.ring;
        if changed {
            report(&before.ring.map(|_| ()), &state.ring);
        }
        changed
    }
}

/// The three files as they were when all could be read.
#[derive(Debug, PartialEq)]
struct Ring {
    key: Arc<MasterKey>,
    revoked: Arc<Revoked>,
    imported: Imported,
}

impl Ring {
    fn read(&self, token: &str) -> Result<Claims, BadToken> {
        match token::read(&self.key, token) {
            // An imported string may look like anything, a token of another key included.
            Err(bad @ (BadToken::Format | BadToken::Tag)) => self.imported.find(&self.key, token).cloned().ok_or(bad),
            judged => judged,
        }
    }

    fn judge(&self, claims: &Claims, now_s: u64) -> Result<(), BadToken> {
        if self.revoked.contains(&claims.label) {
            return Err(BadToken::Revoked);
        }
        if claims.expired(now_s) { Err(BadToken::Expired) } else { Ok(()) }
    }

    fn may_be_used(&self, label: &Label) -> Result<(), Fault> {
        if self.revoked.contains(label) {
            return Err(Fault(format!("the label '{label}' is revoked for good: choose another")));
        }
        Ok(())
    }
}

/// What was learnt from earlier looks and is held against later ones.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The first good key. Links hold claims that it vouched for, so another one needs a restart.
    key: Option<Arc<MasterKey>>,
    /// Which of `revoked` and `imported` there were: one that vanishes must not bring revoked labels back.
    revoked: bool,
    imported: bool,
}

/// The management's token that was genuine last, and what it says: whoever uses REST sends the same one with every request, and to
/// open it costs more than all else that judging does. Of devices each has its own.
#[derive(Default)]
struct Repeated(Mutex<Option<(Box<str>, Arc<Claims>)>>);

impl Repeated {
    fn find(&self, token: &str) -> Option<Arc<Claims>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (same, claims) = last.as_ref()?;
        // In constant time, as a tag is compared: nobody may feel his way to it.
        bool::from(same.as_bytes().ct_eq(token.as_bytes())).then(|| Arc::clone(claims))
    }

    fn keep(&self, token: &str, claims: Claims) -> Arc<Claims> {
        let claims = Arc::new(claims);
        if claims.role == Role::Manage {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((token.into(), Arc::clone(&claims)));
        }
        claims
    }
}

impl fmt::Debug for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Repeated(..)")
    }
}

#[derive(Debug)]
struct State {
    stamps: [Stamp; 3],
    known: Known,
    ring: Result<Arc<Ring>, Fault>,
    /// As genuine as `ring` says: gone with it.
    repeated: Repeated,
}

impl State {
    fn read(folder: &Path, before: &Known) -> State {
        // Stamps first: a change while the files are read then shows at the next look.
        let stamps = stamps(folder);
        let mut known = before.clone();
        let ring = read_ring(folder, &mut known).map(Arc::new);
        State { stamps, known, ring, repeated: Repeated::default() }
    }
}

fn read_ring(folder: &Path, known: &mut Known) -> Result<Ring, Fault> {
    let path = folder.join(MASTER_KEY);
    let text = read_text(&path)?.ok_or_else(|| Fault(format!("{}: there is no such file", path.display())))?;
    let key = MasterKey::parse(&text).ok_or_else(|| Fault(format!("{}: not 32 lower-case hexadecimal digits", path.display())))?;
    if known.key.as_ref().is_some_and(|first| **first != key) {
        return Err(Fault(format!("{}: another key than at the start; restart to use it", path.display())));
    }
    let key = known.key.get_or_insert_with(|| Arc::new(key)).clone();
    let revoked = read_beside(folder, REVOKED, &mut known.revoked, |text| Revoked::parse(&key, text).map_err(|e| e.to_string()))?;
    let imported = read_beside(folder, IMPORTED, &mut known.imported, |text| Imported::parse(&key, text).map_err(|e| e.to_string()))?;
    Ok(Ring { revoked: Arc::new(revoked), imported, key })
}

/// A file beside the key: where there never was one, nothing is revoked or imported.
fn read_beside<T: Default>(folder: &Path, name: &str, known: &mut bool, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Fault> {
    let path = folder.join(name);
    match read_text(&path)? {
        Some(text) => {
            *known = true;
            parse(&text).map_err(|why| Fault(format!("{}: {why}; bring it back, or remove it, restart and make it anew", path.display())))
        }
        None if *known => Err(Fault(format!("{}: it was there and is gone", path.display()))),
        None => Ok(T::default()),
    }
}

/// The text of a file, `None` where there is none.
fn read_text(path: &Path) -> Result<Option<String>, Fault> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| Fault(format!("{}: {e}", path.display())))?,
    };
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| Fault(format!("{}: {e}", path.display())))?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(Fault(format!("{}: larger than {FILE_BYTES_MAX} bytes", path.display())));
    }
    Ok(Some(text))
}

/// What tells one state of a file from another without reading it. The change time sees what keeps size and mtime.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(Option<[i64; 6]>);

fn stamps(folder: &Path) -> [Stamp; 3] {
    [MASTER_KEY, REVOKED, IMPORTED].map(|name| {
        let found = fs::metadata(folder.join(name)).ok();
        Stamp(found.map(|m| [m.ino().cast_signed(), m.size().cast_signed(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]))
    })
}

fn report(before: &Result<(), Fault>, now: &Result<Arc<Ring>, Fault>) {
    match (before, now) {
        (_, Err(fault)) => log::error!(
            "keyring_broken reason=\"{fault}\" effect=no_token_is_valid action=\"bring back the copy of the file; it is seen within a second\""
        ),
        (Err(_), Ok(_)) => log::info!("keyring_whole effect=tokens_are_valid_again"),
        (Ok(()), Ok(_)) => {}
    }
}

fn warn_of_readers(key: &Path) {
    if let Ok(found) = fs::metadata(key)
        && found.mode() & 0o077 != 0
    {
        log::warn!("key_readable file=\"{}\" effect=other_users_can_make_tokens action=\"chmod 600\"", key.display());
    }
}

/// Makes folder and key, unless another process has just done so.
fn create_key(folder: &Path) -> Result<(), Fault> {
    let failed = |e: io::Error| Fault(format!("{}: {e}", folder.join(MASTER_KEY).display()));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let _lock = lock(folder)?;
    let exists = |name: &str| fs::symlink_metadata(folder.join(name)).is_ok();
    if exists(MASTER_KEY) {
        return Ok(());
    }
    if let Some(name) = [REVOKED, IMPORTED].into_iter().find(|name| exists(name)) {
        return Err(Fault(format!(
            "{}: gone, though '{name}' beside it was made with it. Bring the key back; or remove '{name}' and give out all tokens anew",
            folder.join(MASTER_KEY).display()
        )));
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Fault(format!("the system gives no random bytes: {e}")))?;
    replace(folder, MASTER_KEY, MasterKey::new(bytes).to_text().as_bytes()).map_err(failed)?;
    log::info!("key_made file=\"{}\"", folder.join(MASTER_KEY).display());
    Ok(())
}

/// Writes an empty file of revoked labels where there is none: its seal is made with the key, so that a changed bit in either is found
/// at the next look, and not only when all tokens are refused.
fn seal(folder: &Path, key: &MasterKey) -> io::Result<()> {
    let _lock = lock(folder).map_err(|fault| io::Error::other(fault.to_string()))?;
    if fs::symlink_metadata(folder.join(REVOKED)).is_ok() {
        return Ok(());
    }
    replace(folder, REVOKED, Revoked::default().to_text(key).as_bytes())
}

/// The right to change the files, until the returned handle is dropped. Held for moments, so waiting for it is short.
fn lock(folder: &Path) -> Result<File, Fault> {
    let locked = File::open(folder).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|e| Fault(format!("{}: {e}", folder.display())))
}

/// Puts `content` in place of the file `name`, whole or not at all, synced. The folder must be locked.
fn replace(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::names::Alias;
    use crate::token::Role;

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("porter-keyring-{}-{number}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn open(&self) -> Keyring {
            Keyring::open(&self.0, Missing::Create).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    fn claims(text: &str) -> Arc<Claims> {
        Arc::new(Claims { role: Role::Device, label: label(text), alias: Some(Alias::new("door-3-1").unwrap()), expires: 100 })
    }

    #[test]
    fn a_token_that_is_sent_again_is_judged_again() {
        let folder = Folder::new();
        let keyring = folder.open();
        let manager = |text| Claims { role: Role::Manage, alias: None, ..(*claims(text)).clone() };
        let tokens = ["one", "two"].map(|text| keyring.issue(&manager(text)).unwrap());
        for _ in 0..3 {
            for (token, text) in tokens.iter().zip(["one", "two"]) {
                assert_eq!(*keyring.check(token, 99).unwrap(), manager(text));
                assert_eq!(*keyring.check(token, 99).unwrap(), manager(text));
                assert_eq!(keyring.check(token, 100), Err(BadToken::Expired));
                let mut altered = token.clone();
                altered.replace_range(..1, if token.starts_with('0') { "1" } else { "0" });
                assert_eq!(keyring.check(&altered, 99), Err(BadToken::Tag));
                assert_eq!(keyring.check(&token[..token.len() - 2], 99), Err(BadToken::Tag));
            }
        }
        assert!(keyring.check(&tokens[1], 99).is_ok());
        keyring.revoke(label("two")).unwrap();
        assert_eq!(keyring.check(&tokens[1], 99), Err(BadToken::Revoked));
        fs::write(folder.file(MASTER_KEY), "damaged").unwrap();
        keyring.reload_if_changed();
        assert_eq!(keyring.check(&tokens[0], 99), Err(BadToken::NoKey));
    }

    #[test]
    fn the_first_start_makes_a_private_key_and_later_ones_keep_it() {
        let folder = Folder::new();
        let data = folder.file("data");
        let first = Keyring::open(&data, Missing::Create).unwrap();
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(data.join(MASTER_KEY)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(data.join(MASTER_KEY)).unwrap().len(), 33);
        let token = first.issue(&claims("gate")).unwrap();
        assert_eq!(Keyring::open(&data, Missing::Create).unwrap().check(&token, 99), Ok(claims("gate")));
        assert_eq!(first.check(&token, 100), Err(BadToken::Expired));
        assert_eq!(first.read(&token).as_ref(), Ok(&*claims("gate")));
    }

    #[test]
    fn without_a_key_no_token_is_valid_until_it_comes() {
        let folder = Folder::new();
        let other = Folder::new();
        let token = other.open().issue(&claims("gate")).unwrap();
        let keyring = Keyring::open(&folder.0, Missing::Leave).unwrap();
        assert_eq!(keyring.check(&token, 0), Err(BadToken::NoKey));
        assert!(!keyring.reload_if_changed());
        fs::copy(other.file(MASTER_KEY), folder.file(MASTER_KEY)).unwrap();
        assert!(keyring.reload_if_changed());
        assert_eq!(keyring.check(&token, 0), Ok(claims("gate")));
    }

    #[test]
    fn a_revocation_by_another_process_is_noticed_and_lasts() {
        let folder = Folder::new();
        let server = folder.open();
        let command = folder.open();
        let token = server.issue(&claims("gate")).unwrap();
        assert_eq!(command.revoke(label("gate")), Ok(true));
        assert_eq!(command.revoke(label("gate")), Ok(false));
        assert!(server.reload_if_changed());
        assert!(!server.reload_if_changed());
        assert_eq!(server.check(&token, 0), Err(BadToken::Revoked));
        assert_eq!(server.recheck(&claims("gate"), 0), Err(BadToken::Revoked));
        assert_eq!(server.recheck(&claims("other"), 0), Ok(()));
        // Neither process knows what the other has just written.
        assert_eq!(server.revoke(label("a")), Ok(true));
        assert_eq!(command.revoke(label("b")), Ok(true));
        let labels: Vec<_> = folder.open().revoked().unwrap().labels().cloned().collect();
        assert_eq!(labels, [label("a"), label("b"), label("gate")]);
        assert!(server.issue(&claims("gate")).unwrap_err().to_string().contains("revoked"));
    }

    #[test]
    fn a_flipped_bit_in_the_revoked_file_shuts_everybody_out_until_it_is_repaired() {
        let folder = Folder::new();
        let keyring = folder.open();
        keyring.revoke(label("gate")).unwrap();
        let token = keyring.issue(&claims("other")).unwrap();
        let whole = fs::read(folder.file(REVOKED)).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut altered = whole.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            fs::write(folder.file(REVOKED), &altered).unwrap();
            keyring.reload();
            assert_eq!(keyring.check(&token, 0), Err(BadToken::NoKey), "bit {bit}");
        }
        assert!(keyring.revoke(label("x")).is_err());
        assert!(keyring.issue(&claims("x")).is_err());
        fs::write(folder.file(REVOKED), &whole).unwrap();
        assert!(keyring.reload_if_changed());
        assert_eq!(keyring.check(&token, 0), Ok(claims("other")));
    }

    #[test]
    fn files_that_vanish_are_cut_or_are_of_another_key_shut_everybody_out() {
        let folder = Folder::new();
        let keyring = folder.open();
        let token = keyring.issue(&claims("gate")).unwrap();
        keyring.revoke(label("other")).unwrap();
        keyring.import("fixed", &claims("old")).unwrap();
        for name in [MASTER_KEY, REVOKED, IMPORTED] {
            let whole = fs::read(folder.file(name)).unwrap();
            fs::remove_file(folder.file(name)).unwrap();
            assert!(keyring.reload_if_changed(), "{name}");
            assert_eq!(keyring.check(&token, 0), Err(BadToken::NoKey), "{name}");
            fs::write(folder.file(name), "").unwrap();
            assert!(keyring.reload_if_changed(), "{name}: another reason");
            fs::write(folder.file(name), &whole).unwrap();
            assert!(keyring.reload_if_changed(), "{name}");
            assert_eq!(keyring.check(&token, 0), Ok(claims("gate")), "{name}");
        }
        fs::write(folder.file(MASTER_KEY), MasterKey::new([1; 16]).to_text()).unwrap();
        assert!(keyring.reload());
        assert_eq!(keyring.check(&token, 0), Err(BadToken::NoKey));
        assert!(keyring.revoked().unwrap_err().to_string().contains("restart"));
    }

    #[test]
    fn a_flipped_bit_in_the_key_is_found_and_shuts_everybody_out() {
        let folder = Folder::new();
        let token = folder.open().issue(&claims("gate")).unwrap();
        let whole = fs::read(folder.file(MASTER_KEY)).unwrap();
        for bit in 0..(whole.len() - 1) * 8 {
            let mut altered = whole.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            fs::write(folder.file(MASTER_KEY), &altered).unwrap();
            let keyring = Keyring::open(&folder.0, Missing::Create).unwrap();
            assert_eq!(keyring.check(&token, 0), Err(BadToken::NoKey), "bit {bit}");
        }
        fs::write(folder.file(MASTER_KEY), &whole).unwrap();
        assert_eq!(folder.open().check(&token, 0), Ok(claims("gate")));
    }

    #[test]
    fn a_lost_key_is_not_replaced_while_its_files_are_there() {
        let folder = Folder::new();
        folder.open().revoke(label("gate")).unwrap();
        fs::remove_file(folder.file(MASTER_KEY)).unwrap();
        let fault = Keyring::open(&folder.0, Missing::Create).unwrap_err().to_string();
        assert!(fault.contains("'revoked'"), "{fault}");
        assert!(!folder.file(MASTER_KEY).exists());
    }

    #[test]
    fn an_imported_string_counts_as_a_token_and_can_be_revoked() {
        let folder = Folder::new();
        let keyring = folder.open();
        for fixed in ["not hexadecimal", "00112233445566778899aabbccddeeff"] {
            assert!(keyring.check(fixed, 0).is_err());
            assert_eq!(keyring.import(fixed, &claims("old")), Ok(true));
            assert_eq!(keyring.import(fixed, &claims("old")), Ok(false));
            assert_eq!(folder.open().check(fixed, 99), Ok(claims("old")));
            assert_eq!(keyring.check(fixed, 100), Err(BadToken::Expired));
        }
        keyring.revoke(label("old")).unwrap();
        assert_eq!(keyring.check("not hexadecimal", 0), Err(BadToken::Revoked));
        assert!(keyring.import("another", &claims("old")).is_err());
    }

    #[test]
    fn readers_beside_two_writers_never_see_half_a_file() {
        let folder = Folder::new();
        let token = folder.open().issue(&claims("gate")).unwrap();
        std::thread::scope(|scope| {
            let writers = ["a", "b"].map(|who| {
                let keyring = folder.open();
                scope.spawn(move || (0..40).for_each(|i| assert_eq!(keyring.revoke(label(&format!("{who}{i}"))), Ok(true))))
            });
            let reader = folder.open();
            while !writers.iter().all(|writer| writer.is_finished()) {
                reader.reload();
                assert_eq!(reader.check(&token, 0), Ok(claims("gate")));
            }
        });
        assert_eq!(folder.open().revoked().unwrap().labels().count(), 80);
    }
}
