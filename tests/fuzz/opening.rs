//! A grant as the registry would have sealed it, opened as the filter opens it.

use capability::record::{self, Header, Kind};
use capability::{Content, Grant, Token, Units};
use membrane_filter::opened::{NotOpened, Opened};

/// 2026-01-01T00:00:00Z.
const NOW: u64 = 1_767_225_600;

pub fn opened(grant: Box<Grant>, units: &Units, expires_at: Option<u64>) -> Result<Opened, NotOpened> {
    let token = Token::mint([1; 64]);
    let header = Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at, units };
    let inner = record::seal(&token, &header, Content::Grant(grant).to_json().expose(), [1; 24])
        .expect("a grant is no longer than a record may be");
    Opened::open(&token, &inner.as_bytes().into(), units, expires_at, NOW)
}
