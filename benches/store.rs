//! The store's hot paths: real transactions in a real folder, synced. Times are the disk's as much as ours; instructions are ours.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark that can't go on has failed, and speaks")]

mod micro;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use micro::Workload;
use porter::hub::storage::{AliasId, AliasRecord, Batch, Change, Outcome, Owed, PageRequest, Restored, Stamp};
use porter::names::{Alias, Few, Mid};
use porter::protocol::frame::Message;
use porter::store::{Answer, Options, Store, StoreHandle};

/// Answers that may wait: one batch is under way at a time.
const ANSWERS_MAX: usize = 16;
/// A small reserve is quickly written.
const RESERVE_BYTES: u64 = 64 << 10;
/// Messages in a page.
const PAGE: u64 = 100;

fn main() -> ExitCode {
    micro::main(&[
        Workload { name: "commit-1", run: |size| commit(size, 1), size: 2_000 },
        Workload { name: "commit-256", run: |size| commit(size, 256), size: 200_000 },
        Workload { name: "commit-4096", run: |size| commit(size, 4_096), size: 400_000 },
        Workload { name: "commit-and-delete-256", run: commit_and_delete, size: 200_000 },
        Workload { name: "read-page", run: read_pages, size: 200_000 },
        Workload { name: "load", run: load, size: 200_000 },
    ])
}

/// A store in a folder of its own, which goes with it.
struct Scene {
    folder: PathBuf,
    store: Option<StoreHandle>,
    answers: Receiver<Answer>,
    batches: u64,
}

impl Scene {
    fn new() -> Scene {
        let folder = std::env::temp_dir().join(format!("porter-bench-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Scene::open(folder, &mut |_| {})
    }

    fn open(folder: PathBuf, take: &mut dyn FnMut(Restored)) -> Scene {
        let options = Options { reserve_bytes: RESERVE_BYTES, ..Options::new(folder.join("data"), || 1, || 1) };
        let mut store = Store::open(&options).unwrap();
        assert!(store.load(take), "a whole database can be read");
        let (tell, answers) = sync_channel(ANSWERS_MAX);
        let store = store.start(Arc::new(move |answer| tell.send(answer).unwrap()), Box::new(|_, _| ())).unwrap();
        Scene { folder, store: Some(store), answers, batches: 0 }
    }

    fn commit(&mut self, changes: Vec<Change>) {
        self.batches += 1;
        let batch = Batch { number: self.batches, stamp: Stamp { service: 1, wall: 1 }, next_alias: AliasId(2_000), changes };
        self.store.as_ref().unwrap().commit(Arc::new(batch)).unwrap();
        let Answer::Batch { outcome, .. } = self.answers.recv().unwrap() else { panic!("not a batch") };
        assert_eq!(outcome, Outcome::Committed { refused: Vec::new(), storing: true });
    }

    /// Closes the store and keeps the folder.
    fn close(&mut self) {
        self.store.take().unwrap().close();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            store.close();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn save(mid: u64) -> Change {
    let body = format!("\"{}\"", "x".repeat(100)).into();
    let message =
        Message { mid: Mid::new(mid), ts: 1, expires: u64::MAX >> 1, topics: Box::from([]), receipt: false, publisher: None, body };
    Change::SaveMessage { message: Arc::new(message), receivers: Few::One(Owed { alias: AliasId(1 + mid % 1_000), topic: None }) }
}

fn aliases() -> Vec<Change> {
    let record = |id| AliasRecord {
        id: AliasId(id),
        name: Alias::new(&format!("door-{id}")).unwrap(),
        first_seen: 1,
        last_seen: 1,
        last_seen_service: 1,
        transport: None,
        info: None,
    };
    (1..=1_000).map(|id| Change::SaveAlias(record(id))).collect()
}

/// Messages to 1,000 aliases, so many a transaction.
fn commit(size: u64, each: u64) {
    let mut scene = Scene::new();
    scene.commit(aliases());
    for begin in (1..=size).step_by(each as usize) {
        scene.commit((begin..(begin + each).min(size + 1)).map(save).collect());
    }
}

/// Each transaction also deletes what the one before saved: receivers that come back soon.
fn commit_and_delete(size: u64) {
    let mut scene = Scene::new();
    scene.commit(aliases());
    let mut before: Vec<Change> = Vec::new();
    for begin in (1..=size).step_by(256) {
        let mids = begin..(begin + 256).min(size + 1);
        let mut changes = std::mem::replace(&mut before, mids.clone().map(|mid| Change::DeleteMessage(Mid::new(mid))).collect());
        changes.extend(mids.map(save));
        scene.commit(changes);
    }
}

/// Pages of what waits, each read once.
fn read_pages(size: u64) {
    let mut scene = Scene::new();
    scene.commit(aliases());
    for begin in (1..=size).step_by(4_096) {
        scene.commit((begin..(begin + 4_096).min(size + 1)).map(save).collect());
    }
    for begin in (1..=size).step_by(PAGE as usize) {
        let mids: Vec<Mid> = (begin..(begin + PAGE).min(size + 1)).map(Mid::new).collect();
        let expected = mids.len();
        scene.store.as_ref().unwrap().read(PageRequest { ticket: begin, mids }).unwrap();
        let Answer::Page { page, .. } = scene.answers.recv().unwrap() else { panic!("not a page") };
        assert_eq!(page.unwrap().len(), expected);
    }
}

/// What the start reads, after it was written.
fn load(size: u64) {
    let mut scene = Scene::new();
    scene.commit(aliases());
    for begin in (1..=size).step_by(4_096) {
        scene.commit((begin..(begin + 4_096).min(size + 1)).map(save).collect());
    }
    scene.close();
    let mut loaded = 0;
    let folder = scene.folder.clone();
    let again = Scene::open(folder, &mut |restored| loaded += u64::from(matches!(restored, Restored::Message { .. })));
    assert_eq!(loaded, size);
    drop(again);
}
