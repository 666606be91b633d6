//! The disk below the data folder: its kind, its space, how long a sync takes, and what can be known of whether it lies about it.
//!
//! No program can prove that a disk keeps what it says it has synced; only a power cut shows it. What can be seen: a file system
//! or a mount option that drops syncs, what the kernel believes of the disk's cache, and a sync faster than any flash chip.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Findings, Mend, nearest_there, quoted};
use crate::limits::RESERVE_BYTES;
use crate::runtime::clock;

/// Writes that are measured at most, and for how long.
const SYNCS_MAX: usize = 200;
const SYNCS_WAIT: Duration = Duration::from_secs(2);
/// Bytes of one of them: a page of the database.
const PAGE_BYTES: usize = 4_096;
/// The file that they go to, and the pages of it: it is overwritten, as the database's log is.
const FILE: &str = "check.tmp";
const PAGES: usize = 64;
/// A sync faster than this, µs, has waited for no flash chip: writing one takes longer.
const SUSPECT_US: u64 = 50;
/// A sync slower than this, µs, is what each publish waits for.
const SLOW_US: u64 = 20_000;
/// Free space below which it is time to look, in bytes.
const SPACE_LOW: u64 = 512 << 20;
/// Free space below which the server may soon not store, in bytes.
const SPACE_OUT: u64 = 64 << 20;

pub(super) fn look(folder: &Path, findings: &mut Findings) {
    let place = nearest_there(folder);
    space(folder, &place, findings);
    kind(&place, findings);
    let mount = fs::canonicalize(&place).ok().and_then(|place| Mount::of(&fs::read_to_string("/proc/self/mountinfo").ok()?, &place));
    if let Some(mount) = &mount {
        options(mount, findings);
    }
    let device = mount.as_ref().and_then(Device::below);
    match measure(&place) {
        Ok(syncs) => findings.0.push(judge(&syncs, device.as_ref())),
        Err(error) => {
            let text = format!("syncs can't be measured in {}: {error}", place.display());
            findings.warning("sync", text, Mend::Do("run this as the account that the server runs under".to_owned()));
        }
    }
    if let Some(device) = &device {
        cache(device, findings);
    }
}

fn space(folder: &Path, place: &Path, findings: &mut Findings) {
    let Ok(system) = rustix::fs::statvfs(place) else { return };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let megabytes = free >> 20;
    let mend = || Mend::Do(format!("free some space; what is large: sudo du -xh {} | sort -h | tail", quoted(&mount_of(place))));
    let is_held = fs::metadata(folder.join("reserve")).is_ok_and(|reserve| reserve.len() == RESERVE_BYTES);
    if folder.join("porter.db").exists() && !is_held && free < RESERVE_BYTES + SPACE_OUT {
        let text = format!("{megabytes} MB are free, and the reserve of {} MB is given up: nothing is stored", RESERVE_BYTES >> 20);
        findings.wrong("space", text, mend());
    } else if free < SPACE_OUT {
        findings.wrong("space", format!("{megabytes} MB are free: soon nothing can be stored"), mend());
    } else if free < SPACE_LOW {
        findings.warning("space", format!("{megabytes} MB are free"), mend());
    } else {
        findings.ok("space", format!("{megabytes} MB are free"));
    }
}

fn mount_of(place: &Path) -> PathBuf {
    let found = fs::read_to_string("/proc/self/mountinfo").ok().and_then(|table| Mount::of(&table, place));
    found.map_or_else(|| PathBuf::from("/"), |mount| mount.point)
}

/// File systems by the kernel's number for them, and what is wrong with those that can't keep a promise.
const KINDS: &[(u64, &str, Option<&str>)] = &[
    (0x0000_ef53, "ext4", None),
    (0x5846_5342, "XFS", None),
    (0x9123_683e, "Btrfs", None),
    (0xf2f5_2010, "F2FS", None),
    (0x2fc1_2fc1, "ZFS", None),
    (0x0102_1994, "tmpfs", Some("it is memory: all is gone when the power is")),
    (0x8584_58f6, "ramfs", Some("it is memory: all is gone when the power is")),
    (0x0000_6969, "NFS", Some("a network share: locks and syncs can't be relied on")),
    (0xff53_4d42, "CIFS", Some("a network share: locks and syncs can't be relied on")),
    (0xfe53_4d42, "SMB", Some("a network share: locks and syncs can't be relied on")),
    (0x0102_1997, "9p", Some("a share of another machine: locks and syncs can't be relied on")),
    (0x6573_5546, "FUSE", Some("a program stands for the disk: locks and syncs can't be relied on")),
    (0x794c_7630, "overlay", Some("a container's own layer: all is gone with the container")),
    (0x0000_4d44, "FAT", Some("it has no owners and no journal")),
    (0x2011_bab0, "exFAT", Some("it has no owners and no journal")),
];

