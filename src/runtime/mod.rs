//! Where pure meets real: what drives the hub, and what it shares with the front-ends.

pub mod shutdown;
