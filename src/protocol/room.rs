//! WebSocket rooms as paths and codes (Protocol §9): `/{r}/{d}` and `/{r}/{d}/{device}` to kind, room and place.
//!
//! It knows no members and no frames' contents; what an image is it tells by its first bytes.

use std::sync::Arc;

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::limits::NAME_BYTES_MAX;
use crate::names::RoomName;

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoomKind {
    /// A caller and a callee, each to the other.
    OneToOne,
    /// `capture-…`: doors to all phones, a phone to all doors.
    OneToMany,
    /// `group-…`: each to all others.
    ManyToMany,
}

/// The `d` of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// 0: a door; in a one-to-one room the caller.
    Door,
    /// 1: a phone; in a one-to-one room the callee.
    Phone,
}

/// What tells one room from all others. Rooms of two kinds may have the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomKey {
    /// Its kind.
    pub kind: RoomKind,
    /// Its name.
    pub name: RoomName,
}

/// A path that names a room and a place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomPath {
    /// Which room.
    pub key: RoomKey,
    /// Which place.
    pub place: Place,
}

/// One frame on its way through a room: shared by all who get it, never copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomFrame {
    /// Text, which is UTF-8; else binary.
    pub is_text: bool,
    /// What it holds.
    pub payload: Bytes,
    /// The content type of a picture that was posted with one.
    pub image: Option<Arc<str>>,
}

impl RoomFrame {
    /// The content type of a picture: the one it was posted with, else by its first bytes.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.image.as_deref().or_else(|| sniff_image(&self.payload)).unwrap_or("application/octet-stream")
    }
}

/// What a one-to-many room's name begins with.
const CAPTURE: &str = "capture-";
/// What a many-to-many room's name begins with.
const GROUP: &str = "group-";

/// Close codes of Protocol §9 beside those of the standard.
pub mod close_code {
    /// The server ends.
    pub const SHUTDOWN: u16 = 1001;
    /// It takes nothing, or not enough.
    pub const OVERLOADED: u16 = 1013;
    /// The path names no room.
    pub const BAD_PATH: u16 = 4000;
    /// It did not answer, and another has its place.
    pub const REPLACED: u16 = 4001;
    /// Its token does not let it in, or no longer.
    pub const FORBIDDEN: u16 = 4003;
    /// The place is taken.
    pub const BUSY: u16 = 4009;
}

impl RoomPath {
    /// Reads a path, still percent-encoded. `None`: it names no room.
    #[must_use]
    pub fn parse(path: &str) -> Option<RoomPath> {
        let mut segments = path.strip_prefix('/')?.split('/');
        let (room, place, device) = (segments.next()?, segments.next()?, segments.next());
        if segments.next().is_some() {
            return None;
        }
        let name = RoomName::new(&decoded(room)?).ok()?;
        let place = match place {
            "0" => Place::Door,
            "1" => Place::Phone,
            _ => return None,
        };
        let kind = match device {
            Some(device) => {
                decoded(device).filter(|device| !device.is_empty())?;
                RoomKind::OneToOne
            }
            None if name.as_str().starts_with(CAPTURE) => RoomKind::OneToMany,
            None if name.as_str().starts_with(GROUP) => RoomKind::ManyToMany,
            None => return None,
        };
        Some(RoomPath { key: RoomKey { kind, name }, place })
    }
}

/// A segment as text, if it may be a name. One that is too long even encoded is not decoded.
fn decoded(segment: &str) -> Option<String> {
    if segment.len() > 3 * NAME_BYTES_MAX {
        return None;
    }
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    (text.len() <= NAME_BYTES_MAX).then(|| text.into_owned())
}

/// The content type of an image, by its first bytes; `None`: of no known kind.
#[must_use]
pub fn sniff_image(bytes: &[u8]) -> Option<&'static str> {
    let riff = bytes.len() >= 12 && bytes.starts_with(b"RIFF") && &bytes[8..12] == b"WEBP";
    IMAGES.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, name)| *name).or(riff.then_some("image/webp"))
}

