//! What a peer may see when something is refused: a stable code, and a text for people in two languages (Protocol §2).
//!
//! The texts are all here, so that one place shows whether they help. It knows no frame, no status code and no log.

/// The language of error texts; codes don't depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Chinese, the default.
    Zh,
    /// English.
    En,
}

/// The stable codes of Protocol §2, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Not a JSON object, or no UTF-8.
    BadJson,
    /// A field that must be there is not.
    MissingField,
    /// A field has the wrong type or a value out of its range.
    BadField,
    /// A `t` that no client sends, or none at all.
    UnknownType,
    /// A frame, line or body over its limit.
    TooLarge,
    /// The frame needs a bound alias.
    NoAlias,
    /// Another alias is bound to this link.
    AliasMismatch,
    /// The token is missing, damaged, expired, revoked or of another key.
    BadToken,
    /// The token or the alias may not do that.
    Forbidden,
    /// No such path, message or entry.
    NotFound,
    /// Too many requests.
    RateLimited,
    /// A limit on what is kept is reached.
    Quota,
    /// The store can't be written now, or did not answer in time.
    Unavailable,
    /// A fault of the server's own.
    Internal,
}

/// A refusal: the code, and the field it is about (empty: none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// The field or thing that the text names, such as `opts.time_to_live`; may be empty.
    pub field: &'static str,
}

impl Refusal {
    /// A refusal about `field`.
    #[must_use]
    pub const fn new(code: Code, field: &'static str) -> Refusal {
        Refusal { code, field }
    }
}

/// The field of a `bad_token` that is the server's own trouble: its key files are damaged, so that no token is valid (Protocol §11).
pub const KEYRING_BROKEN: &str = "master.key";

impl Code {
    /// Every code, in the order of Protocol §2.
    pub const ALL: [Code; 14] = [
        Code::BadJson,
        Code::MissingField,
        Code::BadField,
        Code::UnknownType,
        Code::TooLarge,
        Code::NoAlias,
        Code::AliasMismatch,
        Code::BadToken,
        Code::Forbidden,
        Code::NotFound,
        Code::RateLimited,
        Code::Quota,
        Code::Unavailable,
        Code::Internal,
    ];

    /// The word on the wire: the `code` of an error frame (Protocol §2). Clients branch on it, so it never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::BadJson => "bad_json",
            Code::MissingField => "missing_field",
            Code::BadField => "bad_field",
            Code::UnknownType => "unknown_type",
            Code::TooLarge => "too_large",
            Code::NoAlias => "no_alias",
            Code::AliasMismatch => "alias_mismatch",
            Code::BadToken => "bad_token",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not_found",
            Code::RateLimited => "rate_limited",
            Code::Quota => "quota",
            Code::Unavailable => "unavailable",
            Code::Internal => "internal",
        }
    }

    /// What is wrong; the field's name follows it.
    const fn fault(self, language: Language) -> &'static str {
        let (zh, en) = match self {
            Code::BadJson => ("不是有效的 JSON 对象", "not a JSON object"),
            // Fixed by Protocol §2: old clients look for it.
            Code::MissingField => ("参数不全", "missing field"),
            Code::BadField => ("参数错误", "bad field"),
            Code::UnknownType => ("未知的类型", "unknown type"),
            Code::TooLarge => ("数据过大", "too large"),
            Code::NoAlias => ("尚未绑定别名", "no alias is bound"),
            Code::AliasMismatch => ("别名不符", "another alias is bound to this connection"),
            Code::BadToken => ("令牌无效", "bad token"),
            Code::Forbidden => ("没有权限", "forbidden"),
            Code::NotFound => ("未找到", "not found"),
            Code::RateLimited => ("请求过于频繁", "too many requests"),
            Code::Quota => ("已达上限", "a limit is reached"),
            Code::Unavailable => ("暂时无法保存", "the store can't be written now"),
            Code::Internal => ("服务器内部错误", "the server failed"),
        };
        match language {
            Language::Zh => zh,
            Language::En => en,
        }
    }

    /// What whoever reads the text can do about it; empty where Protocol §2 fixes the text.
    const fn advice(self, language: Language) -> &'static str {
        let (zh, en) = match self {
            Code::BadJson => ("每帧须为一个 UTF-8 编码的 JSON 对象", "send one JSON object in UTF-8 a frame"),
            Code::MissingField => ("", "add it and send the frame again"),
            Code::BadField => ("请检查其类型与取值范围", "check its type and range"),
            Code::UnknownType => ("请检查帧的类型编号", "check the frame's type number against the protocol"),
            Code::TooLarge => ("请缩短内容后重发", "send less at once"),
            Code::NoAlias => ("请先发送带 alias 的心跳或连接帧", "send a heartbeat or connect with an alias first"),
            Code::AliasMismatch => ("此连接已绑定另一别名，更换别名请新建连接", "open a new connection for another alias"),
            Code::BadToken => {
                ("缺失、损坏、过期或已吊销，请向管理员索取", "missing, damaged, expired or revoked; ask the administrator for one")
            }
            Code::Forbidden => ("此令牌或别名不允许该操作，请联系管理员", "the token or alias may not do this; ask the administrator"),
            Code::NotFound => ("可能已过期或名称有误", "it may be over, or misspelt"),
            Code::RateLimited => ("请稍后再试", "slow down and try again later"),
            Code::Quota => ("请稍后再试或联系管理员调整 limits", "try again later, or ask the administrator to raise limits"),
            Code::Unavailable => ("请稍后重试，带 opts.id 可避免重复", "retry later; with opts.id a retry is never sent twice"),
            Code::Internal => ("请稍后重试，详情见服务器日志", "retry later; the server's log says more"),
        };
        match language {
            Language::Zh => zh,
            Language::En => en,
        }
    }
}

