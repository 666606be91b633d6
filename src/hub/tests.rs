//! The hub's own tests: this input at this time has exactly these effects, and none else.

mod catch_up;
mod door;
mod ending;
mod late;
mod links;
pub(super) mod model;
mod publish;
mod rooms;
pub(super) mod scene;
mod storing;