const IMAGES: [(&[u8], &str); 5] = [
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
];

/// A content type that a picture may keep: `image/` and a plain word, without parameters. SVG is none: it can hold scripts.
#[must_use]
pub fn image_type(text: &str) -> Option<&str> {
    let (name, _) = text.split_once(';').unwrap_or((text, ""));
    let name = name.trim();
    let word = name.get(..6).filter(|kind| kind.eq_ignore_ascii_case("image/")).map(|_| &name[6..])?;
    let is_plain = !word.is_empty() && word.len() <= 32 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.+".contains(&b));
    (is_plain && !word.to_ascii_lowercase().starts_with("svg")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Option<(RoomKind, String, Place)> {
        RoomPath::parse(path).map(|path| (path.key.kind, path.key.name.as_str().to_owned(), path.place))
    }

    #[test]
    fn paths_name_kind_room_and_place() {
        for (path, kind, name, place) in [
            ("/capture-3/0", RoomKind::OneToMany, "capture-3", Place::Door),
            ("/capture-3/1", RoomKind::OneToMany, "capture-3", Place::Phone),
            ("/capture-/1", RoomKind::OneToMany, "capture-", Place::Phone),
            ("/group-x/0", RoomKind::ManyToMany, "group-x", Place::Door),
            ("/3-1/0/android", RoomKind::OneToOne, "3-1", Place::Door),
            ("/3-1/1/ios", RoomKind::OneToOne, "3-1", Place::Phone),
            ("/capture-3/1/web", RoomKind::OneToOne, "capture-3", Place::Phone),
            ("/%E9%97%A8%2F3/0/a%20b", RoomKind::OneToOne, "门/3", Place::Door),
            ("/%67roup-x/1", RoomKind::ManyToMany, "group-x", Place::Phone),
            ("/%3Cscript%3E/1/x", RoomKind::OneToOne, "<script>", Place::Phone),
        ] {
            assert_eq!(read(path), Some((kind, name.to_owned(), place)), "{path}");
        }
        let longest = "%E9%97%A8".repeat(42);
        assert!(read(&format!("/{longest}/0/{longest}")).is_some());
    }

    #[test]
    fn what_names_no_room_is_none() {
        let long = "a".repeat(129);
        let huge = "%61".repeat(10_000);
        for path in [
            "/",
            "",
            "x",
            "//0/a",
            "/a",
            "/a/0",
            "/a/2/b",
            "/capture-3/2",
            "/capture-3/",
            "/capture-3",
            "/capture-3/00",
            "/a/0/",
            "/a/0/b/",
            "/a/0/b/c",
            "/group/0",
            "/Capture-3/0",
            "/a%00/0/b",
            "/a%1b[2J/0/b",
            "/%ff/0/b",
            "/a/0/%ff",
            "/%C2%85/0/b",
            &format!("/{long}/0/a"),
            &format!("/a/0/{long}"),
            &format!("/capture-{huge}/0"),
            &format!("/a/0/{huge}"),
        ] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    #[test]
    fn images_are_known_by_their_first_bytes() {
        for (bytes, name) in [
            (&b"\xff\xd8\xff\xe0..JFIF"[..], Some("image/jpeg")),
            (b"\x89PNG\r\n\x1a\n...", Some("image/png")),
            (b"GIF89a...", Some("image/gif")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"BM....", Some("image/bmp")),
            (b"<html>", None),
            (b"\xff\xd8", None),
            (b"", None),
        ] {
            assert_eq!(sniff_image(bytes), name, "{bytes:?}");
        }
    }

    #[test]
    fn only_types_of_images_without_scripts_are_kept() {
        for (text, kept) in [
            ("image/jpeg", Some("image/jpeg")),
            ("Image/X-Own; q=1", Some("Image/X-Own")),
            ("image/svg+xml", None),
            ("IMAGE/SVG", None),
            ("text/html", None),
            ("image/", None),
            ("image/a b", None),
            ("image", None),
            ("", None),
            ("门门门", None),
        ] {
            assert_eq!(image_type(text), kept, "{text}");
        }
    }
}
