//! What docs/threat-model.md and SECURITY.md say, held against the tree.

use crate::shared;
use harness::gateway::text;
use regex::Regex;
use std::collections::BTreeSet;

fn read(name: &str) -> String {
    std::fs::read_to_string(harness::repository().join(name)).unwrap()
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let document = read("docs/threat-model.md");
    let (_, table) = document.split_once("| attack | defence | where | tests |").unwrap();
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 20, "{}", rows.len());
    let named = Regex::new(r"`([a-zA-Z0-9_/.-]+)(?:::([a-z0-9_]+))?`").unwrap();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let &[attack, _, places, tests] = cells.as_slice() else {
            panic!("a row of {} cells: {row}", cells.len())
        };
        let mut count = 0;
        for found in named.captures_iter(tests) {
            let source = read(&found[1]);
            match found.get(2) {
                Some(function) => {
                    let test = Regex::new(&format!(
                        r"(?:#\[(?:tokio::)?test[^\n]*\]\s*|proptest! \{{(?s:.*))(?:#\[[^\n]*\]\s*)*(?:async )?fn {}\(",
                        function.as_str()
                    ));
                    assert!(
                        test.unwrap().is_match(&source),
                        "{} has no test {}",
                        &found[1],
                        function.as_str()
                    );
                }
                None => assert!(source.contains("fuzz_target!"), "{} is no fuzz target", &found[1]),
            }
            count += 1;
        }
        assert!(count > 0, "no test stands against: {attack}");
        for found in named.captures_iter(places) {
            assert!(harness::repository().join(&found[1]).exists(), "{} is not there", &found[1]);
        }
    }
}

/// The first regular expression of SECURITY.md, as people copy it.
fn scanner() -> Regex {
    let document = read("SECURITY.md");
    let line = document.lines().find(|line| line.starts_with("    CPBLTY1-")).unwrap();
    Regex::new(line.trim()).unwrap()
}

#[test]
fn scanners_find_tokens_and_nothing_else() {
    let scanner = scanner();
    // What the registry and the crate mint.
    let gateway = shared();
    let membrane = gateway.create_membrane("hostile/scanner").unwrap();
    let uris = [membrane.export.as_str(), &membrane.revoke, text(&gateway.tenant, "create").unwrap()];
    let mut tokens: BTreeSet<String> =
        uris.map(|uri| uri.rsplit('#').next().unwrap().to_owned()).into_iter().collect();
    for number in 0..=255u8 {
        let bytes =
            std::array::from_fn(|place| number.wrapping_mul(37).wrapping_add((place as u8).wrapping_mul(11)));
        tokens.insert(capability::Token::mint(bytes).expose().to_owned());
    }
    let last: BTreeSet<char> = tokens.iter().filter_map(|token| token.chars().last()).collect();
    assert_eq!(last, ['A', 'Q', 'g', 'w'].into(), "all four ends are tried");
    for token in &tokens {
        for text in [token.clone(), format!("cpblty://localhost:8443/#{token}"), format!("key=\"{token}\";")]
        {
            assert_eq!(scanner.find(&text).map(|found| found.as_str()), Some(token.as_str()));
        }
        // Near misses: another prefix, too short, a last character that no token has, a character of the other alphabet.
        let (prefix, body) = token.split_at(8);
        for miss in [
            format!("CPBLTY2-{body}"),
            format!("cpblty1-{body}"),
            format!("CPBLTY1_{body}"),
            format!("{prefix}{}", &body[1..]),
            format!("{prefix}{}B", &body[..85]),
            format!("{prefix}+{}", &body[1..]),
            format!("{prefix}[redacted]"),
        ] {
            assert!(!scanner.is_match(&miss), "{miss}");
        }
    }
}