fn kind(place: &Path, findings: &mut Findings) {
    let Ok(system) = rustix::fs::statfs(place) else { return };
    let number = u64::try_from(system.f_type).unwrap_or_default();
    match KINDS.iter().find(|(known, ..)| *known == number) {
        Some((_, name, None)) => findings.ok("file system", *name),
        Some((_, name, Some(why))) => {
            let mend =
                "set data_dir to a folder on a local disk, in a container a volume; copy the data folder there while porter is stopped";
            findings.wrong("file system", format!("{name}: {why}"), Mend::Do(mend.to_owned()));
        }
        None => findings.ok("file system", format!("of kind {number:#x}, of which nothing is known here")),
    }
}

/// A line of the kernel's list of mounts.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    /// `major:minor` of the device.
    device: String,
    /// Such as `/dev/sda2`.
    source: String,
    options: Vec<String>,
}

impl Mount {
    /// The mount that a folder is on: the deepest, of several at one place the last.
    fn of(table: &str, place: &Path) -> Option<Mount> {
        let mounts = table.lines().filter_map(Mount::read).filter(|mount| place.starts_with(&mount.point));
        mounts.max_by_key(|mount| mount.point.components().count())
    }

    /// `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`: optional fields end at the dash.
    fn read(line: &str) -> Option<Mount> {
        let (front, back) = line.split_once(" - ")?;
        let (front, back): (Vec<&str>, Vec<&str>) = (front.split(' ').collect(), back.split(' ').collect());
        let options = front.get(5)?.split(',').chain(back.get(2)?.split(',')).map(ToOwned::to_owned).collect();
        Some(Mount {
            point: unescaped(front.get(4)?).into(),
            device: (*front.get(2)?).to_owned(),
            source: unescaped(back.get(1)?),
            options,
        })
    }
}

/// The list writes spaces and the like as three octal digits.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, c)| text.replace(code, c))
}

fn options(mount: &Mount, findings: &mut Findings) {
    let drops_syncs = |option: &&String| ["nobarrier", "barrier=0"].contains(&option.as_str());
    if let Some(option) = mount.options.iter().find(drops_syncs) {
        let text = format!("{} is mounted with {option}: syncs don't reach the disk. Take it out of /etc/fstab too", mount.point.display());
        findings.wrong("mount", text, Mend::Run(format!("sudo mount -o remount,barrier=1 {}", quoted(&mount.point))));
    }
}

/// The disk, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    name: String,
    /// `write back`: it has a cache of its own, which a sync flushes; `write through`: it is believed to have none.
    cache: String,
}

impl Device {
    fn below(mount: &Mount) -> Option<Device> {
        let by_number = fs::canonicalize(format!("/sys/dev/block/{}", mount.device));
        let by_name = || {
            let device = fs::canonicalize(&mount.source)?;
            fs::canonicalize(Path::new("/sys/class/block").join(device.file_name().unwrap_or_default()))
        };
        let part = by_number.or_else(|_| by_name()).ok()?;
        // A partition's queue is its disk's.
        let disk = [part.as_path(), part.parent()?].into_iter().find(|disk| disk.join("queue/write_cache").exists())?;
        let cache = fs::read_to_string(disk.join("queue/write_cache")).ok()?.trim().to_owned();
        Some(Device { name: disk.file_name()?.to_string_lossy().into_owned(), cache })
    }

    fn is(&self, prefixes: &[&str]) -> bool {
        prefixes.iter().any(|prefix| self.name.starts_with(prefix))
    }
}

/// What the kernel believes of the disk's cache, and what that does not prove.
fn cache(device: &Device, findings: &mut Findings) {
    let Device { name, cache } = device;
    if device.is(&["zram", "ram"]) {
        let mend = "set data_dir to a folder on a real disk; copy the data folder there while porter is stopped";
        return findings.wrong("disk", format!("{name} is memory: all is gone when the power is"), Mend::Do(mend.to_owned()));
    }
    let text = if device.is(&["vd", "xvd"]) {
        format!("{name} is a virtual disk: whether a sync reaches the real one is its host's choice, and can't be seen from here")
    } else if cache == "write back" {
        format!("{name} has a cache of its own, which each sync flushes; whether it obeys only a power cut shows")
    } else {
        format!("the kernel believes that {name} has no cache of its own, so syncs flush none; whether that is so only a power cut shows")
    };
    findings.ok("disk", text);
}

