//! Random requests, signed by us and by two implementations that AWS itself ships: the crate `aws-sigv4` and PyPI's `botocore`.
//!
//! `MEMBRANE_FUZZ_CASES` sets how many (default 3,000 an oracle; `make fuzz-long` has 100,000); `MEMBRANE_PYTHON` the interpreter
//! that has botocore. Only cases that an oracle answered count. What fails is shrunk and kept as a vector: see `kept.rs`.
//!
//! Where an oracle cannot be asked, or is known to differ from `docs` and from the other one:
//!
//! * `aws-sigv4` refuses header values outside ASCII and reads a query that is not UTF-8 with replacement characters: such
//!   requests go to botocore alone.
//! * botocore folds tabs and Unicode white space inside header values as well as spaces; `aws-sigv4` folds spaces only, and so do
//!   we: values with tabs go to `aws-sigv4` alone.
//! * For a path that ends in `/.` or `/..`, botocore drops the final slash, against RFC 3986 §5.2.4; `aws-sigv4` keeps it, and so
//!   do we. We *send* normalised paths, so both are asked about that; `aws-sigv4` is also asked about the path as it was.
//! * Neither implements `x-amz-s3session-token` by itself: `aws-sigv4` has a setting for it, botocore gets it as a plain header.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod case;
mod kept;
mod oracles;
mod ours;

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use case::{Case, case};
use oracles::{Botocore, against_aws_sigv4, against_botocore};

const DEFAULT_CASES: u32 = 3_000;
/// From how many cases on the test says how far it is, and how often.
const PROGRESS: u32 = 10_000;

fn number_of_cases() -> u32 {
    std::env::var("MEMBRANE_FUZZ_CASES")
        .map_or(DEFAULT_CASES, |count| count.parse().expect("MEMBRANE_FUZZ_CASES is a number"))
}

/// Tries `cases` random ones; a failure is shrunk, kept in `folder` and told.
fn try_random(
    oracle: &str,
    folder: &Path,
    cases: u32,
    strategy: impl Strategy<Value = Case>,
    check: impl Fn(&Case) -> Result<(), TestCaseError>,
) -> Result<u32, String> {
    let compared = Cell::new(0_u32);
    // Each case costs at least 14 signatures of ours: some seconds of shrinking.
    let config = Config { cases, max_shrink_iters: 4_096, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(Config { max_global_rejects: cases.saturating_mul(2), ..config });
    let outcome = runner.run(&strategy, |case| {
        check(&case)?;
        compared.set(compared.get() + 1);
        if cases >= PROGRESS && compared.get().is_multiple_of(PROGRESS) {
            // Not through `eprintln!`, which the test runner holds back.
            let _ = writeln!(std::io::stderr(), "{oracle}: {} of {cases} agree", compared.get());
        }
        Ok(())
    });
    match outcome {
        Ok(()) => Ok(compared.get()),
        Err(TestError::Fail(why, case)) => {
            let file = kept::keep(folder, &case);
            Err(format!("{oracle} signs another way. Kept as {}\n{why}\n{case:#?}", file.display()))
        }
        Err(abort) => Err(format!("{oracle}: {abort}")),
    }
}

/// Every kept vector, then random cases.
fn compare(
    oracle: &str,
    strategy: impl Strategy<Value = Case>,
    check: impl Fn(&Case) -> Result<(), TestCaseError>,
) {
    let folder = kept::folder(oracle);
    let vectors = kept::replay(&folder, &check).unwrap();
    assert!(vectors > 0, "no vectors in {}", folder.display());
    let cases = number_of_cases();
    let compared = try_random(oracle, &folder, cases, strategy, check).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(compared, cases, "as many were compared as were asked for");
    let _ = writeln!(std::io::stderr(), "{oracle}: {vectors} kept vectors and {compared} random cases agree");
}

#[test]
fn signs_as_the_crate_aws_sigv4() {
    // Tabs inside values: botocore folds them, so only this oracle is asked. (Inside, since HTTP strips those around a value before
    // any verifier sees them, and so do we.)
    let tabbed = (case(), prop::bool::weighted(0.2)).prop_map(|(mut case, tabs)| {
        if tabs {
            case.headers.iter_mut().for_each(|(_, value)| *value = value.replace(",", "x\t \tx"));
        }
        case
    });
    compare("aws-sigv4", tabbed, against_aws_sigv4);
}

#[test]
fn signs_as_botocore() {
    // Values outside ASCII: aws-sigv4 refuses them.
    let unicode = (case(), prop::bool::weighted(0.2)).prop_map(|(mut case, unicode)| {
        if unicode {
            case.headers.iter_mut().for_each(|(_, value)| *value = value.replace(",", "é☃\u{10348}x"));
        }
        case
    });
    let botocore = RefCell::new(Botocore::start());
    compare("botocore", unicode, |case| against_botocore(&mut botocore.borrow_mut(), case));
}

/// An oracle that errs where a query holds `%2F` beside a header with two spaces: the case that is kept holds little else, and is
/// tried again by the next run.
#[test]
fn a_difference_is_shrunk_kept_and_tried_again() {
    let errs = |case: &Case| {
        let hit = case.query.contains("%2F") && case.headers.iter().any(|(_, value)| value.contains("  "));
        if hit { Err(TestCaseError::fail("planted")) } else { Ok(()) }
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kept-{}", std::process::id()));
    let why = try_random("planted", &folder, 100_000, case(), errs).unwrap_err();
    assert!(why.contains("planted"), "{why}");
    let kept: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert_eq!(kept.len(), 1);
    let case: Case =
        serde_json::from_slice(&std::fs::read(kept[0].as_ref().unwrap().path()).unwrap()).unwrap();
    assert_eq!((case.query.as_str(), case.path.as_str(), case.headers.len()), ("%2F", "", 1), "{case:?}");
    assert!(kept::replay(&folder, errs).unwrap_err().contains("planted"));
    assert_eq!(kept::replay(&folder, |_| Ok(())), Ok(1));
    std::fs::remove_dir_all(&folder).unwrap();
}
