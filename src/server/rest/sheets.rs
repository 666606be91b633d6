//! tide's requests and responses, used again: a new one costs up to two channels and a table, and a pair of them more than all else that
//! tide does.
//!
//! What is asked and what is answered lie in them as extensions, and are taken out again: they are kept blank.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tide::http::{Method, Request, Response, StatusCode, Url};

use crate::server::rest::answers::{Answered, Asked};

/// Requests, and as many responses, that are kept while nobody uses them: some 3 KB a pair.
const KEPT_MAX: usize = 64;

/// What waits for the next requests.
#[derive(Debug)]
pub(super) struct Sheets {
    kept: Mutex<Kept>,
    /// What every request's URL is made from: the Host header never gets near it.
    base: Url,
}

#[derive(Debug, Default)]
struct Kept {
    requests: Vec<Request>,
    responses: Vec<Response>,
}

impl Sheets {
    /// None is there yet.
    pub(super) fn new() -> Sheets {
        Sheets { kept: Mutex::default(), base: Url::parse("http://h/").expect("the text is a URL") }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request for that path, which is still percent-encoded.
    pub(super) fn ask(&self, method: Method, path: &str, asked: Asked) -> Request {
        let kept = self.kept().requests.pop();
        let mut request = kept.unwrap_or_else(|| Request::new(method, self.base.clone()));
        request.set_method(method);
        if request.url().path() != path {
            request.url_mut().set_path(path);
        }
        request.ext_mut().insert(asked);
        request
    }

    /// What a request asks; none if nothing was put into it here.
    pub(super) fn asked(&self, mut request: Request) -> Option<Asked> {
        let asked = request.ext_mut().remove();
        let mut kept = self.kept();
        if kept.requests.len() < KEPT_MAX {
            kept.requests.push(request);
        }
        asked
    }

    /// A response with that answer.
    pub(super) fn answer(&self, answered: Answered) -> Response {
        let kept = self.kept().responses.pop();
        let mut response = kept.unwrap_or_else(|| Response::new(StatusCode::Ok));
        response.ext_mut().insert(answered);
        response
    }

    /// The answer in a response; none if it was not made here.
    pub(super) fn answered(&self, mut response: Response) -> Option<Answered> {
        let answered = response.ext_mut().remove()?;
        let mut kept = self.kept();
        if kept.responses.len() < KEPT_MAX {
            kept.responses.push(response);
        }
        Some(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(body: &str) -> Asked {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        Asked { address, claims: None, came_at: 0, local: None, query: None, body: body.into() }
    }

    fn answered(body: Vec<u8>) -> Answered {
        Answered { status: 200, content_type: "text/plain", file_name: None, body: body.into() }
    }

    #[test]
    fn they_are_used_again_and_nothing_of_the_last_request_is_in_them() {
        let sheets = Sheets::new();
        for (method, path, sent) in [
            (Method::Post, "/push", "/push"),
            (Method::Post, "/push", "/push"),
            (Method::Get, "/info/status/a b", "/info/status/a%20b"),
            (Method::Get, "/info", "/info"),
        ] {
            let request = sheets.ask(method, path, asked(path));
            assert_eq!((request.method(), request.url().path()), (method, sent));
            let asked = sheets.asked(request).unwrap();
            let response = sheets.answer(answered(asked.body));
            let answered = sheets.answered(response).unwrap();
            assert_eq!(answered.body, path.as_bytes());
            let kept = sheets.kept();
            assert_eq!((kept.requests.len(), kept.responses.len()), (1, 1));
            assert!(kept.requests[0].ext().get::<Asked>().is_none() && kept.responses[0].ext().get::<Answered>().is_none());
        }
    }

    #[test]
    fn a_response_without_an_answer_is_not_kept() {
        let sheets = Sheets::new();
        assert!(sheets.answered(Response::new(StatusCode::NotFound)).is_none());
        assert_eq!(sheets.kept().responses.len(), 0);
    }

    #[test]
    fn only_so_many_are_kept() {
        let sheets = Sheets::new();
        let requests: Vec<Request> = (0..KEPT_MAX + 1).map(|_| sheets.ask(Method::Get, "/", asked(""))).collect();
        let responses: Vec<Response> = (0..KEPT_MAX + 1).map(|_| sheets.answer(answered(Vec::new()))).collect();
        assert!(requests.into_iter().all(|request| sheets.asked(request).is_some()));
        assert!(responses.into_iter().all(|response| sheets.answered(response).is_some()));
        let kept = sheets.kept();
        assert_eq!((kept.requests.len(), kept.responses.len()), (KEPT_MAX, KEPT_MAX));
    }
}
