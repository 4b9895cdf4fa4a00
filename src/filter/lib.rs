//! The Membrane filter: turns a request that carries a capability into the one request that the capability stands for,
//! signed, and lets Envoy route it.
//!
//! Everything that decides is pure and natively tested; [`worker`] puts the decisions together over a [`Host`], and
//! `host.rs` with `abi.rs` are the only files that know proxy-wasm. `docs/architecture.md` tells a request's way through.

#[cfg(target_arch = "wasm32")]
mod abi;
pub mod abi_numbers;
mod allow_list;
pub mod cache;
pub mod config;
#[cfg(any(feature = "diagnose", not(target_arch = "wasm32")))]
pub mod diagnosis;
pub mod envoy_version;
pub mod exchange;
pub mod feed;
#[cfg(target_arch = "wasm32")]
mod host;
pub mod incoming;
pub mod lookup;
pub mod noted;
pub mod opened;
pub mod outgoing;
pub mod pairs;
pub mod passing;
pub mod payload;
mod query;
pub mod records;
pub mod reply;
mod requests;
pub mod slots;
pub mod stats;
pub mod unknown;
mod warnings;
pub mod wiped;
pub mod worker;

pub use worker::{Host, Worker};
