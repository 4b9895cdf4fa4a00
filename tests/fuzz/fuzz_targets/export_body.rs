//! Export bodies: what is taken can be kept, read again, and signed.

#![no_main]

use capability::record::{self, Header, Kind};
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
    let token = Token::mint([1; 64]);
    let header = Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at, units: &units };
    let Ok(inner) = record::seal(&token, &header, Content::Grant(grant).to_json().expose(), [1; 24]) else {
        return;
    };
    assert!(Opened::open(&token, &inner.as_bytes().into(), &units, expires_at, 1_767_225_600).is_ok());
});
