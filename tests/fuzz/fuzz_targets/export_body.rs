//! Export bodies: what is taken can be kept, read again, and signed.

#![no_main]

#[path = "../opening.rs"]
mod opening;

use capability::record::Kind;
use capability::{Content, Export, Exported, Uid, UnitPair, Units};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(Export { what: Exported::Grant(grant), expires_at }) = Export::parse(input) else { return };
    let json = Content::Grant(grant).to_json();
    let Ok(Content::Grant(again)) = Content::from_json(Kind::Grant, json.expose()) else {
        panic!("what an export takes is not read again");
    };
    let twice = Content::Grant(again).to_json();
    assert_eq!(json.expose(), twice.expose());
    let Ok(Content::Grant(grant)) = Content::from_json(Kind::Grant, twice.expose()) else { return };
    let units = Units::own(UnitPair { tenant: Uid([1; 16]), membrane: None });
    // Else its capability would be minted and answer 401 for ever.
    assert!(opening::opened(grant, &units, expires_at).is_ok());
});
