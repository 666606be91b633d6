//! Who is here, who is owed what, who may do what: pure, single-threaded, told the time.

pub mod storage;
