//! The page of attacks in the documentation and the table here are one; what else that page names
//! exists.

use crate::common::tests_by_name;
use crate::table::{ATTACKS, Attack};
use std::collections::BTreeSet;
use std::path::Path;

/// Its line in the documentation.
fn row(attack: &Attack) -> String {
    let Attack { code, what, attacker, victim, .. } = attack;
    format!("| {} | {victim} | nothing | {attacker} | `{code}` |", what.trim())
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/security.md")).unwrap()
}

/// The tests that the page's tables name, in their last column.
fn named(page: &str) -> BTreeSet<&str> {
    page.lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches([' ', '|']).rsplit_once('|'))
        .flat_map(|(_, last)| last.split('`').skip(1).step_by(2))
        .collect()
}

#[test]
fn the_page_has_each_attack_as_it_is() {
    let page = page();
    let lines: BTreeSet<&str> = page.lines().collect();
    let rows: Vec<String> = ATTACKS.iter().map(row).collect();
    let missing: Vec<&String> = rows.iter().filter(|row| !lines.contains(row.as_str())).collect();
    if !missing.is_empty() {
        let mut story = "";
        for (attack, row) in ATTACKS.iter().zip(&rows) {
            if attack.story != story {
                story = attack.story;
                println!("\n{story}");
            }
            println!("{row}");
        }
        panic!("docs/security.md lacks {} lines of those above: {missing:#?}", missing.len());
    }
}

#[test]
fn each_code_stands_once() {
    let codes: BTreeSet<&str> = ATTACKS.iter().map(|attack| attack.code).collect();
    assert_eq!(codes.len(), ATTACKS.len());
}

#[test]
fn each_test_that_the_page_names_is_there() {
    let page = page();
    let mut all: BTreeSet<String> = ATTACKS.iter().map(|attack| attack.code.to_owned()).collect();
    all.extend(tests_by_name(root()));
    let named = named(&page);
    assert!(named.len() > ATTACKS.len());
    let missing: Vec<_> = named.into_iter().filter(|name| !all.contains(*name)).collect();
    assert_eq!(missing, [""; 0], "named in docs/security.md, and no test");
}
