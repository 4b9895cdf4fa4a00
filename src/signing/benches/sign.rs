//! One bodyless request to S3, signed by us and by the crate `aws-sigv4`: `cargo bench -p signing`.
//!
//! `aws-sigv4` has no key to keep warm: it derives one for every request, as every AWS SDK for Rust does. `ours, new day` is what that
//! costs us.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    self as theirs, PayloadChecksumKind, PercentEncodingMode, UriPathNormalizationMode,
};
use criterion::{Criterion, criterion_group, criterion_main};
use signing::aws4::{Credential, Payload, Service, Signer, Target};
use signing::{Scheme, Secret, Timestamp};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const HOST: &str = "bucket.s3.us-east-1.amazonaws.com";
const NOW: u64 = 1_767_225_600;

fn bodyless(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bodyless");

    let s3 = Service::new("s3").unwrap();
    let target = Target::new(&s3, Scheme::Https, HOST, b"/folder/object.txt", b"").unwrap();
    let credential = Credential {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Secret::new(SECRET.into()),
        session_token: None,
    };
    let mut signer = Signer::new(credential, "us-east-1", s3).unwrap();
    let mut out = String::new();
    let mut sign = |seconds: u64| {
        let now = Timestamp::from_unix(seconds);
        let signed = signer.sign(&now, "GET", black_box(&target), [], Payload::Empty, &mut out).unwrap();
        black_box(signed.authorization.len())
    };
    group.bench_function("ours, same second", |bencher| bencher.iter(|| sign(NOW)));
    let mut second = 0;
    group.bench_function("ours, new second", |bencher| {
        bencher.iter(|| {
            second = (second + 1) % 86_400;
            sign(NOW + second)
        });
    });
    let mut day = 0;
    group.bench_function("ours, new day", |bencher| {
        bencher.iter(|| {
            day = (day + 1) % 1000;
            sign(NOW + day * 86_400)
        });
    });

    let identity = Credentials::new("AKIDEXAMPLE", SECRET, None, None, "bench").into();
    let url = format!("https://{HOST}/folder/object.txt");
    group.bench_function("aws-sigv4", |bencher| {
        bencher.iter(|| {
            let mut settings = theirs::SigningSettings::default();
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
            let params = aws_sigv4::sign::v4::SigningParams::builder()
                .identity(&identity)
                .region("us-east-1")
                .name("s3")
                .time(UNIX_EPOCH + Duration::from_secs(NOW))
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
            black_box(theirs::sign(request, &params).unwrap())
        });
    });
    group.finish();
}

criterion_group!(benches, bodyless);
criterion_main!(benches);
