//! The transcripts under `tests/capi/`, which double as the documentation of the command line.

/// Each transcript runs the binary in an environment of its own; `TRYCMD=overwrite cargo test -p capi --test transcripts`
/// writes down what it says now.
#[test]
fn the_command_line_says_what_its_transcripts_say() {
    let home = tempfile::tempdir().unwrap();
    trycmd::TestCases::new()
        .env("HOME", home.path().to_str().unwrap())
        .env("CAPI_CAPABILITY", "")
        // As wide as help is where there is no terminal.
        .env("COLUMNS", "100")
        .case("../../tests/capi/*.trycmd");
}
