//! `make bench-signing`: bodyless requests to S3, signed by us and by the crate `aws-sigv4`, a round of each after the other in one
//! run, so that whatever else the machine does meets both. Ends with an error if what `docs/` claims does not hold: no heap
//! allocation with a warm key and a buffer that has grown, and [`FASTER`] times the speed of `aws-sigv4`.
//!
//! `aws-sigv4` has no key to keep warm: it derives one for every request, as every AWS SDK for Rust does. `ours, new day` is what that
//! costs us. The other three have their key, and each has to be that fast: everything else signed anew, or as much of it kept as
//! `Transcript` keeps.

// Not a test to clippy, but none of the product either: it prints, and stops where something is not as it should be.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    self as theirs, PayloadChecksumKind, PercentEncodingMode, UriPathNormalizationMode,
};
use signing::aws4::{Credential, Payload, Service, Signer, Target};
use signing::{Scheme, Secret, Timestamp};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const HOST: &str = "bucket.s3.us-east-1.amazonaws.com";
const NOW: u64 = 1_767_225_600;

/// What is claimed.
const FASTER: f64 = 5.0;
const ROUNDS: usize = 501;
/// Long beside the cost of looking at the clock, and short beside the machine's moods: few rounds are interrupted.
const REQUESTS: u64 = 100;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came; the counter is a plain `Cell`, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Nanoseconds a request, a value for each round, and what one request allocates.
struct Measured<'a> {
    name: &'static str,
    sign: Box<dyn FnMut(u64) + 'a>,
    nanoseconds: Vec<f64>,
    allocations: u64,
}

impl<'a> Measured<'a> {
    /// `sign` is given the number of the request.
    fn new(name: &'static str, sign: impl FnMut(u64) + 'a) -> Self {
        Self { name, sign: Box::new(sign), nanoseconds: Vec::with_capacity(ROUNDS), allocations: 0 }
    }

    fn round(&mut self, first: u64) {
        let before = ALLOCATIONS.get();
        let start = Instant::now();
        for number in first..first + REQUESTS {
            (self.sign)(number);
        }
        let taken = start.elapsed();
        // The most of all rounds: none may allocate where it is claimed that nothing does.
        self.allocations = self.allocations.max((ALLOCATIONS.get() - before).div_ceil(REQUESTS));
        self.nanoseconds.push(taken.as_secs_f64() * 1e9 / REQUESTS as f64);
    }

    /// The median, and the quartiles beside it.
    fn spread(&self) -> [f64; 3] {
        let mut sorted = self.nanoseconds.clone();
        sorted.sort_by(f64::total_cmp);
        [sorted.len() / 2, sorted.len() / 4, sorted.len() * 3 / 4]
            .map(|place| sorted.get(place).copied().unwrap())
    }
}

fn credential() -> Credential {
    Credential {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Secret::new(SECRET.into()),
        session_token: None,
    }
}

/// One grant of ours, and the buffer that its requests share.
fn ours() -> impl FnMut(u64, u64) {
    let s3 = Service::new("s3").unwrap();
    // Two, one byte apart, the size of the ones that are measured against: signing them in turns leaves no signature to reuse.
    let targets = ["/folder/object.txt", "/folder/object.txu"]
        .map(|path| Target::new(&s3, Scheme::Https, HOST, path.as_bytes(), b"").unwrap());
    let mut signer = Signer::new(credential(), "us-east-1", s3).unwrap();
    let mut out = String::new();
    move |seconds, which| {
        let [first, second] = &targets;
        let target = if which.is_multiple_of(2) { first } else { second };
        let now = Timestamp::from_unix(seconds);
        let signed = signer.sign(&now, "GET", black_box(target), [], Payload::Empty, &mut out).unwrap();
        black_box(signed.authorization.len());
    }
}

fn aws_sigv4() -> impl FnMut(u64) {
    let identity = Credentials::new("AKIDEXAMPLE", SECRET, None, None, "bench").into();
    let url = format!("https://{HOST}/folder/object.txt");
    move |second| {
        let mut settings = theirs::SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = aws_sigv4::sign::v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("s3")
            .time(UNIX_EPOCH + Duration::from_secs(NOW + second % 86_400))
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let request = theirs::SignableRequest::new(
            "GET",
            black_box(url.as_str()),
            std::iter::empty(),
            theirs::SignableBody::empty(),
        )
        .unwrap();
        black_box(theirs::sign(request, &params).unwrap());
    }
}

fn main() -> ExitCode {
    let (mut same, mut alternating, mut second, mut day) = (ours(), ours(), ours(), ours());
    let mut all = [
        Measured::new("aws-sigv4", aws_sigv4()),
        Measured::new("ours, new day: the key too", move |number| day(NOW + number % 10_000 * 86_400, 0)),
        Measured::new("ours, new second", move |number| second(NOW + number % 86_400, 0)),
        Measured::new("ours, same second, other request", move |number| alternating(NOW, number)),
        Measured::new("ours, same second, same request", move |_| same(NOW, 0)),
    ];
    // Once beforehand: buffers grow, keys are derived, and what a processor has to learn it learns.
    for measured in &mut all {
        measured.round(0);
        (measured.nanoseconds, measured.allocations) = (Vec::with_capacity(ROUNDS), 0);
    }
    for round in 1..=ROUNDS as u64 {
        for measured in &mut all {
            measured.round(round * REQUESTS);
        }
    }
    let [theirs, day, warm @ ..] = &all;
    let [reference, ..] = theirs.spread();
    println!(
        "bodyless GET to S3, {ROUNDS} interleaved rounds of {REQUESTS} requests each, this machine, one thread"
    );
    println!("{:34}{:>10}{:>18}{:>14}{:>9}", "", "median ns", "quartiles", "allocations", "speed");
    for measured in [theirs, day].into_iter().chain(warm) {
        let [median, lower, upper] = measured.spread();
        println!(
            "{:34}{median:>10.0}{:>18}{:>14}{:>8.1}x",
            measured.name,
            format!("{lower:.0} to {upper:.0}"),
            measured.allocations,
            reference / median
        );
    }
    let mut holds = true;
    for measured in warm {
        let [median, ..] = measured.spread();
        if measured.allocations > 0 {
            println!("FAILED: {} allocates", measured.name);
            holds = false;
        }
        if reference / median < FASTER {
            println!("FAILED: {} is not {FASTER} times as fast as aws-sigv4", measured.name);
            holds = false;
        }
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
