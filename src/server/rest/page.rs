//! Which part of a list a request asks for (Protocol §10). It knows no list.

use crate::limits::{LIST_PAGE_DEFAULT, LIST_PAGE_MAX};
use crate::protocol::http::refusal::HttpRefusal;
use crate::protocol::refusal::Code;

/// A part of a list: `size` items from the one numbered `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// The first item, counted from 0. Far past the end for a page that is.
    pub(super) from: usize,
    /// 1 to [`LIST_PAGE_MAX`].
    pub(super) size: usize,
}

impl Page {
    /// Reads the page's number, counted from `first`, and `size` from the query; of several the last counts.
    ///
    /// # Errors
    /// `bad_field`: `page` is below the first or not digits, `size` not from 1 to [`LIST_PAGE_MAX`]. A page past the end is none.
    pub(super) fn read(number: &str, query: Option<&str>, first: u64) -> Result<Page, HttpRefusal> {
        const BAD_PAGE: HttpRefusal = HttpRefusal::new(Code::BadField, "page");
        const BAD_SIZE: HttpRefusal = HttpRefusal::new(Code::BadField, "size");
        let before = digits(number).and_then(|number| number.checked_sub(first)).ok_or(BAD_PAGE)?;
        let mut sizes = query.unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("size="));
        let size = match sizes.next_back() {
            None => LIST_PAGE_DEFAULT,
            Some(text) => {
                let size = digits(text).and_then(|size| usize::try_from(size).ok());
                size.filter(|size| (1..=LIST_PAGE_MAX).contains(size)).ok_or(BAD_SIZE)?
            }
        };
        let from = usize::try_from(before).unwrap_or(usize::MAX).saturating_mul(size);
        Ok(Page { from, size })
    }
}

/// A whole number in decimal digits; those beyond 64 bits count as the largest number.
pub(super) fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(number: &str, query: Option<&str>, first: u64) -> Result<(usize, usize), &'static str> {
        Page::read(number, query, first).map(|page| (page.from, page.size)).map_err(|refusal| {
            assert_eq!((refusal.status, refusal.refusal.code), (400, Code::BadField));
            refusal.refusal.field
        })
    }

    #[test]
    fn pages_count_from_the_first() {
        assert_eq!(read("1", None, 1), Ok((0, 100)));
        assert_eq!(read("3", None, 1), Ok((200, 100)));
        assert_eq!(read("0", None, 0), Ok((0, 100)));
        assert_eq!(read("2", Some("size=7"), 0), Ok((14, 7)));
        assert_eq!(read("007", None, 1), Ok((600, 100)));
    }

    #[test]
    fn a_page_that_is_no_number_or_below_the_first_is_refused() {
        for bad in ["0", "-1", "+1", "1e30", "1.0", "", " 1", "x", "１"] {
            assert_eq!(read(bad, None, 1), Err("page"), "{bad}");
        }
        assert_eq!(read("-1", None, 0), Err("page"));
    }

    #[test]
    fn a_page_beyond_all_numbers_is_past_the_end() {
        for far in ["18446744073709551615", "18446744073709551616", "99999999999999999999999999"] {
            assert_eq!(read(far, Some("size=1000"), 1), Ok((usize::MAX, 1_000)));
        }
    }

    #[test]
    fn sizes_go_from_1_to_1000_and_the_last_counts() {
        assert_eq!(read("1", Some("size=1"), 1), Ok((0, 1)));
        assert_eq!(read("2", Some("size=1000"), 1), Ok((1_000, 1_000)));
        assert_eq!(read("2", Some("a=b&size=5&resize=9&size=10"), 1), Ok((10, 10)));
        assert_eq!(read("1", Some(""), 1), Ok((0, 100)));
        for bad in ["size=0", "size=1001", "size=", "size=-1", "size=1e2", "size=99999999999999999999", "size=5&size=x"] {
            assert_eq!(read("1", Some(bad), 1), Err("size"), "{bad}");
        }
    }
}
