//! The cache's bound in bytes holds for what the allocator really gives out, whatever grants are cached and used.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use capability::record::{self, Header, Kind};
use capability::{Content, Export, Exported, Token, Uid, UnitPair, Units};
use membrane_filter::cache::{Cache, Cached};
use membrane_filter::config::{CacheLimits, OnMissing};
use membrane_filter::incoming::{Arrival, Incoming};
use membrane_filter::opened::Opened;
use membrane_filter::pairs::{self, Pairs};
use membrane_filter::{outgoing, payload};
use signing::aws4::Payload;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;

/// Counts what this thread holds. (Its `realloc` is the trait's, which goes through `alloc` and `dealloc`.)
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = HELD.try_with(|held| held.set(held.get().wrapping_add(layout.size())));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| held.set(held.get().wrapping_sub(layout.size())));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BYTES: usize = 1024 * 1024;
/// 2026-01-01T00:00:00Z.
const NOW: u64 = 1_767_225_600;

fn request(token: &Token, path: &str, more: &[(&str, &str)]) -> Incoming {
    let bearer = format!("Bearer {}", token.expose());
    let mut all =
        vec![(":method", "POST"), (":path", path), (":authority", "localhost"), ("authorization", &*bearer)];
    all.extend(more);
    let bytes = pairs::encode(all.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))).unwrap();
    match Incoming::arrive(Pairs::parse(bytes.to_vec()).unwrap(), true, OnMissing::Deny) {
        Arrival::Capability(incoming) => incoming,
        other => panic!("{other:?}"),
    }
}

/// Far more grants than fit go through a cache, each used on two days. What one of them takes, as counted and as held.
fn check(
    name: &str,
    units: impl Fn(u32) -> Units,
    export: &str,
    path: &str,
    more: &[(&str, &str)],
) -> (usize, usize) {
    let before = HELD.get();
    let mut cache = Cache::new(CacheLimits { entries: 100_000, bytes: BYTES });
    let (mut dropped, mut n) = (0, 0_u32);
    let mut one = (0, 0);
    while dropped < 40 {
        n += 1;
        let mut random = [0; 64];
        random[..4].copy_from_slice(&n.to_be_bytes());
        let token = Token::mint(random);
        let units = &units(n);
        let Exported::Grant(grant) = Export::parse(export.as_bytes()).unwrap().what else { panic!() };
        let header = Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at: None, units };
        let inner = record::seal(&token, &header, Content::Grant(grant).to_json().expose(), [7; 24]).unwrap();
        let opened = Rc::new(Opened::open(&token, &inner.as_bytes().into(), units, None, NOW).unwrap());
        let incoming = request(&token, path, more);
        for second in [NOW, NOW + 100_000] {
            let plan = payload::plan(&incoming, &opened, 1_000_000).unwrap();
            let payload = plan.payload().unwrap_or(Payload::Empty);
            outgoing::build(&incoming, &opened, &plan, payload, None, second, 1_000).unwrap();
        }
        drop((incoming, inner));
        let entries = cache.len();
        cache.insert(token, Cached::Grant(opened));
        dropped += usize::from(cache.len() <= entries);
        let held = HELD.get().wrapping_sub(before);
        assert!(
            held <= BYTES,
            "{name}: {held} bytes are held by {} entries, of which {} are counted",
            cache.len(),
            cache.bytes()
        );
        one = (cache.bytes() / cache.len(), held / cache.len());
    }
    println!("{name}: {} entries; one counts {} bytes and holds {}", cache.len(), one.0, one.1);
    one
}

fn lambda(more: &str, token: &str) -> String {
    format!(
        r#"{{"uri": "https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/f/invocations", {more}
            "hmac": {{"aws4-hmac-sha256": {{"awsAccessKeyId": "AKIDEXAMPLE", "region": "us-east-1", "service": "lambda", {token}
                     "secretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}}}}}}"#
    )
}

fn own() -> Units {
    Units::own(UnitPair { tenant: Uid([1; 16]), membrane: Some(Uid([2; 16])) })
}

#[test]
fn usual_grants_are_counted_closely() {
    let (counted, held) = check("usual", |_| own(), &lambda("", ""), "/", &[]);
    // Else the bound would waste what the operator gave.
    assert!(counted < 2 * held, "{counted} are counted for {held}");
    let token = format!(r#""sessionToken": "{}","#, "t".repeat(1_000));
    check("with a session token", |_| own(), &lambda("", &token), "/", &[]);
}

#[test]
fn whatever_a_grant_holds_is_counted() {
    let long = "n".repeat(60);
    let names: Vec<String> = (0..64).map(|n| format!(r#""x-{long}-{n}""#)).collect();
    let headers: Vec<String> = (0..64).map(|n| format!(r#""x-{long}-{n}": "{}""#, "v".repeat(100))).collect();
    let values: Vec<String> = (0..4).map(|n| format!(r#""x-p-{n}": "{}""#, "v".repeat(8_000))).collect();
    let query: Vec<String> = (0..200).map(|n| format!("a-longer-name-{n}=v")).collect();
    // Units that no other grant has.
    let deep = |n: u32| {
        let uid = |what: u8, m: u8| {
            let mut uid = [what; 16];
            uid[1] = m;
            uid[2..6].copy_from_slice(&n.to_be_bytes());
            Uid(uid)
        };
        let pairs = (0..16_u8).map(|m| UnitPair { tenant: uid(1, m), membrane: Some(uid(2, m)) });
        let mut pairs = pairs.map(|pair| serde_json::to_value(pair).unwrap()).collect::<Vec<_>>();
        pairs.extend((0..16_u8).map(|m| {
            let mut random = [m; 64];
            random[1..5].copy_from_slice(&n.to_be_bytes());
            serde_json::to_value(Token::mint(random).lookup_id()).unwrap()
        }));
        serde_json::from_value::<Units>(pairs.into()).unwrap()
    };
    let token = format!(r#""sessionToken": "{}","#, "t".repeat(8_192));
    check("deep", deep, &lambda("", ""), "/", &[]);
    for (name, export, path) in [
        (
            "names",
            lambda(
                &format!(
                    r#""allowHeaders": [{}], "allowQueryNames": [{}],"#,
                    names.join(","),
                    names.join(",")
                ),
                "",
            ),
            "/".into(),
        ),
        ("headers", lambda(&format!(r#""headers": {{{}}},"#, headers.join(",")), ""), "/".into()),
        ("long headers", lambda(&format!(r#""headers": {{{}}},"#, values.join(",")), ""), "/".into()),
        (
            "a query of its own",
            lambda("", "").replacen("invocations", &format!("invocations?{}", query.join("&")), 1),
            "/".into(),
        ),
        ("a long path", lambda("", "").replacen("invocations", &"p".repeat(8_000), 1), "/".into()),
        ("a token", lambda("", &token), "/".into()),
        (
            "a body",
            lambda(&format!(r#""method": "POST", "body": "{}","#, "b".repeat(30_000)), ""),
            "/".into(),
        ),
        ("plain", r#"{"uri": "http://a.example/"}"#.into(), "/".into()),
        (
            "cap1",
            r#"{"uri": "http://a.example/", "hmac": {"cap1-hmac-sha512": {"keyId": "k", "key": "a2V5"}}}"#
                .into(),
            "/".into(),
        ),
        (
            "a long query of the requester's",
            lambda(r#""allowQuery": true,"#, ""),
            format!("/?{}", query.join("&")),
        ),
    ] {
        check(name, |_| own(), &export, &path, &[]);
    }
}
