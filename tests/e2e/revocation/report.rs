//! What was measured: printed, and put into the file that `MEMBRANE_REVOCATION_REPORT` names.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Prints `text`, and puts it into the report between its own two markers, `<!-- name -->` and `<!-- /name -->`.
// Figures are what a bench is for; `cargo test` shows them where they are asked for.
#[allow(clippy::print_stdout)]
pub(super) fn write(name: &str, text: &str) {
    // Tests of one run write the same file.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    println!("\n{text}");
    let Some(file) = std::env::var_os("MEMBRANE_REVOCATION_REPORT") else { return };
    let file = harness::repository().join(file);
    let before = std::fs::read_to_string(&file).unwrap();
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (head, rest) =
        before.split_once(&begin).unwrap_or_else(|| panic!("no {begin:?} in {}", file.display()));
    let (_, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end:?} in {}", file.display()));
    std::fs::write(&file, [head, &begin, text, &end, tail].concat()).unwrap();
}

/// Milliseconds, to a tenth.
pub(super) fn millis(duration: Duration) -> String {
    let mut text = String::new();
    write!(text, "{:.1}", duration.as_secs_f64() * 1_000.0).unwrap();
    text
}
