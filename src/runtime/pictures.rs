//! The pictures of the door log: each a file of its own in the data folder, written by a thread that nobody waits for (Protocol §7).
//!
//! A file is named `<entry>.<service time, ms>.<ending>`: how old it is does not go by a clock that steps. The files that are there
//! are the truth; what the log shows of them is looked up in an index of their names. They are bounded in bytes and in age, oldest
//! first. A disk that is full or slow costs pictures and nothing else.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::limits::DOOR_PICTURES_QUEUED_MAX;
use crate::protocol::room::{RoomFrame, sniff_image};

/// Their folder in the data folder.
const FOLDER: &str = "pictures";
/// The ending of a file that is being written.
const UNFINISHED: &str = "new";
/// A file takes whole blocks of the disk; so many bytes each count at least.
const BLOCK_BYTES: u64 = 4_096;
/// Space on the disk that pictures leave to the database, which has more need of it.
const SPARED_BYTES: u64 = 256 << 20;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Since the opening, by service time.
    pub life: Duration,
}

/// A picture as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPicture {
    /// Of its bytes.
    pub content_type: &'static str,
    /// The image.
    pub bytes: Bytes,
}

/// The pictures of the door log.
#[derive(Debug)]
pub struct DoorPictures {
    index: Arc<Index>,
    jobs: SyncSender<Job>,
}

#[derive(Debug)]
struct Index {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bounds: Bounds,
    /// By the entry's id: oldest first.
    pictures: BTreeMap<u64, Place>,
    /// Bytes of the files.
    bytes: u64,
}

/// Where a picture is.
#[derive(Debug, Clone)]
enum Place {
    /// In memory, until it is written.
    Queued(Bytes),
    /// In a file.
    Filed { name: Box<str>, service: u64, bytes: u64 },
}

enum Job {
    Write { id: u64, picture: Bytes, service: u64 },
    Sweep { service: u64 },
}

impl DoorPictures {
    /// Looks what is there, and starts the thread that writes.
    ///
    /// # Errors
    /// If the folder can't be made or read, or the system gives no thread.
    pub fn open(data: &Path, bounds: Bounds) -> io::Result<DoorPictures> {
        let folder = data.join(FOLDER);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let index = Arc::new(Index::load(folder, bounds)?);
        let (jobs, queue) = sync_channel(DOOR_PICTURES_QUEUED_MAX);
        let writing = Arc::clone(&index);
        thread::Builder::new().name("pictures".into()).spawn(move || writing.work(&queue))?;
        Ok(DoorPictures { index, jobs })
    }

    /// From now on so much is kept.
    pub fn reconfigure(&self, bounds: Bounds) {
        self.index.state().bounds = bounds;
    }

    /// Keeps a picture for an entry of the door log. Never waits: with too many waiting it is left out, and the log says so.
    pub(super) fn keep(&self, id: u64, picture: RoomFrame, service: u64) {
        let picture = picture.payload;
        // Before the job, so that whoever looks the entry up finds it.
        self.index.state().pictures.insert(id, Place::Queued(picture.clone()));
        if self.jobs.try_send(Job::Write { id, picture, service }).is_err() {
            self.index.state().pictures.remove(&id);
            log::warn!("door_picture_dropped id={id} reason=\"{DOOR_PICTURES_QUEUED_MAX} are waiting to be written\"");
        }
    }

    /// Forgets what is too old or too much.
    pub(super) fn sweep(&self, service: u64) {
        // Full: each picture that is written sweeps too.
        let _ = self.jobs.try_send(Job::Sweep { service });
    }

    /// Whether the entry has a picture.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.index.state().pictures.contains_key(&id)
    }

    /// The picture of an entry; `None`: it has none, or no longer. It reads a file: not for a thread that serves.
    #[must_use]
    pub fn read(&self, id: u64) -> Option<KeptPicture> {
        let place = self.index.state().pictures.get(&id).cloned()?;
        let bytes = match place {
            Place::Queued(bytes) => bytes,
            Place::Filed { name, .. } => fs::read(self.index.folder.join(&*name)).ok()?.into(),
        };
        Some(KeptPicture { content_type: sniff_image(&bytes).unwrap_or("application/octet-stream"), bytes })
    }
}

impl Index {
    fn load(folder: PathBuf, bounds: Bounds) -> io::Result<Index> {
        let mut state = State { bounds, pictures: BTreeMap::new(), bytes: 0 };
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match parse(&name) {
                Some((id, service)) => state.add(id, &name, service, entry.metadata()?.len()),
                None if name.ends_with(UNFINISHED) => fs::remove_file(entry.path())?,
                None => {}
            }
        }
        Ok(Index { folder, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's body: until nobody can ask any more.
    fn work(&self, jobs: &Receiver<Job>) {
        let mut fails = false;
        while let Ok(job) = jobs.recv() {
            let service = match job {
                Job::Sweep { service } => service,
                Job::Write { id, picture, service } => {
                    let name = format!("{id}.{service}.{}", ending(&picture));
                    let written = self.write(&name, &picture);
                    let mut state = self.state();
                    state.pictures.remove(&id);
                    match &written {
                        Ok(()) => state.add(id, &name, service, picture.len() as u64),
                        // Once, not for every opening as long as it lasts.
                        Err(error) if !fails => log::warn!("door_picture_dropped id={id} reason=\"{error}\""),
                        Err(_) => {}
                    }
                    fails = written.is_err();
                    service
                }
            };
            self.sweep(service);
        }
    }

    /// Written whole under another name and renamed: a file that is there is whole.
    fn write(&self, name: &str, picture: &[u8]) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < SPARED_BYTES + picture.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let unfinished = self.folder.join(format!("{name}.{UNFINISHED}"));
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
        let result = opened.and_then(|mut file| {
            file.write_all(picture)?;
            file.sync_data()?;
            fs::rename(&unfinished, self.folder.join(name))
        });
        if result.is_err() {
            // What there is of it takes space that others need; it may not even be there.
            let _ = fs::remove_file(&unfinished);
        }
        result
    }

    fn sweep(&self, service: u64) {
        while let Some(name) = self.state().take_first(service) {
            if let Err(error) = fs::remove_file(self.folder.join(&*name))
                && error.kind() != io::ErrorKind::NotFound
            {
                log::warn!("door_picture_not_removed file={name} reason=\"{error}\"");
            }
        }
    }
}

impl State {
    fn add(&mut self, id: u64, name: &str, service: u64, bytes: u64) {
        let bytes = bytes.next_multiple_of(BLOCK_BYTES);
        self.bytes += bytes;
        self.pictures.insert(id, Place::Filed { name: name.into(), service, bytes });
    }

