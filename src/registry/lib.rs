//! The Membrane registry: it keeps sealed records, decides who may make, list and revoke them, and tells gateways what
//! was revoked.
//!
//! * [`control`] is the Membrane API, [`gateway`] answers gateways (lookups and the feed), [`health`] answers operators:
//!   each a function from its state to a router, tested without a socket.
//! * [`registry`] is what the API does, over a [`store`] whose contract any backend can keep.
//! * [`home`], [`certificates`], [`tls`] and [`serve`] put those on the network; [`operator`] is the operator's side.
//!
//! Time and randomness are parameters ([`ports`]); only `main.rs` has a clock. The formats are those of `docs/wire.md`.

#![forbid(unsafe_code)]

pub mod audit;
pub mod certificates;
pub mod control;
pub mod error;
pub mod feed;
pub mod files;
pub mod fleet;
pub mod gateway;
pub mod health;
pub mod home;
pub mod kek;
pub mod lookups;
pub mod maintenance;
pub mod metrics;
pub mod operator;
pub mod ports;
pub mod registry;
pub mod revocation_log;
pub mod serve;
pub mod store;
pub mod tls;
pub mod transfer;
pub mod upkeep;
pub mod workers;

mod answers;
mod durability;
mod query_string;
mod reply;
