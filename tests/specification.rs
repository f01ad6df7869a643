//! Every promise of the specification is held by tests, and these exist.

mod common;

use common::tests_by_name;
use std::path::Path;

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let page = std::fs::read_to_string(root.join("docs/specification.md")).unwrap();
    let all = tests_by_name(root);
    let mut promises = 0;
    for promise in page.split("\n**").skip(1) {
        let (number, text) = promise.split_once("**").unwrap();
        promises += 1;
        let chapter = page.lines().filter(|line| line.starts_with("## ")).count();
        let (before, _) = number.split_once('.').unwrap();
        assert!((1..=chapter).contains(&before.parse().unwrap()), "{number}");
        // Tests stand in lines of their own.
        let tests: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with('`') && line.trim_end().ends_with(['`', ',']))
            .flat_map(|line| line.split('`').skip(1).step_by(2))
            .collect();
        assert!(!tests.is_empty(), "promise {number} names no test");
        let missing: Vec<_> = tests.iter().filter(|test| !all.contains(**test)).collect();
        assert!(missing.is_empty(), "promise {number} names {missing:?}, which are no tests");
    }
    assert!(promises > 40, "only {promises} promises were found");
}

#[test]
fn every_operation_of_the_kernel_is_in_the_reference() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let source = std::fs::read_to_string(root.join("protocol/src/kernel.rs")).unwrap();
    let page = std::fs::read_to_string(root.join("docs/reference/kernel-operations.md")).unwrap();
    let named: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("### ") || line.starts_with("| `"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect();
    let (_, requests) = source.split_once("pub enum Request {").unwrap();
    let (requests, _) = requests.split_once("\n}").unwrap();
    let mut count = 0;
    for line in
        requests.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     "))
    {
        let name = line.trim().trim_end_matches([',', '{', ' ']);
        if name.starts_with(|c: char| c.is_ascii_uppercase()) {
            count += 1;
            assert!(named.contains(&name), "docs/reference/kernel-operations.md lacks `{name}`");
        }
    }
    assert!(count > 30, "only {count} operations were found");
}
