//! Who gets in: the token of a device or of the management, judged by where it comes from (Protocol §11).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::names::Alias;
use crate::protocol::refusal::{Code, Refusal};
use crate::runtime::clock;
use crate::runtime::keyring::Keyring;
use crate::token::Claims;
