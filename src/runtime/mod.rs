//! Where pure meets real: carries inputs to the hub and its effects to sockets and store. It decides nothing.

pub mod alarms;
pub mod answer;
pub mod clock;
mod credit;
pub mod current;
pub mod deadline;
pub mod disk;
pub mod door_tasks;
pub mod driver;
pub mod handle;
pub mod keyring;
pub mod logger;
pub mod outbox;
mod packets;
mod picture_slot;
pub mod pictures;
pub mod pulse;
pub mod reactor;
pub mod readiness;
mod room_outbox;
mod shared_frame;
pub mod shutdown;
pub mod socket;
pub mod turnstile;
