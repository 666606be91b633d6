//! The door log as REST shows it (Protocol §10): which part is asked for, and its entries as JSON and as CSV.
//!
//! Names in it come from whoever opened a door. In JSON they are strings; in CSV a cell that a spreadsheet would take for a formula
//! is made harmless.

use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::names::RoomName;
use crate::protocol::http::refusal::HttpRefusal;
use crate::protocol::refusal::Code;
use crate::runtime::clock;
use crate::runtime::handle::{DoorLogPart, ShownDoor};
use crate::server::rest::page::{self, Page};

/// In which form a page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Csv,
}

#[derive(Serialize)]
struct DoorPage<'a> {
    total: u64,
    list: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: String,
    at: u64,
    r: &'a str,
    u: &'a str,
    by: Opener<'a>,
    doors: u32,
    ok: Option<bool>,
    reason: Option<&'a str>,
    /// Where its picture is, to which the token is to be added.
    picture: Option<String>,
}

#[derive(Serialize)]
struct Opener<'a> {
    alias: &'a str,
    label: &'a str,
    address: &'a str,
}

/// What is asked for: `from`, `to`, `r`, `size` and `format` of the query; of each the last counts.
///
/// # Errors
/// `bad_field`: a time that is not digits, a room that can't be one, an unknown format, or what [`Page::read`] refuses.
pub(super) fn read(number: &str, query: Option<&str>, first: u64) -> Result<(DoorLogPart, Form), HttpRefusal> {
    let Page { from: skip, size } = Page::read(number, query, first)?;
    let time = |name: &'static str, otherwise: u64| match parameter(query, name) {
        None => Ok(otherwise),
        Some(text) => page::digits(text).ok_or(HttpRefusal::new(Code::BadField, name)),
    };
    let (from, to) = (time("from", 0)?, time("to", u64::MAX)?);
    const BAD_ROOM: HttpRefusal = HttpRefusal::new(Code::BadField, "r");
    let room = match parameter(query, "r") {
        None => None,
        Some(text) => {
            let text = percent_decode_str(text).decode_utf8().map_err(|_| BAD_ROOM)?;
            Some(RoomName::new(&text).map_err(|_| BAD_ROOM)?)
        }
    };
    let form = match parameter(query, "format") {
        None | Some("json") => Form::Json,
        Some("csv") => Form::Csv,
        Some(_) => return Err(HttpRefusal::new(Code::BadField, "format")),
    };
    Ok((DoorLogPart { from, to, room, skip, count: size }, form))
}

fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
}

/// The page as JSON.
pub(super) fn json(total: u64, doors: &[ShownDoor]) -> Vec<u8> {
    super::answers::json(&DoorPage { total, list: doors.iter().map(entry).collect() })
}

fn entry(door: &ShownDoor) -> Entry<'_> {
    Entry {
        id: door.id.to_string(),
        at: door.at,
        r: &door.room,
        u: &door.user,
        by: Opener { alias: &door.alias, label: &door.label, address: &door.address },
        doors: door.doors,
        ok: door.ok,
        reason: door.reason.as_deref(),
        picture: picture(door),
    }
}

fn picture(door: &ShownDoor) -> Option<String> {
    door.has_picture.then(|| format!("/info/doorPicture/{}", door.id))
}

/// The page as CSV (RFC 4180), with a byte order mark, without which spreadsheets take it for another encoding.
pub(super) fn csv(doors: &[ShownDoor]) -> Vec<u8> {
    let mut text = "\u{feff}id,at,r,u,alias,label,address,doors,ok,reason,picture\r\n".to_owned();
    for door in doors {
        let ok = door.ok.map(|ok| ok.to_string()).unwrap_or_default();
        let cells = [
            &door.id.to_string(),
            &clock::utc_text(door.at),
            &*door.room,
            &door.user,
            &door.alias,
            &door.label,
            &door.address,
            &door.doors.to_string(),
            &ok,
            door.reason.as_deref().unwrap_or_default(),
            &picture(door).unwrap_or_default(),
        ];
        text += &cells.map(cell).join(",");
        text += "\r\n";
    }
    text.into_bytes()
}

/// One cell: what begins like a formula gets an apostrophe before it (Protocol §10), what could end the cell is quoted.
fn cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if text.contains([',', '"', '\r', '\n']) { format!("\"{guard}{}\"", text.replace('"', "\"\"")) } else { format!("{guard}{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> ShownDoor {
        ShownDoor {
            id: 1 << 60,
            at: 1_000,
            room: "capture-1".into(),
            user: "=cmd|'/c calc'!A1".into(),
            alias: "@ann".into(),
            label: "a,\"b\"".into(),
            address: "10.0.0.1".into(),
            doors: 2,
            ok: Some(false),
            reason: Some("-jammed\nby a <script>".into()),
            has_picture: true,
        }
    }

    #[test]
    fn entries_have_the_members_of_the_protocol_in_its_order() {
        let text = String::from_utf8(json(7, &[ShownDoor { ok: None, reason: None, has_picture: false, ..door() }, door()])).unwrap();
        assert_eq!(
            text,
            r#"{"total":7,"list":[{"id":"1152921504606846976","at":1000,"r":"capture-1","u":"=cmd|'/c calc'!A1","by":{"alias":"@ann","label":"a,\"b\"","address":"10.0.0.1"},"doors":2,"ok":null,"reason":null,"picture":null},{"id":"1152921504606846976","at":1000,"r":"capture-1","u":"=cmd|'/c calc'!A1","by":{"alias":"@ann","label":"a,\"b\"","address":"10.0.0.1"},"doors":2,"ok":false,"reason":"-jammed\nby a <script>","picture":"/info/doorPicture/1152921504606846976"}]}"#
        );
    }

    #[test]
    fn no_cell_is_a_formula_or_more_than_one_cell() {
        let text = String::from_utf8(csv(&[door()])).unwrap();
        assert_eq!(
            text.split_once("\r\n").unwrap().1,
            "1152921504606846976,1970-01-01T00:00:01.000Z,capture-1,'=cmd|'/c calc'!A1,'@ann,\"a,\"\"b\"\"\",10.0.0.1,2,false,\"'-jammed\nby a <script>\",/info/doorPicture/1152921504606846976\r\n"
        );
        assert_eq!(["+1", "\tx", "plain", "a=b", ""].map(cell), ["'+1", "'\tx", "plain", "a=b", ""]);
    }

    #[test]
    fn parts_are_asked_for_by_time_room_page_and_form() {
        let (part, form) = read("2", Some("from=5&to=9&r=%E9%97%A8+1&size=10&format=csv"), 1).unwrap();
        assert_eq!((part.from, part.to, part.skip, part.count, form), (5, 9, 10, 10, Form::Csv));
        assert_eq!(part.room.unwrap().as_str(), "门+1");
        let (part, form) = read("1", None, 1).unwrap();
        assert_eq!((part.from, part.to, part.room, part.skip, part.count, form), (0, u64::MAX, None, 0, 100, Form::Json));
        for (query, field) in
            [("from=x", "from"), ("to=-1", "to"), ("r=", "r"), ("r=%00", "r"), ("r=%ff", "r"), ("format=xml", "format"), ("size=0", "size")]
        {
            assert_eq!(read("1", Some(query), 1).err().map(|refusal| refusal.refusal.field), Some(field), "{query}");
        }
    }
}