    /// Takes out the oldest file if it is too old, or all are too many.
    fn take_first(&mut self, now: u64) -> Option<Box<str>> {
        let filed = self.pictures.iter().find_map(|(id, place)| match place {
            Place::Filed { name, service, bytes } => Some((*id, name.clone(), *service, *bytes)),
            Place::Queued(_) => None,
        });
        let (id, name, service, bytes) = filed?;
        let is_old = now.saturating_sub(service) >= self.bounds.life.as_millis() as u64;
        if !is_old && self.bytes <= self.bounds.bytes {
            return None;
        }
        self.pictures.remove(&id);
        self.bytes -= bytes;
        Some(name)
    }
}

fn ending(picture: &[u8]) -> &'static str {
    sniff_image(picture).and_then(|name| name.strip_prefix("image/")).unwrap_or("bin")
}

/// The entry and the service time in a file's name.
fn parse(name: &str) -> Option<(u64, u64)> {
    let mut parts = name.split('.');
    let (id, service, ending) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    (parts.next().is_none() && ending != UNFINISHED).then_some((id, service))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const JPEG: &[u8] = b"\xff\xd8\xff\xe0 picture";

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("porter-pictures-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        fn open(&self, bytes: u64) -> DoorPictures {
            DoorPictures::open(&self.0, Bounds { bytes, life: Duration::from_secs(30 * 86_400) }).unwrap()
        }

        fn files(&self) -> Vec<String> {
            let names = fs::read_dir(self.0.join(FOLDER)).unwrap();
            let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn frame(bytes: &[u8]) -> RoomFrame {
        RoomFrame { is_text: false, payload: Bytes::copy_from_slice(bytes), image: None }
    }

    #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
    fn until(mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < end, "it did not happen");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn pictures_are_files_that_a_restart_finds() {
        let scratch = Scratch::new("restart");
        let pictures = scratch.open(1 << 30);
        pictures.keep(7, frame(JPEG), 1_000);
        pictures.keep(8, frame(b"something else"), 2_000);
        assert!(pictures.has(7) && pictures.has(8) && !pictures.has(9));
        assert_eq!(pictures.read(7).unwrap().bytes, JPEG, "also before it is written");
        until(|| scratch.files() == ["7.1000.jpeg", "8.2000.bin"]);
        drop(pictures);
        fs::write(scratch.0.join(FOLDER).join("9.1.jpeg.new"), "half").unwrap();
        fs::write(scratch.0.join(FOLDER).join("notes.txt"), "mine").unwrap();
        let pictures = scratch.open(1 << 30);
        assert_eq!(pictures.read(7), Some(KeptPicture { content_type: "image/jpeg", bytes: JPEG.into() }));
        assert_eq!(pictures.read(8).unwrap().content_type, "application/octet-stream");
        assert_eq!(pictures.read(9), None);
        assert_eq!(scratch.files(), ["7.1000.jpeg", "8.2000.bin", "notes.txt"]);
    }

    #[test]
    fn the_oldest_go_when_all_are_too_many_or_too_old() {
        let scratch = Scratch::new("bounds");
        let pictures = scratch.open(3 * BLOCK_BYTES);
        for id in 1..=5 {
            pictures.keep(id, frame(JPEG), id * 1_000);
        }
        until(|| scratch.files() == ["3.3000.jpeg", "4.4000.jpeg", "5.5000.jpeg"]);
        assert!(!pictures.has(2) && pictures.has(3));
        pictures.sweep(30 * DAY_MS + 3_999);
        until(|| scratch.files() == ["4.4000.jpeg", "5.5000.jpeg"]);
        pictures.reconfigure(Bounds { bytes: BLOCK_BYTES, life: Duration::from_secs(86_400) });
        pictures.sweep(0);
        until(|| scratch.files() == ["5.5000.jpeg"]);
    }

    #[test]
    fn what_can_t_be_written_is_left_out() {
        let scratch = Scratch::new("failing");
        let pictures = scratch.open(1 << 30);
        fs::remove_dir_all(scratch.0.join(FOLDER)).unwrap();
        fs::write(scratch.0.join(FOLDER), "in the way").unwrap();
        pictures.keep(1, frame(JPEG), 1);
        until(|| !pictures.has(1));
        fs::remove_file(scratch.0.join(FOLDER)).unwrap();
        fs::create_dir(scratch.0.join(FOLDER)).unwrap();
        pictures.keep(2, frame(JPEG), 1);
        until(|| scratch.files() == ["2.1.jpeg"]);
    }
}