impl Refusal {
    /// The sentence for people: what is wrong, with which field, and what to do. Not stable, unlike the code.
    /// A missing field reads `参数不全: <field>` in Chinese (Protocol §2).
    #[must_use]
    pub fn text(self, language: Language) -> String {
        let advice = match self.code {
            Code::BadField => rule(self.field, language).unwrap_or(self.code.advice(language)),
            Code::BadToken if self.field == KEYRING_BROKEN => match language {
                Language::Zh => "服务器的密钥文件损坏，所有令牌暂时无效；修复后原令牌照常可用，详情见服务器日志",
                Language::En => "the server's key files are damaged: no token is valid until they are mended; its log says more",
            },
            code => code.advice(language),
        };
        let mut text = self.code.fault(language).to_owned();
        if !self.field.is_empty() {
            text += ": ";
            text += self.field;
        }
        if !advice.is_empty() {
            text += match language {
                Language::Zh => "；",
                Language::En => "; ",
            };
            text += advice;
        }
        text
    }
}

/// The rule of a field that a frame broke, where it has one of its own.
const fn rule(field: &str, language: Language) -> Option<&'static str> {
    let (zh, en) = match field.as_bytes() {
        b"alias" | b"topic" => (
            "名称须为 1 至 128 字节、不含控制字符的字符串，一次最多 1000 个",
            "a name is a string of 1 to 128 bytes without control characters, and a frame lists at most 1,000",
        ),
        b"r" => ("须为 1 至 128 字节、不含控制字符的字符串", "must be a string of 1 to 128 bytes without control characters"),
        b"u" => ("须为最多 128 字节、不含控制字符的字符串", "must be a string of at most 128 bytes without control characters"),
        b"t" => ("须为整数", "must be an integer"),
        b"num" => ("须为最多 1 KiB 的字符串或数字", "must be a string or a number of at most 1 KiB"),
        b"mid" => ("须为十进制数字，或其列表", "must be decimal digits, or a list of such"),
        b"method" => ("须为 publish 或 publish_to_alias", "must be publish or publish_to_alias"),
        b"info" => ("须为最多 1 KiB 的对象", "must be an object of at most 1 KiB"),
        b"opts" => ("须为对象", "must be an object"),
        b"opts.time_to_live" => ("须为 0 至 2592000 的整数（秒）", "must be whole seconds from 0 to 2592000"),
        b"opts.id" => ("须为 1 至 64 字节的字符串", "must be a string of 1 to 64 bytes"),
        b"opts.receipt" | b"ok" => ("须为 true 或 false", "must be true or false"),
        b"reason" => ("须为最多 1 KiB 的字符串", "must be a string of at most 1 KiB"),
        b"attachments" => ("不接受二进制附件，请以 JSON 发送", "binary is not taken; send it as JSON"),
        b"token" => ("须为字符串", "must be a string"),
        b"page" => ("须为不小于首页页码的整数", "must be a whole number, the first page's or above"),
        b"size" => ("须为 1 至 1000 的整数", "must be a whole number from 1 to 1000"),
        b"HTTP method" => ("此路径不支持该方法，见 Allow 头", "the path has no such method; see the Allow header"),
        _ => return None,
    };
    match language {
        Language::Zh => Some(zh),
        Language::En => Some(en),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANGUAGES: [Language; 2] = [Language::Zh, Language::En];

    /// Protocol §2's list, word by word and in its order.
    const PROTOCOL: &str = "`bad_json`, `missing_field`, `bad_field`, `unknown_type`, `too_large`, `no_alias`, \
        `alias_mismatch`, `bad_token`, `forbidden`, `not_found`, `rate_limited`, `quota`, `unavailable`, `internal`";

    #[test]
    fn codes_are_those_of_the_protocol() {
        let ours: Vec<String> = Code::ALL.iter().map(|code| format!("`{}`", code.as_str())).collect();
        assert_eq!(ours.join(", "), PROTOCOL);
    }

    #[test]
    fn a_missing_field_reads_as_in_the_original() {
        assert_eq!(Refusal::new(Code::MissingField, "alias").text(Language::Zh), "参数不全: alias");
        assert_eq!(Refusal::new(Code::MissingField, "alias").text(Language::En), "missing field: alias; add it and send the frame again");
    }

    #[test]
    fn every_text_names_its_field_and_differs_from_the_others() {
        for language in LANGUAGES {
            let mut texts: Vec<String> = Code::ALL.iter().map(|&code| Refusal::new(code, "pages").text(language)).collect();
            assert!(texts.iter().all(|text| text.contains("pages")), "{texts:?}");
            texts.sort();
            texts.dedup();
            assert_eq!(texts.len(), Code::ALL.len());
        }
    }

    #[test]
    fn a_text_without_a_field_has_no_loose_ends() {
        for language in LANGUAGES {
            for code in Code::ALL {
                let text = Refusal::new(code, "").text(language);
                assert!(!text.contains(": ") && !text.ends_with([' ', '；', ';']), "{text}");
            }
        }
    }

    #[test]
    fn bounds_named_in_texts_are_the_real_ones() {
        use crate::limits::{IDEMPOTENCY_KEY_BYTES_MAX, INFO_BYTES_MAX, NAME_BYTES_MAX, NAMES_PER_FRAME_MAX};
        use crate::limits::{LIST_PAGE_MAX, NUM_BYTES_MAX, REASON_BYTES_MAX, TIME_TO_LIVE_MAX_S};
        let kib = |bytes: usize| format!("{} KiB", bytes >> 10);
        let bounds = [
            ("alias", NAME_BYTES_MAX.to_string()),
            ("r", NAME_BYTES_MAX.to_string()),
            ("u", NAME_BYTES_MAX.to_string()),
            ("opts.time_to_live", TIME_TO_LIVE_MAX_S.to_string()),
            ("opts.id", IDEMPOTENCY_KEY_BYTES_MAX.to_string()),
            ("info", kib(INFO_BYTES_MAX)),
            ("num", kib(NUM_BYTES_MAX)),
            ("reason", kib(REASON_BYTES_MAX)),
            ("size", LIST_PAGE_MAX.to_string()),
        ];
        for (field, bound) in bounds {
            for language in LANGUAGES {
                let text = Refusal::new(Code::BadField, field).text(language);
                assert!(text.contains(&bound), "{text}: {bound}");
            }
        }
        assert_eq!(NAMES_PER_FRAME_MAX, 1_000, "the rule of `topic` says 1,000");
    }
}
