//! Export bodies: what is taken can be kept, read again, and signed.

#![no_main]

use capability::record::Kind;
use capability::{Content, Export, Exported, Token, Uid, UnitPair, Units};
use libfuzzer_sys::fuzz_target;
use membrane_filter::opened::Opened;

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
    assert!(Opened::new(&Token::mint([1; 64]), *grant, units, expires_at).is_ok());
});