/// Times of single synced writes in µs, ascending; at least one.
fn measure(place: &Path) -> io::Result<Vec<u64>> {
    let path = place.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let measured = time_syncs(&file);
    fs::remove_file(&path)?;
    measured
}

fn time_syncs(file: &File) -> io::Result<Vec<u64>> {
    let page = [0x5a; PAGE_BYTES];
    for at in 0..PAGES {
        file.write_all_at(&page, (at * PAGE_BYTES) as u64)?;
    }
    file.sync_all()?;
    let (begin, mut times) = (clock::mono(), Vec::with_capacity(SYNCS_MAX));
    while times.len() < SYNCS_MAX && (times.is_empty() || begin.elapsed() < SYNCS_WAIT) {
        let before = clock::mono();
        file.write_all_at(&page, (times.len() % PAGES * PAGE_BYTES) as u64)?;
        file.sync_data()?;
        times.push(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    times.sort_unstable();
    Ok(times)
}

/// What the times say of the disk.
fn judge(syncs: &[u64], device: Option<&Device>) -> super::Finding {
    let at = |percent: usize| syncs.get((syncs.len() * percent / 100).min(syncs.len().saturating_sub(1))).copied().unwrap_or_default();
    let (median, slow) = (at(50), at(99));
    let measured = format!("{} writes of 4 KB, each synced: median {median} µs, 99 % within {slow} µs", syncs.len());
    let mut findings = Findings::default();
    // An NVMe disk without a cache of its own has its memory backed by capacitors: that fast and honest.
    let may_be_fast = device.is_some_and(|device| device.is(&["nvme"]) && device.cache == "write through");
    if median < SUSPECT_US && !may_be_fast {
        let text = format!("{measured}: faster than a flash chip can be, so unless it has power-loss protection it lies about syncing");
        let mend = "if it has none, take another disk; in a virtual machine set the disk's cache mode to none or writethrough";
        findings.warning("sync", text, Mend::Do(mend.to_owned()));
    } else if median > SLOW_US {
        let text = format!("{measured}: slow, and each stored message waits so long");
        findings.warning("sync", text, Mend::Do("look for what else writes to it (iostat -x 1); a small SSD is better".to_owned()));
    } else {
        findings.ok("sync", measured);
    }
    findings.0.remove(0)
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn times_of_syncs_are_judged_by_the_disk_they_were_taken_on() {
        let device = |name: &str, cache: &str| Some(Device { name: name.to_owned(), cache: cache.to_owned() });
        for (median, device, grade) in [
            (10, None, Grade::Warning),
            (10, device("sda", "write back"), Grade::Warning),
            (10, device("nvme0n1", "write back"), Grade::Warning),
            (10, device("nvme0n1", "write through"), Grade::Ok),
            (200, device("vda", "write back"), Grade::Ok),
            (9_000, device("sda", "write back"), Grade::Ok),
            (90_000, device("mmcblk0", "write through"), Grade::Warning),
        ] {
            let finding = judge(&[median, median, median, 1_000_000], device.as_ref());
            assert_eq!((finding.grade, finding.what), (grade, "sync"), "{median} {device:?}");
            assert!(finding.text.contains("99 % within 1000000 µs"), "{}", finding.text);
        }
    }

    #[test]
    fn the_deepest_mount_is_found_with_its_options() {
        let table = "1 0 254:0 / / rw,relatime - ext4 /dev/vda rw,errors=remount-ro\n\
                     2 1 8:2 / /var/lib\\040x rw shared:3 master:4 - ext4 /dev/sda2 rw,nobarrier\n\
                     3 1 0:40 / /var tmpfs - tmpfs none rw\n";
        let mount = Mount::of(table, Path::new("/var/lib x/porter")).unwrap();
        assert_eq!((mount.device.as_str(), mount.source.as_str()), ("8:2", "/dev/sda2"));
        let mut findings = Findings::default();
        options(&mount, &mut findings);
        assert_eq!(findings.0[0].mend, Some(Mend::Run("sudo mount -o remount,barrier=1 '/var/lib x'".to_owned())));
        assert_eq!(Mount::of(table, Path::new("/home")).unwrap().device, "254:0");
        options(&Mount::of(table, Path::new("/home")).unwrap(), &mut findings);
        assert_eq!(findings.0.len(), 1);
    }

    #[test]
    fn disks_that_are_memory_are_found() {
        for (name, cache, grade) in
            [("zram0", "write back", Grade::Wrong), ("sda", "write back", Grade::Ok), ("vda", "write through", Grade::Ok)]
        {
            let mut findings = Findings::default();
            super::cache(&Device { name: name.to_owned(), cache: cache.to_owned() }, &mut findings);
            assert_eq!(findings.0[0].grade, grade, "{name}");
        }
    }
}
